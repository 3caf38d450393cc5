//! Medians, spread and ratios of what was measured.

use std::fmt::Write as _;

use serde::Serialize;

use crate::Plan;
use crate::machine::{self, Machine};
use crate::race::{Results, Target, Times};

/// All that one run found, with every sample: `--json` writes it as it is.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    load_after: String,
    is_quick: bool,
    rounds: usize,
    pub(crate) subjects: Vec<Results>,
}

impl Report {
    pub(crate) fn new(machine: Machine, plan: &Plan, subjects: Vec<Results>) -> Self {
        Self {
            machine,
            load_after: machine::load(),
            is_quick: plan.is_quick,
            rounds: plan.rounds,
            subjects,
        }
    }

    /// Why its figures are none to publish, if that is so.
    pub(crate) fn doubts(&self) -> Option<String> {
        let commit = self.machine.commit.as_deref();
        let doubts = [
            (cfg!(debug_assertions), "it is a debug build"),
            (self.rounds < 5, "5 rounds are the least"),
            (self.machine.python.is_none(), "Python is missing"),
            (commit.is_none(), "its commit is unknown"),
            (
                commit.is_some_and(|commit| commit.ends_with("-dirty")),
                "files differ from the commit",
            ),
        ];
        let doubts = doubts.iter().filter(|(is_so, _)| *is_so);
        let doubts: Vec<_> = doubts.map(|&(_, doubt)| doubt).collect();
        (!doubts.is_empty()).then(|| doubts.join(", "))
    }

    /// What was measured on, in a sentence.
    pub(crate) fn circumstances(&self) -> String {
        let machine = &self.machine;
        let python = machine.python.as_deref().unwrap_or("no Python");
        let commit = machine.commit.as_deref().unwrap_or("an unknown commit");
        format!(
            "{commit} on {} × {}, Linux {}, huge pages {}, {python}; {} rounds{}; load {} before, {} after.",
            machine.cpus,
            machine.cpu,
            machine.kernel,
            machine.huge_pages,
            self.rounds,
            if self.is_quick {
                " of --quick, which mean nothing"
            } else {
                ""
            },
            machine.load_before,
            self.load_after,
        )
    }

    /// The machine in a sentence, then the table.
    pub(crate) fn to_markdown(&self) -> String {
        let mut out = self.circumstances();
        out.push_str("\n\n");
        if let Some(verdict) = self.verdict() {
            let _ = writeln!(out, "{verdict}\n");
        }
        out.push_str(
            "| | | median | middle half | mp takes | middle half | target | CPUs of others |\n",
        );
        out.push_str("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
        for subject in &self.subjects {
            subject.write_rows(&mut out);
        }
        out
    }

    /// How many targets were met, which were not, and which of those the machine's own limit does not
    /// reach either; `None` where that would say nothing.
    pub(crate) fn verdict(&self) -> Option<String> {
        let all = self.subjects.iter().flat_map(|subject| {
            let rows = 0..subject.entrants.len();
            rows.filter_map(move |row| Some((subject, row, subject.verdict(row)?)))
        });
        let (met, missed): (Vec<_>, Vec<_>) =
            all.partition(|(_, _, verdict)| matches!(verdict, Verdict::Met));
        let count = met.len() + missed.len();
        if count == 0 || self.is_quick {
            return None;
        }
        let mut text = format!("{} of {count} targets are met.", met.len());
        let (beyond, within): (Vec<_>, Vec<_>) = missed
            .iter()
            .partition(|(_, _, verdict)| matches!(verdict, Verdict::OutOfReach { .. }));
        for (intro, rows) in [
            ("\n\nNot met:", within),
            (
                "\n\nNot met, and the machine's own limit does not reach it here:",
                beyond,
            ),
        ] {
            if !rows.is_empty() {
                text.push_str(intro);
                text.push('\n');
            }
            for (subject, row, verdict) in rows {
                let name = &subject.entrants[row].name;
                let _ = write!(
                    text,
                    "\n- {}: {name}, {}",
                    subject.title,
                    subject.target(row)
                );
                if let Some(limit) = verdict.limit() {
                    let nearness = ratios(&subject.entrants[0], &subject.entrants[limit]).median;
                    let name = &subject.entrants[limit].name;
                    let _ = write!(text, "; {} × {name}", number(nearness));
                }
            }
        }
        Some(text)
    }
}

/// Whether a target is met.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Met,
    /// The row of what could have reached it, if one is known.
    Missed {
        limit: Option<usize>,
    },
    /// The row of what does not reach it either.
    OutOfReach {
        limit: usize,
    },
}

