//! The thread that watches children and settles what a death leaves, also for processes whose own
//! parent died. It runs no user code.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::fork_server::{self, Life};
use super::running::Running;
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::life::Program;
use crate::life::program::existing;
use crate::shm::BlockId;
use crate::sync::raw::Holder;
use crate::sys;
use crate::sys::fd::Poller;

/// How long children may take to end when this process does, before it ends without them.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often those are looked at that cannot be watched.
const LOOK: Duration = Duration::from_millis(100);

/// What is watched, by a number that is never given twice.
struct Supervisor {
    poller: Poller,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    next: u64,
    things: HashMap<u64, Thing>,
    /// When the thread wakes up if nothing happens: who needs it before, or finds nothing here,
    /// wakes it.
    wakes_at: Option<Instant>,
    /// Processes whose parent died and that cannot be watched, for want of descriptors, say.
    unwatched: Vec<Unwatched>,
}

enum Thing {
    Child(Arc<Running>),
    /// The standard error of a child.
    Stderr(Arc<Running>),
    /// A process whose parent died.
    Orphan(Holder, OwnedFd),
    ForkServer(Arc<Life>),
}

/// A process whose parent died, without a descriptor.
struct Unwatched {
    holder: Holder,
    /// Zero if it was never started.
    pid: u32,
    /// Zero if that was never recorded.
    start_time: u64,
}

/// Whether this process's exit has begun, from which on it starts no children: they would outlive it.
static EXITING: AtomicBool = AtomicBool::new(false);

static SUPERVISOR: OnceLock<Supervisor> = OnceLock::new();

/// Makes sure that there is a supervisor.
pub(super) fn ensure() -> io::Result<()> {
    static HAS_THREAD: Mutex<bool> = Mutex::new(false);
    let mut has_thread = HAS_THREAD
        .lock()
        .unwrap_or_else(|poison| poison.into_inner());
    if SUPERVISOR.get().is_none() {
        let poller = Poller::new()?;
        sys::process::on_exit(end_children)?;
        SUPERVISOR.get_or_init(|| Supervisor {
            poller,
            watched: Mutex::default(),
        });
    }
    // Tried again at the next start if there is no room for a thread at this one.
    if !*has_thread {
        std::thread::Builder::new()
            .name("mp-supervisor".to_owned())
            .spawn(run)?;
        *has_thread = true;
    }
    Ok(())
}

/// Watches a child until it ends. If that fails, nobody ever knew of the child.
pub(super) fn watch(running: &Arc<Running>) -> io::Result<()> {
    let Some(supervisor) = SUPERVISOR.get() else {
        return Ok(());
    };
    let mut watched = supervisor.watched();
    supervisor.poller.add(running.pidfd(), watched.next)?;
    watched.add(Thing::Child(running.clone()));
    running.with_stderr(|pipe| {
        // Without it the error has no tail, and a child that writes much waits for a reader.
        if supervisor.poller.add(pipe, watched.next).is_ok() {
            watched.add(Thing::Stderr(running.clone()));
        }
    });
    let is_awake_in_time = match (watched.wakes_at, running.start_by) {
        (_, None) => true,
        (Some(at), Some(by)) => at <= by,
        (None, Some(_)) => false,
    };
    drop(watched);
    if !is_awake_in_time {
        // For the handshake's deadline. The child is watched even if that fails.
        let _ = supervisor.poller.wake();
    }
    Ok(())
}

/// Watches a fork server until it ends.
pub(super) fn watch_server(server: &Arc<Life>) -> io::Result<()> {
    let Some(supervisor) = SUPERVISOR.get() else {
        return Ok(());
    };
    let mut watched = supervisor.watched();
    supervisor.poller.add(server.pidfd(), watched.next)?;
    let _ = server.token.set(watched.next);
    watched.add(Thing::ForkServer(server.clone()));
    Ok(())
}

/// Watches a copy of a fork server that waits, by our end of its socket, which becomes readable when it
/// dies.
pub(super) fn watch_copy(server: &Life, socket: BorrowedFd<'_>) {
    if let (Some(supervisor), Some(&token)) = (SUPERVISOR.get(), server.token.get()) {
        // Unwatched, it would be reaped by the next start.
        let _ = supervisor.poller.add(socket, token);
    }
}

/// Stops watching it.
pub(super) fn leave_copy(socket: BorrowedFd<'_>) {
    if let Some(supervisor) = SUPERVISOR.get() {
        let _ = supervisor.poller.remove(socket);
    }
}

/// Whether this process's exit has begun.
pub(crate) fn is_exiting() -> bool {
    // Relaxed: a start that is under way goes on, and its child notices that we are gone.
    EXITING.load(Ordering::Relaxed)
}

