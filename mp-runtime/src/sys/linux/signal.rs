//! Signals in a child: what kills it in time, what it must survive, and what they are called.
//!
//! # Safety
//!
//! The one handler calls functions that are safe to call in a handler and touches no memory of the
//! program's.

#![expect(unsafe_code, reason = "signal actions, prctl, fcntl and timers")]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    time::Duration,
};

use super::{
    process::kill_self,
    result::{check, retry},
};

/// Has the kernel kill this process when the thread that started it ends, and returns whether
/// `parent` is still its parent. If not, it is too late for the signal, which is not retroactive.
///
/// Forgotten in children, and when the process's credentials change.
pub(crate) fn arm_parent_death(parent: u32) -> bool {
    // SAFETY: takes integers.
    let armed = check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) });
    debug_assert!(armed.is_ok(), "PR_SET_PDEATHSIG: {armed:?}");
    // SAFETY: has no preconditions.
    unsafe { libc::getppid() as u32 == parent }
}

/// Has the kernel kill this process when the other end of a socket is closed, without a thread
/// that waits for that. If it is closed already, this does not return.
///
/// From now on nobody may send anything to this end: what makes it readable kills, too.
pub(crate) fn die_with(socket: BorrowedFd<'_>) -> io::Result<()> {
    /// Which signal tells of events on a descriptor; libc does not name it on this system.
    const F_SETSIG: libc::c_int = 10;
    let socket = socket.as_raw_fd();
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(socket, F_SETSIG, libc::SIGKILL) })?;
    let own = std::process::id();
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(socket, libc::F_SETOWN, own) })?;
    // SAFETY: takes no argument.
    let flags = check(unsafe { libc::fcntl(socket, libc::F_GETFL) })?;
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(socket, libc::F_SETFL, flags | libc::O_ASYNC) })?;

    // An end that was closed before that sends nothing.
    let mut entry = libc::pollfd {
        fd: socket,
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: `entry` is one element, valid to write.
    retry(|| unsafe { libc::poll(&mut entry, 1, 0) })?;
    if entry.revents != 0 {
        kill_self();
    }
    Ok(())
}

/// Keeps signals for this process from the calling thread: their handlers are the program's, and may
/// wait for what this thread is to do. Those that a thread's own fault raises remain.
pub(crate) fn block_signals() {
    const FAULTS: [libc::c_int; 5] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
    ];
    let mut set = MaybeUninit::uninit();
    // SAFETY: writes to memory of that type.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    for fault in FAULTS {
        // SAFETY: the set was filled above.
        unsafe { libc::sigdelset(set.as_mut_ptr(), fault) };
    }
    // SAFETY: the set was filled above; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut()) };
}

/// A time after which this process is killed, unless this is dropped before.
#[derive(Debug)]
pub(crate) struct KillTimer(libc::timer_t);

impl Drop for KillTimer {
    fn drop(&mut self) {
        // SAFETY: made by `kill_timer`, and deleted here alone.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Has this process killed when the time has passed, whatever it does.
pub(crate) fn kill_self_after(time: Duration) -> io::Result<()> {
    kill_timer(time).map(std::mem::forget)
}

/// As [`kill_self_after`], until what it returns is dropped.
pub(crate) fn kill_timer(time: Duration) -> io::Result<KillTimer> {
    // SAFETY: all zeros is a valid sigevent, which consists of integers and a pointer.
    let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    let mut timer = MaybeUninit::uninit();
    // SAFETY: `event` is initialised and `timer` valid to write.
    check(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, timer.as_mut_ptr()) })?;
    // SAFETY: timer_create succeeded, so it has written the id.
    let timer = KillTimer(unsafe { timer.assume_init() });
    let setting = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            // Below 10^9, which every `c_long` holds. All zeros would disarm it.
            tv_nsec: time.subsec_nanos().max(1) as libc::c_long,
        },
    };
    // SAFETY: `timer` is the id just made, `setting` is valid to read, and the old setting is not
    // asked for.
    check(unsafe { libc::timer_settime(timer.0, 0, &setting, ptr::null_mut()) })?;
    Ok(timer)
}

/// Has a child leave a signal to its parent, Ctrl-C for one: an interrupt from the terminal, which
/// reaches all processes of the program, does nothing here; one that the parent sends ends this
/// process.
///
/// By a handler and not by ignoring it, which whatever this process executes would inherit.
pub(crate) fn leave_to_parent(signal: i32) -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction, which consists of integers and function pointers
    // that may be null.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = interrupted;
    action.sa_sigaction = handler as libc::sighandler_t;
    // Restart, so that no system call of the user's fails because of it.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler has the type that SA_SIGINFO asks for and is safe to run at any point.
    check(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) })?;
    Ok(())
}

/// Whether an action is the one that [`leave_to_parent`] sets.
pub(super) fn is_left_to_parent(action: libc::sighandler_t) -> bool {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = interrupted;
    action == handler as libc::sighandler_t
}

extern "C" fn interrupted(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO, the kernel passes a pointer that is valid in the handler.
    let info = unsafe { &*info };
    // From kill and pidfd_send_signal, and not from the terminal, which sends as the kernel.
    if info.si_code != libc::SI_USER {
        return;
    }
    // SAFETY: SI_USER says that the field is there.
    let sender = unsafe { info.si_pid() };
    // SAFETY: has no preconditions, and is safe in a handler.
    if sender != unsafe { libc::getppid() } {
        return;
    }
    // As if there had been no handler. The signal is blocked until we return, and kills then.
    // SAFETY: safe in a handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: safe in a handler.
    unsafe { libc::raise(signal) };
}

