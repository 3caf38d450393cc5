//! Workers that are killed at named points: every item has an outcome, none runs twice.
#![cfg(feature = "faults")]

mod support;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mp::{Pool, Queue};
use support::{eventually, is_gone, watchdog};

/// One test at a time: the audit is of the whole program.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[mp::task]
fn run(
    (n, runs, carried): (u32, Queue<u32>, Option<Queue<u32>>),
) -> (u32, Vec<u8>, Option<Queue<u32>>) {
    runs.put(n).unwrap();
    (n, vec![n as u8; n as usize * 100], carried)
}

fn check(point: &str, every: u32) {
    let mut builder = Pool::builder();
    builder
        .workers(2)
        .chunk_size(7)
        .env("MP_FAULT", format!("{point}:{every}"));
    if point == "pool.leaving" {
        builder.max_tasks_per_worker(7);
    }
    let pool = builder.build().unwrap();
    let runs = Queue::new().unwrap();
    let items: Vec<_> = (0..150)
        .map(|n| {
            (
                n,
                runs.clone(),
                (n % 10 == 0).then(|| Queue::new().unwrap()),
            )
        })
        .collect();
    let outcomes = pool.try_map(run, items).unwrap();
    let mut failed = 0;
    let mut by_n = HashMap::new();
    while let Ok(n) = runs.try_get() {
        *by_n.entry(n).or_insert(0) += 1;
    }
    for (n, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok((value, bytes, carried)) => {
                assert_eq!(*value as usize, n);
                assert_eq!(*bytes, vec![n as u8; n * 100]);
                assert_eq!(carried.is_some(), n % 10 == 0);
                assert_eq!(by_n.get(&(n as u32)), Some(&1), "{point}: item {n}");
            }
            Err(error) => {
                failed += 1;
                // A worker that gets there before its first job never comes to work.
                let is_stopped = error.is_lost() && every <= 2;
                assert!(
                    error.signal() == Some(libc::SIGKILL) || is_stopped,
                    "{point}: {error}"
                );
                let ran = by_n.get(&(n as u32)).copied().unwrap_or(0);
                assert!(
                    ran <= u32::from(error.may_have_started()),
                    "{point}: item {n} ran {ran} times"
                );
            }
        }
    }
    println!("{point}:{every}: {failed} of {} failed", outcomes.len());
    drop(outcomes);
    drop(pool);
}

#[test]
fn worker_killed_at_any_point_costs_the_item_it_was_at() {
    let _alone = alone();
    let _watchdog = watchdog(300);
    for point in [
        "pool.claimed",
        "pool.taken",
        "pool.item",
        "pool.ran",
        "pool.packed",
        "pool.committing",
        "pool.handed",
        "pool.committed",
        "pool.idle",
        "pool.woken",
        "pool.leaving",
        "arena.cut",
        "arena.owned",
        "arena.extended",
        "arena.split",
        "arena.freed",
        "arena.merged",
        "redo.recorded",
        "redo.applying",
        "redo.applied",
        "parcel.counted",
        "table.let_go",
    ] {
        for every in [2, 5] {
            check(point, every);
        }
    }
    eventually(|| mp::__private::audit().unwrap().faults.is_empty());
}

#[mp::task]
fn use_a_pool(workers: Queue<u32>) {
    let pool = Pool::builder().workers(2).chunk_size(3).build().unwrap();
    let carried = Queue::<u32>::new().unwrap();
    let items = (0..60).map(|n| (n, workers.clone(), (n % 10 == 0).then(|| carried.clone())));
    let _ = pool.try_map(tell_and_maybe_die, items);
    for n in [1, 3] {
        pool.resize(n).unwrap();
    }
    pool.drain(std::time::Duration::from_secs(60));
    drop(pool);
}

#[mp::task]
fn tell_and_maybe_die(
    (n, workers, carried): (u32, Queue<u32>, Option<Queue<u32>>),
) -> Option<Queue<u32>> {
    workers.put(std::process::id()).unwrap();
    if n % 20 == 7 {
        std::process::abort();
    }
    carried
}

#[mp::task]
fn submit_and_cancel(workers: Queue<u32>) {
    let pool = Pool::new(2).unwrap();
    let telling = workers.clone();
    let stuck = pool.submit(tell_and_hang, (telling,)).unwrap();
    // Once it runs it can only be stopped by the death of its worker.
    let pid = workers.get().unwrap();
    workers.put(pid).unwrap();
    stuck.cancel();
    let _ = stuck.wait();
    panic!("the parent should have died by now");
}

