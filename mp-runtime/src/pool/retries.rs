//! Which failures are worth another attempt, how many, and when.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::timer::nanos;
use crate::deadline::Deadline;
use crate::error::TaskError;

/// The longest wait before another attempt, unless another is set.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Which items of a pool's calls are run again when they fail, and how often: for
/// [`PoolBuilder::retries`](crate::PoolBuilder::retries) and
/// [`Pool::with_retries`](crate::Pool::with_retries).
///
/// By default an item is run again when its worker crashed, when it took too long, and when nobody
/// knows what became of it. A panic is no reason: it would most likely happen again.
///
/// # What may run twice
///
/// Without retries no item is begun twice. With them, an item that failed in one of these ways is
/// begun again, and whatever it did before its failure it may do again; so are the tasks that it
/// called. No other item is: those before it in the same job have their results, and those behind it
/// had not begun.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use mp::{Pool, Retries, Value};
/// #[mp::task]
/// fn flaky(tries: Value<u32>) -> u32 {
///     let before = tries.fetch_add(1);
///     if before < 2 {
///         std::process::abort();
///     }
///     before
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let retries = Retries::new(3).backoff(Duration::from_millis(1));
/// let pool = Pool::builder().workers(1).retries(retries).build()?;
/// assert_eq!(pool.apply(flaky, (Value::new(0)?,))?, 2);
///
/// let error = pool.with_retries(1).apply(flaky, (Value::new(0)?,)).unwrap_err();
/// assert_eq!(error.task().unwrap().attempts(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Retries {
    most: u32,
    crashes: bool,
    timeouts: bool,
    losses: bool,
    panics: bool,
    when: Option<Arc<Predicate>>,
    backoff: Duration,
    max_backoff: Duration,
}

type Predicate = dyn Fn(&TaskError) -> bool + Send + Sync;

impl Retries {
    /// Never: what a pool does unless told otherwise.
    pub const NONE: Self = Self::new(0);

    /// Up to so many attempts after the first.
    pub const fn new(most: u32) -> Self {
        Self {
            most,
            crashes: true,
            timeouts: true,
            losses: true,
            panics: false,
            when: None,
            backoff: Duration::ZERO,
            max_backoff: MAX_BACKOFF,
        }
    }

    /// Whether an item is run again that crashed its worker. The default is yes.
    pub fn crashes(mut self, is_retried: bool) -> Self {
        self.crashes = is_retried;
        self
    }

    /// Whether an item is run again that took too long. The default is yes.
    pub fn timeouts(mut self, is_retried: bool) -> Self {
        self.timeouts = is_retried;
        self
    }

    /// Whether an item is run again of which nobody knows what became. The default is yes.
    pub fn losses(mut self, is_retried: bool) -> Self {
        self.losses = is_retried;
        self
    }

    /// Whether an item is run again that panicked. The default is no.
    pub fn panics(mut self, is_retried: bool) -> Self {
        self.panics = is_retried;
        self
    }

    /// Has `predicate` decide, of all failures but cancellation. It is called where results are
    /// taken: on the caller's thread, or on one of the pool for calls that nobody waits for, so it
    /// should not take long. If it panics, the item is not run again.
    ///
    /// It is a closure of this process: a pool whose [`retries`](crate::PoolBuilder::retries) have one
    /// retries nothing in the calls that its tasks make on it, which other processes decide about.
    /// Such a call can be given retries of its own, with a predicate or without, by
    /// [`Pool::with_retries`](crate::Pool::with_retries) in the task.
    pub fn when(mut self, predicate: impl Fn(&TaskError) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Arc::new(predicate));
        self
    }

    /// Waits so long before the second attempt, twice as long before the third, and so on, but not
    /// longer than [`max_backoff`](Self::max_backoff). The default is not to wait.
    pub fn backoff(mut self, time: Duration) -> Self {
        self.backoff = time;
        self
    }

    /// The longest wait before an attempt. The default is a minute.
    pub fn max_backoff(mut self, time: Duration) -> Self {
        self.max_backoff = time;
        self
    }

    /// As words that other processes read: none if a predicate decides, which is this process's.
    pub(super) fn to_words(&self) -> [u64; 4] {
        if self.when.is_some() {
            return [0; 4];
        }
        let kinds = [self.crashes, self.timeouts, self.losses, self.panics];
        let bits = kinds
            .iter()
            .rev()
            .fold(0, |bits, &is_it| bits << 1 | u64::from(is_it));
        let [backoff, most] = [self.backoff, self.max_backoff].map(nanos);
        [u64::from(self.most), bits, backoff, most]
    }

    /// What [`to_words`](Self::to_words) made words of.
    pub(super) fn from_words([most, kinds, backoff, max_backoff]: [u64; 4]) -> Option<Self> {
        let has = |bit: u32| kinds >> bit & 1 == 1;
        (most > 0).then(|| {
            Self::new(most as u32)
                .crashes(has(0))
                .timeouts(has(1))
                .losses(has(2))
                .panics(has(3))
                .backoff(Duration::from_nanos(backoff))
                .max_backoff(Duration::from_nanos(max_backoff))
        })
    }

    /// When an item that failed, after `retries` attempts but the first, is to be run again, if it
    /// is.
    #[cold]
    pub(super) fn next(&self, error: &TaskError, retries: u32) -> Option<Deadline> {
        if retries >= self.most || error.is_cancelled() || !self.is_wanted(error) {
            return None;
        }
        let factor = 2_u32.checked_pow(retries).unwrap_or(u32::MAX);
        let wait = self.backoff.saturating_mul(factor).min(self.max_backoff);
        Some(Deadline::after(wait))
    }

    fn is_wanted(&self, error: &TaskError) -> bool {
        match &self.when {
            Some(when) => crate::task::panic::catch(|| when(error)).unwrap_or(false),
            None => {
                self.crashes && error.is_crash()
                    || self.timeouts && error.is_timeout()
                    || self.losses && error.is_lost()
                    || self.panics && error.is_panic()
            }
        }
    }
}

impl From<u32> for Retries {
    fn from(most: u32) -> Self {
        Self::new(most)
    }
}

impl fmt::Debug for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retries")
            .field("most", &self.most)
            .field("crashes", &self.crashes)
            .field("timeouts", &self.timeouts)
            .field("losses", &self.losses)
            .field("panics", &self.panics)
            .field("when", &self.when.is_some())
            .field("backoff", &self.backoff)
            .field("max_backoff", &self.max_backoff)
            .finish()
    }
}
