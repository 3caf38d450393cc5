//! A timeline of what ran where and when: `MP_TRACE=FILE` has it written, with no change in the
//! program.
//!
//! - [`chrome`]: as Chrome's trace events, which Perfetto opens.
//! - [`page`]: as a page with a picture of it, beside that.
//!
//! The program's first process alone keeps the timeline, of its own pools and children: a few words
//! for each job, when it is over. Workers of its pools send it those of the jobs that their tasks put
//! out. Both files are written when the process exits.

mod chrome;
mod page;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, Weak};

use serde::{Deserialize, Serialize};

use crate::life::program::existing;
use crate::sys;

/// The variable that names the file.
const VARIABLE: &str = "MP_TRACE";

/// Spans that are kept. Further ones are counted only, so that a long run stays within bounds.
const MOST_SPANS: usize = 1 << 20;

/// Where something ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lane {
    /// The worker's or the child's name.
    pub(crate) name: String,
    pub(crate) pid: u32,
}

/// The task that something was done for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Caller {
    /// Where it runs.
    pub(crate) lane: Lane,
    /// When it asked.
    pub(crate) at: u64,
}

/// Something that a process did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Span {
    /// The task's name.
    pub(crate) task: String,
    /// Nanoseconds of the monotonic clock.
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// The items of a call, by index; one that is no item is 0 to 1.
    pub(crate) items: std::ops::Range<u64>,
    /// Whether it came to its end.
    pub(crate) is_done: bool,
    /// Who asked for it, if that was a task that a worker runs.
    pub(crate) caller: Option<Caller>,
}

/// Who may have spans that the timeline has not got yet.
pub(crate) trait Source: Send + Sync {
    /// Adds them.
    fn hand_in(&self);
}

#[derive(Debug, Default)]
struct Log {
    lanes: Vec<Lane>,
    /// Each with the number of its lane.
    spans: Vec<(u32, Span)>,
    dropped: u64,
}

/// What is kept until the process exits.
#[derive(Debug)]
pub(crate) struct Timeline {
    path: PathBuf,
    began: u64,
    log: Mutex<Log>,
    /// Asked before the files are written.
    sources: Mutex<Vec<Weak<dyn Source>>>,
}

/// The timeline, if one was asked for and this process is the one that keeps it.
///
/// The variable is read once, when something first asks.
#[inline]
pub(crate) fn timeline() -> Option<&'static Timeline> {
    static TIMELINE: OnceLock<Option<Timeline>> = OnceLock::new();
    TIMELINE.get_or_init(Timeline::begin).as_ref()
}

impl Timeline {
    #[cold]
    fn begin() -> Option<Self> {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
        // Children inherit the variable; the file is one process's to write.
        if existing().is_none_or(|program| program.roster.my_slot().parent().is_some()) {
            return None;
        }
        if let Err(error) = sys::process::on_exit(write_at_exit) {
            eprintln!("mp: no timeline can be written: {error}");
            return None;
        }
        Some(Self {
            path: PathBuf::from(path),
            began: sys::clock::now(),
            log: Mutex::default(),
            sources: Mutex::default(),
        })
    }

    /// Has a source asked before the files are written, if it is there still.
    pub(crate) fn expect_from(&self, source: Weak<dyn Source>) {
        let sources = self.sources.lock();
        let mut sources = sources.unwrap_or_else(|poison| poison.into_inner());
        sources.retain(|source| source.strong_count() > 0);
        sources.push(source);
    }

    /// Adds what a process did.
    pub(crate) fn add(&self, lane: &Lane, span: Span) {
        let mut log = self.log.lock().unwrap_or_else(|poison| poison.into_inner());
        if log.spans.len() >= MOST_SPANS {
            log.dropped += 1;
            return;
        }
        if let Some(caller) = &span.caller {
            // What it runs is not over yet, and may be the first of its process.
            log.lane(&caller.lane);
        }
        let lane = log.lane(lane);
        log.spans.push((lane, span));
    }

    fn write(&self) -> std::io::Result<()> {
        let sources = self.sources.lock();
        let sources = sources.unwrap_or_else(|poison| poison.into_inner()).clone();
        for source in sources.iter().filter_map(Weak::upgrade) {
            source.hand_in();
        }
        // A copy: whoever adds meanwhile must not wait for a disk.
        let log = self.log.lock().unwrap_or_else(|poison| poison.into_inner());
        let (lanes, spans, dropped) = (log.lanes.clone(), log.spans.clone(), log.dropped);
        drop(log);
        let picture = Picture {
            began: self.began,
            lanes: &lanes,
            spans: &spans,
            dropped,
        };
        chrome::write(&self.path, &picture)?;
        let mut page = OsString::from(&self.path);
        page.push(".html");
        page::write(&PathBuf::from(page), &picture)
    }
}

impl Log {
    /// The number of a lane, which is added if it is new.
    fn lane(&mut self, lane: &Lane) -> u32 {
        let known = self.lanes.iter().rposition(|known| known == lane);
        known.unwrap_or_else(|| {
            self.lanes.push(lane.clone());
            self.lanes.len() - 1
        }) as u32
    }
}

/// What the files show.
struct Picture<'a> {
    began: u64,
    lanes: &'a [Lane],
    spans: &'a [(u32, Span)],
    dropped: u64,
}

impl Picture<'_> {
    /// Microseconds since the beginning.
    fn at(&self, moment: u64) -> f64 {
        moment.saturating_sub(self.began) as f64 / 1e3
    }

    /// How many items a span says it has.
    fn label(span: &Span) -> String {
        let count = span.items.end - span.items.start;
        match count {
            1 => format!("item {}", span.items.start),
            _ => format!("items {} to {}", span.items.start, span.items.end - 1),
        }
    }

    /// For whom it was done, unless that was the program's own call.
    fn caller(span: &Span) -> String {
        match &span.caller {
            Some(Caller { lane, .. }) => format!("{} ({})", lane.name, lane.pid),
            None => String::new(),
        }
    }
}

extern "C" fn write_at_exit() {
    let Some(timeline) = timeline() else { return };
    // A copy of the process made by `fork` has nothing to tell.
    if existing().is_none() {
        return;
    }
    if let Err(error) = timeline.write() {
        let path = timeline.path.display();
        eprintln!("mp: could not write the timeline to {path}: {error}");
    }
}
