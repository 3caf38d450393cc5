//! One call as its caller's thread drives it: pull items, encode them into jobs, collect results.
//!
//! There is no thread in between. The caller encodes straight into a job's block, waits on the
//! call's bell and decodes straight out of the results' block.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::absence::{Absence, CutOff};
use super::chunk::{MAX_BYTES, Sizer};
use super::failure;
use super::inner::{Inner, Stop};
use super::job::{Early, Job, Outlook, Progress, SPARE_JOBS};
use super::retries::Retries;
use super::source::{Source, Written};
use super::stats::Tally;
use super::terms::Terms;
use super::wire;
use crate::carried::Carried;
use crate::deadline::Deadline;
use crate::error::TaskError;
use crate::fault::fault;
use crate::life::Program;
use crate::life::program::is_forked;
use crate::loom::Ordering;
use crate::shm::buffer::{Buffer, Full};
use crate::shm::{BlockId, Owner};
use crate::spans;
use crate::sync::raw::{Holder, Peers};
use crate::sys;
use crate::task::Transfer;
use crate::task::call::{Tag, decode_result, read_record, read_short_value};
use crate::task::panic;
use crate::task::registry::Entry;
use crate::trace::{Lane, Span};
use crate::wire::codec::{EncodeError, EncodeErrorKind};
use crate::wire::transfer::{self, Sent};

/// Workers that may die between claiming a job and beginning its next item before that item is
/// given up.
const MOST_ATTEMPTS: u8 = 4;

/// Bytes of items of one call that are out at once, unless a single job has more.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// How long a caller sleeps while a worker is about to begin a job that could be taken apart.
const NEAR: Duration = Duration::from_micros(200);

/// How long a caller leaves it to a worker that was woken to wake others for further jobs, should that one
/// not come, because it was stopped, say.
const UNTOLD: Duration = Duration::from_millis(10);

/// Results that are handed out one by one, if they are there, before more are taken.
const ENOUGH: u64 = 1024;

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

/// An item that is run again.
#[derive(Clone, Copy, Debug)]
struct Again {
    item: u32,
    /// How often it was handed to a worker, and how often it was run again.
    attempts: u32,
    retries: u32,
    /// Not before.
    due: Deadline,
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

/// How filling a job ended.
enum Filled {
    /// A job is out, or an item has failed.
    Something,
    /// There is no memory for more until a job is over.
    Blocked,
    /// There are no more items.
    Exhausted,
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

    // Feeding.

    /// Puts jobs out while there is room; true if memory is what is lacking.
    fn feed(
        &mut self,
        source: &mut impl Source,
        is_bounded: bool,
        sink: &mut impl FnMut(Result<R, TaskError>),
    ) -> bool {
        while self.has_room(is_bounded) {
            if self.untold.is_some() && source.left().is_none() {
                // Nobody knows how long the input takes, nor what it waits for.
                self.tell();
            }
            match self.fill(source, is_bounded) {
                Filled::Something => {}
                Filled::Blocked => {
                    // What has failed before it was put out has no job that would be looked at.
                    self.deliver_front(sink);
                    return true;
                }
                Filled::Exhausted => self.is_exhausted = true,
            }
        }
        self.deliver_front(sink);
        false
    }

    /// Whether another job may be filled now.
    fn has_room(&self, is_bounded: bool) -> bool {
        !self.is_exhausted
            && self.has_place()
            // Not if the call has none yet, which others may wait for.
            && (self.running == 0 || self.pool.has_further_entry())
            // A job larger than that goes out alone.
            && (self.bytes < MOST_BYTES || self.running == 0)
            && self.window_left(is_bounded) >= self.least_room()
    }

    /// What must be left of the window for a job to be filled: no smaller one goes out meanwhile.
    #[inline]
    fn least_room(&self) -> u64 {
        match self.running {
            0 => 1,
            _ => self.sizer.next(None),
        }
    }

    /// Whether another job may be out at once.
    #[inline]
    fn has_place(&self) -> bool {
        self.running < self.pool.window_jobs()
            || self.running < self.most_jobs() && self.pool.has_spare_entries()
    }

    /// How many jobs may be out at once, while others do not need their entries.
    #[inline]
    fn most_jobs(&self) -> usize {
        let lead = (self.sizer.lead() as usize).saturating_mul(self.pool.workers());
        self.pool.window_jobs().max(lead.min(SPARE_JOBS))
    }

