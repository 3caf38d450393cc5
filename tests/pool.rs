//! Pools through the public interface: results, failures, deaths, ends.

mod support;

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mp::{Lock, Pool, Queue, TaskError};
use serde::{Deserialize, Serialize};
use support::{alone, eventually, is_gone, watchdog};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

#[mp::task]
fn square(x: u64) -> u64 {
    x.wrapping_mul(x).wrapping_add(1)
}

#[mp::task]
fn pid() -> u32 {
    std::process::id()
}

#[mp::task]
fn pid_of_item(_: u64) -> u32 {
    std::process::id()
}

#[mp::task]
fn echo(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

#[mp::task]
fn grow(len: usize) -> Vec<u8> {
    vec![len as u8; len]
}

/// Ends as the item says.
#[mp::task]
fn suffer(how: String) -> String {
    match how.as_str() {
        "panic" => panic!("as told"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        "kill" => kill(std::process::id()),
        "hang" => loop {
            std::thread::park();
        },
        _ => {}
    }
    how
}

fn kill(pid: u32) {
    // SAFETY: `kill` takes integers and touches no memory.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
}

#[mp::task]
fn is_empty(text: String) -> bool {
    text.is_empty()
}

#[test]
fn map_keeps_order_for_every_size() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(3)?;
    for n in [0, 1, 2, 3, 7, 100, 4096, 100_000] {
        let expected: Vec<u64> = (0..n).map(square).collect();
        assert_eq!(pool.map(square, 0..n)?, expected, "{n} items");
        let items: Vec<u64> = (0..n).collect();
        assert_eq!(pool.map_ref(square, &items)?, expected);
    }
    // Without a size known beforehand.
    let odd = (0..10_000).filter(|x| x % 2 == 1);
    assert_eq!(
        pool.map(square, odd.clone())?,
        odd.map(square).collect::<Vec<_>>()
    );
    Ok(())
}

/// Of such a size more than one thread copies them to the caller.
#[test]
fn vast_results_arrive_whole() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let counted = |len: usize| (0..len).map(|i| (i >> 9) as u8).collect::<Vec<_>>();
    let items = [(4 << 20) - 1, 4 << 20, (9 << 20) + 13, 1, 6 << 20].map(counted);
    let results = pool.map_ref(echo, &items)?;
    // Not by `assert_eq`, which would print them.
    assert!(results == items);
    Ok(())
}

#[test]
fn map_keeps_order_for_every_chunk_size_and_window() -> AnyResult {
    let _watchdog = watchdog(120);
    let expected: Vec<u64> = (0..40).map(square).collect();
    for chunk_size in [1, 6, 40, 50, 10_000] {
        let pool = Pool::builder().workers(2).chunk_size(chunk_size).build()?;
        assert_eq!(pool.map(square, 0..40)?, expected);
        assert_eq!(pool.map(square, 0..0)?, []);
    }
    for window in [1, 2, 39, 40, 41, 1000] {
        let pool = Pool::builder().workers(2).window(window).build()?;
        assert_eq!(pool.map(square, 0..40)?, expected);
        let streamed: Vec<u64> = pool.imap(square, 0..40)?.collect::<Result<_, _>>()?;
        assert_eq!(streamed, expected);
    }
    Ok(())
}

#[test]
fn few_long_items_go_to_different_workers() -> AnyResult {
    let _watchdog = watchdog(60);
    // Each waits for the other: they must run at the same time.
    let pool = Pool::new(2)?;
    let (a, b) = (Queue::new()?, Queue::new()?);
    let pids = pool.starmap(meet, [(a.clone(), b.clone()), (b, a)])?;
    assert_ne!(pids[0], pids[1]);
    Ok(())
}

#[mp::task]
fn meet(here: Queue<()>, there: Queue<()>) -> u32 {
    here.put(()).unwrap();
    there.get().unwrap();
    std::process::id()
}

#[test]
fn calls_from_many_threads_do_not_mix() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..20 {
                    let range = thread * 1000..thread * 1000 + round * 17;
                    let expected: Vec<u64> = range.clone().map(square).collect();
                    assert_eq!(pool.map(square, range).unwrap(), expected);
                    assert_eq!(pool.apply(square, (thread,)).unwrap(), square(thread));
                }
            });
        }
    });
    Ok(())
}

