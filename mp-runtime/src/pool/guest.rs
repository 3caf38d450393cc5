//! A pool as one of its own workers sees it, which calls it from inside a task.
//!
//! Such a caller does all that the parent's callers do, on the same memory: it encodes into blocks,
//! offers jobs, waits on a bell, decodes. What only the parent can do (start, kill and watch over
//! workers) it asks for by ringing the parent's [`desk`](super::desk), which then looks at what is
//! so: no message can be lost, and none be left half written by one that dies.

use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use super::Pool;
use super::callbacks;
use super::current;
use super::inner::{Inner, Settings, lock};
use super::job::Withdrawal;
use super::nest::News;
use super::region::{CLOSED, DRAINING, Memory};
use super::terms::Terms;
use crate::error::{Error, ErrorKind, TaskError};
use crate::fault::fault;
use crate::life::program;
use crate::life::program::is_forked;
use crate::loom::{AtomicU64, Ordering, fence};
use crate::shm::{BlockId, Owner};
use crate::sync::raw::Holder;
use crate::trace::{self, Caller, Lane, Span};

/// Calls from inside of tasks that may lead to one another. Each that waits has a process.
const MOST_DEPTH: u32 = 100;

/// How often a worker tries to leave news for its parent, a millisecond apart.
const NEWS_TRIES: u32 = 1000;

/// What a worker knows of itself as a caller of its own pool.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) me: Holder,
    /// Threads that wait for a call. The seat says whether there are any, and is written under this
    /// lock.
    waiting: Mutex<u32>,
    /// Of the calls under way that have one, in nanoseconds.
    limits: Mutex<Vec<u64>>,
    /// Calls that were handed to the driver and are not over.
    handed: Mutex<u64>,
    handed_over: Condvar,
}

/// The pool that this process works for; `None` if it is no worker.
pub(super) fn own_pool() -> Result<Option<&'static Pool>, Error> {
    static POOL: OnceLock<Pool> = OnceLock::new();
    let Some((memory, me)) = current::own_pool() else {
        return Ok(None);
    };
    let program = program()?;
    Ok(Some(POOL.get_or_init(|| {
        Pool::over(Arc::new(Inner::of_worker(program, memory.clone(), me)))
    })))
}

/// Waits until the calls are over that tasks of this worker have handed over and not waited for, and
/// their callbacks.
pub(super) fn finish_calls() {
    let Ok(Some(pool)) = own_pool() else { return };
    let Some(guest) = pool.inner.guest() else {
        return;
    };
    let mut waiting = None;
    loop {
        let mut handed = lock(&guest.handed);
        while *handed > 0 {
            waiting = waiting.or_else(|| pool.inner.waiting());
            let waited = guest.handed_over.wait(handed);
            handed = waited.unwrap_or_else(|poison| poison.into_inner());
        }
        drop(handed);
        // One that ran before the task was over may have handed over more.
        callbacks::finish();
        if *lock(&guest.handed) == 0 {
            return;
        }
    }
}

impl Guest {
    pub(super) fn new(me: Holder) -> Self {
        Self {
            me,
            waiting: Mutex::default(),
            limits: Mutex::default(),
            handed: Mutex::default(),
            handed_over: Condvar::new(),
        }
    }

    /// Leads to the bell of its driver, which may be other calls' as well.
    pub(super) fn driver(&self) -> u32 {
        1 + self.me.slot()
    }
}

/// The settings of the pool whose memory it is, as far as its workers need them.
pub(super) fn settings(memory: &Memory) -> Settings {
    let header = memory.header();
    let set = |word: &AtomicU64| Some(word.load(Ordering::Relaxed)).filter(|&value| value > 0);
    Settings {
        chunk_size: set(&header.chunk_size),
        window: set(&header.window),
        max_tasks: set(&header.max_tasks),
        terms: Terms::published(header),
        ..Settings::default()
    }
}

impl Inner {
    /// The worker that the calling process is, if this is its own pool.
    #[inline]
    pub(super) fn guest(&self) -> Option<&Guest> {
        self.guest.as_ref()
    }

    /// Asks the parent to look at what its tasks' calls want.
    pub(super) fn ring_desk(&self) {
        let peers = self.memory.peers();
        self.memory.desk_bell().ring(peers, 1);
    }

