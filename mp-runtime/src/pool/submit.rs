//! Calls of a pool that return at once, with a handle of the call.

use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::call::{Call, Order, Patience, State};
use super::driver::{Active, Driver, Pending};
use super::failure;
use super::guest::HandedOver;
use super::handle::{Job, Shared};
use super::inner::Inner;
use super::map::explain;
use super::source::{Argument, Items, Source, Tuple};
use super::terms::Terms;
use crate::deadline::Deadline;
use crate::error::{Error, TaskError};
use crate::spans;
use crate::sync::raw::Holder;
use crate::task::panic;
use crate::task::registry::{self, Entry};
use crate::task::{Arguments, TaskFn, Transfer, assert_task};

impl Pool {
    /// Runs `task` once, in a worker, and returns at once, with a handle of the call.
    ///
    /// Arguments are encoded and the result is decoded on a thread of the pool, so both are
    /// [`Send`]. Any number of calls may be handed over; a thousand are with the workers at once,
    /// in the order in which they came.
    ///
    /// # Errors
    ///
    /// If the function is not a task, the pool is closed or has stopped, or the thread could not be
    /// started. All else is the [job's](Job) failure.
    ///
    /// # Examples
    ///
    /// See [`Job`].
    #[doc(alias = "apply_async")]
    pub fn submit<F, A, R>(&self, task: F, arguments: A) -> Result<Job<R>, Error>
    where
        F: TaskFn<A, Output = R>,
        A: Arguments + Send,
        R: Transfer + Send,
    {
        assert_task!(F);
        let _ = task;
        let source = Items::new::<Tuple>(std::iter::once(arguments));
        let finish = |mut outcomes: Outcomes<R>, _| match outcomes.pop() {
            Some(outcome) => outcome,
            None => unreachable!("a call that is over has an outcome for each item"),
        };
        let task = registry::by_type::<F>()?;
        self.hand_over(task, source, Reach::One, finish)
    }

    /// As [`map`](Self::map), but returns at once, with a handle of the call. The items are pulled
    /// in this call, before it returns.
    ///
    /// # Errors
    ///
    /// As for [`submit`](Self::submit).
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
    /// let squares = pool.map_async(square, 0..4)?;
    /// // … something else …
    /// assert_eq!(squares.wait()?, [0, 1, 4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_async<F, A, R, I>(&self, task: F, items: I) -> Result<Job<Vec<R>>, Error>
    where
        F: TaskFn<(A,), Output = R>,
        I: IntoIterator<Item = A>,
        A: Transfer + Send,
        R: Transfer + Send,
    {
        assert_task!(F);
        let _ = task;
        let source = Items::new::<Argument>(pull(items));
        self.hand_over(registry::by_type::<F>()?, source, Reach::Many, all)
    }

