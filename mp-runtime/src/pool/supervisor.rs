//! The workers of a pool as their parent sees them: started, watched, replaced, ended.
//!
//! What is called when a worker has ended runs on `mp`'s supervisor thread, or on whatever thread
//! finds out first; no user code runs in here.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::attendant::{self, Attendance};
use super::events::PoolEvent;
use super::failure::{self, Death, Who};
use super::initializer;
use super::inner::{Inner, Stop, lock};
use super::region::Memory;
use super::seat::Said;
use super::stats::{PoolStats, WorkerStats};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fault::fault;
use crate::loom::{Ordering, fence};
use crate::process::Stdio;
use crate::process::message::Scheduling;
use crate::process::running::{Ended, Heir, Running};
use crate::process::spawn;
use crate::shm::{BlockId, Owner};
use crate::sync::raw::{Holder, Peers};
use crate::sys;
use crate::sys::process::Status;

/// Fork servers in a row that die before they have made a worker, after which it counts as one that
/// cannot be started.
const MOST_SERVERS: u32 = 5;
/// Workers in a row that end before they are ready, after which no more are started.
const MOST_FAILED_STARTS: u32 = 5;
/// Times in a row that the system may refuse to start a worker, after which a pool without any gives
/// up.
const MOST_REFUSALS: u32 = 5;
/// Workers in a row that end without having had a job, for each that the pool should have, after
/// which no more are started.
const MOST_IDLE_ENDS: u32 = 100;
/// How long no workers are started after two in a row that came to nothing; it doubles with each
/// more, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Workers that have ended whose names are remembered, for the errors of jobs they had done.
const PAST: usize = 1024;

/// The workers there are.
#[derive(Debug, Default)]
pub(super) struct Crew {
    live: HashMap<u32, Member>,
    past: VecDeque<Who>,
    /// Workers that were ever started.
    started: u64,
    /// Workers that ended as planned, and in another way.
    retired: u64,
    died: u64,
    /// Workers in a row that ended before they were ready, and without having had a job.
    failed_starts: u32,
    idle_ends: u32,
    /// Times in a row that the system refused to start one.
    refusals: u32,
    /// The jobs that were done when last one looked.
    finished: u64,
    /// No workers are started before, since those before them came to nothing.
    pub(super) rest: Option<Deadline>,
    /// Whether a thread hands jobs to workers elsewhere.
    pub(super) is_dispatching: bool,
}

/// A worker that has not ended, as far as is known.
#[derive(Debug)]
struct Member {
    running: Arc<Running>,
    number: u64,
    /// If it is isolated, who acts in its name.
    attendance: Option<Arc<Attendance>>,
    /// It was asked to end after the job it is at, or has ended and another has its seat.
    is_dismissed: bool,
    /// It was asked to stand by: others run in its place.
    stands_by: bool,
}

impl Crew {
    /// Adds a worker that was just started.
    fn enlist(&mut self, member: Member) {
        let holder = member.running.holder;
        // Whoever had its seat has ended, though that may not be settled yet. What that one was asked
        // from now on would overwrite what this one is asked.
        for other in self.live.values_mut() {
            if other.running.holder.slot() == holder.slot() {
                other.is_dismissed = true;
            }
        }
        self.live.insert(holder.bits(), member);
    }

    /// Notes who a worker was, which has ended.
    fn remember(&mut self, who: Who) {
        self.past.push_back(who);
        if self.past.len() > PAST {
            self.past.pop_front();
        }
    }

    /// Workers that were not asked to end, and those of them that wait for calls of their tasks.
    fn staying(&self, memory: &Memory) -> (usize, Vec<Holder>) {
        let staying = self.live.values().filter(|member| !member.is_dismissed);
        let holders = staying.clone().map(|member| member.running.holder);
        let waiting = holders.filter(|&holder| memory.seat(holder).is_waiting(holder));
        (staying.count(), waiting.collect())
    }

    /// Workers that run jobs: were not asked to end or to stand by, and do not wait for calls of their
    /// tasks.
    fn running(&mut self, memory: &Memory) -> Vec<&mut Member> {
        let members = self.live.values_mut().filter(|member| {
            let holder = member.running.holder;
            !member.is_dismissed && !member.stands_by && !memory.seat(holder).is_waiting(holder)
        });
        members.collect()
    }

