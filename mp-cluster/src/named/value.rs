//! A value that processes on any machines change one after the other.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use mp::__private::{decode_abroad, encode_abroad};
use mp::{Error, Transfer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Address;
use super::cell::{Cell, Seen, Step, Until};
use super::cluster::Cluster;
use super::lock::{self, Held, LockState};

const KIND: &str = "value";

/// A value that processes on any machines know by its name, with its lock.
///
/// It may be of any type that can be sent, of no more bytes than the server takes in a message. What a
/// guard holds is a copy, which is stored when the guard is released, in one step with the release: so
/// nobody ever finds it half changed, and a holder whose lease was over changes nothing.
///
/// # When a process dies
///
/// The value is as it was before that process locked it. Everybody is told all the same, as by a
/// [`named::Lock`](super::Lock), until somebody calls [`recover`](Self::recover).
///
/// # Examples
///
/// ```no_run
/// use mp_cluster::named::Value;
///
/// # fn main() -> mp::Result<()> {
/// let count = Value::named("count", 0_u64)?;
/// count.update(|count| count + 1)?;
/// let mut guard = count.lock()?;
/// *guard *= 2;
/// guard.release()?; // Or an error if it was not ours to the end.
/// # Ok(())
/// # }
/// ```
pub struct Value<T> {
    cell: Cell,
    marker: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self::over(self.cell.clone())
    }
}

impl<T> Value<T> {
    fn over(cell: Cell) -> Self {
        Self {
            cell,
            marker: PhantomData,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.cell.name()
    }

    /// Has the server forget the value.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or refuses us.
    pub fn remove(self) -> Result<(), Error> {
        self.cell.cluster.run(self.cell.remove())
    }
}

impl<T: Transfer> Value<T> {
    /// The value of that name, at the server that `MP_CLUSTER` names; it is `initial` if there is
    /// none. See [`Cluster::value`] for others.
    ///
    /// # Errors
    ///
    /// As of [`Cluster::from_env`] and [`Cluster::value`].
    pub fn named(name: &str, initial: T) -> Result<Self, Error> {
        Cluster::from_env()?.value(name, initial)
    }

    pub(super) fn open(cluster: Cluster, name: &str, initial: &T) -> Result<Self, Error> {
        let cell = Cell::new(cluster, KIND, name)?;
        let data = encode_abroad(initial)?;
        let made = cell.change(Until::Now, |seen: &mut Seen<LockState>, _| {
            if seen.state.has_value {
                return Step::Leave(());
            }
            seen.state.has_value = true;
            seen.data.clone_from(&data);
            Step::Write(())
        });
        cell.cluster.run(Until::Now.bound(cell.core(), made))?;
        Ok(Self::over(cell))
    }

    /// Acquires the value's lock, waiting as long as it takes. The guard derefs to the value.
    ///
    /// # Errors
    ///
    /// As of [`Lock::acquire`](super::Lock::acquire), and if what is stored is of another type.
    pub fn lock(&self) -> Result<ValueGuard<'_, T>, Error> {
        self.acquire(Until::Forever, false)?
            .ok_or_else(lock::held_until_timeout)
    }

