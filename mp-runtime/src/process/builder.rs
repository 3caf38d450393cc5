//! A call that is yet to be made in a process of its own.

use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use super::join::Child;
use super::method::StartMethod;
use super::spawn::{self, Job, Settings};
use super::stdio::Stdio;
use crate::error::Error;
use crate::life::program;
use crate::shm::Owner;
use crate::shm::buffer::Buffer;
use crate::sync::raw::Peers;
use crate::task::registry::{self, Entry};
use crate::task::{Arguments, TaskFn, Transfer, assert_task, encode_arguments};
use crate::wire::codec::EncodeErrorKind;
use crate::wire::transfer::{self, Sent};

/// A call of a task that is to be made in a process of its own.
///
/// Nothing runs before [`start`](Self::start). The child is this program executed again, which finds
/// the task by its name; its `main` does not run. It gets the arguments, the environment and the
/// standard streams of this process, and of its other descriptors those that are not close-on-exec,
/// as any program that it executes: what Rust opens is close-on-exec.
///
/// # When a process dies
///
/// When the child ends without a result, [`Child::join`] says why. When this process ends, in
/// whatever way, the child ends too, with all its descendants.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn add(a: u32, b: u32) -> u32 {
///     a + b
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let child = mp::Process::new(add, (1, 2)).name("adder").start()?;
/// assert_eq!(child.join()?, 3);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing runs before start()"]
pub struct Process<R> {
    call: Result<Call, Error>,
    settings: Settings,
    result: PhantomData<fn() -> R>,
}

/// A call with its arguments encoded.
struct Call {
    task: &'static Entry,
    arguments: Buffer,
    sent: Sent,
}

impl<R: Transfer> Process<R> {
    /// Describes a call of `task`. The arguments are encoded here; if that fails,
    /// [`start`](Self::start) says so.
    ///
    /// What is not a task is an error of `start`, too; what captures variables does not compile:
    ///
    /// ```compile_fail
    /// # fn main() {
    /// let by = 2;
    /// let process = mp::Process::new(move |x: u32| x * by, (1,));
    /// # }
    /// ```
    pub fn new<F, A>(task: F, arguments: A) -> Self
    where
        F: TaskFn<A, Output = R>,
        A: Arguments,
    {
        assert_task!(F);
        let _ = task;
        Self {
            call: Call::encode::<F, A>(&arguments),
            settings: Settings::default(),
            result: PhantomData,
        }
    }
}

impl Call {
    fn encode<F: 'static, A: Arguments>(arguments: &A) -> Result<Self, Error> {
        let task = registry::by_type::<F>()?;
        let program = program()?;
        let me = Owner::Process(program.roster.me());
        let mut buffer = Buffer::with_home(program.arena.clone(), me);
        let (result, sent) = transfer::sending(|| encode_arguments(arguments, &mut buffer));
        result.map_err(|error| {
            if error.kind == EncodeErrorKind::Full {
                Error::out_of_memory(format!(
                    "task \"{}\": its arguments do not fit into the program's shared memory",
                    (task.name)()
                ))
            } else {
                Error::not_encoded(format!(
                    "task \"{}\": its arguments cannot be encoded: {error}",
                    (task.name)()
                ))
            }
        })?;
        Ok(Self {
            task,
            arguments: buffer,
            sent,
        })
    }
}

