//! What the threads of a pool's parent share: which entries of the job table are free, which calls
//! are under way, whether the pool still runs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use super::absence::Absences;
use super::desk::Desk;
use super::driver::Driver;
use super::events::Listener;
use super::failure::{self, Cause, Death};
use super::guest::{self, Guest};
use super::job::{Early, JOBS, Job, Outlook, Phase, SPARE_JOBS, Withdrawal};
use super::lookout::Lookout;
use super::region::{CLOSED, DRAINING, Memory, RingFull, STOPPED, Side};
use super::remote::Remote;
use super::stats::Totals;
use super::supervisor::Crew;
use super::terms::Terms;
use super::timer::{Timer, nanos};
use super::wire;
use crate::error::Error;
use crate::fault::fault;
use crate::life::program::is_forked;
use crate::life::{Program, program};
use crate::loom::{AtomicU64, Ordering};
use crate::process::StartMethod;
use crate::process::limits::Limits;
use crate::process::message::Scheduling;
use crate::shm::arena::{Audit, Block};
use crate::shm::buffer::Buffer;
use crate::shm::{BlockId, Owner};
use crate::spans;
use crate::sync::raw::{Holder, Peers};
use crate::task::registry::Entry;
use crate::trace;

/// How long a caller that finds the whole job table in use sleeps before it looks again, should
/// nobody wake it.
const NAP: Duration = Duration::from_millis(10);

/// What a pool was asked to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) workers: Option<usize>,
    pub(super) name: Option<String>,
    pub(super) max_tasks: Option<u64>,
    pub(super) max_memory: Option<u64>,
    /// Then workers come on demand.
    pub(super) idle_timeout: Option<Duration>,
    pub(super) chunk_size: Option<u64>,
    pub(super) window: Option<u64>,
    pub(super) env: Vec<(OsString, Option<OsString>)>,
    /// How long it is drained when the process is asked to end.
    pub(super) drain: Option<Duration>,
    /// Whether this process sees to signals that ask for the end, for its workers too.
    pub(super) is_attended: bool,
    /// Who is told what happens.
    pub(super) listener: Option<Listener>,
    pub(super) start_method: Option<StartMethod>,
    /// Of each worker.
    pub(super) limits: Limits,
    /// What was asked for.
    pub(super) asked: Scheduling,
    #[cfg(feature = "sandbox")]
    pub(super) sandbox: Option<crate::process::sandbox::Sandbox>,
    /// Whether workers share no memory with the program.
    pub(super) is_isolated: bool,
    /// Bytes of a result of theirs at most.
    pub(super) result_limit: u64,
    /// Of the thread that makes the pool: workers that are started later get the same.
    pub(super) cpu_affinity: Option<Vec<usize>>,
    pub(super) nice: Option<i32>,
    /// What holds for calls of which nothing else is said.
    pub(super) terms: Terms,
    /// How long a task has after its deadline, or after it was cancelled, before it is killed.
    pub(super) grace: Duration,
}

/// A pool, as its callers and the supervisor share it.
pub(super) struct Inner {
    pub(super) program: &'static Program,
    pub(super) memory: Memory,
    pub(super) settings: Settings,
    /// What takes its jobs to workers elsewhere, if that is where they are.
    pub(super) remote: Option<Remote>,
    /// For those who start workers.
    pub(super) this: OnceLock<Weak<Inner>>,
    /// Who we are if this is the pool that we work for. Then all that is about workers is the parent's.
    pub(super) guest: Option<Guest>,
    /// Whether new calls are taken. Held while that, or the number of calls, changes.
    gate: Mutex<Gate>,
    /// Why no more jobs are run, once that is so.
    stop: OnceLock<Stop>,
    pub(super) crew: Mutex<Crew>,
    /// Signalled when a worker has ended.
    pub(super) crew_changed: Condvar,
    pub(super) cause: Cause,
    /// What is counted once a job.
    pub(super) totals: Mutex<Totals>,
    entries: Mutex<Entries>,
    entry_freed: Condvar,
    /// How the workers ended whose jobs are dead, by job.
    deaths: Mutex<HashMap<u32, Arc<Death>>>,
    /// Whether there are any: as a rule not, and then nobody takes the lock.
    has_deaths: AtomicBool,
    /// Jobs that a caller left behind while workers were at them.
    orphans: Mutex<Vec<u32>>,
    orphan_count: AtomicUsize,
    /// Streams that are alive.
    pub(super) streams: AtomicUsize,
    next_call: AtomicU32,
    /// Drives the calls that nobody waits for.
    pub(super) driver: Driver,
    /// For callers of one item.
    pub(super) lookout: Lookout,
    /// Ends what takes too long.
    pub(super) timer: Timer,
    /// Serves calls from inside of tasks.
    pub(super) desk: Desk,
    /// Calls whose callers may be away.
    pub(super) absences: Mutex<Absences>,
    /// The handles in the arguments of the initializer, which workers of any age need.
    pub(super) initializer_parcel: Option<BlockId>,
}

