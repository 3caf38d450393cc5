//! Waiting for a notification with a lock let go meanwhile.
//!
//! It is a bell: who waits remembers the rings so far while it still holds the lock, so that a
//! notification under the lock is either before that or changes the count.

use super::{Bell, Peers};
use crate::deadline::Deadline;

/// The condition. All zeros has nobody waiting.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct RawCondvar {
    bell: Bell,
}

impl RawCondvar {
    #[cfg(all(test, loom))]
    pub(crate) fn new() -> Self {
        Self { bell: Bell::new() }
    }

    /// Calls `release`, which lets the lock go, and waits for a notification made after that;
    /// false after `deadline`. May return true for no reason.
    pub(crate) fn wait(
        &self,
        peers: &(impl Peers + ?Sized),
        release: impl FnOnce(),
        deadline: Deadline,
    ) -> bool {
        let first = self.bell.listen();
        release();
        loop {
            // Again each time: a ring before ours may have taken the waiting bit down.
            let ticket = self.bell.listen();
            if ticket.is_after(first) {
                return true;
            }
            if deadline.has_passed() {
                return false;
            }
            self.bell.wait(peers, ticket, deadline);
        }
    }

    /// Wakes at most `count` of those who wait.
    pub(crate) fn notify(&self, peers: &(impl Peers + ?Sized), count: u32) {
        if count > 0 {
            self.bell.ring(peers, count);
        }
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::super::model::World;
    use super::super::{Acquired, RawMutex};
    use super::*;
    use crate::loom::{AtomicU32, Ordering};

    struct Shared {
        mutex: RawMutex,
        condvar: RawCondvar,
        /// Changes under the mutex.
        tokens: AtomicU32,
        world: World,
    }

    impl Shared {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                mutex: RawMutex::new(),
                condvar: RawCondvar::new(),
                tokens: AtomicU32::new(0),
                world: World::new(),
            })
        }

        fn lock(&self, slot: u32) {
            let me = self.world.process(slot);
            assert_eq!(self.mutex.lock(&me, Deadline::NEVER), Ok(Acquired::Clean));
        }

        fn take(&self, slot: u32) {
            let me = self.world.process(slot);
            self.lock(slot);
            while self.tokens.load(Ordering::Relaxed) == 0 {
                let release = || self.mutex.unlock(&me);
                self.condvar.wait(&me, release, Deadline::NEVER);
                self.lock(slot);
            }
            self.tokens.fetch_sub(1, Ordering::Relaxed);
            self.mutex.unlock(&me);
        }

        fn give(&self, slot: u32) {
            let me = self.world.process(slot);
            self.lock(slot);
            self.tokens.fetch_add(1, Ordering::Relaxed);
            self.condvar.notify(&me, 1);
            self.mutex.unlock(&me);
        }
    }

    #[test]
    fn notification_while_the_lock_is_let_go() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Shared::new();
            let waiter = thread::spawn({
                let shared = shared.clone();
                move || shared.take(1)
            });
            shared.give(0);
            waiter.join().unwrap();
        });
    }

    #[test]
    fn two_notifications_for_two_waiters() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let shared = Shared::new();
            let waiters: Vec<_> = (1..3)
                .map(|slot| {
                    let shared = shared.clone();
                    thread::spawn(move || shared.take(slot))
                })
                .collect();
            shared.give(0);
            shared.give(0);
            for waiter in waiters {
                waiter.join().unwrap();
            }
        });
    }
}
