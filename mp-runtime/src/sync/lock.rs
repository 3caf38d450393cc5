//! Mutual exclusion between processes and threads that outlives its holder.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Guard;
use super::object::describe;
use super::raw::{Holder, Peers};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::life::mark::MarkedLock;
use crate::life::program::{assert_not_forked, existing};
use crate::life::{Program, program};
use crate::shm::Kind;
use crate::wire::transfer::{self, Handle};

/// A lock between any processes and threads of a program.
///
/// A clone is the same lock, and so is what arrives where a lock was sent: as an argument or result
/// of a task, as an item of a queue, or inside either. It is held by one thread at a time and is not
/// recursive.
///
/// # When a process dies
///
/// A lock that it held is released and *marked*: everybody who waits for it or asks for it gets
/// [`OwnerDied`] at once, because what the lock protects may be half changed, until somebody calls
/// [`recover`](Lock::recover). A holder that is merely stopped is not dead: give a deadline if that
/// matters. The process that made the lock has no special part in it.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn add(lock: mp::Lock, path: String) -> Result<(), mp::AnyError> {
///     let _guard = lock.acquire()?;
///     let count: u32 = std::fs::read_to_string(&path)?.parse()?;
///     std::fs::write(&path, (count + 1).to_string())?;
///     Ok(())
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("mp-doc-{}", std::process::id()));
/// # let path = path.to_str().unwrap().to_owned();
/// std::fs::write(&path, "0")?;
/// let lock = mp::Lock::new()?;
/// let children = (0..4)
///     .map(|_| mp::Process::new(add, (lock.clone(), path.clone())).start())
///     .collect::<Result<Vec<_>, _>>()?;
/// for child in children {
///     child.join()??;
/// }
/// assert_eq!(std::fs::read_to_string(&path)?, "4");
/// # std::fs::remove_file(&path)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lock {
    handle: Arc<Handle>,
    state: &'static MarkedLock,
    program: &'static Program,
    /// The calling process: a word that is at hand, since the lock's word waits for it.
    me: Holder,
}

/// The process that held the lock died: what the lock protects may be half changed.
///
/// Everybody is told so until somebody calls [`Lock::recover`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerDied {
    pid: u32,
    name: String,
}

/// The error that a process died with a lock.
pub fn owner_died(pid: u32, name: String) -> OwnerDied {
    OwnerDied { pid, name }
}

impl OwnerDied {
    /// Who died with a lock that is marked.
    #[cold]
    pub(super) fn of(lock: &MarkedLock) -> Self {
        let (pid, name) = lock.report();
        Self { pid, name }
    }

    /// The process id of the holder.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The name of the holder, cut to 64 bytes.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for OwnerDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process \"{}\" (pid {}) died while it held the lock: check what the lock protects, \
             then call recover()",
            self.name, self.pid
        )
    }
}

impl std::error::Error for OwnerDied {}

/// Why [`Lock::try_acquire`] gave no guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TryAcquireError {
    /// Somebody holds the lock.
    WouldBlock,
    /// A holder died, and nobody has recovered the lock since.
    OwnerDied(OwnerDied),
}

impl fmt::Display for TryAcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the lock is held"),
            Self::OwnerDied(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TryAcquireError {}

/// Why [`Lock::acquire_timeout`] gave no guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireTimeoutError {
    /// Somebody held the lock all the time.
    Timeout,
    /// A holder died, and nobody has recovered the lock since.
    OwnerDied(OwnerDied),
}

