//! Bytes that cross a process boundary.
//!
//! - [`codec`]: values to bytes and back.
//! - [`writer`]: how a value becomes bytes.
//! - [`reader`]: the same format read from bytes that nobody vouches for.
//! - [`numbers`]: vectors of numbers, which are copied as memory.
//! - [`copy`]: copying long runs of bytes.
//! - [`transfer`]: handles of shared objects, and how they travel inside a value.

pub(crate) mod codec;
pub(crate) mod copy;
mod numbers;
mod reader;
pub(crate) mod transfer;
mod writer;

pub(crate) use crate::shm::buffer;
