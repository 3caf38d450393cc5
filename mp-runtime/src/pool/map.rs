//! Calls of a pool that wait for their results.

use super::Pool;
use super::call::{Call, Order, Patience, State};
use super::inner::Stop;
use super::source::{Argument, Borrowed, Items, Source, Tuple};
use crate::error::{Error, TaskError};
use crate::shm::buffer::Tail;
use crate::task::{Arguments, TaskFn, Transfer, append_arguments, assert_task, registry};

impl Pool {
    /// Runs `task` on each item and returns the results in the order of the items.
    ///
    /// Items are pulled as workers get free, not all at once. All of them are run, also after a
    /// failure.
    ///
    /// # Errors
    ///
    /// The failure of the first item in order that failed, see [`Error::task`]. Besides, if the
    /// function is not a task, or the pool is closed or has stopped.
    ///
    /// # Panics
    ///
    /// If the iterator panics, so does the call; what the workers were at is not waited for.
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn half(x: u32) -> u32 {
    ///     assert!(x % 2 == 0, "{x} is odd");
    ///     x / 2
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(2)?;
    /// assert_eq!(pool.map(half, [2, 4, 6])?, [1, 2, 3]);
    ///
    /// let error = pool.map(half, [2, 3, 4]).unwrap_err();
    /// let failure = error.task().unwrap();
    /// assert_eq!(failure.index(), Some(1));
    /// assert_eq!(failure.message(), Some("3 is odd"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn map<F, A, R, I>(&self, task: F, items: I) -> Result<Vec<R>, Error>
    where
        F: TaskFn<(A,), Output = R>,
        I: IntoIterator<Item = A>,
        A: Transfer,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        self.collect::<F, R>(Items::new::<Argument>(items.into_iter()))
    }

    /// As [`map`](Self::map), but returns the outcome of every item.
    ///
    /// # Errors
    ///
    /// If the function is not a task, or the pool is closed or has stopped before the call.
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn fragile(x: u32) -> u32 {
    ///     if x == 2 {
    ///         std::process::abort();
    ///     }
    ///     x
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(2)?;
    /// let outcomes = pool.try_map(fragile, [1, 2, 3])?;
    /// assert_eq!(outcomes[0].as_ref().unwrap(), &1);
    /// assert!(outcomes[1].as_ref().unwrap_err().is_crash());
    /// assert_eq!(outcomes[2].as_ref().unwrap(), &3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_map<F, A, R, I>(&self, task: F, items: I) -> Result<Vec<Result<R, TaskError>>, Error>
    where
        F: TaskFn<(A,), Output = R>,
        I: IntoIterator<Item = A>,
        A: Transfer,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        let mut source = Items::new::<Argument>(items.into_iter());
        Ok(outcomes(&mut self.call::<F, R>(Order::Input)?, &mut source))
    }

