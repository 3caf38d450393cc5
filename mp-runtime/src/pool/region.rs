//! A pool's memory: what lies where in it, the ring of jobs that are ready, and the bells.
//!
//! It is a region of the pool's own, so that a full arena of the program does not stop a pool. The
//! parent makes it, and each worker gets it as a descriptor. The protocol is in `pool/README.md`.

use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::job::{Claim, JOBS, Job, Running};
use super::nest::{NESTED, Nest};
use super::seat::Seat;
use super::wire;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fault::fault;
use crate::life::{Program, Roster, Whereabouts};
use crate::loom::{AtomicU32, AtomicU64, Ordering, fence};
use crate::shm::arena::{Block, UNIT};
use crate::shm::buffer::Buffer;
use crate::shm::safe::shared;
use crate::shm::table::MAX_PROCESSES;
use crate::shm::{Arena, BlockId, Owner, Region};
use crate::sync::raw::{Acquired, Bell, Holder, Peers, RawMutex, Relay};
use crate::sys;

/// Bells of calls. A call uses the one that its number leads to; two on one bell only wake each
/// other for nothing.
pub(super) const BELLS: usize = 256;

/// "mp pool" and the version of the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"mp pool\x07");

/// New calls are refused, and workers end once none is left.
pub(super) const CLOSED: u64 = 1;
/// Workers end after the job they are at, whatever is left.
pub(super) const STOPPED: u64 = 2;
/// Workers run no jobs any more but those of the tasks that are being run, and end once there are
/// none.
pub(super) const DRAINING: u64 = 4;

shared! {
    /// The first bytes of a pool's memory. What changes with each job lies in lines of its own, away from
    /// what is read with each.
    #[repr(align(128))]
    pub(super) struct Header {
        /// [`MAGIC`], which names the layout as well.
        magic: AtomicU64,
        /// The process that made the pool, as the bits of a [`Holder`].
        parent: AtomicU64,
        /// [`CLOSED`], [`STOPPED`] and [`DRAINING`].
        pub(super) flags: AtomicU64,
        /// Where a caller ran when it last put a job out.
        pub(super) caller: Whereabouts,
        /// Where the worker ran that began a job last.
        pub(super) worker: Whereabouts,
        /// How many workers there are meant to be that run jobs, at most, and whether there are fewer.
        pub(super) workers: AtomicU64,
        pub(super) is_short: AtomicU64,
        /// What tasks that call their pool need to know of its settings; zero is not set.
        pub(super) chunk_size: AtomicU64,
        pub(super) window: AtomicU64,
        pub(super) timeout: AtomicU64,
        pub(super) retries: [AtomicU64; 4],
        /// Items that a worker runs before it makes room for a fresh one; zero is no limit.
        pub(super) max_tasks: AtomicU64,
        /// Bytes of its own with which a worker makes room for a fresh one; zero is no limit.
        pub(super) max_memory: AtomicU64,
        /// Nanoseconds without a job after which a worker ends; zero is never.
        pub(super) idle_timeout: AtomicU64,
        /// Whether workers leave it to the parent to end when the program is asked to.
        pub(super) drains: AtomicU64,
        /// Whether results go to another machine.
        pub(super) is_attended: AtomicU64,
        /// What each worker runs first: a block, how many bytes of it, and what it is called with.
        pub(super) initializer: AtomicU64,
        pub(super) initializer_len: AtomicU64,
        /// What came of an initializer that failed: the first such block, owned by the parent.
        pub(super) initializer_failure: AtomicU64,
        _pad: [AtomicU64; 10],
        /// Calls that are under way. Callers write it, and workers read it once the pool is closed.
        pub(super) calls: AtomicU64,
        _pad2: [AtomicU64; 15],
        /// Jobs that were ever done: tells workers that die of what they do from those that die at
        /// once. Workers write it.
        pub(super) finished: AtomicU64,
        _pad3: [AtomicU64; 15],
    }
}

