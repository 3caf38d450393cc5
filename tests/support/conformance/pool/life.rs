//! Pools that end, early or late, and their workers that do before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use mp::Pool;
use serde::{Deserialize, Serialize};

use super::super::Sure;
use super::{gates, half, pass, process_id, quietly, square, world};
use crate::backend::{Queue, World, mp};
use crate::support::watchdog;

#[mp::task]
fn never_return(started: Queue<()>) {
    started.put(()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn pool_test_terminate() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(3);
    let started = world.queue();
    std::thread::scope(|scope| {
        let items = (0..10_000).map(|_| started.clone());
        let call = scope.spawn(|| pool.try_map(never_return, items));
        for _ in 0..3 {
            started.get().unwrap();
        }
        pool.terminate();
        pool.join().unwrap();
        let outcomes = call.join().unwrap().unwrap();
        assert_eq!(outcomes.len(), 10_000);
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert!(error.is_cancelled(), "{error}");
        }
    });
}

#[test]
fn pool_test_context() {
    let _watchdog = watchdog(180);
    let world = world!();
    let (items, _go, started) = gates(&world, 3);
    {
        let pool = world.pool(3);
        // Tasks that would never end do not keep it.
        let mut stream = pool.imap(pass, items).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    started.get().unwrap();
                }
                pool.terminate();
            });
            assert!(stream.next().unwrap().unwrap_err().is_cancelled());
        });
        drop(stream);
        let error = pool.map(square, 0..3).unwrap_err();
        assert!(error.is_closed(), "{error}");
    }
    world.await_let_go(3);
}

#[test]
fn pool_test_enter() {
    let _watchdog = watchdog(180);
    let world = world!();
    for end in [Pool::close, Pool::terminate] {
        let pool = world.pool(1);
        assert_eq!(pool.map(square, [2]).unwrap(), [4]);
        end(&pool);
        pool.join().unwrap();
        assert!(pool.map(square, [2]).unwrap_err().is_closed());
        assert!(pool.imap(square, [2]).unwrap_err().is_closed());
        assert!(pool.apply(square, (2,)).unwrap_err().is_closed());
    }
    // Joining one that is open would wait for ever.
    let error = world.pool(1).join().unwrap_err();
    assert!(error.to_string().contains("still open"), "{error}");
}

#[test]
fn pool_test_pool_worker_lifetime() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(3, |builder| {
        builder.max_tasks_per_worker(10);
    });
    let mut tasks_of = BTreeMap::new();
    for id in pool.starmap(process_id, [(); 100]).unwrap() {
        *tasks_of.entry(id).or_insert(0) += 1;
    }
    assert!(tasks_of.values().all(|&tasks| tasks <= 10), "{tasks_of:?}");
    assert_eq!(tasks_of.values().sum::<u32>(), 100);
    assert!(
        pool.map(square, 0..100)
            .unwrap()
            .into_iter()
            .eq((0..100).map(|x| x * x))
    );
    pool.close();
    pool.join().unwrap();
    world.await_let_go(3);
}

#[test]
fn pool_test_pool_worker_lifetime_early_close() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(3, |builder| {
        builder.max_tasks_per_worker(1);
    });
    let (items, go, started) = gates(&world, 6);
    let mut stream = pool.imap(pass, items).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                started.get().unwrap();
            }
            pool.close();
            go.close().sure();
        });
        assert_eq!(stream.next().unwrap().unwrap().0, 0);
    });
    let rest: Vec<_> = stream.map(|result| result.unwrap().0).collect();
    assert_eq!(rest, [1, 2, 3, 4, 5]);
    pool.join().unwrap();
}

static INITIALIZED: AtomicU64 = AtomicU64::new(0);

#[mp::task]
fn initialize(number: u64, log: Queue<u32>) {
    INITIALIZED.fetch_add(number, Ordering::Relaxed);
    log.put(std::process::id()).unwrap();
}

#[mp::task]
fn initialized() -> (u64, u32) {
    let number = INITIALIZED.load(Ordering::Relaxed);
    (number, std::process::id())
}

fn not_a_task() {}

#[test]
fn pool_test_pool_initializer() {
    let _watchdog = watchdog(180);
    let world = world!();
    let log = world.queue();
    let pool = world.pool_with(4, |builder| {
        builder.initializer(initialize, (123, log.clone()));
    });
    let mut initialized_in: Vec<_> = (0..4).map(|_| log.get().unwrap()).collect();
    let outcomes = pool.starmap(initialized, [(); 100]).unwrap();
    assert!(outcomes.iter().all(|(number, _)| *number == 123));
    assert!(outcomes.iter().all(|(_, id)| initialized_in.contains(id)));
    pool.close();
    pool.join().unwrap();
    // In each once.
    assert!(log.is_empty().sure());
    initialized_in.sort_unstable();
    initialized_in.dedup();
    assert_eq!(initialized_in.len(), 4);
    assert_eq!(INITIALIZED.load(Ordering::Relaxed), 0);

    let error = Pool::builder()
        .initializer(not_a_task, ())
        .build()
        .unwrap_err();
    assert!(error.is_unknown_task(), "{error}");
}

#[test]
fn pool_test_shutdown_race_issue12456() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(2);
    let results = pool.imap(square, 0..3).unwrap();
    pool.close();
    assert!(results.map(Result::unwrap).eq([0, 1, 4]));
    pool.join().unwrap();
}

