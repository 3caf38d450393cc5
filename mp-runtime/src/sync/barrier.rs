//! A place where a number of processes wait for each other.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::object::{Object, State};
use super::raw::{Arrival, Cause, MAX_PARTIES, RawBarrier, Stopped};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::shm::Kind;

/// A place where a number of processes or threads wait until all of them have come.
///
/// A clone is the same barrier, and so is what arrives where a barrier was sent: as an argument or
/// result of a task, as an item of a queue, or inside either. It can be passed again and again.
///
/// # When a process dies
///
/// If it has a handle of the barrier, the barrier is *broken*: everybody who waits gets
/// [`BrokenBarrier`] at once, and so does everybody who comes, until somebody calls
/// [`reset`](Self::reset). It does not matter whether the process had arrived, since it would not
/// come to the next pass. A process that drops its handles before it ends breaks nothing.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn step(barrier: mp::Barrier, arrived: mp::Queue<u32>) -> Result<u64, mp::AnyError> {
///     arrived.put(std::process::id())?;
///     barrier.wait()?;
///     Ok(arrived.len() as u64)
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (barrier, arrived) = (mp::Barrier::new(3)?, mp::Queue::new()?);
/// let children = (0..3)
///     .map(|_| mp::Process::new(step, (barrier.clone(), arrived.clone())).start())
///     .collect::<Result<Vec<_>, _>>()?;
/// for child in children {
///     // Nobody went on before all had arrived.
///     assert_eq!(child.join()??, 3);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Barrier(Object<RawBarrier>);

impl State for RawBarrier {
    const KIND: Kind = Kind::Barrier;
}

/// A party has passed a [`Barrier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierWaitResult {
    index: u32,
    is_leader: bool,
}

impl BarrierWaitResult {
    /// How many parties had arrived before this one: each has another number, from zero.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether this is the one that arrived last.
    pub fn is_leader(&self) -> bool {
        self.is_leader
    }
}

/// A party did not pass a [`Barrier`], because it is broken, or was reset meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenBarrier(Reason);

/// Why it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Somebody called it off.
    Aborted,
    /// A party's time was over.
    TimedOut,
    /// A process died.
    Died,
    /// Somebody made the barrier whole while this party waited.
    Reset,
}

/// The error for a reason.
pub fn broken_barrier(reason: Reason) -> BrokenBarrier {
    BrokenBarrier(reason)
}

/// What a party that has passed is told.
pub fn passed_barrier(index: u32, is_leader: bool) -> BarrierWaitResult {
    BarrierWaitResult { index, is_leader }
}

impl BrokenBarrier {
    /// Whether somebody called [`Barrier::abort`], or panicked in the action.
    pub fn is_abort(&self) -> bool {
        self.0 == Reason::Aborted
    }

    /// Whether a party's time was over: this one's, or another's.
    pub fn is_timeout(&self) -> bool {
        self.0 == Reason::TimedOut
    }

    /// Whether a process died that has a handle of the barrier.
    pub fn is_death(&self) -> bool {
        self.0 == Reason::Died
    }

    /// Whether somebody called [`Barrier::reset`] while this party waited.
    pub fn is_reset(&self) -> bool {
        self.0 == Reason::Reset
    }
}

impl fmt::Display for BrokenBarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Reason::Aborted => {
                "the barrier is broken: a party called abort() or panicked in the action"
            }
            Reason::TimedOut => "the barrier is broken: not all parties came before a timeout",
            Reason::Died => "the barrier is broken: a process that has a handle of it died",
            Reason::Reset => "the barrier was reset while this party waited",
        })?;
        match self.0 {
            Reason::Reset => Ok(()),
            _ => f.write_str("; reset() makes it usable again"),
        }
    }
}

impl std::error::Error for BrokenBarrier {}

impl From<BrokenBarrier> for Error {
    fn from(error: BrokenBarrier) -> Self {
        let kind = match error.0 {
            Reason::Aborted | Reason::Reset => ErrorKind::Closed,
            Reason::TimedOut => ErrorKind::TimedOut,
            Reason::Died => ErrorKind::OwnerDied,
        };
        Self::new(kind, error.to_string())
    }
}

/// Why [`Barrier::try_wait`] did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TryWaitError {
    /// Others have yet to come.
    WouldBlock,
    /// The barrier is broken.
    Broken(BrokenBarrier),
}

impl fmt::Display for TryWaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("other parties have yet to come to the barrier"),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TryWaitError {}

impl From<TryWaitError> for Error {
    fn from(error: TryWaitError) -> Self {
        match error {
            TryWaitError::WouldBlock => Self::new(ErrorKind::TimedOut, error.to_string()),
            TryWaitError::Broken(error) => error.into(),
        }
    }
}

impl From<Stopped> for TryWaitError {
    fn from(stopped: Stopped) -> Self {
        let reason = match stopped {
            Stopped::WouldBlock => return Self::WouldBlock,
            Stopped::Reset => Reason::Reset,
            Stopped::Broken(Cause::Aborted) => Reason::Aborted,
            Stopped::Broken(Cause::TimedOut) => Reason::TimedOut,
            Stopped::Broken(Cause::Died) => Reason::Died,
        };
        Self::Broken(BrokenBarrier(reason))
    }
}

