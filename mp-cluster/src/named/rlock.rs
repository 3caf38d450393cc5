//! A lock between machines that the thread which holds it may acquire again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use mp::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Address;
use super::cell::{Cell, Until};
use super::cluster::Cluster;
use super::lock::{self, Held, held_until_timeout, would_block};

const KIND: &str = "rlock";

thread_local! {
    /// What this thread holds, or has held, by where it is.
    static HELD: RefCell<HashMap<Place, Weak<Held>>> = RefCell::default();
}

/// The server, the namespace, and the name.
type Place = (String, String, String);

/// A [`Lock`](super::Lock) that the thread which holds it may acquire again: it is released when as
/// many guards are gone as were given.
///
/// Its owner is one *thread* of one process, whatever handle and whatever connection it uses. It is no
/// [`Lock`](super::Lock) of the same name.
///
/// # When a process dies
///
/// As for [`Lock`](super::Lock).
///
/// # Examples
///
/// ```no_run
/// use mp_cluster::named::RLock;
///
/// # fn main() -> mp::Result<()> {
/// let ledger = RLock::named("ledger")?;
/// let outer = ledger.acquire()?;
/// let inner = ledger.acquire()?; // A `Lock` would wait here for ever.
/// outer.release()?;
/// assert!(ledger.is_locked()?);
/// inner.release()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RLock(Cell);

impl RLock {
    /// The lock of that name, at the server that `MP_CLUSTER` names. See
    /// [`Cluster::rlock`] for others.
    ///
    /// # Errors
    ///
    /// As of [`Cluster::from_env`] and [`Cluster::rlock`].
    pub fn named(name: &str) -> Result<Self, Error> {
        Cluster::from_env()?.rlock(name)
    }

    pub(super) fn over(cluster: Cluster, name: &str) -> Result<Self, Error> {
        Cell::new(cluster, KIND, name).map(Self)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Acquires the lock, waiting as long as it takes; at once if this thread holds it, also if its
    /// lease is over, which [`RLockGuard::is_held`] tells.
    ///
    /// # Errors
    ///
    /// As of [`Lock::acquire`](super::Lock::acquire).
    pub fn acquire(&self) -> Result<RLockGuard, Error> {
        self.lock(Until::Forever, false)?
            .ok_or_else(held_until_timeout)
    }

    /// Acquires the lock if no other thread holds it.
    ///
    /// # Errors
    ///
    /// As of [`Lock::try_acquire`](super::Lock::try_acquire).
    #[doc(alias = "acquire(block=False)")]
    pub fn try_acquire(&self) -> Result<RLockGuard, Error> {
        self.lock(Until::Now, false)?.ok_or_else(would_block)
    }

    /// Acquires the lock, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As of [`Lock::acquire_timeout`](super::Lock::acquire_timeout).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<RLockGuard, Error> {
        self.lock(Until::after(timeout), false)?
            .ok_or_else(held_until_timeout)
    }

    /// Acquires the lock whether or not a holder died, waiting as long as it takes, and ends the mark.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or refuses us.
    pub fn recover(&self) -> Result<RLockGuard, Error> {
        self.lock(Until::Forever, true)?
            .ok_or_else(held_until_timeout)
    }

    /// Whether somebody holds the lock at this moment, or has held it less than a lease ago and died.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or refuses us.
    pub fn is_locked(&self) -> Result<bool, Error> {
        lock::is_locked(&self.0)
    }

    /// Has the server forget the lock, its mark and whoever holds it.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or refuses us.
    pub fn remove(self) -> Result<(), Error> {
        self.0.cluster.run(self.0.remove())
    }

    fn place(&self) -> Place {
        let core = self.0.core();
        let name = self.name().to_owned();
        (core.place.clone(), core.namespace.clone(), name)
    }

    fn lock(&self, until: Until, recovers: bool) -> Result<Option<RLockGuard>, Error> {
        let place = self.place();
        let again = HELD.with_borrow(|held| held.get(&place).and_then(Weak::upgrade));
        if let Some(held) = again {
            return Ok(Some(RLockGuard(held)));
        }
        let Some(held) = lock::acquire(&self.0, until, recovers)? else {
            return Ok(None);
        };
        let held = Rc::new(held);
        HELD.with_borrow_mut(|all| {
            all.retain(|_, held| held.strong_count() > 0);
            all.insert(place, Rc::downgrade(&held));
        });
        Ok(Some(RLockGuard(held)))
    }
}

/// One acquisition of an [`RLock`] by this thread. Dropping it takes it back.
///
/// It stays on the thread that acquired it: sending it elsewhere does not compile.
///
/// ```compile_fail
/// # let lock: mp_cluster::named::RLock = todo!();
/// let guard = lock.acquire().unwrap();
/// std::thread::scope(|s| { s.spawn(move || drop(guard)); });
/// ```
///
/// # When a process dies
///
/// See [`Lock`](super::Lock).
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct RLockGuard(Rc<Held>);

impl RLockGuard {
    /// The fencing token, which is that of the outermost guard: see
    /// [`Guard::token`](super::Guard::token).
    pub fn token(&self) -> u64 {
        self.0.token
    }

    /// Whether it is certain at this moment that nobody else has been given the lock: see
    /// [`Guard::is_held`](super::Guard::is_held).
    pub fn is_held(&self) -> bool {
        self.0.claim.is_held()
    }

    /// Takes the acquisition back; the last one releases the lock, and says whether it was held to the
    /// end.
    ///
    /// # Errors
    ///
    /// Of the last one, as of [`Guard::release`](super::Guard::release).
    pub fn release(self) -> Result<(), Error> {
        match Rc::try_unwrap(self.0) {
            Ok(held) => lock::release(held),
            Err(_others) => Ok(()),
        }
    }
}

impl fmt::Debug for RLockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard")
            .field("lock", &self.0.claim.cell)
            .field("token", &self.token())
            .field("is_held", &self.is_held())
            .finish()
    }
}

/// Shows its name.
impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RLock").field(&self.0).finish()
    }
}

impl Serialize for RLock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Address::of(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RLock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Address::deserialize(deserializer)?.cell(KIND).map(Self);
        found.map_err(serde::de::Error::custom)
    }
}
