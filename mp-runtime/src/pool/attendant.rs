//! The parent's half of an isolated worker: a thread that claims jobs in the worker's name, hands
//! them through a socket, and puts what comes back into the pool's memory.
//!
//! To the rest of the pool it and its process are one worker as any other; see "Isolated workers" in
//! `pool/README.md`. It runs no user code, and decodes nothing but the frames.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use super::inner::{Inner, lock};
use super::isolated;
use super::job::{Early, Expired, Finish, Job, Progress, Running};
use super::link::{self, Broken, Closer, End, Kind, Link, MOST_TEXT, Nonce, Setup};
use super::region::{CLOSED, Choice, DRAINING, STOPPED};
use super::seat::{Leave, Seat};
use super::{initializer, wire};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fault::fault;
use crate::life::program;
use crate::loom::Ordering;
use crate::shm::BlockId;
use crate::shm::buffer::{Buffer, Full};
use crate::sync::raw::Holder;
use crate::sys;
use crate::task::call::{self, Tag, read_record};
use crate::wire::codec;

/// How long it waits for memory to come free before it looks again.
const NAP: Duration = Duration::from_millis(5);

/// An attendant as those see it who start and end it.
#[derive(Debug)]
pub(super) struct Attendance {
    state: Mutex<State>,
    changed: Condvar,
    closer: Closer,
    /// The entry of the job that the worker is at, and whether it was told to stop at it. The thread
    /// sends nothing while it is set, and others only then, under the lock.
    job: Mutex<Option<(u32, bool)>>,
    /// What the worker is told first.
    pub(super) message: Arc<OnceLock<Vec<u8>>>,
    last_words: Mutex<LastWords>,
}

/// What is said in a worker's name, and counts also where it comes when the worker has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastWords {
    pub(super) is_ready: bool,
    pub(super) leave: Option<Leave>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The thread has not begun.
    New,
    /// It may be at a job.
    Attending,
    /// It is to stop.
    Ending,
    /// It touches no job any more, or never will.
    Over,
}

impl Attendance {
    /// Makes the link to a worker that is to be started: what the thread needs, and the worker's end.
    pub(super) fn new() -> std::io::Result<(Arc<Self>, Link, OwnedFd)> {
        let (ours, theirs) = sys::fd::socket_pair()?;
        let link = Link::new(ours);
        let attendance = Self {
            state: Mutex::new(State::New),
            changed: Condvar::new(),
            job: Mutex::default(),
            closer: link.closer()?,
            message: Arc::default(),
            last_words: Mutex::default(),
        };
        Ok((Arc::new(attendance), link, theirs))
    }

    /// Ends the thread, whose worker has ended: afterwards nobody acts in the worker's name. Takes no
    /// longer than it takes to copy what has arrived.
    pub(super) fn end(&self, pool: &Inner) {
        self.note_end();
        // Whatever it waits for: a frame, or a job.
        self.closer.shut();
        pool.memory.work_bell().alarm(pool.memory.peers());
        let mut state = lock(&self.state);
        while *state != State::Over {
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(|poison| poison.into_inner());
        }
    }

    /// Has the worker stop at a job after the item that it is at, if it is at that job: its caller has
    /// gone.
    pub(super) fn stop(&self, index: u32) {
        if let Some((at, is_told)) = &mut *lock(&self.job)
            && *at == index
        {
            *is_told = *is_told || self.closer.stop();
        }
    }

    fn set_job(&self, index: Option<u32>) {
        *lock(&self.job) = index.map(|index| (index, false));
    }

    /// Has the worker know that no more jobs come, and that nobody wants the one that it is at.
    pub(super) fn dismiss(&self) {
        self.closer.finish();
    }

    fn is_ending(&self) -> bool {
        *lock(&self.state) == State::Ending
    }

    /// What was said in the worker's name, which may have been after its seat was another's.
    pub(super) fn last_words(&self) -> LastWords {
        *lock(&self.last_words)
    }

    /// Notes that the worker has ended, and returns once nobody writes into its seat any more.
    pub(super) fn note_end(&self) {
        let mut state = lock(&self.state);
        match *state {
            State::New => *state = State::Over,
            State::Attending => *state = State::Ending,
            State::Ending | State::Over => {}
        }
    }

