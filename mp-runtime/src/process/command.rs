//! Commands of other programs that end with this process.

use std::ffi::OsStr;
use std::process::Command;

use crate::sys;

/// A command for another program, whose process is killed when this process ends in whatever way.
///
/// It is std's [`Command`] and knows nothing of `mp`. It is started by `fork`, whose cost grows with
/// the memory of this process.
///
/// # When a process dies
///
/// When this process ends the command's process gets SIGKILL, unless it has closed a descriptor that
/// it did not open: it is on that descriptor that the kernel tells it.
///
/// # Errors
///
/// If the system refuses what the command needs, [`spawn`](Command::spawn) fails with that error.
///
/// # Examples
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let output = mp::command("echo").arg("hello").output()?;
/// assert_eq!(output.stdout, b"hello\n");
/// # Ok(())
/// # }
/// ```
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    sys::process::end_with_us(&mut command);
    command
}
