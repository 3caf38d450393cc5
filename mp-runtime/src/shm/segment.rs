//! A queue's memory: values in a row through a chain of segments, put at one end and taken at the
//! other. The protocol is in `queue/README.md`.
//!
//! Each end has a lock of its own (the two-lock queue of Michael and Scott, 1996), and each commits
//! with one store of one word that holds the position *and* the count of values, so that there is
//! no moment at which the two disagree. What takes more than that store is announced in words
//! beside the lock, and whoever inherits the lock finds out from them how far the dead one got.
//!
//! # Safety
//!
//! The bytes between the taken and the put position do not change; those behind the put position
//! belong to the holder of the put lock. So the holder of a lock may copy the bytes of its side.

#![expect(unsafe_code, reason = "values are copied in and out of shared memory")]

use super::arena::{Arena, BlockId, OutOfMemory, Owner};
use super::buffer::Buffer;
use super::copy;
use super::safe::shared;
use super::{ObjectId, UNIT};
use crate::fault::fault;
use crate::loom::{AtomicU64, Ordering};

/// Records begin at multiples of this.
const GRAIN: u64 = 16;
/// Values that one queue can hold.
pub(crate) const MAX_ITEMS: u64 = (1 << ITEM_BITS) - 1;
const ITEM_BITS: u32 = 29;

shared! {
    /// The side of the putters. All zeros is an empty queue.
    pub(crate) struct PutSide {
        /// `{ position: 35 bits, in grains of 16 bytes; items: 29 bits }`: where the next record goes and
        /// how many values were ever put, modulo 2^29. The commit of a put.
        word: AtomicU64,
        /// A segment that is the queue's but not in the chain yet.
        spare: AtomicU64,
        /// The very first segment.
        first: AtomicU64,
        /// Block and parcel that the queue is taking over, and the items before.
        block: AtomicU64,
        parcel: AtomicU64,
        items: AtomicU64,
    }
}

shared! {
    /// The side of the getters. All zeros is an empty queue.
    pub(crate) struct TakeSide {
        /// As in [`PutSide`]: the position of the next record to take and the number of values taken.
        word: AtomicU64,
        /// A segment that all getters have passed.
        passed: AtomicU64,
        /// Block and parcel that the queue is giving away, and the items before.
        block: AtomicU64,
        parcel: AtomicU64,
        items: AtomicU64,
        /// The last seen [`PutSide::word`]: spares the getters the putters' cache line.
        seen: AtomicU64,
    }
}

/// A record begins with this word: `{ length: 32 bits, kind: 32 bits }`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    /// The bytes follow.
    Inline = 1,
    /// Three words follow: length, block (or zero), parcel (or zero). Then the bytes, if no block.
    Outside = 2,
    /// One word follows: the next segment.
    Jump = 3,
}

const HEADER: u64 = 8;
/// Bytes of the next value that are fetched ahead of its getter.
const AHEAD: u64 = 1024;
const JUMP_LEN: u64 = GRAIN;

/// A value on its way in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    /// The bytes, unless they are in the block.
    pub(crate) bytes: &'a [u8],
    /// The block that holds the bytes, and how many count; owned by the calling process.
    pub(crate) block: Option<(BlockId, u64)>,
    /// The handles in it; owned by the calling process.
    pub(crate) parcel: Option<BlockId>,
}

/// A value that needs neither block nor parcel while it is encoded: into the record that it will be in
/// a segment, behind those of others.
#[derive(Debug)]
#[must_use]
pub(crate) struct Record {
    start: usize,
}

impl Record {
    /// Begins one at the end of `records`.
    #[inline]
    pub(crate) fn begin(records: &mut Buffer) -> Result<Self, OutOfMemory> {
        let start = records.len();
        records.write(&[0; HEADER as usize])?;
        Ok(Self { start })
    }

