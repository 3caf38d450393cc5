//! By which of two ways children come into being.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

/// How a child is started, see [`Process::start_method`](crate::Process::start_method).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StartMethod {
    /// The program is executed again. Its cost does not depend on what the parent has in memory.
    #[default]
    Spawn,
    /// A copy is made of a process that does nothing else: the fork server, which is this program
    /// executed again when it is first needed, once for each process that starts children so. That
    /// takes a fraction of the time, above all in a large program, and a child has at once what was
    /// [preloaded](crate::preload). From the second child on, one copy is made ahead and waits for the
    /// next start: a process more, which ends with the fork server.
    ///
    /// The child is one of this process, and all is as with [`Spawn`](Self::Spawn), but that it has
    /// from the fork server, as that was when it began: its umask, limits that were not asked for,
    /// process group and control group, and descriptors other than the standard streams. The children
    /// of one fork server also have the same layout of memory and, unless they are seeded in the
    /// child, the same random numbers.
    ///
    /// It works where the C library is glibc, which is nearly everywhere.
    ForkServer,
}

/// Whether children are forked unless told otherwise.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Sets how this process starts its children, workers of pools among them, where their builder does
/// not say; and how children that are started from now on start theirs.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn add(a: u32, b: u32) -> u32 {
///     a + b
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// mp::set_start_method(mp::StartMethod::ForkServer);
/// let children = (0..4)
///     .map(|n| mp::Process::new(add, (n, n)).start())
///     .collect::<mp::Result<Vec<_>>>()?;
/// for (n, child) in (0..).zip(children) {
///     assert_eq!(child.join()?, 2 * n);
/// }
/// # Ok(())
/// # }
/// ```
#[doc(alias = "set_forkserver")]
pub fn set_start_method(method: StartMethod) {
    // Relaxed: a start that is under way may see either.
    FORKED.store(method == StartMethod::ForkServer, Ordering::Relaxed);
}

/// How this process starts children where their builder does not say, see [`set_start_method`].
#[doc(alias = "get_start_method")]
pub fn start_method() -> StartMethod {
    match FORKED.load(Ordering::Relaxed) {
        true => StartMethod::ForkServer,
        false => StartMethod::Spawn,
    }
}
