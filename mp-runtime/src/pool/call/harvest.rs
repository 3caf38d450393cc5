//! Taking results: waits for jobs, and decodes what they came to from where it lies.

use std::ops::Range;
use std::time::Duration;

use super::{Call, Chunk, Order, Reach};
use crate::carried::Carried;
use crate::deadline::Deadline;
use crate::error::TaskError;
use crate::fault::fault;
use crate::life::Program;
use crate::loom::Ordering;
use crate::pool::failure;
use crate::pool::job::{Early, Outlook, Progress};
use crate::pool::stats::Tally;
use crate::pool::wire;
use crate::sync::raw::Holder;
use crate::sys;
use crate::task::Transfer;
use crate::task::call::{Tag, decode_result, read_record, read_short_value};
use crate::task::panic;
use crate::trace::{Lane, Span};
use crate::wire::transfer;

/// Workers that may die between claiming a job and beginning its next item before that item is
/// given up.
const MOST_ATTEMPTS: u8 = 4;

/// Results that are handed out one by one, if they are there, before more are taken.
const ENOUGH: u64 = 1024;

/// How long a caller sleeps while a worker is about to begin a job that could be taken apart.
const NEAR: Duration = Duration::from_micros(200);

impl<'p, R: Transfer> Call<'p, R> {
    /// Waits until a job is over or the pool stops.
    pub(super) fn wait(&self) {
        let memory = &self.pool.memory;
        let is_over = |chunk: &Chunk<R>| {
            chunk
                .present()
                .is_some_and(|index| memory.job(index).outlook() != Outlook::Waiting)
        };
        let is_any_over = || self.chunks.iter().any(is_over);
        // Many items keep the workers busy, which need the CPUs and the jobs' cache lines.
        let worker = &memory.header().worker;
        if !self.is_many && self.pool.lookout.look(worker.is_elsewhere(), is_any_over) {
            return;
        }
        let bell = memory.done_bell(self.number);
        let ticket = bell.listen();
        if self.pool.stop().is_none() && !is_any_over() && self.shareable().is_none() {
            bell.wait(memory.peers(), ticket, self.due());
        }
    }

    /// When there is something to do whatever becomes of the jobs.
    pub(in crate::pool) fn due(&self) -> Deadline {
        let rests = self.chunks.iter().filter_map(|chunk| chunk.rest);
        let due = rests
            .chain(self.untold)
            .fold(Deadline::NEVER, Deadline::earlier);
        match self.is_share_near() {
            true => due.earlier(Deadline::after(NEAR)),
            false => due,
        }
    }

    /// Takes the results of jobs that are over; false if there were none. If results go to one who
    /// takes them one by one, those of a large job are enough: the next job's can wait where they are.
    pub(super) fn harvest(
        &mut self,
        reach: Reach,
        is_bounded: bool,
        sink: &mut impl FnMut(Result<R, TaskError>),
    ) -> bool {
        let before = self.delivered;
        let mut any = false;
        let mut at = 0;
        while at < self.chunks.len() {
            if reach == Reach::Front && self.order == Order::Input && at > 0 {
                break;
            }
            if is_bounded && self.delivered - before >= ENOUGH {
                break;
            }
            if self.chunks[at].rest.is_some_and(Deadline::has_passed) {
                self.run_again(at);
            }
            let outlook = match self.chunks[at].present() {
                Some(index) => self.pool.memory.job(index).outlook(),
                None => Outlook::Waiting,
            };
            match outlook {
                Outlook::Waiting => {}
                Outlook::Done(worker) => {
                    any = true;
                    self.take(at, worker, true, sink);
                }
                Outlook::Dead(worker) => {
                    any = true;
                    self.take(at, worker, false, sink);
                }
            }
            if self.order == Order::Completion && self.chunks[at].job.is_none() {
                // It was delivered; another has its place now.
                self.chunks.swap_remove_back(at);
                continue;
            }
            let before = self.chunks.len();
            self.deliver_front(sink);
            // What was delivered in front has moved the others up.
            at = (at + 1).saturating_sub(before - self.chunks.len());
        }
        any
    }

