//! Callers that are in their input, which may have them wait, while loose jobs of theirs are out.
//!
//! A caller takes its loose jobs apart itself, see "Loose jobs" in `pool/README.md`. While it is away, in
//! the iterator that it pulls from, the desk does so in its stead: else an item could wait for another
//! that waits for what the input does next. Who of the two may is said by one word: the caller's before it
//! goes away, whoever is first when it comes back. What the desk has cut off the caller takes over
//! before it looks at its jobs again.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::inner::{Inner, lock};
use super::region::{DRAINING, Side};
use super::wire;
use crate::fault::fault;
use crate::loom::Ordering;
use crate::shm::Owner;
use crate::shm::buffer::Buffer;
use crate::spans;
use crate::sync::raw::Peers;
use crate::sys;
use crate::task::call::read_record;

/// How often the desk looks while there are calls with loose jobs.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// Looks in vain after which it needs to be told of the next such call.
const MOST_LOOKS: u32 = 20;

/// The jobs are the caller's.
const HERE: u32 = 0;
/// The caller is in its input: the desk may cut its jobs.
const AWAY: u32 = 1;
/// The desk does so.
const BUSY: u32 = 2;
/// The caller is in its input, and the desk has cut a job.
const CUT: u32 = 3;

/// What was cut off a job: a job of its own.
#[derive(Debug)]
pub(super) struct CutOff {
    pub(super) victim: u32,
    pub(super) index: u32,
    /// How many of the victim's items are before its own.
    pub(super) before: u32,
    /// How many of its own were begun when it was cut off, and are to be passed over.
    pub(super) first: u32,
    pub(super) len: u64,
}

/// A call that has loose jobs, as the desk sees it.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// [`HERE`], [`AWAY`], [`BUSY`] or [`CUT`].
    state: AtomicU32,
    /// Held by the desk while it is busy.
    jobs: Mutex<Jobs>,
}

#[derive(Debug, Default)]
struct Jobs {
    /// The entries of those that are loose and not over.
    loose: Vec<u32>,
    /// What the desk has cut off, and offered, and the caller does not know of.
    cut_off: Vec<CutOff>,
}

/// A caller that is in its input, until it is dropped.
pub(super) struct Away<'a>(&'a Absence);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        let state = &self.0.state;
        // AcqRel: pairs with the desk's; what it did to the jobs is done.
        let back = state.compare_exchange(AWAY, HERE, Ordering::AcqRel, Ordering::Relaxed);
        if back.is_err() {
            let _jobs = lock(&self.0.jobs);
            state.store(HERE, Ordering::Relaxed);
        }
    }
}

impl Absence {
    /// Lets the desk see to the jobs for as long as what is returned is there.
    #[inline]
    pub(super) fn begin(&self) -> Away<'_> {
        // Release: pairs with the Acquire in `share_out`; what we did to the jobs is done.
        self.state.store(AWAY, Ordering::Release);
        Away(self)
    }

    /// Notes a loose job, before it is offered.
    pub(super) fn add(&self, index: u32) {
        lock(&self.jobs).loose.push(index);
    }

    /// Notes that a job is over, before its entry is released.
    pub(super) fn remove(&self, index: u32) {
        lock(&self.jobs).loose.retain(|&other| other != index);
    }

    /// What the desk has cut off since this was asked last, in the order in which it did.
    pub(super) fn take(&self) -> Vec<CutOff> {
        std::mem::take(&mut lock(&self.jobs).cut_off)
    }

    /// Cuts the job of which most can be had, if the caller is away.
    fn share_out(&self, pool: &Inner) {
        // Until it is said what was done.
        let mut jobs = lock(&self.jobs);
        let from = self.state.load(Ordering::Relaxed);
        if !matches!(from, AWAY | CUT) {
            return;
        }
        // Acquire: pairs with the Release in `begin`.
        let taken = self
            .state
            .compare_exchange(from, BUSY, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_err() {
            return;
        }
        let is_cut = jobs.cut(pool);
        let to = if is_cut { CUT } else { from };
        // Release: pairs with the Acquire in `Away::drop`. Nobody else changes it while we are busy.
        self.state.store(to, Ordering::Release);
    }
}

