//! Two ends, each of which sends messages to the other, between any processes of a program.
//!
//! - [`error`]: one small type an operation.
//!
//! The protocol is in `pipe/README.md`; each way is a queue's channel.

mod error;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::error::{
    RecvBytesIntoError, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError,
    TrySendError,
};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::loom::{AtomicU64, Ordering};
use crate::queue::channel::{Channel, Message};
use crate::queue::error::{Put, Reason};
use crate::shm::{Kind, shared};
use crate::task::Transfer;
use crate::wait::{Descriptor, Waitable, Watched};
use crate::wire::transfer::{self, Handle};

shared! {
    /// An end in shared memory: the ways that close when it dies. The table reads them.
    struct End {
        ways: [AtomicU64; 2],
    }
}

/// Makes a pipe: two connected ends. What one sends, the other receives; values of type `A` go from
/// the first to the second, of type `B` from the second to the first.
///
/// A way that is not wanted is given a type that cannot be sent, `std::convert::Infallible` say: then
/// using it does not compile.
///
/// # Errors
///
/// If the program's shared memory cannot be made, or holds its limit of 65,536 objects; a pipe takes
/// four.
///
/// # Examples
///
/// ```
/// use mp::{Connection, Process};
///
/// #[mp::task]
/// fn square(requests: Connection<u64, u64>) {
///     for x in &requests {
///         requests.send(x * x).unwrap();
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (here, there) = mp::pipe::<u64, u64>()?;
/// let child = Process::new(square, (there.clone(),)).start()?;
/// drop(there); // ours; the child's is the only one now, so that its end would be noticed
/// here.send(12)?;
/// assert_eq!(here.recv()?, 144);
/// drop(here);
/// child.join()?; // its loop has ended
/// # Ok(())
/// # }
/// ```
#[doc(alias = "Pipe")]
#[expect(clippy::type_complexity, reason = "the two ends are what it is about")]
pub fn pipe<A, B>() -> Result<(Connection<A, B>, Connection<B, A>), Error> {
    let ways = [Channel::create_way()?, Channel::create_way()?];
    let ends = [make_end(&ways)?, make_end(&ways)?];
    let [to_second, to_first] = ways;
    let [first, second] = ends;
    Ok((
        Connection::over(first, to_first.clone(), to_second.clone()),
        Connection::over(second, to_second, to_first),
    ))
}

fn make_end(ways: &[Channel; 2]) -> Result<Arc<Handle>, Error> {
    let end = Handle::create(Kind::PipeEnd)?;
    let state: &End = end.state(Kind::PipeEnd).ok_or_else(transfer::gone)?;
    for (word, way) in state.ways.iter().zip(ways) {
        // Relaxed: whoever finds the end dead has had the table's lock.
        word.store(way.handle().id().bits(), Ordering::Relaxed);
    }
    Ok(end)
}

/// One end of a [`pipe`]: sends values of type `S` and receives values of type `R`.
///
/// A clone is the same end, and so is what arrives where an end was sent: as an argument or result of
/// a task, in a queue, through this or another pipe. Several processes and threads may use an end at
/// once; each message goes to one of them. Messages keep their boundaries and, of one sender, their
/// order.
///
/// An end is *gone* once nobody has it: every clone in every process was dropped, or its process died,
/// and none is on its way in a message. Then the other end receives what is left, and is told
/// that nothing more comes; sending to it is an error that gives the value back. For that to happen
/// drop the ends that you do not use, as with any pipe: a process that has given an end away and keeps
/// a clone is a peer, too. An end whose last clone is on its way to itself is never received, and so
/// never gone: it stays until the program ends.
///
/// Each way holds up to 1,024 messages, and fewer large ones: a message waits to be sent while there
/// are 64 MiB divided by its size, or more, before it. One message of any size that memory holds
/// always fits. So two ends that both send much and receive nothing wait for each other.
///
/// # When a process dies
///
/// Nobody else is blocked and nothing is corrupted, at whatever instruction it died:
///
/// - in a send: the message arrives whole or not at all;
/// - in a receive: a message that it had taken and not returned yet is gone, and
///   [`lost`](Self::lost) counts it;
/// - with the last clone of an end: the other end is told, in a wait as well.
///
/// # Examples
///
/// ```
/// let (here, there) = mp::pipe::<String, std::convert::Infallible>()?;
/// here.send("last words".to_owned())?;
/// drop(here);
/// assert!(there.poll());
/// assert_eq!(there.recv()?, "last words");
/// assert!(matches!(there.recv(), Err(mp::RecvError::Closed)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct Connection<S, R> {
    // First: the end is let go before its ways are.
    end: Arc<Handle>,
    inbox: Channel,
    outbox: Channel,
    marker: PhantomData<fn(S) -> R>,
}

