//! Memory that several processes see at different addresses. The protocol is in `shm/README.md`.
//!
//! - [`safe`]: what may live there.
//! - [`region`]: a mapping and its life; typed places in it.
//! - [`redo`]: a change of several words that a successor can finish.
//! - [`arena`]: blocks out of a region, owned by a process or an object.
//! - [`copy`]: copying long runs of bytes.
//! - [`buffer`]: a message while it is built.
//! - [`plain`]: plain values in a row.
//! - [`segment`]: a queue's memory: put, take.
//! - [`table`]: shared objects, who holds them, and messages that carry handles to them.
//! - [`text`]: a short text.

pub(crate) mod arena;
pub(crate) mod buffer;
pub(crate) mod copy;
pub(crate) mod plain;
pub(crate) mod redo;
pub(crate) mod region;
pub(crate) mod safe;
pub(crate) mod segment;
pub(crate) mod table;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod text;

pub(crate) use self::arena::{Arena, BlockId, OutOfMemory, Owner, UNIT};
pub(crate) use self::region::{MOST, Region};
pub(crate) use self::safe::{ShmSafe, shared};
pub(crate) use self::table::{Kind, ObjectId, Table};
pub(crate) use self::text::Text;
