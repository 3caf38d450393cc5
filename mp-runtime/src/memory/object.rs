//! An object with plain values: in its own entry of the table while they are few bytes, in a block
//! that it owns otherwise.
//!
//! The block belongs to the object from its first moment, so whoever dies while the object is made
//! leaves nothing behind: with its maker's hold the object dies, and its blocks with it.

use std::any::type_name;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::fault::fault;
use crate::life::mark::MarkedLock;
use crate::life::program;
use crate::loom::{AtomicU64, Ordering};
use crate::shm::plain::Cells;
use crate::shm::{BlockId, Kind, Owner, shared};
use crate::wire::transfer::{self, Handle};

/// Bytes that lie in the object itself.
pub(super) const INLINE: usize = 192;

shared! {
    /// Such an object's words in shared memory.
    #[repr(align(64))]
    pub(super) struct State {
        /// Protects the values of a [`Kind::Cells`].
        pub(super) lock: MarkedLock,
        /// The block with the values; zero if they are inline.
        block: AtomicU64,
        /// How many values.
        len: AtomicU64,
        /// What type they are, see [`tag`]. Stored last: the object is complete.
        tag: AtomicU64,
        /// Bytes of each.
        size: AtomicU64,
        _pad: [AtomicU64; 2],
        inline: [AtomicU64; INLINE / 8],
    }
}

// The table knows that the lock comes first.
const _: () = assert!(std::mem::offset_of!(State, lock) == 0);
const _: () = assert!(std::mem::offset_of!(State, inline) % 64 == 0);

/// Tells a type from any other of the program, as far as 64 bits can; never zero.
pub(super) fn tag<T>() -> u64 {
    let mut hasher = DefaultHasher::new();
    type_name::<T>().hash(&mut hasher);
    size_of::<T>().hash(&mut hasher);
    hasher.finish() | 1
}

/// Makes an object with room for `len` values, which hold whatever was there before. It is complete
/// once `fill` has returned without an error.
pub(super) fn create<T>(
    kind: Kind,
    len: usize,
    fill: impl FnOnce(Cells<T>) -> Result<(), Error>,
) -> Result<(Arc<Handle>, Cells<T>), Error> {
    const {
        assert!(
            size_of::<T>() > 0,
            "a type without a size has nothing to share"
        )
    };
    const {
        assert!(
            align_of::<T>() <= 64,
            "alignment beyond 64 bytes is not supported"
        )
    };
    let bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_large)?;
    let (handle, state) = allocate(kind, bytes)?;
    state.len.store(len as u64, Ordering::Relaxed);
    let cells = cells(state, len)?;
    fill(cells)?;
    fault!("memory.filled");
    complete(state, tag::<T>(), size_of::<T>());
    Ok((handle, cells))
}

/// Makes an object with room for so many bytes.
fn allocate(kind: Kind, bytes: usize) -> Result<(Arc<Handle>, &'static State), Error> {
    let handle = Handle::create(kind)?;
    let state: &State = handle.state(kind).ok_or_else(transfer::gone)?;
    if bytes > INLINE {
        let arena = &program()?.arena;
        let block = arena
            .allocate(bytes, Owner::Object(handle.id()))
            .map_err(|_| too_large())?;
        fault!("memory.allocated");
        state.block.store(block.id().bits(), Ordering::Relaxed);
    }
    Ok((handle, state))
}

fn complete(state: &State, tag: u64, size: usize) {
    state.size.store(size as u64, Ordering::Relaxed);
    // Release: pairs with the Acquire in `open`.
    state.tag.store(tag, Ordering::Release);
}

/// Makes an object with room for so many bytes, of whatever type, which hold what was there before. It
/// is not complete before [`complete_bytes`].
pub(super) fn create_bytes(kind: Kind, bytes: usize) -> Result<(Arc<Handle>, Cells<u8>), Error> {
    let (handle, state) = allocate(kind, bytes)?;
    let cells = cells(state, bytes)?;
    Ok((handle, cells))
}

/// Has an object hold values of the type that has that tag, each of `size` bytes, of which there are
/// `len`.
pub(super) fn complete_bytes(
    handle: &Handle,
    kind: Kind,
    (tag, size): (u64, usize),
    len: usize,
) -> Result<(), Error> {
    let state: &State = handle.state(kind).ok_or_else(transfer::gone)?;
    state.len.store(len as u64, Ordering::Relaxed);
    complete(state, tag, size);
    Ok(())
}

/// The values of an object as the bytes that they are, with the tag of their type and the size of each.
pub(super) fn open_bytes(handle: &Handle, kind: Kind) -> Result<(Cells<u8>, (u64, usize)), Error> {
    let state: &State = handle.state(kind).ok_or_else(transfer::gone)?;
    // Acquire: pairs with the Release in `complete`; the values are there.
    let tag = state.tag.load(Ordering::Acquire);
    let size = state.size.load(Ordering::Relaxed) as usize;
    let bytes = (state.len.load(Ordering::Relaxed) as usize).checked_mul(size);
    match bytes {
        Some(bytes) if tag != 0 => Ok((cells(state, bytes)?, (tag, size))),
        _ => Err(transfer::gone()),
    }
}

/// The values of an object that a handle names.
pub(super) fn open<T>(handle: &Handle, kind: Kind) -> Result<Cells<T>, Error> {
    let state: &State = handle.state(kind).ok_or_else(transfer::gone)?;
    // Acquire: pairs with the Release in `complete`; the values are there.
    let is_it = state.tag.load(Ordering::Acquire) == tag::<T>()
        && state.size.load(Ordering::Relaxed) == size_of::<T>() as u64;
    if !is_it {
        return Err(Error::new(
            ErrorKind::NotDecoded,
            format!(
                "the shared memory holds something else than {}",
                type_name::<T>()
            ),
        ));
    }
    cells(state, state.len.load(Ordering::Relaxed) as usize)
}

/// The lock of such an object, for who makes a [`Lock`](crate::Lock) of it.
pub(super) fn lock_of(handle: &Handle) -> Result<&'static MarkedLock, Error> {
    let state: &State = handle.state(Kind::Cells).ok_or_else(transfer::gone)?;
    Ok(&state.lock)
}

fn cells<T>(state: &'static State, len: usize) -> Result<Cells<T>, Error> {
    let program = program()?;
    let region = program.region();
    let at = match BlockId::from_bits(state.block.load(Ordering::Relaxed)) {
        Some(block) => program.arena.find(block).map(|block| block.offset()),
        None => region.offset_of(&state.inline),
    };
    at.and_then(|at| Cells::new(region, at, len))
        .ok_or_else(transfer::gone)
}

fn too_large() -> Error {
    Error::out_of_memory("no shared memory is left for the values")
}
