//! A flag that many wait for.
//!
//! It counts how often it was set, so that whoever waited when it was set goes on even if it is
//! cleared before they run.

use super::{Bell, Peers};
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::loom::{AtomicU32, Ordering};

/// The flag is up.
const SET: u32 = 1;
/// The flag went up once.
const ONCE: u32 = 2;

/// The event. All zeros is not set.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RawEvent {
    /// `{ times set: 31 bits, set: 1 bit }`.
    word: AtomicU32,
    /// Rung when the flag goes up.
    bell: Bell,
}

impl RawEvent {
    /// Where the bell is, in bytes.
    #[cfg(not(loom))]
    pub(crate) const BELL: u64 = std::mem::offset_of!(Self, bell) as u64;

    #[cfg(all(test, loom))]
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            bell: Bell::new(),
        }
    }

    /// Rung when the flag goes up.
    #[cfg(not(loom))]
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Whether the flag is up.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // Acquire: pairs with the Release in `set`; what was written before it is visible.
        self.word.load(Ordering::Acquire) & SET != 0
    }

    /// Puts the flag up and wakes all who wait.
    pub(crate) fn set(&self, peers: &(impl Peers + ?Sized)) {
        // Release: pairs with the Acquire in `is_set` and `wait`. The bell's fences see to it that a
        // waiter finds the flag or we find the waiter.
        let raised = self
            .word
            .fetch_update(Ordering::Release, Ordering::Relaxed, |word| {
                (word & SET == 0).then(|| word.wrapping_add(ONCE) | SET)
            });
        // Who put it up before us rings, and if it died its burial does.
        if raised.is_ok() {
            fault!("event.raised");
            self.bell.ring_all(peers);
        }
    }

    /// Takes the flag down.
    pub(crate) fn clear(&self) {
        // AcqRel: who sets it next does so after what preceded this.
        self.word.fetch_and(!SET, Ordering::AcqRel);
    }

    /// Waits until the flag is up, or was at some moment of the call; false after `deadline`.
    #[inline]
    pub(crate) fn wait(&self, peers: &(impl Peers + ?Sized), deadline: Deadline) -> bool {
        // Acquire: pairs with the Release in `set`.
        let first = self.word.load(Ordering::Acquire);
        first & SET != 0 || self.wait_raised(peers, first, deadline)
    }

    #[cold]
    fn wait_raised(&self, peers: &(impl Peers + ?Sized), first: u32, deadline: Deadline) -> bool {
        loop {
            let ticket = self.bell.listen();
            // Acquire: as in `wait`. A flag that went up and down again has changed the count.
            let now = self.word.load(Ordering::Acquire);
            if now & SET != 0 || now / ONCE != first / ONCE {
                return true;
            }
            if deadline.has_passed() {
                return false;
            }
            self.bell.wait(peers, ticket, deadline);
        }
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::super::model::World;
    use super::*;

    #[test]
    fn set_and_cleared_while_two_fall_asleep() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Arc::new((RawEvent::new(), World::new()));
            let started = Arc::new(AtomicU32::new(0));
            let waiter = thread::spawn({
                let (shared, started) = (shared.clone(), started.clone());
                move || {
                    let (event, world) = &*shared;
                    let first = event.word.load(Ordering::Acquire);
                    started.store(1, Ordering::Release);
                    assert!(event.wait_raised(&world.process(1), first, Deadline::NEVER));
                }
            });
            let (event, world) = &*shared;
            let had_begun = started.load(Ordering::Acquire) == 1;
            event.set(&world.process(0));
            event.clear();
            if !had_begun {
                // It may have begun after the flag was down again.
                event.set(&world.process(0));
            }
            waiter.join().unwrap();
        });
    }

    #[test]
    fn setter_dies_before_it_rings() {
        loom::model(|| {
            let shared = Arc::new((RawEvent::new(), World::new()));
            let waiter = thread::spawn({
                let shared = shared.clone();
                move || {
                    let (event, world) = &*shared;
                    assert!(event.wait(&world.process(1), Deadline::NEVER));
                }
            });
            let (event, world) = &*shared;
            // What `set` does up to the death, and what the burial does.
            event.word.store(ONCE | SET, Ordering::Release);
            world.die(0, &[]);
            event.bell.alarm(&world.process(2));
            waiter.join().unwrap();
        });
    }
}
