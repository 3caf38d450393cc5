//! The span of a call, and what goes with it to the workers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Span, dispatcher};

use super::record::Begun;
use super::{collector, forwarder};

/// What is known of the calls under way, by their numbers.
static CALLS: LazyLock<Mutex<BTreeMap<u64, Arc<Origin>>>> = LazyLock::new(Mutex::default);
/// Zero is no call.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The numbers of calls that tasks make on the pool that runs them: `{ 1: 1 bit, pid: 23 bits, count:
/// 40 bits }`. The other calls are far fewer than reach into the first bit.
const NESTED: u64 = 1 << 63;
const PID_SHIFT: u32 = 40;
/// Calls of a process that are under way at once and have a span.
const MOST_NESTED: usize = 1024;

/// Where the events of a call belong.
#[derive(Debug)]
pub(super) struct Origin {
    /// The call's; the caller's, if the subscriber has no use for that.
    pub(super) span: Span,
    pub(super) dispatch: Dispatch,
    pub(super) task: String,
    /// The pool or process.
    place: String,
}

/// A call that is under way. Its span ends once what its workers logged has arrived.
#[derive(Debug, Default)]
pub(crate) struct Call {
    number: u64,
    level: u8,
    nested: Option<Nested>,
}

/// Of a call that a task makes on the pool that runs it.
#[derive(Debug)]
pub(super) enum Nested {
    /// The parent has it in a span of its own, within that of the call of this number, of which there
    /// is none around it.
    Told { root: u64 },
    /// The parent has no room to be told of it: what its workers log belongs to the call around it.
    Untold { root: u64 },
    /// The subscriber is the worker's own.
    Here(#[expect(dead_code, reason = "it ends with the call")] Span),
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
            place: place.to_owned(),
        });
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        calls.insert(number, origin);
        Self {
            number,
            level,
            nested: None,
        }
    }

    /// Begins a call of `task` that a task makes on the pool that runs it.
    pub(crate) fn begin_nested(task: &str) -> Self {
        if let Some((number, level, nested)) = forwarder::begin_call(task) {
            return Self {
                number,
                level,
                nested,
            };
        }
        let span = tracing::info_span!(target: "mp", "call", task);
        Self {
            nested: Some(Nested::Here(span)),
            ..Self::default()
        }
    }

    /// What a worker is told with a job of it, whose first item has the index `first`, if any has.
    pub(crate) fn header(&self, first: Option<u64>) -> Option<String> {
        let Self { number, level, .. } = self;
        let root = match &self.nested {
            Some(Nested::Told { root } | Nested::Untold { root }) => *root,
            Some(Nested::Here(_)) | None => 0,
        };
        // A worker that has a subscriber of its own wants to know the index.
        let is_of_use = *number > 0 || first.is_some();
        let first = first.map_or(-1, |first| first as i64);
        is_of_use.then(|| format!("{number}:{level}:{first}:{root}"))
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
        match self.nested {
            None if self.number > 0 => collector::retire(self.number),
            Some(Nested::Told { .. }) => forwarder::end_call(self.number),
            _ => {}
        }
    }
}

/// The number of a call that the process `pid` makes inside of a task, its `count`th.
pub(super) fn nested_number(pid: u32, count: u64) -> u64 {
    NESTED | u64::from(pid) << PID_SHIFT | count & ((1 << PID_SHIFT) - 1)
}

/// Whether a call has a number of those that tasks of the process `pid` make.
pub(super) fn is_of(number: u64, pid: u32) -> bool {
    (nested_number(pid, 0)..nested_number(pid + 1, 0)).contains(&number)
}

/// Begins what is known here of a call that a task has made in the process `pid`, which is called
/// `worker`. That is believed as little as all that it says.
pub(super) fn begin_told(begun: &Begun, pid: u32, worker: &str) {
    let around = origin(begun.outer).or_else(|| origin(begun.root));
    let Some(around) = around.filter(|_| is_of(begun.number, pid)) else {
        return;
    };
    let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let of_process = nested_number(pid, 0)..nested_number(pid + 1, 0);
    let is_full = calls.range(of_process).nth(MOST_NESTED).is_some();
    drop(calls);
    if is_full {
        return;
    }
    let Begun {
        task, index, spans, ..
    } = begun;
    let place = around.place.as_str();
    let spans = Some(spans.as_str()).filter(|spans| !spans.is_empty());
    let span = dispatcher::with_default(&around.dispatch, || {
        let span = tracing::info_span!(
            target: "mp", parent: around.span.id(), "call", task, place, pid, worker, index, spans
        );
        if span.is_disabled() {
            around.span.clone()
        } else {
            span
        }
    });
    let origin = Arc::new(Origin {
        span,
        dispatch: around.dispatch.clone(),
        task: task.clone(),
        place: around.place.clone(),
    });
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let before = calls.insert(begun.number, origin);
    // A subscriber that is told of the end may make calls.
    drop(calls);
    drop(before);
}

/// Forgets the calls that tasks have made in the process `pid`, which has ended.
pub(super) fn forget_of(pid: u32) {
    let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let of_process = nested_number(pid, 0)..nested_number(pid + 1, 0);
    let numbers: Vec<u64> = calls.range(of_process).map(|(&number, _)| number).collect();
    drop(calls);
    numbers.into_iter().for_each(forget);
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

/// What a worker is told with a job.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) call: u64,
    pub(super) level: u8,
    /// The index of the first item, if it has any.
    pub(super) first: Option<u64>,
    /// If a task has made the call, the one that none is around and that led to it.
    pub(super) root: u64,
}

/// The header of a job with the items of another, but for so many at its start.
pub(crate) fn later(header: &str, passed: u32) -> Option<String> {
    let Header {
        call,
        level,
        first,
        root,
    } = read_header(header)?;
    let first = first.map_or(-1, |first| first.saturating_add(passed.into()) as i64);
    Some(format!("{call}:{level}:{first}:{root}"))
}

/// Reads what [`Call::header`] wrote.
pub(super) fn read_header(header: &str) -> Option<Header> {
    let mut parts = header.split(':');
    let call = parts.next()?.parse().ok()?;
    let level = parts.next()?.parse().ok()?;
    let first: i64 = parts.next()?.parse().ok()?;
    let root = parts.next()?.parse().ok()?;
    let first = u64::try_from(first).ok();
    Some(Header {
        call,
        level,
        first,
        root,
    })
}