    /// Does what is for the worker's seat, unless the worker is known to have ended: then the seat may be
    /// another's. Not for long: whoever learns of the end waits.
    fn while_it_lives<T>(&self, write: impl FnOnce() -> T) -> Option<T> {
        let state = lock(&self.state);
        (*state == State::Attending).then(write)
    }

    fn begin(&self) -> bool {
        let mut state = lock(&self.state);
        let begins = *state == State::New;
        if begins {
            *state = State::Attending;
        }
        begins
    }

    fn leave(&self) {
        *lock(&self.state) = State::Over;
        self.changed.notify_all();
    }
}

/// Starts the thread for a worker that was started.
pub(super) fn attend(
    pool: Arc<Inner>,
    attendance: &Arc<Attendance>,
    link: Link,
    worker: Holder,
) -> Result<(), Error> {
    let settings = &pool.settings;
    let attendant = Attendant {
        left: settings.max_tasks.unwrap_or(u64::MAX),
        letters: 0,
        limit: settings.result_limit,
        idle_timeout: settings.idle_timeout.unwrap_or(Duration::MAX),
        is_heavy: false,
        pool,
        attendance: attendance.clone(),
        link,
        worker,
        random: RandomState::new(),
        jobs: 0,
        frame: Vec::new(),
        results: Vec::new(),
    };
    std::thread::Builder::new()
        .name("mp-attendant".to_owned())
        .spawn(move || attendant.run())
        .map(drop)
        .map_err(|error| {
            attendance.closer.shut();
            Error::not_started("could not start a thread for a worker", error)
        })
}

struct Attendant {
    pool: Arc<Inner>,
    attendance: Arc<Attendance>,
    link: Link,
    /// In whose name it claims.
    worker: Holder,
    /// Items that may still be run.
    left: u64,
    /// Jobs for its seat alone that are over, as it knows.
    letters: u32,
    /// Bytes of a result at most.
    limit: u64,
    /// How long it waits for a job.
    idle_timeout: Duration,
    /// Whether the worker has as much memory as it may.
    is_heavy: bool,
    /// Makes the jobs' nonces.
    random: RandomState,
    jobs: u64,
    /// What has just arrived.
    frame: Vec<u8>,
    /// The records of the job it is at. Private, so that a worker cannot fill the pool's memory
    /// before its results are complete.
    results: Vec<u8>,
}

/// How a job ended.
enum Ended {
    /// As it should, by the worker's word.
    Early(Early),
    /// The worker is gone, or the link was shut.
    Gone,
    /// The worker broke the protocol.
    Senseless,
}

/// Says that the thread is through, also if it panics. Then its worker is ended: it would wait for ever.
struct Through<'a> {
    attendance: &'a Attendance,
    pool: Arc<Inner>,
    worker: Holder,
}

impl Drop for Through<'_> {
    fn drop(&mut self) {
        // Before anything that has the worker end: whoever finds it ended waits until we have left,
        // and that may be this very thread.
        self.attendance.leave();
        if std::thread::panicking() {
            self.pool.kill_worker(self.worker);
        }
        // Its end of file has an honest worker end by itself.
        self.attendance.closer.shut();
    }
}

impl Attendant {
    fn run(mut self) {
        sys::signal::block_signals();
        let attendance = self.attendance.clone();
        if !attendance.begin() {
            return;
        }
        let through = Through {
            attendance: &attendance,
            pool: self.pool.clone(),
            worker: self.worker,
        };
        let ended = self.greet().and_then(|()| {
            let leave = self.work()?;
            lock(&self.attendance.last_words).leave = Some(leave);
            Ok(())
        });
        fault!("attendant.leaving");
        drop(through);
        if let Err(Broken::Senseless) = ended {
            self.pool.kill_worker(self.worker);
        }
    }

