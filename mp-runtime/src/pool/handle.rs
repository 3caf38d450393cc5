//! The handle of a call that goes on while its caller does something else.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::callbacks;
use super::guest::Waiting;
use super::inner::{Inner, lock};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::life::program::is_forked;

/// A call of a pool that is under way, with a result of type `R`: of
/// [`Pool::submit`](crate::Pool::submit) and [`Pool::map_async`](crate::Pool::map_async).
///
/// The result is taken by one of [`wait`](Self::wait), [`wait_timeout`](Self::wait_timeout),
/// [`try_get`](Self::try_get) and [`on_done`](Self::on_done), or by awaiting the job, in any
/// executor; several jobs are waited for by [`wait_all`] and [`as_completed`].
///
/// Dropping a job does not stop it: its result is dropped when it is there. To stop it,
/// [`cancel`](Self::cancel) it.
///
/// # When a process dies
///
/// The job fails with the cause, as [`Pool::apply`](crate::Pool::apply) and
/// [`Pool::map`](crate::Pool::map) do. When the pool ends, all of its jobs are over: those that
/// were not done have been cancelled.
///
/// # Examples
///
/// ```
/// use mp::Pool;
///
/// #[mp::task]
/// fn sum(numbers: Vec<u64>) -> u64 {
///     numbers.iter().sum()
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new(2)?;
/// let small = pool.submit(sum, (vec![1, 2, 3],))?;
/// let large = pool.submit(sum, ((0..1000).collect(),))?;
/// assert_eq!(small.wait()?, 6);
/// assert_eq!(large.wait()?, 499_500);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "AsyncResult")]
#[must_use = "a job that is dropped goes on, but nobody learns what became of it"]
pub struct Job<R> {
    shared: Arc<Shared<R>>,
    /// Of the pool, unless it is gone, and with it all that could be cancelled.
    pool: Weak<Inner>,
}

/// What the handle and the driver share.
pub(super) struct Shared<R> {
    state: Mutex<Outcome<R>>,
    done: Condvar,
    is_cancelled: AtomicBool,
    is_recalled: AtomicBool,
}

struct Outcome<R> {
    is_done: bool,
    result: Option<Result<R, Error>>,
    listener: Option<Listener<R>>,
    /// Of a task that awaits a job of its own pool.
    waiting: Option<Waiting<Arc<Inner>>>,
}

/// Who is told when the job is done.
enum Listener<R> {
    Callback(Box<dyn FnOnce(Result<R, Error>) + Send>),
    Waker(Waker),
    /// Of [`AsCompleted`], by the job's place in it.
    Channel(mpsc::Sender<usize>, usize),
}

impl<R> Shared<R> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(Outcome {
                is_done: false,
                result: None,
                listener: None,
                waiting: None,
            }),
            done: Condvar::new(),
            is_cancelled: AtomicBool::new(false),
            is_recalled: AtomicBool::new(false),
        })
    }

    /// Whether the job is to end unless it has begun.
    pub(super) fn is_recalled(&self) -> bool {
        // Relaxed: as for `is_cancelled`.
        self.is_recalled.load(Ordering::Relaxed)
    }

    /// Whether the job is not wanted any more.
    pub(super) fn is_cancelled(&self) -> bool {
        // Relaxed: it stands alone, and the bell is rung after it is set.
        self.is_cancelled.load(Ordering::Relaxed)
    }
}

impl<R: Send + 'static> Shared<R> {
    /// Sets what came of the job and tells those who wait.
    pub(super) fn finish(&self, result: Result<R, Error>) {
        let mut state = lock(&self.state);
        state.is_done = true;
        let waiting = state.waiting.take();
        match state.listener.take() {
            Some(Listener::Callback(callback)) => {
                drop(state);
                callbacks::run(Box::new(move || callback(result)));
            }
            listener => {
                state.result = Some(result);
                drop(state);
                self.done.notify_all();
                match listener {
                    Some(Listener::Waker(waker)) => callbacks::run(Box::new(move || waker.wake())),
                    // Without a receiver nobody wants to know.
                    Some(Listener::Channel(sender, place)) => drop(sender.send(place)),
                    Some(Listener::Callback(_)) | None => {}
                }
            }
        }
        drop(waiting);
    }
}

