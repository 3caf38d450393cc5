//! A set of workers that run tasks.
//!
//! - [`builder`]: what a pool is asked to be.
//! - [`map`]: calls that wait for their results.
//! - [`stream`]: calls whose results come one by one.
//! - [`submit`]: calls that return at once.
//! - [`handle`]: the handle of such a call.
//! - [`call`]: one call as its caller's thread drives it.
//! - [`source`]: where a call's items come from, and how they are encoded.
//! - [`absence`]: what the desk does for a caller that is in its input.
//! - [`lookout`]: how a caller of one item looks for its result before it sleeps.
//! - [`driver`]: the thread that drives the calls that nobody waits for.
//! - [`callbacks`]: the thread on which callbacks and wakers run.
//! - [`chunk`]: how many items make a job.
//! - [`job`]: the job table's entry and its state word.
//! - [`region`]: the pool's memory: header, ring, bells, job table, blocks.
//! - [`wire`]: how items and results lie in their blocks.
//! - [`worker`]: the child's loop.
//! - [`isolated`]: the child's loop of an isolated worker.
//! - [`attendant`]: the thread of the parent that stands between it and the pool's memory.
//! - [`link`]: the socket between the two.
//! - [`remote`]: a pool whose workers are on other machines, and the thread that sends jobs there.
//! - [`encoded`]: calls that come from another machine.
//! - [`inner`]: what the threads of the parent share.
//! - [`supervisor`]: workers started, watched, replaced, ended.
//! - [`rest`]: the pause before more of those that came to nothing.
//! - [`terms`]: how long the items of a call may take, and which are run again.
//! - [`retries`]: which failures are worth another attempt.
//! - [`timer`]: the thread that ends what takes too long.
//! - [`current`]: what a task can ask about itself.
//! - [`initializer`]: what a worker runs first.
//! - [`seat`]: what a worker says of itself.
//! - [`state`]: what a worker keeps for its tasks.
//! - [`stats`]: what was done, in figures.
//! - [`events`]: what happens, told as it does.
//! - [`reduce`]: calls whose results are merged where they were made.
//! - [`global`]: the pool of the process.
//! - [`guest`]: the pool as one of its workers calls it.
//! - [`nest`]: what lies in the pool's memory for such calls.
//! - [`desk`]: the thread of the parent that serves them.
//! - [`drain`]: ending in good order.
//! - `progress`: a bar that shows how far a stream is, with the feature of that name.
//! - [`failure`]: what the caller is told about an item that failed.
//!
//! The protocol is in `pool/README.md`.

mod absence;
mod attendant;
mod builder;
mod call;
mod callbacks;
mod chunk;
mod current;
mod desk;
mod drain;
mod driver;
pub(crate) mod encoded;
mod events;
mod failure;
mod global;
mod guest;
mod handle;
mod initializer;
mod inner;
pub(crate) mod isolated;
mod job;
mod link;
mod lookout;
mod map;
mod nest;
#[cfg(feature = "progress")]
mod progress;
mod reduce;
mod region;
pub(crate) mod remote;
mod rest;
mod retries;
mod seat;
mod source;
mod state;
mod stats;
mod stream;
mod submit;
mod supervisor;
mod terms;
mod timer;
mod wire;
pub(crate) mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::PoolBuilder;
pub use self::current::{deadline, is_cancelled};
pub use self::events::PoolEvent;
pub use self::global::pool;
pub use self::handle::{AsCompleted, Job, as_completed, wait_all};
use self::inner::Inner;
#[cfg(feature = "progress")]
pub use self::progress::Progress;
pub use self::retries::Retries;
pub use self::state::{set_worker_state, try_worker_state, worker_state};
pub use self::stats::{FailureStats, PoolStats, WorkerStats};
pub use self::stream::Imap;
use self::terms::Terms;
pub use self::terms::Tuned;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::life::program::is_forked;
use crate::shm::arena::Audit;
use crate::trace;

/// How long ending a pool waits for workers that were killed. Only one that hangs in the kernel
/// takes longer; it ends when the kernel lets it.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A set of processes that run tasks.
///
/// Items are handed to the workers in jobs, as many in one as make it worth the handing over, and
/// what a worker does not get to is left to the others. The methods differ in how they take items
/// and give results:
///
/// | | results | a failure |
/// |---|---|---|
/// | [`map`](Self::map), [`starmap`](Self::starmap), [`map_ref`](Self::map_ref) | `Vec<R>`, in order | the first in order is the error |
/// | [`try_map`](Self::try_map) | every outcome, in order | its item's |
/// | [`imap`](Self::imap) | one by one, in order | its item's |
/// | [`imap_unordered`](Self::imap_unordered) | one by one, as they are ready | its item's |
/// | [`istarmap`](Self::istarmap), [`istarmap_unordered`](Self::istarmap_unordered) | as these two, for several arguments | its item's |
/// | [`for_each`](Self::for_each) | none | the first in order is the error |
/// | [`map_reduce`](Self::map_reduce) | merged into one, in the workers | the first in order is the error |
/// | [`broadcast`](Self::broadcast) | every outcome, one for each worker | its worker's |
/// | [`apply`](Self::apply) | of one call | the error |
/// | [`submit`](Self::submit), [`map_async`](Self::map_async), [`starmap_async`](Self::starmap_async) | a [`Job`], at once | the job's |
///
/// A pool can be used by several threads at once. Dropping it ends its workers, whatever they are
/// at; to let them finish, [`close`](Self::close) and [`join`](Self::join) it. A pool that is never
/// dropped, in a `static` say, does not keep the program from ending.
///
/// With the feature `tracing` each call is a span, and what tasks log is told to the subscriber of
/// this process in it; see the [crate's page](crate#what-workers-log).
///
/// # When a process dies
///
/// A worker that dies fails the one item it was at, with the cause; a new worker takes its place.
/// The results of the items before in the same job are kept, and the items behind go to other
/// workers: no item is run twice, unless [`retries`](PoolBuilder::retries) were asked for, and none
/// whose run has not begun is lost. A pool whose workers
/// die at once, again and again, stops, with an error that says why.
///
/// When the process with the pool ends, in whatever way, its workers end too.
///
/// # Examples
///
/// ```
/// use mp::Pool;
///
/// #[mp::task]
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new(2)?;
/// assert_eq!(pool.map(square, 1..=4)?, [1, 4, 9, 16]);
/// # Ok(())
/// # }
/// ```
pub struct Pool {
    inner: Arc<Inner>,
    /// What is said about calls that are made through it.
    terms: Terms,
    /// Whether it is another view of a pool, whose end is not the pool's.
    is_view: bool,
}

