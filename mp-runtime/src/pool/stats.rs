//! What a pool has done and is doing, in figures.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::inner::{Inner, lock};
use crate::error::TaskError;
use crate::life::program::is_forked;
use crate::loom::{AtomicU64, Ordering};
use crate::shm::safe::shared;

/// What a pool has done and is doing, as [`Pool::stats`] finds it.
///
/// Figures grow when a job, which may have many items, is over; those of different items need not
/// be of one moment.
///
/// # Examples
///
/// ```
/// # use mp::Pool;
/// #[mp::task]
/// fn invert(x: i32) -> i32 {
///     100 / x
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new(2)?;
/// pool.try_map(invert, [1, 0, 4])?;
/// let stats = pool.stats();
/// assert_eq!((stats.done, stats.failed.panics), (2, 1));
/// assert_eq!(stats.workers.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// Calls by [`submit`](Pool::submit) and its like that have not begun.
    pub pending_calls: u64,
    /// Items that were handed over and that no worker has begun.
    pub queued: u64,
    /// Items that workers are at.
    pub running: u64,
    /// Items whose task has returned.
    pub done: u64,
    /// Items that failed, by cause.
    pub failed: FailureStats,
    /// Bytes of the items that were handed over, and of their outcomes.
    pub bytes_sent: u64,
    /// Bytes of the outcomes that came back.
    pub bytes_received: u64,
    /// How long jobs waited for a worker, added up.
    pub waiting: Duration,
    /// How long workers were at jobs, added up.
    pub working: Duration,
    /// How long it took to pull items from their iterators and encode them, added up.
    pub encoding: Duration,
    /// Workers that were ever started.
    pub workers_started: u64,
    /// Workers that ended as planned: because they had run as many items as they may, say, or had
    /// nothing to do.
    pub workers_retired: u64,
    /// Workers that ended in another way.
    pub workers_died: u64,
    /// The workers there are, in the order in which they were started.
    pub workers: Vec<WorkerStats>,
}

/// How many items of a pool failed, by cause; see [`TaskError`]. An item that is tried again counts
/// each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FailureStats {
    /// [`is_out_of_memory`](TaskError::is_out_of_memory), whatever else.
    pub out_of_memory: u64,
    /// [`is_panic`](TaskError::is_panic).
    pub panics: u64,
    /// [`is_crash`](TaskError::is_crash).
    pub crashes: u64,
    /// [`is_timeout`](TaskError::is_timeout).
    pub timeouts: u64,
    /// [`is_cancelled`](TaskError::is_cancelled).
    pub cancelled: u64,
    /// [`is_not_encoded`](TaskError::is_not_encoded).
    pub not_encoded: u64,
    /// [`is_not_decoded`](TaskError::is_not_decoded).
    pub not_decoded: u64,
    /// [`is_lost`](TaskError::is_lost), and what is none of the others.
    pub lost: u64,
}

/// What one worker has done and is doing. One on another machine tells it about once a second, and of
/// all that it has done for any pool; its name ends in `on` and that machine's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Whether its initializer is through.
    pub is_ready: bool,
    /// Whether it is at a job.
    pub is_busy: bool,
    /// Items that it has run, in jobs that are over.
    pub items: u64,
    /// Those jobs.
    pub jobs: u64,
    /// How long it was at them.
    pub working: Duration,
}

impl FailureStats {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self {
            out_of_memory,
            panics,
            crashes,
            timeouts,
            cancelled,
            not_encoded,
            not_decoded,
            lost,
        } = *self;
        out_of_memory + panics + crashes + timeouts + cancelled + not_encoded + not_decoded + lost
    }

    /// The place of a failure's counter among all.
    fn place(error: &TaskError) -> usize {
        let kinds = [
            error.is_out_of_memory(),
            error.is_panic(),
            error.is_crash(),
            error.is_timeout(),
            error.is_cancelled(),
            error.is_not_encoded(),
            error.is_not_decoded(),
        ];
        kinds.iter().position(|&is_it| is_it).unwrap_or(LOST)
    }

    fn counters(&mut self) -> [&mut u64; LOST + 1] {
        [
            &mut self.out_of_memory,
            &mut self.panics,
            &mut self.crashes,
            &mut self.timeouts,
            &mut self.cancelled,
            &mut self.not_encoded,
            &mut self.not_decoded,
            &mut self.lost,
        ]
    }
}

/// The place of [`FailureStats::lost`] among the counters, the last.
const LOST: usize = 7;

