//! Typed messages between two programs.
//!
//! A message is a header, `{ length: 56 bits, kind: 8 bits }` in little endian, and its bytes.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::handshake::{self, Side};
use super::stream::{self, Stream, Written};
use super::{Address, Key, Listener};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::task::Transfer;
use crate::wire::buffer::Buffer;
use crate::wire::{codec, transfer};

/// Bytes of a message at most, unless told otherwise.
const MAX_MESSAGE: usize = 1 << 30;
/// How long a handshake may take, unless told otherwise.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes that are made room for at once, whatever length a header claims.
const STEP: usize = 1 << 20;

/// What a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Value = 1,
    Bytes = 2,
}

/// Bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) handshake: Duration,
    pub(super) message: usize,
}

/// What can be set for a connection before it is made.
///
/// ```
/// # fn main() -> mp::Result<()> {
/// # let key = mp::Key::random()?;
/// let mut options = mp::ConnectionOptions::new();
/// options.max_message(64 * 1024).handshake_timeout(std::time::Duration::from_secs(1));
/// let listener: mp::Listener<String, String> = options.listen("tcp:localhost:0", &key)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    limits: Limits,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectionOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            limits: Limits {
                handshake: HANDSHAKE,
                message: MAX_MESSAGE,
            },
        }
    }

    /// Sets how many bytes a message may have, sent or received; 1 GiB unless told otherwise. A
    /// longer one from the other side ends the connection. Before the handshake is through nothing
    /// longer than 44 bytes is read.
    pub fn max_message(&mut self, bytes: usize) -> &mut Self {
        self.limits.message = bytes;
        self
    }

    /// Sets how long connecting and the handshake may take; 10 seconds unless told
    /// otherwise.
    pub fn handshake_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.limits.handshake = timeout;
        self
    }

    /// Listens at an address, as [`Listener::bind`].
    ///
    /// # Errors
    ///
    /// As for [`Listener::bind`].
    pub fn listen<S, R, A>(&self, address: A, key: &Key) -> Result<Listener<S, R>, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Listener::with(address.try_into()?, key, self.limits)
    }

    /// Connects to a listener, as [`Client::connect`].
    ///
    /// # Errors
    ///
    /// As for [`Client::connect`].
    pub fn connect<S, R, A>(&self, address: A, key: &Key) -> Result<Client<S, R>, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let address = address.try_into()?;
        let deadline = Deadline::after(self.limits.handshake);
        let stream = Stream::connect(&address, deadline).map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => Error::new(
                ErrorKind::TimedOut,
                format!("{address} did not answer in time"),
            ),
            _ => Error::system(format!("could not connect to {address}"), error),
        })?;
        handshake::shake(&stream, key, Side::Client, deadline)?;
        Ok(Client::over(stream, self.limits))
    }
}

/// A connection to another program: what [`Client::connect`] gives on one side and
/// [`Listener::accept`] on the other.
///
/// `S` is what this side sends and `R` what it receives; the other side has them the other way
/// round, and both have types that serde writes alike. Messages arrive whole and in order. Any number
/// of threads may send and receive.
///
/// A [`Queue`](crate::Queue), a lock or whatever else lies in the memory of one program means nothing
/// in another: to send one is an error.
///
/// As a descriptor ([`AsFd`]) it is readable when a message or the end has arrived, at least in part.
///
/// # When a process dies
///
/// When the other side's process ends, however it does, what it had sent can still be received, and
/// then [`recv`](Self::recv) says that the connection is closed.
pub struct Client<S, R> {
    stream: Stream,
    limits: Limits,
    /// Passed to write a message.
    outgoing: Gate<()>,
    incoming: Gate<Incoming>,
    marker: PhantomData<fn(S) -> R>,
}