    /// How many items may be pulled before a result is taken.
    #[inline]
    fn window_left(&self, is_bounded: bool) -> u64 {
        let window = match self.pool.settings.window {
            Some(window) => window,
            None if is_bounded => {
                // Twice what is out at once, so that one slow job does not stop the others.
                2 * self.most_jobs() as u64 * self.sizer.next(None)
            }
            None => return u64::MAX,
        };
        window.saturating_sub(self.pulled - self.delivered)
    }

    /// Fills a job with items and puts it out.
    fn fill(&mut self, source: &mut impl Source, is_bounded: bool) -> Filled {
        if !self.pull(source) {
            return Filled::Exhausted;
        }
        // Before anything is encoded: who has jobs out goes on without, and takes their results.
        let Some(index) = self.pool.acquire_job(self.running == 0) else {
            if self.running > 0 || self.pool.stop().is_some() {
                return Filled::Blocked;
            }
            source.pass();
            self.fail_next(failure::no_entry());
            return Filled::Something;
        };
        let is_loose = !is_bounded && self.is_loose();
        let wish = match is_loose {
            true => self.sizer.next_loose(source.left()),
            false if is_bounded => self.sizer.next(source.left()),
            false => self.sizer.next_long(source.left()),
        };
        let wish = wish.min(self.window_left(is_bounded));
        // One that others read while more is written stays where it is.
        let is_loose = is_loose && wish > 1;
        let began = sys::clock::now();
        let name = self.name(self.pulled);
        let buffer = self.begin_items(index, wish, is_loose);
        let buffer = buffer.and_then(|mut out| wire::begin_items(&name, &mut out).map(|()| out));
        let Ok(mut out) = buffer else {
            self.pool.release_job(index);
            if self.running > 0 {
                return Filled::Blocked;
            }
            source.pass();
            self.fail_next(failure::no_room_for_argument());
            return Filled::Something;
        };
        let mut open = None;
        let mut written = Written {
            count: 0,
            end: out.len(),
        };
        let is_isolated = self.pool.settings.is_isolated;
        let is_remote = self.pool.carrier().is_some();
        let mut encode = || {
            if !is_loose && self.absence.is_none() {
                let is_more = source.write(&mut out, wish, &mut written)?;
                self.is_exhausted |= !is_more;
                return Ok(());
            }
            while written.count < wish && !(written.count > 0 && wire::is_full(out.len())) {
                if !self.pull(source) {
                    self.is_exhausted = true;
                    break;
                }
                wire::write_item(&mut out.tail(), |out| source.encode(out))?;
                if let Some(job) = open
                    && !self.append(job, written.count as u32, out.len())
                {
                    // It is encoded again for the next job.
                    break;
                }
                source.pass();
                written.add(out.len());
                if is_loose && written.count == 1 {
                    // Handles go with the job: then it has but this item.
                    if transfer::has_sent() {
                        break;
                    }
                    open = Some(self.put_out_open(index, &mut out, began));
                }
            }
            Ok::<_, EncodeError>(())
        };
        let encode = || catch_unwind(AssertUnwindSafe(&mut encode));
        let (encoded, sent) = match (is_remote, is_isolated) {
            (true, _) => transfer::exporting(encode),
            (false, true) => (transfer::abroad(encode), Sent::default()),
            (false, false) => transfer::sending(encode),
        };
        let Written { count, end } = written;
        let is_full = matches!(&encoded, Ok(Err(error)) if error.kind == EncodeErrorKind::Full);
        // The item is tried again for the next job, or once a job is over.
        let is_held_up = is_full && (open.is_some() || count > 0 || self.running > 0);
        let is_blocked = is_held_up && open.is_none();
        // What was pulled before a panic goes out all the same: each item has its outcome.
        out.truncate(end);
        match open {
            Some(job) => self.close(job, count, out, began),
            None if count > 0 => self.put_out(index, count as u32, out, &sent, began),
            None => self.pool.release_job(index),
        }
        let encoded = encoded.unwrap_or_else(|panic| {
            if source.is_held() {
                source.pass();
                let message = panic::text_of(&*panic);
                self.fail_next(failure::argument_panicked(source.type_name(), message));
            }
            resume_unwind(panic);
        });
        if let Err(error) = encoded
            && !is_held_up
        {
            source.pass();
            let error = match is_full {
                true => failure::no_room_for_argument(),
                false => failure::not_encoded(error, source.type_name()),
            };
            self.fail_next(error);
        }
        match is_blocked && self.running > 0 {
            true => Filled::Blocked,
            false => Filled::Something,
        }
    }

