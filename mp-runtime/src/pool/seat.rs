//! What a worker says of itself, and what its parent asks of it, in the pool's memory.
//!
//! Each process of the program has a slot, and each slot a seat here. A seat is in use by the worker
//! whose name is in it; a successor in the slot writes its own name after it has cleared the rest.
//! The worker alone writes what it says, and the parent alone what it asks.

use crate::loom::{AtomicU32, AtomicU64, Ordering, fence};
use crate::shm::safe::shared;
use crate::sync::raw::Holder;

shared! {
    /// A worker's place. All zeros is nobody's.
    #[repr(align(128))]
    pub(super) struct Seat {
        /// Whose it is, as the bits of a [`Holder`].
        holder: AtomicU32,
        /// Whether its initializer is through.
        ready: AtomicU32,
        /// Why it leaves, as a [`Leave`]; zero until it does.
        leave: AtomicU32,
        /// Who is to end after the job it is at, as the bits of a [`Holder`]. Written by the parent.
        dismissed: AtomicU32,
        /// Jobs that were ever meant for the worker in this seat alone. Written by the parent.
        letters: AtomicU32,
        /// Who waits here for a call on its own pool, as the bits of a [`Holder`]; zero if it does not.
        waiting: AtomicU32,
        /// Who is to stand by, as the bits of a [`Holder`]. Written by the parent.
        standby: AtomicU32,
        _pad: AtomicU32,
        /// The shortest limit of the calls that its tasks have under way, in nanoseconds; zero is none.
        limit: AtomicU64,
        /// Items it has run in jobs that it committed, those jobs, and the nanoseconds they took.
        items: AtomicU64,
        jobs: AtomicU64,
        busy: AtomicU64,
        _pad2: [AtomicU64; 8],
    }
}

const _: () = assert!(size_of::<Seat>() == 128);

/// Why a worker ends of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// The pool needs it no longer.
    Over = 1,
    /// It has run as many items as it may.
    Items = 2,
    /// It has as much memory as it may.
    Memory = 3,
    /// It had nothing to do for a while.
    Idle = 4,
    /// The pool has become smaller.
    Dismissed = 5,
}

impl std::fmt::Display for Leave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Over => "the pool needs it no longer",
            Self::Items => "it has run as many items as a worker may",
            Self::Memory => "it has as much memory as a worker may",
            Self::Idle => "it had nothing to do",
            Self::Dismissed => "the pool was made smaller",
        })
    }
}

/// What a worker has said of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    pub(super) is_ready: bool,
    pub(super) leave: Option<Leave>,
    pub(super) items: u64,
    pub(super) jobs: u64,
    /// Nanoseconds.
    pub(super) busy: u64,
}

impl Seat {
    /// Takes the seat for the calling worker.
    pub(super) fn take(&self, me: Holder) {
        // Release: pairs with the Acquire in `said`; who reads what is cleared below finds that the
        // seat is no longer its predecessor's.
        self.holder.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        self.ready.store(0, Ordering::Relaxed);
        self.waiting.store(0, Ordering::Relaxed);
        self.limit.store(0, Ordering::Relaxed);
        self.leave.store(0, Ordering::Relaxed);
        self.items.store(0, Ordering::Relaxed);
        self.jobs.store(0, Ordering::Relaxed);
        self.busy.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `said`.
        self.holder.store(me.bits(), Ordering::Release);
    }

    /// Whether the worker `holder` has the seat.
    pub(super) fn is_of(&self, holder: Holder) -> bool {
        // Acquire: pairs with the Release in `take`.
        self.holder.load(Ordering::Acquire) == holder.bits()
    }

    /// Notes that the worker is ready.
    pub(super) fn set_ready(&self) {
        self.ready.store(1, Ordering::Relaxed);
    }

    /// Notes why the worker, which has the seat, is about to end.
    pub(super) fn set_leave(&self, leave: Leave) {
        self.leave.store(leave as u32, Ordering::Relaxed);
    }

    /// Counts a job.
    #[inline]
    pub(super) fn count(&self, items: u32, busy: u64) {
        // The worker is the only writer.
        let add = |word: &AtomicU64, more: u64| {
            let sum = word.load(Ordering::Relaxed).wrapping_add(more);
            word.store(sum, Ordering::Relaxed);
        };
        add(&self.items, u64::from(items));
        add(&self.jobs, 1);
        add(&self.busy, busy);
    }

