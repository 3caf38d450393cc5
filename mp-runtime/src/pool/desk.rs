//! What the parent does for the calls that tasks make on their own pool: one thread a pool, which
//! sleeps until a worker rings. It also takes loose jobs apart whose callers are away, see
//! [`absence`].
//!
//! A ring says nothing but that something may have changed. The thread looks who waits, and has
//! others take their places; what has a deadline, and has the timer watch it; and which jobs callers
//! have let go of. It runs no user code.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::absence;
use super::failure;
use super::inner::{Inner, lock};
use super::job::{Claim, Phase};
use super::nest::News;
use crate::deadline::Deadline;
use crate::error::{Error, TaskError};
use crate::fault::fault;
use crate::loom::Ordering;
use crate::sync::raw::{Holder, Peers};

/// How often it looks at jobs that callers have let go of and that workers are at: nobody tells it
/// that they are over.
const LOOK: Duration = Duration::from_millis(50);

/// The thread, and whose turn it is to take news.
#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<Option<JoinHandle<()>>>, Mutex<()>);

/// Starts it.
pub(super) fn start(pool: &Arc<Inner>) -> Result<(), Error> {
    let inner = pool.clone();
    let thread = std::thread::Builder::new()
        .name("mp-pool-desk".into())
        .spawn(move || run(&inner))
        .map_err(|error| {
            Error::system(
                "could not start the thread for calls from inside of tasks",
                error,
            )
        })?;
    *lock(&pool.desk.0) = Some(thread);
    Ok(())
}

fn run(pool: &Inner) {
    let memory = &pool.memory;
    // Jobs whose workers are being killed for it.
    let mut doomed = Vec::new();
    loop {
        // Whoever changes what is looked at below rings afterwards.
        let ticket = memory.desk_bell().listen();
        if pool.stop().is_some() {
            // What workers still say is taken when they have ended.
            return;
        }
        pool.look_at_crew();
        fault!("nest.looked");
        pool.take_news();
        let look_again = pool.look_at_disowned(&mut doomed);
        // Afterwards: there may be fewer of them by now.
        pool.watch_for_tasks(pool.shortest_limit());
        let mut deadline = match look_again {
            true => Deadline::after(LOOK),
            false => Deadline::NEVER,
        };
        if pool.share_out_of_absent() {
            deadline = deadline.earlier(Deadline::after(absence::LOOK));
        }
        memory.desk_bell().wait(memory.peers(), ticket, deadline);
    }
}

impl Inner {
    /// Waits until the thread has ended, of a pool that has stopped.
    pub(super) fn end_desk(&self) {
        let thread = lock(&self.desk.0).take();
        if let Some(thread) = thread {
            // It runs nothing that could panic on its own account.
            let _ = thread.join();
        }
    }

    /// Takes what callers that are workers have for us, and passes it on.
    pub(super) fn take_news(&self) {
        let turn = lock(&self.desk.1);
        let news = self.memory.take_news();
        drop(turn);
        for news in news {
            match news {
                News::Failure(error) => self.tell_failure(&error),
                News::Ran(lane, span) => self.add_to_timeline(lane, span),
            }
        }
    }

    /// Has workers take the places of those that wait.
    fn look_at_crew(&self) {
        let result = self.fill_crew();
        let is_hopeless = result.is_err_and(|error| self.note_refusal(&error));
        self.refuse_if_stuck(is_hopeless);
    }

    /// The shortest limit of tasks' calls, in nanoseconds, also of jobs whose callers have let go of
    /// them and that workers are at.
    fn shortest_limit(&self) -> Option<u64> {
        let me = self.memory.peers().me();
        let disowned = self.memory.nested().filter_map(|index| {
            let job = self.memory.job(index);
            let is_out = job.runner().is_some() && self.memory.is_call_of(index, me);
            let limit = job.limit.load(Ordering::Relaxed);
            (is_out && limit > 0).then_some(limit)
        });
        disowned.chain(self.shortest_limit_of_calls()).min()
    }

    /// Fails what tasks wait for that nobody will ever run.
    pub(super) fn refuse_if_stuck(&self, has_failed: bool) {
        if !self.memory.has_nested() || !self.is_stuck(has_failed) {
            return;
        }
        let error = failure::no_substitute(&self.cause);
        let me = self.memory.peers().me();
        for index in self.memory.nested() {
            let job = self.memory.job(index);
            // In our name, in which nobody runs it: so nobody else touches what is noted of it, until it
            // is buried.
            let Claim::Mine(_) = job.claim(me) else {
                continue;
            };
            self.memory.set_failure(index, &error);
            // Read before: afterwards the job is the caller's.
            let bell = job.bell.load(Ordering::Relaxed);
            job.bury(me);
            self.memory.done_bell(bell).ring_all(self.memory.peers());
        }
    }

    /// Sees to the jobs that callers have let go of; true if there are some left.
    fn look_at_disowned(&self, doomed: &mut Vec<(u32, Holder)>) -> bool {
        let me = self.memory.peers().me();
        let mut any = false;
        doomed.retain(|&(index, worker)| {
            let job = self.memory.job(index);
            job.phase() == Phase::Doomed && job.runner() == Some(worker)
        });
        for index in self.memory.nested() {
            let job = self.memory.job(index);
            let seen = job.word();
            if matches!(seen.phase(), Phase::Free | Phase::Held) {
                continue;
            }
            fault!("nest.looking");
            if !self.memory.is_call_of(index, me) {
                continue;
            }
            if job.word() != seen {
                // Whose call it is may have been read of another use than what is so, in which a worker
                // may be at it.
                any = true;
                continue;
            }
            match (seen.phase(), seen.runner()) {
                (Phase::Doomed, Some(worker)) => {
                    any = true;
                    if !doomed.contains(&(index, worker)) {
                        doomed.push((index, worker));
                        self.kill_in_time(worker);
                    }
                }
                (Phase::Done | Phase::Dead, _) => self.release_unread(index),
                _ => any = true,
            }
        }
        any
    }

    /// Takes over what a worker that has ended had asked for.
    pub(super) fn end_calls_of(&self, dead: Holder) {
        let me = self.memory.peers().me();
        let mut is_left = false;
        for index in self.memory.nested() {
            let job = self.memory.job(index);
            if job.is_held_by(dead) {
                self.release_job(index);
                continue;
            }
            if matches!(job.phase(), Phase::Free | Phase::Held)
                || !self.memory.is_call_of(index, dead)
            {
                continue;
            }
            let _ = job.withdraw(Some(me));
            fault!("nest.withdrawn");
            match job.doom() {
                Some(_) => {
                    // If it has a grace, it stops after the item that it is at.
                    job.set_count(0);
                    self.memory.disown(index);
                    is_left = true;
                }
                None => self.release_unread(index),
            }
        }
        if is_left {
            self.ring_desk();
        }
    }

    /// Notes what became of the item that a worker was at which has ended.
    pub(super) fn note_failure_of(&self, index: u32, death: &failure::Death) {
        let job = self.memory.job(index);
        let error: TaskError = match job.is_expired() {
            true => death.timed_out(Duration::from_nanos(job.limit.load(Ordering::Relaxed))),
            false => death.failure(),
        };
        self.memory.set_failure(index, &error);
    }
}
