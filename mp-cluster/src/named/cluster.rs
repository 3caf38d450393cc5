//! The connection for what is shared by name: one thread that owns it, used by all threads of the
//! process.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak, mpsc as std_mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::kv::{Config, Store};
use async_nats::jetstream::stream::StorageType;
use mp::__private::forked;
use mp::Error;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::member::Members;
use super::{Barrier, BoundedSemaphore, Event, Lock, Queue, RLock, Semaphore, Value};
use crate::build::Build;
use crate::connection::Connection;
use crate::errand::Pause;
use crate::error;
use crate::link::{Change, Link};
use crate::names::Names;

/// How long the end of a connection waits for what is under way.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// When the note of a process that is long gone goes.
const MEMBERS_AGE: Duration = Duration::from_secs(24 * 3600);

/// A connection to the server, for what is shared by name.
///
/// A clone is the same connection, which ends with the last of them and of what was made by it.
///
/// # Examples
///
/// ```no_run
/// use mp_cluster::named::Cluster;
///
/// # fn main() -> mp::Result<()> {
/// let cluster = Cluster::connect("tls://nats.example.org")?;
/// let ledger = cluster.lock("ledger")?;
/// let orders = cluster.queue::<String>("orders")?;
/// let guard = ledger.acquire()?;
/// orders.put("one more".to_owned())?;
/// guard.release()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    /// The process that has the thread.
    process: u32,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and the tasks on it have of a connection.
pub(super) struct Core {
    pub(super) link: Link,
    /// The states of all that is shared, by kind and name.
    pub(super) objects: Store,
    pub(super) members: Members,
    pub(super) place: String,
    pub(super) namespace: String,
    pub(super) timeout: Duration,
    patience: Duration,
    pub(super) lease: Duration,
    runtime: Handle,
    /// How often the connection came or went.
    changes: Arc<AtomicU64>,
    /// Tasks that should be through before the thread ends.
    busy: AtomicUsize,
}

/// The connections of this process, for names that arrive in messages.
static OPEN: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