impl Barrier {
    /// Makes a barrier for that many parties, from 1 to 65,535.
    ///
    /// # Errors
    ///
    /// If the number is out of these limits, if the program's shared memory cannot be made, or if it
    /// holds its limit of 65,536 objects.
    pub fn new(parties: u32) -> Result<Self, Error> {
        if !(1..=MAX_PARTIES).contains(&parties) {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("a barrier is for 1 to {MAX_PARTIES} parties, not for {parties}"),
            ));
        }
        let object = Object::<RawBarrier>::create()?;
        object.state().open(parties);
        Ok(Self(object))
    }

    /// How many parties the barrier is for.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`, as all methods do.
    pub fn parties(&self) -> u32 {
        self.0.state().parties()
    }

    /// How many parties wait at this moment.
    #[doc(alias = "n_waiting")]
    pub fn waiting(&self) -> u32 {
        self.0.state().arrived()
    }

    /// Whether the barrier is broken.
    #[doc(alias = "broken")]
    pub fn is_broken(&self) -> bool {
        self.0.state().cause().is_some()
    }

    /// Waits until all parties have come, as long as it takes.
    ///
    /// What each of them wrote to shared memory before is visible to all of them after.
    ///
    /// # Errors
    ///
    /// [`BrokenBarrier`] if the barrier is broken, gets broken, or is reset.
    pub fn wait(&self) -> Result<BarrierWaitResult, BrokenBarrier> {
        self.wait_until(Deadline::NEVER, || {})
    }

    /// Waits as [`wait`](Self::wait) does; the party that comes last calls `action` before anybody
    /// goes on.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// If `action` does; the barrier is broken then.
    pub fn wait_with(&self, action: impl FnOnce()) -> Result<BarrierWaitResult, BrokenBarrier> {
        self.wait_until(Deadline::NEVER, action)
    }

    /// Waits as [`wait`](Self::wait) does, at most `timeout`, which the monotonic clock measures. When
    /// the time is over the barrier is broken, for all.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierWaitResult, BrokenBarrier> {
        self.wait_until(Deadline::after(timeout), || {})
    }

    /// Passes if all others have come already. Otherwise this party has not arrived.
    ///
    /// # Errors
    ///
    /// [`TryWaitError::WouldBlock`] if others have yet to come, [`TryWaitError::Broken`] as for
    /// [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<BarrierWaitResult, TryWaitError> {
        let (barrier, roster) = (self.0.state(), self.0.roster());
        let arrival = barrier.arrive(roster, false, Deadline::NEVER)?;
        barrier.pass(roster, arrival)?;
        Ok(result(arrival))
    }

    /// Breaks the barrier, for those who wait and those who come, until it is reset.
    pub fn abort(&self) {
        self.0.state().abort(self.0.roster(), Cause::Aborted);
    }

    /// Makes the barrier as it was when it was new. Parties that wait at this moment do not pass: they
    /// get [`BrokenBarrier`] with [`is_reset`](BrokenBarrier::is_reset).
    pub fn reset(&self) {
        self.0.state().reset(self.0.roster());
    }

    fn wait_until(
        &self,
        deadline: Deadline,
        action: impl FnOnce(),
    ) -> Result<BarrierWaitResult, BrokenBarrier> {
        let (barrier, roster) = (self.0.state(), self.0.roster());
        let passed = barrier.arrive(roster, true, deadline).and_then(|arrival| {
            if arrival.is_last() {
                let abort = AbortOnPanic(self);
                action();
                std::mem::forget(abort);
                barrier.pass(roster, arrival)?;
            } else {
                barrier.wait(roster, arrival, deadline)?;
            }
            Ok(result(arrival))
        });
        passed.map_err(|stopped| match stopped.into() {
            TryWaitError::Broken(error) => error,
            TryWaitError::WouldBlock => unreachable!("the party may wait"),
        })
    }
}

fn result(arrival: Arrival) -> BarrierWaitResult {
    BarrierWaitResult {
        index: arrival.index(),
        is_leader: arrival.is_last(),
    }
}

/// The others shall not wait for an action that panicked.
struct AbortOnPanic<'a>(&'a Barrier);

impl Drop for AbortOnPanic<'_> {
    fn drop(&mut self) {
        // In a copy made by `fork` inside the action it is not ours to break.
        if let Some(barrier) = self.0.0.shown() {
            barrier.abort(self.0.0.roster(), Cause::Aborted);
        }
    }
}

/// Shows how many parties there are, how many of them wait, and whether the barrier is broken.
impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Barrier");
        let Some(barrier) = self.0.shown() else {
            return debug.finish_non_exhaustive();
        };
        debug
            .field("parties", &barrier.parties())
            .field("waiting", &barrier.arrived())
            .field("broken", &barrier.cause())
            .finish()
    }
}
