//! A child that was started, and waiting for its result.

use std::fmt;
use std::io::{Cursor, Read};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use super::running::{Ended, Running};
use crate::deadline::Deadline;
use crate::error::{TaskError, TaskFailure};
use crate::life::program::existing;
use crate::sys;
use crate::sys::process::Status;
use crate::task::{Transfer, call};
use crate::wait::{Waitable, Watched};
use crate::wire::transfer;

/// A process that was started, with the result `R` of its task to come.
///
/// Dropping it leaves the process running; when this process ends, so does the child.
/// [`scope`](crate::scope) and [`join`](Self::join) wait. As a descriptor ([`AsFd`]) it becomes
/// readable when the process ends.
pub struct Child<R> {
    running: Arc<Running>,
    result: PhantomData<fn() -> R>,
}

impl<R> Child<R> {
    /// Waits for the child to end and returns what its task returned.
    ///
    /// If the child's standard input is piped and our end was not taken, it is closed first, so that
    /// the child does not wait for more.
    ///
    /// It can be called again, and by several threads: the result is decoded anew each time.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if there is no result, and why: the task panicked, the process exited, was
    /// killed by a signal or never began, or the result could not be sent. A result that was
    /// complete before the process crashed at its exit stays a result;
    /// [`exit_status`](Self::exit_status) shows the crash.
    pub fn join(&self) -> Result<R, TaskError>
    where
        R: Transfer,
    {
        match self.wait(Deadline::NEVER) {
            Some(result) => result,
            None => unreachable!("there was no deadline"),
        }
    }

    /// As [`join`](Self::join), but waits at most `timeout`: `None` if the child still runs then.
    ///
    /// # Errors
    ///
    /// As for [`join`](Self::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<Option<R>, TaskError>
    where
        R: Transfer,
    {
        self.wait(Deadline::after(timeout)).transpose()
    }

    /// As [`join`](Self::join), but does not wait: `None` if the child still runs.
    ///
    /// # Errors
    ///
    /// As for [`join`](Self::join).
    pub fn try_join(&self) -> Result<Option<R>, TaskError>
    where
        R: Transfer,
    {
        self.join_timeout(Duration::ZERO)
    }

    /// Its name in shared words.
    pub(crate) fn holder(&self) -> crate::sync::raw::Holder {
        self.running.holder
    }

    fn wait(&self, deadline: Deadline) -> Option<Result<R, TaskError>>
    where
        R: Transfer,
    {
        let ended = self.running.wait(deadline)?;
        Some(self.result(&ended).map_err(|error| {
            let error = error
                .with_task(&*self.running.task)
                .with_process(&*self.running.name, self.running.pid)
                .with_attempts(1);
            let error = match ended.has_begun {
                true => error,
                false => error.with_may_have_started(false),
            };
            let error = match ended.out_of_memory {
                true => error.with_out_of_memory(),
                false => error,
            };
            match &ended.stderr_tail {
                Some(tail) => error.with_stderr_tail(&**tail),
                None => error,
            }
        }))
    }

    fn result(&self, ended: &Ended) -> Result<R, TaskError>
    where
        R: Transfer,
    {
        let program = existing().ok_or_else(|| TaskError::new(TaskFailure::UnknownStatus))?;
        let record = ended
            .outcome
            .and_then(|(id, len)| Some((program.arena.find(id)?, len)))
            .map(|(block, len)| program.arena.bytes(&block, len))
            .and_then(|mut bytes| call::read_record(&mut bytes));
        match record {
            Some((tag, payload)) => {
                transfer::receiving(program, || call::decode_result::<R>(tag, payload))
            }
            None => Err(TaskError::new(failure(ended))),
        }
    }
}

