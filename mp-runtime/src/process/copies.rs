//! Asking a fork server for copies, and making children of them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, TryLockError};
use std::time::Duration;

use super::fork_server::{Life, Server};
use super::launcher;
use super::order::{Answer, MOST_ANSWER, Order, Parts, REQUEST};
use super::spawn::Request;
use super::supervisor;
use crate::deadline::Deadline;
use crate::fault::fault;
use crate::loom::AtomicU32;
use crate::shm::Region;
use crate::sys;
use crate::sys::process::{Status, Tick};

/// What a fork server has made, or is about to.
#[derive(Debug)]
pub(super) struct Copies {
    /// Memory that it has too, with one word: the process id of the last copy that was asked for, once
    /// there is one. The kernel writes it before that runs.
    place: Region,
    /// Whether a child was made of a copy.
    has_made: bool,
    /// Our end of the socket to a copy that was asked for ahead, for the next child. There is one from the
    /// second child on.
    ahead: Option<OwnedFd>,
}

/// A copy that waits to be told which child it is to be, or that was told.
pub(super) struct Made {
    pub(super) pid: u32,
    /// When it was made, if that is known.
    tick: Option<Tick>,
    pub(super) socket: OwnedFd,
}

/// What became of a request for a copy.
enum Outcome {
    Made(Made),
    /// The server could not, and why.
    Failed(io::Error),
    /// The server ended before.
    Gone,
}

impl Server {
    /// Has a copy become the child that is described; `None` if the server was gone before it was asked.
    pub(super) fn order(&self, request: &Request, deadline: Deadline) -> io::Result<Option<Made>> {
        let mut copies = self.life.copies();
        let mut child = None;
        if let Some(socket) = copies.ahead.take() {
            supervisor::leave_copy(socket.as_fd());
            match self.outcome(&copies, socket, deadline)? {
                Outcome::Made(made) => match made.become_child(request)? {
                    Ok(made) => child = Some(made),
                    // While it waited.
                    Err(dead) => dead.end(),
                },
                // Tried again now.
                Outcome::Failed(_) => {}
                Outcome::Gone => return Ok(None),
            }
        }
        if child.is_none() {
            let Some(socket) = self.ask(&copies)? else {
                return Ok(None);
            };
            child = match self.outcome(&copies, socket, deadline)? {
                // One that has died is a child that has: whoever waits for its end is told.
                Outcome::Made(made) => {
                    Some(made.become_child(request)?.unwrap_or_else(|dead| dead))
                }
                Outcome::Failed(why) => return Err(why),
                Outcome::Gone => return Err(self.obituary()),
            };
        }
        fault!("fork.sent");
        if copies.has_made {
            // The child begins meanwhile. What fails is seen by who needs it.
            copies.ahead = self.ask(&copies).unwrap_or(None);
            if let Some(socket) = &copies.ahead {
                supervisor::watch_copy(&self.life, socket.as_fd());
            }
            fault!("fork.asked");
        }
        copies.has_made = true;
        Ok(child)
    }

    /// Asks for a copy, and returns our end of its socket; `None` if the server is gone.
    fn ask(&self, copies: &Copies) -> io::Result<Option<OwnedFd>> {
        let (ours, theirs) = sys::fd::packet_pair()?;
        // Relaxed: the message orders it.
        copies.last_pid().store(0, Ordering::Relaxed);
        match sys::fd::send_packet(self.control.as_fd(), &REQUEST, &[theirs.as_fd()]) {
            Err(error) if is_gone(&error) => Ok(None),
            result => result.map(|()| Some(ours)),
        }
    }

    /// What became of the last copy that was asked for.
    fn outcome(&self, copies: &Copies, socket: OwnedFd, deadline: Deadline) -> io::Result<Outcome> {
        let (answer, is_late) = self.answer(deadline);
        // Acquire: after the answer, or the end of the server. Written by the kernel when there was a
        // copy, so that this holds whatever became of the server.
        let pid = copies.last_pid().load(Ordering::Acquire);
        let tick = match answer {
            Some(Answer::Made(_)) if pid == 0 => {
                let died = io::Error::other("the copy of the fork server died while it waited");
                return Ok(Outcome::Failed(died));
            }
            Some(Answer::Made(tick)) => tick,
            None => None,
            Some(Answer::Failed(why)) => return Ok(Outcome::Failed(io::Error::other(why))),
            Some(Answer::Unfit(why)) => {
                // The next start tries with another.
                self.life.kill();
                return Err(io::Error::other(why));
            }
        };
        match pid {
            0 if is_late => Err(self.reproach()),
            0 => Ok(Outcome::Gone),
            _ => Ok(Outcome::Made(Made { pid, tick, socket })),
        }
    }

