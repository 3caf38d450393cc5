//! A queue of small items from one process, or thread, to another.
//!
//! The producer is this process; the consumer is started once and told how many items come in each
//! slice. A slice's time ends when the consumer has said how many of the items were right.

use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mp::{AnyError, Child, Process, Queue};

use crate::Plan;
use crate::ipc::NumberConsumer;
use crate::payload::check;
use crate::race::{Race, Results, Sample, Target, Unit};
use crate::report::thousands;
use crate::ring;

/// The first item of each slice; the others count up. It needs all of 8 bytes in any encoding.
pub(crate) const FIRST: u64 = 0x0123_4567_89AB_CDEF;

/// Items that `put_many` and `get_many` handle at once.
pub(crate) const BATCH: usize = 64;

pub(crate) fn one_to_one(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new(
        "queue of 8-byte items, 1 producer, 1 consumer",
        Unit::MillionsPerSecond,
    );

    let count = plan.count(200_000, 1000);
    let mut single = Consumer::start(Way::OneByOne)?;
    race.enter("mp Queue", move || {
        single.measure(count, |items| {
            (0..count).try_for_each(|index| Ok(items.put(FIRST + index)?))
        })
    });
    race.target(Target::AtLeast(12.0));
    let mut batches = Consumer::start(Way::Batches)?;
    race.enter(format!("mp Queue, put_many of {BATCH}"), move || {
        batches.measure(count, |items| {
            let mut numbers = FIRST..FIRST + count;
            while !numbers.is_empty() {
                items.put_many(numbers.by_ref().take(BATCH))?;
            }
            Ok(())
        })
    });
    race.target(Target::AtLeast(60.0));
    let mut thread = ThreadConsumer::start();
    race.enter("crossbeam-channel threads", move || thread.measure(count));
    let mut ring = ring::Consumer::start(ring::Items::Numbers)?;
    race.enter("a bare ring of two processes", move || {
        ring.measure(count, |ring| {
            (0..count).for_each(|index| ring.put(&(FIRST + index).to_le_bytes()));
            Ok(())
        })
    });
    race.limit();
    let mut ipc = NumberConsumer::start()?;
    race.enter("ipc-channel", move || ipc.measure(count));
    if let Some(python) = &plan.python {
        let mut peer = python.start("queue", &[FIRST])?;
        let count = plan.count(10_000, 100);
        race.enter(
            format!("Python Queue, {} items", thousands(count)),
            move || peer.measure(count),
        );
    }
    Ok(vec![race.run(plan)?])
}

/// How items are put or taken.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum Way {
    OneByOne,
    Batches,
}

/// Answers each count by how many of so many items were those expected.
#[mp::task]
fn consume(
    items: Queue<u64>,
    counts: Queue<u64>,
    rights: Queue<u64>,
    way: Way,
) -> Result<(), AnyError> {
    for count in &counts {
        let mut right = 0;
        let mut expected = FIRST..FIRST + count;
        while !expected.is_empty() {
            match way {
                Way::OneByOne => right += u64::from(Some(items.get()?) == expected.next()),
                Way::Batches => {
                    let batch = items.get_many(BATCH)?;
                    for item in batch {
                        right += u64::from(Some(item) == expected.next());
                    }
                }
            }
        }
        rights.put(right)?;
    }
    Ok(())
}

/// A process that consumes. Dropping it ends it.
struct Consumer {
    items: Queue<u64>,
    counts: Queue<u64>,
    rights: Queue<u64>,
    process: Child<Result<(), AnyError>>,
}

impl Consumer {
    fn start(way: Way) -> mp::Result<Self> {
        let (items, counts, rights) = (Queue::new()?, Queue::new()?, Queue::new()?);
        let arguments = (items.clone(), counts.clone(), rights.clone(), way);
        let process = Process::new(consume, arguments).start()?;
        Ok(Self {
            items,
            counts,
            rights,
            process,
        })
    }

    fn measure(
        &mut self,
        count: u64,
        produce: impl FnOnce(&Queue<u64>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Sample> {
        let (sample, right) = Sample::of(count, || {
            self.counts.put(count)?;
            produce(&self.items)?;
            Ok::<_, anyhow::Error>(self.rights.get()?)
        });
        check(count, right?)?;
        Ok(sample)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.counts.close();
        let _ = self.process.join();
    }
}

/// A thread that does the same. It ends when its channels are dropped.
struct ThreadConsumer {
    items: Sender<u64>,
    counts: Sender<u64>,
    rights: Receiver<u64>,
}

impl ThreadConsumer {
    fn start() -> Self {
        let (items, items_out) = unbounded();
        let (counts, counts_out) = unbounded();
        let (rights_in, rights) = unbounded();
        thread::spawn(move || {
            for count in counts_out {
                let expected = FIRST..FIRST + count;
                let right = expected
                    .filter(|&item| items_out.recv() == Ok(item))
                    .count();
                if rights_in.send(right as u64).is_err() {
                    return;
                }
            }
        });
        Self {
            items,
            counts,
            rights,
        }
    }

    fn measure(&mut self, count: u64) -> anyhow::Result<Sample> {
        let (sample, right) = Sample::of(count, || {
            self.counts.send(count)?;
            for index in 0..count {
                self.items.send(FIRST + index)?;
            }
            Ok::<_, anyhow::Error>(self.rights.recv()?)
        });
        check(count, right?)?;
        Ok(sample)
    }
}
