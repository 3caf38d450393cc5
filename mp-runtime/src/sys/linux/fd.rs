//! Descriptors: what we make never reaches a child by accident, and never sits where a standard
//! stream belongs.
//!
//! # Safety
//!
//! Each descriptor that a call returns is adopted once; buffers are borrowed for the call.

#![expect(unsafe_code, reason = "libc's calls on descriptors")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use super::result::{check, retry};

/// Takes over a descriptor that was made close-on-exec, and moves it above the standard streams if
/// it is one of them.
///
/// A program may run with some of 0 to 2 closed. What is opened next lands there, and the first
/// `println!` would write into it.
///
/// # Safety
///
/// `fd` is open and nothing else owns it.
pub(super) unsafe fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: by the contract of this function.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(fd);
    }
    duplicate(fd.as_raw_fd())
}

/// Duplicates a descriptor to a number above the standard streams, close-on-exec.
pub(super) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    let lowest = libc::STDERR_FILENO + 1;
    // SAFETY: F_DUPFD_CLOEXEC takes an integer.
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) })?;
    // SAFETY: fcntl just returned it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Keeps a descriptor from what this process executes. One that is not open is an error.
pub(super) fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(())
}

/// Takes over a descriptor that the parent left open for this process, and closes it on exec.
///
/// Once each: a second owner would close what the first one uses.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    close_on_exec(fd)?;
    // SAFETY: it is open, and by what the parent said it is for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adopts a pair of fresh descriptors; neither leaks if the other can't be adopted.
///
/// # Safety
///
/// As for [`adopt`], of both.
pub(super) unsafe fn adopt_pair([first, second]: [RawFd; 2]) -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: by the contract of this function.
    let first = unsafe { adopt(first) };
    // SAFETY: by the contract of this function.
    let second = unsafe { adopt(second) };
    Ok((first?, second?))
}

/// Makes a pipe: the end to read, then the end to write.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: `ends` has room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the call just returned them, and nothing else owns them.
    unsafe { adopt_pair(ends) }
}

/// Makes two connected sockets, a stream of bytes each way.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` has room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: the call just returned them, and nothing else owns them.
    unsafe { adopt_pair(ends) }
}

/// Returns the process that made the pair to which a socket belongs, also if it is gone.
///
/// What is no such socket, or not open, is an error.
pub(super) fn maker_of(socket: RawFd) -> io::Result<u32> {
    let mut maker = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `maker` is valid to write for `len` bytes, and so is `len`.
    check(unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            ptr::from_mut(&mut maker).cast(),
            &mut len,
        )
    })?;
    Ok(maker.pid as u32)
}

/// Whether something has come from the other end of a socket that was not read, and `None` if nothing
/// is there and no more will come.
pub(crate) fn has_bytes(socket: BorrowedFd<'_>) -> Option<bool> {
    let mut byte = 0_u8;
    // SAFETY: there is room for one byte.
    let seen = past_reset(|| unsafe {
        libc::recv(
            socket.as_raw_fd(),
            ptr::from_mut(&mut byte).cast(),
            1,
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    });
    match seen {
        Ok(bytes) => (bytes > 0).then_some(true),
        Err(error) => (error.kind() == io::ErrorKind::WouldBlock).then_some(false),
    }
}

/// Sends a packet if there is room for it now. Not for several threads at once.
///
/// It is not tried where there is none: the socket may be one whose end is to kill us, and the signal
/// for that would come as well when there is room again for what was refused.
#[cfg(feature = "tracing")]
pub(crate) fn send_now(socket: RawFd, packet: &[u8]) -> bool {
    let (mut waiting, mut most) = (0, 0);
    // SAFETY: `waiting` is there to write to.
    let waits = check(unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &raw mut waiting) });
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `most` is valid to write for `len` bytes, and so is `len`.
    let limit = check(unsafe {
        let most = (&raw mut most).cast();
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            most,
            &raw mut len,
        )
    });
    // What waits is all that the kernel looks at, so a packet that is longer than the rest goes, too.
    if waits.is_err() || limit.is_err() || waiting >= most / 2 {
        return false;
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: `packet` is valid to read for its length.
    let sent = retry(|| unsafe { libc::send(socket, packet.as_ptr().cast(), packet.len(), flags) });
    sent.is_ok()
}

/// As `retry`, for taking packets. That the other end was closed with something unread in it is an
/// error which comes once, and ahead of the packets that it has sent before.
fn past_reset(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<libc::ssize_t> {
    match retry(&mut call) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => retry(call),
        result => result,
    }
}

/// Takes a packet of at most as many bytes as there is room for, if one has arrived; none is the end.
pub(crate) fn receive_now(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `room` is there to write to.
    let received = past_reset(|| unsafe {
        libc::recv(
            socket.as_raw_fd(),
            room.as_mut_ptr().cast(),
            room.len(),
            libc::MSG_DONTWAIT,
        )
    })?;
    Ok(received as usize)
}

/// Writes all of `bytes` to a socket; a reader that is gone is an error, never a SIGPIPE.
pub(crate) fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: `bytes` is valid to read for its length.
        let sent = retry(|| unsafe {
            let (start, len) = (bytes.as_ptr().cast(), bytes.len());
            libc::send(socket.as_raw_fd(), start, len, libc::MSG_NOSIGNAL)
        })?;
        bytes = &bytes[sent as usize..];
    }
    Ok(())
}