#[test]
fn streams_deliver_every_outcome() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let ordered: Vec<u64> = pool.imap(square, 0..10_000)?.collect::<Result<_, _>>()?;
    assert_eq!(ordered, (0..10_000).map(square).collect::<Vec<_>>());
    let mut unordered: Vec<u64> = pool
        .imap_unordered(square, 0..10_000)?
        .collect::<Result<_, _>>()?;
    unordered.sort();
    assert_eq!(unordered, ordered);
    // Nothing after the end.
    let mut none = pool.imap(square, [])?;
    assert!(none.next().is_none() && none.next().is_none());
    Ok(())
}

#[test]
fn streams_pull_a_bounded_number_of_items_ahead() -> AnyResult {
    let _watchdog = watchdog(120);
    for window in [1, 5, 100] {
        let pool = Pool::builder().workers(2).window(window).build()?;
        let pulled = AtomicUsize::new(0);
        let endless = (0..).inspect(|_| {
            pulled.fetch_add(1, Ordering::Relaxed);
        });
        for (taken, result) in pool.imap(square, endless)?.take(1000).enumerate() {
            result?;
            let ahead = pulled.load(Ordering::Relaxed) - taken;
            assert!(
                ahead <= window as usize,
                "{ahead} items ahead of a window of {window}"
            );
        }
    }
    Ok(())
}

#[test]
fn streams_hand_over_whole_jobs_however_slowly_they_are_read() -> AnyResult {
    let _watchdog = watchdog(120);
    // The second window has room for four jobs and a half.
    for window in [None, Some(450)] {
        let mut builder = Pool::builder();
        builder.workers(2).chunk_size(100);
        if let Some(items) = window {
            builder.window(items);
        }
        let pool = builder.build()?;
        let pulled = AtomicUsize::new(0);
        let items = (0..5000).inspect(|_| {
            pulled.fetch_add(1, Ordering::Relaxed);
        });
        let ran = || pool.stats().workers.iter().map(|each| each.items).sum();
        for (taken, result) in pool.imap_unordered(square, items)?.enumerate() {
            result?;
            if taken % 16 == 0 {
                // All that was handed over is over, though hardly any of it was taken.
                eventually(|| pulled.load(Ordering::Relaxed) as u64 == ran());
            }
        }
        let jobs: u64 = pool.stats().workers.iter().map(|each| each.jobs).sum();
        assert_eq!(jobs, 50, "with a window of {window:?}");
    }
    Ok(())
}

#[test]
fn streams_that_are_dropped_leave_the_pool_in_order() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    for round in 0..50 {
        let mut results = pool.imap_unordered(square, 0..)?;
        for _ in 0..round {
            results.next().unwrap()?;
        }
    }
    assert_eq!(
        pool.map(square, 0..100)?,
        (0..100).map(square).collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
fn slow_item_in_front_does_not_stop_the_others() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::builder().workers(2).chunk_size(1).build()?;
    let gate = Queue::<()>::new()?;
    let items = (0..20).map(|n| (n, gate.clone()));
    // Item 0 is let go by the last one to come out unordered.
    let mut seen = HashSet::new();
    for result in pool.imap_unordered(wait_if_first, items)? {
        let n = result?;
        seen.insert(n);
        if seen.len() == 19 {
            assert!(!seen.contains(&0));
            gate.put(())?;
        }
    }
    assert_eq!(seen.len(), 20);
    Ok(())
}

#[mp::task]
fn wait_if_first((n, gate): (u32, Queue<()>)) -> u32 {
    if n == 0 {
        gate.get().unwrap();
    }
    n
}

#[test]
fn failed_item_fails_alone() -> AnyResult {
    let _watchdog = watchdog(120);
    for chunk_size in [None, Some(1), Some(4), Some(100)] {
        let mut builder = Pool::builder();
        builder.workers(2).name("sufferer");
        if let Some(chunk_size) = chunk_size {
            builder.chunk_size(chunk_size);
        }
        let pool = builder.build()?;
        let kinds = ["fine", "panic", "abort", "exit", "kill", "good"];
        let items: Vec<String> = (0..60).map(|n| kinds[n % 6].to_owned()).collect();
        let outcomes = pool.try_map(suffer, items.clone())?;
        assert_eq!(outcomes.len(), 60);
        for (index, (item, outcome)) in items.iter().zip(outcomes).enumerate() {
            let error = match outcome {
                Ok(value) => {
                    assert!(value == *item && (value == "fine" || value == "good"));
                    continue;
                }
                Err(error) => error,
            };
            match item.as_str() {
                "panic" => {
                    assert!(error.is_panic());
                    assert_eq!(error.message(), Some("as told"));
                    assert!(error.file().unwrap().ends_with("pool.rs"));
                }
                "abort" => assert_eq!(error.signal(), Some(libc::SIGABRT)),
                "exit" => assert_eq!(error.exit_code(), Some(3)),
                "kill" => assert_eq!(error.signal(), Some(libc::SIGKILL)),
                other => panic!("{other} failed: {error}"),
            }
            assert_eq!(error.index(), Some(index as u64));
            assert_eq!(error.task(), concat!(module_path!(), "::suffer"));
            assert!(error.process().unwrap().starts_with("sufferer-"));
            assert!(error.pid().is_some() && error.may_have_started());
        }
    }
    Ok(())
}