    /// Tells the worker what it is, and waits until it is ready.
    fn greet(&mut self) -> Result<(), Broken> {
        let message = self.attendance.message.get().ok_or(Broken::Gone)?;
        self.link.send(Kind::Message, &[message])?;
        let memory = &self.pool.memory;
        let header = memory.header();
        let len = header.initializer_len.load(Ordering::Relaxed) as usize;
        let initializer = memory.bytes(header.initializer.load(Ordering::Acquire), len);
        let setup = Setup {
            result_limit: self.limit,
            max_memory: header.max_memory.load(Ordering::Relaxed),
            initializer: initializer.unwrap_or_default().to_vec(),
        };
        let mut out = Buffer::new();
        codec::encode(&setup, &mut out).map_err(|_| Broken::Gone)?;
        self.link.send(Kind::Setup, &[out.as_slice()])?;
        self.expect(Kind::Hello)?;
        fault!("attendant.met");
        // One that has ended meanwhile is nobody's to wait for, but may have said why.
        let attendance = self.attendance.clone();
        attendance.while_it_lives(|| {
            if program::attach_for(self.pool.program, self.worker) {
                self.seat().take(self.worker);
            }
        });
        match self.receive(MOST_TEXT)? {
            Kind::Ready if self.frame.is_empty() => {
                lock(&attendance.last_words).is_ready = true;
                attendance.while_it_lives(|| self.seat().set_ready());
                fault!("attendant.ready");
                Ok(())
            }
            Kind::Unfit => {
                let memory = &self.pool.memory;
                let text = String::from_utf8_lossy(&self.frame).into_owned();
                initializer::note_failure(memory, memory.parent(), &text);
                Err(Broken::Gone)
            }
            _ => Err(Broken::Senseless),
        }
    }

    /// Claims jobs and sees them through, until the pool or the worker needs no more.
    fn work(&mut self) -> Result<Leave, Broken> {
        let pool = self.pool.clone();
        loop {
            let (job, mut running) = match self.next_job(&pool) {
                Ok(claimed) => claimed,
                Err(leave) => return leave.ok_or(Broken::Gone),
            };
            let first = job.first.load(Ordering::Relaxed);
            let began = sys::clock::now();
            job.began.store(began, Ordering::Relaxed);
            let early = match self.see_through(job, &mut running) {
                Ended::Early(early) => early,
                Ended::Gone => return Err(Broken::Gone),
                Ended::Senseless => return Err(Broken::Senseless),
            };
            job.set_early(early);
            let elapsed = sys::clock::now() - began;
            job.elapsed.store(elapsed, Ordering::Relaxed);
            let ran = job.progress().done.saturating_sub(first);
            self.left = self.left.saturating_sub(u64::from(ran));
            let attendance = self.attendance.clone();
            attendance.while_it_lives(|| self.seat().count(ran, elapsed));
            let memory = &pool.memory;
            memory.header().finished.fetch_add(1, Ordering::Relaxed);
            fault!("attendant.committing");
            // Read before the commit: afterwards the job is the caller's.
            let bell = job.bell.load(Ordering::Relaxed);
            let finish = job.finish(running);
            fault!("attendant.committed");
            memory.done_bell(bell).ring_all(memory.peers());
            if finish == Finish::TakenAway {
                // Who took it kills the worker.
                return Err(Broken::Gone);
            }
            if self.left == 0 {
                return Ok(Leave::Items);
            }
            if self.is_heavy {
                return Ok(Leave::Memory);
            }
        }
    }

