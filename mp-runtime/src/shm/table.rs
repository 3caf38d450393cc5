//! Shared objects, who holds them, and the parcels in which messages carry handles to them.
//!
//! An object lives while a process holds it (one bit a process, so that a death is one removal) or
//! a parcel refers to it (a count, changed together with the parcel's entry by a redo record, so
//! that it is exact whoever dies). Processes count their own clones themselves.

use std::sync::Arc;

use super::arena::{Arena, BlockId, OutOfMemory, Owner, Tag};
use super::redo::Redo;
use super::safe::shared;
use super::{Region, ShmSafe};
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering};
use crate::sync::raw::{
    Acquired, Bell, Holder, Peers, RawBarrier, RawEvent, RawMutex, RawRw, RawShares,
};

/// Processes of a program that may be alive at once.
pub(crate) const MAX_PROCESSES: u32 = 1024;
/// Objects of a program that may be alive at once.
pub(crate) const MAX_OBJECTS: u32 = 1 << 16;

/// Bytes of an object's own state.
pub(crate) const PAYLOAD: usize = 320;
const GENERATIONS: u32 = 1 << 20;

shared! {
    /// The table's shared state, followed by its entries. All zeros is an empty table.
    #[repr(align(64))]
    pub(crate) struct Head {
        lock: RawMutex,
        /// Entries that were ever used.
        reach: AtomicU32,
        /// First free entry as index + 1. Derived.
        free: AtomicU32,
        _pad: AtomicU32,
        redo: Redo,
    }
}

shared! {
    /// One object.
    #[repr(align(64))]
    pub(crate) struct Entry {
        /// `{ state: 2 bits, kind: 8 bits, generation: 20 bits }`.
        word: AtomicU64,
        /// Entries of parcels that refer to the object.
        transit: AtomicU64,
        /// One bit for each process that holds it.
        holders: [AtomicU64; MAX_PROCESSES as usize / 64],
        /// While it is dying: the process that takes it apart.
        undertaker: AtomicU32,
        /// Next free entry as index + 1. Derived.
        next: AtomicU32,
        _pad: [AtomicU64; 5],
        payload: [AtomicU64; PAYLOAD / 8],
        /// One bit for each process whose threads watch the object's bells (`wait/README.md`). A bit
        /// too many costs a needless look, so whoever clears one need not be quick.
        watchers: [AtomicU64; MAX_PROCESSES as usize / 64],
    }
}

const _: () = assert!(size_of::<Entry>() == 640);

shared! {
    /// A handle on its way: `state` says whether the object counts it.
    struct ParcelEntry {
        object: AtomicU64,
        state: AtomicU64,
    }
}

/// The entry is not counted, or no longer.
const NOT_COUNTED: u64 = 0;
/// The object counts the entry.
const COUNTED: u64 = 1;

/// What kind of object an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A lock.
    Lock = 1,
    /// A queue.
    Queue = 2,
    /// A lock that its holder may acquire again.
    RLock = 3,
    /// A lock for many to read, or one to write.
    RwLock = 4,
    /// A number of permits.
    Semaphore = 5,
    /// Something to be notified of.
    Condition = 6,
    /// A flag to wait for.
    Event = 7,
    /// A place to wait for each other.
    Barrier = 8,
    /// Plain values with a lock.
    Cells = 10,
    /// Plain values that do not change any more.
    Shared = 11,
    /// One end of a pipe: its state names two queues, which are closed when it dies.
    PipeEnd = 13,
    /// What stands for an object of a manager, and has no state here: who holds it uses that one.
    Token = 15,
}

/// What a death means for the objects of a kind: where in their state what stands, in bytes.
struct Layout {
    /// Locks that a successor inherits and puts right.
    locks: &'static [u64],
    /// Bells of those who wait at the object.
    bells: &'static [u64],
    /// Whether the state begins with a lock that is marked when its holder dies.
    is_marked: bool,
    /// Whether it owns blocks, which are freed with it.
    owns_blocks: bool,
    /// Whether the state begins with a barrier, which breaks when one who holds it dies.
    is_barrier: bool,
    /// Shares of which each process has some.
    shares: &'static [u64],
}

/// Where in the state of a [`Kind::RwLock`] its readers are.
pub(crate) const READERS: u64 = 80;
/// Its two sets of them.
const SETS: [u64; 2] = [READERS + RawRw::SETS[0], READERS + RawRw::SETS[1]];