impl Verdict {
    fn limit(self) -> Option<usize> {
        match self {
            Self::Met => None,
            Self::Missed { limit } => limit,
            Self::OutOfReach { limit } => Some(limit),
        }
    }
}

impl Target {
    /// As it stands in the table.
    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(figure) => format!("≤ {} {unit}", number(figure)),
            Self::AtLeast(figure) => format!("≥ {} {unit}", number(figure)),
            Self::Ratio(ratio) => format!("≤ {} ×", number(ratio)),
        }
    }
}

impl Results {
    /// Whether the first entrant reaches the target in this row, if there is one; a target that is a
    /// figure stands in the row of whom it is for.
    fn verdict(&self, row: usize) -> Option<Verdict> {
        let target = self.entrants.get(row)?.target?;
        let is_met_by = |who: &Times| match target {
            Target::AtMost(most) => self.median(who) <= most,
            Target::AtLeast(least) => self.median(who) >= least,
            Target::Ratio(most) => ratios(who, &self.entrants[row]).median <= most,
        };
        let who = match target {
            Target::Ratio(_) => 0,
            Target::AtMost(_) | Target::AtLeast(_) => row,
        };
        if is_met_by(&self.entrants[who]) {
            return Some(Verdict::Met);
        }
        let limit = self.entrants.iter().position(|entrant| entrant.is_limit);
        // It does what the first one does.
        let limit = limit.filter(|_| who == 0);
        Some(match limit {
            Some(limit) if !self.is_reached(target, row, limit) => Verdict::OutOfReach { limit },
            limit => Verdict::Missed { limit },
        })
    }

    /// Whether a limit reaches the target of a row in as much as a quarter of its rounds.
    fn is_reached(&self, target: Target, row: usize, limit: usize) -> bool {
        let limit = &self.entrants[limit];
        let figures = || Spread::of(limit.samples.iter().map(|&sample| self.unit.of(sample)));
        match target {
            Target::AtMost(most) => figures().lower <= most,
            Target::AtLeast(least) => figures().upper >= least,
            Target::Ratio(most) => ratios(limit, &self.entrants[row]).lower <= most,
        }
    }

    /// In the unit that is shown.
    pub(crate) fn median(&self, entrant: &Times) -> f64 {
        let figures = entrant.samples.iter().map(|&sample| self.unit.of(sample));
        Spread::of(figures).median
    }

    /// The target of a row, and whether it is met.
    pub(crate) fn target(&self, row: usize) -> String {
        let target = self.entrants.get(row).and_then(|entrant| entrant.target);
        let (Some(target), Some(verdict)) = (target, self.verdict(row)) else {
            return String::new();
        };
        let sign = match verdict {
            Verdict::Met => "✓",
            Verdict::Missed { .. } => "✗",
            Verdict::OutOfReach { .. } => "✗, nor does the limit",
        };
        format!("{} {sign}", target.text(self.unit.name()))
    }

    fn write_rows(&self, out: &mut String) {
        let Some(first) = self.entrants.first() else {
            return;
        };
        for (row, entrant) in self.entrants.iter().enumerate() {
            let is_first = row == 0;
            let unit = self.unit;
            let figures = Spread::of(entrant.samples.iter().map(|&sample| unit.of(sample)));
            let title = if is_first { self.title.as_str() } else { "" };
            // Writing to a String does not fail.
            let _ = write!(
                out,
                "| {title} | {} | {} {} | {} |",
                entrant.name,
                number(figures.median),
                unit.name(),
                figures.middle_half(),
            );
            let target = self.target(row);
            if is_first {
                let others = self
                    .cpus_of_others
                    .map_or("?".to_owned(), |cpus| format!("{cpus:.1}"));
                let _ = writeln!(out, " | | {target} | {others} |");
            } else {
                let ratios = ratios(first, entrant);
                let _ = writeln!(
                    out,
                    " {} × | {} | {target} | |",
                    number(ratios.median),
                    ratios.middle_half()
                );
            }
        }
    }
}

