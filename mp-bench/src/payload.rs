//! A queue of items of 64 KiB from one process, or thread, to another: what moving bytes costs.

use std::thread;

use anyhow::ensure;
use crossbeam_channel::{Receiver, Sender, bounded};
use mp::{AnyError, Bytes, Child, Process, Queue, TaskFn, Transfer};

use crate::Plan;
use crate::ipc::BytesConsumer;
use crate::race::{Race, Results, Sample, Target, Unit};
use crate::ring;

/// Bytes of an item.
pub(crate) const SIZE: usize = 64 * 1024;
/// Items that are on their way at once: as many as fit into a cache or two.
pub(crate) const ROOM: usize = 16;

pub(crate) fn one_to_one(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new(
        "queue of 64 KiB items, 1 producer, 1 consumer",
        Unit::MillionsPerSecond,
    );
    let count = plan.count(10_000, 50);
    let mut consumer = Consumer::start(consume_bytes)?;
    race.enter("mp Queue", move || {
        consumer.measure(count, |items, item| Ok(items.put_ref(item)?))
    });
    race.target(Target::AtLeast(0.4));
    let mut consumer = Consumer::start(consume_shared)?;
    race.enter("mp Queue of Bytes, copied in and read there", move || {
        consumer.measure(
            count,
            |items, item| Ok(items.put(Bytes::from_slice(item)?)?),
        )
    });
    let mut threads = ThreadConsumer::start();
    race.enter("crossbeam-channel threads", move || threads.measure(count));
    let mut ring = ring::Consumer::start(ring::Items::Bytes)?;
    race.enter("a bare ring of two processes", move || {
        let mut item = vec![0; SIZE];
        ring.measure(count, |ring| {
            for index in 0..count {
                mark(&mut item, index);
                ring.put(&item);
            }
            Ok(())
        })
    });
    race.limit();
    let mut ipc = BytesConsumer::start()?;
    race.enter("ipc-channel", move || ipc.measure(count));
    if let Some(python) = &plan.python {
        let mut peer = python.start("payload", &[SIZE as u64])?;
        let count = plan.count(500, 20);
        race.enter(format!("Python Queue, {count} items"), move || {
            peer.measure(count)
        });
    }
    Ok(vec![race.run(plan)?])
}

/// Marks an item with its number.
pub(crate) fn mark(item: &mut [u8], index: u64) {
    item[..8].copy_from_slice(&index.to_le_bytes());
}

/// Whether this is the item of that number.
pub(crate) fn is_marked(item: &[u8], index: u64) -> bool {
    item.len() == SIZE && item[..8] == index.to_le_bytes()
}

#[mp::task]
fn consume_bytes(
    items: Queue<Vec<u8>>,
    counts: Queue<u64>,
    rights: Queue<u64>,
) -> Result<(), AnyError> {
    consume(&items, &counts, &rights)
}

#[mp::task]
fn consume_shared(
    items: Queue<Bytes>,
    counts: Queue<u64>,
    rights: Queue<u64>,
) -> Result<(), AnyError> {
    consume(&items, &counts, &rights)
}

fn consume<T: Transfer + AsRef<[u8]>>(
    items: &Queue<T>,
    counts: &Queue<u64>,
    rights: &Queue<u64>,
) -> Result<(), AnyError> {
    for count in counts {
        let mut right = 0;
        for index in 0..count {
            right += u64::from(is_marked(items.get()?.as_ref(), index));
        }
        rights.put(right)?;
    }
    Ok(())
}

/// A process that consumes. Dropping it ends it.
struct Consumer<T> {
    items: Queue<T>,
    counts: Queue<u64>,
    rights: Queue<u64>,
    process: Child<Result<(), AnyError>>,
}

impl<T: Transfer> Consumer<T> {
    fn start<F>(task: F) -> mp::Result<Self>
    where
        F: TaskFn<(Queue<T>, Queue<u64>, Queue<u64>), Output = Result<(), AnyError>>,
    {
        let (items, counts, rights) = (Queue::bounded(ROOM)?, Queue::new()?, Queue::new()?);
        let arguments = (items.clone(), counts.clone(), rights.clone());
        let process = Process::new(task, arguments).start()?;
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
        put: impl Fn(&Queue<T>, &Vec<u8>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Sample> {
        let mut item = vec![0; SIZE];
        let (sample, right) = Sample::of(count, || {
            self.counts.put(count)?;
            for index in 0..count {
                mark(&mut item, index);
                put(&self.items, &item)?;
            }
            Ok::<_, anyhow::Error>(self.rights.get()?)
        });
        check(count, right?)?;
        Ok(sample)
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.counts.close();
        let _ = self.process.join();
    }
}

/// A thread that consumes. Each item is copied once, in, and its memory handed over: the consumer looks
/// at its mark alone, and frees what the allocator gives to the next ones.
struct ThreadConsumer {
    items: Sender<Vec<u8>>,
    counts: Sender<u64>,
    rights: Receiver<u64>,
}

impl ThreadConsumer {
    fn start() -> Self {
        let (items, items_out) = bounded::<Vec<u8>>(ROOM);
        let (counts, counts_out) = bounded(1);
        let (rights_in, rights) = bounded(1);
        thread::spawn(move || {
            for count in counts_out {
                let expected = 0..count;
                let right = expected
                    .filter(|&index| items_out.recv().is_ok_and(|item| is_marked(&item, index)))
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
        let mut item = vec![0; SIZE];
        let (sample, right) = Sample::of(count, || {
            self.counts.send(count)?;
            for index in 0..count {
                mark(&mut item, index);
                self.items.send(item.clone())?;
            }
            Ok::<_, anyhow::Error>(self.rights.recv()?)
        });
        check(count, right?)?;
        Ok(sample)
    }
}

pub(crate) fn check(count: u64, right: u64) -> anyhow::Result<()> {
    ensure!(
        right == count,
        "of {count} items {right} were those expected"
    );
    Ok(())
}
