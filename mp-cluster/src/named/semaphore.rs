//! Permits that processes on any machines share.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use mp::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Address;
use super::cell::{Cell, Seen, State, Step, Until};
use super::cluster::Cluster;
use super::hold::{Claim, Release};
use super::member::Hold;
use crate::error;

const KIND: &str = "semaphore";
const BOUNDED: &str = "bounded-semaphore";

/// A number of permits that processes on any machines know by its name.
///
/// It is as [`mp::Semaphore`](crate::Semaphore), but that all calls can fail when the server cannot be
/// reached, and that a permit is held by a lease, see [`named::Lock`](super::Lock).
///
/// # When a process dies
///
/// Its permits come back once its lease is over, and nobody is told: a semaphore says that there is
/// room, not that something is whole. That goes for one that was stopped or cut off for so long, too:
/// then more than the number of permits may be in use for a while, until it looks at
/// [`Permit::is_held`].
///
/// # Examples
///
/// ```no_run
/// use mp_cluster::named::Semaphore;
///
/// # fn main() -> mp::Result<()> {
/// let slots = Semaphore::named("downloads", 4)?; // At most four at once, on all machines.
/// let _permit = slots.acquire()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore(Cell);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Permits {
    /// What it was made with.
    made: Option<u32>,
    free: u32,
    held: Vec<Hold>,
}

impl State for Permits {
    fn members(&self) -> Vec<&str> {
        self.held.iter().map(|hold| hold.member.as_str()).collect()
    }
}

impl Release for Permits {
    fn release(&mut self, hold: &Hold) -> bool {
        let was_held = self.consume(hold);
        self.free += u32::from(was_held);
        was_held
    }
}

impl Permits {
    /// Ends a hold without a permit to come back.
    fn consume(&mut self, hold: &Hold) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held != hold);
        self.held.len() < before
    }

    /// Takes back what the dead have.
    fn bury(&mut self, dead: &HashSet<String>) {
        let before = self.held.len();
        self.held.retain(|hold| !dead.contains(&hold.member));
        self.free += (before - self.held.len()) as u32;
    }
}

impl Semaphore {
    /// The semaphore of that name, at the server that `MP_CLUSTER` names; it is made with so many
    /// permits if there is none. See [`Cluster::semaphore`] for others.
    ///
    /// # Errors
    ///
    /// As of [`Cluster::from_env`] and [`Cluster::semaphore`].
    pub fn named(name: &str, permits: u32) -> Result<Self, Error> {
        Cluster::from_env()?.semaphore(name, permits)
    }

    pub(super) fn open(cluster: Cluster, name: &str, permits: u32) -> Result<Self, Error> {
        Self::over(Cell::new(cluster, KIND, name)?, permits)
    }

    /// What stands in a cell, or is to stand there.
    fn over(cell: Cell, permits: u32) -> Result<Self, Error> {
        let made = cell.change(Until::Now, |seen: &mut Seen<Permits>, _| {
            match seen.state.made {
                Some(made) => Step::Leave(made),
                None => {
                    seen.state.made = Some(permits);
                    seen.state.free = permits;
                    Step::Write(permits)
                }
            }
        });
        let made = cell.cluster.run(Until::Now.bound(cell.core(), made))?;
        match made {
            Some((made, _)) if made != permits => Err(error::cluster(format!(
                "the semaphore {cell:?} was made with {made} permits, not with {permits}"
            ))),
            _ => Ok(Self(cell)),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Takes a permit, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// [`is_cluster`](Error::is_cluster) if the server cannot be reached or refuses us.
    pub fn acquire(&self) -> Result<Permit<'_>, Error> {
        self.take(Until::Forever)
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    ///
    /// [`is_timeout`](Error::is_timeout) if all are taken; otherwise as of
    /// [`acquire`](Self::acquire).
    #[doc(alias = "acquire(block=False)")]
    pub fn try_acquire(&self) -> Result<Permit<'_>, Error> {
        self.take(Until::Now)
    }

    /// Takes a permit, waiting for one at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`is_timeout`](Error::is_timeout) if all were taken until then; otherwise as of
    /// [`acquire`](Self::acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>, Error> {
        self.take(Until::after(timeout))
    }

