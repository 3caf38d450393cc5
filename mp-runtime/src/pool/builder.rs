//! What a pool is asked to be, before it is made.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::desk;
use super::drain;
use super::events::{Listener, PoolEvent};
use super::inner::{Inner, Settings};
use super::remote::{self, Remote};
use super::retries::Retries;
use super::wire;
use crate::error::{Error, ErrorKind};
use crate::loom::Ordering;
use crate::process::StartMethod;
use crate::shm::Owner;
use crate::shm::buffer::Buffer;
use crate::shm::table::MAX_PROCESSES;
use crate::sync::raw::Peers;
use crate::sys;
use crate::task::registry::{self, Entry};
use crate::task::{Arguments, Nothing, TaskFn, append_arguments, assert_task};
use crate::wire::transfer::{self, Sent};

/// Bytes of a result of an isolated worker at most, unless told otherwise.
const RESULT_LIMIT: u64 = 64 << 20;

/// Describes a [`Pool`]: set what should differ from the default, then [`build`](Self::build).
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn locale() -> String {
///     std::env::var("LC_ALL").unwrap_or_default()
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = mp::Pool::builder()
///     .workers(2)
///     .name("sorter")
///     .env("LC_ALL", "C")
///     .max_tasks_per_worker(1000)
///     .build()?;
/// assert_eq!(pool.apply(locale, ())?, "C");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "no pool is made before build()"]
pub struct PoolBuilder {
    settings: Settings,
    initializer: Option<Result<Initializer, Error>>,
}

/// The call that each worker makes first.
#[derive(Debug)]
struct Initializer {
    task: &'static Entry,
    /// One record.
    arguments: Vec<u8>,
    sent: Sent,
}

impl PoolBuilder {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings {
                result_limit: RESULT_LIMIT,
                ..Settings::default()
            },
            initializer: None,
        }
    }

    /// Sets how many workers there are. The default is [`cpu_count`](crate::cpu_count).
    #[doc(alias = "processes")]
    pub fn workers(&mut self, workers: usize) -> &mut Self {
        self.settings.workers = Some(workers);
        self
    }

    /// Names the workers: `name-1`, `name-2` and so on. The default is `Worker`.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Has each worker make a call before it runs anything else; it can keep what tasks are to find
    /// there with [`set_worker_state`](crate::set_worker_state).
    ///
    /// It fails if it returns an error, if it panics, if the worker ends in it, or if it takes longer than
    /// a `timeout` of its attribute, `#[mp::task(timeout = "30s")]`, lets it. Then another worker
    /// is started, each after a longer pause, a tenth of a second at most; after five in a row no more
    /// are. A pool that has no workers left then stops, and its calls say why.
    ///
    /// # Examples
    ///
    /// ```
    /// #[mp::task]
    /// fn load(path: String) -> Result<(), mp::AnyError> {
    ///     mp::set_worker_state(std::fs::read(path)?);
    ///     Ok(())
    /// }
    ///
    /// #[mp::task]
    /// fn size() -> usize {
    ///     mp::worker_state::<Vec<u8>>().len()
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut builder = mp::Pool::builder();
    /// builder.workers(1);
    /// let pool = builder.initializer(load, ("/proc/self/exe".to_owned(),)).build()?;
    /// assert!(pool.apply(size, ())? > 0);
    ///
    /// let pool = builder.initializer(load, ("/not/there".to_owned(),)).build()?;
    /// let error = pool.apply(size, ()).unwrap_err();
    /// assert!(error.to_string().contains("No such file"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn initializer<F, A, R>(&mut self, task: F, arguments: A) -> &mut Self
    where
        F: TaskFn<A, Output = R>,
        A: Arguments,
        R: Nothing,
    {
        assert_task!(F);
        let _ = task;
        self.initializer = Some(Initializer::new::<F, A>(&arguments));
        self
    }

    /// Has each worker end after so many items, to be replaced by a fresh one: for tasks that leak.
    /// The default is no limit.
    ///
    /// # Panics
    ///
    /// Panics if `tasks` is 0.
    #[doc(alias = "maxtasksperchild")]
    #[track_caller]
    pub fn max_tasks_per_worker(&mut self, tasks: u64) -> &mut Self {
        assert!(tasks > 0, "a worker that may run no task is of no use");
        self.settings.max_tasks = Some(tasks);
        self
    }

    /// Has each worker that has more than so many bytes of memory of its own after a job end, to be
    /// replaced by a fresh one: for tasks that leak. What is in shared memory does not count. The
    /// default is no limit.
    ///
    /// Unlike [`memory_limit`](Self::memory_limit) this fails no item.
    ///
    /// # Panics
    ///
    /// Panics if `bytes` is 0.
    #[doc(alias = "max_memory_per_child")]
    #[track_caller]
    pub fn max_memory_per_worker(&mut self, bytes: u64) -> &mut Self {
        assert!(bytes > 0, "a worker that may have no memory is of no use");
        self.settings.max_memory = Some(bytes);
        self
    }

    /// Has workers started only when there are jobs for them, up to the number of
    /// [`workers`](Self::workers), and each end that had no job for so long. By default all are
    /// started at once and stay.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// #[mp::task]
    /// fn double(x: u64) -> u64 {
    ///     2 * x
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // No process so far, nor a minute after the last call.
    /// let pool = mp::Pool::builder().idle_timeout(Duration::from_secs(60)).build()?;
    /// assert_eq!(pool.apply(double, (4,))?, 8);
    /// # Ok(())
    /// # }
    /// ```
    pub fn idle_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.settings.idle_timeout = Some(timeout);
        self
    }

    /// Sets the CPUs on which workers may run, by number. The default is those of the thread that
    /// makes the pool.
    pub fn cpu_affinity(&mut self, cpus: impl IntoIterator<Item = usize>) -> &mut Self {
        self.settings.asked.cpu_affinity = Some(cpus.into_iter().collect());
        self
    }

    /// Sets the workers' nice value, from -20 to 19. The default is that of the thread that makes
    /// the pool.
    pub fn nice(&mut self, nice: i32) -> &mut Self {
        self.settings.asked.nice = Some(nice);
        self
    }

    /// Hands items to workers in jobs of this many. By default the pool measures how long they take
    /// and makes jobs of about a millisecond, of up to four where many items are left and results are
    /// taken when all are there; long items go one by one.
    ///
    /// With 1, items are handed out as they are pulled, and none waits for another while a worker has
    /// nothing to do. Small ones of a call that returns all results together still share jobs, which
    /// saves most of what it costs to hand them over: what a worker has not begun is taken away from it
    /// when another runs out of work.
    ///
    /// # Panics
    ///
    /// Panics if `items` is 0.
    #[doc(alias = "chunksize")]
    #[track_caller]
    pub fn chunk_size(&mut self, items: u64) -> &mut Self {
        assert!(items > 0, "a job must have items");
        self.settings.chunk_size = Some(items);
        self
    }

    /// Limits how many items of a call may have been pulled from its input without their results
    /// having been taken. By default [`imap`](Pool::imap) and
    /// [`imap_unordered`](Pool::imap_unordered) pull as many as keep the workers busy, and the other
    /// methods have no limit but on what is in shared memory at once.
    ///
    /// # Panics
    ///
    /// Panics if `items` is 0.
    #[doc(alias = "buffersize")]
    #[track_caller]
    pub fn window(&mut self, items: u64) -> &mut Self {
        assert!(items > 0, "a window must let an item through");
        self.settings.window = Some(items);
        self
    }

    /// Limits the time that each item may take in a worker. When it is over, the worker is killed and
    /// replaced, and the item fails with [`is_timeout`](crate::TaskError::is_timeout); the other
    /// items of the call are not affected. The time counts from when the task begins to run, not
    /// while it waits for a worker. The default is no limit.
    ///
    /// A task's own `#[mp::task(timeout = "30s")]` goes before it, and
    /// [`Pool::with_timeout`] before both. The task itself can ask for
    /// [`deadline`](crate::deadline()).
    ///
    /// # Panics
    ///
    /// Panics if `timeout` is zero.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn work(n: u64) -> u64 {
    ///     while n == 2 {
    ///         std::hint::spin_loop(); // It hangs.
    ///     }
    ///     n
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::builder().workers(2).task_timeout(Duration::from_millis(500)).build()?;
    /// let outcomes = pool.try_map(work, 1..=3)?;
    /// assert!(outcomes[1].as_ref().unwrap_err().is_timeout());
    /// assert_eq!(outcomes[2].as_ref().unwrap(), &3);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn task_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.settings.terms.set_timeout(timeout);
        self
    }

    /// Has items that fail run again. The default is not to: an item is begun at most once. A number
    /// stands for [`Retries::new`].
    ///
    /// A task's own `#[mp::task(retries = 2)]` goes before it, also if the number is 0, and
    /// [`Pool::with_retries`] before both.
    pub fn retries(&mut self, retries: impl Into<Retries>) -> &mut Self {
        self.settings.terms.set_retries(retries.into());
        self
    }

    /// Gives tasks so much time to stop by themselves, when their deadline has passed or they were
    /// cancelled, before their worker is killed: see [`is_cancelled`](crate::is_cancelled). The
    /// default is none.
    pub fn grace(&mut self, time: Duration) -> &mut Self {
        self.settings.grace = time;
        self
    }

    /// Sets a variable in the workers' environment, which is otherwise that of this process when a
    /// worker is started.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let value = Some(value.as_ref().to_owned());
        self.settings.env.push((name.as_ref().to_owned(), value));
        self
    }

    /// Removes a variable from the workers' environment.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.settings.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Limits the memory that is a worker's own, in bytes; see
    /// [`Process::memory_limit`](crate::Process::memory_limit). An item for which it does not suffice
    /// fails with [`is_out_of_memory`](crate::TaskError::is_out_of_memory), and the worker is
    /// replaced.
    pub fn memory_limit(&mut self, bytes: u64) -> &mut Self {
        self.settings.limits.memory = Some(bytes);
        self
    }

    /// Limits the processor time of each worker, over all items that it runs; see
    /// [`Process::cpu_time_limit`](crate::Process::cpu_time_limit).
    pub fn cpu_time_limit(&mut self, time: Duration) -> &mut Self {
        self.settings.limits.cpu_time = Some(time);
        self
    }

    /// Limits how many descriptors each worker may have open; see
    /// [`Process::open_files_limit`](crate::Process::open_files_limit).
    pub fn open_files_limit(&mut self, files: u64) -> &mut Self {
        self.settings.limits.open_files = Some(files);
        self
    }

    /// Limits the size of each file that a worker writes, in bytes; see
    /// [`Process::file_size_limit`](crate::Process::file_size_limit).
    pub fn file_size_limit(&mut self, bytes: u64) -> &mut Self {
        self.settings.limits.file_size = Some(bytes);
        self
    }

    /// Has the pool [drained](Pool::drain) when this process is asked to end, by SIGTERM or Ctrl-C:
    /// workers finish the jobs they are at, for at most `grace`, calls return, and what the program
    /// does with that, its end above all, is left to it. A second signal ends it at once. Workers
    /// leave both signals to this process, also where they reach the whole group.
    ///
    /// By default a signal ends the process, and its workers with it.
    ///
    /// [`build`](Self::build) fails if the program handles one of the signals itself; it can call
    /// [`Pool::drain`] then. One that the program ignores stays ignored.
    pub fn drain_on_signals(&mut self, grace: Duration) -> &mut Self {
        self.settings.drain = Some(grace);
        self
    }

    /// Has `listener` called when something happens: a worker was started or ended, an item failed,
    /// the pool was resized or gave up. It is called on a thread for callbacks, one event after the
    /// other, in the order in which they happened; it holds up no call.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc::channel;
    ///
    /// use mp::PoolEvent;
    ///
    /// #[mp::task]
    /// fn crash() {
    ///     std::process::abort();
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, events) = channel();
    /// let pool = mp::Pool::builder()
    ///     .workers(1)
    ///     .on_event(move |event| {
    ///         let _ = sender.send(event.clone());
    ///     })
    ///     .build()?;
    /// assert!(pool.apply(crash, ()).is_err());
    /// assert!(events.iter().any(|event| match event {
    ///     PoolEvent::WorkerEnded { reason, is_planned, .. } => {
    ///         reason.contains("SIGABRT") && !is_planned
    ///     }
    ///     _ => false,
    /// }));
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_event(&mut self, listener: impl Fn(&PoolEvent) + Send + Sync + 'static) -> &mut Self {
        self.settings.listener = Some(Listener(Arc::new(listener)));
        self
    }

    /// Has the workers share no memory with the program: for native code that may write anywhere, and
    /// for input that nobody vouches for.
    ///
    /// What shared memory there is for queues, locks and pools is not mapped in such a worker. Its
    /// items and results go through a socket, and the parent believes nothing of what comes: it is
    /// copied, then checked. So a worker that scribbles over all memory it can write, or says
    /// whatever it likes, makes only its own item fail. What an item breaks in its own process stays
    /// there for the items after it; with
    /// [`max_tasks_per_worker(1)`](Self::max_tasks_per_worker) each has a fresh one. A worker still is
    /// a process of the same user, which may open files and connections.
    ///
    /// Handles of shared objects, as queues and locks, cannot be sent to such a worker, and it can
    /// make none and start no processes of `mp`. A call of it takes some tens of microseconds, and
    /// the data is copied twice more.
    ///
    /// # Examples
    ///
    /// ```
    /// #[mp::task]
    /// fn parse(text: String) -> usize {
    ///     text.split(',').count()
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = mp::Pool::builder().workers(2).isolated(true).build()?;
    /// assert_eq!(pool.map(parse, ["a,b".to_owned(), "c".to_owned()])?, [2, 1]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn isolated(&mut self, is_isolated: bool) -> &mut Self {
        self.settings.is_isolated = is_isolated;
        self
    }

    /// Has [isolated](Self::isolated) workers that reach nothing of the system but what the
    /// [`Sandbox`](crate::Sandbox) names: for input that nobody vouches for. They enter it before the
    /// initializer runs. Only with the feature `sandbox`.
    ///
    /// On a kernel that cannot do it [`build`](Self::build) is an error
    /// ([`is_unsupported`](crate::Error::is_unsupported)), rather than that the pool worked without.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = mp::Pool::builder()
    ///     .workers(2)
    ///     .sandbox(&mp::Sandbox::new())
    ///     .memory_limit(256 << 20)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "sandbox")]
    pub fn sandbox(&mut self, sandbox: &crate::Sandbox) -> &mut Self {
        self.settings.sandbox = Some(sandbox.clone());
        self
    }

    /// Limits the bytes of an encoded result of an [isolated](Self::isolated) worker, so that it
    /// cannot use up the program's memory. The default is 64 MiB. A larger one is an error that says
    /// so ([`is_not_encoded`](crate::TaskError::is_not_encoded)).
    pub fn result_limit(&mut self, bytes: u64) -> &mut Self {
        self.settings.result_limit = bytes;
        self
    }

    /// Starts the workers by this method. The default is what
    /// [`set_start_method`](crate::set_start_method) has set when a worker is started. [Isolated](Self::isolated) workers are always
    /// executed.
    pub fn start_method(&mut self, method: StartMethod) -> &mut Self {
        self.settings.start_method = Some(method);
        self
    }

    /// Makes the pool and starts its workers. It returns when they have been started, not when they
    /// are ready.
    ///
    /// # Errors
    ///
    /// If there are to be no workers, if one cannot be started (those that were are ended), if the
    /// initializer is not a task or its arguments could not be encoded, or if there is no memory.
    pub fn build(&self) -> Result<Pool, Error> {
        match remote::connect(self) {
            Some(connected) => connected,
            None => self.build_over(None, None),
        }
    }

    /// As [`build`](Self::build), with workers of this machine, or those to which `remote` leads. Those
    /// of an agent have these variables, and leave it to the agent to end when it is asked to.
    pub(super) fn build_over(
        &self,
        remote: Option<Remote>,
        attended: Option<Vec<(&'static str, Option<OsString>)>>,
    ) -> Result<Pool, Error> {
        #[cfg(feature = "sandbox")]
        if self.settings.sandbox.is_some() {
            crate::Sandbox::check()?;
        }
        let workers = self
            .settings
            .workers
            .unwrap_or_else(sys::process::cpu_count);
        // Elsewhere there are as many as there are.
        check_workers(if remote.is_some() {
            workers.min(1)
        } else {
            workers
        })?;
        let mut settings = self.settings.clone();
        settings.is_attended = attended.is_some();
        let env = attended.into_iter().flatten();
        let env = env.map(|(name, value)| (name.into(), value));
        settings.env.splice(..0, env);
        #[cfg(feature = "sandbox")]
        if settings.sandbox.is_some() {
            settings.is_isolated = true;
        }
        settings.cpu_affinity = sys::process::affinity().ok();
        settings.nice = sys::process::nice().ok();
        if remote.is_some() {
            // Nothing of the program's memory is with them.
            settings.is_isolated = true;
        }
        let has_guests = !settings.is_isolated;
        let mut inner = Inner::new(settings, workers)?;
        inner.remote = remote;
        match &self.initializer {
            Some(Ok(initializer)) => initializer.install(&mut inner)?,
            Some(Err(error)) => return Err(error.clone()),
            None => {}
        }
        let pool = Pool::over(Arc::new(inner));
        let started = match pool.inner.remote {
            Some(_) => remote::dispatch(&pool.inner),
            None => pool.inner.fill_crew(),
        };
        // Not before: it would start workers as well, on a thread that has not the caller's subscriber.
        let started = started.and_then(|()| match has_guests {
            true => desk::start(&pool.inner),
            false => Ok(()),
        });
        if let Err(error) = started {
            pool.inner.end();
            return Err(error);
        }
        if let Some(grace) = self.settings.drain {
            drain::drain_on_signals(&pool.inner, grace)?;
        }
        Ok(pool)
    }
}