    /// Delivers what the first chunks hold, and drops those that are over.
    pub(super) fn deliver_front(&mut self, sink: &mut impl FnMut(Result<R, TaskError>)) {
        while let Some(front) = self.chunks.front_mut() {
            for result in front.waiting.drain(..) {
                self.delivered += 1;
                sink(result);
            }
            if front.job.is_some() {
                break;
            }
            self.chunks.pop_front();
        }
    }

    /// Takes the results of the job of the chunk `at`, which is over.
    pub(super) fn take(
        &mut self,
        at: usize,
        worker: Option<Holder>,
        is_done: bool,
        sink: &mut impl FnMut(Result<R, TaskError>),
    ) {
        let Some(index) = self.chunks[at].job else {
            return;
        };
        fault!("pool.harvesting");
        self.is_stuck = false;
        let pool = self.pool;
        pool.memory.expect_end(index);
        let job = pool.memory.job(index);
        let first = job.first.load(Ordering::Relaxed);
        let count = job.count();
        let Progress { claimed, done } = job.progress();
        let done = done.clamp(first, count);
        // Acquire: pairs with the Release in the worker's `merge`.
        let merged = job.merged.load(Ordering::Acquire);
        let tally = if is_done && merged != 0 {
            let bytes = pool.memory.bytes(merged, usize::MAX);
            let mut tally = self.read_results(at, bytes, first..first + 1, worker, sink);
            // It stands for all of them.
            let others = u64::from(done - first) - 1;
            self.delivered += others;
            tally.done += others;
            tally
        } else {
            let bytes = pool.results_of(index);
            self.read_results(at, bytes, first..done, worker, sink)
        };
        self.count(at, index, tally, claimed > first, is_done);
        if is_done {
            let elapsed = Duration::from_nanos(job.elapsed.load(Ordering::Relaxed));
            if self.is_many {
                self.sizer.learn(u64::from(done - first), elapsed);
            }
            self.worked += elapsed;
        } else if claimed > first {
            // A worker that died did not say; it was found at once.
            let began = job.began.load(Ordering::Relaxed);
            self.worked += Duration::from_nanos(sys::clock::now().saturating_sub(began));
        }
        if let Some(worker) = worker
            && pool.is_traced()
        {
            let first = self.chunks[at].start + u64::from(first);
            let last = self.chunks[at].start + u64::from(claimed.max(done));
            self.note(index, first..last, worker, is_done);
        }
        // What is left, if anything, goes back, but for the item that the worker was at.
        let attempt = if done > first { 1 } else { job.attempt() + 1 };
        let (failed, attempt) = match (is_done, job.early()) {
            (true, Early::No | Early::Retired) => (None, 0),
            (true, Early::OutOfMemory) => (Some(failure::no_room_for_result()), 0),
            (true, Early::NoRoom) => (Some(failure::no_room_for_argument()), 0),
            (true, Early::Unreadable) => (Some(failure::lost("the worker could not read it")), 0),
            (false, early) => match claimed > done || early == Early::OutOfMemory {
                true => (Some(self.crash(index)), 0),
                false if self.targets.is_some() => {
                    let error = self.crash(index).with_may_have_started(false);
                    (Some(error.with_attempts(0)), 0)
                }
                false if attempt >= MOST_ATTEMPTS && done < count => {
                    let error = self.crash(index).with_may_have_started(false);
                    (Some(error.with_attempts(u32::from(MOST_ATTEMPTS))), 0)
                }
                false => (None, attempt),
            },
        };
        let mut next = done;
        if let Some(error) = failed.filter(|_| done < count) {
            let place = self.chunks[at].start + u64::from(done);
            let worker = worker.or_else(|| self.target(place));
            let error = match worker.and_then(|worker| pool.who(worker)) {
                Some((name, pid)) => error.with_process(name, pid),
                None => error,
            };
            let error = self.complete(error, place);
            if let Some(error) = self.retry(at, done, error) {
                self.put(at, done, Err(error), sink);
            }
            next += 1;
        }
        if let Some(stop) = pool.stop() {
            // Nobody will run what is left.
            let had_begun = self.chunks[at].retried.is_some();
            for item in next..count {
                let error = failure::stopped(stop, had_begun || item < claimed);
                let error = self.complete(error, self.chunks[at].start + u64::from(item));
                self.put(at, item, Err(error), sink);
            }
            next = count;
        }
        if next < count {
            fault!("pool.requeueing");
            pool.clear_result(index);
            job.offered.store(sys::clock::now(), Ordering::Relaxed);
            self.offer(index, next, attempt);
            return;
        }
        self.chunks[at].retried = None;
        if !self.chunks[at].again.is_empty() {
            pool.clear_result(index);
            self.run_again(at);
            return;
        }
        let chunk = &mut self.chunks[at];
        if !chunk.kept.is_empty() {
            chunk.release_kept();
        }
        chunk.job = None;
        self.running -= 1;
        self.bytes -= chunk.bytes;
        fault!("pool.harvested");
        if job.is_loose()
            && let Some(absence) = &self.absence
        {
            absence.remove(index);
        }
        pool.release_job(index);
    }

