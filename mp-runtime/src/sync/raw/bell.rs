//! A word that those who wait for a change sleep on and those who make it ring.
//!
//! The change itself is in other words. Waiting is: [`Bell::listen`], look whether the change is
//! there already, [`Bell::wait`], and again. Ringing without anybody asleep is one load.
//!
//! The waiting bit says "perhaps": a waiter that was killed leaves it up, and the next ring, which
//! finds nobody, takes it down. That is what a count of waiters could not do.

use std::sync::atomic::compiler_fence;

use super::{Holder, Peers};
use crate::deadline::Deadline;
use crate::loom::{AtomicU32, Ordering, fence};

/// Somebody may be asleep on the word, or about to be.
const WAITING: u32 = 1;
/// Somebody has listened since the last ring: the waiting bit must not go down for that one's sake.
const HEARD: u32 = 2;
/// One ring.
const RING: u32 = 4;

/// The bell. All zeros is silent.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Bell {
    /// `{ rings: 30 bits, heard: 1 bit, waiting: 1 bit }`.
    word: AtomicU32,
}

/// What [`Bell::listen`] heard: the rings so far.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Ticket(u32);

impl Ticket {
    /// Whether there was a ring since `other`.
    pub(crate) fn is_after(self, other: Self) -> bool {
        self.0 / RING != other.0 / RING
    }
}

