//! A process's slot: its identity, its generation, and what its threads are in the middle of.

use crate::loom::{AtomicU32, AtomicU64, Ordering};
use crate::shm::{Text, shared};
use crate::sync::raw::{Bell, Holder};

/// Threads of one process whose sleep is on record at once. Others sleep in naps.
pub(super) const MAX_THREADS: usize = 256;

shared! {
    /// A slot. All zeros is free.
    #[repr(align(64))]
    pub(crate) struct Slot {
        /// `{ state: 3 bits, generation: 18 bits }`. Changes by compare-and-set only.
        word: AtomicU32,
        /// Process id; zero until the process was started.
        pub(super) pid: AtomicU32,
        /// When the process was started, in the kernel's ticks; zero while unknown.
        pub(super) start_time: AtomicU64,
        /// The process that answers for this one, as the bits of a [`Holder`].
        pub(super) parent: AtomicU32,
        /// Rung when something that the process's threads watch may be ready (`wait/README.md`).
        pub(crate) doorbell: Bell,
        /// 1 once the process aborts for want of memory. Not loom's: a signal handler writes it.
        pub(crate) out_of_memory: std::sync::atomic::AtomicU32,
        /// Records that its threads have ever used: all behind them are zeros. Raised before one is used.
        pub(super) reach: AtomicU32,
        /// The process's name.
        pub(crate) name: Text,
        /// The block with what the process is to do.
        pub(crate) message: AtomicU64,
        /// The block with what came of it, owned by the parent, and how many bytes of it count.
        pub(crate) outcome: AtomicU64,
        pub(crate) outcome_len: AtomicU64,
        /// The handles in it.
        pub(crate) outcome_parcel: AtomicU64,
        _pad2: [AtomicU64; 7],
        pub(super) threads: [Thread; MAX_THREADS],
    }
}

const _: () = assert!(size_of::<Slot>() == 192 + MAX_THREADS * 64);

shared! {
    /// A [`Debt`] in shared memory. All zeros is none.
    pub(crate) struct DebtWords {
        counter: AtomicU64,
        lost: AtomicU64,
        /// `{ before: 32 bits, count: 32 bits }`.
        values: AtomicU64,
    }
}

shared! {
    /// What one thread is in the middle of.
    #[repr(align(64))]
    pub(crate) struct Thread {
        /// Whether a thread of the process uses this record.
        pub(super) taken: AtomicU32,
        _pad: AtomicU32,
        /// Where in the arena the thread sleeps; zero if it is awake.
        pub(super) sleeping: AtomicU64,
        /// What a getter owes, and what one owes that it calls while it decodes; see [`Debt`].
        debts: [DebtWords; 2],
    }
}

/// Values that a thread takes out of a queue and has not handed to its caller yet.
///
/// It is recorded under the getters' lock, before the values are taken; so if the thread dies,
/// the values are lost if and only if the counter has moved on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Debt {
    /// Offset of the word that counts values taken, in its low bits ([`Debt::MASK`]).
    pub(crate) counter: u64,
    /// Offset of the word that counts values lost.
    pub(crate) lost: u64,
    /// The counter before.
    pub(crate) before: u32,
    /// How many values.
    pub(crate) count: u32,
}

impl Debt {
    /// The bits of the counter that count.
    pub(crate) const MASK: u64 = (1 << 29) - 1;
}

impl Thread {
    /// Records a debt; `None` if two are recorded already, one inside the other.
    #[inline]
    pub(crate) fn owe(&self, debt: Debt) -> Option<&DebtWords> {
        let words = self.debts.iter().find(|words| words.is_settled())?;
        words.lost.store(debt.lost, Ordering::Relaxed);
        let values = (u64::from(debt.before) << 32) | u64::from(debt.count);
        words.values.store(values, Ordering::Relaxed);
        // Release: pairs with the Acquire in `get`.
        words.counter.store(debt.counter, Ordering::Release);
        Some(words)
    }

    /// The debts that are recorded.
    pub(crate) fn debts(&self) -> impl Iterator<Item = (&DebtWords, Debt)> {
        self.debts
            .iter()
            .filter_map(|words| Some((words, words.get()?)))
    }
}

impl DebtWords {
    /// The values have reached their caller, or were never taken.
    #[inline]
    pub(crate) fn settle(&self) {
        self.counter.store(0, Ordering::Release);
    }

    #[inline]
    fn is_settled(&self) -> bool {
        self.counter.load(Ordering::Relaxed) == 0
    }

    /// The word that [`settle`](Self::settle) clears.
    pub(super) fn word(&self) -> &AtomicU64 {
        &self.counter
    }

    /// The debt, if there is one.
    fn get(&self) -> Option<Debt> {
        // Acquire: pairs with the Release in `owe`.
        let counter = self.counter.load(Ordering::Acquire);
        let values = self.values.load(Ordering::Relaxed);
        (counter != 0).then(|| Debt {
            counter,
            lost: self.lost.load(Ordering::Relaxed),
            before: (values >> 32) as u32,
            count: values as u32,
        })
    }
}

/// A slot's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody's.
    Free = 0,
    /// The parent has reserved it for a child that it is starting.
    Reserved = 1,
    /// The process runs.
    Running = 2,
    /// The process is gone, and what it held is being given back.
    Dead = 3,
    /// Everything was given back; the parent has yet to look at the outcome.
    Buried = 4,
}

impl Slot {
    /// The state and the generation.
    pub(crate) fn state(&self) -> (State, u32) {
        // Acquire: pairs with the Release in `change`.
        let word = self.word.load(Ordering::Acquire);
        let state = match word >> 18 {
            1 => State::Reserved,
            2 => State::Running,
            3 => State::Dead,
            4 => State::Buried,
            _ => State::Free,
        };
        (state, word % Holder::GENERATIONS)
    }

    /// Moves from one state and generation to another; false if it was not there.
    pub(crate) fn change(&self, from: (State, u32), to: (State, u32)) -> bool {
        // AcqRel: what was written in one state is visible in the next.
        self.word
            .compare_exchange(pack(from), pack(to), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The generation alone.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        // Acquire: who finds a generation past finds all that the dead process wrote.
        self.word.load(Ordering::Acquire) % Holder::GENERATIONS
    }

    /// The records that its threads have ever used.
    pub(super) fn records(&self) -> &[Thread] {
        // Acquire: pairs with the AcqRel in `claim_thread`.
        let reach = self.reach.load(Ordering::Acquire) as usize;
        &self.threads[..reach.min(MAX_THREADS)]
    }

    /// Process id; zero until the process was started.
    pub(crate) fn pid(&self) -> u32 {
        // Acquire: pairs with the Release in `record_process`; the start time that is read afterwards
        // is not that of the process before, for which this one would be taken to be gone.
        self.pid.load(Ordering::Acquire)
    }

    /// The process that answers for this one.
    pub(crate) fn parent(&self) -> Option<Holder> {
        Holder::from_bits(self.parent.load(Ordering::Relaxed))
    }
}

fn pack((state, generation): (State, u32)) -> u32 {
    ((state as u32) << 18) | (generation % Holder::GENERATIONS)
}
