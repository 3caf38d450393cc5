//! A queue between processes on any machines: a work-queue stream of the server.
//!
//! - `stream`: what it is at the server.
//! - `passing`: values on their way there, and from there.
//! - `item`: a value that was got and is not yet done with.
//! - `join`: waiting until all is done.

mod item;
mod join;
mod passing;
mod stream;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::{Config, Info};
use mp::__private::Put;
use mp::{
    Error, GetError, GetTimeoutError, PutError, PutTimeoutError, Transfer, TryGetError, TryPutError,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::OnceCell;

pub use self::item::Item;
use self::stream::bound_of;
use super::address::Address;
use super::cell::{Cell, Until};
use super::cluster::{Cluster, Core};
use crate::error;
use crate::fault::fault;

const KIND: &str = "queue";
/// The longest that room in a full queue may go unnoticed.
const POLL: Duration = Duration::from_millis(250);

/// A first-in, first-out queue that processes on any machines know by its name.
///
/// It is as [`mp::Queue`](crate::Queue), but that all calls can fail when the server cannot be reached,
/// by errors with `Failed` in them, and that what is in it is kept by the server: it outlives all
/// programs, until somebody calls [`remove`](Self::remove), and a restart of the server. The values of
/// one producer are got in the order in which it put them, but for those that come back.
///
/// What is put is in the queue once, also when the connection breaks meanwhile, up to two minutes.
/// A value of more bytes than the server takes in a message (`max_payload`, a mebibyte by default) is
/// refused.
///
/// # What may be got twice
///
/// [`get`](Self::get) tells the server that it has a value, and waits for its word before it returns.
/// If that word does not come because the connection breaks at that moment, the value is returned all
/// the same, and may come back to another after five seconds. So may one whose
/// [`get_item`](Self::get_item) was not committed by a process that died, was stopped or was cut off
/// for so long.
///
/// # When a process dies
///
/// Nobody else is blocked. In `put`: the value is in the queue or it is not. In `get`: a value that
/// the server had given and of which it had not heard comes back after five seconds; one of which it
/// had heard is gone with the process. Whoever cannot lose one uses [`get_item`](Self::get_item).
///
/// # Examples
///
/// ```no_run
/// use mp_cluster::named::Queue;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let orders = Queue::<String>::named("orders")?; // At the server that MP_CLUSTER names.
/// orders.put("two coffees".to_owned())?;
/// // On another machine:
/// let order = orders.get_item()?;
/// println!("{}", *order);
/// order.commit()?; // If this process dies before, another gets it.
/// # Ok(())
/// # }
/// ```
pub struct Queue<T> {
    /// How often items were done.
    cell: Cell,
    capacity: Option<usize>,
    consumer: Arc<OnceCell<PullConsumer>>,
    marker: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            cell: self.cell.clone(),
            capacity: self.capacity,
            consumer: self.consumer.clone(),
            marker: PhantomData,
        }
    }
}

impl<T> Queue<T> {
    /// The queue of that name, without bound, at the server that `MP_CLUSTER` names; it is made if
    /// there is none. See [`Cluster::queue`] for others.
    ///
    /// # Errors
    ///
    /// As of [`Cluster::from_env`] and [`Cluster::queue`].
    pub fn named(name: &str) -> Result<Self, Error> {
        Cluster::from_env()?.queue(name)
    }

    /// As [`named`](Self::named), but for a queue that holds at most so many items.
    ///
    /// # Errors
    ///
    /// As of [`Cluster::from_env`] and [`Cluster::bounded_queue`].
    ///
    /// # Panics
    ///
    /// If `capacity` is zero.
    #[track_caller]
    pub fn named_bounded(name: &str, capacity: usize) -> Result<Self, Error> {
        Cluster::from_env()?.bounded_queue(name, capacity)
    }

    pub(super) fn open(
        cluster: Cluster,
        name: &str,
        capacity: Option<usize>,
    ) -> Result<Self, Error> {
        let mut queue = Self::over(Cell::new(cluster, KIND, name)?);
        let made = queue.run(queue.make(capacity))?;
        queue.capacity = bound_of(&made.config);
        if queue.capacity != capacity {
            let shown = |capacity: Option<usize>| match capacity {
                Some(capacity) => format!("a bound of {capacity}"),
                None => "no bound".to_owned(),
            };
            return Err(error::cluster(format!(
                "the queue {name:?} was made with {}, not with {}",
                shown(queue.capacity),
                shown(capacity)
            )));
        }
        Ok(queue)
    }

