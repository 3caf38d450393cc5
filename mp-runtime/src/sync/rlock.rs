//! A lock that the thread which holds it may acquire again.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::atomic;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::guard::{Held, sealed};
use super::object::{Object, State, describe};
use super::raw::{Holder, Peers};
use super::{AcquireTimeoutError, Guard, OwnerDied, TryAcquireError};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::life::Roster;
use crate::life::mark::MarkedLock;
use crate::loom::{AtomicU64, Ordering};
use crate::shm::{Kind, shared};

shared! {
    /// A recursive lock's words in shared memory. All zeros is free.
    pub(super) struct Words {
        lock: MarkedLock,
        /// `{ process: 32 bits, thread: 32 bits }` of the holder: zero, or stale, if there is none.
        owner: AtomicU64,
        /// How often the holder has acquired it. Only the holder touches it.
        depth: AtomicU64,
        /// Which tenure of the holder's process this is: a guard of another one releases nothing.
        tenure: AtomicU64,
    }
}

impl State for Words {
    const KIND: Kind = Kind::RLock;
}

// What the table says of the kind: the state begins with the lock.
const _: () = assert!(std::mem::offset_of!(Words, lock) == 0);

/// A lock between any processes and threads of a program that the thread which holds it may acquire
/// again: it is released when as many guards are dropped as were given.
///
/// A clone is the same lock, and so is what arrives where a lock was sent: as an argument or result
/// of a task, as an item of a queue, or inside either. Its owner is one *thread* of one process.
///
/// # When a process dies
///
/// As for [`Lock`](crate::Lock): the lock is released and marked, and everybody who waits for it or asks for it gets
/// [`OwnerDied`], until somebody calls [`recover`](Self::recover).
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lock = mp::RLock::new()?;
/// let outer = lock.acquire()?;
/// let inner = lock.acquire()?; // A `Lock` would wait here for ever.
/// drop(outer);
/// assert!(lock.is_locked());
/// drop(inner);
/// assert!(!lock.is_locked());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RLock(Object<Words>);

/// One acquisition of an [`RLock`]. Dropping it takes it back.
///
/// It stays on the thread that acquired it: sending it elsewhere does not compile.
///
/// ```compile_fail
/// let lock = mp::RLock::new().unwrap();
/// let guard = lock.acquire().unwrap();
/// std::thread::scope(|s| { s.spawn(move || drop(guard)); });
/// ```
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct RLockGuard<'a> {
    words: &'a Words,
    tenure: u64,
    /// Not `Send`: the owner is a thread.
    marker: PhantomData<*const ()>,
}

impl RLock {
    /// Makes a lock that nobody holds.
    ///
    /// # Errors
    ///
    /// If the program's shared memory cannot be made, or holds its limit of 65,536 objects.
    pub fn new() -> Result<Self, Error> {
        Object::create().map(Self)
    }

    /// Acquires the lock, waiting as long as it takes; at once if this thread holds it.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`] if a holder died and nobody has recovered the lock since.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`, as all methods do.
    pub fn acquire(&self) -> Result<RLockGuard<'_>, OwnerDied> {
        match self.lock(Deadline::NEVER) {
            Ok(guard) => Ok(guard),
            Err(Some(died)) => Err(died),
            Err(None) => unreachable!("there was no deadline"),
        }
    }

    /// Acquires the lock if no other thread holds it.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::WouldBlock`] if somebody holds it, [`TryAcquireError::OwnerDied`] as for
    /// [`acquire`](Self::acquire).
    #[doc(alias = "acquire(block=False)")]
    pub fn try_acquire(&self) -> Result<RLockGuard<'_>, TryAcquireError> {
        let words = self.0.state();
        if let Some(guard) = self.again(words) {
            return Ok(guard);
        }
        let guard = Guard::<()>::try_acquire(&words.lock, self.0.program())?;
        Ok(self.first(words, guard))
    }

    /// Acquires the lock, waiting at most `timeout`, which the monotonic clock measures.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::Timeout`] if somebody held it all the time,
    /// [`AcquireTimeoutError::OwnerDied`] as for [`acquire`](Self::acquire).
    pub fn acquire_timeout(
        &self,
        timeout: Duration,
    ) -> Result<RLockGuard<'_>, AcquireTimeoutError> {
        self.lock(Deadline::after(timeout))
            .map_err(|died| died.map_or(AcquireTimeoutError::Timeout, Into::into))
    }

    /// Acquires the lock whether or not a holder died, waiting as long as it takes, and ends the
    /// mark: from now on it is a lock like any other.
    ///
    /// Call it when what the lock protects has been, or is about to be, put right.
    pub fn recover(&self) -> RLockGuard<'_> {
        let words = self.0.state();
        match self.again(words) {
            Some(guard) => guard,
            None => self.first(words, Guard::recover(&words.lock, self.0.program())),
        }
    }

    /// Whether somebody holds the lock at this moment.
    pub fn is_locked(&self) -> bool {
        holder(self.0.state(), self.0.roster()).is_some()
    }

    fn lock(&self, deadline: Deadline) -> Result<RLockGuard<'_>, Option<OwnerDied>> {
        let words = self.0.state();
        if let Some(guard) = self.again(words) {
            return Ok(guard);
        }
        let guard = Guard::acquire(&words.lock, self.0.program(), deadline)?;
        Ok(self.first(words, guard))
    }

    /// One more acquisition, if this thread holds the lock.
    fn again(&self, words: &'static Words) -> Option<RLockGuard<'_>> {
        // Relaxed: only this thread writes its own name there, and it takes it away before it lets
        // the lock go.
        if words.owner.load(Ordering::Relaxed) != this_thread(self.0.roster()) {
            return None;
        }
        words.depth.fetch_add(1, Ordering::Relaxed);
        Some(RLockGuard {
            words,
            tenure: words.tenure.load(Ordering::Relaxed),
            marker: PhantomData,
        })
    }

    /// The first acquisition, with the lock just acquired.
    fn first(&self, words: &'static Words, guard: Guard<'static>) -> RLockGuard<'_> {
        static TENURES: atomic::AtomicU64 = atomic::AtomicU64::new(0);
        let tenure = TENURES.fetch_add(1, atomic::Ordering::Relaxed);
        words.begin(self.0.roster(), guard, tenure, 1);
        RLockGuard {
            words,
            tenure,
            marker: PhantomData,
        }
    }
}

