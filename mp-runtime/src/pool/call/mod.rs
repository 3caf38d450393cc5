//! One call as its caller's thread drives it: pull items, encode them into jobs, collect results.
//!
//! There is no thread in between. The caller encodes straight into a job's block, waits on the
//! call's bell and decodes straight out of the results' block.
//!
//! - [`feed`]: pulls items and puts jobs out; [`loose`]: jobs whose items are together only for speed.
//! - [`harvest`]: takes results; [`again`]: what failed and is run again.

mod again;
mod feed;
mod harvest;
mod loose;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use self::again::Again;
use super::absence::Absence;
use super::chunk::Sizer;
use super::failure;
use super::inner::{Inner, Stop};
use super::job::Outlook;
use super::retries::Retries;
use super::source::Source;
use super::terms::Terms;
use super::wire;
use crate::deadline::Deadline;
use crate::error::TaskError;
use crate::life::program::is_forked;
use crate::loom::Ordering;
use crate::spans;
use crate::sync::raw::Holder;
use crate::task::Transfer;
use crate::task::registry::Entry;

/// In which order results are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// As the items came.
    Input,
    /// As they are ready.
    Completion,
}

/// A call that is under way, with results of type `R`.
#[derive(Debug)]
pub(super) struct Call<'p, R> {
    pool: &'p Inner,
    task: &'static Entry,
    number: u32,
    terms: Terms,
    order: Order,
    /// In the order of input; those in front that are over have been delivered.
    chunks: VecDeque<Chunk<R>>,
    /// Chunks whose job is out.
    running: usize,
    /// Bytes of their items.
    bytes: u64,
    sizer: Sizer,
    /// Items pulled, and results delivered.
    pulled: u64,
    delivered: u64,
    is_exhausted: bool,
    /// Whether items have an index worth telling: not in a call of one.
    is_many: bool,
    /// What merges the results of a job.
    merge: Option<&'static Entry>,
    span: spans::Call,
    /// If it is told when a worker has nothing to do, because it has had jobs that can be cut: what the
    /// desk needs to know of it.
    absence: Option<Arc<Absence>>,
    /// Whether there was no room to cut a job, and no job has been over since.
    is_stuck: bool,
    /// Bytes that an item takes, as far as is known.
    bytes_each: u64,
    /// The workers for which the items are, one for each, in a call that is for all workers.
    targets: Option<Vec<Holder>>,
    /// Time that its items have run, as far as their workers have told.
    worked: Duration,
    /// Until when it is left to workers that are on their way to wake others for its jobs, if it was.
    untold: Option<Deadline>,
    result: PhantomData<fn() -> R>,
}

/// Some items in a row.
#[derive(Debug)]
struct Chunk<R> {
    /// The index of the first.
    start: u64,
    /// The entry of their job, until it is over.
    job: Option<u32>,
    bytes: u64,
    /// Nanoseconds that its items took to pull and encode.
    encoding: u64,
    /// Results that wait for those of the chunks before.
    waiting: Vec<Result<R, TaskError>>,
    /// Items that failed and are run again, one by one, once the others are through.
    again: Vec<Again>,
    /// The one of them that the job is about.
    retried: Option<Again>,
    /// Until when the job rests, which is over: nothing is to be done before.
    rest: Option<Deadline>,
    /// Results that wait for those of earlier items of this chunk that are run again.
    kept: Vec<(u32, Result<R, TaskError>)>,
}

impl<R> Chunk<R> {
    fn new(start: u64, job: Option<u32>, bytes: u64) -> Self {
        Self {
            start,
            job,
            bytes,
            encoding: 0,
            waiting: Vec::new(),
            again: Vec::new(),
            retried: None,
            rest: None,
            kept: Vec::new(),
        }
    }

    /// What is to be looked at once its worker is through.
    fn present(&self) -> Option<u32> {
        self.job.filter(|_| self.rest.is_none())
    }

    /// Whether results of it wait for an item that is run again.
    fn is_keeping(&self) -> bool {
        self.retried.is_some() || !self.again.is_empty() || !self.kept.is_empty()
    }

    /// Lets results go that waited for those of earlier items, all of which are there.
    #[cold]
    fn release_kept(&mut self) {
        self.kept.sort_unstable_by_key(|&(item, _)| item);
        let kept = self.kept.drain(..).map(|(_, result)| result);
        self.waiting.extend(kept);
    }

    /// How often an item was run again, and had been handed to a worker, before the present attempt.
    fn before(&self, item: u32) -> (u32, u32) {
        match &self.retried {
            Some(again) if again.item == item => (again.retries, again.attempts),
            _ => (0, 0),
        }
    }
}

/// Of which jobs results are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Of those whose results can be delivered at once. The others lie well where they are.
    Front,
    /// Of all.
    All,
}

/// What a call is asked to do when nothing is to be had at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Wait until a result is there.
    Wait,
    /// Come back.
    None,
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum State {
    /// Results may follow.
    UnderWay,
    /// All results were delivered.
    Over,
}

