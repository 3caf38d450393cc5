//! The parent's thread that takes what children log, and tells the subscriber there.
//!
//! It alone runs a subscriber's code for events of others. Whoever finds a child ended takes what is left
//! in its socket, and leaves it to the thread.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing::field::{self, DisplayValue};
use tracing::{Dispatch, Event as Told, Value as Field, dispatcher};

use super::call::{self, Wanted};
use super::record::{Begun, Event, Record, Value};
use super::site::{OWN_FIELDS, Sites};
use crate::process::running::Running;
use crate::sys;

/// Packets of one child that are taken before the others get their turn.
const MOST_PACKETS: usize = 1024;
/// Rounds for which events of calls that nobody has told of are held. After that they are told in the
/// outermost call.
const MOST_HELD: u32 = 3;

/// The way to the thread.
struct Collector {
    inbox: Mutex<Inbox>,
    /// Counts what is put there.
    counter: OwnedFd,
}

#[derive(Default)]
struct Inbox {
    children: Vec<Child>,
    /// What was left in the sockets of those that have ended.
    left: Vec<(Who, Vec<Vec<u8>>)>,
    /// Calls that are over.
    retired: Vec<u64>,
}

/// A child as its events name it.
#[derive(Clone)]
struct Who {
    name: Arc<str>,
    pid: u32,
    /// For events that belong to no call.
    dispatch: Dispatch,
}

/// A child that may log.
struct Child {
    who: Who,
    running: Arc<Running>,
    /// A copy of its socket, to wait on.
    socket: OwnedFd,
}

static COLLECTOR: OnceLock<Option<Collector>> = OnceLock::new();
/// Children that are being started, and may log before they are in the inbox.
static STARTING: AtomicUsize = AtomicUsize::new(0);

fn collector() -> Option<&'static Collector> {
    let collector = COLLECTOR.get_or_init(|| {
        Some(Collector {
            inbox: Mutex::default(),
            counter: sys::fd::event_counter().ok()?,
        })
    });
    static THREAD: OnceLock<bool> = OnceLock::new();
    let collector = collector.as_ref()?;
    let has_thread = THREAD.get_or_init(|| {
        let thread = std::thread::Builder::new().name("mp-tracing".into());
        thread.spawn(|| run(collector)).is_ok()
    });
    has_thread.then_some(collector)
}