    /// What the server says to what it was asked, `None` if it died, and whether it said nothing in time:
    /// then it is killed, so that it does not make a copy that nobody expects any more.
    fn answer(&self, deadline: Deadline) -> (Option<Answer>, bool) {
        let mut room = [0; MOST_ANSWER];
        let mut said = sys::fd::receive_now(self.control.as_fd(), &mut room);
        let mut is_late = false;
        if let Err(error) = &said
            && error.kind() == io::ErrorKind::WouldBlock
        {
            let both = [self.control.as_fd(), self.life.pidfd()];
            is_late = !sys::fd::wait_readable(&both, deadline.remaining()).unwrap_or(false);
            if is_late {
                self.life.kill();
            }
            said = sys::fd::receive_now(self.control.as_fd(), &mut room);
        }
        if let Ok(len @ 1..) = said {
            return (Some(Answer::parse(&room[..len])), is_late);
        }
        // What it made, it has made by now.
        self.life.wait();
        (None, is_late)
    }

    /// Why it was killed.
    fn reproach(&self) -> io::Error {
        let pid = self.life.pid;
        let text = format!(
            "it (process {pid}) did not answer in time and was killed; if what it preloads takes \
             long, ask for a longer start_timeout"
        );
        io::Error::new(io::ErrorKind::TimedOut, text)
    }

    /// How it died.
    pub(super) fn obituary(&self) -> io::Error {
        let how = match self.life.wait() {
            Status::Exited(code) => format!("exited with code {code}"),
            Status::Signaled { signal, .. } => format!(
                "was killed by {}",
                sys::signal::signal_name(signal).unwrap_or("a signal")
            ),
            Status::Unknown => "ended".to_owned(),
        };
        let pid = self.life.pid;
        let text = format!(
            "it (process {pid}) {how} before it had made the process; the next start makes another"
        );
        io::Error::new(io::ErrorKind::ConnectionAborted, text)
    }
}

impl Life {
    fn copies(&self) -> MutexGuard<'_, Copies> {
        // No user code runs under this lock, and what it guards is whole after each step.
        self.copies
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Reaps the copy that was asked for ahead, which has died, or was never made.
    pub(super) fn reap_copy(&self) {
        let copies = match self.copies.try_lock() {
            Ok(copies) => copies,
            Err(TryLockError::Poisoned(poison)) => poison.into_inner(),
            // Whoever starts a child finds it dead.
            Err(TryLockError::WouldBlock) => return,
        };
        // Another may wait by now in the place of the one that has died.
        let has_died = |socket: &&OwnedFd| {
            let socket = [socket.as_fd()];
            sys::fd::wait_readable(&socket, Some(Duration::ZERO)).unwrap_or(false)
        };
        if let Some(socket) = copies.ahead.as_ref().filter(has_died) {
            supervisor::leave_copy(socket.as_fd());
            // Zero says so to the next start, which still has the server's answer to take.
            match copies.last_pid().swap(0, Ordering::AcqRel) {
                0 => {}
                pid => sys::process::kill_unwatched(pid),
            }
        }
    }

    /// Ends the copy that was asked for ahead, if there is one. The server has ended.
    pub(super) fn end_copy(&self) {
        let mut copies = self.copies();
        if let Some(socket) = copies.ahead.take() {
            supervisor::leave_copy(socket.as_fd());
            match copies.last_pid().load(Ordering::Acquire) {
                0 => {}
                pid => sys::process::kill_unwatched(pid),
            }
        }
    }
}

impl Copies {
    /// None so far; their process ids are written to `place`.
    pub(super) fn new(place: Region) -> Self {
        Self {
            place,
            has_made: false,
            ahead: None,
        }
    }

    fn last_pid(&self) -> &AtomicU32 {
        self.place.at(0)
    }
}

impl Made {
    /// Tells it which child it is to be; gives it back where it has died.
    fn become_child(self, request: &Request) -> io::Result<Result<Self, Self>> {
        // Before it can do anything.
        launcher::record(request.holder, self.pid, self.tick);
        match self.send(request) {
            Ok(()) => Ok(Ok(self)),
            Err(error) if is_gone(&error) => Ok(Err(self)),
            Err(error) => {
                self.end();
                Err(error)
            }
        }
    }

    fn send(&self, request: &Request) -> io::Result<()> {
        let order = Order {
            slot: request.holder.slot(),
            generation: request.holder.generation(),
        };
        let directory = sys::fd::working_directory()?;
        let stream = |index: usize| {
            let given = request.streams[index].theirs();
            given.or_else(|| sys::fd::std_stream(index))
        };
        let parts = Parts {
            directory: directory.as_fd(),
            region: request.region.as_ref().map(|region| region.memory()),
            streams: [stream(0), stream(1), stream(2)],
        };
        sys::fd::send_packet(self.socket.as_fd(), &order.to_bytes(&parts), &parts.fds())
    }

    /// Ends and reaps it.
    fn end(self) {
        sys::process::kill_unwatched(self.pid);
    }
}

/// Whether an error of sending says that nobody is there.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}
