//! Blocks out of a region, owned by a process or an object, freed by any process.
//!
//! The data area is cut into units of [`UNIT`] bytes, and each unit has a descriptor outside of the
//! data. The *heads*, walked from unit 0 by their lengths, tile the area up to `top`: that tiling
//! and the owner words are the truth, and each step changes them by one store (or by one redo
//! record), so they are right whenever a process dies. Free lists, back lengths and counters are
//! derived from them, and whoever inherits the lock derives them again.
//!
//! Boundary tags: Knuth, "The Art of Computer Programming" 1, 2.5, algorithm C.
//!
//! # Safety
//!
//! A block's bytes are its owner's alone, which the owner words decide.

#![expect(unsafe_code, reason = "an owner reads the bytes of its blocks")]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::redo::Redo;
use super::safe::shared;
use super::{ObjectId, Region};
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering};
use crate::sync::raw::{Acquired, Holder, Peers, RawMutex};

/// Bytes in a unit, the granule of blocks. Only touched pages of it cost memory.
pub(crate) const UNIT: usize = 64 * 1024;

/// Free lists, by the binary logarithm of the length.
const BINS: usize = 25;
/// Spans of one bin looked at before a larger bin is asked.
const PROBES: usize = 16;
/// Free memory that stays touched, in bytes, unless told otherwise: more than that in one span is
/// given back.
const KEEP_IDLE: u64 = 64 * 1024 * 1024;

shared! {
    /// The allocator's shared state. All zeros, but for the budget, is an empty arena.
    #[repr(align(64))]
    pub(crate) struct Head {
        lock: RawMutex,
        _pad: AtomicU32,
        redo: Redo,
        /// Units that were ever part of the tiling; those above are untouched and unknown.
        top: AtomicU64,
        /// The highest `top` ever: units above were never touched.
        reach: AtomicU64,
        /// Touched units, free or not. Derived.
        charged: AtomicU64,
        /// Touched units in free spans. Derived.
        idle: AtomicU64,
        /// Units that may be touched at once.
        budget: AtomicU64,
        /// The last nonce given to a block.
        nonce: AtomicU64,
        /// First span of each bin as unit + 1; zero is none. Derived.
        bins: [AtomicU32; BINS],
    }
}

shared! {
    /// One unit. Only a head's fields mean something, but for `touched` and `back`.
    pub(crate) struct Descriptor {
        /// `{ kind: 2 bits, index: 20 bits, generation: 20 bits, nonce: 22 bits }`; zero is free.
        owner: AtomicU64,
        /// Length of the span that begins here, in units.
        units: AtomicU32,
        /// In the last unit of a listed span: its length; zero elsewhere. Derived.
        back: AtomicU32,
        /// Next and previous span of the bin as unit + 1. Derived.
        next: AtomicU32,
        prev: AtomicU32,
        /// Whether the pages of this unit may exist: set before use, cleared after a punch.
        touched: AtomicU32,
        /// Whether the block is a table of handles ([`Tag`]).
        tag: AtomicU32,
    }
}

const _: () = assert!(size_of::<Descriptor>() == 32);

const NONCE_BITS: u32 = 22;
const NONCE_MASK: u64 = (1 << NONCE_BITS) - 1;

/// Who may use a block and who frees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A process; the block is freed when it dies.
    Process(Holder),
    /// A shared object; the block is freed with it.
    Object(ObjectId),
}

impl Owner {
    fn bits(self) -> u64 {
        let (kind, index, generation) = match self {
            Self::Process(holder) => (1, holder.slot(), holder.generation()),
            Self::Object(id) => (2, id.index(), id.generation()),
        };
        (kind << 62) | (u64::from(index) << 42) | (u64::from(generation) << NONCE_BITS)
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let index = ((bits >> 42) & 0xF_FFFF) as u32;
        let generation = ((bits >> NONCE_BITS) & 0xF_FFFF) as u32;
        match bits >> 62 {
            1 => Some(Self::Process(Holder::new(index, generation))),
            2 => Some(Self::Object(ObjectId::new(index, generation))),
            _ => None,
        }
    }
}

/// What a block holds, as far as its release must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// Bytes.
    Plain = 0,
    /// A table of handles that a message carries (`table`).
    Parcel = 1,
}

/// A block by name: `{ unit: 24 bits, nonce: 22 bits }`, never zero. The nonce tells a block from
/// the next one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockId(u64);