#[derive(Debug, Default)]
struct Gate {
    is_closed: bool,
    /// Workers end after the job they are at, and are not replaced.
    is_draining: bool,
    calls: u64,
}

/// Why a pool runs no more jobs.
#[derive(Clone, Debug)]
pub(super) enum Stop {
    /// It was asked to end at once.
    Terminated,
    /// It has no workers left and gets no new ones.
    Broken(Error),
}

/// The job table's entries.
#[derive(Debug, Default)]
struct Entries {
    free: Vec<u32>,
    /// Entries that were ever used.
    reach: u32,
    /// Callers that wait for one: a condition variable that nobody waits on is a system call all the
    /// same.
    waiting: u32,
}

impl Inner {
    pub(super) fn new(settings: Settings, workers: usize) -> Result<Self, Error> {
        let program = program()?;
        let memory = Memory::create(program)?;
        let header = memory.header();
        let idle = settings.idle_timeout.map_or(0, |idle| nanos(idle).max(1));
        // Workers read them once they are started.
        for (word, limit) in [
            (&header.max_tasks, settings.max_tasks.unwrap_or(0)),
            (&header.max_memory, settings.max_memory.unwrap_or(0)),
            (&header.idle_timeout, idle),
            (
                &header.drains,
                u64::from(settings.drain.is_some() || settings.is_attended),
            ),
            (&header.is_attended, u64::from(settings.is_attended)),
            (&header.chunk_size, settings.chunk_size.unwrap_or(0)),
            (&header.window, settings.window.unwrap_or(0)),
            (&header.workers, workers as u64),
            (&header.is_short, 1),
        ] {
            word.store(limit, Ordering::Relaxed);
        }
        settings.terms.publish(header);
        let listens = u64::from(settings.listener.is_some());
        memory.nest().listens.store(listens, Ordering::Relaxed);
        let is_traced = u64::from(trace::timeline().is_some());
        memory.nest().is_traced.store(is_traced, Ordering::Relaxed);
        Ok(Self::over(program, memory, settings, None))
    }

    /// The pool that the calling process works for, as the worker `me`.
    pub(super) fn of_worker(program: &'static Program, memory: Memory, me: Holder) -> Self {
        let settings = guest::settings(&memory);
        Self::over(program, memory, settings, Some(Guest::new(me)))
    }

    fn over(
        program: &'static Program,
        memory: Memory,
        settings: Settings,
        guest: Option<Guest>,
    ) -> Self {
        let first_call = guest.as_ref().map_or(0, Guest::driver);
        Self {
            program,
            memory,
            settings,
            remote: None,
            this: OnceLock::new(),
            guest,
            gate: Mutex::default(),
            stop: OnceLock::new(),
            crew: Mutex::default(),
            crew_changed: Condvar::new(),
            cause: Cause::default(),
            totals: Mutex::default(),
            entries: Mutex::default(),
            entry_freed: Condvar::new(),
            deaths: Mutex::default(),
            has_deaths: AtomicBool::new(false),
            orphans: Mutex::default(),
            orphan_count: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            // Those of other processes use the same bells.
            next_call: AtomicU32::new(first_call),
            driver: Driver::default(),
            lookout: Lookout::new(),
            timer: Timer::default(),
            desk: Desk::default(),
            absences: Mutex::default(),
            initializer_parcel: None,
        }
    }

    /// Leads to the bell of the driver's calls.
    pub(super) fn driver_number(&self) -> u32 {
        self.guest().map_or(0, Guest::driver)
    }

    /// Tells the driver that something has changed.
    pub(super) fn ring_driver(&self) {
        let bell = self.memory.done_bell(self.driver_number());
        bell.ring_all(self.memory.peers());
    }

    /// How many jobs of one call are out at once: each worker has one to run and one to go on with,
    /// and the caller one to fill.
    #[inline]
    pub(super) fn window_jobs(&self) -> usize {
        self.workers() * 2 + 1
    }

