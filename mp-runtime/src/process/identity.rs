//! Who we are, and who our parent and children are.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::running::Running;
use super::supervisor;
use crate::life::program::existing;
use crate::sys;
use crate::wait::{Waitable, Watched};

/// What a child was told about itself. Not set in the first process of a program.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) numbers: String,
    pub(super) is_daemon: bool,
}

static IDENTITY: OnceLock<Identity> = OnceLock::new();

pub(super) fn set(identity: Identity) {
    let _ = IDENTITY.set(identity);
}

/// The numbers of this process's child number `number`, as in `1:2`.
pub(super) fn numbers(number: u64) -> String {
    match IDENTITY.get() {
        Some(identity) => format!("{}:{number}", identity.numbers),
        None => number.to_string(),
    }
}

/// Whether children are daemons unless told otherwise.
pub(super) fn is_daemon_default() -> bool {
    IDENTITY.get().is_none_or(|identity| identity.is_daemon)
}

/// This process, see [`current_process`].
#[derive(Clone, Debug)]
pub struct CurrentProcess {
    name: String,
    is_main: bool,
}

/// The process that this code runs in.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn whoami() -> String {
///     mp::current_process().name().to_owned()
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// assert_eq!(mp::current_process().name(), "MainProcess");
/// let child = mp::Process::new(whoami, ()).name("w1").start()?;
/// assert_eq!(child.join()?, "w1");
/// # Ok(())
/// # }
/// ```
pub fn current_process() -> CurrentProcess {
    match IDENTITY.get() {
        Some(identity) => CurrentProcess {
            name: identity.name.clone(),
            is_main: false,
        },
        None => CurrentProcess {
            name: "MainProcess".to_owned(),
            is_main: true,
        },
    }
}

impl CurrentProcess {
    /// Its name: `MainProcess`, or as given by the parent, by default `Process-1`, `Process-2`, and
    /// `Process-1:1` for a child of the first.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[doc(alias = "pid")]
    pub fn id(&self) -> u32 {
        std::process::id()
    }

    /// Whether it is the first process of the program, and not one that `mp` started.
    pub fn is_main(&self) -> bool {
        self.is_main
    }

    /// Whether its parent's ordinary exit does not wait for it, see
    /// [`Process::daemon`](crate::Process::daemon). False for the main process.
    pub fn is_daemon(&self) -> bool {
        IDENTITY.get().is_some_and(|identity| identity.is_daemon)
    }
}

/// The parent of this process, see [`parent_process`].
#[derive(Clone, Debug)]
pub struct ParentProcess {
    name: String,
    id: u32,
}

/// The process that started this one; `None` in the main process.
pub fn parent_process() -> Option<ParentProcess> {
    let program = existing()?;
    let parent = program.roster.my_slot().parent()?;
    let slot = program.roster.slot(parent.slot());
    Some(ParentProcess {
        name: slot.name.get(),
        id: slot.pid(),
    })
}

impl ParentProcess {
    /// Its name, cut to 64 bytes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }
}

/// A child of this process that has not ended, see [`active_children`].
#[derive(Clone)]
pub struct ActiveChild(Arc<Running>);

/// The children of this process that have not ended, in the order of their starts, workers of pools
/// among them. Children that have ended since are settled by the call.
pub fn active_children() -> Vec<ActiveChild> {
    supervisor::children()
        .into_iter()
        .filter(|child| child.settle().is_none())
        .map(ActiveChild)
        .collect()
}

impl ActiveChild {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.pid
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        self.0.settle().is_none()
    }

    /// Asks it to end, by SIGTERM.
    pub fn terminate(&self) {
        self.0.signal(sys::signal::TERMINATE);
    }

    /// Ends it, by SIGKILL.
    pub fn kill(&self) {
        self.0.signal(sys::signal::KILL);
    }
}

/// Ready once it has ended.
impl Waitable for ActiveChild {
    fn watched(&self) -> Watched<'_> {
        Watched::new(&*self.0)
    }
}

impl fmt::Debug for ActiveChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveChild")
            .field("name", &self.name())
            .field("id", &self.id())
            .finish()
    }
}

/// How many CPUs this process may really use: its affinity and its cgroup's quota count, and at least
/// one.
pub fn cpu_count() -> usize {
    sys::process::cpu_count()
}
