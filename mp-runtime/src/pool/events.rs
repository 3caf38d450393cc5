//! What a pool tells of its workers and failures as it happens.

use std::fmt;
use std::sync::Arc;

use super::callbacks;
use super::inner::Inner;
use crate::error::{Error, TaskError};

/// Something that happened in a pool; see [`PoolBuilder::on_event`](crate::PoolBuilder::on_event).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolEvent {
    /// A worker was started.
    #[non_exhaustive]
    WorkerStarted {
        /// Its name.
        name: String,
        /// Its process id.
        pid: u32,
    },
    /// A worker ended. What it was at, if anything, is told apart.
    #[non_exhaustive]
    WorkerEnded {
        /// Its name.
        name: String,
        /// Its process id.
        pid: u32,
        /// Whether that was planned: because it had run as many items as it may, say, or had nothing
        /// to do.
        is_planned: bool,
        /// How and why, in words.
        reason: String,
    },
    /// An item failed.
    #[non_exhaustive]
    ItemFailed {
        /// Why, and which.
        error: TaskError,
    },
    /// The number of workers was set.
    #[non_exhaustive]
    Resized {
        /// How many there are to be.
        workers: usize,
    },
    /// The pool gave up: its workers ended at once, again and again.
    #[non_exhaustive]
    Stopped {
        /// Why.
        error: Error,
    },
}

/// Who wants to know.
#[derive(Clone)]
pub(super) struct Listener(pub(super) Arc<dyn Fn(&PoolEvent) + Send + Sync>);

impl Inner {
    /// Tells the listener, if there is one, on the thread for callbacks. To be called under no lock.
    pub(super) fn tell(&self, event: impl FnOnce() -> PoolEvent) {
        if let Some(Listener(listener)) = &self.settings.listener {
            let (listener, event) = (listener.clone(), event());
            callbacks::run(Box::new(move || listener(&event)));
        }
    }

    pub(super) fn tell_failure(&self, error: &TaskError) {
        if let Some(guest) = self.guest() {
            return self.tell_parent(error, guest);
        }
        self.tell(|| PoolEvent::ItemFailed {
            error: error.clone(),
        });
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