    /// Whether so much of the job table is free that a call may have more jobs out than others need.
    #[inline]
    pub(super) fn has_spare_entries(&self) -> bool {
        let entries = lock(&self.entries);
        (entries.reach as usize - entries.free.len()) < SPARE_JOBS
    }

    /// How many workers there are meant to be, at most.
    #[inline]
    pub(super) fn workers(&self) -> usize {
        match self.carrier() {
            // They may all have left, and what is shared out among them waits for the next.
            Some(carrier) => carrier.workers().max(1),
            None => self.memory.header().workers.load(Ordering::Relaxed) as usize,
        }
    }

    // Calls.

    /// Begins what `tracing` sees of a call that is made by this thread.
    pub(super) fn begin_span(&self, task: &Entry) -> spans::Call {
        if self.guest().is_some() {
            return spans::Call::begin_nested((task.name)());
        }
        let place = self.settings.name.as_deref().unwrap_or("pool");
        spans::Call::begin((task.name)(), place)
    }

    /// Lets a call in and gives it a number.
    pub(super) fn enter(&self) -> Result<u32, Error> {
        if is_forked() {
            return Err(Error::forked());
        }
        if self.guest.is_some() {
            self.admit()?;
            return Ok(self.next_call.fetch_add(1, Ordering::Relaxed));
        }
        match self.stop() {
            Some(Stop::Broken(error)) => return Err(error.clone()),
            Some(Stop::Terminated) => return Err(failure::closed()),
            None => {}
        }
        let mut gate = lock(&self.gate);
        if gate.is_closed {
            return Err(failure::closed());
        }
        gate.calls += 1;
        self.count_calls(&gate);
        drop(gate);
        self.sweep_orphans();
        // Relaxed: any number will do.
        Ok(self.next_call.fetch_add(1, Ordering::Relaxed))
    }

    /// As [`enter`](Self::enter), for a call on these terms.
    pub(super) fn enter_watched(&self, terms: &Terms) -> Result<u32, Error> {
        let number = self.enter()?;
        let limit = terms.limit();
        if limit > 0
            && let Some(guest) = self.guest()
        {
            self.watch_nested(guest, limit);
        } else if limit > 0
            && let Err(error) = self.watch(limit)
        {
            self.leave();
            return Err(error);
        }
        Ok(number)
    }

    /// As [`leave`](Self::leave), for a call on these terms.
    #[inline]
    pub(super) fn leave_watched(&self, terms: &Terms) {
        let limit = terms.limit();
        match self.guest() {
            _ if limit == 0 => {}
            None => self.unwatch(limit),
            Some(guest) => self.unwatch_nested(guest, limit),
        }
        self.leave();
    }

    /// Notes that a call is over.
    pub(super) fn leave(&self) {
        if self.guest.is_some() {
            // It is one only while it has entries of the job table.
            return;
        }
        let mut gate = lock(&self.gate);
        gate.calls -= 1;
        self.count_calls(&gate);
        let is_over = gate.is_closed && gate.calls == 0;
        drop(gate);
        if is_over {
            self.memory.ring_workers();
            self.end_rest();
        }
    }

    /// Refuses further calls; workers end when those under way are over.
    pub(super) fn close(&self) {
        let mut gate = lock(&self.gate);
        gate.is_closed = true;
        self.memory
            .header()
            .flags
            .fetch_or(CLOSED, Ordering::Release);
        drop(gate);
        self.memory.ring_workers();
    }

    /// Refuses further calls, and has workers end after the job they are at, and what that calls.
    pub(super) fn begin_drain(&self) {
        let mut gate = lock(&self.gate);
        gate.is_closed = true;
        gate.is_draining = true;
        let flags = &self.memory.header().flags;
        flags.fetch_or(CLOSED | DRAINING, Ordering::Release);
        drop(gate);
        fault!("pool.draining");
        self.tell_unwanted(None);
        self.memory.ring_workers();
        self.end_rest();
    }

