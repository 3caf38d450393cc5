//! One call after the other to a worker: a sample is the median of a slice.
//!
//! A worker that was busy a moment ago is still looking for work; one that was not sleeps and has
//! to be woken. And waking somebody on another CPU, which may be halted, costs more than waking
//! somebody on this one. So it is measured with and without a pause, on one CPU and on two, beside
//! what the machine needs to hand a word from one process to another and back.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crossbeam_channel::unbounded;
use mp::{AnyError, Child, Pool, Process};

use crate::race::{Race, Results, Sample, Target, Unit};
use crate::word::{self, Words};
use crate::{Plan, pin, procs};

/// So long a worker is left alone for it to be asleep.
const PAUSE: Duration = Duration::from_millis(1);

#[mp::task]
fn square_plus_one(x: u64) -> u64 {
    x * x + 1
}

/// Where the two sides run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Anywhere,
    OneCpu,
    TwoCpus,
}

impl Place {
    /// The caller's CPUs and the worker's; `None` if the machine has too few.
    pub(crate) fn cpus(self) -> anyhow::Result<Option<(Vec<usize>, Vec<usize>)>> {
        let all = pin::allowed()?;
        Ok(match self {
            Self::Anywhere => Some((all.clone(), all)),
            Self::OneCpu => Some((all[..1].to_vec(), all[..1].to_vec())),
            Self::TwoCpus if all.len() > 1 => Some((all[..1].to_vec(), all[1..2].to_vec())),
            Self::TwoCpus => None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Anywhere => "",
            Self::OneCpu => ", both on one CPU",
            Self::TwoCpus => ", on two CPUs",
        }
    }
}

/// A call right after the other.
pub(crate) fn busy(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let places = [Place::Anywhere, Place::OneCpu, Place::TwoCpus];
    race_everywhere(plan, "round trip to a busy worker, p50", None, &places)
}

/// A call after a pause.
pub(crate) fn idle(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let places = [Place::Anywhere, Place::OneCpu, Place::TwoCpus];
    race_everywhere(
        plan,
        "round trip to a sleeping worker, p50",
        Some(PAUSE),
        &places,
    )
}

fn race_everywhere(
    plan: &Plan,
    title: &str,
    pause: Option<Duration>,
    places: &[Place],
) -> anyhow::Result<Vec<Results>> {
    let mut results = Vec::new();
    for &place in places {
        let Some((caller, worker)) = place.cpus()? else {
            eprintln!("{title}{} is left out: there is one CPU", place.name());
            continue;
        };
        let before = pin::allowed()?;
        pin::restrict(&caller)?;
        let result = round_trip(plan, title, pause, place, &worker);
        pin::restrict(&before)?;
        results.push(result?);
    }
    Ok(results)
}

fn round_trip(
    plan: &Plan,
    title: &str,
    pause: Option<Duration>,
    place: Place,
    worker_cpus: &[usize],
) -> anyhow::Result<Results> {
    let mut race = Race::new(format!("{title}{}", place.name()), Unit::Microseconds);
    let count = match pause {
        None => plan.count(500, 10),
        Some(_) => plan.count(100, 5),
    };

    let pool = pin::on(worker_cpus, || Pool::new(1))??;
    race.enter("mp Pool::apply", move || {
        median_of(count, pause, |x| Ok(pool.apply(square_plus_one, (x,))?))
    });
    if let (None, Place::TwoCpus) = (pause, place) {
        // The worker still looks for work: nobody needs to be woken.
        race.target(Target::AtMost(2.0));
    }

    let mut futex = Futex::start(worker_cpus)?;
    race.enter("a futex, there and back", move || {
        median_of(count, pause, |x| futex.call(x))
    });
    race.target(Target::Ratio(1.2));

    let (requests, requests_out) = unbounded();
    let (replies_in, replies) = unbounded();
    pin::on(worker_cpus, || {
        thread::spawn(move || {
            for x in requests_out {
                if replies_in.send(square_plus_one(x)).is_err() {
                    return;
                }
            }
        })
    })?;
    race.enter("a thread, by crossbeam-channel", move || {
        median_of(count, pause, |x| {
            requests.send(x)?;
            Ok(replies.recv()?)
        })
    });

    if let Place::Anywhere = place {
        let pool = procs::Pool::new(1)?;
        let calls = count.div_ceil(5);
        race.enter("procspawn Pool", move || {
            median_of(calls, pause, |x| pool.call(x))
        });
        if let (Some(python), None) = (&plan.python, pause) {
            let mut peer = python.start("latency", &[])?;
            let count = plan.count(200, 10);
            race.enter("Python Pool.apply", move || peer.measure(count));
        }
    }
    race.run(plan)
}

/// Times so many calls one by one, each after a pause if there is to be one.
fn median_of(
    count: u64,
    pause: Option<Duration>,
    mut call: impl FnMut(u64) -> anyhow::Result<u64>,
) -> anyhow::Result<Sample> {
    let mut times = Vec::with_capacity(count as usize);
    for x in 0..count {
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
        let begin = Instant::now();
        let result = call(x)?;
        times.push(begin.elapsed());
        ensure!(result == x * x + 1, "a call gave a wrong result");
    }
    times.sort();
    let time = times
        .get(times.len() / 2)
        .copied()
        .unwrap_or(Duration::ZERO);
    Ok(Sample::new(1, time))
}

/// Times so many calls as a whole.
pub(crate) fn mean_of(
    count: u64,
    mut call: impl FnMut(u64) -> anyhow::Result<u64>,
) -> anyhow::Result<Sample> {
    let (sample, right) = Sample::of(count, || {
        let mut right = 0;
        for x in 0..count {
            right += u64::from(call(x)? == x * x + 1);
        }
        anyhow::Ok(right)
    });
    ensure!(right? == count, "a call gave a wrong result");
    Ok(sample)
}

/// The word is the caller's to answer when it is odd, and the worker's when it is even. The worker
/// ends at this.
const END: u32 = u32::MAX - 1;

/// Answers each even number by the next odd one.
#[mp::task]
fn answer(path: PathBuf) -> Result<(), AnyError> {
    let words = Words::open(&path)?;
    let mut turn = 0;
    while word::await_change(words.futex(), turn) {
        let seen = words.futex().load(std::sync::atomic::Ordering::Acquire);
        if seen == END {
            return Ok(());
        }
        let count = words.count();
        let x = count.load(std::sync::atomic::Ordering::Relaxed);
        count.store(x * x + 1, std::sync::atomic::Ordering::Relaxed);
        turn = seen + 1;
        word::hand_over(words.futex(), turn);
    }
    Ok(())
}

/// A process that answers by a futex alone. Dropping it ends it.
pub(crate) struct Futex {
    words: Words,
    turn: u32,
    process: Child<Result<(), AnyError>>,
    _file: tempfile::TempPath,
}

impl Futex {
    pub(crate) fn start(cpus: &[usize]) -> anyhow::Result<Self> {
        let file = Words::file()?;
        let path = file.to_path_buf();
        let process = pin::on(cpus, || Process::new(answer, (path,)).start())??;
        Ok(Self {
            words: Words::open(&file)?,
            turn: 0,
            process,
            _file: file,
        })
    }

    /// Hands a number over and waits for the answer, which is its square and one.
    pub(crate) fn call(&mut self, x: u64) -> anyhow::Result<u64> {
        use std::sync::atomic::Ordering::Relaxed;
        self.words.count().store(x, Relaxed);
        // Two steps a call; the even one is the worker's.
        self.turn += 2;
        word::hand_over(self.words.futex(), self.turn);
        word::await_change(self.words.futex(), self.turn)
            .then(|| self.words.count().load(Relaxed))
            .context("the other process does not answer")
    }
}

impl Drop for Futex {
    fn drop(&mut self) {
        word::hand_over(self.words.futex(), END);
        let _ = self.process.join();
    }
}
