//! What the caller of a pool is told about an item that failed.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::inner::Stop;
use super::nest::NESTED;
use crate::error::{Error, ErrorKind, PanicInfo, Refusal, TaskError, TaskFailure};
use crate::process::running::Ended;
use crate::process::supervisor::is_exiting;
use crate::sync::raw::Holder;
use crate::sys::process::Status;
use crate::sys::signal::KILL;
use crate::wire::codec::EncodeError;

/// A worker as an error names it.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) holder: Holder,
    pub(super) name: String,
    pub(super) pid: u32,
}

/// How a worker ended in the middle of a job.
#[derive(Clone, Debug)]
pub(super) struct Death {
    pub(super) who: Who,
    pub(super) ended: Ended,
    /// It was killed for an item that it was at before it came to the job.
    pub(super) is_for_another: bool,
}

impl Death {
    /// What became of the item that the worker was at.
    pub(super) fn failure(&self) -> TaskError {
        if self.is_for_another {
            let why = "its worker was killed for another item before it came to this one";
            return TaskError::new(TaskFailure::NotStarted { why: why.into() })
                .with_process(self.who.name.clone(), self.who.pid);
        }
        let failure = match self.ended.status {
            Status::Exited(code) => TaskFailure::Exit { code },
            // By our own exit, which kills the workers while other threads may still look on.
            Status::Signaled { signal, .. } if signal == KILL && is_exiting() => {
                TaskFailure::Cancelled
            }
            Status::Signaled { signal, core } => TaskFailure::Signal { signal, core },
            Status::Unknown => TaskFailure::UnknownStatus,
        };
        let error = TaskError::new(failure).with_process(self.who.name.clone(), self.who.pid);
        let error = match self.ended.out_of_memory {
            true => error.with_out_of_memory(),
            false => error,
        };
        self.with_tail(error)
    }

    /// What became of the item that the worker was at, if that took too long.
    pub(super) fn timed_out(&self, limit: Duration) -> TaskError {
        let failure = TaskFailure::TimedOut { limit: Some(limit) };
        let error = TaskError::new(failure).with_process(self.who.name.clone(), self.who.pid);
        self.with_tail(error)
    }

    fn with_tail(&self, error: TaskError) -> TaskError {
        match &self.ended.stderr_tail {
            Some(tail) => error.with_stderr_tail(tail.clone()),
            None => error,
        }
    }
}

/// An item whose argument could not be encoded.
pub(super) fn not_encoded(error: EncodeError, type_name: &str) -> TaskError {
    argument_refused(type_name, error.to_string())
}

/// An item whose argument panicked while it was encoded.
#[cold]
pub(super) fn argument_panicked(type_name: &str, message: &str) -> TaskError {
    argument_refused(type_name, format!("it panicked: {message}"))
}

fn argument_refused(type_name: &str, why: String) -> TaskError {
    let refusal = Refusal {
        what: format!("argument (of type {type_name})"),
        why,
        ..Refusal::default()
    };
    TaskError::new(TaskFailure::NotEncoded(refusal))
        .with_may_have_started(false)
        .with_attempts(0)
}

/// An item whose result panicked while it was decoded.
#[cold]
pub(super) fn result_panicked<R>(panic: PanicInfo) -> TaskError {
    let why = format!("it panicked: {}", panic.message);
    TaskError::new(TaskFailure::NotDecoded(Refusal::result(
        std::any::type_name::<R>(),
        why,
    )))
}

/// An item for whose argument there is no shared memory.
pub(super) fn no_room_for_argument() -> TaskError {
    refusal("argument")
        .with_may_have_started(false)
        .with_attempts(0)
}

/// An item for whose result there is no shared memory.
pub(super) fn no_room_for_result() -> TaskError {
    refusal("result")
}

fn refusal(what: &str) -> TaskError {
    TaskError::new(TaskFailure::NotEncoded(Refusal {
        what: what.to_owned(),
        why: "the pool's shared memory is used up".to_owned(),
        bytes: Vec::new(),
        out_of_memory: true,
    }))
}