/// Tells when it is dropped in a worker.
#[derive(Serialize, Deserialize)]
struct Precious(Queue<u32>);

impl Drop for Precious {
    fn drop(&mut self) {
        if !mp::current_process().is_main() {
            self.0.put(std::process::id()).unwrap();
        }
    }
}

#[mp::task]
fn use_precious(_precious: Precious) -> u32 {
    std::process::id()
}

#[test]
fn pool_test_ressources_gced_in_workers() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(1);
    let dropped = world.queue();
    for _ in 0..3 {
        let precious = Precious(dropped.clone());
        let worker = pool.apply(use_precious, (precious,)).unwrap();
        assert_eq!(dropped.get().unwrap(), worker);
        assert!(dropped.is_empty().sure());
    }
}

fn backlog_survives_recycling(world: &World, workers: usize, tasks: u64) {
    let pool = world.pool_with(workers, |builder| {
        builder.max_tasks_per_worker(2);
    });
    let squares = pool.map(square, 0..tasks).unwrap();
    assert!(squares.into_iter().eq((0..tasks).map(|x| x * x)));
}

#[test]
fn pool_test_max_tasks_per_child_pending_tasks_gh115634() {
    let _watchdog = watchdog(180);
    let world = world!();
    backlog_survives_recycling(&world, 1, 6);
}

#[test]
fn pool_test_max_tasks_per_child_pending_tasks_gh115634_of_two() {
    let _watchdog = watchdog(180);
    let world = world!();
    backlog_survives_recycling(&world, 2, 8);
}

#[test]
fn pool_test_shutdown_no_wait_max_tasks_gh119592() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(1, |builder| {
        builder.max_tasks_per_worker(1);
    });
    let mut results = pool.imap(square, 0..5).unwrap();
    assert_eq!(results.next().unwrap().unwrap(), 0);
    // The worker is being replaced now.
    pool.close();
    assert!(results.map(Result::unwrap).eq([1, 4, 9, 16]));
    world.await_let_go(1);
}

#[test]
fn pool_test_force_shutdown_during_max_tasks_worker_exit() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(1, |builder| {
        builder.max_tasks_per_worker(1);
    });
    let (items, go, _started) = gates(&world, 5);
    let mut results = pool.imap(pass, items).unwrap();
    go.put(0).unwrap();
    assert_eq!(results.next().unwrap().unwrap().0, 0);
    // The worker is being replaced now.
    pool.terminate();
    world.await_let_go(1);
    let rest: Vec<_> = results.collect();
    assert!(!rest.is_empty());
    for outcome in rest {
        assert!(outcome.unwrap_err().is_cancelled());
    }
    pool.join().unwrap();
}

#[test]
fn pool_initializer_mixin_test_initializer() {
    let _watchdog = watchdog(180);
    let world = world!();
    let log = world.queue();
    let pool = world.pool_with(2, |builder| {
        builder.max_tasks_per_worker(1);
        builder.initializer(initialize, (7, log.clone()));
    });
    // Workers that come later have been initialized too.
    let outcomes = pool.starmap(initialized, [(); 10]).unwrap();
    assert!(outcomes.iter().all(|(number, _)| *number == 7));
    let workers: BTreeSet<_> = outcomes.iter().map(|(_, id)| *id).collect();
    assert_eq!(workers.len(), 10);
    let logged: BTreeSet<_> = log.get_many(1000).unwrap().into_iter().collect();
    assert!(logged.is_superset(&workers));
}

#[test]
fn pool_test_run_after_shutdown() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(1);
    pool.close();
    let error = pool.apply(square, (2,)).unwrap_err();
    assert!(error.is_closed() && error.task().is_none(), "{error}");
    pool.join().unwrap();
}

/// All workers are there from the beginning.
#[test]
fn pool_test_processes_terminate() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(3);
    let (items, go, started) = gates(&world, 3);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| pool.map(pass, items));
        // They run at the same time.
        for _ in 0..3 {
            started.get().unwrap();
        }
        pool.close();
        go.close().sure();
        let outcomes = call.join().unwrap().unwrap();
        let ids: BTreeSet<_> = outcomes.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), 3);
    });
    pool.join().unwrap();
    world.await_let_go(3);
}

#[test]
fn pool_test_context_manager_shutdown() {
    let _watchdog = watchdog(180);
    let world = world!();
    {
        let pool = world.pool(5);
        assert_eq!(pool.map(square, 0..3).unwrap(), [0, 1, 4]);
    }
    world.await_let_go(5);
}

#[test]
fn pool_test_shutdown_no_wait() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(5);
    let results = pool.imap(square, 0..20).unwrap();
    pool.close();
    assert!(results.map(Result::unwrap).eq((0..20).map(|x| x * x)));
    world.await_let_go(5);
}

#[test]
fn pool_test_shutdown_gh_132969_case_1() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(2, |builder| {
        quietly(builder);
        builder.max_tasks_per_worker(1);
    });
    let mut results = pool.imap(half, [2, 3, 4]).unwrap();
    assert_eq!(results.next().unwrap().unwrap(), 1);
    pool.close();
    assert_eq!(
        results.next().unwrap().unwrap_err().message(),
        Some("3 is odd")
    );
    assert_eq!(results.next().unwrap().unwrap(), 2);
    assert!(results.next().is_none());
    drop(results);
    pool.join().unwrap();
}
