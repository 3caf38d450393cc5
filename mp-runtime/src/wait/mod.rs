//! Waiting for several things of several kinds at once.
//!
//! - [`source`]: what can be waited for, and which of it this process watches.
//! - [`descriptor`]: the same for those who wait in `poll`, `epoll` or an async runtime.
//!
//! The protocol is in `wait/README.md`.

mod descriptor;
mod source;

use std::time::Duration;

pub use self::descriptor::Descriptor;
pub(crate) use self::source::Source;
pub use self::source::{Waitable, Watched};
use self::source::{Watches, listen, ready};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::life::program;

/// Waits until at least one of several things is ready, and returns the indices of those that are,
/// in ascending order.
///
/// Queues and connections are ready while there is something to take, and once nothing can come any
/// more: the queue is closed, the connection's other end is gone. Events are ready while they are
/// set, children once they have ended. Things of all kinds can be waited for together, any number of them, and by any number of
/// processes and threads at once: to be ready is to be seen, nothing is taken. So what is ready may
/// have been taken by another when the caller comes to it: use the forms that do not wait, such as
/// [`Queue::try_get`](crate::Queue::try_get).
///
/// `None` waits as long as it takes, zero looks and does not wait. If nothing is ready when the
/// timeout is over, and if there are no `things`, the result is empty.
///
/// The caller sleeps while nothing happens. Each of many things is looked at again whenever one of
/// them may have become ready, so a wait for ten thousand costs about as much as ten thousand calls
/// of `is_empty`.
///
/// # Errors
///
/// If the program has no shared memory, or in a copy of the process made by `fork`.
///
/// # When a process dies
///
/// A child that is waited for is ready by it, and so is a connection whose other end it held alone.
/// A process that dies while it puts a value either has put it, and whoever waits is told, or has
/// not. One that dies while it waits leaves nothing that others notice.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn count(numbers: mp::Queue<u64>) {
///     for number in 0..3 {
///         numbers.put(number).unwrap();
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let numbers = mp::Queue::new()?;
/// let child = mp::Process::new(count, (numbers.clone(),)).start()?;
/// let mut sum = 0;
/// loop {
///     let ready = mp::wait(&[&numbers, &child], None)?;
///     match ready[0] {
///         0 => sum += numbers.try_get()?,
///         _ => break, // it has ended, and the queue is empty
///     }
/// }
/// assert_eq!(sum, 3);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "select")]
pub fn wait(things: &[&dyn Waitable], timeout: Option<Duration>) -> Result<Vec<usize>, Error> {
    let deadline = timeout.map_or(Deadline::NEVER, Deadline::after);
    let program = program()?;
    let sources: Vec<&dyn Source> = things
        .iter()
        .map(|thing| thing.watched().source())
        .collect();
    let found = ready(&sources);
    if !found.is_empty() || sources.is_empty() || deadline.has_passed() {
        return Ok(found);
    }
    let _watches = Watches::begin(program, &sources);
    let doorbell = &program.roster.my_slot().doorbell;
    loop {
        let ticket = doorbell.listen();
        listen(&sources);
        let found = ready(&sources);
        if !found.is_empty() || deadline.has_passed() {
            return Ok(found);
        }
        doorbell.wait(program.roster, ticket, deadline);
    }
}
