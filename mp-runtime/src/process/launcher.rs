//! The thread that starts children.
//!
//! It lives as long as the process, because a child asks for a signal when its parent's *thread*
//! ends. It runs no user code. The main thread lives as long, so that what it starts it starts itself:
//! the launcher would have to be woken for it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

use super::running::Running;
use super::spawn::{Execution, Request, arguments};
use super::supervisor;
use crate::fault::fault;
use crate::life::program::existing;
use crate::sync::raw::Holder;
use crate::sys;
use crate::sys::process::{Spawn, Tick};

type Order = Box<dyn FnOnce() + Send>;

/// Has a child started and watched.
pub(super) fn launch(request: Request, execution: Execution) -> io::Result<Arc<Running>> {
    run(move || start(request, execution))
}

/// Runs `start` on the thread whose children's lives are tied to this process.
pub(super) fn run<T: Send + 'static>(
    start: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static LAUNCHER: OnceLock<Mutex<Option<Sender<Order>>>> = OnceLock::new();

    supervisor::ensure()?;
    if sys::process::is_main_thread() {
        return start();
    }
    let (reply, answer) = sync_channel(1);
    // Nobody waits any more if the starting thread is gone; the child is watched all the same.
    let order: Order = Box::new(move || drop(reply.send(start())));
    {
        let launcher = LAUNCHER.get_or_init(Mutex::default);
        let mut launcher = launcher.lock().unwrap_or_else(|poison| poison.into_inner());
        if launcher.is_none() {
            let (sender, orders) = channel();
            std::thread::Builder::new()
                .name("mp-launcher".to_owned())
                .spawn(move || take(orders))?;
            *launcher = Some(sender);
        }
        launcher
            .as_ref()
            .and_then(|sender| sender.send(order).ok())
            .ok_or_else(|| io::Error::other("the launcher is gone"))?;
    }
    answer
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the launcher is gone")))
}

fn take(orders: Receiver<Order>) {
    sys::signal::block_signals();
    for order in orders {
        order();
    }
}

fn start(request: Request, execution: Execution) -> io::Result<Arc<Running>> {
    let before = Tick::now();
    let pid = sys::process::spawn(&Spawn {
        path: &execution.path,
        argv: arguments(),
        envp: &execution.envp,
        variable: Some(&execution.claim.to_variable()),
        stdio: request.streams.each_ref().map(|stream| stream.theirs()),
        inherit: &execution.inherited(request.region.as_deref()),
    })?;
    fault!("start.spawned");
    let watch = || {
        let pidfd = open(pid)?;
        record(request.holder, pid, before.if_now());
        // The kernel takes it before us if memory is short.
        sys::process::raise_oom_score(pid);
        let running = (request.make)(pid, pidfd, execution.ours);
        supervisor::watch(&running)?;
        Ok(running)
    };
    // A child that can't be watched would end unseen, and in a slot that is free for another.
    watch().inspect_err(|_| sys::process::kill_unwatched(pid))
}

/// A descriptor that becomes readable at the end of a child of ours.
pub(super) fn open(pid: u32) -> io::Result<OwnedFd> {
    // Not reaped by us before we say so, so the number is still the child's.
    match sys::process::pidfd_open(pid) {
        // It has ended, and other code of this program has reaped it, or the kernel where SIGCHLD is
        // ignored. A socket whose other end is closed is as readable as its pidfd would be.
        Err(error) if error.raw_os_error() == Some(sys::ESRCH) => Ok(sys::fd::socket_pair()?.0),
        result => result,
    }
}

/// Tells everybody which process a child is, which may be known to have started in one tick.
pub(super) fn record(holder: Holder, pid: u32, only: Option<Tick>) {
    if let Some(program) = existing() {
        let start_time = sys::process::start_time_within(pid, only).unwrap_or(0);
        program.roster.record_process(holder, pid, start_time);
    }
}