impl fmt::Display for AcquireTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the lock was held until the timeout"),
            Self::OwnerDied(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AcquireTimeoutError {}

impl From<OwnerDied> for TryAcquireError {
    fn from(error: OwnerDied) -> Self {
        Self::OwnerDied(error)
    }
}

impl From<OwnerDied> for AcquireTimeoutError {
    fn from(error: OwnerDied) -> Self {
        Self::OwnerDied(error)
    }
}

impl From<OwnerDied> for Error {
    fn from(error: OwnerDied) -> Self {
        Self::new(ErrorKind::OwnerDied, error.to_string())
    }
}

impl From<TryAcquireError> for Error {
    fn from(error: TryAcquireError) -> Self {
        match error {
            TryAcquireError::WouldBlock => Self::new(ErrorKind::TimedOut, error.to_string()),
            TryAcquireError::OwnerDied(error) => error.into(),
        }
    }
}

impl From<AcquireTimeoutError> for Error {
    fn from(error: AcquireTimeoutError) -> Self {
        match error {
            AcquireTimeoutError::Timeout => Self::new(ErrorKind::TimedOut, error.to_string()),
            AcquireTimeoutError::OwnerDied(error) => error.into(),
        }
    }
}

impl Lock {
    /// Makes a lock that nobody holds.
    ///
    /// # Errors
    ///
    /// If the program's shared memory cannot be made, or holds its limit of 65,536 objects.
    pub fn new() -> Result<Self, Error> {
        Self::over(Handle::create(Kind::Lock)?)
    }

    fn over(handle: Arc<Handle>) -> Result<Self, Error> {
        let state = handle.state(Kind::Lock).ok_or_else(transfer::gone)?;
        Self::within(handle, state)
    }

    /// The lock that stands in the object of another kind.
    pub(crate) fn within(handle: Arc<Handle>, state: &'static MarkedLock) -> Result<Self, Error> {
        let program = program()?;
        Ok(Self {
            handle,
            state,
            program,
            me: program.roster.me(),
        })
    }

    /// The object that it is, or is in.
    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// Acquires the lock, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`] if a holder died and nobody has recovered the lock since.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`.
    ///
    /// # When a process dies
    ///
    /// If it is the holder, all who wait are told at once. If it is one who waits, or one who was
    /// just woken, nobody else notices.
    #[inline]
    pub fn acquire(&self) -> Result<Guard<'_>, OwnerDied> {
        assert_not_forked();
        match Guard::acquire_free(self.state, self.me) {
            Some(guard) => Ok(guard),
            None => self.acquire_wanted(),
        }
    }

    /// As [`acquire`](Self::acquire), where there is more to it than to take what is free.
    #[cold]
    fn acquire_wanted(&self) -> Result<Guard<'_>, OwnerDied> {
        match self.lock(Deadline::NEVER) {
            Ok(guard) => Ok(guard),
            Err(Some(died)) => Err(died),
            Err(None) => unreachable!("there was no deadline"),
        }
    }

    /// Acquires the lock if nobody holds it.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::WouldBlock`] if somebody holds it, [`TryAcquireError::OwnerDied`] as for
    /// [`acquire`](Self::acquire).
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire) does.
    #[doc(alias = "acquire(block=False)")]
    pub fn try_acquire(&self) -> Result<Guard<'_>, TryAcquireError> {
        assert_not_forked();
        Guard::try_acquire(self.state, self.program)
    }

    /// Acquires the lock, waiting at most `timeout`, which the monotonic clock measures.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::Timeout`] if somebody held it all the time,
    /// [`AcquireTimeoutError::OwnerDied`] as for [`acquire`](Self::acquire).
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire) does.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Guard<'_>, AcquireTimeoutError> {
        self.lock(Deadline::after(timeout))
            .map_err(|died| died.map_or(AcquireTimeoutError::Timeout, Into::into))
    }

    /// Acquires the lock whether or not a holder died, waiting as long as it takes, and ends the
    /// mark: from now on it is a lock like any other.
    ///
    /// Call it when what the lock protects has been, or is about to be, put right.
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire) does.
    pub fn recover(&self) -> Guard<'_> {
        assert_not_forked();
        Guard::recover(self.state, self.program)
    }

    /// Whether somebody holds the lock at this moment.
    pub fn is_locked(&self) -> bool {
        assert_not_forked();
        self.holder().is_some()
    }

    fn lock(&self, deadline: Deadline) -> Result<Guard<'_>, Option<OwnerDied>> {
        assert_not_forked();
        Guard::acquire(self.state, self.program, deadline)
    }

    /// The living process that holds the lock.
    fn holder(&self) -> Option<Holder> {
        let holder = self.state.mutex.holder()?;
        self.program.roster.is_alive(holder).then_some(holder)
    }
}

/// Shows who holds the lock: nobody, this process, or another by name and process id.
impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Lock");
        let Some(program) = existing() else {
            return debug.finish_non_exhaustive();
        };
        let holder = describe(program.roster, self.holder());
        debug.field("holder", &format_args!("{holder}"));
        if self.state.mutex.is_marked() {
            debug.field("owner_died", &OwnerDied::of(self.state));
        }
        debug.finish()
    }
}

impl Serialize for Lock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize(&self.handle, serializer)
    }
}

impl<'de> Deserialize<'de> for Lock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let handle = transfer::deserialize(deserializer)?;
        Self::over(handle).map_err(serde::de::Error::custom)
    }
}
