//! The worker's loop: claim a job, run its items, commit, until there is nothing left to do.

use std::os::fd::RawFd;
use std::time::Duration;

use super::current;
use super::guest;
use super::job::{Early, Expired, Finish, Held, JOBS, Job, Progress, Running};
use super::reduce;
use super::region::{CLOSED, Choice, DRAINING, Memory, STOPPED, Side};
use super::seat::{Leave, Seat};
use super::{initializer, wire};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fault::fault;
use crate::life::Program;
use crate::loom::{AtomicU64, Ordering, fence};
use crate::shm::arena::Block;
use crate::shm::buffer::{Buffer, Full};
use crate::shm::{BlockId, Owner};
use crate::spans;
use crate::sync::raw::{Holder, Peers};
use crate::sys;
use crate::task::batch::{Batch, Pause, Why};
use crate::task::call::read_record;
use crate::task::registry::{self, Entry};
use crate::wire::transfer::{self, Sent};

/// How often the ring is looked at before a worker sleeps, if each has a CPU: a job often follows the
/// last one at once. If there are fewer CPUs than workers these are shared out, since who looks takes
/// them from those who work. Where it runs on the caller's CPU it does not look: it would keep the
/// caller from putting the job out.
const LOOKS: u64 = 2000;

/// How long a worker stands by: the next call from inside of a task needs no new process.
const STANDBY: Duration = Duration::from_secs(1);

/// The exit code of a worker whose pool's memory does not fit, or whose initializer failed.
const UNFIT: i32 = 1;

/// Works for the pool whose memory is the descriptor `memory`, until it needs us no longer; returns
/// the exit code.
pub(crate) fn work(program: &'static Program, memory: Option<RawFd>) -> i32 {
    let attached = memory
        .ok_or_else(|| Error::wrong_build("the pool's memory did not arrive"))
        .and_then(|memory| {
            sys::fd::inherited(memory)
                .map_err(|error| Error::system("the pool's memory did not arrive", error))
        })
        .and_then(|memory| Memory::attach(program, memory));
    let memory = match attached {
        // There until the process ends: a task's threads may ask about it.
        Ok(memory) => &*Box::leak(Box::new(memory)),
        Err(error) => {
            eprintln!("mp: a worker could not begin: {error:#}");
            return UNFIT;
        }
    };
    let limit = |word: &AtomicU64| match word.load(Ordering::Relaxed) {
        0 => u64::MAX,
        limit => limit,
    };
    let header = memory.header();
    let me = program.roster.me();
    let seat = memory.seat(me);
    seat.take(me);
    current::set_pool(memory, me);
    let mut worker = Worker {
        me,
        name: program.roster.my_slot().name.get(),
        seat,
        cpus: sys::process::cpu_count() as u64,
        left: limit(&header.max_tasks),
        max_memory: limit(&header.max_memory),
        idle_timeout: match limit(&header.idle_timeout) {
            u64::MAX => None,
            nanos => Some(Duration::from_nanos(nanos)),
        },
        letters: 0,
        order: None,
        bytes_each: 16,
        program,
        memory,
    };
    if header.drains.load(Ordering::Relaxed) != 0 {
        // Whoever signals a whole group means the program: the parent decides what is finished.
        let _ = sys::signal::leave_to_parent(sys::signal::TERMINATE);
    }
    if !worker.initialize() {
        return UNFIT;
    }
    spans::install();
    fault!("pool.ready");
    seat.set_ready();
    let leave = worker.run();
    guest::finish_calls();
    seat.set_leave(leave);
    fault!("pool.leaving");
    0
}

/// Why a worker does not come to commit the items of a job.
enum Halt {
    NoRoom,
    Expired,
}

impl From<Full> for Halt {
    fn from(_: Full) -> Self {
        Self::NoRoom
    }
}

impl From<Expired> for Halt {
    fn from(_: Expired) -> Self {
        Self::Expired
    }
}

/// What a job's items say is to be run, and what that is in this process.
struct Order {
    /// What they say, as bytes.
    said: Vec<u8>,
    task: &'static Entry,
    /// What merges the results, if they are to be.
    merge: Option<&'static Entry>,
    /// What `tracing` is told of the call.
    span: Option<String>,
}

