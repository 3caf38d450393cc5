//! Bytes that grow in one piece: in private memory while they are few, then in a block.
//!
//! # Safety
//!
//! A block's bytes belong to its owner alone until it hands the block on, so the owner may write
//! them like any memory of its own.

#![expect(
    unsafe_code,
    reason = "bytes in shared memory are written through a pointer"
)]

use std::ptr::NonNull;
use std::sync::Arc;

use super::arena::{Arena, Block, OutOfMemory, Owner};
use super::copy;
use crate::loom::{AtomicU64, Ordering};

/// Up to so many bytes a message is built in private memory and copied into place.
pub(crate) const SMALL: usize = 8 * 1024;

/// The bytes of a message while it is built.
#[derive(Debug)]
pub(crate) struct Buffer {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
    /// The bytes while they are few.
    private: Vec<u8>,
    /// The bytes once they are many.
    block: Option<Block>,
    /// Where a block comes from and who owns it; without one all bytes are private.
    home: Option<(Arc<Arena>, Owner)>,
    /// Where in the arena's region the block's name is kept, if somewhere.
    published: Option<u64>,
    /// Whether others see the bytes where they are, so that they do not move to private memory.
    is_shared: bool,
    /// Whether the bytes stay where they are: what does not fit is refused.
    is_fixed: bool,
}

// SAFETY: `start` points into `private` or into `block`, both of which move with the buffer, or to a place
// of the region that is this buffer's.
unsafe impl Send for Buffer {}

/// The shared memory is used up.
pub(crate) use super::arena::OutOfMemory as Full;

impl Buffer {
    /// A buffer that stays in private memory.
    pub(crate) fn new() -> Self {
        Self::starting(None)
    }

    /// A buffer that moves into a block of `arena`, owned by `owner`, once it exceeds [`SMALL`].
    #[inline]
    pub(crate) fn with_home(arena: Arc<Arena>, owner: Owner) -> Self {
        Self::starting(Some((arena, owner)))
    }

    #[inline]
    fn starting(home: Option<(Arc<Arena>, Owner)>) -> Self {
        Self {
            start: NonNull::dangling(),
            len: 0,
            capacity: 0,
            private: Vec::new(),
            block: None,
            home,
            published: None,
            is_shared: false,
            is_fixed: false,
        }
    }

    /// A buffer in a block of `arena` from the first byte on, of at least `bytes`.
    pub(crate) fn in_block(arena: Arc<Arena>, owner: Owner, bytes: usize) -> Result<Self, Full> {
        let block = arena.allocate(bytes, owner)?;
        Ok(Self::over_block(arena, owner, block))
    }

    /// A buffer in a block of `arena` that is there already, and which nobody else uses. What it is
    /// moved into when it grows is `owner`'s.
    pub(crate) fn over_block(arena: Arc<Arena>, owner: Owner, block: Block) -> Self {
        let mut buffer = Self::with_home(arena.clone(), owner);
        buffer.move_into(&arena, block);
        buffer
    }

    /// A buffer over `len` bytes at a place of the region outside of all blocks, which nobody else uses.
    /// What does not fit there moves into a block, which is `owner`'s.
    #[inline]
    pub(crate) fn over_place(arena: Arc<Arena>, owner: Owner, offset: u64, len: usize) -> Self {
        let start = arena.region().pointer(offset, len);
        let mut buffer = Self::with_home(arena, owner);
        (buffer.start, buffer.capacity, buffer.is_shared) = (start, len, true);
        buffer
    }

