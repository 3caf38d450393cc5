//! What can be waited for, and which of it this process watches.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use crate::life::Program;
use crate::life::program::existing;
use crate::shm::ObjectId;
use crate::sync::raw::Bell;

/// What [`wait`](crate::wait()) waits for: a [`Queue`](crate::Queue), a
/// [`Connection`](crate::Connection), an [`Event`](crate::Event), a [`Child`](crate::Child), an
/// [`ActiveChild`](crate::ActiveChild).
///
/// It cannot be implemented outside of `mp`.
pub trait Waitable: Send + Sync {
    /// What is looked at.
    #[doc(hidden)]
    fn watched(&self) -> Watched<'_>;
}

impl<T: Waitable + ?Sized> Waitable for &T {
    fn watched(&self) -> Watched<'_> {
        (**self).watched()
    }
}

/// What is behind a [`Waitable`].
#[derive(Clone, Copy)]
pub struct Watched<'a>(&'a dyn Source);

impl<'a> Watched<'a> {
    pub(crate) fn new(source: &'a dyn Source) -> Self {
        Self(source)
    }

    pub(super) fn source(self) -> &'a dyn Source {
        self.0
    }
}

impl fmt::Debug for Watched<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

/// Something that becomes ready.
pub(crate) trait Source: Send + Sync {
    /// Whether it is ready now. Waits for nothing, and runs no user code.
    fn is_ready(&self) -> bool;

    /// The object and its bell that is rung when it may have become ready. Without one it is of this
    /// process, and rings the process's doorbell itself.
    fn bell(&self) -> Option<(ObjectId, &Bell)>;
}

/// The indices of those that are ready.
pub(super) fn ready(sources: &[&dyn Source]) -> Vec<usize> {
    let found = sources.iter().enumerate();
    found
        .filter_map(|(index, source)| source.is_ready().then_some(index))
        .collect()
}

/// Announces at each bell that somebody waits. What is ready is looked for after it.
pub(super) fn listen(sources: &[&dyn Source]) {
    for (_, bell) in sources.iter().filter_map(|source| source.bell()) {
        // The ticket that counts is the doorbell's.
        let _ = bell.listen();
    }
}

/// How many waits of this process each object is in: the object has one bit for all of them.
static WATCHED: Mutex<Option<HashMap<ObjectId, usize>>> = Mutex::new(None);

fn watched() -> MutexGuard<'static, Option<HashMap<ObjectId, usize>>> {
    // No user code runs under this lock, so a poisoned one is as good as any.
    WATCHED.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Objects that ring this process's doorbell until it is dropped.
#[derive(Debug)]
pub(super) struct Watches(Vec<ObjectId>);

impl Watches {
    /// Watches the objects of `sources`, which live as long as this does.
    pub(super) fn begin(program: &Program, sources: &[&dyn Source]) -> Self {
        let objects = sources.iter().filter_map(|source| source.bell());
        let ids: Vec<_> = objects.map(|(id, _)| id).collect();
        let mut watched = watched();
        let watched = watched.get_or_insert_default();
        for &id in &ids {
            let count = watched.entry(id).or_insert(0);
            *count += 1;
            if *count == 1 {
                program.table.watch(id, true);
            }
        }
        Self(ids)
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        // In a copy made by `fork` the bits are its original's.
        let Some(program) = existing() else { return };
        let mut watched = watched();
        let watched = watched.get_or_insert_default();
        for id in &self.0 {
            let Some(count) = watched.get_mut(id) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                watched.remove(id);
                // Under the lock, so that a wait that begins meanwhile keeps its bit.
                program.table.watch(*id, false);
            }
        }
    }
}
