//! Workers and parents that are killed at named points of a call that a task makes on its own pool.
#![cfg(feature = "faults")]

mod support;

use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use mp::{Array, Pool, Process, Queue, TaskError};
use support::{eventually, watchdog};

/// One test at a time: the audit is of the whole program.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Items that a task's call has.
const INNER: u32 = 12;

type Inner = (u32, Array<u32>, Queue<u32>);

/// Counts that it ran, and sends a handle back. One of each call crashes, the first time.
#[mp::task]
fn inner((n, runs, queue): Inner) -> (u32, Vec<u8>, Queue<u32>) {
    let before = {
        let mut runs = runs.lock().unwrap_or_else(|_| runs.recover());
        runs[n as usize] += 1;
        runs[n as usize] - 1
    };
    if n % INNER == 7 && before == 0 {
        std::process::abort();
    }
    (n, vec![n as u8; n as usize * 50], queue)
}

#[mp::task]
fn stay(begun: Queue<u32>) {
    begun.put(std::process::id()).unwrap();
    loop {
        std::thread::park();
    }
}

/// The outcomes of items of a call that was made inside: which it was, or why it failed.
type Outcomes = Vec<Result<u32, TaskError>>;

/// Calls in the ways that differ in what they leave: to the end, not to the end, cancelled.
#[mp::task]
fn outer((at, runs, queue): Inner) -> Outcomes {
    let pool = mp::pool().unwrap();
    let first = at * INNER;
    let items = (first..first + INNER).map(|n| (n, runs.clone(), queue.clone()));
    match at % 3 {
        0 => {
            let outcomes = pool
                .with_retries(u32::from(at % 2 == 0))
                .try_map(inner, items);
            let check = |(n, bytes, _)| {
                assert_eq!(bytes, vec![n as u8; n as usize * 50]);
                n
            };
            outcomes
                .unwrap()
                .into_iter()
                .map(|it| it.map(check))
                .collect()
        }
        1 => {
            let mut stream = pool.imap_unordered(inner, items).unwrap();
            stream.next();
            Vec::new()
        }
        _ => {
            let begun = Queue::new().unwrap();
            let job = pool.submit(stay, (begun.clone(),)).unwrap();
            while begun.is_empty() && !job.is_done() {
                std::thread::yield_now();
            }
            job.cancel();
            job.wait().unwrap_err();
            Vec::new()
        }
    }
}

fn check(point: &str, every: u32) {
    let pool = Pool::builder()
        .workers(2)
        .chunk_size(3)
        .env("MP_FAULT", format!("{point}:{every}"))
        // So that callers have something to tell.
        .on_event(|_| {})
        .build()
        .unwrap();
    const OUTER: u32 = 12;
    let runs = Array::<u32>::zeroed((OUTER * INNER) as usize).unwrap();
    let queue = Queue::new().unwrap();
    let items = (0..OUTER).map(|at| (at, runs.clone(), queue.clone()));
    let outcomes = pool.try_map(outer, items).unwrap();
    let mut failed = [0, 0];
    let is_kill = |error: &TaskError| {
        // What was not begun when its worker died four times in a row.
        let signals = [Some(libc::SIGKILL), Some(libc::SIGABRT)];
        signals.contains(&error.signal()) || error.is_lost()
    };
    let runs = runs.lock().unwrap_or_else(|_| runs.recover()).to_vec();
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let is_retried = at % 6 == 0;
        let of_task = at * INNER as usize..(at + 1) * INNER as usize;
        assert!(
            runs[of_task.clone()]
                .iter()
                .all(|&ran| ran <= 1 + u32::from(is_retried))
        );
        match outcome {
            Ok(outcomes) if at % 3 == 0 => {
                for (n, outcome) in of_task.zip(outcomes) {
                    match outcome {
                        Ok(value) => {
                            assert_eq!(value as usize, n);
                            assert!(runs[n] == 1 || is_retried && runs[n] == 2, "{point}: {n}");
                        }
                        Err(error) => {
                            failed[1] += 1;
                            assert!(is_kill(&error), "{point}: {error}");
                        }
                    }
                }
            }
            Ok(_) => {}
            Err(error) => {
                failed[0] += 1;
                assert!(is_kill(&error), "{point}: {error}");
            }
        }
    }
    println!("{point}:{every}: {failed:?} failed");
    eventually(|| {
        let (audit, jobs) = mp::__private::audit_of_pool(&pool);
        audit.faults.is_empty() && audit.process_units == 0 && jobs == 0
    });
}

#[test]
fn worker_killed_at_any_point_costs_what_it_was_at_and_what_that_called() {
    let _alone = alone();
    let _watchdog = watchdog(300);
    for point in [
        "nest.held",
        "nest.filled",
        "nest.handed",
        "nest.written",
        "nest.told",
        "nest.marked",
        "nest.waiting",
        "nest.releasing",
        "pool.filled",
        "pool.offered",
        "pool.claimed",
        "pool.item",
        "pool.ran",
        "pool.packed",
        "pool.handed",
        "pool.committed",
        "pool.idle",
        "pool.driving",
        "pool.harvesting",
        "pool.harvested",
        "parcel.counted",
        "table.let_go",
        "arena.freed",
    ] {
        for every in [2, 5] {
            check(point, every);
        }
    }
    // These come seldom.
    for point in [
        "nest.unmarked",
        "nest.disowned",
        "nest.doomed",
        "pool.requeueing",
        "pool.retrying",
    ] {
        for every in [1, 2] {
            check(point, every);
        }
    }
    eventually(|| {
        let audit = mp::__private::audit().unwrap();
        audit.faults.is_empty() && audit.process_units == 0
    });
}

#[mp::task]
fn die_inside(pids: Queue<u32>) {
    pids.put(std::process::id()).unwrap();
    let pool = mp::pool().unwrap();
    let _stay = pool.submit(stay, (pids.clone(),)).unwrap();
    let _stay = pool.submit(stay, (pids.clone(),)).unwrap();
    while pids.len() < 3 {
        std::thread::yield_now();
    }
    std::process::abort();
}

#[mp::task]
fn use_a_pool(pids: Queue<u32>) {
    let pool = Pool::new(2).unwrap();
    let _ = pool.apply(die_inside, (pids,));
    // The parent dies when it sees to what the task has left.
    loop {
        std::thread::park();
    }
}

#[test]
fn parent_killed_at_any_point_takes_all_along() {
    let _alone = alone();
    let _watchdog = watchdog(300);
    for fault in [
        "nest.withdrawn:1",
        "nest.withdrawn:2",
        "nest.looked:1",
        "nest.looked:2",
        "pool.buried:1",
        "pool.buried:2",
        "pool.replacing:1",
    ] {
        let pids = Queue::new().unwrap();
        let parent = Process::new(use_a_pool, (pids.clone(),))
            .env("MP_FAULT", fault)
            .start()
            .unwrap();
        let error = parent.join().unwrap_err();
        assert_eq!(error.signal(), Some(libc::SIGKILL), "{fault}: {error}");
        while let Ok(pid) = pids.try_get() {
            eventually(|| !Path::new(&format!("/proc/{pid}")).exists());
        }
    }
    eventually(|| {
        let audit = mp::__private::audit().unwrap();
        audit.faults.is_empty() && audit.process_units == 0
    });
}
