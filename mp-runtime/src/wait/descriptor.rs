//! Readiness as a descriptor: a thread that is there once somebody asks for one sleeps at the
//! process's doorbell, and makes the descriptors of what has become ready readable.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use super::source::{Source, Watches, listen, ready};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::life::program::existing;
use crate::life::{Program, program};
use crate::sys;

/// A descriptor that becomes readable when a queue, a connection or an event is ready, for `poll`,
/// `epoll` and async runtimes; see [`Queue::descriptor`](crate::Queue::descriptor).
///
/// It says "look now", as a doorbell does: it becomes readable once when the thing is ready, and stays
/// so until [`clear`](Self::clear). So whoever uses it takes what is there, by a form that does not
/// wait, until nothing is left; calls `clear`; and waits for the descriptor again. If something came
/// in between, `clear` has made it readable again. What made it readable may have been taken by
/// another meanwhile. Nothing is to be read from the descriptor itself.
///
/// It is this process's own and cannot be sent.
///
/// # When a process dies
///
/// A connection whose other end goes with it becomes ready, and so readable here.
///
/// # Examples
///
/// With tokio, see `examples/tokio_queue.rs`; with anything that polls:
///
/// ```
/// use std::os::fd::{AsFd, AsRawFd};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = mp::Queue::new()?;
/// let descriptor = queue.descriptor()?;
/// queue.put(1)?;
/// poll_until_readable(descriptor.as_fd());
/// assert_eq!(queue.try_get()?, 1);
/// assert!(queue.try_get().is_err()); // nothing is left
/// descriptor.clear();
/// # Ok(())
/// # }
/// # fn poll_until_readable(fd: std::os::fd::BorrowedFd<'_>) {
/// #     let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
/// #     while unsafe { libc::poll(&mut poll, 1, -1) } != 1 {}
/// # }
/// ```
#[must_use]
pub struct Descriptor {
    number: u64,
    /// A counter of events that is readable unless it is zero.
    counter: OwnedFd,
}

/// The descriptors of this process.
#[derive(Default)]
struct Watcher {
    next: u64,
    entries: HashMap<u64, Entry>,
    has_thread: bool,
}

struct Entry {
    source: Box<dyn Source>,
    /// The same counter.
    counter: OwnedFd,
    /// While it is not readable: what rings the doorbell for it.
    armed: Option<Watches>,
}

static WATCHER: Mutex<Option<Watcher>> = Mutex::new(None);

fn watcher() -> MutexGuard<'static, Option<Watcher>> {
    // No user code runs under this lock, so a poisoned one is as good as any.
    WATCHER.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl Descriptor {
    pub(crate) fn new(source: Box<dyn Source>) -> Result<Self, Error> {
        let program = program()?;
        let failed = |error| Error::system("could not make a descriptor", error);
        let counter = sys::fd::event_counter().map_err(failed)?;
        let same = counter.try_clone().map_err(failed)?;
        let mut watcher = watcher();
        let watcher = watcher.get_or_insert_default();
        if !watcher.has_thread {
            std::thread::Builder::new()
                .name("mp-descriptors".to_owned())
                .spawn(move || watch(program))
                .map_err(|error| Error::system("could not start a thread", error))?;
            watcher.has_thread = true;
        }
        let number = watcher.next;
        watcher.next += 1;
        let mut entry = Entry {
            source,
            counter: same,
            armed: None,
        };
        entry.arm(program);
        watcher.entries.insert(number, entry);
        Ok(Self { number, counter })
    }

    /// Makes it unreadable, unless the thing is ready at this moment: to be called when what was
    /// ready has been taken.
    pub fn clear(&self) {
        let Some(program) = existing() else { return };
        if let Some(watcher) = &mut *watcher()
            && let Some(entry) = watcher.entries.get_mut(&self.number)
        {
            sys::fd::clear_events(&self.counter);
            entry.arm(program);
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // In a copy made by `fork` another thread may have held the lock for ever.
        if existing().is_none() {
            return;
        }
        let entry = watcher()
            .as_mut()
            .and_then(|watcher| watcher.entries.remove(&self.number));
        // Outside of the lock: the last handle of an object takes it apart.
        drop(entry);
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.counter.as_raw_fd()
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptor")
            .field("fd", &self.counter)
            .finish()
    }
}

impl Entry {
    /// From now on it becomes readable, which it may do at once.
    fn arm(&mut self, program: &Program) {
        if self.armed.is_none() {
            self.armed = Some(Watches::begin(program, &[&*self.source]));
        }
        self.look();
    }

    /// Makes it readable if it is armed and the thing is ready.
    fn look(&mut self) {
        if self.armed.is_none() {
            return;
        }
        listen(&[&*self.source]);
        if !ready(&[&*self.source]).is_empty() {
            self.armed = None;
            // A counter of 8 bytes takes one more.
            let _ = sys::fd::count_event(&self.counter);
        }
    }
}

/// Looks at everything that is armed whenever the doorbell rings.
fn watch(program: &'static Program) {
    sys::signal::block_signals();
    let doorbell = &program.roster.my_slot().doorbell;
    loop {
        let ticket = doorbell.listen();
        if let Some(watcher) = &mut *watcher() {
            for entry in watcher.entries.values_mut() {
                entry.look();
            }
        }
        doorbell.wait(program.roster, ticket, Deadline::NEVER);
    }
}
