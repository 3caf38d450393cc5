//! Somebody who consumes: started once, told how many items come in each slice, and asked how many of them
//! were right. A slice's time ends with that answer.

use std::thread;

use anyhow::ensure;
use crossbeam_channel::{Receiver, Sender, bounded};
use mp::{AnyError, Child, Queue};
use serde::{Deserialize, Serialize};

use crate::race::Sample;

/// Both ends of what is asked and answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tally {
    counts: Queue<u64>,
    rights: Queue<u64>,
}

impl Tally {
    /// Answers each count by how many of so many items, by their number, were right.
    pub(crate) fn answer(&self, is_right: impl Fn(u64) -> bool) -> Result<(), AnyError> {
        self.answer_all(|count| Ok((0..count).filter(|&index| is_right(index)).count() as u64))
    }

    /// The same for whom takes them otherwise than one by one.
    pub(crate) fn answer_all(
        &self,
        mut consume: impl FnMut(u64) -> Result<u64, AnyError>,
    ) -> Result<(), AnyError> {
        for count in &self.counts {
            self.rights.put(consume(count)?)?;
        }
        Ok(())
    }
}

/// Another process that consumes. Dropping it ends it.
pub(crate) struct Consumer<I> {
    items: I,
    tally: Tally,
    process: Child<Result<(), AnyError>>,
}

impl<I> Consumer<I> {
    /// `start` gives the end into which items are put, and the process, which has to answer as [`Tally::answer`]
    /// does.
    pub(crate) fn start(
        start: impl FnOnce(Tally) -> anyhow::Result<(I, Child<Result<(), AnyError>>)>,
    ) -> anyhow::Result<Self> {
        let tally = Tally {
            counts: Queue::new()?,
            rights: Queue::new()?,
        };
        let (items, process) = start(tally.clone())?;
        let mut consumer = Self {
            items,
            tally,
            process,
        };
        // When it has answered it is there.
        consumer.measure(0, |_| Ok(()))?;
        Ok(consumer)
    }

    pub(crate) fn measure(
        &mut self,
        count: u64,
        produce: impl FnOnce(&I) -> anyhow::Result<()>,
    ) -> anyhow::Result<Sample> {
        let (sample, right) = Sample::of(count, || {
            self.tally.counts.put(count)?;
            produce(&self.items)?;
            Ok::<_, anyhow::Error>(self.tally.rights.get()?)
        });
        check(count, right?)?;
        Ok(sample)
    }
}

impl<I> Drop for Consumer<I> {
    fn drop(&mut self) {
        self.tally.counts.close();
        let _ = self.process.join();
    }
}

/// A thread that consumes from a crossbeam-channel. It ends when its channels are dropped.
pub(crate) struct ThreadConsumer<T> {
    items: Sender<T>,
    counts: Sender<u64>,
    rights: Receiver<u64>,
}

impl<T: Send + 'static> ThreadConsumer<T> {
    pub(crate) fn start(
        (items, items_out): (Sender<T>, Receiver<T>),
        is_right: impl Fn(&T, u64) -> bool + Send + 'static,
    ) -> Self {
        let (counts, counts_out) = bounded(1);
        let (rights_in, rights) = bounded(1);
        thread::spawn(move || {
            for count in counts_out {
                let right = (0..count)
                    .filter(|&index| items_out.recv().is_ok_and(|item| is_right(&item, index)))
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

    pub(crate) fn measure(
        &mut self,
        count: u64,
        produce: impl FnOnce(&Sender<T>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Sample> {
        let (sample, right) = Sample::of(count, || {
            self.counts.send(count)?;
            produce(&self.items)?;
            Ok::<_, anyhow::Error>(self.rights.recv()?)
        });
        check(count, right?)?;
        Ok(sample)
    }
}

fn check(count: u64, right: u64) -> anyhow::Result<()> {
    ensure!(
        right == count,
        "of {count} items {right} were those expected"
    );
    Ok(())
}