impl Order {
    /// The same task may be called with another span each time, so that what the `last` one was about is
    /// looked at first.
    #[cold]
    fn read(said: &[u8], last: Option<&Self>) -> Option<Self> {
        let (task, merge, span) = wire::read_name(std::str::from_utf8(said).ok()?);
        let last = last.map(|last| last.task);
        let same = last.filter(|last| (last.name)() == task);
        Some(Self {
            said: said.to_vec(),
            task: same.or_else(|| registry::by_name(task).ok())?,
            merge: merge.and_then(|merge| registry::by_name(merge).ok()),
            span: span.map(str::to_owned),
        })
    }
}

struct Worker<'a> {
    program: &'static Program,
    memory: &'a Memory,
    me: Holder,
    name: String,
    seat: &'a Seat,
    /// CPUs that it may run on. The caller may have others.
    cpus: u64,
    /// Items that may still be run.
    left: u64,
    /// Bytes of its own with which it ends.
    max_memory: u64,
    /// How long it waits for a job, if not for ever.
    idle_timeout: Option<Duration>,
    /// Jobs for this seat alone that are over, as it knows.
    letters: u32,
    /// What the last job was about.
    order: Option<Order>,
    /// Bytes that an item's result took, as far as is known.
    bytes_each: usize,
}

impl<'a> Worker<'a> {
    fn run(&mut self) -> Leave {
        loop {
            let (job, running) = match self.next_job() {
                Ok(claimed) => claimed,
                Err(leave) => return leave,
            };
            match self.run_job(job, running) {
                Finish::Committed => {}
                Finish::TakenAway => return Leave::Over,
            }
            if self.left == 0 {
                return Leave::Items;
            }
            if self.max_memory != u64::MAX
                && sys::process::own_memory().is_ok_and(|bytes| bytes > self.max_memory)
            {
                return Leave::Memory;
            }
        }
    }

    /// Claims a job, waiting for one; or why the worker is to end.
    fn next_job(&mut self) -> Result<(&'a Job, Running), Leave> {
        let memory = self.memory;
        let header = memory.header();
        let mut idle_until = None;
        let mut standby_until = None;
        let mut has_slept = false;
        loop {
            // Acquire: pairs with the Release of who sets the flags.
            let flags = header.flags.load(Ordering::Acquire);
            if flags & STOPPED != 0 {
                return Err(Leave::Over);
            }
            if self.seat.is_dismissed(self.me) {
                return Err(Leave::Dismissed);
            }
            let choice = match flags & DRAINING {
                _ if self.seat.stands_by(self.me) => Choice::Letters,
                0 => Choice::Any,
                _ => Choice::Nested,
            };
            if let Some(claimed) = memory.claim_next(self.me, choice, &mut self.letters) {
                if has_slept {
                    memory.pass_on();
                }
                return Ok(claimed);
            }
            let stands_by = choice == Choice::Letters;
            if stands_by && memory.has_work(Choice::Any) {
                // The ring that woke us was meant for another.
                memory.work_bell().ring(memory.peers(), 1);
            }
            // A job that comes after this look is seen by the parent when we are gone.
            if idle_until.is_some_and(Deadline::has_passed) {
                return Err(Leave::Idle);
            }
            if !stands_by
                && (0..self.looks()).any(|_| {
                    std::hint::spin_loop();
                    memory.has_work(choice)
                })
            {
                continue;
            }
            let bell = match stands_by {
                true => memory.standby_bell(),
                false => memory.work_bell(),
            };
            let ticket = bell.listen();
            let is_asked = self.seat.is_dismissed(self.me)
                || self.seat.letters() != self.letters
                || self.seat.stands_by(self.me) != stands_by;
            // Before it is looked for others, which may be hidden behind that one.
            let ripens_in = memory.ripens_in();
            let now = header.flags.load(Ordering::Acquire);
            if now != flags || memory.has_work_still(choice) || is_asked {
                continue;
            }
            // One that is not ripe may have come into sight with that look.
            let ripens_in = ripens_in.or_else(|| memory.ripens_in());
            // Whoever changes any of it rings the bell afterwards.
            if !self.must_stay(flags) {
                return Err(Leave::Over);
            }
            if ripens_in.is_none() {
                memory.ask_for_shares();
            }
            fault!("pool.idle");
            // Without a limit the kernel is not to set a timer for each sleep.
            let idle = *idle_until
                .get_or_insert_with(|| self.idle_timeout.map_or(Deadline::NEVER, Deadline::after));
            let deadline = match stands_by {
                true => {
                    *standby_until.get_or_insert_with(|| Deadline::after(STANDBY).earlier(idle))
                }
                false => {
                    standby_until = None;
                    ripens_in.map_or(idle, |left| Deadline::after(left).earlier(idle))
                }
            };
            bell.wait(memory.peers(), ticket, deadline);
            if !stands_by {
                fault!("pool.woken");
                memory.arrive();
                has_slept = true;
            }
            if stands_by && deadline.has_passed() {
                return Err(Leave::Idle);
            }
        }
    }

