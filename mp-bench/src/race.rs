//! The rounds of one subject: every entrant is measured once in each, right after the others.
//!
//! A machine that is shared gets faster and slower while one looks. What is compared is therefore
//! measured within a fraction of a second, and compared within its round: the report takes the
//! median of the rounds' ratios, not the ratio of medians. Every second round runs backwards, so that
//! a drift does not favour whoever runs first.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Plan;
use crate::machine::Meter;

/// Rounds that are run of every subject, however long it takes.
const FEWEST: usize = 5;

/// So long a subject is measured, and not for many more rounds: a whole run is to end within
/// twenty minutes or so, also where some entrants are slow.
const MOST: Duration = Duration::from_secs(30);

/// One measurement: seconds an operation, or a figure of another kind in its [`Unit`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample(f64);

impl Sample {
    /// So many operations took so long.
    pub(crate) fn new(operations: u64, time: Duration) -> Self {
        Self(time.as_secs_f64() / operations as f64)
    }

    /// A figure that is no time.
    pub(crate) fn figure(figure: f64) -> Self {
        Self(figure)
    }

    /// Times `work`, which does so many operations, and gives what it returned beside.
    pub(crate) fn of<T>(operations: u64, work: impl FnOnce() -> T) -> (Self, T) {
        let begin = Instant::now();
        let value = work();
        let time = begin.elapsed();
        (Self::new(operations, time), value)
    }
}

/// What a figure is shown in. Times and rates are kept as seconds an operation, whatever the unit.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Unit {
    /// Time of an operation.
    Microseconds,
    /// Time of an operation.
    Nanoseconds,
    /// Millions of operations a second.
    MillionsPerSecond,
    /// An operation is a byte.
    GigabytesPerSecond,
    /// Time of an operation.
    Seconds,
    /// Memory; not a time.
    Kibibytes,
    /// How many; not a time.
    Count,
    /// A part of a whole; not a time.
    Percent,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Microseconds => "µs",
            Self::Nanoseconds => "ns",
            Self::MillionsPerSecond => "M/s",
            Self::GigabytesPerSecond => "GB/s",
            Self::Seconds => "s",
            Self::Kibibytes => "KiB",
            Self::Count => "",
            Self::Percent => "%",
        }
    }

    pub(crate) fn of(self, sample: f64) -> f64 {
        match self {
            Self::Microseconds => sample * 1e6,
            Self::Nanoseconds => sample * 1e9,
            Self::MillionsPerSecond => 1e-6 / sample,
            Self::GigabytesPerSecond => 1e-9 / sample,
            Self::Seconds | Self::Kibibytes | Self::Count | Self::Percent => sample,
        }
    }

    /// Whether a larger figure is the better one.
    pub(crate) fn is_more_better(self) -> bool {
        matches!(
            self,
            Self::MillionsPerSecond | Self::GigabytesPerSecond | Self::Percent
        )
    }
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Target {
    /// In the unit that is shown.
    AtMost(f64),
    /// In the unit that is shown.
    AtLeast(f64),
    /// The first entrant takes at most so many times the time of this one, or as much.
    Ratio(f64),
}

/// A subject about to be measured. The ratios refer to its first entrant.
pub(crate) struct Race<'a> {
    title: String,
    unit: Unit,
    meter: Meter,
    entrants: Vec<Entrant<'a>>,
}

struct Entrant<'a> {
    name: String,
    target: Option<Target>,
    is_limit: bool,
    measure: Box<dyn FnMut() -> anyhow::Result<Sample> + 'a>,
}

impl<'a> Race<'a> {
    pub(crate) fn new(title: impl Into<String>, unit: Unit) -> Self {
        Self {
            title: title.into(),
            unit,
            meter: Meter::start(),
            entrants: Vec::new(),
        }
    }

    /// Adds an entrant. `measure` does a slice of the work, 5 ms to 2 s of it, and checks what
    /// came out; the checks, and whatever else it needs, stay outside of the time it reports.
    pub(crate) fn enter(
        &mut self,
        name: impl Into<String>,
        measure: impl FnMut() -> anyhow::Result<Sample> + 'a,
    ) {
        self.entrants.push(Entrant {
            name: name.into(),
            target: None,
            is_limit: false,
            measure: Box::new(measure),
        });
    }

    /// Says what the figure of the entrant that was added last is to reach.
    pub(crate) fn target(&mut self, target: Target) {
        if let Some(last) = self.entrants.last_mut() {
            last.target = Some(target);
        }
    }

    /// Says that the entrant that was added last is the least that the work costs on this machine, so that
    /// a target which it does not reach either is out of reach here.
    pub(crate) fn limit(&mut self) {
        if let Some(last) = self.entrants.last_mut() {
            last.is_limit = true;
        }
    }

    /// Runs one round that is not counted and then those of the plan, and ends all entrants.
    pub(crate) fn run(mut self, plan: &Plan) -> anyhow::Result<Results> {
        for entrant in &mut self.entrants {
            (entrant.measure)()?;
        }
        self.run_rounds(plan.rounds)
    }

    /// Runs so few rounds, the first of which counts: for what takes long and needs no warming up.
    pub(crate) fn run_rounds(mut self, rounds: usize) -> anyhow::Result<Results> {
        let mut times: Vec<_> = self
            .entrants
            .iter()
            .map(|entrant| Times {
                name: entrant.name.clone(),
                target: entrant.target,
                is_limit: entrant.is_limit,
                samples: Vec::with_capacity(rounds),
            })
            .collect();
        let begin = Instant::now();
        for round in 0..rounds {
            if round >= FEWEST && begin.elapsed() > MOST {
                break;
            }
            let mut turns: Vec<_> = self.entrants.iter_mut().zip(&mut times).collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for (entrant, times) in turns {
                times.samples.push((entrant.measure)()?.0);
            }
        }
        drop(self.entrants);
        Ok(Results {
            title: self.title,
            unit: self.unit,
            cpus_of_others: self.meter.cpus_of_others(),
            entrants: times,
        })
    }
}

/// What came of a race.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) title: String,
    pub(crate) unit: Unit,
    /// CPUs that everybody else on the machine used meanwhile, on average. None if unknown.
    pub(crate) cpus_of_others: Option<f64>,
    pub(crate) entrants: Vec<Times>,
}

/// One entrant's samples by round: seconds an operation, or the figures themselves.
#[derive(Debug, Serialize)]
pub(crate) struct Times {
    pub(crate) name: String,
    pub(crate) target: Option<Target>,
    pub(crate) is_limit: bool,
    pub(crate) samples: Vec<f64>,
}
