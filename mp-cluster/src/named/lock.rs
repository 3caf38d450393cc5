//! Mutual exclusion between machines, by a lease and a token.

use std::fmt;
use std::time::Duration;

use mp::__private::owner_died;
use mp::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Address;
use super::cell::{Cell, Seen, State, Step, Until};
use super::cluster::Cluster;
use super::hold::{Claim, Release};
use super::member::{Hold, Who};
use crate::error;
use crate::fault::fault;

const KIND: &str = "lock";

/// A lock that processes on any machines know by its name.
///
/// It is as [`mp::Lock`](crate::Lock), but for what the distance brings:
///
/// - Whoever holds it has a **lease**, [`Connection::lease`](crate::Connection::lease), five seconds
///   unless told otherwise, which this process renews by itself. A holder that is stopped, or cut off
///   from the server, for longer than that loses the lock, and learns of it:
///   [`Guard::is_held`], [`Guard::release`].
/// - Between the look at `is_held` and what is done then the lease may end. So each guard has a
///   **token**, a number that is greater than those of all who held the lock before: send it along with
///   whatever the lock protects, and let the place where that ends up refuse smaller ones than it has
///   seen.
/// - All calls can fail, when the server cannot be reached for as long as
///   [`Connection::patience`](crate::Connection::patience) says.
///
/// The same name is the same lock in all programs of a namespace. It travels in arguments of tasks,
/// by its name; who receives it connects as the environment says, or by the connection that it has.
///
/// # When a process dies
///
/// A lock that it held is released and marked once its lease is over: everybody who waits is told by
/// an error for which [`is_owner_died`](crate::Error::is_owner_died) holds, and so is everybody who
/// comes, until somebody calls [`recover`](Self::recover). That goes for one that was stopped for so
/// long, too, and for one that was cut off. When the server is restarted, what is held stays held.
///
/// # Examples
///
/// ```no_run
/// use mp_cluster::named::Lock;
///
/// # fn store(_token: u64) {}
/// # fn main() -> mp::Result<()> {
/// let ledger = Lock::named("ledger")?; // At the server that MP_CLUSTER names.
/// let guard = ledger.acquire()?;
/// store(guard.token());
/// guard.release()?; // Or an error if it was not ours to the end.
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lock(Cell);

/// Who holds a lock, who died with it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct LockState {
    holder: Option<Holder>,
    died: Option<Who>,
    /// Whether there is a value with it.
    #[serde(default)]
    pub(super) has_value: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    hold: Hold,
    who: Who,
}

impl State for LockState {
    fn members(&self) -> Vec<&str> {
        let holder = self.holder.as_ref();
        holder
            .map(|holder| holder.hold.member.as_str())
            .into_iter()
            .collect()
    }
}

impl Release for LockState {
    fn release(&mut self, hold: &Hold) -> bool {
        let is_ours = self
            .holder
            .as_ref()
            .is_some_and(|holder| holder.hold == *hold);
        if is_ours {
            self.holder = None;
        }
        is_ours
    }
}

impl LockState {
    /// Releases and marks it if its holder is dead; whether that changes anything.
    fn bury(&mut self, dead: &std::collections::HashSet<String>) -> bool {
        let is_dead = |holder: &mut Holder| dead.contains(&holder.hold.member);
        let buried = self.holder.take_if(is_dead);
        let is_changed = buried.is_some();
        if let Some(holder) = buried {
            self.died = Some(holder.who);
        }
        is_changed
    }

    /// The error of who died with it.
    fn died(&self) -> Option<Error> {
        let who = self.died.as_ref()?;
        let name = format!("{} on {}", who.name, who.host);
        Some(owner_died(who.pid, name).into())
    }
}

/// What a holder has of a lock.
pub(super) struct Held {
    pub(super) claim: Claim<LockState>,
    pub(super) token: u64,
    /// The bytes of the value that it protects.
    pub(super) data: Vec<u8>,
}