impl Pool {
    /// Makes a pool of so many workers. It returns when they have been started, not when they are
    /// ready.
    ///
    /// # Errors
    ///
    /// If `workers` is 0, or more than processes of a program may be alive
    /// ([`is_limit`](crate::Error::is_limit)), if a worker cannot be started (those that were are
    /// ended), or if there is no memory for the pool.
    pub fn new(workers: usize) -> Result<Self, Error> {
        Self::builder().workers(workers).build()
    }

    /// The pool that `inner` is.
    fn over(inner: Arc<Inner>) -> Self {
        let this = Arc::downgrade(&inner);
        let _ = inner.this.set(this.clone());
        if inner.guest().is_none()
            && let Some(timeline) = trace::timeline()
        {
            timeline.expect_from(this);
        }
        Self {
            inner,
            terms: Terms::default(),
            is_view: false,
        }
    }

    /// What its memory holds, and how many entries of its job table are in use.
    pub(crate) fn audit(&self) -> (Audit, usize) {
        self.inner.audit()
    }

    /// Describes a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    /// How many workers the pool has. One that has ended is replaced, so that it is this many
    /// again. With an [`idle_timeout`](PoolBuilder::idle_timeout) it has at most so many. A pool whose
    /// workers are on other machines has those that are there, of which there may be none, and one in
    /// a copy made by `fork` has none.
    pub fn workers(&self) -> usize {
        if is_forked() {
            return 0;
        }
        match self.inner.carrier() {
            Some(carrier) => carrier.workers(),
            None => self.inner.workers(),
        }
    }

    /// Gives the pool so many workers. It returns when those it lacks have been started; those that
    /// are too many end after the job they are at, and calls under way go on.
    ///
    /// # Errors
    ///
    /// If `workers` is 0, or more than processes of a program may be alive
    /// ([`is_limit`](crate::Error::is_limit)), the pool is closed or has stopped, or a worker cannot
    /// be started; the pool goes on with those there are.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[mp::task]
    /// # fn square(x: u64) -> u64 {
    /// #     x * x
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = mp::Pool::new(1)?;
    /// let squares = pool.map_async(square, 0..1000)?;
    /// pool.resize(3)?;
    /// assert_eq!(squares.wait()?[999], 998_001);
    /// assert_eq!(pool.workers(), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn resize(&self, workers: usize) -> Result<(), Error> {
        if is_forked() {
            return Err(Error::forked());
        }
        builder::check_workers(workers)?;
        self.check_outside("resize")?;
        self.inner.resize(workers)
    }

    /// Refuses further calls. Those under way go on, and when they are over the workers end.
    ///
    /// # Panics
    ///
    /// In a task of the pool.
    #[track_caller]
    pub fn close(&self) {
        if !is_forked() {
            self.refuse_inside("close");
            self.inner.close();
        }
    }

    /// Waits until all workers have ended, after [`close`](Self::close) or
    /// [`terminate`](Self::terminate). A stream of results that is neither at its end nor dropped
    /// is a call under way, which it waits for.
    ///
    /// # Errors
    ///
    /// If neither was called, since that would wait for ever.
    pub fn join(&self) -> Result<(), Error> {
        if is_forked() {
            return Err(Error::forked());
        }
        self.check_outside("join")?;
        if !self.inner.is_closed() {
            return Err(Error::new(
                ErrorKind::Other,
                "the pool is still open: call `close` or `terminate` before `join`",
            ));
        }
        self.inner.wait_for_crew(Deadline::NEVER);
        Ok(())
    }

    /// Ends the pool at once: kills its workers and waits until they are gone. Calls under way
    /// return; items that had no result by then fail as
    /// [cancelled](crate::TaskError::is_cancelled).
    ///
    /// # Panics
    ///
    /// In a task of the pool.
    #[track_caller]
    pub fn terminate(&self) {
        if is_forked() {
            return;
        }
        self.refuse_inside("terminate");
        self.inner.end();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if is_forked() {
            // Nothing in a copy made by `fork` is its own, nor is the pool's memory there.
            std::mem::forget(self.inner.clone());
        } else if !self.is_view {
            self.terminate();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.inner.settings.name)
            .field("workers", &self.workers())
            .field("is_closed", &self.inner.is_closed())
            .finish_non_exhaustive()
    }
}
