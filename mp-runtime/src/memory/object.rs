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
        _pad: [AtomicU64; 3],
        inline: [AtomicU64; INLINE / 8],
    }
}

// The table knows that the lock comes first.
const _: () = assert!(std::mem::offset_of!(State, lock) == 0);
const _: () = assert!(std::mem::offset_of!(State, inline) % 64 == 0);

/// Tells a type from any other of the program, as far as 64 bits can; never zero.
fn tag<T>() -> u64 {
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
    let handle = Handle::create(kind)?;
    let state: &State = handle.state(kind).ok_or_else(transfer::gone)?;
    let bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_large)?;
    if bytes > INLINE {
        let arena = &program()?.arena;
        let block = arena
            .allocate(bytes, Owner::Object(handle.id()))
            .map_err(|_| too_large())?;
        fault!("memory.allocated");
        state.block.store(block.id().bits(), Ordering::Relaxed);
    }
    state.len.store(len as u64, Ordering::Relaxed);
    let cells = cells(state)?;
    fill(cells)?;
    fault!("memory.filled");
    // Release: pairs with the Acquire in `open`.
    state.tag.store(tag::<T>(), Ordering::Release);
    Ok((handle, cells))
}

/// The values of an object that a handle names.
pub(super) fn open<T>(handle: &Handle, kind: Kind) -> Result<Cells<T>, Error> {
    let state: &State = handle.state(kind).ok_or_else(transfer::gone)?;
    // Acquire: pairs with the Release in `create`; the values are there.
    if state.tag.load(Ordering::Acquire) != tag::<T>() {
        return Err(Error::new(
            ErrorKind::NotDecoded,
            format!(
                "the shared memory holds something else than {}",
                type_name::<T>()
            ),
        ));
    }
    cells(state)
}

/// The lock of such an object, for who makes a [`Lock`](crate::Lock) of it.
pub(super) fn lock_of(handle: &Handle) -> Result<&'static MarkedLock, Error> {
    let state: &State = handle.state(Kind::Cells).ok_or_else(transfer::gone)?;
    Ok(&state.lock)
}

fn cells<T>(state: &'static State) -> Result<Cells<T>, Error> {
    let program = program()?;
    let region = program.region();
    let at = match BlockId::from_bits(state.block.load(Ordering::Relaxed)) {
        Some(block) => program.arena.find(block).map(|block| block.offset()),
        None => region.offset_of(&state.inline),
    };
    let len = state.len.load(Ordering::Relaxed) as usize;
    at.and_then(|at| Cells::new(region, at, len))
        .ok_or_else(transfer::gone)
}

fn too_large() -> Error {
    Error::out_of_memory("no shared memory is left for the values")
}