    /// What the worker `holder` has said; nothing if it never took the seat, or another has it by
    /// now.
    pub(super) fn said(&self, holder: Holder) -> Said {
        if !self.is_of(holder) {
            return Said::default();
        }
        let said = Said {
            is_ready: self.ready.load(Ordering::Relaxed) == 1,
            leave: match self.leave.load(Ordering::Relaxed) {
                1 => Some(Leave::Over),
                2 => Some(Leave::Items),
                3 => Some(Leave::Memory),
                4 => Some(Leave::Idle),
                5 => Some(Leave::Dismissed),
                _ => None,
            },
            items: self.items.load(Ordering::Relaxed),
            jobs: self.jobs.load(Ordering::Relaxed),
            busy: self.busy.load(Ordering::Relaxed),
        };
        // Acquire: pairs with the Release in `take`.
        fence(Ordering::Acquire);
        match self.holder.load(Ordering::Relaxed) == holder.bits() {
            true => said,
            false => Said::default(),
        }
    }

    /// Notes that a job is ready for the worker in this seat alone. Its bell is to be rung afterwards.
    pub(super) fn post(&self) {
        // Release: pairs with the Acquire in `letters`; the job is ready.
        self.letters.fetch_add(1, Ordering::Release);
    }

    /// How many such jobs there were.
    #[inline]
    pub(super) fn letters(&self) -> u32 {
        self.letters.load(Ordering::Acquire)
    }

    /// Notes whether the worker `me`, which has the seat, waits for a call on its own pool. The desk's
    /// bell is to be rung afterwards.
    pub(super) fn set_waiting(&self, me: Holder, is_waiting: bool) {
        let bits = if is_waiting { me.bits() } else { 0 };
        // Relaxed: the bell orders it.
        self.waiting.store(bits, Ordering::Relaxed);
    }

    /// Whether the worker `holder` waits for a call on its own pool.
    pub(super) fn is_waiting(&self, holder: Holder) -> bool {
        self.waiting.load(Ordering::Relaxed) == holder.bits()
    }

    /// Notes the shortest limit of the calls that the worker's tasks have under way.
    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The shortest limit of the calls that the tasks of the worker `holder` have under way.
    pub(super) fn limit(&self, holder: Holder) -> Option<u64> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit > 0 && self.is_of(holder)).then_some(limit)
    }

    /// Asks the worker `holder` to stand by from the next job on, or no longer to. The bell of those
    /// that do is to be rung afterwards.
    pub(super) fn set_standby(&self, holder: Holder, stands_by: bool) {
        let bits = if stands_by { holder.bits() } else { 0 };
        // Relaxed: the bell orders it.
        self.standby.store(bits, Ordering::Relaxed);
    }

    /// Whether the worker `me` is to stand by.
    #[inline]
    pub(super) fn stands_by(&self, me: Holder) -> bool {
        self.standby.load(Ordering::Relaxed) == me.bits()
    }

    /// Asks the worker `holder` to end after the job it is at. Its bell is to be rung afterwards.
    pub(super) fn dismiss(&self, holder: Holder) {
        // Relaxed: the bell orders it.
        self.dismissed.store(holder.bits(), Ordering::Relaxed);
    }

    /// Whether the worker `me` is asked to end.
    #[inline]
    pub(super) fn is_dismissed(&self, me: Holder) -> bool {
        self.dismissed.load(Ordering::Relaxed) == me.bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat() -> Seat {
        let word = || AtomicU32::new(0);
        let long = || AtomicU64::new(0);
        Seat {
            holder: word(),
            ready: word(),
            leave: word(),
            dismissed: word(),
            items: long(),
            jobs: long(),
            busy: long(),
            letters: word(),
            waiting: word(),
            standby: word(),
            _pad: word(),
            limit: long(),
            _pad2: std::array::from_fn(|_| long()),
        }
    }

    #[test]
    fn successor_is_not_taken_for_the_one_before() {
        let (first, second) = (Holder::new(3, 1), Holder::new(3, 2));
        let seat = seat();
        assert!(!seat.said(first).is_ready);
        seat.take(first);
        seat.set_ready();
        seat.count(5, 100);
        seat.set_leave(Leave::Idle);
        seat.dismiss(first);
        let said = seat.said(first);
        assert_eq!((said.items, said.jobs, said.busy), (5, 1, 100));
        assert_eq!(said.leave, Some(Leave::Idle));
        assert!(said.is_ready && seat.is_dismissed(first));
        assert_eq!(seat.said(second).items, 0);
        // One that is about to take it has cleared what the one before said.
        seat.holder.store(0, Ordering::Relaxed);
        assert_eq!((seat.said(first).items, seat.said(first).leave), (0, None));
        seat.take(second);
        let said = seat.said(second);
        assert_eq!((said.items, said.leave, said.is_ready), (0, None, false));
        assert!(!seat.is_dismissed(second));
        assert!(!seat.said(first).is_ready);
    }
}
