//! A moment on the monotonic clock until which an operation may wait, or none.

use std::time::{Duration, Instant};

/// Bounds a whole operation, however often it sleeps inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// Waits without limit.
    pub(crate) const NEVER: Self = Self(None);

    /// The moment `timeout` from now. A timeout too large to add is no limit.
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now().checked_add(timeout))
    }

    /// The one that comes first.
    pub(crate) fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(other)) => Self(Some(one.min(other))),
            (one, other) => Self(one.or(other)),
        }
    }

    /// What is left: `None` without a limit, zero once the moment has passed.
    pub(crate) fn remaining(self) -> Option<Duration> {
        self.0
            .map(|moment| moment.saturating_duration_since(Instant::now()))
    }

    /// Whether the moment has passed.
    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|moment| Instant::now() >= moment)
    }

    /// The time to sleep now when a single sleep must not exceed `nap`.
    pub(crate) fn nap(self, nap: Duration) -> Duration {
        self.remaining().map_or(nap, |left| left.min(nap))
    }
}
