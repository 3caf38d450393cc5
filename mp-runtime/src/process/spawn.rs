//! The parent's half of a start: reserve a slot, describe the work, have the launcher start it.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::environment::environment;
use super::fork_server;
use super::identity;
use super::launcher;
use super::limits::Limits;
use super::message::{self, Message, Scheduling, Work};
use super::method::{self, StartMethod};
use super::running::{Heir, Running};
use super::stdio::{Direction, Stdio, Stream};
use super::supervisor;
use crate::error::{Error, ErrorKind};
use crate::fault::fault;
use crate::life::program;
use crate::shm::buffer::Buffer;
use crate::shm::table::MAX_PROCESSES;
use crate::shm::{BlockId, Region};
use crate::spans;
use crate::sync::raw::Holder;
use crate::sys::startup::{Claim, Extra};
use crate::wire::transfer::Sent;

/// How long a child may take from its start to its handshake, unless told otherwise.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether this process passed `mp::init()`: then its children take over there.
pub(super) static INIT_PASSED: AtomicBool = AtomicBool::new(false);

/// Children that this process has named so far.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Everything about a child but its work.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: Option<String>,
    /// Variables to set, or with `None` to remove, in this order.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) current_dir: Option<std::path::PathBuf>,
    pub(crate) stdio: [Stdio; 3],
    pub(crate) is_daemon: Option<bool>,
    pub(crate) asked: Scheduling,
    /// What it is to have where nothing is asked for; `None` is what the calling thread has.
    pub(crate) inherited: Option<Scheduling>,
    pub(crate) limits: Limits,
    /// `None` is what the process has set for all its children.
    pub(crate) start_method: Option<StartMethod>,
    #[cfg(feature = "sandbox")]
    pub(crate) sandbox: Option<super::sandbox::Sandbox>,
    pub(crate) start_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: None,
            env: Vec::new(),
            current_dir: None,
            stdio: [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()],
            is_daemon: None,
            asked: Scheduling::default(),
            inherited: None,
            limits: Limits::default(),
            start_method: None,
            #[cfg(feature = "sandbox")]
            sandbox: None,
            start_timeout: START_TIMEOUT,
        }
    }
}

/// Called on the thread that finds a child ended.
pub(crate) type OnEnd = Box<dyn Heir + Send>;

/// What a child is started for.
pub(crate) enum Job {
    /// A task with its encoded arguments.
    Task {
        name: &'static str,
        arguments: Buffer,
        sent: Sent,
    },
    /// The tasks of the pool whose memory this is.
    Pool { region: Arc<Region> },
    /// Those of a pool that shares no memory with it: what goes through the socket.
    Isolated {
        socket: OwnedFd,
        /// Where the child's [`Message`] is put, encoded, for whoever has the other end.
        message: Arc<OnceLock<Vec<u8>>>,
    },
}

/// What every child is made of.
pub(super) struct Request {
    /// The child's name.
    pub(super) name: String,
    /// Its slot.
    pub(super) holder: Holder,
    /// Kept open until the child has its copies.
    pub(super) streams: [Stream; 3],
    pub(super) region: Option<Arc<Region>>,
    /// Of its process id, a descriptor for that, and our end of its socket.
    pub(super) make: Box<dyn FnOnce(u32, OwnedFd, OwnedFd) -> Arc<Running> + Send>,
}

/// What a child is made of for which the program is executed, and not forked.
pub(super) struct Execution {
    pub(super) path: CString,
    pub(super) claim: Claim,
    /// Both ends of the socket between it and us.
    pub(super) ours: OwnedFd,
    pub(super) theirs: OwnedFd,
    /// The socket of a child that gets no shared memory.
    pub(super) link: Option<OwnedFd>,
    pub(super) envp: Arc<Vec<CString>>,
}

