//! How long the items of a call may take, and which are run again: as the call, the task or the pool says, in this order.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use super::Pool;
use super::current;
use super::region::Header;
use super::retries::Retries;
use super::timer::nanos;
use crate::deadline::Deadline;
use crate::error::TaskError;
use crate::loom::Ordering;
use crate::task::registry::Entry;

/// What is said about the items of some calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    timeout: Option<Duration>,
    retries: Option<Retries>,
    /// How many calls from inside of tasks of the pool lead to the items.
    pub(super) depth: u32,
}

impl Terms {
    #[track_caller]
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        assert!(!timeout.is_zero(), "no task ends in no time");
        self.timeout = Some(timeout);
    }

    pub(super) fn set_retries(&mut self, retries: Retries) {
        self.retries = Some(retries);
    }

    /// What holds for a call of `task`, of which these are said, in a pool of which `pool` are.
    pub(super) fn of_call(&self, task: &Entry, pool: &Self) -> Self {
        let of_task = task.options.retries.map(Retries::new);
        let retries = self.retries.clone().or(of_task);
        Self {
            timeout: self.timeout.or(task.options.timeout).or(pool.timeout),
            retries: retries.or_else(|| pool.retries.clone()),
            depth: current::depth(),
        }
    }

    /// Writes what workers need to know of it, as the terms of their pool.
    pub(super) fn publish(&self, header: &Header) {
        header.timeout.store(self.limit(), Ordering::Relaxed);
        let retries = self.retries.as_ref().map_or([0; 4], Retries::to_words);
        for (word, value) in header.retries.iter().zip(retries) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Reads what [`publish`](Self::publish) wrote.
    pub(super) fn published(header: &Header) -> Self {
        let timeout = header.timeout.load(Ordering::Relaxed);
        let retries = std::array::from_fn(|at| header.retries[at].load(Ordering::Relaxed));
        Self {
            timeout: (timeout > 0).then(|| Duration::from_nanos(timeout)),
            retries: Retries::from_words(retries),
            depth: 0,
        }
    }

    /// When an item that failed, after `retries` attempts but the first, is to be run again, if it
    /// is.
    #[inline]
    pub(super) fn retry(&self, error: &TaskError, retries: u32) -> Option<Deadline> {
        self.retries.as_ref()?.next(error, retries)
    }

    /// How long an item may take, in nanoseconds; zero is no limit.
    #[inline]
    pub(super) fn limit(&self) -> u64 {
        self.timeout.map_or(0, nanos)
    }
}

impl Pool {
    /// Returns the pool for calls whose items may each take so long, whatever the task and
    /// [`PoolBuilder::task_timeout`](crate::PoolBuilder::task_timeout) say.
    ///
    /// # Panics
    ///
    /// Panics if `timeout` is zero.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn forever() {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(1)?;
    /// let error = pool.with_timeout(Duration::from_millis(20)).apply(forever, ()).unwrap_err();
    /// assert!(error.task().unwrap().is_timeout());
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn with_timeout(&self, timeout: Duration) -> Tuned<'_> {
        Tuned::new(self).with_timeout(timeout)
    }

    /// Returns the pool for calls whose items are run again as `retries` says when they fail,
    /// whatever the task and [`PoolBuilder::retries`](crate::PoolBuilder::retries) say. A number
    /// stands for [`Retries::new`], and [`Retries::NONE`] for at most once.
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::{Pool, Value};
    /// #[mp::task]
    /// fn flaky(tries: Value<u32>) -> u32 {
    ///     let before = tries.fetch_add(1);
    ///     if before == 0 {
    ///         std::process::exit(1);
    ///     }
    ///     before
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(1)?;
    /// assert_eq!(pool.with_retries(2).apply(flaky, (Value::new(0)?,))?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_retries(&self, retries: impl Into<Retries>) -> Tuned<'_> {
        Tuned::new(self).with_retries(retries)
    }
}

/// A pool, for calls about which something is said: of [`Pool::with_timeout`] and
/// [`Pool::with_retries`]. It has all methods of the pool.
pub struct Tuned<'p> {
    view: Pool,
    pool: PhantomData<&'p Pool>,
}

impl<'p> Tuned<'p> {
    fn new(pool: &'p Pool) -> Self {
        let view = Pool {
            inner: pool.inner.clone(),
            terms: pool.terms.clone(),
            is_view: true,
        };
        Self {
            view,
            pool: PhantomData,
        }
    }

    /// As [`Pool::with_timeout`].
    ///
    /// # Panics
    ///
    /// Panics if `timeout` is zero.
    #[must_use = "it says something about the calls that are made through it"]
    #[track_caller]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.view.terms.set_timeout(timeout);
        self
    }

    /// As [`Pool::with_retries`].
    #[must_use = "it says something about the calls that are made through it"]
    pub fn with_retries(mut self, retries: impl Into<Retries>) -> Self {
        self.view.terms.set_retries(retries.into());
        self
    }
}

impl Deref for Tuned<'_> {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.view
    }
}

impl fmt::Debug for Tuned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tuned")
            .field("pool", &self.view)
            .field("terms", &self.view.terms)
            .finish()
    }
}
