//! A bare ring in shared memory from one process to another: what the machine allows a queue.
//!
//! Each side has a line for its count, which the other looks at, and one for the other's count as it last saw it. There
//! is one putter and one getter, and no lock. Nobody watches and nobody sleeps: a death would hang the run.

use std::fs::File;
use std::hint;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use memmap2::MmapRaw;
use mp::{AnyError, Process};
use serde::{Deserialize, Serialize};

use crate::consumer::{Consumer, Tally};
use crate::payload::{self, is_marked};
use crate::queue::FIRST;

/// Bytes before the first slot: the lines of the two sides.
const SIDES: usize = 4096;
/// Bytes in front of a value: its length.
const HEADER: usize = 8;

/// What goes through.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Items {
    /// Numbers, in records of 16 bytes one behind the other.
    Numbers,
    /// Items of 64 KiB, each in a block of its own as in a queue. Whoever takes one makes a vector of it.
    Bytes,
}

impl Items {
    /// Bytes from one slot to the next.
    const fn stride(self) -> usize {
        match self {
            Self::Numbers => 16,
            Self::Bytes => 128 << 10,
        }
    }

    const fn slots(self) -> u64 {
        match self {
            Self::Numbers => 1 << 16,
            Self::Bytes => payload::ROOM as u64,
        }
    }
}

/// A process that takes.
pub(crate) fn consumer(items: Items) -> anyhow::Result<Consumer<Ring>> {
    let file = tempfile::NamedTempFile::new_in("/dev/shm")?;
    let len = SIDES + items.stride() * items.slots() as usize;
    file.as_file().set_len(len as u64)?;
    let ring = Ring::open(file.path(), items)?;
    // The file may go once it has answered.
    Consumer::start(|tally| {
        let process = Process::new(consume, (file.path().to_owned(), items, tally)).start()?;
        Ok((ring, process))
    })
}

#[mp::task]
fn consume(path: PathBuf, items: Items, tally: Tally) -> Result<(), AnyError> {
    let ring = Ring::open(&path, items)?;
    match items {
        Items::Numbers => tally.answer(|index| {
            let number = ring.take(|bytes| bytes.try_into().map_or(0, u64::from_le_bytes));
            number == FIRST + index
        }),
        Items::Bytes => tally.answer(|index| is_marked(&ring.take(<[u8]>::to_vec), index)),
    }
}

/// The shared memory.
pub(crate) struct Ring {
    mapping: MmapRaw,
    items: Items,
}

/// How many values one side ever put, or took, and as many as it knows of the other. All zeros is an empty ring.
#[repr(C)]
struct Side {
    count: Line,
    seen: Line,
}

#[repr(C, align(64))]
struct Line(AtomicU64);

impl Ring {
    fn open(path: &Path, items: Items) -> std::io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let mapping = MmapRaw::map_raw(&file)?;
        if mapping.len() < SIDES + items.stride() * items.slots() as usize {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { mapping, items })
    }

    /// Puts a value, once there is room.
    #[inline]
    pub(crate) fn put(&self, value: &[u8]) {
        let (side, other) = (self.side(0), self.side(1));
        let index = side.count.0.load(Ordering::Relaxed);
        let has_room = |taken| index - taken < self.items.slots();
        if !has_room(side.seen.0.load(Ordering::Relaxed)) {
            wait(|| has_room(look(other, side)));
        }
        let (header, place) = self.slot(index).split_at_mut(HEADER);
        header.copy_from_slice(&value.len().to_le_bytes());
        place[..value.len()].copy_from_slice(value);
        side.count.0.store(index + 1, Ordering::Release);
    }

    /// Takes a value, once there is one.
    #[inline]
    fn take<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        let (side, other) = (self.side(1), self.side(0));
        let index = side.count.0.load(Ordering::Relaxed);
        if side.seen.0.load(Ordering::Relaxed) <= index {
            wait(|| look(other, side) > index);
        }
        let (header, place) = self.slot(index).split_at_mut(HEADER);
        let len = (&*header).try_into().map_or(0, usize::from_le_bytes);
        let value = read(&place[..len]);
        side.count.0.store(index + 1, Ordering::Release);
        value
    }

    fn side(&self, side: usize) -> &Side {
        // SAFETY: the lines of both lie in the first page of the mapping.
        let line = unsafe { self.mapping.as_mut_ptr().cast::<Side>().add(side) };
        // SAFETY: it is aligned, lives as long as the reference, and consists of atomics.
        unsafe { &*line }
    }

    #[expect(clippy::mut_from_ref, reason = "the counts say whose it is")]
    fn slot(&self, index: u64) -> &mut [u8] {
        let (stride, slots) = (self.items.stride(), self.items.slots());
        let offset = SIDES + (index % slots) as usize * stride;
        // SAFETY: the slot lies within the mapping, whose length was checked.
        let place = unsafe { self.mapping.as_mut_ptr().add(offset) };
        // SAFETY: a slot is used by one side at a time, as the counts say, and each side is one thread.
        unsafe { std::slice::from_raw_parts_mut(place, stride) }
    }
}

/// The count of the `other` side, which `side` remembers.
fn look(other: &Side, side: &Side) -> u64 {
    let count = other.count.0.load(Ordering::Acquire);
    side.seen.0.store(count, Ordering::Relaxed);
    count
}

/// Looks until it is so.
#[inline]
fn wait(mut is_so: impl FnMut() -> bool) {
    let mut looks = 0_u32;
    while !is_so() {
        looks += 1;
        match looks.is_multiple_of(1000) {
            true => thread::yield_now(), // There may be one CPU for both.
            false => hint::spin_loop(),
        }
    }
}