    /// A queue that has been made, wherever.
    fn over(cell: Cell) -> Self {
        Self {
            cell,
            capacity: None,
            consumer: Arc::default(),
            marker: PhantomData,
        }
    }

    fn core(&self) -> &Arc<Core> {
        self.cell.core()
    }

    /// Runs what takes no time.
    fn run<R>(&self, future: impl Future<Output = Result<R, Error>>) -> Result<R, Error> {
        let once = async { future.await.map(Some) };
        let done = self.cell.cluster.run(Until::Now.bound(self.core(), once))?;
        done.ok_or_else(|| self.core().no_answer())
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.cell.name()
    }

    /// How many items were put and not yet got, at one moment of the call. Those are among them that
    /// somebody has by [`get_item`](Self::get_item).
    ///
    /// # Errors
    ///
    /// [`is_cluster`](Error::is_cluster) if the server cannot be reached or refuses us, as of all
    /// calls.
    #[doc(alias = "qsize")]
    pub fn len(&self) -> Result<usize, Error> {
        Ok(self.run(self.info())?.state.messages as usize)
    }

    /// Whether [`len`](Self::len) is zero.
    ///
    /// # Errors
    ///
    /// As of [`len`](Self::len).
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }

    /// Whether a bounded queue holds as many items as it can.
    ///
    /// # Errors
    ///
    /// As of [`len`](Self::len).
    #[doc(alias = "full")]
    pub fn is_full(&self) -> Result<bool, Error> {
        match self.capacity {
            Some(capacity) => Ok(self.len()? >= capacity),
            None => Ok(false),
        }
    }

    /// How many items it can hold; `None` if it has no bound.
    pub fn capacity(&self) -> Option<usize> {
        self.capacity
    }

    /// Ends putting: every later `put` is refused, getters drain what is there and are then told that
    /// the queue is closed. It stays closed until it is removed. Closing again does nothing.
    ///
    /// # Errors
    ///
    /// As of [`len`](Self::len).
    pub fn close(&self) -> Result<(), Error> {
        let close = async {
            let info = self.info().await?;
            if self.is_closed_by(&info) {
                return Ok(());
            }
            // From now on nothing that is put has anywhere to go.
            let link = &self.core().link;
            let config = Config {
                subjects: vec![self.closed_subject()],
                ..info.config
            };
            match link.until_denied(link.context.update_stream(config)).await {
                Ok(Ok(_)) => {
                    fault!("named.closed");
                    self.tell().await;
                    Ok(())
                }
                Ok(Err(error)) => Err(link.failed("close a queue", &error)),
                Err(said) => Err(link.denied("close a queue", &said)),
            }
        };
        self.run(close)
    }

    /// Whether the queue was closed. Items may be left in it.
    ///
    /// # Errors
    ///
    /// As of [`len`](Self::len).
    pub fn is_closed(&self) -> Result<bool, Error> {
        let info = self.run(self.info())?;
        Ok(self.is_closed_by(&info))
    }

    fn is_closed_by(&self, info: &Info) -> bool {
        info.config.subjects == [self.closed_subject()]
    }

    /// Has the server forget the queue and all that is in it.
    ///
    /// # Errors
    ///
    /// As of [`len`](Self::len).
    pub fn remove(self) -> Result<(), Error> {
        let remove = async {
            let link = &self.core().link;
            let deleted = link.context.delete_stream(self.stream_name());
            match link.until_denied(deleted).await {
                Ok(Ok(_)) => self.cell.remove().await,
                Ok(Err(error)) => Err(link.failed("remove a queue", &error)),
                Err(said) => Err(link.denied("remove a queue", &said)),
            }
        };
        self.run(remove)
    }
}

