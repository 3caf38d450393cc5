//! What `mp` reports when something fails.
//!
//! - [`Error`], here: an operation of `mp` failed.
//! - [`task`]: what happened to one task, and to the process it ran in.
//! - [`any`]: any error, as data that can be sent, for tasks that use `?`.

mod any;
mod task;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::any::AnyError;
use self::any::Link;
pub use self::task::TaskError;
pub(crate) use self::task::{PanicInfo, Refusal, TaskFailure};

/// A `Result` whose error, unless another is given, is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation of `mp` failed.
///
/// The text says which task and which process, and what to do; [`source`](StdError::source) has the
/// cause, and the predicates tell the situations apart. It can be sent to another process, so a
/// task may return it.
///
/// `{:#}` and `{:?}` add what the one line of `{}` leaves out: the causes, and of a failed task the
/// backtrace and the end of its standard error.
#[derive(Clone, Serialize, Deserialize)]
pub struct Error(Box<Repr>);

#[derive(Clone, Serialize, Deserialize)]
struct Repr {
    kind: ErrorKind,
    text: String,
    cause: Option<Cause>,
}

/// The situations that a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ErrorKind {
    /// The function is not a task, or no task has that name.
    UnknownTask,
    /// Two tasks have that name.
    AmbiguousTask,
    /// The other process runs another executable.
    WrongBuild,
    /// This process is a child that has not been taken over.
    NotTakenOver,
    /// Shared memory, or the system's, is used up.
    OutOfMemory,
    /// The platform or the system lacks something.
    Unsupported,
    /// The queue, pipe or pool is closed.
    Closed,
    /// A documented limit of `mp` is reached.
    Limit,
    /// This process is a copy made by `fork`.
    Forked,
    /// The time given is over.
    TimedOut,
    /// The other side of a connection was refused, or refused us.
    Refused,
    /// A process died that held what is asked for.
    OwnerDied,
    /// A value could not be encoded.
    NotEncoded,
    /// A value could not be decoded.
    NotDecoded,
    /// A process could not be started.
    NotStarted,
    /// The operating system refused something.
    System,
    /// Other machines cannot be reached, or refuse us.
    Cluster,
    /// A task failed.
    Task,
    /// An error of the user's, see [`AnyError`].
    Other,
}

/// What [`Error`] has as its source.
#[derive(Clone, Serialize, Deserialize)]
enum Cause {
    Io(IoCause),
    Chain(Link),
    Task(TaskError),
}

impl Error {
    /// Whether the workers of other machines could not be reached, or refused us.
    pub fn is_cluster(&self) -> bool {
        self.0.kind == ErrorKind::Cluster
    }

    /// Whether the function is not a task, or no task of this program has that name.
    pub fn is_unknown_task(&self) -> bool {
        self.0.kind == ErrorKind::UnknownTask
    }

    /// Whether two tasks of this program have the same name.
    pub fn is_ambiguous_task(&self) -> bool {
        self.0.kind == ErrorKind::AmbiguousTask
    }

    /// Whether the executable was replaced while the program ran, so that a child would be another
    /// program.
    pub fn is_wrong_build(&self) -> bool {
        self.0.kind == ErrorKind::WrongBuild
    }

    /// Whether the program's shared memory or the system's memory is used up; also if it is a task or
    /// a call that failed and there is a [sign](TaskError::is_out_of_memory) of that.
    pub fn is_out_of_memory(&self) -> bool {
        self.0.kind == ErrorKind::OutOfMemory
            || self.task().is_some_and(TaskError::is_out_of_memory)
    }

    /// Whether the platform lacks something that the operation needs.
    pub fn is_unsupported(&self) -> bool {
        self.0.kind == ErrorKind::Unsupported
    }

    /// Whether the queue, pipe or pool is closed.
    pub fn is_closed(&self) -> bool {
        self.0.kind == ErrorKind::Closed
    }

    /// Whether one of the documented limits of `mp` is reached.
    pub fn is_limit(&self) -> bool {
        self.0.kind == ErrorKind::Limit
    }

    /// Whether this process is a copy made by `fork`, in which `mp` does not work.
    pub fn is_forked(&self) -> bool {
        self.0.kind == ErrorKind::Forked
    }

    /// Whether the time given to the operation is over; a task that ran out of its own time is told
    /// by [`TaskError::is_timeout`].
    pub fn is_timeout(&self) -> bool {
        self.0.kind == ErrorKind::TimedOut
    }