    /// Workers that stand by, the oldest first.
    fn standing_by(&mut self) -> Vec<&mut Member> {
        let members = self.live.values_mut();
        let mut members: Vec<_> = members
            .filter(|member| member.stands_by && !member.is_dismissed)
            .collect();
        members.sort_by_key(|member| member.number);
        members
    }

    /// Has workers stand by that are too many to run, or run again, so that as many serve as are
    /// wanted, if there are as many, and no more than `most`. Returns how many serve: run jobs or
    /// wait.
    fn balance(&mut self, memory: &Memory, wanted: usize, most: usize) -> usize {
        let (staying, waiting) = self.staying(memory);
        let mut standing_by = self.standing_by();
        let mut serving = staying - standing_by.len();
        let mut any = false;
        // Those that wait go on at their jobs whoever stands by.
        standing_by.sort_by_key(|member| !waiting.contains(&member.running.holder));
        for member in standing_by {
            if serving < wanted || waiting.contains(&member.running.holder) {
                member.stand_by(memory, false);
                serving += 1;
                any = true;
            }
        }
        if serving > most {
            let members = self.live.values_mut();
            let mut members: Vec<_> = members
                .filter(|member| !member.stands_by && !member.is_dismissed)
                .filter(|member| !waiting.contains(&member.running.holder))
                .collect();
            // The newest first: the others have more in their caches.
            members.sort_by_key(|member| Reverse(member.number));
            for member in members.into_iter().take(serving - most) {
                member.stand_by(memory, true);
                serving -= 1;
                any = true;
            }
        }
        if any {
            memory.ring_workers();
        }
        serving
    }

    /// Workers in a row that came to nothing.
    fn vain(&self) -> u32 {
        self.failed_starts.saturating_add(self.idle_ends)
    }

    /// How long no workers are started, after so many.
    fn pause(&self) -> Duration {
        self.vain().checked_sub(2).map_or(Duration::ZERO, pause)
    }

    /// Whether so many came to nothing that no more are started.
    fn has_given_up(&self, workers: usize) -> bool {
        self.failed_starts >= MOST_FAILED_STARTS
            || self.idle_ends >= MOST_IDLE_ENDS.saturating_mul(workers as u32)
    }
}

/// How long no workers are started, which doubles each time.
fn pause(times: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.saturating_pow(times.min(10))).min(LONGEST_PAUSE)
}

impl Member {
    fn stand_by(&mut self, memory: &Memory, stands_by: bool) {
        self.stands_by = stands_by;
        let holder = self.running.holder;
        memory.seat(holder).set_standby(holder, stands_by);
    }
}

/// What sees to a worker that has ended.
struct WorkerHeir {
    pool: Weak<Inner>,
    /// There also while the pool is being dropped.
    memory: Memory,
    /// If it is isolated, who acts in its name.
    attendance: Option<Arc<Attendance>>,
    /// What it had said of itself when its slot, and with it its seat, was given to another.
    said: Said,
}

impl Heir for WorkerHeir {
    fn look(&mut self, worker: &Running) {
        if let Some(attendance) = &self.attendance {
            attendance.note_end();
        }
        self.said = self.memory.seat(worker.holder).said(worker.holder);
    }

    fn settle(mut self: Box<Self>, worker: &Running, ended: &Ended) {
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        if let Some(attendance) = &self.attendance {
            // Before its jobs are buried: nobody may act in its name by then.
            attendance.end(&pool);
            let last = attendance.last_words();
            self.said.is_ready |= last.is_ready;
            self.said.leave = last.leave;
        }
        pool.on_worker_end(worker, ended, self.said);
    }
}