/// Starts a child. Its handshake is the supervisor's to see.
pub(crate) fn start(
    settings: Settings,
    job: Job,
    on_end: Option<OnEnd>,
) -> Result<Arc<Running>, Error> {
    let program = program()?;
    crate::sys::startup::check_program().map_err(Error::unsupported)?;
    if supervisor::is_exiting() {
        let text = "this process is exiting, and starts no more processes";
        return Err(Error::new(ErrorKind::Other, text));
    }
    let _starting = spans::starting();
    let numbers = identity::numbers(NUMBER.fetch_add(1, Ordering::Relaxed) + 1);
    let name = settings
        .name
        .unwrap_or_else(|| format!("Process-{numbers}"));
    let task = match &job {
        Job::Task { name, .. } => (*name).to_owned(),
        Job::Pool { .. } | Job::Isolated { .. } => String::new(),
    };
    let [stdin, stdout, stderr] = settings.stdio;
    let open = |stdio: Stdio, direction| {
        stdio.open(direction).map_err(|error| {
            Error::not_started(
                format!("process \"{name}\": could not open its standard streams"),
                error,
            )
        })
    };
    let mut streams = [
        open(stdin, Direction::ToChild)?,
        open(stdout, Direction::FromChild)?,
        open(stderr, Direction::FromChild)?,
    ];
    let ours = streams.each_mut().map(|stream| stream.ours.take());
    let envp = environment(&settings.env)?;
    let method = settings.start_method.unwrap_or_else(method::start_method);
    let server = match (method, &job) {
        // The fork server has the arena.
        (_, Job::Isolated { .. }) | (StartMethod::Spawn, _) => None,
        (StartMethod::ForkServer, _) => Some(fork_server::current()?),
    };
    let executed = match &server {
        Some(_) => None,
        None => {
            let failed = |what: &str| {
                let text = format!("process \"{name}\": could not {what}");
                |error| Error::not_started(text, error)
            };
            let sockets = crate::sys::fd::packet_pair().map_err(failed("make its socket"))?;
            let file = crate::sys::process::executable();
            Some((sockets, file.map_err(failed("look at the program's file"))?))
        }
    };

    let holder = program.roster.reserve(&name).ok_or_else(|| {
        Error::limit(format!(
            "process \"{name}\": {MAX_PROCESSES} processes of this program are alive: wait for \
                 some of them to end first"
        ))
    })?;
    fault!("start.reserved");
    // From here on every way out that is not a running child buries the slot.
    let reserved = Reserved { program, holder };
    let is_daemon = settings
        .is_daemon
        .unwrap_or_else(identity::is_daemon_default);
    let mut parts = Parts {
        program,
        arguments: None,
        parcel: None,
    };
    let mut isolated = None;
    let call = match &job {
        Job::Task { .. } => Some(spans::Call::begin(&task, &name)),
        Job::Pool { .. } | Job::Isolated { .. } => None,
    };
    let (work, arguments, parcel, region) = match job {
        Job::Task {
            name,
            arguments,
            sent,
        } => {
            let parcel = sent
                .pack(program)
                .map_err(|_| Error::out_of_memory("for the arguments"))?;
            parts.parcel = parcel;
            let len = arguments.len() as u64;
            let block = arguments
                .into_block()
                .map_err(|_| Error::out_of_memory("for the arguments"))?;
            parts.arguments = Some(block.id());
            let arguments = Some((block.id().bits(), len));
            (Work::Task(name.to_owned()), arguments, parcel, None)
        }
        Job::Pool { region } => (Work::Pool, None, None, Some(region)),
        Job::Isolated { socket, message } => {
            isolated = Some((socket, message));
            (Work::Pool, None, None, None)
        }
    };
    let message = Message {
        name: name.clone(),
        numbers,
        is_daemon,
        work,
        current_dir: settings
            .current_dir
            .map(|path| path.as_os_str().as_bytes().to_vec()),
        asked: settings.asked,
        // Who is started by this very thread, and not by the launcher's, has it already.
        inherited: settings.inherited.unwrap_or_else(|| {
            match server.is_none() && crate::sys::process::is_main_thread() {
                true => Scheduling::default(),
                false => Scheduling::of_this_thread(),
            }
        }),
        limits: settings.limits,
        #[cfg(feature = "sandbox")]
        sandbox: settings.sandbox,
        arguments,
        parcel: parcel.map_or(0, BlockId::bits),
        start_method: method::start_method(),
        wanted: match &call {
            Some(call) => call.wanted(),
            None => spans::Wanted::now(),
        },
        environment: server
            .as_ref()
            .filter(|server| *server.environment() != envp)
            .map(|_| envp.iter().map(|entry| entry.as_bytes().to_vec()).collect()),
    };
    let link = match isolated {
        Some((socket, told)) => {
            // Nobody reads it before the child runs.
            let _ = told.set(message::encode(&message)?);
            Some(socket)
        }
        None => {
            message::post(program, holder, &message)?;
            None
        }
    };
    // They belong to the slot now.
    std::mem::forget(parts);
    fault!("start.posted");
    let execution = executed.map(|((ours, theirs), (path, fingerprint))| Execution {
        path,
        claim: Claim {
            parent_pid: std::process::id(),
            by_init: INIT_PASSED.load(Ordering::Relaxed),
            socket: theirs.as_raw_fd(),
            arena: link.is_none().then(|| program.memory().as_raw_fd()),
            slot: holder.slot(),
            generation: holder.generation(),
            fingerprint,
            extra: match &link {
                Some(link) => Some(Extra::Pool(link.as_raw_fd())),
                None => region
                    .as_ref()
                    .map(|region| Extra::Pool(region.memory().as_raw_fd())),
            },
        },
        ours,
        theirs,
        link,
        envp,
    });
    let start_timeout = settings.start_timeout;
    let make_name = name.clone();
    let request = Request {
        name: name.clone(),
        holder,
        streams,
        region,
        make: Box::new(move |pid, pidfd, socket| {
            Arc::new(Running::new(
                make_name,
                task,
                holder,
                pid,
                pidfd,
                socket,
                call,
                ours,
                is_daemon,
                start_timeout,
                on_end,
            ))
        }),
    };
    let running = match (server, execution) {
        (Some(server), _) => fork_server::launch(&server, request, start_timeout)?,
        (None, Some(execution)) => launcher::launch(request, execution).map_err(|error| {
            Error::not_started(
                format!("process \"{name}\": could not execute the program again"),
                error,
            )
        })?,
        (None, None) => unreachable!("what is not forked is executed"),
    };
    std::mem::forget(reserved);
    spans::watch(&running);
    Ok(running)
}

