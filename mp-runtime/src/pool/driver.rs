//! Who drives the calls that nobody waits for: one lazy thread a pool.
//!
//! [`Pool::submit`](super::Pool::submit) and [`Pool::map_async`](super::Pool::map_async) hand a
//! call over and come back. The driver is to such a call what the caller's thread is to any other,
//! see [`call`](super::call): it encodes, waits on a bell, decodes. All of its calls share one
//! bell, so it sleeps in one place. A call that is handed over, cancelled, or has a job that is
//! over rings that bell, and so does the end of the pool; the thread ends with the pool.
//!
//! User code runs here only as `Serialize`, `Deserialize` and `Drop`, and under no lock; a panic in
//! it is caught. Callbacks are run elsewhere, see [`callbacks`](super::callbacks).

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::call::State;
use super::inner::{Inner, lock};
use super::job::JOBS;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fault::fault;

/// Entries of the job table that the driver's calls may want, unless one call alone wants more: it
/// must never wait for an entry that only itself can free.
const MOST_JOBS: usize = JOBS as usize / 4;

/// After so long without a result the tasks of a worker are taken to wait for it.
const STALL: Duration = Duration::from_millis(100);

/// A call that was handed over and has not begun.
pub(super) trait Pending: Send {
    /// Jobs that the call may have out at once.
    fn jobs(&self, pool: &Inner) -> usize;
    /// Begins it, with the bell to which `number` leads.
    fn begin<'p>(self: Box<Self>, pool: &'p Inner, number: u32) -> Box<dyn Active + 'p>;
}

/// A call that is under way.
pub(super) trait Active {
    /// Goes on as far as can be without waiting.
    fn advance(&mut self) -> State;
    /// When it is to go on at the latest.
    fn due(&self) -> Deadline;
}

/// The way to the driver.
#[derive(Default)]
pub(super) struct Driver(Mutex<Mailbox>);

#[derive(Default)]
struct Mailbox {
    pending: VecDeque<Box<dyn Pending>>,
    is_running: bool,
}

impl Driver {
    /// Hands over a call that `pool` has let in.
    pub(super) fn hand_over(pool: &Arc<Inner>, call: Box<dyn Pending>) -> Result<(), Error> {
        let mut mailbox = lock(&pool.driver.0);
        if !mailbox.is_running {
            let inner = pool.clone();
            std::thread::Builder::new()
                .name("mp-pool-calls".into())
                .spawn(move || run(&inner))
                .map_err(|error| {
                    Error::system("could not start the thread for the pool's calls", error)
                })?;
            mailbox.is_running = true;
        }
        mailbox.pending.push_back(call);
        drop(mailbox);
        pool.ring_driver();
        Ok(())
    }

    /// Calls that have not begun.
    pub(super) fn pending(&self) -> usize {
        lock(&self.0).pending.len()
    }

    /// Takes the next call that has not begun, if it wants no more than `left` jobs or is the only
    /// one.
    fn next(&self, pool: &Inner, wanted: usize) -> Option<(Box<dyn Pending>, usize)> {
        let mut mailbox = lock(&self.0);
        let jobs = mailbox.pending.front()?.jobs(pool);
        if wanted > 0 && wanted + jobs > MOST_JOBS {
            return None;
        }
        mailbox.pending.pop_front().map(|call| (call, jobs))
    }

    /// Whether the driver may end, which it then must: nothing is handed over, and the next call
    /// starts another.
    fn retire(&self) -> bool {
        let mut mailbox = lock(&self.0);
        mailbox.is_running = !mailbox.pending.is_empty();
        !mailbox.is_running
    }
}

/// The driver's loop.
fn run(pool: &Inner) {
    let number = pool.driver_number();
    let memory = &pool.memory;
    let bell = memory.done_bell(number);
    let mut active: Vec<(Option<Box<dyn Active + '_>>, usize)> = Vec::new();
    let mut wanted = 0;
    // Of a task's calls, which may be waited for in ways that nobody sees.
    let mut waiting = None;
    loop {
        // Whoever changes what is looked at below rings afterwards.
        let ticket = bell.listen();
        while let Some((call, jobs)) = pool.driver.next(pool, wanted) {
            active.push((Some(call.begin(pool, number)), jobs));
            wanted += jobs;
        }
        fault!("pool.driving");
        let before = active.len();
        active.retain_mut(|(call, jobs)| {
            let is_over = advance(call);
            if is_over {
                wanted -= *jobs;
            }
            !is_over
        });
        if active.len() < before {
            waiting = None;
            continue;
        }
        if active.is_empty() && pool.stop().is_some() && pool.driver.retire() {
            return;
        }
        let dues = active
            .iter()
            .flat_map(|(call, _)| call)
            .map(|call| call.due());
        let due = dues.fold(Deadline::NEVER, Deadline::earlier);
        if pool.guest().is_none() || waiting.is_some() || active.is_empty() {
            bell.wait(memory.peers(), ticket, due);
            continue;
        }
        let stall = Deadline::after(STALL);
        bell.wait(memory.peers(), ticket, due.earlier(stall));
        if stall.has_passed() {
            waiting = pool.waiting();
        }
    }
}

/// Goes on with a call, and drops it if it is over; false if it is not.
fn advance(place: &mut Option<Box<dyn Active + '_>>) -> bool {
    loop {
        let step = || {
            if let Some(call) = place
                && call.advance() == State::UnderWay
            {
                return false;
            }
            // Dropping what is left of it is user code, too.
            drop(place.take());
            true
        };
        // What panicked is noted in the call as its item's failure: it goes on with the next.
        if let Ok(is_over) = catch_unwind(AssertUnwindSafe(step)) {
            return is_over;
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
