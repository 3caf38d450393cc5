//! The job: some items of one call, run by one worker, and the word that says how far it is.
//!
//! Who may touch what: in [`Phase::Free`], and in [`Phase::Done`] and [`Phase::Dead`], all of a job
//! is its caller's. In [`Phase::Ready`] it is nobody's. In [`Phase::Running`] the worker that the
//! word names writes `progress`, `result…` and `elapsed`, and the input is constant.

use std::mem::offset_of;

use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering};
use crate::shm::safe::shared;
use crate::sync::raw::Holder;
use crate::task::batch::Pace;

/// Jobs of a pool that are not finished at once.
pub(super) const JOBS: u32 = 4096;
/// Of these, as many as may be in use for one call to have more jobs out than it needs to go on: the
/// rest is for other calls, streams that nobody reads, and the driver.
pub(super) const SPARE_JOBS: usize = JOBS as usize / 8;

shared! {
    /// An entry of the job table. All zeros is free.
    #[repr(align(128))]
    pub(super) struct Job {
        // What the caller writes, and the word that both look at.
        //
        /// See [`Word`]. Changes by compare-and-set only.
        word: AtomicU64,
        /// The block with the items. A free entry may keep one for its next use.
        pub(super) input: AtomicU64,
        pub(super) input_len: AtomicU64,
        /// The handles in them: a parcel, discarded by the caller once the job is over.
        pub(super) input_parcel: AtomicU64,
        /// How long each item may take, in nanoseconds; zero is no limit.
        pub(super) limit: AtomicU64,
        /// `{ open: 1 bit, count: 31 bits }`: how many items there are, and whether its caller adds
        /// more.
        count: AtomicU32,
        /// How many items at their start were finished by another worker.
        pub(super) first: AtomicU32,
        /// The only worker that may claim it, as the bits of a [`Holder`]; zero for any. Constant
        /// while it is ready.
        pub(super) target: AtomicU32,
        /// Whether the items are together only for speed: see [`cut`](Job::cut).
        is_loose: AtomicU32,
        /// When it was offered, in nanoseconds of the monotonic clock.
        pub(super) offered: AtomicU64,

        // What the worker writes, in a line that nobody else looks at meanwhile without need.
        //
        /// `{ expired: 1 bit, cut: 1 bit, epoch: 22 bits, claimed: 20 bits, done: 20 bits }`: items
        /// whose run began, and items whose result is complete. One store an item, or one
        /// compare-and-set if the items have a deadline, or may be taken away again: it fails once
        /// the one has expired, or the others were. The epoch is the word's.
        progress: AtomicU64,
        /// The block with the results: the worker's while the job runs, then the parent's. When the
        /// results outgrow it the new block's name stands here before the old one is freed. Before
        /// the worker has one, and in a free entry: what was kept of an earlier use.
        pub(super) result: AtomicU64,
        /// The parcel with the handles of the result that is being completed.
        pub(super) result_parcel: AtomicU64,
        /// When the first item began, and how long the items took, in nanoseconds.
        pub(super) began: AtomicU64,
        pub(super) elapsed: AtomicU64,
        /// When the item began that the worker is at, if there is a limit.
        pub(super) item_began: AtomicU64,
        /// The block with what all results were merged into, if they were; of a job that is done.
        pub(super) merged: AtomicU64,
        /// Why the worker stopped before the last item, as an [`Early`].
        early: AtomicU32,
        /// The number of the call, which leads to the bell that it waits on.
        pub(super) bell: AtomicU32,
    }
}

const _: () = assert!(size_of::<Job>() == 128 && offset_of!(Job, progress) == 64);

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody's, or being filled by a caller.
    Free = 0,
    /// In the ring, for any worker to claim.
    Ready = 1,
    /// A worker is at it.
    Running = 2,
    /// The worker has committed it: its results are never lost and its items never run again.
    Done = 3,
    /// Its worker ended before it was done.
    Dead = 4,
    /// A worker is at it that is being killed for it, and cannot commit it any more.
    Doomed = 5,
    /// As free, but it is the process's that the word names: a task's call fills it, or lets go of
    /// it. Only in entries for such calls.
    Held = 6,
}

impl Phase {
    fn is_at_a_worker(self) -> bool {
        matches!(self, Self::Running | Self::Doomed)
    }
}

/// The state word: `{ phase: 4 bits, attempt: 4 bits, holder: 29 bits, epoch: 27 bits }`.
///
/// The epoch counts the uses of the entry, so that a stale word never matches a later one. The
/// holder is the worker, by slot and generation, so that a successor in its slot is not taken for
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

