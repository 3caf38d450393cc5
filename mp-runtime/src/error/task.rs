//! What happened to one task, and to the process it ran in.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sys::signal::{CPU_TIME, signal_name};

/// A task did not return: what happened to it, where, and in which process.
///
/// A task's own `Err` is no `TaskError`: it is the value that the task returned.
///
/// `{}` is one line; `{:#}` and `{:?}` add the backtrace of a panic and the end of the process's
/// standard error, as far as they were kept.
#[derive(Clone, Serialize, Deserialize)]
pub struct TaskError(Box<Repr>);

#[derive(Clone, Serialize, Deserialize)]
struct Repr {
    failure: TaskFailure,
    task: String,
    index: Option<u64>,
    process: Option<String>,
    pid: Option<u32>,
    attempts: u32,
    may_have_started: bool,
    stderr_tail: Option<String>,
    out_of_memory: bool,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum TaskFailure {
    /// It panicked.
    Panic(PanicInfo),
    /// Its process exited by itself.
    Exit { code: i32 },
    /// A signal ended its process.
    Signal { signal: i32, core: bool },
    /// Its process ended, but somebody else took the status.
    UnknownStatus,
    /// It was never handed to a process.
    NotStarted { why: String },
    /// It was stopped because its time was over.
    TimedOut { limit: Option<Duration> },
    /// It was stopped because somebody asked for it.
    Cancelled,
    /// Nobody knows what became of it.
    Lost { why: String },
    /// An argument or its result could not be encoded.
    NotEncoded(Refusal),
    /// An argument or its result could not be decoded.
    NotDecoded(Refusal),
    /// It returned an error where nobody takes its result, as an initializer.
    Failed { error: String },
    /// Whatever machine ran it ended, or was cut off.
    MachinesLost { why: String },
}

/// A panic, as data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PanicInfo {
    pub(crate) message: String,
    /// File, line and column.
    pub(crate) place: Option<(String, u32, u32)>,
    pub(crate) backtrace: Option<String>,
}

/// A value that could not be encoded or decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// Which value, with its type: `argument "row" (of type app::Row)`.
    pub(crate) what: String,
    /// What serde said.
    pub(crate) why: String,
    /// How its bytes begin, if there were any.
    pub(crate) bytes: Vec<u8>,
    /// Whether there was no shared memory left for it.
    pub(crate) out_of_memory: bool,
}

impl TaskError {
    /// Whether the task panicked; then [`message`](Self::message), [`file`](Self::file),
    /// [`line`](Self::line) and [`backtrace`](Self::backtrace) say what and where.
    pub fn is_panic(&self) -> bool {
        matches!(self.0.failure, TaskFailure::Panic(_))
    }

    /// Whether the task's process ended under it: by a signal, or because something called
    /// [`exit`](std::process::exit). On other machines also if those that ran it were lost, one after
    /// the other.
    pub fn is_crash(&self) -> bool {
        matches!(
            self.0.failure,
            TaskFailure::Exit { .. }
                | TaskFailure::Signal { .. }
                | TaskFailure::UnknownStatus
                | TaskFailure::MachinesLost { .. }
        )
    }

    /// Whether one machine after the other was lost that ran it.
    pub(crate) fn is_of_machines(&self) -> bool {
        matches!(self.0.failure, TaskFailure::MachinesLost { .. })
    }

