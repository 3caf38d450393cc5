//! Spans of calls, and what tasks log in other processes, as a subscriber is told of them.

mod support;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mp::{Pool, Process};
use support::{eventually, watchdog};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

/// A subscriber that keeps all it is told.
#[derive(Clone, Default)]
struct Log(Arc<Inner>);

#[derive(Default)]
struct Inner {
    next: AtomicU64,
    spans: Mutex<Vec<Span>>,
    events: Mutex<Vec<Told>>,
    entered: Mutex<Vec<u64>>,
}

#[derive(Clone, Debug)]
struct Span {
    id: u64,
    name: &'static str,
    parent: Option<u64>,
    fields: HashMap<String, String>,
    handles: usize,
}

#[derive(Clone, Debug)]
struct Told {
    level: Level,
    target: String,
    line: Option<u32>,
    parent: Option<u64>,
    /// Whether its span had not ended.
    is_in_time: bool,
    fields: HashMap<String, String>,
}

#[derive(Default)]
struct Fields(HashMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::DEBUG)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = 1 + self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let current = || self.0.entered.lock().unwrap().last().copied();
        let explicit = attributes.parent().map(Id::into_u64);
        self.0.spans.lock().unwrap().push(Span {
            id,
            name: attributes.metadata().name(),
            parent: explicit.or_else(|| attributes.is_contextual().then(current).flatten()),
            fields: fields.0,
            handles: 1,
        });
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let parent = event.parent().map(Id::into_u64);
        let is_open = |id| {
            let spans = self.0.spans.lock().unwrap();
            spans.iter().any(|span| span.id == id && span.handles > 0)
        };
        self.0.events.lock().unwrap().push(Told {
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            line: event.metadata().line(),
            parent,
            is_in_time: parent.is_some_and(is_open),
            fields: fields.0,
        });
    }

    fn enter(&self, id: &Id) {
        self.0.entered.lock().unwrap().push(id.into_u64());
    }

    fn exit(&self, id: &Id) {
        let mut entered = self.0.entered.lock().unwrap();
        let last = entered.iter().rposition(|&it| it == id.into_u64());
        entered.remove(last.unwrap());
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.change(id, |span| span.handles += 1);
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        self.change(&id, |span| span.handles -= 1);
        true
    }
}

impl Log {
    fn change(&self, id: &Id, change: impl FnOnce(&mut Span)) {
        let mut spans = self.0.spans.lock().unwrap();
        change(
            spans
                .iter_mut()
                .find(|span| span.id == id.into_u64())
                .unwrap(),
        );
    }

    fn spans(&self) -> Vec<Span> {
        self.0.spans.lock().unwrap().clone()
    }

    /// The one span of that name.
    fn span(&self, name: &str) -> Span {
        let spans = self.spans();
        let mut found = spans.iter().filter(|span| span.name == name);
        let span = found.next().unwrap().clone();
        assert!(found.next().is_none());
        span
    }

    /// Whether there is such an event. Copies none, while which the thread that tells would wait.
    fn has(&self, is_such: impl Fn(&Told) -> bool) -> bool {
        self.0.events.lock().unwrap().iter().any(is_such)
    }

    /// What was logged in other processes, once there are so many.
    fn events(&self, least: usize) -> Vec<Told> {
        let events = || -> Vec<Told> {
            let events = self.0.events.lock().unwrap();
            let foreign = events
                .iter()
                .filter(|event| event.fields.contains_key("pid"));
            foreign.cloned().collect()
        };
        eventually(|| events().len() >= least);
        events()
    }
}

/// Runs with a subscriber that keeps what it is told.
fn with_log(run: impl FnOnce(&Log) -> AnyResult) -> AnyResult {
    let _watchdog = watchdog(120);
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || run(&log))
}

#[mp::task]
fn work(x: u32) -> u32 {
    tracing::info!(target: "kitchen", x, half = 0.5, note = "nice", hot = true, "cooking {x}");
    tracing::debug!("stirring");
    tracing::trace!("nobody asked");
    std::process::id()
}

