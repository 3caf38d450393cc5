//! Many to read, or one to write, by turns: no reader waits for more than one writer, and no writer
//! for readers that came after it.
//!
//! A phase-fair lock (Brandenburg and Anderson, "Spin-based reader-writer synchronization for
//! multiprocessor real-time systems", 2010): readers are of two *sets*. A writer turns the phase, so
//! that who comes from then on is of the other set, and waits until its own set is empty; when it is
//! done that other set reads, and the next writer waits for it. Who writes is the caller's lock to say.

use super::{Bell, Peers, RawMutex, RawShares};
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering};

/// Somebody writes, or waits for readers to go.
const WRITING: u32 = 1;
/// The phase turned once.
const TURN: u32 = 2;

/// The state. All zeros has nobody reading or writing, once its shares are open.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RawRw {
    /// `{ turns: 31 bits, writing: 1 bit }`. Changed under the writers' lock. The lowest bit of the
    /// turns is the set that readers join.
    phase: AtomicU32,
    /// Rung when a writer is done.
    written: Bell,
    /// Who reads, or waits for a writer to be done, in each set.
    sets: [RawShares; 2],
}

/// Who has how many shares of each set.
pub(crate) type Entries<'a> = [&'a [AtomicU64]; 2];

/// The set of a reader that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set(u32);

/// Why a reader was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotRead {
    /// A writer died, and nobody has recovered the lock since.
    Marked,
    /// A writer died, and nobody has marked the lock yet.
    Inherited,
    /// There was a writer until the deadline.
    TimedOut,
}

impl RawRw {
    /// Where the bell and the sets are, in bytes.
    #[cfg(not(loom))]
    pub(crate) const WRITTEN: u64 = std::mem::offset_of!(Self, written) as u64;
    #[cfg(not(loom))]
    pub(crate) const SETS: [u64; 2] = [
        std::mem::offset_of!(Self, sets) as u64,
        std::mem::offset_of!(Self, sets) as u64 + size_of::<RawShares>() as u64,
    ];

    #[cfg(all(test, loom))]
    pub(crate) fn new() -> Self {
        Self {
            phase: AtomicU32::new(0),
            written: Bell::new(),
            sets: [RawShares::new(u32::MAX), RawShares::new(u32::MAX)],
        }
    }

    /// The shares of each set.
    #[cfg(not(loom))]
    pub(crate) fn sets(&self) -> &[RawShares; 2] {
        &self.sets
    }

