//! A queue between any processes and threads of a program.
//!
//! - [`channel`]: the queue of bytes: two locks, three bells, waiting until a deadline.
//! - [`mod@line`]: the same for other parts of `mp`.
//! - [`error`]: one small type an operation.
//!
//! The protocol is in `queue/README.md`, the memory in `shm/segment.rs`.

pub(crate) mod channel;
pub(crate) mod error;
mod line;

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::channel::Channel;
pub use self::error::{
    GetError, GetManyError, GetTimeoutError, JoinTimeoutError, NotDecoded, PutError,
    PutTimeoutError, TaskDoneError, TryGetError, TryPutError,
};
use self::error::{Put, Reason};
pub(crate) use self::line::Line;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::task::Transfer;
use crate::wait::{Descriptor, Waitable, Watched};
use crate::wire::transfer;

/// A first-in, first-out queue between any processes and threads of a program.
///
/// A clone is the same queue, and so is what arrives where a queue was sent: as an argument or
/// result of a task, as an item of this or another queue, or inside either. Any number of processes
/// and threads may put and get. The values of one producer are got in the order in which it put
/// them, and each value by exactly one getter.
///
/// A value is encoded once, in the caller of [`put`](Self::put), before anything is locked; when
/// `put` returns, the value is in the queue. There is no feeder thread: a process may put a value and
/// exit. [`Queue::new`] is limited by memory only (and to 536,870,911 items), [`Queue::bounded`]
/// holds at most the given number of items.
///
/// # When a process dies
///
/// Nobody else is blocked and nothing is corrupted, at whatever instruction it died:
///
/// - in `put`: the value is in the queue or it is not, whole either way;
/// - in `get`: a value that it had taken and not returned yet is gone, and [`lost`](Self::lost)
///   counts it;
/// - otherwise: what it had put stays, what it had got is its own.
///
/// The queue lives while any process holds a handle, or another queue holds an item with one in it.
/// A queue that can be reached only from its own items lives until the program ends.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn shout(words: mp::Queue<String>, loud: mp::Queue<String>) {
///     for word in &words {
///         loud.put(word.to_uppercase()).unwrap();
///     }
///     loud.close();
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let words = mp::Queue::new()?;
/// let loud = mp::Queue::new()?;
/// let child = mp::Process::new(shout, (words.clone(), loud.clone())).start()?;
/// words.put("hello".to_owned())?;
/// words.put("world".to_owned())?;
/// words.close();
/// assert_eq!(loud.iter().collect::<Vec<_>>(), ["HELLO", "WORLD"]);
/// child.join()?;
/// # Ok(())
/// # }
/// ```
pub struct Queue<T> {
    channel: Channel,
    marker: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self::over(self.channel.clone())
    }
}

impl<T> Queue<T> {
    fn over(channel: Channel) -> Self {
        Self {
            channel,
            marker: PhantomData,
        }
    }

    /// Makes a queue that is limited by memory only.
    ///
    /// # Errors
    ///
    /// If the program's shared memory cannot be made, or holds its limit of 65,536 objects.
    pub fn new() -> Result<Self, Error> {
        Channel::create(None).map(Self::over)
    }

    /// Makes a queue that holds at most `capacity` items: [`put`](Self::put) waits for room.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// If `capacity` is zero or more than 536,870,911.
    #[doc(alias = "maxsize")]
    #[track_caller]
    pub fn bounded(capacity: usize) -> Result<Self, Error> {
        assert!(
            (1..=channel::MAX_ITEMS as usize).contains(&capacity),
            "the capacity of a queue must be between 1 and 536,870,911 items, not {capacity}"
        );
        Channel::create(Some(capacity as u64)).map(Self::over)
    }

    /// How many items were put and not yet taken, at one moment of the call.
    #[doc(alias = "qsize")]
    pub fn len(&self) -> usize {
        self.channel.len() as usize
    }

    /// Whether [`len`](Self::len) is zero.
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a bounded queue holds as many items as it can.
    #[doc(alias = "full")]
    pub fn is_full(&self) -> bool {
        self.channel
            .capacity()
            .is_some_and(|capacity| self.channel.len() >= capacity)
    }

    /// How many items it can hold; `None` if memory is the only limit.
    pub fn capacity(&self) -> Option<usize> {
        self.channel.capacity().map(|capacity| capacity as usize)
    }

    /// How many values were taken by a process that died before its `get` returned them.
    pub fn lost(&self) -> u64 {
        self.channel.lost()
    }