    /// Acquires the value's lock if nobody holds it.
    ///
    /// # Errors
    ///
    /// As of [`Lock::try_acquire`](super::Lock::try_acquire).
    pub fn try_lock(&self) -> Result<ValueGuard<'_, T>, Error> {
        self.acquire(Until::Now, false)?
            .ok_or_else(lock::would_block)
    }

    /// Acquires the value's lock, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As of [`Lock::acquire_timeout`](super::Lock::acquire_timeout).
    pub fn lock_timeout(&self, timeout: Duration) -> Result<ValueGuard<'_, T>, Error> {
        self.acquire(Until::after(timeout), false)?
            .ok_or_else(lock::held_until_timeout)
    }

    /// Acquires the value's lock whether or not a holder died, and ends the mark.
    ///
    /// # Errors
    ///
    /// As of [`Lock::recover`](super::Lock::recover).
    pub fn recover(&self) -> Result<ValueGuard<'_, T>, Error> {
        self.acquire(Until::Forever, true)?
            .ok_or_else(lock::held_until_timeout)
    }

    fn acquire(&self, until: Until, recovers: bool) -> Result<Option<ValueGuard<'_, T>>, Error> {
        let Some(held) = lock::acquire(&self.cell, until, recovers)? else {
            return Ok(None);
        };
        let value = decode_abroad(&held.data)?;
        Ok(Some(ValueGuard {
            held: Some(held),
            value,
            marker: PhantomData,
        }))
    }

    /// A copy of the value, taken while nobody holds it.
    ///
    /// # Errors
    ///
    /// As of [`lock`](Self::lock).
    pub fn get(&self) -> Result<T, Error> {
        let data = lock::with(&self.cell, |seen| Step::Leave(seen.data.clone()))?;
        Ok(decode_abroad(&data)?)
    }

    /// Replaces the value, while nobody holds it.
    ///
    /// # Errors
    ///
    /// As of [`lock`](Self::lock), and if the value cannot be encoded.
    pub fn set(&self, value: T) -> Result<(), Error> {
        let data = encode_abroad(&value)?;
        lock::with(&self.cell, |seen| {
            seen.data.clone_from(&data);
            Step::Write(())
        })
    }

    /// Replaces the value by what `change` makes of it, in one step, and returns that. `change` is
    /// called again if another process has changed the value meanwhile.
    ///
    /// # Errors
    ///
    /// As of [`set`](Self::set).
    pub fn update(&self, mut change: impl FnMut(T) -> T) -> Result<T, Error> {
        lock::with(&self.cell, |seen| {
            let changed = decode_abroad(&seen.data)
                .map_err(Error::from)
                .and_then(|value| {
                    let value = change(value);
                    Ok((encode_abroad(&value)?, value))
                });
            match changed {
                Ok((data, value)) => {
                    seen.data = data;
                    Step::Write(Ok(value))
                }
                Err(error) => Step::Leave(Err(error)),
            }
        })?
    }
}

/// A [`Value`] whose lock this process holds. Dropping it stores the value and releases the lock.
///
/// # When a process dies
///
/// See [`Value`].
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct ValueGuard<'a, T: Transfer> {
    held: Option<Held>,
    value: T,
    marker: PhantomData<&'a Value<T>>,
}

impl<T: Transfer> ValueGuard<'_, T> {
    /// As [`Guard::token`](super::Guard::token).
    pub fn token(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.token)
    }

    /// As [`Guard::is_held`](super::Guard::is_held).
    pub fn is_held(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.claim.is_held())
    }

    /// Stores the value and releases the lock, and says whether it was held to the end. Dropping the
    /// guard does the same and says nothing.
    ///
    /// # Errors
    ///
    /// If the lease was over and the lock was taken from this process, or if the value cannot be
    /// encoded: then it is as it was before. And if the server cannot be reached or refuses us.
    pub fn release(mut self) -> Result<(), Error> {
        let Some(mut held) = self.held.take() else {
            return Ok(());
        };
        held.claim.data = Some(encode_abroad(&self.value)?);
        lock::release(held)
    }
}

impl<T: Transfer> Deref for ValueGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Transfer> DerefMut for ValueGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Transfer> Drop for ValueGuard<'_, T> {
    fn drop(&mut self) {
        // A holder that panics has not finished its change.
        if let Some(held) = &mut self.held
            && !std::thread::panicking()
        {
            held.claim.data = encode_abroad(&self.value).ok();
        }
    }
}

impl<T: Transfer + fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// Shows its name.
impl<T> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Value").field(&self.cell).finish()
    }
}

impl<T> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Address::of(&self.cell).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Address::deserialize(deserializer)?.cell(KIND);
        found.map(Self::over).map_err(serde::de::Error::custom)
    }
}
