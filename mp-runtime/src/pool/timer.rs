//! The thread that ends what takes too long: one lazy thread a pool, there while calls have
//! deadlines.
//!
//! It looks at the jobs that run, also those whose callers have gone, and sleeps until the first of
//! their items is due; an item that begins meanwhile is not due before the shortest limit of the calls
//! under way from then on. So
//! workers tell nobody that they have begun an item, and no item outlives its time by more than it
//! takes to wake up.

use std::sync::{Condvar, Mutex, Weak};
use std::time::Duration;

use super::inner::{Inner, lock};
use super::job::Expiry;
use crate::error::Error;
use crate::fault::fault;
use crate::sync::raw::Holder;
use crate::sys;

/// How long the thread stays with nothing to do: the next call often has a deadline, too.
const IDLE: Duration = Duration::from_secs(1);
/// The longest sleep.
const LONG: Duration = Duration::from_secs(3600);

/// The way to the thread.
#[derive(Debug, Default)]
pub(super) struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_running: bool,
    /// Something has to be done earlier than the thread knows.
    is_changed: bool,
    /// Of the calls under way that have one, in nanoseconds.
    limits: Vec<u64>,
    /// The shortest of those that tasks have under way.
    of_tasks: Option<u64>,
    /// Workers whose jobs are doomed, and when their grace is over.
    kills: Vec<(u64, Holder)>,
}

impl State {
    /// The shortest limit of the calls under way.
    fn shortest(&self) -> Option<u64> {
        self.limits.iter().copied().chain(self.of_tasks).min()
    }
}

impl Inner {
    /// Watches over the items of a call, each of which may take `limit` nanoseconds, until
    /// [`unwatch`](Self::unwatch).
    pub(super) fn watch(&self, limit: u64) -> Result<(), Error> {
        let mut state = lock(&self.timer.state);
        self.start_timer(&mut state)?;
        state.is_changed |= state.limits.iter().all(|&other| limit < other);
        state.limits.push(limit);
        self.timer.changed.notify_one();
        Ok(())
    }

    /// A call with that limit is over.
    pub(super) fn unwatch(&self, limit: u64) {
        let mut state = lock(&self.timer.state);
        if let Some(at) = state.limits.iter().position(|&other| other == limit) {
            state.limits.swap_remove(at);
        }
    }

    /// Watches over the items of calls that tasks have under way, each of which may take at least so
    /// long.
    pub(super) fn watch_for_tasks(&self, shortest: Option<u64>) {
        let mut state = lock(&self.timer.state);
        if state.of_tasks == shortest {
            return;
        }
        if shortest.is_some() && self.start_timer(&mut state).is_err() {
            // Tried again when the desk is rung the next time.
            return;
        }
        state.of_tasks = shortest;
        state.is_changed = true;
        self.timer.changed.notify_one();
    }

    /// Kills a worker whose job is doomed, once its grace is over.
    pub(super) fn kill_in_time(&self, worker: Holder) {
        let grace = self.grace();
        if grace > 0 {
            self.tell_unwanted(Some(worker));
            let mut state = lock(&self.timer.state);
            if self.start_timer(&mut state).is_ok() {
                let due = sys::clock::now().saturating_add(grace);
                state.kills.push((due, worker));
                state.is_changed = true;
                self.timer.changed.notify_one();
                return;
            }
        }
        self.kill_worker(worker);
    }

    /// The pool has stopped.
    pub(super) fn stop_timer(&self) {
        // Under the lock, so that it is not between its look and its sleep.
        let _state = lock(&self.timer.state);
        self.timer.changed.notify_one();
    }

    fn start_timer(&self, state: &mut State) -> Result<(), Error> {
        if state.is_running {
            return Ok(());
        }
        let Some(pool) = self.this.get().and_then(Weak::upgrade) else {
            return Ok(());
        };
        std::thread::Builder::new()
            .name("mp-pool-timer".into())
            .spawn(move || run(&pool))
            .map_err(|error| {
                Error::system("could not start the thread for the pool's deadlines", error)
            })?;
        state.is_running = true;
        Ok(())
    }

    fn grace(&self) -> u64 {
        nanos(self.settings.grace)
    }
}

/// As a number, the largest if it is longer.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The timer's loop.
fn run(pool: &Inner) {
    let timer = &pool.timer;
    let mut state = lock(&timer.state);
    while pool.stop().is_none() {
        state.is_changed = false;
        let now = sys::clock::now();
        let shortest = state.shortest();
        let over = state.kills.extract_if(.., |&mut (due, _)| due <= now);
        let mut over: Vec<_> = over.map(|(_, worker)| worker).collect();
        let next = state.kills.iter().map(|&(due, _)| due).min();
        drop(state);
        let of_calls = shortest.map(|it| now.saturating_add(it).saturating_add(pool.grace()));
        let of_jobs = expire(pool, now, &mut over);
        let next = [next, of_calls, of_jobs].into_iter().flatten().min();
        let is_idle = next.is_none();
        for worker in over {
            // It gets no further than the item that it is at: the kill can hit nothing else.
            fault!("pool.expired");
            pool.kill_worker(worker);
        }
        state = lock(&timer.state);
        if state.is_changed {
            continue;
        }
        let time = match next {
            Some(next) => Duration::from_nanos(next.saturating_sub(sys::clock::now())).min(LONG),
            None => IDLE,
        };
        let slept = timer.changed.wait_timeout(state, time);
        let timeout;
        (state, timeout) = slept.unwrap_or_else(|poison| poison.into_inner());
        let is_idle = is_idle && state.shortest().is_none() && state.kills.is_empty();
        if is_idle && timeout.timed_out() {
            break;
        }
    }
    state.is_running = false;
}

/// Marks the items that took too long by `now`, adds their workers to `over`, and returns when the
/// first of the others is due, if there are any.
fn expire(pool: &Inner, now: u64, over: &mut Vec<Holder>) -> Option<u64> {
    let mut next = None;
    for index in pool.jobs() {
        match pool.memory.job(index).expire(now, pool.grace()) {
            Expiry::None => {}
            Expiry::Due(due) => next = Some(next.map_or(due, |next: u64| next.min(due))),
            Expiry::Expired(worker) => over.push(worker),
        }
    }
    next
}