#[test]
fn map_reports_the_first_failure_in_order_and_runs_the_rest() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::builder().workers(2).chunk_size(1).build()?;
    let done = Queue::new()?;
    let items = (0..20u32).map(|n| (n, done.clone()));
    let error = pool.map(fail_late_ones_first, items).unwrap_err();
    assert_eq!(error.task().unwrap().index(), Some(3));
    assert_eq!(error.to_string(), error.task().unwrap().to_string());
    assert_eq!(done.len(), 18);
    Ok(())
}

#[mp::task]
fn fail_late_ones_first((n, done): (u32, Queue<u32>)) {
    if n == 3 {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(n != 3 && n != 4, "three or four");
    done.put(n).unwrap();
}

/// Counts how often each item begins.
#[mp::task]
fn count_and_maybe_die((n, runs, die): (u32, Queue<u32>, bool)) -> u32 {
    runs.put(n).unwrap();
    if die {
        kill(std::process::id());
    }
    n
}

#[test]
fn no_item_runs_twice_and_none_is_forgotten_when_workers_die() -> AnyResult {
    let _watchdog = watchdog(120);
    for chunk_size in [1, 3, 16] {
        let pool = Pool::builder().workers(3).chunk_size(chunk_size).build()?;
        let runs = Queue::new()?;
        let items = (0..200).map(|n| (n, runs.clone(), n % 7 == 3));
        let outcomes = pool.try_map(count_and_maybe_die, items)?;
        for (n, outcome) in outcomes.iter().enumerate() {
            assert_eq!(outcome.is_err(), n % 7 == 3, "item {n}: {outcome:?}");
        }
        runs.close();
        let mut begun: Vec<u32> = runs.iter().collect();
        begun.sort();
        assert_eq!(begun, (0..200).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn idle_workers_that_are_killed_are_replaced() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    for _ in 0..10 {
        let pids: HashSet<u32> = pool.map(pid_of_item, 0..20)?.into_iter().collect();
        for &pid in &pids {
            kill(pid);
        }
        for &pid in &pids {
            eventually(|| is_gone(pid));
        }
        assert!(
            pids.iter()
                .all(|pid| pool.apply(self::pid, ()).unwrap() != *pid)
        );
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
    }
    Ok(())
}

#[test]
fn killing_workers_at_random_costs_their_items_only() -> AnyResult {
    let _watchdog = watchdog(300);
    let seed = std::process::id() as u64;
    println!("seed {seed}");
    let pool = Pool::new(3)?;
    let pids = Queue::<u32>::new()?;
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20 {
        let kills = AtomicUsize::new(0);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let outcomes = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    if let Ok(pid) = pids.try_get() {
                        for _ in 0..random() % 200 {
                            std::thread::yield_now();
                        }
                        kill(pid);
                        kills.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_micros(random() % 3000));
                }
            });
            let items = (0..3000u64).map(|n| (n, (n % 100 == 0).then(|| pids.clone())));
            let outcomes = pool.try_map(report_some, items);
            is_over.store(true, Ordering::Relaxed);
            outcomes
        })?;
        while pids.try_get().is_ok() {}
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert!(failed <= kills.into_inner(), "{failed} items failed");
        for (n, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok(value) => assert_eq!(*value, n as u64),
                Err(error) => assert!(error.is_crash(), "{error}"),
            }
        }
    }
    Ok(())
}

#[mp::task]
fn report_some((n, pids): (u64, Option<Queue<u32>>)) -> u64 {
    if let Some(pids) = pids {
        pids.put(std::process::id()).unwrap();
    }
    n
}

