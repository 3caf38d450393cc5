//! What lies in a pool's memory for the calls that its own tasks make: entries of the job table that
//! any process of the pool may take, who took them, and which of their jobs are ready.
//!
//! Who takes an entry is named in its word, and who called in its [`Ask`], at every moment from the
//! taking to the release: so the parent finds what a caller that died has left, whatever that was
//! about to do. See "Calls from inside a task" in `pool/README.md`.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::job::{Claim, JOBS, Job, Phase, Running};
use super::region::Memory;
use super::stats::SharedTotals;
use crate::error::TaskError;
use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering, fence};
use crate::shm::buffer::Buffer;
use crate::shm::safe::shared;
use crate::shm::text::Text;
use crate::shm::{BlockId, Owner};
use crate::sync::raw::Holder;
use crate::trace::{Lane, Span};
use crate::wire::codec;

/// Jobs of tasks' calls that are not over at once.
pub(super) const NESTED: u32 = 4096;
/// The entries for calls that have a job out already. The others are left to those that have none,
/// which cannot wait until they get one: what would free it may wait for them.
const FURTHER: u32 = NESTED / 2;

const WORD: u32 = u64::BITS;

shared! {
    /// What is to be known of a job beside what stands in its entry.
    pub(super) struct Ask {
        /// The process whose call it is of, as the bits of a [`Holder`]; the parent's if the caller
        /// has let go of it.
        caller: AtomicU32,
        /// How many calls from inside of tasks lead to it.
        depth: AtomicU32,
        /// How its worker ended, if it is dead: a block with a [`TaskError`], the parent's.
        failure: AtomicU64,
        /// The last worker that was at it, as the bits of a [`Holder`], and who that is: it may have
        /// ended, and its slot be another's, when the caller wants to know.
        worker: AtomicU32,
        pid: AtomicU32,
        name: Text,
    }
}

shared! {
    /// What there is for calls from inside of tasks. All zeros is nothing.
    #[repr(align(128))]
    pub(super) struct Nest {
        /// Entries that were ever used. Raised before one is taken.
        reach: AtomicU32,
        _pad: [AtomicU32; 31],
        /// A bit for each job that may be ready. A hint: the truth is in the jobs' words.
        ready: [AtomicU64; (NESTED / WORD) as usize],
        asks: [Ask; NESTED as usize],
        /// Whether somebody wants to know of failures, and whether there is a timeline.
        pub(super) listens: AtomicU64,
        pub(super) is_traced: AtomicU64,
        /// Blocks with [`News`] for the parent, each of the caller that has put it there.
        news: [AtomicU64; 64],
        /// What was counted by callers that are workers.
        pub(super) totals: SharedTotals,
    }
}

/// What a caller that is a worker has for its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum News {
    /// To be told to whoever listens.
    Failure(TaskError),
    /// For the timeline.
    Ran(Lane, Span),
}

impl Memory {
    /// Every entry for tasks' calls that was ever used.
    pub(super) fn nested(&self) -> std::ops::Range<u32> {
        // Acquire: pairs with the AcqRel in `take_entry`; who takes an entry has raised it.
        JOBS..JOBS + self.nest().reach.load(Ordering::Acquire).min(NESTED)
    }

    /// Whether a task ever called this pool.
    #[inline]
    pub(super) fn has_nested(&self) -> bool {
        self.nest().reach.load(Ordering::Relaxed) > 0
    }

    /// Whether an entry for tasks' calls is in use.
    pub(super) fn is_nested_busy(&self) -> bool {
        self.nested()
            .any(|index| self.job(index).phase() != Phase::Free)
    }

    fn ask(&self, index: u32) -> &Ask {
        &self.nest().asks[(index - JOBS) as usize]
    }

    // What a caller does.