const EPOCH_BITS: u32 = 64 - 8 - Holder::BITS;
const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;
const HOLDER_SHIFT: u32 = EPOCH_BITS;
const ATTEMPT_SHIFT: u32 = HOLDER_SHIFT + Holder::BITS;
const PHASE_SHIFT: u32 = ATTEMPT_SHIFT + 4;

impl Word {
    const fn new(phase: Phase, attempt: u8, holder: u32, epoch: u64) -> Self {
        Self(
            ((phase as u64) << PHASE_SHIFT)
                | ((attempt as u64 & 0xF) << ATTEMPT_SHIFT)
                | ((holder as u64) << HOLDER_SHIFT)
                | (epoch & EPOCH_MASK),
        )
    }

    pub(super) fn phase(self) -> Phase {
        match self.0 >> PHASE_SHIFT {
            1 => Phase::Ready,
            2 => Phase::Running,
            3 => Phase::Done,
            4 => Phase::Dead,
            5 => Phase::Doomed,
            6 => Phase::Held,
            _ => Phase::Free,
        }
    }

    fn attempt(self) -> u8 {
        (self.0 >> ATTEMPT_SHIFT) as u8 & 0xF
    }

    fn holder(self) -> Option<Holder> {
        Holder::from_bits((self.0 >> HOLDER_SHIFT) as u32)
    }

    fn epoch(self) -> u64 {
        self.0 & EPOCH_MASK
    }

    /// The worker that is at it, if one is.
    pub(super) fn runner(self) -> Option<Holder> {
        self.holder().filter(|_| self.phase().is_at_a_worker())
    }

    /// The same use of the entry in another phase.
    fn to(self, phase: Phase) -> Self {
        let holder = self.holder().map_or(0, Holder::bits);
        Self::new(phase, self.attempt(), holder, self.epoch())
    }
}

/// What came of an attempt to claim a job.
#[derive(Debug)]
#[must_use]
pub(super) enum Claim {
    /// It is the claimer's to run.
    Mine(Running),
    /// It is not ready: somebody else was quicker, or it was withdrawn.
    NotReady,
}

/// A job that the calling worker has claimed and must finish.
#[derive(Debug)]
#[must_use]
pub(super) struct Running {
    word: Word,
    /// [`CUT`], once the worker has found that the job was cut.
    cut: u64,
}

impl Running {
    /// Progress in this use of the entry, as bits.
    #[inline]
    fn progress(&self, progress: Progress) -> u64 {
        progress.bits(self.word.epoch()) | self.cut
    }
}

/// What came of an attempt to commit a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Finish {
    /// It is done.
    Committed,
    /// Somebody took it away meanwhile: the worker must take no more work.
    TakenAway,
}

/// What a caller finds when it looks at its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Outlook {
    /// Not over.
    Waiting,
    /// The worker committed it.
    Done(Option<Holder>),
    /// The worker ended first.
    Dead(Option<Holder>),
}

/// What came of an attempt to take a job back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Withdrawal {
    /// No worker had claimed it, and none will: it is the caller's again.
    Withdrawn,
    /// A worker is at it.
    IsRunning,
    /// It is over.
    IsOver,
}

/// How far the worker got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Items whose run began.
    pub(super) claimed: u32,
    /// Items whose result is complete.
    pub(super) done: u32,
}

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const EXPIRED: u64 = 1 << 63;
const CUT: u64 = 1 << 62;

const OPEN: u32 = 1 << 31;

/// How long a job that its caller adds to is left to it, in nanoseconds, even if a worker has nothing
/// to do: longer than it takes to fill one, unless the input makes the caller wait.
const RIPENING: u64 = 50_000;

/// Items that a job can have.
pub(super) const MOST_ITEMS: u32 = COUNT_MASK as u32;

impl Progress {
    /// Nothing is begun, from the item `first` on.
    pub(super) fn from(first: u32) -> Self {
        Self {
            claimed: first,
            done: first,
        }
    }

    #[inline]
    fn bits(self, epoch: u64) -> u64 {
        let epoch = (epoch << (2 * COUNT_BITS)) & !(EXPIRED | CUT);
        epoch | (u64::from(self.claimed) << COUNT_BITS) | u64::from(self.done)
    }

    fn from_bits(bits: u64) -> Self {
        Self {
            claimed: (bits >> COUNT_BITS & COUNT_MASK) as u32,
            done: (bits & COUNT_MASK) as u32,
        }
    }
}

/// The deadline of the item that a worker is at expired before the worker was through with it.
#[derive(Debug)]
pub(super) struct Expired;

/// Why a worker gets no further.
#[derive(Debug)]
pub(super) enum Held {
    Expired,
    /// The items that it has not begun are no longer its own.
    Cut,
}

