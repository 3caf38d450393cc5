//! All slots of a program, which of them is ours, and how its threads sleep and wake.

use std::cell::Cell;
use std::time::Duration;

use super::slot::{Debt, MAX_THREADS, Slot, State, Thread};
use crate::deadline::Deadline;
use crate::loom::{AtomicU32, AtomicU64, Ordering, fence, futex};
use crate::shm::table::MAX_PROCESSES;
use crate::shm::{Region, Table, shared};
use crate::sync::raw::{Acquired, Holder, Peers, RawMutex};

/// After so long a sleep the process that is waited for is looked at, so that nobody depends on a
/// supervisor; and so long a thread sleeps whose sleep is not on record.
const NAP: Duration = Duration::from_millis(100);

shared! {
    /// The roster's shared state, followed by the slots.
    #[repr(align(64))]
    pub(crate) struct Head {
        /// Held while a slot is reserved.
        lock: RawMutex,
        /// Slots that were ever used.
        reach: AtomicU32,
    }
}

/// The slots of all processes, seen by one of them.
#[derive(Debug)]
pub(crate) struct Roster {
    region: &'static Region,
    head: u64,
    me: Holder,
}

thread_local! {
    /// The record of this thread in its process's slot.
    static RECORD: Record = const { Record(Cell::new(None)) };
}

/// Gives the record back when the thread ends.
struct Record(Cell<Option<&'static Thread>>);

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take()
            && !super::program::is_forked()
        {
            thread.taken.store(0, Ordering::Release);
        }
    }
}

impl Roster {
    /// Bytes that a roster takes in its region.
    pub(crate) const LEN: u64 =
        size_of::<Head>() as u64 + MAX_PROCESSES as u64 * size_of::<Slot>() as u64;

    /// The roster that begins at `head`, seen by `me`.
    pub(crate) fn new(region: &'static Region, head: u64, me: Holder) -> Self {
        Self { region, head, me }
    }