/// What the end of a process without a result means for its task.
pub(crate) fn failure(ended: &Ended) -> TaskFailure {
    if let Some(why) = &ended.refused {
        return TaskFailure::NotStarted { why: why.clone() };
    }
    match ended.status {
        status if !ended.has_begun => TaskFailure::NotStarted {
            why: match status {
                Status::Exited(code) => format!(
                    "its process exited with code {code} before it shook hands{}",
                    if code == 0 {
                        "; if the program passes mp::init(), it must do so on every way through main"
                    } else {
                        ""
                    }
                ),
                Status::Signaled { signal, .. } => format!(
                    "its process was killed by {} before it shook hands",
                    sys::signal::signal_name(signal).unwrap_or("a signal")
                ),
                Status::Unknown => "its process ended before it shook hands".to_owned(),
            },
        },
        Status::Exited(code) => TaskFailure::Exit { code },
        Status::Signaled { signal, core } => TaskFailure::Signal { signal, core },
        Status::Unknown => TaskFailure::UnknownStatus,
    }
}

impl<R> Child<R> {
    pub(super) fn new(running: Arc<Running>) -> Self {
        Self {
            running,
            result: PhantomData,
        }
    }

    pub(super) fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// The child's process id.
    #[doc(alias = "pid")]
    pub fn id(&self) -> u32 {
        self.running.pid
    }

    /// The child's name.
    pub fn name(&self) -> &str {
        &self.running.name
    }

    /// Whether this process's ordinary exit kills the child instead of waiting for it, see
    /// [`Process::daemon`](crate::Process::daemon).
    pub fn is_daemon(&self) -> bool {
        self.running.is_daemon
    }

    /// Whether the child has not ended.
    pub fn is_alive(&self) -> bool {
        self.running.settle().is_none()
    }

    /// How the child ended; `None` while it runs, and if other code of this program took the status.
    #[doc(alias = "exitcode")]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        match self.running.settle()?.status {
            Status::Exited(code) => Some(ExitStatus::from_raw((code & 0xFF) << 8)),
            Status::Signaled { signal, core } => {
                let core = if core { 0x80 } else { 0 };
                Some(ExitStatus::from_raw(signal | core))
            }
            Status::Unknown => None,
        }
    }

    /// Interrupts the child, by SIGINT. Unless its task handles that signal, it ends by it.
    pub fn interrupt(&self) {
        self.running.signal(sys::signal::INTERRUPT);
    }

    /// Asks the child to end, by SIGTERM. Unless its task handles that signal, it ends by it.
    pub fn terminate(&self) {
        self.running.signal(sys::signal::TERMINATE);
    }

    /// Ends the child, by SIGKILL.
    pub fn kill(&self) {
        self.running.signal(sys::signal::KILL);
    }

    /// Gives the handle up and leaves the child running, as dropping it does.
    pub fn detach(self) {}

    /// Our end of the child's standard input, if it is piped and was not taken yet.
    pub fn take_stdin(&self) -> Option<ChildStdin> {
        self.running.take_stdin().map(Into::into)
    }

    /// Our end of the child's standard output, if it is piped and was not taken yet.
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.running.take_stdout().map(Into::into)
    }

    /// Our end of the child's standard error, if it is piped and was not taken yet. Its tail is no
    /// longer shown in the error then.
    pub fn take_stderr(&self) -> Option<impl Read + use<R>> {
        let (drained, pipe) = self.running.take_stderr()?;
        Some(Cursor::new(drained).chain(ChildStderr::from(pipe)))
    }
}

impl<R> AsFd for Child<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.running.pidfd()
    }
}

/// The result goes with the handle at once, whichever of our threads still looks after the child.
impl<R> Drop for Child<R> {
    fn drop(&mut self) {
        self.running.give_up_result();
    }
}

/// Ready once it has ended.
impl<R> Waitable for Child<R> {
    fn watched(&self) -> Watched<'_> {
        Watched::new(&*self.running)
    }
}

impl<R> fmt::Debug for Child<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name())
            .field("id", &self.id())
            .field("task", &self.running.task)
            .field("exit_status", &self.exit_status())
            .finish()
    }
}