impl<R> Job<R> {
    pub(super) fn new(shared: Arc<Shared<R>>, pool: &Arc<Inner>) -> Self {
        Self {
            shared,
            pool: Arc::downgrade(pool),
        }
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// Why there is none, see [`Error::task`]: for [`map_async`](crate::Pool::map_async) the
    /// failure of the first item in order that failed.
    #[doc(alias = "get")]
    pub fn wait(self) -> Result<R, Error> {
        match self.wait_until(Deadline::NEVER) {
            Ok(result) => result,
            Err(_) => Err(Error::forked()),
        }
    }

    /// Waits for the result for at most `timeout`.
    ///
    /// # Errors
    ///
    /// The job itself if it is not done by then; it goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn sleepy() -> u32 {
    ///     std::thread::sleep(Duration::from_millis(100));
    ///     7
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(1)?;
    /// let mut job = pool.submit(sleepy, ())?;
    /// let value = loop {
    ///     match job.wait_timeout(Duration::from_millis(10)) {
    ///         Ok(result) => break result?,
    ///         Err(unfinished) => job = unfinished,
    ///     }
    /// };
    /// assert_eq!(value, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<R, Error>, Self> {
        self.wait_until(Deadline::after(timeout))
    }

    /// Takes the result if it is there.
    ///
    /// # Errors
    ///
    /// The job itself if it is not done; it goes on.
    pub fn try_get(self) -> Result<Result<R, Error>, Self> {
        self.wait_until(Deadline::after(Duration::ZERO))
    }

    fn wait_until(self, deadline: Deadline) -> Result<Result<R, Error>, Self> {
        let done = &self.shared.done;
        let pool = self.pool.upgrade();
        let mut waiting = None;
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(result) = state.result.take() {
                return Ok(result);
            }
            // Who could finish it is not in a copy made by `fork`.
            if deadline.has_passed() || is_forked() {
                drop(state);
                return Err(self);
            }
            // One that only looks whether it is there is not waited for.
            waiting = waiting.or_else(|| pool.as_ref()?.waiting());
            state = match deadline.remaining() {
                Some(left) => match done.wait_timeout(state, left) {
                    Ok((state, _)) => state,
                    Err(poison) => poison.into_inner().0,
                },
                None => done
                    .wait(state)
                    .unwrap_or_else(|poison| poison.into_inner()),
            };
        }
    }

    /// Whether it is done: it has its result, it failed, or it was cancelled.
    #[doc(alias = "ready")]
    pub fn is_done(&self) -> bool {
        lock(&self.shared.state).is_done
    }

    /// Stops the job, and returns at once. What waits for a worker is taken out; a worker that is
    /// at it is killed, and another takes its place. A job that is done by then stays as it is; any
    /// other fails as [cancelled](crate::TaskError::is_cancelled), and its error says whether [it
    /// may have started](crate::TaskError::may_have_started).
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn endless() {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(1)?;
    /// let job = pool.submit(endless, ())?;
    /// job.cancel();
    /// let error = job.wait().unwrap_err();
    /// assert!(error.task().unwrap().is_cancelled());
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel(&self) {
        if is_forked() {
            return;
        }
        self.shared.is_cancelled.store(true, Ordering::Relaxed);
        if let Some(pool) = self.pool.upgrade() {
            pool.ring_driver();
        }
    }

    /// As [`cancel`](Self::cancel), unless a worker has begun with it: then it goes on.
    pub(super) fn recall(&self) {
        self.shared.is_recalled.store(true, Ordering::Relaxed);
        if let Some(pool) = self.pool.upgrade() {
            pool.ring_driver();
        }
    }

    /// Calls `callback` with the result once it is there, on a thread of `mp` that is there for
    /// callbacks. Those of all jobs are called one after the other, so one that takes long holds up
    /// the others. If it panics, that is printed and nothing else happens.
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn square(x: u64) -> u64 {
    ///     x * x
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(1)?;
    /// let (sender, results) = std::sync::mpsc::channel();
    /// pool.submit(square, (3,))?.on_done(move |result| sender.send(result).unwrap());
    /// assert_eq!(results.recv()??, 9);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "add_done_callback")]
    pub fn on_done(self, callback: impl FnOnce(Result<R, Error>) + Send + 'static)
    where
        R: Send + 'static,
    {
        let mut state = lock(&self.shared.state);
        match state.result.take() {
            Some(result) => {
                drop(state);
                callbacks::run(Box::new(move || callback(result)));
            }
            None => {
                let callback = Listener::Callback(Box::new(callback));
                let before = state.listener.replace(callback);
                // A waker is the executor's code.
                drop(state);
                drop(before);
            }
        }
    }

    /// Has `sender` told `place` once the job is done.
    fn tell(&self, sender: &mpsc::Sender<usize>, place: usize) {
        let mut state = lock(&self.shared.state);
        match state.is_done {
            true => drop(sender.send(place)),
            // A waker that was there is of a future that is not polled any more.
            false => {
                let before = state
                    .listener
                    .replace(Listener::Channel(sender.clone(), place));
                drop(state);
                drop(before);
            }
        }
    }
}

impl<R> Future for Job<R> {
    type Output = Result<R, Error>;

    /// # Panics
    ///
    /// Panics if it is polled after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if is_forked() {
            return Poll::Ready(Err(Error::forked()));
        }
        // Outside the lock: it is the executor's code.
        let waker = context.waker().clone();
        let waiting = self.pool.upgrade().and_then(Waiting::begin);
        let mut state = lock(&self.shared.state);
        if let Some(result) = state.result.take() {
            return Poll::Ready(result);
        }
        let is_done = state.is_done;
        let before = state.listener.replace(Listener::Waker(waker));
        let waited = std::mem::replace(&mut state.waiting, waiting.filter(|_| !is_done));
        drop(state);
        drop((before, waited));
        assert!(!is_done, "a job was polled after it was ready");
        Poll::Pending
    }
}