    /// As [`map`](Self::map), but encodes the items from references, so that they need not be
    /// cloned.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn count(text: String) -> usize {
    ///     text.split_whitespace().count()
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(2)?;
    /// let texts = vec!["to be or".to_owned(), "not to be".to_owned()];
    /// assert_eq!(pool.map_ref(count, &texts)?, [3, 3]);
    /// assert_eq!(texts.len(), 2); // They are still ours.
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_ref<'a, F, A, R, I>(&self, task: F, items: I) -> Result<Vec<R>, Error>
    where
        F: TaskFn<(A,), Output = R>,
        I: IntoIterator<Item = &'a A>,
        A: Transfer,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        self.collect::<F, R>(Items::new::<Borrowed<Argument>>(items.into_iter()))
    }

    /// As [`map`](Self::map), for a task of several arguments: each item is a tuple of them.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
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
    /// assert_eq!(pool.starmap(power, [(2, 3), (3, 2)])?, [8, 9]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn starmap<F, A, R, I>(&self, task: F, items: I) -> Result<Vec<R>, Error>
    where
        F: TaskFn<A, Output = R>,
        I: IntoIterator<Item = A>,
        A: Arguments,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        self.collect::<F, R>(Items::new::<Tuple>(items.into_iter()))
    }

    /// Runs `task` once, in a worker, and returns its result.
    ///
    /// # Errors
    ///
    /// The task's failure, see [`Error::task`]. Besides, if the function is not a task, or the pool
    /// is closed or has stopped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn greet(greeting: String, name: String) -> String {
    ///     format!("{greeting}, {name}")
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(1)?;
    /// assert_eq!(pool.apply(greet, ("Hello".into(), "world".into()))?, "Hello, world");
    /// # Ok(())
    /// # }
    /// ```
    pub fn apply<F, A, R>(&self, task: F, arguments: A) -> Result<R, Error>
    where
        F: TaskFn<A, Output = R>,
        A: Arguments,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        let mut source = Items::new::<Tuple>(std::iter::once(arguments));
        let mut call = self.call::<F, R>(Order::Input)?.single();
        let mut outcome = None;
        run(&mut call, &mut source, &mut |result| outcome = Some(result));
        match outcome {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(explain(&call, error)),
            None => unreachable!("a call that is over has an outcome for each item"),
        }
    }

    /// Runs `task` on each item, for what it does.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::{Pool, Value};
    /// #[mp::task]
    /// fn add((sum, x): (Value<u64>, u64)) {
    ///     sum.fetch_add(x);
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(2)?;
    /// let sum = Value::new(0)?;
    /// pool.for_each(add, (1..=4).map(|x| (sum.clone(), x)))?;
    /// assert_eq!(sum.load(), 10);
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_each<F, A, I>(&self, task: F, items: I) -> Result<(), Error>
    where
        F: TaskFn<(A,), Output = ()>,
        I: IntoIterator<Item = A>,
        A: Transfer,
    {
        assert_task!(F);
        let _ = task;
        // Nothing is kept of a result that is nothing.
        self.collect::<F, ()>(Items::new::<Argument>(items.into_iter()))
            .map(drop)
    }

    /// Runs `task` once on each worker that there is, with the same arguments, and returns every
    /// outcome, in the order in which the workers were started. Each runs it after the job that it is
    /// at.
    ///
    /// For what is a worker's own: a cache to be cleared, a setting to be changed, a figure to be
    /// collected. Workers that are started later know nothing of it; see
    /// [`initializer`](crate::PoolBuilder::initializer).
    ///
    /// # Errors
    ///
    /// If the function is not a task, or the pool is closed or has stopped before the call.
    ///
    /// # When a process dies
    ///
    /// What was for a worker that has ended fails with the cause. It is not run on another, whatever
    /// the [`retries`](crate::PoolBuilder::retries).
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn pid() -> u32 {
    ///     std::process::id()
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(2)?;
    /// let pids: Vec<u32> = pool.broadcast(pid, ())?.into_iter().collect::<Result<_, _>>()?;
    /// assert_eq!(pids.len(), 2);
    /// assert_ne!(pids[0], pids[1]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn broadcast<F, A, R>(
        &self,
        task: F,
        arguments: A,
    ) -> Result<Vec<Result<R, TaskError>>, Error>
    where
        F: TaskFn<A, Output = R>,
        A: Arguments,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        self.check_outside("broadcast to")?;
        if let Some(carrier) = self.inner.carrier() {
            let task = registry::by_type::<F>()?;
            let encode = |out: &mut Tail<'_>| append_arguments(&arguments, out);
            return self.broadcast_remotely(carrier, task, encode);
        }
        let call = self.call::<F, R>(Order::Input)?;
        let workers = self.inner.staying();
        let each = std::iter::repeat_n(&arguments, workers.len());
        let mut source = Items::new::<Borrowed<Tuple>>(each);
        Ok(outcomes(&mut call.to(workers), &mut source))
    }

    /// Begins a call of the task that `F` is.
    pub(super) fn call<F: 'static, R: Transfer>(&self, order: Order) -> Result<Call<'_, R>, Error> {
        let task = registry::by_type::<F>()?;
        let terms = self.terms.of_call(task, &self.inner.settings.terms);
        let number = self.inner.enter_watched(&terms)?;
        let span = self.inner.begin_span(task);
        Ok(Call::new(&self.inner, task, number, order, terms, span))
    }

    /// Runs a call to its end: all results, or the first failure.
    pub(super) fn collect<F: 'static, R: Transfer>(
        &self,
        mut source: impl Source,
    ) -> Result<Vec<R>, Error> {
        results(&mut self.call::<F, R>(Order::Input)?, &mut source)
    }
}

/// Runs a call to its end.
fn run<R: Transfer>(
    call: &mut Call<'_, R>,
    source: &mut impl Source,
    sink: &mut impl FnMut(Result<R, TaskError>),
) {
    while call.drive(source, sink, false, Patience::Wait) == State::UnderWay {}
}

/// Runs a call to its end: all results, or the first failure.
pub(super) fn results<R: Transfer>(
    call: &mut Call<'_, R>,
    source: &mut impl Source,
) -> Result<Vec<R>, Error> {
    let mut results = Vec::with_capacity(capacity(source));
    let mut failure = None;
    run(call, source, &mut |outcome| match outcome {
        Ok(value) => results.push(value),
        Err(error) => {
            failure.get_or_insert(error);
        }
    });
    match failure {
        None => Ok(results),
        Some(error) => Err(explain(call, error)),
    }
}

/// Runs a call to its end and returns every outcome, in the order of the items.
pub(super) fn outcomes<R: Transfer>(
    call: &mut Call<'_, R>,
    source: &mut impl Source,
) -> Vec<Result<R, TaskError>> {
    let mut outcomes = Vec::with_capacity(capacity(source));
    run(call, source, &mut |outcome| outcomes.push(outcome));
    // A pool that stopped has told of one item more; the rest was not pulled.
    while let Some(stop) = call.stop()
        && source.load()
    {
        source.pass();
        outcomes.push(Err(call.stopped(stop, outcomes.len() as u64)));
    }
    outcomes
}

/// How many results to make room for; an iterator may promise too much.
fn capacity(source: &impl Source) -> usize {
    source.left().map_or(0, |left| left.min(1 << 20) as usize)
}

/// The error of a call of which an item failed: why the pool stopped, if that is why.
pub(super) fn explain<R: Transfer>(call: &Call<'_, R>, error: TaskError) -> Error {
    match call.stop() {
        Some(Stop::Broken(why)) if error.is_lost() => why.clone(),
        _ => error.into(),
    }
}
