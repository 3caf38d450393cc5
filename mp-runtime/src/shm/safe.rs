//! What may live in shared memory.
//!
//! # Safety
//!
//! The trait is the promise on which [`super::region`] hands out references.

#![expect(unsafe_code, reason = "the promise cannot be checked by the compiler")]

use crate::loom::{AtomicU32, AtomicU64};
use crate::sync::raw::{Bell, RawBarrier, RawCondvar, RawEvent, RawMutex, RawRw, RawShares, Relay};

/// Types that several processes may see at once, each at its own address.
///
/// # Safety
///
/// - The layout is fixed (`repr(C)` or `repr(transparent)`).
/// - Every bit pattern is a value, all zeros is a sensible first one, and dropping does nothing.
/// - Whatever changes after it was published changes through atomics.
/// - No pointers and no references: offsets only.
pub(crate) unsafe trait ShmSafe: Sync + 'static {}

// SAFETY: atomics over plain integers, with the layout of the integer.
unsafe impl ShmSafe for AtomicU32 {}
// SAFETY: as above.
unsafe impl ShmSafe for AtomicU64 {}
// SAFETY: transparent over one atomic word; zero is free.
unsafe impl ShmSafe for RawMutex {}
// SAFETY: transparent over one atomic word; zero is silent.
unsafe impl ShmSafe for Bell {}
// SAFETY: transparent over one atomic word; zero is nobody.
unsafe impl ShmSafe for Relay {}
// SAFETY: transparent over a bell.
unsafe impl ShmSafe for RawCondvar {}
// SAFETY: `repr(C)` over an atomic word and a bell; zero is not set.
unsafe impl ShmSafe for RawEvent {}
// SAFETY: `repr(C)` over atomic words and a bell; zero is not opened yet.
unsafe impl ShmSafe for RawBarrier {}
// SAFETY: `repr(C)` over a lock, a bell and atomic words; zero has no shares.
unsafe impl ShmSafe for RawShares {}
// SAFETY: `repr(C)` over atomic words, a bell and shares; zero has nobody in it.
unsafe impl ShmSafe for RawRw {}
// SAFETY: an array is laid out as its elements in a row.
unsafe impl<T: ShmSafe, const N: usize> ShmSafe for [T; N] {}

/// Declares a struct that may live in shared memory: laid out by C's rules, each field
/// [`ShmSafe`].
macro_rules! shared {
    (
        $(#[$attribute:meta])*
        $access:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_access:vis $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$attribute])*
        #[repr(C)]
        #[derive(Debug)]
        $access struct $name {
            $($(#[$field_attribute])* $field_access $field: $type,)*
        }

        // SAFETY: `repr(C)`, and the bounds below hold each field to the contract.
        #[allow(unsafe_code, reason = "in some of the files that use this it is allowed already")]
        unsafe impl $crate::shm::ShmSafe for $name where $($type: $crate::shm::ShmSafe,)* {}
    };
}
pub(crate) use shared;
