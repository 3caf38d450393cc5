//! The parent's half of a start by the fork server: keep one, which is asked for copies.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use super::copies::Copies;
use super::environment::environment;
use super::launcher;
use super::running::Running;
use super::spawn::{INIT_PASSED, Request, arguments};
use super::supervisor;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fault::fault;
use crate::life::program;
use crate::life::program::existing;
use crate::loom::AtomicU32;
use crate::shm::Region;
use crate::shm::buffer::Buffer;
use crate::sys;
use crate::sys::process::{Spawn, Status};
use crate::sys::startup::{Claim, Extra};
use crate::task::{Arguments, TaskFn, assert_task, encode_arguments, registry};
use crate::wire::transfer;

/// A fork server and the way to it. Dropping it ends it.
pub(super) struct Server {
    /// Where it is asked for copies and answers.
    pub(super) control: OwnedFd,
    pub(super) life: Arc<Life>,
    recipe: Arc<Recipe>,
    /// The socket whose end of file is its end.
    _socket: OwnedFd,
}

/// A fork server as the supervisor knows it.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) pid: u32,
    pidfd: OwnedFd,
    /// What the supervisor is woken with for it, and for the copy that waits.
    pub(super) token: OnceLock<u64>,
    ended: Mutex<Option<Status>>,
    /// Locked by whoever starts a child, until it is known whether there is one: callers take turns.
    pub(super) copies: Mutex<Copies>,
}

/// What a fork server is made of; one that died is replaced by one that is alike.
struct Recipe {
    /// Its environment, which its children have unless they are given another.
    envp: Arc<Vec<CString>>,
    by_init: bool,
    preload: Option<Arc<Preload>>,
}

/// The call that a fork server makes before anything else.
struct Preload {
    task: &'static str,
    arguments: Vec<u8>,
}

#[derive(Default)]
struct Current {
    server: Option<Arc<Server>>,
    preload: Option<Arc<Preload>>,
}

static CURRENT: Mutex<Current> = Mutex::new(Current {
    server: None,
    preload: None,
});

/// Has the fork server of this process call `task` once, before it makes children: what that leaves
/// in statics, caches and the like, all children have from the start, in memory that they share until
/// they write to it.
///
/// It counts for children that are started from now on, by
/// [`StartMethod::ForkServer`](crate::StartMethod::ForkServer). If a fork server runs already,
/// another takes its place at the next start. The task runs in the fork server, in which `mp` does
/// not work, and which can be copied only while it has a single thread: the task may start none that
/// go on.
///
/// # Errors
///
/// If the function is not a task, or its arguments could not be encoded: shared objects, such as
/// queues, cannot be among them. If the task panics or starts threads, starts by the fork server fail
/// and say why.
///
/// # Examples
///
/// ```
/// use std::sync::OnceLock;
///
/// static PRIMES: OnceLock<Vec<u32>> = OnceLock::new();
///
/// #[mp::task]
/// fn find_primes(below: u32) {
///     let is_prime = |n: &u32| (2..*n).all(|d| n % d != 0);
///     PRIMES.get_or_init(|| (2..below).filter(is_prime).collect());
/// }
///
/// #[mp::task]
/// fn prime(index: usize) -> Option<u32> {
///     PRIMES.get()?.get(index).copied()
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// mp::preload(find_primes, (100,))?;
/// let child = mp::Process::new(prime, (10,))
///     .start_method(mp::StartMethod::ForkServer)
///     .start()?;
/// assert_eq!(child.join()?, Some(31));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "set_forkserver_preload")]
pub fn preload<F, A>(task: F, arguments: A) -> Result<(), Error>
where
    F: TaskFn<A, Output = ()>,
    A: Arguments,
{
    assert_task!(F);
    let _ = task;
    let task = (registry::by_type::<F>()?.name)();
    let mut out = Buffer::new();
    transfer::abroad(|| encode_arguments(&arguments, &mut out)).map_err(|error| {
        Error::not_encoded(format!(
            "preload task \"{task}\": its arguments cannot be encoded: {error}"
        ))
    })?;
    let preload = Preload {
        task,
        arguments: out.as_slice().to_vec(),
    };
    current_state().preload = Some(Arc::new(preload));
    Ok(())
}

fn current_state() -> MutexGuard<'static, Current> {
    // No user code runs under this lock, so a poisoned one is as good as any.
    CURRENT.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The fork server of this process; makes one if there is none, or none that will do.
pub(super) fn current() -> Result<Arc<Server>, Error> {
    let mut state = current_state();
    let by_init = INIT_PASSED.load(Ordering::Relaxed);
    if let Some(server) = state
        .server
        .as_ref()
        .filter(|server| !server.life.has_ended())
    {
        let recipe = &server.recipe;
        let wanted = state.preload.as_ref().map(Arc::as_ptr);
        if recipe.by_init == by_init && recipe.preload.as_ref().map(Arc::as_ptr) == wanted {
            return Ok(server.clone());
        }
    }
    let recipe = Recipe {
        envp: environment(&[])?,
        by_init,
        preload: state.preload.clone(),
    };
    let server = Server::start(Arc::new(recipe))?;
    let old = state.server.replace(server.clone());
    drop(state);
    drop(old);
    Ok(server)
}

/// One that is like `dead`, for an order that did not reach that.
fn successor(dead: &Arc<Server>) -> Result<Arc<Server>, Error> {
    let mut state = current_state();
    match &state.server {
        Some(server) if Arc::ptr_eq(server, dead) => {
            let server = Server::start(dead.recipe.clone())?;
            state.server = Some(server.clone());
            Ok(server)
        }
        Some(server) if Arc::ptr_eq(&server.recipe, &dead.recipe) => Ok(server.clone()),
        // Somebody asked for another kind meanwhile.
        _ => Server::start(dead.recipe.clone()),
    }
}

