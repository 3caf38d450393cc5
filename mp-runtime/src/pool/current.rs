//! What a task can ask about the item that its worker is at.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::job::Job;
use super::region::{DRAINING, Memory, STOPPED};
use crate::sync::raw::Holder;
use crate::sys;

/// The pool that this process works for.
static POOL: OnceLock<Pool> = OnceLock::new();
/// The entry of the job that the worker is at, and one; zero is none. Relaxed: a task asks about
/// the job that it is in itself, and whatever the others see was true a moment ago.
static JOB: AtomicU32 = AtomicU32::new(0);
/// When the time of an isolated worker's item is over, if it is at one; the largest is never.
static DUE: AtomicU64 = AtomicU64::new(u64::MAX);

/// How a worker learns of what the parent wants.
enum Pool {
    /// By the memory that they share.
    Shared(&'static Memory, Holder),
    /// By the stream from the parent, which sends nothing else while the worker is at a job.
    Isolated(OwnedFd),
}

/// Notes which pool this process works for, once.
pub(super) fn set_pool(memory: &'static Memory, me: Holder) {
    let _ = POOL.set(Pool::Shared(memory, me));
}

/// Notes that this process is the isolated worker to which `socket` leads, once.
pub(super) fn set_isolated(socket: OwnedFd) {
    let _ = POOL.set(Pool::Isolated(socket));
}

/// Notes which job the worker is at.
#[inline]
pub(super) fn set_job(index: Option<u32>) {
    JOB.store(index.map_or(0, |index| index + 1), Ordering::Relaxed);
}

/// Notes that an isolated worker begins an item, which may take so many nanoseconds; zero is no
/// limit.
pub(super) fn begin_item(limit: u64) {
    let due = match limit {
        0 => u64::MAX,
        _ => sys::clock::now().saturating_add(limit),
    };
    DUE.store(due, Ordering::Relaxed);
    set_job(Some(0));
}

/// Notes that an isolated worker is at no item.
pub(super) fn end_item() {
    set_job(None);
}

/// What there is to know about the item that the worker is at.
enum Item {
    Shared(&'static Memory, Holder, &'static Job),
    Isolated(&'static OwnedFd),
}

impl Item {
    fn current() -> Option<Self> {
        let pool = POOL.get()?;
        let index = JOB.load(Ordering::Relaxed).checked_sub(1)?;
        Some(match pool {
            Pool::Shared(memory, me) => Self::Shared(memory, *me, memory.job(index)),
            Pool::Isolated(socket) => Self::Isolated(socket),
        })
    }

    /// The moment on the monotonic clock, in nanoseconds, at which the item's time is over.
    fn due(&self) -> Option<u64> {
        match self {
            Self::Shared(_, _, job) => {
                let limit = job.limit.load(Ordering::Relaxed);
                (limit > 0).then(|| job.item_began.load(Ordering::Relaxed).saturating_add(limit))
            }
            Self::Isolated(_) => Some(DUE.load(Ordering::Relaxed)).filter(|&due| due != u64::MAX),
        }
    }

    /// Whether the parent wants nothing of it any more.
    fn is_unwanted(&self) -> bool {
        match self {
            Self::Shared(memory, me, job) => {
                let flags = memory.header().flags.load(crate::loom::Ordering::Acquire);
                flags & (STOPPED | DRAINING) != 0 || !job.is_wanted_of(*me) || job.count() == 0
            }
            // What comes while the worker is at a job is that nobody wants the rest of it.
            Self::Isolated(socket) => sys::fd::has_bytes(socket.as_fd()) != Some(false),
        }
    }
}

/// How many calls from inside of tasks lead to what the calling process calls now: one more than lead
/// to the task that it runs, and none where it runs none.
#[inline]
pub(super) fn depth() -> u32 {
    match Item::current() {
        Some(Item::Shared(memory, _, job)) => memory.depth(memory.index_of(job)) + 1,
        Some(Item::Isolated(_)) | None => 0,
    }
}

/// The pool that this process works for, and who it is there, if it shares the pool's memory.
pub(super) fn own_pool() -> Option<(&'static Memory, Holder)> {
    match POOL.get()? {
        Pool::Shared(memory, me) => Some((memory, *me)),
        Pool::Isolated(_) => None,
    }
}

/// The moment at which the time of the task that calls this is over: see
/// [`PoolBuilder::task_timeout`](crate::PoolBuilder::task_timeout). `None` if there is no such
/// limit, and outside of a pool's tasks.
///
/// A task that can stop early, with what it has by then, asks for it: at this moment the worker is
/// killed, or, if the pool gives its tasks a [`grace`](crate::PoolBuilder::grace), after that.
///
/// # Examples
///
/// ```
/// # use std::time::{Duration, Instant};
/// # use mp::Pool;
/// /// The best of as many tries as there is time for.
/// #[mp::task]
/// fn search(seed: u64) -> u64 {
///     let margin = Duration::from_millis(50);
///     let end = mp::deadline().map(|end| end - margin);
///     let mut best = seed;
///     while end.is_some_and(|end| Instant::now() < end) {
///         best = best.max(best.rotate_left(7) ^ seed);
///     }
///     best
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::builder().workers(1).task_timeout(Duration::from_millis(500)).build()?;
/// assert!(pool.apply(search, (3,))? >= 3);
/// # Ok(())
/// # }
/// ```
pub fn deadline() -> Option<Instant> {
    let left = Item::current()?.due()?.saturating_sub(sys::clock::now());
    Some(Instant::now() + Duration::from_nanos(left))
}

/// Whether the task that calls this works for nothing: its time is over, somebody has
/// [cancelled](crate::Job::cancel) it, the stream of results that it is for was dropped, or the pool has
/// ended. Always false outside of a pool's
/// tasks. In an [isolated](crate::PoolBuilder::isolated) worker it is a system call.
///
/// To be of use, the pool must give its tasks a [`grace`](crate::PoolBuilder::grace): otherwise they
/// are killed at that moment. What a task returns within the grace after its deadline is its
/// result; that of a cancelled task is dropped.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use mp::Pool;
/// #[mp::task]
/// fn until_stopped() -> u64 {
///     let mut rounds = 0;
///     while !mp::is_cancelled() {
///         rounds += 1;
///         std::thread::sleep(Duration::from_millis(1));
///     }
///     rounds
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::builder()
///     .workers(1)
///     .task_timeout(Duration::from_millis(50))
///     .grace(Duration::from_secs(10))
///     .build()?;
/// assert!(pool.apply(until_stopped, ())? > 0);
/// # Ok(())
/// # }
/// ```
pub fn is_cancelled() -> bool {
    Item::current().is_some_and(|item| {
        item.is_unwanted() || item.due().is_some_and(|due| sys::clock::now() >= due)
    })
}