#[test]
fn iterator_that_panics_panics_in_the_caller_and_spares_the_pool() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2)?;
    for at in [0, 1, 10, 5000] {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.map(square, (0..).inspect(|&n| assert!(n < at, "enough")))
        }));
        assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "enough");
        assert_eq!(pool.map(square, 0..10)?.len(), 10);
    }
    // A stream delivers what came before, and does not ask again.
    let mut results = pool.imap(square, (0..).inspect(|&n| assert!(n < 3, "enough")))?;
    let mut delivered = 0;
    loop {
        match catch_unwind(AssertUnwindSafe(|| results.next())) {
            Ok(Some(result)) => assert_eq!(result?, square(delivered)),
            Ok(None) => break,
            Err(_) => continue,
        }
        delivered += 1;
    }
    assert_eq!(delivered, 3);
    Ok(())
}

/// Refuses to be encoded or decoded, as it is told.
#[derive(Debug, PartialEq)]
struct Stubborn(i8);

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            1 => Err(serde::ser::Error::custom("not today")),
            2 => panic!("never"),
            _ => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i8::deserialize(deserializer)? {
            3 => Err(serde::de::Error::custom("not here")),
            4 => std::process::exit(4),
            5 => std::process::abort(),
            n => Ok(Self(n)),
        }
    }
}

#[mp::task]
fn pass(stubborn: Stubborn) -> i8 {
    stubborn.0
}

#[mp::task]
fn make(n: i8) -> Stubborn {
    Stubborn(n)
}

#[test]
fn argument_that_cannot_be_sent_fails_alone() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2)?;
    let outcomes = pool.try_map(pass, [0, 1, 0, 1, 1, 0, 3, 0, 4, 5, 0].map(Stubborn))?;
    for (index, (outcome, n)) in outcomes
        .into_iter()
        .zip([0, 1, 0, 1, 1, 0, 3, 0, 4, 5, 0])
        .enumerate()
    {
        match (n, outcome) {
            (0, outcome) => assert_eq!(outcome.unwrap(), 0),
            (1, Err(error)) => {
                assert!(
                    error.is_not_encoded() && !error.may_have_started(),
                    "{error}"
                );
                assert!(error.to_string().contains("not today"), "{error}");
                assert_eq!(error.index(), Some(index as u64));
            }
            (3, Err(error)) => assert!(error.is_not_decoded() && !error.may_have_started()),
            (4, Err(error)) => assert_eq!(error.exit_code(), Some(4)),
            (5, Err(error)) => assert_eq!(error.signal(), Some(libc::SIGABRT)),
            (n, outcome) => panic!("{n}: {outcome:?}"),
        }
    }
    // A panic of `Serialize` is the caller's own.
    let caught = catch_unwind(AssertUnwindSafe(|| {
        pool.map(pass, [Stubborn(0), Stubborn(2)])
    }));
    assert!(caught.is_err());
    assert_eq!(pool.map(pass, [Stubborn(7)])?, [7]);
    let error = pool.apply(pass, (Stubborn(1),)).unwrap_err();
    assert!(error.task().unwrap().is_not_encoded() && error.task().unwrap().index().is_none());
    Ok(())
}

#[mp::task]
fn len_of(queue: Queue<Vec<u8>>) -> usize {
    queue.len()
}

#[test]
fn arguments_without_memory_for_their_handles_cost_the_pool_nothing() {
    alone(
        "arguments_without_memory_for_their_handles_cost_the_pool_nothing",
        || {
            let _watchdog = watchdog(120);
            let limit = libc::rlimit {
                rlim_cur: 256 << 20,
                rlim_max: 256 << 20,
            };
            // SAFETY: points to a valid limit.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
            let pool = Pool::new(1).unwrap();
            let queue = Queue::new().unwrap();
            assert_eq!(pool.apply(len_of, (queue.clone(),)).unwrap(), 0);
            // The program's memory, not the pool's own.
            let mut size = 16 << 20;
            while size > 4096 {
                while queue.put(vec![1; size]).is_ok() {}
                size /= 2;
            }
            // More than the pool can have jobs.
            for _ in 0..5000 {
                assert!(pool.apply(len_of, (queue.clone(),)).is_err());
            }
            while queue.try_get().is_ok() {}
            assert_eq!(pool.apply(len_of, (queue.clone(),)).unwrap(), 0);
        },
    );
}

