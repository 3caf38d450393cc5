//! A number of shares, and which process has how many of them, so that a death gives back exactly
//! what it had.
//!
//! How many are taken is derived: it is the sum of what the processes have. Whoever inherits the lock
//! adds up anew, so a change needs no redo record. A process that is found dead has nothing; its entry
//! may say otherwise until somebody looks.

use super::{Acquired, Bell, Holder, Peers, RawMutex, Refused};
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long an operation whose time is over still waits for the lock: its holder is adding two
/// numbers, unless it was stopped.
const GRACE: Duration = Duration::from_millis(10);

/// The shares. All zeros is none. What each process has is in a table of `{ holder: 32 bits,
/// count: 32 bits }`, an entry a slot, that the caller hands in.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RawShares {
    /// Held while anything below changes.
    lock: RawMutex,
    /// Rung when shares can be had.
    bell: Bell,
    /// Where the table of entries is. Written once, before the object is shared.
    entries: AtomicU64,
    /// How many shares there are.
    total: AtomicU32,
    /// How many of them are taken: the sum of the entries.
    taken: AtomicU32,
    /// More than which `add` does not make. Written once, before the object is shared.
    bound: AtomicU32,
    /// Entries that were ever used. Those behind them hold whatever their memory held before, and
    /// cost nothing where that was never touched.
    reach: AtomicU32,
}

impl RawShares {
    /// Where the lock and the bell are, in bytes.
    #[cfg(not(loom))]
    pub(crate) const LOCK: u64 = std::mem::offset_of!(Self, lock) as u64;
    #[cfg(not(loom))]
    pub(crate) const BELL: u64 = std::mem::offset_of!(Self, bell) as u64;

    #[cfg(all(test, loom))]
    pub(crate) fn new(total: u32) -> Self {
        Self {
            lock: RawMutex::new(),
            bell: Bell::new(),
            entries: AtomicU64::new(0),
            total: AtomicU32::new(total),
            taken: AtomicU32::new(0),
            bound: AtomicU32::new(total),
            reach: AtomicU32::new(0),
        }
    }

    /// What a burial does.
    #[cfg(all(test, loom))]
    pub(super) fn alarm(&self, peers: &(impl Peers + ?Sized)) {
        self.bell.alarm(peers);
    }

    /// Opens it with so many shares, at most `bound`, and a table of entries at `entries`.
    #[cfg(not(loom))]
    pub(crate) fn open(&self, total: u32, bound: u32, entries: u64) {
        // Relaxed: the object travels to others by messages, which order it.
        self.total.store(total, Ordering::Relaxed);
        self.bound.store(bound, Ordering::Relaxed);
        self.entries.store(entries, Ordering::Relaxed);
    }

    /// Where the table of entries is; zero before it was opened.
    #[cfg(not(loom))]
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// More than which there cannot be.
    pub(crate) fn bound(&self) -> u32 {
        self.bound.load(Ordering::Relaxed)
    }

    /// Takes a share, waiting for one until `deadline`; false if there was none.
    pub(crate) fn take(
        &self,
        peers: &(impl Peers + ?Sized),
        entries: &[AtomicU64],
        deadline: Deadline,
    ) -> bool {
        if self.try_take(peers, entries, deadline) {
            return true;
        }
        loop {
            let ticket = self.bell.listen();
            if self.try_take(peers, entries, deadline) {
                return true;
            }
            if deadline.has_passed() {
                return false;
            }
            self.bell.wait(peers, ticket, deadline);
        }
    }