    /// Claims a job, waiting for one; or why the worker is to end, which is nothing if it has ended of
    /// itself.
    fn next_job<'a>(&mut self, pool: &'a Inner) -> Result<(&'a Job, Running), Option<Leave>> {
        let memory = &pool.memory;
        let header = memory.header();
        let idle_until = Deadline::after(self.idle_timeout);
        let mut has_slept = false;
        loop {
            let ticket = memory.work_bell().listen();
            // Acquire: pairs with the Release of who sets the flags.
            let flags = header.flags.load(Ordering::Acquire);
            if flags & (STOPPED | DRAINING) != 0 {
                return Err(Some(Leave::Over));
            }
            if self.seat().is_dismissed(self.worker) {
                return Err(Some(Leave::Dismissed));
            }
            let is_over = flags & CLOSED != 0 && header.calls.load(Ordering::Acquire) == 0;
            if self.attendance.is_ending() {
                return Err(is_over.then_some(Leave::Over));
            }
            if let Some(claimed) = memory.claim_next(self.worker, Choice::Any, &mut self.letters) {
                if has_slept {
                    memory.pass_on();
                }
                return Ok(claimed);
            }
            // A job that comes after this look is seen by the parent when the worker is gone.
            if idle_until.has_passed() {
                return Err(Some(Leave::Idle));
            }
            // Whoever changes either rings the bell afterwards.
            if is_over {
                return Err(Some(Leave::Over));
            }
            if memory.has_work_still(Choice::Any) {
                continue;
            }
            memory.work_bell().wait(memory.peers(), ticket, idle_until);
            memory.arrive();
            has_slept = true;
        }
    }

    fn seat(&self) -> &Seat {
        self.pool.memory.seat(self.worker)
    }

    /// Has the worker run a job, and stores the results that came of it and how far it got.
    fn see_through(&mut self, job: &Job, running: &mut Running) -> Ended {
        let first = job.first.load(Ordering::Relaxed);
        self.results.clear();
        let mut progress = Progress::from(first);
        let conversed = self.converse(job, running, &mut progress);
        self.attendance.set_job(None);
        let mut ended = match conversed {
            Ok(early) => Ended::Early(early),
            Err(Broken::Gone) => Ended::Gone,
            Err(Broken::Senseless) => Ended::Senseless,
        };
        if let Ended::Senseless = ended
            && progress.claimed > progress.done
        {
            progress.done += 1;
            let mut out = Buffer::new();
            let why = "its isolated worker sent what makes no sense, or more than it may, and was \
                       ended for it";
            if isolated::refuse(why.to_owned(), Tag::NotDecoded, &mut out).is_ok() {
                self.results.extend_from_slice(out.as_slice());
            }
        }
        if progress.done > first && !self.store(job, progress.done - first) {
            ended = Ended::Gone;
        }
        match (job.settle(running, progress), ended) {
            // It said that it was through when its time was over: it is being killed.
            (Err(Expired), Ended::Early(_)) => Ended::Gone,
            (_, ended) => ended,
        }
    }

    /// Sends a job and receives the outcomes of its items.
    fn converse(
        &mut self,
        job: &Job,
        running: &mut Running,
        progress: &mut Progress,
    ) -> Result<Early, Broken> {
        let pool = self.pool.clone();
        let len = job.input_len.load(Ordering::Relaxed) as usize;
        let input = pool.memory.bytes(job.input.load(Ordering::Relaxed), len);
        let Some((name, mut items)) = input.and_then(wire::read_items) else {
            return Ok(Early::Unreadable);
        };
        for _ in 0..progress.done {
            if read_record(&mut items).is_none() {
                return Ok(Early::Unreadable);
            }
        }
        let first = progress.done;
        let count = job.count();
        // None any more if its caller has gone.
        let due = u64::from(count.saturating_sub(first));
        if due == 0 {
            return Ok(Early::No);
        }
        let count = due.min(self.left) as u32;
        let last = first + count;
        self.jobs += 1;
        let nonce: Nonce = self.random.hash_one(self.jobs).to_le_bytes();
        let limit = job.limit.load(Ordering::Relaxed);
        let job_frame = link::begin_job(nonce, limit, name, first..last);
        self.link.send(Kind::Job, &[&job_frame, items])?;
        fault!("attendant.sent");
        let index = pool.memory.index_of(job);
        self.attendance.set_job(Some(index));
        let is_timed = limit > 0;
        let mut told = Progress::from(first);
        loop {
            // Either who let go of it finds the worker at it, or we find here that it has. It is told
            // again when there was no room.
            if job.count() == 0 {
                self.attendance.stop(index);
            }
            // Only while an item is due: an idle worker that talks makes no sense.
            let most = match progress.done < last {
                true => link::most_of_record(self.limit),
                false => size_of::<Nonce>() as u64 + 2,
            };
            let kind = self.receive(most)?;
            let payload = self.frame.strip_prefix(&nonce).ok_or(Broken::Senseless)?;
            let kept = self.results.len();
            let before = *progress;
            match kind {
                Kind::Begun if progress.claimed == first && payload.is_empty() => {
                    progress.claimed = first + 1;
                }
                Kind::Outcome if progress.claimed > progress.done => {
                    if !keep_outcome(payload, &mut self.results) {
                        return Err(Broken::Senseless);
                    }
                    progress.done += 1;
                    progress.claimed = (progress.done + 1).min(last);
                }
                Kind::End => {
                    let (end, is_heavy) = End::read(payload).ok_or(Broken::Senseless)?;
                    self.is_heavy = is_heavy;
                    let is_through = progress.done == last;
                    // By its own word it is at none.
                    progress.claimed = progress.done;
                    return match end {
                        End::Through if is_through && u64::from(count) == due => Ok(Early::No),
                        End::Through if is_through => Ok(Early::Retired),
                        End::Enough if progress.done > first => Ok(Early::Retired),
                        End::Unreadable => Ok(Early::Unreadable),
                        End::Stopped if job.count() == 0 => Ok(Early::No),
                        End::Through | End::Enough | End::Stopped => Err(Broken::Senseless),
                    };
                }
                _ => return Err(Broken::Senseless),
            }
            fault!("attendant.heard");
            // So that others know which items may have begun. Results are there when it is over.
            let next = Progress {
                claimed: progress.claimed,
                done: first,
            };
            if is_timed {
                let is_at_one = progress.claimed > progress.done;
                let began = if is_at_one {
                    sys::clock::now()
                } else {
                    u64::MAX
                };
                job.item_began.store(began, Ordering::Relaxed);
            }
            if job.advance(running, told, next, is_timed).is_err() {
                // The item came too late: the worker is being killed.
                self.results.truncate(kept);
                *progress = before;
                return Err(Broken::Gone);
            }
            told = next;
        }
    }

    /// Puts the results into the pool's memory. Without room for them it puts there that there is
    /// none, for which it waits; false if the worker or the pool ends before.
    fn store(&mut self, job: &Job, count: u32) -> bool {
        let mut block = self.to_block();
        if block.is_err() {
            self.results = give_up_large(&self.results, count);
            block = self.to_block();
        }
        while block.is_err() && !self.attendance.is_ending() && self.pool.stop().is_none() {
            std::thread::sleep(NAP);
            block = self.to_block();
        }
        match block {
            Ok(block) => {
                fault!("attendant.copied");
                job.result.store(block.bits(), Ordering::Release);
                fault!("attendant.stored");
                true
            }
            Err(Full) => false,
        }
    }

    fn to_block(&self) -> Result<BlockId, Full> {
        let memory = &self.pool.memory;
        let len = wire::RECORDS + self.results.len();
        let mut out = Buffer::in_block(memory.arena().clone(), memory.parent(), len)?;
        wire::begin_results(&mut out)?;
        out.write(&self.results)?;
        out.into_block().map(|block| block.id())
    }

    /// Waits for a frame, which replaces the last one.
    fn receive(&mut self, most: u64) -> Result<Kind, Broken> {
        self.frame.clear();
        if self.frame.capacity() > 4 * link::ENOUGH {
            self.frame = Vec::new();
        }
        self.link.receive(most, &mut self.frame)
    }

    fn expect(&mut self, kind: Kind) -> Result<(), Broken> {
        match self.receive(0)? {
            found if found == kind => Ok(()),
            _ => Err(Broken::Senseless),
        }
    }
}

/// Replaces each result that is not small by the news that there is no room for it.
pub(super) fn give_up_large(mut results: &[u8], count: u32) -> Vec<u8> {
    let mut kept = Buffer::new();
    for _ in 0..count {
        let before = results;
        let Some((_, payload)) = read_record(&mut results) else {
            break;
        };
        let record = &before[..before.len() - results.len()];
        let refused = match payload.len() > 512 {
            true => call::write_out_of_memory(&mut kept).is_ok(),
            false => kept.write(record).is_ok(),
        };
        debug_assert!(refused, "private memory has no end that it tells of");
    }
    kept.as_slice().to_vec()
}

/// Adds an outcome that has arrived to the results; false if it is none.
fn keep_outcome(mut record: &[u8], results: &mut Vec<u8>) -> bool {
    let whole = record;
    // An honest worker stops at a job once it has sent so much.
    let is_one =
        results.len() <= link::ENOUGH && read_record(&mut record).is_some() && record.is_empty();
    if is_one {
        results.extend_from_slice(whole);
    }
    is_one
}