impl Bell {
    #[cfg(all(test, loom))]
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
        }
    }

    /// Announces that the caller is about to wait. It must look for its change after this.
    pub(crate) fn listen(&self) -> Ticket {
        // Release: pairs with the Acquire in `ring_waiting`.
        let up = WAITING | HEARD;
        let ticket = self.word.fetch_or(up, Ordering::Release) | up;
        // SeqCst: pairs with the fence in `ring`. Either the ringer sees our bit, or we see its
        // change.
        fence(Ordering::SeqCst);
        Ticket(ticket)
    }

    /// Whether somebody may be asleep on it. As after a change: the caller has passed a fence since.
    pub(crate) fn is_awaited(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WAITING != 0
    }

    /// Sleeps until a ring after `ticket`, until `deadline`, or for no reason.
    pub(crate) fn wait(&self, peers: &(impl Peers + ?Sized), ticket: Ticket, deadline: Deadline) {
        peers.sleep(&self.word, ticket.0, None, deadline);
    }

    /// As [`wait`](Self::wait), for a ring of `peer`: in naps, after which it is looked at, so that
    /// its death ends the wait.
    pub(crate) fn wait_watching(
        &self,
        peers: &(impl Peers + ?Sized),
        ticket: Ticket,
        peer: Holder,
        deadline: Deadline,
    ) {
        peers.sleep(&self.word, ticket.0, Some(peer), deadline);
    }

    /// Wakes at most `count` of those who wait. The change must have been made.
    #[inline]
    pub(crate) fn ring(&self, peers: &(impl Peers + ?Sized), count: u32) {
        // SeqCst: pairs with the fence in `listen`.
        fence(Ordering::SeqCst);
        self.ring_fenced(peers, count);
    }

    /// As [`ring`](Self::ring), right after the lock was let go under which the change was made: where
    /// that is a fence, as every read-modify-write of x86-64 is, this takes no other.
    #[inline]
    pub(crate) fn ring_unlocked(&self, peers: &(impl Peers + ?Sized), count: u32) {
        if cfg!(all(target_arch = "x86_64", not(loom), not(miri))) {
            // The processor keeps the order already; the compiler shall keep it too.
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
        self.ring_fenced(peers, count);
    }

    #[inline]
    fn ring_fenced(&self, peers: &(impl Peers + ?Sized), count: u32) {
        if self.word.load(Ordering::Relaxed) & WAITING != 0 {
            self.ring_waiting(peers, count);
        }
    }

    /// Wakes everybody who sleeps, whether or not the word knows of them: a ringer that died may
    /// have taken the bit down, or the change without a ring.
    pub(crate) fn alarm(&self, peers: &(impl Peers + ?Sized)) {
        // SeqCst: pairs with the fence in `listen`; who listens after us sees the dead one's change.
        fence(Ordering::SeqCst);
        // Relaxed: as in `ring_waiting`; who is not asleep yet finds the word changed.
        self.word.fetch_add(RING, Ordering::Relaxed);
        peers.wake(&self.word, u32::MAX);
        // SeqCst: pairs with the fence in `listen`, as in `ring_waiting`.
        fence(Ordering::SeqCst);
        peers.ring_watchers(&self.word);
    }

    /// Wakes everybody who waits.
    pub(crate) fn ring_all(&self, peers: &(impl Peers + ?Sized)) {
        self.ring(peers, u32::MAX);
    }

    // Not cold: who ends a job that is waited for comes here each time. Cold code lies in other pages.
    #[inline(never)]
    fn ring_waiting(&self, peers: &(impl Peers + ?Sized), count: u32) {
        // Relaxed: the word orders nothing; the fences do. Whoever listened before and is not yet
        // asleep finds the word changed and looks again.
        let ring = |word: u32| word.wrapping_add(RING) & !HEARD;
        let rung = self
            .word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                Some(ring(word))
            })
            .map_or(0, ring);
        // If it woke as many as it might there may be more: the bit stays.
        if peers.wake(&self.word, count) < count {
            // It stays, too, if somebody has listened since our ring, or rung.
            // Acquire: pairs with the Release in `listen`. Whoever watched before it raised the bit
            // that goes down here is seen below.
            let down = rung & !WAITING;
            let _ = self
                .word
                .compare_exchange(rung, down, Ordering::Acquire, Ordering::Relaxed);
        }
        // SeqCst: pairs with the fence in `listen`. Either we see who watches, or it sees the change
        // that we ring for.
        fence(Ordering::SeqCst);
        peers.ring_watchers(&self.word);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::super::model::World;
    use super::*;

    /// A queue without values: how many were put and taken, and the bell.
    struct Shared {
        items: AtomicU32,
        bell: Bell,
        world: World,
    }

    impl Shared {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                items: AtomicU32::new(0),
                bell: Bell::new(),
                world: World::new(),
            })
        }

        fn put(&self, slot: u32) {
            self.items.fetch_add(1, Ordering::Release);
            self.bell.ring(&self.world.process(slot), 1);
        }

        fn try_get(&self) -> bool {
            self.items
                .fetch_update(Ordering::Acquire, Ordering::Relaxed, |items| {
                    items.checked_sub(1)
                })
                .is_ok()
        }

        fn get(&self, slot: u32) {
            while !self.try_get() {
                let ticket = self.bell.listen();
                if self.try_get() {
                    return;
                }
                let me = self.world.process(slot);
                self.bell.wait(&me, ticket, Deadline::NEVER);
            }
        }
    }

    #[test]
    fn ring_while_a_getter_falls_asleep() {
        loom::model(|| {
            let shared = Shared::new();
            let getter = thread::spawn({
                let shared = shared.clone();
                move || shared.get(1)
            });
            shared.put(0);
            getter.join().unwrap();
        });
    }

    #[test]
    fn two_rings_wake_two_getters() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Shared::new();
            let getters: Vec<_> = (1..3)
                .map(|slot| {
                    let shared = shared.clone();
                    thread::spawn(move || shared.get(slot))
                })
                .collect();
            shared.put(0);
            shared.put(0);
            for getter in getters {
                getter.join().unwrap();
            }
        });
    }

    #[test]
    fn getter_dies_with_the_wake_up_of_another() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Shared::new();
            let dying = thread::spawn({
                let shared = shared.clone();
                move || {
                    let ticket = shared.bell.listen();
                    let me = shared.world.process(1);
                    if shared.items.load(Ordering::Relaxed) == 0 {
                        shared.bell.wait(&me, ticket, Deadline::NEVER);
                    }
                    shared.world.die(1, &[&shared.bell.word]);
                }
            });
            let getter = thread::spawn({
                let shared = shared.clone();
                move || shared.get(2)
            });
            shared.put(0);
            getter.join().unwrap();
            // The dying one may sleep on if the getter was quicker; its killer wakes it.
            shared.put(0);
            shared.bell.ring_all(&shared.world.process(0));
            dying.join().unwrap();
        });
    }
}

/// The hook of [`wait`](crate::wait()): who waits for several things sleeps at its doorbell, which the
/// ringers of what it watches alarm (`wait/README.md`).
#[cfg(all(test, loom))]
mod watched {
    use loom::sync::Arc;
    use loom::thread;

    use super::super::model::{Process, World};
    use super::*;

    /// A queue without values that one process watches.
    struct Shared {
        items: AtomicU32,
        bell: Bell,
        /// The set of watchers, of which there is one.
        watchers: AtomicU32,
        doorbell: Bell,
        world: World,
    }

