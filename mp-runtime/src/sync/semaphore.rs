//! A number of permits that processes take and give back.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::object::{Object, State};
use super::raw::RawShares;
use super::shares::{self, Shares};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::fault::fault;
use crate::shm::Kind;

/// A number of permits that any processes and threads of a program take and give back: so many may
/// be at something at once.
///
/// A clone is the same semaphore, and so is what arrives where a semaphore was sent: as an argument or
/// result of a task, as an item of a queue, or inside either.
///
/// A [`Permit`] gives itself back when it is dropped. To count events instead, which one process
/// announces and another awaits, [`release`](Self::release) adds a permit and
/// [`Permit::consume`] does away with one.
///
/// # When a process dies
///
/// The permits that it held come back, at once and exactly, and those who wait get them. The next
/// holder is told nothing: a permit says that there is room, not that something is whole. If it
/// protects data, use a [`Lock`](crate::Lock), which tells. Permits that were added or consumed before
/// the death stay so.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn download(slots: mp::Semaphore, url: String) -> usize {
///     let _permit = slots.acquire(); // At most two at once.
///     url.len()
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let slots = mp::Semaphore::new(2)?;
/// let urls = ["a", "bb", "ccc"].map(String::from);
/// let children = urls
///     .map(|url| mp::Process::new(download, (slots.clone(), url)).start());
/// let lengths = children
///     .into_iter()
///     .map(|child| child?.join().map_err(mp::Error::from))
///     .collect::<mp::Result<Vec<_>>>()?;
/// assert_eq!(lengths, [1, 2, 3]);
/// assert_eq!(slots.available(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore(Shares<RawShares, 1>);

impl State for RawShares {
    const KIND: Kind = Kind::Semaphore;
}

/// A permit of a [`Semaphore`] or a [`BoundedSemaphore`]. Dropping it gives it back.
///
/// It may be sent to another thread, but not to another process: it is the process that holds it.
///
/// # When a process dies
///
/// Its permits come back, see [`Semaphore`].
#[must_use = "the permit is given back at once if it is not kept"]
pub struct Permit<'a>(&'a Semaphore);

/// No permit was to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPermit {
    has_waited: bool,
}

impl fmt::Display for NoPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.has_waited {
            "all permits of the semaphore were taken until the timeout"
        } else {
            "all permits of the semaphore are taken"
        })
    }
}

impl std::error::Error for NoPermit {}

impl From<NoPermit> for Error {
    fn from(error: NoPermit) -> Self {
        Self::new(ErrorKind::TimedOut, error.to_string())
    }
}

/// A [`BoundedSemaphore`] has all its permits already: one was released that nobody had consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseError {
    bound: u32,
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the semaphore was released more often than permits of it were consumed: it has at most {}",
            self.bound
        )
    }
}

impl std::error::Error for ReleaseError {}

impl From<ReleaseError> for Error {
    fn from(error: ReleaseError) -> Self {
        Self::new(ErrorKind::Limit, error.to_string())
    }
}

impl Semaphore {
    /// Makes a semaphore with that many permits.
    ///
    /// # Errors
    ///
    /// If the program's shared memory cannot be made, is used up, or holds its limit of 65,536
    /// objects.
    pub fn new(permits: u32) -> Result<Self, Error> {
        Self::open(permits, u32::MAX)
    }

    fn open(permits: u32, bound: u32) -> Result<Self, Error> {
        let object = Object::create()?;
        shares::open(&object, permits, bound)?;
        Shares::over(object).map(Self)
    }