    /// Adds a job that is over to the timeline.
    #[cold]
    fn note(&self, index: u32, items: Range<u64>, worker: Holder, is_done: bool) {
        let job = self.pool.memory.job(index);
        let began = job.began.load(Ordering::Relaxed);
        // A worker that died did not say when; it was found at once.
        let ended = match is_done {
            true => began + job.elapsed.load(Ordering::Relaxed),
            false => sys::clock::now(),
        };
        if items.is_empty() {
            return;
        }
        let (name, pid) = self.pool.who(worker).unwrap_or_default();
        let span = Span {
            task: (self.task.name)().to_owned(),
            began,
            ended,
            items,
            is_done,
            caller: self.pool.as_caller(job.offered.load(Ordering::Relaxed)),
        };
        self.pool.add_to_timeline(Lane { name, pid }, span);
    }

    /// Decodes the results of some items, as far as they are there, from where they lie.
    fn read_results(
        &mut self,
        at: usize,
        bytes: Option<&[u8]>,
        items: Range<u32>,
        worker: Option<Holder>,
        sink: &mut impl FnMut(Result<R, TaskError>),
    ) -> Tally {
        let pool = self.pool;
        let program = pool.program;
        let mut records = bytes
            .and_then(|bytes| bytes.get(wire::RECORDS..))
            .unwrap_or(&[]);
        let is_direct = at == 0 || self.order == Order::Completion;
        let mut is_keeping = self.order == Order::Input && self.chunks[at].is_keeping();
        if !is_direct {
            self.chunks[at].waiting.reserve(items.len());
        }
        let start = self.chunks[at].start;
        let (wanted, received, mut failed) = (items.len() as u64, records.len(), 0);
        let mut items = items;
        let read = || {
            loop {
                let mut failure = None;
                if !is_keeping {
                    let read;
                    (read, failure) = match is_direct {
                        true => read_values(&mut records, items.len(), sink),
                        false => {
                            let waiting = &mut self.chunks[at].waiting;
                            let mut wait = |result| waiting.push(result);
                            read_values(&mut records, items.len(), &mut wait)
                        }
                    };
                    items.start += read;
                    if is_direct {
                        self.delivered += u64::from(read);
                    }
                }
                let Some(item) = items.next() else { break };
                let result = match failure {
                    Some(error) => Err(error),
                    None => read_result(program, &mut records),
                };
                let result = match result {
                    Ok(value) => Ok(value),
                    Err(error) => {
                        failed += 1;
                        let error = self.explain(error, start + u64::from(item), worker);
                        let Some(error) = self.retry(at, item, error) else {
                            is_keeping = self.order == Order::Input;
                            continue;
                        };
                        Err(error)
                    }
                };
                if is_keeping {
                    self.chunks[at].kept.push((item, result));
                } else if is_direct {
                    self.delivered += 1;
                    sink(result);
                } else {
                    self.chunks[at].waiting.push(result);
                }
            }
        };
        match pool.settings.is_isolated {
            // A handle in it could only be forged.
            true => transfer::abroad(read),
            false => transfer::receiving(program, read),
        }
        Tally {
            done: wanted - failed,
            received: (received - records.len()) as u64,
            ..Tally::default()
        }
    }

