//! One small type for each operation of a queue.

use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::wire::codec::{EncodeError, EncodeErrorKind};

/// Why a value was not put or not got.
#[derive(Debug)]
pub enum Reason {
    /// The queue is closed.
    Closed,
    /// The deadline passed: what that means depends on the operation.
    TimedOut,
    /// The shared memory is used up.
    OutOfMemory,
    /// The value's `Serialize` refused, and what it said.
    NotEncoded(String),
    /// The value was taken, and cannot be decoded.
    NotDecoded(NotDecoded),
    /// `mp` does not work in this process.
    Failed(Error),
}

impl Reason {
    pub(crate) fn not_encoded(error: EncodeError) -> Self {
        match error.kind {
            EncodeErrorKind::Full => Self::OutOfMemory,
            EncodeErrorKind::Message(message) => Self::NotEncoded(message),
        }
    }

    /// The error that a task or `main` returns; what it says is the operation's.
    pub(crate) fn into_error(self, text: String) -> Error {
        match self {
            Self::Closed => Error::closed(text),
            Self::TimedOut => Error::new(ErrorKind::TimedOut, text),
            Self::OutOfMemory => Error::out_of_memory(text),
            Self::NotEncoded(_) => Error::not_encoded(text),
            Self::NotDecoded(_) => Error::new(ErrorKind::NotDecoded, text),
            Self::Failed(error) => error,
        }
    }
}

/// A value that was not put, and why.
#[derive(Debug)]
pub struct Put<T> {
    pub(crate) value: T,
    pub(crate) reason: Reason,
}

impl<T> Put<T> {
    /// A value, and why it was not put.
    pub fn new(value: T, reason: Reason) -> Self {
        Self { value, reason }
    }
}

/// The errors of putting and sending differ in their words, and in nothing else.
macro_rules! put_error {
    ($(#[$attribute:meta])* $name:ident, $timed_out:literal, $closed:literal, $used_up:literal) => {
        $(#[$attribute])*
        pub struct $name<T> {
            put: $crate::queue::error::Put<T>,
        }

        impl<T> $name<T> {
            /// The value, which went nowhere.
            pub fn into_inner(self) -> T {
                self.put.value
            }

            /// Whether it never will: the queue is closed, or the pipe's other end is gone.
            pub fn is_closed(&self) -> bool {
                matches!(self.put.reason, $crate::queue::error::Reason::Closed)
            }

            /// Whether the program's shared memory is used up.
            pub fn is_out_of_memory(&self) -> bool {
                matches!(self.put.reason, $crate::queue::error::Reason::OutOfMemory)
            }

            /// Whether the value could not be encoded.
            pub fn is_not_encoded(&self) -> bool {
                matches!(self.put.reason, $crate::queue::error::Reason::NotEncoded(_))
            }
        }

        impl<T> From<$name<T>> for $crate::Error {
            fn from(error: $name<T>) -> Self {
                let text = error.to_string();
                error.put.reason.into_error(text)
            }
        }

        impl<T> From<$crate::queue::error::Put<T>> for $name<T> {
            fn from(put: $crate::queue::error::Put<T>) -> Self {
                Self { put }
            }
        }

        impl<T> std::fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl<T> std::fmt::Display for $name<T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                use $crate::queue::error::Reason;
                match &self.put.reason {
                    Reason::Closed => f.write_str($closed),
                    Reason::TimedOut => f.write_str($timed_out),
                    Reason::OutOfMemory => f.write_str($used_up),
                    Reason::NotEncoded(why) => write!(f, "the value cannot be encoded: {why}"),
                    Reason::NotDecoded(error) => error.fmt(f),
                    Reason::Failed(error) => error.fmt(f),
                }
            }
        }

        impl<T> std::error::Error for $name<T> {}
    };
}

pub(crate) use put_error;

put_error! {
    /// Why [`Queue::put`](super::Queue::put) did not put its value, which it gives back.
    PutError,
    "the queue was full until the timeout",
    "the queue is closed: nothing more can be put",
    "the program's shared memory is used up: get some values first, or bound the queue"
}
put_error! {
    /// Why [`Queue::try_put`](super::Queue::try_put) did not put its value, which it gives back.
    TryPutError,
    "the queue is full",
    "the queue is closed: nothing more can be put",
    "the program's shared memory is used up: get some values first, or bound the queue"
}
put_error! {
    /// Why [`Queue::put_timeout`](super::Queue::put_timeout) did not put its value, which it gives
    /// back.
    PutTimeoutError,
    "the queue was full until the timeout",
    "the queue is closed: nothing more can be put",
    "the program's shared memory is used up: get some values first, or bound the queue"
}

impl<T> TryPutError<T> {
    /// Whether a bounded queue was full.
    pub fn is_full(&self) -> bool {
        matches!(self.put.reason, Reason::TimedOut)
    }
}

impl<T> PutTimeoutError<T> {
    /// Whether a bounded queue was full all the time.
    pub fn is_timeout(&self) -> bool {
        matches!(self.put.reason, Reason::TimedOut)
    }
}

/// A value that was taken and could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotDecoded {
    why: String,
    bytes: Vec<u8>,
}

impl NotDecoded {
    pub(crate) fn new(why: String, bytes: Vec<u8>) -> Self {
        Self { why, bytes }
    }

    /// The value as it was encoded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for NotDecoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a value of {} bytes was taken and cannot be decoded: {}",
            self.bytes.len(),
            self.why
        )
    }
}

impl std::error::Error for NotDecoded {}

