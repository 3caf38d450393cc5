//! A lock that many may hold to read, or one to write.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::object::{Object, State, describe};
use super::raw::{NotRead, Peers, RawRw, RawShares, Set};
use super::shares::{self, HasShares, Shares};
use super::{AcquireTimeoutError, Guard, OwnerDied, TryAcquireError};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::life::mark::MarkedLock;
use crate::shm::{Kind, shared, table};

shared! {
    /// The lock's words in shared memory. All zeros is one that was not opened yet.
    pub(super) struct Words {
        /// Held by who writes, and by who waits to write until the readers have gone: nobody new
        /// begins to read then.
        writer: MarkedLock,
        /// Who reads, and whose turn it is.
        readers: RawRw,
    }
}

// The table knows where these are.
const _: () = assert!(
    std::mem::offset_of!(Words, writer) == 0
        && std::mem::offset_of!(Words, readers) as u64 == table::READERS
);

impl State for Words {
    const KIND: Kind = Kind::RwLock;
}

impl HasShares<2> for Words {
    fn shares(&self) -> [&RawShares; 2] {
        self.readers.sets().each_ref()
    }
}

/// A lock between any processes and threads of a program that many may hold to read, or one to write.
///
/// A clone is the same lock, and so is what arrives where a lock was sent: as an argument or result
/// of a task, as an item of a queue, or inside either. Readers and writers take turns: a writer
/// waits for the readers that were there before it, and a reader for at most one writer, so neither
/// can keep the others out.
///
/// It is not recursive: who reads must not ask to read again, or to write, on the same thread.
///
/// # When a process dies
///
/// If it read, its hold is gone and nobody is told, since it changed nothing. If it wrote, or waited
/// for the readers to go, the lock is released and *marked*: everybody who waits for it or asks for it,
/// to read or to write, gets [`OwnerDied`] at once, until somebody calls [`recover`](Self::recover).
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lock = mp::RwLock::new()?;
/// let one = lock.read()?;
/// let another = lock.try_read()?;
/// assert!(lock.try_write().is_err());
/// drop((one, another));
/// let writing = lock.write()?;
/// assert!(lock.try_read().is_err());
/// # drop(writing);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RwLock(Shares<Words, 2>);

/// A hold on a [`RwLock`] to read. Dropping it ends it.
///
/// It stays on the thread that acquired it: sending it elsewhere does not compile.
///
/// ```compile_fail
/// let lock = mp::RwLock::new().unwrap();
/// let guard = lock.read().unwrap();
/// std::thread::scope(|s| { s.spawn(move || drop(guard)); });
/// ```
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct ReadGuard<'a> {
    lock: &'a RwLock,
    set: Set,
    marker: PhantomData<*const ()>,
}

/// A hold on a [`RwLock`] to write. Dropping it ends it.
///
/// It stays on the thread that acquired it: sending it elsewhere does not compile.
///
/// ```compile_fail
/// let lock = mp::RwLock::new().unwrap();
/// let guard = lock.write().unwrap();
/// std::thread::scope(|s| { s.spawn(move || drop(guard)); });
/// ```
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct WriteGuard<'a> {
    // Dropped in this order: whose turn it is changes under the lock.
    _written: Written<'a>,
    _guard: Guard<'a>,
}

/// Tells the readers when it is dropped.
struct Written<'a>(&'a RwLock);

impl RwLock {
    /// Makes a lock that nobody holds.
    ///
    /// # Errors
    ///
    /// If the program's shared memory cannot be made, is used up, or holds its limit of 65,536
    /// objects.
    pub fn new() -> Result<Self, Error> {
        let object = Object::create()?;
        shares::open(&object, u32::MAX, u32::MAX)?;
        Shares::over(object).map(Self)
    }