    /// Ends it behind the value; false, and `records` is as before, if the value needs a block.
    #[inline]
    pub(crate) fn end(self, records: &mut Buffer) -> bool {
        let len = records.len() - self.start - HEADER as usize;
        // A fixed number of zeros is one store: more than are needed, then back.
        let is_whole = records.write(&[0; GRAIN as usize]).is_ok();
        if !is_whole || records.block().is_some() {
            records.truncate(self.start);
            return false;
        }
        records.truncate(self.start + record_len(len) as usize);
        let header = header(Kind::Inline, len).to_ne_bytes();
        records.as_mut_slice()[self.start..][..HEADER as usize].copy_from_slice(&header);
        true
    }
}

/// The value in the first of some records, and how many bytes the record has.
#[inline]
fn first(records: &[u8]) -> (&[u8], usize) {
    let (header, behind) = records.split_at(HEADER as usize);
    let header = header.try_into().map_or(0, u64::from_ne_bytes);
    let (_, len) = parse(header);
    (&behind[..len], record_len(len) as usize)
}

/// How many of the first `count` records are not longer than `room` together, and how long those are.
#[inline]
fn prefix(records: &[u8], count: usize, room: u64) -> (usize, usize) {
    let mut end = 0;
    for index in 0..count {
        let (_, len) = first(&records[end..]);
        if (end + len) as u64 > room {
            return (index, end);
        }
        end += len;
    }
    (count, end)
}

/// What was taken: the records of some values as they stood in their segment, or the bytes of one
/// that has parts outside.
#[derive(Debug, Default)]
pub(crate) struct Values {
    bytes: Vec<u8>,
    /// How many records; none if the bytes are those of one value.
    count: usize,
}

impl Values {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            count: 0,
        }
    }

    /// Forgets the bytes. More room for them than `keep` is given back.
    pub(crate) fn clear(&mut self, keep: usize) {
        self.count = 0;
        self.bytes.clear();
        if self.bytes.capacity() > keep {
            self.bytes = Vec::new();
        }
    }

    /// How many values.
    pub(crate) fn count(&self) -> usize {
        self.count.max(1)
    }

    /// The bytes of the value that came alone.
    pub(crate) fn alone(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of each value.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        (0..self.count).map(move |_| {
            let (value, len) = first(rest);
            rest = &rest[len..];
            value
        })
    }
}

/// A value on its way out.
#[derive(Debug)]
pub(crate) enum Taken {
    /// The caller has the records.
    Inline,
    /// The value's parts, which are the calling process's now; without a block the caller has its
    /// bytes.
    Outside {
        /// How many bytes.
        len: u64,
        /// The block with the bytes.
        block: Option<BlockId>,
        /// The handles in it.
        parcel: Option<BlockId>,
    },
}

/// How many values a word counts.
pub(crate) fn items_of(word: u64) -> u64 {
    word & MAX_ITEMS
}

/// How many values lie between a taken word and a put word.
#[inline]
pub(crate) fn between(taken: u64, put: u64) -> u64 {
    items_of(put).wrapping_sub(items_of(taken)) & MAX_ITEMS
}

fn position_of(word: u64) -> u64 {
    (word >> ITEM_BITS) * GRAIN
}

fn pack(position: u64, items: u64) -> u64 {
    debug_assert!(position.is_multiple_of(GRAIN));
    ((position / GRAIN) << ITEM_BITS) | (items & MAX_ITEMS)
}

/// What a record of so many bytes takes.
#[inline]
fn record_len(len: usize) -> u64 {
    (HEADER + len as u64).next_multiple_of(GRAIN)
}

/// Bytes for records in the segment of `at`, which may be none.
#[inline]
fn room(at: u64) -> u64 {
    if at == 0 {
        return 0;
    }
    (segment_of(at) + UNIT as u64 - JUMP_LEN).saturating_sub(at)
}

/// Whether a record of `len` bytes fits into the segment of `at`, which may be none.
#[inline]
fn fits(at: u64, len: u64) -> bool {
    len <= room(at)
}

