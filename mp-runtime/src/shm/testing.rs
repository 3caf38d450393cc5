//! Processes for unit tests: who they are, and who is dead.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::deadline::Deadline;
use crate::loom::{AtomicU32, futex};
use crate::sync::raw::{Holder, Peers};

/// A few processes that share one [`Dead`].
#[derive(Debug)]
pub(crate) struct TestPeers {
    slot: u32,
    dead: &'static AtomicU64,
}

impl TestPeers {
    /// Two processes, in slots 0 and 1, of which the second can die.
    pub(crate) fn pair() -> [&'static Self; 2] {
        let dead: &'static AtomicU64 = Box::leak(Box::default());
        [0, 1].map(|slot| &*Box::leak(Box::new(Self { slot, dead })))
    }

    /// From now on this process is dead.
    pub(crate) fn die(&self) {
        self.dead.fetch_or(1 << self.slot, Ordering::Release);
    }
}

impl Peers for TestPeers {
    fn me(&self) -> Holder {
        Holder::new(self.slot, 0)
    }

    fn is_alive(&self, holder: Holder) -> bool {
        self.dead.load(Ordering::Acquire) & (1 << holder.slot()) == 0
    }

    fn sleep(&self, word: &AtomicU32, expected: u32, _: Option<Holder>, deadline: Deadline) {
        let nap = deadline.nap(std::time::Duration::from_millis(10));
        futex::wait(word, expected, Some(nap));
    }

    fn wake(&self, word: &AtomicU32, count: u32) -> u32 {
        futex::wake(word, count) as u32
    }
}