    /// Whether the other side of a connection between programs was refused, or refused us: it has
    /// another key, is no `mp` program, or one of another version.
    pub fn is_refused(&self) -> bool {
        self.0.kind == ErrorKind::Refused
    }

    /// Whether a process died that held what the operation needs.
    pub fn is_owner_died(&self) -> bool {
        self.0.kind == ErrorKind::OwnerDied
    }

    /// Whether a value could not be encoded to be sent.
    pub fn is_not_encoded(&self) -> bool {
        self.0.kind == ErrorKind::NotEncoded
    }

    /// Whether a value that arrived could not be decoded.
    pub fn is_not_decoded(&self) -> bool {
        self.0.kind == ErrorKind::NotDecoded
    }

    /// Whether a process could not be started.
    pub fn is_not_started(&self) -> bool {
        self.0.kind == ErrorKind::NotStarted
    }

    /// Whether no process was started because the fork server died before it had made it: another
    /// server may.
    pub(crate) fn is_server_gone(&self) -> bool {
        let kind = match &self.0.cause {
            Some(Cause::Io(IoCause(error))) => Some(error.kind()),
            _ => None,
        };
        self.is_not_started() && kind == Some(io::ErrorKind::ConnectionAborted)
    }

    /// What happened to the task, if it is a task's failure that led here.
    pub fn task(&self) -> Option<&TaskError> {
        match &self.0.cause {
            Some(Cause::Task(task)) => Some(task),
            _ => None,
        }
    }
}

/// One constructor a situation; each owner of an operation words its own text.
impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self(Box::new(Repr {
            kind,
            text,
            cause: None,
        }))
    }

    fn with(mut self, cause: Cause) -> Self {
        self.0.cause = Some(cause);
        self
    }

    /// Adds the failure of a task that led here.
    pub(crate) fn because_of(self, task: TaskError) -> Self {
        self.with(Cause::Task(task))
    }

    /// The operating system refused what `text` names.
    pub(crate) fn system(text: impl Into<String>, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::System,
        };
        Self::new(kind, text).with(Cause::Io(IoCause(Arc::new(error))))
    }

    /// Shared memory could not be made or mapped.
    pub(crate) fn memory(text: impl Into<String>, error: io::Error) -> Self {
        Self::system(text, error)
    }

    /// A process could not be started.
    pub(crate) fn not_started(text: impl Into<String>, error: io::Error) -> Self {
        let mut made = Self::system(text, error);
        if made.0.kind == ErrorKind::System {
            made.0.kind = ErrorKind::NotStarted;
        }
        made
    }

    pub(crate) fn unknown_task(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::UnknownTask, text)
    }

    pub(crate) fn wrong_build(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::WrongBuild, text)
    }

    pub(crate) fn not_taken_over() -> Self {
        Self::new(
            ErrorKind::NotTakenOver,
            "this process is a child of mp that has not been taken over: call `mp::init()` first \
             in `main`, before anything else uses mp",
        )
    }

    pub(crate) fn isolated() -> Self {
        Self::unsupported(
            "this process is an isolated worker, which shares no memory with its program: it has no \
             queues, locks and pools, and starts no processes",
        )
    }

    pub(crate) fn out_of_memory(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::OutOfMemory, text)
    }

    pub(crate) fn unsupported(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, text)
    }

    pub(crate) fn closed(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Closed, text)
    }

    pub(crate) fn limit(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, text)
    }

    pub(crate) fn too_many_objects() -> Self {
        Self::limit("no room for another shared object: drop queues, locks or values first")
    }

    pub(crate) fn forked() -> Self {
        Self::new(
            ErrorKind::Forked,
            "this process is a copy made by fork, in which mp does not work: use `mp::Process`",
        )
    }

    pub(crate) fn in_fork_server() -> Self {
        Self::new(
            ErrorKind::NotTakenOver,
            "this is the fork server, in which mp does not work: have the task that is preloaded do \
             without it",
        )
    }

    pub(crate) fn not_encoded(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotEncoded, text)
    }
}

impl From<TaskError> for Error {
    fn from(task: TaskError) -> Self {
        Self::new(ErrorKind::Task, "").because_of(task)
    }
}

impl From<AnyError> for Error {
    fn from(error: AnyError) -> Self {
        let Link { text, source } = error.into_link();
        let made = Self::new(ErrorKind::Other, text);
        match source {
            Some(source) => made.with(Cause::Chain(*source)),
            None => made,
        }
    }
}

