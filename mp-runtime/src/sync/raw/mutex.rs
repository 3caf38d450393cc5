//! A mutual-exclusion lock on one word that outlives its holder.
//!
//! The classic three-state futex lock (Drepper, "Futexes are tricky", 2011, mutex2), with the
//! holder's name in the word: whoever finds that the holder is dead takes the lock over and is told
//! so. A mark in the word carries "a holder died" from one user to the next until it is cleared.

use super::{Holder, Peers, spin_until};
use crate::deadline::Deadline;
use crate::loom::{AtomicU32, Ordering};

/// The holder was found dead. It changes the word, so that nobody falls asleep on it any more.
const ABANDONED: u32 = 1 << 31;
/// Somebody may be asleep on the word.
const CONTENDED: u32 = 1 << 30;
/// A holder died, and nobody has recovered the lock since.
const MARKED: u32 = 1 << 29;

/// The lock. All zeros is free.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct RawMutex {
    /// `{ abandoned: 1 bit, contended: 1 bit, marked: 1 bit, holder: 29 bits }`.
    word: AtomicU32,
}

/// How a lock came to its new holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Acquired {
    /// The last holder released it.
    Clean,
    /// The last holder died with it: what it protects may be half changed.
    Inherited(Holder),
}

/// Why a lock was not acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is free, but marked.
    Marked,
    /// Somebody else held it until the deadline.
    TimedOut,
}

/// What to do about the mark.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Honour,
    Clear,
}

