//! Measures `mp` against threads, the bare operating system and Python, interleaved in one run:
//! `cargo run --release --manifest-path mp-bench/Cargo.toml`
//!
//! - [`race`]: the rounds: who runs when, and what is kept.
//! - [`report`], [`page`], [`readme`]: medians, spread and ratios, as Markdown, JSON, a page with pictures, and
//!   what the project's README.md has of them.
//! - [`machine`], [`proc_fs`], [`pin`]: what it ran on, what the kernel counts, and on which CPUs.
//! - [`python`], [`procs`], [`ipc`], [`word`], [`robust`], [`bare`], [`crew`], [`ring`], [`transport`],
//!   [`arrays`]: entrants that subjects have: Python, procspawn, ipc-channel, bare words in shared memory, a mutex
//!   of the system's, a bare fork server, pool, queue and map, and arrays in shared memory.
//! - [`consumer`]: who takes what a subject's entrants put.
//! - All others are subjects: functions in [`SUBJECTS`].
//!
//! The method is in README.md.

mod arrays;
mod bare;
mod build;
mod bulk;
mod consumer;
mod crew;
mod crowd;
mod handover;
mod idle;
mod ipc;
mod latency;
mod lateness;
mod lock;
mod machine;
mod manager;
mod map;
mod page;
mod payload;
mod pin;
mod pipe;
mod proc_fs;
mod process;
mod procs;
mod python;
mod queue;
mod race;
mod readme;
mod report;
mod ring;
mod robust;
mod scaling;
mod shared;
mod stream;
mod transport;
mod value;
mod word;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;

use crate::machine::Machine;
use crate::python::Interpreter;
use crate::race::Results;
use crate::report::Report;

/// Workers, threads and Python processes in every parallel subject.
const WORKERS: usize = 2;

/// No subject takes longer.
const LONGEST: Duration = Duration::from_secs(20 * 60);

/// A subject is a function that races its entrants as the plan says.
type Subject = fn(&Plan) -> anyhow::Result<Vec<Results>>;

/// All subjects in the order of the table, by the names that `--only` knows.
const SUBJECTS: &[(&str, Subject)] = &[
    ("process", process::small_parent),
    ("process-large", process::large_parent),
    ("process-fork-server", process::by_fork_server),
    ("map", map::tiny_items),
    ("map-one", map::one_by_one),
    ("texts", map::texts),
    ("uneven", map::uneven),
    ("queue", queue::one_to_one),
    ("queue-2-2", crowd::two_to_two),
    ("queue-64k", payload::one_to_one),
    ("lock", lock::uncontended),
    ("lock-tight", lock::contended),
    ("lock-share", lock::share),
    ("semaphore", handover::semaphore),
    ("event", handover::event),
    ("condition", handover::condition),
    ("barrier", handover::barrier),
    ("value", value::increment),
    ("bytes", shared::there_and_back),
    ("bytes-sum", shared::summed),
    ("bytes-many", shared::many_summed),
    ("pipe", pipe::round_trip),
    ("pipe-bytes", pipe::large_messages),
    ("manager", manager::calls),
    ("bulk", bulk::there_and_back),
    ("bulk-f64", bulk::numbers),
    ("latency", latency::busy),
    ("latency-idle", latency::idle),
    ("deadline", lateness::hard),
    ("stream", stream::many_items),
    ("scaling", scaling::sleeping_tasks),
    ("idle-memory", idle::memory),
    ("idle-wake-ups", idle::wake_ups),
    ("build", build::hello_world),
];

/// Measures mp against threads, the bare operating system and Python, and prints a Markdown table.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Use tiny counts: every answer is checked, but the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// How often each entrant is measured [default: 15, with --quick 2].
    #[arg(long, value_name = "N")]
    rounds: Option<NonZeroUsize>,
    /// Write all samples to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with pictures to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Put the table into mp-bench/README.md of this checkout, and the comparison into its README.md.
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    update: bool,
    /// Run only the subjects with these names.
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',', value_parser = subject_names())]
    only: Vec<String>,
}

fn subject_names() -> clap::builder::PossibleValuesParser {
    SUBJECTS
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .into()
}

/// How much of everything is measured, and with whom.
#[derive(Debug)]
struct Plan {
    is_quick: bool,
    rounds: usize,
    /// None if there is no Python here.
    python: Option<Interpreter>,
}

impl Plan {
    /// Chooses between the real count of something and one that is just enough to check answers.
    fn count(&self, real: u64, quick: u64) -> u64 {
        if self.is_quick { quick } else { real }
    }
}

/// Ends the run if the subject takes longer than any does: a process that others wait for has died, say.
/// Dropping it calls that off.
fn watch() -> Sender<()> {
    let (watchdog, over) = mpsc::channel();
    thread::spawn(move || {
        if over.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            eprintln!(" has not ended after {} s: given up", LONGEST.as_secs());
            std::process::exit(1);
        }
    });
    watchdog
}

fn main() -> anyhow::Result<ExitCode> {
    // Before anything else, so that this costs what starting the program costs and no more.
    if process::is_no_op() {
        return Ok(ExitCode::from(process::NO_OP_EXIT_CODE));
    }
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == bare::SERVE)
    {
        bare::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    // What it starts is this program too, and takes over here.
    procspawn::init();
    let options = Options::parse();
    if cfg!(debug_assertions) && !options.quick {
        eprintln!("This is a debug build: its figures mean nothing. Use `cargo run --release`.");
    }
    let (python, version) = match python::find() {
        Ok((interpreter, version)) => (Some(interpreter), Some(version)),
        Err(reason) => {
            eprintln!("Python is left out: {reason:#}");
            (None, None)
        }
    };
    let plan = Plan {
        is_quick: options.quick,
        rounds: match options.rounds {
            Some(rounds) => rounds.get(),
            None => {
                if options.quick {
                    2
                } else {
                    15
                }
            }
        },
        python,
    };

    let machine = Machine::look(version);
    let mut results = Vec::new();
    let mut is_complete = true;
    for (name, subject) in SUBJECTS {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            eprint!("{name} …");
            let begin = Instant::now();
            let watchdog = watch();
            // What the others have come to is not to be lost.
            match subject(&plan) {
                Ok(races) => results.extend(races),
                Err(error) => {
                    is_complete = false;
                    eprintln!(" failed: {error:#}");
                }
            }
            drop(watchdog);
            eprintln!(" {} s", begin.elapsed().as_secs());
        }
    }
    let report = Report::new(machine, &plan, results);
    if let Some(path) = &options.json {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        serde_json::to_writer_pretty(BufWriter::new(file), &report)?;
    }
    if let Some(path) = &options.html {
        std::fs::write(path, page::write(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    // After the files, which do not depend on whether somebody reads this.
    let _ = std::io::stdout().write_all(report.to_markdown().as_bytes());
    ensure!(is_complete, "some of it failed: see above");
    if options.update {
        readme::update(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}
