//! What a death sets free, and who sees to it.
//!
//! Burying a process is a sequence of steps of which each may be done again, so a process that dies
//! while burying another is no special case: whoever holds the lock next goes on.

use std::cell::Cell;

use super::mark::MarkedLock;
use super::program::{Program, existing};
use super::slot::{Debt, Slot, State};
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering, futex};
use crate::shm::{BlockId, ObjectId, Owner};
use crate::sync::raw::{Acquired, Holder, Peers};
use crate::sys;

thread_local! {
    /// Whether this thread holds the reaping lock.
    static SETTLING: Cell<bool> = const { Cell::new(false) };
}

/// Looks whether a process that somebody waits for is still there, and buries it if not.
pub(super) fn look_at(holder: Holder) {
    let Some(program) = existing() else { return };
    if !program.roster.is_alive(holder) {
        return;
    }
    let slot = program.roster.slot(holder.slot());
    let pid = slot.pid();
    let start_time = slot.start_time.load(Ordering::Relaxed);
    // Without a start time, which its parent may have died before it wrote, another process of the
    // same number could be mistaken for it, but only for one that lives. Who adopts it may be the very
    // one that waits here for what it holds.
    if pid != 0 && sys::process::is_gone(pid, start_time) {
        program.bury(holder);
    }
}

impl Program {
    /// Gives back everything that a process held. It must be gone.
    ///
    /// Its slot stays until [`Program::release_slot`], because the outcome is in it.
    pub(crate) fn bury(&self, holder: Holder) {
        let slot = self.roster.slot(holder.slot());
        let generation = holder.generation();
        let next = (generation + 1) % Holder::GENERATIONS;
        // From here on every word that names the process is stale, and its locks can be taken over.
        // In this order: who attends an isolated worker has it running even now, but never again reserved.
        let dead = slot.change((State::Reserved, generation), (State::Dead, next))
            || slot.change((State::Running, generation), (State::Dead, next));
        if dead {
            fault!("reap.dead");
        }
        // Called while this very thread buries another, whose lock's holder died too: it goes on
        // with this one when it is done.
        if !SETTLING.get() {
            self.settle_the_dead();
        }
    }

    /// Buries every process that was found dead, also those whose burial was broken off.
    fn settle_the_dead(&self) {
        match self.header().reaping.lock(self.roster, Deadline::NEVER) {
            Ok(Acquired::Clean) => SETTLING.set(true),
            Ok(Acquired::Inherited(_)) => {
                SETTLING.set(true);
                self.header().redo.finish(self.region());
                self.finish_burial();
            }
            Err(_) => unreachable!("the reaping lock is never marked and has no deadline"),
        }
        // Until a whole pass finds nobody: more may be found dead meanwhile.
        loop {
            let mut any = false;
            for (index, slot) in self.roster.slots() {
                let (state, generation) = slot.state();
                if state == State::Dead {
                    self.settle_one(index, slot, generation);
                    any = true;
                }
            }
            if !any {
                break;
            }
        }
        SETTLING.set(false);
        self.header().reaping.unlock(self.roster);
    }

    /// Does again the burial in which the last holder of the reaping lock died, before any other: how far
    /// a step of it came is on record for one at a time.
    #[cold]
    fn finish_burial(&self) {
        let begun = Holder::from_bits(self.header().burying.load(Ordering::Relaxed));
        let Some(dead) = begun else { return };
        let slot = self.roster.slot(dead.slot());
        let next = (dead.generation() + 1) % Holder::GENERATIONS;
        if slot.state() == (State::Dead, next) {
            self.settle_one(dead.slot(), slot, next);
        }
    }

    fn settle_one(&self, index: u32, slot: &'static Slot, generation: u32) {
        let was = (generation + Holder::GENERATIONS - 1) % Holder::GENERATIONS;
        let dead = Holder::new(index, was);
        // Relaxed: read under the lock only.
        self.header().burying.store(dead.bits(), Ordering::Relaxed);
        // The dead one may have taken a wake-up with it that was meant for another.
        for thread in slot.records() {
            let sleeping = thread.sleeping.load(Ordering::Acquire);
            if sleeping != 0 {
                let word: &AtomicU32 = self.region().at(sleeping);
                futex::wake(word, u32::MAX);
                // Not before the wake: if we die in between, the next one wakes again.
                thread.sleeping.store(0, Ordering::Release);
            }
        }
        fault!("reap.woken");
        for thread in slot.records() {
            for (words, debt) in thread.debts() {
                self.count_lost(debt, words.word());
            }
            thread.taken.store(0, Ordering::Relaxed);
        }
        fault!("reap.counted");
        self.hand_outcome(slot, dead);
        self.arena.abandon_lock(dead);
        self.roster.abandon_lock(dead);
        for id in self.table.marked_held_by(index) {
            if let Some(lock) = self.marked_lock(id) {
                let is_user = |user: Holder| self.table.is_held_by(id, user.slot());
                lock.report_death(self.roster, dead, is_user);
            }
        }
        self.table.let_go_all(&self.arena, dead);
        fault!("reap.let_go");
        self.table.free_left_by(&self.arena, Owner::Process(dead));
        fault!("reap.freed");
        let buried = slot.change((State::Dead, generation), (State::Buried, generation));
        debug_assert!(buried, "a dead slot changes under the reaping lock only");
    }

