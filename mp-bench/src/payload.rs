//! A queue of items of 64 KiB from one process, or thread, to another: what moving bytes costs.

use crossbeam_channel::bounded;
use mp::{AnyError, Bytes, Process, Queue, TaskFn, Transfer};

use crate::consumer::{Consumer, Tally, ThreadConsumer};
use crate::race::{Race, Results, Sample, Target, Unit};
use crate::{Plan, ipc, ring};

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
    let mut queue = consumer(consume_bytes)?;
    race.enter("mp Queue", move || {
        put_all(&mut queue, count, |items, item| Ok(items.put_ref(item)?))
    });
    race.target(Target::AtLeast(0.4));
    let mut queue = consumer(consume_shared)?;
    race.enter("mp Queue of Bytes, copied in and read there", move || {
        put_all(&mut queue, count, |items, item| {
            Ok(items.put(Bytes::from_slice(item)?)?)
        })
    });
    // Each item is copied once, in, and its memory handed over: the consumer looks at its mark alone, and
    // frees what the allocator gives to the next ones.
    let mut thread = ThreadConsumer::start(bounded(ROOM), |item: &Vec<u8>, index| {
        is_marked(item, index)
    });
    race.enter("crossbeam-channel threads", move || {
        let mut item = vec![0; SIZE];
        thread.measure(count, |items| {
            (0..count).try_for_each(|index| {
                mark(&mut item, index);
                Ok(items.send(item.clone())?)
            })
        })
    });
    let mut ring = ring::consumer(ring::Items::Bytes)?;
    race.enter("a bare ring of two processes", move || {
        put_all(&mut ring, count, |ring, item| {
            ring.put(item);
            Ok(())
        })
    });
    race.limit();
    let mut ipc = ipc::of_bytes()?;
    race.enter("ipc-channel", move || {
        put_all(&mut ipc, count, |items, item| Ok(items.send(item)?))
    });
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
fn mark(item: &mut [u8], index: u64) {
    item[..8].copy_from_slice(&index.to_le_bytes());
}

/// Whether this is the item of that number.
pub(crate) fn is_marked(item: &[u8], index: u64) -> bool {
    item.len() == SIZE && item[..8] == index.to_le_bytes()
}

fn consumer<T: Transfer, F>(task: F) -> anyhow::Result<Consumer<Queue<T>>>
where
    F: TaskFn<(Queue<T>, Tally), Output = Result<(), AnyError>>,
{
    Consumer::start(|tally| {
        let items = Queue::bounded(ROOM)?;
        let process = Process::new(task, (items.clone(), tally)).start()?;
        Ok((items, process))
    })
}

#[mp::task]
fn consume_bytes(items: Queue<Vec<u8>>, tally: Tally) -> Result<(), AnyError> {
    tally.answer(|index| items.get().is_ok_and(|item| is_marked(&item, index)))
}

#[mp::task]
fn consume_shared(items: Queue<Bytes>, tally: Tally) -> Result<(), AnyError> {
    tally.answer(|index| items.get().is_ok_and(|item| is_marked(&item, index)))
}

/// Has one item after the other put, each with its mark.
fn put_all<I>(
    consumer: &mut Consumer<I>,
    count: u64,
    mut put: impl FnMut(&I, &Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<Sample> {
    let mut item = vec![0; SIZE];
    consumer.measure(count, |items| {
        (0..count).try_for_each(|index| {
            mark(&mut item, index);
            put(items, &item)
        })
    })
}
