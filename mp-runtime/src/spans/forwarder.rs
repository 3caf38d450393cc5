//! The subscriber of a child, which sends its events to the parent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, EnteredSpan, Id, Record as Values};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Dispatch, Metadata, dispatcher};
use tracing_core::span::Current;

use super::call::{self, Nested, Wanted};
use super::record::{self, Begun, Event, Record, Words};
use crate::sys;

/// The socket to the parent.
static SOCKET: OnceLock<RawFd> = OnceLock::new();
/// What the parent wants to be told now, and of which call and item this is. Relaxed: what a task's
/// threads log is told as of the item that its worker is at.
static LEVEL: AtomicU8 = AtomicU8::new(0);
static CALL: AtomicU64 = AtomicU64::new(0);
/// If a task has made that call, the outermost that leads to it.
static ROOT: AtomicU64 = AtomicU64::new(0);
static FIRST: AtomicI64 = AtomicI64::new(-1);
static INDEX: AtomicI64 = AtomicI64::new(-1);
/// Events for which there was no room, and of which the parent has not been told.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Whether all threads' events come here.
static IS_INSTALLED: AtomicBool = AtomicBool::new(false);

/// Notes what the parent wants to be told, and where it listens.
pub(crate) fn prepare(wanted: &Wanted, socket: RawFd) {
    // In a child that a fork server has made the parent's are not its own.
    let _ = SOCKET.set(socket);
    LEVEL.store(wanted.level, Ordering::Relaxed);
    CALL.store(wanted.call, Ordering::Relaxed);
}

/// Runs what may set a subscriber of its own, and is told of as long as it has not.
pub(crate) fn until_installed<R>(run: impl FnOnce() -> R) -> R {
    match LEVEL.load(Ordering::Relaxed) {
        0 => run(),
        _ => dispatcher::with_default(&Dispatch::new(Forwarder), run),
    }
}

/// Has the parent told of the events of all threads, unless there is a subscriber.
pub(crate) fn install() {
    if LEVEL.load(Ordering::Relaxed) > 0 {
        let is_ours = dispatcher::set_global_default(Dispatch::new(Forwarder)).is_ok();
        IS_INSTALLED.store(is_ours, Ordering::Relaxed);
    }
}

/// Notes of which call the job is that a worker begins.
#[inline]
pub(crate) fn begin_job(header: Option<&str>) {
    let header = header.and_then(call::read_header).unwrap_or_default();
    CALL.store(header.call, Ordering::Relaxed);
    ROOT.store(header.root, Ordering::Relaxed);
    let first = header.first.map_or(-1, |first| first as i64);
    FIRST.store(first, Ordering::Relaxed);
    LEVEL.store(header.level, Ordering::Relaxed);
}

/// Notes which item of it a worker begins, with the task of that name. A subscriber that is the
/// worker's own has it in a span.
#[inline]
pub(crate) fn begin_item(item: u32, task: fn() -> &'static str) {
    let index = match FIRST.load(Ordering::Relaxed) {
        -1 => -1,
        first => first.wrapping_add(i64::from(item)),
    };
    INDEX.store(index, Ordering::Relaxed);
    if !IS_INSTALLED.load(Ordering::Relaxed) && LevelFilter::current() != LevelFilter::OFF {
        enter_item(task, u64::try_from(index).ok());
    }
}

#[cold]
fn enter_item(task: fn() -> &'static str, index: Option<u64>) {
    let enter = || tracing::info_span!(target: "mp", "item", task = task(), index).entered();
    // A subscriber that panics has its message printed by the hook.
    if let Ok(span) = catch_unwind(enter) {
        ITEM.with(|item| item.replace(Some(span)));
    }
}

/// Notes that a worker is through with an item.
#[inline]
pub(crate) fn end_item() {
    if DROPPED.load(Ordering::Relaxed) > 0 {
        tell_dropped();
    }
    if !IS_INSTALLED.load(Ordering::Relaxed) && LevelFilter::current() != LevelFilter::OFF {
        let span = ITEM.with(|item| item.take());
        let _ = catch_unwind(AssertUnwindSafe(|| drop(span)));
    }
}

/// Tells the parent that a task begins a call of its own pool: the call's number, its level, and what
/// it is to the parent. `None` if the subscriber is the worker's own.
pub(super) fn begin_call(task: &str) -> Option<(u64, u8, Option<Nested>)> {
    if !IS_INSTALLED.load(Ordering::Relaxed) {
        return None;
    }
    let level = LEVEL.load(Ordering::Relaxed);
    let outer = CALL.load(Ordering::Relaxed);
    if level == 0 || outer == 0 {
        return Some((0, 0, None));
    }
    let root = match ROOT.load(Ordering::Relaxed) {
        0 => outer,
        root => root,
    };
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let count = CALLS.fetch_add(1, Ordering::Relaxed);
    let number = call::nested_number(std::process::id(), count);
    let mut begun = Record::Begun(Box::new(Begun {
        number,
        outer,
        root,
        index: u64::try_from(INDEX.load(Ordering::Relaxed)).ok(),
        task: task.to_owned(),
        spans: path(&with_entered(|it| it.clone()).unwrap_or_default()),
    }));
    Some(match send(&mut begun) {
        true => (number, level, Some(Nested::Told { root })),
        false => (outer, level, Some(Nested::Untold { root })),
    })
}

