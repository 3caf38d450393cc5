//! Processes as loom's threads: who they are, who is dead, and the futex of [`crate::loom`].

use super::{Holder, Peers};
use crate::deadline::Deadline;
use crate::loom::{AtomicU32, Ordering, futex};

/// Which processes are dead: one bit a slot.
pub(super) struct World {
    dead: AtomicU32,
}

/// One process of a [`World`].
pub(super) struct Process<'a> {
    world: &'a World,
    slot: u32,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            dead: AtomicU32::new(0),
        }
    }

    pub(super) fn process(&self, slot: u32) -> Process<'_> {
        Process { world: self, slot }
    }

    /// What the burial of a process does to others: its generation moves on, and everybody who
    /// sleeps where it slept is woken.
    pub(super) fn die(&self, slot: u32, slept_on: &[&AtomicU32]) {
        self.dead.fetch_or(1 << slot, Ordering::AcqRel);
        for word in slept_on {
            futex::wake(word, u32::MAX);
        }
    }
}

impl Peers for Process<'_> {
    fn me(&self) -> Holder {
        Holder::new(self.slot, 0)
    }

    fn is_alive(&self, holder: Holder) -> bool {
        self.world.dead.load(Ordering::Acquire) & (1 << holder.slot()) == 0
    }

    fn sleep(&self, word: &AtomicU32, expected: u32, _: Option<Holder>, _: Deadline) {
        futex::wait(word, expected, None);
    }

    fn wake(&self, word: &AtomicU32, count: u32) -> u32 {
        futex::wake(word, count) as u32
    }
}