    /// Takes a share if there is one.
    #[inline]
    pub(crate) fn try_take(
        &self,
        peers: &(impl Peers + ?Sized),
        entries: &[AtomicU64],
        deadline: Deadline,
    ) -> bool {
        if !self.lock(peers, entries, deadline) {
            return false;
        }
        // Relaxed, here and below: the lock orders it.
        let total = self.total.load(Ordering::Relaxed);
        if self.taken.load(Ordering::Relaxed) >= total {
            self.reclaim(peers, entries);
        }
        let is_free = self.taken.load(Ordering::Relaxed) < total;
        if is_free {
            let me = peers.me();
            if self.reach.load(Ordering::Relaxed) <= me.slot() {
                self.extend(entries, me.slot());
            }
            let entry = &entries[me.slot() as usize];
            let mut seen = entry.load(Ordering::Relaxed);
            if holder_of(seen) != Some(me) {
                // The last one in our slot is dead.
                self.forget_entry(entry, seen);
                seen = u64::from(me.bits()) << 32;
            }
            entry.store(seen + 1, Ordering::Relaxed);
            fault!("shares.recorded");
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        self.lock.unlock(peers);
        is_free
    }

    /// Gives back a share of the calling process.
    #[inline]
    pub(crate) fn give(&self, peers: &(impl Peers + ?Sized), entries: &[AtomicU64]) {
        self.lock(peers, entries, Deadline::NEVER);
        self.strike(peers, entries);
        self.lock.unlock(peers);
        fault!("shares.unlocked");
        self.bell.ring(peers, 1);
    }

    /// Does away with a share of the calling process.
    pub(crate) fn consume(&self, peers: &(impl Peers + ?Sized), entries: &[AtomicU64]) {
        self.lock(peers, entries, Deadline::NEVER);
        // This first: if we die in between, our burial strikes the entry.
        self.total.fetch_sub(1, Ordering::Relaxed);
        fault!("shares.consumed");
        self.strike(peers, entries);
        self.lock.unlock(peers);
    }

    /// Makes `count` more shares; false if there would be more than the bound.
    pub(crate) fn add(
        &self,
        peers: &(impl Peers + ?Sized),
        entries: &[AtomicU64],
        count: u32,
    ) -> bool {
        self.lock(peers, entries, Deadline::NEVER);
        let sum = self.total.load(Ordering::Relaxed).checked_add(count);
        let sum = sum.filter(|&sum| sum <= self.bound());
        if let Some(sum) = sum {
            self.total.store(sum, Ordering::Relaxed);
            fault!("shares.added");
        }
        self.lock.unlock(peers);
        if sum.is_some() && count > 0 {
            self.bell.ring(peers, count);
        }
        sum.is_some()
    }

    /// How many shares there are, and how many of them the living have.
    pub(crate) fn count(&self, peers: &(impl Peers + ?Sized), entries: &[AtomicU64]) -> (u32, u32) {
        self.lock(peers, entries, Deadline::NEVER);
        self.reclaim(peers, entries);
        let counts = (
            self.total.load(Ordering::Relaxed),
            self.taken.load(Ordering::Relaxed),
        );
        self.lock.unlock(peers);
        counts
    }

    /// Waits until nobody has a share; false after `deadline`.
    pub(crate) fn wait_for_none(
        &self,
        peers: &(impl Peers + ?Sized),
        entries: &[AtomicU64],
        deadline: Deadline,
    ) -> bool {
        loop {
            let ticket = self.bell.listen();
            if self.count(peers, entries).1 == 0 {
                return true;
            }
            if deadline.has_passed() {
                return false;
            }
            self.bell.wait(peers, ticket, deadline);
        }
    }

    /// How many shares `holder` has.
    #[cfg(not(loom))]
    pub(crate) fn held_by(&self, entries: &[AtomicU64], holder: Holder) -> u32 {
        // Acquire, here and in `holders`: pairs with the Release in `extend`.
        if holder.slot() >= self.reach.load(Ordering::Acquire) {
            return 0;
        }
        let seen = entries[holder.slot() as usize].load(Ordering::Relaxed);
        if holder_of(seen) == Some(holder) {
            seen as u32
        } else {
            0
        }
    }

    /// The living processes that have shares, and how many each.
    #[cfg(not(loom))]
    pub(crate) fn holders(
        &self,
        peers: &(impl Peers + ?Sized),
        entries: &[AtomicU64],
    ) -> Vec<(Holder, u32)> {
        entries[..self.reach.load(Ordering::Acquire) as usize]
            .iter()
            .map(|entry| entry.load(Ordering::Relaxed))
            .filter_map(|seen| Some((holder_of(seen)?, seen as u32)))
            .filter(|&(holder, count)| count > 0 && peers.is_alive(holder))
            .collect()
    }

    /// Acquires the lock; false if that is not to be had until a moment after `deadline`.
    fn lock(
        &self,
        peers: &(impl Peers + ?Sized),
        entries: &[AtomicU64],
        deadline: Deadline,
    ) -> bool {
        let mut result = self.lock.lock(peers, deadline);
        if result == Err(Refused::TimedOut) {
            result = self.lock.lock(peers, Deadline::after(GRACE));
        }
        match result {
            Ok(Acquired::Clean) => true,
            Ok(Acquired::Inherited(_)) => {
                self.add_up(entries);
                true
            }
            Err(_) => false,
        }
    }

    // Under the lock.

    /// Has the entries up to that of `slot` say that nobody has shares. Whoever dies in here has
    /// written where nobody looks yet.
    #[cold]
    fn extend(&self, entries: &[AtomicU64], slot: u32) {
        let reach = self.reach.load(Ordering::Relaxed);
        for entry in &entries[reach as usize..=slot as usize] {
            entry.store(0, Ordering::Relaxed);
        }
        // Release: not before the entries are zero.
        self.reach.store(slot + 1, Ordering::Release);
    }

    /// What the dead one left: the sum may not be that of the entries.
    #[cold]
    fn add_up(&self, entries: &[AtomicU64]) {
        let sum = entries[..self.reach.load(Ordering::Relaxed) as usize]
            .iter()
            .map(|entry| entry.load(Ordering::Relaxed) as u32)
            .sum();
        self.taken.store(sum, Ordering::Relaxed);
    }

    /// Takes back what the dead have.
    #[cold]
    fn reclaim(&self, peers: &(impl Peers + ?Sized), entries: &[AtomicU64]) {
        for entry in &entries[..self.reach.load(Ordering::Relaxed) as usize] {
            let seen = entry.load(Ordering::Relaxed);
            if holder_of(seen).is_some_and(|holder| !peers.is_alive(holder)) {
                self.forget_entry(entry, seen);
            }
        }
    }

    /// Ends an entry of a dead process.
    fn forget_entry(&self, entry: &AtomicU64, seen: u64) {
        entry.store(0, Ordering::Relaxed);
        fault!("shares.reclaimed");
        self.taken.fetch_sub(seen as u32, Ordering::Relaxed);
    }

    /// Ends one share of the calling process.
    fn strike(&self, peers: &(impl Peers + ?Sized), entries: &[AtomicU64]) {
        let entry = &entries[peers.me().slot() as usize];
        let seen = entry.load(Ordering::Relaxed);
        debug_assert!(holder_of(seen) == Some(peers.me()) && seen as u32 > 0);
        entry.store(seen - 1, Ordering::Relaxed);
        fault!("shares.struck");
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

fn holder_of(entry: u64) -> Option<Holder> {
    Holder::from_bits((entry >> 32) as u32)
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::super::model::World;
    use super::*;

    struct Shared {
        shares: RawShares,
        entries: Vec<AtomicU64>,
        world: World,
    }

    impl Shared {
        fn new(total: u32) -> Arc<Self> {
            Arc::new(Self {
                shares: RawShares::new(total),
                // Whatever their memory held before.
                entries: (0..4).map(|_| AtomicU64::new(u64::MAX)).collect(),
                world: World::new(),
            })
        }

        fn take(&self, slot: u32) {
            let me = self.world.process(slot);
            assert!(self.shares.take(&me, &self.entries, Deadline::NEVER));
        }

        fn give(&self, slot: u32) {
            self.shares.give(&self.world.process(slot), &self.entries);
        }

        fn count(&self, slot: u32) -> (u32, u32) {
            self.shares.count(&self.world.process(slot), &self.entries)
        }
    }

    #[test]
    fn share_is_given_while_a_taker_falls_asleep() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let shared = Shared::new(1);
            shared.take(0);
            let taker = thread::spawn({
                let shared = shared.clone();
                move || shared.take(1)
            });
            shared.give(0);
            taker.join().unwrap();
            assert_eq!(shared.count(2), (1, 1));
        });
    }