    /// Whether the task was stopped because its time was over.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.failure, TaskFailure::TimedOut { .. })
    }

    /// Whether the task was cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0.failure, TaskFailure::Cancelled)
    }

    /// Whether nobody knows what became of the task.
    pub fn is_lost(&self) -> bool {
        matches!(self.0.failure, TaskFailure::Lost { .. })
    }

    /// Whether the task was never handed to a process.
    pub fn is_not_started(&self) -> bool {
        matches!(self.0.failure, TaskFailure::NotStarted { .. })
    }

    /// Whether an argument or the result could not be encoded.
    pub fn is_not_encoded(&self) -> bool {
        matches!(self.0.failure, TaskFailure::NotEncoded(_))
    }

    /// Whether an argument or the result could not be decoded.
    pub fn is_not_decoded(&self) -> bool {
        matches!(self.0.failure, TaskFailure::NotDecoded(_))
    }

    /// Whether there is a sign that memory was used up: the task probably needs more than there is.
    pub fn is_out_of_memory(&self) -> bool {
        self.0.out_of_memory
    }

    /// The message of the panic, or the reason why the task was not started, was lost, or its
    /// values could not be sent.
    pub fn message(&self) -> Option<&str> {
        match &self.0.failure {
            TaskFailure::Panic(panic) => Some(&panic.message),
            TaskFailure::NotStarted { why }
            | TaskFailure::Lost { why }
            | TaskFailure::MachinesLost { why } => Some(why),
            TaskFailure::NotEncoded(refusal) | TaskFailure::NotDecoded(refusal) => {
                Some(&refusal.why)
            }
            _ => None,
        }
    }

    fn panic(&self) -> Option<&PanicInfo> {
        match &self.0.failure {
            TaskFailure::Panic(panic) => Some(panic),
            _ => None,
        }
    }

    /// The source file in which the task panicked.
    pub fn file(&self) -> Option<&str> {
        let (file, ..) = self.panic()?.place.as_ref()?;
        Some(file)
    }

    /// The line in which the task panicked.
    pub fn line(&self) -> Option<u32> {
        let (_, line, _) = self.panic()?.place.as_ref()?;
        Some(*line)
    }

    /// The column at which the task panicked.
    pub fn column(&self) -> Option<u32> {
        let (.., column) = self.panic()?.place.as_ref()?;
        Some(*column)
    }

    /// The backtrace of the panic, where `RUST_BACKTRACE` asks for one.
    pub fn backtrace(&self) -> Option<&str> {
        self.panic()?.backtrace.as_deref()
    }

    /// The signal that ended the task's process.
    pub fn signal(&self) -> Option<i32> {
        match self.0.failure {
            TaskFailure::Signal { signal, .. } => Some(signal),
            _ => None,
        }
    }

    /// Whether the task's process left a core dump.
    pub fn core_dumped(&self) -> bool {
        matches!(self.0.failure, TaskFailure::Signal { core: true, .. })
    }

    /// The code with which the task's process exited.
    pub fn exit_code(&self) -> Option<i32> {
        match self.0.failure {
            TaskFailure::Exit { code } => Some(code),
            _ => None,
        }
    }

    /// How the bytes begin that could not be decoded.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.0.failure {
            TaskFailure::NotDecoded(refusal) => Some(&refusal.bytes),
            _ => None,
        }
    }

    /// The task's name.
    pub fn task(&self) -> &str {
        &self.0.task
    }

    /// The item's place in the input, counted from 0, where there was an input of many.
    pub fn index(&self) -> Option<u64> {
        self.0.index
    }

    /// The name of the process or worker.
    pub fn process(&self) -> Option<&str> {
        self.0.process.as_deref()
    }

    /// The process id of the process or worker.
    pub fn pid(&self) -> Option<u32> {
        self.0.pid
    }

    /// How often the task was handed to a process.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Whether the task's code may have begun to run, so that it may have had effects.
    pub fn may_have_started(&self) -> bool {
        self.0.may_have_started
    }

    /// The end of what the process wrote to its standard error, where that was captured.
    pub fn stderr_tail(&self) -> Option<&str> {
        self.0.stderr_tail.as_deref()
    }
}

/// A failure, and then what is known about it.
impl TaskError {
    #[cold]
    pub(crate) fn new(failure: TaskFailure) -> Self {
        let may_have_started = match &failure {
            TaskFailure::NotStarted { .. } => false,
            TaskFailure::NotDecoded(refusal) => !refusal.is_of_argument(),
            _ => true,
        };
        let out_of_memory = match &failure {
            TaskFailure::NotEncoded(refusal) => refusal.out_of_memory,
            TaskFailure::Panic(panic) => says_out_of_memory(&panic.message),
            _ => false,
        };
        Self(Box::new(Repr {
            failure,
            task: String::new(),
            index: None,
            process: None,
            pid: None,
            attempts: u32::from(may_have_started),
            may_have_started,
            stderr_tail: None,
            out_of_memory,
        }))
    }

    pub(crate) fn with_task(mut self, name: impl Into<String>) -> Self {
        self.0.task = name.into();
        self
    }

    pub(crate) fn with_index(mut self, index: u64) -> Self {
        self.0.index = Some(index);
        self
    }

    pub(crate) fn with_process(mut self, name: impl Into<String>, pid: u32) -> Self {
        self.0.process = Some(name.into());
        self.0.pid = Some(pid);
        self
    }