impl Jobs {
    fn cut(&mut self, pool: &Inner) -> bool {
        let left = |&index: &u32| Some((pool.memory.job(index).left()?, index));
        let Some((_, victim)) = self.loose.iter().filter_map(left).max() else {
            return false;
        };
        let Some(Some(cut_off)) = pool.cut_off(victim) else {
            return false;
        };
        self.loose.push(cut_off.index);
        if !pool.offer(cut_off.index, cut_off.first, 0) {
            // Whoever was to tell of it may be stopped, and the caller is not there to look again.
            pool.memory.pass_on();
        }
        self.cut_off.push(cut_off);
        true
    }
}

/// The calls of a pool that have loose jobs.
#[derive(Debug, Default)]
pub(super) struct Absences {
    calls: Vec<Arc<Absence>>,
    /// Whether the desk looks at them by itself, and how often it has found none.
    is_watched: bool,
    vain: u32,
}

impl Inner {
    /// Has the desk see to the loose jobs of a call while its caller is away.
    pub(super) fn begin_absences(&self) -> Arc<Absence> {
        let absence = Arc::new(Absence::default());
        let mut absences = lock(&self.absences);
        absences.calls.push(absence.clone());
        let is_watched = std::mem::replace(&mut absences.is_watched, true);
        drop(absences);
        if !is_watched {
            self.ring_desk();
        }
        absence
    }

    /// Undoes [`begin_absences`](Self::begin_absences).
    pub(super) fn end_absences(&self, absence: &Arc<Absence>) {
        let mut absences = lock(&self.absences);
        absences.calls.retain(|other| !Arc::ptr_eq(other, absence));
    }

    /// Has workers that have nothing to do get some of the loose jobs of callers that are away; true if
    /// that is to be done again in a while.
    pub(super) fn share_out_of_absent(&self) -> bool {
        let mut absences = lock(&self.absences);
        if !absences.is_watched {
            return false;
        }
        let calls = absences.calls.clone();
        absences.vain = match calls.is_empty() {
            true => absences.vain + 1,
            false => 0,
        };
        if absences.vain > MOST_LOOKS {
            *absences = Absences::default();
            return false;
        }
        drop(absences);
        for absence in calls {
            if self.is_share_wanted() {
                absence.share_out(self);
            }
        }
        true
    }

    /// Whether a worker has nothing to do that would take what another has not begun.
    pub(super) fn is_share_wanted(&self) -> bool {
        let memory = &self.memory;
        // Workers of a pool that is drained take no job any more.
        !memory.has_queued()
            && memory.work_bell().is_awaited()
            && memory.header().flags.load(Ordering::Relaxed) & DRAINING == 0
    }

    /// Makes of what the worker that is at a loose job has not begun a job of its own, which is still to
    /// be offered. `None` if there is no room; nothing if the worker was quicker.
    #[cold]
    pub(super) fn cut_off(&self, victim: u32) -> Option<Option<CutOff>> {
        let memory = &self.memory;
        let job = memory.job(victim);
        // All that is needed is there before anything is taken away.
        let before = job.progress().claimed;
        let count = job.count().checked_sub(before)?;
        let len = job.input_len.load(Ordering::Relaxed) as usize;
        let input = memory.bytes_of(victim, Side::Items, &job.input, len)?;
        let (name, mut records) = wire::read_items(input)?;
        for _ in 0..before {
            read_record(&mut records)?;
        }
        let (task, merge, span) = wire::read_name(name);
        let span = span.and_then(|span| spans::later(span, before));
        let name = wire::name(task, merge, span.as_deref());
        let me = Owner::Process(memory.peers().me());
        let room = wire::RECORDS + name.len() + records.len();
        let mut out = Buffer::in_block(memory.arena().clone(), me, room).ok()?;
        wire::begin_items(&name, &mut out).ok()?;
        out.write(records).ok()?;
        let len = out.len() as u64;
        let block = out.block()?.id();
        let index = self.acquire_job(false)?;
        let Some(from) = job.cut() else {
            self.release_job(index);
            return Some(None);
        };
        fault!("pool.splitting");
        out.give_up_block();
        self.free_kept(index);
        let (bell, new) = (job.bell.load(Ordering::Relaxed), memory.job(index));
        for (word, value) in [
            (&new.input, block.bits()),
            (&new.input_len, len),
            (&new.input_parcel, 0),
            // Loose jobs have none.
            (&new.limit, 0),
            (&new.offered, sys::clock::now()),
        ] {
            word.store(value, Ordering::Relaxed);
        }
        new.bell.store(bell, Ordering::Relaxed);
        new.target.store(0, Ordering::Relaxed);
        new.set_count(count);
        new.set_loose(true);
        Some(Some(CutOff {
            victim,
            index,
            before,
            first: from - before,
            len,
        }))
    }
}
