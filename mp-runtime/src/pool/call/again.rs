//! Items that failed and are run again.

use std::time::Duration;

use super::Call;
use crate::deadline::Deadline;
use crate::error::TaskError;
use crate::fault::fault;
use crate::loom::Ordering;
use crate::sys;
use crate::task::Transfer;

/// An item that is run again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    pub(super) item: u32,
    /// How often it was handed to a worker, and how often it was run again.
    pub(super) attempts: u32,
    pub(super) retries: u32,
    /// Not before.
    due: Deadline,
}

impl<'p, R: Transfer> Call<'p, R> {
    /// Has an item that failed run again, if it is to be; otherwise gives its error back.
    #[cold]
    pub(super) fn retry(&mut self, at: usize, item: u32, error: TaskError) -> Option<TaskError> {
        let (retries, attempts) = self.chunks[at].before(item);
        let attempts = attempts + error.attempts();
        let error = error.with_attempts(attempts);
        let due = match self.pool.stop() {
            None if self.is_suspect(at, &error) => Some(Deadline::after(Duration::ZERO)),
            None => self.terms.retry(&error, retries),
            Some(_) => None,
        };
        let Some(due) = due else { return Some(error) };
        self.chunks[at].again.push(Again {
            item,
            attempts,
            retries: retries + 1,
            due,
        });
        None
    }

    /// Whether it was any of several items that cost a machine: then each is run by itself.
    fn is_suspect(&self, at: usize, error: &TaskError) -> bool {
        let chunk = &self.chunks[at];
        let count = |index| self.pool.memory.job(index).count();
        error.is_of_machines()
            && chunk.retried.is_none()
            && chunk.job.is_some_and(|job| count(job) > 1)
    }

    /// Offers the next item of a chunk that is to be run again, or has the chunk rest until it is
    /// time. Its job is over.
    #[cold]
    pub(super) fn run_again(&mut self, at: usize) {
        let chunk = &mut self.chunks[at];
        let Some(index) = chunk.job else { return };
        let ready = chunk.again.iter().position(|again| again.due.has_passed());
        let Some(ready) = ready else {
            let dues = chunk.again.iter().map(|again| again.due);
            chunk.rest = Some(dues.fold(Deadline::NEVER, Deadline::earlier));
            return;
        };
        chunk.rest = None;
        let again = chunk.again.swap_remove(ready);
        chunk.retried = Some(again);
        let job = self.pool.memory.job(index);
        job.set_count(again.item + 1);
        job.offered.store(sys::clock::now(), Ordering::Relaxed);
        fault!("pool.retrying");
        self.offer(index, again.item, 0);
    }
}