    /// The lock of an object that is marked when its holder dies, if the object has one.
    pub(crate) fn marked_lock(&self, id: ObjectId) -> Option<&'static MarkedLock> {
        self.table.marked(id).map(|at| self.region().at(at))
    }

    /// Whether the calling process has something of an object that its death must give back: a guard
    /// or a permit that was forgotten.
    pub(crate) fn is_kept(&self, id: ObjectId) -> bool {
        let me = self.roster.me();
        let lock = self.marked_lock(id);
        let mut shares = (0..).map_while(|which| self.table.shares(id, which));
        lock.is_some_and(|lock| lock.mutex.holder() == Some(me))
            || shares.any(|(shares, entries)| shares.held_by(entries, me) > 0)
    }

    /// Keeps what a dead process has committed from being freed with it.
    fn hand_outcome(&self, slot: &Slot, dead: Holder) {
        let Some(parent) = slot.parent().filter(|&parent| self.roster.is_alive(parent)) else {
            return;
        };
        // Acquire: pairs with the commit in the child.
        let outcome = slot.outcome.load(Ordering::Acquire);
        let parcel = slot.outcome_parcel.load(Ordering::Relaxed);
        if outcome == 0 {
            return;
        }
        for id in [outcome, parcel].into_iter().filter_map(BlockId::from_bits) {
            // False if a burial that was broken off did it.
            let _ = self
                .arena
                .set_owner(id, Owner::Process(dead), Owner::Process(parent));
        }
    }

    /// Counts the values that a dead getter took and gave to nobody.
    fn count_lost(&self, debt: Debt, word: &AtomicU64) {
        let counter: &AtomicU64 = self.region().at(debt.counter);
        // Acquire: a successor that cleared the debt because nothing was taken did so before the
        // counter moved on.
        let taken = counter.load(Ordering::Acquire) & Debt::MASK;
        if word.load(Ordering::Acquire) == 0 {
            return;
        }
        let lost: &AtomicU64 = self.region().at(debt.lost);
        let more = if taken == u64::from(debt.before) {
            0
        } else {
            u64::from(debt.count)
        };
        let sum = lost.load(Ordering::Relaxed) + more;
        self.header()
            .redo
            .commit(self.region(), &[(lost, sum), (word, 0)]);
    }

    /// Frees the slot of a buried process for the next one.
    pub(crate) fn release_slot(&self, holder: Holder) {
        let slot = self.roster.slot(holder.slot());
        let generation = (holder.generation() + 1) % Holder::GENERATIONS;
        // False if an adopter did it: then it is free already.
        let _ = slot.change((State::Buried, generation), (State::Free, generation));
    }

    /// The processes that `parent`, which is gone, was to answer for; we answer for them now.
    pub(crate) fn adopt(&self, parent: Holder) -> Vec<Orphan> {
        let mut orphans = Vec::new();
        for (index, slot) in self.roster.slots() {
            // The state first: a parent that is read after it belongs to that tenancy, since a dead
            // parent reserves no more.
            let (state, generation) = slot.state();
            if slot.parent() != Some(parent) {
                continue;
            }
            let holder = Holder::new(index, generation);
            match state {
                State::Free => {}
                State::Reserved | State::Running => {
                    let me = self.roster.me().bits();
                    slot.parent.store(me, Ordering::Relaxed);
                    orphans.push(Orphan {
                        holder,
                        pid: slot.pid(),
                        start_time: slot.start_time.load(Ordering::Relaxed),
                    });
                }
                State::Dead | State::Buried => {
                    self.settle_the_dead();
                    let _ = slot.change((State::Buried, generation), (State::Free, generation));
                }
            }
        }
        orphans
    }
}

/// A process whose parent died.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orphan {
    /// Its slot.
    pub(crate) holder: Holder,
    /// Its process id; zero if it was never started.
    pub(crate) pid: u32,
    /// When it was started; zero if that was never recorded.
    pub(crate) start_time: u64,
}
