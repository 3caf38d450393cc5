//! A queue of small items between two producers and two consumers, all of them processes or threads.

use std::thread;

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, Sender, unbounded};
use mp::{AnyError, Child, Process, Queue};
use serde::{Deserialize, Serialize};

use crate::queue::{BATCH, FIRST};
use crate::race::{Race, Results, Sample, Target, Unit};
use crate::{Plan, WORKERS};

/// How items are put and taken.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Way {
    OneByOne,
    Batches,
}

pub(crate) fn two_to_two(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new(
        "queue of 8-byte items, 2 producers, 2 consumers",
        Unit::MillionsPerSecond,
    );
    let count = plan.count(200_000, 1000);
    let mut crowd = Crowd::start(Way::OneByOne)?;
    race.enter("mp Queue", move || crowd.measure(count));
    race.target(Target::AtLeast(9.0));
    let mut batches = Crowd::start(Way::Batches)?;
    race.enter(format!("mp Queue, put_many of {BATCH}"), move || {
        batches.measure(count)
    });
    let mut threads = ThreadCrowd::start();
    race.enter("crossbeam-channel threads", move || threads.measure(count));
    if let Some(python) = &plan.python {
        let mut peer = python.start("crowd", &[FIRST])?;
        let count = plan.count(10_000, 100);
        race.enter(
            format!("Python Queue, {} items", crate::report::thousands(count)),
            move || peer.measure(count),
        );
    }
    Ok(vec![race.run(plan)?])
}

/// What all producers put together, wrapping: no item can be lost or doubled without its showing.
fn sum_of(count: u64) -> u64 {
    let one: u64 = (0..count / 2)
        .map(|index| FIRST + index)
        .fold(0, u64::wrapping_add);
    one.wrapping_mul(WORKERS as u64)
}

/// Puts half of each count.
#[mp::task]
fn produce_half(items: Queue<u64>, counts: Queue<u64>, way: Way) -> Result<(), AnyError> {
    for count in &counts {
        let mut numbers = FIRST..FIRST + count / 2;
        match way {
            Way::OneByOne => {
                for number in numbers {
                    items.put(number)?;
                }
            }
            Way::Batches => {
                while !numbers.is_empty() {
                    items.put_many(numbers.by_ref().take(BATCH))?;
                }
            }
        }
    }
    Ok(())
}

/// Takes half of each count and answers by the sum.
#[mp::task]
fn consume_half(
    items: Queue<u64>,
    counts: Queue<u64>,
    sums: Queue<u64>,
    way: Way,
) -> Result<(), AnyError> {
    for count in &counts {
        let mut sum = 0_u64;
        let mut left = count / 2;
        while left > 0 {
            match way {
                Way::OneByOne => {
                    sum = sum.wrapping_add(items.get()?);
                    left -= 1;
                }
                Way::Batches => {
                    let batch = items.get_many((left as usize).min(BATCH))?;
                    left -= batch.len() as u64;
                    sum = batch.into_iter().fold(sum, u64::wrapping_add);
                }
            }
        }
        sums.put(sum)?;
    }
    Ok(())
}

/// Four processes. Dropping it ends them.
struct Crowd {
    /// One for each process, so that none takes another's.
    counts: Vec<Queue<u64>>,
    sums: Queue<u64>,
    processes: Vec<Child<Result<(), AnyError>>>,
}

impl Crowd {
    fn start(way: Way) -> mp::Result<Self> {
        let (items, sums) = (Queue::new()?, Queue::new()?);
        let mut crowd = Self {
            counts: Vec::new(),
            sums: sums.clone(),
            processes: Vec::new(),
        };
        for _ in 0..WORKERS {
            let counts = Queue::new()?;
            let arguments = (items.clone(), counts.clone(), way);
            crowd
                .processes
                .push(Process::new(produce_half, arguments).start()?);
            crowd.counts.push(counts);
            let counts = Queue::new()?;
            let arguments = (items.clone(), counts.clone(), sums.clone(), way);
            crowd
                .processes
                .push(Process::new(consume_half, arguments).start()?);
            crowd.counts.push(counts);
        }
        Ok(crowd)
    }

    fn measure(&mut self, count: u64) -> anyhow::Result<Sample> {
        let (sample, sum) = Sample::of(count, || {
            for counts in &self.counts {
                counts.put(count)?;
            }
            let mut sum = 0_u64;
            for _ in 0..WORKERS {
                sum = sum.wrapping_add(self.sums.get()?);
            }
            Ok::<_, anyhow::Error>(sum)
        });
        ensure!(sum? == sum_of(count), "items were lost or doubled");
        Ok(sample)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for counts in &self.counts {
            counts.close();
        }
        for process in &self.processes {
            let _ = process.join();
        }
    }
}

/// Four threads that do the same. They end when their channels are dropped.
struct ThreadCrowd {
    counts: Vec<Sender<u64>>,
    sums: Receiver<u64>,
}

impl ThreadCrowd {
    fn start() -> Self {
        let (items, items_out) = unbounded();
        let (sums_in, sums) = unbounded();
        let mut senders = Vec::new();
        for _ in 0..WORKERS {
            let (counts, counts_out) = unbounded::<u64>();
            senders.push(counts);
            let items = items.clone();
            thread::spawn(move || {
                for count in counts_out {
                    for index in 0..count / 2 {
                        if items.send(FIRST + index).is_err() {
                            return;
                        }
                    }
                }
            });
            let (counts, counts_out) = unbounded::<u64>();
            senders.push(counts);
            let (items_out, sums_in) = (items_out.clone(), sums_in.clone());
            thread::spawn(move || {
                for count in counts_out {
                    let sum = items_out
                        .iter()
                        .take(count as usize / 2)
                        .fold(0, u64::wrapping_add);
                    if sums_in.send(sum).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            counts: senders,
            sums,
        }
    }

    fn measure(&mut self, count: u64) -> anyhow::Result<Sample> {
        let (sample, sum) = Sample::of(count, || {
            for counts in &self.counts {
                counts.send(count)?;
            }
            let mut sum = 0_u64;
            for _ in 0..WORKERS {
                sum = sum.wrapping_add(self.sums.recv().context("a thread ended")?);
            }
            Ok::<_, anyhow::Error>(sum)
        });
        ensure!(sum? == sum_of(count), "items were lost or doubled");
        Ok(sample)
    }
}
