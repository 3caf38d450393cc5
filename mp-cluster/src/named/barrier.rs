//! A place where processes on any machines wait for each other.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use mp::__private::{Broken, broken_barrier, passed_barrier};
use mp::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Address;
use super::cell::{Cell, Seen, State, Step, Until};
use super::cluster::Cluster;
use super::hold::{Claim, Release};
use super::member::Hold;
use crate::error;

const KIND: &str = "barrier";
/// The parties that a barrier is for at most: their names are in one message.
const MAX_PARTIES: u32 = 4096;
/// The resets that are remembered, for who comes late to learn of them.
const RESETS: usize = 64;

/// A place where a number of processes on any machines wait until all of them have come.
///
/// It is as [`mp::Barrier`](crate::Barrier), but that all calls can fail when the server cannot be
/// reached, and that its errors are [`mp::Error`](crate::Error)s: `is_timeout` of one whose time was
/// over, `is_owner_died` of a death, `is_closed` of [`abort`](Self::abort) and [`reset`](Self::reset).
///
/// # When a process dies
///
/// If it was waiting, or in the action, the barrier is broken once its lease is over, see
/// [`named::Lock`](super::Lock): everybody who waits is told, and so is everybody who comes, until
/// somebody calls [`reset`](Self::reset). Before that the dead one counts as come, which it had. Of one
/// that dies before it has come nobody is told: give a deadline.
///
/// # Examples
///
/// ```no_run
/// use mp_cluster::named::Barrier;
///
/// # fn main() -> mp::Result<()> {
/// let ready = Barrier::named("ready", 3)?;
/// if ready.wait()?.is_leader() {
///     println!("all three machines are there");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Barrier {
    cell: Cell,
    parties: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Parties {
    parties: u32,
    /// How often it was passed or reset.
    pass: u64,
    /// Those who have come.
    waiting: Vec<Hold>,
    /// The last to come, while it is in its action.
    acting: Option<Hold>,
    broken: Option<Cause>,
    /// Those of the passes that were none, the newest last.
    resets: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Cause {
    Aborted,
    TimedOut,
    Died,
}

impl State for Parties {
    fn members(&self) -> Vec<&str> {
        let all = self.waiting.iter().chain(&self.acting);
        all.map(|hold| hold.member.as_str()).collect()
    }
}

/// What gives its place up breaks the barrier: it came, and is not waited for any more.
impl Release for Parties {
    fn release(&mut self, hold: &Hold) -> bool {
        let was_there = self.waiting.contains(hold) || self.acting.as_ref() == Some(hold);
        if was_there {
            self.shatter(Cause::TimedOut);
        }
        was_there
    }
}

impl Parties {
    fn shatter(&mut self, cause: Cause) {
        self.broken.get_or_insert(cause);
        self.waiting.clear();
        self.acting = None;
    }

    /// Breaks it if one who waits is dead; whether that changes anything.
    fn bury(&mut self, dead: &HashSet<String>) -> bool {
        let is_dead = self.members().iter().any(|member| dead.contains(*member));
        if is_dead {
            self.shatter(Cause::Died);
        }
        is_dead
    }

    /// How a pass ended, if it did.
    fn end_of(&self, pass: u64) -> Option<Result<(), Error>> {
        if self.pass == pass {
            return self.broken.map(|cause| Err(cause.error()));
        }
        Some(match self.resets.contains(&pass) {
            true => Err(broken_barrier(Broken::Reset).into()),
            false => Ok(()),
        })
    }

    fn next_pass(&mut self) {
        self.pass += 1;
        self.waiting.clear();
        self.acting = None;
    }
}

impl Cause {
    fn error(self) -> Error {
        broken_barrier(match self {
            Self::Aborted => Broken::Aborted,
            Self::TimedOut => Broken::TimedOut,
            Self::Died => Broken::Died,
        })
        .into()
    }
}

/// What becomes of one who comes.
enum Arrival {
    /// It waits, as so many did before it.
    Waits {
        index: u32,
        pass: u64,
    },
    /// It is the last.
    Last {
        index: u32,
    },
    Broken(Cause),
    /// Others have yet to come, and it does not wait.
    TooEarly,
}

impl Barrier {
    /// The barrier of that name, at the server that `MP_CLUSTER` names; it is made for so many parties,
    /// from 1 to 4,096, if there is none. See [`Cluster::barrier`] for others.
    ///
    /// # Errors
    ///
    /// As of [`Cluster::from_env`] and [`Cluster::barrier`].
    pub fn named(name: &str, parties: u32) -> Result<Self, Error> {
        Cluster::from_env()?.barrier(name, parties)
    }

    pub(super) fn open(cluster: Cluster, name: &str, parties: u32) -> Result<Self, Error> {
        if !(1..=MAX_PARTIES).contains(&parties) {
            let text = format!("a barrier is for 1 to {MAX_PARTIES} parties, not for {parties}");
            return Err(error::cluster(text));
        }
        let cell = Cell::new(cluster, KIND, name)?;
        let made = cell.change(Until::Now, |seen: &mut Seen<Parties>, _| {
            match seen.state.parties {
                0 => {
                    seen.state.parties = parties;
                    Step::Write(parties)
                }
                made => Step::Leave(made),
            }
        });
        let made = cell.cluster.run(Until::Now.bound(cell.core(), made))?;
        match made {
            Some((made, _)) if made != parties => Err(error::cluster(format!(
                "the barrier {name:?} was made for {made} parties, not for {parties}"
            ))),
            _ => Ok(Self { cell, parties }),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.cell.name()
    }

    /// How many parties the barrier is for.
    pub fn parties(&self) -> u32 {
        self.parties
    }

    /// How many parties wait at this moment.
    ///
    /// # Errors
    ///
    /// [`is_cluster`](Error::is_cluster) if the server cannot be reached or refuses us, as of all
    /// calls.
    #[doc(alias = "n_waiting")]
    pub fn waiting(&self) -> Result<u32, Error> {
        self.look(|state| state.waiting.len() as u32)
    }

    /// Whether the barrier is broken.
    ///
    /// # Errors
    ///
    /// As of [`waiting`](Self::waiting).
    #[doc(alias = "broken")]
    pub fn is_broken(&self) -> Result<bool, Error> {
        self.look(|state| state.broken.is_some())
    }

    fn look<R>(&self, look: impl FnOnce(&Parties) -> R) -> Result<R, Error> {
        let read = async { Ok(Some(self.cell.read::<Parties>().await?)) };
        let bound = Until::Now.bound(self.cell.core(), read);
        match self.cell.cluster.run(bound)? {
            Some(seen) => Ok(look(&seen.state)),
            None => Ok(look(&Parties::default())),
        }
    }

    /// Waits until all parties have come, as long as it takes.
    ///
    /// # Errors
    ///
    /// If the barrier is broken, gets broken, or is reset, see [`Barrier`]; and as of
    /// [`waiting`](Self::waiting): then this party broke the barrier if it had come.
    pub fn wait(&self) -> Result<crate::BarrierWaitResult, Error> {
        self.wait_until(Until::Forever, || {})
    }

    /// Waits as [`wait`](Self::wait) does; the party that comes last calls `action` before anybody goes
    /// on.
    ///
    /// # Errors
    ///
    /// As of [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// If `action` does; the barrier is broken then.
    pub fn wait_with(&self, action: impl FnOnce()) -> Result<crate::BarrierWaitResult, Error> {
        self.wait_until(Until::Forever, action)
    }

    /// Waits as [`wait`](Self::wait) does, at most `timeout`. When the time is over the barrier is
    /// broken, for all.
    ///
    /// # Errors
    ///
    /// As of [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<crate::BarrierWaitResult, Error> {
        self.wait_until(Until::after(timeout), || {})
    }

    /// Passes if all others have come already. Otherwise this party has not arrived.
    ///
    /// # Errors
    ///
    /// [`is_timeout`](Error::is_timeout) if others have yet to come; otherwise as of
    /// [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<crate::BarrierWaitResult, Error> {
        self.wait_until(Until::Now, || {})
    }

    fn wait_until(
        &self,
        until: Until,
        action: impl FnOnce(),
    ) -> Result<crate::BarrierWaitResult, Error> {
        let core = self.cell.core();
        let arrived = self
            .cell
            .cluster
            .run(until.bound(core, self.arrive(until)))?;
        let Some((claim, arrival)) = arrived else {
            return Err(self.lose_patience());
        };
        let (index, is_leader) = match arrival {
            Arrival::Waits { index, pass } => {
                let passed = self.await_pass(pass, until);
                let passed = self.cell.cluster.run(until.bound(core, passed))?;
                claim.forget();
                match passed {
                    Some(passed) => passed?,
                    None => self.lose_patience_of(pass)?,
                }
                (index, false)
            }
            Arrival::Last { index } => {
                // If it panics, the claim is dropped, which breaks the barrier.
                action();
                let pass = self.pass(&claim.hold);
                let passed = self.cell.cluster.run(pass)?;
                claim.forget();
                passed?;
                (index, true)
            }
            Arrival::Broken(cause) => {
                claim.forget();
                return Err(cause.error());
            }
            Arrival::TooEarly => {
                claim.forget();
                return Err(error::timed_out(
                    "other parties have yet to come to the barrier",
                ));
            }
        };
        Ok(passed_barrier(index, is_leader))
    }

    /// Comes to the barrier.
    async fn arrive(&self, until: Until) -> Result<Option<(Claim<Parties>, Arrival)>, Error> {
        let claim = Claim::<Parties>::new(&self.cell).await?;
        let may_wait = !matches!(until, Until::Now);
        let arrived = self.cell.change(until, |seen: &mut Seen<Parties>, dead| {
            let state = &mut seen.state;
            let is_buried = state.bury(dead);
            if let Some(cause) = state.broken {
                return match is_buried {
                    true => Step::Write(Arrival::Broken(cause)),
                    false => Step::Leave(Arrival::Broken(cause)),
                };
            }
            if state.acting.is_some() {
                // That pass is full.
                return match may_wait {
                    true => Step::Wait,
                    false => Step::Leave(Arrival::TooEarly),
                };
            }
            let index = state.waiting.len() as u32;
            if index + 1 == state.parties {
                state.acting = Some(claim.hold.clone());
                return Step::Write(Arrival::Last { index });
            }
            if !may_wait {
                return Step::Leave(Arrival::TooEarly);
            }
            state.waiting.push(claim.hold.clone());
            let pass = state.pass;
            Step::Write(Arrival::Waits { index, pass })
        });
        match arrived.await? {
            Some((arrival, _)) => Ok(Some((claim, arrival))),
            None => {
                claim.forget();
                Ok(None)
            }
        }
    }

    /// Waits until a pass is over.
    async fn await_pass(
        &self,
        pass: u64,
        until: Until,
    ) -> Result<Option<Result<(), Error>>, Error> {
        let passed = self.cell.change(until, |seen: &mut Seen<Parties>, dead| {
            let is_buried = seen.state.pass == pass && seen.state.bury(dead);
            match seen.state.end_of(pass) {
                Some(ended) if is_buried => Step::Write(ended),
                Some(ended) => Step::Leave(ended),
                None => Step::Wait,
            }
        });
        Ok(passed.await?.map(|(passed, _)| passed))
    }

    /// Lets everybody go on.
    async fn pass(&self, hold: &Hold) -> Result<Result<(), Error>, Error> {
        let passed = self
            .cell
            .change(Until::Forever, |seen: &mut Seen<Parties>, _| {
                let state = &mut seen.state;
                if state.acting.as_ref() != Some(hold) {
                    let cause = state.broken;
                    return Step::Leave(Err(match cause {
                        Some(cause) => cause.error(),
                        None => broken_barrier(Broken::Reset).into(),
                    }));
                }
                state.next_pass();
                Step::Write(Ok(()))
            });
        match passed.await? {
            Some((passed, _)) => Ok(passed),
            None => unreachable!("there was no deadline"),
        }
    }

    /// Breaks the barrier because a time is over, before this party could come.
    fn lose_patience(&self) -> Error {
        match self.shatter(Cause::TimedOut) {
            Ok(()) => Cause::TimedOut.error(),
            Err(error) => error,
        }
    }

    /// As `lose_patience`, unless that pass has ended meanwhile.
    fn lose_patience_of(&self, pass: u64) -> Result<(), Error> {
        let shatter = self
            .cell
            .change(Until::Forever, |seen: &mut Seen<Parties>, _| {
                if let Some(ended) = seen.state.end_of(pass) {
                    return Step::Leave(ended);
                }
                seen.state.shatter(Cause::TimedOut);
                Step::Write(Err(Cause::TimedOut.error()))
            });
        match self.cell.cluster.run(shatter)? {
            Some((ended, _)) => ended,
            None => unreachable!("there was no deadline"),
        }
    }

    /// Breaks the barrier, for those who wait and those who come, until it is reset.
    ///
    /// # Errors
    ///
    /// As of [`waiting`](Self::waiting).
    pub fn abort(&self) -> Result<(), Error> {
        self.shatter(Cause::Aborted)
    }

    fn shatter(&self, cause: Cause) -> Result<(), Error> {
        let shatter = self
            .cell
            .change(Until::Forever, |seen: &mut Seen<Parties>, _| {
                if seen.state.broken.is_some() {
                    return Step::Leave(());
                }
                seen.state.shatter(cause);
                Step::Write(())
            });
        self.cell.cluster.run(shatter).map(drop)
    }

    /// Makes the barrier as it was when it was new. Parties that wait at this moment do not pass: they
    /// get an error for which [`is_closed`](Error::is_closed) holds.
    ///
    /// # Errors
    ///
    /// As of [`waiting`](Self::waiting).
    pub fn reset(&self) -> Result<(), Error> {
        let reset = self
            .cell
            .change(Until::Forever, |seen: &mut Seen<Parties>, _| {
                let state = &mut seen.state;
                if state.resets.len() == RESETS {
                    state.resets.remove(0);
                }
                state.resets.push(state.pass);
                state.next_pass();
                state.broken = None;
                Step::Write(())
            });
        self.cell.cluster.run(reset).map(drop)
    }

    /// Has the server forget the barrier.
    ///
    /// # Errors
    ///
    /// As of [`waiting`](Self::waiting).
    pub fn remove(self) -> Result<(), Error> {
        self.cell.cluster.run(self.cell.remove())
    }
}

/// Shows its name and how many parties it is for.
impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("name", &self.cell)
            .field("parties", &self.parties)
            .finish()
    }
}

impl Serialize for Barrier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Address::of(&self.cell), self.parties).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Barrier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (address, parties) = <(Address, u32)>::deserialize(deserializer)?;
        let cell = address.cell(KIND).map_err(serde::de::Error::custom)?;
        Ok(Self { cell, parties })
    }
}