    /// As [`starmap`](Self::starmap), but returns at once, with a handle of the call. The items are
    /// pulled in this call, before it returns.
    ///
    /// # Errors
    ///
    /// As for [`submit`](Self::submit).
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn power(base: u64, exponent: u32) -> u64 {
    ///     base.pow(exponent)
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(2)?;
    /// assert_eq!(pool.starmap_async(power, [(2, 3), (3, 2)])?.wait()?, [8, 9]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn starmap_async<F, A, R, I>(&self, task: F, items: I) -> Result<Job<Vec<R>>, Error>
    where
        F: TaskFn<A, Output = R>,
        I: IntoIterator<Item = A>,
        A: Arguments + Send,
        R: Transfer + Send,
    {
        assert_task!(F);
        let _ = task;
        let source = Items::new::<Tuple>(pull(items));
        self.hand_over(registry::by_type::<F>()?, source, Reach::Many, all)
    }

    /// Hands a call to the driver; `finish` makes its value of the outcomes of all items.
    pub(super) fn hand_over<S, R, V>(
        &self,
        task: &'static Entry,
        source: S,
        reach: Reach,
        finish: Finish<R, V>,
    ) -> Result<Job<V>, Error>
    where
        S: Source + Send + 'static,
        R: Transfer + Send,
        V: Send + 'static,
    {
        // The driver's calls have a bell in common, and need no number of their own.
        let terms = self.terms.of_call(task, &self.inner.settings.terms);
        self.inner.enter_watched(&terms)?;
        let shared = Shared::new();
        let handed = Handed {
            task,
            terms: terms.clone(),
            span: self.inner.begin_span(task),
            source,
            reach,
            finish,
            shared: shared.clone(),
            handed: HandedOver::new(&self.inner),
        };
        if let Err(error) = Driver::hand_over(&self.inner, Box::new(handed)) {
            self.inner.leave_watched(&terms);
            return Err(error);
        }
        Ok(Job::new(shared, &self.inner))
    }
}

/// What came of the items of a call, in their order.
pub(super) type Outcomes<R> = Vec<Result<R, TaskError>>;

/// What a call that is handed over is.
pub(super) enum Reach {
    /// One item.
    One,
    /// Any number of items, each for any worker.
    Many,
    /// The same, where it is known what an item takes.
    Paced(Duration),
    /// An item for each of these workers.
    Each(Vec<Holder>),
}

/// Makes the value of a call of the outcomes of its items and of how long they have run, or tells the
/// failure that is the call's.
type Finish<R, V> = fn(Outcomes<R>, Duration) -> Result<V, TaskError>;

/// All results, or the first failure in order.
fn all<R>(outcomes: Outcomes<R>, _: Duration) -> Result<Vec<R>, TaskError> {
    outcomes.into_iter().collect()
}

/// Pulls all items.
fn pull<A>(items: impl IntoIterator<Item = A>) -> std::vec::IntoIter<A> {
    items.into_iter().collect::<Vec<_>>().into_iter()
}

/// A call on its way to the driver.
struct Handed<S, R, V> {
    task: &'static Entry,
    terms: Terms,
    /// Begun where the call was made, which is not the driver's thread.
    span: spans::Call,
    source: S,
    reach: Reach,
    finish: Finish<R, V>,
    shared: Arc<Shared<V>>,
    handed: Option<HandedOver>,
}

impl<S, R, V> Pending for Handed<S, R, V>
where
    S: Source + Send + 'static,
    R: Transfer + Send,
    V: Send + 'static,
{
    fn jobs(&self, pool: &Inner) -> usize {
        match &self.reach {
            Reach::One => 1,
            Reach::Many | Reach::Paced(_) => pool.window_jobs(),
            Reach::Each(workers) => workers.len(),
        }
    }

    fn begin<'p>(self: Box<Self>, pool: &'p Inner, number: u32) -> Box<dyn Active + 'p> {
        let call = Call::new(pool, self.task, number, Order::Input, self.terms, self.span);
        let call = match self.reach {
            Reach::One => call.single(),
            Reach::Many => call,
            Reach::Paced(each) => call.paced(each),
            Reach::Each(workers) => call.to(workers),
        };
        Box::new(Underway {
            call: Some(call),
            source: self.source,
            outcomes: Vec::new(),
            finish: self.finish,
            shared: self.shared,
            _handed: self.handed,
        })
    }
}

/// A call that the driver drives.
struct Underway<'p, S, R, V> {
    /// Until it is over.
    call: Option<Call<'p, R>>,
    source: S,
    outcomes: Outcomes<R>,
    finish: Finish<R, V>,
    shared: Arc<Shared<V>>,
    /// Of a task's call, until all of it is over.
    _handed: Option<HandedOver>,
}

impl<S, R, V> Active for Underway<'_, S, R, V>
where
    S: Source,
    R: Transfer,
    V: Send + 'static,
{
    fn advance(&mut self) -> State {
        let Some(call) = &mut self.call else {
            return State::Over;
        };
        let outcomes = &mut self.outcomes;
        let sink = &mut |outcome| outcomes.push(outcome);
        // Nothing is put out for a job that is cancelled before it begins.
        let mut is_over = false;
        if self.shared.is_recalled()
            && let Some(error) = call.recall()
        {
            self.call = None;
            self.shared.finish(Err(error.into()));
            return State::Over;
        }
        for _ in 0..2 {
            // Results that come make room, which the second turn fills. What is over after that
            // rings the bell.
            let is_wanted = !self.shared.is_cancelled() || call.has_begun();
            is_over = is_over
                || is_wanted
                    && call.drive(&mut self.source, sink, false, Patience::None) == State::Over;
        }
        if !is_over && !self.shared.is_cancelled() {
            return State::UnderWay;
        }
        let outcomes = std::mem::take(&mut self.outcomes);
        let worked = call.worked();
        let result = match is_over {
            // Results that are not wanted are dropped in there, which is user code.
            true => panic::catch(|| (self.finish)(outcomes, worked))
                .unwrap_or_else(|panic| Err(failure::result_panicked::<V>(panic)))
                .map_err(|error| explain(call, error)),
            false => Err(call.cancel().into()),
        };
        // It is over for the pool before anybody learns of it.
        self.call = None;
        self.shared.finish(result);
        State::Over
    }

    fn due(&self) -> Deadline {
        self.call.as_ref().map_or(Deadline::NEVER, Call::due)
    }
}
