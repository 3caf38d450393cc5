//! The thread that starts children.
//!
//! It lives as long as the process, because a child asks for a signal when its parent's *thread*
//! ends. It runs no user code. The main thread lives as long, so that what it starts it starts itself:
//! the launcher would have to be woken for it.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

use super::running::Running;
use super::spawn::{Request, arguments};
use super::supervisor;
use crate::fault::fault;
use crate::life::program::existing;
use crate::sync::raw::Holder;
use crate::sys;
use crate::sys::process::{Spawn, Tick};

type Order = Box<dyn FnOnce() + Send>;

/// Has a child started and watched.
pub(super) fn launch(request: Request) -> io::Result<Arc<Running>> {
    run(move || start(request))
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

fn start(mut request: Request) -> io::Result<Arc<Running>> {
    request.envp.push(request.claim.to_variable());
    let before = Tick::now();
    let pid = sys::process::spawn(&Spawn {
        path: request.path.as_deref().unwrap_or_default(),
        argv: arguments(),
        envp: &request.envp,
        stdio: request.streams.each_ref().map(|stream| stream.theirs()),
        inherit: &request.inherited(),
    })?;
    fault!("start.spawned");
    // A child that can't be watched would end unseen, and in a slot that is free for another.
    watch(pid, before, request).inspect_err(|_| sys::process::kill_unwatched(pid))
}

/// Records and watches a child that was made since `before`.
pub(super) fn watch(pid: u32, before: Tick, request: Request) -> io::Result<Arc<Running>> {
    // Not reaped by us before we say so, so the number is still the child's.
    let pidfd = match sys::process::pidfd_open(pid) {
        Ok(pidfd) => {
            record(pid, before, &request);
            pidfd
        }
        // It has ended, and other code of this program has reaped it, or the kernel where SIGCHLD is
        // ignored. A socket whose other end is closed is as readable as its pidfd would be.
        Err(error) if error.raw_os_error() == Some(sys::ESRCH) => sys::fd::socket_pair()?.0,
        Err(error) => return Err(error),
    };
    let running = (request.make)(pid, pidfd);
    supervisor::watch(&running)?;
    Ok(running)
}

/// Tells everybody which process it is, and the kernel to take it before us if memory is short.
fn record(pid: u32, before: Tick, request: &Request) {
    if let Some(program) = existing() {
        let start_time = sys::process::start_time_since(pid, before).unwrap_or(0);
        let holder = Holder::new(request.claim.slot, request.claim.generation);
        program.roster.record_process(holder, pid, start_time);
    }
    // The child of a fork server has its maker's.
    if request.path.is_some() {
        sys::process::raise_oom_score(pid);
    }
}
