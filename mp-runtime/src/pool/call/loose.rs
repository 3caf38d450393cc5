//! Items that are together only for speed: what a worker has not begun of them is taken away from it when
//! another has nothing to do.

use super::{Call, Chunk, Order};
use crate::fault::fault;
use crate::loom::Ordering;
use crate::pool::absence::CutOff;
use crate::pool::job::Job;
use crate::shm::buffer::Buffer;
use crate::sys;
use crate::task::Transfer;
use crate::wire::transfer;

impl<'p, R: Transfer> Call<'p, R> {
    /// Whether items that go one by one may share jobs: then they are still had one by one, since a
    /// worker that has nothing to do gets what another has not begun. Not of calls that go on only
    /// when their results are taken, nor where that could not be taken away again.
    #[inline]
    pub(super) fn is_loose(&self) -> bool {
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
    pub(super) fn put_out_open(&mut self, index: u32, out: &mut Buffer, began: u64) -> &'p Job {
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
    pub(super) fn append(&mut self, job: &Job, number: u32, len: usize) -> bool {
        job.input_len.store(len as u64, Ordering::Relaxed);
        let is_added = !transfer::has_sent() && job.append(number);
        self.pulled += u64::from(is_added);
        is_added
    }

    /// Ends the adding to a job, which has so many items by now.
    pub(super) fn close(&mut self, job: &Job, count: u64, mut out: Buffer, began: u64) {
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
    pub(super) fn share_out(&mut self) -> bool {
        let Some(at) = self.shareable() else {
            return false;
        };
        // If there is no room, it is tried again when a job is over.
        self.is_stuck = self.split(at).is_none();
        !self.is_stuck
    }

    /// The chunk of whose job most could be given to a worker that has nothing to do, if there is one.
    pub(super) fn shareable(&self) -> Option<usize> {
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

    /// Whether a worker has nothing to do while another is about to begin the first of several items that
    /// could be taken away from it then: nobody tells that it has.
    pub(super) fn is_share_near(&self) -> bool {
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
}

impl<R> Call<'_, R> {
    /// Keeps a chunk for what was cut off the job of the chunk `at`.
    pub(super) fn place(&mut self, at: usize, cut_off: &CutOff) {
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
