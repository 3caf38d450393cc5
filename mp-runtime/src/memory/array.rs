//! Plain values in a row that processes share, with one lock.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::locked::Locked;
use crate::error::{Error, ErrorKind};
use crate::sync::{AcquireTimeoutError, Guard, OwnerDied, TryAcquireError};
use crate::wire::transfer;

/// Values in shared memory with one lock, between any processes and threads of a program.
///
/// Its length is fixed when it is made. What a [`Value`](crate::Value) says of types and clones
/// holds here too. Up to 192 bytes take no memory of their own; beyond that an array takes a
/// multiple of 64 KiB.
///
/// # When a process dies
///
/// If it held the array's lock, everybody gets [`OwnerDied`] until somebody calls
/// [`recover`](Array::recover). The values are then as far as it came.
///
/// # Examples
///
/// ```
/// use mp::{Array, Process};
///
/// #[mp::task]
/// fn square(numbers: Array<u64>) -> Result<(), mp::OwnerDied> {
///     for number in numbers.lock()?.iter_mut() {
///         *number *= *number;
///     }
///     Ok(())
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let numbers = Array::from_slice(&[1, 2, 3])?;
/// Process::new(square, (numbers.clone(),)).start()?.join()??;
/// assert_eq!(numbers.read(..)?, [1, 4, 9]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Array<T> {
    inner: Locked<T>,
}

/// What was to be written does not lie within the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LengthMismatch {
    start: usize,
    end: usize,
    len: usize,
}

impl fmt::Display for LengthMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the values {} to {} do not lie within the {} of the array",
            self.start, self.end, self.len
        )
    }
}

impl std::error::Error for LengthMismatch {}

impl From<LengthMismatch> for Error {
    fn from(error: LengthMismatch) -> Self {
        Self::new(ErrorKind::Limit, error.to_string())
    }
}

impl<T: Pod> Array<T> {
    /// Makes an array of `len` values of zeros.
    ///
    /// # Errors
    ///
    /// If no shared memory is left, or the program holds its limit of 65,536 objects.
    pub fn zeroed(len: usize) -> Result<Self, Error> {
        let inner = Locked::create(len, |cells: &mut [T]| cells.fill(T::zeroed()))?;
        Ok(Self { inner })
    }

    /// Makes an array with these values.
    ///
    /// # Errors
    ///
    /// As for [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> Result<Self, Error> {
        let inner = Locked::create(values.len(), |cells: &mut [T]| {
            cells.copy_from_slice(values)
        })?;
        Ok(Self { inner })
    }

    /// Acquires the array's lock, waiting as long as it takes. The guard derefs to the values.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`] if a holder died and nobody has recovered the array since.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`.
    #[doc(alias = "get_lock")]
    pub fn lock(&self) -> Result<Guard<'_, [T]>, OwnerDied> {
        self.inner.acquire()
    }

    /// Acquires the array's lock if nobody holds it.
    ///
    /// # Errors
    ///
    /// As for [`Lock::try_acquire`](crate::Lock::try_acquire).
    ///
    /// # Panics
    ///
    /// As [`lock`](Self::lock) does.
    pub fn try_lock(&self) -> Result<Guard<'_, [T]>, TryAcquireError> {
        self.inner.try_acquire()
    }

    /// Acquires the array's lock, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire_timeout`](crate::Lock::acquire_timeout).
    ///
    /// # Panics
    ///
    /// As [`lock`](Self::lock) does.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Guard<'_, [T]>, AcquireTimeoutError> {
        self.inner.acquire_timeout(timeout)
    }

    /// Acquires the array's lock whether or not a holder died, and ends the mark.
    ///
    /// # Panics
    ///
    /// As [`lock`](Self::lock) does.
    pub fn recover(&self) -> Guard<'_, [T]> {
        self.inner.recover()
    }

    /// Copies of the values in `range`, taken under the lock.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock).
    ///
    /// # Panics
    ///
    /// If the range does not lie within the array, as for a slice.
    pub fn read(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>, OwnerDied> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        Ok(self.lock()?[range].to_vec())
    }

    /// Copies `values` to the places from `start` on, under the lock.
    ///
    /// # Errors
    ///
    /// If they do not lie within the array, of which nothing is changed then; and as for
    /// [`lock`](Self::lock).
    pub fn write(&self, start: usize, values: &[T]) -> Result<(), Error> {
        let end = start.saturating_add(values.len());
        let mut cells = self.lock()?;
        let len = cells.len();
        let place = cells
            .get_mut(start..end)
            .ok_or(LengthMismatch { start, end, len })?;
        place.copy_from_slice(values);
        Ok(())
    }

    /// The value at `index`, or none beyond the end, taken under the lock.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock).
    pub fn get(&self, index: usize) -> Result<Option<T>, OwnerDied> {
        Ok(self.lock()?.get(index).copied())
    }

    /// Where the values lie in this process, for those who do without the lock.
    ///
    /// The pointer is valid for [`len`](Self::len) values as long as this process holds the array.
    /// To read or write through it is the caller's `unsafe`: no other thread or process may write to
    /// what is read, or access what is written, at that time. To divide an array among processes by
    /// ranges is such an agreement. In a copy of the process made by `fork` nothing is there.
    ///
    /// ```
    /// let array = mp::Array::from_slice(&[1, 2, 3])?;
    /// // SAFETY: nobody else has the array.
    /// unsafe { *array.as_mut_ptr().add(1) = 20 };
    /// assert_eq!(array.read(..)?, [1, 20, 3]);
    /// # Ok::<_, mp::Error>(())
    /// ```
    pub fn as_mut_ptr(&self) -> *mut T {
        self.inner.cells().start().as_ptr()
    }
}

super::from_values!(Array<T>);

impl<T> Array<T> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.inner.cells().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Shows the length and the lock.
impl<T> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array")
            .field("len", &self.len())
            .field("lock", self.inner.lock())
            .finish()
    }
}

impl<T> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize(self.inner.handle(), serializer)
    }
}

impl<'de, T> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let handle = transfer::deserialize(deserializer)?;
        let inner = Locked::open(handle).map_err(serde::de::Error::custom)?;
        Ok(Self { inner })
    }
}

/// The first and the last but one of a range, within `len`.
pub(super) fn within(range: impl RangeBounds<usize>, len: usize) -> Option<(usize, usize)> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.checked_add(1)?,
        Bound::Excluded(&end) => end,
        Bound::Unbounded => len,
    };
    (start <= end && end <= len).then_some((start, end))
}