/// How many times as long the first takes as the other, or as much, round by round.
pub(crate) fn ratios(first: &Times, other: &Times) -> Spread {
    let rounds = first.samples.iter().zip(&other.samples);
    Spread::of(rounds.map(|(first, other)| first / other))
}

/// The quartiles of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

impl Spread {
    pub(crate) fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<_> = numbers.collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            lower: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            upper: quantile(&sorted, 0.75),
        }
    }

    fn middle_half(self) -> String {
        format!("{} – {}", number(self.lower), number(self.upper))
    }
}

/// Interpolates between neighbours; NaN of nothing.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share * last as f64;
    let below = place as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

/// Three significant digits, and commas between thousands.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    if value < 999.5 {
        let decimals = match value {
            v if v < 0.0995 => 3,
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        return format!("{value:.decimals$}");
    }
    thousands(value.round() as u64)
}

/// With commas between thousands.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::Unit;

    fn times(target: Option<Target>, samples: &[f64]) -> Times {
        Times {
            name: String::new(),
            target,
            is_limit: false,
            samples: samples.to_vec(),
        }
    }

    fn results(unit: Unit, entrants: Vec<Times>) -> Results {
        Results {
            title: String::new(),
            unit,
            cpus_of_others: None,
            entrants,
        }
    }

    #[test]
    fn quartiles_lie_between_neighbours() {
        let spread = Spread::of([5.0, 1.0, 2.0, 4.0, 3.0].into_iter());
        assert_eq!(
            spread,
            Spread {
                lower: 2.0,
                median: 3.0,
                upper: 4.0
            }
        );
        let spread = Spread::of([1.0, 2.0].into_iter());
        assert_eq!(
            spread,
            Spread {
                lower: 1.25,
                median: 1.5,
                upper: 1.75
            }
        );
    }

    #[test]
    fn ratio_is_taken_within_a_round() {
        // The machine was ten times slower in the second round: the ratio is 2 all the same.
        let (first, other) = (
            times(None, &[2.0, 20.0, 2.0]),
            times(None, &[1.0, 10.0, 1.0]),
        );
        assert_eq!(
            ratios(&first, &other),
            Spread {
                lower: 2.0,
                median: 2.0,
                upper: 2.0
            }
        );
    }

    #[test]
    fn target_is_compared_with_medians() {
        let results = results(
            Unit::MillionsPerSecond,
            vec![
                // 2, 4 and 5 million a second.
                times(Some(Target::AtLeast(4.0)), &[0.5e-6, 0.25e-6, 0.2e-6]),
                times(Some(Target::Ratio(0.4)), &[1e-6, 0.5e-6, 0.5e-6]),
            ],
        );
        assert_eq!(results.target(0), "≥ 4.00 M/s ✓");
        assert_eq!(results.target(1), "≤ 0.40 × ✗");
    }

    #[test]
    fn what_the_limit_does_not_reach_is_out_of_reach() {
        let limit = 2;
        for (target, sample, expected) in [
            (1.5, 1e-9, Verdict::Met),
            (1.2, 2.5e-9, Verdict::OutOfReach { limit }),
            (1.2, 2.3e-9, Verdict::Missed { limit: Some(limit) }),
        ] {
            let entrants = vec![
                times(None, &[3e-9]),
                times(Some(Target::Ratio(target)), &[2e-9]),
                Times {
                    is_limit: true,
                    ..times(None, &[sample])
                },
            ];
            let verdict = results(Unit::Nanoseconds, entrants).verdict(1);
            assert_eq!(verdict, Some(expected), "{target} {sample}");
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0123, "0.012"),
            (0.123, "0.12"),
            (9.991, "9.99"),
            (9.999, "10.0"),
            (12.34, "12.3"),
            (999.4, "999"),
            (1234.4, "1,234"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