/// Acquires what stands in a cell; `None` when the time is over.
pub(super) fn acquire(cell: &Cell, until: Until, recovers: bool) -> Result<Option<Held>, Error> {
    let core = cell.core();
    let who = Who::this_process();
    let acquire = async {
        loop {
            let claim = Claim::<LockState>::new(cell).await?;
            fault!("named.claiming");
            let changed = cell.change(until, |seen: &mut Seen<LockState>, dead| {
                let is_buried = seen.state.bury(dead);
                if let Some(error) = seen.state.died().filter(|_| !recovers) {
                    return match is_buried {
                        true => Step::Write(Err(error)),
                        false => Step::Leave(Err(error)),
                    };
                }
                if seen.state.holder.is_some() {
                    return Step::Wait;
                }
                seen.state.died = None;
                seen.state.holder = Some(Holder {
                    hold: claim.hold.clone(),
                    who: who.clone(),
                });
                Step::Write(Ok(seen.data.clone()))
            });
            match changed.await? {
                Some((Ok(_), _)) if claim.is_lost() => {
                    claim.give_back().await?;
                }
                Some((Ok(data), token)) => {
                    fault!("named.acquired");
                    return Ok(Some(Held { claim, token, data }));
                }
                Some((Err(error), _)) => {
                    claim.forget();
                    return Err(error);
                }
                None => {
                    claim.forget();
                    return Ok(None);
                }
            }
        }
    };
    cell.cluster.run(until.bound(core, acquire))
}

/// Does something with what stands in a cell while nobody holds it.
pub(super) fn with<R>(
    cell: &Cell,
    mut step: impl FnMut(&mut Seen<LockState>) -> Step<R>,
) -> Result<R, Error> {
    let with = cell.change(Until::Forever, |seen: &mut Seen<LockState>, dead| {
        let is_buried = seen.state.bury(dead);
        if let Some(error) = seen.state.died() {
            return match is_buried {
                true => Step::Write(Err(error)),
                false => Step::Leave(Err(error)),
            };
        }
        if seen.state.holder.is_some() {
            return Step::Wait;
        }
        match step(seen) {
            Step::Write(result) => Step::Write(Ok(result)),
            Step::Leave(result) => Step::Leave(Ok(result)),
            Step::Wait => Step::Wait,
        }
    });
    let with = async {
        match with.await? {
            Some((result, _)) => result,
            None => unreachable!("there was no deadline"),
        }
    };
    cell.cluster.run(with)
}

/// Whether somebody holds what stands in a cell.
pub(super) fn is_locked(cell: &Cell) -> Result<bool, Error> {
    let read = async { Ok(Some(cell.read::<LockState>().await?)) };
    let seen = cell.cluster.run(Until::Now.bound(cell.core(), read))?;
    Ok(seen.is_some_and(|seen| seen.state.holder.is_some()))
}

/// That a time was over.
pub(super) fn held_until_timeout() -> Error {
    error::timed_out("the lock was held until the timeout")
}

/// That nobody was waited for.
pub(super) fn would_block() -> Error {
    error::timed_out("the lock is held")
}

/// Gives back what is held.
pub(super) fn release(held: Held) -> Result<(), Error> {
    let cluster = held.claim.cell.cluster.clone();
    fault!("named.releasing");
    let was_held = cluster.run(held.claim.give_back())?;
    fault!("named.released");
    match was_held {
        true => Ok(()),
        false => Err(error::cluster(
            "the lock was not held to the end: its lease was over, because this process was \
             stopped or cut off, and others may have had it",
        )),
    }
}

impl Lock {
    /// The lock of that name, at the server that `MP_CLUSTER` names. See
    /// [`Cluster::lock`] for others.
    ///
    /// # Errors
    ///
    /// As of [`Cluster::from_env`] and [`Cluster::lock`].
    pub fn named(name: &str) -> Result<Self, Error> {
        Cluster::from_env()?.lock(name)
    }