/// The errors of getting and receiving differ in their words, and in what a passed deadline means.
macro_rules! get_error {
    ($(#[$attribute:meta])* $name:ident, $closed:literal {
        $($(#[$variant_attribute:meta])* $timed_out:ident: $text:literal)?
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_attribute])* $timed_out,)?
            /// Nothing is left, and nothing more comes: the queue is closed, or the pipe's other end
            /// is gone.
            Closed,
            /// The value could not be decoded; it is consumed.
            NotDecoded($crate::NotDecoded),
            /// `mp` does not work in this process.
            Failed($crate::Error),
        }

        impl From<$crate::queue::error::Reason> for $name {
            fn from(reason: $crate::queue::error::Reason) -> Self {
                use $crate::queue::error::Reason;
                match reason {
                    $(Reason::TimedOut => Self::$timed_out,)?
                    Reason::NotDecoded(error) => Self::NotDecoded(error),
                    Reason::Failed(error) => Self::Failed(error),
                    _ => Self::Closed,
                }
            }
        }

        impl From<$name> for $crate::Error {
            fn from(error: $name) -> Self {
                use $crate::queue::error::Reason;
                let text = error.to_string();
                let reason = match error {
                    $($name::$timed_out => Reason::TimedOut,)?
                    $name::Closed => Reason::Closed,
                    $name::NotDecoded(error) => Reason::NotDecoded(error),
                    $name::Failed(error) => Reason::Failed(error),
                };
                reason.into_error(text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$timed_out => f.write_str($text),)?
                    Self::Closed => f.write_str($closed),
                    Self::NotDecoded(error) => error.fmt(f),
                    Self::Failed(error) => error.fmt(f),
                }
            }
        }

        impl std::error::Error for $name {}
    };
}
pub(crate) use get_error;

get_error! {
    /// Why [`Queue::get`](super::Queue::get) gave no value.
    GetError, "the queue is closed and empty" {}
}
get_error! {
    /// Why [`Queue::try_get`](super::Queue::try_get) gave no value.
    TryGetError, "the queue is closed and empty" {
        /// There is nothing in the queue.
        Empty: "the queue is empty"
    }
}
get_error! {
    /// Why [`Queue::get_timeout`](super::Queue::get_timeout) gave no value.
    GetTimeoutError, "the queue is closed and empty" {
        /// There was nothing in the queue until the timeout.
        Timeout: "the queue was empty until the timeout"
    }
}

impl From<NotDecoded> for GetError {
    fn from(error: NotDecoded) -> Self {
        Self::NotDecoded(error)
    }
}

/// Why [`Queue::get_many`](super::Queue::get_many) did not give all its values, and those it has.
pub struct GetManyError<T> {
    values: Vec<T>,
    reason: GetError,
}

impl<T> GetManyError<T> {
    pub(crate) fn new(values: Vec<T>, reason: GetError) -> Self {
        Self { values, reason }
    }

    /// The values that were got.
    pub fn into_values(self) -> Vec<T> {
        self.values
    }

    /// What was wrong.
    pub fn reason(&self) -> &GetError {
        &self.reason
    }
}

impl<T> fmt::Debug for GetManyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "GetManyError({} values, {})",
            self.values.len(),
            self.reason
        )
    }
}

impl<T> fmt::Display for GetManyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<T> std::error::Error for GetManyError<T> {}

/// [`Queue::task_done`](super::Queue::task_done) was called more often than items were put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDoneError(pub(super) ());

impl fmt::Display for TaskDoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("task_done was called more often than items were put")
    }
}

impl std::error::Error for TaskDoneError {}

/// Why [`Queue::join_timeout`](super::Queue::join_timeout) did not see all items done.
#[derive(Clone, Debug)]
pub struct JoinTimeoutError(Result<u64, Error>);

impl JoinTimeoutError {
    pub(crate) fn timeout(left: u64) -> Self {
        Self(Ok(left))
    }

    pub(crate) fn failed(error: Error) -> Self {
        Self(Err(error))
    }

    /// How many items were not done in time.
    pub fn unfinished(&self) -> u64 {
        *self.0.as_ref().unwrap_or(&0)
    }
}

impl fmt::Display for JoinTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(left) => write!(f, "{left} items were not done until the timeout"),
            Err(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for JoinTimeoutError {}

/// The error of [`Queue::join_timeout`](super::Queue::join_timeout) with so many items left.
pub fn join_timed_out(left: u64) -> JoinTimeoutError {
    JoinTimeoutError::timeout(left)
}

/// The error of [`Queue::join_timeout`](super::Queue::join_timeout) that it did not work.
pub fn join_failed(error: Error) -> JoinTimeoutError {
    JoinTimeoutError::failed(error)
}

/// The error of [`Queue::task_done`](super::Queue::task_done).
pub fn too_often_done() -> TaskDoneError {
    TaskDoneError(())
}

// From each error to the one that a task or `main` returns.

impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        let text = match &reason {
            Reason::Closed => "the queue is closed".to_owned(),
            Reason::TimedOut => "the queue was full, or empty, until the timeout".to_owned(),
            Reason::OutOfMemory => {
                "the program's shared memory is used up: get some values first, \
                                    or bound the queue"
                    .to_owned()
            }
            Reason::NotEncoded(why) => format!("the value cannot be encoded: {why}"),
            Reason::NotDecoded(error) => error.to_string(),
            Reason::Failed(_) => String::new(),
        };
        reason.into_error(text)
    }
}

impl<T> From<GetManyError<T>> for Error {
    fn from(error: GetManyError<T>) -> Self {
        error.reason.into()
    }
}

impl From<TaskDoneError> for Error {
    fn from(error: TaskDoneError) -> Self {
        Self::new(ErrorKind::Other, error.to_string())
    }
}

impl From<JoinTimeoutError> for Error {
    fn from(error: JoinTimeoutError) -> Self {
        let text = error.to_string();
        error
            .0
            .err()
            .unwrap_or_else(|| Self::new(ErrorKind::TimedOut, text))
    }
}
