//! A timeline of what ran where and when: `MP_TRACE=FILE` has it written, with no change in the
//! program.
//!
//! - [`chrome`]: as Chrome's trace events, which Perfetto opens.
//! - [`page`]: as a page with a picture of it, beside that.
//!
//! The program's first process alone keeps the timeline, of its own pools and children: a few words
//! for each job, when it is over. Both files are written when the process exits.

mod chrome;
mod page;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use crate::life::program::existing;
use crate::sys;

/// The variable that names the file.
const VARIABLE: &str = "MP_TRACE";

/// Spans that are kept. Further ones are counted only, so that a long run stays within bounds.
const MOST_SPANS: usize = 1 << 20;

/// Where something ran.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lane {
    /// The worker's or the child's name.
    name: String,
    pid: u32,
}

/// Something that a process did.
#[derive(Clone, Debug)]
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
        })
    }

    /// Adds what the process of that name did.
    pub(crate) fn add(&self, name: &str, pid: u32, span: Span) {
        let mut log = self.log.lock().unwrap_or_else(|poison| poison.into_inner());
        if log.spans.len() >= MOST_SPANS {
            log.dropped += 1;
            return;
        }
        let known = log
            .lanes
            .iter()
            .rposition(|lane| lane.pid == pid && lane.name == name);
        let lane = known.unwrap_or_else(|| {
            log.lanes.push(Lane {
                name: name.to_owned(),
                pid,
            });
            log.lanes.len() - 1
        });
        log.spans.push((lane as u32, span));
    }

    fn write(&self) -> std::io::Result<()> {
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