    pub(super) fn over(cluster: Cluster, name: &str) -> Result<Self, Error> {
        Cell::new(cluster, KIND, name).map(Self)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Acquires the lock, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`is_owner_died`](Error::is_owner_died) if a holder died and nobody has recovered the lock
    /// since; [`is_cluster`](Error::is_cluster) if the server cannot be reached or refuses us.
    ///
    /// # When a process dies
    ///
    /// See [`Lock`].
    pub fn acquire(&self) -> Result<Guard<'_>, Error> {
        self.lock(Until::Forever, false)?
            .ok_or_else(held_until_timeout)
    }

    /// Acquires the lock if nobody holds it.
    ///
    /// # Errors
    ///
    /// [`is_timeout`](Error::is_timeout) if somebody holds it; otherwise as of
    /// [`acquire`](Self::acquire). A server that does not answer is waited for as long as connecting
    /// to it may take.
    #[doc(alias = "acquire(block=False)")]
    pub fn try_acquire(&self) -> Result<Guard<'_>, Error> {
        self.lock(Until::Now, false)?.ok_or_else(would_block)
    }

    /// Acquires the lock, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`is_timeout`](Error::is_timeout) if somebody held it all the time; otherwise as of
    /// [`acquire`](Self::acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Guard<'_>, Error> {
        self.lock(Until::after(timeout), false)?
            .ok_or_else(held_until_timeout)
    }

    /// Acquires the lock whether or not a holder died, waiting as long as it takes, and ends the mark.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or refuses us.
    pub fn recover(&self) -> Result<Guard<'_>, Error> {
        self.lock(Until::Forever, true)?
            .ok_or_else(held_until_timeout)
    }

    /// Whether somebody holds the lock at this moment, or has held it less than a lease ago and died.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or refuses us.
    pub fn is_locked(&self) -> Result<bool, Error> {
        is_locked(&self.0)
    }

    /// Has the server forget the lock, its mark and whoever holds it.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or refuses us.
    pub fn remove(self) -> Result<(), Error> {
        self.0.cluster.run(self.0.remove())
    }

    fn lock(&self, until: Until, recovers: bool) -> Result<Option<Guard<'_>>, Error> {
        let held = acquire(&self.0, until, recovers)?;
        Ok(held.map(|held| Guard {
            held,
            marker: std::marker::PhantomData,
        }))
    }
}

/// A [`Lock`] that this process holds. Dropping it releases the lock.
///
/// # When a process dies
///
/// See [`Lock`].
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct Guard<'a> {
    held: Held,
    marker: std::marker::PhantomData<&'a Lock>,
}

impl Guard<'_> {
    /// A number that is greater than that of every guard of this lock before: the fencing token.
    pub fn token(&self) -> u64 {
        self.held.token
    }

    /// Whether it is certain at this moment that nobody else has been given the lock.
    ///
    /// Without a connection it turns false when the lease is over, and true again once the lease was
    /// renewed, if nobody was given the lock meanwhile. No message is sent for it.
    pub fn is_held(&self) -> bool {
        self.held.claim.is_held()
    }

    /// Releases the lock, and says whether it was held to the end. Dropping the guard does the same
    /// and says nothing.
    ///
    /// # Errors
    ///
    /// If the lease was over and the lock was taken from this process; what was done under it may
    /// have been done beside another holder. And if the server cannot be reached or refuses us.
    pub fn release(self) -> Result<(), Error> {
        release(self.held)
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("lock", &self.held.claim.cell)
            .field("token", &self.token())
            .field("is_held", &self.is_held())
            .finish()
    }
}

/// Shows its name.
impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lock").field(&self.0).finish()
    }
}

impl Serialize for Lock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Address::of(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Lock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Address::deserialize(deserializer)?.cell(KIND).map(Self);
        found.map_err(serde::de::Error::custom)
    }
}
