//! How much a child may use, and what its end says about that.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::error::Error;
use crate::sys;
use crate::sys::process::{Resource, Sign, Status};

/// How much a process may use; `None` is what its parent may.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Bytes of private memory.
    pub(crate) memory: Option<u64>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) open_files: Option<u64>,
    /// Bytes of a file that it writes.
    pub(crate) file_size: Option<u64>,
}

impl Limits {
    /// Sets them for the calling process, which is the child.
    /// `sign` is where it notes that its memory was used up.
    pub(super) fn apply(&self, sign: Sign) -> Result<(), Error> {
        let set = |resource, most: Option<u64>, what: &str| match most {
            Some(most) => sys::process::limit(resource, most)
                .map_err(|error| Error::system(format!("could not limit its {what}"), error)),
            None => Ok(()),
        };
        if let Some(most) = self.memory {
            let used = sys::process::private_memory().unwrap_or(0);
            if used >= most {
                return Err(Error::limit(format!(
                    "its memory limit of {most} bytes is too low: it has {used} bytes before its \
                     task begins"
                )));
            }
            sys::process::note_out_of_memory(most, sign)
                .map_err(|error| Error::system("could not watch its memory", error))?;
        }
        let seconds = self.cpu_time.map(|time| {
            // Zero would be none at all, not even for the handshake.
            let more = u64::from(time.subsec_nanos() > 0);
            time.as_secs().saturating_add(more).max(1)
        });
        set(Resource::CpuSeconds, seconds, "CPU time")?;
        set(Resource::FileSize, self.file_size, "files' size")?;
        set(Resource::OpenFiles, self.open_files, "open files")?;
        set(Resource::Memory, self.memory, "memory")
    }
}

/// Whether there is a sign that a process that ended so had used its memory up.
///
/// `noted` by itself, `killed` by us, and `kills` that the kernel has made for want of memory since
/// it began.
pub(super) fn is_out_of_memory(
    status: Status,
    noted: bool,
    killed: bool,
    stderr_tail: Option<&str>,
    kills: impl FnOnce() -> u64,
) -> bool {
    let Status::Signaled { signal, .. } = status else {
        return false;
    };
    // What Rust's runtime says before it aborts.
    let said = stderr_tail.is_some_and(|tail| tail.contains("memory allocation of "));
    noted || said || (signal == sys::signal::KILL && !killed && kills() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_counts_only_with_a_sign() {
        let killed = |signal| Status::Signaled {
            signal,
            core: false,
        };
        let (kill, abort) = (killed(sys::signal::KILL), killed(6));
        let cases = [
            (kill, false, false, None, 0, false),
            (kill, false, false, None, 1, true),
            (kill, false, true, None, 1, false),
            (abort, false, false, None, 1, false),
            (abort, true, false, None, 0, true),
            (
                abort,
                false,
                false,
                Some("memory allocation of 9 bytes"),
                0,
                true,
            ),
            (abort, false, false, Some("something else"), 0, false),
            (Status::Exited(1), true, false, None, 1, false),
            (Status::Unknown, true, false, None, 1, false),
        ];
        for (status, noted, by_us, tail, kills, expected) in cases {
            let found = is_out_of_memory(status, noted, by_us, tail, || kills);
            assert_eq!(
                found, expected,
                "{status:?} {noted} {by_us} {tail:?} {kills}"
            );
        }
    }
}
