//! One call after the other to a worker: a sample is the median of a slice.
//!
//! A worker that was busy a moment ago is still looking for work; one that was not sleeps and has
//! to be woken. And waking somebody on another CPU, which may be halted, costs more than waking
//! somebody on this one. So it is measured with and without a pause, on one CPU and on two, beside
//! what the machine needs to hand a word from one process to another and back.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crossbeam_channel::unbounded;
use mp::{AnyError, Child, Pool, Process};
use serde::{Deserialize, Serialize};

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
        median_of(count, pause, |x| Ok(futex.call(x)))
    });
    race.target(Target::Ratio(1.2));

    if let (None, Place::TwoCpus) = (pause, place) {
        for (name, number) in [
            (
                "two who look at one line, the number in another",
                Number::Apart,
            ),
            ("two who look at one line, the number in it", Number::Beside),
        ] {
            let mut looking = Looking::start(worker_cpus, number)?;
            race.enter(name, move || looking.measure(count));
        }
        race.limit();
    }

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
    loop {
        word::await_change(words.futex(), turn);
        let seen = words.futex().load(Ordering::Acquire);
        if seen == END {
            return Ok(());
        }
        let count = words.count();
        let x = count.load(Ordering::Relaxed);
        count.store(x * x + 1, Ordering::Relaxed);
        turn = seen + 1;
        word::hand_over(words.futex(), turn);
    }
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
    pub(crate) fn call(&mut self, x: u64) -> u64 {
        self.words.count().store(x, Ordering::Relaxed);
        // Two steps a call; the even one is the worker's.
        self.turn += 2;
        word::hand_over(self.words.futex(), self.turn);
        word::await_change(self.words.futex(), self.turn);
        self.words.count().load(Ordering::Relaxed)
    }
}

impl Drop for Futex {
    fn drop(&mut self) {
        word::hand_over(self.words.futex(), END);
        let _ = self.process.join();
    }
}

/// Where two who look at a flag all the time have the number that they hand over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Number {
    /// In the line of the flag.
    Beside,
    /// In a line of its own.
    Apart,
}

impl Number {
    fn of(self, words: &Words) -> &AtomicU64 {
        match self {
            Self::Beside => words.beside_flag(),
            Self::Apart => words.count(),
        }
    }
}

/// As a flag: look no more until you are woken.
const REST: u32 = u32::MAX;

/// Answers each even number by the next odd one, at which it looks all the time from when it is woken until
/// it is to rest.
#[mp::task]
fn answer_looking(path: PathBuf, number: Number) -> Result<(), AnyError> {
    let words = Words::open(&path)?;
    let (flag, number) = (words.flag(), number.of(&words));
    let mut woken = 0;
    loop {
        word::await_change(words.futex(), woken);
        woken = words.futex().load(Ordering::Acquire);
        if woken == END {
            break;
        }
        let mut turn = 0;
        while let Some(seen) = word::look_for_change(flag, turn) {
            if seen == REST {
                flag.store(0, Ordering::Release);
                break;
            }
            let x = number.load(Ordering::Relaxed);
            number.store(x * x + 1, Ordering::Relaxed);
            turn = seen + 1;
            flag.store(turn, Ordering::Release);
        }
    }
    Ok(())
}

/// A process that answers by a line that both look at, which is the least that two can do who do not sleep.
/// It sleeps while it is not measured: it would take its CPU from the others. Dropping it ends it.
struct Looking {
    words: Words,
    number: Number,
    woken: u32,
    process: Child<Result<(), AnyError>>,
    _file: tempfile::TempPath,
}

impl Looking {
    fn start(cpus: &[usize], number: Number) -> anyhow::Result<Self> {
        let file = Words::file()?;
        let path = file.to_path_buf();
        let start = || Process::new(answer_looking, (path, number)).start();
        let process = pin::on(cpus, start)??;
        Ok(Self {
            words: Words::open(&file)?,
            number,
            woken: 0,
            process,
            _file: file,
        })
    }

    fn measure(&mut self, count: u64) -> anyhow::Result<Sample> {
        self.woken += 1;
        word::hand_over(self.words.futex(), self.woken);
        let (flag, number) = (self.words.flag(), self.number.of(&self.words));
        let mut turn = 0;
        let sample = median_of(count, None, |x| {
            number.store(x, Ordering::Relaxed);
            // Two steps a call; the even one is the other's.
            turn += 2;
            flag.store(turn, Ordering::Release);
            word::look_for_change(flag, turn).context("the other process does not answer")?;
            Ok(number.load(Ordering::Relaxed))
        });
        flag.store(REST, Ordering::Release);
        word::look_for_change(flag, REST).context("the other process does not rest")?;
        sample
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        word::hand_over(self.words.futex(), END);
        let _ = self.process.join();
    }
}
