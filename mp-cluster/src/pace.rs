//! How long a task takes, by what it took lately.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What an item takes, as far as is known, by the task's name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paces(Arc<Mutex<HashMap<String, Duration>>>);

impl Paces {
    pub(crate) fn of(&self, task: &str) -> Option<Duration> {
        self.lock().get(task).copied()
    }

    /// Learns what an item of a task took.
    pub(crate) fn learn(&self, task: &str, each: Duration) {
        let mut paces = self.lock();
        match paces.get_mut(task) {
            // What takes longer counts more: a job that is too long hurts more than one that is too
            // short.
            Some(pace) if each > *pace => *pace = (*pace + each) / 2,
            Some(pace) => *pace = (*pace * 3 + each) / 4,
            None => drop(paces.insert(task.to_owned(), each)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Duration>> {
        // What is under it is whole at any moment.
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}