/// Stops watching a child that was settled.
pub(super) fn forget(running: &Running) {
    let Some(supervisor) = SUPERVISOR.get() else {
        return;
    };
    supervisor.leave(running);
    running.with_stderr(|pipe| {
        let _ = supervisor.poller.remove(pipe);
    });
    let gone: Vec<Thing> = {
        let mut watched = supervisor.watched();
        let tokens: Vec<u64> = watched
            .things
            .iter()
            .filter(|(_, thing)| match thing {
                Thing::Child(child) | Thing::Stderr(child) => std::ptr::eq(&**child, running),
                Thing::Orphan(..) | Thing::ForkServer(_) => false,
            })
            .map(|(&token, _)| token)
            .collect();
        tokens
            .iter()
            .filter_map(|token| watched.things.remove(token))
            .collect()
    };
    // Outside of the lock: the last handle of a child gives memory back.
    drop(gone);
}

/// Leaves the end of a child to somebody who waits for it without a deadline. It stays on the list until
/// it is settled: for its handshake, and among the children of this process.
pub(super) fn leave_to_joiner(running: &Running) {
    if let Some(supervisor) = SUPERVISOR.get() {
        supervisor.leave(running);
    }
}

/// Leaves a standard error to whoever took it.
pub(super) fn stop_draining(pipe: BorrowedFd<'_>) {
    if let Some(supervisor) = SUPERVISOR.get() {
        let _ = supervisor.poller.remove(pipe);
    }
}

/// Answers for the children of a process of ours that has ended.
pub(super) fn adopt(program: &Program, parent: Holder) {
    for orphan in program.adopt(parent) {
        let orphan = Unwatched {
            holder: orphan.holder,
            pid: orphan.pid,
            start_time: orphan.start_time,
        };
        take_in(program, orphan);
    }
}

/// Buries an orphan if it is gone. Otherwise it is watched until it is.
fn take_in(program: &Program, orphan: Unwatched) {
    let pidfd = match orphan.pid {
        // It was never started, or is refused when it attaches.
        0 => return bury_unseen(program, orphan.holder),
        pid => sys::process::pidfd_open(pid),
    };
    let is_gone = match &pidfd {
        Err(error) if error.raw_os_error() == Some(sys::ESRCH) => true,
        // It waits to be reaped, or another process has its number by now.
        _ => sys::process::is_gone(orphan.pid, orphan.start_time),
    };
    let Some(supervisor) = SUPERVISOR.get().filter(|_| !is_gone) else {
        return bury_unseen(program, orphan.holder);
    };
    let mut watched = supervisor.watched();
    if let Ok(pidfd) = pidfd {
        if orphan.start_time != 0 {
            // It is about to die of its parent's death; this is for one that its parent had let go
            // of. One whose start nobody recorded might be somebody else.
            let _ = sys::process::pidfd_signal(pidfd.as_fd(), sys::signal::KILL);
        }
        if supervisor.poller.add(pidfd.as_fd(), watched.next).is_ok() {
            watched.add(Thing::Orphan(orphan.holder, pidfd));
            return;
        }
    }
    watched.unwatched.push(orphan);
    drop(watched);
    // So that it begins to look; without, it does after the next event.
    let _ = supervisor.poller.wake();
}

/// Looks at the orphans that cannot be watched; returns when to look again.
fn look_at_unwatched(supervisor: &Supervisor) -> Option<Duration> {
    let orphans = std::mem::take(&mut supervisor.watched().unwatched);
    if let Some(program) = existing() {
        for orphan in orphans {
            take_in(program, orphan);
        }
    }
    (!supervisor.watched().unwatched.is_empty()).then_some(LOOK)
}

/// Buries a process whose end and result nobody waits for, such as an orphan.
pub(super) fn bury_unseen(program: &Program, holder: Holder) {
    adopt(program, holder);
    fault!("adopt.burying");
    program.bury(holder);
    // The burial handed us what came of it, as its parent; but nobody here asks for it.
    let slot = program.roster.slot(holder.slot());
    if let Some(block) = BlockId::from_bits(slot.outcome.swap(0, Ordering::Acquire)) {
        program.arena.free(block);
    }
    if let Some(parcel) = BlockId::from_bits(slot.outcome_parcel.swap(0, Ordering::Relaxed)) {
        program.table.discard(&program.arena, parcel);
    }
    program.release_slot(holder);
}

/// The children of this process that have not been found ended.
pub(super) fn children() -> Vec<Arc<Running>> {
    // A copy made by `fork` has none.
    let Some(supervisor) = SUPERVISOR.get().filter(|_| existing().is_some()) else {
        return Vec::new();
    };
    let watched = supervisor.watched();
    let mut children: Vec<_> = watched
        .things
        .iter()
        .filter_map(|(&token, thing)| match thing {
            Thing::Child(child) => Some((token, child.clone())),
            Thing::Stderr(_) | Thing::Orphan(..) | Thing::ForkServer(_) => None,
        })
        .collect();
    drop(watched);
    children.sort_by_key(|(token, _)| *token);
    children.into_iter().map(|(_, child)| child).collect()
}

impl Supervisor {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        // No user code runs under this lock, so a poisoned one is as good as any.
        self.watched
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Is no longer woken by the end of a child.
    fn leave(&self, running: &Running) {
        if running.end_watch() {
            let _ = self.poller.remove(running.pidfd());
        }
    }