    /// The end of the bytes, to append to.
    #[inline]
    pub(crate) fn tail(&mut self) -> Tail<'_> {
        Tail {
            start: self.start,
            len: self.len,
            capacity: self.capacity,
            buffer: self,
        }
    }

    /// Appends bytes.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.tail().write(bytes)
    }

    /// Makes room for `more` bytes.
    #[inline]
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), Full> {
        self.tail().reserve(more)
    }

    /// How many bytes there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Drops the bytes from `len` on.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The bytes.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the first `len` bytes were written and belong to this buffer.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to change in place.
    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Forgets the bytes and gives a block back; private memory is kept for the next message.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        if let Some(block) = self.block.take() {
            if let Some((arena, _)) = &self.home {
                arena.free(block.id());
            }
            self.use_private();
        }
    }

    /// The block that the bytes are in, if they are in one.
    pub(crate) fn block(&self) -> Option<Block> {
        self.block
    }

    /// Gives up the block that the bytes are in, if they are in one: it is the owner's to free.
    #[inline]
    pub(crate) fn give_up_block(&mut self) -> Option<Block> {
        let block = self.block.take()?;
        self.len = 0;
        self.use_private();
        Some(block)
    }

    /// Moves the bytes into a block, if they are not in one, and gives it up: it is the owner's.
    pub(crate) fn into_block(mut self) -> Result<Block, Full> {
        let block = match self.block {
            Some(block) => block,
            None => {
                let (arena, owner) = self.home.clone().ok_or(OutOfMemory)?;
                let block = arena.allocate(self.len, owner)?;
                self.move_into(&arena, block);
                block
            }
        };
        self.block = None;
        Ok(block)
    }

    /// Names the block that the bytes are in by `word`, which lies in the same region. When they
    /// outgrow it, the word changes before the old block goes: who reads it finds all bytes there
    /// were.
    #[inline]
    pub(crate) fn publish_in(&mut self, word: &AtomicU64) {
        let id = self.block.map_or(0, |block| block.id().bits());
        word.store(id, Ordering::Release);
        self.published = self
            .home
            .as_ref()
            .and_then(|(arena, _)| arena.region().offset_of(word));
    }

    /// Has the bytes stay where they are, since others read the first of them: what does not fit is
    /// refused.
    pub(crate) fn fix(&mut self) {
        self.is_fixed = true;
    }

    #[cold]
    fn grow(&mut self, more: usize) -> Result<(), Full> {
        if self.is_fixed {
            return Err(OutOfMemory);
        }
        let needed = self.len.checked_add(more).ok_or(OutOfMemory)?;
        // By four: a block is taken from memory that is sparse, and each move copies.
        let wish = needed.max(self.capacity.saturating_mul(4));
        match &self.home {
            Some((arena, owner)) if needed > SMALL || self.is_shared => {
                let block = arena
                    .allocate(wish, *owner)
                    .or_else(|_| arena.allocate(needed, *owner))?;
                let arena = arena.clone();
                let old = self.move_into(&arena, block);
                if let Some(word) = self.published {
                    let word: &AtomicU64 = arena.region().at(word);
                    // Release: the bytes were copied before.
                    word.store(block.id().bits(), Ordering::Release);
                }
                if let Some(old) = old {
                    arena.free(old.id());
                }
            }
            _ => {
                // SAFETY: without a block the first `len` bytes of the vector were written.
                unsafe { self.private.set_len(self.len) };
                self.private.reserve(wish.max(64) - self.len);
                self.use_private();
            }
        }
        Ok(())
    }

    /// Copies the bytes into `block` and returns the block they were in.
    fn move_into(&mut self, arena: &Arena, block: Block) -> Option<Block> {
        let place = arena.pointer(&block);
        // SAFETY: the block is ours and larger than the bytes; it is not where they were.
        unsafe { copy::copy(self.start.as_ptr(), place.as_ptr(), self.len) };
        self.start = place;
        self.capacity = block.capacity();
        self.is_shared = true;
        self.block.replace(block)
    }

    #[inline]
    fn use_private(&mut self) {
        self.is_shared = false;
        self.start = NonNull::new(self.private.as_mut_ptr()).unwrap_or(NonNull::dangling());
        self.capacity = self.private.capacity();
    }
}

/// The end of a [`Buffer`]. Where many small values are appended one behind the other, what changes with
/// each is in registers: it is told to the buffer, which others see, when this is dropped.
#[derive(Debug)]
pub(crate) struct Tail<'a> {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
    buffer: &'a mut Buffer,
}

impl Tail<'_> {
    /// Appends bytes.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.reserve(bytes.len())?;
        // SAFETY: the offset is within the capacity.
        let end = unsafe { self.start.add(self.len) };
        // SAFETY: there is room for the bytes behind `len`, and nobody else refers to it.
        unsafe { copy::copy(bytes.as_ptr(), end.as_ptr(), bytes.len()) };
        self.len += bytes.len();
        Ok(())
    }

    /// Makes room for `more` bytes.
    #[inline]
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), Full> {
        if self.capacity - self.len < more {
            self.aside(|buffer| buffer.grow(more))?;
        }
        Ok(())
    }

    /// Has the buffer itself do what is rare: to hand out a reference to this would keep it in memory.
    #[inline]
    pub(crate) fn aside<R>(&mut self, rare: impl FnOnce(&mut Buffer) -> R) -> R {
        self.buffer.len = self.len;
        let done = rare(self.buffer);
        let Buffer {
            start,
            len,
            capacity,
            ..
        } = *self.buffer;
        (self.start, self.len, self.capacity) = (start, len, capacity);
        done
    }

    /// How many bytes there are, with those before the tail.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Drops the bytes from `len` on.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The bytes, to change in place.
    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the first `len` bytes were written and belong to the buffer, which is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Tail<'_> {
    #[inline]
    fn drop(&mut self) {
        self.buffer.len = self.len;
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        if let (Some(block), Some((arena, _))) = (self.block, &self.home) {
            free(arena, block);
        }
    }
}

#[inline(never)]
fn free(arena: &Arena, block: Block) {
    // A copy made by `fork` has neither the memory nor the block.
    if !super::region::is_forked() {
        arena.free(block.id());
    }
}