    /// How often it looks for a job before it sleeps.
    fn looks(&self) -> u64 {
        // Relaxed: it is a guess.
        let header = self.memory.header();
        let workers = header.workers.load(Ordering::Relaxed);
        let is_apart = header.caller.is_elsewhere();
        // Before the first call nobody knows; whoever is looked out for needs the only one.
        if !is_apart.unwrap_or(self.cpus > 1) {
            return 0;
        }
        let cpus = self.cpus.max(2);
        LOOKS * cpus / workers.max(cpus)
    }

    /// Whether there may be work yet: the pool is open, a call is under way, or a task waits for one of
    /// its own.
    fn must_stay(&self, flags: u64) -> bool {
        let is_over = match flags & (CLOSED | DRAINING) {
            0 => false,
            CLOSED => self.memory.header().calls.load(Ordering::Acquire) == 0,
            _ => true,
        };
        if !is_over {
            return true;
        }
        // SeqCst: pairs with the fence in `nested_is_over`.
        fence(Ordering::SeqCst);
        self.memory.is_nested_busy()
    }

    fn run_job(&mut self, job: &'a Job, mut running: Running) -> Finish {
        if job.is_open() {
            job.close();
            fault!("pool.closed");
        }
        let began = sys::clock::now();
        job.began.store(began, Ordering::Relaxed);
        let index = self.memory.index_of(job);
        self.memory.note_worker(index, self.me, &self.name);
        let first = job.first.load(Ordering::Relaxed);
        let ran = self.run_items(job, &mut running);
        current::set_job(None);
        let early = match ran {
            Ok(early) => early,
            Err(Halt::NoRoom) => Early::NoRoom,
            // The job is the parent's, which is about to kill us.
            Err(Halt::Expired) => return Finish::TakenAway,
        };
        job.set_early(early);
        let elapsed = sys::clock::now() - began;
        job.elapsed.store(elapsed, Ordering::Relaxed);
        let ran = job.progress().done.saturating_sub(first);
        self.left = self.left.saturating_sub(u64::from(ran));
        self.seat.count(ran, elapsed);
        fault!("pool.committing");
        // The results are the parent's before the job is done; if we die in between, the job's word
        // of them counts.
        if let Some(block) = BlockId::from_bits(job.result.load(Ordering::Relaxed)) {
            let me = Owner::Process(self.me);
            self.memory
                .arena()
                .set_owner(block, me, self.memory.parent());
        }
        fault!("pool.handed");
        self.memory
            .header()
            .finished
            .fetch_add(1, Ordering::Relaxed);
        // Read before the commit: afterwards the job is the caller's.
        let bell = job.bell.load(Ordering::Relaxed);
        let finish = job.finish(running);
        fault!("pool.committed");
        // Everybody: several calls may share the bell.
        self.memory.done_bell(bell).ring_all(self.memory.peers());
        // Only now: whoever has the results already does not wait for this.
        self.memory.header().worker.note();
        finish
    }