fn open() -> MutexGuard<'static, Vec<Weak<Inner>>> {
    OPEN.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl Cluster {
    /// Connects to the server at an address.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, is too old or has no JetStream, or if it refuses us.
    pub fn connect(connection: impl Into<Connection>) -> Result<Self, Error> {
        let connection = connection.into();
        let (started, start) = std_mpsc::channel();
        let (end, ended) = oneshot::channel();
        let run = move || match crate::runtime() {
            Ok(runtime) => runtime.block_on(async {
                match Core::open(&connection).await {
                    Ok(core) => {
                        let core = Arc::new(core);
                        let _ = started.send(Ok(core.clone()));
                        drop(started);
                        let _ = ended.await;
                        core.close().await;
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            }),
            Err(error) => drop(started.send(Err(error))),
        };
        let thread = std::thread::Builder::new()
            .name("mp-named".to_owned())
            .spawn(run)
            .map_err(|error| error::cluster(format!("could not start a thread: {error}")))?;
        let core = match start.recv() {
            Ok(core) => core?,
            Err(_) => return Err(error::cluster("the thread for the connection has ended")),
        };
        let inner = Arc::new(Inner {
            core,
            process: std::process::id(),
            end: Some(end),
            thread: Some(thread),
        });
        let mut open = open();
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&inner));
        Ok(Self(inner))
    }

    /// The connection that the environment describes, see [`Connection::from_env`]: the one that this
    /// process has already, if it has.
    ///
    /// # Errors
    ///
    /// If `MP_CLUSTER` is not set, or as [`connect`](Self::connect).
    pub fn from_env() -> Result<Self, Error> {
        let Some(connection) = Connection::from_env()? else {
            return Err(error::cluster(
                "what is shared by name needs a server: set MP_CLUSTER to its address, or use \
                 `named::Cluster::connect`",
            ));
        };
        match Self::find(&connection.place(), &connection.namespace) {
            Some(cluster) => Ok(cluster),
            None => Self::connect(connection),
        }
    }

    /// The connection for a name that came in a message from a process that is connected to `place`.
    pub(super) fn of(place: &str, namespace: &str) -> Result<Self, Error> {
        if let Some(cluster) = Self::find(place, namespace) {
            return Ok(cluster);
        }
        // From another machine the server may have another address. Nobody is sent to an address by
        // a message alone.
        if let Some(connection) = Connection::from_env()?
            && connection.namespace == namespace
        {
            return Self::from_env();
        }
        let here: Vec<_> = Self::all()
            .filter(|cluster| cluster.core().namespace == namespace)
            .collect();
        match <[Self; 1]>::try_from(here) {
            Ok([cluster]) => Ok(cluster),
            Err(_) => Err(error::cluster(format!(
                "a name of the namespace {namespace:?} at {place} has arrived, and this process has \
                 no connection there: set MP_CLUSTER, or connect before by `named::Cluster::connect`"
            ))),
        }
    }

    fn find(place: &str, namespace: &str) -> Option<Self> {
        Self::all().find(|cluster| {
            let core = cluster.core();
            core.place == place && core.namespace == namespace
        })
    }

    fn all() -> impl Iterator<Item = Self> {
        let own = std::process::id();
        let open: Vec<_> = open().iter().filter_map(Weak::upgrade).collect();
        open.into_iter()
            .filter(move |inner| inner.process == own)
            .map(Self)
    }

    /// The lock of that name.
    ///
    /// # Errors
    ///
    /// If the name is none: it is of letters, digits, `-` and `_`.
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        Lock::over(self.clone(), name)
    }

    /// The recursive lock of that name, which is no [`lock`](Self::lock) of that name.
    ///
    /// # Errors
    ///
    /// As of [`lock`](Self::lock).
    pub fn rlock(&self, name: &str) -> Result<RLock, Error> {
        RLock::over(self.clone(), name)
    }

    /// The queue of that name, without bound; it is made if there is none.
    ///
    /// # Errors
    ///
    /// If there is one that is bounded, if the name is none, or if the server cannot be reached or
    /// refuses us.
    pub fn queue<T>(&self, name: &str) -> Result<Queue<T>, Error> {
        Queue::open(self.clone(), name, None)
    }

    /// The queue of that name that holds so many items; it is made if there is none.
    ///
    /// # Errors
    ///
    /// As of [`queue`](Self::queue), if there is one that has another bound.
    ///
    /// # Panics
    ///
    /// If `capacity` is zero.
    #[track_caller]
    pub fn bounded_queue<T>(&self, name: &str, capacity: usize) -> Result<Queue<T>, Error> {
        assert!(capacity > 0, "a queue holds at least one item");
        Queue::open(self.clone(), name, Some(capacity))
    }

    /// The semaphore of that name; it is made with so many permits if there is none.
    ///
    /// # Errors
    ///
    /// If there is one that was made with another number, if the name is none, or if the server
    /// cannot be reached or refuses us.
    pub fn semaphore(&self, name: &str, permits: u32) -> Result<Semaphore, Error> {
        Semaphore::open(self.clone(), name, permits)
    }

    /// The bounded semaphore of that name, which is no [`semaphore`](Self::semaphore) of that name; it is
    /// made with so many permits if there is none.
    ///
    /// # Errors
    ///
    /// As of [`semaphore`](Self::semaphore).
    pub fn bounded_semaphore(&self, name: &str, permits: u32) -> Result<BoundedSemaphore, Error> {
        BoundedSemaphore::open(self.clone(), name, permits)
    }

    /// The event of that name.
    ///
    /// # Errors
    ///
    /// If the name is none.
    pub fn event(&self, name: &str) -> Result<Event, Error> {
        Event::over(self.clone(), name)
    }

    /// The barrier of that name; it is made for so many parties if there is none.
    ///
    /// # Errors
    ///
    /// If there is one for another number, if the name is none, or if the server cannot be reached or
    /// refuses us.
    pub fn barrier(&self, name: &str, parties: u32) -> Result<Barrier, Error> {
        Barrier::open(self.clone(), name, parties)
    }

    /// The value of that name; it is `initial` if there is none.
    ///
    /// # Errors
    ///
    /// If `initial` cannot be encoded, if the name is none, or if the server cannot be reached or
    /// refuses us.
    pub fn value<T: mp::Transfer>(&self, name: &str, initial: T) -> Result<Value<T>, Error> {
        Value::open(self.clone(), name, &initial)
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// Runs what the thread's connection and clock are for, on this thread.
    pub(super) fn run<T>(
        &self,
        future: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if self.0.process != std::process::id() {
            // The thread is not there.
            return Err(forked());
        }
        let _context = self.core().runtime.enter();
        block_on(future)
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("place", &self.core().place)
            .field("namespace", &self.core().namespace)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A copy by `fork` has no thread to wait for.
            std::mem::forget(self.thread.take());
            return;
        }
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Core {
    async fn open(connection: &Connection) -> Result<Self, Error> {
        let (changed, mut changes) = mpsc::unbounded_channel();
        let names = Names::new(&connection.namespace, Build::NONE);
        let link = Link::open(connection, names, changed).await?;
        let objects = bucket(&link, link.names.objects(), Duration::ZERO).await?;
        let members = bucket(&link, link.names.members(), MEMBERS_AGE).await?;
        let changed = Arc::new(AtomicU64::new(0));
        let counted = changed.clone();
        tokio::spawn(async move {
            while let Some(Change::Connected | Change::Disconnected) = changes.recv().await {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self {
            members: Members::new(members),
            objects,
            place: connection.place(),
            namespace: connection.namespace.clone(),
            timeout: connection.timeout,
            patience: connection.patience,
            lease: connection.lease,
            runtime: Handle::current(),
            changes: changed,
            busy: AtomicUsize::new(0),
            link,
        })
    }

    /// Waits until what is under way is through, and takes leave.
    async fn close(&self) {
        let farewell = async {
            while self.busy.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.leave().await;
            let _ = self.link.client.flush().await;
        };
        // What it does not say is found out after the lease.
        let _ = tokio::time::timeout(LAST_WORDS, farewell).await;
    }

    /// Begins what goes on without the caller.
    pub(super) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let busy = Busy(self.clone());
        self.runtime.spawn(async move {
            task.await;
            drop(busy);
        });
    }

    /// As `spawn`, but the end does not wait for it.
    pub(super) fn spawn_aside(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        self.runtime.spawn(task).abort_handle()
    }

    /// How often the connection came or went so far.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link.client.connection_state() == State::Connected
    }

    /// Why something that should take no time has not come about.
    pub(super) fn no_answer(&self) -> Error {
        let place = &self.place;
        error::cluster(match self.is_connected() {
            true => format!(
                "the server at {place} did not answer within {:?}",
                self.timeout
            ),
            false => format!("there is no connection to the server at {place}"),
        })
    }

    pub(super) fn patience(&self, what: &'static str) -> Patience<'_> {
        Patience {
            core: self,
            what,
            began: Instant::now(),
            pause: Pause::default(),
        }
    }
}

struct Busy(Arc<Core>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Release);
    }
}

