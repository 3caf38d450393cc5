//! Children that do not outlive a call.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::builder::Process;
use super::join::Child;
use super::running::Running;
use crate::deadline::Deadline;
use crate::error::Error;

/// Starts children that [`scope`] waits for.
pub struct Scope {
    children: Mutex<Vec<Arc<Running>>>,
}

/// Runs `body` and waits for every child that it started through its [`Scope`], also when it panics.
///
/// # When a process dies
///
/// A child that died has ended; what became of its task is known to its [`Child`].
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn work(n: u32) {}
///
/// # fn main() -> Result<(), mp::Error> {
/// mp::scope(|scope| {
///     for n in 0..3 {
///         scope.start(mp::Process::new(work, (n,)))?;
///     }
///     Ok(())
/// }) // All three have ended here.
/// # }
/// ```
pub fn scope<T>(body: impl FnOnce(&Scope) -> T) -> T {
    let scope = Scope {
        children: Mutex::default(),
    };
    // Dropping the scope waits, on either way out.
    body(&scope)
}

impl Scope {
    /// Starts a child that the scope waits for.
    ///
    /// # Errors
    ///
    /// As for [`Process::start`].
    pub fn start<R>(&self, process: Process<R>) -> Result<Child<R>, Error> {
        let child = process.start()?;
        let mut children = self
            .children
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        // Those have nothing to be waited for, and hold results and descriptors.
        children.retain(|child| !child.is_settled());
        children.push(child.running().clone());
        drop(children);
        Ok(child)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let children = self
            .children
            .get_mut()
            .unwrap_or_else(|poison| poison.into_inner());
        for child in children {
            child.wait(Deadline::NEVER);
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}
