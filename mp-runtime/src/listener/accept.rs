//! The side of a connection that listens.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind as IoErrorKind};
use std::marker::PhantomData;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{Client, ConnectionOptions, Limits};
use super::handshake::{self, Side};
use super::stream::Stream;
use super::{Address, Key};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::sys;

/// How long a listener that can accept nobody waits before it says so.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens for connections of other programs that know the same key.
///
/// Programs that are not parent and child, on one machine or on several, exchange typed messages
/// over a [`Client`]. Before anything else both sides prove by a keyed hash (HMAC-SHA-256) that
/// they know the [`Key`]; the key itself does not travel. What follows is neither encrypted nor
/// authenticated again: over a network that others can write to, lay it in a tunnel.
///
/// `S` is what this side sends and `R` what it receives. Any number of threads may
/// [`accept`](Self::accept). The socket's file, if it has one, is removed when the listener is
/// dropped; a file that is left from a listener that was killed is replaced by the next one.
///
/// # Examples
///
/// ```
/// use mp::{Client, Key, Listener};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = Key::random()?;
/// let listener = Listener::<String, u32>::bind("tcp:localhost:0", &key)?;
/// let address = listener.address().clone();
///
/// // In another program, which knows address and key:
/// let other = std::thread::spawn(move || -> mp::Result<String> {
///     let client = Client::<u32, String>::connect(&address, &key)?;
///     client.send(&7)?;
///     client.recv()
/// });
///
/// let client = listener.accept()?;
/// let number = client.recv()?;
/// client.send(&format!("{number} it is"))?;
/// assert_eq!(other.join().unwrap()?, "7 it is");
/// # Ok(())
/// # }
/// ```
#[must_use = "nobody can connect once it is dropped"]
pub struct Listener<S, R> {
    socket: Socket,
    address: Address,
    key: Key,
    limits: Limits,
    /// Dropped after the socket: who still connects is told that nobody listens.
    file: Option<SocketFile>,
    marker: PhantomData<fn(S) -> R>,
}

impl<S, R> Listener<S, R> {
    /// Listens at an address; [`ConnectionOptions`] sets more.
    ///
    /// # Errors
    ///
    /// If somebody listens there already, or the system refuses the address.
    pub fn bind<A>(address: A, key: &Key) -> Result<Self, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        ConnectionOptions::new().listen(address, key)
    }

    pub(super) fn with(address: Address, key: &Key, limits: Limits) -> Result<Self, Error> {
        let failed = |error| Error::system(format!("could not listen at {address}"), error);
        let (socket, file) = Socket::bind(&address).map_err(failed)?;
        let address = match &socket {
            Socket::Tcp(listener) => listener.local_addr().map_err(failed)?.into(),
            Socket::Unix(_) => address,
        };
        Ok(Self {
            socket,
            address,
            key: key.clone(),
            limits,
            file,
            marker: PhantomData,
        })
    }

    /// Where it listens: of a TCP port 0 the one that was free.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for the next program that connects and knows the key.
    ///
    /// The handshake is made here, and takes at most the time that
    /// [`ConnectionOptions::handshake_timeout`] sets; others that connect wait meanwhile, unless
    /// several threads accept.
    ///
    /// # Errors
    ///
    /// [`Error::is_refused`] if the other side has another key, is no `mp` program, or one of
    /// another version, and [`Error::is_timeout`] if it took too long to say so. If the system has no
    /// descriptor or memory left, after a moment's pause. The listener goes on: call it again.
    pub fn accept(&self) -> Result<Client<S, R>, Error> {
        self.accept_until(Deadline::NEVER)
    }

    /// As [`accept`](Self::accept), but waits at most `timeout` for somebody to connect and to
    /// finish the handshake.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`] if nobody did, or as for [`accept`](Self::accept).
    pub fn accept_timeout(&self, timeout: Duration) -> Result<Client<S, R>, Error> {
        self.accept_until(Deadline::after(timeout))
    }

    fn accept_until(&self, deadline: Deadline) -> Result<Client<S, R>, Error> {
        let stream = self.next(deadline)?;
        self.shake(stream, deadline)
    }

    /// Who connects next, before the handshake, for who makes that on another thread.
    pub(crate) fn knock(&self) -> Result<Knock, Error> {
        self.next(Deadline::NEVER).map(Knock)
    }

    /// Makes the handshake with who knocked.
    pub(crate) fn admit(&self, Knock(stream): Knock) -> Result<Client<S, R>, Error> {
        self.shake(stream, Deadline::NEVER)
    }

    /// The file, for who keeps it longer than the listener.
    pub(crate) fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }

    /// The next socket that connects, before its handshake.
    fn next(&self, deadline: Deadline) -> Result<Stream, Error> {
        let failed = |error| Error::system(format!("could not accept at {}", self.address), error);
        loop {
            let waited = sys::fd::wait_readable(&[self.socket.as_fd()], deadline.remaining());
            if !waited.map_err(failed)? {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("nobody connected to {} in time", self.address),
                ));
            }
            match self.socket.accept() {
                Ok(stream) => return Ok(stream),
                // Another thread was faster, or it has gone again.
                Err(error)
                    if matches!(
                        error.kind(),
                        IoErrorKind::WouldBlock
                            | IoErrorKind::Interrupted
                            | IoErrorKind::ConnectionAborted
                    ) => {}
                // No descriptor is left, for one. Who connects still waits to be accepted, so without
                // a pause whoever calls again and again would spin.
                Err(error) => {
                    std::thread::sleep(deadline.nap(PAUSE));
                    return Err(failed(error));
                }
            }
        }
    }

    /// Makes the handshake with who connected.
    fn shake(&self, stream: Stream, deadline: Deadline) -> Result<Client<S, R>, Error> {
        let left = deadline.nap(self.limits.handshake);
        handshake::shake(&stream, &self.key, Side::Listener, Deadline::after(left))?;
        Ok(Client::over(stream, self.limits))
    }
}

