//! What the threads of a pool's parent share: which entries of the job table are free, which calls
//! are under way, whether the pool still runs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use super::driver::Driver;
use super::events::Listener;
use super::failure::{self, Cause, Death};
use super::job::{JOBS, Outlook, Withdrawal};
use super::region::{CLOSED, Memory, STOPPED};
use super::remote::Remote;
use super::stats::Totals;
use super::supervisor::Crew;
use super::terms::Terms;
use super::timer::Timer;
use crate::error::Error;
use crate::fault::fault;
use crate::life::program::is_forked;
use crate::life::{Program, program};
use crate::loom::{AtomicU64, Ordering};
use crate::process::StartMethod;
use crate::process::limits::Limits;
use crate::process::message::Scheduling;
use crate::shm::BlockId;

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
    /// How many workers there are meant to be, at most.
    pub(super) workers: AtomicUsize,
    /// Whether there are fewer.
    pub(super) is_short: AtomicBool,
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
    /// Jobs that a caller left behind while workers were at them.
    orphans: Mutex<Vec<u32>>,
    orphan_count: AtomicUsize,
    /// Streams that are alive.
    pub(super) streams: AtomicUsize,
    next_call: AtomicU32,
    /// Drives the calls that nobody waits for.
    pub(super) driver: Driver,
    /// Ends what takes too long.
    pub(super) timer: Timer,
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
}

