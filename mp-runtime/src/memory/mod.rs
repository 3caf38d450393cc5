//! Memory that processes share by name of a handle, not by copying what is in it.
//!
//! - [`value`]: one plain value, with a lock.
//! - [`mod@array`]: many of them.
//! - [`atomic`]: integer values without the lock.
//! - [`shared`]: written once, then read by everybody where it lies.
//! - [`locked`]: plain values and the lock that protects them.
//! - [`object`]: what all of them are in the object table.

mod array;
mod atomic;
mod locked;
mod object;
mod shared;
mod value;

pub use self::array::{Array, LengthMismatch};
pub use self::atomic::Integer;
pub use self::shared::{Bytes, Shared};
pub use self::value::Value;