    /// Ends putting: every later [`put`](Self::put) is refused, getters drain what is there and are
    /// then told that the queue is closed. Closing again does nothing.
    ///
    /// # When a process dies
    ///
    /// A queue is not closed by the death of those who put into it: who waits for a value that only
    /// one process can put waits for that process too, or gives a timeout.
    pub fn close(&self) {
        self.channel.close();
    }

    /// Whether the queue was closed. Items may be left in it.
    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }

    /// Tells that the work on one item that was got is finished, for [`join`](Self::join).
    ///
    /// # Errors
    ///
    /// If it was called as often as items were put already.
    pub fn task_done(&self) -> Result<(), TaskDoneError> {
        self.channel.task_done()
    }

    /// Waits until [`task_done`](Self::task_done) was called for every item that was put. Items that
    /// were [`lost`](Self::lost) count as done, for nobody will work on them.
    ///
    /// # Errors
    ///
    /// In a copy of the process made by `fork`.
    ///
    /// # When a process dies
    ///
    /// What it had got and not finished is never reported as done: who gives work to processes that
    /// may die calls [`join_timeout`](Self::join_timeout) and looks at them.
    #[doc(alias = "JoinableQueue")]
    pub fn join(&self) -> Result<(), Error> {
        match self.channel.join(Deadline::NEVER) {
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// As [`join`](Self::join), but waits at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`JoinTimeoutError`] tells how many items were not done in time.
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), JoinTimeoutError> {
        match self.channel.join(Deadline::after(timeout)) {
            Ok(0) => Ok(()),
            Ok(left) => Err(JoinTimeoutError::timeout(left)),
            Err(error) => Err(JoinTimeoutError::failed(error)),
        }
    }
}

impl<T> Queue<T> {
    /// Puts a value, waiting as long as it takes while a bounded queue is full.
    ///
    /// # Errors
    ///
    /// [`PutError`] gives the value back: the queue is closed, the value cannot be encoded, or the
    /// shared memory is used up.
    ///
    /// # When a process dies
    ///
    /// If the caller dies in here, the value is in the queue, whole, or it is not.
    pub fn put(&self, value: T) -> Result<(), PutError<T>>
    where
        T: Transfer,
    {
        match self.send(&value, Deadline::NEVER) {
            Ok(()) => Ok(()),
            Err(reason) => Err(Put::new(value, reason).into()),
        }
    }