    /// Takes an entry for a job of a task's call, in the name of `me`.
    pub(super) fn take_entry(&self, me: Holder) -> Option<u32> {
        let reach = &self.nest().reach;
        (0..NESTED).find_map(|at| {
            let job = self.job(JOBS + at);
            if job.phase() != Phase::Free {
                return None;
            }
            // Before it is taken: what is not below is not looked at when we are dead.
            reach.fetch_max(at + 1, Ordering::AcqRel);
            let is_mine = job.hold(me);
            fault!("nest.held");
            is_mine.then_some(JOBS + at)
        })
    }

    /// Whether there is an entry for a call that has one already.
    #[inline]
    pub(super) fn has_further_entry(&self) -> bool {
        (0..FURTHER).any(|at| self.job(JOBS + at).phase() == Phase::Free)
    }

    /// Notes whose call a job is of, which the caller holds.
    pub(super) fn set_caller(&self, index: u32, caller: Holder, depth: u32) {
        let ask = self.ask(index);
        ask.depth.store(depth, Ordering::Relaxed);
        // Relaxed: the offer orders it.
        ask.caller.store(caller.bits(), Ordering::Relaxed);
    }

    /// Leaves a job to the parent. The desk's bell is to be rung afterwards.
    pub(super) fn disown(&self, index: u32) {
        let Owner::Process(parent) = self.parent() else {
            return;
        };
        // Release: pairs with the Acquire in `is_call_of`; what the caller did to it is done.
        self.ask(index)
            .caller
            .store(parent.bits(), Ordering::Release);
    }

    /// Whether the call that a job is of is the process's.
    pub(super) fn is_call_of(&self, index: u32, caller: Holder) -> bool {
        self.ask(index).caller.load(Ordering::Acquire) == caller.bits()
    }

    /// How many calls from inside of tasks lead to a job.
    pub(super) fn depth(&self, index: u32) -> u32 {
        match index < JOBS {
            true => 0,
            false => self.ask(index).depth.load(Ordering::Relaxed),
        }
    }

    /// Name and process id of a worker that was at a job of a task's call.
    pub(super) fn worker(&self, worker: Holder) -> Option<(String, u32)> {
        let mut asks = self.nested().map(|index| self.ask(index));
        asks.find_map(|ask| {
            // Acquire: pairs with the Release in `note_worker`.
            if ask.worker.load(Ordering::Acquire) != worker.bits() {
                return None;
            }
            let who = (ask.name.get(), ask.pid.load(Ordering::Relaxed));
            // Another may be writing its own name there. Acquire: pairs with the Release in `note_worker`.
            fence(Ordering::Acquire);
            (ask.worker.load(Ordering::Relaxed) == worker.bits()).then_some(who)
        })
    }

    // What a worker does.

    /// Notes who is at a job, if it is of a task's call: the calling process, which has claimed it.
    #[inline]
    pub(super) fn note_worker(&self, index: u32, me: Holder, name: &str) {
        if index < JOBS {
            return;
        }
        let ask = self.ask(index);
        if ask.worker.load(Ordering::Relaxed) != me.bits() {
            ask.worker.store(0, Ordering::Relaxed);
            // Release: pairs with the Acquire in `worker`; who reads what follows sees that it is another's.
            fence(Ordering::Release);
            ask.name.set(name);
            ask.pid.store(std::process::id(), Ordering::Relaxed);
            // Release: pairs with the Acquire in `worker`.
            ask.worker.store(me.bits(), Ordering::Release);
        }
    }

    /// Has workers find a job of a task's call, which was offered.
    pub(super) fn mark_ready(&self, index: u32) {
        let at = index - JOBS;
        // Release: pairs with the Acquire in `claim_nested`; the job is ready before its bit is up.
        self.nest().ready[(at / WORD) as usize].fetch_or(1 << (at % WORD), Ordering::Release);
    }

    /// Marks all jobs again that are ready: a worker that died may have taken a bit down.
    pub(super) fn mark_all_ready(&self) {
        for index in self.nested() {
            if self.job(index).is_ready() {
                self.mark_ready(index);
            }
        }
    }