impl Error {
    /// The task's failure, where it is all there is to say.
    fn only_task(&self) -> Option<&TaskError> {
        self.task().filter(|_| self.0.kind == ErrorKind::Task)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = self.only_task() {
            return task.fmt(f);
        }
        f.write_str(&self.0.text)?;
        if f.alternate() {
            write_causes(f, self.source())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = self.only_task() {
            return fmt::Debug::fmt(task, f);
        }
        f.write_str(&self.0.text)?;
        match self.task() {
            Some(task) => write!(f, "\n\ncaused by: {task:?}"),
            None => list_causes(f, self.source()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.0.cause.as_ref()? {
            Cause::Io(cause) => Some(&*cause.0),
            Cause::Chain(link) => Some(link),
            // A task's failure that is all there is to say is this error itself.
            Cause::Task(_) if self.0.kind == ErrorKind::Task => None,
            Cause::Task(task) => Some(task),
        }
    }
}

/// Writes `: cause` for every cause, on the same line.
fn write_causes(f: &mut fmt::Formatter<'_>, first: Option<&dyn StdError>) -> fmt::Result {
    causes(first).try_for_each(|cause| write!(f, ": {cause}"))
}

/// Writes a line for every cause.
fn list_causes(f: &mut fmt::Formatter<'_>, first: Option<&dyn StdError>) -> fmt::Result {
    if first.is_some() {
        f.write_str("\n\ncaused by:")?;
    }
    causes(first).try_for_each(|cause| write!(f, "\n    {cause}"))
}

/// How many causes are told: a chain without end is somebody's mistake.
const MAX_CAUSES: usize = 64;

fn causes(first: Option<&dyn StdError>) -> impl Iterator<Item = &dyn StdError> {
    std::iter::successors(first, |error| (*error).source()).take(MAX_CAUSES)
}

/// An [`io::Error`] that can be cloned and sent; another process sees its code, or else its text.
#[derive(Clone)]
struct IoCause(Arc<io::Error>);

impl Serialize for IoCause {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let text = match self.0.raw_os_error() {
            Some(_) => String::new(),
            None => self.0.to_string(),
        };
        (self.0.raw_os_error(), text).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for IoCause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (code, text) = <(Option<i32>, String)>::deserialize(deserializer)?;
        Ok(Self(Arc::new(match code {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(text),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::buffer::Buffer;
    use crate::wire::codec;

    pub(super) fn sent<T: Serialize + serde::de::DeserializeOwned + 'static>(value: &T) -> T {
        let mut out = Buffer::new();
        codec::encode(value, &mut out).unwrap();
        codec::decode(&mut out.as_slice()).unwrap()
    }

    fn refused() -> Error {
        Error::system("could not start \"w1\"", io::Error::from_raw_os_error(2))
    }

    #[test]
    fn error_is_one_word_wide_and_can_go_anywhere() {
        fn anywhere<T: Send + Sync + Clone + StdError + Serialize + 'static>() {}
        anywhere::<Error>();
        anywhere::<TaskError>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn cause_is_the_source_and_not_repeated_in_the_text() {
        let error = refused();
        assert_eq!(error.to_string(), "could not start \"w1\"");
        let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.raw_os_error(), Some(2));
        assert_eq!(
            format!("{error:#}"),
            format!("could not start \"w1\": {cause}")
        );
        assert!(format!("{error:?}").ends_with(&format!("caused by:\n    {cause}")));
    }

    #[test]
    fn os_code_survives_sending() {
        let error = sent(&refused());
        let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn text_of_an_io_error_without_code_survives_sending() {
        let error = sent(&Error::system("no map", io::Error::other("why not")));
        assert_eq!(error.source().unwrap().to_string(), "why not");
    }

    #[test]
    fn kind_follows_the_cause() {
        let error = |kind: io::ErrorKind| Error::system("", kind.into());
        assert!(error(io::ErrorKind::OutOfMemory).is_out_of_memory());
        assert!(error(io::ErrorKind::Unsupported).is_unsupported());
        assert!(Error::not_started("", io::ErrorKind::NotFound.into()).is_not_started());
    }

    #[test]
    fn failed_task_speaks_for_itself() {
        let task = TaskError::new(TaskFailure::Cancelled).with_task("app::f");
        let error = Error::from(task.clone());
        assert_eq!(error.to_string(), task.to_string());
        assert!(error.source().is_none());
        assert!(error.task().unwrap().is_cancelled());
    }

    #[test]
    fn task_that_led_to_an_error_is_its_source() {
        let task = TaskError::new(TaskFailure::Cancelled);
        let error = Error::closed("the pool stopped").because_of(task);
        assert!(error.is_closed() && error.task().is_some());
        assert!(error.source().unwrap().is::<TaskError>());
    }
}
