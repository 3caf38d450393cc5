//! The least that a fork server can do: a process of this program that forks whenever it is told to, and
//! whose copies end at once, as children of who told it, without more ado or as a program does.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

/// The argument with which this program is such a server; its standard input is the socket.
pub(crate) const SERVE: &str = "--fork-for-comparison";

/// How a copy ends.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum End {
    /// By `_exit`.
    Now,
    /// By `exit`: handlers run, destructors of libraries as well, and streams are flushed.
    AsPrograms,
}

/// What a copy does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) end: End,
    /// Page faults that it takes before: it reads so many pages of code.
    pub(crate) faults: u16,
}

/// A server, which ends when this is dropped.
pub(crate) struct ForkServer {
    socket: UnixStream,
    process: Child,
}

impl ForkServer {
    pub(crate) fn start() -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let process = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .stdin(OwnedFd::from(theirs))
            .spawn()?;
        Ok(Self { socket, process })
    }

    /// Has a process made that exits with `code`, and waits for its end.
    pub(crate) fn fork_and_wait(&mut self, code: u8, copy: Copy) -> io::Result<ExitStatus> {
        let [low, high] = copy.faults.to_ne_bytes();
        self.socket.write_all(&[code, copy.end as u8, low, high])?;
        let mut pid = [0; 4];
        self.socket.read_exact(&mut pid)?;
        let mut status = 0;
        // SAFETY: points to an integer; the process is a child of ours that nobody else waits for.
        if unsafe { libc::waitpid(libc::pid_t::from_ne_bytes(pid), &mut status, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(ExitStatus::from_raw(status))
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.process.wait();
    }
}

/// Serves until nobody is there any more.
pub(crate) fn serve() -> io::Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let windows = code_windows()?;
    let mut order = [0; 4];
    loop {
        match socket.read_exact(&mut order) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let [code, end, low, high] = order;
        let faults = u16::from_ne_bytes([low, high]);
        let flags = libc::CLONE_PARENT | libc::SIGCHLD;
        // SAFETY: as fork, in a process with one thread; without pointers, the copy goes on here.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        match libc::pid_t::try_from(pid) {
            Ok(0) => {
                windows.iter().take(faults.into()).for_each(|&it| touch(it));
                match end == End::Now as u8 {
                    // SAFETY: has no preconditions.
                    true => unsafe { libc::_exit(code.into()) },
                    // SAFETY: there is one thread, which exits once.
                    false => unsafe { libc::exit(code.into()) },
                }
            }
            Ok(pid) if pid > 0 => socket.write_all(&pid.to_ne_bytes())?,
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

/// Addresses in the code of this process of which each costs a fresh copy a page fault.
fn code_windows() -> io::Result<Vec<usize>> {
    /// The kernel maps what lies around an address as well, as far as the next multiples of this.
    const AROUND: usize = 64 << 10;
    let mut windows = Vec::new();
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let parts: Vec<_> = line.split_whitespace().collect();
        // Without a file's name it is the kernel's own.
        let &[range, "r-xp", _, _, _, file] = &parts[..] else {
            continue;
        };
        let bounds = range.split('-').map(|it| usize::from_str_radix(it, 16));
        if let [Ok(from), Ok(to)] = bounds.collect::<Vec<_>>()[..]
            && file.starts_with('/')
        {
            windows.push(from);
            windows.extend((from.next_multiple_of(AROUND)..to).step_by(AROUND));
        }
    }
    Ok(windows)
}

fn touch(address: usize) {
    // SAFETY: lies in code of this process, which stays mapped, and which nobody writes.
    unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() };
}