    /// Whether there may be a job of a task's call to claim.
    #[inline]
    pub(super) fn has_ready_nested(&self) -> bool {
        self.has_nested() && self.ready_words().any(|(_, bits)| bits != 0)
    }

    fn ready_words(&self) -> impl Iterator<Item = (u32, u64)> {
        let words = self.nested().len().div_ceil(WORD as usize);
        let ready = self.nest().ready[..words].iter().enumerate();
        ready.map(|(at, word)| (at as u32 * WORD, word.load(Ordering::Acquire)))
    }

    /// Takes the job of a task's call that most calls lead to, for `me`: those that wait for it wait
    /// for one another, and the fewer there are of them the fewer processes there are. Of several,
    /// the one that was offered first.
    #[inline]
    pub(super) fn claim_nested(&self, me: Holder) -> Option<(&Job, Running)> {
        match self.has_nested() {
            true => self.claim_deepest(me),
            false => None,
        }
    }

    fn claim_deepest(&self, me: Holder) -> Option<(&Job, Running)> {
        loop {
            let key = |&index: &u32| {
                let offered = self.job(index).offered.load(Ordering::Relaxed);
                (self.depth(index), Reverse(offered))
            };
            let bits = self.ready_words().flat_map(|(first, bits)| {
                let set = (0..WORD).filter(move |bit| bits >> bit & 1 == 1);
                set.map(move |bit| JOBS + first + bit)
            });
            let index = bits.filter(|&index| self.is_ready(index)).max_by_key(key)?;
            let job = self.job(index);
            if let Claim::Mine(running) = job.claim(me) {
                fault!("pool.claimed");
                return Some((job, running));
            }
        }
    }

    /// Whether a job that is marked is ready; takes the mark down if it is not.
    fn is_ready(&self, index: u32) -> bool {
        let job = self.job(index);
        if job.is_ready() {
            return true;
        }
        let at = index - JOBS;
        // AcqRel: if this takes down the mark of a newer offer, that is seen below.
        self.nest().ready[(at / WORD) as usize].fetch_and(!(1 << (at % WORD)), Ordering::AcqRel);
        fault!("nest.unmarked");
        let is_ready = job.is_ready();
        if is_ready {
            self.mark_ready(index);
        }
        is_ready
    }

    /// Puts news where the parent finds them; false if there are too many. The desk's bell is to be
    /// rung afterwards.
    pub(super) fn put_news(&self, news: &News, me: Holder) -> bool {
        let Some(block) = self.encode(news, Owner::Process(me)) else {
            return true;
        };
        fault!("nest.written");
        // The block stays ours: if we die it is taken before what we own is freed.
        let is_put = self.nest().news.iter().any(|word| {
            // Release: pairs with the Acquire in `take_news`.
            let (new, order) = (block.bits(), Ordering::Release);
            word.compare_exchange(0, new, order, Ordering::Relaxed)
                .is_ok()
        });
        fault!("nest.told");
        if !is_put {
            self.arena().free(block);
        }
        is_put
    }

    /// Takes the news that are there. Not for two threads at once.
    pub(super) fn take_news(&self) -> Vec<News> {
        let mut news = Vec::new();
        for word in &self.nest().news {
            let block = word.load(Ordering::Acquire);
            if block == 0 {
                continue;
            }
            if let Some(mut bytes) = self.bytes(block, usize::MAX) {
                news.extend(codec::decode(&mut bytes).ok());
            }
            self.free_block(block);
            // Release: whoever puts other news there does it afterwards.
            word.store(0, Ordering::Release);
        }
        news
    }