    /// Memory for so many items of the job in entry `index`: the entry's slip, if they are few; a block that
    /// it has kept; another block.
    fn begin_items(&self, index: u32, wish: u64, is_loose: bool) -> Result<Buffer, Full> {
        let memory = &self.pool.memory;
        let bytes = wish.saturating_mul(self.bytes_each).min(MAX_BYTES as u64);
        let bytes = wire::RECORDS + bytes as usize;
        if !is_loose && let Some(slip) = self.pool.over_slip(index, bytes) {
            return Ok(slip);
        }
        // Those of others grow as they are written.
        let bytes = if is_loose { bytes } else { wire::RECORDS };
        let me = Owner::Process(memory.peers().me());
        let arena = memory.arena().clone();
        match self.pool.take_kept(index, bytes) {
            Some(block) => Ok(Buffer::over_block(arena, me, block)),
            None => Buffer::in_block(arena, me, bytes),
        }
    }

    /// Pulls the next item unless one is held; false if there are no more.
    #[inline]
    fn pull(&self, source: &mut impl Source) -> bool {
        let absence = self.absence.as_ref().filter(|_| !source.is_held());
        // The input may wait for what an item does that waits for another.
        let _away = absence.map(|absence| absence.begin());
        source.load()
    }

    /// Puts out a job whose entry was acquired.
    fn put_out(&mut self, index: u32, count: u32, mut out: Buffer, sent: &Sent, began: u64) {
        let start = self.pulled;
        let len = out.len() as u64;
        // Not without a parcel for the handles.
        let Ok(parcel) = sent.pack(self.pool.program) else {
            self.pool.release_job(index);
            for _ in 0..count {
                self.fail_next(failure::no_room_for_argument());
            }
            return;
        };
        self.bytes_each = (len - wire::RECORDS as u64) / u64::from(count);
        let block = out.give_up_block().map(|block| block.id());
        let job = self.fill_in(index, block, len, parcel);
        job.set_count(count);
        let target = self.target(start).map_or(0, Holder::bits);
        job.target.store(target, Ordering::Relaxed);
        self.pulled += u64::from(count);
        let mut chunk = Chunk::new(start, Some(index), len);
        chunk.encoding = (job.offered.load(Ordering::Relaxed) - began).max(1);
        self.chunks.push_back(chunk);
        fault!("pool.filled");
        self.offer(index, 0, 0);
    }

    /// Fills a free entry in, but for how many items there are and for whom.
    fn fill_in(
        &mut self,
        index: u32,
        block: Option<BlockId>,
        len: u64,
        parcel: Option<BlockId>,
    ) -> &'p Job {
        let pool = self.pool;
        let job = pool.memory.job(index);
        let bits = |block: Option<BlockId>| block.map_or(0, BlockId::bits);
        pool.free_kept(index);
        job.input.store(bits(block), Ordering::Relaxed);
        job.input_len.store(len, Ordering::Relaxed);
        job.input_parcel.store(bits(parcel), Ordering::Relaxed);
        pool.hand_to_parent(index, self.terms.depth);
        job.bell.store(self.number, Ordering::Relaxed);
        job.limit.store(self.terms.limit(), Ordering::Relaxed);
        job.target.store(0, Ordering::Relaxed);
        job.set_loose(false);
        job.offered.store(sys::clock::now(), Ordering::Relaxed);
        self.running += 1;
        self.bytes += len;
        job
    }

    // Items that are together only for speed.

    /// Whether items that go one by one may share jobs: then they are still had one by one, since a
    /// worker that has nothing to do gets what another has not begun. Not of calls that go on only
    /// when their results are taken, nor where that could not be taken away again.
    #[inline]
    fn is_loose(&self) -> bool {
        let settings = &self.pool.settings;
        settings.chunk_size == Some(1)
            && !settings.is_isolated
            && self.is_many
            && self.merge.is_none()
            && self.targets.is_none()
            && self.terms.limit() == 0
            && self.pool.guest().is_none()
            && self.pool.carrier().is_none()
    }