    /// Begins to look at what is watched: from now on whoever watches more wakes the thread. Returns
    /// up to where it sees all.
    fn begin_look(&self) -> u64 {
        let mut watched = self.watched();
        watched.wakes_at = None;
        watched.next
    }

    /// Notes until when the thread sleeps, unless there is more to look at.
    fn end_look(&self, seen: u64, wakes_at: Option<Instant>) {
        let mut watched = self.watched();
        if watched.next == seen {
            watched.wakes_at = wakes_at;
        }
    }
}

impl Watched {
    fn add(&mut self, thing: Thing) -> u64 {
        let token = self.next;
        self.next += 1;
        self.things.insert(token, thing);
        token
    }
}

fn run() {
    let Some(supervisor) = SUPERVISOR.get() else {
        return;
    };
    sys::signal::block_signals();
    let mut tokens = Vec::new();
    // One look at starts more than need be: children that are started until then, one after the
    // other, need not wake this thread, since it does so by itself before any of them is late.
    let mut look_at: Option<Instant> = None;
    loop {
        let seen = supervisor.begin_look();
        let starts = enforce_starts();
        let now = Instant::now();
        look_at = match (look_at.filter(|at| *at > now), starts) {
            (None, Some(left)) => now.checked_add(left),
            (Some(at), Some(left)) => Some(now.checked_add(left).map_or(at, |by| by.min(at))),
            (at, None) => at,
        };
        let starts = look_at.map(|at| at.duration_since(now));
        let timeout = [starts, look_at_unwatched(supervisor)]
            .into_iter()
            .flatten()
            .min();
        supervisor.end_look(seen, timeout.and_then(|timeout| now.checked_add(timeout)));
        if supervisor.poller.wait(&mut tokens, timeout).is_err() {
            // Out of kernel memory, say: children can still be joined, so go on, but not hot.
            std::thread::sleep(Duration::from_millis(10));
        }
        for token in tokens.drain(..) {
            handle(supervisor, token);
        }
    }
}

fn handle(supervisor: &Supervisor, token: u64) {
    // In a statement of its own: the lock is released before the thing is dealt with.
    let thing = match supervisor.watched().things.get(&token) {
        Some(Thing::Child(child)) => Ok((child.clone(), false)),
        Some(Thing::Stderr(child)) => Ok((child.clone(), true)),
        Some(Thing::ForkServer(server)) => Err(Some(server.clone())),
        Some(Thing::Orphan(..)) => Err(None),
        None => return,
    };
    let (child, is_stderr) = match thing {
        Ok(child) => child,
        Err(Some(server)) if server.reap(false).is_none() => return server.reap_copy(),
        Err(_) => return handle_ended(supervisor, token),
    };
    if is_stderr {
        if child.drain_stderr().is_none() {
            child.with_stderr(|pipe| {
                let _ = supervisor.poller.remove(pipe);
            });
            supervisor.watched().things.remove(&token);
        }
    } else if child.is_joined() {
        // Not again for the same end: the joiner takes it off the list.
        supervisor.leave(&child);
    } else {
        child.settle();
    }
}

fn handle_ended(supervisor: &Supervisor, token: u64) {
    let thing = supervisor.watched().things.remove(&token);
    match thing {
        Some(Thing::Orphan(holder, pidfd)) => {
            let _ = supervisor.poller.remove(pidfd.as_fd());
            if let Some(program) = existing() {
                bury_unseen(program, holder);
            }
        }
        Some(Thing::ForkServer(server)) => {
            let _ = supervisor.poller.remove(server.pidfd());
            server.reap(true);
            server.end_copy();
        }
        Some(Thing::Child(_) | Thing::Stderr(_)) | None => {}
    }
}

/// Kills children that are late for their handshake; returns when to look again.
fn enforce_starts() -> Option<Duration> {
    let children = children();
    let now = Instant::now();
    let program = existing()?;
    let mut next: Option<Duration> = None;
    for child in children {
        let slot = program.roster.slot(child.holder.slot());
        if slot.state().0 != crate::life::slot::State::Reserved {
            continue;
        }
        let Some(by) = child.start_by else { continue };
        match by.checked_duration_since(now) {
            Some(left) if !left.is_zero() => {
                next = Some(next.map_or(left, |next| next.min(left)));
            }
            _ => child.enforce_start(),
        }
    }
    next
}

/// Begins this process's exit: it starts no more children, and waits for those that are no daemons.
pub(super) fn wait_for_non_daemons() {
    // Relaxed: see `is_exiting`.
    EXITING.store(true, Ordering::Relaxed);
    for child in children().iter().filter(|child| !child.is_daemon) {
        child.wait(Deadline::NEVER);
    }
}

/// Ends the children of a process that exits: those that are not daemons are waited for, the others
/// are killed.
extern "C" fn end_children() {
    wait_for_non_daemons();
    let children = children();
    for child in &children {
        child.signal(sys::signal::KILL);
    }
    let deadline = Deadline::after(EXIT_TIMEOUT);
    for child in &children {
        child.wait(deadline);
    }
    fork_server::end();
}