/// Whether a pool can have so many workers.
pub(super) fn check_workers(workers: usize) -> Result<(), Error> {
    if workers == 0 {
        return Err(Error::new(
            ErrorKind::Other,
            "a pool needs at least one worker",
        ));
    }
    // This process is one of them. Before any is started, of which there would be many.
    if workers >= MAX_PROCESSES as usize {
        return Err(Error::limit(format!(
            "a pool cannot have {workers} workers: {MAX_PROCESSES} processes of a program may be \
             alive at once, with this one"
        )));
    }
    Ok(())
}

impl Initializer {
    fn new<F: 'static, A: Arguments>(arguments: &A) -> Result<Self, Error> {
        let task = registry::by_type::<F>()?;
        let mut out = Buffer::new();
        let (result, sent) = transfer::sending(|| {
            wire::write_item(&mut out.tail(), |out| append_arguments(arguments, out))
        });
        result.map_err(|error| {
            Error::not_encoded(format!(
                "the arguments of the initializer \"{}\" cannot be encoded: {error}",
                (task.name)()
            ))
        })?;
        Ok(Self {
            task,
            arguments: out.as_slice().to_vec(),
            sent,
        })
    }

    /// Puts the call where each worker finds it.
    fn install(&self, inner: &mut Inner) -> Result<(), Error> {
        if inner.settings.is_isolated && !self.sent.is_empty() {
            return Err(Error::not_encoded(format!(
                "the arguments of the initializer \"{}\" cannot be encoded: {}",
                (self.task.name)(),
                transfer::NOT_ABROAD
            )));
        }
        let full = |_| Error::out_of_memory("for the arguments of the pool's initializer");
        let memory = &inner.memory;
        let me = Owner::Process(memory.peers().me());
        let mut out = Buffer::in_block(memory.arena().clone(), me, 0).map_err(full)?;
        wire::begin_items((self.task.name)(), &mut out).map_err(full)?;
        out.write(&self.arguments).map_err(full)?;
        let parcel = self.sent.pack(inner.program).map_err(full)?;
        let header = memory.header();
        let len = out.len() as u64;
        let block = out.into_block().map_err(full)?;
        header.initializer_len.store(len, Ordering::Relaxed);
        // Release: pairs with the Acquire in the worker.
        header
            .initializer
            .store(block.id().bits(), Ordering::Release);
        inner.initializer_parcel = parcel;
        Ok(())
    }
}