impl Inner {
    /// Starts workers until there are as many as there should be now.
    pub(super) fn fill_crew(&self) -> Result<(), Error> {
        // Held all the while, so that a worker that ends at once is found in the list.
        let mut crew = lock(&self.crew);
        let workers = self.workers();
        let (staying, waiting) = crew.staying(&self.memory);
        let most = workers + waiting.len();
        self.set_short(staying - crew.standing_by().len() < most);
        let wanted = self.wanted(workers, &waiting);
        let mut serving = crew.balance(&self.memory, wanted, most);
        let wanted = match crew.rest {
            Some(_) => 0,
            None => wanted,
        };
        let mut fresh = Vec::new();
        let mut result = Ok(());
        while serving < wanted && !crew.has_given_up(workers) && self.needs_workers() {
            let number = crew.started + 1;
            let mut started = self.start_worker(number);
            for _ in 1..MOST_SERVERS {
                // Nothing has begun, and the server's death is not the pool's.
                if !matches!(&started, Err(error) if error.is_server_gone()) {
                    break;
                }
                started = self.start_worker(number);
            }
            let (running, attendance) = match started {
                Ok(started) => started,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            fresh.push(running.clone());
            let member = Member {
                running: running.clone(),
                number,
                attendance,
                is_dismissed: false,
                stands_by: false,
            };
            crew.started = number;
            crew.refusals = 0;
            crew.enlist(member);
            serving += 1;
        }
        self.set_short(serving < most);
        let unseen = match result {
            Ok(()) => Vec::new(),
            Err(_) => self.unseen(&mut crew),
        };
        drop(crew);
        if result.is_err() {
            for who in unseen {
                self.settle_jobs(&who, &Ended::KILLED_UNSEEN);
            }
            // One that had claimed nothing may have taken a wake-up.
            self.memory.ring_workers();
        }
        for running in fresh {
            self.tell(|| PoolEvent::WorkerStarted {
                name: running.name.clone(),
                pid: running.pid,
            });
        }
        result
    }

    /// Those that were started, and killed since they could not be watched, but had claimed a job by then.
    fn unseen(&self, crew: &mut Crew) -> Vec<Who> {
        let me = self.memory.peers().me();
        let mut unseen: Vec<Who> = Vec::new();
        for index in self.jobs() {
            // Of those that were watched, the jobs are buried before they are taken off the list.
            if let Some(holder) = self.memory.job(index).runner()
                && holder != me
                && !crew.live.contains_key(&holder.bits())
                && !crew.past.iter().any(|who| who.holder == holder)
                && !self.memory.peers().is_alive(holder)
            {
                let who = Who {
                    holder,
                    name: "a worker that had just been started".to_owned(),
                    pid: 0,
                };
                crew.remember(who.clone());
                unseen.push(who);
            }
        }
        unseen
    }

    /// How many workers should serve now: all, or if they come on demand one for each job that is
    /// out; and one more for each that waits for calls of its task, if there are jobs for it.
    fn wanted(&self, workers: usize, waiting: &[Holder]) -> usize {
        if self.remote.is_some() {
            return 0;
        }
        let is_on_demand = self.settings.idle_timeout.is_some();
        if waiting.is_empty() && !is_on_demand {
            return workers;
        }
        let is_to_do = |&index: &u32| {
            let job = self.memory.job(index);
            job.is_out() && job.runner().is_none_or(|runner| !waiting.contains(&runner))
        };
        let for_jobs = waiting.len() + self.jobs().filter(is_to_do).take(workers).count();
        match is_on_demand {
            true => for_jobs,
            false => for_jobs.max(workers),
        }
    }

    /// Notes whether there are fewer workers than there may be.
    fn set_short(&self, is_short: bool) {
        let header = self.memory.header();
        header
            .is_short
            .store(u64::from(is_short), Ordering::Relaxed);
        // SeqCst: pairs with the fence in `summon`. Either we see its job, or it that one is lacking.
        fence(Ordering::SeqCst);
    }

    /// Has a worker started for a job that was just put into the ring, if they come on demand and
    /// there are fewer than jobs.
    #[inline]
    pub(super) fn summon(&self) {
        if self.settings.idle_timeout.is_some() || self.memory.has_nested() {
            self.summon_on_demand();
        }
    }

    fn summon_on_demand(&self) {
        // SeqCst: pairs with the fence in `set_short`.
        fence(Ordering::SeqCst);
        let is_short = self.memory.header().is_short.load(Ordering::Relaxed) != 0;
        if is_short && self.guest().is_some() {
            self.ring_desk();
        } else if is_short && let Err(error) = self.fill_crew() {
            let is_hopeless = self.note_refusal(&error);
            self.break_if_deserted(is_hopeless);
        }
    }

    /// Makes the pool larger or smaller.
    pub(super) fn resize(&self, workers: usize) -> Result<(), Error> {
        if self.remote.is_some() {
            return Err(Error::unsupported(
                "the workers of this pool are elsewhere: their number changes as machines join and leave",
            ));
        }
        let mut crew = lock(&self.crew);
        if let Some(Stop::Broken(error)) = self.stop() {
            return Err(error.clone());
        }
        if !self.needs_workers() || self.is_closed() {
            return Err(failure::closed());
        }
        let header = self.memory.header();
        let before = header.workers.swap(workers as u64, Ordering::Relaxed);
        // Who asks for workers does not wait for them.
        crew.rest = None;
        let mut running = crew.running(&self.memory);
        let surplus = running.len().saturating_sub(workers);
        // The newest first: the others have more in their caches.
        running.sort_by_key(|member| Reverse(member.number));
        for member in running.into_iter().take(surplus) {
            member.is_dismissed = true;
            let holder = member.running.holder;
            self.memory.seat(holder).dismiss(holder);
        }
        drop(crew);
        self.tell(|| PoolEvent::Resized { workers });
        fault!("pool.resizing");
        self.memory.ring_workers();
        let result = self.fill_crew();
        if result.is_err() {
            let (staying, _) = lock(&self.crew).staying(&self.memory);
            let there = before.max(staying as u64);
            // Unless somebody has set another number since.
            let (asked, order) = (workers as u64, Ordering::Relaxed);
            let set = header.workers.compare_exchange(asked, there, order, order);
            if set.is_ok() {
                let workers = there as usize;
                self.tell(|| PoolEvent::Resized { workers });
            }
        }
        result
    }

    fn start_worker(&self, number: u64) -> Result<(Arc<Running>, Option<Arc<Attendance>>), Error> {
        let prefix = self.settings.name.as_deref().unwrap_or("Worker");
        let settings = spawn::Settings {
            name: Some(format!("{prefix}-{number}")),
            env: self.settings.env.clone(),
            // Two workers that read from one terminal would share the lines out at random.
            stdio: [Stdio::null(), Stdio::inherit(), Stdio::inherit()],
            is_daemon: Some(true),
            asked: self.settings.asked.clone(),
            inherited: Some(Scheduling {
                cpu_affinity: self.settings.cpu_affinity.clone(),
                nice: self.settings.nice,
            }),
            limits: self.settings.limits.clone(),
            start_method: self.settings.start_method,
            #[cfg(feature = "sandbox")]
            sandbox: self.settings.sandbox.clone(),
            ..spawn::Settings::default()
        };
        if self.settings.is_isolated {
            let (running, attendance) = self.start_isolated(settings)?;
            return Ok((running, Some(attendance)));
        }
        let region = self.memory.region().clone();
        let heir = WorkerHeir {
            pool: self.this.get().cloned().unwrap_or_default(),
            memory: self.memory.clone(),
            attendance: None,
            said: Said::default(),
        };
        let job = spawn::Job::Pool { region };
        let running = spawn::start(settings, job, Some(Box::new(heir)))?;
        Ok((running, None))
    }

    /// Starts a worker that shares no memory with us, and the thread that acts in its name.
    fn start_isolated(
        &self,
        settings: spawn::Settings,
    ) -> Result<(Arc<Running>, Arc<Attendance>), Error> {
        // One that is being dropped has stopped.
        let this = self.this.get().and_then(Weak::upgrade);
        let this = this.ok_or_else(failure::closed)?;
        let (attendance, link, socket) = Attendance::new()
            .map_err(|error| Error::not_started("could not make a worker's socket", error))?;
        let job = spawn::Job::Isolated {
            socket,
            message: attendance.message.clone(),
        };
        let heir = WorkerHeir {
            pool: Arc::downgrade(&this),
            memory: self.memory.clone(),
            attendance: Some(attendance.clone()),
            said: Said::default(),
        };
        let running = spawn::start(settings, job, Some(Box::new(heir)))?;
        // Without a thread the worker finds its link shut, and ends.
        attendant::attend(this, &attendance, link, running.holder)?;
        Ok((running, attendance))
    }

    /// Settles what a worker has left, which is gone: its job, its memory, its place. `said` is what it
    /// had said of itself.
    fn on_worker_end(&self, running: &Running, ended: &Ended, said: Said) {
        let who = Who {
            holder: running.holder,
            name: running.name.clone(),
            pid: running.pid,
        };
        let had_job = self.settle_jobs(&who, ended);
        self.replace(who, running, ended, said, had_job);
    }

    /// Settles all that a worker has left in the pool's memory, which is gone; whether it was at a job.
    fn settle_jobs(&self, who: &Who, ended: &Ended) -> bool {
        let results = self.bury_jobs(who, ended);
        fault!("pool.buried");
        if self.memory.has_nested() {
            // The blocks are the worker's.
            self.take_news();
        }
        self.free_memory(who.holder, results);
        if self.memory.has_nested() {
            self.end_calls_of(who.holder);
            self.memory.mark_all_ready();
        }
        // Everybody: a wake-up may have died with the worker, whichever bell it was for.
        self.memory.ring_everybody();
        results.is_some()
    }

    /// Marks the job that the worker was at. Returns the name of its results' block, if there was
    /// such a job.
    fn bury_jobs(&self, who: &Who, ended: &Ended) -> Option<u64> {
        let mut results = None;
        for index in self.jobs() {
            let job = self.memory.job(index);
            if job.runner() != Some(who.holder) {
                continue;
            }
            // Nobody changes either any more, until the caller finds the job dead.
            results = Some(job.result.load(Ordering::Acquire));
            let death = Death {
                who: who.clone(),
                ended: ended.clone(),
                is_for_another: false,
            };
            self.record_death(index, death);
            if !job.bury(who.holder) {
                self.forget_death(index);
            }
        }
        results
    }

    /// Frees what the worker owned in the pool's memory, but for the results that the caller takes
    /// over.
    fn free_memory(&self, worker: Holder, results: Option<u64>) {
        let kept = results.and_then(BlockId::from_bits);
        let arena = self.memory.arena();
        for block in arena.left_by(Owner::Process(worker)) {
            if Some(block) != kept {
                arena.free(block);
            }
        }
    }

    /// Takes the worker off the list and starts another, if there is need and hope.
    fn replace(&self, who: Who, running: &Running, ended: &Ended, said: Said, had_job: bool) {
        let is_planned = said.leave.is_some() && ended.status == Status::Exited(0);
        let finished = self.memory.header().finished.load(Ordering::Relaxed);
        let mut crew = lock(&self.crew);
        crew.live.remove(&who.holder.bits());
        let vain = crew.vain();
        if had_job || said.jobs > 0 {
            crew.failed_starts = 0;
            crew.idle_ends = 0;
        } else if !said.is_ready {
            crew.failed_starts += 1;
            self.cause.set(self.describe(&who, ended, said));
        } else if finished != crew.finished {
            crew.idle_ends = 0;
        } else if !is_planned {
            crew.idle_ends += 1;
            self.cause.set(self.describe(&who, ended, said));
        }
        crew.finished = finished;
        let pause = crew.pause();
        if crew.vain() > vain && !pause.is_zero() && !crew.has_given_up(self.workers()) {
            self.rest_crew(&mut crew, pause);
        }
        // Those that were killed with their pool did not die of anything else.
        match is_planned || matches!(self.stop(), Some(Stop::Terminated)) {
            true => crew.retired += 1,
            false => crew.died += 1,
        }
        crew.remember(who.clone());
        drop(crew);
        // Now that no more are posted to it.
        self.refuse_letters(&who, running, ended, is_planned);
        self.tell(|| PoolEvent::WorkerEnded {
            reason: match said.leave.filter(|_| is_planned) {
                Some(leave) => leave.to_string(),
                None => failure::how(ended),
            },
            name: who.name,
            pid: who.pid,
            is_planned,
        });
        fault!("pool.replacing");
        self.start_lacking();
    }

    /// Starts the workers that are lacking, or stops the pool if there are none and cannot be.
    pub(super) fn start_lacking(&self) {
        let result = self.fill_crew();
        let is_hopeless = result.is_err_and(|error| self.note_refusal(&error));
        self.break_if_deserted(is_hopeless);
        self.refuse_if_stuck(is_hopeless);
        self.crew_changed.notify_all();
    }

    /// Notes that a worker could not be started, and has it tried again after a pause: what is short,
    /// descriptors say, may come back. Returns whether that was so often enough to give up where
    /// there are no others.
    pub(super) fn note_refusal(&self, error: &Error) -> bool {
        self.cause.set_refused(format!("{error:#}"));
        let mut crew = lock(&self.crew);
        if crew.rest.is_some() {
            // Several threads may have tried at the same moment, and that is one refusal.
            return false;
        }
        let pause = pause(crew.refusals);
        crew.refusals = crew.refusals.saturating_add(1);
        self.rest_crew(&mut crew, pause);
        crew.refusals >= MOST_REFUSALS || crew.rest.is_none()
    }

    /// The workers that stay, the oldest first.
    pub(super) fn staying(&self) -> Vec<Holder> {
        let crew = lock(&self.crew);
        let members = crew.live.values().filter(|member| !member.is_dismissed);
        let mut staying: Vec<_> = members.map(|it| (it.number, it.running.holder)).collect();
        staying.sort_unstable_by_key(|&(number, _)| number);
        staying.into_iter().map(|(_, holder)| holder).collect()
    }

    /// Tells a worker of a job that is ready for it alone.
    pub(super) fn post(&self, index: u32, worker: Holder) {
        let crew = lock(&self.crew);
        if crew.live.contains_key(&worker.bits()) {
            // Whoever takes it off the list refuses its letters afterwards.
            self.memory.seat(worker).post();
            drop(crew);
            fault!("pool.posted");
            self.memory.ring_workers();
        } else {
            self.memory.job(index).refuse(worker);
        }
    }

    /// Marks the jobs that were for a worker alone, which has ended, and that it did not claim.
    fn refuse_letters(&self, who: &Who, running: &Running, ended: &Ended, is_planned: bool) {
        for index in self.jobs() {
            let job = self.memory.job(index);
            let is_its = job.target.load(Ordering::Relaxed) == who.holder.bits();
            if !is_its || !job.is_ready() {
                continue;
            }
            // That it was to end is no cause.
            if !is_planned {
                let death = Death {
                    who: who.clone(),
                    ended: ended.clone(),
                    is_for_another: running.is_killed(),
                };
                self.record_death(index, death);
            }
            // Read before: afterwards the job is the caller's.
            let bell = job.bell.load(Ordering::Relaxed);
            if job.refuse(who.holder) {
                self.memory.done_bell(bell).ring_all(self.memory.peers());
            } else {
                self.forget_death(index);
            }
        }
    }

    /// Stops the pool if it has no workers and, because one could not be started or too many came
    /// to nothing, gets none.
    fn break_if_deserted(&self, has_failed: bool) {
        let crew = lock(&self.crew);
        let is_hopeless = has_failed || crew.has_given_up(self.workers());
        let is_deserted = crew.live.is_empty();
        drop(crew);
        if is_deserted && is_hopeless && self.needs_workers() {
            let error = self.cause.error();
            self.set_stop(Stop::Broken(error.clone()));
            self.tell(|| PoolEvent::Stopped { error });
        }
    }

    /// Whether all workers wait for calls of their tasks, and, because one could not be started or too
    /// many came to nothing, there is none to run what they wait for.
    pub(super) fn is_stuck(&self, has_failed: bool) -> bool {
        let mut crew = lock(&self.crew);
        let is_hopeless = has_failed || crew.has_given_up(self.workers());
        is_hopeless && crew.running(&self.memory).is_empty()
    }

    /// The shortest limit of calls that tasks have under way, in nanoseconds.
    pub(super) fn shortest_limit_of_calls(&self) -> Option<u64> {
        let crew = lock(&self.crew);
        let holders = crew.live.values().map(|member| member.running.holder);
        // Of one that has ended, nobody says when it is taken off the list.
        let holders = holders.filter(|&holder| self.memory.peers().is_alive(holder));
        let limits = holders.filter_map(|holder| self.memory.seat(holder).limit(holder));
        limits.min()
    }

    /// Adds the workers to the figures.
    pub(super) fn add_crew(&self, stats: &mut PoolStats) {
        let crew = lock(&self.crew);
        stats.workers_started = crew.started;
        stats.workers_retired = crew.retired;
        stats.workers_died = crew.died;
        let mut members: Vec<_> = crew.live.values().collect();
        members.sort_by_key(|member| member.number);
        for Member { running, .. } in members {
            let said = self.memory.seat(running.holder).said(running.holder);
            stats.workers.push(WorkerStats {
                name: running.name.clone(),
                pid: running.pid,
                is_ready: said.is_ready,
                is_busy: false,
                items: said.items,
                jobs: said.jobs,
                working: Duration::from_nanos(said.busy),
            });
        }
    }

    /// Why a worker that had no job ended, in words.
    fn describe(&self, who: &Who, ended: &Ended, said: Said) -> String {
        if !said.is_ready
            && let Some(text) = initializer::failure(&self.memory)
        {
            return text;
        }
        // With hands shaken there is nothing else that it could have been at.
        let initializing = (!said.is_ready && ended.has_begun)
            .then(|| initializer::not_through(&self.memory))
            .flatten();
        let when = initializing
            .as_deref()
            .unwrap_or("before it had done anything");
        failure::describe(who, ended, when)
    }

    /// Who a worker is or was, for an error.
    pub(super) fn who(&self, holder: Holder) -> Option<(String, u32)> {
        if self.guest().is_some() {
            return self.memory.worker(holder);
        }
        let crew = lock(&self.crew);
        match crew.live.get(&holder.bits()) {
            Some(member) => Some((member.running.name.clone(), member.running.pid)),
            None => crew
                .past
                .iter()
                .rev()
                .find(|who| who.holder == holder)
                .map(|who| (who.name.clone(), who.pid)),
        }
    }

    /// Has isolated workers, all or one, know that nobody wants what they are at. The others see it in
    /// the pool's memory.
    pub(super) fn tell_unwanted(&self, worker: Option<Holder>) {
        if !self.settings.is_isolated {
            return;
        }
        let crew = lock(&self.crew);
        let of_worker = |member: &&Member| worker.is_none_or(|it| member.running.holder == it);
        for member in crew.live.values().filter(of_worker) {
            if let Some(attendance) = &member.attendance {
                attendance.dismiss();
            }
        }
    }

    /// Has an isolated worker stop at a job whose caller has gone. The others see it in the pool's memory.
    pub(super) fn stop_isolated(&self, index: u32) {
        if !self.settings.is_isolated {
            return;
        }
        let Some(runner) = self.memory.job(index).runner() else {
            return;
        };
        let crew = lock(&self.crew);
        let member = crew.live.get(&runner.bits());
        let attendance = member.and_then(|member| member.attendance.clone());
        drop(crew);
        if let Some(attendance) = attendance {
            attendance.stop(index);
        }
    }

    /// Kills one worker, if it has not ended.
    pub(super) fn kill_worker(&self, worker: Holder) {
        // Not under the lock: a worker that has ended is settled in here.
        let crew = lock(&self.crew);
        let member = crew.live.get(&worker.bits());
        let running = member.map(|member| member.running.clone());
        drop(crew);
        if let Some(running) = running {
            running.signal(sys::signal::KILL);
        }
    }

    /// Kills all workers.
    pub(super) fn kill_crew(&self) {
        // Not under the lock: a worker that has ended is settled in here.
        let crew = lock(&self.crew);
        let live: Vec<_> = crew.live.values().map(|it| it.running.clone()).collect();
        drop(crew);
        for worker in live {
            worker.signal(sys::signal::KILL);
        }
    }

    /// Waits until no worker is left; false if `deadline` came first.
    pub(super) fn wait_for_crew(&self, deadline: Deadline) -> bool {
        let mut crew = lock(&self.crew);
        // There may be none for a moment, between two of them, or none yet for a call that is to come.
        while !crew.live.is_empty() || crew.is_dispatching || self.needs_workers() {
            if deadline.has_passed() {
                return false;
            }
            let changed = &self.crew_changed;
            crew = match deadline.remaining() {
                Some(left) => match changed.wait_timeout(crew, left) {
                    Ok((crew, _)) => crew,
                    Err(poison) => poison.into_inner().0,
                },
                None => changed
                    .wait(crew)
                    .unwrap_or_else(|poison| poison.into_inner()),
            };
        }
        true
    }
}
