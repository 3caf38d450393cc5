//! State machines on shared words: no regions, no serde, every one explored by loom.
//!
//! They learn who they are and who is alive through [`Peers`], and they sleep through it too, so
//! that a process that dies asleep is found (`life/README.md`).

mod barrier;
mod bell;
mod condvar;
mod event;
#[cfg(all(test, loom))]
mod model;
mod mutex;
mod relay;
#[cfg_attr(loom, allow(dead_code, reason = "the models use a part of it"))]
mod rw;
mod shares;

use crate::deadline::Deadline;
use crate::loom::{AtomicU32, hint};

pub(crate) use self::barrier::{Arrival, Cause, MAX_PARTIES, RawBarrier, Stopped};
pub(crate) use self::bell::Bell;
pub(crate) use self::condvar::RawCondvar;
pub(crate) use self::event::RawEvent;
pub(crate) use self::mutex::{Acquired, RawMutex, Refused};
#[cfg_attr(loom, allow(unused_imports, reason = "only a pool uses it"))]
pub(crate) use self::relay::Relay;
#[cfg(not(loom))]
pub(crate) use self::rw::{NotRead, RawRw, Set};
pub(crate) use self::shares::RawShares;

/// How often [`spin_until`] looks.
const LOOKS: u32 = if cfg!(loom) { 0 } else { 10 };
/// How long it does not look in between: so many times what the processor calls a pause, 5 to 50 ns.
const PAUSES: u32 = 16;

/// Looks a while, with pauses in between, whether something `is_so`; whether it was.
///
/// All of it takes as long as another CPU needs for something small, and less than falling asleep and
/// being woken. The pauses are for that other CPU: each look takes the cache line away from whoever is
/// about to change it.
#[inline]
pub(crate) fn spin_until(mut is_so: impl FnMut() -> bool) -> bool {
    for _ in 0..LOOKS {
        if is_so() {
            return true;
        }
        for _ in 0..PAUSES {
            hint::spin_loop();
        }
    }
    is_so()
}

/// A process as a lock word names it: `{ generation: 18 bits, slot + 1: 11 bits }`, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder(u32);

impl Holder {
    /// Bits of a holder in a lock word.
    pub(crate) const BITS: u32 = 29;
    /// Bits of the slot number plus one.
    const SLOT_BITS: u32 = 11;
    /// Generations are counted modulo this.
    pub(crate) const GENERATIONS: u32 = 1 << (Self::BITS - Self::SLOT_BITS);

    /// The process in `slot` at `generation`.
    pub(crate) const fn new(slot: u32, generation: u32) -> Self {
        Self(((generation % Self::GENERATIONS) << Self::SLOT_BITS) | (slot + 1))
    }

    /// The holder in the low bits of a word, if there is one.
    pub(crate) const fn from_bits(bits: u32) -> Option<Self> {
        let bits = bits & ((1 << Self::BITS) - 1);
        if bits & ((1 << Self::SLOT_BITS) - 1) == 0 {
            None
        } else {
            Some(Self(bits))
        }
    }

    /// The holder as the low bits of a word.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// The number of the process's slot.
    pub(crate) const fn slot(self) -> u32 {
        (self.0 & ((1 << Self::SLOT_BITS) - 1)) - 1
    }

    /// The slot's generation while this process lives in it.
    pub(crate) const fn generation(self) -> u32 {
        self.0 >> Self::SLOT_BITS
    }
}

/// What a state machine must know of the processes around it.
pub(crate) trait Peers {
    /// The calling process.
    fn me(&self) -> Holder;

    /// Whether `holder` has not been found dead.
    fn is_alive(&self, holder: Holder) -> bool;

    /// Sleeps while `word` is `expected`, at most until `deadline`. May return at any time for no
    /// reason. The word is on record meanwhile, so that a death in here passes the wake-up on.
    /// With a `watched` process the sleep is short, and after it the process is looked at.
    fn sleep(&self, word: &AtomicU32, expected: u32, watched: Option<Holder>, deadline: Deadline);

    /// Wakes at most `count` sleepers on `word` and returns how many there were.
    fn wake(&self, word: &AtomicU32, count: u32) -> u32;

    /// Rings the doorbells of the processes that watch the bell whose word this is.
    fn ring_watchers(&self, _word: &AtomicU32) {}
}