fn segment_of(position: u64) -> u64 {
    position & !(UNIT as u64 - 1)
}

impl PutSide {
    /// The commit word.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        // Acquire: pairs with the Release of the commit; the records before it are visible.
        self.word.load(Ordering::Acquire)
    }

    /// Puts the first `count` of the values whose [records](Record) begin `records`, and are all of
    /// them if `is_all`. Tells how many of them were put and how many bytes those were: all, unless
    /// memory is used up. Under the put lock.
    pub(crate) fn put_records(
        &self,
        arena: &Arena,
        queue: ObjectId,
        records: &[u8],
        count: usize,
        is_all: bool,
    ) -> (usize, usize) {
        let mut word = self.word.load(Ordering::Relaxed);
        let (mut put, mut from) = (0, 0);
        while put < count {
            let at = position_of(word);
            let (rest, room) = (&records[from..], room(at));
            let (fitting, len) = match is_all && rest.len() as u64 <= room {
                true => (count - put, rest.len()),
                false => prefix(rest, count - put, room),
            };
            if fitting > 0 {
                copy(arena, at, &records[from..from + len]);
                fault!("put.written");
                word = pack(at + len as u64, items_of(word) + fitting as u64);
                (put, from) = (put + fitting, from + len);
                continue;
            }
            // What was written so far, then the one that needs a segment.
            self.commit(word);
            let (value, len) = first(&records[from..]);
            let item = Item {
                bytes: value,
                block: None,
                parcel: None,
            };
            if self.put(arena, queue, item).is_err() {
                return (put, from);
            }
            word = self.word.load(Ordering::Relaxed);
            (put, from) = (put + 1, from + len);
        }
        self.commit(word);
        (put, from)
    }

    #[inline]
    fn commit(&self, word: u64) {
        // Release: pairs with the Acquire in `word`; the records are visible to who sees them
        // counted.
        self.word.store(word, Ordering::Release);
        fault!("put.committed");
    }

    /// Puts a value without parts if its record fits into the segment; whether it did. Under the put
    /// lock.
    #[inline]
    pub(crate) fn put_inline(&self, arena: &Arena, value: &[u8]) -> bool {
        let before = self.word.load(Ordering::Relaxed);
        let (at, len) = (position_of(before), record_len(value.len()));
        if !fits(at, len) {
            return false;
        }
        write(arena, at, value);
        fault!("put.written");
        self.commit(pack(at + len, items_of(before) + 1));
        true
    }

    /// Puts a value. Under the put lock.
    pub(crate) fn put(
        &self,
        arena: &Arena,
        queue: ObjectId,
        item: Item<'_>,
    ) -> Result<(), OutOfMemory> {
        let before = self.word.load(Ordering::Relaxed);
        let is_inline = item.block.is_none() && item.parcel.is_none();
        let len = record_len(item.bytes.len() + if is_inline { 0 } else { 24 });
        let (at, has_jumped) = self.place(arena, queue, before, len)?;
        if is_inline {
            write(arena, at, item.bytes);
        } else {
            let (block, size) = match item.block {
                Some((block, size)) => (block.bits(), size),
                None => (0, item.bytes.len() as u64),
            };
            store(arena, at, header(Kind::Outside, item.bytes.len()));
            store(arena, at + 8, size);
            store(arena, at + 16, block);
            store(arena, at + 24, item.parcel.map_or(0, BlockId::bits));
            copy(arena, at + HEADER + 24, item.bytes);
        }
        fault!("put.written");
        if !is_inline {
            self.take_over(arena, queue, before, item);
        }
        self.commit(pack(at + len, items_of(before) + 1));
        // Release, here and in `take`: not before the commit.
        if has_jumped {
            self.spare.store(0, Ordering::Release);
        }
        if !is_inline {
            self.block.store(0, Ordering::Release);
            self.parcel.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// Puts right what a dead holder of the put lock left half done. Blocks that no record refers
    /// to become the caller's, who discards them.
    pub(crate) fn repair(&self, arena: &Arena, queue: ObjectId) -> Vec<BlockId> {
        // `spare` may be pending in the allocator.
        arena.settle();
        let word = self.word.load(Ordering::Relaxed);
        let committed = items_of(word) != self.items.load(Ordering::Relaxed);
        let loose = recall([&self.block, &self.parcel], arena, queue, !committed);
        if let Some(spare) = BlockId::from_bits(self.spare.load(Ordering::Relaxed))
            && arena
                .find(spare)
                .is_some_and(|block| block.offset() == segment_of(position_of(word)))
        {
            self.spare.store(0, Ordering::Relaxed); // It is in the chain.
        }
        loose
    }

    /// Where a record of `len` bytes goes, and whether that is in a new segment.
    fn place(
        &self,
        arena: &Arena,
        queue: ObjectId,
        word: u64,
        len: u64,
    ) -> Result<(u64, bool), OutOfMemory> {
        let at = position_of(word);
        if fits(at, len) {
            return Ok((at, false));
        }
        let spare = BlockId::from_bits(self.spare.load(Ordering::Relaxed))
            .and_then(|spare| arena.find(spare));
        let next = match spare {
            Some(spare) => spare,
            None => arena.allocate_into(&self.spare, UNIT, Owner::Object(queue))?,
        };
        fault!("put.grown");
        if at == 0 {
            // Release: getters read it once they see a value counted.
            self.first.store(next.offset(), Ordering::Release);
        } else {
            store(arena, at, header(Kind::Jump, 0));
            store(arena, at + HEADER, next.offset());
        }
        // The first grain is left out, so that no position is zero and none equals the start.
        Ok((next.offset() + GRAIN, true))
    }

    /// Makes block and parcel the queue's, in a way that the commit decides about.
    fn take_over(&self, arena: &Arena, queue: ObjectId, before: u64, item: Item<'_>) {
        self.items.store(items_of(before), Ordering::Relaxed);
        let me = Owner::Process(arena.me());
        let parts = [
            (&self.block, item.block.map(|(id, _)| id)),
            (&self.parcel, item.parcel),
        ];
        for (intent, id) in parts {
            if let Some(id) = id {
                // Release: announced before the owner changes.
                intent.store(id.bits(), Ordering::Release);
                fault!("put.announced");
                let ours = arena.set_owner(id, me, Owner::Object(queue));
                debug_assert!(ours, "a value's parts belong to its sender");
                fault!("put.owned");
            }
        }
    }
}

impl TakeSide {
    /// The commit word.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        // Acquire: pairs with the Release of the commit.
        self.word.load(Ordering::Acquire)
    }

    /// The commit word as a place that a debt can name.
    pub(crate) fn counter(&self) -> &AtomicU64 {
        &self.word
    }

    /// Whether there was more when a getter last looked at the putters' word, or may have been:
    /// without the lock the two words may not belong together.
    #[inline]
    pub(crate) fn has_seen_more(&self) -> bool {
        between(
            self.word.load(Ordering::Relaxed),
            self.seen.load(Ordering::Relaxed),
        ) != 0
    }

    /// How many values can be taken now. Under the take lock.
    #[inline]
    pub(crate) fn available(&self, put: &PutSide) -> u64 {
        let taken = self.word.load(Ordering::Relaxed);
        let known = between(taken, self.seen.load(Ordering::Relaxed));
        if known != 0 {
            return known;
        }
        let seen = put.word();
        self.seen.store(seen, Ordering::Relaxed);
        between(taken, seen)
    }

    /// Takes the next of the values that are [`available`](Self::available), if it has no parts, is no
    /// longer than `out`, and no jump is before it: its length, and it is at the beginning of `out`. `owe` is as in
    /// [`take`](Self::take). Under the take lock.
    #[inline]
    pub(crate) fn take_inline(
        &self,
        arena: &Arena,
        out: &mut [u8],
        owe: impl FnOnce(u64, u64),
    ) -> Option<usize> {
        let before = self.word.load(Ordering::Relaxed);
        let at = position_of(before);
        if at == 0 {
            return None;
        }
        let (kind, len) = parse(load(arena, at));
        if kind != Kind::Inline as u32 || len > out.len() {
            return None;
        }
        out[..len].copy_from_slice(record(arena, at + HEADER, len));
        owe(items_of(before), 1);
        fault!("take.announced");
        self.commit(pack(at + record_len(len), items_of(before) + 1));
        Some(len)
    }

    #[inline]
    fn commit(&self, word: u64) {
        // Release: the announcements are visible to who sees the commit.
        self.word.store(word, Ordering::Release);
        fault!("take.committed");
    }

    /// Takes up to `most` of the values that are [`available`](Self::available), at least one.
    /// Their records go to `out`; a value with parts of its own comes alone. `owe` is told the
    /// count before and how many will be taken. Under the take lock.
    pub(crate) fn take(
        &self,
        arena: &Arena,
        queue: ObjectId,
        put: &PutSide,
        most: u64,
        out: &mut Values,
        owe: impl FnOnce(u64, u64),
    ) -> Taken {
        let before = self.word.load(Ordering::Relaxed);
        let mut at = position_of(before);
        if at == 0 {
            // Acquire: pairs with the Release in `place`.
            at = put.first.load(Ordering::Acquire) + GRAIN;
        }
        let mut count = 0;
        let mut first = at;
        let mut outside = None;
        let mut passed = None;
        while count < most {
            let (kind, len) = parse(load(arena, at));
            if kind == Kind::Inline as u32 {
                at += record_len(len);
                count += 1;
            } else if count > 0 {
                break; // A jump or a value with parts begins a batch, it never continues one.
            } else if kind == Kind::Jump as u32 {
                passed = Some(segment_of(at));
                at = load(arena, at + HEADER) + GRAIN;
                first = at;
            } else {
                copy::append(record(arena, at + HEADER + 24, len), &mut out.bytes);
                outside = Some(Taken::Outside {
                    len: load(arena, at + 8),
                    block: BlockId::from_bits(load(arena, at + 16)),
                    parcel: BlockId::from_bits(load(arena, at + 24)),
                });
                at += record_len(24 + len);
                count = 1;
                self.expect_next(arena, at, items_of(before) + 1);
                break;
            }
        }
        if outside.is_none() {
            let records = record(arena, first, (at - first) as usize);
            copy::append(records, &mut out.bytes);
            out.count = count as usize;
        }
        if let Some(passed) = passed
            && let Some(id) = arena.name_at(passed)
        {
            self.passed.store(id.bits(), Ordering::Release);
        }
        if let Some(Taken::Outside { block, parcel, .. }) = &outside {
            self.items.store(items_of(before), Ordering::Relaxed);
            self.block
                .store(block.map_or(0, BlockId::bits), Ordering::Release);
            self.parcel
                .store(parcel.map_or(0, BlockId::bits), Ordering::Release);
        }
        owe(items_of(before), count);
        fault!("take.announced");
        self.commit(pack(at, items_of(before) + count));
        if let Some(Taken::Outside { block, parcel, .. }) = &outside {
            let me = Owner::Process(arena.me());
            for id in [block, parcel].into_iter().flatten() {
                let ours = arena.set_owner(*id, Owner::Object(queue), me);
                debug_assert!(ours, "a value's parts belong to its queue");
                fault!("take.owned");
            }
            self.block.store(0, Ordering::Release);
            self.parcel.store(0, Ordering::Release);
        }
        if passed.is_some() {
            self.free_passed(arena);
        }
        outside.unwrap_or(Taken::Inline)
    }

    /// Has the processor fetch the beginning of the value at `at`, before which so many were taken, if it
    /// is there and has a block of its own: while the one before is copied. What follows it is
    /// fetched ahead of the copy anyway, but not across the end of a block.
    fn expect_next(&self, arena: &Arena, at: u64, items: u64) {
        let seen = self.seen.load(Ordering::Relaxed);
        if between(items, seen) == 0 || parse(load(arena, at)).0 != Kind::Outside as u32 {
            return;
        }
        let len = load(arena, at + 8).min(AHEAD) as usize;
        if let Some(block) = BlockId::from_bits(load(arena, at + 16)) {
            arena.expect_reads(block, len);
        }
    }

    /// Puts right what a dead holder of the take lock left half done. Blocks of a value that it
    /// took become the caller's, who discards them.
    pub(crate) fn repair(&self, arena: &Arena, queue: ObjectId) -> Vec<BlockId> {
        let word = self.word.load(Ordering::Relaxed);
        let committed = items_of(word) != self.items.load(Ordering::Relaxed);
        let loose = recall([&self.block, &self.parcel], arena, queue, committed);
        let passed = BlockId::from_bits(self.passed.load(Ordering::Relaxed));
        if let Some(block) = passed.and_then(|id| arena.find(id))
            && block.offset() == segment_of(position_of(word))
        {
            self.passed.store(0, Ordering::Relaxed); // It was not passed after all.
        }
        self.free_passed(arena);
        self.seen.store(word, Ordering::Relaxed);
        loose
    }

    fn free_passed(&self, arena: &Arena) {
        if let Some(id) = BlockId::from_bits(self.passed.load(Ordering::Relaxed)) {
            // Freeing twice is harmless: the name is good for one block only.
            arena.free(id);
            fault!("take.freed");
            self.passed.store(0, Ordering::Release);
        }
    }
}