impl RawMutex {
    #[cfg(all(test, loom))]
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
        }
    }

    /// Acquires the lock, waiting until `deadline`; refuses a marked one.
    #[inline]
    pub(crate) fn lock(
        &self,
        peers: &(impl Peers + ?Sized),
        deadline: Deadline,
    ) -> Result<Acquired, Refused> {
        match self.lock_free(peers.me()) {
            true => Ok(Acquired::Clean),
            false => self.lock_contended(peers, deadline, Mark::Honour),
        }
    }

    /// Acquires the lock for the calling process `me` if it is free and nothing else is to be said
    /// of it.
    #[inline]
    pub(crate) fn lock_free(&self, me: Holder) -> bool {
        // Acquire: pairs with the Release in `unlock`; what the last holder wrote is visible.
        self.word
            .compare_exchange(0, me.bits(), Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Acquires the lock if that needs no waiting; refuses a marked one.
    pub(crate) fn try_lock(&self, peers: &(impl Peers + ?Sized)) -> Result<Acquired, Refused> {
        let seen = self.word.load(Ordering::Relaxed);
        self.take(peers, seen, 0, Mark::Honour)
            .unwrap_or(Err(Refused::TimedOut))
    }

    /// Acquires the lock whether or not it is marked, and clears the mark.
    pub(crate) fn recover(&self, peers: &(impl Peers + ?Sized)) -> Acquired {
        match self.lock_contended(peers, Deadline::NEVER, Mark::Clear) {
            Ok(acquired) => acquired,
            Err(_) => unreachable!("recovery waits without limit and takes a marked lock"),
        }
    }

    /// Releases the lock, which the calling process must hold.
    #[inline]
    pub(crate) fn unlock(&self, peers: &(impl Peers + ?Sized)) {
        if !self.unlock_unwanted(peers.me()) {
            self.unlock_contended(peers);
        }
    }

    /// Releases the lock, which the calling process `me` must hold, unless somebody may be asleep on
    /// it.
    #[inline]
    pub(crate) fn unlock_unwanted(&self, me: Holder) -> bool {
        // Release: pairs with the Acquire of the next holder.
        self.word
            .compare_exchange(me.bits(), 0, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// Releases the lock and marks it: everybody who asks is refused until somebody recovers it.
    pub(crate) fn unlock_marked(&self, peers: &(impl Peers + ?Sized)) {
        // Release: as in `unlock`; the report of the death, written before, is visible too.
        self.word.store(MARKED, Ordering::Release);
        // All: each sleeper is to be told, and none of them will pass a wake-up on.
        peers.wake(&self.word, u32::MAX);
    }

    /// Takes the lock over from `dead`; false if it does not hold it.
    pub(crate) fn take_over(&self, peers: &(impl Peers + ?Sized), dead: Holder) -> bool {
        let mut seen = self.word.load(Ordering::Relaxed);
        while Holder::from_bits(seen) == Some(dead) {
            let mine = peers.me().bits() | CONTENDED;
            // Acquire: as in `lock`.
            match self
                .word
                .compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Tells those who wait that the holder is dead, if it is `dead`: one of them takes over.
    ///
    /// Without it they find out by themselves, after a nap.
    pub(crate) fn abandon(&self, peers: &(impl Peers + ?Sized), dead: Holder) {
        let mut seen = self.word.load(Ordering::Relaxed);
        while Holder::from_bits(seen) == Some(dead) {
            // Release: who takes over knows what the dead one did, through the caller.
            match self.word.compare_exchange(
                seen,
                seen | ABANDONED,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    peers.wake(&self.word, u32::MAX);
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// The process that holds the lock now, as far as the word says.
    pub(crate) fn holder(&self) -> Option<Holder> {
        Holder::from_bits(self.word.load(Ordering::Relaxed))
    }

    /// Whether a holder died and nobody has recovered the lock since.
    pub(crate) fn is_marked(&self) -> bool {
        // Acquire: pairs with `unlock_marked`; the report is visible.
        self.word.load(Ordering::Acquire) & MARKED != 0
    }

    #[cold]
    fn lock_contended(
        &self,
        peers: &(impl Peers + ?Sized),
        deadline: Deadline,
        mark: Mark,
    ) -> Result<Acquired, Refused> {
        let mut has_spun = false;
        // Once we have slept others may sleep still: then we acquire with the flag up.
        let mut flag = 0;
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            if let Some(result) = self.take(peers, seen, flag, mark) {
                return result;
            }
            let Some(holder) = Holder::from_bits(seen) else {
                continue; // It was free, and somebody else was quicker.
            };
            if !has_spun && seen & CONTENDED == 0 {
                // Until it is free or others sleep already: then it is no matter of moments.
                has_spun = !spin_until(|| {
                    let seen = self.word.load(Ordering::Relaxed);
                    Holder::from_bits(seen).is_none() || seen & CONTENDED != 0
                });
                continue;
            }
            if deadline.has_passed() {
                return Err(Refused::TimedOut);
            }
            let expected = seen | CONTENDED;
            if seen == expected
                || self
                    .word
                    .compare_exchange(seen, expected, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            {
                peers.sleep(&self.word, expected, Some(holder), deadline);
                flag = CONTENDED;
            }
        }
    }

    /// One attempt on the word as it was `seen`: `None` if it is held by the living or has changed.
    fn take(
        &self,
        peers: &(impl Peers + ?Sized),
        seen: u32,
        flag: u32,
        mark: Mark,
    ) -> Option<Result<Acquired, Refused>> {
        let (acquired, kept) = match Holder::from_bits(seen) {
            None if seen & MARKED != 0 && mark == Mark::Honour => {
                // Acquire: pairs with `unlock_marked`; the report is visible.
                crate::loom::fence(Ordering::Acquire);
                return Some(Err(Refused::Marked));
            }
            None => (Acquired::Clean, seen & CONTENDED),
            Some(holder) if seen & ABANDONED != 0 || !peers.is_alive(holder) => {
                // Sleepers that the dead one would have woken are ours to wake.
                (Acquired::Inherited(holder), CONTENDED)
            }
            Some(_) => return None,
        };
        let mine = peers.me().bits() | flag | kept;
        // Acquire: as in `lock`.
        self.word
            .compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Ok(acquired))
    }

    #[cold]
    fn unlock_contended(&self, peers: &(impl Peers + ?Sized)) {
        // Release: as in `unlock`.
        let old = self.word.swap(0, Ordering::Release);
        debug_assert_eq!(Holder::from_bits(old), Some(peers.me()));
        if old & CONTENDED != 0 {
            peers.wake(&self.word, 1);
        }
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::super::model::{Process, World};
    use super::*;

    struct Shared {
        mutex: RawMutex,
        count: UnsafeCell<u32>,
        world: World,
    }

    impl Shared {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                mutex: RawMutex::new(),
                count: UnsafeCell::new(0),
                world: World::new(),
            })
        }

        fn lock(&self, process: &Process<'_>) -> Result<Acquired, Refused> {
            self.mutex.lock(process, Deadline::NEVER)
        }

        #[expect(unsafe_code, reason = "the cell is what the lock must protect")]
        fn increment(&self) {
            self.count.with_mut(|count| {
                // SAFETY: loom reports it if somebody else has access, which is what is tested.
                unsafe { *count += 1 }
            });
        }
    }

    #[test]
    fn two_holders_exclude_each_other() {
        loom::model(|| {
            let shared = Shared::new();
            let other = thread::spawn({
                let shared = shared.clone();
                move || {
                    let me = shared.world.process(1);
                    assert_eq!(shared.lock(&me), Ok(Acquired::Clean));
                    shared.increment();
                    shared.mutex.unlock(&me);
                }
            });
            let me = shared.world.process(2);
            assert_eq!(shared.lock(&me), Ok(Acquired::Clean));
            shared.increment();
            shared.mutex.unlock(&me);
            other.join().unwrap();
            assert_eq!(shared.mutex.holder(), None);
        });
    }

    #[test]
    fn holder_dies_while_another_falls_asleep() {
        loom::model(|| {
            let shared = Shared::new();
            let dying = thread::spawn({
                let shared = shared.clone();
                move || {
                    let me = shared.world.process(1);
                    let _ = shared.lock(&me).unwrap();
                    shared.increment();
                    shared.world.die(1, &[]);
                    shared.mutex.abandon(&shared.world.process(0), me.me());
                }
            });
            let me = shared.world.process(2);
            match shared.lock(&me) {
                Ok(Acquired::Clean) => shared.mutex.unlock(&me),
                Ok(Acquired::Inherited(holder)) => {
                    assert_eq!(holder.slot(), 1);
                    shared.increment();
                    shared.mutex.unlock(&me);
                }
                Err(refused) => panic!("{refused:?}"),
            }
            dying.join().unwrap();
        });
    }

    #[test]
    fn waiter_dies_after_it_was_woken() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Shared::new();
            let me = shared.world.process(0);
            assert_eq!(shared.lock(&me), Ok(Acquired::Clean));
            let dying = thread::spawn({
                let shared = shared.clone();
                move || {
                    // What `lock_contended` does up to its sleep; then it is dead.
                    let word = &shared.mutex.word;
                    let seen = word.load(Ordering::Relaxed);
                    if Holder::from_bits(seen).is_some() {
                        let expected = seen | CONTENDED;
                        if seen == expected
                            || word
                                .compare_exchange(
                                    seen,
                                    expected,
                                    Ordering::Relaxed,
                                    Ordering::Relaxed,
                                )
                                .is_ok()
                        {
                            let me = shared.world.process(1);
                            me.sleep(word, expected, None, Deadline::NEVER);
                        }
                    }
                    shared.world.die(1, &[word]);
                }
            });
            let waiting = thread::spawn({
                let shared = shared.clone();
                move || {
                    let me = shared.world.process(2);
                    assert_eq!(shared.lock(&me), Ok(Acquired::Clean));
                    shared.mutex.unlock(&me);
                }
            });
            shared.mutex.unlock(&me);
            dying.join().unwrap();
            waiting.join().unwrap();
        });
    }

    #[test]
    fn mark_reaches_everybody_who_waits() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Shared::new();
            let dead = shared.world.process(1);
            let _ = shared.lock(&dead).unwrap();
            let waiters: Vec<_> = (2..4)
                .map(|slot| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        let me = shared.world.process(slot);
                        match shared.lock(&me) {
                            Ok(Acquired::Inherited(_)) => shared.mutex.unlock_marked(&me),
                            Err(Refused::Marked) => {}
                            other => panic!("{other:?}"),
                        }
                    })
                })
                .collect();
            shared.world.die(1, &[]);
            shared.mutex.abandon(&shared.world.process(0), dead.me());
            for waiter in waiters {
                waiter.join().unwrap();
            }
            assert!(shared.mutex.is_marked());
            let me = shared.world.process(0);
            assert_eq!(shared.mutex.recover(&me), Acquired::Clean);
            shared.mutex.unlock(&me);
            assert!(!shared.mutex.is_marked());
        });
    }
}