    /// Runs the items that are due, and returns why it stopped before the last, if it did.
    fn run_items(&mut self, job: &'a Job, running: &mut Running) -> Result<Early, Halt> {
        let input_len = job.input_len.load(Ordering::Relaxed) as usize;
        let index = self.memory.index_of(job);
        let input = self
            .memory
            .bytes_of(index, Side::Items, &job.input, input_len);
        let Some((said, mut items)) = input.and_then(wire::split_items) else {
            return Ok(Early::Unreadable);
        };
        let Some(&Order {
            task,
            merge,
            ref span,
            ..
        }) = self.order(said)
        else {
            return Ok(Early::Unreadable);
        };
        spans::begin_job(span.as_deref());
        let first = job.first.load(Ordering::Relaxed);
        let count = job.count();
        for _ in 0..first {
            if read_record(&mut items).is_none() {
                return Ok(Early::Unreadable);
            }
        }
        let me = Owner::Process(self.me);
        let wish = wire::RECORDS + count.saturating_sub(first) as usize * self.bytes_each;
        let arena = self.memory.arena().clone();
        let slip = self.memory.over_slip(index, Side::Results, wish);
        let mut out = match (slip, self.take_kept(job, wish)) {
            (Some(slip), kept) => {
                kept.inspect(|block| arena.free(block.id()));
                slip
            }
            (None, Some(block)) => Buffer::over_block(arena, me, block),
            (None, None) => Buffer::in_block(arena.clone(), me, wish)
                .or_else(|_| Buffer::in_block(arena, me, wire::RECORDS))?,
        };
        out.publish_in(&job.result);
        wire::begin_results(&mut out)?;
        let program = self.program;
        // One scope for all items: to enter one costs as much as a small item.
        current::set_job(Some(index));
        let run = || self.run_each(job, running, task, items, first, &mut out);
        let parcel = BlockId::from_bits(job.input_parcel.load(Ordering::Relaxed));
        let run = || transfer::receiving_from(program, parcel, run);
        // What tasks have called themselves stays here.
        let is_exported =
            index < JOBS && self.memory.header().is_attended.load(Ordering::Relaxed) != 0;
        let (ran, _) = match is_exported {
            true => transfer::exporting(run),
            false => transfer::sending(run),
        };
        let (early, done) = ran.inspect_err(|_| {
            // The caller reads the results that are there.
            out.give_up_block();
        })?;
        // Not where time is short: that of an item is over.
        if let (Some(merge), Early::No) = (merge, early)
            && job.limit.load(Ordering::Relaxed) == 0
        {
            // Without, the caller gets the results as they are.
            let _ = self.merge(job, merge, &out.as_slice()[wire::RECORDS..]);
        }
        let bytes = out.len() - wire::RECORDS;
        self.bytes_each = (bytes / (done - first).max(1) as usize + 1).min(1 << 20);
        // It is the job's from now on.
        out.give_up_block();
        Ok(early)
    }

    /// Takes the block that the job's entry has kept for results, if there is room for `bytes` in it.
    fn take_kept(&self, job: &Job, bytes: usize) -> Option<Block> {
        let id = BlockId::from_bits(job.result.load(Ordering::Relaxed))?;
        let arena = self.memory.arena();
        let block = arena.find(id).filter(|block| block.capacity() >= bytes);
        // Ours until the job is over, as one that we allocate: whatever becomes of it at our death,
        // the job names it.
        let me = Owner::Process(self.me);
        let block = block.filter(|_| arena.set_owner(id, self.memory.parent(), me));
        fault!("pool.taken");
        if block.is_none() {
            arena.free(id);
        }
        block
    }

    /// Merges the results of a job into one, if they can be.
    #[cold]
    fn merge(&self, job: &Job, merge: &Entry, results: &[u8]) -> Option<()> {
        let merged = reduce::merge(self.program, merge, results)?;
        let me = Owner::Process(self.me);
        let arena = self.memory.arena();
        let wish = wire::RECORDS + merged.len() + size_of::<u64>();
        let mut out = Buffer::in_block(arena.clone(), me, wish).ok()?;
        wire::begin_results(&mut out).ok()?;
        wire::write_item(&mut out.tail(), |out| Ok(out.write(&merged)?)).ok()?;
        let block = out.into_block().ok()?.id();
        // Release: pairs with the Acquire in the caller's `take`. If we die before it is the
        // parent's, it is freed with us, and the word names nothing.
        job.merged.store(block.bits(), Ordering::Release);
        fault!("pool.merged");
        arena.set_owner(block, me, self.memory.parent());
        Some(())
    }