#[mp::task]
fn lose_patience(workers: Queue<u32>) {
    let pool = Pool::builder()
        .workers(2)
        .task_timeout(Duration::from_millis(20))
        .retries(1)
        .build()
        .unwrap();
    let _ = pool.apply(tell_and_hang, (workers,));
    panic!("the parent should have died by now");
}

#[mp::task]
fn broadcast(workers: Queue<u32>) {
    let pool = Pool::new(2).unwrap();
    let _ = pool.broadcast(tell, (workers,));
    panic!("the parent should have died by now");
}

#[mp::task]
fn tell(workers: Queue<u32>) {
    workers.put(std::process::id()).unwrap();
}

#[mp::task]
fn tell_and_hang(workers: Queue<u32>) {
    workers.put(std::process::id()).unwrap();
    loop {
        std::thread::park();
    }
}

/// What a parent does that is to die.
enum Parent {
    Maps,
    Drains,
    Cancels,
    LosesPatience,
    Broadcasts,
}

#[test]
fn parent_killed_at_any_point_takes_its_workers_along() {
    let _alone = alone();
    let _watchdog = watchdog(300);
    let workers = Queue::new().unwrap();
    let before = mp::__private::audit().unwrap();
    let points = [
        ("pool.filled", Parent::Maps),
        ("pool.offered", Parent::Maps),
        ("pool.put", Parent::Maps),
        ("pool.pushed", Parent::Maps),
        ("pool.harvesting", Parent::Maps),
        ("pool.harvested", Parent::Maps),
        ("pool.requeueing", Parent::Maps),
        ("pool.buried", Parent::Maps),
        ("pool.replacing", Parent::Maps),
        ("pool.resizing", Parent::Maps),
        ("pool.draining", Parent::Drains),
        ("pool.driving", Parent::Cancels),
        ("pool.doomed", Parent::Cancels),
        ("pool.expired", Parent::LosesPatience),
        ("pool.retrying", Parent::LosesPatience),
        ("pool.posted", Parent::Broadcasts),
    ];
    for (point, parent) in points {
        let (task, most): (fn(_) -> _, _) = match parent {
            Parent::Maps => (|workers| mp::Process::new(use_a_pool, workers), 2),
            // They do so once.
            Parent::Drains => (|workers| mp::Process::new(use_a_pool, workers), 1),
            Parent::Cancels => (|workers| mp::Process::new(submit_and_cancel, workers), 1),
            Parent::LosesPatience => (|workers| mp::Process::new(lose_patience, workers), 1),
            Parent::Broadcasts => (|workers| mp::Process::new(broadcast, workers), 2),
        };
        for every in 1..=most {
            let parent = task((workers.clone(),))
                .env("MP_FAULT", format!("{point}:{every}"))
                .start()
                .unwrap();
            let error = parent.join().unwrap_err();
            assert_eq!(error.signal(), Some(libc::SIGKILL), "{point}: {error}");
            while let Ok(pid) = workers.try_get() {
                eventually(|| is_gone(pid));
            }
        }
    }
    let has_come_back = || {
        let audit = mp::__private::audit().unwrap();
        audit.faults.is_empty() && audit.process_units == before.process_units
    };
    eventually(has_come_back);
}

#[mp::task]
fn half(n: u64) -> u64 {
    n / 2
}

#[mp::task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[test]
fn worker_killed_while_it_hands_over_what_it_merged_costs_nothing() {
    let _alone = alone();
    let _watchdog = watchdog(300);
    let point = "pool.merged";
    for every in [1, 3] {
        let pool = Pool::builder()
            .workers(2)
            .chunk_size(8)
            .env("MP_FAULT", format!("{point}:{every}"))
            .build()
            .unwrap();
        let sum = pool.map_reduce(half, add, (0..100).map(|n| n * 2));
        assert_eq!(sum.unwrap(), Some((0..100).sum()));
    }
    eventually(|| mp::__private::audit().unwrap().faults.is_empty());
}

#[test]
fn workers_killed_before_they_are_ready_stop_the_pool() {
    let _alone = alone();
    let _watchdog = watchdog(300);
    for point in [
        "child.claimed",
        "child.attached",
        "child.ready",
        "pool.ready",
    ] {
        let pool = Pool::builder()
            .workers(2)
            .env("MP_FAULT", point)
            .build()
            .unwrap();
        let runs = Queue::new().unwrap();
        let error = pool.map(run, [(1, runs, None)]).unwrap_err();
        assert!(error.to_string().contains("SIGKILL"), "{point}: {error}");
    }
}