impl<T: Transfer> Queue<T> {
    /// Puts a value, waiting as long as it takes while a bounded queue is full.
    ///
    /// # Errors
    ///
    /// [`PutError`] gives the value back: the queue is closed, the value cannot be encoded, the server
    /// cannot be reached or refuses it.
    ///
    /// # When a process dies
    ///
    /// If the caller dies in here, the value is in the queue, whole, or it is not.
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        let put = self.send(&value, Until::Forever);
        put.map_err(|reason| Put::new(value, reason).into())
    }

    /// Puts a value if there is room for it now.
    ///
    /// # Errors
    ///
    /// [`TryPutError`] gives the value back: the queue is full, or as for [`put`](Self::put).
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, value: T) -> Result<(), TryPutError<T>> {
        let put = self.send(&value, Until::Now);
        put.map_err(|reason| Put::new(value, reason).into())
    }

    /// Puts a value, waiting at most `timeout` for room.
    ///
    /// # Errors
    ///
    /// [`PutTimeoutError`] gives the value back: there was no room in time, or as for
    /// [`put`](Self::put). When the time is over while the server does not answer, the value may be in
    /// the queue all the same.
    pub fn put_timeout(&self, value: T, timeout: Duration) -> Result<(), PutTimeoutError<T>> {
        let put = self.send(&value, until(timeout));
        put.map_err(|reason| Put::new(value, reason).into())
    }

    /// As [`put`](Self::put), but encodes a value that stays the caller's.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put), without the value.
    pub fn put_ref(&self, value: &T) -> Result<(), PutError<()>> {
        let put = self.send(value, Until::Forever);
        put.map_err(|reason| Put::new((), reason).into())
    }

    /// Puts values in a row, waiting while a bounded queue is full. Returns how many.
    ///
    /// # Errors
    ///
    /// [`PutError`] gives back the value at fault and those behind it that were taken from the
    /// iterator; all before it are in the queue.
    pub fn put_many(&self, values: impl IntoIterator<Item = T>) -> Result<usize, PutError<Vec<T>>> {
        let mut count = 0;
        for value in values {
            if let Err(reason) = self.send(&value, Until::Forever) {
                return Err(Put::new(vec![value], reason).into());
            }
            count += 1;
        }
        Ok(count)
    }

    /// Gets the next value, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`GetError::Closed`] once the queue is closed and empty, [`GetError::NotDecoded`] if the value
    /// is of another type: it is consumed. [`GetError::Failed`] if the server cannot be reached or
    /// refuses us.
    ///
    /// # When a process dies
    ///
    /// See [`Queue`].
    pub fn get(&self) -> Result<T, GetError> {
        Ok(self.receive(Until::Forever)?)
    }

    /// Gets the next value if there is one now.
    ///
    /// # Errors
    ///
    /// [`TryGetError::Empty`], or as for [`get`](Self::get).
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, TryGetError> {
        Ok(self.receive(Until::Now)?)
    }

    /// Gets the next value, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`GetTimeoutError::Timeout`], or as for [`get`](Self::get). A value that arrives at the last
    /// moment may come a little later.
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetTimeoutError> {
        Ok(self.receive(until(timeout))?)
    }

    /// Gets the next value, to be [committed](Item::commit) when it is done with, waiting as long as it
    /// takes.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    ///
    /// # When a process dies
    ///
    /// A value that it has not committed comes back, for another, after five seconds.
    pub fn get_item(&self) -> Result<Item<T>, GetError> {
        Ok(self.receive_item(Until::Forever)?)
    }

    /// As [`get_item`](Self::get_item), waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`get_timeout`](Self::get_timeout).
    pub fn get_item_timeout(&self, timeout: Duration) -> Result<Item<T>, GetTimeoutError> {
        Ok(self.receive_item(until(timeout))?)
    }

    /// Gets between one and `most` values, waiting for the first as long as it takes.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get), if that goes for the first. What is wrong later ends it.
    ///
    /// # Panics
    ///
    /// If `most` is zero.
    #[track_caller]
    pub fn get_many(&self, most: usize) -> Result<Vec<T>, GetError> {
        assert!(most > 0, "get_many must be asked for at least one value");
        let mut values = vec![self.get()?];
        while values.len() < most
            && let Ok(value) = self.try_get()
        {
            values.push(value);
        }
        Ok(values)
    }

    /// Values until the queue is closed and empty. Anything else that is wrong ends it with a panic; use
    /// [`get`](Self::get) where that can happen.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { queue: self }
    }
}

/// Without a time there is no waiting.
fn until(timeout: Duration) -> Until {
    match timeout {
        Duration::ZERO => Until::Now,
        timeout => Until::after(timeout),
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

/// Shows its name and its bound.
impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.cell)
            .field("capacity", &self.capacity)
            .finish()
    }
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Address::of(&self.cell), self.capacity).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (address, capacity) = <(Address, Option<usize>)>::deserialize(deserializer)?;
        let cell = address.cell(KIND).map_err(serde::de::Error::custom)?;
        let mut queue = Self::over(cell);
        queue.capacity = capacity;
        Ok(queue)
    }
}