impl<R> Drop for Job<R> {
    /// A future that was polled is not waited for any more.
    fn drop(&mut self) {
        if is_forked() {
            return;
        }
        let mut state = lock(&self.shared.state);
        let waiting = state.waiting.take();
        let waker = state
            .listener
            .take_if(|listener| matches!(listener, Listener::Waker(_)));
        drop(state);
        drop((waiting, waker));
    }
}

impl<R> fmt::Debug for Job<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("is_done", &self.is_done())
            .finish_non_exhaustive()
    }
}

/// Waits for all of `jobs` and returns their results in the order of the jobs.
///
/// # Examples
///
/// ```
/// # use mp::Pool;
/// #[mp::task]
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new(2)?;
/// let jobs = vec![pool.submit(square, (2,))?, pool.submit(square, (3,))?];
/// let squares: Vec<u64> = mp::wait_all(jobs).into_iter().collect::<Result<_, _>>()?;
/// assert_eq!(squares, [4, 9]);
/// # Ok(())
/// # }
/// ```
pub fn wait_all<R>(jobs: impl IntoIterator<Item = Job<R>>) -> Vec<Result<R, Error>> {
    // All of them are there before the first is waited for.
    let jobs: Vec<_> = jobs.into_iter().collect();
    jobs.into_iter().map(Job::wait).collect()
}

/// Returns an iterator of the results of `jobs` as they are done, each with the place of its job in
/// `jobs`.
///
/// # Examples
///
/// ```
/// # use mp::Pool;
/// #[mp::task]
/// fn work(x: u64) -> u64 {
///     x + 1
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new(2)?;
/// let jobs = (0..10).map(|x| pool.submit(work, (x,))).collect::<Result<Vec<_>, _>>()?;
/// for (place, result) in mp::as_completed(jobs) {
///     assert_eq!(result?, place as u64 + 1);
/// }
/// # Ok(())
/// # }
/// ```
pub fn as_completed<R>(jobs: impl IntoIterator<Item = Job<R>>) -> AsCompleted<R> {
    let (sender, done) = mpsc::channel();
    let jobs: Vec<_> = jobs.into_iter().map(Some).collect();
    for (place, job) in jobs.iter().flatten().enumerate() {
        job.tell(&sender, place);
    }
    AsCompleted {
        left: jobs.len(),
        jobs,
        done,
    }
}

/// The results of some jobs as they are done: see [`as_completed`]. Jobs that are left when it is
/// dropped go on.
pub struct AsCompleted<R> {
    jobs: Vec<Option<Job<R>>>,
    left: usize,
    done: mpsc::Receiver<usize>,
}

impl<R> Iterator for AsCompleted<R> {
    type Item = (usize, Result<R, Error>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let place = match is_forked() {
            true => self.jobs.iter().position(Option::is_some)?,
            false => {
                let pool = self
                    .jobs
                    .iter()
                    .flatten()
                    .find_map(|job| job.pool.upgrade());
                let _waiting = pool.as_ref().and_then(|pool| pool.waiting());
                self.done.recv().ok()?
            }
        };
        let job = self.jobs[place].take()?;
        self.left -= 1;
        Some((place, job.wait()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<R> ExactSizeIterator for AsCompleted<R> {}
impl<R> std::iter::FusedIterator for AsCompleted<R> {}

impl<R> fmt::Debug for AsCompleted<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