shared! {
    /// Jobs that are ready, in order. A hint: the truth is in their state words, and an entry whose
    /// job is not ready is passed over.
    ///
    /// A job that a worker looks for while it is put takes one line there: the tail's. The head's stays
    /// with who takes, and the others with who puts.
    #[repr(align(128))]
    struct Ring {
        /// How many entries were ever passed. Advanced by whoever finds the first one used up.
        head: AtomicU64,
        _pad: [AtomicU64; 15],
        /// See [`Tail`]. Advanced under the lock.
        tail: AtomicU64,
        _pad2: [AtomicU64; 15],
        /// Held while an entry is put.
        lock: RawMutex,
        _pad3: AtomicU32,
        /// So many entries were passed at least. Changed under the lock.
        passed: AtomicU64,
        _pad4: [AtomicU64; 14],
        entries: [AtomicU32; JOBS as usize],
    }
}

/// How many entries were ever put, and which job the last of them is:
/// `{ count: 52 bits, job: 12 bits }`.
#[derive(Clone, Copy, Debug)]
struct Tail(u64);

impl Tail {
    fn count(self) -> u64 {
        self.0 / u64::from(JOBS)
    }

    fn job(self) -> u32 {
        (self.0 % u64::from(JOBS)) as u32
    }

    /// With one more.
    fn and(self, job: u32) -> Self {
        Self((self.count() + 1) * u64::from(JOBS) + u64::from(job))
    }
}

shared! {
    /// Where those wait who have nothing to do.
    #[repr(align(128))]
    struct Bells {
        /// Who was woken at the next bell and is not at the ring yet.
        relay: Relay,
        /// Idle workers.
        work: Bell,
        /// Workers that stand by.
        standby: Bell,
        /// The parent's desk.
        desk: Bell,
        /// Callers.
        done: [Bell; BELLS],
        sharing: Sharing,
    }
}

shared! {
    /// The calls of the parent that have jobs whose items are together only for speed.
    #[repr(align(128))]
    struct Sharing {
        calls: AtomicU64,
        /// The same by bell.
        at: [AtomicU32; BELLS],
        _pad: [AtomicU64; 15],
    }
}

const _: () = assert!(offset_of!(Header, calls).is_multiple_of(128));
const _: () = assert!(offset_of!(Header, finished).is_multiple_of(128));

const RING: u64 = size_of::<Header>() as u64;
const BELLS_AT: u64 = RING + size_of::<Ring>() as u64;
const TABLE: u64 = (BELLS_AT + size_of::<Bells>() as u64).next_multiple_of(4096);
const SEATS: u64 = TABLE + ENTRIES as u64 * size_of::<Job>() as u64;
const NEST: u64 = SEATS + MAX_PROCESSES as u64 * size_of::<Seat>() as u64;
const SLIPS_AT: u64 = (NEST + size_of::<Nest>() as u64).next_multiple_of(4096);
const ARENA: u64 = (SLIPS_AT + SLIPS as u64 * 2 * SLIP as u64).next_multiple_of(4096);

/// Entries of the job table that have slips: as many as 500 workers have jobs.
const SLIPS: u32 = 1024;
/// Bytes of a slip. A job of one small item needs half of it.
pub(super) const SLIP: usize = 256;

/// Bytes that a processor has from another one at once.
const LINE: usize = 64;
/// Bytes of the first item or result that are fetched early.
const HEAD: usize = 12;

/// Entries of the job table: those of the parent's calls, then those of its tasks' calls.
const ENTRIES: u32 = JOBS + NESTED;

/// Bytes of free memory that stay touched: the items and results of large jobs that follow each
/// other use the same pages.
const KEEP_IDLE: u64 = 256 << 20;

/// The smallest memory that is of use.
const LEAST: u64 = ARENA + 16 * 1024 * 1024;
/// Address space for each byte of the budget, as in the program's arena.
const SPREAD: u64 = 4;

/// What a worker may claim besides the jobs that are for it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Whatever is ready, and first of all what a task waits for.
    Any,
    /// Jobs of calls that tasks have made.
    Nested,
    /// Nothing.
    Letters,
}

/// Which bytes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// What its caller has written.
    Items = 0,
    /// What its worker has written.
    Results = 1,
}

/// The ring is full.
#[derive(Debug)]
pub(super) struct RingFull;

/// A pool's memory as one of its processes sees it.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    region: Arc<Region>,
    arena: Arc<Arena>,
    peers: &'static Roster,
    parent: Holder,
    /// The entries of the job table below this may keep their blocks while they are free.
    keepers: u32,
}