impl Inner {
    pub(super) fn new(settings: Settings, workers: usize) -> Result<Self, Error> {
        let program = program()?;
        let memory = Memory::create(program)?;
        let header = memory.header();
        let idle = settings.idle_timeout.map_or(0, |idle| {
            u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX).max(1)
        });
        // Workers read them once they are started.
        for (word, limit) in [
            (&header.max_tasks, settings.max_tasks.unwrap_or(0)),
            (&header.max_memory, settings.max_memory.unwrap_or(0)),
            (&header.idle_timeout, idle),
            (&header.drains, u64::from(settings.drain.is_some())),
        ] {
            word.store(limit, Ordering::Relaxed);
        }
        Ok(Self {
            program,
            memory,
            settings,
            remote: None,
            this: OnceLock::new(),
            workers: AtomicUsize::new(workers),
            is_short: AtomicBool::new(true),
            gate: Mutex::default(),
            stop: OnceLock::new(),
            crew: Mutex::default(),
            crew_changed: Condvar::new(),
            cause: Cause::default(),
            totals: Mutex::default(),
            entries: Mutex::default(),
            entry_freed: Condvar::new(),
            deaths: Mutex::default(),
            orphans: Mutex::default(),
            orphan_count: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            next_call: AtomicU32::new(0),
            driver: Driver::default(),
            timer: Timer::default(),
            initializer_parcel: None,
        })
    }

    /// Leads to the bell of the driver's calls.
    pub(super) const DRIVER: u32 = 0;

    /// Tells the driver that something has changed.
    pub(super) fn ring_driver(&self) {
        let bell = self.memory.done_bell(Self::DRIVER);
        bell.ring_all(self.memory.peers());
    }

    /// How many jobs of one call are out at once: each worker has one to run and one to go on with,
    /// and the caller one to fill.
    pub(super) fn window_jobs(&self) -> usize {
        self.workers() * 2 + 1
    }

    /// How many workers there are meant to be, at most.
    pub(super) fn workers(&self) -> usize {
        match self.carrier() {
            Some(carrier) => carrier.workers().max(1),
            None => self.workers.load(Ordering::Relaxed),
        }
    }

    // Calls.

    /// Lets a call in and gives it a number.
    pub(super) fn enter(&self) -> Result<u32, Error> {
        if is_forked() {
            return Err(Error::forked());
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
            && let Err(error) = self.watch(limit)
        {
            self.leave();
            return Err(error);
        }
        Ok(number)
    }

    /// As [`leave`](Self::leave), for a call on these terms.
    pub(super) fn leave_watched(&self, terms: &Terms) {
        let limit = terms.limit();
        if limit > 0 {
            self.unwatch(limit);
        }
        self.leave();
    }

    /// Notes that a call is over.
    pub(super) fn leave(&self) {
        let mut gate = lock(&self.gate);
        gate.calls -= 1;
        self.count_calls(&gate);
        let is_over = gate.is_closed && gate.calls == 0;
        drop(gate);
        if is_over {
            self.memory.work_bell().ring_all(self.memory.peers());
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
        self.memory.work_bell().ring_all(self.memory.peers());
    }

    /// Refuses further calls, and has workers end after the job they are at.
    pub(super) fn begin_drain(&self) {
        let mut gate = lock(&self.gate);
        gate.is_closed = true;
        gate.is_draining = true;
        let flags = &self.memory.header().flags;
        flags.fetch_or(CLOSED | STOPPED, Ordering::Release);
        drop(gate);
        fault!("pool.draining");
        self.tell_unwanted(None);
        self.memory.work_bell().ring_all(self.memory.peers());
        self.end_rest();
    }

    /// Whether it takes no further calls.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.gate).is_closed
    }

    /// Whether there is, or may come, work for workers.
    pub(super) fn needs_workers(&self) -> bool {
        let gate = lock(&self.gate);
        self.stop().is_none() && !gate.is_draining && (!gate.is_closed || gate.calls > 0)
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

    /// Why no more jobs are run, if that is so.
    pub(super) fn stop(&self) -> Option<&Stop> {
        self.stop.get()
    }

    // Jobs.

    /// Takes a free entry of the job table, waiting for one; `None` if the pool has stopped.
    pub(super) fn acquire_job(&self) -> Option<u32> {
        let mut entries = lock(&self.entries);
        loop {
            if let Some(index) = entries.free.pop() {
                return Some(index);
            }
            if entries.reach < JOBS {
                entries.reach += 1;
                return Some(entries.reach - 1);
            }
            if self.stop().is_some() {
                return None;
            }
            let waited = self.entry_freed.wait_timeout(entries, NAP);
            (entries, _) = waited.unwrap_or_else(|poison| poison.into_inner());
            if self.orphan_count.load(Ordering::Relaxed) > 0 {
                drop(entries);
                self.sweep_orphans();
                entries = lock(&self.entries);
            }
        }
    }

    /// Gives back what a job that is over holds, but for the input that it is to be offered with
    /// again.
    pub(super) fn clear_result(&self, index: u32) {
        let job = self.memory.job(index);
        for word in [&job.result, &job.merged] {
            if let Some(block) = BlockId::from_bits(word.swap(0, Ordering::Relaxed)) {
                self.memory.arena().free(block);
            }
        }
        // One that its worker owned was freed with the worker, and is not found again.
        self.discard_parcel(&job.result_parcel);
        lock(&self.deaths).remove(&index);
    }

    /// Gives back all that a job that is over holds, and its entry.
    pub(super) fn release_job(&self, index: u32) {
        self.clear_result(index);
        let job = self.memory.job(index);
        if let Some(block) = BlockId::from_bits(job.input.swap(0, Ordering::Relaxed)) {
            self.memory.arena().free(block);
        }
        self.discard_parcel(&job.input_parcel);
        job.release();
        lock(&self.entries).free.push(index);
        self.entry_freed.notify_one();
    }

    fn discard_parcel(&self, word: &AtomicU64) {
        if let Some(parcel) = BlockId::from_bits(word.swap(0, Ordering::Relaxed)) {
            self.program.table.discard(&self.program.arena, parcel);
        }
    }

    /// Lets go of a job whose caller has gone: takes it back, or leaves it to be swept when its
    /// worker is through.
    pub(super) fn abandon_job(&self, index: u32) {
        match self.memory.job(index).withdraw() {
            Withdrawal::Withdrawn | Withdrawal::IsOver => self.release_job(index),
            Withdrawal::IsRunning => {
                // It stops after the item that it is at. Whatever it was by now, it is still ours.
                self.memory.job(index).count.store(0, Ordering::Relaxed);
                self.withdraw_remotely(index);
                self.leave_behind(index);
            }
        }
    }

    /// As [`abandon_job`](Self::abandon_job), but has a worker that is at the job killed. Returns
    /// whether an item of it may have begun.
    pub(super) fn kill_job(&self, index: u32) -> bool {
        let job = self.memory.job(index);
        let is_withdrawn = job.withdraw() == Withdrawal::Withdrawn;
        let may_have_begun = !is_withdrawn || job.first.load(Ordering::Relaxed) > 0;
        if let Some(worker) = job.doom() {
            // From here on the worker cannot commit the job, and takes no other: the kill hits
            // nothing else.
            fault!("pool.doomed");
            self.cancel_remotely(index);
            self.leave_behind(index);
            self.kill_in_time(worker);
        } else {
            self.release_job(index);
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
            self.release_job(index);
        }
    }

    /// Every entry of the job table that was ever used.
    pub(super) fn jobs(&self) -> std::ops::Range<u32> {
        0..lock(&self.entries).reach
    }

    /// Records how the worker ended that was at a job.
    pub(super) fn record_death(&self, index: u32, death: Death) {
        lock(&self.deaths).insert(index, Arc::new(death));
    }

    /// How the worker ended that was at a job.
    pub(super) fn death(&self, index: u32) -> Option<Arc<Death>> {
        lock(&self.deaths).get(&index).cloned()
    }

    /// Forgets what [`record_death`](Self::record_death) recorded.
    pub(super) fn forget_death(&self, index: u32) {
        lock(&self.deaths).remove(&index);
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
