//! One small type for each operation of a connection.

use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::queue::error::{Reason, get_error, put_error};

put_error! {
    /// Why [`Connection::send`](super::Connection::send) did not send its value, which it gives back.
    SendError,
    "the pipe was full until the timeout",
    "the other end of the pipe is gone: nobody would receive it",
    "the program's shared memory is used up: have some messages received first"
}
put_error! {
    /// Why [`Connection::try_send`](super::Connection::try_send) did not send its value, which it
    /// gives back.
    TrySendError,
    "the pipe is full",
    "the other end of the pipe is gone: nobody would receive it",
    "the program's shared memory is used up: have some messages received first"
}
put_error! {
    /// Why [`Connection::send_timeout`](super::Connection::send_timeout) did not send its value, which
    /// it gives back.
    SendTimeoutError,
    "the pipe was full until the timeout",
    "the other end of the pipe is gone: nobody would receive it",
    "the program's shared memory is used up: have some messages received first"
}

impl<T> TrySendError<T> {
    /// Whether there is no room now.
    pub fn is_full(&self) -> bool {
        matches!(self.put.reason, Reason::TimedOut)
    }
}

impl<T> SendTimeoutError<T> {
    /// Whether there was no room all the time.
    pub fn is_timeout(&self) -> bool {
        matches!(self.put.reason, Reason::TimedOut)
    }
}

get_error! {
    /// Why [`Connection::recv`](super::Connection::recv) gave no value.
    RecvError, "the other end of the pipe is gone, and all it sent was received" {}
}
get_error! {
    /// Why [`Connection::try_recv`](super::Connection::try_recv) gave no value.
    TryRecvError, "the other end of the pipe is gone, and all it sent was received" {
        /// No message is there.
        Empty: "no message is there"
    }
}
get_error! {
    /// Why [`Connection::recv_timeout`](super::Connection::recv_timeout) gave no value.
    RecvTimeoutError, "the other end of the pipe is gone, and all it sent was received" {
        /// No message came until the timeout.
        Timeout: "no message came until the timeout"
    }
}

/// Why [`Connection::recv_bytes_into`](super::Connection::recv_bytes_into) filled no buffer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecvBytesIntoError {
    /// The buffer is too short for the message, which is here.
    TooShort(Vec<u8>),
    /// The other end is gone, and all it sent was received.
    Closed,
    /// `mp` does not work in this process.
    Failed(Error),
}

impl From<Reason> for RecvBytesIntoError {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Failed(error) => Self::Failed(error),
            _ => Self::Closed,
        }
    }
}

impl From<RecvBytesIntoError> for Error {
    fn from(error: RecvBytesIntoError) -> Self {
        let text = error.to_string();
        match error {
            RecvBytesIntoError::TooShort(_) => Self::new(ErrorKind::Other, text),
            RecvBytesIntoError::Closed => Self::closed(text),
            RecvBytesIntoError::Failed(error) => error,
        }
    }
}

impl fmt::Display for RecvBytesIntoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort(message) => write!(
                f,
                "the buffer is too short for a message of {} bytes, which is in this error",
                message.len()
            ),
            Self::Closed => RecvError::Closed.fmt(f),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecvBytesIntoError {}