impl<S, R> Clone for Connection<S, R> {
    fn clone(&self) -> Self {
        Self::over(self.end.clone(), self.inbox.clone(), self.outbox.clone())
    }
}

impl<S, R> Connection<S, R> {
    fn over(end: Arc<Handle>, inbox: Channel, outbox: Channel) -> Self {
        Self {
            end,
            inbox,
            outbox,
            marker: PhantomData,
        }
    }

    /// Sends a value, waiting as long as it takes while the way is full.
    ///
    /// # Errors
    ///
    /// [`SendError`] gives the value back: the other end is gone, the value cannot be encoded, or the
    /// shared memory is used up.
    pub fn send(&self, value: S) -> Result<(), SendError<S>>
    where
        S: Transfer,
    {
        match self.outbox.put(&value, Deadline::NEVER) {
            Ok(()) => Ok(()),
            Err(reason) => Err(Put::new(value, reason).into()),
        }
    }

    /// Sends a value if there is room for it now.
    ///
    /// # Errors
    ///
    /// [`TrySendError`] gives the value back: the way is full, or as for [`send`](Self::send).
    pub fn try_send(&self, value: S) -> Result<(), TrySendError<S>>
    where
        S: Transfer,
    {
        match self.outbox.put(&value, Deadline::after(Duration::ZERO)) {
            Ok(()) => Ok(()),
            Err(reason) => Err(Put::new(value, reason).into()),
        }
    }

    /// Sends a value, waiting at most `timeout` for room.
    ///
    /// # Errors
    ///
    /// [`SendTimeoutError`] gives the value back: there was no room in time, or as for
    /// [`send`](Self::send).
    pub fn send_timeout(&self, value: S, timeout: Duration) -> Result<(), SendTimeoutError<S>>
    where
        S: Transfer,
    {
        match self.outbox.put(&value, Deadline::after(timeout)) {
            Ok(()) => Ok(()),
            Err(reason) => Err(Put::new(value, reason).into()),
        }
    }

    /// Sends bytes as one message, as they are. The other end receives them by
    /// [`recv_bytes`](Self::recv_bytes).
    ///
    /// # Errors
    ///
    /// [`SendError`], without a value: as for [`send`](Self::send).
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.outbox
            .put_bytes(bytes, Deadline::NEVER)
            .map_err(|reason| Put::new((), reason).into())
    }

    /// Receives the next value, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError::Closed`] once the other end is gone and all it sent was received.
    /// [`RecvError::NotDecoded`] if the message could not be decoded: it is consumed, and its bytes
    /// are in the error.
    pub fn recv(&self) -> Result<R, RecvError>
    where
        R: Transfer,
    {
        self.receive(Deadline::NEVER).map_err(RecvError::from)
    }

    /// Receives the next value if there is one now.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`], or as for [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<R, TryRecvError>
    where
        R: Transfer,
    {
        self.receive(Deadline::after(Duration::ZERO))
            .map_err(TryRecvError::from)
    }

    /// Receives the next value, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`], or as for [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<R, RecvTimeoutError>
    where
        R: Transfer,
    {
        self.receive(Deadline::after(timeout))
            .map_err(RecvTimeoutError::from)
    }

    /// Receives the next message as bytes: what [`send_bytes`](Self::send_bytes) sent, or an encoded
    /// value.
    ///
    /// # Errors
    ///
    /// [`RecvError::Closed`] once the other end is gone and all it sent was received.
    pub fn recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
        Ok(self.take(Deadline::NEVER, |message| message.bytes().to_vec())?)
    }

    /// Receives the next message as bytes into `buffer`, and returns how many.
    ///
    /// # Errors
    ///
    /// [`RecvBytesIntoError`] if the message is longer than `buffer`: the message is in the error
    /// and `buffer` is as it was. Or as for [`recv_bytes`](Self::recv_bytes).
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize, RecvBytesIntoError> {
        self.take(Deadline::NEVER, |message| {
            let bytes = message.bytes();
            match buffer.get_mut(..bytes.len()) {
                Some(place) => {
                    place.copy_from_slice(bytes);
                    Ok(bytes.len())
                }
                None => Err(RecvBytesIntoError::TooShort(bytes.to_vec())),
            }
        })?
    }

    /// Whether [`recv`](Self::recv) would return at once: there is a message, or nothing more comes.
    ///
    /// # Panics
    ///
    /// In a copy of the process made by `fork`.
    pub fn poll(&self) -> bool {
        self.poll_timeout(Duration::ZERO)
    }

    /// As [`poll`](Self::poll), but waits for it, at most `timeout`.
    ///
    /// # Panics
    ///
    /// As [`poll`](Self::poll) does.
    pub fn poll_timeout(&self, timeout: Duration) -> bool {
        self.inbox.wait_ready(Deadline::after(timeout))
    }

    /// Whether the other end is gone. Messages that it sent may be left.
    ///
    /// # Panics
    ///
    /// As [`poll`](Self::poll) does.
    pub fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }

    /// How many messages for this end were taken by a process that died before it returned them.
    ///
    /// # Panics
    ///
    /// As [`poll`](Self::poll) does.
    pub fn lost(&self) -> u64 {
        self.inbox.lost()
    }

    /// Values until nothing more comes. A value that cannot be decoded ends it with a panic; use
    /// [`recv`](Self::recv) where that can happen.
    pub fn iter(&self) -> Messages<'_, S, R>
    where
        R: Transfer,
    {
        Messages { connection: self }
    }

    /// A descriptor that becomes readable when there is something to receive, or nothing more comes:
    /// for `poll`, `epoll` and async runtimes. It does not keep this end from being gone.
    ///
    /// # Errors
    ///
    /// If the system has no descriptor or no thread left.
    pub fn descriptor(&self) -> Result<Descriptor, Error> {
        Descriptor::new(Box::new(self.inbox.clone()))
    }

    fn receive(&self, deadline: Deadline) -> Result<R, Reason>
    where
        R: Transfer,
    {
        self.take(deadline, |message| message.decode())?
            .map_err(Reason::NotDecoded)
    }

    /// Takes a message and makes something of it.
    fn take<T>(
        &self,
        deadline: Deadline,
        mut make: impl FnMut(Message<'_>) -> T,
    ) -> Result<T, Reason> {
        let mut made = None;
        self.inbox
            .take(1, deadline, |message| made = Some(make(message)))?;
        match made {
            Some(made) => Ok(made),
            None => unreachable!("take gives a message or a reason"),
        }
    }
}