/// A slot that is buried again unless the start succeeds.
struct Reserved {
    program: &'static crate::life::Program,
    holder: Holder,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // It may have lived for a moment, and left children and a result.
        supervisor::bury_unseen(self.program, self.holder);
    }
}

/// What a message names, given back if that is not posted.
struct Parts {
    program: &'static crate::life::Program,
    arguments: Option<BlockId>,
    parcel: Option<BlockId>,
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Some(block) = self.arguments {
            self.program.arena.free(block);
        }
        if let Some(parcel) = self.parcel {
            self.program.table.discard(&self.program.arena, parcel);
        }
    }
}

/// The arguments of this program.
pub(super) fn arguments() -> &'static [CString] {
    static ARGUMENTS: OnceLock<Vec<CString>> = OnceLock::new();
    ARGUMENTS.get_or_init(|| {
        std::env::args_os()
            .map(|argument| CString::new(argument.into_vec()).unwrap_or_default())
            .collect()
    })
}

impl Execution {
    /// The descriptors that the child gets under the numbers they have here, a pool's memory among them.
    pub(super) fn inherited<'a>(&'a self, region: Option<&'a Region>) -> Vec<BorrowedFd<'a>> {
        let mut all = vec![self.theirs.as_fd()];
        if let Some(link) = &self.link {
            all.push(link.as_fd());
            return all;
        }
        if let Ok(program) = program() {
            all.push(program.memory());
        }
        if let Some(region) = region {
            all.push(region.memory());
        }
        all
    }
}
