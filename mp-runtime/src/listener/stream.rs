//! The bytes of a Unix or TCP socket, read until a deadline.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{SocketAddr, UnixStream};

use super::Address;
use crate::deadline::Deadline;
use crate::sys;

/// One end of a connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// How far a write came before its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Written {
    Whole,
    Part,
    Nothing,
}

impl Stream {
    /// Connects to who listens there.
    pub(super) fn connect(address: &Address, deadline: Deadline) -> io::Result<Self> {
        match address {
            Address::Unix(path) => connect_unix(&SocketAddr::from_pathname(path)?, deadline),
            Address::Abstract(name) => {
                connect_unix(&sys::net::abstract_address(name.as_bytes())?, deadline)
            }
            Address::Tcp(place) => Self::over_tcp(connect_tcp(place, deadline)?),
        }
    }

    /// Over a socket that is connected.
    pub(super) fn over_tcp(stream: TcpStream) -> io::Result<Self> {
        // Messages are written whole: to hold a short one back would only delay its answer.
        stream.set_nodelay(true)?;
        sys::net::keep_alive(stream.as_fd())?;
        Ok(Self::Tcp(stream))
    }

    /// Reads what there is, at least a byte; zero bytes are the end. `None` if the deadline comes
    /// first.
    pub(super) fn read(&self, into: &mut [u8], deadline: Deadline) -> io::Result<Option<usize>> {
        loop {
            if !sys::fd::wait_readable(&[self.as_fd()], deadline.remaining())? {
                return Ok(None);
            }
            let read = match self {
                Self::Unix(stream) => { stream }.read(into),
                Self::Tcp(stream) => { stream }.read(into),
            };
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A peer that ended with bytes unread, which is an end as any other.
                Err(error) if is_end(&error) => return Ok(Some(0)),
                read => return read.map(Some),
            }
        }
    }

    /// Writes both parts, waiting until the deadline for the other side to read.
    pub(super) fn write(
        &self,
        head: &[u8],
        body: &[u8],
        deadline: Deadline,
    ) -> io::Result<Written> {
        let mut parts = [IoSlice::new(head), IoSlice::new(body)];
        let mut rest = &mut parts[..];
        // Parts that are written are left out, and so is an empty body.
        IoSlice::advance_slices(&mut rest, 0);
        let mut written = Written::Nothing;
        while !rest.is_empty() {
            match self.write_some(rest, deadline) {
                Ok(Some(0)) => return Err(ErrorKind::WriteZero.into()),
                Ok(Some(more)) => {
                    IoSlice::advance_slices(&mut rest, more);
                    written = Written::Part;
                }
                Ok(None) => return Ok(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Written::Whole)
    }

    /// Writes what there is room for; `None` if there is none before the deadline.
    fn write_some(&self, parts: &[IoSlice<'_>], deadline: Deadline) -> io::Result<Option<usize>> {
        if deadline == Deadline::NEVER {
            return match self {
                Self::Unix(stream) => { stream }.write_vectored(parts).map(Some),
                Self::Tcp(stream) => { stream }.write_vectored(parts).map(Some),
            };
        }
        loop {
            match sys::net::send_now(self.as_fd(), parts) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !sys::fd::wait_writable(self.as_fd(), deadline.remaining())? {
                        return Ok(None);
                    }
                }
                sent => return sent.map(Some),
            }
        }
    }

    /// Ends the connection: both sides see its end.
    pub(super) fn shutdown(&self) {
        // One that has ended has nothing left to shut down.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// Whether the error says that the other side has ended.
pub(super) fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
            // Its machine does not answer any more.
            | ErrorKind::TimedOut
    )
}

fn connect_unix(address: &SocketAddr, deadline: Deadline) -> io::Result<Stream> {
    sys::net::connect_unix(address, deadline.remaining()).map(Stream::Unix)
}

/// Tries the addresses of a host in turn.
fn connect_tcp(place: &str, deadline: Deadline) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for address in place.to_socket_addrs()? {
        let connected = match deadline.remaining() {
            None => TcpStream::connect(address),
            Some(left) if left.is_zero() => Err(ErrorKind::TimedOut.into()),
            Some(left) => TcpStream::connect_timeout(&address, left),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