    /// Takes a permit, waiting for one as long as it takes.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`, as all methods do.
    pub fn acquire(&self) -> Permit<'_> {
        match self.take(Deadline::NEVER) {
            Some(permit) => permit,
            None => unreachable!("there was no deadline"),
        }
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    ///
    /// [`NoPermit`] if all are taken.
    #[doc(alias = "acquire(block=False)")]
    pub fn try_acquire(&self) -> Result<Permit<'_>, NoPermit> {
        self.take(Deadline::after(Duration::ZERO))
            .ok_or(NoPermit { has_waited: false })
    }

    /// Takes a permit, waiting for one at most `timeout`, which the monotonic clock measures.
    ///
    /// # Errors
    ///
    /// [`NoPermit`] if all were taken until then.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>, NoPermit> {
        self.take(Deadline::after(timeout))
            .ok_or(NoPermit { has_waited: true })
    }

    /// Adds a permit, whoever took what there was.
    ///
    /// # Panics
    ///
    /// If the semaphore has 4,294,967,295 permits already.
    #[track_caller]
    pub fn release(&self) {
        self.release_many(1);
    }

    /// Adds that many permits at once.
    ///
    /// # Panics
    ///
    /// If the semaphore would have more than 4,294,967,295 permits.
    #[doc(alias = "release(n)")]
    #[track_caller]
    pub fn release_many(&self, count: u32) {
        assert!(
            self.add(count),
            "a semaphore cannot have more than {} permits",
            u32::MAX
        );
    }

    /// How many permits can be had at this moment.
    #[doc(alias = "get_value")]
    pub fn available(&self) -> u32 {
        let (shares, entries) = self.0.parts(self.0.state());
        let (total, taken) = shares.count(self.0.roster(), entries);
        total - taken
    }

    fn take(&self, deadline: Deadline) -> Option<Permit<'_>> {
        let (shares, entries) = self.0.parts(self.0.state());
        shares.take(self.0.roster(), entries, deadline).then(|| {
            fault!("semaphore.acquired");
            Permit(self)
        })
    }

    fn add(&self, count: u32) -> bool {
        let (shares, entries) = self.0.parts(self.0.state());
        shares.add(self.0.roster(), entries, count)
    }

    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct(name);
        let Some(state) = self.0.shown() else {
            return debug.finish_non_exhaustive();
        };
        debug
            .field("available", &self.available())
            .field("holders", &self.0.describe(state, |_| true))
            .finish()
    }
}

impl Permit<'_> {
    /// Does away with the permit: the semaphore has one less from now on, until somebody calls
    /// [`release`](Semaphore::release).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> mp::Result<()> {
    /// let arrived = mp::Semaphore::new(0)?;
    /// arrived.release(); // In one process …
    /// arrived.acquire().consume(); // … and in another.
    /// assert_eq!(arrived.available(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn consume(self) {
        let semaphore = self.0;
        std::mem::forget(self);
        let (shares, entries) = semaphore.0.parts(semaphore.0.state());
        shares.consume(semaphore.0.roster(), entries);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // A copy made by `fork` does not hold what the original holds.
        if let Some(state) = self.0.0.shown() {
            let (shares, entries) = self.0.0.parts(state);
            shares.give(self.0.0.roster(), entries);
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

/// Shows how many permits can be had, and which processes hold how many.
impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show("Semaphore", f)
    }
}

impl Serialize for Semaphore {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Semaphore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Shares::deserialize(deserializer).map(Self)
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
/// ```
/// # fn main() -> mp::Result<()> {
/// let seats = mp::BoundedSemaphore::new(1)?;
/// seats.acquire().consume();
/// seats.release()?; // The one that was consumed.
/// assert!(seats.release().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BoundedSemaphore(Semaphore);

impl BoundedSemaphore {
    /// Makes a semaphore with that many permits, and never more.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::new`].
    pub fn new(permits: u32) -> Result<Self, Error> {
        Semaphore::open(permits, permits).map(Self)
    }

    /// Takes a permit, waiting for one as long as it takes.
    ///
    /// # Panics
    ///
    /// In a copy of the process that the program made by its own `fork`, as all methods do.
    pub fn acquire(&self) -> Permit<'_> {
        self.0.acquire()
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    ///
    /// [`NoPermit`] if all are taken.
    pub fn try_acquire(&self) -> Result<Permit<'_>, NoPermit> {
        self.0.try_acquire()
    }

    /// Takes a permit, waiting for one at most `timeout`, which the monotonic clock measures.
    ///
    /// # Errors
    ///
    /// [`NoPermit`] if all were taken until then.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>, NoPermit> {
        self.0.acquire_timeout(timeout)
    }

    /// Adds a permit in place of one that was [consumed](Permit::consume).
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] if there is none such: the semaphore has all its permits, in somebody's hands
    /// or not.
    pub fn release(&self) -> Result<(), ReleaseError> {
        if self.0.add(1) {
            Ok(())
        } else {
            let (shares, _) = self.0.0.parts(self.0.0.state());
            Err(ReleaseError {
                bound: shares.bound(),
            })
        }
    }

    /// How many permits can be had at this moment.
    #[doc(alias = "get_value")]
    pub fn available(&self) -> u32 {
        self.0.available()
    }
}

/// Shows how many permits can be had, and which processes hold how many.
impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show("BoundedSemaphore", f)
    }
}