    /// Lets a call of a task in.
    pub(super) fn admit(&self) -> Result<(), Error> {
        match current::depth() {
            0 => Err(Error::new(
                ErrorKind::Other,
                "this worker runs no task that could call its pool: an initializer cannot, nor a \
                 thread that its task has left behind; make a pool of your own with `Pool::new`",
            )),
            depth if depth > MOST_DEPTH => Err(Error::limit(format!(
                "calls of tasks on their own pool are nested {MOST_DEPTH} deep already, and each of \
                 them keeps a process waiting: does the recursion come to an end?"
            ))),
            _ => Ok(()),
        }
    }

    /// Takes a job back, or leaves it to the parent to be swept when its worker is through.
    pub(super) fn abandon_nested(&self, index: u32, guest: &Guest) {
        match self.memory.job(index).withdraw(Some(guest.me)) {
            Withdrawal::Withdrawn | Withdrawal::IsOver => self.release_unread(index),
            Withdrawal::IsRunning => {
                // It stops after the item that it is at.
                self.memory.job(index).set_count(0);
                self.memory.disown(index);
                fault!("nest.disowned");
                self.ring_desk();
            }
        }
    }

    /// As [`kill_job`](Self::kill_job), in a worker.
    pub(super) fn kill_nested(&self, index: u32, guest: &Guest) -> bool {
        let job = self.memory.job(index);
        let is_withdrawn = job.withdraw(Some(guest.me)) == Withdrawal::Withdrawn;
        let may_have_begun = !is_withdrawn || job.first.load(Ordering::Relaxed) > 0;
        if job.doom().is_some() {
            fault!("nest.doomed");
            self.memory.disown(index);
            self.ring_desk();
        } else {
            self.release_unread(index);
        }
        may_have_begun
    }

    /// Makes the parent's what a job holds that was filled, so that it is there for as long as the job
    /// is, whatever becomes of the caller; and notes who that is. Nothing in the parent.
    #[inline]
    pub(super) fn hand_to_parent(&self, index: u32, depth: u32) {
        let Some(guest) = self.guest() else { return };
        let (memory, me) = (&self.memory, Owner::Process(guest.me));
        memory.set_caller(index, guest.me, depth);
        fault!("nest.filled");
        let job = memory.job(index);
        for (arena, word) in [
            (memory.arena(), &job.input),
            (&self.program.arena, &job.input_parcel),
        ] {
            if let Some(block) = BlockId::from_bits(word.load(Ordering::Relaxed)) {
                arena.set_owner(block, me, memory.parent());
            }
        }
        fault!("nest.handed");
    }

    /// Whether a call that has jobs out may have another.
    #[inline]
    pub(super) fn has_further_entry(&self) -> bool {
        self.guest().is_none() || self.memory.has_further_entry()
    }

    /// An entry for tasks' calls is free. Workers of a pool that is closed wait for the last.
    pub(super) fn nested_is_over(&self) {
        // SeqCst: pairs with the fence in `must_stay`. Either it sees the entry free, or we its flag.
        fence(Ordering::SeqCst);
        let flags = self.memory.header().flags.load(Ordering::Relaxed);
        if flags & (CLOSED | DRAINING) != 0 {
            self.memory.ring_workers();
            if self.guest().is_none() {
                // Where there are no workers any more, somebody may wait for just this.
                self.end_rest();
            }
        }
    }

    /// Has the parent tell of a failure, if it has anybody to tell.
    pub(super) fn tell_parent(&self, error: &TaskError, guest: &Guest) {
        if self.memory.nest().listens.load(Ordering::Relaxed) != 0 {
            self.send_news(&News::Failure(error.clone()), guest);
        }
    }

