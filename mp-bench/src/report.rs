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

    /// What was measured on, in a sentence.
    pub(crate) fn circumstances(&self) -> String {
        let machine = &self.machine;
        let python = machine.python.as_deref().unwrap_or("no Python");
        format!(
            "{} × {}, Linux {}, huge pages {}, {python}; {} rounds{}; load {} before, {} after.",
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

    /// How many targets were met, and which were not; `None` where that would say nothing.
    pub(crate) fn verdict(&self) -> Option<String> {
        let all = self.subjects.iter().flat_map(|subject| {
            let entrants = subject.entrants.iter().enumerate();
            entrants.filter_map(move |(row, _)| Some((subject, row, subject.is_met(row)?)))
        });
        let (met, missed): (Vec<_>, Vec<_>) = all.partition(|&(_, _, is_met)| is_met);
        let count = met.len() + missed.len();
        if count == 0 || self.is_quick {
            return None;
        }
        let mut text = format!("{} of {count} targets are met", met.len());
        for (place, (subject, row, _)) in missed.iter().enumerate() {
            text.push_str(if place == 0 { "; not " } else { ", nor " });
            let _ = write!(text, "“{}: {}”", subject.title, subject.entrants[*row].name);
        }
        text.push('.');
        Some(text)
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
    /// Whether the entrant in this row reaches its target, if it has one.
    pub(crate) fn is_met(&self, row: usize) -> Option<bool> {
        let entrant = self.entrants.get(row)?;
        let median = || {
            let figures = entrant.samples.iter().map(|&sample| self.unit.of(sample));
            Spread::of(figures).median
        };
        Some(match entrant.target? {
            Target::AtMost(most) => median() <= most,
            Target::AtLeast(least) => median() >= least,
            Target::Ratio(most) => ratios(&self.entrants[0], entrant).median <= most,
        })
    }

    /// The target of a row, and whether it is met.
    pub(crate) fn target(&self, row: usize) -> String {
        let target = self.entrants.get(row).and_then(|entrant| entrant.target);
        let (Some(target), Some(is_met)) = (target, self.is_met(row)) else {
            return String::new();
        };
        let sign = if is_met { "✓" } else { "✗" };
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
        let times = |samples: &[f64]| Times {
            name: String::new(),
            target: None,
            samples: samples.to_vec(),
        };
        // The machine was ten times slower in the second round: the ratio is 2 all the same.
        let ratios = ratios(&times(&[2.0, 20.0, 2.0]), &times(&[1.0, 10.0, 1.0]));
        assert_eq!(
            ratios,
            Spread {
                lower: 2.0,
                median: 2.0,
                upper: 2.0
            }
        );
    }

    #[test]
    fn target_is_compared_with_medians() {
        let entrant = |target, samples: &[f64]| Times {
            name: String::new(),
            target: Some(target),
            samples: samples.to_vec(),
        };
        let results = Results {
            title: String::new(),
            unit: Unit::MillionsPerSecond,
            cpus_of_others: None,
            entrants: vec![
                // 2, 4 and 5 million a second.
                entrant(Target::AtLeast(4.0), &[0.5e-6, 0.25e-6, 0.2e-6]),
                entrant(Target::Ratio(0.4), &[1e-6, 0.5e-6, 0.5e-6]),
            ],
        };
        assert_eq!(results.target(0), "≥ 4.00 M/s ✓");
        assert_eq!(results.target(1), "≤ 0.40 × ✗");
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