/// Has a child made and watched.
pub(super) fn launch(
    server: &Arc<Server>,
    request: Request,
    timeout: Duration,
) -> Result<Arc<Running>, Error> {
    let failed = |error: io::Error| {
        Error::not_started(
            format!(
                "process \"{}\": the fork server did not make it",
                request.name
            ),
            error,
        )
    };
    supervisor::ensure().map_err(failed)?;
    let deadline = Deadline::after(timeout);
    let child = match server.order(&request, deadline).map_err(failed)? {
        Some(child) => child,
        None => {
            // It was gone before it was asked.
            let next = successor(server)?;
            let child = next.order(&request, deadline).map_err(failed)?;
            child.ok_or_else(|| failed(next.obituary()))?
        }
    };
    let pid = child.pid;
    let watch = || {
        let running = (request.make)(pid, launcher::open(pid)?, child.socket);
        supervisor::watch(&running)?;
        Ok(running)
    };
    watch().map_err(|error| {
        sys::process::kill_unwatched(pid);
        Error::not_started("the process could not be watched", error)
    })
}

/// Ends the fork server, because this process does.
pub(super) fn end() {
    // A copy of this process made by `fork` has none, whatever it has of ours.
    let server = match existing() {
        Some(_) => current_state().server.take(),
        None => return,
    };
    if let Some(server) = server {
        server.life.kill();
        server.life.end_copy();
    }
}

impl Server {
    fn start(recipe: Arc<Recipe>) -> Result<Arc<Self>, Error> {
        let failed = |error| Error::not_started("could not start the fork server", error);
        let (control, their_control) = sys::fd::packet_pair().map_err(failed)?;
        let place = Region::create("mp-copies", size_of::<AtomicU32>() as u64).map_err(failed)?;
        // Before it runs, so that nobody is waited for.
        let preload = recipe.preload.as_deref();
        send_recipe(control.as_fd(), place.memory(), preload).map_err(failed)?;
        let (socket, their_socket) = sys::fd::socket_pair().map_err(failed)?;
        let (path, fingerprint) = sys::process::executable().map_err(failed)?;
        let claim = Claim {
            parent_pid: std::process::id(),
            by_init: recipe.by_init,
            socket: their_socket.as_raw_fd(),
            arena: Some(program()?.memory().as_raw_fd()),
            slot: 0,
            generation: 0,
            fingerprint,
            extra: Some(Extra::ForkServer(their_control.as_raw_fd())),
        };
        let envp = recipe.envp.clone();
        let life = launcher::run(move || {
            // Two that read from one terminal would share the lines out at random.
            let null = File::open("/dev/null")?;
            let arena = program().map_err(io::Error::other)?.memory();
            let pid = sys::process::spawn(&Spawn {
                path: &path,
                argv: arguments(),
                envp: &envp,
                variable: Some(&claim.to_variable()),
                stdio: [Some(null.as_fd()), None, None],
                inherit: &[their_socket.as_fd(), their_control.as_fd(), arena],
            })?;
            fault!("fork.spawned");
            sys::process::raise_oom_score(pid);
            let life = sys::process::pidfd_open(pid).and_then(|pidfd| {
                let life = Arc::new(Life {
                    pid,
                    pidfd,
                    token: OnceLock::new(),
                    ended: Mutex::new(None),
                    copies: Mutex::new(Copies::new(place)),
                });
                supervisor::watch_server(&life)?;
                Ok(life)
            });
            life.inspect_err(|_| sys::process::kill_unwatched(pid))
        })
        .map_err(failed)?;
        Ok(Arc::new(Self {
            control,
            life,
            recipe,
            _socket: socket,
        }))
    }

    /// The environment of its children, unless they are given another.
    pub(super) fn environment(&self) -> &Arc<Vec<CString>> {
        &self.recipe.envp
    }
}

/// Tells a server where its copies' process ids are written, and what to call before it makes any.
fn send_recipe(
    control: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    preload: Option<&Preload>,
) -> io::Result<()> {
    let Some(preload) = preload else {
        return sys::fd::send_packet(control, &[0], &[place]);
    };
    let mut bytes = vec![1];
    bytes.extend_from_slice(preload.task.as_bytes());
    let len = preload.arguments.len() as u64;
    let mut memory = File::from(sys::memory::create_memory("mp-preload", len)?);
    memory.write_all(&preload.arguments)?;
    memory.rewind()?;
    sys::fd::send_packet(control, &bytes, &[place, memory.as_fd()])
}

impl Life {
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn has_ended(&self) -> bool {
        self.reap(false).is_some()
    }

    /// Waits for its end, which is near.
    pub(super) fn wait(&self) -> Status {
        self.reap(true).unwrap_or(Status::Unknown)
    }

    pub(super) fn kill(&self) {
        // One that has ended has nobody to tell.
        let _ = sys::process::pidfd_signal(self.pidfd(), sys::signal::KILL);
        self.wait();
    }

    /// How it ended; `None` if it has not, which is not returned where we `block`.
    pub(super) fn reap(&self, block: bool) -> Option<Status> {
        let mut ended = self
            .ended
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if ended.is_none() {
            *ended = match sys::process::reap(self.pidfd(), self.pid, block) {
                Ok(status) => status,
                Err(_) => Some(Status::Unknown),
            };
        }
        *ended
    }
}