    /// Puts a value if there is room for it now.
    ///
    /// # Errors
    ///
    /// [`TryPutError`] gives the value back: the queue is full, or as for [`put`](Self::put).
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, value: T) -> Result<(), TryPutError<T>>
    where
        T: Transfer,
    {
        match self.send(&value, Deadline::after(Duration::ZERO)) {
            Ok(()) => Ok(()),
            Err(reason) => Err(Put::new(value, reason).into()),
        }
    }

    /// Puts a value, waiting at most `timeout` for room.
    ///
    /// # Errors
    ///
    /// [`PutTimeoutError`] gives the value back: there was no room in time, or as for
    /// [`put`](Self::put).
    pub fn put_timeout(&self, value: T, timeout: Duration) -> Result<(), PutTimeoutError<T>>
    where
        T: Transfer,
    {
        match self.send(&value, Deadline::after(timeout)) {
            Ok(()) => Ok(()),
            Err(reason) => Err(Put::new(value, reason).into()),
        }
    }

    /// As [`put`](Self::put), but encodes a value that stays the caller's.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put), without the value.
    pub fn put_ref(&self, value: &T) -> Result<(), PutError<()>>
    where
        T: Transfer,
    {
        self.send(value, Deadline::NEVER)
            .map_err(|reason| Put::new((), reason).into())
    }

    /// Puts values in a row, many under one lock and with one wake-up, waiting while a bounded
    /// queue is full. Returns how many.
    ///
    /// # Errors
    ///
    /// [`PutError`] gives back the values that were taken from the iterator and are not in the
    /// queue, the one at fault first; all before them are in the queue.
    pub fn put_many(&self, values: impl IntoIterator<Item = T>) -> Result<usize, PutError<Vec<T>>>
    where
        T: Transfer,
    {
        let mut values = values.into_iter();
        let mut count = 0;
        loop {
            let mut group: Vec<T> = values.by_ref().take(GROUP).collect();
            if group.is_empty() {
                return Ok(count);
            }
            let (put, result) = self.channel.put_all(&group);
            count += put;
            if let Err(reason) = result {
                group.drain(..put);
                return Err(Put::new(group, reason).into());
            }
        }
    }

    /// Gets the next value, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`GetError::Closed`] once the queue is closed and empty. [`GetError::NotDecoded`] if the value
    /// could not be decoded: it is consumed, and its bytes are in the error.
    ///
    /// # When a process dies
    ///
    /// If the caller dies in here after it took a value, that value is gone, and
    /// [`lost`](Self::lost) counts it.
    pub fn get(&self) -> Result<T, GetError>
    where
        T: Transfer,
    {
        self.receive(Deadline::NEVER).map_err(GetError::from)
    }

    /// Gets the next value if there is one now.
    ///
    /// # Errors
    ///
    /// [`TryGetError::Empty`], or as for [`get`](Self::get).
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, TryGetError>
    where
        T: Transfer,
    {
        self.receive(Deadline::after(Duration::ZERO))
            .map_err(TryGetError::from)
    }

    /// Gets the next value, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`GetTimeoutError::Timeout`], or as for [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetTimeoutError>
    where
        T: Transfer,
    {
        self.receive(Deadline::after(timeout))
            .map_err(GetTimeoutError::from)
    }

    /// Gets between one and `most` values under one lock, waiting for the first as long as it takes.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get). The error holds the values that could be decoded.
    ///
    /// # Panics
    ///
    /// If `most` is zero.
    #[track_caller]
    pub fn get_many(&self, most: usize) -> Result<Vec<T>, GetManyError<T>>
    where
        T: Transfer,
    {
        assert!(most > 0, "get_many must be asked for at least one value");
        let mut values = Vec::new();
        let mut failed = None;
        let receive = |value, behind| match value {
            Ok(value) => {
                if values.len() == values.capacity() {
                    values.reserve(behind + 1);
                }
                values.push(value);
            }
            // The first failure is reported; the bytes of a second would have no place.
            Err(error) => failed = failed.take().or(Some(error)),
        };
        let received = self.channel.take_values(most, Deadline::NEVER, receive);
        match (received, failed) {
            (Ok(()), None) => Ok(values),
            (Ok(()), Some(error)) => Err(GetManyError::new(values, error.into())),
            (Err(reason), _) => Err(GetManyError::new(values, GetError::from(reason))),
        }
    }

    /// A descriptor that becomes readable when there is something to get, or the queue is closed: for
    /// `poll`, `epoll` and async runtimes.
    ///
    /// # Errors
    ///
    /// If the system has no descriptor or no thread left.
    pub fn descriptor(&self) -> Result<Descriptor, Error> {
        Descriptor::new(Box::new(self.channel.clone()))
    }

    /// Values until the queue is closed and empty. A value that cannot be decoded ends it with a
    /// panic; use [`get`](Self::get) where that can happen.
    pub fn iter(&self) -> Iter<'_, T>
    where
        T: Transfer,
    {
        Iter { queue: self }
    }
}

/// Values that [`Queue::put_many`] puts at once.
const GROUP: usize = 256;

impl<T> Queue<T> {
    fn send(&self, value: &T, deadline: Deadline) -> Result<(), Reason>
    where
        T: Transfer,
    {
        self.channel.put(value, deadline)
    }

    fn receive(&self, deadline: Deadline) -> Result<T, Reason>
    where
        T: Transfer,
    {
        let mut result = None;
        self.channel.take(1, deadline, |message| {
            result = Some(message.decode());
        })?;
        match result {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(Reason::NotDecoded(error)),
            None => unreachable!("take gives a message or a reason"),
        }
    }
}

/// The values of a queue until it is closed and empty, see [`Queue::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    queue: &'a Queue<T>,
}

impl<T: Transfer> Iterator for Iter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self.queue.get() {
            Ok(value) => Some(value),
            Err(GetError::Closed) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

impl<'a, T: Transfer> IntoIterator for &'a Queue<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// Ready while there is something to get, and once it is closed.
impl<T> Waitable for Queue<T> {
    fn watched(&self) -> Watched<'_> {
        Watched::new(&self.channel)
    }
}

/// Shows how many items are in the queue, its capacity, whether it is closed, and what was lost.
impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if crate::life::program::is_forked() {
            return f.debug_struct("Queue").finish_non_exhaustive();
        }
        f.debug_struct("Queue")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("closed", &self.is_closed())
            .field("lost", &self.lost())
            .finish()
    }
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize(self.channel.handle(), serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let handle = transfer::deserialize(deserializer)?;
        Channel::over(handle)
            .map(Self::over)
            .map_err(serde::de::Error::custom)
    }
}
