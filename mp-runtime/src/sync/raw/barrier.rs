//! A place where a number of parties wait for each other, on one word.
//!
//! Arriving, passing, breaking and resetting are each one compare-and-set, so a death leaves nothing
//! half done: what it leaves is a party that will not come, and for that the barrier is broken.

use super::{Holder, Peers};
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering};

/// Parties that a barrier may have.
pub(crate) const MAX_PARTIES: u32 = (1 << 16) - 1;

/// One party that has arrived.
const ARRIVAL: u64 = 1;
const ARRIVALS: u64 = MAX_PARTIES as u64;
/// Why the barrier is broken; zero if it is not.
const CAUSE: u64 = 3 << CAUSE_SHIFT;
const CAUSE_SHIFT: u32 = 16;
/// Changes with each death that was reported.
const DEATH: u64 = 1 << 18;
const RESET: u64 = 1 << 19;
const RESETS: u64 = ((1 << 21) - 1) * RESET;
const PASS_SHIFT: u32 = 40;

/// The barrier. All zeros is one that was not opened yet.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RawBarrier {
    /// `{ passes: 24 bits, resets: 21 bits, deaths: 1 bit, cause: 2 bits, arrived: 16 bits }`.
    word: AtomicU64,
    /// How many arrivals make a pass. Written once, before the barrier is shared.
    parties: AtomicU32,
    /// What the parties sleep on. Changes after each change of the word that lets them go on, or tells
    /// them that they shall not.
    turn: AtomicU32,
    /// The death that is being reported, and `deaths` before: `{ holder: 32 bits, deaths: 1 bit }`.
    report: AtomicU64,
}

/// Why a barrier is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody called for it, or panicked in the action.
    Aborted = 1,
    /// Somebody's time was over.
    TimedOut = 2,
    /// A party died.
    Died = 3,
}

/// Why a party did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The barrier is broken.
    Broken(Cause),
    /// It was reset while the party waited.
    Reset,
    /// The party would have had to wait. It has not arrived.
    WouldBlock,
}

/// A party's arrival: which one it was in its pass.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Arrival {
    index: u32,
    is_last: bool,
    /// The word as the party left it.
    word: u64,
}

impl RawBarrier {
    #[cfg(all(test, loom))]
    pub(crate) fn new(parties: u32) -> Self {
        Self {
            word: AtomicU64::new(0),
            parties: AtomicU32::new(parties),
            turn: AtomicU32::new(0),
            report: AtomicU64::new(0),
        }
    }

    /// Opens it for so many parties.
    #[cfg(not(loom))]
    pub(crate) fn open(&self, parties: u32) {
        // Relaxed: the barrier travels to others by messages, which order it.
        self.parties.store(parties, Ordering::Relaxed);
    }

    /// How many parties it is for.
    pub(crate) fn parties(&self) -> u32 {
        self.parties.load(Ordering::Relaxed)
    }

    /// How many parties have arrived and not passed.
    pub(crate) fn arrived(&self) -> u32 {
        arrived(self.word.load(Ordering::Relaxed))
    }

    /// Why it is broken, if it is.
    pub(crate) fn cause(&self) -> Option<Cause> {
        cause(self.word.load(Ordering::Acquire))
    }

    /// Arrives. Unless it is the last, the party goes on with [`wait`](Self::wait); the last one
    /// with [`pass`](Self::pass). `may_wait` tells whether to arrive as one that has to wait.
    pub(crate) fn arrive(
        &self,
        peers: &(impl Peers + ?Sized),
        may_wait: bool,
        deadline: Deadline,
    ) -> Result<Arrival, Stopped> {
        let parties = self.parties();
        loop {
            let mut seen = self.word.load(Ordering::Acquire);
            if let Some(cause) = cause(seen) {
                return Err(Stopped::Broken(cause));
            }
            let index = arrived(seen);
            let is_last = index + 1 == parties;
            if !may_wait && !is_last {
                return Err(Stopped::WouldBlock);
            }
            if index >= parties {
                // All are there, and the last one is in its action: we are of the next pass.
                if deadline.has_passed() {
                    self.abort(peers, Cause::TimedOut);
                    continue;
                }
                // Acquire: as in `wait`.
                let turn = self.turn.load(Ordering::Acquire);
                seen = self.word.load(Ordering::Acquire);
                if arrived(seen) >= parties && cause(seen).is_none() {
                    peers.sleep(&self.turn, turn, None, deadline);
                }
                continue;
            }
            let word = seen + ARRIVAL;
            // AcqRel: what each party did before it arrived is visible to the last, and, through the
            // pass, to all.
            if self
                .word
                .compare_exchange(seen, word, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                fault!("barrier.arrived");
                return Ok(Arrival {
                    index,
                    is_last,
                    word,
                });
            }
        }
    }