    /// A process that knows who watches the bell.
    struct Ringer<'a> {
        process: Process<'a>,
        shared: &'a Shared,
    }

    impl Peers for Ringer<'_> {
        fn me(&self) -> Holder {
            self.process.me()
        }

        fn is_alive(&self, holder: Holder) -> bool {
            self.process.is_alive(holder)
        }

        fn sleep(&self, word: &AtomicU32, expected: u32, watched: Option<Holder>, until: Deadline) {
            self.process.sleep(word, expected, watched, until);
        }

        fn wake(&self, word: &AtomicU32, count: u32) -> u32 {
            self.process.wake(word, count)
        }

        fn ring_watchers(&self, word: &AtomicU32) {
            let is_watched = std::ptr::eq(word, &self.shared.bell.word);
            // Relaxed: as in `Table::watchers_at`.
            if is_watched && self.shared.watchers.load(Ordering::Relaxed) != 0 {
                self.shared.doorbell.alarm(self);
            }
        }
    }

    impl Shared {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                items: AtomicU32::new(0),
                bell: Bell::new(),
                watchers: AtomicU32::new(0),
                doorbell: Bell::new(),
                world: World::new(),
            })
        }

        fn process(&self, slot: u32) -> Ringer<'_> {
            Ringer {
                process: self.world.process(slot),
                shared: self,
            }
        }

        /// The items, with an ordering that leaves the ring alone to make them visible.
        fn has(&self, count: u32) -> bool {
            self.items.load(Ordering::Relaxed) >= count
        }

        fn put(&self, slot: u32) {
            self.items.fetch_add(1, Ordering::Relaxed);
            self.bell.ring(&self.process(slot), 1);
        }

        /// What `wait` does until there are so many items.
        fn wait(&self, slot: u32, count: u32) {
            // Relaxed: as in `Table::watch`.
            self.watchers.fetch_or(1, Ordering::Relaxed);
            loop {
                let ticket = self.doorbell.listen();
                let _ = self.bell.listen();
                if self.has(count) {
                    return;
                }
                let me = self.process(slot);
                self.doorbell.wait(&me, ticket, Deadline::NEVER);
            }
        }

        /// Sleeps at the bell itself.
        fn see(&self, slot: u32, count: u32) {
            loop {
                let ticket = self.bell.listen();
                if self.has(count) {
                    return;
                }
                let me = self.process(slot);
                self.bell.wait(&me, ticket, Deadline::NEVER);
            }
        }
    }

    fn model(run: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(run);
    }

    #[test]
    fn change_while_a_wait_begins() {
        model(|| {
            let shared = Shared::new();
            let waiter = thread::spawn({
                let shared = shared.clone();
                move || shared.wait(1, 1)
            });
            shared.put(0);
            waiter.join().unwrap();
        });
    }

    /// One of the ringers takes the waiting bit down that the waiter has raised; the other finds it
    /// down and rings nobody.
    #[test]
    fn two_ringers_and_one_wait_for_both() {
        model(|| {
            let shared = Shared::new();
            let waiter = thread::spawn({
                let shared = shared.clone();
                move || shared.wait(1, 2)
            });
            let ringer = thread::spawn({
                let shared = shared.clone();
                move || shared.put(2)
            });
            shared.put(0);
            ringer.join().unwrap();
            waiter.join().unwrap();
        });
    }

    /// The ring for one who sleeps at the bell itself takes no ring from the doorbell.
    #[test]
    fn wait_beside_one_who_sleeps_at_the_bell() {
        model(|| {
            let shared = Shared::new();
            let waiter = thread::spawn({
                let shared = shared.clone();
                move || shared.wait(1, 1)
            });
            let sleeper = thread::spawn({
                let shared = shared.clone();
                move || shared.see(2, 1)
            });
            shared.items.fetch_add(1, Ordering::Relaxed);
            shared.bell.ring_all(&shared.process(0));
            waiter.join().unwrap();
            sleeper.join().unwrap();
        });
    }

    /// Its burial sounds the bell, whatever it has taken down before.
    #[test]
    fn ringer_dies_at_any_step() {
        for step in 0..3 {
            model(move || {
                let shared = Shared::new();
                let waiter = thread::spawn({
                    let shared = shared.clone();
                    move || shared.wait(1, 1)
                });
                shared.items.fetch_add(1, Ordering::Relaxed);
                // What of a ring comes before it tells the watchers.
                if step > 0 {
                    fence(Ordering::SeqCst);
                    shared.bell.word.fetch_add(RING, Ordering::Relaxed);
                }
                if step > 1 {
                    shared.bell.word.fetch_and(!WAITING, Ordering::Acquire);
                }
                shared.world.die(0, &[]);
                shared.bell.alarm(&shared.process(2));
                waiter.join().unwrap();
            });
        }
    }
}
