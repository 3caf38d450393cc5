//! One plain value that processes share, with its lock.

use std::fmt;
use std::time::Duration;

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::locked::Locked;
use crate::error::Error;
use crate::life::program::is_forked;
use crate::shm::plain::Cells;
use crate::sync::{AcquireTimeoutError, Guard, OwnerDied, TryAcquireError};
use crate::wire::transfer;

/// A value in shared memory, with a lock, between any processes and threads of a program.
///
/// A clone is the same value, and so is what arrives where it was sent. The type is plain data:
/// numbers, arrays of them, and structs that derive `Pod` and `Zeroable` of the crate `bytemuck`.
/// What has pointers or padding does not compile:
///
/// ```compile_fail
/// let text = mp::Value::new(String::from("text"));
/// ```
///
/// Nor does what has no size:
///
/// ```compile_fail
/// let nothing = mp::Value::new(()).unwrap();
/// ```
///
/// # When a process dies
///
/// If it held the value's lock, everybody gets [`OwnerDied`] until somebody calls
/// [`recover`](Value::recover), as for a [`Lock`](crate::Lock). The value is then as far as it came.
///
/// # Examples
///
/// ```
/// use mp::{Process, Value};
///
/// #[mp::task]
/// fn add(sum: Value<f64>, amount: f64) -> Result<(), mp::OwnerDied> {
///     *sum.lock()? += amount;
///     Ok(())
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sum = Value::new(0.5)?;
/// let children = [1.0, 2.0].map(|amount| Process::new(add, (sum.clone(), amount)).start());
/// for child in children {
///     child?.join()??;
/// }
/// assert_eq!(sum.get()?, 3.5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Value<T> {
    inner: Locked<T>,
}

impl<T: Pod> Value<T> {
    /// Makes a value.
    ///
    /// # Errors
    ///
    /// If no shared memory is left, or the program holds its limit of 65,536 objects.
    pub fn new(value: T) -> Result<Self, Error> {
        let inner = Locked::create(1, |cells: &mut [T]| cells.fill(value))?;
        Ok(Self { inner })
    }

    /// Makes a value of zeros.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn zeroed() -> Result<Self, Error> {
        Self::new(T::zeroed())
    }

    /// Acquires the value's lock, waiting as long as it takes. The guard derefs to the value.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`] if a holder died and nobody has recovered the value since.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`.
    #[doc(alias = "get_lock")]
    #[inline]
    pub fn lock(&self) -> Result<Guard<'_, T>, OwnerDied> {
        self.inner.acquire().map(Guard::first)
    }

    /// Acquires the value's lock if nobody holds it.
    ///
    /// # Errors
    ///
    /// As for [`Lock::try_acquire`](crate::Lock::try_acquire).
    ///
    /// # Panics
    ///
    /// As [`lock`](Self::lock) does.
    pub fn try_lock(&self) -> Result<Guard<'_, T>, TryAcquireError> {
        self.inner.try_acquire().map(Guard::first)
    }

    /// Acquires the value's lock, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire_timeout`](crate::Lock::acquire_timeout).
    ///
    /// # Panics
    ///
    /// As [`lock`](Self::lock) does.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Guard<'_, T>, AcquireTimeoutError> {
        self.inner.acquire_timeout(timeout).map(Guard::first)
    }

    /// Acquires the value's lock whether or not a holder died, and ends the mark.
    ///
    /// # Panics
    ///
    /// As [`lock`](Self::lock) does.
    pub fn recover(&self) -> Guard<'_, T> {
        Guard::first(self.inner.recover())
    }

    /// A copy of the value, taken under its lock.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock).
    pub fn get(&self) -> Result<T, OwnerDied> {
        self.lock().map(|value| *value)
    }

    /// Replaces the value, under its lock.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock).
    pub fn set(&self, value: T) -> Result<(), OwnerDied> {
        *self.lock()? = value;
        Ok(())
    }
}

/// Shows the value unless its lock is held, and then by whom.
impl<T: Pod + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_forked() {
            return self.fmt_locked(f);
        }
        match self.try_lock() {
            // A copy, so that the lock is not held while the value's own code runs.
            Ok(guard) => {
                let value = *guard;
                drop(guard);
                f.debug_tuple("Value").field(&value).finish()
            }
            Err(_) => self.fmt_locked(f),
        }
    }
}

impl<T> Value<T> {
    /// Where the value is.
    #[inline]
    pub(super) fn cells(&self) -> Cells<T> {
        self.inner.cells()
    }

    fn fmt_locked(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lock = self.inner.lock();
        f.debug_struct("Value").field("lock", lock).finish()
    }
}

impl<T> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize(self.inner.handle(), serializer)
    }
}

impl<'de, T> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let handle = transfer::deserialize(deserializer)?;
        let inner = Locked::open(handle).map_err(serde::de::Error::custom)?;
        Ok(Self { inner })
    }
}