    /// Lets a reader in, waiting for at most one writer, until `deadline`. `writers` is the lock that
    /// writers hold.
    pub(crate) fn begin_read(
        &self,
        peers: &(impl Peers + ?Sized),
        writers: &RawMutex,
        entries: Entries<'_>,
        deadline: Deadline,
    ) -> Result<Set, NotRead> {
        loop {
            // Acquire: pairs with the Release in `end_write`; what was written is visible.
            let phase = self.phase.load(Ordering::Acquire);
            match self.look(peers, writers, phase) {
                Err(NotRead::TimedOut) if !deadline.has_passed() => {}
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            let set = Set((phase / TURN) % 2);
            let index = set.0 as usize;
            if !self.sets[index].try_take(peers, entries[index], deadline) {
                return Err(NotRead::TimedOut);
            }
            fault!("rwlock.joined");
            // A writer turns the phase, then looks for readers under their set's lock: it finds us,
            // or we, who were under that lock later, find the phase turned.
            if self.phase.load(Ordering::Acquire) / TURN != phase / TURN {
                self.end_read(peers, entries, set);
                continue;
            }
            match self.await_writer(peers, writers, phase, deadline) {
                Ok(()) => {
                    fault!("rwlock.entered");
                    return Ok(set);
                }
                Err(error) => {
                    self.end_read(peers, entries, set);
                    return Err(error);
                }
            }
        }
    }

    /// Waits until who writes in `phase`, if somebody does, is done. It is known by another phase;
    /// the next writer waits for us.
    fn await_writer(
        &self,
        peers: &(impl Peers + ?Sized),
        writers: &RawMutex,
        phase: u32,
        deadline: Deadline,
    ) -> Result<(), NotRead> {
        let phase = phase | WRITING;
        loop {
            let ticket = self.written.listen();
            // Acquire: pairs with the Release in `end_write`.
            let now = self.phase.load(Ordering::Acquire);
            match self.look(peers, writers, now) {
                Ok(()) => return Ok(()),
                // Another writer, which waits for our set.
                Err(NotRead::TimedOut) if now != phase => return Ok(()),
                Err(NotRead::TimedOut) => {}
                Err(died) => return Err(died),
            }
            if deadline.has_passed() {
                return Err(NotRead::TimedOut);
            }
            self.written.wait(peers, ticket, deadline);
        }
    }

    /// Whether somebody writes in that phase, or has died with the writers' lock.
    fn look(
        &self,
        peers: &(impl Peers + ?Sized),
        writers: &RawMutex,
        phase: u32,
    ) -> Result<(), NotRead> {
        if writers.is_marked() {
            return Err(NotRead::Marked);
        }
        if writers
            .holder()
            .is_some_and(|holder| !peers.is_alive(holder))
        {
            return Err(NotRead::Inherited);
        }
        if phase & WRITING != 0 {
            return Err(NotRead::TimedOut);
        }
        Ok(())
    }

    /// Ends a reader's hold, or its wait.
    pub(crate) fn end_read(&self, peers: &(impl Peers + ?Sized), entries: Entries<'_>, set: Set) {
        let index = set.0 as usize;
        self.sets[index].give(peers, entries[index]);
    }

    /// Waits for the readers to go, under the writers' lock; false after `deadline`, and then it is as
    /// if [`end_write`](Self::end_write) had been called.
    pub(crate) fn begin_write(
        &self,
        peers: &(impl Peers + ?Sized),
        entries: Entries<'_>,
        deadline: Deadline,
    ) -> bool {
        // Relaxed: changed under the lock that we hold.
        let mut phase = self.phase.load(Ordering::Relaxed);
        let other = |phase: u32| 1 - ((phase / TURN) % 2) as usize;
        if phase & WRITING == 0 {
            // Who is left from a writer that gave up waiting. Nobody new joins them.
            let left = other(phase);
            if !self.sets[left].wait_for_none(peers, entries[left], deadline) {
                return false;
            }
            phase = phase.wrapping_add(TURN) | WRITING;
            // SeqCst, with the sets' locks in between: a reader that is not counted below finds it.
            self.phase.store(phase, Ordering::SeqCst);
        }
        // Otherwise the last writer died, and those who wait for it wait for us: they must not see
        // what it left before we have put it right.
        fault!("rwlock.claimed");
        let before = other(phase);
        if self.sets[before].wait_for_none(peers, entries[before], deadline) {
            return true;
        }
        self.end_write(peers);
        false
    }

    /// Lets the readers in who wait. The writers' lock is released after it.
    pub(crate) fn end_write(&self, peers: &(impl Peers + ?Sized)) {
        // Relaxed: as in `begin_write`.
        let phase = self.phase.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `begin_read` and `await_writer`.
        self.phase.store(phase & !WRITING, Ordering::Release);
        fault!("rwlock.released");
        self.written.ring_all(peers);
    }

    /// The set whose readers wait for a writer, if there is one.
    #[cfg(not(loom))]
    pub(crate) fn waiting(&self) -> Option<usize> {
        let phase = self.phase.load(Ordering::Relaxed);
        (phase & WRITING != 0).then_some(((phase / TURN) % 2) as usize)
    }

    /// Tells those who wait to read that the writers' lock was marked.
    pub(crate) fn tell(&self, peers: &(impl Peers + ?Sized)) {
        self.written.ring_all(peers);
    }
}

#[cfg(all(test, loom))]
#[expect(unsafe_code, reason = "the data that the lock protects")]
mod tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::super::model::World;
    use super::super::{Acquired, Refused};
    use super::*;

    struct Shared {
        writers: RawMutex,
        rw: RawRw,
        entries: [Vec<AtomicU64>; 2],
        /// Written by writers, read by readers: loom reports both at once.
        data: UnsafeCell<u32>,
        world: World,
    }

    impl Shared {
        fn new() -> Arc<Self> {
            // Whatever their memory held before.
            let entries = || (0..4).map(|_| AtomicU64::new(u64::MAX)).collect();
            Arc::new(Self {
                writers: RawMutex::new(),
                rw: RawRw::new(),
                entries: [entries(), entries()],
                data: UnsafeCell::new(0),
                world: World::new(),
            })
        }

        fn entries(&self) -> Entries<'_> {
            [&self.entries[0], &self.entries[1]]
        }

        fn read(&self, slot: u32) -> Result<u32, NotRead> {
            let me = self.world.process(slot);
            let set = self
                .rw
                .begin_read(&me, &self.writers, self.entries(), Deadline::NEVER)?;
            // SAFETY: loom checks that nobody writes meanwhile.
            let seen = self.data.with(|data| unsafe { *data });
            self.rw.end_read(&me, self.entries(), set);
            Ok(seen)
        }