impl BlockId {
    /// The block that a word names, if it names one.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        (bits & NONCE_MASK != 0).then_some(Self(bits))
    }

    /// The name as a word.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    fn new(unit: u32, nonce: u64) -> Self {
        Self((u64::from(unit) << NONCE_BITS) | nonce)
    }

    fn unit(self) -> u32 {
        (self.0 >> NONCE_BITS) as u32
    }

    fn nonce(self) -> u64 {
        self.0 & NONCE_MASK
    }
}

/// A block of memory. It is not freed by being dropped: its owner word says who frees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    id: BlockId,
    offset: u64,
    capacity: usize,
}

impl Block {
    /// The block's name.
    pub(crate) fn id(&self) -> BlockId {
        self.id
    }

    /// Where it begins in the region.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Its size in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}

/// There is no room, or the byte budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// What a walk over all blocks found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Units in free spans.
    pub free_units: u64,
    /// Units in blocks of processes.
    pub process_units: u64,
    /// Units in blocks of objects.
    pub object_units: u64,
    /// Objects that live.
    pub objects: u32,
    /// Those of them that no process holds, but only messages do: one that can be reached from its
    /// own items alone is among them until the program ends.
    pub unheld_objects: u32,
    /// What is wrong, in words; empty if all is well.
    pub faults: Vec<String>,
}

/// The allocator of one region.
pub(crate) struct Arena {
    region: Arc<Region>,
    peers: &'static (dyn Peers + Sync),
    head: u64,
    descriptors: u64,
    data: u64,
    units: u32,
    /// Units that stay touched while they are free.
    keep_idle: u64,
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena")
            .field("units", &self.units)
            .finish_non_exhaustive()
    }
}

impl Arena {
    /// The allocator whose state begins at `head` and that hands out all of the region behind it.
    /// Nothing is written: an all-zero region is an empty arena without a budget.
    pub(crate) fn new(region: Arc<Region>, head: u64, peers: &'static (dyn Peers + Sync)) -> Self {
        let descriptors = head + size_of::<Head>() as u64;
        let room = region.len().saturating_sub(descriptors + UNIT as u64);
        let each = (UNIT + size_of::<Descriptor>()) as u64;
        let units = (room / each).min((1 << 24) - 2) as u32;
        let data = (descriptors + u64::from(units) * size_of::<Descriptor>() as u64)
            .next_multiple_of(UNIT as u64);
        Self {
            region,
            peers,
            head,
            descriptors,
            data,
            units,
            keep_idle: KEEP_IDLE / UNIT as u64,
        }
    }

    /// Sets how many bytes stay touched while they are free: to touch fresh pages is what large data
    /// costs.
    pub(crate) fn keep_idle(self, bytes: u64) -> Self {
        Self {
            keep_idle: bytes / UNIT as u64,
            ..self
        }
    }

    /// Sets how many bytes may be touched at once.
    pub(crate) fn set_budget(&self, bytes: u64) {
        let units = bytes.div_ceil(UNIT as u64);
        self.head().budget.store(units, Ordering::Relaxed);
    }

    /// The calling process, as owners name it.
    #[inline]
    pub(crate) fn me(&self) -> Holder {
        self.peers.me()
    }

    /// The block that begins at `offset`.
    pub(crate) fn name_at(&self, offset: u64) -> Option<BlockId> {
        let unit = u32::try_from(offset.checked_sub(self.data)? / UNIT as u64).ok()?;
        if unit >= self.units {
            return None;
        }
        BlockId::from_bits(BlockId::new(unit, self.owner_bits(unit) & NONCE_MASK).bits())
    }

    /// The region that the blocks lie in.
    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Takes a block of at least `bytes` for `owner`.
    pub(crate) fn allocate(&self, bytes: usize, owner: Owner) -> Result<Block, OutOfMemory> {
        self.lock();
        let result = self.take_span(bytes).map(|(unit, units, nonce)| {
            let descriptor = self.descriptor(unit);
            // Release: who finds the owner finds the length and the tag.
            descriptor
                .owner
                .store(owner.bits() | nonce, Ordering::Release);
            fault!("arena.owned");
            self.block(unit, units, nonce)
        });
        self.unlock();
        result
    }

    /// Takes a block of at least `bytes` for `owner` and stores its name in `word`: both or neither.
    pub(crate) fn allocate_into(
        &self,
        word: &AtomicU64,
        bytes: usize,
        owner: Owner,
    ) -> Result<Block, OutOfMemory> {
        self.lock();
        let result = self.take_span(bytes).map(|(unit, units, nonce)| {
            let block = self.block(unit, units, nonce);
            self.head().redo.commit(
                &self.region,
                &[
                    (&self.descriptor(unit).owner, owner.bits() | nonce),
                    (word, block.id.bits()),
                ],
            );
            block
        });
        self.unlock();
        result
    }

