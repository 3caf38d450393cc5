//! Memory that processes share by name of a handle, not by copying what is in it.
//!
//! - [`value`]: one plain value, with a lock.
//! - [`mod@array`]: many of them.
//! - [`atomic`]: integer values without the lock.
//! - [`shared`]: written once, then read by everybody where it lies.
//! - [`locked`]: plain values and the lock that protects them.
//! - [`content`]: such data on its way to another machine.
//! - [`object`]: what all of them are in the object table.

/// Values turn into shared ones, which takes shared memory and so may fail.
macro_rules! from_values {
    ($Shared:ty) => {
        impl<T: Pod> TryFrom<&[T]> for $Shared {
            type Error = Error;

            /// As [`from_slice`](Self::from_slice).
            fn try_from(values: &[T]) -> Result<Self, Error> {
                Self::from_slice(values)
            }
        }

        impl<T: Pod> TryFrom<Vec<T>> for $Shared {
            type Error = Error;

            /// As [`from_slice`](Self::from_slice).
            fn try_from(values: Vec<T>) -> Result<Self, Error> {
                Self::from_slice(&values)
            }
        }

        impl<T: Pod, const N: usize> TryFrom<[T; N]> for $Shared {
            type Error = Error;

            /// As [`from_slice`](Self::from_slice).
            fn try_from(values: [T; N]) -> Result<Self, Error> {
                Self::from_slice(&values)
            }
        }
    };
}
use from_values;

mod array;
mod atomic;
mod content;
mod locked;
mod object;
mod shared;
mod value;

pub use self::array::{Array, LengthMismatch};
pub use self::atomic::Integer;
#[doc(hidden)]
pub use self::content::{Arrival, Content, Make};
pub use self::shared::{Bytes, Shared};
pub use self::value::Value;