impl Layout {
    /// A state that a death leaves as it is.
    const PLAIN: Self = Self {
        locks: &[],
        bells: &[],
        is_marked: false,
        owns_blocks: false,
        is_barrier: false,
        shares: &[],
    };
}

impl Kind {
    /// The kind that an entry's word names; `None` if it is of another build.
    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            1 => Some(Self::Lock),
            2 => Some(Self::Queue),
            3 => Some(Self::RLock),
            4 => Some(Self::RwLock),
            5 => Some(Self::Semaphore),
            6 => Some(Self::Condition),
            7 => Some(Self::Event),
            8 => Some(Self::Barrier),
            10 => Some(Self::Cells),
            11 => Some(Self::Shared),
            13 => Some(Self::PipeEnd),
            15 => Some(Self::Token),
            _ => None,
        }
    }

    const fn layout(self) -> Layout {
        match self {
            Self::Lock | Self::RLock => Layout {
                is_marked: true,
                ..Layout::PLAIN
            },
            Self::PipeEnd | Self::Token => Layout::PLAIN,
            Self::Queue => Layout {
                locks: &[0, 64],
                bells: &[128, 192, 196],
                owns_blocks: true,
                ..Layout::PLAIN
            },
            Self::RwLock => Layout {
                locks: &[SETS[0] + RawShares::LOCK, SETS[1] + RawShares::LOCK],
                bells: &[
                    READERS + RawRw::WRITTEN,
                    SETS[0] + RawShares::BELL,
                    SETS[1] + RawShares::BELL,
                ],
                is_marked: true,
                owns_blocks: true,
                shares: &SETS,
                ..Layout::PLAIN
            },
            Self::Semaphore => Layout {
                locks: &[RawShares::LOCK],
                bells: &[RawShares::BELL],
                owns_blocks: true,
                shares: &[0],
                ..Layout::PLAIN
            },
            Self::Condition => Layout {
                bells: &[0],
                ..Layout::PLAIN
            },
            Self::Event => Layout {
                bells: &[RawEvent::BELL],
                ..Layout::PLAIN
            },
            Self::Barrier => Layout {
                is_barrier: true,
                ..Layout::PLAIN
            },
            Self::Cells => Layout {
                is_marked: true,
                owns_blocks: true,
                ..Layout::PLAIN
            },
            Self::Shared => Layout {
                owns_blocks: true,
                ..Layout::PLAIN
            },
        }
    }
}

/// Where in a queue's state the flag stands that says that it is closed.
pub(crate) const QUEUE_CLOSED: u64 = 4;

/// An entry's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free = 0,
    Live = 1,
    /// Nobody refers to it; what it owns is being freed.
    Dying = 2,
}

/// An object by name: the generation tells it from the next one in the same entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ObjectId {
    index: u32,
    generation: u32,
}

impl ObjectId {
    /// The object in entry `index` at `generation`.
    pub(crate) const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// The number of its entry.
    pub(crate) const fn index(self) -> u32 {
        self.index
    }

    /// The entry's generation while the object lives in it.
    pub(crate) const fn generation(self) -> u32 {
        self.generation
    }

    /// The name as a word.
    pub(crate) fn bits(self) -> u64 {
        (u64::from(self.index) << 32) | u64::from(self.generation)
    }

    /// The object that a word names.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self::new((bits >> 32) as u32, bits as u32)
    }
}

/// All entries are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyObjects;