/// Clears announcements. Where `is_loose`, the queue's blocks in them become the caller's.
fn recall(
    announced: [&AtomicU64; 2],
    arena: &Arena,
    queue: ObjectId,
    is_loose: bool,
) -> Vec<BlockId> {
    let me = Owner::Process(arena.me());
    let mut loose = Vec::new();
    for word in announced {
        if let Some(id) = BlockId::from_bits(word.load(Ordering::Relaxed)) {
            if is_loose && arena.set_owner(id, Owner::Object(queue), me) {
                loose.push(id);
            }
            word.store(0, Ordering::Relaxed);
        }
    }
    loose
}

fn header(kind: Kind, len: usize) -> u64 {
    ((len as u64) << 32) | kind as u64
}

fn parse(header: u64) -> (u32, usize) {
    (header as u32, (header >> 32) as usize)
}

#[inline]
fn store(arena: &Arena, at: u64, value: u64) {
    let word: &AtomicU64 = arena.region().at(at);
    word.store(value, Ordering::Relaxed);
}

#[inline]
fn load(arena: &Arena, at: u64) -> u64 {
    let word: &AtomicU64 = arena.region().at(at);
    word.load(Ordering::Relaxed)
}

/// Writes the record of a value behind the put position.
#[inline]
fn write(arena: &Arena, at: u64, value: &[u8]) {
    store(arena, at, header(Kind::Inline, value.len()));
    copy(arena, at + HEADER, value);
}

#[inline]
fn copy(arena: &Arena, at: u64, bytes: &[u8]) {
    let place = arena.region().pointer(at, bytes.len());
    // SAFETY: room for the record was found behind the put position, which is the lock holder's.
    unsafe { copy::copy(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
}

/// Bytes of committed records, for the holder of the take lock until it takes them.
#[inline]
fn record(arena: &Arena, at: u64, len: usize) -> &[u8] {
    let place = arena.region().pointer(at, len);
    // SAFETY: the place lies in the region, which lives as long as `arena`. The bytes of a committed
    // record do not change until it is taken, and the holder of the take lock is the only one to take.
    unsafe { std::slice::from_raw_parts(place.as_ptr(), len) }
}
