//! Waiting for a change that others make under a lock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::OwnerDied;
use super::guard::Held;
use super::object::{Object, State};
use super::raw::RawCondvar;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::shm::Kind;

/// Lets those who hold a lock wait for a change that others make under it.
///
/// A clone is the same condition, and so is what arrives where a condition was sent: as an argument
/// or result of a task, as an item of a queue, or inside either. It waits with whatever is
/// [`Held`]: a guard of a [`Lock`](crate::Lock), a [`Value`](crate::Value), an
/// [`Array`](crate::Array) or an [`RLock`](crate::RLock); those who wait for the same change use the
/// same lock. An `RLock` is let go altogether, however often the thread has acquired it, and held
/// as often again after the wait.
///
/// A notification made under the lock is never missed by one who waits already, and one that finds
/// nobody waiting is gone: none is left over for those who come later, nor from one whose time was
/// over. Waiting may end for no reason, so look whether the change is there, or use
/// [`wait_while`](Self::wait_while).
///
/// # When a process dies
///
/// If it has a handle of the condition, everybody who waits is woken, to look again: it may have been
/// about to notify, or have taken a notification along. If it held the lock, they get
/// [`OwnerDied`].
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn announce(lock: mp::Lock, ready: mp::Event, changed: mp::Condition) -> mp::Result<()> {
///     let _guard = lock.acquire()?;
///     ready.set();
///     changed.notify_all();
///     Ok(())
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (lock, ready, changed) = (mp::Lock::new()?, mp::Event::new()?, mp::Condition::new()?);
/// let guard = lock.acquire()?;
/// let arguments = (lock.clone(), ready.clone(), changed.clone());
/// let child = mp::Process::new(announce, arguments).start()?;
/// let guard = changed.wait_while(guard, |_| !ready.is_set())?;
/// assert!(ready.is_set());
/// # drop(guard);
/// child.join()??;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Condition(Object<RawCondvar>);

impl State for RawCondvar {
    const KIND: Kind = Kind::Condition;
}

impl Condition {
    /// Makes a condition that nobody waits for.
    ///
    /// # Errors
    ///
    /// If the program's shared memory cannot be made, or holds its limit of 65,536 objects.
    pub fn new() -> Result<Self, Error> {
        Object::create().map(Self)
    }

    /// Lets the lock go, waits for a notification, and acquires the lock again.
    ///
    /// It may return for no reason.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`] if a holder of the lock died and nobody has recovered it since. The lock is not
    /// held then.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`, as all methods do.
    pub fn wait<G: Held>(&self, guard: G) -> Result<G, OwnerDied> {
        self.wait_until(guard, Deadline::NEVER)
            .map(|(guard, _)| guard)
    }

    /// Waits as [`wait`](Self::wait) does, at most `timeout`, which the monotonic clock measures; with
    /// the guard comes whether there was a notification.
    ///
    /// It returns with the lock held: so long as somebody else holds it, it waits on.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout<G: Held>(
        &self,
        guard: G,
        timeout: Duration,
    ) -> Result<(G, bool), OwnerDied> {
        self.wait_until(guard, Deadline::after(timeout))
    }

    /// Waits until `condition`, which is asked with the lock held, is no longer true.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    #[doc(alias = "wait_for")]
    pub fn wait_while<G: Held>(
        &self,
        mut guard: G,
        mut condition: impl FnMut(&mut G) -> bool,
    ) -> Result<G, OwnerDied> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// Waits as [`wait_while`](Self::wait_while) does, at most `timeout`; with the guard comes whether
    /// the condition ended in that time.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout_while<G: Held>(
        &self,
        mut guard: G,
        timeout: Duration,
        mut condition: impl FnMut(&mut G) -> bool,
    ) -> Result<(G, bool), OwnerDied> {
        let deadline = Deadline::after(timeout);
        while condition(&mut guard) {
            if deadline.has_passed() {
                return Ok((guard, false));
            }
            (guard, _) = self.wait_until(guard, deadline)?;
        }
        Ok((guard, true))
    }

    /// Wakes one of those who wait, if there is one. Call it with the lock held.
    pub fn notify_one(&self) {
        self.notify(1);
    }

    /// Wakes at most `count` of those who wait. Call it with the lock held.
    pub fn notify(&self, count: u32) {
        self.0.state().notify(self.0.roster(), count);
    }

    /// Wakes all who wait. Call it with the lock held.
    pub fn notify_all(&self) {
        self.notify(u32::MAX);
    }

    fn wait_until<G: Held>(&self, guard: G, deadline: Deadline) -> Result<(G, bool), OwnerDied> {
        let condvar = self.0.state();
        guard.released_while(|release| condvar.wait(self.0.roster(), release, deadline))
    }
}

/// Shows that it is one; who waits is not on record.
impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").finish_non_exhaustive()
    }
}
