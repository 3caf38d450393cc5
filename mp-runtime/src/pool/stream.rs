//! Calls of a pool whose results come one by one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Pool;
use super::call::{Call, Items, Order, Patience, State};
use super::job::JOBS;
use super::map::encode_item;
use crate::error::{Error, TaskError};
use crate::life::program::is_forked;
use crate::shm::buffer::Buffer;
use crate::task::{Arguments, TaskFn, Transfer, assert_task, encode_arguments};
use crate::wire::codec::EncodeError;

/// Results that are there are handed out so many at a time between two looks whether a job is over: a
/// caller that takes its time must not let the workers run dry.
const LOOK_EVERY: u32 = 32;
/// After so many looks in vain the jobs themselves are looked at, whose words the workers write: of
/// one whose worker died nothing else tells.
const MOST_LOOKS: u32 = 32;

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
    source: Items<I, Encode<I::Item>>,
    ready: VecDeque<Result<R, TaskError>>,
    is_over: bool,
    /// Results handed out since the last look, and looks since the jobs themselves were looked at.
    taken: u32,
    looks: u32,
    /// How many jobs of the pool were over when something was last found.
    finished: u64,
    _place: Place<'p>,
}

/// One of the streams that a pool can have at once.
struct Place<'p>(&'p AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Encode<A> = fn(&A, &mut Buffer) -> Result<(), EncodeError>;

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
        let encode = encode_item as Encode<A>;
        self.stream::<F, A, R, I::IntoIter>(items.into_iter(), encode, Order::Input)
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
        let encode = encode_arguments as Encode<A>;
        self.stream::<F, A, R, I::IntoIter>(items.into_iter(), encode, Order::Input)
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
        let encode = encode_arguments as Encode<A>;
        self.stream::<F, A, R, I::IntoIter>(items.into_iter(), encode, Order::Completion)
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
        let encode = encode_item as Encode<A>;
        self.stream::<F, A, R, I::IntoIter>(items.into_iter(), encode, Order::Completion)
    }

    fn stream<F, A, R, I>(
        &self,
        items: I,
        encode: Encode<A>,
        order: Order,
    ) -> Result<Imap<'_, I, R>, Error>
    where
        F: 'static,
        R: Transfer,
        I: Iterator<Item = A>,
    {
        let place = self.stream_place()?;
        Ok(Imap {
            _place: place,
            call: self.call::<F, R>(order)?,
            source: Items::new(items, encode),
            ready: VecDeque::new(),
            is_over: false,
            taken: 0,
            looks: 0,
            finished: 0,
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
    pub(super) fn source(&self) -> &impl super::call::Source {
        &self.source
    }

    fn drive(&mut self, patience: Patience) {
        let ready = &mut self.ready;
        let held = ready.len() as u64;
        let finished = self.call.finished();
        let sink = &mut |outcome| ready.push_back(outcome);
        let state = self
            .call
            .drive(&mut self.source, sink, held, true, patience);
        self.is_over = state == State::Over;
        self.taken = 0;
        self.looks = 0;
        if self.ready.len() as u64 > held {
            // What is counted and not there yet is found the next time.
            self.finished = finished;
        }
    }

    /// The next result, after a look whether jobs are over.
    fn next_after_look(&mut self) -> Option<Result<R, TaskError>> {
        if is_forked() {
            return None;
        }
        self.taken = 0;
        self.looks += 1;
        let is_promising = self.looks > MOST_LOOKS || self.call.finished() != self.finished;
        if is_promising && !self.is_over {
            self.drive(Patience::None);
        }
        while self.ready.is_empty() && !self.is_over {
            self.drive(Patience::Wait);
        }
        self.ready.pop_front()
    }
}

impl<I: Iterator, R: Transfer> Iterator for Imap<'_, I, R> {
    type Item = Result<R, TaskError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.taken < LOOK_EVERY
            && let Some(result) = self.ready.pop_front()
        {
            self.taken += 1;
            return Some(result);
        }
        self.next_after_look()
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