#[test]
fn events_of_workers_come_back_in_the_span_of_their_call() -> AnyResult {
    for is_isolated in [false, true] {
        with_log(|log| {
            let mut builder = Pool::builder();
            builder
                .workers(2)
                .chunk_size(3)
                .name("cooks")
                .isolated(is_isolated);
            let pool = builder.build()?;
            let shift = tracing::info_span!("shift");
            let pids = shift.in_scope(|| pool.map(work, 10..30))?;
            let events = log.events(40);
            assert_eq!(
                events.len(),
                40,
                "none is told twice, nor what nobody wants"
            );
            let call = log.span("call");
            assert_eq!(call.parent, Some(log.span("shift").id));
            assert!(call.fields["task"].ends_with("work"));
            assert_eq!(call.fields["place"], "cooks");
            for event in &events {
                assert_eq!(event.parent, Some(call.id));
                assert!(event.is_in_time, "{event:?}");
                let index: usize = event.fields["index"].parse()?;
                assert_eq!(event.fields["pid"], pids[index].to_string());
                assert!(event.fields["worker"].starts_with("cooks-"));
                assert!(event.fields["task"].ends_with("work"));
                assert!(event.line.is_some());
                if event.level == Level::DEBUG {
                    assert_eq!(event.fields["message"], "stirring");
                    assert_eq!(event.target, "tracing");
                    continue;
                }
                let x = (index + 10).to_string();
                assert_eq!(
                    (event.level, event.target.as_str()),
                    (Level::INFO, "kitchen")
                );
                assert_eq!(event.fields["message"], format!("cooking {x}"));
                assert_eq!(event.fields["x"], x);
                assert_eq!(event.fields["half"], "0.5");
                assert_eq!(event.fields["note"], "nice");
                assert_eq!(event.fields["hot"], "true");
            }
            // Once its events are there the call's span ends.
            eventually(|| log.span("call").handles == 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn call_that_nobody_waits_for_is_the_child_of_who_made_it() -> AnyResult {
    with_log(|log| {
        let pool = Pool::new(1)?;
        let shift = tracing::info_span!("shift");
        let job = shift.in_scope(|| pool.map_async(work, 0..3))?;
        assert_eq!(job.wait()?.len(), 3);
        assert_eq!(log.events(6).len(), 6);
        assert_eq!(log.span("call").parent, Some(log.span("shift").id));
        eventually(|| log.span("call").handles == 0);
        Ok(())
    })
}

#[mp::task]
fn work_in_spans() {
    let outer = tracing::info_span!("outer", a = 1);
    outer.in_scope(|| {
        let inner = tracing::debug_span!("inner", b = "two");
        inner.in_scope(|| tracing::info!("deep"));
    });
    let elsewhere = std::thread::spawn(|| tracing::warn!("from a thread"));
    elsewhere.join().unwrap();
}

#[test]
fn spans_of_the_task_are_named_and_its_threads_are_heard() -> AnyResult {
    with_log(|log| {
        let pool = Pool::new(1)?;
        pool.apply(work_in_spans, ())?;
        let events = log.events(2);
        let deep = events
            .iter()
            .find(|event| event.fields["message"] == "deep");
        assert_eq!(deep.unwrap().fields["spans"], "outer a=1: inner b=\"two\"");
        let other = events
            .iter()
            .find(|event| event.level == Level::WARN)
            .unwrap();
        assert_eq!(other.fields["message"], "from a thread");
        assert!(!other.fields.contains_key("spans") && !other.fields.contains_key("index"));
        assert_eq!(other.parent, Some(log.span("call").id));
        Ok(())
    })
}

#[mp::task]
fn log_and_die() {
    tracing::error!("the end is near");
    std::process::abort();
}

#[test]
fn last_words_before_a_crash_are_heard() -> AnyResult {
    with_log(|log| {
        let pool = Pool::new(1)?;
        for n in 1..=5 {
            assert!(pool.apply(log_and_die, ()).is_err());
            let events = log.events(n);
            assert_eq!(events[n - 1].fields["message"], "the end is near");
            assert!(events[n - 1].is_in_time);
        }
        Ok(())
    })
}

#[test]
fn process_is_a_call_of_its_own() -> AnyResult {
    with_log(|log| {
        let child = Process::new(work, (7,)).name("chef").start()?;
        let pid = child.join()?;
        let events = log.events(2);
        let call = log.span("call");
        assert_eq!(call.fields["place"], "chef");
        for event in events {
            assert_eq!(event.parent, Some(call.id));
            assert_eq!(event.fields["worker"], "chef");
            assert_eq!(event.fields["pid"], pid.to_string());
        }
        eventually(|| log.span("call").handles == 0);
        Ok(())
    })
}

#[mp::task]
fn chatter(lines: u64) {
    for line in 0..lines {
        tracing::info!(line, text = "x".repeat(1000), "again");
    }
}

#[mp::task]
fn log_once() {
    tracing::info!("only this");
}

#[mp::task]
fn log_number(number: u64) {
    tracing::info!(number, "through");
}

#[test]
fn worker_that_logs_without_end_is_not_slowed_down_and_what_was_dropped_is_counted() -> AnyResult {
    with_log(|log| {
        const LINES: u64 = 20_000;
        for is_isolated in [false, true] {
            log.0.events.lock().unwrap().clear();
            let pool = Pool::builder().workers(1).isolated(is_isolated).build()?;
            pool.apply(chatter, (LINES,))?;
            // What was dropped is told before the next event for which there is room: when one of
            // these arrives, all before it did or were counted.
            let mut number = 0;
            eventually(|| {
                number += 1;
                pool.apply(log_number, (number,)).unwrap();
                log.has(|event| event.fields.contains_key("number"))
            });
            let events = log.events(1);
            let last = events
                .iter()
                .position(|event| event.fields.contains_key("number"));
            let events = &events[..=last.unwrap()];
            let counts = events.iter().filter_map(|event| event.fields.get("count"));
            let counts: Vec<u64> = counts.map(|count| count.parse().unwrap()).collect();
            let came = (events.len() - counts.len()) as u64;
            let number: u64 = events[events.len() - 1].fields["number"].parse()?;
            assert_eq!(came + counts.iter().sum::<u64>(), LINES + number);
        }
        Ok(())
    })
}

static OWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A subscriber that a worker sets itself.
struct Own;

impl Subscriber for Own {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let (name, index) = (attributes.metadata().name(), fields.0.get("index"));
        let task = &fields.0["task"];
        OWN.lock()
            .unwrap()
            .push(format!("{name} of {task}, {index:?}"));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        OWN.lock().unwrap().push(fields.0["message"].clone());
    }

    fn enter(&self, _: &Id) {
        OWN.lock().unwrap().push("in".to_owned());
    }

    fn exit(&self, _: &Id) {
        OWN.lock().unwrap().push("out".to_owned());
    }
}

#[mp::task]
fn subscribe() {
    tracing::info!("before");
    tracing::subscriber::set_global_default(Own).unwrap();
}

#[mp::task]
fn own_events(_: u32) -> Vec<String> {
    tracing::info!("in the task");
    OWN.lock().unwrap().clone()
}

#[test]
fn subscriber_of_a_worker_is_respected() -> AnyResult {
    with_log(|log| {
        let pool = Pool::builder()
            .workers(1)
            .initializer(subscribe, ())
            .build()?;
        assert_eq!(
            pool.apply(own_events, (1,))?,
            ["item of tracing::own_events, None", "in", "in the task"]
        );
        // What the initializer logged before comes back, of no call.
        let events = log.events(1);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].fields["message"], "before");
        assert_eq!(events[0].parent, None);
        Ok(())
    })
}

#[test]
fn subscriber_of_a_worker_has_each_item_in_a_span() -> AnyResult {
    let _watchdog = watchdog(60);
    for is_isolated in [false, true] {
        let mut builder = Pool::builder();
        builder.workers(1).isolated(is_isolated).chunk_size(2);
        let pool = builder.initializer(subscribe, ()).build()?;
        let told = pool.map(own_events, [7, 8, 9])?;
        let of_each = (0..3).flat_map(|index| {
            let span = format!("item of tracing::own_events, Some(\"{index}\")");
            [span, "in".into(), "in the task".into(), "out".into()]
        });
        let of_each: Vec<String> = of_each.collect();
        assert_eq!(told[2], of_each[..11]);
    }
    Ok(())
}

#[mp::task]
fn work_inside(x: u32) -> Vec<u32> {
    tracing::info!("about to call");
    let inside = tracing::info_span!("inside");
    inside.in_scope(|| mp::pool().unwrap().map(work, [x, x + 1]).unwrap())
}

#[mp::task]
fn work_deeper(x: u32) -> u32 {
    let pool = mp::pool().unwrap();
    pool.submit(work_inside, (x,))
        .unwrap()
        .wait()
        .unwrap()
        .len() as u32
}

#[test]
fn call_of_a_task_has_a_span_within_that_of_the_call_it_belongs_to() -> AnyResult {
    with_log(|log| {
        let pool = Pool::builder().workers(2).name("cooks").build()?;
        const CALLS: u32 = 3;
        assert_eq!(pool.map(work_deeper, 0..CALLS)?, [2; CALLS as usize]);
        let events = log.events(CALLS as usize * 5);
        assert_eq!(events.len(), CALLS as usize * 5);
        let spans = log.spans();
        let of_task = |task: &'static str| {
            let name = format!("tracing::{task}");
            spans.iter().filter(move |span| span.fields["task"] == name)
        };
        let outermost: Vec<_> = of_task("work_deeper").collect();
        assert_eq!((outermost.len(), outermost[0].parent), (1, None));
        let middle: Vec<_> = of_task("work_inside").collect();
        assert_eq!(middle.len() as u32, CALLS);
        let mut indices: Vec<_> = middle.iter().map(|span| &span.fields["index"]).collect();
        indices.sort();
        assert_eq!(indices, ["0", "1", "2"]);
        assert!(middle.iter().all(|it| it.parent == Some(outermost[0].id)));
        let innermost: Vec<_> = of_task("work").collect();
        assert_eq!(innermost.len() as u32, CALLS);
        for (span, around) in innermost.iter().zip(&middle) {
            assert!(middle.iter().any(|it| span.parent == Some(it.id)));
            assert_eq!(span.fields["spans"], "inside");
            assert_eq!(span.fields["place"], "cooks");
            assert!(span.fields["worker"].starts_with("cooks-"));
            assert_ne!(span.id, around.id);
        }
        for event in &events {
            let within = |spans: &[&Span]| spans.iter().any(|it| event.parent == Some(it.id));
            let is_right = match event.fields["task"].as_str() {
                "tracing::work" => within(&innermost) && event.fields["index"].len() == 1,
                _ => within(&middle),
            };
            assert!(is_right && event.is_in_time, "{event:?}");
        }
        eventually(|| log.spans().iter().all(|span| span.handles == 0));
        Ok(())
    })
}

#[mp::task]
fn die_in_a_call(depth: u32) -> u32 {
    if depth == 0 {
        std::process::abort();
    }
    let below = mp::pool().unwrap().apply(die_in_a_call, (depth - 1,));
    assert!(below.is_err());
    std::process::abort();
}

#[test]
fn span_of_a_call_ends_with_the_task_that_made_it() -> AnyResult {
    with_log(|log| {
        let pool = Pool::new(1)?;
        assert!(pool.apply(die_in_a_call, (2,)).is_err());
        eventually(|| {
            let spans = log.spans();
            spans.len() == 3 && spans.iter().all(|span| span.handles == 0)
        });
        Ok(())
    })
}

#[test]
fn nothing_happens_without_a_subscriber() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(1)?;
    assert_eq!(pool.map(work, 0..10)?.len(), 10);
    Ok(())
}