impl Collector {
    fn put(&self, put: impl FnOnce(&mut Inbox)) {
        put(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = sys::fd::count_event(&self.counter);
    }
}

/// A child is being started, until this is dropped.
pub(crate) struct Starting(());

/// Notes that a child is about to be started, and will be [watched](watch) if it is.
pub(crate) fn starting() -> Starting {
    STARTING.fetch_add(1, Ordering::SeqCst);
    Starting(())
}

impl Drop for Starting {
    fn drop(&mut self) {
        STARTING.fetch_sub(1, Ordering::SeqCst);
        // What is over waits for it.
        if let Some(Some(collector)) = COLLECTOR.get() {
            let _ = sys::fd::count_event(&collector.counter);
        }
    }
}

/// Takes what a child logs from now on, if there is a subscriber.
pub(crate) fn watch(running: &Arc<Running>) {
    if Wanted::now().level == 0 {
        return;
    }
    if let (Some(collector), Some(socket)) = (collector(), running.socket()) {
        let child = Child {
            who: who(running),
            running: running.clone(),
            socket,
        };
        collector.put(|inbox| inbox.children.push(child));
    }
}

/// Takes what a child has logged that has ended.
pub(crate) fn keep(running: &Running, packets: Vec<Vec<u8>>) {
    if !packets.is_empty()
        && let Some(collector) = collector()
    {
        let who = who(running);
        collector.put(|inbox| inbox.left.push((who, packets)));
    }
}

/// Notes that a call is over; what its workers logged was sent before.
pub(super) fn retire(number: u64) {
    match collector() {
        Some(collector) => collector.put(|inbox| inbox.retired.push(number)),
        None => call::forget(number),
    }
}

fn who(running: &Running) -> Who {
    Who {
        name: running.name.as_str().into(),
        pid: running.pid,
        dispatch: dispatcher::get_default(Dispatch::clone),
    }
}

/// The thread's loop.
fn run(collector: &'static Collector) {
    sys::signal::block_signals();
    let mut children: Vec<Child> = Vec::new();
    let mut sites = Sites::default();
    // What was over in the last round. What its workers had logged was there before that was said, but
    // perhaps not when their sockets were looked at.
    let mut over = Vec::new();
    // What is of calls that are not known, and for how many rounds there has been such. Who made such a
    // call had told of it before, but its socket was looked at before that, or is not even known.
    let mut held = Round::default();
    let mut rounds_held = 0;
    loop {
        sys::fd::clear_events(&collector.counter);
        // SeqCst: before the inbox is looked at; who has logged by now is in there, or is counted.
        let is_complete = STARTING.load(Ordering::SeqCst) == 0;
        let inbox = {
            let mut inbox = collector
                .inbox
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *inbox)
        };
        children.extend(inbox.children);
        let mut round = std::mem::take(&mut held);
        let over_before = std::mem::take(&mut over);
        children.retain(|child| {
            let packets = child.running.take_events(MOST_PACKETS);
            let is_there = packets.is_some();
            round.sort(&child.who, packets.unwrap_or_default());
            if !is_there {
                over.push(Over::Process(child.who.pid));
            }
            is_there
        });
        for (who, packets) in inbox.left {
            round.sort(&who, packets);
            over.push(Over::Process(who.pid));
        }
        over.append(&mut round.over);
        round.begin_calls(false);
        let holds = round.has_unknown_calls() && (rounds_held < MOST_HELD || !is_complete);
        if holds {
            rounds_held += 1;
            held = round;
        } else {
            rounds_held = 0;
            round.begin_calls(true);
            round.tell(&mut sites);
        }
        match is_complete && !holds {
            true => over_before.into_iter().for_each(Over::settle),
            // One that is being started may have logged of it.
            false => over.extend(over_before),
        }
        // Their events were there when they were over, and so were taken since. But calls within them may
        // not be over yet.
        let retired = inbox.retired.into_iter().map(Over::Call);
        match over.is_empty() && !holds {
            true => retired.for_each(Over::settle),
            false => over.extend(retired),
        }
        if (!over.is_empty() || holds) && is_complete {
            continue;
        }
        let sockets = children.iter().map(|child| child.socket.as_fd());
        let all: Vec<_> = std::iter::once(collector.counter.as_fd())
            .chain(sockets)
            .collect();
        let _ = sys::fd::wait_readable(&all, None);
    }
}

/// What is over.
enum Over {
    /// A call, and its span.
    Call(u64),
    /// The process of that id, and the calls that its tasks have made.
    Process(u32),
}

impl Over {
    fn settle(self) {
        // A subscriber that panics has its message printed by the hook.
        let _ = catch_unwind(|| match self {
            Self::Call(number) => call::forget(number),
            Self::Process(pid) => call::forget_of(pid),
        });
    }
}

/// What was found when all sockets were looked at, one after the other. What one child has told because
/// of what another did comes after that, whichever was looked at first.
#[derive(Default)]
struct Round {
    /// Calls that tasks have made, with who runs the task.
    begun: Vec<(Who, Begun)>,
    events: Vec<(Who, Record)>,
    over: Vec<Over>,
}

impl Round {
    fn sort(&mut self, who: &Who, packets: Vec<Vec<u8>>) {
        for packet in packets {
            match Record::from_packet(&packet) {
                Some(Record::Begun(begun)) => self.begun.push((who.clone(), *begun)),
                Some(Record::Over(number)) if call::is_of(number, who.pid) => {
                    self.over.push(Over::Call(number));
                }
                Some(record) => self.events.push((who.clone(), record)),
                None => {}
            }
        }
    }