    /// The last one lets all go on.
    pub(crate) fn pass(
        &self,
        peers: &(impl Peers + ?Sized),
        arrival: Arrival,
    ) -> Result<(), Stopped> {
        let next = (arrival.word & !ARRIVALS).wrapping_add(1 << PASS_SHIFT);
        // Release: pairs with the Acquire in `wait`; what was done before the pass is visible after.
        match self
            .word
            .compare_exchange(arrival.word, next, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => {
                fault!("barrier.passed");
                self.next_turn(peers);
                Ok(())
            }
            Err(now) => Err(outcome(arrival.word, now)
                .and_then(Result::err)
                .expect("only a break or a reset changes the word of a full barrier")),
        }
    }

    /// Waits until the last one lets all go on. After `deadline` it breaks the barrier.
    pub(crate) fn wait(
        &self,
        peers: &(impl Peers + ?Sized),
        arrival: Arrival,
        deadline: Deadline,
    ) -> Result<(), Stopped> {
        loop {
            // Acquire: pairs with the Release in `next_turn`. Who finds the new turn finds the change
            // that it is for, and who finds the old one does not sleep on it once it is over.
            let turn = self.turn.load(Ordering::Acquire);
            // Acquire: pairs with the Release in `pass`.
            let now = self.word.load(Ordering::Acquire);
            if let Some(outcome) = outcome(arrival.word, now) {
                return outcome;
            }
            if deadline.has_passed() {
                let broken = self.break_while(peers, Cause::TimedOut, |now| {
                    outcome(arrival.word, now).is_none()
                });
                if broken {
                    return Err(Stopped::Broken(Cause::TimedOut));
                }
                continue;
            }
            peers.sleep(&self.turn, turn, None, deadline);
        }
    }

    /// Breaks the barrier, unless it is broken: all who wait are told, and all who come.
    pub(crate) fn abort(&self, peers: &(impl Peers + ?Sized), cause: Cause) {
        // False if it is broken already: who broke it begins the turn.
        let _ = self.break_while(peers, cause, |_| true);
    }

    /// Makes the barrier as it was in the beginning. All who wait are told.
    pub(crate) fn reset(&self, peers: &(impl Peers + ?Sized)) {
        // Release: what was put right before the reset is visible to who arrives.
        let _ = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
                let resets = word.wrapping_add(RESET) & RESETS;
                Some((word & !(RESETS | CAUSE | ARRIVALS)) | resets)
            });
        self.next_turn(peers);
    }

    /// Breaks the barrier because a process died that has a handle of it. Under the reaping lock. Done
    /// again, because who did it died as well, it does not break what was reset meanwhile.
    pub(crate) fn report_death(&self, peers: &(impl Peers + ?Sized), dead: Holder) {
        // Acquire: a report that broke the barrier was begun before.
        let seen = self.word.load(Ordering::Acquire);
        let begun = self.report.load(Ordering::Relaxed);
        let of_dead = u64::from(dead.bits()) << 1;
        let deaths = |word: u64| u64::from(word & DEATH != 0);
        if begun != of_dead | (deaths(seen) ^ 1) {
            self.report.store(of_dead | deaths(seen), Ordering::Relaxed);
            fault!("barrier.reporting");
            // Release: pairs with the Acquire above.
            let _ = self
                .word
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
                    let cause = cause(word).unwrap_or(Cause::Died) as u64;
                    Some(((word ^ DEATH) & !CAUSE) | (cause << CAUSE_SHIFT))
                });
            fault!("barrier.reported");
        }
        // In any case: the dead one may have made a change and told nobody.
        self.next_turn(peers);
    }

    /// Wakes everybody who waits. The change must have been made.
    fn next_turn(&self, peers: &(impl Peers + ?Sized)) {
        // Release: pairs with the Acquire in `wait`.
        self.turn.fetch_add(1, Ordering::Release);
        peers.wake(&self.turn, u32::MAX);
    }

    fn break_while(
        &self,
        peers: &(impl Peers + ?Sized),
        why: Cause,
        still: impl Fn(u64) -> bool,
    ) -> bool {
        let broken = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
                (cause(word).is_none() && still(word))
                    .then_some(word | ((why as u64) << CAUSE_SHIFT))
            })
            .is_ok();
        if broken {
            self.next_turn(peers);
        }
        broken
    }
}

/// What became of a party that left the word as `mine`, now that it is `now`; `None` if it waits on.
fn outcome(mine: u64, now: u64) -> Option<Result<(), Stopped>> {
    if mine >> PASS_SHIFT != now >> PASS_SHIFT {
        // Whatever came after it, the pass was made.
        Some(Ok(()))
    } else if (mine ^ now) & RESETS != 0 {
        Some(Err(Stopped::Reset))
    } else {
        cause(now).map(|cause| Err(Stopped::Broken(cause)))
    }
}

fn arrived(word: u64) -> u32 {
    (word & ARRIVALS) as u32
}

fn cause(word: u64) -> Option<Cause> {
    match (word & CAUSE) >> CAUSE_SHIFT {
        1 => Some(Cause::Aborted),
        2 => Some(Cause::TimedOut),
        3 => Some(Cause::Died),
        _ => None,
    }
}