/// Writes to whatever descriptor it has, as packets and as more than one event may be.
#[mp::task]
fn scribble() {
    let noise = [0_u8; 9000];
    for fd in 3..64 {
        for len in [1, 2, 3, 40, 9000] {
            let mut packet = noise;
            packet[1..len]
                .iter_mut()
                .for_each(|byte| *byte = (len * 7) as u8);
            // SAFETY: `packet` is there to be read. What is no socket refuses it.
            unsafe {
                libc::send(
                    fd,
                    packet.as_ptr().cast(),
                    len,
                    libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
                )
            };
        }
    }
}

#[test]
fn parent_survives_what_is_no_event() -> AnyResult {
    with_log(|log| {
        let pool = Pool::builder().workers(1).isolated(true).build()?;
        for _ in 0..3 {
            let _ = pool.apply(scribble, ());
        }
        pool.apply(log_once, ())?;
        let events = log.events(1);
        assert!(
            events
                .iter()
                .any(|event| event.fields["message"] == "only this")
        );
        Ok(())
    })
}

/// Tells of its end.
struct Mourner;

impl Drop for Mourner {
    fn drop(&mut self) {
        tracing::info!("over");
    }
}

thread_local! {
    static MOURNER: Mourner = const { Mourner };
}

#[mp::task]
fn log_at_the_end_of_a_thread() {
    let thread = std::thread::spawn(|| {
        MOURNER.with(|_| ());
        tracing::info_span!("under way").in_scope(|| tracing::info!("begun"));
    });
    thread.join().unwrap();
}

#[test]
fn thread_of_a_task_may_log_until_its_end() -> AnyResult {
    with_log(|log| {
        let pool = Pool::new(1)?;
        pool.apply(log_at_the_end_of_a_thread, ())?;
        let events = log.events(2);
        assert_eq!(events[0].fields["spans"], "under way");
        assert_eq!(events[1].fields["message"], "over");
        assert!(!events[1].fields.contains_key("spans"));
        Ok(())
    })
}
