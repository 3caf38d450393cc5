//! What a pool says of itself: figures, and events as they happen.

mod support;

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mp::{Pool, PoolEvent, Queue};
use support::{eventually, send_signal, watchdog};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

#[mp::task]
fn pid() -> u32 {
    std::process::id()
}

#[mp::task]
fn suffer(x: u64) -> u64 {
    match x % 10 {
        3 => panic!("three"),
        7 => std::process::abort(),
        _ => x,
    }
}

#[mp::task]
fn wait_for(begun: Queue<()>, gate: Queue<()>) {
    begun.put(()).unwrap();
    gate.get().unwrap();
}

#[mp::task]
fn reverse(mut bytes: Vec<u8>) -> Vec<u8> {
    std::thread::sleep(Duration::from_millis(2));
    bytes.reverse();
    bytes
}

#[test]
fn every_item_is_counted_by_what_became_of_it() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let none = pool.stats();
    assert_eq!((none.done, none.failed.total(), none.queued), (0, 0, 0));
    let outcomes = pool.try_map(suffer, 0..100)?;
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
    let stats = pool.stats();
    assert_eq!((done, stats.done), (80, 80));
    assert_eq!((stats.failed.panics, stats.failed.crashes), (10, 10));
    assert_eq!(stats.failed.total(), 20);
    assert_eq!(
        (stats.queued, stats.running, stats.pending_calls),
        (0, 0, 0)
    );
    eventually(|| {
        let stats = pool.stats();
        stats.workers_died == 10 && stats.workers_started == 12
    });
    Ok(())
}

#[test]
fn bytes_and_times_are_added_up() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(2).chunk_size(5).build()?;
    pool.map(reverse, vec![vec![1_u8; 10_000]; 50])?;
    let stats = pool.stats();
    for bytes in [stats.bytes_sent, stats.bytes_received] {
        assert!((500_000..600_000).contains(&bytes), "{bytes}");
    }
    assert!(stats.working >= Duration::from_millis(100), "{stats:?}");
    assert!(stats.waiting > Duration::ZERO && stats.encoding > Duration::ZERO);
    // The workers' own figures agree.
    let items: u64 = stats.workers.iter().map(|worker| worker.items).sum();
    let jobs: u64 = stats.workers.iter().map(|worker| worker.jobs).sum();
    let working: Duration = stats.workers.iter().map(|worker| worker.working).sum();
    assert_eq!((items, jobs), (50, 10));
    assert_eq!(working, stats.working);
    assert!(stats.workers.iter().all(|worker| !worker.is_busy));
    Ok(())
}

#[test]
fn what_waits_and_what_runs_is_told_apart() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(2).name("clerk").build()?;
    let (begun, gate) = (Queue::new()?, Queue::new()?);
    let jobs: Vec<_> = (0..5)
        .map(|_| pool.submit(wait_for, (begun.clone(), gate.clone())))
        .collect::<mp::Result<_>>()?;
    begun.get()?;
    begun.get()?;
    eventually(|| {
        let stats = pool.stats();
        stats.running == 2 && stats.queued == 3 && stats.pending_calls == 0
    });
    let workers = pool.stats().workers;
    assert!(
        workers
            .iter()
            .all(|worker| worker.is_busy && worker.is_ready)
    );
    let names: Vec<_> = workers.iter().map(|worker| &worker.name[..]).collect();
    assert_eq!(names, ["clerk-1", "clerk-2"]);
    gate.put_many([(); 5])?;
    mp::wait_all(jobs);
    let stats = pool.stats();
    assert_eq!((stats.running, stats.queued, stats.done), (0, 0, 5));
    Ok(())
}

#[test]
fn workers_that_end_are_counted_by_whether_that_was_planned() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(1).max_tasks_per_worker(2).build()?;
    let pids: HashSet<u32> = (0..6)
        .map(|_| pool.apply(pid, ()))
        .collect::<mp::Result<_>>()?;
    assert_eq!(pids.len(), 3);
    eventually(|| pool.stats().workers_retired == 3);
    let fresh = pool.apply(pid, ())?;
    send_signal(fresh, libc::SIGKILL);
    eventually(|| pool.stats().workers_died == 1);
    pool.close();
    pool.join()?;
    let stats = pool.stats();
    let ended = stats.workers_retired + stats.workers_died;
    assert_eq!(stats.workers_started, ended);
    assert!(stats.workers.is_empty());
    Ok(())
}

