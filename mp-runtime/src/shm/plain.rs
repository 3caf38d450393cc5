//! Plain values in a row in shared memory.
//!
//! # Safety
//!
//! The memory of a region is always initialised and every bit pattern is a value of a plain type,
//! so that what is read is a value whoever wrote it. What is left to the users of this file is the
//! rule of references: while there is one that may write, there is no other. They answer for it by a
//! lock, or by writing before anybody else knows of the place.

#![expect(
    unsafe_code,
    reason = "shared bytes are seen as values through references"
)]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::Region;

/// A run of `len` plain values in a region.
#[derive(Debug)]
pub(crate) struct Cells<T> {
    region: &'static Region,
    /// Offset of the first.
    at: u64,
    len: usize,
    item: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Cells<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Cells<T> {}

impl<T> Cells<T> {
    /// The run of `len` values that begins at the offset `at`; `None` if it is not within the region
    /// or not aligned.
    pub(crate) fn new(region: &'static Region, at: u64, len: usize) -> Option<Self> {
        let end = len.checked_mul(size_of::<T>())?.checked_add(at as usize)?;
        let is_inside = end as u64 <= region.len() && at.is_multiple_of(align_of::<T>() as u64);
        is_inside.then_some(Self {
            region,
            at,
            len,
            item: PhantomData,
        })
    }

    /// How many values.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// Where the first is.
    #[inline]
    pub(crate) fn start(self) -> NonNull<T> {
        self.region
            .pointer(self.at, self.len * size_of::<T>())
            .cast()
    }

    /// The part from `start` on of `len` values; `None` if there is none.
    pub(crate) fn part(self, start: usize, len: usize) -> Option<Self> {
        let is_inside = start.checked_add(len)? <= self.len;
        is_inside.then_some(Self {
            at: self.at + (start * size_of::<T>()) as u64,
            len,
            ..self
        })
    }
}

impl<T: bytemuck::AnyBitPattern> Cells<T> {
    /// The values, to read.
    ///
    /// # Safety
    ///
    /// Nobody writes to them while the reference lives.
    #[inline]
    pub(crate) unsafe fn as_slice<'a>(self) -> &'a [T] {
        // SAFETY: bounds and alignment were checked, every bit pattern is a value, the mapping
        // stays as long as the process, and the caller answers for writers.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.len) }
    }

    /// The values, for the only one who uses them.
    ///
    /// # Safety
    ///
    /// Nobody else reads or writes them as long as what is returned lives.
    #[inline]
    pub(crate) unsafe fn exclusive<'a>(self) -> Exclusive<'a, [T]> {
        Exclusive {
            place: NonNull::slice_from_raw_parts(self.start(), self.len),
            marker: PhantomData,
        }
    }
}

/// Values that nobody else uses: made by [`Cells::exclusive`], whose caller sees to that.
pub(crate) struct Exclusive<'a, T: ?Sized> {
    place: NonNull<T>,
    marker: PhantomData<&'a mut T>,
}

impl Exclusive<'_, ()> {
    /// No values.
    pub(crate) const NOTHING: Self = Self {
        place: NonNull::dangling(),
        marker: PhantomData,
    };
}

impl<'a, T> Exclusive<'a, [T]> {
    /// The first value.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[inline]
    pub(crate) fn into_first(self) -> Exclusive<'a, T> {
        assert!(!self.place.is_empty(), "there is no first value");
        Exclusive {
            place: self.place.cast(),
            marker: PhantomData,
        }
    }
}

impl<'a, T: ?Sized> Exclusive<'a, T> {
    /// The same, for whoever forgets this one.
    #[inline]
    pub(crate) fn again(&self) -> Self {
        Self {
            place: self.place,
            marker: PhantomData,
        }
    }
}

impl<T: ?Sized> Deref for Exclusive<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the place is valid (`Cells::new`, or it has no size), and ours alone.
        unsafe { self.place.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for Exclusive<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the borrow is unique.
        unsafe { self.place.as_mut() }
    }
}
