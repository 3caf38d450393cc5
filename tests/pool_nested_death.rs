//! Workers and parents that are killed at named points of a call that a task makes on its own pool.
#![cfg(feature = "faults")]

mod support;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use mp::{Array, Event, Pool, Process, Queue, TaskError};
use serde::{Deserialize, Serialize};
use support::{eventually, is_gone, watchdog};

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

/// What runs, and in which process.
type Log = Queue<(Ran, u32)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Ran {
    Call(u32),
    Item(u32),
}

#[mp::task]
fn note((n, log, gate): (u32, Log, Event)) -> u32 {
    log.put((Ran::Item(n), std::process::id())).unwrap();
    gate.wait();
    n
}

/// If the number is even, has its pool do three items, one job an item.
#[mp::task]
fn call_some((n, log, gate): (u32, Log, Event)) -> u32 {
    if n.is_multiple_of(2) {
        log.put((Ran::Call(n), std::process::id())).unwrap();
        let items = (0..3).map(|at| (10 * n + at, log.clone(), gate.clone()));
        let noted = mp::pool().unwrap().map(note, items).unwrap();
        assert_eq!(noted, [10 * n, 10 * n + 1, 10 * n + 2]);
    }
    n
}

/// Whether a process is stopped.
fn is_stopped(pid: u32) -> bool {
    support::status_line(pid, "State").is_some_and(|state| state.starts_with('T'))
}

#[test]
fn guest_killed_between_two_of_its_jobs_leaves_none_and_nothing_runs_twice() {
    let _alone = alone();
    let _watchdog = watchdog(300);
    const CALLS: u32 = 8;
    // The first job is out, and the second is filled, or the parent's already, and not offered. When
    // its caller dies the first is at a worker, or over.
    for (point, is_over) in [
        ("nest.handed", false),
        ("nest.handed", true),
        ("nest.filled", false),
    ] {
        // At most every other is stopped.
        let pool = Pool::builder()
            .workers(CALLS as usize / 2 + 1)
            .chunk_size(1)
            .env("MP_FAULT", format!("stop@{point}:2"))
            .build()
            .unwrap();
        let (log, gate) = (Log::new().unwrap(), Event::new().unwrap());
        if is_over {
            gate.set();
        }
        let items = (0..CALLS).map(|n| (n, log.clone(), gate.clone()));
        let (mut callers, mut ran) = (HashMap::new(), Vec::new());
        let outcomes = std::thread::scope(|scope| {
            let calls = scope.spawn(|| pool.try_map(call_some, items.collect::<Vec<_>>()).unwrap());
            // Each caller dies once its first job is claimed, and it is stopped at its second.
            while ran.len() < CALLS as usize / 2 {
                let (what, pid) = log.get().unwrap();
                match what {
                    Ran::Call(n) => assert_eq!(callers.insert(n, pid), None, "{point}: {n}"),
                    Ran::Item(n) => {
                        ran.push(n);
                        let caller = callers[&(n / 10)];
                        eventually(|| is_stopped(caller));
                        support::send_signal(caller, libc::SIGKILL);
                    }
                }
            }
            calls.join().unwrap()
        });
        assert_eq!(outcomes.len(), CALLS as usize);
        for (n, outcome) in (0..).zip(outcomes) {
            match outcome {
                Ok(value) => assert!(value == n && n % 2 == 1, "{point}: {n}"),
                Err(error) => {
                    assert!(n % 2 == 0, "{point}: {n}: {error}");
                    assert_eq!(error.signal(), Some(libc::SIGKILL), "{point}: {error}");
                }
            }
        }
        eventually(|| {
            let (audit, jobs) = mp::__private::audit_of_pool(&pool);
            audit.faults.is_empty() && audit.process_units == 0 && jobs == 0
        });
        // No first job ran twice, and no other at all.
        assert!(log.is_empty(), "{point}");
        ran.sort_unstable();
        assert_eq!(ran, [0, 20, 40, 60], "{point}");
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
        "nest.looking:1",
        "nest.looking:3",
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
            eventually(|| is_gone(pid));
        }
    }
    eventually(|| {
        let audit = mp::__private::audit().unwrap();
        audit.faults.is_empty() && audit.process_units == 0
    });
}

#[mp::task]
fn nothing() {}

/// Says that it has begun and waits at the gate, if there is one.
#[mp::task]
fn linger(gate: Option<(Event, Event)>) {
    if let Some((begun, gate)) = gate {
        begun.set();
        gate.wait();
    }
}

/// Uses an entry of the job table anew, for a job that it lets go of, while its parent is stopped between two
/// looks at that entry.
#[mp::task]
fn reuse_an_entry() {
    let pool = mp::pool().unwrap();
    let parent = std::os::unix::process::parent_id();
    loop {
        let mut unread = pool.imap_unordered(linger, [None, None, None]).unwrap();
        unread.next().unwrap().unwrap();
        // The others are over, and lie there while the parent is rung.
        pool.apply(nothing, ()).unwrap();
        let is_stopped = (0..1000).any(|_| {
            std::thread::yield_now();
            is_stopped(parent)
        });
        if is_stopped {
            break;
        }
    }
    let (begun, gate) = (Event::new().unwrap(), Event::new().unwrap());
    let gates = [None, Some((begun.clone(), gate.clone()))];
    let mut stream = pool.imap_unordered(linger, gates).unwrap();
    stream.next().unwrap().unwrap();
    begun.wait();
    drop(stream);
    support::send_signal(parent, libc::SIGCONT);
    // Which may need a worker more, so the parent is through with its looks.
    pool.apply(nothing, ()).unwrap();
    gate.set();
}

#[mp::task]
fn call_from_a_pool() {
    let pool = Pool::builder().workers(2).chunk_size(1).build().unwrap();
    pool.apply(reuse_an_entry, ()).unwrap();
    eventually(|| {
        let (audit, jobs) = mp::__private::audit_of_pool(&pool);
        audit.faults.is_empty() && jobs == 0
    });
}

#[test]
fn entry_that_is_used_anew_while_the_parent_looks_at_it_is_not_taken_for_the_old_one() {
    let _alone = alone();
    let _watchdog = watchdog(300);
    for count in 1..=8 {
        let caller = Process::new(call_from_a_pool, ())
            .env("MP_FAULT", format!("stop@nest.looking:{count}"))
            .start()
            .unwrap();
        caller.join().unwrap();
    }
}