    /// The slot of that number.
    #[inline]
    pub(crate) fn slot(&self, index: u32) -> &'static Slot {
        assert!(index < MAX_PROCESSES, "no such process slot");
        let first = self.head + size_of::<Head>() as u64;
        self.region
            .at(first + u64::from(index) * size_of::<Slot>() as u64)
    }

    /// Our own slot.
    pub(crate) fn my_slot(&self) -> &'static Slot {
        self.slot(self.me.slot())
    }

    /// Every slot that was ever used.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u32, &'static Slot)> {
        let reach = self.head().reach.load(Ordering::Acquire);
        (0..reach.min(MAX_PROCESSES)).map(|index| (index, self.slot(index)))
    }

    /// Reserves a slot for a child of ours; `None` if all are in use.
    pub(crate) fn reserve(&self, name: &str) -> Option<Holder> {
        match self.head().lock.lock(self, Deadline::NEVER) {
            // A slot is reserved by one store: there is nothing to repair.
            Ok(Acquired::Clean | Acquired::Inherited(_)) => {}
            Err(_) => unreachable!("the roster's lock is never marked and has no deadline"),
        }
        let head = self.head();
        let reach = head.reach.load(Ordering::Relaxed);
        let found = (0..reach)
            .find(|&index| self.slot(index).state().0 == State::Free)
            .or((reach < MAX_PROCESSES).then_some(reach))
            .map(|index| {
                let slot = self.slot(index);
                slot.pid.store(0, Ordering::Relaxed);
                // Release: pairs with the fence in `last_identity`.
                fence(Ordering::Release);
                slot.start_time.store(0, Ordering::Relaxed);
                slot.message.store(0, Ordering::Relaxed);
                slot.out_of_memory
                    .store(0, std::sync::atomic::Ordering::Relaxed);
                // All were given up when the last one was buried.
                slot.reach.store(0, Ordering::Relaxed);
                slot.outcome.store(0, Ordering::Relaxed);
                slot.outcome_len.store(0, Ordering::Relaxed);
                slot.outcome_parcel.store(0, Ordering::Relaxed);
                slot.name.set(name);
                slot.parent.store(self.me.bits(), Ordering::Relaxed);
                head.reach.store(reach.max(index + 1), Ordering::Release);
                let generation = slot.generation();
                let reserved =
                    slot.change((State::Free, generation), (State::Reserved, generation));
                assert!(reserved, "a free slot changes under the lock only");
                Holder::new(index, generation)
            });
        self.head().lock.unlock(self);
        found
    }

    /// Process id and name of a dead process, unless its slot is another's by now.
    pub(super) fn last_identity(&self, dead: Holder) -> Option<(u32, String)> {
        let slot = self.slot(dead.slot());
        let next = (dead.generation() + 1) % Holder::GENERATIONS;
        let name = slot.name.get();
        // Acquire: pairs with the fence in `reserve`. If the name was the next one's already, the
        // id is seen to be gone.
        fence(Ordering::Acquire);
        // Acquire: pairs with the Release in `record_process` and `attach`. If the id is the next
        // one's, the slot is seen to be no longer free.
        let pid = slot.pid.load(Ordering::Acquire);
        let (state, generation) = slot.state();
        let is_over = matches!(state, State::Dead | State::Buried | State::Free);
        (generation == next && is_over && pid != 0).then_some((pid, name))
    }

    /// Tells those who wait for the roster's lock that its holder died.
    pub(super) fn abandon_lock(&self, dead: Holder) {
        self.head().lock.abandon(self, dead);
    }

    /// Records which process lives in a slot that we reserved.
    pub(crate) fn record_process(&self, holder: Holder, pid: u32, start_time: u64) {
        let slot = self.slot(holder.slot());
        slot.start_time.store(start_time, Ordering::Relaxed);
        slot.pid.store(pid, Ordering::Release);
    }

    /// This thread's record, if there is room for one.
    #[inline]
    pub(crate) fn thread(&self) -> Option<&'static Thread> {
        RECORD
            .try_with(|record| {
                record.0.get().or_else(|| {
                    let thread = self.claim_thread();
                    record.0.set(thread);
                    thread
                })
            })
            .ok()
            .flatten()
    }

    /// Strikes out what threads of the dead owe according to `counter` and did not take. Under the
    /// lock that one of them died with: `dead`, or one that inherited it and died as well.
    pub(crate) fn forgive(&self, dead: Holder, region: &Region, counter: &AtomicU64) {
        let offset = region.offset_of(counter);
        let now = counter.load(Ordering::Relaxed) & Debt::MASK;
        for (index, slot) in self.slots() {
            if index != dead.slot() && slot.state().0 != State::Dead {
                continue;
            }
            for (words, debt) in slot.records().iter().flat_map(Thread::debts) {
                if Some(debt.counter) == offset && u64::from(debt.before) == now {
                    words.settle();
                }
            }
        }
    }

    #[cold]
    fn claim_thread(&self) -> Option<&'static Thread> {
        let slot = self.my_slot();
        let threads: &[Thread; MAX_THREADS] = &slot.threads;
        let found = threads.iter().zip(1..).find(|(thread, count)| {
            if thread.taken.load(Ordering::Relaxed) != 0 {
                return false;
            }
            // AcqRel: pairs with the Acquire in `records`. Before it is taken, so that who buries us
            // looks at all that are.
            slot.reach.fetch_max(*count, Ordering::AcqRel);
            thread
                .taken
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        });
        found.map(|(thread, _)| thread)
    }

    fn head(&self) -> &'static Head {
        self.region.at(self.head)
    }
}

impl Peers for Roster {
    #[inline]
    fn me(&self) -> Holder {
        self.me
    }

    #[inline]
    fn is_alive(&self, holder: Holder) -> bool {
        holder.slot() < MAX_PROCESSES
            && self.slot(holder.slot()).generation() == holder.generation()
    }

    fn sleep(&self, word: &AtomicU32, expected: u32, watched: Option<Holder>, deadline: Deadline) {
        // A word outside of the arena belongs to a pool, which wakes its workers itself.
        let offset = self.region.offset_of(word);
        let record = self.thread().zip(offset);
        if let Some((thread, offset)) = record {
            // Release: on record before the sleep, so that our death in it is noticed.
            thread.sleeping.store(offset, Ordering::Release);
        }
        let timeout = if watched.is_some() || (record.is_none() && offset.is_some()) {
            Some(deadline.nap(NAP))
        } else {
            deadline.remaining()
        };
        let slept = futex::wait(word, expected, timeout);
        if let Some((thread, _)) = record {
            thread.sleeping.store(0, Ordering::Release);
        }
        if slept == futex::Wait::TimedOut
            && let Some(holder) = watched
        {
            super::reap::look_at(holder);
        }
    }

    fn wake(&self, word: &AtomicU32, count: u32) -> u32 {
        futex::wake(word, count) as u32
    }

    fn ring_watchers(&self, word: &AtomicU32) {
        let Some(offset) = self.region.offset_of(word) else {
            return;
        };
        for slot in Table::watchers_at(self.region, super::program::TABLE, offset) {
            // Whether or not its word knows of sleepers: one who died while it rang may have taken
            // that down.
            self.slot(slot).doorbell.alarm(self);
        }
    }
}