/// What the parent finds when it looks for items that take too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// No item with a limit is being run, nor will be.
    None,
    /// One is, or may be from now on: until then.
    Due(u64),
    /// One took too long: this worker gets no further, and is to be killed.
    Expired(Holder),
}

/// Why a worker stopped before the last item of a job that it committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Early {
    /// It did not.
    No = 0,
    /// It has run as many items as a worker may; the rest is for another.
    Retired = 1,
    /// There was no room for the result of the next item, which was run.
    OutOfMemory = 2,
    /// There was no room to begin.
    NoRoom = 3,
    /// The next item could not be begun: its bytes are not what the worker expects.
    Unreadable = 4,
}

impl Job {
    /// Offers a job that the caller has filled in to the workers.
    pub(super) fn offer(&self, attempt: u8) {
        let seen = self.word();
        debug_assert!(matches!(
            seen.phase(),
            Phase::Free | Phase::Held | Phase::Done | Phase::Dead
        ));
        let ready = Word::new(Phase::Ready, attempt, 0, seen.epoch() + 1);
        let nothing = Progress::from(self.first.load(Ordering::Relaxed));
        self.progress
            .store(nothing.bits(ready.epoch()), Ordering::Relaxed);
        // Release: pairs with the Acquire in `claim`; the job is complete.
        let offered = self.change(seen, ready, Ordering::Release);
        debug_assert!(
            offered,
            "nobody but its caller changes a job that is not ready"
        );
    }

    /// Takes a free entry that others may take, too.
    pub(super) fn hold(&self, me: Holder) -> bool {
        let seen = self.word();
        // Acquire: pairs with the Release in `release`; whose it was has let go of it.
        seen.phase() == Phase::Free
            && self.change(
                seen,
                Word::new(Phase::Held, 0, me.bits(), seen.epoch()),
                Ordering::AcqRel,
            )
    }

    /// How far the job is.
    pub(super) fn phase(&self) -> Phase {
        self.word().phase()
    }

    /// Whether the process `holder` holds the entry.
    pub(super) fn is_held_by(&self, holder: Holder) -> bool {
        let seen = self.word();
        seen.phase() == Phase::Held && seen.holder() == Some(holder)
    }

    /// Whether the job waits for a worker or has one.
    pub(super) fn is_out(&self) -> bool {
        let phase = self.word().phase();
        phase == Phase::Ready || phase.is_at_a_worker()
    }

