//! A flag that processes on any machines wait for.

use std::fmt;
use std::time::Duration;

use mp::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Address;
use super::cell::{Cell, Seen, State, Step, Until};
use super::cluster::Cluster;

const KIND: &str = "event";

/// A flag that processes on any machines know by its name: some wait for it, one sets it.
///
/// It is as [`mp::Event`](crate::Event), but that all calls can fail when the server cannot be reached.
///
/// # When a process dies
///
/// The event stays as it is, and nobody is told: who waits for one that has died waits on, so give a
/// deadline.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use mp_cluster::named::Event;
///
/// # fn main() -> mp::Result<()> {
/// let loaded = Event::named("loaded")?;
/// if loaded.wait_timeout(Duration::from_secs(60))? {
///     println!("somebody, somewhere, has set it");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Event(Cell);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Flag {
    is_set: bool,
    /// How often it was set: who waits may come to look when it is cleared again.
    times: u64,
}

impl State for Flag {
    fn members(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl Event {
    /// The event of that name, at the server that `MP_CLUSTER` names. See [`Cluster::event`] for
    /// others.
    ///
    /// # Errors
    ///
    /// As of [`Cluster::from_env`] and [`Cluster::event`].
    pub fn named(name: &str) -> Result<Self, Error> {
        Cluster::from_env()?.event(name)
    }

    pub(super) fn over(cluster: Cluster, name: &str) -> Result<Self, Error> {
        Cell::new(cluster, KIND, name).map(Self)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Whether the event is set at this moment.
    ///
    /// # Errors
    ///
    /// [`is_cluster`](Error::is_cluster) if the server cannot be reached or refuses us, as of all
    /// calls.
    pub fn is_set(&self) -> Result<bool, Error> {
        let read = async { Ok(Some(self.0.read::<Flag>().await?)) };
        let seen = self.0.cluster.run(Until::Now.bound(self.0.core(), read))?;
        Ok(seen.is_some_and(|seen| seen.state.is_set))
    }

    /// Sets the event and wakes everybody who waits for it. It stays set until it is cleared.
    ///
    /// # Errors
    ///
    /// As of [`is_set`](Self::is_set).
    pub fn set(&self) -> Result<(), Error> {
        self.turn(true)
    }

    /// Clears the event: who waits from now on waits until it is set again.
    ///
    /// # Errors
    ///
    /// As of [`is_set`](Self::is_set).
    pub fn clear(&self) -> Result<(), Error> {
        self.turn(false)
    }

    fn turn(&self, is_set: bool) -> Result<(), Error> {
        let turn = self.0.change(Until::Forever, |seen: &mut Seen<Flag>, _| {
            if seen.state.is_set == is_set {
                return Step::Leave(());
            }
            seen.state.is_set = is_set;
            seen.state.times += u64::from(is_set);
            Step::Write(())
        });
        self.0.cluster.run(turn).map(drop)
    }

    /// Waits until the event is set, as long as it takes.
    ///
    /// # Errors
    ///
    /// As of [`is_set`](Self::is_set).
    pub fn wait(&self) -> Result<(), Error> {
        self.wait_until(Until::Forever).map(drop)
    }

    /// Waits until the event is set, at most `timeout`; false if it was not set in that time.
    ///
    /// # Errors
    ///
    /// As of [`is_set`](Self::is_set).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.wait_until(match timeout {
            Duration::ZERO => Until::Now,
            timeout => Until::after(timeout),
        })
    }

    fn wait_until(&self, until: Until) -> Result<bool, Error> {
        let mut first = None;
        let wait = self.0.change(until, |seen: &mut Seen<Flag>, _| {
            let times = seen.state.times;
            match seen.state.is_set || times > *first.get_or_insert(times) {
                true => Step::Leave(()),
                false => Step::Wait,
            }
        });
        let set = self.0.cluster.run(until.bound(self.0.core(), wait))?;
        Ok(set.is_some())
    }

    /// Has the server forget the event: it is as one that was never set.
    ///
    /// # Errors
    ///
    /// As of [`is_set`](Self::is_set).
    pub fn remove(self) -> Result<(), Error> {
        self.0.cluster.run(self.0.remove())
    }
}

/// Shows its name.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Event").field(&self.0).finish()
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Address::of(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Address::deserialize(deserializer)?.cell(KIND).map(Self);
        found.map_err(serde::de::Error::custom)
    }
}