impl<'p, R: Transfer> Call<'p, R> {
    /// Begins a call of `task`, which the pool has let in as `number`. Its limit is watched over.
    pub(super) fn new(
        pool: &'p Inner,
        task: &'static Entry,
        number: u32,
        order: Order,
        terms: Terms,
        span: spans::Call,
    ) -> Self {
        let settings = &pool.settings;
        let workers = pool.workers() as u64;
        // No job is larger than a worker's share of the window, or than its life is long.
        let share = settings
            .window
            .map_or(u64::MAX, |window| window / (2 * workers));
        let most = share.min(settings.max_tasks.unwrap_or(u64::MAX));
        let sizer = Sizer::new(settings.chunk_size, most, workers);
        Self {
            pool,
            task,
            number,
            terms,
            order,
            chunks: VecDeque::new(),
            running: 0,
            bytes: 0,
            sizer: match pool.carrier() {
                Some(_) => sizer.remote(),
                None => sizer,
            },
            pulled: 0,
            delivered: 0,
            is_exhausted: false,
            is_many: true,
            merge: None,
            span,
            absence: None,
            is_stuck: false,
            bytes_each: 32,
            targets: None,
            worked: Duration::ZERO,
            untold: None,
            result: PhantomData,
        }
    }

    /// A call of one item, whose error names no index.
    pub(super) fn single(mut self) -> Self {
        self.is_many = false;
        self
    }

    /// A call of items of which it is known what each takes.
    pub(super) fn paced(mut self, each: Duration) -> Self {
        self.sizer = self.sizer.seeded(each);
        self
    }

    /// A call of one item for each of these workers alone.
    pub(super) fn to(mut self, workers: Vec<Holder>) -> Self {
        self.sizer = Sizer::new(Some(1), 1, 1);
        // There is no other that could.
        self.terms.set_retries(Retries::NONE);
        self.targets = Some(workers);
        self
    }

    /// A call of which a result stands for as many items in a row as workers could merge with
    /// `merge`.
    pub(super) fn merging(mut self, merge: &'static Entry) -> Self {
        self.merge = Some(merge);
        self
    }