/// How many entries keep blocks, at most.
const MOST_KEEPERS: u64 = SLIPS as u64;
/// … and what part of the pool's memory these are, at most: a 32nd, with two blocks each.
const KEEPERS_SHARE: u64 = 64;

impl Memory {
    /// Makes the memory of a new pool of the calling process.
    pub(super) fn create(program: &'static Program) -> Result<Self, Error> {
        let budget = sys::memory::memory_limit() / 2;
        let limit = sys::memory::file_size_limit().unwrap_or(u64::MAX);
        let wish = (budget.saturating_mul(SPREAD) + LEAST)
            .min(1 << 40)
            .min(limit);
        let mut len = wish & !4095;
        let region = loop {
            match Region::create("mp-pool", len) {
                Ok(region) => break region,
                Err(error) if error.raw_os_error() == Some(sys::ENOMEM) && len / 2 >= LEAST => {
                    len = (len / 2) & !4095;
                }
                Err(error) => {
                    return Err(Error::memory(
                        "could not make the memory of the pool",
                        error,
                    ));
                }
            }
        };
        if region.len() < LEAST {
            return Err(Error::memory(
                "could not make the memory of the pool: raise the limit on file size (ulimit -f)",
                std::io::ErrorKind::OutOfMemory.into(),
            ));
        }
        let parent = program.roster.me();
        let mut memory = Self::over(region, program, parent);
        memory.arena.set_budget(budget);
        let room = budget.min(memory.region.len() - ARENA);
        let keepers = room / UNIT as u64 / KEEPERS_SHARE;
        memory.keepers = keepers.min(MOST_KEEPERS) as u32;
        let header = memory.header();
        header
            .parent
            .store(u64::from(parent.bits()), Ordering::Relaxed);
        // Release: pairs with the Acquire in `attach`.
        header.magic.store(MAGIC, Ordering::Release);
        Ok(memory)
    }

    /// Maps the memory of the pool that the calling process works for.
    pub(super) fn attach(program: &'static Program, memory: OwnedFd) -> Result<Self, Error> {
        let wrong = || Error::wrong_build("the pool's memory has another layout");
        let region = Region::map(memory)
            .map_err(|error| Error::memory("could not map the memory of the pool", error))?;
        if region.len() < LEAST {
            return Err(wrong());
        }
        let header: &Header = region.at(0);
        // Acquire: pairs with the Release in `create`.
        if header.magic.load(Ordering::Acquire) != MAGIC {
            return Err(wrong());
        }
        let parent = header.parent.load(Ordering::Relaxed) as u32;
        let parent = Holder::from_bits(parent).ok_or_else(wrong)?;
        Ok(Self::over(region, program, parent))
    }

    fn over(region: Region, program: &'static Program, parent: Holder) -> Self {
        let region = Arc::new(region);
        let arena = Arena::new(region.clone(), ARENA, program.roster).keep_idle(KEEP_IDLE);
        Self {
            arena: Arc::new(arena),
            region,
            peers: program.roster,
            parent,
            keepers: 0,
        }
    }