    fn encode<T: Serialize + 'static>(&self, value: &T, owner: Owner) -> Option<BlockId> {
        let mut out = Buffer::in_block(self.arena().clone(), owner, 0).ok()?;
        codec::encode(value, &mut out).ok()?;
        Some(out.into_block().ok()?.id())
    }

    // What the parent notes for a caller.

    /// Notes what became of the item that a job was at whose worker, in whose name it is still, is gone.
    pub(super) fn set_failure(&self, index: u32, error: &TaskError) {
        // Without memory its caller learns less.
        let bits = self.encode(error, self.parent()).map_or(0, BlockId::bits);
        // Release: pairs with the Acquire in `failure`.
        let before = self.ask(index).failure.swap(bits, Ordering::AcqRel);
        self.free_block(before);
    }

    /// What became of the item that a dead job was at, if that was noted.
    pub(super) fn failure(&self, index: u32) -> Option<TaskError> {
        let block = self.ask(index).failure.load(Ordering::Acquire);
        codec::decode(&mut self.bytes(block, usize::MAX)?).ok()
    }

    /// Forgets what [`set_failure`](Self::set_failure) noted.
    pub(super) fn forget_failure(&self, index: u32) {
        let word = &self.ask(index).failure;
        // Freed before it is forgotten: its caller may die in between.
        self.free_block(word.load(Ordering::Acquire));
        word.store(0, Ordering::Relaxed);
    }

    fn free_block(&self, bits: u64) {
        if let Some(block) = BlockId::from_bits(bits) {
            self.arena().free(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::{Finish, Withdrawal};
    use super::*;
    use crate::life::program;

    const ME: Holder = Holder::new(1, 1);

    fn memory() -> Memory {
        Memory::create(program().unwrap()).unwrap()
    }

    /// Offers a job of a call that so many lead to, at a moment.
    fn offer(memory: &Memory, depth: u32, moment: u64) -> u32 {
        let index = memory.take_entry(ME).unwrap();
        memory.set_caller(index, ME, depth);
        let job = memory.job(index);
        job.offered.store(moment, Ordering::Relaxed);
        job.offer(0);
        memory.mark_ready(index);
        index
    }

    fn claim(memory: &Memory) -> Option<u32> {
        let (job, running) = memory.claim_nested(ME)?;
        assert_eq!(job.finish(running), Finish::Committed);
        Some(memory.index_of(job))
    }

    #[test]
    fn job_that_most_calls_lead_to_is_claimed_first_and_of_several_the_oldest() {
        let memory = memory();
        assert!(!memory.has_ready_nested() && claim(&memory).is_none());
        let jobs = [(1, 5), (3, 9), (2, 7), (3, 8)].map(|(depth, at)| offer(&memory, depth, at));
        assert!(memory.has_ready_nested());
        let order: Vec<_> = std::iter::from_fn(|| claim(&memory)).collect();
        assert_eq!(order, [jobs[3], jobs[1], jobs[2], jobs[0]]);
        assert!(!memory.has_ready_nested());
    }

    #[test]
    fn mark_that_died_with_who_took_it_down_is_put_up_again() {
        let memory = memory();
        let index = offer(&memory, 1, 1);
        memory.nest().ready[0].store(0, Ordering::Relaxed);
        assert_eq!(claim(&memory), None);
        memory.mark_all_ready();
        assert_eq!(claim(&memory), Some(index));
    }

    #[test]
    fn job_that_is_withdrawn_is_held_until_its_entry_is_released() {
        let memory = memory();
        let index = offer(&memory, 1, 1);
        let job = memory.job(index);
        assert_eq!(job.withdraw(Some(ME)), Withdrawal::Withdrawn);
        assert!(job.is_held_by(ME) && memory.is_nested_busy());
        assert_eq!(claim(&memory), None);
        assert_ne!(memory.take_entry(ME), Some(index));
        job.release();
        assert_eq!(memory.take_entry(ME), Some(index));
    }

    #[test]
    fn half_of_the_entries_are_left_to_calls_that_have_none() {
        let memory = memory();
        for taken in 0..NESTED {
            assert_eq!(memory.has_further_entry(), taken < FURTHER);
            assert!(memory.take_entry(ME).is_some());
        }
        assert_eq!(memory.take_entry(ME), None);
        memory.job(JOBS).release();
        assert!(memory.has_further_entry());
        assert_eq!(memory.take_entry(ME), Some(JOBS));
    }
}
