//! A queue of small items from this process to another, or to a thread.

use crossbeam_channel::unbounded;
use mp::{AnyError, Process, Queue, TaskFn};

use crate::consumer::{Consumer, Tally, ThreadConsumer};
use crate::race::{Race, Results, Target, Unit};
use crate::report::thousands;
use crate::{Plan, ipc, ring};

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
    let mut single = consumer(consume)?;
    race.enter("mp Queue", move || {
        single.measure(count, |items| {
            (0..count).try_for_each(|index| Ok(items.put(FIRST + index)?))
        })
    });
    race.target(Target::AtLeast(12.0));
    let mut batches = consumer(consume_batches)?;
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
    let mut thread = ThreadConsumer::start(unbounded(), |&item, index| item == FIRST + index);
    race.enter("crossbeam-channel threads", move || {
        thread.measure(count, |items| {
            (0..count).try_for_each(|index| Ok(items.send(FIRST + index)?))
        })
    });
    let mut ring = ring::consumer(ring::Items::Numbers)?;
    race.enter("a bare ring of two processes", move || {
        ring.measure(count, |ring| {
            (0..count).for_each(|index| ring.put(&(FIRST + index).to_le_bytes()));
            Ok(())
        })
    });
    race.limit();
    let mut ipc = ipc::of_numbers()?;
    race.enter("ipc-channel", move || {
        ipc.measure(count, |items| {
            (0..count).try_for_each(|index| Ok(items.send(FIRST + index)?))
        })
    });
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

fn consumer<F>(task: F) -> anyhow::Result<Consumer<Queue<u64>>>
where
    F: TaskFn<(Queue<u64>, Tally), Output = Result<(), AnyError>>,
{
    Consumer::start(|tally| {
        let items = Queue::new()?;
        let process = Process::new(task, (items.clone(), tally)).start()?;
        Ok((items, process))
    })
}

#[mp::task]
fn consume(items: Queue<u64>, tally: Tally) -> Result<(), AnyError> {
    tally.answer(|index| items.get().is_ok_and(|item| item == FIRST + index))
}

#[mp::task]
fn consume_batches(items: Queue<u64>, tally: Tally) -> Result<(), AnyError> {
    tally.answer_all(|count| {
        let mut right = 0;
        let mut expected = FIRST..FIRST + count;
        while !expected.is_empty() {
            for item in items.get_many(BATCH)? {
                right += u64::from(Some(item) == expected.next());
            }
        }
        Ok(right)
    })
}