impl<S, R> Client<S, R> {
    /// Connects to a [`Listener`] of another program; [`ConnectionOptions`] sets more.
    ///
    /// # Errors
    ///
    /// If nobody listens there; [`Error::is_refused`] if the listener has another key, is no `mp`
    /// program, or one of another version; [`Error::is_timeout`] if it did not answer in time.
    pub fn connect<A>(address: A, key: &Key) -> Result<Self, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        ConnectionOptions::new().connect(address, key)
    }

    pub(super) fn over(stream: Stream, limits: Limits) -> Self {
        Self {
            stream,
            limits,
            outgoing: Gate::new(),
            incoming: Gate::new(),
            marker: PhantomData,
        }
    }

    /// Sends a value, waiting as long as it takes while the other side does not receive. It is encoded
    /// before anything is locked or sent.
    ///
    /// # Errors
    ///
    /// If it cannot be encoded or is longer than a message may be ([`Error::is_limit`]): then nothing
    /// was sent. [`Error::is_closed`] if the other side has ended.
    pub fn send(&self, value: &S) -> Result<(), Error>
    where
        S: Transfer,
    {
        self.send_until(value, Deadline::NEVER)
    }

    /// As [`send`](Self::send), but waits at most `timeout` for the other side to make room, by
    /// receiving, for all of the message.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`], or as for [`send`](Self::send). If a part of the message was sent by then
    /// nothing could follow it: the connection ends, and later calls fail with
    /// [`Error::is_closed`]. That is so for messages that are longer than what the system keeps of a
    /// connection, some hundred KiB.
    pub fn send_timeout(&self, value: &S, timeout: Duration) -> Result<(), Error>
    where
        S: Transfer,
    {
        self.send_until(value, Deadline::after(timeout))
    }

    /// Sends bytes as they are, for [`recv_bytes`](Self::recv_bytes).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        self.write(Kind::Bytes, bytes, Deadline::NEVER)
    }

    /// As [`send_bytes`](Self::send_bytes), but waits at most `timeout` for room.
    ///
    /// # Errors
    ///
    /// As for [`send_timeout`](Self::send_timeout).
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), Error> {
        self.write(Kind::Bytes, bytes, Deadline::after(timeout))
    }

    fn send_until(&self, value: &S, deadline: Deadline) -> Result<(), Error>
    where
        S: Transfer,
    {
        let mut bytes = Buffer::new();
        transfer::abroad(|| codec::encode(value, &mut bytes))
            .map_err(|error| Error::not_encoded(format!("the value cannot be encoded: {error}")))?;
        self.write(Kind::Value, bytes.as_slice(), deadline)
    }

    fn write(&self, kind: Kind, bytes: &[u8], deadline: Deadline) -> Result<(), Error> {
        if bytes.len() > self.limits.message {
            return Err(Error::limit(format!(
                "the message has {} bytes, and may have {}: raise \
                 `ConnectionOptions::max_message` on both sides",
                bytes.len(),
                self.limits.message
            )));
        }
        let header = ((bytes.len() as u64) << 8) | kind as u64;
        let late = |text| Err(Error::new(ErrorKind::TimedOut, text));
        let Some(outgoing) = self.outgoing.enter(deadline) else {
            return late("another thread was sending until the timeout");
        };
        let written = self.stream.write(&header.to_le_bytes(), bytes, deadline);
        if !matches!(written, Ok(Written::Whole | Written::Nothing)) {
            // A part of a message may be on its way: nothing can follow it.
            self.stream.shutdown();
        }
        drop(outgoing);
        match written {
            Ok(Written::Whole) => Ok(()),
            Ok(Written::Nothing) => late("the other side made no room for the message in time"),
            Ok(Written::Part) => late(
                "the other side did not take all of the message in time; the connection has ended",
            ),
            Err(error) if stream::is_end(&error) => Err(ended()),
            Err(error) => Err(Error::system("could not send", error)),
        }
    }

    /// Receives the next value, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`Error::is_closed`] once the other side has ended and all it sent was received;
    /// [`Error::is_not_decoded`] if what came is no value of the type, it is consumed then;
    /// [`Error::is_limit`] if it is longer than a message may be, which ends the connection.
    pub fn recv(&self) -> Result<R, Error>
    where
        R: Transfer,
    {
        self.receive(Deadline::NEVER)
    }

    /// As [`recv`](Self::recv), but waits at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`], or as for [`recv`](Self::recv). What has arrived of a message by then is
    /// kept for the next call.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<R, Error>
    where
        R: Transfer,
    {
        self.receive(Deadline::after(timeout))
    }

    /// As [`recv`](Self::recv), but does not wait: `None` if no message is there.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<R>, Error>
    where
        R: Transfer,
    {
        match self.recv_timeout(Duration::ZERO) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_timeout() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Receives bytes that were sent by [`send_bytes`](Self::send_bytes).
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn recv_bytes(&self) -> Result<Vec<u8>, Error> {
        self.receive_kind(Kind::Bytes, Deadline::NEVER)
    }

    /// As [`recv_bytes`](Self::recv_bytes), but waits at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`recv_timeout`](Self::recv_timeout).
    pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>, Error> {
        self.receive_kind(Kind::Bytes, Deadline::after(timeout))
    }

    /// Waits at most `timeout` for a message: whether [`recv`](Self::recv) will not wait. The end of
    /// the connection counts as well.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv), but for the decoding.
    pub fn poll(&self, timeout: Duration) -> Result<bool, Error> {
        let deadline = Deadline::after(timeout);
        let Some(mut incoming) = self.incoming.enter(deadline) else {
            return Ok(false);
        };
        match incoming.fill(&self.stream, self.limits.message, deadline) {
            Ok(()) => Ok(true),
            Err(error) if error.is_closed() => Ok(true),
            Err(error) if error.is_timeout() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn receive(&self, deadline: Deadline) -> Result<R, Error>
    where
        R: Transfer,
    {
        let bytes = self.receive_kind(Kind::Value, deadline)?;
        let mut rest = bytes.as_slice();
        let why = match transfer::abroad(|| codec::decode(&mut rest)) {
            Ok(value) if rest.is_empty() => return Ok(value),
            Ok(_) => format!("{} bytes are left over", rest.len()),
            Err(error) => error.to_string(),
        };
        Err(Error::new(
            ErrorKind::NotDecoded,
            format!(
                "what was received is no {}: {why}",
                std::any::type_name::<R>()
            ),
        ))
    }

    fn receive_kind(&self, wanted: Kind, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let late = || Error::new(ErrorKind::TimedOut, "no message came in time");
        let mut incoming = self.incoming.enter(deadline).ok_or_else(late)?;
        incoming.fill(&self.stream, self.limits.message, deadline)?;
        let (kind, bytes) = incoming.take();
        if kind == wanted {
            return Ok(bytes);
        }
        Err(Error::new(
            ErrorKind::NotDecoded,
            match wanted {
                Kind::Value => "bytes were received, and not a value: receive them by `recv_bytes`",
                Kind::Bytes => "a value was received, and not bytes: receive it by `recv`",
            },
        ))
    }
}

fn ended() -> Error {
    Error::closed("the other side has ended the connection")
}

impl<S, R> AsFd for Client<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<S, R> fmt::Debug for Client<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// A message that is being received.
#[derive(Debug, Default)]
struct Incoming {
    header: [u8; 8],
    /// Bytes of the header that have arrived.
    got: usize,
    body: Vec<u8>,
    /// Bytes of the body that have arrived.
    filled: usize,
    /// Nothing more can be read.
    has_ended: bool,
}

impl Incoming {
    fn length(&self) -> usize {
        // 56 bits fit.
        (u64::from_le_bytes(self.header) >> 8) as usize
    }

    fn kind(&self) -> Option<Kind> {
        [Kind::Value, Kind::Bytes]
            .into_iter()
            .find(|kind| *kind as u8 == self.header[0])
    }

    /// Reads until one message is whole, and not a byte of the next.
    fn fill(&mut self, stream: &Stream, most: usize, deadline: Deadline) -> Result<(), Error> {
        if self.has_ended {
            return Err(ended());
        }
        while self.got < self.header.len() {
            self.got += self.read(stream, deadline, |this| &mut this.header[this.got..])?;
        }
        let length = self.length();
        let is_ours = self.kind().is_some();
        if length > most || !is_ours {
            // What follows is not to be found in what is not read.
            self.has_ended = true;
            stream.shutdown();
            return Err(match is_ours {
                true => Error::limit(format!(
                    "a message of {length} bytes was sent, and may have {most}: raise \
                     `ConnectionOptions::max_message` here; the connection has ended"
                )),
                false => Error::closed("the other side sent what is no message"),
            });
        }
        while self.filled < length {
            if self.filled == self.body.len() {
                // No more than what has come already, whatever was claimed.
                let more = length - self.filled;
                self.body
                    .resize(self.filled + more.min(STEP.max(self.filled)), 0);
            }
            self.filled += self.read(stream, deadline, |this| &mut this.body[this.filled..])?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        stream: &Stream,
        deadline: Deadline,
        into: impl FnOnce(&mut Self) -> &mut [u8],
    ) -> Result<usize, Error> {
        match stream.read(into(self), deadline) {
            Ok(Some(0)) => {
                self.has_ended = true;
                Err(ended())
            }
            Ok(Some(read)) => Ok(read),
            Ok(None) => Err(Error::new(ErrorKind::TimedOut, "no message came in time")),
            Err(error) => Err(Error::system("could not receive", error)),
        }
    }

    /// The whole message; the next one is received afterwards.
    fn take(&mut self) -> (Kind, Vec<u8>) {
        let kind = self.kind().unwrap_or(Kind::Bytes);
        let body = std::mem::take(&mut self.body);
        *self = Self::default();
        (kind, body)
    }
}

/// Lets one thread at a time at something, and the others wait until a deadline.
#[derive(Debug)]
struct Gate<T> {
    /// Nothing while a thread has it.
    inside: Mutex<Option<T>>,
    left: Condvar,
}

impl<T: Default> Gate<T> {
    fn new() -> Self {
        Self {
            inside: Mutex::new(Some(T::default())),
            left: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, deadline: Deadline) -> Option<Entered<'_, T>> {
        let mut inside = self.lock();
        loop {
            if let Some(inside) = inside.take() {
                return Some(Entered { gate: self, inside });
            }
            inside = match deadline.remaining() {
                None => self
                    .left
                    .wait(inside)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return None,
                Some(left) => {
                    let waited = self.left.wait_timeout(inside, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// What is behind a gate, in the hands of one thread.
struct Entered<'a, T: Default> {
    gate: &'a Gate<T>,
    inside: T,
}

impl<T: Default> std::ops::Deref for Entered<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inside
    }
}

impl<T: Default> std::ops::DerefMut for Entered<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inside
    }
}

impl<T: Default> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        *self.gate.lock() = Some(std::mem::take(&mut self.inside));
        self.gate.left.notify_one();
    }
}