impl<S, R> AsFd for Listener<S, R> {
    /// Readable when somebody waits to be accepted.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S, R> fmt::Debug for Listener<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A socket that has connected, and has proved nothing yet.
#[derive(Debug)]
pub(crate) struct Knock(Stream);

/// A socket that listens and never blocks.
#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Socket {
    fn bind(address: &Address) -> io::Result<(Self, Option<SocketFile>)> {
        match address {
            Address::Unix(path) => {
                let (listener, file) = bind_file(path)?;
                listener.set_nonblocking(true)?;
                Ok((Self::Unix(listener), Some(file)))
            }
            Address::Abstract(name) => {
                let address = sys::net::abstract_address(name.as_bytes())?;
                let listener = UnixListener::bind_addr(&address)?;
                listener.set_nonblocking(true)?;
                Ok((Self::Unix(listener), None))
            }
            Address::Tcp(place) => {
                let listener = TcpListener::bind(place)?;
                listener.set_nonblocking(true)?;
                Ok((Self::Tcp(listener), None))
            }
        }
    }

    /// What it gives blocks: on Linux that is not inherited.
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Stream::Unix(stream))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Stream::over_tcp(stream)
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// The file of a socket of ours, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that nobody else's file is removed.
    identity: (u64, u64),
    /// The process that made it: a copy of it made by `fork` does not remove it.
    pid: u32,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
            pid: std::process::id(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::process::id() == self.pid
            && identity(&self.path).is_ok_and(|now| now == self.identity)
        {
            // Whoever removed it meanwhile did our work.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Binds a socket with a file, in the place of one that nobody listens at any more.
fn bind_file(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // Of two that find the same stale file, one must not remove the other's new one. Held until the
    // socket listens, so that nobody takes it for stale before.
    let _lock = lock_directory(path);
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == IoErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    let listener = bound?;
    let file = SocketFile::of(path)?;
    Ok((listener, file))
}

/// How long a lock of a directory is waited for, and between two looks: whoever binds there is done in
/// a moment, and somebody else's lock is not ours to wait for.
const LOCK: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// Locks the directory of a socket against other listeners that are about to be bound in it, where
/// we may open it.
fn lock_directory(path: &Path) -> Option<File> {
    let parent = match path.parent()? {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        parent => parent,
    };
    let directory = File::open(parent).ok()?;
    let deadline = Deadline::after(LOCK);
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) if !deadline.has_passed() => std::thread::sleep(LOOK),
            Err(_) => return None,
        }
    }
}

/// Whether a file is a socket at which nobody listens.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    // At once: one whose backlog is full is not stale.
    let connect =
        || sys::net::connect_unix(&SocketAddr::from_pathname(path)?, Some(Duration::ZERO));
    is_socket && connect().is_err_and(|error| error.kind() == IoErrorKind::ConnectionRefused)
}
