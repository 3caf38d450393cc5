//! A lock that says who died with it.
//!
//! It stands here and not beside [`Lock`](crate::Lock) because it is the burial that writes the
//! report: later the dead process's slot may be another's.

use super::Roster;
use crate::fault::fault;
use crate::loom::{AtomicU32, Ordering};
use crate::shm::{Text, shared};
use crate::sync::raw::{Holder, Peers, RawMutex};

shared! {
    /// A lock's words in shared memory. All zeros is free.
    pub(crate) struct MarkedLock {
        pub(crate) mutex: RawMutex,
        /// Of the holder that died last. Written under the lock, before it is marked.
        pid: AtomicU32,
        name: Text,
    }
}

impl MarkedLock {
    /// If `dead` holds the lock: takes it over, writes down who died, marks it and lets it go.
    ///
    /// So too if one holds it who died while it did just that. Such a one is no `user`: its own
    /// burial does not come here.
    pub(super) fn report_death(
        &self,
        roster: &Roster,
        dead: Holder,
        is_user: impl Fn(Holder) -> bool,
    ) {
        let holder = match self.mutex.holder() {
            Some(holder) if !roster.is_alive(holder) && !is_user(holder) => holder,
            _ => dead,
        };
        if self.mutex.take_over(roster, holder) {
            self.mark(roster, dead);
        }
    }

    /// Writes down that `dead` died with the lock, which the caller has inherited, marks it and lets
    /// it go.
    #[cold]
    pub(crate) fn mark(&self, roster: &Roster, dead: Holder) {
        match roster.last_identity(dead) {
            Some((pid, name)) => {
                self.pid.store(pid, Ordering::Relaxed);
                self.name.set(&name);
            }
            // The burial has overtaken us, and the slot is another's already.
            None => {
                self.pid.store(0, Ordering::Relaxed);
                self.name.set("unknown");
            }
        }
        fault!("lock.marking");
        // Releases: the report above is visible to whoever finds the mark.
        self.mutex.unlock_marked(roster);
    }

    /// Process id and name of the holder that died last.
    pub(crate) fn report(&self) -> (u32, String) {
        (self.pid.load(Ordering::Relaxed), self.name.get())
    }
}