    pub(crate) fn with_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    pub(crate) fn with_may_have_started(mut self, may_have_started: bool) -> Self {
        self.0.may_have_started = may_have_started;
        self
    }

    pub(crate) fn with_stderr_tail(mut self, tail: impl Into<String>) -> Self {
        self.0.stderr_tail = Some(tail.into());
        self
    }

    /// Notes a sign that memory was used up.
    pub(crate) fn with_out_of_memory(mut self) -> Self {
        self.0.out_of_memory = true;
        self
    }
}

/// Whether the message of a panic is that of an allocation, a mapping or a thread for which there was
/// no memory: std's errors say so.
fn says_out_of_memory(message: &str) -> bool {
    message.contains("memory allocation failed because the memory allocator returned an error")
        || message.contains("Cannot allocate memory (os error 12)")
        || message.contains("TryReserveError { kind: AllocError")
        || message.contains("Os { code: 12, kind: OutOfMemory")
}

impl Refusal {
    pub(crate) fn argument(name: &str, type_name: &str, why: impl Into<String>) -> Self {
        Self {
            what: format!("argument \"{name}\" (of type {type_name})"),
            why: why.into(),
            ..Self::default()
        }
    }

    pub(crate) fn result(type_name: &str, why: impl Into<String>) -> Self {
        Self {
            what: format!("result (of type {type_name})"),
            why: why.into(),
            ..Self::default()
        }
    }

    fn is_of_argument(&self) -> bool {
        self.what.starts_with("argument")
    }
}

impl TaskError {
    /// Writes `its process "Worker-2" (pid 4711)`, as far as it is known.
    fn write_process(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its process")?;
        if let Some(name) = self.process() {
            write!(f, " {name:?}")?;
        }
        match self.pid() {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }

    /// Writes ` (in "Worker-2", pid 4711, after 3 attempts)`, as far as there is something to say.
    fn write_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a crash or a timeout says already names the process.
        let names_process = self.is_crash() || self.is_timeout();
        let mut parts = Vec::new();
        if !names_process {
            parts.extend(self.process().map(|name| format!("in {name:?}")));
            parts.extend(self.pid().map(|pid| format!("pid {pid}")));
        }
        if self.0.attempts > 1 {
            let given_up = if self.is_crash() { "given up " } else { "" };
            parts.push(format!("{given_up}after {} attempts", self.0.attempts));
        }
        match parts.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", parts.join(", ")),
        }
    }

    /// Writes the one line.
    fn write_line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.task.as_str() {
            "" => f.write_str("a task")?,
            name => write!(f, "task {name:?}")?,
        }
        if let Some(index) = self.0.index {
            write!(f, " (item {index})")?;
        }
        match &self.0.failure {
            TaskFailure::Panic(panic) => {
                f.write_str(" panicked")?;
                if let Some((file, line, column)) = &panic.place {
                    write!(f, " at {file}:{line}:{column}")?;
                }
                write!(f, ": {}", panic.message)?;
            }
            TaskFailure::Exit { code } => {
                f.write_str(" crashed: ")?;
                self.write_process(f)?;
                write!(f, " exited with code {code} before the task returned")?;
            }
            TaskFailure::Signal { signal, core } => {
                f.write_str(" crashed: ")?;
                self.write_process(f)?;
                match signal_name(*signal) {
                    Some(name) => write!(f, " was killed by {name} ({signal})")?,
                    None => write!(f, " was killed by signal {signal}")?,
                }
                if *core {
                    f.write_str(", core dumped")?;
                }
                if *signal == CPU_TIME {
                    f.write_str(", its CPU time used up")?;
                }
            }
            TaskFailure::UnknownStatus => {
                f.write_str(" crashed: ")?;
                self.write_process(f)?;
                f.write_str(" ended, and something else in this program took its exit status")?;
            }
            TaskFailure::NotStarted { why } => write!(f, " was not started: {why}")?,
            TaskFailure::TimedOut { limit } => {
                f.write_str(" ran out of time")?;
                if let Some(limit) = limit {
                    write!(f, " ({limit:?})")?;
                }
                f.write_str(": ")?;
                self.write_process(f)?;
                f.write_str(" was killed")?;
            }
            TaskFailure::Cancelled => f.write_str(" was cancelled")?,
            TaskFailure::Lost { why } => write!(f, " was lost: {why}")?,
            TaskFailure::MachinesLost { why } => write!(f, " crashed: {why}")?,
            TaskFailure::Failed { error } => write!(f, " failed: {error}")?,
            TaskFailure::NotEncoded(Refusal { what, why, .. }) => {
                write!(f, ": its {what} can't be sent: {why}")?;
            }
            TaskFailure::NotDecoded(Refusal { what, why, .. }) => {
                write!(f, ": its {what} can't be decoded: {why}")?;
            }
        }
        // Where the text itself has not said so.
        if self.0.out_of_memory && !self.is_not_encoded() {
            f.write_str(", probably out of memory")?;
        }
        self.write_place(f)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_line(f)?;
        if f.alternate() {
            if let Some(backtrace) = self.backtrace() {
                write!(f, "\n\nbacktrace of the task:\n{}", backtrace.trim_end())?;
            }
            if let Some(tail) = self.stderr_tail() {
                write!(f, "\n\nend of its standard error:\n{}", tail.trim_end())?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")
    }
}

