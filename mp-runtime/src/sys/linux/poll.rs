//! Waiting for descriptors: a few once, or a changing set for as long as a thread lives.
//!
//! # Safety
//!
//! The calls get arrays that are borrowed for their duration, and descriptors that are.

#![expect(unsafe_code, reason = "poll and epoll")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
    time::{Duration, Instant},
};

use super::{fd, result::check};

/// Waits until at least one descriptor is readable, at its end or in error, or the timeout has
/// passed. Returns whether one is.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<bool> {
    wait(fds, libc::POLLIN, timeout)
}

/// As [`wait_readable`], until there is room to write.
pub(crate) fn wait_writable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    wait(&[fd], libc::POLLOUT, timeout)
}

fn wait(
    fds: &[BorrowedFd<'_>],
    events: libc::c_short,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let entry = |fd: &BorrowedFd<'_>| libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    let mut entries: Vec<libc::pollfd> = fds.iter().map(entry).collect();
    let ready = until(timeout, |left| {
        let left = left.map(timespec);
        let (len, left) = (
            entries.len() as libc::nfds_t,
            left.as_ref().map_or(ptr::null(), ptr::from_ref),
        );
        // SAFETY: `entries` has `len` elements, `left` is null or a timespec that outlives the
        // call, and no signal mask is given.
        check(unsafe { libc::ppoll(entries.as_mut_ptr(), len, left, ptr::null()) })
    })?;
    Ok(ready > 0)
}

/// A set of descriptors, each under a token, and a way to interrupt whoever waits for them.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    /// An event counter in the set, under [`Poller::WAKER`].
    waker: OwnedFd,
}

impl Poller {
    /// The token of `waker`, which no descriptor may have.
    const WAKER: u64 = u64::MAX;

    /// How many descriptors one wait reports at most; the next one reports the others.
    const BATCH: usize = 64;

    /// Creates an empty set.
    pub(crate) fn new() -> io::Result<Poller> {
        // SAFETY: takes and returns integers.
        let raw = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call just returned it, and nothing else owns it.
        let epoll = unsafe { fd::adopt(raw) }?;
        let poller = Poller {
            epoll,
            waker: fd::event_counter()?,
        };
        poller.control(libc::EPOLL_CTL_ADD, poller.waker.as_raw_fd(), Poller::WAKER)?;
        Ok(poller)
    }

    /// Adds a descriptor. For as long as it is readable, every wait returns its token, which is to
    /// be below `u64::MAX`.
    ///
    /// It is to be removed before it is closed: a duplicate elsewhere would keep it in the set.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        debug_assert_ne!(token, Poller::WAKER);
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), token)
    }

    /// Removes a descriptor.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_raw_fd(), 0)
    }

    fn control(&self, operation: libc::c_int, fd: libc::c_int, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        // SAFETY: `event` is valid for the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) })?;
        Ok(())
    }

    /// Waits until a descriptor is readable, somebody calls [`wake`](Poller::wake), or the timeout
    /// has passed. `tokens` then holds those of the readable ones.
    pub(crate) fn wait(&self, tokens: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        tokens.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; Poller::BATCH];
        let ready = until(timeout, |left| {
            // SAFETY: `events` has room for that many.
            check(unsafe {
                libc::epoll_wait(
                    self.epoll.as_raw_fd(),
                    events.as_mut_ptr(),
                    Poller::BATCH as libc::c_int,
                    milliseconds(left),
                )
            })
        })?;
        // Copied out of the events, which are packed on x86_64.
        for token in events[..ready as usize].iter().map(|event| event.u64) {
            match token {
                Poller::WAKER => fd::clear_events(&self.waker),
                token => tokens.push(token),
            }
        }
        Ok(())
    }

    /// Ends the wait that another thread is in, or the next one.
    pub(crate) fn wake(&self) -> io::Result<()> {
        fd::count_event(&self.waker)
    }
}

/// Makes a call that waits for at most the time it is told, and again with what is left of
/// `timeout` if a signal handler interrupted it, or if it could not wait that long at once.
fn until(
    timeout: Option<Duration>,
    mut call: impl FnMut(Option<Duration>) -> io::Result<libc::c_int>,
) -> io::Result<libc::c_int> {
    // A deadline too far away to express is none.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match call(left) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) if left.is_none_or(|left| !left.is_zero()) => {}
            result => return result,
        }
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        // Below 10^9, which every `c_long` holds.
        tv_nsec: duration.subsec_nanos() as libc::c_long,
    }
}

/// What epoll takes: -1 for no timeout, and no fraction of a millisecond, so rounded up lest the
/// last one be spent spinning.
fn milliseconds(duration: Option<Duration>) -> libc::c_int {
    let Some(duration) = duration else { return -1 };
    duration
        .as_nanos()
        .div_ceil(1_000_000)
        .try_into()
        .unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, thread};

    use super::*;

    #[test]
    fn any_readable_descriptor_ends_the_wait() {
        let (quiet, _quiet_writer) = fd::pipe().unwrap();
        let (ended, writer) = fd::pipe().unwrap();
        let both = [quiet.as_fd(), ended.as_fd()];
        assert!(!wait_readable(&both, Some(Duration::ZERO)).unwrap());
        assert!(!wait_readable(&both, Some(Duration::from_millis(3))).unwrap());
        drop(writer);
        assert!(wait_readable(&both, None).unwrap());
        assert!(wait_readable(&both, Some(Duration::MAX)).unwrap());
    }

    #[test]
    fn a_poller_reports_what_is_readable() {
        let poller = Poller::new().unwrap();
        let (one, one_writer) = fd::pipe().unwrap();
        let (two, two_writer) = fd::pipe().unwrap();
        poller.add(one.as_fd(), 1).unwrap();
        poller.add(two.as_fd(), 2).unwrap();
        let mut tokens = vec![99];
        poller.wait(&mut tokens, Some(Duration::ZERO)).unwrap();
        assert!(tokens.is_empty());
        drop(two_writer);
        poller.wait(&mut tokens, None).unwrap();
        assert_eq!(tokens, [2]);
        poller.remove(two.as_fd()).unwrap();
        poller
            .wait(&mut tokens, Some(Duration::from_millis(1)))
            .unwrap();
        assert!(tokens.is_empty());
        drop(one_writer);
        poller.wait(&mut tokens, None).unwrap();
        assert_eq!(tokens, [1]);
    }

    #[test]
    fn a_wake_ends_one_wait_from_another_thread_or_before() {
        let poller = Poller::new().unwrap();
        let mut tokens = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| poller.wake().unwrap());
            poller.wait(&mut tokens, None).unwrap();
        });
        assert!(tokens.is_empty());
        poller.wake().unwrap();
        poller.wake().unwrap();
        poller.wait(&mut tokens, None).unwrap();
        let before = Instant::now();
        poller
            .wait(&mut tokens, Some(Duration::from_millis(2)))
            .unwrap();
        assert!(before.elapsed() >= Duration::from_millis(2));
    }

    #[test]
    fn milliseconds_are_rounded_up() {
        let table = [(0, 0), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2)];
        for (nanos, millis) in table {
            assert_eq!(milliseconds(Some(Duration::from_nanos(nanos))), millis);
        }
        assert_eq!(milliseconds(Some(Duration::MAX)), libc::c_int::MAX);
        assert_eq!(milliseconds(None), -1);
    }
}