    /// What is to be run, as a job's items say it, the first of which is the one of that number.
    #[inline]
    fn name(&self, first: u64) -> Cow<'_, str> {
        let merge = self.merge.map(|merge| (merge.name)());
        let span = self.span.header(self.is_many.then_some(first));
        wire::name((self.task.name)(), merge, span.as_deref())
    }

    /// The worker for which alone an item is.
    #[inline]
    fn target(&self, item: u64) -> Option<Holder> {
        self.targets.as_ref()?.get(item as usize).copied()
    }

    /// Why the pool runs no more jobs, if that is so.
    #[inline]
    pub(super) fn stop(&self) -> Option<&'p Stop> {
        self.pool.stop()
    }

    /// What is to be said of the item `index`, which a pool that has stopped will not run.
    pub(super) fn stopped(&self, stop: &Stop, index: u64) -> TaskError {
        self.complete(failure::stopped(stop, false), index)
    }

    /// How long its items have run, all together.
    pub(super) fn worked(&self) -> Duration {
        self.worked
    }

    /// Whether an item of it is out or has been.
    pub(super) fn has_begun(&self) -> bool {
        self.pulled > 0
    }

    /// Takes back what is out, kills the workers that are at it, and returns the error for that.
    pub(super) fn cancel(&mut self) -> TaskError {
        self.adopt();
        let mut may_have_begun = self.delivered > 0;
        for chunk in self.chunks.drain(..) {
            may_have_begun |= match chunk.job {
                Some(index) => self.pool.kill_job(index),
                None => !chunk.waiting.is_empty(),
            };
        }
        self.running = 0;
        self.is_exhausted = true;
        let error = failure::cancelled(may_have_begun).with_task((self.task.name)());
        self.pool.note_failure(&error);
        error
    }

    /// Takes all of it back if no worker has begun with it, and returns the error for that.
    pub(super) fn recall(&mut self) -> Option<TaskError> {
        self.adopt();
        if self.delivered > 0 || self.chunks.len() > 1 {
            return None;
        }
        if let Some(chunk) = self.chunks.front() {
            let is_fresh = chunk.retried.is_none() && chunk.again.is_empty();
            let index = chunk.job.filter(|_| is_fresh)?;
            if !self.pool.recall_job(index) {
                return None;
            }
            self.chunks.clear();
            self.running = 0;
        }
        self.is_exhausted = true;
        Some(failure::cancelled(false).with_task((self.task.name)()))
    }

    /// Goes on until there are results, and hands them to `sink`, which by now has let go of all that it
    /// had before. If it `is_bounded`, no more items are pulled than keep the workers busy until then.
    pub(super) fn drive(
        &mut self,
        source: &mut impl Source,
        sink: &mut impl FnMut(Result<R, TaskError>),
        is_bounded: bool,
        patience: Patience,
    ) -> State {
        let before = self.delivered;
        let mut waiting = None;
        loop {
            // Before anything else, also after an input that has panicked.
            self.adopt();
            if self.untold.is_some_and(Deadline::has_passed) {
                self.tell();
            }
            if let Some(stop) = self.pool.stop() {
                self.give_up(stop, source, sink);
                return State::Over;
            }
            let is_blocked = self.feed(source, is_bounded, sink);
            self.adopt();
            let harvested = self.harvest(Reach::Front, is_bounded, sink)
                || self.harvest(Reach::All, is_bounded, sink)
                || self.share_out();
            if self.chunks.is_empty() && self.is_exhausted {
                return State::Over;
            }
            if self.delivered > before || patience == Patience::None {
                if is_bounded && self.untold.is_some() {
                    // The reader may not be back for a long time.
                    self.tell();
                }
                return State::UnderWay;
            }
            if !harvested && (is_blocked || !self.has_room(is_bounded)) {
                waiting = waiting.or_else(|| self.pool.waiting());
                self.wait();
            }
        }
    }

    /// Adds to an error which task and item it is about.
    #[cold]
    fn complete(&self, error: TaskError, index: u64) -> TaskError {
        let error = error.with_task((self.task.name)());
        let error = match self.is_many {
            true => error.with_index(index),
            false => error,
        };
        self.pool.note_failure(&error);
        error
    }

    // Ending early.

    /// Delivers what there is, and the pool's end for all items that are out and for the next one.
    #[cold]
    fn give_up(
        &mut self,
        stop: &Stop,
        source: &mut impl Source,
        sink: &mut impl FnMut(Result<R, TaskError>),
    ) {
        self.harvest_done(sink);
        while let Some(mut chunk) = self.chunks.pop_front() {
            for result in chunk.waiting.drain(..) {
                self.delivered += 1;
                sink(result);
            }
            let Some(index) = chunk.job else { continue };
            let job = self.pool.memory.job(index);
            let count = job.count();
            let first = job.first.load(Ordering::Relaxed);
            let claimed = job.progress().claimed;
            let due = if chunk.rest.is_none() {
                first..count
            } else {
                0..0
            };
            let had_begun = chunk.retried.is_some();
            let due = due.map(|item| (item, had_begun || item < claimed));
            let again = chunk.again.iter().map(|again| (again.item, true));
            for (item, may_have_begun) in due.chain(again) {
                let error = failure::stopped(stop, may_have_begun);
                let error = self.complete(error, chunk.start + u64::from(item));
                chunk.kept.push((item, Err(error)));
            }
            chunk.kept.sort_unstable_by_key(|&(item, _)| item);
            for (_, result) in chunk.kept.drain(..) {
                self.delivered += 1;
                sink(result);
            }
            self.running -= 1;
            self.bytes -= chunk.bytes;
            self.pool.abandon_job(index);
        }
        if !self.is_exhausted && source.load() {
            source.pass();
            let error = self.complete(failure::stopped(stop, false), self.pulled);
            self.pulled += 1;
            self.delivered += 1;
            sink(Err(error));
        }
        self.is_exhausted = true;
    }

    /// Takes the results of jobs that were done before the pool stopped.
    fn harvest_done(&mut self, sink: &mut impl FnMut(Result<R, TaskError>)) {
        let mut at = 0;
        while at < self.chunks.len() {
            if let Some(index) = self.chunks[at].present()
                && let Outlook::Done(worker) = self.pool.memory.job(index).outlook()
            {
                self.take(at, worker, true, sink);
            }
            at += 1;
        }
    }
}

impl<R> Call<'_, R> {
    /// Takes over what the desk has cut off jobs while we were in the input.
    #[inline]
    fn adopt(&mut self) {
        if self.absence.is_some() {
            self.adopt_cut_off();
        }
    }

    #[inline(never)]
    fn adopt_cut_off(&mut self) {
        let Some(absence) = &self.absence else { return };
        for cut_off in absence.take() {
            let is_victim = |chunk: &Chunk<R>| chunk.job == Some(cut_off.victim);
            match self.chunks.iter().position(is_victim) {
                Some(at) => self.place(at, &cut_off),
                None => unreachable!("a job is not let go of before what was cut off it is known"),
            }
        }
    }
}

impl<R> Drop for Call<'_, R> {
    /// Takes back what is out: when an iterator or a `Deserialize` panics, and when results are not
    /// wanted to the end.
    fn drop(&mut self) {
        if is_forked() {
            return;
        }
        self.adopt();
        for chunk in self.chunks.drain(..) {
            if let Some(index) = chunk.job {
                self.pool.abandon_job(index);
            }
        }
        if let Some(absence) = self.absence.take() {
            self.pool.end_absences(&absence);
            self.pool.memory.end_sharing(self.number);
        }
        self.pool.leave_watched(&self.terms);
    }
}