impl<R> Process<R> {
    /// Names the child; see [`current_process`](crate::current_process). The default is `Process-1`,
    /// `Process-2` and so on.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Sets a variable in the child's environment, which is otherwise this process's at the start.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let value = Some(value.as_ref().to_owned());
        self.settings.env.push((name.as_ref().to_owned(), value));
        self
    }

    /// Removes a variable from the child's environment.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.settings.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Sets the directory in which the child works. One that does not exist is reported by
    /// [`Child::join`].
    pub fn current_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.settings.current_dir = Some(path.as_ref().to_owned());
        self
    }

    /// Sets the child's standard input.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.settings.stdio[0] = stdin.into();
        self
    }

    /// Sets the child's standard output.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.settings.stdio[1] = stdout.into();
        self
    }

    /// Sets the child's standard error; with [`Stdio::piped`] its tail is shown in the error when
    /// the child fails.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.settings.stdio[2] = stderr.into();
        self
    }

    /// Whether the child is a daemon: then this process's ordinary exit kills it. Otherwise a return
    /// from `main` or a call of [`exit`](std::process::exit) waits for it.
    ///
    /// The default is that of the process that starts it, and true in the main process: it differs
    /// from Python's there, because a child that hangs must not keep a program from ending. However a
    /// process ends, none of its children outlives it.
    pub fn daemon(mut self, is_daemon: bool) -> Self {
        self.settings.is_daemon = Some(is_daemon);
        self
    }

    /// Lets the child run on these CPUs only, counted from 0. The default is what the thread that
    /// calls [`start`](Self::start) may use.
    pub fn cpu_affinity(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.settings.asked.cpu_affinity = Some(cpus.into_iter().collect());
        self
    }

    /// Sets the child's nice value, from -20 to 19. The default is that of the thread that calls
    /// [`start`](Self::start).
    pub fn nice(mut self, nice: i32) -> Self {
        self.settings.asked.nice = Some(nice);
        self
    }

    /// Limits the memory that is the child's own to so many bytes; what it shares with this process
    /// does not count. The default is what this process may use.
    ///
    /// What the child has before its task begins counts: some megabytes, and 2 MiB for each thread.
    /// Processes that it starts have the same limit, each for itself. When an allocation fails, the
    /// child aborts, and [`Child::join`] says that its memory was used up
    /// ([`is_out_of_memory`](crate::TaskError::is_out_of_memory)), as far as there is a sign of it.
    /// Native code that goes on with a null pointer leaves none.
    ///
    /// # Examples
    ///
    /// ```
    /// #[mp::task]
    /// fn fill(bytes: usize) -> usize {
    ///     std::hint::black_box(vec![1u8; bytes]).len()
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let child = mp::Process::new(fill, (1 << 30,))
    ///     .memory_limit(256 << 20)
    ///     .start()?;
    /// assert!(child.join().unwrap_err().is_out_of_memory());
    /// # Ok(())
    /// # }
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.settings.limits.memory = Some(bytes);
        self
    }

    /// Limits the time for which the child may use processors, all of its threads taken together.
    /// It is counted in whole seconds, rounded up, from the start of the child. When it is used up,
    /// SIGXCPU ends the child, or SIGKILL a second later. The default is what this process may use.
    pub fn cpu_time_limit(mut self, time: Duration) -> Self {
        self.settings.limits.cpu_time = Some(time);
        self
    }

    /// Limits how many descriptors the child may have open, those of `mp` included. Opening more is
    /// an error in its task. The default is what this process may have.
    pub fn open_files_limit(mut self, files: u64) -> Self {
        self.settings.limits.open_files = Some(files);
        self
    }

    /// Limits the size of each file that the child writes to so many bytes. Writing beyond is an
    /// error in its task, [`FileTooLarge`](std::io::ErrorKind::FileTooLarge). The default is what
    /// this process may write.
    pub fn file_size_limit(mut self, bytes: u64) -> Self {
        self.settings.limits.file_size = Some(bytes);
        self
    }

    /// Starts the child by this method. The default is what [`set_start_method`](crate::set_start_method)
    /// has set.
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.settings.start_method = Some(method);
        self
    }

    /// How long the child may take until it is ready to run its task; 30 seconds unless told
    /// otherwise. If it takes longer it is killed, and [`Child::join`] says so.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.settings.start_timeout = timeout;
        self
    }

    /// Starts the child and returns without waiting for it to be ready.
    ///
    /// # Errors
    ///
    /// If the function is not a task, the arguments could not be encoded, the program cannot be
    /// executed, or a limit is reached: 1024 processes of one program may be alive at once. What
    /// goes wrong in the child before its task runs is reported by [`Child::join`].
    pub fn start(self) -> Result<Child<R>, Error> {
        let Call {
            task,
            arguments,
            sent,
        } = self.call?;
        let job = Job::Task {
            name: (task.name)(),
            arguments,
            sent,
        };
        spawn::start(self.settings, job, None).map(Child::new)
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let task = self.call.as_ref().map(|call| (call.task.name)());
        f.debug_struct("Process")
            .field("task", &task)
            .field("name", &self.settings.name)
            .finish_non_exhaustive()
    }
}