    /// Puts a job out with its first item, to which more are added: an input that makes the caller
    /// wait holds up no item that is there.
    fn put_out_open(&mut self, index: u32, out: &mut Buffer, began: u64) -> &'p Job {
        let absence = self.absence.get_or_insert_with(|| {
            self.pool.memory.begin_sharing(self.number);
            self.pool.begin_absences()
        });
        absence.add(index);
        out.fix();
        let len = out.len() as u64;
        let job = self.fill_in(index, out.block().map(|block| block.id()), len, None);
        job.open(1);
        job.set_loose(true);
        let mut chunk = Chunk::new(self.pulled, Some(index), len);
        chunk.encoding = (job.offered.load(Ordering::Relaxed) - began).max(1);
        self.pulled += 1;
        self.chunks.push_back(chunk);
        fault!("pool.filled");
        self.offer(index, 0, 0);
        job
    }

    /// Adds the next item to a job that is out, which is the one of that number and ends at `len`;
    /// false if it has to go with another.
    #[inline]
    fn append(&mut self, job: &Job, number: u32, len: usize) -> bool {
        job.input_len.store(len as u64, Ordering::Relaxed);
        let is_added = !transfer::has_sent() && job.append(number);
        self.pulled += u64::from(is_added);
        is_added
    }

    /// Ends the adding to a job, which has so many items by now.
    fn close(&mut self, job: &Job, count: u64, mut out: Buffer, began: u64) {
        // It is the job's.
        out.give_up_block();
        let memory = &self.pool.memory;
        if job.close() {
            // Whoever has left it to us may have it now.
            memory.work_bell().ring(memory.peers(), 1);
        }
        let len = job.input_len.load(Ordering::Relaxed);
        self.bytes_each = (len / count.max(1)).max(1);
        if let Some(chunk) = self.chunks.back_mut() {
            self.bytes += len - chunk.bytes;
            chunk.bytes = len;
            chunk.encoding = (sys::clock::now() - began).max(1);
        }
    }

    /// Takes what no worker has begun of a job away again and offers it anew, if a worker has nothing
    /// to do; false if there is nothing to be had.
    fn share_out(&mut self) -> bool {
        let Some(at) = self.shareable() else {
            return false;
        };
        // If there is no room, it is tried again when a job is over.
        self.is_stuck = self.split(at).is_none();
        !self.is_stuck
    }

    /// The chunk of whose job most could be given to a worker that has nothing to do, if there is one.
    fn shareable(&self) -> Option<usize> {
        let memory = &self.pool.memory;
        if self.absence.is_none() || self.is_stuck || !self.pool.is_share_wanted() {
            return None;
        }
        let chunks = self.chunks.iter().enumerate();
        let left = |(at, chunk): (usize, &Chunk<R>)| {
            let index = chunk.present().filter(|_| !chunk.is_keeping())?;
            Some((memory.job(index).left()?, at))
        };
        chunks.filter_map(left).max().map(|(_, at)| at)
    }

    /// Makes two jobs of one; `None` if there is no room.
    #[cold]
    fn split(&mut self, at: usize) -> Option<()> {
        let cut_off = self.pool.cut_off(self.chunks[at].job?)?;
        // Otherwise the worker was quicker.
        if let Some(cut_off) = cut_off {
            if let Some(absence) = &self.absence {
                absence.add(cut_off.index);
            }
            self.place(at, &cut_off);
            self.offer(cut_off.index, cut_off.first, 0);
        }
        Some(())
    }

    /// Offers a job to the workers, from its item `first` on.
    fn offer(&mut self, index: u32, first: u32, attempt: u8) {
        if !self.pool.offer(index, first, attempt) {
            self.untold.get_or_insert_with(|| Deadline::after(UNTOLD));
        }
    }

    /// Wakes a worker for jobs of which another was to tell that has not come.
    #[cold]
    fn tell(&mut self) {
        let memory = &self.pool.memory;
        // Who goes to sleep later looks first.
        let is_left = memory.pass_on() && memory.work_bell().is_awaited();
        self.untold = is_left.then(|| Deadline::after(UNTOLD));
    }

    /// Notes that the next item has failed before it could be put out.
    fn fail_next(&mut self, error: TaskError) {
        let error = self.complete(error, self.pulled);
        let mut chunk = Chunk::new(self.pulled, None, 0);
        chunk.waiting.push(Err(error));
        self.pulled += 1;
        match self.order {
            Order::Input => self.chunks.push_back(chunk),
            Order::Completion => self.chunks.push_front(chunk),
        }
    }

    /// Adds to an error which task and item it is about.
    fn complete(&self, error: TaskError, index: u64) -> TaskError {
        let error = error.with_task((self.task.name)());
        let error = match self.is_many {
            true => error.with_index(index),
            false => error,
        };
        self.pool.note_failure(&error);
        error
    }

    // Harvesting.

    /// Waits until a job is over or the pool stops.
    fn wait(&self) {
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

    /// Whether a worker has nothing to do while another is about to begin the first of several items that
    /// could be taken away from it then: nobody tells that it has.
    fn is_share_near(&self) -> bool {
        let is_near = |chunk: &Chunk<R>| {
            chunk
                .present()
                .is_some_and(|index| self.pool.memory.job(index).is_about_to_begin())
        };
        self.absence.is_some()
            && !self.is_stuck
            && self.pool.is_share_wanted()
            && self.chunks.iter().any(is_near)
    }

    /// When there is something to do whatever becomes of the jobs.
    pub(super) fn due(&self) -> Deadline {
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
    fn harvest(
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
    fn deliver_front(&mut self, sink: &mut impl FnMut(Result<R, TaskError>)) {
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
    fn take(
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
            self.sizer.learn(u64::from(done - first), elapsed);
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
        chunk.kept.sort_unstable_by_key(|&(item, _)| item);
        let kept = std::mem::take(&mut chunk.kept);
        chunk
            .waiting
            .extend(kept.into_iter().map(|(_, result)| result));
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

    /// Has an item that failed run again, if it is to be; otherwise gives its error back.
    #[cold]
    fn retry(&mut self, at: usize, item: u32, error: TaskError) -> Option<TaskError> {
        let (retries, attempts) = self.chunks[at].before(item);
        let attempts = attempts + error.attempts();
        let error = error.with_attempts(attempts);
        let due = match self.pool.stop() {
            None if self.is_suspect(at, &error) => Some(Deadline::after(Duration::ZERO)),
            None => self.terms.retry(&error, retries),
            Some(_) => None,
        };
        let Some(due) = due else { return Some(error) };
        self.chunks[at].again.push(Again {
            item,
            attempts,
            retries: retries + 1,
            due,
        });
        None
    }

    /// Whether it was any of several items that cost a machine: then each is run by itself.
    fn is_suspect(&self, at: usize, error: &TaskError) -> bool {
        let chunk = &self.chunks[at];
        let count = |index| self.pool.memory.job(index).count();
        error.is_of_machines()
            && chunk.retried.is_none()
            && chunk.job.is_some_and(|job| count(job) > 1)
    }

    /// Offers the next item of a chunk that is to be run again, or has the chunk rest until it is
    /// time. Its job is over.
    #[cold]
    fn run_again(&mut self, at: usize) {
        let chunk = &mut self.chunks[at];
        let Some(index) = chunk.job else { return };
        let ready = chunk.again.iter().position(|again| again.due.has_passed());
        let Some(ready) = ready else {
            let dues = chunk.again.iter().map(|again| again.due);
            chunk.rest = Some(dues.fold(Deadline::NEVER, Deadline::earlier));
            return;
        };
        chunk.rest = None;
        let again = chunk.again.swap_remove(ready);
        chunk.retried = Some(again);
        let job = self.pool.memory.job(index);
        job.set_count(again.item + 1);
        job.offered.store(sys::clock::now(), Ordering::Relaxed);
        fault!("pool.retrying");
        self.offer(index, again.item, 0);
    }

    /// Adds a job that is over to the timeline.
    #[cold]
    fn note(&self, index: u32, items: std::ops::Range<u64>, worker: Holder, is_done: bool) {
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
        items: std::ops::Range<u32>,
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

    // Ending early.

    /// Delivers what there is, and the pool's end for all items that are out and for the next one.
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
        let Some(absence) = &self.absence else { return };
        for cut_off in absence.take() {
            let is_victim = |chunk: &Chunk<R>| chunk.job == Some(cut_off.victim);
            match self.chunks.iter().position(is_victim) {
                Some(at) => self.place(at, &cut_off),
                None => unreachable!("a job is not let go of before what was cut off it is known"),
            }
        }
    }

    /// Keeps a chunk for what was cut off the job of the chunk `at`.
    fn place(&mut self, at: usize, cut_off: &CutOff) {
        let start = self.chunks[at].start + u64::from(cut_off.before);
        let chunk = Chunk::new(start, Some(cut_off.index), cut_off.len);
        self.running += 1;
        self.bytes += cut_off.len;
        match self.order {
            Order::Input => self.chunks.insert(at + 1, chunk),
            Order::Completion => self.chunks.push_back(chunk),
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
