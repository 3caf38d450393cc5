//! Bytes that cross a process boundary.
//!
//! - [`codec`]: values to bytes and back.
//! - [`reader`]: the same format read from bytes that nobody vouches for.
//! - [`copy`]: copying long runs of bytes.
//! - [`transfer`]: handles of shared objects, and how they travel inside a value.

pub(crate) mod codec;
mod copy;
mod reader;
pub(crate) mod transfer;

pub(crate) use crate::shm::buffer;