// Events.

fn listened(prepare: impl FnOnce(&mut mp::PoolBuilder)) -> (mp::Result<Pool>, Receiver<PoolEvent>) {
    let (sender, events) = channel();
    let mut builder = Pool::builder();
    builder.on_event(move |event| {
        let _ = sender.send(event.clone());
    });
    prepare(&mut builder);
    (builder.build(), events)
}

#[mp::task]
fn refuse() {
    panic!("no licence found");
}

#[test]
fn events_tell_of_workers_and_failures_in_order() -> AnyResult {
    let _watchdog = watchdog(120);
    let (pool, events) = listened(|builder| {
        builder.workers(1).max_tasks_per_worker(4);
    });
    let pool = pool?;
    pool.try_map(suffer, [1, 3, 7])?;
    pool.try_map(suffer, [1, 2, 4, 5, 6])?;
    pool.resize(2)?;
    drop(pool);
    // The pool told all of it before it was gone, and the sender went with it.
    let events: Vec<_> = events.iter().collect();
    let position = |wanted: &dyn Fn(&PoolEvent) -> bool| {
        let found = events.iter().position(wanted);
        found.unwrap_or_else(|| panic!("{events:#?}"))
    };
    let first = position(
        &|event| matches!(event, PoolEvent::WorkerStarted { name, .. } if name == "Worker-1"),
    );
    let crash = position(&|event| match event {
        PoolEvent::WorkerEnded {
            name,
            is_planned,
            reason,
            ..
        } => name == "Worker-1" && !is_planned && reason.contains("SIGABRT"),
        _ => false,
    });
    let second = position(
        &|event| matches!(event, PoolEvent::WorkerStarted { name, .. } if name == "Worker-2"),
    );
    let retired = position(&|event| match event {
        PoolEvent::WorkerEnded {
            is_planned, reason, ..
        } => *is_planned && reason.contains("as many items"),
        _ => false,
    });
    let resized = position(&|event| matches!(event, PoolEvent::Resized { workers: 2, .. }));
    assert!(first < crash && crash < second && second < retired && retired < resized);
    for (index, is_panic) in [(1, true), (2, false)] {
        position(&|event| match event {
            PoolEvent::ItemFailed { error, .. } => {
                error.index() == Some(index) && error.is_panic() == is_panic
            }
            _ => false,
        });
    }
    Ok(())
}

#[test]
fn pool_that_gives_up_tells_why() -> AnyResult {
    let _watchdog = watchdog(120);
    let (pool, events) = listened(|builder| {
        builder.workers(1).initializer(refuse, ());
    });
    let pool = pool?;
    pool.apply(pid, ()).unwrap_err();
    let told = events.iter().find_map(|event| match event {
        PoolEvent::Stopped { error, .. } => Some(error.to_string()),
        _ => None,
    });
    assert!(told.is_some_and(|text| text.contains("no licence found")));
    Ok(())
}

#[test]
fn listener_may_use_its_pool_and_panic() -> AnyResult {
    let _watchdog = watchdog(120);
    static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
    let (sender, pids) = channel();
    let listener = move |event: &PoolEvent| {
        if let PoolEvent::ItemFailed { .. } = event {
            let pool = POOL.get().unwrap();
            let _ = sender.send((pool.apply(pid, ()), pool.stats().failed.panics));
            panic!("the listener panics");
        }
    };
    let pool = Arc::new(Pool::builder().workers(1).on_event(listener).build()?);
    let _ = POOL.set(pool.clone());
    for failed in 1..=2 {
        pool.apply(suffer, (3,)).unwrap_err();
        let (pid, panics) = pids.recv()?;
        assert!(pid? > 0);
        assert_eq!(panics, failed);
    }
    pool.terminate();
    Ok(())
}