/// The object is no longer there, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// The object table of a program.
pub(crate) struct Table {
    region: Arc<Region>,
    peers: &'static (dyn Peers + Sync),
    head: u64,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl Table {
    /// Bytes that a table takes in its region.
    pub(crate) const LEN: u64 =
        size_of::<Head>() as u64 + MAX_OBJECTS as u64 * size_of::<Entry>() as u64;

    /// The table that begins at `head`.
    pub(crate) fn new(region: Arc<Region>, head: u64, peers: &'static (dyn Peers + Sync)) -> Self {
        Self {
            region,
            peers,
            head,
        }
    }

    /// Makes an object whose state is all zeros, held by the calling process.
    pub(crate) fn create(&self, kind: Kind) -> Result<ObjectId, TooManyObjects> {
        self.lock();
        let created = self.free_entry().map(|index| {
            let entry = self.entry(index);
            for word in &entry.payload {
                word.store(0, Ordering::Relaxed);
            }
            for word in &entry.holders {
                word.store(0, Ordering::Relaxed);
            }
            for word in &entry.watchers {
                word.store(0, Ordering::Relaxed);
            }
            entry.transit.store(0, Ordering::Relaxed);
            let me = self.peers.me().slot();
            entry.holders[me as usize / 64].store(1 << (me % 64), Ordering::Relaxed);
            let generation = generation_of(entry.word.load(Ordering::Relaxed));
            fault!("table.filled");
            // Release: the object exists with this store, complete.
            entry
                .word
                .store(word(State::Live, kind as u8, generation), Ordering::Release);
            ObjectId::new(index, generation)
        });
        self.unlock();
        created.ok_or(TooManyObjects)
    }

    /// Makes the calling process a holder.
    pub(crate) fn hold(&self, id: ObjectId) -> Result<(), Gone> {
        self.lock();
        let held = self.live(id).map(|entry| {
            let me = self.peers.me().slot();
            entry.holders[me as usize / 64].fetch_or(1 << (me % 64), Ordering::Relaxed);
        });
        self.unlock();
        held.ok_or(Gone)
    }

    /// Ends a process's hold on an object. `arena` holds what the object owns.
    pub(crate) fn let_go(&self, arena: &Arena, id: ObjectId, slot: u32) {
        self.lock();
        let dying = self.live(id).is_some_and(|entry| {
            let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
            entry.watchers[word].fetch_and(!bit, Ordering::Relaxed);
            entry.holders[word].fetch_and(!bit, Ordering::Relaxed);
            fault!("table.let_go");
            self.doom_if_unused(entry)
        });
        self.unlock();
        if dying {
            self.bury(arena, vec![id]);
        }
    }

    /// Ends every hold of a dead process and takes over what it was taking apart.
    pub(crate) fn let_go_all(&self, arena: &Arena, dead: Holder) {
        self.head().lock.abandon(self.peers, dead);
        let slot = dead.slot();
        let reach = self.head().reach.load(Ordering::Acquire);
        let bit = 1 << (slot % 64);
        for index in 0..reach.min(MAX_OBJECTS) {
            let entry = self.entry(index);
            let seen = entry.word.load(Ordering::Acquire);
            let id = ObjectId::new(index, generation_of(seen));
            match state_of(seen) {
                State::Live => {
                    if entry.holders[slot as usize / 64].load(Ordering::Relaxed) & bit != 0 {
                        self.wake_waiting(entry, kind_of(seen), dead);
                        self.let_go(arena, id, slot);
                    } else if entry.transit.load(Ordering::Relaxed) == 0 && !entry.is_held() {
                        self.doom(arena, id);
                    }
                }
                State::Dying => {
                    if self.adopt_burial(entry, seen) {
                        self.bury(arena, vec![id]);
                    }
                }
                State::Free => {}
            }
        }
    }

    /// Tells those who wait at an object of what the death of a holder means for them: a lock can be
    /// taken over, a change may have been made without a ring.
    fn wake_waiting(&self, entry: &Entry, kind: u8, dead: Holder) {
        let payload = self.region.offset_of(&entry.payload);
        let payload = payload.expect("entries lie in the region");
        let Some(layout) = Kind::from_bits(kind).map(Kind::layout) else {
            return;
        };
        for offset in layout.locks {
            let lock: &RawMutex = self.region.at(payload + offset);
            lock.abandon(self.peers, dead);
        }
        if layout.is_barrier {
            let barrier: &RawBarrier = self.region.at(payload);
            barrier.report_death(self.peers, dead);
        }
        for offset in layout.bells {
            let bell: &Bell = self.region.at(payload + offset);
            bell.alarm(self.peers);
        }
    }

    /// From now on the calling process's threads watch the object, which the process holds, or no
    /// longer: those who ring its bells ring the process's doorbell as well.
    pub(crate) fn watch(&self, id: ObjectId, is_watched: bool) {
        let Some(entry) = self.live(id) else { return };
        let me = self.peers.me().slot();
        let (word, bit) = (&entry.watchers[me as usize / 64], 1 << (me % 64));
        // Relaxed: who raises it listens to a bell next, whose fence orders the two.
        if is_watched {
            word.fetch_or(bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// The slots of the processes that watch the object in whose state `offset` lies, in a table
    /// that begins at `head`; none if it lies elsewhere.
    pub(crate) fn watchers_at(
        region: &Region,
        head: u64,
        offset: u64,
    ) -> impl Iterator<Item = u32> + '_ {
        let first = head + size_of::<Head>() as u64;
        let size = size_of::<Entry>() as u64;
        let index = offset.checked_sub(first).map(|behind| behind / size);
        let entry = index
            .filter(|&index| index < u64::from(MAX_OBJECTS))
            .map(|index| region.at::<Entry>(first + index * size));
        entry.into_iter().flat_map(|entry| {
            entry.watchers.iter().zip(0..).flat_map(|(word, index)| {
                // Relaxed: the fence in `Bell::ring_waiting` comes before.
                let mut bits = word.load(Ordering::Relaxed);
                std::iter::from_fn(move || {
                    let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                    bits &= bits - 1;
                    Some(index * 64 + bit)
                })
            })
        })
    }

    /// Whether a process holds the object.
    pub(crate) fn is_held_by(&self, id: ObjectId, slot: u32) -> bool {
        self.live(id).is_some_and(|entry| {
            entry.holders[slot as usize / 64].load(Ordering::Relaxed) & (1 << (slot % 64)) != 0
        })
    }

    /// The objects that a process holds and whose state begins with a lock that is marked when its
    /// holder dies.
    pub(crate) fn marked_held_by(&self, slot: u32) -> Vec<ObjectId> {
        let reach = self.head().reach.load(Ordering::Acquire);
        (0..reach.min(MAX_OBJECTS))
            .map(|index| {
                let seen = self.entry(index).word.load(Ordering::Acquire);
                ObjectId::new(index, generation_of(seen))
            })
            .filter(|&id| self.is_held_by(id, slot) && self.marked(id).is_some())
            .collect()
    }

    /// Where in the region the lock is that is marked when its holder dies, if the object lives and
    /// has one.
    pub(crate) fn marked(&self, id: ObjectId) -> Option<u64> {
        let entry = self.live(id)?;
        let kind = Kind::from_bits(kind_of(entry.word.load(Ordering::Relaxed)))?;
        if !kind.layout().is_marked {
            return None;
        }
        self.region.offset_of(&entry.payload)
    }

    /// The shares of an object, of which it may have several kinds, and who has how many, if the object
    /// lives, has such shares and was opened.
    pub(crate) fn shares(&self, id: ObjectId, which: usize) -> Option<(&RawShares, &[AtomicU64])> {
        let entry = self.live(id)?;
        let kind = Kind::from_bits(kind_of(entry.word.load(Ordering::Relaxed)))?;
        let at = self.region.offset_of(&entry.payload)? + kind.layout().shares.get(which)?;
        let shares: &RawShares = self.region.at(at);
        let entries = shares.entries();
        (entries != 0).then(|| {
            let entries = self.region.slice_at(entries, MAX_PROCESSES as usize);
            (shares, entries)
        })
    }

    /// The object's state, if it lives and is of that kind.
    pub(crate) fn payload<T: ShmSafe>(&self, id: ObjectId, kind: Kind) -> Result<&T, Gone> {
        const { assert!(size_of::<T>() <= PAYLOAD) };
        let entry = self.live(id).ok_or(Gone)?;
        if kind_of(entry.word.load(Ordering::Relaxed)) != kind as u8 {
            return Err(Gone);
        }
        let offset = self
            .region
            .offset_of(&entry.payload)
            .expect("entries lie in the region");
        Ok(self.region.at(offset))
    }

    /// Whether the object lives and is of that kind.
    pub(crate) fn is(&self, id: ObjectId, kind: Kind) -> bool {
        let is_kind = |entry: &Entry| kind_of(entry.word.load(Ordering::Relaxed)) == kind as u8;
        self.live(id).is_some_and(is_kind)
    }

    /// Whether the object lives.
    pub(crate) fn is_live(&self, id: ObjectId) -> bool {
        self.live(id).is_some()
    }

    /// How many objects live, and how many of them no process holds.
    pub(crate) fn count(&self) -> (u32, u32) {
        let reach = self.head().reach.load(Ordering::Acquire);
        let mut counts = (0, 0);
        for index in 0..reach.min(MAX_OBJECTS) {
            let entry = self.entry(index);
            if state_of(entry.word.load(Ordering::Acquire)) == State::Live {
                counts.0 += 1;
                counts.1 += u32::from(!entry.is_held());
            }
        }
        counts
    }

    // Parcels.

    /// Packs handles for a message. The parcel belongs to the calling process until it is handed on.
    pub(crate) fn pack(&self, arena: &Arena, handles: &[ObjectId]) -> Result<BlockId, OutOfMemory> {
        let len = 8 + std::mem::size_of_val(handles) * 2;
        let owner = Owner::Process(self.peers.me());
        let block = arena.allocate(len, owner)?;
        let count: &AtomicU64 = self.region.at(block.offset());
        count.store(0, Ordering::Relaxed);
        arena.set_tag(block.id(), Tag::Parcel);
        let entries: &[ParcelEntry] = self.region.slice_at(block.offset() + 8, handles.len());
        for (entry, id) in entries.iter().zip(handles) {
            entry.object.store(id.bits(), Ordering::Relaxed);
            entry.state.store(NOT_COUNTED, Ordering::Relaxed);
        }
        // Release: the entries are there before a successor looks at them.
        count.store(handles.len() as u64, Ordering::Release);
        for (entry, id) in entries.iter().zip(handles) {
            self.lock();
            if let Some(object) = self.live(*id) {
                let transit = object.transit.load(Ordering::Relaxed);
                self.head().redo.commit(
                    &self.region,
                    &[(&object.transit, transit + 1), (&entry.state, COUNTED)],
                );
            }
            self.unlock();
            fault!("parcel.counted");
        }
        Ok(block.id())
    }

    /// What is in a parcel.
    pub(crate) fn packed(
        &self,
        arena: &Arena,
        parcel: BlockId,
    ) -> impl Iterator<Item = ObjectId> + use<'_> {
        let entries = match arena.is_parcel(parcel) {
            true => self.parcel_entries(arena, parcel),
            false => &[],
        };
        let object = |entry: &ParcelEntry| entry.object.load(Ordering::Relaxed);
        entries
            .iter()
            .map(move |entry| ObjectId::from_bits(object(entry)))
    }

    /// Ends a parcel: what it referred to may die of it.
    pub(crate) fn discard(&self, arena: &Arena, parcel: BlockId) {
        let mut dying = Vec::new();
        self.release_entries(arena, parcel, &mut dying);
        arena.free(parcel);
        self.bury(arena, dying);
    }

    /// Frees what `owner`, which is gone, still owns.
    pub(crate) fn free_left_by(&self, arena: &Arena, owner: Owner) {
        let mut dying = Vec::new();
        self.free_blocks(arena, owner, &mut dying);
        self.bury(arena, dying);
    }

    fn parcel_entries(&self, arena: &Arena, parcel: BlockId) -> &[ParcelEntry] {
        let Some(block) = arena.find(parcel) else {
            return &[];
        };
        // Acquire: pairs with the Release in `pack`.
        let count: &AtomicU64 = self.region.at(block.offset());
        let count = count.load(Ordering::Acquire) as usize;
        let room = (block.capacity() - 8) / size_of::<ParcelEntry>();
        self.region.slice_at(block.offset() + 8, count.min(room))
    }

    fn release_entries(&self, arena: &Arena, parcel: BlockId, dying: &mut Vec<ObjectId>) {
        for entry in self.parcel_entries(arena, parcel) {
            self.lock();
            if entry.state.load(Ordering::Relaxed) == COUNTED {
                let id = ObjectId::from_bits(entry.object.load(Ordering::Relaxed));
                if let Some(object) = self.live(id) {
                    let transit = object.transit.load(Ordering::Relaxed);
                    self.head().redo.commit(
                        &self.region,
                        &[(&object.transit, transit - 1), (&entry.state, NOT_COUNTED)],
                    );
                    fault!("parcel.released");
                    if self.doom_if_unused(object) {
                        dying.push(id);
                    }
                }
            }
            self.unlock();
        }
    }

    fn free_blocks(&self, arena: &Arena, owner: Owner, dying: &mut Vec<ObjectId>) {
        for block in arena.left_by(owner) {
            if arena.is_parcel(block) {
                self.release_entries(arena, block, dying);
            }
            arena.free(block);
            fault!("table.freed_one");
        }
    }

    /// Takes dying objects apart, and those that die of it.
    fn bury(&self, arena: &Arena, mut dying: Vec<ObjectId>) {
        while let Some(id) = dying.pop() {
            let entry = self.entry(id.index);
            let seen = entry.word.load(Ordering::Relaxed);
            let kind = Kind::from_bits(kind_of(seen));
            if kind.is_none_or(|kind| kind.layout().owns_blocks) {
                self.free_blocks(arena, Owner::Object(id), &mut dying);
            }
            if kind == Some(Kind::PipeEnd) {
                self.close_ways(entry);
            }
            fault!("table.emptied");
            self.lock();
            let next = (id.generation + 1) % GENERATIONS;
            entry
                .word
                .store(word(State::Free, 0, next), Ordering::Release);
            self.push_free(id.index);
            self.unlock();
        }
    }

    /// Closes the two queues that a dying end of a pipe names, and tells those who wait there.
    ///
    /// Done twice it is a needless wake-up. No one puts into the end's own way any more, since whoever
    /// does holds the end; so what is empty after the flag is empty for good.
    fn close_ways(&self, end: &Entry) {
        for way in &end.payload[..2] {
            let way = ObjectId::from_bits(way.load(Ordering::Relaxed));
            self.lock();
            // Nobody may hold it but the other end, which may let go: under the lock it stays.
            if let Some(entry) = self.live(way)
                && kind_of(entry.word.load(Ordering::Relaxed)) == Kind::Queue as u8
            {
                let payload = self.region.offset_of(&entry.payload);
                let payload = payload.expect("entries lie in the region");
                let closed: &AtomicU32 = self.region.at(payload + QUEUE_CLOSED);
                // Release: pairs with the Acquire of who looks whether it is closed.
                closed.store(1, Ordering::Release);
                fault!("pipe.closing");
                for offset in Kind::Queue.layout().bells {
                    let bell: &Bell = self.region.at(payload + offset);
                    bell.alarm(self.peers);
                }
            }
            self.unlock();
        }
    }

    // Under the lock.

    fn lock(&self) {
        match self.head().lock.lock(self.peers, Deadline::NEVER) {
            Ok(Acquired::Clean) => {}
            Ok(Acquired::Inherited(_)) => self.repair(),
            Err(_) => unreachable!("the table's lock is never marked and has no deadline"),
        }
    }

    fn unlock(&self) {
        self.head().lock.unlock(self.peers);
    }

    #[cold]
    fn repair(&self) {
        let head = self.head();
        head.redo.finish(&self.region);
        head.free.store(0, Ordering::Relaxed);
        for index in 0..head.reach.load(Ordering::Relaxed).min(MAX_OBJECTS) {
            if state_of(self.entry(index).word.load(Ordering::Relaxed)) == State::Free {
                self.push_free(index);
            }
        }
    }

    fn free_entry(&self) -> Option<u32> {
        let head = self.head();
        if let Some(index) = head.free.load(Ordering::Relaxed).checked_sub(1) {
            let next = self.entry(index).next.load(Ordering::Relaxed);
            head.free.store(next, Ordering::Relaxed);
            return Some(index);
        }
        let index = head.reach.load(Ordering::Relaxed);
        if index >= MAX_OBJECTS {
            return None;
        }
        head.reach.store(index + 1, Ordering::Release);
        Some(index)
    }

    fn push_free(&self, index: u32) {
        let head = self.head();
        let next = head.free.load(Ordering::Relaxed);
        self.entry(index).next.store(next, Ordering::Relaxed);
        head.free.store(index + 1, Ordering::Relaxed);
    }

    /// Marks an object that nobody refers to as dying, in the care of the calling process.
    fn doom_if_unused(&self, entry: &Entry) -> bool {
        if entry.is_held() || entry.transit.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let seen = entry.word.load(Ordering::Relaxed);
        let me = self.peers.me().bits();
        entry.undertaker.store(me, Ordering::Relaxed);
        entry.word.store(
            word(State::Dying, kind_of(seen), generation_of(seen)),
            Ordering::Release,
        );
        fault!("table.doomed");
        true
    }

    /// An object that lost its last holder to a process that died before it could doom it.
    fn doom(&self, arena: &Arena, id: ObjectId) {
        self.lock();
        let dying = self
            .live(id)
            .is_some_and(|entry| self.doom_if_unused(entry));
        self.unlock();
        if dying {
            self.bury(arena, vec![id]);
        }
    }

    /// Takes over a burial whose undertaker died.
    fn adopt_burial(&self, entry: &Entry, seen: u64) -> bool {
        self.lock();
        let undertaker = entry.undertaker.load(Ordering::Relaxed);
        let mine = entry.word.load(Ordering::Relaxed) == seen
            && Holder::from_bits(undertaker).is_some_and(|holder| !self.peers.is_alive(holder));
        if mine {
            let me = self.peers.me().bits();
            entry.undertaker.store(me, Ordering::Relaxed);
        }
        self.unlock();
        mine
    }

    fn live(&self, id: ObjectId) -> Option<&Entry> {
        if id.index >= MAX_OBJECTS {
            return None;
        }
        let entry = self.entry(id.index);
        // Acquire: pairs with the Release in `create`.
        let word = entry.word.load(Ordering::Acquire);
        (state_of(word) == State::Live && generation_of(word) == id.generation).then_some(entry)
    }

    fn entry(&self, index: u32) -> &Entry {
        let first = self.head + size_of::<Head>() as u64;
        self.region
            .at(first + u64::from(index) * size_of::<Entry>() as u64)
    }

    fn head(&self) -> &Head {
        self.region.at(self.head)
    }
}

impl Entry {
    fn is_held(&self) -> bool {
        self.holders
            .iter()
            .any(|word| word.load(Ordering::Relaxed) != 0)
    }
}

fn word(state: State, kind: u8, generation: u32) -> u64 {
    ((state as u64) << 28) | (u64::from(kind) << 20) | u64::from(generation)
}

fn state_of(word: u64) -> State {
    match (word >> 28) & 3 {
        1 => State::Live,
        2 => State::Dying,
        _ => State::Free,
    }
}

fn kind_of(word: u64) -> u8 {
    (word >> 20) as u8
}

fn generation_of(word: u64) -> u32 {
    (word as u32) & (GENERATIONS - 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestPeers;
    use super::*;

    struct World {
        peers: [&'static TestPeers; 2],
        arenas: [Arena; 2],
        tables: [Table; 2],
    }

    fn world() -> World {
        let peers = TestPeers::pair();
        let region = Arc::new(Region::create("mp-test", 128 << 20).unwrap());
        let behind = Table::LEN.next_multiple_of(4096);
        let arenas = peers.map(|peers| Arena::new(region.clone(), behind, peers));
        arenas[0].set_budget(64 << 20);
        World {
            peers,
            arenas,
            tables: peers.map(|peers| Table::new(region.clone(), 0, peers)),
        }
    }

    impl World {
        /// What the burial of the second process does here.
        fn bury_second(&self) {
            let [_, dying] = self.peers;
            dying.die();
            self.tables[0].let_go_all(&self.arenas[0], dying.me());
            self.tables[0].free_left_by(&self.arenas[0], Owner::Process(dying.me()));
        }

        #[track_caller]
        fn is_empty(&self) {
            let audit = self.arenas[0].audit(|_| true);
            assert_eq!(audit.faults, [""; 0]);
            assert_eq!((audit.process_units, audit.object_units), (0, 0));
            assert_eq!(self.tables[0].count(), (0, 0));
        }
    }

    #[test]
    fn object_lives_while_any_process_holds_it() {
        let world = world();
        let id = world.tables[0].create(Kind::Lock).unwrap();
        world.tables[1].hold(id).unwrap();
        world.tables[1].hold(id).unwrap();
        world.tables[0].let_go(&world.arenas[0], id, 0);
        assert!(world.tables[0].is_live(id));
        world.tables[1].let_go(&world.arenas[1], id, 1);
        assert!(!world.tables[0].is_live(id));
        assert_eq!(world.tables[0].hold(id), Err(Gone));
        let next = world.tables[0].create(Kind::Lock).unwrap();
        assert_eq!(next.index(), id.index());
        assert_ne!(next, id);
        world.tables[0].let_go(&world.arenas[0], next, 0);
        world.is_empty();
    }

    #[test]
    fn parcel_keeps_an_object_that_nobody_holds() {
        let world = world();
        let id = world.tables[0].create(Kind::Queue).unwrap();
        let parcel = world.tables[0].pack(&world.arenas[0], &[id, id]).unwrap();
        world.tables[0].let_go(&world.arenas[0], id, 0);
        assert_eq!(world.tables[0].count(), (1, 1));
        world.tables[1].hold(id).unwrap();
        world.tables[0].discard(&world.arenas[0], parcel);
        assert!(world.tables[1].is_live(id));
        world.tables[1].let_go(&world.arenas[1], id, 1);
        world.is_empty();
    }

    #[test]
    fn objects_inside_objects_go_with_them() {
        let world = world();
        let [table, _] = &world.tables;
        let [arena, _] = &world.arenas;
        let outer = table.create(Kind::Queue).unwrap();
        let inner = table.create(Kind::Queue).unwrap();
        let parcel = table.pack(arena, &[inner]).unwrap();
        let me = Owner::Process(world.peers[0].me());
        assert!(arena.set_owner(parcel, me, Owner::Object(outer)));
        table.let_go(arena, inner, 0);
        assert!(table.is_live(inner));
        table.let_go(arena, outer, 0);
        world.is_empty();
    }

    #[test]
    fn what_a_dead_process_held_and_packed_is_let_go() {
        let world = world();
        let held = world.tables[1].create(Kind::Lock).unwrap();
        let packed = world.tables[1].create(Kind::Queue).unwrap();
        world.tables[1]
            .pack(&world.arenas[1], &[packed, held])
            .unwrap();
        world.tables[0].hold(held).unwrap();
        world.bury_second();
        assert!(world.tables[0].is_live(held));
        assert!(!world.tables[0].is_live(packed));
        world.tables[0].let_go(&world.arenas[0], held, 0);
        world.is_empty();
    }

    #[test]
    fn burial_that_was_broken_off_is_taken_over() {
        let world = world();
        let id = world.tables[1].create(Kind::Queue).unwrap();
        let owner = Owner::Object(id);
        world.arenas[1].allocate(1, owner).unwrap();
        // The second process dooms the object and dies before it takes it apart.
        world.tables[1].lock();
        let entry = world.tables[1].entry(id.index());
        entry.holders[0].store(0, Ordering::Relaxed);
        assert!(world.tables[1].doom_if_unused(entry));
        world.tables[1].unlock();
        world.bury_second();
        world.is_empty();
    }

    #[test]
    fn count_is_finished_by_who_inherits_the_lock() {
        let world = world();
        let id = world.tables[0].create(Kind::Lock).unwrap();
        world.tables[1].lock();
        let entry = world.tables[1].entry(id.index());
        // Recorded, and dead before it was applied: as `Redo::commit` leaves it at its first fault.
        let redo = &world.tables[1].head().redo;
        redo.record(&world.tables[1].region, &[(&entry.transit, 7)]);
        world.peers[1].die();
        let _ = world.tables[0].hold(id);
        assert_eq!(entry.transit.load(Ordering::Relaxed), 7);
    }

    /// Who buried the end before rang, and died between taking the waiting bit down and the doorbells
    /// of those who watch: whoever does it again finds nobody waiting, and tells them all the same.
    #[test]
    fn end_of_a_pipe_is_told_to_those_whose_waiting_bit_is_down() {
        let world = world();
        let [table, _] = &world.tables;
        let arena = &world.arenas[0];
        let way = table.create(Kind::Queue).unwrap();
        let end = table.create(Kind::PipeEnd).unwrap();
        table.entry(end.index()).payload[0].store(way.bits(), Ordering::Relaxed);
        let payload = table.region.offset_of(&table.entry(way.index()).payload);
        let rung = Kind::Queue.layout().bells.iter().map(|offset| {
            let bell: &Bell = table.region.at(payload.unwrap() + offset);
            let _ = bell.listen();
            // Nobody sleeps there, so the bit goes down.
            bell.ring_all(world.peers[1]);
            let word: &AtomicU32 = table.region.at(payload.unwrap() + offset);
            (word, word.load(Ordering::Relaxed))
        });
        let rung: Vec<_> = rung.collect();
        table.let_go(arena, end, 0);
        for (word, before) in rung {
            assert_ne!(word.load(Ordering::Relaxed), before);
        }
        table.let_go(arena, way, 0);
        world.is_empty();
    }
}