#[test]
fn result_that_cannot_be_sent_fails_alone() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2)?;
    let outcomes = pool.try_map(make, [0, 1, 0, 2, 3, 0])?;
    let failure = |index: usize| outcomes[index].as_ref().unwrap_err();
    for index in [0, 2, 5] {
        assert_eq!(outcomes[index].as_ref().unwrap(), &Stubborn(0));
    }
    assert!(failure(1).is_not_encoded() && failure(1).may_have_started());
    assert!(failure(3).to_string().contains("never"), "{}", failure(3));
    assert!(failure(4).is_not_decoded(), "{}", failure(4));
    Ok(())
}

#[test]
fn items_and_results_of_every_size_arrive_whole() -> AnyResult {
    let _watchdog = watchdog(180);
    let pool = Pool::new(2)?;
    let sizes = [
        0,
        1,
        100,
        8191,
        8192,
        8193,
        65_535,
        65_536,
        70_000,
        1 << 20,
        3 << 20,
    ];
    let items: Vec<Vec<u8>> = sizes.map(|len| vec![len as u8; len]).to_vec();
    assert_eq!(pool.map_ref(echo, &items)?, items);
    // Small items with large results, in one job.
    let pool = Pool::builder().workers(2).chunk_size(100).build()?;
    assert_eq!(pool.map(grow, sizes)?, items);
    Ok(())
}

#[test]
fn results_before_a_crash_survive_though_they_outgrew_their_block() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::builder().workers(1).chunk_size(100).build()?;
    let outcomes = pool.try_map(grow_or_die, (0..30).map(|n| n * 50_000))?;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        match n {
            20 => assert!(outcome.unwrap_err().is_crash()),
            n => assert_eq!(outcome?, vec![n as u8; n * 50_000]),
        }
    }
    Ok(())
}

#[mp::task]
fn grow_or_die(len: usize) -> Vec<u8> {
    if len == 1_000_000 {
        std::process::abort();
    }
    vec![(len / 50_000) as u8; len]
}

#[test]
fn handles_travel_in_items_and_results() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::builder().workers(2).chunk_size(5).build()?;
    let queues = pool.map(make_queue, 0..20)?;
    for (n, queue) in queues.iter().enumerate() {
        assert_eq!(queue.get()?, n as u32);
    }
    // Also out of a job whose worker died later on.
    let outcomes = pool.try_map(make_queue, [1, 2, 3, u32::MAX, 5])?;
    for (n, outcome) in [1, 2, 3, u32::MAX, 5].into_iter().zip(outcomes) {
        match outcome {
            Ok(queue) => assert_eq!(queue.get()?, n),
            Err(error) => assert!(error.is_crash() && n == u32::MAX, "{error}"),
        }
    }
    let lock = Lock::new()?;
    let counter = Queue::new()?;
    counter.put(0)?;
    pool.starmap(count_up, (0..50).map(|_| (lock.clone(), counter.clone())))?;
    assert_eq!(counter.get()?, 50);
    Ok(())
}

#[mp::task]
fn make_queue(n: u32) -> Queue<u32> {
    if n == u32::MAX {
        std::process::abort();
    }
    let queue = Queue::new().unwrap();
    queue.put(n).unwrap();
    queue
}

#[mp::task]
fn count_up(lock: Lock, counter: Queue<u64>) {
    let _guard = lock.acquire().unwrap();
    let n = counter.get().unwrap();
    counter.put(n + 1).unwrap();
}

#[test]
fn workers_are_renewed_after_so_many_items() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(3)
        .max_tasks_per_worker(10)
        .build()?;
    let pids = pool.map(pid_of_item, 0..100)?;
    let mut runs = HashMap::new();
    for pid in pids {
        *runs.entry(pid).or_insert(0) += 1;
    }
    assert!(runs.values().all(|&items| items <= 10), "{runs:?}");
    assert!(runs.len() >= 10);
    let pool = Pool::builder()
        .workers(2)
        .max_tasks_per_worker(1)
        .chunk_size(7)
        .build()?;
    let pids: HashSet<u32> = pool.map(pid_of_item, 0..30)?.into_iter().collect();
    assert_eq!(pids.len(), 30);
    pool.close();
    pool.join()?;
    Ok(())
}

