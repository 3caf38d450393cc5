//! What changes in each turn of a loop, in registers.

use std::ops::{Deref, DerefMut};

/// A copy of a value that is worked on in its stead, and put back when this is dropped, also by a
/// panic. As long as no reference to it gets out of a loop, the compiler keeps it in registers; of the
/// value itself, to which others may come, it would store every change.
#[derive(Debug)]
pub(crate) struct Carried<'a, T: Copy> {
    value: T,
    home: &'a mut T,
}

impl<'a, T: Copy> Carried<'a, T> {
    #[inline(always)]
    pub(crate) fn new(home: &'a mut T) -> Self {
        Self { value: *home, home }
    }
}

impl<T: Copy> Deref for Carried<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Copy> DerefMut for Carried<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Copy> Drop for Carried<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.home = self.value;
    }
}
