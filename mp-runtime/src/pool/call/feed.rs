//! Putting jobs out: pulls items, encodes them where they are to lie, and offers them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::{Call, Chunk, Order};
use crate::deadline::Deadline;
use crate::error::TaskError;
use crate::fault::fault;
use crate::loom::Ordering;
use crate::pool::chunk::MAX_BYTES;
use crate::pool::failure;
use crate::pool::job::{Job, SPARE_JOBS};
use crate::pool::source::{Source, Written};
use crate::pool::wire;
use crate::shm::buffer::{Buffer, Full};
use crate::shm::{BlockId, Owner};
use crate::sync::raw::{Holder, Peers};
use crate::sys;
use crate::task::Transfer;
use crate::task::panic;
use crate::wire::codec::{EncodeError, EncodeErrorKind};
use crate::wire::transfer::{self, Sent};

/// Bytes of items of one call that are out at once, unless a single job has more.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// How long a caller leaves it to a worker that was woken to wake others for further jobs, should that one
/// not come, because it was stopped, say.
const UNTOLD: Duration = Duration::from_millis(10);

/// How filling a job ended.
enum Filled {
    /// A job is out, or an item has failed.
    Something,
    /// There is no memory for more until a job is over.
    Blocked,
    /// There are no more items.
    Exhausted,
}

impl<'p, R: Transfer> Call<'p, R> {
    /// Puts jobs out while there is room; true if memory is what is lacking.
    pub(super) fn feed(
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
    pub(super) fn has_room(&self, is_bounded: bool) -> bool {
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
    pub(super) fn fill_in(
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

    /// Offers a job to the workers, from its item `first` on.
    pub(super) fn offer(&mut self, index: u32, first: u32, attempt: u8) {
        if !self.pool.offer(index, first, attempt) {
            self.untold.get_or_insert_with(|| Deadline::after(UNTOLD));
        }
    }

    /// Wakes a worker for jobs of which another was to tell that has not come.
    #[cold]
    pub(super) fn tell(&mut self) {
        let memory = &self.pool.memory;
        // Who goes to sleep later looks first.
        let is_left = memory.pass_on() && memory.work_bell().is_awaited();
        self.untold = is_left.then(|| Deadline::after(UNTOLD));
    }

    /// Notes that the next item has failed before it could be put out.
    #[cold]
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
}