/// Tells the parent that a call of which it was told is over, as soon as there is room.
pub(super) fn end_call(number: u64) {
    static OVER: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    let mut over = OVER.lock().unwrap_or_else(PoisonError::into_inner);
    over.push(number);
    while let Some(&number) = over.last()
        && send(&mut Record::Over(number))
    {
        over.pop();
    }
}

struct Forwarder;

/// The spans that are there: what they are called, and how many handles they have.
static SPANS: Mutex<Option<HashMap<u64, Span>>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(1);

struct Span {
    words: String,
    metadata: &'static Metadata<'static>,
    handles: usize,
}

thread_local! {
    /// The item that this thread is at, if it is a worker's whose subscriber is its own.
    static ITEM: RefCell<Option<EnteredSpan>> = const { RefCell::new(None) };
    /// The spans that this thread is in, from the outside in.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Does something with the spans that this thread is in; `None` in a thread that is ending and has
/// none any more, which may log all the same.
fn with_entered<R>(run: impl FnOnce(&mut Vec<u64>) -> R) -> Option<R> {
    ENTERED
        .try_with(|entered| run(&mut entered.borrow_mut()))
        .ok()
}

/// Does something with the spans, under their lock: nothing of the user's.
fn with_spans<R>(run: impl FnOnce(&mut HashMap<u64, Span>) -> R) -> R {
    let mut spans = SPANS.lock().unwrap_or_else(PoisonError::into_inner);
    run(spans.get_or_insert_default())
}

impl Subscriber for Forwarder {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // What the parent wants is another with each call.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        record::rank(*metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut words = Words(attributes.metadata().name().to_owned());
        attributes.record(&mut words);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let span = Span {
            words: words.0,
            metadata: attributes.metadata(),
            handles: 1,
        };
        with_spans(|spans| spans.insert(id, span));
        Id::from_u64(id)
    }

    fn record(&self, id: &Id, values: &Values<'_>) {
        let mut words = Words(String::new());
        values.record(&mut words);
        with_spans(|spans| {
            if let Some(span) = spans.get_mut(&id.into_u64()) {
                span.words.push_str(&words.0);
            }
        });
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        let spans = match event.parent() {
            Some(parent) => vec![parent.into_u64()],
            None if event.is_contextual() => with_entered(|it| it.clone()).unwrap_or_default(),
            None => Vec::new(),
        };
        let index = INDEX.load(Ordering::Relaxed);
        let mut record = Event {
            call: CALL.load(Ordering::Relaxed),
            root: ROOT.load(Ordering::Relaxed),
            index: u64::try_from(index).ok(),
            level: record::rank(*metadata.level()),
            name: metadata.name().to_owned(),
            target: metadata.target().to_owned(),
            module: metadata.module_path().map(str::to_owned),
            file: metadata.file().map(str::to_owned),
            line: metadata.line(),
            spans: path(&spans),
            fields: Vec::new(),
        };
        event.record(&mut record);
        if DROPPED.load(Ordering::Relaxed) > 0 {
            tell_dropped();
        }
        if !send(&mut Record::Event(Box::new(record))) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, id: &Id) {
        with_entered(|entered| entered.push(id.into_u64()));
    }

    fn exit(&self, id: &Id) {
        with_entered(|entered| {
            let last = entered.iter().rposition(|&it| it == id.into_u64());
            if let Some(last) = last {
                entered.remove(last);
            }
        });
    }

    fn clone_span(&self, id: &Id) -> Id {
        with_spans(|spans| {
            if let Some(span) = spans.get_mut(&id.into_u64()) {
                span.handles += 1;
            }
        });
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        with_spans(|spans| {
            let Some(span) = spans.get_mut(&id.into_u64()) else {
                return false;
            };
            span.handles -= 1;
            let is_last = span.handles == 0;
            if is_last {
                spans.remove(&id.into_u64());
            }
            is_last
        })
    }

    fn current_span(&self) -> Current {
        let Some(id) = with_entered(|entered| entered.last().copied()).flatten() else {
            return Current::none();
        };
        let metadata = with_spans(|spans| spans.get(&id).map(|span| span.metadata));
        metadata.map_or_else(Current::none, |it| Current::new(Id::from_u64(id), it))
    }
}

/// What spans are called, from the outside in.
fn path(ids: &[u64]) -> String {
    let mut path = String::new();
    if !ids.is_empty() {
        with_spans(|spans| {
            for span in ids.iter().filter_map(|id| spans.get(id)) {
                if !path.is_empty() {
                    path.push_str(": ");
                }
                path.push_str(&span.words);
            }
        });
    }
    path
}

#[cold]
fn tell_dropped() {
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped > 0 && !send(&mut Record::Dropped(dropped)) {
        DROPPED.fetch_add(dropped, Ordering::Relaxed);
    }
}

/// Sends a record, if there is room for it now.
fn send(record: &mut Record) -> bool {
    let (Some(&socket), Some(packet)) = (SOCKET.get(), record.packet()) else {
        return false;
    };
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    sys::fd::send_now(socket, &packet)
}