#[test]
fn closed_pool_finishes_what_is_under_way_and_refuses_the_rest() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::builder().workers(2).max_tasks_per_worker(5).build()?;
    assert!(pool.join().is_err());
    let mut results = pool.imap(square, 0..100)?;
    results.next().unwrap()?;
    pool.close();
    assert!(pool.map(square, [1]).unwrap_err().is_closed());
    assert!(pool.imap(square, [1]).unwrap_err().is_closed());
    assert_eq!(results.collect::<Result<Vec<_>, _>>()?.len(), 99);
    pool.join()?;
    pool.join()?;
    Ok(())
}

#[test]
fn terminated_pool_cancels_what_is_under_way() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2)?;
    let begun = Queue::new()?;
    std::thread::scope(|scope| {
        let caller =
            scope.spawn(|| pool.try_map(announce_and_hang, (0..1000).map(|_| begun.clone())));
        let pids = [begun.get().unwrap(), begun.get().unwrap()];
        pool.terminate();
        assert!(pids.into_iter().all(is_gone));
        let outcomes = caller.join().unwrap().unwrap();
        assert_eq!(outcomes.len(), 1000);
        let is_cancelled =
            |outcome: &Result<(), TaskError>| outcome.as_ref().is_err_and(TaskError::is_cancelled);
        assert!(outcomes.iter().all(is_cancelled));
        let started = |outcome: &&Result<(), TaskError>| {
            outcome.as_ref().is_err_and(TaskError::may_have_started)
        };
        assert_eq!(outcomes.iter().filter(started).count(), 2);
    });
    assert!(pool.map(square, [1]).unwrap_err().is_closed());
    pool.join()?;
    Ok(())
}

#[mp::task]
fn announce_and_hang(begun: Queue<u32>) {
    begun.put(std::process::id()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn dropped_pool_leaves_no_process() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(3)?;
    let pids: HashSet<u32> = pool.map(pid_of_item, 0..100)?.into_iter().collect();
    drop(pool);
    assert!(pids.into_iter().all(is_gone));
    // Also during a panic.
    let seen = std::sync::Mutex::new(0);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let pool = Pool::new(2).unwrap();
        *seen.lock().unwrap() = pool.apply(pid, ()).unwrap();
        panic!("with a pool alive");
    }));
    assert!(caught.is_err() && is_gone(seen.into_inner()?));
    Ok(())
}

#[mp::task]
fn leak_a_pool() -> Vec<u32> {
    let pool = Pool::new(2).unwrap();
    let pids = pool.map(pid_of_item, 0..50).unwrap();
    std::mem::forget(pool);
    pids
}

#[test]
fn leaked_pool_does_not_keep_its_process_from_ending() -> AnyResult {
    let _watchdog = watchdog(60);
    let child = mp::Process::new(leak_a_pool, ()).start()?;
    let pids = child.join()?;
    assert!(child.exit_status().unwrap().success());
    for pid in pids {
        eventually(|| is_gone(pid));
    }
    Ok(())
}

#[test]
fn impossible_pools_are_refused() {
    // Alone: for a moment there is no room for anybody else's processes.
    alone("impossible_pools_are_refused", || {
        assert!(Pool::new(0).is_err());
        let error = Pool::new(5000).unwrap_err();
        assert!(error.is_limit(), "{error}");
    });
}

fn plain(x: u64) -> u64 {
    x
}

#[test]
fn function_that_is_no_task_is_refused_at_once() -> AnyResult {
    let pool = Pool::new(1)?;
    for error in [
        pool.map(plain, [1]).unwrap_err(),
        pool.imap(plain, [1]).unwrap_err(),
        pool.apply(plain, (1,)).unwrap_err(),
    ] {
        assert!(error.is_unknown_task());
        assert!(
            error.to_string().contains("pool::plain is not a task"),
            "{error}"
        );
    }
    Ok(())
}

#[mp::task]
fn set_up(word: String, seen: Queue<u32>) {
    seen.put(std::process::id()).unwrap();
    // SAFETY: nothing else runs in the worker yet.
    unsafe { std::env::set_var("SET_UP", word) };
}

#[mp::task]
fn set_up_word() -> String {
    std::env::var("SET_UP").unwrap_or_default()
}

#[mp::task]
fn refuse_to_work() {
    panic!("no licence found");
}