impl StdError for TaskError {}

#[cfg(test)]
mod tests {
    use super::super::tests::sent;
    use super::*;

    fn worker(failure: TaskFailure) -> TaskError {
        TaskError::new(failure)
            .with_task("app::parse")
            .with_process("Worker-2", 4711)
    }

    fn panic() -> TaskFailure {
        TaskFailure::Panic(PanicInfo {
            message: "boom".to_owned(),
            place: Some(("src/main.rs".to_owned(), 10, 5)),
            backtrace: Some("0: main".to_owned()),
        })
    }

    #[test]
    fn text_says_which_task_where_and_why() {
        let segv = TaskFailure::Signal {
            signal: 11,
            core: false,
        };
        let limit = Some(Duration::from_secs(30));
        let refusal = Refusal::argument("row", "app::Row", "not a map");
        let cases = [
            (
                worker(panic()),
                r#"task "app::parse" panicked at src/main.rs:10:5: boom (in "Worker-2", pid 4711)"#,
            ),
            (
                worker(segv.clone()).with_index(37),
                r#"task "app::parse" (item 37) crashed: its process "Worker-2" (pid 4711) was killed by SIGSEGV (11)"#,
            ),
            (
                worker(segv).with_attempts(3).with_out_of_memory(),
                r#"task "app::parse" crashed: its process "Worker-2" (pid 4711) was killed by SIGSEGV (11), probably out of memory (given up after 3 attempts)"#,
            ),
            (
                worker(TaskFailure::Exit { code: 3 }),
                r#"task "app::parse" crashed: its process "Worker-2" (pid 4711) exited with code 3 before the task returned"#,
            ),
            (
                worker(TaskFailure::TimedOut { limit }),
                r#"task "app::parse" ran out of time (30s): its process "Worker-2" (pid 4711) was killed"#,
            ),
            (
                worker(TaskFailure::NotDecoded(refusal)),
                r#"task "app::parse": its argument "row" (of type app::Row) can't be decoded: not a map (in "Worker-2", pid 4711)"#,
            ),
            (
                TaskError::new(TaskFailure::Cancelled),
                "a task was cancelled",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
            assert_eq!(sent(&error).to_string(), text);
        }
    }

    #[test]
    fn details_come_in_the_long_forms_only() {
        let error = worker(panic()).with_stderr_tail("warning: x\n");
        assert_eq!(error.to_string().lines().count(), 1);
        for long in [format!("{error:#}"), format!("{error:?}")] {
            assert!(
                long.contains("0: main") && long.ends_with("warning: x"),
                "{long}"
            );
        }
    }

    #[test]
    fn getters_give_what_is_known() {
        let error = sent(&worker(panic()).with_index(2).with_attempts(2));
        assert!(error.is_panic() && !error.is_crash());
        assert_eq!(error.message(), Some("boom"));
        assert_eq!(error.file(), Some("src/main.rs"));
        assert_eq!((error.line(), error.column()), (Some(10), Some(5)));
        assert_eq!(error.index(), Some(2));
        assert_eq!(
            (error.process(), error.pid()),
            (Some("Worker-2"), Some(4711))
        );
        assert_eq!((error.signal(), error.exit_code()), (None, None));
    }

    #[test]
    fn arguments_are_decoded_before_the_task_starts() {
        let started = |refusal| TaskError::new(TaskFailure::NotDecoded(refusal)).may_have_started();
        assert!(!started(Refusal::argument("a", "u8", "")));
        assert!(started(Refusal::result("u8", "")));
    }
}
