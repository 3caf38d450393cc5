//! What connections between programs need beyond std's sockets.
//!
//! # Safety
//!
//! System calls on borrowed memory and descriptors.

#![expect(
    unsafe_code,
    reason = "getrandom, and sockets where std has no timeout or would wait"
)]

use std::io::{self, IoSlice};
use std::mem::{offset_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use super::result::check;

/// Fills `bytes` with random ones that nobody can guess.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is writable for that many bytes.
        match check(unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) }) {
            Ok(more) => filled += more as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The address of a Unix socket that has a name and no file.
pub(crate) fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

/// Connects to the Unix socket that listens there, at most for `timeout`: as long as its backlog is full
/// the kernel waits for room.
pub(crate) fn connect_unix(
    address: &SocketAddr,
    timeout: Option<Duration>,
) -> io::Result<UnixStream> {
    let (address, len) = raw_address(address);
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: takes integers.
    let socket = check(unsafe { libc::socket(libc::AF_UNIX, flags, 0) })?;
    // SAFETY: the descriptor was just opened, and is nobody else's.
    let socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(socket) });
    // A deadline too far away to express is none.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            // `connect` heeds the timeout of sending; zero would be none.
            socket.set_write_timeout(Some(left.max(Duration::from_micros(1))))?;
        }
        // SAFETY: `address` has at least `len` bytes.
        match check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })
        {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            connected => {
                connected?;
                break;
            }
        }
    }
    socket.set_write_timeout(None)?;
    Ok(socket)
}

/// As the kernel takes an address.
fn raw_address(address: &SocketAddr) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: zeros are a value of this type.
    let mut raw: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // A name is what follows the first zero; a path ends with one. Std has looked that it fits.
    let (from, name) = match (address.as_abstract_name(), address.as_pathname()) {
        (Some(name), _) => (1, name),
        (None, path) => (0, path.map_or(&[][..], |path| path.as_os_str().as_bytes())),
    };
    for (place, &byte) in raw.sun_path[from..].iter_mut().zip(name) {
        *place = byte.cast_signed() as libc::c_char;
    }
    let len = offset_of!(libc::sockaddr_un, sun_path) + name.len() + 1;
    (raw, len as libc::socklen_t)
}

/// Sends as much of the parts as there is room for now, at least a byte.
pub(crate) fn send_now(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: zeros are a value of this type.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // An `IoSlice` is an `iovec`; nothing is written to it.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message is its parts, which are valid for as long as the call takes.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
    match usize::try_from(sent) {
        Ok(sent) => Ok(sent),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel ask the other machine from time to time whether it is still there, so that one that
/// vanished without a word ends the connection, after two minutes or so.
pub(crate) fn keep_alive(socket: BorrowedFd<'_>) -> io::Result<()> {
    const OPTIONS: [(libc::c_int, libc::c_int, libc::c_int); 4] = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        // Seconds of silence before it asks, and between questions; how many without an answer.
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 10),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 6),
    ];
    for (level, name, value) in OPTIONS {
        let len = size_of_val(&value) as libc::socklen_t;
        let value = (&raw const value).cast();
        // SAFETY: `value` has `len` bytes.
        check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, len) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let (mut one, mut other) = ([0; 300], [0; 300]);
        random(&mut one).unwrap();
        random(&mut other).unwrap();
        assert_ne!(one, other);
        assert_ne!(one[256..], [0; 44]);
    }
}
