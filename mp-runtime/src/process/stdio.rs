//! What a child gets as its standard streams.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};

use crate::sys;

/// What a child gets as one of its standard streams; [`inherit`](Self::inherit) unless told
/// otherwise.
#[derive(Debug)]
pub struct Stdio(Kind);

#[derive(Debug)]
enum Kind {
    Inherit,
    Null,
    Piped,
    Given(OwnedFd),
}

/// A stream of a child that is about to be started: its end, and ours.
#[derive(Debug, Default)]
pub(super) struct Stream {
    theirs: Option<OwnedFd>,
    /// Our end of a pipe.
    pub(super) ours: Option<OwnedFd>,
}

/// Which way a pipe runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToChild,
    FromChild,
}

impl Stdio {
    /// What the parent has there when the child is started.
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// `/dev/null`.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    /// A pipe to the parent, see [`Child::take_stdin`](crate::Child::take_stdin) and its siblings.
    ///
    /// As standard error it is drained by `mp` until it is taken, and its tail is shown in the error
    /// when the child fails.
    pub fn piped() -> Self {
        Self(Kind::Piped)
    }

    /// The stream for one start.
    pub(super) fn open(self, direction: Direction) -> io::Result<Stream> {
        Ok(match self.0 {
            Kind::Inherit => Stream::default(),
            Kind::Null => Stream {
                theirs: Some(
                    File::options()
                        .read(true)
                        .write(true)
                        .open("/dev/null")?
                        .into(),
                ),
                ours: None,
            },
            Kind::Given(descriptor) => Stream {
                theirs: Some(descriptor),
                ours: None,
            },
            Kind::Piped => {
                let (read, write) = sys::fd::pipe()?;
                let (theirs, ours) = match direction {
                    Direction::ToChild => (read, write),
                    Direction::FromChild => (write, read),
                };
                Stream {
                    theirs: Some(theirs),
                    ours: Some(ours),
                }
            }
        })
    }
}

impl Stream {
    pub(super) fn theirs(&self) -> Option<BorrowedFd<'_>> {
        self.theirs.as_ref().map(AsFd::as_fd)
    }
}

impl From<OwnedFd> for Stdio {
    fn from(descriptor: OwnedFd) -> Self {
        Self(Kind::Given(descriptor))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<ChildStdin> for Stdio {
    fn from(stream: ChildStdin) -> Self {
        OwnedFd::from(stream).into()
    }
}

impl From<ChildStdout> for Stdio {
    fn from(stream: ChildStdout) -> Self {
        OwnedFd::from(stream).into()
    }
}

impl From<ChildStderr> for Stdio {
    fn from(stream: ChildStderr) -> Self {
        OwnedFd::from(stream).into()
    }
}