/// What is counted as jobs are over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    done: u64,
    failed: FailureStats,
    sent: u64,
    received: u64,
    /// Nanoseconds.
    waiting: u64,
    working: u64,
    encoding: u64,
}

/// A job that is over, as its caller counts it. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Items whose task returned.
    pub(super) done: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) waiting: u64,
    pub(super) working: u64,
    pub(super) encoding: u64,
}

shared! {
    /// As [`Totals`], in the pool's memory: what callers count that are workers. Each figure stands
    /// alone, so all of it is Relaxed.
    pub(super) struct SharedTotals {
        failed: [AtomicU64; LOST + 1],
        done: AtomicU64,
        sent: AtomicU64,
        received: AtomicU64,
        waiting: AtomicU64,
        working: AtomicU64,
        encoding: AtomicU64,
    }
}

impl SharedTotals {
    pub(super) fn add(&self, job: Tally) {
        for (sum, more) in [
            (&self.done, job.done),
            (&self.sent, job.sent),
            (&self.received, job.received),
            (&self.waiting, job.waiting),
            (&self.working, job.working),
            (&self.encoding, job.encoding),
        ] {
            sum.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn count(&self, error: &TaskError) {
        self.failed[FailureStats::place(error)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted, added to `totals`.
    fn added_to(&self, mut totals: Totals) -> Totals {
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        totals.add(Tally {
            done: read(&self.done),
            sent: read(&self.sent),
            received: read(&self.received),
            waiting: read(&self.waiting),
            working: read(&self.working),
            encoding: read(&self.encoding),
        });
        for (sum, more) in totals.failed.counters().into_iter().zip(&self.failed) {
            *sum += read(more);
        }
        totals
    }
}

impl Totals {
    fn count(&mut self, error: &TaskError) {
        *self.failed.counters()[FailureStats::place(error)] += 1;
    }

    pub(super) fn add(&mut self, job: Tally) {
        self.done += job.done;
        self.sent += job.sent;
        self.received += job.received;
        self.waiting += job.waiting;
        self.working += job.working;
        self.encoding += job.encoding;
    }
}

impl Inner {
    /// Counts an item that failed, and tells those who want to know.
    #[cold]
    pub(super) fn note_failure(&self, error: &TaskError) {
        match self.guest() {
            None => lock(&self.totals).count(error),
            Some(_) => self.memory.nest().totals.count(error),
        }
        self.tell_failure(error);
    }

    /// Counts a job that is over, or that goes back.
    pub(super) fn add_up(&self, job: Tally) {
        match self.guest() {
            None => lock(&self.totals).add(job),
            Some(_) => self.memory.nest().totals.add(job),
        }
    }

    fn stats(&self) -> PoolStats {
        let mut stats = PoolStats {
            pending_calls: self.driver.pending() as u64,
            ..PoolStats::default()
        };
        self.add_crew(&mut stats);
        let mut busy = Vec::new();
        for index in self.jobs() {
            let job = self.memory.job(index);
            if !job.is_out() {
                continue;
            }
            let count = u64::from(job.count());
            match job.runner() {
                Some(worker) => {
                    let progress = job.progress();
                    let claimed = u64::from(progress.claimed);
                    stats.running += claimed.saturating_sub(u64::from(progress.done));
                    stats.queued += count.saturating_sub(claimed);
                    busy.push(worker);
                }
                None => {
                    let first = u64::from(job.first.load(Ordering::Relaxed));
                    stats.queued += count.saturating_sub(first);
                }
            }
        }
        for worker in &mut stats.workers {
            let is_busy = |holder| self.who(holder).is_some_and(|who| who.1 == worker.pid);
            worker.is_busy = busy.iter().any(|&holder| is_busy(holder));
        }
        if let Some(carrier) = self.carrier() {
            stats.workers = carrier.crew();
        }
        let totals = self.memory.nest().totals.added_to(*lock(&self.totals));
        stats.done = totals.done;
        stats.failed = totals.failed;
        stats.bytes_sent = totals.sent;
        stats.bytes_received = totals.received;
        stats.waiting = Duration::from_nanos(totals.waiting);
        stats.working = Duration::from_nanos(totals.working);
        stats.encoding = Duration::from_nanos(totals.encoding);
        stats
    }
}

impl Pool {
    /// Returns what the pool has done and is doing, in figures. It costs little, and calls next to
    /// nothing: they count once a job, not once an item.
    ///
    /// # Examples
    ///
    /// See [`PoolStats`].
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        match is_forked() {
            true => PoolStats::default(),
            false => self.inner.stats(),
        }
    }
}