#[test]
fn initializer_runs_once_in_each_worker() -> AnyResult {
    let _watchdog = watchdog(60);
    let seen = Queue::new()?;
    let pool = Pool::builder()
        .workers(2)
        .max_tasks_per_worker(3)
        .initializer(set_up, ("ready".to_owned(), seen.clone()))
        .build()?;
    for _ in 0..20 {
        assert_eq!(pool.apply(set_up_word, ())?, "ready");
    }
    pool.close();
    pool.join()?;
    seen.close();
    let pids: Vec<u32> = seen.iter().collect();
    assert_eq!(pids.iter().collect::<HashSet<_>>().len(), pids.len());
    Ok(())
}

#[test]
fn pool_whose_workers_never_come_to_work_says_why() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::builder()
        .workers(2)
        .initializer(refuse_to_work, ())
        .build()?;
    let error = pool.map(square, 0..100).unwrap_err();
    assert!(error.to_string().contains("no licence found"), "{error}");
    let again = pool.map(square, 0..100).unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    assert!(pool.imap(square, 0..3).is_err());
    Ok(())
}

#[test]
fn nested_pools_work() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    assert_eq!(
        pool.map(sum_of_squares, [10, 100, 1000])?,
        [10, 100, 1000].map(|n| (0..n).map(square).sum::<u64>())
    );
    Ok(())
}

#[mp::task]
fn sum_of_squares(n: u64) -> u64 {
    let pool = Pool::new(2).unwrap();
    pool.map(square, 0..n).unwrap().into_iter().sum()
}

#[test]
fn large_pool_maps_many_items() -> AnyResult {
    let _watchdog = watchdog(180);
    let pool = Pool::new(100)?;
    let sum: u64 = pool.map(square, 0..1000)?.into_iter().sum();
    assert_eq!(sum, (0..1000).map(square).sum());
    Ok(())
}

#[test]
fn text_goes_by_reference() -> AnyResult {
    let pool = Pool::new(1)?;
    let texts = [String::new(), "x".to_owned()];
    assert_eq!(pool.map_ref(is_empty, &texts)?, [true, false]);
    Ok(())
}

#[test]
fn pool_is_send_sync_and_debug() {
    fn check<T: Send + Sync + std::fmt::Debug>() {}
    check::<Pool>();
    check::<mp::PoolBuilder>();
}

/// Results whose decoding panics at five.
#[derive(Debug, PartialEq, Serialize)]
struct Fragile(u64);

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        assert_ne!(value, 5, "it does not like five");
        Ok(Self(value))
    }
}

#[mp::task]
fn fragile(x: u64) -> Fragile {
    Fragile(x)
}

#[test]
fn result_that_panics_in_decoding_fails_alone() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2)?;
    let outcomes = pool.try_map(fragile, 0..16)?;
    assert_eq!(outcomes.len(), 16);
    for (x, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(value) => assert_eq!(value, Fragile(x)),
            Err(error) => assert!(x == 5 && error.is_not_decoded(), "{error}"),
        }
    }
    let streamed: Vec<_> = pool.imap(fragile, 0..16)?.flatten().collect();
    assert_eq!(streamed.len(), 15);
    Ok(())
}

#[test]
fn stream_is_over_after_its_input_panicked() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::builder().workers(1).chunk_size(8).build()?;
    let input = (0..).inspect(|&x| assert!(x < 13, "no more"));
    let mut stream = pool.imap(square, input)?;
    let mut got = Vec::new();
    let mut panics = 0;
    loop {
        match catch_unwind(AssertUnwindSafe(|| stream.next())) {
            Ok(Some(result)) => got.push(result?),
            Ok(None) => break,
            Err(_) => panics += 1,
        }
    }
    assert_eq!(panics, 1);
    // What was pulled before has its outcome, each in its place.
    assert_eq!(got, (0..13).map(square).collect::<Vec<_>>());
    assert_eq!(stream.next().map(|_| ()), None);
    Ok(())
}

#[test]
fn too_many_streams_are_refused_and_starve_nobody() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(2).chunk_size(1).build()?;
    let mut streams = Vec::new();
    let error = loop {
        match pool.imap(square, 0..100) {
            Ok(mut stream) => {
                assert_eq!(stream.next().unwrap()?, 1);
                streams.push(stream);
            }
            Err(error) => break error,
        }
    };
    assert!(error.is_limit(), "{error}");
    assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
    streams.truncate(1);
    assert_eq!(streams[0].by_ref().count(), 99);
    assert!(pool.imap(square, 0..3)?.all(|result| result.is_ok()));
    Ok(())
}
