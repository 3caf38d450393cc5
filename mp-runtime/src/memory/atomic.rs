//! Integers in shared memory that change without a lock.
//!
//! # Safety
//!
//! An atomic of std has the layout of its integer, and shared memory is mapped as long as the
//! process lives.

#![expect(
    unsafe_code,
    reason = "an integer in shared memory is seen as an atomic"
)]

use std::sync::atomic::{self, Ordering::SeqCst};

use bytemuck::Pod;

use self::sealed::Atomic as _;
use super::Value;
use crate::life::program::assert_not_forked;

/// An integer of up to 64 bits, by which a [`Value`] can change without its lock. No other type can be.
pub trait Integer: Pod + sealed::Sealed {
    /// The atomic of std with the layout of the integer.
    #[doc(hidden)]
    type Atomic: sealed::Atomic<Self>;
}

macro_rules! operations {
    ($($(#[$doc:meta])* $operation:ident;)*) => {
        mod sealed {
            pub trait Sealed {}

            /// The operations of std's atomics.
            pub trait Atomic<T> {
                fn load(&self) -> T;
                fn store(&self, value: T);
                fn compare_exchange(&self, current: T, new: T) -> Result<T, T>;
                $(fn $operation(&self, value: T) -> T;)*
            }
        }

        /// Atomic operations on integers, which neither take the lock nor heed it: for one value, use
        /// them or the lock at a time, or additions are lost. Each is sequentially consistent. If a
        /// process dies in one, it has happened or it has not. Each panics in a copy of the process that
        /// the program made by its own `fork`.
        ///
        /// ```
        /// let count = mp::Value::new(5)?;
        /// assert_eq!(count.fetch_add(2), 5);
        /// assert_eq!(count.load(), 7);
        /// assert_eq!(count.compare_exchange(7, 1), Ok(7));
        /// assert_eq!(count.compare_exchange(7, 2), Err(1));
        /// # Ok::<_, mp::Error>(())
        /// ```
        impl<T: Integer> Value<T> {
            #[inline]
            #[track_caller]
            fn atomic(&self) -> &T::Atomic {
                assert_not_forked();
                let place = self.cells().start().cast::<T::Atomic>();
                // SAFETY: the place is valid and aligned for the integer, of which it holds one, and
                // so for the atomic, whose layout is the integer's; it stays as long as the value's
                // handle.
                unsafe { place.as_ref() }
            }

            /// The value now.
            #[inline]
            pub fn load(&self) -> T {
                self.atomic().load()
            }

            /// Replaces the value.
            #[inline]
            pub fn store(&self, value: T) {
                self.atomic().store(value);
            }

            /// Replaces the value if it is `current`, and returns what it was.
            ///
            /// # Errors
            ///
            /// What it was, if that was another.
            #[inline]
            pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
                self.atomic().compare_exchange(current, new)
            }

            $(
                $(#[$doc])*
                #[inline]
                pub fn $operation(&self, value: T) -> T {
                    self.atomic().$operation(value)
                }
            )*
        }

        integers! {
            [$($operation)*]
            u8 AtomicU8, u16 AtomicU16, u32 AtomicU32, u64 AtomicU64, usize AtomicUsize,
            i8 AtomicI8, i16 AtomicI16, i32 AtomicI32, i64 AtomicI64, isize AtomicIsize,
        }
    };
}

macro_rules! integers {
    ($operations:tt $($integer:ident $atomic:ident,)*) => {$(
        impl sealed::Sealed for $integer {}

        impl Integer for $integer {
            type Atomic = atomic::$atomic;
        }

        impl sealed::Atomic<$integer> for atomic::$atomic {
            #[inline]
            fn load(&self) -> $integer {
                self.load(SeqCst)
            }

            #[inline]
            fn store(&self, value: $integer) {
                self.store(value, SeqCst);
            }

            #[inline]
            fn compare_exchange(
                &self,
                current: $integer,
                new: $integer,
            ) -> Result<$integer, $integer> {
                self.compare_exchange(current, new, SeqCst, SeqCst)
            }

            integers! { @ $integer $operations }
        }
    )*};
    (@ $integer:ident [$($operation:ident)*]) => {$(
        #[inline]
        fn $operation(&self, value: $integer) -> $integer {
            self.$operation(value, SeqCst)
        }
    )*};
}

operations! {
    /// Replaces the value and returns what it was.
    swap;
    /// Adds, wrapping around, and returns what it was.
    fetch_add;
    /// Subtracts, wrapping around, and returns what it was.
    fetch_sub;
    /// Keeps the bits that both have, and returns what it was.
    fetch_and;
    /// Adds the bits that `value` has, and returns what it was.
    fetch_or;
    /// Flips the bits that `value` has, and returns what it was.
    fetch_xor;
    /// Keeps the larger of both, and returns what it was.
    fetch_max;
    /// Keeps the smaller of both, and returns what it was.
    fetch_min;
}