    /// Whether a worker may claim the job.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.word().phase() == Phase::Ready
    }

    /// Claims the job for the worker `me`.
    #[inline]
    pub(super) fn claim(&self, me: Holder) -> Claim {
        let seen = self.word();
        // If the target is another use's, the word has changed.
        let target = self.target.load(Ordering::Relaxed);
        if seen.phase() != Phase::Ready || (target != 0 && target != me.bits()) {
            return Claim::NotReady;
        }
        let mine = Word::new(Phase::Running, seen.attempt(), me.bits(), seen.epoch());
        // Acquire: pairs with the Release in `offer`.
        match self.change(seen, mine, Ordering::Acquire) {
            true => Claim::Mine(Running { word: mine, cut: 0 }),
            false => Claim::NotReady,
        }
    }

    /// Commits the job.
    #[inline]
    pub(super) fn finish(&self, running: Running) -> Finish {
        // Release: pairs with the Acquire in `outlook`; the results are complete.
        let done = running.word.to(Phase::Done);
        match self.change(running.word, done, Ordering::Release) {
            true => Finish::Committed,
            false => Finish::TakenAway,
        }
    }

    /// The worker that is at the job.
    pub(super) fn runner(&self) -> Option<Holder> {
        self.word().runner()
    }

    /// Takes a job away from the worker that is at it, which it returns: to be killed. `None` if no
    /// worker is.
    pub(super) fn doom(&self) -> Option<Holder> {
        let seen = self.word();
        match seen.phase() {
            // AcqRel: nothing that the worker does to the job from here on counts. If it fails the
            // worker has committed it, or has ended.
            Phase::Running => self
                .change(seen, seen.to(Phase::Doomed), Ordering::AcqRel)
                .then(|| seen.holder())
                .flatten(),
            Phase::Doomed => seen.holder(),
            Phase::Free | Phase::Held | Phase::Ready | Phase::Done | Phase::Dead => None,
        }
    }

    /// Notes that the worker `holder`, which is gone, did not finish the job; false if it was not
    /// at it.
    pub(super) fn bury(&self, holder: Holder) -> bool {
        loop {
            let seen = self.word();
            if !seen.phase().is_at_a_worker() || seen.holder() != Some(holder) {
                return false;
            }
            // AcqRel: what the worker wrote until its death goes to the caller with it. If it fails
            // the job was doomed meanwhile, and is to be buried all the same: nobody else does.
            if self.change(seen, seen.to(Phase::Dead), Ordering::AcqRel) {
                return true;
            }
        }
    }

    /// Notes that the worker for which alone the job is, and which is gone, did not claim it; false
    /// if there is no such job.
    pub(super) fn refuse(&self, target: Holder) -> bool {
        let seen = self.word();
        seen.phase() == Phase::Ready
            && self.target.load(Ordering::Relaxed) == target.bits()
            && self.change(seen, seen.to(Phase::Dead), Ordering::AcqRel)
    }

    /// What the caller finds now.
    #[inline]
    pub(super) fn outlook(&self) -> Outlook {
        // Acquire (in `word`): pairs with the Release in `finish` and `bury`.
        let seen = self.word();
        match seen.phase() {
            Phase::Done => Outlook::Done(seen.holder()),
            Phase::Dead => Outlook::Dead(seen.holder()),
            Phase::Free | Phase::Held | Phase::Ready | Phase::Running | Phase::Doomed => {
                Outlook::Waiting
            }
        }
    }

    /// Which use of the entry this is.
    pub(super) fn epoch(&self) -> u64 {
        self.word().epoch()
    }

    /// How often the present first item was handed to a worker before.
    pub(super) fn attempt(&self) -> u8 {
        self.word().attempt()
    }

    /// Takes back a job that no worker has claimed, for `keeper` if others look for free entries.
    pub(super) fn withdraw(&self, keeper: Option<Holder>) -> Withdrawal {
        loop {
            let seen = self.word();
            match seen.phase() {
                Phase::Ready => {
                    let taken = match keeper {
                        Some(keeper) => Word::new(Phase::Held, 0, keeper.bits(), seen.epoch()),
                        None => seen.to(Phase::Free),
                    };
                    if self.change(seen, taken, Ordering::AcqRel) {
                        return Withdrawal::Withdrawn;
                    }
                }
                Phase::Running | Phase::Doomed => return Withdrawal::IsRunning,
                Phase::Free | Phase::Held | Phase::Done | Phase::Dead => return Withdrawal::IsOver,
            }
        }
    }

    /// Makes the entry free, of a job that is over and cleared.
    pub(super) fn release(&self) {
        let seen = self.word();
        debug_assert!(seen.phase() != Phase::Ready && !seen.phase().is_at_a_worker());
        let free = Word::new(Phase::Free, 0, 0, seen.epoch());
        let freed = self.change(seen, free, Ordering::AcqRel);
        debug_assert!(freed, "nobody but its caller changes a job that is over");
    }

    /// How far the worker got.
    pub(super) fn progress(&self) -> Progress {
        // Acquire: pairs with the Release in `advance`; the results of those done are complete.
        Progress::from_bits(self.progress.load(Ordering::Acquire))
    }

    /// Whether the item that the worker was at took too long.
    pub(super) fn is_expired(&self) -> bool {
        self.progress.load(Ordering::Acquire) & EXPIRED != 0
    }

    /// How many items there are.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed) & !OPEN
    }

    /// Says how many items there are.
    #[inline]
    pub(super) fn set_count(&self, count: u32) {
        self.count.store(count, Ordering::Relaxed);
    }

    /// Says whether the items are together only for speed.
    #[inline]
    pub(super) fn set_loose(&self, is_loose: bool) {
        self.is_loose.store(u32::from(is_loose), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_loose(&self) -> bool {
        self.is_loose.load(Ordering::Relaxed) != 0
    }

    /// Says how many items there are so far, of a job that its caller adds to after it has offered
    /// it.
    pub(super) fn open(&self, count: u32) {
        self.count.store(OPEN | count, Ordering::Relaxed);
    }

    /// Adds an item, which is the one of that number and lies where it belongs; false if the job is
    /// no longer open.
    #[inline]
    pub(super) fn append(&self, number: u32) -> bool {
        // Release: pairs with the Acquire in `close`; the item is there.
        self.count
            .compare_exchange(
                OPEN | number,
                OPEN | (number + 1),
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Whether its caller may add items.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        // Acquire: pairs with `append` and `close`; if it is not, all items are there.
        self.count.load(Ordering::Acquire) & OPEN != 0
    }

    /// Ends the adding of items; false if it had ended.
    pub(super) fn close(&self) -> bool {
        self.count.fetch_and(!OPEN, Ordering::AcqRel) & OPEN != 0
    }

    /// Until when the job is left to its caller, which adds to it; `None` if it is not.
    #[inline]
    pub(super) fn ripens(&self) -> Option<u64> {
        self.is_open()
            .then(|| self.offered.load(Ordering::Relaxed) + RIPENING)
    }

    /// How many of its items the worker that is at one of them has not begun, if these can be taken
    /// away again.
    pub(super) fn left(&self) -> Option<u32> {
        let claimed = self.is_loose().then(|| self.begun())??.1;
        self.count().checked_sub(claimed).filter(|&left| left > 0)
    }

    /// Whether a worker has claimed it and begun none of several items that can be taken away again.
    pub(super) fn is_about_to_begin(&self) -> bool {
        let several = self.first.load(Ordering::Relaxed) + 1 < self.count();
        self.is_loose() && several && self.phase() == Phase::Running && self.begun().is_none()
    }

    /// Takes away the items that the worker that is at one of them has not begun: from the one on
    /// that it returns. `None` if there are none. The caller's alone.
    pub(super) fn cut(&self) -> Option<u32> {
        self.left()?;
        let (bits, claimed) = self.begun()?;
        // AcqRel: from here on the worker begins no item of this job any more.
        let cut =
            self.progress
                .compare_exchange(bits, bits | CUT, Ordering::AcqRel, Ordering::Relaxed);
        cut.ok()?;
        self.set_count(claimed);
        Some(claimed)
    }

    /// How far a worker is that has begun an item and may begin another, as bits and as a number.
    fn begun(&self) -> Option<(u64, u32)> {
        let seen = self.word();
        // Acquire: as in `progress`.
        let bits = self.progress.load(Ordering::Acquire);
        let progress = Progress::from_bits(bits);
        let has_begun = progress.claimed > self.first.load(Ordering::Relaxed)
            // Nor cut, nor expired, nor of another use of the entry.
            && bits == progress.bits(seen.epoch());
        (seen.phase() == Phase::Running && has_begun).then_some((bits, progress.claimed))
    }

    /// Notes how far the worker is, which was at `from`. Fails only if `is_watched`: if the items
    /// have a deadline or may be taken away.
    #[inline]
    pub(super) fn advance(
        &self,
        running: &mut Running,
        from: Progress,
        to: Progress,
        is_watched: bool,
    ) -> Result<(), Held> {
        let bits = running.progress(to);
        if !is_watched {
            self.progress.store(bits, Ordering::Release);
            return Ok(());
        }
        // Release, as without a limit. If it fails, `expire` or `cut` was there first.
        let advanced = self.progress.compare_exchange(
            running.progress(from),
            bits,
            Ordering::Release,
            Ordering::Relaxed,
        );
        match advanced {
            Ok(_) => Ok(()),
            Err(now) if now & EXPIRED != 0 => Err(Held::Expired),
            Err(_) => {
                fault!("pool.cut");
                running.cut = CUT;
                Err(Held::Cut)
            }
        }
    }

    /// How a batch of its items, from `first` on, notes how far it is.
    pub(super) fn pace(&self, running: &Running, first: u32) -> Pace<'_> {
        let is_timed = self.limit.load(Ordering::Relaxed) > 0;
        let claimed = Progress {
            claimed: first + 1,
            done: first,
        };
        Pace {
            word: &self.progress,
            present: running.progress(Progress::from(first)),
            next: running.progress(claimed),
            // One more is claimed, and one more done. Neither overflows: no job has so many items.
            step: 1 << COUNT_BITS | 1,
            is_watched: is_timed || self.is_loose(),
            began: is_timed.then_some(&self.item_began),
            count: &self.count,
        }
    }

    /// Why a batch of items found `progress` changed.
    #[cold]
    pub(super) fn held(&self, running: &mut Running) -> Held {
        if self.is_expired() {
            return Held::Expired;
        }
        fault!("pool.cut");
        running.cut = CUT;
        Held::Cut
    }

    /// Notes how far the worker got, which was at `from` and begins no further item.
    pub(super) fn rest(
        &self,
        running: &mut Running,
        from: Progress,
        to: Progress,
        is_watched: bool,
    ) -> Result<(), Expired> {
        loop {
            match self.advance(running, from, to, is_watched) {
                Ok(()) => return Ok(()),
                Err(Held::Expired) => return Err(Expired),
                // At most once.
                Err(Held::Cut) => {}
            }
        }
    }

    /// Notes how far the worker got, also if an item has expired.
    pub(super) fn settle(&self, running: &Running, progress: Progress) -> Result<(), Expired> {
        let from = self.progress.load(Ordering::Relaxed);
        let to = running.progress(progress);
        // Release, as in `advance`. The one other change is that it expires meanwhile.
        let settled = self.progress.compare_exchange(
            from,
            to | (from & EXPIRED),
            Ordering::Release,
            Ordering::Relaxed,
        );
        if settled.is_err() {
            self.progress.store(to | EXPIRED, Ordering::Release);
        }
        match settled.is_err() || from & EXPIRED != 0 {
            true => Err(Expired),
            false => Ok(()),
        }
    }

    /// Marks the item that is being run as expired if it took longer than its limit, and `grace`,
    /// by `now`.
    pub(super) fn expire(&self, now: u64, grace: u64) -> Expiry {
        let seen = self.word();
        let (Phase::Running, Some(worker)) = (seen.phase(), seen.holder()) else {
            return Expiry::None;
        };
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return Expiry::None;
        }
        let after = |began: u64| began.saturating_add(limit).saturating_add(grace);
        // Acquire: pairs with the Release in `advance`; the item's beginning is there.
        let bits = self.progress.load(Ordering::Acquire);
        let progress = Progress::from_bits(bits);
        if progress.claimed <= progress.done || bits != progress.bits(seen.epoch()) {
            return Expiry::Due(after(now));
        }
        // Perhaps that of a later item: then the compare-and-set would fail.
        let due = after(self.item_began.load(Ordering::Relaxed));
        if now < due {
            return Expiry::Due(due);
        }
        // AcqRel: from here on the worker gets no further than this item of this job.
        self.progress
            .compare_exchange(bits, bits | EXPIRED, Ordering::AcqRel, Ordering::Relaxed)
            .map_or(Expiry::Due(after(now)), |_| Expiry::Expired(worker))
    }

    /// Whether what the worker `me` does at the job will count.
    pub(super) fn is_wanted_of(&self, me: Holder) -> bool {
        let seen = self.word();
        seen.phase() == Phase::Running && seen.holder() == Some(me) && !self.is_expired()
    }

    /// Why the worker stopped before the last item.
    #[inline]
    pub(super) fn early(&self) -> Early {
        match self.early.load(Ordering::Relaxed) {
            0 => Early::No,
            1 => Early::Retired,
            2 => Early::OutOfMemory,
            3 => Early::NoRoom,
            _ => Early::Unreadable,
        }
    }

    /// Notes why the worker stops; visible with the commit.
    #[inline]
    pub(super) fn set_early(&self, early: Early) {
        self.early.store(early as u32, Ordering::Relaxed);
    }

    /// What is so at this moment. An entry whose word is the same later has not been released and used
    /// anew in between.
    #[inline]
    pub(super) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    fn change(&self, from: Word, to: Word, order: Ordering) -> bool {
        self.word
            .compare_exchange(from.0, to.0, order, Ordering::Relaxed)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Holder = Holder::new(3, 7);
    const OTHER: Holder = Holder::new(3, 8);

    fn job() -> Job {
        let zero = || AtomicU64::new(0);
        Job {
            word: zero(),
            progress: zero(),
            input: zero(),
            input_len: zero(),
            input_parcel: zero(),
            count: AtomicU32::new(0),
            first: AtomicU32::new(0),
            result: zero(),
            result_parcel: zero(),
            began: zero(),
            elapsed: zero(),
            early: AtomicU32::new(0),
            bell: AtomicU32::new(0),
            limit: zero(),
            item_began: zero(),
            offered: zero(),
            target: AtomicU32::new(0),
            is_loose: AtomicU32::new(0),
            merged: zero(),
        }
    }

    fn claimed(job: &Job, me: Holder) -> Running {
        match job.claim(me) {
            Claim::Mine(running) => running,
            Claim::NotReady => panic!("the job is ready"),
        }
    }

    #[test]
    fn word_keeps_its_parts_apart() {
        let most = (1 << Holder::BITS) - 1;
        for phase in [
            Phase::Free,
            Phase::Ready,
            Phase::Running,
            Phase::Done,
            Phase::Dead,
            Phase::Doomed,
        ] {
            for (attempt, holder, epoch) in [(0, 0, 0), (15, most, EPOCH_MASK), (1, 5, 9)] {
                let word = Word::new(phase, attempt, holder, epoch);
                assert_eq!(word.phase(), phase);
                assert_eq!(word.attempt(), attempt);
                assert_eq!(word.holder().map_or(0, Holder::bits), holder);
                assert_eq!(word.epoch(), epoch);
            }
        }
    }

    #[test]
    fn job_goes_to_one_worker_and_is_done_once() {
        let job = job();
        assert!(matches!(job.claim(ME), Claim::NotReady));
        job.offer(0);
        assert_eq!(job.outlook(), Outlook::Waiting);
        let running = claimed(&job, ME);
        assert!(matches!(job.claim(OTHER), Claim::NotReady));
        assert_eq!(job.withdraw(None), Withdrawal::IsRunning);
        assert_eq!(job.runner(), Some(ME));
        assert_eq!(job.finish(running), Finish::Committed);
        assert_eq!(job.outlook(), Outlook::Done(Some(ME)));
        assert!(!job.bury(ME));
        job.release();
        assert!(matches!(job.claim(ME), Claim::NotReady));
    }

    #[test]
    fn dead_worker_cannot_be_taken_for_its_successor() {
        let job = job();
        job.offer(0);
        let running = claimed(&job, ME);
        assert!(!job.bury(OTHER));
        assert!(job.bury(ME));
        assert_eq!(job.outlook(), Outlook::Dead(Some(ME)));
        assert_eq!(job.finish(running), Finish::TakenAway);
        assert_eq!(job.outlook(), Outlook::Dead(Some(ME)));
    }

    #[test]
    fn doomed_job_is_never_done_and_over_once_its_worker_is() {
        let job = job();
        assert_eq!(job.doom(), None);
        job.offer(0);
        assert_eq!(job.doom(), None);
        let running = claimed(&job, ME);
        assert_eq!(job.doom(), Some(ME));
        assert_eq!(job.finish(running), Finish::TakenAway);
        assert_eq!(job.outlook(), Outlook::Waiting);
        assert_eq!(job.runner(), Some(ME));
        assert!(job.bury(ME));
        assert_eq!(job.outlook(), Outlook::Dead(Some(ME)));
    }

    #[test]
    fn job_that_is_doomed_while_it_is_buried_is_dead() {
        const ROUNDS: u32 = 20_000;
        let job = job();
        // How many rounds have begun, and in how many of them the job was doomed.
        let (begun, doomed) = (AtomicU32::new(0), AtomicU32::new(0));
        let wait_for = |count: &AtomicU32, least: u32| {
            let mut looks = 0_u32;
            while count.load(Ordering::Acquire) < least {
                looks = looks.wrapping_add(1);
                match looks % 1000 {
                    0 => std::thread::yield_now(),
                    _ => std::hint::spin_loop(),
                }
            }
        };
        let dead = std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    wait_for(&begun, round);
                    job.doom();
                    doomed.store(round, Ordering::Release);
                }
            });
            let is_dead = |&round: &u32| {
                job.offer(0);
                let _running = claimed(&job, ME);
                begun.store(round, Ordering::Release);
                // So that now the one comes first and now the other.
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                let is_buried = job.bury(ME);
                wait_for(&doomed, round);
                // For the next round, whatever became of this one.
                is_buried || !job.bury(ME)
            };
            (1..=ROUNDS).filter(is_dead).count()
        });
        assert_eq!(dead, ROUNDS as usize);
        assert_eq!(job.outlook(), Outlook::Dead(Some(ME)));
    }

    #[test]
    fn job_offered_again_is_another_use_of_the_entry() {
        let job = job();
        job.offer(0);
        let stale = claimed(&job, ME);
        assert!(job.bury(ME));
        job.offer(1);
        let running = claimed(&job, ME);
        assert_eq!(job.attempt(), 1);
        assert_eq!(job.finish(stale), Finish::TakenAway);
        assert_eq!(job.finish(running), Finish::Committed);
    }

    #[test]
    fn job_for_one_worker_is_claimed_by_no_other_and_refused_for_it_alone() {
        let job = job();
        job.target.store(ME.bits(), Ordering::Relaxed);
        job.offer(0);
        assert!(matches!(job.claim(OTHER), Claim::NotReady));
        assert!(!job.refuse(OTHER));
        assert!(matches!(job.claim(ME), Claim::Mine(_)));
        assert!(!job.refuse(ME));
        assert!(job.bury(ME));
        job.offer(0);
        assert!(job.refuse(ME));
        assert_eq!(job.outlook(), Outlook::Dead(None));
    }

    #[test]
    fn expired_item_is_the_last_of_its_worker_and_no_other_expires_for_it() {
        let job = job();
        job.limit.store(10, Ordering::Relaxed);
        job.offer(0);
        let mut running = claimed(&job, ME);
        let [untouched, first, between] =
            [(0, 0), (1, 0), (1, 1)].map(|(claimed, done)| Progress { claimed, done });
        assert_eq!(job.expire(100, 0), Expiry::Due(110));
        job.item_began.store(50, Ordering::Relaxed);
        assert!(job.advance(&mut running, untouched, first, true).is_ok());
        assert_eq!(job.expire(59, 0), Expiry::Due(60));
        assert_eq!(job.expire(60, 5), Expiry::Due(65));
        assert!(job.advance(&mut running, first, between, true).is_ok());
        assert_eq!(job.expire(100, 0), Expiry::Due(110));
        let second = Progress {
            claimed: 2,
            done: 1,
        };
        assert!(job.advance(&mut running, between, second, true).is_ok());
        assert_eq!(job.expire(60, 0), Expiry::Expired(ME));
        assert!(
            job.advance(&mut running, second, Progress::from(2), true)
                .is_err()
        );
        assert_eq!(job.progress(), second);
        assert!(job.is_expired());
        assert!(job.bury(ME));
        assert_eq!(job.expire(100, 0), Expiry::None);
        job.offer(0);
        assert!(!job.is_expired());
    }

    #[test]
    fn items_are_added_until_the_job_is_closed() {
        let job = job();
        job.open(1);
        job.offer(0);
        assert!(job.append(1) && job.append(2));
        assert!(job.ripens().is_some());
        let _running = claimed(&job, ME);
        assert!(job.close() && !job.close());
        assert!(!job.append(3) && !job.is_open());
        assert_eq!((job.count(), job.ripens()), (3, None));
    }

    #[test]
    fn only_what_was_not_begun_of_a_job_at_a_worker_is_taken_away() {
        let job = job();
        job.set_count(3);
        job.set_loose(true);
        job.offer(0);
        assert_eq!(job.cut(), None);
        let mut running = claimed(&job, ME);
        assert_eq!(job.cut(), None);
        let [untouched, first, second] =
            [(0, 0), (1, 0), (2, 1)].map(|(claimed, done)| Progress { claimed, done });
        assert!(job.advance(&mut running, untouched, first, true).is_ok());
        assert_eq!(job.left(), Some(2));
        assert_eq!(job.cut(), Some(1));
        assert_eq!((job.count(), job.left(), job.cut()), (1, None, None));
        let advanced = job.advance(&mut running, first, second, true);
        assert!(matches!(advanced, Err(Held::Cut)));
        let through = Progress::from(1);
        assert!(job.rest(&mut running, first, through, true).is_ok());
        assert_eq!(job.finish(running), Finish::Committed);
        assert_eq!(job.progress(), through);
        // Another use of the entry is whole again.
        job.set_count(3);
        job.offer(0);
        let mut running = claimed(&job, ME);
        assert!(job.advance(&mut running, untouched, first, true).is_ok());
        assert!(job.advance(&mut running, first, second, true).is_ok());
        assert_eq!(job.cut(), Some(2));
    }

    #[test]
    fn each_item_is_the_workers_or_taken_away() {
        const ITEMS: u32 = 100;
        let job = job();
        job.set_loose(true);
        for _ in 0..1000 {
            job.set_count(ITEMS);
            job.offer(0);
            let mut running = claimed(&job, ME);
            std::thread::scope(|scope| {
                let worker = scope.spawn(|| {
                    let mut at = Progress::from(0);
                    while at.claimed < ITEMS {
                        let (claimed, done) = (at.claimed + 1, at.claimed);
                        let next = Progress { claimed, done };
                        if job.advance(&mut running, at, next, true).is_err() {
                            break;
                        }
                        at = next;
                    }
                    let through = Progress::from(at.claimed);
                    assert!(job.rest(&mut running, at, through, true).is_ok());
                    at.claimed
                });
                let from = (0..50).find_map(|_| job.cut());
                assert_eq!(worker.join().unwrap(), from.unwrap_or(ITEMS));
            });
            assert_eq!(job.finish(running), Finish::Committed);
            job.release();
        }
    }

    #[test]
    fn withdrawn_job_is_nobodys_to_claim() {
        let job = job();
        job.offer(0);
        assert_eq!(job.withdraw(None), Withdrawal::Withdrawn);
        assert!(matches!(job.claim(ME), Claim::NotReady));
        assert_eq!(job.withdraw(None), Withdrawal::IsOver);
    }

    #[test]
    fn claim_and_withdrawal_exclude_each_other() {
        let job = job();
        for _ in 0..1000 {
            job.offer(0);
            std::thread::scope(|scope| {
                let worker = scope.spawn(|| matches!(job.claim(ME), Claim::Mine(_)));
                let withdrawn = job.withdraw(None) == Withdrawal::Withdrawn;
                assert_ne!(worker.join().unwrap(), withdrawn);
            });
            if job.runner().is_some() {
                assert!(job.bury(ME));
            }
            job.release();
        }
    }
}