    fn take(&self, until: Until) -> Result<Permit<'_>, Error> {
        let take = async {
            loop {
                let claim = Claim::<Permits>::new(&self.0).await?;
                let changed = self.0.change(until, |seen: &mut Seen<Permits>, dead| {
                    seen.state.bury(dead);
                    if seen.state.free == 0 {
                        return Step::Wait;
                    }
                    seen.state.free -= 1;
                    seen.state.held.push(claim.hold.clone());
                    Step::Write(())
                });
                match changed.await? {
                    Some(_) if claim.is_lost() => {
                        claim.give_back().await?;
                    }
                    Some(_) => return Ok(Some(claim)),
                    None => {
                        claim.forget();
                        return Ok(None);
                    }
                }
            }
        };
        let taken = self.0.cluster.run(until.bound(self.0.core(), take))?;
        let claim = taken.ok_or_else(|| {
            error::timed_out(match until {
                Until::Now => "all permits of the semaphore are taken",
                _ => "all permits of the semaphore were taken until the timeout",
            })
        })?;
        let marker = PhantomData;
        Ok(Permit { claim, marker })
    }

    /// Adds a permit, whoever took what there was.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Self::acquire).
    pub fn release(&self) -> Result<(), Error> {
        self.release_many(1)
    }

    /// Adds so many permits.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Self::acquire), and if there would be more than 4,294,967,295.
    pub fn release_many(&self, permits: u32) -> Result<(), Error> {
        let add = self
            .0
            .change(Until::Forever, |seen: &mut Seen<Permits>, _| {
                match seen.state.free.checked_add(permits) {
                    Some(free) => {
                        seen.state.free = free;
                        Step::Write(true)
                    }
                    None => Step::Leave(false),
                }
            });
        match self.0.cluster.run(add)? {
            Some((false, _)) => Err(error::cluster(
                "a semaphore has 4,294,967,295 permits at most",
            )),
            _ => Ok(()),
        }
    }

    /// How many permits are there to be taken at this moment. Those of a process that has just died
    /// are not among them.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Self::acquire).
    #[doc(alias = "get_value")]
    pub fn available(&self) -> Result<u32, Error> {
        let read = async { Ok(Some(self.0.read::<Permits>().await?)) };
        let seen = self.0.cluster.run(Until::Now.bound(self.0.core(), read))?;
        Ok(seen.map_or(0, |seen| seen.state.free))
    }

    /// Has the server forget the semaphore, and whoever holds a permit.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Self::acquire).
    pub fn remove(self) -> Result<(), Error> {
        self.0.cluster.run(self.0.remove())
    }
}

/// A [`Semaphore`] that never has more permits than in the beginning: one release too many is an
/// error.
///
/// # When a process dies
///
/// As for [`Semaphore`]: its permits come back.
///
/// # Examples
///
/// ```no_run
/// use mp_cluster::named::BoundedSemaphore;
///
/// # fn main() -> mp::Result<()> {
/// let seats = BoundedSemaphore::named("seats", 1)?;
/// seats.acquire()?.consume()?;
/// seats.release()?; // The one that was consumed.
/// assert!(seats.release().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BoundedSemaphore(Semaphore);

impl BoundedSemaphore {
    /// The bounded semaphore of that name, at the server that `MP_CLUSTER` names; it is made with so
    /// many permits if there is none. See [`Cluster::bounded_semaphore`] for others.
    ///
    /// # Errors
    ///
    /// As of [`Cluster::from_env`] and [`Cluster::bounded_semaphore`].
    pub fn named(name: &str, permits: u32) -> Result<Self, Error> {
        Cluster::from_env()?.bounded_semaphore(name, permits)
    }

