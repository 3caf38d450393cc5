//! Isolated workers, and parents of some, that are killed at named points: every item has one outcome,
//! and nothing is left.
#![cfg(feature = "faults")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use mp::{Pool, PoolBuilder, Process};
use support::{alone, alone_with, children, eventually, is_gone, settles_at, watchdog};

const ITEMS: u32 = 60;

fn isolated() -> PoolBuilder {
    let mut builder = Pool::builder();
    builder.workers(2).isolated(true);
    builder
}

/// Appends a line to a file: what isolated workers can do that share nothing else.
fn note(path: &Path, what: u32) {
    let mut file = fs::File::options().append(true).open(path).unwrap();
    // In one piece: several write to it.
    file.write_all(format!("{what}\n").as_bytes()).unwrap();
}

fn notes(path: &Path) -> Vec<u32> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// A file for notes, which is there for as long as this.
struct Notes(PathBuf);

impl Notes {
    fn new(name: &str) -> Self {
        let name = format!("mp-isolated-death-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, "").unwrap();
        Self(path)
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Descriptors of a pool's memory, of a child, or of a link to one.
fn descriptors() -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    let of_pools = ["mp-pool", "[pidfd]", "socket:"];
    let is_of_pools = |link: &PathBuf| {
        let link = link.to_string_lossy();
        of_pools.iter().any(|kind| link.contains(kind))
    };
    links.filter(is_of_pools).count()
}

/// Nothing is left of what the test used.
fn check_for_leaks() {
    let left = || {
        let audit = mp::__private::audit().unwrap();
        let children = children().len();
        (audit.process_units, audit.faults, descriptors(), children)
    };
    settles_at(&(0, Vec::new(), 0, 0), left);
}

#[mp::task]
fn run((n, runs): (u32, PathBuf)) -> (u32, Vec<u8>) {
    note(&runs, n);
    // Some take a frame that is sent in two pieces.
    let len = if n.is_multiple_of(5) { 40_000 } else { 10 };
    (n, vec![n as u8; len])
}

/// The point's worker dies there for the `every`th time, and so does each that takes its place.
fn check(point: &str, every: u32, chunk: u64) {
    let fault = format!("{point}:{every}");
    let runs = Notes::new(&fault);
    let mut builder = isolated();
    let builder = builder.chunk_size(chunk);
    let pool = builder.env("MP_FAULT", &fault).build().unwrap();
    let items = (0..ITEMS).map(|n| (n, runs.0.clone()));
    let outcomes = pool.try_map(run, items).unwrap();
    let mut ran = HashMap::new();
    for n in notes(&runs.0) {
        *ran.entry(n).or_insert(0) += 1;
    }
    let mut failed = 0;
    for (n, outcome) in (0..).zip(&outcomes) {
        let ran = ran.get(&n).copied().unwrap_or(0);
        match outcome {
            Ok((value, bytes)) => {
                assert_eq!((*value, ran), (n, 1), "{fault}");
                assert!(bytes.iter().all(|&byte| byte == n as u8));
            }
            Err(error) => {
                // One that others died before, time and again, is given up: it had not begun.
                failed += u32::from(error.may_have_started());
                assert_eq!(error.signal(), Some(libc::SIGKILL), "{fault}: {error}");
                let most = u32::from(error.may_have_started());
                assert!(ran <= most, "{fault}: item {n} ran {ran} times");
            }
        }
    }
    assert_eq!(outcomes.len(), ITEMS as usize);
    let is_at_an_item = !matches!(point, "isolated.received" | "isolated.ended");
    // After the last outcome of a job it is at none.
    let may_be_at_none = point == "isolated.told" && chunk == 1;
    assert!(is_at_an_item || failed == 0, "{fault}: {failed} failed");
    assert!(!is_at_an_item || may_be_at_none || failed > 0, "{fault}");
    // The last may die after its job was done.
    eventually(|| pool.stats().workers_died > 0);
    drop(pool);
}

#[test]
fn isolated_worker_killed_at_any_point_costs_the_item_it_was_at() {
    alone(
        "isolated_worker_killed_at_any_point_costs_the_item_it_was_at",
        || {
            let _watchdog = watchdog(300);
            for point in [
                "isolated.received",
                "isolated.begun",
                "isolated.ran",
                "isolated.told",
                "isolated.ended",
                "link.headed",
            ] {
                for every in [2, 5] {
                    for chunk in [1, 7] {
                        check(point, every, chunk);
                    }
                }
            }
            check_for_leaks();
        },
    );
}

#[mp::task]
fn pid() -> u32 {
    std::process::id()
}

#[mp::task]
fn fail() {
    panic!("as told");
}

#[test]
fn isolated_workers_killed_before_they_are_ready_stop_the_pool() {
    alone(
        "isolated_workers_killed_before_they_are_ready_stop_the_pool",
        || {
            let _watchdog = watchdog(300);
            for point in ["isolated.met", "isolated.greeted", "isolated.unfit"] {
                let mut builder = isolated();
                builder.env("MP_FAULT", point);
                if point == "isolated.unfit" {
                    builder.initializer(fail, ());
                }
                let pool = builder.build().unwrap();
                let error = pool.apply(pid, ()).unwrap_err().to_string();
                let cause = match point {
                    // It had said so before it died.
                    "isolated.unfit" => "as told",
                    _ => "SIGKILL",
                };
                assert!(error.contains(cause), "{point}: {error}");
            }
            check_for_leaks();
        },
    );
}

/// One that dies right after it said that it is ready has come to work, so it is replaced; but each
/// that takes its place does the same.
#[test]
fn isolated_workers_that_die_once_they_are_ready_are_given_up() {
    let _watchdog = watchdog(300);
    let mut builder = isolated();
    let pool = builder.env("MP_FAULT", "isolated.ready").build().unwrap();
    let error = pool.apply(pid, ()).unwrap_err();
    assert!(format!("{error:#}").contains("SIGKILL"), "{error:#}");
}

/// Calls an isolated pool until it dies of it. Its workers leave their process ids.
#[mp::task]
fn use_isolated_workers(workers: PathBuf) {
    let mut builder = isolated();
    // It is not they who are to die.
    let builder = builder.chunk_size(3).env("MP_FAULT", "none");
    let pool = builder.max_tasks_per_worker(20).build().unwrap();
    let items = (0..ITEMS).map(|n| (n, workers.clone(), vec![0; 20_000]));
    pool.map(note_pid, items).unwrap();
}

#[mp::task]
fn note_pid((_, workers, bytes): (u32, PathBuf, Vec<u8>)) -> Vec<u8> {
    note(&workers, std::process::id());
    bytes
}

#[test]
fn parent_killed_at_any_point_takes_its_isolated_workers_along() {
    alone(
        "parent_killed_at_any_point_takes_its_isolated_workers_along",
        || {
            let _watchdog = watchdog(300);
            for point in [
                "attendant.met",
                "attendant.ready",
                "attendant.sent",
                "link.headed",
                "attendant.heard",
                "attendant.copied",
                "attendant.stored",
                "attendant.committing",
                "attendant.committed",
                "attendant.leaving",
            ] {
                for every in [1, 2] {
                    let workers = Notes::new(point);
                    let parent = Process::new(use_isolated_workers, (workers.0.clone(),))
                        .env("MP_FAULT", format!("{point}:{every}"))
                        .start()
                        .unwrap();
                    let error = parent.join().unwrap_err();
                    assert_eq!(error.signal(), Some(libc::SIGKILL), "{point}: {error}");
                    for pid in notes(&workers.0) {
                        eventually(|| is_gone(pid));
                    }
                }
            }
            check_for_leaks();
        },
    );
}

#[test]
fn attendant_that_panics_costs_what_its_worker_was_at() {
    let name = "attendant_that_panics_costs_what_its_worker_was_at";
    for fault in [
        "panic@attendant.sent:2",
        "panic@attendant.heard:4",
        "panic@attendant.committing:2",
    ] {
        let prepare = |command: &mut std::process::Command| {
            command.env("MP_FAULT", fault);
        };
        alone_with(name, prepare, || {
            let _watchdog = watchdog(120);
            let runs = Notes::new("panic");
            let mut builder = isolated();
            let pool = builder.chunk_size(3).build().unwrap();
            let items = (0..ITEMS).map(|n| (n, runs.0.clone()));
            let outcomes = pool.try_map(run, items).unwrap();
            let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
            assert!(outcomes.len() == ITEMS as usize && failed <= 1, "{failed}");
            // It is as good as new.
            eventually(|| {
                let workers = pool.stats().workers;
                workers.len() == 2 && workers.iter().all(|worker| worker.is_ready)
            });
            pool.close();
            pool.join().unwrap();
            drop(pool);
            check_for_leaks();
        });
    }
}