    /// The memory itself, to hand to a worker.
    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Where inputs and results lie.
    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Who the processes of the program are.
    pub(super) fn peers(&self) -> &'static Roster {
        self.peers
    }

    /// What there is for calls from inside of tasks.
    #[inline]
    pub(super) fn nest(&self) -> &Nest {
        self.region.at(NEST)
    }

    /// The process that made the pool, as an owner of blocks.
    pub(super) fn parent(&self) -> Owner {
        Owner::Process(self.parent)
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        self.region.at(0)
    }

    /// The job in entry `index` of the table.
    #[inline]
    pub(super) fn job(&self, index: u32) -> &Job {
        assert!(index < ENTRIES, "no such job");
        self.region.at(place_of(index))
    }

    /// The entry that a job is in.
    #[inline]
    pub(super) fn index_of(&self, job: &Job) -> u32 {
        let distance = std::ptr::from_ref(job).addr() - std::ptr::from_ref(self.job(0)).addr();
        (distance / size_of::<Job>()) as u32
    }

    /// The seat of a worker.
    pub(super) fn seat(&self, worker: Holder) -> &Seat {
        let index = worker.slot();
        assert!(index < MAX_PROCESSES, "no such seat");
        self.region
            .at(SEATS + u64::from(index) * size_of::<Seat>() as u64)
    }

    /// The bytes of a block that the calling process may read, if it is there.
    pub(super) fn bytes(&self, block: u64, len: usize) -> Option<&[u8]> {
        let block = self.arena.find(BlockId::from_bits(block)?)?;
        Some(self.arena.bytes(&block, len))
    }

    // What small jobs need no blocks for.

    /// Where the slip of an entry for such bytes begins, if it has slips.
    #[inline]
    fn slip(&self, index: u32, side: Side) -> Option<u64> {
        let place = u64::from(index) * 2 + side as u64;
        (index < SLIPS).then(|| SLIPS_AT + place * SLIP as u64)
    }

    /// An empty buffer over the slip of an entry, if it has one and that has room for `bytes`. Whose the
    /// entry is, or the job in it, has its slips, too.
    #[inline]
    pub(super) fn over_slip(&self, index: u32, side: Side, bytes: usize) -> Option<Buffer> {
        let place = self.slip(index, side).filter(|_| bytes <= SLIP)?;
        let me = Owner::Process(self.peers.me());
        Some(Buffer::over_place(self.arena.clone(), me, place, SLIP))
    }

    /// The bytes of a job in the block that `word` names, or, if it names none, in the entry's slip.
    #[inline]
    pub(super) fn bytes_of(
        &self,
        index: u32,
        side: Side,
        word: &AtomicU64,
        len: usize,
    ) -> Option<&[u8]> {
        // Acquire: pairs with the Release of who named a block, for whom has not seen the job's word
        // since.
        match word.load(Ordering::Acquire) {
            0 => {
                let place = self.slip(index, side)?;
                Some(self.arena.place(place, len.min(SLIP)))
            }
            block => self.bytes(block, len),
        }
    }

    // What is fetched before it is needed: each line that another processor has written last takes as long
    // as a hundred instructions, and several take hardly longer than one.

    /// Says that the caller looks at a job that a worker is to claim.
    #[inline]
    fn expect_claim(&self, index: u32) {
        self.region.expect_writes(place_of(index), LINE);
        if let Some(items) = self.slip(index, Side::Items) {
            self.region.expect_reads(items, wire::RECORDS + HEAD);
        }
    }

    /// Says that the caller, which has claimed a job, is about to run it.
    #[inline]
    fn expect_run(&self, index: u32) {
        self.region
            .expect_writes(place_of(index) + LINE as u64, LINE);
        if let Some(results) = self.slip(index, Side::Results) {
            self.region
                .expect_writes(results + wire::RECORDS as u64, HEAD);
        }
    }

    /// Says that the job in an entry is over, whose caller is about to take the results and to use the entry
    /// for another.
    #[inline]
    pub(super) fn expect_end(&self, index: u32) {
        self.region
            .expect_writes(place_of(index) + LINE as u64, LINE);
        if let (Some(items), Some(results)) = (
            self.slip(index, Side::Items),
            self.slip(index, Side::Results),
        ) {
            self.region
                .expect_reads(results + wire::RECORDS as u64, HEAD);
            self.region.expect_writes(items, wire::RECORDS + HEAD);
        }
    }

    // Blocks that entries keep.

    /// Entries of the job table below this may keep their blocks while they are free.
    pub(super) fn keepers(&self) -> u32 {
        self.keepers
    }

    /// The block that `word` names, if it is the parent's, small enough to be kept, and has room for
    /// `bytes`.
    pub(super) fn kept(&self, word: &AtomicU64, bytes: usize) -> Option<Block> {
        let id = BlockId::from_bits(word.load(Ordering::Relaxed))?;
        let block = self.arena.find(id)?;
        let is_kept = block.capacity() == UNIT && self.arena.owner(id) == Some(self.parent());
        (is_kept && bytes <= UNIT).then_some(block)
    }

    // The ring.

    /// Puts a job that is ready at the end of the ring and wakes a worker; or leaves that to one that was
    /// woken for a job before it and is on its way. Returns whether it did itself.
    pub(super) fn push(&self, index: u32) -> Result<bool, RingFull> {
        let ring = self.ring();
        match ring.lock.lock(self.peers, Deadline::NEVER) {
            // Whoever died in here advanced the tail or did not: there is nothing to repair.
            Ok(Acquired::Clean | Acquired::Inherited(_)) => {}
            Err(_) => unreachable!("the ring's lock is never marked and has no deadline"),
        }
        let tail = Tail(ring.tail.load(Ordering::Relaxed));
        let is_full = !self.has_room(tail.count());
        if !is_full {
            // Release: pairs with the Acquire in `Ring::at`; a job is ready before it is in the ring.
            ring.entry(tail.count()).store(index, Ordering::Release);
            fault!("pool.put");
            // Release: pairs with the Acquire in `Ring::tail`; job and entry are there before they count.
            ring.tail.store(tail.and(index).0, Ordering::Release);
        }
        ring.lock.unlock(self.peers);
        if is_full {
            return Err(RingFull);
        }
        fault!("pool.pushed");
        let bells = self.bells();
        let now = self.job(index).offered.load(Ordering::Relaxed);
        let is_left = bells.relay.carries(now) && ring.head.load(Ordering::Acquire) < tail.count();
        if !is_left {
            bells.relay.ring(&bells.work, self.peers, || now);
        }
        Ok(!is_left)
    }

    /// Notes that the caller, who slept at the work bell, looks at the ring from here on. Once it has
    /// claimed a job it has to [`pass_on`](Self::pass_on) what it was told.
    #[inline]
    pub(super) fn arrive(&self) {
        self.bells().relay.arrive();
    }

    /// Wakes another worker if there may be a further job; false if there is none.
    #[inline]
    pub(super) fn pass_on(&self) -> bool {
        let is_queued = self.has_queued();
        if is_queued {
            let bells = self.bells();
            bells.relay.ring(&bells.work, self.peers, sys::clock::now);
        }
        is_queued
    }

    /// Whether there is room for the entry at `tail`, for who has the lock. Passes over entries that are
    /// used up if the ring is about to be full.
    fn has_room(&self, tail: u64) -> bool {
        let ring = self.ring();
        let is_room = |head| tail - head < u64::from(JOBS);
        // As a rule without a look at the head, whose line the workers write.
        while !is_room(ring.passed.load(Ordering::Relaxed)) {
            let head = ring.head.load(Ordering::Acquire);
            ring.passed.store(head, Ordering::Relaxed);
            if !is_room(head) {
                if self.job(ring.at(head, ring.tail())).is_ready() {
                    return false;
                }
                ring.pass(head);
            }
        }
        true
    }

    /// Takes the next job that is ready for `me`, unless that is left to its caller for a moment. A
    /// kill at any point loses nothing: before the claim the job is ready and in the ring, after it
    /// the job names us.
    #[inline]
    pub(super) fn claim(&self, me: Holder) -> Option<(&Job, Running)> {
        let ring = self.ring();
        loop {
            // Acquire: an entry that others have passed is not looked at again.
            let head = ring.head.load(Ordering::Acquire);
            let tail = ring.tail();
            if tail.count() <= head {
                return None;
            }
            // If others have passed the entry by now, it may hold a newer job: that one is ready
            // or not by its own word, and its own entry is passed over later.
            let index = ring.at(head, tail);
            let job = self.job(index);
            if job.is_ready() && is_unripe(job) {
                return None;
            }
            match job.claim(me) {
                Claim::Mine(running) => {
                    self.expect_run(index);
                    fault!("pool.claimed");
                    ring.pass(head);
                    return Some((job, running));
                }
                Claim::NotReady => ring.pass(head),
            }
        }
    }

    /// Takes a job that is for `me` alone, or else one of a task's call, or else the next that is
    /// ready, as far as `choice` allows. `letters` is how many of those for its seat alone are over,
    /// as it knows.
    #[inline]
    pub(super) fn claim_next(
        &self,
        me: Holder,
        choice: Choice,
        letters: &mut u32,
    ) -> Option<(&Job, Running)> {
        let posted = self.seat(me).letters();
        if posted != *letters {
            if let Some(claimed) = self.claim_letter(me) {
                return Some(claimed);
            }
            *letters = posted;
        }
        match choice {
            Choice::Any => self.claim_nested(me).or_else(|| self.claim(me)),
            Choice::Nested => self.claim_nested(me),
            Choice::Letters => None,
        }
    }

    /// Takes a job that is for `me` alone, and in no ring.
    #[cold]
    fn claim_letter(&self, me: Holder) -> Option<(&Job, Running)> {
        let jobs = (0..JOBS).map(|index| self.job(index));
        let mine = jobs.filter(|job| job.target.load(Ordering::Relaxed) == me.bits());
        for job in mine {
            if let Claim::Mine(running) = job.claim(me) {
                fault!("pool.claimed");
                return Some((job, running));
            }
        }
        None
    }

    /// Whether there may be a job to claim, besides letters.
    #[inline]
    pub(super) fn has_work(&self, choice: Choice) -> bool {
        match choice {
            Choice::Any => self.has_ready_nested() || self.has_entry(),
            Choice::Nested => self.has_ready_nested(),
            Choice::Letters => false,
        }
    }

    /// As [`has_work`](Self::has_work), for one that listens and is about to sleep.
    pub(super) fn has_work_still(&self, choice: Choice) -> bool {
        let ring = self.ring();
        let head = ring.head.load(Ordering::Acquire);
        // SeqCst: pairs with the fence in `Relay::carries`. Either we see what was put, or who put it that
        // all before it was taken, and wakes somebody.
        fence(Ordering::SeqCst);
        let is_empty = ring.tail().count() <= head;
        let has_work = self.has_work(choice);
        // What others have taken since is no reason to sleep; what is left to its caller is.
        has_work || choice == Choice::Any && !is_empty && self.ripens_in().is_none()
    }

    /// Whether there may be a job in the ring, other than one that is left to its caller for a
    /// moment.
    #[inline]
    fn has_entry(&self) -> bool {
        self.first().is_some_and(|index| {
            self.expect_claim(index);
            let job = self.job(index);
            !job.is_ready() || !is_unripe(job)
        })
    }

    /// Whether there may be a job in the ring.
    pub(super) fn has_queued(&self) -> bool {
        self.first().is_some()
    }

    /// The job at the head of the ring.
    #[inline]
    fn first(&self) -> Option<u32> {
        let ring = self.ring();
        let head = ring.head.load(Ordering::Acquire);
        let tail = ring.tail();
        (head < tail.count()).then(|| ring.at(head, tail))
    }

    /// How long the job at the head of the ring is left to its caller, if it is.
    pub(super) fn ripens_in(&self) -> Option<Duration> {
        let job = self.job(self.first()?);
        if !job.is_ready() {
            return None;
        }
        let left = job.ripens()?.saturating_sub(sys::clock::now());
        Some(Duration::from_nanos(left))
    }

    // Calls whose items are together only for speed.

    /// Has the call of that number told when a worker has nothing to do.
    pub(super) fn begin_sharing(&self, number: u32) {
        let sharing = self.sharing();
        sharing.at(number).fetch_add(1, Ordering::Relaxed);
        // Relaxed: the fence in `listen` orders it, as it does any change that a bell is about.
        sharing.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Undoes [`begin_sharing`](Self::begin_sharing).
    pub(super) fn end_sharing(&self, number: u32) {
        let sharing = self.sharing();
        sharing.calls.fetch_sub(1, Ordering::Relaxed);
        sharing.at(number).fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells calls that may have work for it that a worker has none: the calling one, which listens.
    pub(super) fn ask_for_shares(&self) {
        let sharing = self.sharing();
        if sharing.calls.load(Ordering::Relaxed) == 0 {
            return;
        }
        for (number, calls) in sharing.at.iter().enumerate() {
            if calls.load(Ordering::Relaxed) > 0 {
                self.done_bell(number as u32).ring_all(self.peers);
            }
        }
    }

    fn sharing(&self) -> &Sharing {
        &self.bells().sharing
    }

    #[inline]
    fn ring(&self) -> &Ring {
        self.region.at(RING)
    }

    // The bells.

    /// Where idle workers wait.
    pub(super) fn work_bell(&self) -> &Bell {
        &self.bells().work
    }

    /// Where workers wait that stand by.
    pub(super) fn standby_bell(&self) -> &Bell {
        &self.bells().standby
    }

    /// Where the parent waits for what its tasks' calls want.
    pub(super) fn desk_bell(&self) -> &Bell {
        &self.bells().desk
    }

    /// Wakes all workers that have nothing to do.
    pub(super) fn ring_workers(&self) {
        self.bells().work.ring_all(self.peers);
        self.bells().standby.ring_all(self.peers);
    }

    /// Where the call of that number waits.
    #[inline]
    pub(super) fn done_bell(&self, number: u32) -> &Bell {
        &self.bells().done[number as usize % BELLS]
    }

    /// Wakes everybody: something changed that concerns all, or a wake-up may have died with the
    /// one it woke.
    pub(super) fn ring_everybody(&self) {
        let bells = self.bells();
        bells.work.alarm(self.peers);
        bells.standby.alarm(self.peers);
        bells.desk.alarm(self.peers);
        for bell in &bells.done {
            bell.alarm(self.peers);
        }
    }

    #[inline]
    fn bells(&self) -> &Bells {
        self.region.at(BELLS_AT)
    }
}

/// Where the entry of a job lies.
#[inline]
fn place_of(index: u32) -> u64 {
    TABLE + u64::from(index) * size_of::<Job>() as u64
}

impl Sharing {
    fn at(&self, number: u32) -> &AtomicU32 {
        &self.at[number as usize % BELLS]
    }
}

/// Whether a job is left to its caller, which adds to it, for a moment yet.
#[inline]
fn is_unripe(job: &Job) -> bool {
    job.ripens().is_some_and(|ripe| sys::clock::now() < ripe)
}

impl Ring {
    /// How many entries were put by now.
    #[inline]
    fn tail(&self) -> Tail {
        // Acquire: pairs with the Release in `push`.
        Tail(self.tail.load(Ordering::Acquire))
    }

    /// The job at a position before the tail.
    #[inline]
    fn at(&self, position: u64, tail: Tail) -> u32 {
        match position + 1 == tail.count() {
            true => tail.job(),
            // Acquire: pairs with the Release in `push`, should it be a newer one than counts.
            false => self.entry(position).load(Ordering::Acquire) % JOBS,
        }
    }

    #[inline]
    fn entry(&self, position: u64) -> &AtomicU32 {
        &self.entries[(position % u64::from(JOBS)) as usize]
    }

    /// Advances the head past `head`, unless somebody has.
    #[inline]
    fn pass(&self, head: u64) {
        // AcqRel: the reads of the entry come before whoever puts another in its place.
        let _ = self
            .head
            .compare_exchange(head, head + 1, Ordering::AcqRel, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::job::{Finish, Withdrawal};
    use super::*;
    use crate::life::program;

    fn memory() -> Memory {
        Memory::create(program().unwrap()).unwrap()
    }

    fn holder(slot: u32) -> Holder {
        Holder::new(slot, 1)
    }

    /// Offers job `index` and puts it into the ring.
    fn put(memory: &Memory, index: u32) {
        memory.job(index).offer(0);
        memory.push(index).unwrap();
    }

    /// Claims the next job and commits it; returns its entry.
    fn take(memory: &Memory, me: Holder) -> Option<u32> {
        let (job, running) = memory.claim(me)?;
        let index = (0..JOBS).find(|&index| std::ptr::eq(memory.job(index), job));
        assert_eq!(job.finish(running), Finish::Committed);
        index
    }

    #[test]
    fn jobs_are_claimed_in_the_order_they_were_put() {
        let memory = memory();
        assert_eq!(take(&memory, holder(1)), None);
        for index in [5, 3, 4] {
            put(&memory, index);
        }
        assert!(memory.has_work(Choice::Any));
        for index in [5, 3, 4] {
            assert_eq!(take(&memory, holder(1)), Some(index));
        }
        assert_eq!(take(&memory, holder(1)), None);
        assert!(!memory.has_work(Choice::Any));
    }

    #[test]
    fn withdrawn_jobs_are_passed_over_and_can_be_put_again() {
        let memory = memory();
        put(&memory, 0);
        put(&memory, 1);
        assert_eq!(memory.job(0).withdraw(None), Withdrawal::Withdrawn);
        put(&memory, 0);
        // Job 0 is in the ring twice; it runs once.
        assert_eq!(take(&memory, holder(1)), Some(0));
        assert_eq!(take(&memory, holder(1)), Some(1));
        assert_eq!(take(&memory, holder(1)), None);
    }

    #[test]
    fn worker_that_dies_between_claim_and_advance_holds_nobody_up() {
        let memory = memory();
        put(&memory, 0);
        put(&memory, 1);
        // What a worker has done that was killed there.
        assert!(matches!(memory.job(0).claim(holder(1)), Claim::Mine(_)));
        assert_eq!(take(&memory, holder(2)), Some(1));
        assert_eq!(memory.job(0).runner(), Some(holder(1)));
    }

    #[test]
    fn full_ring_makes_room_of_what_was_withdrawn() {
        let memory = memory();
        for index in 0..JOBS {
            put(&memory, index);
        }
        assert!(memory.push(0).is_err());
        for index in [0, 1] {
            assert_eq!(memory.job(index).withdraw(None), Withdrawal::Withdrawn);
        }
        put(&memory, 1);
        for index in 1..JOBS {
            assert_eq!(take(&memory, holder(1)), Some(index));
        }
        assert_eq!(take(&memory, holder(1)), None);
    }

    #[test]
    fn every_job_goes_to_exactly_one_of_many_workers() {
        const ROUNDS: usize = 20_000;
        let memory = memory();
        let taken: Vec<AtomicUsize> = (0..64).map(|_| AtomicUsize::new(0)).collect();
        let all = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for worker in 1..=3 {
                let (memory, taken, all) = (&memory, &taken, &all);
                scope.spawn(move || {
                    while all.load(Ordering::Relaxed) < ROUNDS {
                        if let Some(index) = take(memory, holder(worker)) {
                            taken[index as usize].fetch_add(1, Ordering::Relaxed);
                            all.fetch_add(1, Ordering::Relaxed);
                        } else {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut put_so_far = vec![0; 64];
            for round in 0..ROUNDS {
                // The next entry whose job is over, as a caller would.
                let index = (round..)
                    .map(|at| at % 64)
                    .find(|&index| {
                        std::hint::spin_loop();
                        taken[index].load(Ordering::Relaxed) == put_so_far[index]
                            && !memory.job(index as u32).is_ready()
                    })
                    .unwrap();
                put_so_far[index] += 1;
                put(&memory, index as u32);
            }
        });
        assert_eq!(all.load(Ordering::Relaxed), ROUNDS);
        assert!(!memory.has_work(Choice::Any) || take(&memory, holder(1)).is_none());
    }

    #[test]
    fn few_bytes_lie_in_a_slip_and_what_outgrows_it_in_a_block() {
        let memory = memory();
        let word = &memory.job(3).result;
        let mut out = memory.over_slip(3, Side::Results, 10).unwrap();
        out.publish_in(word);
        out.write(b"few").unwrap();
        for (index, side) in [(3, Side::Items), (4, Side::Items), (2, Side::Results)] {
            let mut other = memory.over_slip(index, side, SLIP).unwrap();
            other.write(&[1; SLIP]).unwrap();
        }
        let read = |len| memory.bytes_of(3, Side::Results, word, len).unwrap();
        assert_eq!(read(3), b"few");
        assert!(out.block().is_none());
        out.write(&[7; SLIP]).unwrap();
        assert!(out.block().is_some());
        assert_eq!(read(SLIP + 3), [&b"few"[..], &[7; SLIP]].concat());
        assert!(memory.over_slip(3, Side::Items, SLIP + 1).is_none());
        assert!(memory.over_slip(SLIPS, Side::Items, 1).is_none());
    }

    #[test]
    fn memory_of_another_layout_is_refused() {
        let region = Region::create("other", LEAST).unwrap();
        let fd = region.memory().try_clone_to_owned().unwrap();
        assert!(Memory::attach(program().unwrap(), fd).is_err());
        let small = Region::create("small", 4096).unwrap();
        let fd = small.memory().try_clone_to_owned().unwrap();
        assert!(Memory::attach(program().unwrap(), fd).is_err());
    }

    #[test]
    fn memory_is_the_same_for_those_who_attach() {
        let memory = memory();
        let fd = memory.region().memory().try_clone_to_owned().unwrap();
        let other = Memory::attach(program().unwrap(), fd).unwrap();
        put(&memory, 7);
        assert_eq!(take(&other, holder(1)), Some(7));
        assert_eq!(other.parent(), memory.parent());
    }
}