    /// Acquires the lock to read, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`] if a writer died and nobody has recovered the lock since.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`, as all methods do.
    pub fn read(&self) -> Result<ReadGuard<'_>, OwnerDied> {
        unlimited(self.read_until(Deadline::NEVER))
    }

    /// Acquires the lock to read if nobody writes or waits to write.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::WouldBlock`] if somebody does, [`TryAcquireError::OwnerDied`] as for
    /// [`read`](Self::read).
    pub fn try_read(&self) -> Result<ReadGuard<'_>, TryAcquireError> {
        self.read_until(Deadline::after(Duration::ZERO))
            .map_err(|died| died.map_or(TryAcquireError::WouldBlock, Into::into))
    }

    /// Acquires the lock to read, waiting at most `timeout`, which the monotonic clock measures.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::Timeout`] if somebody wrote, or waited to, all the time,
    /// [`AcquireTimeoutError::OwnerDied`] as for [`read`](Self::read).
    pub fn read_timeout(&self, timeout: Duration) -> Result<ReadGuard<'_>, AcquireTimeoutError> {
        self.read_until(Deadline::after(timeout))
            .map_err(|died| died.map_or(AcquireTimeoutError::Timeout, Into::into))
    }

    /// Acquires the lock to write, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`] if a writer died and nobody has recovered the lock since.
    pub fn write(&self) -> Result<WriteGuard<'_>, OwnerDied> {
        unlimited(self.write_until(Deadline::NEVER))
    }

    /// Acquires the lock to write if nobody holds it.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::WouldBlock`] if somebody does, [`TryAcquireError::OwnerDied`] as for
    /// [`write`](Self::write).
    pub fn try_write(&self) -> Result<WriteGuard<'_>, TryAcquireError> {
        let guard = self.told(Guard::try_acquire(self.writer(), self.0.program()))?;
        self.when_read(guard, Deadline::after(Duration::ZERO))
            .ok_or(TryAcquireError::WouldBlock)
    }

    /// Acquires the lock to write, waiting at most `timeout`, which the monotonic clock measures.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::Timeout`] if others held it all the time,
    /// [`AcquireTimeoutError::OwnerDied`] as for [`write`](Self::write).
    pub fn write_timeout(&self, timeout: Duration) -> Result<WriteGuard<'_>, AcquireTimeoutError> {
        self.write_until(Deadline::after(timeout))
            .map_err(|died| died.map_or(AcquireTimeoutError::Timeout, Into::into))
    }

    /// Acquires the lock to write whether or not a writer died, waiting as long as it takes, and ends
    /// the mark: from now on it is a lock like any other.
    ///
    /// Call it when what the lock protects has been, or is about to be, put right.
    pub fn recover(&self) -> WriteGuard<'_> {
        let guard = Guard::recover(self.writer(), self.0.program());
        match self.when_read(guard, Deadline::NEVER) {
            Some(guard) => guard,
            None => unreachable!("there was no deadline"),
        }
    }

    fn writer(&self) -> &'static MarkedLock {
        &self.0.state().writer
    }

    fn read_until(&self, deadline: Deadline) -> Result<ReadGuard<'_>, Option<OwnerDied>> {
        let words = self.0.state();
        let (roster, entries) = (self.0.roster(), self.0.entries());
        loop {
            let mutex = &words.writer.mutex;
            match words.readers.begin_read(roster, mutex, entries, deadline) {
                Ok(set) => {
                    return Ok(ReadGuard {
                        lock: self,
                        set,
                        marker: PhantomData,
                    });
                }
                Err(NotRead::TimedOut) => return Err(None),
                Err(NotRead::Marked) => return Err(Some(OwnerDied::of(&words.writer))),
                // Nobody has buried it yet: who acquires the lock marks it.
                Err(NotRead::Inherited) => {
                    match self.told(Guard::try_acquire(&words.writer, self.0.program())) {
                        Err(TryAcquireError::OwnerDied(died)) => return Err(Some(died)),
                        Err(TryAcquireError::WouldBlock) | Ok(_) => {}
                    }
                }
            }
        }
    }

    fn write_until(&self, deadline: Deadline) -> Result<WriteGuard<'_>, Option<OwnerDied>> {
        let guard = Guard::acquire(self.writer(), self.0.program(), deadline);
        let guard = self.told(guard)?;
        self.when_read(guard, deadline).ok_or(None)
    }

    /// Waits for the readers to go, with the lock held that keeps others out.
    fn when_read<'a>(&'a self, guard: Guard<'a>, deadline: Deadline) -> Option<WriteGuard<'a>> {
        let readers = &self.0.state().readers;
        readers
            .begin_write(self.0.roster(), self.0.entries(), deadline)
            .then(|| WriteGuard {
                _written: Written(self),
                _guard: guard,
            })
    }

    /// Passes on what came of acquiring the lock. If that was that its holder died, the readers who
    /// wait are told.
    fn told<'a, E>(&self, acquired: Result<Guard<'a>, E>) -> Result<Guard<'a>, E> {
        if acquired.is_err() {
            self.0.state().readers.tell(self.0.roster());
        }
        acquired
    }
}

fn unlimited<T>(result: Result<T, Option<OwnerDied>>) -> Result<T, OwnerDied> {
    result.map_err(|died| match died {
        Some(died) => died,
        None => unreachable!("there was no deadline"),
    })
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        // A copy made by `fork` does not hold what the original holds.
        if let Some(words) = self.lock.0.shown() {
            let shares = &self.lock.0;
            words
                .readers
                .end_read(shares.roster(), shares.entries(), self.set);
        }
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        if let Some(words) = self.0.0.shown() {
            words.readers.end_write(self.0.0.roster());
        }
    }
}

impl fmt::Debug for ReadGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadGuard").finish_non_exhaustive()
    }
}

impl fmt::Debug for WriteGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteGuard").finish_non_exhaustive()
    }
}

/// Shows who writes, or waits to, and which processes read, and wait to read, how often.
impl fmt::Debug for RwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RwLock");
        let Some(words) = self.0.shown() else {
            return debug.finish_non_exhaustive();
        };
        let roster = self.0.roster();
        let waiting = words.readers.waiting();
        let writer = words.writer.mutex.holder();
        let writer = describe(roster, writer.filter(|&writer| roster.is_alive(writer)));
        let readers = self.0.describe(words, |set| Some(set) != waiting);
        let waiting = self.0.describe(words, |set| Some(set) == waiting);
        debug
            .field("writer", &format_args!("{writer}"))
            .field("readers", &readers)
            .field("waiting", &waiting);
        if words.writer.mutex.is_marked() {
            debug.field("owner_died", &OwnerDied::of(&words.writer));
        }
        debug.finish()
    }
}

impl Serialize for RwLock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RwLock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Shares::deserialize(deserializer).map(Self)
    }
}