impl Words {
    /// The holder of a lock just acquired is this thread, for so many guards.
    fn begin(&self, roster: &Roster, guard: Guard<'_>, tenure: u64, depth: u64) {
        // From here on the depth says when it is released.
        std::mem::forget(guard);
        self.depth.store(depth, Ordering::Relaxed);
        self.tenure.store(tenure, Ordering::Relaxed);
        self.owner.store(this_thread(roster), Ordering::Relaxed);
    }

    /// Nobody is the holder any more: releases the lock.
    fn end(&self) {
        self.owner.store(0, Ordering::Relaxed);
        drop(Guard::of_forgotten(&self.lock));
    }
}

impl Held for RLockGuard<'_> {}

impl sealed::Held for RLockGuard<'_> {
    fn released_while<R>(
        self,
        wait: impl FnOnce(&mut dyn FnMut()) -> R,
    ) -> Result<(Self, R), OwnerDied> {
        let guard = ManuallyDrop::new(self);
        let (words, tenure) = (guard.words, guard.tenure);
        let depth = words.depth.load(Ordering::Relaxed);
        let mut is_held = true;
        let result = wait(&mut || {
            if std::mem::take(&mut is_held) {
                words.end();
            }
        });
        if is_held {
            words.end();
        }
        // If a holder died, this guard is gone, and those of the outer acquisitions release nothing:
        // they are of a tenure that is over.
        let again = Guard::acquire_again(&words.lock)?;
        let program = crate::life::program::existing().expect("the lock was just acquired");
        words.begin(program.roster, again, tenure, depth);
        Ok((ManuallyDrop::into_inner(guard), result))
    }
}

/// The living process that holds the lock.
fn holder(words: &Words, roster: &Roster) -> Option<Holder> {
    let holder = words.lock.mutex.holder()?;
    roster.is_alive(holder).then_some(holder)
}

/// This thread among all threads that ever were in the program.
fn this_thread(roster: &Roster) -> u64 {
    static THREADS: atomic::AtomicU32 = atomic::AtomicU32::new(0);
    thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    // While the thread's locals are dropped it goes by a number of its own kind: none of them can
    // hold a guard that it shares with another thread.
    let number = NUMBER
        .try_with(|number| {
            if number.get() == 0 {
                number.set(THREADS.fetch_add(1, atomic::Ordering::Relaxed) + 1);
            }
            number.get()
        })
        .unwrap_or(u32::MAX);
    (u64::from(roster.me().bits()) << 32) | u64::from(number)
}

impl Drop for RLockGuard<'_> {
    fn drop(&mut self) {
        // A copy made by `fork` does not hold what the original holds.
        let Some(program) = crate::life::program::existing() else {
            return;
        };
        // Relaxed: both words are this thread's own if they name it.
        let is_holder = self.words.owner.load(Ordering::Relaxed) == this_thread(program.roster)
            && self.words.tenure.load(Ordering::Relaxed) == self.tenure;
        if is_holder && self.words.depth.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.words.end();
        }
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard").finish_non_exhaustive()
    }
}

/// Shows who holds the lock, and how often.
impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RLock");
        let Some(words) = self.0.shown() else {
            return debug.finish_non_exhaustive();
        };
        let holder = holder(words, self.0.roster());
        let depth = holder.map_or(0, |_| words.depth.load(Ordering::Relaxed));
        debug
            .field(
                "holder",
                &format_args!("{}", describe(self.0.roster(), holder)),
            )
            .field("depth", &depth);
        if words.lock.mutex.is_marked() {
            debug.field("owner_died", &OwnerDied::of(&words.lock));
        }
        debug.finish()
    }
}