impl Arrival {
    /// How many arrived before it.
    pub(crate) fn index(self) -> u32 {
        self.index
    }

    /// Whether it is the one that lets all go on.
    pub(crate) fn is_last(self) -> bool {
        self.is_last
    }
}

#[cfg(all(test, loom))]
mod tests {
    use std::time::Duration;

    use loom::sync::Arc;
    use loom::thread;

    use super::super::model::World;
    use super::*;

    struct Shared {
        barrier: RawBarrier,
        world: World,
    }

    impl Shared {
        fn new(parties: u32) -> Arc<Self> {
            Arc::new(Self {
                barrier: RawBarrier::new(parties),
                world: World::new(),
            })
        }

        fn meet(&self, slot: u32) -> Result<u32, Stopped> {
            self.meet_until(slot, Deadline::NEVER)
        }

        fn meet_until(&self, slot: u32, deadline: Deadline) -> Result<u32, Stopped> {
            let me = self.world.process(slot);
            let arrival = self.barrier.arrive(&me, true, deadline)?;
            if arrival.is_last() {
                self.barrier.pass(&me, arrival)?;
            } else {
                self.barrier.wait(&me, arrival, deadline)?;
            }
            Ok(arrival.index())
        }
    }

    #[test]
    fn second_pass_begins_while_the_first_ends() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Shared::new(2);
            let other = thread::spawn({
                let shared = shared.clone();
                move || (shared.meet(1).unwrap(), shared.meet(1).unwrap())
            });
            let mine = (shared.meet(0).unwrap(), shared.meet(0).unwrap());
            let theirs = other.join().unwrap();
            assert_eq!((mine.0 + theirs.0, mine.1 + theirs.1), (1, 1));
        });
    }

    /// A turn that ends while a party falls asleep must not look as if nothing had happened.
    #[test]
    fn third_pass_begins_before_a_party_of_the_second_is_asleep() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let shared = Shared::new(2);
            let other = thread::spawn({
                let shared = shared.clone();
                move || [(); 3].map(|()| shared.meet(1).unwrap())
            });
            let mine = [(); 3].map(|()| shared.meet(0).unwrap());
            let theirs = other.join().unwrap();
            assert_eq!([0, 1, 2].map(|pass| mine[pass] + theirs[pass]), [1; 3]);
        });
    }

    /// Either both are told of the pass or both of the timeout.
    #[test]
    fn time_of_a_party_runs_out_while_the_last_one_passes() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Shared::new(2);
            let other = thread::spawn({
                let shared = shared.clone();
                move || shared.meet_until(1, Deadline::after(Duration::ZERO))
            });
            let mine = shared.meet(0);
            let theirs = other.join().unwrap();
            match mine {
                Ok(index) => assert_eq!(theirs, Ok(1 - index)),
                Err(stopped) => {
                    assert_eq!(stopped, Stopped::Broken(Cause::TimedOut));
                    assert_eq!(theirs, Err(stopped));
                }
            }
            assert_eq!(shared.barrier.cause().is_some(), mine.is_err());
        });
    }

    #[test]
    fn party_dies_while_another_falls_asleep() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Shared::new(2);
            let waiter = thread::spawn({
                let shared = shared.clone();
                move || shared.meet(1)
            });
            shared.world.die(0, &[]);
            let reaper = shared.world.process(2);
            shared.barrier.report_death(&reaper, Holder::new(0, 0));
            assert_eq!(waiter.join().unwrap(), Err(Stopped::Broken(Cause::Died)));
        });
    }

    /// Who buries the dead party dies as well, and the barrier is reset before the next one does it
    /// again.
    #[test]
    fn death_is_reported_again_while_the_barrier_is_reset() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Shared::new(2);
            let dead = Holder::new(0, 0);
            shared.world.die(0, &[]);
            let reaper = shared.world.process(2);
            shared.barrier.report_death(&reaper, dead);
            let resetter = thread::spawn({
                let shared = shared.clone();
                move || shared.barrier.reset(&shared.world.process(1))
            });
            shared.barrier.report_death(&reaper, dead);
            resetter.join().unwrap();
            assert_eq!(shared.barrier.cause(), None);
            // Another death is another matter, also of one in the same slot.
            shared.barrier.report_death(&reaper, Holder::new(0, 1));
            assert_eq!(shared.barrier.cause(), Some(Cause::Died));
        });
    }

    #[test]
    fn reset_and_a_pass_are_not_both() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let shared = Shared::new(2);
            let parties: Vec<_> = (1..3)
                .map(|slot| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        shared.meet(slot).map_err(|stopped| {
                            // The other one waits in vain now.
                            shared
                                .barrier
                                .abort(&shared.world.process(slot), Cause::Aborted);
                            stopped
                        })
                    })
                })
                .collect();
            shared.barrier.reset(&shared.world.process(0));
            let passed = parties
                .into_iter()
                .map(|party| party.join().unwrap())
                .filter(Result::is_ok)
                .count();
            assert!(passed == 0 || passed == 2);
        });
    }
}