    /// Whether it takes no further calls.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.gate).is_closed
    }

    /// Whether there is, or may come, work for workers.
    pub(super) fn needs_workers(&self) -> bool {
        let gate = lock(&self.gate);
        let is_wanted = !gate.is_draining && (!gate.is_closed || gate.calls > 0);
        // What a task has called is part of the task.
        self.stop().is_none() && (is_wanted || self.memory.is_nested_busy())
    }

    fn count_calls(&self, gate: &Gate) {
        // Release: pairs with the Acquire in the worker's loop.
        self.memory
            .header()
            .calls
            .store(gate.calls, Ordering::Release);
    }

    /// Ends all calls: no more jobs are run.
    pub(super) fn set_stop(&self, stop: Stop) {
        let mut gate = lock(&self.gate);
        gate.is_closed = true;
        // The first reason stays.
        let _ = self.stop.set(stop);
        let flags = &self.memory.header().flags;
        flags.fetch_or(CLOSED | STOPPED, Ordering::Release);
        drop(gate);
        self.memory.ring_everybody();
        self.end_rest();
        self.entry_freed.notify_all();
        self.stop_timer();
    }

    /// Why no more jobs are run, if that is so. A worker never learns of it: it is killed then, and a
    /// task whose call failed before that might take it for something else, and return.
    #[inline]
    pub(super) fn stop(&self) -> Option<&Stop> {
        self.stop.get()
    }

    // Jobs.

    /// Takes a free entry of the job table; `None` if there is none. A call that has no job out may
    /// wait for one, until the pool has stopped, unless it is a task's. One that has would wait for
    /// what others have who wait for what it has.
    pub(super) fn acquire_job(&self, may_wait: bool) -> Option<u32> {
        if let Some(guest) = self.guest() {
            return self.memory.take_entry(guest.me);
        }
        let mut entries = lock(&self.entries);
        loop {
            if let Some(index) = entries.free.pop() {
                return Some(index);
            }
            if entries.reach < JOBS {
                entries.reach += 1;
                return Some(entries.reach - 1);
            }
            if !may_wait || self.stop().is_some() {
                return None;
            }
            entries.waiting += 1;
            let waited = self.entry_freed.wait_timeout(entries, NAP);
            (entries, _) = waited.unwrap_or_else(|poison| poison.into_inner());
            entries.waiting -= 1;
            if self.orphan_count.load(Ordering::Relaxed) > 0 {
                drop(entries);
                self.sweep_orphans();
                entries = lock(&self.entries);
            }
        }
    }

    /// Offers a job to the workers, from its item `first` on. Returns whether one was told, if any sleeps;
    /// otherwise it is left to one that is on its way.
    pub(super) fn offer(&self, index: u32, first: u32, attempt: u8) -> bool {
        let memory = &self.memory;
        let job = memory.job(index);
        job.first.store(first, Ordering::Relaxed);
        job.set_early(Early::No);
        job.offer(attempt);
        fault!("pool.offered");
        if let Some(worker) = Holder::from_bits(job.target.load(Ordering::Relaxed)) {
            self.post(index, worker);
            return true;
        }
        if self.guest().is_some() {
            memory.header().caller.note();
            memory.mark_ready(index);
            fault!("nest.marked");
            memory.work_bell().ring(memory.peers(), 1);
            self.summon();
            return true;
        }
        // Full only if thousands of jobs were withdrawn while all workers were busy.
        let is_told = loop {
            match memory.push(index) {
                Ok(is_told) => break is_told,
                Err(RingFull) if self.stop().is_some() => break true,
                Err(RingFull) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        // Only now: whoever has it already does not wait for this.
        memory.header().caller.note();
        self.summon();
        is_told
    }

    /// Gives back what a job that is over holds, but for the input that it is to be offered with
    /// again.
    pub(super) fn clear_result(&self, index: u32) {
        let job = self.memory.job(index);
        self.keep_or_free(index, &job.result);
        self.free_block(&job.merged);
        // One that its worker owned was freed with the worker, and is not found again.
        self.discard_parcel(&job.result_parcel);
        self.forget_death(index);
    }

    /// Gives back all that a job that is over holds, and its entry.
    pub(super) fn release_job(&self, index: u32) {
        self.clear_result(index);
        let job = self.memory.job(index);
        self.keep_or_free(index, &job.input);
        self.discard_parcel(&job.input_parcel);
        fault!("nest.releasing");
        job.release();
        if index >= JOBS {
            return self.nested_is_over();
        }
        let mut entries = lock(&self.entries);
        entries.free.push(index);
        let is_awaited = entries.waiting > 0;
        drop(entries);
        if is_awaited {
            self.entry_freed.notify_one();
        }
    }

    /// As [`release_job`](Self::release_job), of a job that is over and whose results nobody took: the
    /// handles in them go first.
    pub(super) fn release_unread(&self, index: u32) {
        self.discard_results(self.memory.job(index));
        self.release_job(index);
    }

    /// The bytes of the results of a job that is over.
    #[inline]
    pub(super) fn results_of(&self, index: u32) -> Option<&[u8]> {
        let result = &self.memory.job(index).result;
        // Workers without this memory write into no slip: where their results did not fit there are none.
        match self.settings.is_isolated || self.remote.is_some() {
            true => self
                .memory
                .bytes(result.load(Ordering::Acquire), usize::MAX),
            false => self
                .memory
                .bytes_of(index, Side::Results, result, usize::MAX),
        }
    }

    /// Lets go of the handles in the results of a job that is over.
    fn discard_results(&self, job: &Job) {
        let first = job.first.load(Ordering::Relaxed);
        let done = job.progress().done;
        let index = self.memory.index_of(job);
        let bytes = self.results_of(index);
        let mut records = bytes
            .and_then(|bytes| bytes.get(wire::RECORDS..))
            .unwrap_or(&[]);
        for _ in first..done {
            match wire::read_outcome(&mut records) {
                Some(outcome) => {
                    if let Some(parcel) = outcome.parcel {
                        self.program.table.discard(&self.program.arena, parcel);
                    }
                }
                None => break,
            }
        }
    }

    /// Frees a block of an entry, or leaves it there for the entry's next use: small jobs, one after
    /// the other, then need nothing of the allocator.
    fn keep_or_free(&self, index: u32, word: &AtomicU64) {
        if !self.keeps_blocks(index) || self.memory.kept(word, 0).is_none() {
            self.free_block(word);
        }
    }

    /// Whether an entry keeps blocks. Entries are used again from the last one that was let go of, so
    /// only as many keep some as were in use at once. Not where others than workers write results,
    /// nor in entries of tasks, which may die.
    fn keeps_blocks(&self, index: u32) -> bool {
        index < self.memory.keepers() && !self.settings.is_isolated && self.remote.is_none()
    }

    /// A buffer over the entry's slip, if small items may lie there and `bytes` have room.
    #[inline]
    pub(super) fn over_slip(&self, index: u32, bytes: usize) -> Option<Buffer> {
        match self.keeps_blocks(index) {
            true => self.memory.over_slip(index, Side::Items, bytes),
            false => None,
        }
    }

    /// Takes the block for items that an entry has kept, if there is room for `bytes` in it. The entry
    /// is ours, and names it no more.
    pub(super) fn take_kept(&self, index: u32, bytes: usize) -> Option<Block> {
        if !self.keeps_blocks(index) {
            return None;
        }
        let word = &self.memory.job(index).input;
        let block = self.memory.kept(word, bytes);
        match block {
            Some(_) => word.store(0, Ordering::Relaxed),
            None => self.free_block(word),
        }
        block
    }

    /// Frees the block for items that an entry has kept, if nobody has taken it: the items lie elsewhere.
    #[inline]
    pub(super) fn free_kept(&self, index: u32) {
        self.free_block(&self.memory.job(index).input);
    }

    fn free_block(&self, word: &AtomicU64) {
        if let Some(block) = BlockId::from_bits(word.load(Ordering::Relaxed)) {
            self.memory.arena().free(block);
            // Not before: a caller that is a worker may die here, and what no word names is lost. A
            // block that was freed is not found again.
            word.store(0, Ordering::Relaxed);
        }
    }

    fn discard_parcel(&self, word: &AtomicU64) {
        if let Some(parcel) = BlockId::from_bits(word.load(Ordering::Relaxed)) {
            self.program.table.discard(&self.program.arena, parcel);
            // As above.
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Lets go of a job whose caller has gone: takes it back, or leaves it to be swept when its
    /// worker is through.
    pub(super) fn abandon_job(&self, index: u32) {
        if let Some(guest) = self.guest() {
            return self.abandon_nested(index, guest);
        }
        match self.memory.job(index).withdraw(None) {
            Withdrawal::Withdrawn | Withdrawal::IsOver => self.release_unread(index),
            Withdrawal::IsRunning => {
                // It stops after the item that it is at. Whatever it was by now, it is still ours.
                self.memory.job(index).set_count(0);
                self.stop_isolated(index);
                self.withdraw_remotely(index);
                self.leave_behind(index);
            }
        }
    }

    /// Takes a job of the parent's back, if no worker is at it and no item of it has begun; whether that
    /// is so.
    pub(super) fn recall_job(&self, index: u32) -> bool {
        let job = self.memory.job(index);
        let is_taken = self.guest().is_none()
            && job.first.load(Ordering::Relaxed) == 0
            && job.withdraw(None) == Withdrawal::Withdrawn;
        if is_taken {
            self.release_unread(index);
        }
        is_taken
    }

    /// As [`abandon_job`](Self::abandon_job), but has a worker that is at the job killed. Returns
    /// whether an item of it may have begun.
    pub(super) fn kill_job(&self, index: u32) -> bool {
        if let Some(guest) = self.guest() {
            return self.kill_nested(index, guest);
        }
        let job = self.memory.job(index);
        let is_withdrawn = job.withdraw(None) == Withdrawal::Withdrawn;
        let may_have_begun = !is_withdrawn || job.first.load(Ordering::Relaxed) > 0;
        if let Some(worker) = job.doom() {
            // From here on the worker cannot commit the job, and takes no other: the kill hits
            // nothing else.
            fault!("pool.doomed");
            self.cancel_remotely(index);
            self.leave_behind(index);
            self.kill_in_time(worker);
        } else {
            self.release_unread(index);
        }
        may_have_begun
    }

    fn leave_behind(&self, index: u32) {
        lock(&self.orphans).push(index);
        self.orphan_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives back the jobs that were left behind and are over.
    pub(super) fn sweep_orphans(&self) {
        // Relaxed: one that is missed is swept the next time.
        if self.orphan_count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut over = Vec::new();
        lock(&self.orphans).retain(|&index| {
            let is_over = self.memory.job(index).outlook() != Outlook::Waiting;
            if is_over {
                over.push(index);
            }
            !is_over
        });
        self.orphan_count.fetch_sub(over.len(), Ordering::Relaxed);
        for index in over {
            self.release_unread(index);
        }
    }

    /// Every entry of the job table that was ever used.
    pub(super) fn jobs(&self) -> impl Iterator<Item = u32> + use<> {
        (0..lock(&self.entries).reach).chain(self.memory.nested())
    }

    /// Walks the pool's memory, and counts the entries of the job table that are in use.
    pub(super) fn audit(&self) -> (Audit, usize) {
        let mut audit = self.memory.arena().audit(|owner| match owner {
            Owner::Process(holder) => self.memory.peers().is_alive(holder),
            Owner::Object(_) => false,
        });
        let (free, used): (Vec<u32>, Vec<u32>) = self
            .jobs()
            .partition(|&index| self.memory.job(index).phase() == Phase::Free);
        // What entries keep while they are free is accounted for.
        for job in free.into_iter().map(|index| self.memory.job(index)) {
            let kept = [&job.input, &job.result].map(|word| self.memory.kept(word, 0));
            audit.process_units -= kept.into_iter().flatten().count() as u64;
        }
        (audit, used.len())
    }

    /// Records how the worker ended that was at a job.
    pub(super) fn record_death(&self, index: u32, death: Death) {
        if index >= JOBS {
            return self.note_failure_of(index, &death);
        }
        let mut deaths = lock(&self.deaths);
        deaths.insert(index, Arc::new(death));
        self.has_deaths.store(true, Ordering::Relaxed);
    }

    /// How the worker ended that was at a job.
    pub(super) fn death(&self, index: u32) -> Option<Arc<Death>> {
        lock(&self.deaths).get(&index).cloned()
    }

    /// Forgets what [`record_death`](Self::record_death) recorded.
    #[inline]
    pub(super) fn forget_death(&self, index: u32) {
        if index >= JOBS {
            return self.memory.forget_failure(index);
        }
        // Relaxed: it was recorded before the job's word said that it is dead, which its caller has read.
        if self.has_deaths.load(Ordering::Relaxed) {
            let mut deaths = lock(&self.deaths);
            deaths.remove(&index);
            self.has_deaths.store(!deaths.is_empty(), Ordering::Relaxed);
        }
    }
}

impl trace::Source for Inner {
    fn hand_in(&self) {
        if self.memory.has_nested() {
            self.take_news();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if is_forked() {
            return;
        }
        // The blocks go with the memory; the handles in jobs that are still there do not.
        for index in self.jobs() {
            let job = self.memory.job(index);
            if job.phase() != Phase::Free {
                self.discard_results(job);
            }
            self.discard_parcel(&job.input_parcel);
            self.discard_parcel(&job.result_parcel);
        }
        if let Some(parcel) = self.initializer_parcel {
            self.program.table.discard(&self.program.arena, parcel);
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("workers", &self.workers())
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

/// Locks a mutex under which no user code runs, so that a poisoned one is as good as any.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