/// An item of which nobody knows what became.
pub(super) fn lost(why: impl Into<String>) -> TaskError {
    TaskError::new(TaskFailure::Lost { why: why.into() })
}

/// An item that the pool will not run, because it stopped.
pub(super) fn stopped(stop: &Stop, may_have_started: bool) -> TaskError {
    let error = match stop {
        Stop::Terminated => TaskError::new(TaskFailure::Cancelled),
        Stop::Broken(error) => lost(error.to_string()),
    };
    error
        .with_may_have_started(may_have_started)
        .with_attempts(u32::from(may_have_started))
}

/// An item of a task's call for which there is no entry in the job table.
pub(super) fn no_entry() -> TaskError {
    lost(format!(
        "tasks of the pool wait for {NESTED} jobs of their own at once, which is as many as may be"
    ))
    .with_may_have_started(false)
    .with_attempts(0)
}

/// An item of a task's call that no worker will run.
pub(super) fn no_substitute(cause: &Cause) -> TaskError {
    lost(format!(
        "all workers of the pool wait for calls that their tasks have made on it, and no other could \
         be started: {}",
        cause.text()
    ))
}

/// A call whose caller has cancelled it.
pub(super) fn cancelled(may_have_started: bool) -> TaskError {
    TaskError::new(TaskFailure::Cancelled)
        .with_may_have_started(may_have_started)
        .with_attempts(u32::from(may_have_started))
}

/// A call that a closed pool refuses.
pub(super) fn closed() -> Error {
    Error::closed("the pool is closed: it takes no more calls")
}

/// The last reason why workers of a pool did not come to work.
#[derive(Debug, Default)]
pub(super) struct Cause(Mutex<Why>);

#[derive(Clone, Debug, Default)]
enum Why {
    #[default]
    Unknown,
    /// One ended before it had done anything.
    Ended(String),
    /// One could not be started.
    Refused(String),
}

impl Cause {
    pub(super) fn set(&self, text: String) {
        *self.lock() = Why::Ended(text);
    }

    pub(super) fn set_refused(&self, text: String) {
        *self.lock() = Why::Refused(text);
    }

    fn lock(&self) -> MutexGuard<'_, Why> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// What it is, in words.
    fn text(&self) -> String {
        match self.lock().clone() {
            Why::Unknown => "nobody knows why".to_owned(),
            Why::Ended(text) | Why::Refused(text) => text,
        }
    }

    /// The error of a pool that gave up.
    pub(super) fn error(&self) -> Error {
        let cause = self.text();
        let what = match *self.lock() {
            Why::Refused(_) => "it has no workers and none could be started",
            Why::Unknown | Why::Ended(_) => "its workers ended at once, again and again",
        };
        let text = format!("the pool stopped, because {what}: {cause}");
        Error::new(ErrorKind::NotStarted, text)
    }
}

/// How a worker that had no job ended, and when, in words.
pub(super) fn describe(who: &Who, ended: &Ended, when: &str) -> String {
    let Who { name, pid, .. } = who;
    let tail = match ended.stderr_tail.as_deref().map(str::trim_end) {
        Some(tail) if !tail.is_empty() => format!("\n\nend of its standard error:\n{tail}"),
        _ => String::new(),
    };
    if let Some(refused) = &ended.refused {
        return format!(
            "{name:?} (pid {pid}) refused to begin: {}{tail}",
            refused.trim_end()
        );
    }
    let how = how(ended);
    format!("{name:?} (pid {pid}) {how} {when}{tail}")
}

/// How a process ended, in words.
pub(super) fn how(ended: &Ended) -> String {
    match ended.status {
        Status::Exited(code) => format!("exited with code {code}"),
        Status::Signaled { signal, .. } => match crate::sys::signal::signal_name(signal) {
            Some(name) => format!("was killed by {name} ({signal})"),
            None => format!("was killed by signal {signal}"),
        },
        Status::Unknown => "ended, and something else in this program took its exit status".into(),
    }
}