    /// Counts a job that is over, or that goes back.
    fn count(&mut self, at: usize, index: u32, mut tally: Tally, has_begun: bool, is_done: bool) {
        let job = self.pool.memory.job(index);
        let chunk = &mut self.chunks[at];
        if chunk.encoding > 0 {
            // Once, however often it is offered.
            tally.sent = chunk.bytes;
            tally.encoding = std::mem::take(&mut chunk.encoding);
        }
        if has_begun {
            let began = job.began.load(Ordering::Relaxed);
            tally.waiting = began.saturating_sub(job.offered.load(Ordering::Relaxed));
            // A worker that died did not say when; it was found at once.
            tally.working = match is_done {
                true => job.elapsed.load(Ordering::Relaxed),
                false => sys::clock::now().saturating_sub(began),
            };
        }
        self.pool.add_up(tally);
    }

    /// Completes the error of an item that a worker ran.
    #[cold]
    fn explain(&self, error: TaskError, index: u64, worker: Option<Holder>) -> TaskError {
        let error = match worker.and_then(|worker| self.pool.who(worker)) {
            Some((name, pid)) => error.with_process(name, pid),
            None => error,
        };
        self.complete(error, index)
    }

    /// What became of the item that a worker was at when it died.
    #[cold]
    fn crash(&self, index: u32) -> TaskError {
        if self.pool.guest().is_some() {
            let failure = self.pool.memory.failure(index);
            return failure.unwrap_or_else(|| failure::lost("its worker ended"));
        }
        match self.pool.death(index) {
            Some(death) if self.pool.memory.job(index).is_expired() => {
                death.timed_out(Duration::from_nanos(self.terms.limit()))
            }
            Some(death) => death.failure(),
            None => failure::lost("its worker ended"),
        }
    }

    /// Delivers a result of the chunk `at`, or keeps it until its turn.
    fn put(
        &mut self,
        at: usize,
        item: u32,
        result: Result<R, TaskError>,
        sink: &mut impl FnMut(Result<R, TaskError>),
    ) {
        if self.order == Order::Input && self.chunks[at].is_keeping() {
            self.chunks[at].kept.push((item, result));
        } else if at == 0 || self.order == Order::Completion {
            self.delivered += 1;
            sink(result);
        } else {
            self.chunks[at].waiting.push(result);
        }
    }
}

/// Takes results off the front of `records` and hands them to `sink`, as long as each is a value
/// without handles and there are no more than `most`. Returns how many, and what the next one failed
/// with, if it was to be a value.
#[inline]
fn read_values<R: Transfer>(
    records: &mut &[u8],
    most: usize,
    sink: &mut impl FnMut(Result<R, TaskError>),
) -> (u32, Option<TaskError>) {
    let mut read = 0;
    let decode = || {
        let mut records = Carried::new(records);
        let mut read = Carried::new(&mut read);
        while (*read as usize) < most {
            let mut rest = *records;
            // A mark is no header of a record.
            let payload = read_short_value(&mut rest)?;
            match decode_result(Tag::Value, payload) {
                Ok(value) => sink(Ok(value)),
                Err(error) => {
                    *records = rest;
                    return Some(error);
                }
            }
            *records = rest;
            *read += 1;
        }
        None
    };
    // One catch for all of them; what was delivered before a panic is not read again.
    let failure = panic::catch(decode).unwrap_or_else(|panic| {
        read_record(records);
        Some(failure::result_panicked::<R>(panic))
    });
    (read, failure)
}

/// Takes a result off the front of `records`, whatever it is.
#[inline]
fn read_result<R: Transfer>(program: &Program, records: &mut &[u8]) -> Result<R, TaskError> {
    let Some(outcome) = wire::read_outcome(records) else {
        return Err(failure::lost("its result is not where it should be"));
    };
    let decode = || decode_result::<R>(outcome.tag, outcome.payload);
    let decode = || match outcome.parcel {
        Some(parcel) => transfer::importing(parcel, decode),
        None => decode(),
    };
    let result =
        panic::catch(decode).unwrap_or_else(|panic| Err(failure::result_panicked::<R>(panic)));
    if let Some(parcel) = outcome.parcel {
        program.table.discard(&program.arena, parcel);
    }
    result
}