/// Writes as much of `bytes` to a socket as there is room for now.
pub(crate) fn send_some(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is valid to read for its length.
    let sent = retry(|| unsafe {
        let (start, len) = (bytes.as_ptr().cast(), bytes.len());
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        libc::send(socket.as_raw_fd(), start, len, flags)
    });
    match sent {
        Ok(sent) => Ok(sent as usize),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    }
}

/// Opens `/dev/null` at those of descriptors 0 to 2 that are closed, so that nothing else is opened
/// there.
pub(crate) fn open_std_streams() {
    for fd in libc::STDIN_FILENO..=libc::STDERR_FILENO {
        // SAFETY: F_GETFD takes no argument.
        if check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).is_ok() {
            continue;
        }
        // The lowest free number is the one we look for: those below are open by now. Kept for
        // good, and open in what this process executes, like any standard stream.
        let path = c"/dev/null".as_ptr();
        // SAFETY: `path` is a C string.
        let opened = check(unsafe { libc::open(path, libc::O_RDWR) });
        debug_assert!(opened.is_err() || opened.is_ok_and(|opened| opened == fd));
    }
}

/// An event counter: what is written is added to it, and it is readable while it is not 0.
pub(crate) fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: takes and returns integers.
    let raw = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the call just returned it, and nothing else owns it.
    unsafe { adopt(raw) }
}

/// Adds 1 to an event counter.
pub(crate) fn count_event(counter: &OwnedFd) -> io::Result<()> {
    let one = 1_u64;
    // SAFETY: `one` is 8 bytes to read.
    let written = retry(|| unsafe {
        libc::write(
            counter.as_raw_fd(),
            ptr::from_ref(&one).cast(),
            size_of::<u64>(),
        )
    });
    match written {
        // A counter at its maximum is readable, which is all that is asked for.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// Sets an event counter back to 0.
pub(crate) fn clear_events(counter: &OwnedFd) {
    let mut count = 0_u64;
    // SAFETY: `count` is 8 bytes to write. That it already was 0 is no error here.
    let _ = retry(|| unsafe {
        libc::read(
            counter.as_raw_fd(),
            ptr::from_mut(&mut count).cast(),
            size_of::<u64>(),
        )
    });
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        os::fd::AsFd,
    };

    use super::*;

    #[test]
    fn a_pipe_carries_bytes_and_is_not_inherited() {
        let (reader, writer) = pipe().unwrap();
        for end in [&reader, &writer] {
            assert!(end.as_raw_fd() > 2);
            // SAFETY: F_GETFD takes no argument.
            let flags = unsafe { libc::fcntl(end.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags, libc::FD_CLOEXEC);
        }
        File::from(writer).write_all(b"through").unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn packets_are_taken_one_by_one_and_none_is_waited_for() {
        let (one, two) = super::super::packet::packet_pair().unwrap();
        let mut room = [0; 8];
        let nothing = receive_now(one.as_fd(), &mut room).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        send_all(two.as_fd(), b"last").unwrap();
        send_all(two.as_fd(), b"words, too long").unwrap();
        drop(two);
        assert_eq!(receive_now(one.as_fd(), &mut room).unwrap(), 4);
        assert_eq!(receive_now(one.as_fd(), &mut room).unwrap(), 8);
        assert_eq!(&room, b"words, t");
        assert_eq!(receive_now(one.as_fd(), &mut room).unwrap(), 0);
    }

    #[test]
    fn last_words_are_heard_of_one_who_did_not_listen() {
        for is_looked_for in [true, false] {
            let (one, two) = super::super::packet::packet_pair().unwrap();
            send_all(one.as_fd(), b"order").unwrap();
            send_all(two.as_fd(), b"why").unwrap();
            drop(two);
            if is_looked_for {
                assert_eq!(has_bytes(one.as_fd()), Some(true));
            }
            let mut room = [0; 8];
            assert_eq!(receive_now(one.as_fd(), &mut room).unwrap(), 3);
            assert_eq!(receive_now(one.as_fd(), &mut room).unwrap(), 0);
            assert_eq!(has_bytes(one.as_fd()), None);
        }
    }

    #[test]
    fn a_socket_knows_who_made_it() {
        let (one, two) = socket_pair().unwrap();
        drop(two);
        assert_eq!(maker_of(one.as_raw_fd()).unwrap(), std::process::id());
        let (reader, _writer) = pipe().unwrap();
        assert!(maker_of(reader.as_raw_fd()).is_err());
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (one, two) = socket_pair().unwrap();
        // Not by closing it: a fork of another test may hold a copy for a moment.
        let one = std::os::unix::net::UnixStream::from(one);
        one.shutdown(std::net::Shutdown::Both).unwrap();
        let error = send_all(two.as_fd(), b"anybody?").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_copy_is_never_a_standard_stream() {
        assert!(duplicate(libc::STDIN_FILENO).is_ok_and(|copy| copy.as_raw_fd() > 2));
    }
}
