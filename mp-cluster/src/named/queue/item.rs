//! A value that was got and is not yet done with.

use std::fmt;
use std::ops::Deref;
use std::time::Instant;

use mp::{Error, Transfer};

use super::Queue;
use super::passing::Given;
use crate::link::LEASE;

/// A value of a [`Queue`] that this process has, and has not done with yet: see
/// [`Queue::get_item`]. Dropping it gives it back.
///
/// # When a process dies
///
/// The value comes back, for another, after five seconds; also if the process was stopped or cut off
/// for so long, and goes on to commit it.
#[must_use = "the value is given back at once if it is not kept"]
pub struct Item<T: Transfer> {
    queue: Queue<T>,
    given: Option<Given>,
    value: Option<T>,
    /// Tells the server that we are at it.
    progress: tokio::task::AbortHandle,
}

impl<T: Transfer> Item<T> {
    pub(super) fn new(queue: Queue<T>, given: Given, value: T) -> Self {
        let link = queue.core().link.clone();
        let reply = given.reply.clone();
        let progress = queue.core().spawn_aside(async move {
            let mut ticks = tokio::time::interval(LEASE / 4);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if link.is_connected() {
                    link.say(reply.clone(), None, "+WPI".into()).await;
                }
            }
        });
        Self {
            queue,
            given: Some(given),
            value: Some(value),
            progress,
        }
    }

    /// Takes the value for good: the server forgets it.
    ///
    /// # Errors
    ///
    /// If the server does not answer: then the value may come back, for another.
    pub fn commit(mut self) -> Result<T, Error> {
        let Some(given) = self.given.take() else {
            return Err(self.queue.core().no_answer());
        };
        self.progress.abort();
        let given = Given {
            at: Instant::now(),
            ..given
        };
        let queue = self.queue.clone();
        let settled = queue
            .cell
            .cluster
            .run(async { Ok(queue.settle(&given).await) })?;
        match self.value.take() {
            Some(value) if settled => Ok(value),
            _ => Err(queue.core().no_answer()),
        }
    }
}

impl<T: Transfer> Deref for Item<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!("it is taken by commit, which takes the item"),
        }
    }
}

impl<T: Transfer> Drop for Item<T> {
    fn drop(&mut self) {
        self.progress.abort();
        if let Some(given) = self.given.take() {
            let back = async {
                let client = &self.queue.core().link.client;
                let _ = client.publish(given.reply, "-NAK".into()).await;
                // It comes back after its lease otherwise.
                let flushed = client.flush();
                let _ = tokio::time::timeout(self.queue.core().timeout, flushed).await;
                Ok(())
            };
            if self.queue.core().is_connected() {
                let _ = self.queue.cell.cluster.run(back);
            }
        }
    }
}

impl<T: Transfer + fmt::Debug> fmt::Debug for Item<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