    /// Gives a block back. One that is free already, or another one by now, is left alone.
    pub(crate) fn free(&self, id: BlockId) {
        self.lock();
        let unit = id.unit();
        let head = self.head();
        if self.owner(id).is_some() {
            self.descriptor(unit).owner.store(0, Ordering::Relaxed);
            fault!("arena.freed");
            let units = self.descriptor(unit).units.load(Ordering::Relaxed);
            let idle = head.idle.load(Ordering::Relaxed) + self.count_touched(unit, units);
            head.idle.store(idle, Ordering::Relaxed);
            let (unit, units) = self.insert(unit, units);
            if idle > self.keep_idle && u64::from(units) > self.keep_idle {
                self.give_back(unit, units);
                return;
            }
        }
        self.unlock();
    }

    /// Hands a block from one owner to another; false if it was not `from`'s.
    pub(crate) fn set_owner(&self, id: BlockId, from: Owner, to: Owner) -> bool {
        let owner = &self.descriptor(id.unit()).owner;
        // AcqRel: what the block holds goes to the new owner with it.
        owner
            .compare_exchange(
                from.bits() | id.nonce(),
                to.bits() | id.nonce(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Who owns the block, unless it is gone.
    pub(crate) fn owner(&self, id: BlockId) -> Option<Owner> {
        let bits = self.owner_bits(id.unit());
        (bits & NONCE_MASK == id.nonce())
            .then(|| Owner::from_bits(bits))
            .flatten()
    }

    /// The block of that name, unless it is gone.
    pub(crate) fn find(&self, id: BlockId) -> Option<Block> {
        if id.unit() >= self.units {
            return None;
        }
        self.owner(id)?;
        let units = self.descriptor(id.unit()).units.load(Ordering::Relaxed);
        Some(self.block(id.unit(), units, id.nonce()))
    }

    /// The block's bytes. Who may touch them follows from its owner.
    #[inline]
    pub(crate) fn pointer(&self, block: &Block) -> NonNull<u8> {
        self.region.pointer(block.offset, block.capacity)
    }

    /// The first `len` bytes of a block that belongs to the calling process.
    ///
    /// They do not change while it does: whoever handed the block on has let go of it.
    #[inline]
    pub(crate) fn bytes(&self, block: &Block, len: usize) -> &[u8] {
        let place = self.region.pointer(block.offset, len.min(block.capacity));
        // SAFETY: the place lies in the region, which lives as long as `self`; by the protocol of
        // owners nobody writes to a block but its owner, and that is the caller.
        unsafe { std::slice::from_raw_parts(place.as_ptr(), len.min(block.capacity)) }
    }

    /// The bytes of a place outside of all blocks, of which a protocol says that nobody writes to them
    /// now.
    #[inline]
    pub(crate) fn place(&self, offset: u64, len: usize) -> &[u8] {
        let place = self.region.pointer(offset, len);
        // SAFETY: the place lies in the region, which lives as long as `self`, and the caller has it
        // from one that is done with it.
        unsafe { std::slice::from_raw_parts(place.as_ptr(), len) }
    }

    /// Says that the first `len` bytes of a block are about to be read; see [`Region::expect_reads`].
    #[inline]
    pub(crate) fn expect_reads(&self, id: BlockId, len: usize) {
        if id.unit() < self.units {
            self.region
                .expect_reads(self.offset(id.unit()), len.min(UNIT));
        }
    }

    /// What the block holds, for its release.
    pub(crate) fn set_tag(&self, id: BlockId, tag: Tag) {
        // Release: who finds the tag finds the table that it announces.
        self.descriptor(id.unit())
            .tag
            .store(tag as u32, Ordering::Release);
    }

    /// Whether the block is a table of handles.
    pub(crate) fn is_parcel(&self, id: BlockId) -> bool {
        // Acquire: pairs with `set_tag`.
        self.descriptor(id.unit()).tag.load(Ordering::Acquire) == Tag::Parcel as u32
    }

    /// The names of all blocks of `owner`, which is gone: what it left undone outside of the lock
    /// is put right as well.
    pub(crate) fn left_by(&self, owner: Owner) -> Vec<BlockId> {
        let mut found = Vec::new();
        self.lock();
        if matches!(owner, Owner::Process(_)) {
            self.repair();
        }
        self.walk(|unit, _, bits| {
            if bits & !NONCE_MASK == owner.bits() {
                found.push(BlockId::new(unit, bits & NONCE_MASK));
            }
        });
        self.unlock();
        found
    }

    /// Walks all blocks: the heads must tile the area, and `is_live` must know every owner.
    pub(crate) fn audit(&self, is_live: impl Fn(Owner) -> bool) -> Audit {
        let mut audit = Audit::default();
        let mut idle = 0;
        let mut free_before = false;
        self.lock();
        let end = self.walk(|unit, units, bits| {
            let count = u64::from(units);
            match Owner::from_bits(bits) {
                None => {
                    audit.free_units += count;
                    idle += self.count_touched(unit, units);
                    if free_before {
                        audit
                            .faults
                            .push(format!("unit {unit}: two free spans in a row"));
                    }
                    if self
                        .descriptor(unit + units - 1)
                        .back
                        .load(Ordering::Relaxed)
                        != units
                    {
                        audit.faults.push(format!("unit {unit}: wrong back length"));
                    }
                }
                Some(owner) => {
                    match owner {
                        Owner::Process(_) => audit.process_units += count,
                        Owner::Object(_) => audit.object_units += count,
                    }
                    if !is_live(owner) {
                        audit.faults.push(format!(
                            "unit {unit}: {units} units of {owner:?}, which is gone"
                        ));
                    }
                }
            }
            free_before = Owner::from_bits(bits).is_none();
        });
        let head = self.head();
        let top = head.top.load(Ordering::Relaxed);
        let reach = head.reach.load(Ordering::Relaxed);
        if u64::from(end) != top {
            audit
                .faults
                .push(format!("the blocks end at unit {end}, the area at {top}"));
        }
        idle += self.count_touched(top as u32, (reach - top) as u32);
        if head.idle.load(Ordering::Relaxed) != idle {
            audit.faults.push(format!(
                "{idle} idle touched units, but {} on the books",
                head.idle.load(Ordering::Relaxed)
            ));
        }
        self.unlock();
        audit
    }

    // The lock.

    /// Finishes what a dead holder of the allocator's lock left pending.
    ///
    /// A redo record of the allocator may store into a word that another lock protects. Whoever
    /// inherits that lock calls this before it trusts the word, or the record would be applied
    /// later, over what was made of the word since.
    pub(crate) fn settle(&self) {
        self.lock();
        self.unlock();
    }

    /// Tells those who wait for the allocator's lock that its holder died.
    pub(crate) fn abandon_lock(&self, dead: Holder) {
        self.head().lock.abandon(self.peers, dead);
    }

    fn lock(&self) {
        match self.head().lock.lock(self.peers, Deadline::NEVER) {
            Ok(Acquired::Clean) => {}
            Ok(Acquired::Inherited(_)) => self.repair(),
            Err(_) => unreachable!("the allocator's lock is never marked and has no deadline"),
        }
    }

    fn unlock(&self) {
        self.head().lock.unlock(self.peers);
    }

    /// Finishes what the dead holder of the lock began and derives the rest anew.
    #[cold]
    fn repair(&self) {
        let head = self.head();
        head.redo.finish(&self.region);
        for bin in &head.bins {
            bin.store(0, Ordering::Relaxed);
        }
        let top = head.top.load(Ordering::Relaxed);
        let reach = head.reach.load(Ordering::Relaxed).max(top);
        head.reach.store(reach, Ordering::Relaxed);
        head.charged
            .store(self.count_touched(0, reach as u32), Ordering::Relaxed);
        head.idle.store(
            self.count_touched(top as u32, (reach - top) as u32),
            Ordering::Relaxed,
        );
        for unit in 0..reach as u32 {
            self.descriptor(unit).back.store(0, Ordering::Relaxed);
        }
        let mut unit = 0;
        while u64::from(unit) < top {
            let descriptor = self.descriptor(unit);
            let mut units = descriptor.units.load(Ordering::Relaxed);
            if self.owner_bits(unit) != 0 {
                unit += units;
                continue;
            }
            while u64::from(unit + units) < top && self.owner_bits(unit + units) == 0 {
                units += self.descriptor(unit + units).units.load(Ordering::Relaxed);
            }
            descriptor.units.store(units, Ordering::Relaxed);
            let idle = head.idle.load(Ordering::Relaxed) + self.count_touched(unit, units);
            head.idle.store(idle, Ordering::Relaxed);
            self.link(unit, units);
            unit += units;
        }
    }

    /// Visits every span below `top` and returns where the last one ends. Under the lock.
    fn walk(&self, mut visit: impl FnMut(u32, u32, u64)) -> u32 {
        let top = self.head().top.load(Ordering::Relaxed);
        let mut unit = 0;
        while u64::from(unit) < top {
            let units = self.descriptor(unit).units.load(Ordering::Relaxed);
            visit(unit, units, self.owner_bits(unit));
            if units == 0 {
                break; // The audit reports that the end was not reached.
            }
            unit += units;
        }
        unit
    }

    // Taking and giving back, under the lock.

    /// Cuts a free span of `bytes`: its first unit, its length and its nonce. It is not owned yet.
    fn take_span(&self, bytes: usize) -> Result<(u32, u32, u64), OutOfMemory> {
        let wanted = bytes.div_ceil(UNIT).max(1);
        let units = u32::try_from(wanted).map_err(|_| OutOfMemory)?;
        let unit = self
            .find_span(units, PROBES)
            .or_else(|| self.extend(units))
            .or_else(|| self.find_span(units, usize::MAX))
            .ok_or(OutOfMemory)?;
        self.split(unit, units);
        let head = self.head();
        let fresh = u64::from(units) - self.count_touched(unit, units);
        let budget = head.budget.load(Ordering::Relaxed);
        if head.charged.load(Ordering::Relaxed) + fresh > budget {
            // The span itself is in no list: what is idle elsewhere can be given back, its rest too.
            self.give_back_idle();
        }
        if head.charged.load(Ordering::Relaxed) + fresh > budget {
            self.insert(unit, units);
            return Err(OutOfMemory);
        }
        for unit in unit..unit + units {
            self.descriptor(unit).touched.store(1, Ordering::Relaxed);
        }
        let touched = u64::from(units) - fresh;
        head.charged.store(
            head.charged.load(Ordering::Relaxed) + fresh,
            Ordering::Relaxed,
        );
        head.idle.store(
            head.idle.load(Ordering::Relaxed) - touched,
            Ordering::Relaxed,
        );
        let nonce = head.nonce.load(Ordering::Relaxed) % NONCE_MASK + 1;
        head.nonce.store(nonce, Ordering::Relaxed);
        self.descriptor(unit)
            .tag
            .store(Tag::Plain as u32, Ordering::Relaxed);
        fault!("arena.cut");
        Ok((unit, units, nonce))
    }

    /// Takes a free span of at least `units` out of its list.
    fn find_span(&self, units: u32, probes: usize) -> Option<u32> {
        let head = self.head();
        let first = bin_of(units);
        let mut next = head.bins[first].load(Ordering::Relaxed);
        for _ in 0..probes {
            let Some(unit) = next.checked_sub(1) else {
                break;
            };
            let descriptor = self.descriptor(unit);
            if descriptor.units.load(Ordering::Relaxed) >= units {
                self.unlink(unit);
                return Some(unit);
            }
            next = descriptor.next.load(Ordering::Relaxed);
        }
        for bin in &head.bins[first + 1..] {
            if let Some(unit) = bin.load(Ordering::Relaxed).checked_sub(1) {
                self.unlink(unit);
                return Some(unit);
            }
        }
        None
    }

    /// Adds a free span above the top.
    fn extend(&self, units: u32) -> Option<u32> {
        let head = self.head();
        let unit = head.top.load(Ordering::Relaxed) as u32;
        let top = unit.checked_add(units).filter(|&top| top <= self.units)?;
        let descriptor = self.descriptor(unit);
        descriptor.owner.store(0, Ordering::Relaxed);
        descriptor.units.store(units, Ordering::Relaxed);
        // Release: the span exists once `top` covers it.
        head.top.store(u64::from(top), Ordering::Release);
        if head.reach.load(Ordering::Relaxed) < u64::from(top) {
            head.reach.store(u64::from(top), Ordering::Relaxed);
        }
        fault!("arena.extended");
        Some(unit)
    }

    /// Cuts the span at `unit`, which is in no list, down to `units`; the rest becomes a free span.
    fn split(&self, unit: u32, units: u32) {
        let descriptor = self.descriptor(unit);
        let all = descriptor.units.load(Ordering::Relaxed);
        if all > units {
            let rest = self.descriptor(unit + units);
            rest.owner.store(0, Ordering::Relaxed);
            rest.units.store(all - units, Ordering::Relaxed);
            fault!("arena.split");
            // Release: the rest's head is complete before the walk can reach it.
            descriptor.units.store(units, Ordering::Release);
            self.link(unit + units, all - units);
        }
    }

    /// Merges a free span with its free neighbours and puts it into its list; lowers `top` if it
    /// is the last. Returns where it is now.
    fn insert(&self, mut unit: u32, mut units: u32) -> (u32, u32) {
        let head = self.head();
        let top = head.top.load(Ordering::Relaxed) as u32;
        if unit + units < top && self.owner_bits(unit + units) == 0 {
            self.unlink(unit + units);
            units += self.descriptor(unit + units).units.load(Ordering::Relaxed);
            self.descriptor(unit).units.store(units, Ordering::Relaxed);
        }
        if let Some(last) = unit.checked_sub(1) {
            let before = self.descriptor(last).back.load(Ordering::Relaxed);
            if before != 0 {
                unit -= before;
                self.unlink(unit);
                units += before;
                self.descriptor(unit).units.store(units, Ordering::Relaxed);
            }
        }
        fault!("arena.merged");
        if unit + units == top {
            head.top.store(u64::from(unit), Ordering::Relaxed);
        } else {
            self.link(unit, units);
        }
        (unit, units)
    }

    /// Gives the touched pages of a long free span back to the system, without the lock meanwhile.
    /// Called with the lock held, returns without it.
    #[cold]
    fn give_back(&self, unit: u32, units: u32) {
        let me = Owner::Process(self.peers.me());
        let head = self.head();
        let nonce = head.nonce.load(Ordering::Relaxed) % NONCE_MASK + 1;
        head.nonce.store(nonce, Ordering::Relaxed);
        // The span is mine for the time of the system calls, so a death in here frees it again.
        let top = head.top.load(Ordering::Relaxed) as u32;
        if unit == top {
            self.descriptor(unit).owner.store(0, Ordering::Relaxed);
            self.descriptor(unit).units.store(units, Ordering::Relaxed);
            head.top.store(u64::from(unit + units), Ordering::Release);
        } else {
            self.unlink(unit);
        }
        let idle = head.idle.load(Ordering::Relaxed) - self.count_touched(unit, units);
        head.idle.store(idle, Ordering::Relaxed);
        self.descriptor(unit)
            .owner
            .store(me.bits() | nonce, Ordering::Release);
        self.unlock();
        fault!("arena.punching");
        let punched = self.punch(unit, units);
        self.lock();
        self.discharge(&punched);
        self.descriptor(unit).owner.store(0, Ordering::Relaxed);
        let idle = head.idle.load(Ordering::Relaxed) + self.count_touched(unit, units);
        head.idle.store(idle, Ordering::Relaxed);
        self.insert(unit, units);
        self.unlock();
    }

    /// Gives everything idle back, because the budget is used up. Under the lock.
    #[cold]
    fn give_back_idle(&self) {
        let head = self.head();
        let mut punched = Vec::new();
        for bin in &head.bins {
            let mut next = bin.load(Ordering::Relaxed);
            while let Some(unit) = next.checked_sub(1) {
                let descriptor = self.descriptor(unit);
                punched.extend(self.punch(unit, descriptor.units.load(Ordering::Relaxed)));
                next = descriptor.next.load(Ordering::Relaxed);
            }
        }
        let top = head.top.load(Ordering::Relaxed);
        let reach = head.reach.load(Ordering::Relaxed);
        punched.extend(self.punch(top as u32, (reach - top) as u32));
        let units = self.discharge(&punched);
        let idle = head.idle.load(Ordering::Relaxed);
        head.idle
            .store(idle.saturating_sub(units), Ordering::Relaxed);
    }

    /// Gives the touched pages of a span back and returns the runs of units that are gone.
    fn punch(&self, unit: u32, units: u32) -> Vec<Range<u32>> {
        let mut punched = Vec::new();
        let mut at = unit;
        let is_touched = |unit| self.descriptor(unit).touched.load(Ordering::Relaxed) != 0;
        while at < unit + units {
            if !is_touched(at) {
                at += 1;
                continue;
            }
            let start = at;
            while at < unit + units && is_touched(at) {
                at += 1;
            }
            let len = u64::from(at - start) * UNIT as u64;
            // A failure leaves the pages where they are, touched and accounted for.
            if self.region.punch(self.offset(start), len).is_ok() {
                punched.push(start..at);
            }
        }
        punched
    }

    /// Takes units that were punched off the books. Under the lock, so that nobody counts them
    /// again meanwhile.
    fn discharge(&self, punched: &[Range<u32>]) -> u64 {
        let mut units = 0;
        for unit in punched.iter().cloned().flatten() {
            units += u64::from(self.descriptor(unit).touched.swap(0, Ordering::Relaxed));
        }
        let charged = &self.head().charged;
        let left = charged.load(Ordering::Relaxed).saturating_sub(units);
        charged.store(left, Ordering::Relaxed);
        units
    }

    // Lists and descriptors.

    fn link(&self, unit: u32, units: u32) {
        let bin = &self.head().bins[bin_of(units)];
        let descriptor = self.descriptor(unit);
        let first = bin.load(Ordering::Relaxed);
        descriptor.prev.store(0, Ordering::Relaxed);
        descriptor.next.store(first, Ordering::Relaxed);
        if let Some(first) = first.checked_sub(1) {
            self.descriptor(first)
                .prev
                .store(unit + 1, Ordering::Relaxed);
        }
        bin.store(unit + 1, Ordering::Relaxed);
        self.descriptor(unit + units - 1)
            .back
            .store(units, Ordering::Relaxed);
    }

    fn unlink(&self, unit: u32) {
        let descriptor = self.descriptor(unit);
        let units = descriptor.units.load(Ordering::Relaxed);
        let next = descriptor.next.load(Ordering::Relaxed);
        let prev = descriptor.prev.load(Ordering::Relaxed);
        match prev.checked_sub(1) {
            Some(prev) => &self.descriptor(prev).next,
            None => &self.head().bins[bin_of(units)],
        }
        .store(next, Ordering::Relaxed);
        if let Some(next) = next.checked_sub(1) {
            self.descriptor(next).prev.store(prev, Ordering::Relaxed);
        }
        self.descriptor(unit + units - 1)
            .back
            .store(0, Ordering::Relaxed);
    }

    fn count_touched(&self, unit: u32, units: u32) -> u64 {
        (unit..unit + units)
            .map(|unit| u64::from(self.descriptor(unit).touched.load(Ordering::Relaxed)))
            .sum()
    }

    fn block(&self, unit: u32, units: u32, nonce: u64) -> Block {
        Block {
            id: BlockId::new(unit, nonce),
            offset: self.offset(unit),
            capacity: units as usize * UNIT,
        }
    }

    fn offset(&self, unit: u32) -> u64 {
        self.data + u64::from(unit) * UNIT as u64
    }

    fn owner_bits(&self, unit: u32) -> u64 {
        // Acquire: pairs with the stores of owners; length and tag are visible.
        self.descriptor(unit).owner.load(Ordering::Acquire)
    }

    fn descriptor(&self, unit: u32) -> &Descriptor {
        self.region
            .at(self.descriptors + u64::from(unit) * size_of::<Descriptor>() as u64)
    }

    fn head(&self) -> &Head {
        self.region.at(self.head)
    }
}

fn bin_of(units: u32) -> usize {
    (units.ilog2() as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestPeers;
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn pair() -> ([&'static TestPeers; 2], [Arena; 2]) {
        let peers = TestPeers::pair();
        let region = Arc::new(Region::create("mp-test", 256 * MIB as u64).unwrap());
        let arenas = peers.map(|peers| Arena::new(region.clone(), 0, peers));
        arenas[0].set_budget(192 * MIB as u64);
        (peers, arenas)
    }

    fn owner(peers: &TestPeers) -> Owner {
        Owner::Process(peers.me())
    }

    #[track_caller]
    fn check(arena: &Arena, used: u64) {
        let audit = arena.audit(|_| true);
        assert_eq!(audit.faults, [""; 0]);
        assert_eq!(audit.process_units + audit.object_units, used);
    }

    /// CPython's `test_heap`: blocks and holes tile the arena exactly, and all memory comes back.
    #[test]
    fn random_blocks_tile_the_area() {
        let ([peers, _], [arena, _]) = pair();
        let mut random = 12_345_u64;
        let mut next = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let mut blocks: Vec<Block> = Vec::new();
        for _ in 0..5000 {
            if next(2) == 0 || blocks.is_empty() {
                let bytes = next(8) * next(8) * UNIT as u64 / 8 + 1;
                if let Ok(block) = arena.allocate(bytes as usize, owner(peers)) {
                    assert!(block.capacity() as u64 >= bytes);
                    blocks.push(block);
                }
            } else {
                let block = blocks.swap_remove(next(blocks.len() as u64) as usize);
                arena.free(block.id());
            }
            if blocks.len() > 200 {
                arena.free(blocks.swap_remove(0).id());
            }
        }
        let used = blocks
            .iter()
            .map(|block| block.capacity() / UNIT)
            .sum::<usize>();
        check(&arena, used as u64);
        let mut places: Vec<_> = blocks
            .iter()
            .map(|block| (block.offset(), block.offset() + block.capacity() as u64))
            .collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        for block in blocks {
            arena.free(block.id());
        }
        check(&arena, 0);
        assert_eq!(arena.head().top.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn second_free_is_harmless() {
        let ([peers, _], [arena, _]) = pair();
        let first = arena.allocate(1, owner(peers)).unwrap();
        arena.free(first.id());
        let second = arena.allocate(1, owner(peers)).unwrap();
        assert_eq!(first.offset(), second.offset());
        arena.free(first.id());
        assert_eq!(arena.owner(second.id()), Some(owner(peers)));
        assert_eq!(arena.owner(first.id()), None);
        check(&arena, 1);
    }

    #[test]
    fn budget_is_kept_and_idle_memory_serves_it() {
        let ([peers, _], [arena, _]) = pair();
        let blocks: Vec<_> = (0..3)
            .map(|_| arena.allocate(64 * MIB, owner(peers)).unwrap())
            .collect();
        assert!(arena.allocate(1, owner(peers)).is_err());
        // A hole that is too small for what comes next stays touched: its pages are given back.
        arena.free(blocks[1].id());
        let low = arena.allocate(32 * MIB, owner(peers)).unwrap();
        arena.free(low.id());
        arena.free(blocks[2].id());
        assert!(arena.allocate(100 * MIB, owner(peers)).is_ok());
        arena.free(blocks[0].id());
        assert_eq!(arena.audit(|_| true).faults, [""; 0]);
    }

    #[test]
    fn idle_rest_of_a_span_serves_the_budget() {
        let ([peers, _], [arena, _]) = pair();
        let [long, next, last] =
            [70 * MIB, 30 * MIB, UNIT].map(|bytes| arena.allocate(bytes, owner(peers)).unwrap());
        // One free span of both, of which the second part stays touched.
        arena.free(long.id());
        arena.free(next.id());
        arena.set_budget(90 * MIB as u64);
        let block = arena.allocate(80 * MIB, owner(peers)).unwrap();
        assert_eq!(block.offset(), long.offset());
        assert!(arena.allocate(10 * MIB, owner(peers)).is_err());
        arena.free(block.id());
        check(&arena, 1);
        arena.free(last.id());
        check(&arena, 0);
    }

    #[test]
    fn long_free_spans_are_given_back() {
        let ([peers, _], [arena, _]) = pair();
        let block = arena.allocate(128 * MIB, owner(peers)).unwrap();
        let touched = || arena.head().charged.load(Ordering::Relaxed) as usize * UNIT;
        assert_eq!(touched(), 128 * MIB);
        arena.free(block.id());
        assert_eq!(touched(), 0);
        check(&arena, 0);
    }

    #[test]
    fn blocks_of_the_dead_are_found_and_their_lock_is_inherited() {
        let ([living, dying], [arena, theirs]) = pair();
        let kept = arena.allocate(1, owner(living)).unwrap();
        let lost = theirs.allocate(3 * UNIT, owner(dying)).unwrap();
        // It dies in the allocator, in the middle of giving a block to a word.
        theirs.lock();
        let word = &theirs.head().nonce; // Any word of the region serves.
        let before = word.load(Ordering::Relaxed);
        let cut = theirs.take_span(1).unwrap();
        dying.die();
        assert_eq!(arena.left_by(owner(dying)), [lost.id()]);
        arena.free(lost.id());
        // The block that it cut and never owned is free again.
        check(&arena, 1);
        assert!(cut.2 > before);
        assert_eq!(arena.owner(kept.id()), Some(owner(living)));
    }

    #[test]
    fn owner_changes_only_from_the_owner() {
        let ([living, dying], [arena, _]) = pair();
        let block = arena.allocate(1, owner(living)).unwrap();
        let object = Owner::Object(ObjectId::new(3, 4));
        assert!(!arena.set_owner(block.id(), owner(dying), object));
        assert!(arena.set_owner(block.id(), owner(living), object));
        assert_eq!(arena.owner(block.id()), Some(object));
        assert_eq!(arena.left_by(object), [block.id()]);
    }
}
