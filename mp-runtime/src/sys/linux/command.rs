//! Other programs that are to end with this process, whichever thread starts them.
//!
//! A parent-death signal would tell them of the end of the *thread* that started them. Instead each
//! opens the read end of one pipe of ours anew and asks to be killed when there is something to read
//! or nobody left to write: what it asked for belongs to that open file and outlives `exec`.
//!
//! # Safety
//!
//! Between `fork` and `exec` only system calls are made, on integers and a string that was ready
//! before.

#![expect(
    unsafe_code,
    reason = "code between fork and exec, and libc's calls on descriptors"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use super::fd;
use super::result::{check, retry};

/// Has the command's process killed when this one ends.
pub(crate) fn end_with_us(command: &mut Command) {
    /// The pipe that nobody ever writes to; its write end is closed when this process ends.
    static PIPE: OnceLock<Result<(OwnedFd, OwnedFd), i32>> = OnceLock::new();

    let pipe = PIPE.get_or_init(|| fd::pipe().map_err(|error| error.raw_os_error().unwrap_or(0)));
    let path = pipe.as_ref().map_err(|&code| code).map(|(read, _)| {
        let path = format!("/proc/self/fd/{}", read.as_raw_fd());
        CString::new(path).expect("a number holds no NUL")
    });
    let arm = move || match &path {
        Ok(path) => arm(path),
        Err(code) => Err(io::Error::from_raw_os_error(*code)),
    };
    // SAFETY: `arm` allocates nothing, takes no lock and calls async-signal-safe functions only.
    unsafe { command.pre_exec(arm) };
}

/// Runs in the copy that is about to become the other program.
fn arm(path: &CString) -> io::Result<()> {
    /// Which signal tells of events on a descriptor; libc does not name it on this system.
    const F_SETSIG: libc::c_int = 10;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    // SAFETY: the path is a C string. The descriptor stays open: it is the program's leash.
    let mut leash = retry(|| unsafe { libc::open(path.as_ptr(), flags) })?;
    if leash <= libc::STDERR_FILENO {
        // The program runs with a standard stream closed, and must not find the leash there.
        let low = leash;
        // SAFETY: takes integers.
        leash = check(unsafe { libc::fcntl(low, libc::F_DUPFD, libc::STDERR_FILENO + 1) })?;
        // SAFETY: takes an integer; it is ours, from above.
        unsafe { libc::close(low) };
    }
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(leash, F_SETSIG, libc::SIGKILL) })?;
    // SAFETY: has no preconditions.
    let own = unsafe { libc::getpid() };
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(leash, libc::F_SETOWN, own) })?;
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(leash, libc::F_SETFL, flags | libc::O_ASYNC) })?;
    // The end of a parent that comes before this is noticed when exec closes our copy of the end
    // that writes.
    Ok(())
}