    fn send_news(&self, news: &News, guest: &Guest) {
        for _ in 0..NEWS_TRIES {
            let is_put = self.memory.put_news(news, guest.me);
            self.ring_desk();
            if is_put {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    // The timeline.

    /// Whether there is a timeline that wants to know what ran.
    #[inline]
    pub(super) fn is_traced(&self) -> bool {
        match self.guest() {
            None => trace::timeline().is_some(),
            Some(_) => self.memory.nest().is_traced.load(Ordering::Relaxed) != 0,
        }
    }

    /// Adds a job that is over to the timeline, wherever that is.
    pub(super) fn add_to_timeline(&self, lane: Lane, span: Span) {
        match (self.guest(), trace::timeline()) {
            (Some(guest), _) => self.send_news(&News::Ran(lane, span), guest),
            (None, Some(timeline)) => timeline.add(&lane, span),
            (None, None) => {}
        }
    }

    /// The calling process as one whose task has put out a job `at` that moment; `None` if it runs none.
    pub(super) fn as_caller(&self, at: u64) -> Option<Caller> {
        self.guest()?;
        let lane = Lane {
            name: self.program.roster.my_slot().name.get(),
            pid: std::process::id(),
        };
        Some(Caller { lane, at })
    }

    // Waiting.

    /// Has the worker count as one that waits, until what is returned is dropped: another takes its
    /// place. `None` in the parent, whose threads are not counted.
    pub(super) fn waiting(&self) -> Option<Waiting<&Self>> {
        Waiting::begin(self)
    }

    fn change_waiting(&self, guest: &Guest, by: i32) {
        let mut waiting = lock(&guest.waiting);
        let before = *waiting;
        *waiting = before.saturating_add_signed(by);
        if (before == 0) == (*waiting == 0) {
            return;
        }
        let seat = self.memory.seat(guest.me);
        seat.set_waiting(guest.me, *waiting > 0);
        drop(waiting);
        fault!("nest.waiting");
        self.ring_desk();
    }

    // Limits.

    /// Has the parent watch over the items of a call.
    pub(super) fn watch_nested(&self, guest: &Guest, limit: u64) {
        lock(&guest.limits).push(limit);
        self.publish_limit(guest);
    }

    /// A call with that limit is over.
    pub(super) fn unwatch_nested(&self, guest: &Guest, limit: u64) {
        let mut limits = lock(&guest.limits);
        if let Some(at) = limits.iter().position(|&other| other == limit) {
            limits.swap_remove(at);
        }
        drop(limits);
        self.publish_limit(guest);
    }

    fn publish_limit(&self, guest: &Guest) {
        let limits = lock(&guest.limits);
        let shortest = limits.iter().copied().min().unwrap_or(0);
        self.memory.seat(guest.me).set_limit(shortest);
        drop(limits);
        self.ring_desk();
    }
}

/// A worker that waits for a call on its own pool.
pub(super) struct Waiting<P: Deref<Target = Inner>>(P);

impl<P: Deref<Target = Inner>> Waiting<P> {
    pub(super) fn begin(pool: P) -> Option<Self> {
        let guest = pool.guest().filter(|_| !is_forked())?;
        pool.change_waiting(guest, 1);
        Some(Self(pool))
    }
}

impl<P: Deref<Target = Inner>> Drop for Waiting<P> {
    fn drop(&mut self) {
        if let Some(guest) = self.0.guest().filter(|_| !is_forked()) {
            self.0.change_waiting(guest, -1);
        }
    }
}

/// A call that was handed over, until it is over.
pub(super) struct HandedOver(Arc<Inner>);

impl HandedOver {
    pub(super) fn new(pool: &Arc<Inner>) -> Option<Self> {
        *lock(&pool.guest()?.handed) += 1;
        Some(Self(pool.clone()))
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        if let Some(guest) = self.0.guest() {
            *lock(&guest.handed) -= 1;
            guest.handed_over.notify_all();
        }
    }
}

impl Pool {
    /// Refuses what a task may not do to the pool that it runs in.
    #[track_caller]
    pub(super) fn refuse_inside(&self, what: &str) {
        assert!(
            self.inner.guest().is_none(),
            "a task cannot {what} the pool that runs it: the process that made it can"
        );
    }

    /// As [`refuse_inside`](Self::refuse_inside), with an error.
    pub(super) fn check_outside(&self, what: &str) -> Result<(), Error> {
        match self.inner.guest() {
            None => Ok(()),
            Some(_) => Err(Error::new(
                ErrorKind::Other,
                format!("a task cannot {what} the pool that runs it: the process that made it can"),
            )),
        }
    }
}
