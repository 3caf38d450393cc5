//! The span of a call, and what goes with it to the workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Span, dispatcher};

use super::collector;

/// What is known of the calls under way, by their numbers.
static CALLS: LazyLock<Mutex<HashMap<u64, Arc<Origin>>>> = LazyLock::new(Mutex::default);
/// Zero is no call.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Where the events of a call belong.
#[derive(Debug)]
pub(super) struct Origin {
    /// The call's; the caller's, if the subscriber has no use for that.
    pub(super) span: Span,
    pub(super) dispatch: Dispatch,
    pub(super) task: String,
}

/// A call that is under way. Its span ends once what its workers logged has arrived.
#[derive(Debug, Default)]
pub(crate) struct Call {
    number: u64,
    level: u8,
}

impl Call {
    /// Begins a call of `task`, in the pool or process of that name. Without a subscriber it is
    /// nothing.
    pub(crate) fn begin(task: &str, place: &str) -> Self {
        let Wanted { level, .. } = Wanted::now();
        if level == 0 {
            return Self::default();
        }
        let span = tracing::info_span!(target: "mp", "call", task, place);
        let span = if span.is_disabled() {
            Span::current()
        } else {
            span
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let origin = Arc::new(Origin {
            span,
            dispatch: dispatcher::get_default(Dispatch::clone),
            task: task.to_owned(),
        });
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        calls.insert(number, origin);
        Self { number, level }
    }

    /// What a worker is told with a job of it, whose first item has the index `first`, if any has.
    pub(crate) fn header(&self, first: Option<u64>) -> Option<String> {
        let Self { number, level } = self;
        let first = first.map_or(-1, |first| first as i64);
        (*number > 0).then(|| format!("{number}:{level}:{first}"))
    }

    /// What a process is told that makes this call and no other.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            level: self.level,
            call: self.number,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.number > 0 {
            collector::retire(self.number);
        }
    }
}

/// The call of that number, if it is under way.
pub(super) fn origin(number: u64) -> Option<Arc<Origin>> {
    let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    calls.get(&number).cloned()
}

/// Forgets a call whose events have all arrived; its span ends.
pub(super) fn forget(number: u64) {
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let origin = calls.remove(&number);
    // A subscriber that is told of the end may make calls.
    drop(calls);
    drop(origin);
}

/// What the parent wants to be told by a child.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// From 0, nothing, to 5, everything.
    pub(super) level: u8,
    /// The call that the child makes, if it makes but one.
    pub(super) call: u64,
}

impl Wanted {
    /// What there is a subscriber for.
    pub(crate) fn now() -> Self {
        let level = match LevelFilter::current().into_level() {
            Some(level) => super::record::rank(level),
            None => 0,
        };
        Self { level, call: 0 }
    }
}

/// Reads the header of a job: the call's number, the level, and the index of the first item.
pub(super) fn read_header(header: &str) -> Option<(u64, u8, Option<u64>)> {
    let mut parts = header.split(':');
    let number = parts.next()?.parse().ok()?;
    let level = parts.next()?.parse().ok()?;
    let first: i64 = parts.next()?.parse().ok()?;
    Some((number, level, u64::try_from(first).ok()))
}