    #[test]
    fn holder_dies_while_a_taker_falls_asleep() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let shared = Shared::new(1);
            shared.take(0);
            let taker = thread::spawn({
                let shared = shared.clone();
                move || shared.take(1)
            });
            // What a burial does: everybody who waits looks again.
            shared.world.die(0, &[]);
            shared.shares.bell.alarm(&shared.world.process(2));
            taker.join().unwrap();
            assert_eq!(shared.count(2), (1, 1));
        });
    }

    #[test]
    fn taker_dies_between_its_entry_and_the_sum() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let shared = Shared::new(2);
            let dying = thread::spawn({
                let shared = shared.clone();
                move || {
                    let me = shared.world.process(0);
                    assert!(shared.shares.lock(&me, &shared.entries, Deadline::NEVER));
                    let entry = (u64::from(me.me().bits()) << 32) | 1;
                    shared.entries[0].store(entry, Ordering::Relaxed);
                    shared.shares.reach.fetch_max(1, Ordering::Relaxed);
                    shared.world.die(0, &[]);
                    // What the burial does.
                    let reaper = shared.world.process(2);
                    shared.shares.lock.abandon(&reaper, me.me());
                    shared.shares.bell.alarm(&reaper);
                }
            });
            shared.take(1);
            dying.join().unwrap();
            assert_eq!(shared.count(2), (2, 1));
        });
    }
}
