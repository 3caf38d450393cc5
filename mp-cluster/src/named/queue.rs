//! A queue between processes on any machines: a work-queue stream of the server.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::client::{Request, RequestErrorKind};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{HeaderMap, Subject, Subscriber};
use futures_util::StreamExt;
use mp::__private::{
    Put, Reason, decode_abroad, encode_abroad, join_failed, join_timed_out, too_often_done,
};
use mp::{
    Error, GetError, GetTimeoutError, JoinTimeoutError, PutError, PutTimeoutError, Transfer,
    TryGetError, TryPutError,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::OnceCell;

use super::address::Address;
use super::cell::{Cell, Seen, State, Step, Until};
use super::cluster::{Cluster, Core};
use crate::error::{self, chain};
use crate::fault::fault;
use crate::link::LEASE;

const KIND: &str = "queue";
/// The consumer that all getters share.
const GETTERS: &str = "getters";
/// What the server says of a stream that holds as much as it may.
const FULL: u64 = 10077;
/// How long the server keeps one question for an item; then it is looked whether there will be any.
const ASKED: Duration = Duration::from_secs(5);
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

#[derive(Debug, Default, Serialize, Deserialize)]
struct Done {
    done: u64,
}

impl State for Done {
    fn members(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// What the server has given.
struct Given {
    value: Vec<u8>,
    /// Where it is told what became of it.
    reply: Subject,
    at: Instant,
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

    fn stream_name(&self) -> String {
        self.core().link.names.queue_stream(self.name())
    }

    fn subject(&self) -> String {
        self.core().link.names.queue(self.name())
    }

    fn closed_subject(&self) -> String {
        self.core().link.names.closed_queue(self.name())
    }

    /// Where those who wait are told that something has changed of which the server does not tell.
    fn news(&self) -> String {
        self.core().link.names.queue_news(self.name())
    }

    /// Finds the stream, or makes it.
    async fn make(&self, capacity: Option<usize>) -> Result<Info, Error> {
        let link = &self.core().link;
        let what = "make a queue, which an administrator has to make first";
        if let Some(info) = self.find().await? {
            return Ok(info);
        }
        let config = Config {
            name: self.stream_name(),
            subjects: vec![self.subject()],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_messages: capacity.map_or(-1, |capacity| capacity as i64),
            storage: StorageType::File,
            num_replicas: link.replicas,
            description: Some("a queue of mp".to_owned()),
            ..Config::default()
        };
        let made = link.until_denied(link.context.create_stream(config));
        match made.await {
            Ok(Ok(stream)) => Ok(stream.cached_info().clone()),
            // Another has made it meanwhile, with another bound.
            Ok(Err(error))
                if matches!(error.kind(), CreateStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NAME_EXIST) =>
            {
                self.info().await
            }
            Ok(Err(error)) => Err(link.failed("make a queue", &error)),
            Err(said) => Err(link.denied(what, &said)),
        }
    }

    async fn find(&self) -> Result<Option<Info>, Error> {
        let link = &self.core().link;
        let found = link.context.get_stream(self.stream_name());
        match link.until_denied(found).await {
            Ok(Ok(stream)) => Ok(Some(stream.cached_info().clone())),
            Ok(Err(error))
                if matches!(error.kind(), GetStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND) =>
            {
                Ok(None)
            }
            Ok(Err(error)) => Err(link.failed("find a queue", &error)),
            Err(said) => Err(link.denied("find a queue", &said)),
        }
    }

    /// What the server has of it.
    async fn info(&self) -> Result<Info, Error> {
        let mut patience = self.core().patience("find a queue");
        loop {
            match self.find().await {
                Ok(Some(info)) => return Ok(info),
                Ok(None) => return Err(self.gone()),
                // As without a server, or while it starts.
                Err(error) => patience.bear(error.to_string()).await?,
            }
        }
    }

    fn gone(&self) -> Error {
        let place = &self.core().place;
        error::cluster(format!("there is no queue {:?} at {place}", self.name()))
    }

    async fn stream(&self) -> Result<Stream<()>, Error> {
        let link = &self.core().link;
        let stream = link.context.get_stream_no_info(self.stream_name()).await;
        stream.map_err(|error| link.failed("find a queue", &error))
    }

    async fn consumer(&self) -> Result<&PullConsumer, Error> {
        let make = || async {
            let link = &self.core().link;
            let stream = self.stream().await?;
            let config = pull::Config {
                durable_name: Some(GETTERS.to_owned()),
                ack_policy: AckPolicy::Explicit,
                ack_wait: LEASE,
                max_deliver: -1,
                max_ack_pending: -1,
                max_waiting: 16 * 1024,
                ..pull::Config::default()
            };
            match link.until_denied(stream.create_consumer(config)).await {
                Ok(Ok(consumer)) => Ok(consumer),
                Ok(Err(error)) => Err(link.failed("get from a queue", &error)),
                Err(said) => Err(link.denied("get from a queue", &said)),
            }
        };
        self.consumer.get_or_try_init(make).await
    }

    async fn listen(&self) -> Option<Subscriber> {
        self.core().link.client.subscribe(self.news()).await.ok()
    }

    async fn tell(&self) {
        // Who does not hear of it looks for itself.
        let client = &self.core().link.client;
        let _ = client.publish(self.news(), "".into()).await;
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

    /// Tells that the work on one item that was got is finished, for [`join`](Self::join).
    ///
    /// # Errors
    ///
    /// If it was called as often as items were put already, and as of [`len`](Self::len).
    pub fn task_done(&self) -> Result<(), Error> {
        let count = async {
            let put = self.info().await?.state.last_sequence;
            let counted = self.cell.change(Until::Now, |seen: &mut Seen<Done>, _| {
                if seen.state.done >= put {
                    return Step::Leave(false);
                }
                seen.state.done += 1;
                Step::Write(true)
            });
            counted.await
        };
        match self.run(count)? {
            Some((true, _)) => Ok(()),
            _ => Err(Error::from(too_often_done())),
        }
    }

    /// Waits until [`task_done`](Self::task_done) was called for every item that was put.
    ///
    /// # Errors
    ///
    /// As of [`len`](Self::len).
    ///
    /// # When a process dies
    ///
    /// What it had got and not finished is never reported as done: use
    /// [`join_timeout`](Self::join_timeout) where processes may die.
    #[doc(alias = "JoinableQueue")]
    pub fn join(&self) -> Result<(), Error> {
        self.await_done(Until::Forever).map(drop)
    }

    /// As [`join`](Self::join), but waits at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`JoinTimeoutError`] tells how many items were not done in time.
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), JoinTimeoutError> {
        match self.await_done(Until::after(timeout)) {
            Ok(0) => Ok(()),
            Ok(left) => Err(join_timed_out(left)),
            Err(error) => Err(join_failed(error)),
        }
    }

    /// Waits until all is done, and returns how many items are not.
    fn await_done(&self, until: Until) -> Result<u64, Error> {
        let wait = async {
            loop {
                let put = self.info().await?.state.last_sequence;
                let step = until.left(2 * POLL);
                let done = self
                    .cell
                    .change(Until::after(step), |seen: &mut Seen<Done>, _| {
                        let left = put.saturating_sub(seen.state.done);
                        match left {
                            0 => Step::Leave(0),
                            _ if step.is_zero() => Step::Leave(left),
                            _ => Step::Wait,
                        }
                    });
                match done.await? {
                    Some((left, _)) if left > 0 => return Ok(left),
                    Some(_) if self.info().await?.state.last_sequence == put => return Ok(0),
                    _ => {}
                }
            }
        };
        self.cell.cluster.run(wait)
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

    fn send(&self, value: &T, until: Until) -> Result<(), Reason> {
        let value = encode_abroad(value)?;
        let put = self.publish(value.into(), until);
        // What is under way is seen through: it would be in the queue, or not, and nobody knew.
        let put = self.cell.cluster.run(until.bound(self.core(), put));
        match put.map_err(Reason::Failed)? {
            Some(true) => Ok(()),
            Some(false) => Err(Reason::Closed),
            None => Err(Reason::TimedOut),
        }
    }

    /// Puts bytes; false if the queue is closed.
    async fn publish(&self, value: bytes::Bytes, until: Until) -> Result<Option<bool>, Error> {
        let link = &self.core().link;
        let what = "put into a queue";
        let mut patience = self.core().patience(what);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", crate::random_name());
        let mut news = None;
        fault!("named.putting");
        loop {
            let sent =
                link.context
                    .publish_with_headers(self.subject(), headers.clone(), value.clone());
            let sent = async {
                match sent.await {
                    Ok(taken) => taken.await,
                    Err(error) => Err(error),
                }
            };
            let error = match link.until_denied(sent).await {
                Ok(Ok(_)) => {
                    fault!("named.put");
                    return Ok(Some(true));
                }
                Ok(Err(error)) => error,
                Err(said) => return Err(link.denied(what, &said)),
            };
            match error.kind() {
                // Nobody takes it: the queue is closed or gone, or the server is about to start.
                PublishErrorKind::StreamNotFound => {
                    let info = self.info().await?;
                    if self.is_closed_by(&info) {
                        return Ok(Some(false));
                    }
                }
                PublishErrorKind::MaxPayloadExceeded => {
                    let text = format!(
                        "a value of {} bytes is too large for a queue: the server takes {} in a \
                         message (`max_payload`). Put what is large into files or a store that \
                         all can read, and its name into the queue",
                        value.len(),
                        link.client.max_payload()
                    );
                    return Err(crate::error::cluster(text));
                }
                _ if is_full(&error) => {
                    if until.is_over() {
                        return Ok(None);
                    }
                    match &mut news {
                        // There may be room since.
                        None => news = Some(self.listen().await),
                        Some(news) => hear(news, until.left(POLL)).await,
                    }
                    patience = self.core().patience(what);
                    continue;
                }
                _ => {}
            }
            patience.bear(chain(&error)).await?;
        }
    }

    fn receive(&self, until: Until) -> Result<T, Reason> {
        let given = self.take(until)?;
        self.keep(&given)?;
        decode_abroad(&given.value)
    }

    fn receive_item(&self, until: Until) -> Result<Item<T>, Reason> {
        let given = self.take(until)?;
        match decode_abroad(&given.value) {
            Ok(value) => Ok(Item::new(self.clone(), given, value)),
            Err(reason) => {
                self.keep(&given)?;
                Err(reason)
            }
        }
    }

    /// Tells the server that an item is ours. It is, whether the server says that it knows or not.
    fn keep(&self, given: &Given) -> Result<(), Reason> {
        let settle = async { Ok(self.settle(given).await) };
        let settled = self.cell.cluster.run(settle);
        settled.map(drop).map_err(Reason::Failed)
    }

    fn take(&self, until: Until) -> Result<Given, Reason> {
        let asked = self.cell.cluster.run(self.ask(until));
        match asked.map_err(Reason::Failed)? {
            Asked::Given(given) => {
                fault!("named.given");
                Ok(given)
            }
            Asked::Closed => Err(Reason::Closed),
            Asked::Nothing => Err(Reason::TimedOut),
        }
    }
}

/// What came of asking for an item.
enum Asked {
    Given(Given),
    Closed,
    Nothing,
}

impl<T> Queue<T> {
    /// Asks the server for an item.
    ///
    /// Each question has its time, and its answer is waited for: one that was given up might be
    /// answered by an item, which nobody would get until its lease is over.
    async fn ask(&self, until: Until) -> Result<Asked, Error> {
        let mut patience = self.core().patience("get from a queue");
        let mut news = None;
        loop {
            let time = until.left(ASKED);
            let why = match self.question(time, &mut news).await {
                Ok(Some(given)) => return Ok(Asked::Given(given)),
                Ok(None) => {
                    patience = self.core().patience("get from a queue");
                    let info = self.info().await?;
                    if self.is_closed_by(&info) && info.state.messages == 0 {
                        return Ok(Asked::Closed);
                    }
                    if until.is_over() {
                        return Ok(Asked::Nothing);
                    }
                    if news.is_none() {
                        news = self.listen().await;
                    }
                    continue;
                }
                Err(why) => why,
            };
            if until.is_over() {
                return match self.core().is_connected() {
                    true => Ok(Asked::Nothing),
                    false => Err(self.core().no_answer()),
                };
            }
            patience.bear(why).await?;
        }
    }

    /// One question; the error is why it has no answer.
    async fn question(
        &self,
        time: Duration,
        news: &mut Option<Subscriber>,
    ) -> Result<Option<Given>, String> {
        let consumer = match self.consumer().await {
            Ok(consumer) => consumer,
            Err(error) => return Err(error.to_string()),
        };
        // The server takes times from a millisecond on.
        let asked = if time < Duration::from_millis(2) {
            consumer.fetch().max_messages(1).messages().await
        } else {
            let batch = consumer.batch().max_messages(1).expires(time);
            batch.messages().await
        };
        let mut answers = asked.map_err(|error| chain(&error))?;
        loop {
            let answer = match news {
                None => answers.next().await,
                Some(news) => tokio::select! {
                    biased;
                    answer = answers.next() => answer,
                    told = news.next() => {
                        // If it was closed, and nothing is left, nothing comes.
                        if told.is_some()
                            && let Ok(info) = self.info().await
                            && self.is_closed_by(&info)
                            && info.state.messages == 0
                        {
                            return Ok(None);
                        }
                        continue;
                    }
                },
            };
            return match answer {
                None => Ok(None),
                Some(Ok(message)) => {
                    let reply = message.reply.clone().ok_or("an item without a reply")?;
                    Ok(Some(Given {
                        value: message.payload.to_vec(),
                        reply,
                        at: Instant::now(),
                    }))
                }
                Some(Err(error)) => Err(error.to_string()),
            };
        }
    }

    /// Tells the server that an item is ours, until it has said that it knows, or gives it to another
    /// anyway; whether it said so.
    async fn settle(&self, given: &Given) -> bool {
        let client = &self.core().link.client;
        let mut is_settled = false;
        while !is_settled && given.at.elapsed() < LEASE {
            let request = Request::new()
                .payload("+ACK".into())
                .timeout(Some(LEASE / 4));
            let answer = client.send_request(given.reply.clone(), request).await;
            is_settled = answer.is_ok();
            fault!("named.settled");
            if answer.is_err_and(|error| error.kind() != RequestErrorKind::TimedOut) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        if self.capacity.is_some() {
            self.tell().await;
        }
        is_settled
    }
}

/// Waits for news, but not long.
async fn hear(news: &mut Option<Subscriber>, most: Duration) {
    match news {
        Some(news) => {
            let _ = tokio::time::timeout(most, news.next()).await;
        }
        None => tokio::time::sleep(most).await,
    }
}

/// Whether a queue took nothing because it holds as much as it may.
fn is_full(error: &async_nats::jetstream::context::PublishError) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .is_some_and(|error| error.error_code() == ErrorCode(FULL))
}

fn bound_of(config: &Config) -> Option<usize> {
    usize::try_from(config.max_messages)
        .ok()
        .filter(|bound| *bound > 0)
}

/// Without a time there is no waiting.
fn until(timeout: Duration) -> Until {
    match timeout {
        Duration::ZERO => Until::Now,
        timeout => Until::after(timeout),
    }
}

/// A value of a [`Queue`] that this process has, and has not done with yet: see
/// [`Queue::get_item`]. Dropping it gives it back.
///
/// # When a process dies
///
/// The value comes back, for another, after five seconds; also if the process was stopped or cut off
/// for so long, and goes on to commit it.
#[must_use = "the value is given back at once if it is not kept"]
pub struct Item<T: Transfer> {
    queue: Queue<T>,
    given: Option<Given>,
    value: Option<T>,
    /// Tells the server that we are at it.
    progress: tokio::task::AbortHandle,
}

impl<T: Transfer> Item<T> {
    fn new(queue: Queue<T>, given: Given, value: T) -> Self {
        let client = queue.core().link.client.clone();
        let reply = given.reply.clone();
        let progress = queue.core().spawn_aside(async move {
            let mut ticks = tokio::time::interval(LEASE / 4);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let _ = client.publish(reply.clone(), "+WPI".into()).await;
            }
        });
        Self {
            queue,
            given: Some(given),
            value: Some(value),
            progress,
        }
    }

    /// Takes the value for good: the server forgets it.
    ///
    /// # Errors
    ///
    /// If the server does not answer: then the value may come back, for another.
    pub fn commit(mut self) -> Result<T, Error> {
        let Some(given) = self.given.take() else {
            return Err(self.queue.core().no_answer());
        };
        self.progress.abort();
        let given = Given {
            at: Instant::now(),
            ..given
        };
        let queue = self.queue.clone();
        let settled = queue
            .cell
            .cluster
            .run(async { Ok(queue.settle(&given).await) })?;
        match self.value.take() {
            Some(value) if settled => Ok(value),
            _ => Err(queue.core().no_answer()),
        }
    }
}

impl<T: Transfer> Deref for Item<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!("it is taken by commit, which takes the item"),
        }
    }
}

impl<T: Transfer> Drop for Item<T> {
    fn drop(&mut self) {
        self.progress.abort();
        if let Some(given) = self.given.take() {
            let back = async {
                let client = &self.queue.core().link.client;
                let _ = client.publish(given.reply, "-NAK".into()).await;
                // It comes back after its lease otherwise.
                let flushed = client.flush();
                let _ = tokio::time::timeout(self.queue.core().timeout, flushed).await;
                Ok(())
            };
            if self.queue.core().is_connected() {
                let _ = self.queue.cell.cluster.run(back);
            }
        }
    }
}

impl<T: Transfer + fmt::Debug> fmt::Debug for Item<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
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
