//! What a held lock is: a value that releases it when dropped.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use super::raw::{Acquired, Holder, Peers, Refused};
use super::{OwnerDied, TryAcquireError};
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::life::Program;
use crate::life::mark::MarkedLock;
use crate::life::program::{existing, is_forked};
use crate::shm::plain::Exclusive;

/// A lock that the calling process holds, and the data that it protects, to which it derefs.
/// Dropping it releases the lock.
///
/// It stays on the thread that acquired it: sending it elsewhere does not compile.
///
/// ```compile_fail
/// let lock = mp::Lock::new().unwrap();
/// let guard = lock.acquire().unwrap();
/// std::thread::scope(|s| { s.spawn(move || drop(guard)); });
/// ```
///
/// # When a process dies
///
/// Every lock that it held is released and marked, see [`Lock`](crate::Lock).
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct Guard<'a, T: ?Sized = ()> {
    lock: &'a MarkedLock,
    /// The calling process: to look it up would take longer than to release a lock.
    me: Holder,
    data: Exclusive<'a, T>,
    /// It is not `Send`.
    marker: PhantomData<*const ()>,
}

impl<'a> Guard<'a> {
    /// Stands for a lock that was just acquired.
    #[inline]
    fn new(lock: &'a MarkedLock, me: Holder) -> Self {
        Self {
            lock,
            me,
            data: Exclusive::NOTHING,
            marker: PhantomData,
        }
    }

    /// Acquires the lock for the calling process `me` if it is free.
    #[inline]
    pub(super) fn acquire_free(lock: &'a MarkedLock, me: Holder) -> Option<Self> {
        if !lock.mutex.lock_free(me) {
            return None;
        }
        fault!("lock.acquired");
        Some(Self::new(lock, me))
    }

    /// Acquires the lock, waiting until `deadline`. The error is `None` when that has passed.
    pub(super) fn acquire(
        lock: &'a MarkedLock,
        program: &Program,
        deadline: Deadline,
    ) -> Result<Self, Option<OwnerDied>> {
        match lock.mutex.lock(program.roster, deadline) {
            Ok(acquired) => {
                fault!("lock.acquired");
                Self::acquired(lock, program, acquired).map_err(Some)
            }
            Err(Refused::Marked) => Err(Some(OwnerDied::of(lock))),
            Err(Refused::TimedOut) => Err(None),
        }
    }

    /// Acquires a lock that was let go to wait for something.
    pub(super) fn acquire_again(lock: &'a MarkedLock) -> Result<Self, OwnerDied> {
        let program = existing().expect("a condition was just waited for");
        match Self::acquire(lock, program, Deadline::NEVER) {
            Ok(guard) => Ok(guard),
            Err(Some(died)) => Err(died),
            Err(None) => unreachable!("there was no deadline"),
        }
    }

    /// Acquires the lock if nobody holds it.
    pub(super) fn try_acquire(
        lock: &'a MarkedLock,
        program: &Program,
    ) -> Result<Self, TryAcquireError> {
        match lock.mutex.try_lock(program.roster) {
            Ok(acquired) => Ok(Self::acquired(lock, program, acquired)?),
            Err(Refused::Marked) => Err(OwnerDied::of(lock).into()),
            Err(Refused::TimedOut) => Err(TryAcquireError::WouldBlock),
        }
    }

    /// Acquires the lock, marked or not, and ends the mark.
    pub(super) fn recover(lock: &'a MarkedLock, program: &Program) -> Self {
        // The mark is ours to end, whether it was there or would be set now.
        let _: Acquired = lock.mutex.recover(program.roster);
        Self::new(lock, program.roster.me())
    }

    /// Stands for one more of a lock that this process holds by a guard that was forgotten; `None` in
    /// a copy made by `fork`, which does not hold it.
    pub(super) fn of_forgotten(lock: &'a MarkedLock) -> Option<Self> {
        existing().map(|program| Self::new(lock, program.roster.me()))
    }

    /// The guard of the data that the lock protects.
    #[inline]
    pub(crate) fn over<T: ?Sized>(self, data: Exclusive<'a, T>) -> Guard<'a, T> {
        let (lock, me, _) = self.into_parts();
        Guard {
            lock,
            me,
            data,
            marker: PhantomData,
        }
    }

    fn acquired(
        lock: &'a MarkedLock,
        program: &Program,
        acquired: Acquired,
    ) -> Result<Self, OwnerDied> {
        match acquired {
            Acquired::Clean => Ok(Self::new(lock, program.roster.me())),
            Acquired::Inherited(dead) => {
                lock.mark(program.roster, dead);
                Err(OwnerDied::of(lock))
            }
        }
    }
}

impl<'a, T: ?Sized> Guard<'a, T> {
    /// The lock, which stays held, who holds it, and the data.
    #[inline]
    fn into_parts(self) -> (&'a MarkedLock, Holder, Exclusive<'a, T>) {
        let guard = ManuallyDrop::new(self);
        (guard.lock, guard.me, guard.data.again())
    }
}

impl<'a, T> Guard<'a, [T]> {
    /// The guard of the only value.
    #[inline]
    pub(crate) fn first(self) -> Guard<'a, T> {
        let (lock, me, data) = self.into_parts();
        Guard::new(lock, me).over(data.into_first())
    }
}

/// A held lock that a [`Condition`](crate::Condition) can let go while it waits: a [`Guard`], of a
/// [`Lock`](crate::Lock), a [`Value`](crate::Value) or an [`Array`](crate::Array), or an
/// [`RLockGuard`](crate::RLockGuard).
pub trait Held: sealed::Held {}

impl<T: ?Sized> Held for Guard<'_, T> {}

pub(super) mod sealed {
    use super::OwnerDied;

    pub trait Held: Sized {
        /// Runs `wait`, which calls what it is given to let the lock go, and acquires the lock again.
        fn released_while<R>(
            self,
            wait: impl FnOnce(&mut dyn FnMut()) -> R,
        ) -> Result<(Self, R), OwnerDied>;
    }
}

impl<'a, T: ?Sized> sealed::Held for Guard<'a, T> {
    fn released_while<R>(
        self,
        wait: impl FnOnce(&mut dyn FnMut()) -> R,
    ) -> Result<(Self, R), OwnerDied> {
        let (lock, me, data) = self.into_parts();
        let mut guard = Some(Guard::new(lock, me));
        let result = wait(&mut || drop(guard.take()));
        drop(guard);
        let guard = Guard::acquire_again(lock)?;
        Ok((guard.over(data), result))
    }
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

impl<T: ?Sized> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // A copy made by `fork` does not hold what the original holds.
        if is_forked() {
            return;
        }
        fault!("lock.releasing");
        if !self.lock.mutex.unlock_unwanted(self.me) {
            release_wanted(self.lock);
        }
    }
}

/// Releases a lock that somebody may be waiting for.
#[cold]
fn release_wanted(lock: &MarkedLock) {
    if let Some(program) = existing() {
        lock.mutex.unlock(program.roster);
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&&**self).finish()
    }
}
