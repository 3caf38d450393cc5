//! A flag between processes that many wait for.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::object::{Object, State};
use super::raw::{Bell, RawEvent};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::shm::{Kind, ObjectId};
use crate::wait::{Descriptor, Source, Waitable, Watched};

/// A flag between any processes and threads of a program: some wait for it, one sets it.
///
/// A clone is the same event, and so is what arrives where an event was sent: as an argument or
/// result of a task, as an item of a queue, or inside either.
///
/// Whoever waits when the event is set goes on, even if it is cleared before they run.
///
/// # When a process dies
///
/// The event stays as it is. If the process died while it set the event, those who wait are woken all
/// the same. Nobody is told of a death by an event: if the one who was to set it has died, they wait
/// on, so give a deadline or watch the child.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn work(go: mp::Event, done: mp::Event) {
///     go.wait();
///     done.set();
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (go, done) = (mp::Event::new()?, mp::Event::new()?);
/// let child = mp::Process::new(work, (go.clone(), done.clone())).start()?;
/// assert!(!done.is_set());
/// go.set();
/// done.wait();
/// child.join()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Event(Object<RawEvent>);

impl State for RawEvent {
    const KIND: Kind = Kind::Event;
}

impl Event {
    /// Makes an event that is not set.
    ///
    /// # Errors
    ///
    /// If the program's shared memory cannot be made, or holds its limit of 65,536 objects.
    pub fn new() -> Result<Self, Error> {
        Object::create().map(Self)
    }

    /// Whether the event is set at this moment.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`, as all methods do.
    pub fn is_set(&self) -> bool {
        self.0.state().is_set()
    }

    /// Sets the event and wakes everybody who waits for it. It stays set until it is cleared.
    ///
    /// What was written to shared memory before is visible to those who wait.
    pub fn set(&self) {
        self.0.state().set(self.0.roster());
    }

    /// Clears the event: who waits from now on waits until it is set again.
    pub fn clear(&self) {
        self.0.state().clear();
    }

    /// Waits until the event is set, as long as it takes.
    pub fn wait(&self) {
        self.0.state().wait(self.0.roster(), Deadline::NEVER);
    }

    /// Waits until the event is set, at most `timeout`, which the monotonic clock measures; false if
    /// it was not set in that time.
    #[must_use = "false says that the event was not set"]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let state = self.0.state();
        state.wait(self.0.roster(), Deadline::after(timeout))
    }

    /// A descriptor that becomes readable when the event is set: for `poll`, `epoll` and async
    /// runtimes.
    ///
    /// # Errors
    ///
    /// If the system has no descriptor or no thread left.
    pub fn descriptor(&self) -> Result<Descriptor, Error> {
        Descriptor::new(Box::new(self.0.clone()))
    }
}

/// Ready while it is set: unlike [`wait`](Event::wait), [`mp::wait`](crate::wait()) may miss that it
/// was set and cleared again at once.
impl Waitable for Event {
    fn watched(&self) -> Watched<'_> {
        Watched::new(&self.0)
    }
}

impl Source for Object<RawEvent> {
    fn is_ready(&self) -> bool {
        self.state().is_set()
    }

    fn bell(&self) -> Option<(ObjectId, &Bell)> {
        Some((self.id(), self.state().bell()))
    }
}

/// Shows whether the event is set.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Event");
        match self.0.shown() {
            Some(state) => debug.field("is_set", &state.is_set()).finish(),
            None => debug.finish_non_exhaustive(),
        }
    }
}