    /// Begins calls, each after the one around it; `all` also those around which none is known.
    fn begin_calls(&mut self, all: bool) {
        let is_next = |(_, begun): &(Who, Begun)| call::origin(begun.outer).is_some();
        loop {
            let next = self.begun.iter().position(is_next);
            let Some(next) = next.or((all && !self.begun.is_empty()).then_some(0)) else {
                break;
            };
            let (who, begun) = self.begun.remove(next);
            let _ = catch_unwind(AssertUnwindSafe(|| {
                call::begin_told(&begun, who.pid, &who.name);
            }));
        }
    }

    /// Whether there are events of calls that nobody has told of, or calls within such.
    fn has_unknown_calls(&self) -> bool {
        let mut events = self.events.iter();
        !self.begun.is_empty()
            || events.any(|(_, record)| match record {
                Record::Event(event) => event.call != 0 && call::origin(event.call).is_none(),
                _ => false,
            })
    }

    fn tell(self, sites: &mut Sites) {
        for (who, record) in self.events {
            let _ = catch_unwind(AssertUnwindSafe(|| match record {
                Record::Event(event) => tell(sites, &who, &event),
                Record::Dropped(count) => tell_dropped(&who, count),
                Record::Begun(_) | Record::Over(_) => {}
            }));
        }
    }
}

/// Tells the subscriber of an event, in the span of the call that it belongs to.
fn tell(sites: &mut Sites, who: &Who, event: &Event) {
    let origin = call::origin(event.call).or_else(|| call::origin(event.root));
    let dispatch = origin
        .as_ref()
        .map_or(&who.dispatch, |origin| &origin.dispatch);
    dispatcher::with_default(dispatch, || {
        let Some((site, is_its_own)) = sites.of(event) else {
            return;
        };
        let Some(metadata) = site.wanted().filter(|metadata| dispatch.enabled(metadata)) else {
            return;
        };
        let shown: Vec<_> = event
            .fields
            .iter()
            .map(|(_, value)| Shown::of(value))
            .collect();
        let text = format!("{} {}: {:?}", event.name, event.target, event.fields);
        let text = field::display(&text);
        let mut values: Vec<Option<&dyn Field>> = match is_its_own {
            true => shown.iter().map(|shown| Some(shown.as_value())).collect(),
            false => vec![Some(&text)],
        };
        let task = origin.as_ref().map(|origin| origin.task.as_str());
        let spans = Some(event.spans.as_str()).filter(|spans| !spans.is_empty());
        let name = &*who.name;
        let own: [Option<&dyn Field>; OWN_FIELDS.len()] = [
            Some(&who.pid),
            Some(&name),
            task.as_ref().map(|task| task as &dyn Field),
            event.index.as_ref().map(|index| index as &dyn Field),
            spans.as_ref().map(|spans| spans as &dyn Field),
        ];
        values.extend(own);
        let values = metadata.fields().value_set_all(&values);
        let parent = origin.as_ref().and_then(|origin| origin.span.id());
        dispatch.event(&Told::new_child_of(parent, metadata, &values));
    });
}

fn tell_dropped(who: &Who, count: u64) {
    let Who {
        name,
        pid,
        dispatch,
    } = who;
    let name = &**name;
    dispatcher::with_default(dispatch, || {
        tracing::warn!(
            target: "mp",
            parent: None,
            pid,
            worker = name,
            count,
            "events were dropped: they came faster than they were taken"
        );
    });
}

/// A value as a subscriber takes it.
enum Shown<'a> {
    Plain(&'a dyn Field),
    Text(&'a str),
    AsIs(DisplayValue<&'a str>),
}

impl<'a> Shown<'a> {
    fn of(value: &'a Value) -> Self {
        match value {
            Value::I64(value) => Self::Plain(value),
            Value::U64(value) => Self::Plain(value),
            Value::F64(value) => Self::Plain(value),
            Value::Bool(value) => Self::Plain(value),
            Value::Text(text) => Self::Text(text),
            Value::Shown(text) => Self::AsIs(field::display(text)),
        }
    }

    fn as_value(&self) -> &dyn Field {
        match self {
            Self::Plain(value) => *value,
            Self::Text(text) => text,
            Self::AsIs(text) => text,
        }
    }
}