    pub(super) fn open(cluster: Cluster, name: &str, permits: u32) -> Result<Self, Error> {
        let cell = Cell::new(cluster, BOUNDED, name)?;
        Semaphore::over(cell, permits).map(Self)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Takes a permit, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// As of [`Semaphore::acquire`].
    pub fn acquire(&self) -> Result<Permit<'_>, Error> {
        self.0.acquire()
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    ///
    /// As of [`Semaphore::try_acquire`].
    #[doc(alias = "acquire(block=False)")]
    pub fn try_acquire(&self) -> Result<Permit<'_>, Error> {
        self.0.try_acquire()
    }

    /// Takes a permit, waiting for one at most `timeout`.
    ///
    /// # Errors
    ///
    /// As of [`Semaphore::acquire_timeout`].
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>, Error> {
        self.0.acquire_timeout(timeout)
    }

    /// Adds a permit in place of one that was [consumed](Permit::consume).
    ///
    /// # Errors
    ///
    /// If there is none such: the semaphore has all its permits, in somebody's hands or not. And as of
    /// [`acquire`](Self::acquire).
    pub fn release(&self) -> Result<(), Error> {
        let cell = &self.0.0;
        let add = cell.change(Until::Forever, |seen: &mut Seen<Permits>, _| {
            let state = &mut seen.state;
            let made = state.made.unwrap_or_default();
            if state.held.len() as u64 + u64::from(state.free) >= u64::from(made) {
                return Step::Leave(Err(made));
            }
            state.free += 1;
            Step::Write(Ok(()))
        });
        match cell.cluster.run(add)? {
            Some((Err(made), _)) => Err(error::cluster(format!(
                "the semaphore {cell:?} has at most {made} permits, and none of them is missing"
            ))),
            _ => Ok(()),
        }
    }

    /// How many permits are there to be taken at this moment. Those of a process that has just died
    /// are not among them.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Self::acquire).
    #[doc(alias = "get_value")]
    pub fn available(&self) -> Result<u32, Error> {
        self.0.available()
    }

    /// Has the server forget the semaphore, and whoever holds a permit.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Self::acquire).
    pub fn remove(self) -> Result<(), Error> {
        self.0.remove()
    }
}

/// A permit of a [`Semaphore`] or [`BoundedSemaphore`]. Dropping it gives it back.
///
/// # When a process dies
///
/// Its permits come back, see [`Semaphore`].
#[must_use = "the permit is given back at once if it is not kept"]
pub struct Permit<'a> {
    claim: Claim<Permits>,
    marker: PhantomData<&'a Semaphore>,
}

impl Permit<'_> {
    /// Whether it is certain at this moment that the permit was given to nobody else: see
    /// [`Guard::is_held`](super::Guard::is_held).
    pub fn is_held(&self) -> bool {
        self.claim.is_held()
    }

    /// Uses the permit up: it does not come back.
    ///
    /// # Errors
    ///
    /// If the permit has come back already, since the lease was over, and if the server cannot be
    /// reached or refuses us.
    pub fn consume(self) -> Result<(), Error> {
        let cell = self.claim.cell.clone();
        let consume = cell.change(Until::Forever, |seen: &mut Seen<Permits>, _| {
            match seen.state.consume(&self.claim.hold) {
                true => Step::Write(true),
                false => Step::Leave(false),
            }
        });
        let consumed = cell.cluster.run(consume)?;
        self.claim.forget();
        match consumed {
            Some((true, _)) => Ok(()),
            _ => Err(error::cluster(
                "the permit was not held to the end: the lease was over, because this process was \
                 stopped or cut off",
            )),
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("semaphore", &self.claim.cell)
            .field("is_held", &self.is_held())
            .finish()
    }
}

/// Shows its name.
impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Semaphore").field(&self.0).finish()
    }
}

impl Serialize for Semaphore {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Address::of(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Semaphore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Address::deserialize(deserializer)?.cell(KIND).map(Self);
        found.map_err(serde::de::Error::custom)
    }
}

/// Shows its name.
impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoundedSemaphore").field(&self.0.0).finish()
    }
}

impl Serialize for BoundedSemaphore {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Address::of(&self.0.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BoundedSemaphore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Address::deserialize(deserializer)?.cell(BOUNDED);
        let found = found.map(|cell| Self(Semaphore(cell)));
        found.map_err(serde::de::Error::custom)
    }
}