/// Values until the other end is gone, see [`Connection::iter`].
#[derive(Debug)]
pub struct Messages<'a, S, R> {
    connection: &'a Connection<S, R>,
}

impl<S, R: Transfer> Iterator for Messages<'_, S, R> {
    type Item = R;

    fn next(&mut self) -> Option<R> {
        match self.connection.recv() {
            Ok(value) => Some(value),
            Err(RecvError::Closed) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

impl<'a, S, R: Transfer> IntoIterator for &'a Connection<S, R> {
    type Item = R;
    type IntoIter = Messages<'a, S, R>;

    fn into_iter(self) -> Messages<'a, S, R> {
        self.iter()
    }
}

/// Ready while there is something to receive, and once nothing more comes.
impl<S, R> Waitable for Connection<S, R> {
    fn watched(&self) -> Watched<'_> {
        Watched::new(&self.inbox)
    }
}

/// Shows how many messages wait at this end and at the other, and whether that is gone.
impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if crate::life::program::is_forked() {
            return f.debug_struct("Connection").finish_non_exhaustive();
        }
        f.debug_struct("Connection")
            .field("received", &self.inbox.len())
            .field("sent", &self.outbox.len())
            .field("closed", &self.is_closed())
            .field("lost", &self.lost())
            .finish()
    }
}

/// A handle inside of something that has several.
struct Part<'a>(&'a Arc<Handle>);

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize(self.0, serializer)
    }
}

/// A handle as it arrives.
struct Arrived(Arc<Handle>);

impl<'de> Deserialize<'de> for Arrived {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize(deserializer).map(Self)
    }
}

impl<S, R> Serialize for Connection<S, R> {
    fn serialize<T: Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        let parts = [&self.end, self.inbox.handle(), self.outbox.handle()].map(Part);
        parts.serialize(serializer)
    }
}

impl<'de, S, R> Deserialize<'de> for Connection<S, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let [end, inbox, outbox] = <[Arrived; 3]>::deserialize(deserializer)?;
        let over = || {
            let _: &End = end.0.state(Kind::PipeEnd).ok_or_else(transfer::gone)?;
            let inbox = Channel::over_way(inbox.0.clone())?;
            let outbox = Channel::over_way(outbox.0.clone())?;
            Ok::<_, Error>(Self::over(end.0.clone(), inbox, outbox))
        };
        over().map_err(serde::de::Error::custom)
    }
}