/// How long a server that does not answer is borne with.
pub(super) struct Patience<'a> {
    core: &'a Core,
    what: &'static str,
    began: Instant,
    pause: Pause,
}

impl Patience<'_> {
    /// Pauses before another attempt, or says that there have been enough.
    pub(super) async fn bear(&mut self, why: String) -> Result<(), Error> {
        let (place, what) = (&self.core.place, self.what);
        if let Some(said) = self.core.link.objection() {
            return Err(self.core.link.denied(what, &said));
        }
        let patience = self.core.patience;
        if self.began.elapsed() >= patience {
            let text = format!("could not {what} at {place} for {patience:?}: {why}");
            return Err(error::cluster(text));
        }
        self.pause.take().await;
        Ok(())
    }
}

/// Makes what is needed on the server for what is shared by name, but for queues.
pub(crate) async fn prepare(link: &Link) -> Result<(), Error> {
    bucket(link, link.names.objects(), Duration::ZERO).await?;
    bucket(link, link.names.members(), MEMBERS_AGE).await?;
    Ok(())
}

/// Finds a key-value store, or makes it.
async fn bucket(link: &Link, bucket: String, max_age: Duration) -> Result<Store, Error> {
    let what = "use what is shared by name";
    let open = async {
        if let Ok(store) = link.context.get_key_value(&bucket).await {
            return Ok(store);
        }
        let made = link.context.create_key_value(Config {
            bucket: bucket.clone(),
            description: "what processes of mp share by name".to_owned(),
            history: 1,
            max_age,
            storage: StorageType::File,
            num_replicas: link.replicas,
            ..Config::default()
        });
        match made.await {
            Ok(store) => Ok(store),
            // Another may have made it meanwhile.
            Err(error) => link.context.get_key_value(&bucket).await.map_err(|_| error),
        }
    };
    match link.until_denied(open).await {
        Ok(Ok(store)) => Ok(store),
        Ok(Err(error)) => Err(link.failed(what, &error)),
        Err(said) => Err(link.denied(
            "make the store of what is shared by name, which an administrator has to make first",
            &said,
        )),
    }
}

/// Waits for a future on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