/// Has writing to a pipe that nobody reads answer an error instead of killing, as in any Rust
/// program that came through `main`.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: sets no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Returns what a signal is called, as in `SIGKILL`.
pub(crate) fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGSTKFLT => "SIGSTKFLT",
        libc::SIGCHLD => "SIGCHLD",
        libc::SIGCONT => "SIGCONT",
        libc::SIGSTOP => "SIGSTOP",
        libc::SIGTSTP => "SIGTSTP",
        libc::SIGTTIN => "SIGTTIN",
        libc::SIGTTOU => "SIGTTOU",
        libc::SIGURG => "SIGURG",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGVTALRM => "SIGVTALRM",
        libc::SIGPROF => "SIGPROF",
        libc::SIGWINCH => "SIGWINCH",
        libc::SIGIO => "SIGIO",
        libc::SIGPWR => "SIGPWR",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::{
        platform::{
            fd::socket_pair,
            process::{self, exit_now},
        },
        process::Status,
    };

    /// Runs `f` in a fork, which calls only what may be called there, and returns how that ends.
    fn fork(f: impl FnOnce()) -> Status {
        let (pid, pidfd) = fork_child(f);
        process::reap(pidfd.as_fd(), pid, true).unwrap().unwrap()
    }

    fn fork_child(f: impl FnOnce()) -> (u32, std::os::fd::OwnedFd) {
        // SAFETY: the child makes system calls only, and leaves by _exit.
        let pid = check(unsafe { libc::fork() }).unwrap() as u32;
        if pid == 0 {
            f();
            exit_now(0);
        }
        (pid, process::pidfd_open(pid).unwrap())
    }

    fn sleep_for_ever() -> ! {
        loop {
            // SAFETY: has no preconditions.
            unsafe { libc::pause() };
        }
    }

    const KILLED: Status = Status::Signaled {
        signal: libc::SIGKILL,
        core: false,
    };

    #[test]
    fn a_timer_kills() {
        let status = fork(|| {
            kill_self_after(Duration::from_millis(1)).unwrap();
            sleep_for_ever();
        });
        assert_eq!(status, KILLED);
        assert_eq!(
            fork(|| kill_self_after(Duration::MAX).unwrap()),
            Status::Exited(0)
        );
    }

    #[test]
    fn a_timer_of_no_time_kills() {
        let status = fork(|| {
            kill_self_after(Duration::ZERO).unwrap();
            sleep_for_ever();
        });
        assert_eq!(status, KILLED);
    }

    /// A fork that has armed [`die_with`] on its end of a pair, and this process's end.
    ///
    /// Other forks hold copies of that, so that closing it means little: the tests shut it down.
    fn armed_child() -> (u32, std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
        let (ours, theirs) = socket_pair().unwrap();
        let (pid, pidfd) = fork_child(|| {
            die_with(theirs.as_fd()).unwrap();
            // SAFETY: has no preconditions beyond valid memory to read.
            unsafe { libc::send(theirs.as_raw_fd(), b"armed".as_ptr().cast(), 5, 0) };
            sleep_for_ever();
        });
        super::super::poll::wait_readable(&[ours.as_fd()], None).unwrap();
        (pid, pidfd, ours)
    }

    fn shut_down(socket: &impl AsRawFd) {
        // SAFETY: takes integers.
        unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
    }

    #[test]
    fn the_end_of_a_socket_kills() {
        let (pid, pidfd, ours) = armed_child();
        // Reading what the child wrote does not.
        let mut room = [0; 10];
        assert_eq!(
            super::super::fd::receive_now(ours.as_fd(), &mut room).unwrap(),
            5
        );
        assert_eq!(process::reap(pidfd.as_fd(), pid, false).unwrap(), None);
        shut_down(&ours);
        assert_eq!(
            process::reap(pidfd.as_fd(), pid, true).unwrap(),
            Some(KILLED)
        );
    }

    #[test]
    fn a_socket_that_has_ended_before_kills() {
        let (ours, theirs) = socket_pair().unwrap();
        shut_down(&ours);
        let status = fork(|| die_with(theirs.as_fd()).unwrap());
        assert_eq!(status, KILLED);
    }

    #[test]
    fn parent_death_knows_the_parent() {
        let own = std::process::id();
        assert_eq!(
            fork(|| exit_now(arm_parent_death(own).into())),
            Status::Exited(1)
        );
        assert_eq!(
            fork(|| exit_now(arm_parent_death(own + 1).into())),
            Status::Exited(0)
        );
    }

    #[test]
    fn only_the_parent_interrupts() {
        let own_interrupt = fork(|| {
            leave_to_parent(libc::SIGINT).unwrap();
            // Sent by itself, which is not its parent.
            // SAFETY: takes an integer.
            unsafe { libc::raise(libc::SIGINT) };
            exit_now(7);
        });
        assert_eq!(own_interrupt, Status::Exited(7));

        let (ours, theirs) = socket_pair().unwrap();
        let (pid, pidfd) = fork_child(|| {
            leave_to_parent(libc::SIGINT).unwrap();
            super::super::fd::send_all(theirs.as_fd(), b"!").unwrap();
            sleep_for_ever();
        });
        super::super::poll::wait_readable(&[ours.as_fd()], None).unwrap();
        process::pidfd_signal(pidfd.as_fd(), libc::SIGINT).unwrap();
        let interrupted = Status::Signaled {
            signal: libc::SIGINT,
            core: false,
        };
        assert_eq!(
            process::reap(pidfd.as_fd(), pid, true).unwrap(),
            Some(interrupted)
        );
    }

    #[test]
    fn every_ordinary_signal_has_a_name() {
        assert!((1..32).all(|signal| signal_name(signal).is_some()));
        assert_eq!(signal_name(libc::SIGKILL), Some("SIGKILL"));
        assert_eq!(signal_name(0), None);
        assert_eq!(signal_name(64), None);
    }
}