        fn write(&self, slot: u32) -> Result<(), Refused> {
            let me = self.world.process(slot);
            assert_eq!(self.writers.lock(&me, Deadline::NEVER)?, Acquired::Clean);
            assert!(self.rw.begin_write(&me, self.entries(), Deadline::NEVER));
            // SAFETY: loom checks that nobody reads or writes meanwhile.
            self.data.with_mut(|data| unsafe { *data += 1 });
            self.rw.end_write(&me);
            self.writers.unlock(&me);
            Ok(())
        }
    }

    fn check(bound: usize, model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(bound);
        builder.check(model);
    }

    #[test]
    fn reader_and_writer_exclude_each_other() {
        check(2, || {
            let shared = Shared::new();
            let reader = thread::spawn({
                let shared = shared.clone();
                move || shared.read(1).unwrap()
            });
            shared.write(0).unwrap();
            assert!(reader.join().unwrap() <= 1);
            assert_eq!(shared.read(2), Ok(1));
        });
    }

    #[test]
    fn reader_between_two_writes_of_one_writer() {
        check(2, || {
            let shared = Shared::new();
            let reader = thread::spawn({
                let shared = shared.clone();
                move || shared.read(1).unwrap()
            });
            shared.write(0).unwrap();
            shared.write(0).unwrap();
            assert!(reader.join().unwrap() <= 2);
        });
    }

    #[test]
    fn two_writers_and_a_reader() {
        check(1, || {
            let shared = Shared::new();
            let writer = thread::spawn({
                let shared = shared.clone();
                move || shared.write(1).unwrap()
            });
            let reader = thread::spawn({
                let shared = shared.clone();
                move || shared.read(2).unwrap()
            });
            shared.write(0).unwrap();
            writer.join().unwrap();
            assert!(reader.join().unwrap() <= 2);
        });
    }

    #[test]
    fn reader_dies_while_a_writer_waits_for_it() {
        check(2, || {
            let shared = Shared::new();
            let dying = shared.world.process(1);
            shared
                .rw
                .begin_read(&dying, &shared.writers, shared.entries(), Deadline::NEVER)
                .unwrap();
            let writer = thread::spawn({
                let shared = shared.clone();
                move || shared.write(0).unwrap()
            });
            // What a burial does.
            shared.world.die(1, &[]);
            let reaper = shared.world.process(2);
            for set in &shared.rw.sets {
                set.alarm(&reaper);
            }
            writer.join().unwrap();
            assert_eq!(shared.read(2), Ok(1));
        });
    }

    #[test]
    fn writer_dies_while_a_reader_waits_for_it() {
        check(2, || {
            let shared = Shared::new();
            let dying = shared.world.process(0);
            assert_eq!(
                shared.writers.lock(&dying, Deadline::NEVER),
                Ok(Acquired::Clean)
            );
            assert!(
                shared
                    .rw
                    .begin_write(&dying, shared.entries(), Deadline::NEVER)
            );
            let reader = thread::spawn({
                let shared = shared.clone();
                move || shared.read(1)
            });
            // What a burial does: it takes the lock over, marks it, and sounds the bell.
            shared.world.die(0, &[]);
            let reaper = shared.world.process(2);
            assert!(shared.writers.take_over(&reaper, dying.me()));
            shared.writers.unlock_marked(&reaper);
            shared.rw.written.alarm(&reaper);
            let told = reader.join().unwrap().unwrap_err();
            assert!(matches!(told, NotRead::Marked | NotRead::Inherited));
        });
    }

    #[test]
    fn who_recovers_is_not_overtaken_by_a_reader_that_waited() {
        check(2, || {
            let shared = Shared::new();
            let dying = shared.world.process(0);
            assert_eq!(
                shared.writers.lock(&dying, Deadline::NEVER),
                Ok(Acquired::Clean)
            );
            assert!(
                shared
                    .rw
                    .begin_write(&dying, shared.entries(), Deadline::NEVER)
            );
            let reader = thread::spawn({
                let shared = shared.clone();
                move || shared.read(1)
            });
            shared.world.die(0, &[]);
            let me = shared.world.process(2);
            let _ = shared.writers.recover(&me);
            shared.rw.written.alarm(&me);
            assert!(
                shared
                    .rw
                    .begin_write(&me, shared.entries(), Deadline::NEVER)
            );
            // SAFETY: loom checks that nobody reads meanwhile.
            shared.data.with_mut(|data| unsafe { *data = 7 });
            shared.rw.end_write(&me);
            shared.writers.unlock(&me);
            // It was told, or it came after what was put right.
            if let Ok(seen) = reader.join().unwrap() {
                assert_eq!(seen, 7);
            }
        });
    }
}
