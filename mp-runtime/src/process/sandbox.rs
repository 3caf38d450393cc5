//! What a worker may reach of the system.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::sys;

/// What workers for untrusted input may still reach: named directories and nothing else; see
/// [`PoolBuilder::sandbox`](crate::PoolBuilder::sandbox).
///
/// A worker in a sandbox
///
/// - opens, creates, removes and lists files below the directories named here only, and executes
///   none;
/// - makes no connections: it gets no socket of any kind;
/// - gains no privileges by executing something, and signals, traces or inspects no other process.
///
/// What is refused is an error in the task, as a rule
/// [`PermissionDenied`](std::io::ErrorKind::PermissionDenied). Descriptors that are open stay open:
/// standard output and error are the program's.
///
/// The kernel does it: Landlock for files (Linux 6.2 or later, and enabled), a seccomp filter for the
/// rest. A pool on a kernel that cannot is not built.
///
/// # Examples
///
/// ```no_run
/// let mut sandbox = mp::Sandbox::new();
/// sandbox.read_only("/usr/share/fonts").read_write("/var/tmp/thumbnails");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

impl Sandbox {
    /// A sandbox without files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets workers read a file, or all files of a directory and list it. One that does not exist when
    /// a worker starts keeps that from starting.
    pub fn read_only(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.read.push(absolute(path.as_ref()));
        self
    }

    /// Lets workers also write, create and remove files in a directory, or write one file.
    pub fn read_write(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.write.push(absolute(path.as_ref()));
        self
    }

    /// Whether this kernel can do it.
    pub(crate) fn check() -> Result<(), Error> {
        sys::sandbox::check().map_err(|error| {
            Error::unsupported(format!(
                "this kernel has no sandbox: it takes Landlock, which Linux has from 6.2 on unless it \
                 is turned off ({error})"
            ))
        })
    }

    /// Puts the calling process, which has one thread, into the sandbox.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        sys::sandbox::enter(&self.read, &self.write)
            .map_err(|error| Error::system("could not enter the sandbox", error))
    }
}

/// As it is meant here, whatever directory a worker is started in.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