    /// Runs items one after the other; returns why it stopped early, if it did, and how many are
    /// done.
    fn run_each(
        &self,
        job: &Job,
        running: &mut Running,
        task: &Entry,
        items: &[u8],
        first: u32,
        out: &mut Buffer,
    ) -> Result<(Early, u32), Halt> {
        let pace = job.pace(running, first);
        let is_watched = pace.is_watched;
        let left = u32::try_from(self.left).unwrap_or(u32::MAX);
        let most = first.saturating_add(left);
        let mut batch = Batch::new(task.name, items, (first, most), pace, out);
        let early = loop {
            let Pause(why) = (task.run_each)(&mut batch);
            let panic = match why {
                // Less than there were, once its caller has gone.
                Why::Over if batch.next() >= job.count() => break Early::No,
                Why::Over => break Early::Retired,
                Why::Unreadable => break Early::Unreadable,
                Why::Held => match job.held(running) {
                    Held::Cut => break Early::No,
                    Held::Expired => return Err(Halt::Expired),
                },
                Why::Odd(panic) => Ok(panic),
                Why::Full => Err(Full),
            };
            let kept = panic
                .and_then(|panic| batch.see_to(panic))
                .and_then(|start| match transfer::take_sent() {
                    None => Ok(()),
                    Some(sent) => self
                        .attach(job, sent, start, batch.out())
                        .inspect_err(|_| batch.out().truncate(start)),
                });
            spans::end_item();
            if let Err(Full) = kept {
                // Before the progress says that no item is being run: this one was.
                job.set_early(Early::OutOfMemory);
                let done = batch.next() - 1;
                rest(job, running, (first, batch.next()), done, is_watched)?;
                return Ok((Early::OutOfMemory, done));
            }
            fault!("pool.ran");
        };
        let done = batch.next();
        rest(job, running, (first, done), done, is_watched)?;
        Ok((early, done))
    }

    /// Packs the handles of a result for the parent and marks its record.
    #[cold]
    fn attach(&self, job: &Job, sent: Sent, start: usize, out: &mut Buffer) -> Result<(), Full> {
        let Some(parcel) = sent.pack(self.program)? else {
            return Ok(());
        };
        // If we die before it is the parent's, it is freed with us, and the word names nothing; if
        // after, the caller finds it by the word or by the mark.
        job.result_parcel.store(parcel.bits(), Ordering::Release);
        fault!("pool.packed");
        let me = Owner::Process(self.me);
        self.program
            .arena
            .set_owner(parcel, me, self.memory.parent());
        wire::mark(start, parcel, out)
    }

    /// What is to be run according to `said`, if that is known here.
    #[inline]
    fn order(&mut self, said: &[u8]) -> Option<&Order> {
        // As a rule a job says what the last one did. To compare that takes one call; to read it, and to
        // find the task by its name, takes as long as several small items, and code that is nowhere near.
        if self.order.as_ref().is_none_or(|order| order.said != said) {
            self.order = Order::read(said, self.order.as_ref());
        }
        self.order.as_ref()
    }

    /// Runs what each worker is to run first; false if that failed.
    fn initialize(&mut self) -> bool {
        let header = self.memory.header();
        let len = header.initializer_len.load(Ordering::Relaxed) as usize;
        let Some(input) = self
            .memory
            .bytes(header.initializer.load(Ordering::Acquire), len)
        else {
            return true;
        };
        let program = self.program;
        let run = || spans::until_installed(|| initializer::run(input));
        let (result, _) = transfer::sending(|| transfer::receiving(program, run));
        if let Err(text) = &result {
            initializer::note_failure(self.memory, Owner::Process(self.me), text);
        }
        result.is_ok()
    }
}

/// Notes that so many items are done, and that none is being run; the items `first..next` were begun.
fn rest(
    job: &Job,
    running: &mut Running,
    (first, next): (u32, u32),
    done: u32,
    is_watched: bool,
) -> Result<(), Expired> {
    let from = match next == first {
        true => Progress::from(first),
        false => Progress {
            claimed: next,
            done: next - 1,
        },
    };
    job.rest(running, from, Progress::from(done), is_watched)
}
