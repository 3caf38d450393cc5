//! Calls of a pool whose results come one by one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Pool;
use super::call::{Call, Order, Patience, State};
use super::job::JOBS;
use super::source::{Argument, Items, Tuple};
use crate::error::{Error, TaskError};
use crate::life::program::is_forked;
use crate::task::{Arguments, TaskFn, Transfer, assert_task};

/// The results of [`Pool::imap`] and [`Pool::imap_unordered`], one by one.
///
/// Each call of `next` waits until a result is there. Items are pulled from the input, on the thread
/// that calls `next`, as results are taken: see [`PoolBuilder::window`](crate::PoolBuilder::window).
/// When it is dropped, items that no worker has begun are not run, also of jobs that workers are at; those
/// that they are at go on, and may ask [`is_cancelled`](crate::is_cancelled). When the input panics,
/// so does `next`; the results of the items before can still be had, and then it is over. An item
/// whose `Serialize` panics fails after that, in its place.
pub struct Imap<'p, I: Iterator, R> {
    call: Call<'p, R>,
    source: Items<I>,
    ready: VecDeque<Result<R, TaskError>>,
    is_over: bool,
    _place: Place<'p>,
}

/// One of the streams that a pool can have at once.
struct Place<'p>(&'p AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Runs `task` on each item and returns an iterator of the outcomes, in the order of the items.
    ///
    /// Items are pulled lazily, a bounded number ahead of the results that were taken, so the input
    /// may be endless. A failed item does not end the iteration.
    ///
    /// # Errors
    ///
    /// If the function is not a task, the pool is closed or has stopped, or too many streams of it
    /// are alive: 2048 divided by twice the workers and one.
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
    /// for (x, squared) in pool.imap(square, 0..)?.enumerate().take(10) {
    ///     assert_eq!(squared?, x as u64 * x as u64);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn imap<F, A, R, I>(&self, task: F, items: I) -> Result<Imap<'_, I::IntoIter, R>, Error>
    where
        F: TaskFn<(A,), Output = R>,
        I: IntoIterator<Item = A>,
        A: Transfer,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        self.stream::<F, R, I::IntoIter>(Items::new::<Argument>(items.into_iter()), Order::Input)
    }

    /// As [`imap`](Self::imap), for a task of several arguments: each item is a tuple of them.
    ///
    /// # Errors
    ///
    /// As for [`imap`](Self::imap).
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
    /// let mut powers = pool.istarmap(power, (0..).map(|exponent| (2, exponent)))?;
    /// assert_eq!(powers.nth(10).unwrap()?, 1024);
    /// # Ok(())
    /// # }
    /// ```
    pub fn istarmap<F, A, R, I>(&self, task: F, items: I) -> Result<Imap<'_, I::IntoIter, R>, Error>
    where
        F: TaskFn<A, Output = R>,
        I: IntoIterator<Item = A>,
        A: Arguments,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        self.stream::<F, R, I::IntoIter>(Items::new::<Tuple>(items.into_iter()), Order::Input)
    }

    /// As [`istarmap`](Self::istarmap), but returns the outcomes as they are ready.
    ///
    /// # Errors
    ///
    /// As for [`imap`](Self::imap).
    pub fn istarmap_unordered<F, A, R, I>(
        &self,
        task: F,
        items: I,
    ) -> Result<Imap<'_, I::IntoIter, R>, Error>
    where
        F: TaskFn<A, Output = R>,
        I: IntoIterator<Item = A>,
        A: Arguments,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        self.stream::<F, R, I::IntoIter>(Items::new::<Tuple>(items.into_iter()), Order::Completion)
    }

    /// As [`imap`](Self::imap), but returns the outcomes as they are ready.
    ///
    /// # Errors
    ///
    /// As for [`imap`](Self::imap).
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
    /// let sum: u64 = pool.imap_unordered(square, 1..=4)?.sum::<Result<u64, _>>()?;
    /// assert_eq!(sum, 30);
    /// # Ok(())
    /// # }
    /// ```
    pub fn imap_unordered<F, A, R, I>(
        &self,
        task: F,
        items: I,
    ) -> Result<Imap<'_, I::IntoIter, R>, Error>
    where
        F: TaskFn<(A,), Output = R>,
        I: IntoIterator<Item = A>,
        A: Transfer,
        R: Transfer,
    {
        assert_task!(F);
        let _ = task;
        self.stream::<F, R, I::IntoIter>(
            Items::new::<Argument>(items.into_iter()),
            Order::Completion,
        )
    }

    fn stream<F, R, I>(&self, source: Items<I>, order: Order) -> Result<Imap<'_, I, R>, Error>
    where
        F: 'static,
        R: Transfer,
        I: Iterator,
    {
        let place = self.stream_place()?;
        Ok(Imap {
            _place: place,
            call: self.call::<F, R>(order)?,
            source,
            ready: VecDeque::new(),
            is_over: false,
        })
    }
}

impl Pool {
    /// Lets a stream in. Its jobs hold entries of the table for as long as nobody takes its results;
    /// half of the table is for calls that somebody waits for.
    fn stream_place(&self) -> Result<Place<'_>, Error> {
        if is_forked() {
            return Err(Error::forked());
        }
        let most = JOBS as usize / 2 / self.inner.window_jobs();
        let streams = &self.inner.streams;
        let place = Place(streams);
        if streams.fetch_add(1, Ordering::Relaxed) >= most.max(1) {
            return Err(Error::limit(format!(
                "this pool has {most} streams already: take the results of some, or drop them"
            )));
        }
        Ok(place)
    }
}

impl<I: Iterator, R: Transfer> Imap<'_, I, R> {
    /// The input.
    #[cfg(feature = "progress")]
    pub(super) fn source(&self) -> &impl super::source::Source {
        &self.source
    }

    /// The next result, once those of another job are there. The results of as few jobs as that takes are
    /// decoded at once: those of others lie well where they are, and a caller that takes its time
    /// has the workers wait for it, not it for them.
    #[inline(never)]
    fn next_of_job(&mut self) -> Option<Result<R, TaskError>> {
        if is_forked() {
            return None;
        }
        while self.ready.is_empty() && !self.is_over {
            let ready = &mut self.ready;
            let sink = &mut |outcome| ready.push_back(outcome);
            let state = self
                .call
                .drive(&mut self.source, sink, true, Patience::Wait);
            self.is_over = state == State::Over;
        }
        self.ready.pop_front()
    }
}

impl<I: Iterator, R: Transfer> Iterator for Imap<'_, I, R> {
    type Item = Result<R, TaskError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.ready.pop_front() {
            None => self.next_of_job(),
            result => result,
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self.is_over {
            true => (self.ready.len(), Some(self.ready.len())),
            false => (self.ready.len(), None),
        }
    }
}

impl<I: Iterator, R: Transfer> std::iter::FusedIterator for Imap<'_, I, R> {}

impl<I: Iterator, R> fmt::Debug for Imap<'_, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap")
            .field("ready", &self.ready.len())
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}
