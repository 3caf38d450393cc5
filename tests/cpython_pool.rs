//! Behaviours that CPython's own tests demand of `multiprocessing`'s pools, demanded of `mp`.
//!
//! Source: `Lib/test/_test_multiprocessing.py` and `Lib/test/test_concurrent_futures/` of CPython (PSF
//! licence 2). Rewritten: no code was taken over, each test states the behaviour anew in the terms of
//! `mp`. What differs is said at the test.
//!
//! A test is named after the area and the method that it answers, and after the class as well where
//! two classes of the area have a method of that name. Calls that return at once are in
//! `cpython_jobs.rs`. Left out are:
//!
//! | behaviour | reason |
//! |---|---|
//! | `test_terminate_workers` | a pool ends its workers by SIGKILL alone: `pool_test_kill_workers` |
//!
//! Parts of rows that cannot be written in `mp`: negative sizes (the types have none), a
//! `maxtasksperchild` or an initializer that cannot be called (does not compile).

mod support;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mp::{Imap, Pool, PoolBuilder, Queue};
use serde::{Deserialize, Serialize};
use support::{alone, eventually, watchdog};

#[mp::task]
fn process_id() -> u32 {
    std::process::id()
}

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

#[mp::task]
fn power(base: u64, exponent: u32) -> u64 {
    base.pow(exponent)
}

/// As [`power`], for the methods that know tasks of one argument only.
#[mp::task]
fn power_of((base, exponent): (u64, u32)) -> u64 {
    base.pow(exponent)
}

#[mp::task]
fn half(x: u64) -> u64 {
    assert!(x.is_multiple_of(2), "{x} is odd");
    x / 2
}

fn queues<T, U>() -> (Queue<T>, Queue<U>) {
    (Queue::new().unwrap(), Queue::new().unwrap())
}

/// A task for pools: one argument, which holds what [`wait_for`] is given.
#[derive(Clone, Serialize, Deserialize)]
struct Gate {
    number: u32,
    go: Queue<u32>,
    started: Queue<u32>,
}

/// Says by its number that it runs, waits to be let go, returns its number and its process.
#[mp::task]
fn pass(gate: Gate) -> (u32, u32) {
    gate.started.put(gate.number).unwrap();
    let _ = gate.go.get();
    (gate.number, std::process::id())
}

/// So many items for [`pass`], with the queues that they share.
fn gates(count: u32) -> (impl Iterator<Item = Gate> + use<>, Queue<u32>, Queue<u32>) {
    let (go, started) = queues();
    let gate = {
        let (go, started) = (go.clone(), started.clone());
        move |number| Gate {
            number,
            go: go.clone(),
            started: started.clone(),
        }
    };
    ((0..count).map(gate), go, started)
}

/// Lets go of standard error, where what is about to happen would fill the screen.
#[mp::task]
fn be_quiet() {
    let nothing = fs::File::create("/dev/null").unwrap();
    // SAFETY: takes integers, both of them open descriptors.
    unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&nothing), 2) };
}

/// A pool whose workers' panics are not shown.
fn quiet(workers: usize) -> PoolBuilder {
    let mut builder = Pool::builder();
    builder.workers(workers).initializer(be_quiet, ());
    builder
}

/// Makes an access to nothing, by which the kernel ends the process.
fn segfault() -> ! {
    // SAFETY: nothing is there, and that is what is wanted.
    unsafe { std::ptr::without_provenance_mut::<u8>(64).write_volatile(1) };
    unreachable!()
}

/// Whether one of our children has that name, or begins with it.
fn is_active(prefix: &str) -> bool {
    let active = mp::active_children();
    active.iter().any(|child| child.name().starts_with(prefix))
}

/// The descriptors of the workers of a pool that was given that name. One that ends while we look
/// is not among them.
fn workers_of(name: &str) -> Vec<std::os::fd::OwnedFd> {
    let prefix = format!("{name}-");
    mp::active_children()
        .iter()
        .filter(|child| child.name().starts_with(&prefix))
        .filter_map(|child| support::try_pidfd(child.id()).ok())
        .collect()
}

/// How many descriptors this process has open. Those of a child that has ended may be among them for
/// a moment, so that a count from before is a bound and not what comes back.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Sets the limit of open descriptors and returns what it was.
fn limit_descriptors(limit: u64) -> u64 {
    let mut old = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: points to a valid structure.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut old) }, 0);
    let new = libc::rlimit {
        rlim_cur: limit,
        ..old
    };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &new) }, 0);
    old.rlim_cur
}

// Pool.

#[mp::task]
fn describe(number: i32, options: BTreeMap<String, bool>) -> String {
    format!("{number} {options:?}")
}

#[test]
fn pool_test_apply() {
    let _watchdog = watchdog(180);
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.apply(square, (5,)).unwrap(), 25);
    let options = BTreeMap::from([("verbose".to_owned(), true)]);
    let text = pool.apply(describe, (3, options)).unwrap();
    assert_eq!(text, "3 {\"verbose\": true}");
}

/// Pools of four that differ in their chunks.
fn pools_with_chunks(chunks: &[u64]) -> Vec<Pool> {
    let chunked = chunks.iter().map(|&items| {
        let mut builder = Pool::builder();
        builder.workers(4).chunk_size(items).build().unwrap()
    });
    std::iter::once(Pool::new(4).unwrap())
        .chain(chunked)
        .collect()
}

#[test]
fn pool_test_map() {
    let _watchdog = watchdog(180);
    for pool in pools_with_chunks(&[20, 1]) {
        assert!(
            pool.map(square, 0..10)
                .unwrap()
                .into_iter()
                .eq((0..10).map(|x| x * x))
        );
        assert!(
            pool.map(square, 0..100)
                .unwrap()
                .into_iter()
                .eq((0..100).map(|x| x * x))
        );
    }
}

#[test]
fn pool_test_starmap() {
    let _watchdog = watchdog(180);
    let pairs = || (0..100).zip((0..4).cycle());
    for pool in pools_with_chunks(&[20, 1]) {
        let powers = pool.starmap(power, pairs()).unwrap();
        assert!(
            powers
                .into_iter()
                .eq(pairs().map(|(x, n): (u64, u32)| x.pow(n)))
        );
    }
}

#[test]
fn pool_test_map_unplicklable() {
    let _watchdog = watchdog(180);
    let pool = Pool::new(3).unwrap();
    let items = || {
        let mut items = [Awkward::Fine; 4];
        items[2] = Awkward::NotEncoded;
        items
    };
    let error = pool.map(take, items()).unwrap_err();
    let failure = error.task().unwrap();
    assert!(
        failure.is_not_encoded() && !failure.may_have_started(),
        "{error}"
    );
    assert_eq!(failure.index(), Some(2));
    assert!(error.to_string().contains("it does not want to"), "{error}");
    let outcomes = pool.try_map(take, items()).unwrap();
    let is_ok: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(is_ok, [true, true, false, true]);
}

#[test]
fn pool_test_map_chunksize() {
    let _watchdog = watchdog(180);
    for pool in pools_with_chunks(&[1]) {
        assert!(pool.map(square, []).unwrap().is_empty());
        assert!(pool.try_map(square, []).unwrap().is_empty());
        assert!(pool.starmap(power, []).unwrap().is_empty());
        assert_eq!(pool.imap(square, []).unwrap().count(), 0);
        assert_eq!(pool.imap_unordered(square, []).unwrap().count(), 0);
    }
}

#[test]
fn pool_test_imap() {
    let _watchdog = watchdog(180);
    for pool in pools_with_chunks(&[100, 1]) {
        let mut results = pool.imap(square, 0..10).unwrap();
        for x in 0..10 {
            assert_eq!(results.next().unwrap().unwrap(), x * x);
        }
        assert!(results.next().is_none());
        assert!(results.next().is_none());
        drop(results);
        let results = pool.imap(square, 0..1000).unwrap();
        assert!(results.map(Result::unwrap).eq((0..1000).map(|x| x * x)));
    }
}

/// Numbers up to `end`, of which that at `failing` is a panic instead.
fn failing_numbers(end: u64, failing: u64) -> impl Iterator<Item = u64> {
    (0..end).inspect(move |&number| {
        if number == failing {
            std::panic::resume_unwind(Box::new("somebody said no"));
        }
    })
}

/// What comes of a stream: its results, and the panics of its input.
fn results_and_panics<I: Iterator<Item = u64>>(mut stream: Imap<'_, I, u64>) -> (Vec<u64>, usize) {
    let (mut results, mut panics) = (Vec::new(), 0);
    loop {
        match catch_unwind(AssertUnwindSafe(|| stream.next())) {
            Ok(Some(result)) => results.push(result.unwrap()),
            Ok(None) => return (results, panics),
            Err(panic) => {
                assert_eq!(panic.downcast_ref(), Some(&"somebody said no"));
                panics += 1;
            }
        }
    }
}

/// The input's error is its panic. It comes out of `next` when the item is pulled, which is ahead of
/// the results: those of the items before can still be had.
#[test]
fn pool_test_imap_handle_iterable_exception() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    let pool = builder.workers(4).chunk_size(1).build().unwrap();
    for (end, failing) in [(1, 0), (10, 3), (10, 5), (50, 49)] {
        let squares: Vec<_> = (0..failing).map(|x| x * x).collect();
        // Once more: it is repeatable.
        for _ in 0..2 {
            let stream = pool.imap(square, failing_numbers(end, failing)).unwrap();
            assert_eq!(results_and_panics(stream), (squares.clone(), 1));
            let stream = pool.imap_unordered(square, failing_numbers(end, failing));
            let (mut results, panics) = results_and_panics(stream.unwrap());
            results.sort_unstable();
            assert_eq!((results, panics), (squares.clone(), 1));
        }
    }
    let map = || pool.map(square, failing_numbers(10, 3));
    let panic = catch_unwind(AssertUnwindSafe(map)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"somebody said no"));
    assert_eq!(pool.map(square, [3]).unwrap(), [9]);
}

#[test]
fn pool_test_imap_unordered() {
    let _watchdog = watchdog(180);
    for pool in pools_with_chunks(&[100, 1]) {
        for count in [10, 1000] {
            let results = pool.imap_unordered(square, 0..count).unwrap();
            let mut results: Vec<_> = results.map(Result::unwrap).collect();
            results.sort_unstable();
            assert!(results.into_iter().eq((0..count).map(|x| x * x)));
        }
    }
}

#[test]
fn pool_test_make_pool() {
    let _watchdog = watchdog(180);
    let error = Pool::new(0).unwrap_err();
    assert!(error.to_string().contains("at least one worker"), "{error}");
    let mut builder = Pool::builder();
    let pool = builder.workers(3).name("three").build().unwrap();
    assert_eq!(pool.workers(), 3);
    assert_eq!(workers_of("three").len(), 3);
}

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
    let pool = Pool::new(3).unwrap();
    let started = Queue::new().unwrap();
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
    let (items, _go, started) = gates(3);
    let workers = {
        let mut builder = Pool::builder();
        let pool = builder.workers(3).name("context").build().unwrap();
        let workers = workers_of("context");
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
        workers
    };
    assert_eq!(workers.len(), 3);
    for worker in workers {
        assert!(support::wait_readable(&worker, Some(Duration::ZERO)));
    }
}

#[test]
fn pool_test_traceback() {
    let _watchdog = watchdog(180);
    let pool = quiet(1).env("RUST_BACKTRACE", "1").build().unwrap();
    let worker = pool.apply(process_id, ()).unwrap();
    let error = pool.apply(half, (123,)).unwrap_err();
    let failure = error.task().unwrap();
    assert!(failure.is_panic());
    assert_eq!(failure.message(), Some("123 is odd"));
    assert_eq!(failure.file(), Some(file!()));
    assert_eq!(failure.pid(), Some(worker));
    let trace = failure.backtrace().unwrap();
    // Without its path where it was inlined.
    assert!(trace.contains("half"), "{trace}");
    // That of a local iterator is a panic here and nothing else.
    let map = || pool.map(square, failing_numbers(1, 0));
    let panic = catch_unwind(AssertUnwindSafe(map)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"somebody said no"));
}

#[mp::task]
fn fail_at_length(number: u32, run: Queue<u32>) {
    run.put(number).unwrap();
    panic!("{}", "x".repeat(1 << 20));
}

#[test]
fn pool_test_map_no_failfast() {
    let _watchdog = watchdog(180);
    let pool = quiet(2).build().unwrap();
    let run = Queue::new().unwrap();
    let items = (0..6).map(|number| (number, run.clone()));
    let error = pool.starmap(fail_at_length, items).unwrap_err();
    let failure = error.task().unwrap();
    assert_eq!(failure.index(), Some(0));
    assert_eq!(failure.message().unwrap().len(), 1 << 20);
    // All of them were waited for.
    let mut numbers = run.get_many(10).unwrap();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    pool.close();
    pool.join().unwrap();
}

#[test]
fn pool_test_enter() {
    let _watchdog = watchdog(180);
    for end in [Pool::close, Pool::terminate] {
        let pool = Pool::new(1).unwrap();
        assert_eq!(pool.map(square, [2]).unwrap(), [4]);
        end(&pool);
        pool.join().unwrap();
        assert!(pool.map(square, [2]).unwrap_err().is_closed());
        assert!(pool.imap(square, [2]).unwrap_err().is_closed());
        assert!(pool.apply(square, (2,)).unwrap_err().is_closed());
    }
    // Joining one that is open would wait for ever.
    let error = Pool::new(1).unwrap().join().unwrap_err();
    assert!(error.to_string().contains("still open"), "{error}");
}

/// Goes through a stream of squares, and on the way sees that no more was pulled than the window lets.
fn assert_windowed<I: Iterator<Item = u64>>(
    stream: Imap<'_, I, u64>,
    pulled: &Cell<u64>,
    window: u64,
) {
    let mut results = Vec::new();
    for result in stream {
        results.push(result.unwrap());
        let most = results.len() as u64 + window;
        assert!(pulled.get() <= most, "{} of {most}", pulled.get());
    }
    results.sort_unstable();
    assert!(results.into_iter().eq((0..100).map(|x| x * x)));
    assert_eq!(pulled.get(), 100);
}

#[test]
fn pool_test_imap_and_imap_unordered_with_buffersize_when_buffer_is_full() {
    let _watchdog = watchdog(180);
    for window in [1, 4, 10] {
        let mut builder = Pool::builder();
        let pool = builder.workers(4).window(window).build().unwrap();
        let pulled = Cell::new(0);
        let items = || (0..100).inspect(|_| pulled.set(pulled.get() + 1));
        assert_windowed(pool.imap(square, items()).unwrap(), &pulled, window);
        pulled.set(0);
        assert_windowed(
            pool.imap_unordered(square, items()).unwrap(),
            &pulled,
            window,
        );
    }
}

#[test]
fn pool_test_pool_worker_lifetime() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    let pool = builder
        .workers(3)
        .max_tasks_per_worker(10)
        .name("lifetime")
        .build()
        .unwrap();
    assert_eq!(workers_of("lifetime").len(), 3);
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
    eventually(|| workers_of("lifetime").len() == 3);
    pool.close();
    pool.join().unwrap();
    assert!(workers_of("lifetime").is_empty());
}

#[test]
fn pool_test_pool_worker_lifetime_early_close() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    let pool = builder.workers(3).max_tasks_per_worker(1).build().unwrap();
    let (items, go, started) = gates(6);
    let mut stream = pool.imap(pass, items).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                started.get().unwrap();
            }
            pool.close();
            go.close();
        });
        assert_eq!(stream.next().unwrap().unwrap().0, 0);
    });
    let rest: Vec<_> = stream.map(|result| result.unwrap().0).collect();
    assert_eq!(rest, [1, 2, 3, 4, 5]);
    pool.join().unwrap();
}

static LEAKED: OnceLock<Pool> = OnceLock::new();

/// That the program's output comes to its end shows that the workers, which have it open, have ended.
#[test]
fn pool_test_worker_finalization_via_atexit_handler_of_multiprocessing() {
    let name = "pool_test_worker_finalization_via_atexit_handler_of_multiprocessing";
    let _watchdog = watchdog(180);
    alone(name, || {
        let pool = LEAKED.get_or_init(|| Pool::new(2).unwrap());
        assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
        // One worker is busy when the program ends.
        let started = Queue::new().unwrap();
        let item = started.clone();
        std::thread::spawn(|| pool.apply(never_return, (item,)));
        started.get().unwrap();
    });
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
    let log = Queue::new().unwrap();
    let mut builder = Pool::builder();
    builder
        .workers(4)
        .initializer(initialize, (123, log.clone()));
    let pool = builder.build().unwrap();
    let mut initialized_in: Vec<_> = (0..4).map(|_| log.get().unwrap()).collect();
    let outcomes = pool.starmap(initialized, [(); 100]).unwrap();
    assert!(outcomes.iter().all(|(number, _)| *number == 123));
    assert!(outcomes.iter().all(|(_, id)| initialized_in.contains(id)));
    pool.close();
    pool.join().unwrap();
    // In each once.
    assert!(log.is_empty());
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
fn pool_test_release_unused_processes() {
    alone("pool_test_release_unused_processes", || {
        let _watchdog = watchdog(180);
        // What the first pool of a program opens stays.
        drop(Pool::new(1).unwrap());
        eventually(|| support::children().is_empty());
        let before = descriptors();
        // So that it is each of the things that a start opens for which there is no room.
        for spare in 40..44 {
            let limit = limit_descriptors(before as u64 + spare);
            drop(Pool::new(4).unwrap());
            let error = Pool::new(200).unwrap_err();
            limit_descriptors(limit);
            let text = format!("{error:#}");
            assert!(text.contains("Too many open files"), "{text}");
            eventually(|| mp::active_children().is_empty());
            eventually(|| support::children().is_empty() && descriptors() <= before);
        }
        assert_eq!(Pool::new(2).unwrap().map(square, [3]).unwrap(), [9]);
    });
}

#[test]
fn pool_test_large_pool() {
    let _watchdog = watchdog(120);
    let name = "pool_test_large_pool";
    if support::is_alone(name) {
        let pool = Pool::new(200).unwrap();
        let sum: u64 = pool.map(square, 0..1000).unwrap().iter().sum();
        println!("sum {sum}");
        return;
    }
    let output = support::alone_command(name).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(
        output.status.success() && stdout.contains("sum 332833500\n"),
        "{stdout}"
    );
}

// Pool: what the executor of concurrent.futures is asked for besides.

#[test]
fn pool_executor_test_map() {
    let _watchdog = watchdog(180);
    let bases = 0..10;
    for pool in pools_with_chunks(&[3]) {
        let powers = pool.starmap(power, bases.clone().zip(0..10)).unwrap();
        let expected = bases.clone().zip(0..10).map(|(x, n): (u64, u32)| x.pow(n));
        assert!(powers.into_iter().eq(expected));
    }
}

#[test]
fn pool_test_map_exception() {
    let _watchdog = watchdog(180);
    let pool = quiet(2).build().unwrap();
    let mut results = pool.imap(half, [2, 4, 5, 6]).unwrap();
    assert_eq!(results.next().unwrap().unwrap(), 1);
    assert_eq!(results.next().unwrap().unwrap(), 2);
    let error = results.next().unwrap().unwrap_err();
    assert_eq!(error.message(), Some("5 is odd"));
    assert_eq!(error.index(), Some(2));
    assert_eq!(results.next().unwrap().unwrap(), 3);
    assert!(results.next().is_none());
}

#[mp::task]
fn return_unless(hangs: bool) -> bool {
    if hangs {
        loop {
            std::thread::park();
        }
    }
    true
}

/// Each item has its time, and not all of them together. Letting go of the rest cancels it.
#[test]
fn pool_executor_test_map_timeout() {
    let _watchdog = watchdog(180);
    // Long for an item that does nothing, however busy the machine is.
    let pool = Pool::builder()
        .workers(1)
        .task_timeout(Duration::from_secs(3))
        .build()
        .unwrap();
    let items = [false, true].into_iter().chain(std::iter::repeat(true));
    let mut stream = pool.imap(return_unless, items).unwrap();
    assert!(stream.next().unwrap().unwrap());
    let error = stream.next().unwrap().unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.index(), Some(1));
    drop(stream);
    assert!(pool.apply(return_unless, (false,)).unwrap());
}

#[test]
fn pool_test_map_close() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    let pool = builder.workers(1).chunk_size(1).build().unwrap();
    let (items, go, started) = gates(100);
    let mut results = pool.imap(pass, items).unwrap();
    go.put(0).unwrap();
    assert_eq!(results.next().unwrap().unwrap().0, 0);
    drop(results);
    // At most the one that had begun is run: it waits to be let go.
    go.close();
    pool.close();
    pool.join().unwrap();
    let run = started.get_many(100).unwrap();
    assert!(run == [0] || run == [0, 1], "{run:?}");
}

#[test]
fn pool_test_map_buffersize() {
    let _watchdog = watchdog(180);
    for window in [1, 2, 10, 11, 20] {
        let mut builder = Pool::builder();
        let pool = builder.workers(2).window(window).build().unwrap();
        let results = pool.imap(square, 0..10).unwrap();
        assert!(results.map(Result::unwrap).eq((0..10).map(|x| x * x)));
    }
    let zero = || Pool::builder().window(0).build();
    assert!(catch_unwind(zero).is_err());
}

#[test]
fn pool_test_map_buffersize_on_multiple_iterables() {
    let _watchdog = watchdog(180);
    for window in [1, 2, 10, 11, 20] {
        let mut builder = Pool::builder();
        let pool = builder.workers(2).window(window).build().unwrap();
        let results = pool.imap(power_of, (0..10).zip(0..10)).unwrap();
        let expected = (0..10).zip(0..10).map(|(x, n): (u64, u32)| x.pow(n));
        assert!(results.map(Result::unwrap).eq(expected));
    }
}

#[test]
fn pool_test_map_buffersize_on_multiple_infinite_iterables() {
    let _watchdog = watchdog(180);
    for window in [1, 2, 10] {
        let mut builder = Pool::builder();
        let pool = builder.workers(2).window(window).build().unwrap();
        let items = || (0..).zip((0..3).cycle());
        let results = pool.imap(power_of, items()).unwrap().take(100);
        let expected = items().map(|(x, n): (u64, u32)| x.pow(n)).take(100);
        assert!(results.map(Result::unwrap).eq(expected));
    }
}

#[test]
fn pool_test_map_buffersize_on_empty_iterable() {
    let _watchdog = watchdog(180);
    for window in [1, 2, 10] {
        let mut builder = Pool::builder();
        let pool = builder.workers(2).window(window).build().unwrap();
        assert!(pool.imap(square, []).unwrap().next().is_none());
    }
}

#[test]
fn pool_test_shutdown_race_issue12456() {
    let _watchdog = watchdog(180);
    let pool = Pool::new(2).unwrap();
    let results = pool.imap(square, 0..3).unwrap();
    pool.close();
    assert!(results.map(Result::unwrap).eq([0, 1, 4]));
    pool.join().unwrap();
}

#[test]
fn pool_test_max_workers_negative() {
    let error = Pool::builder().workers(0).build().unwrap_err();
    assert!(error.to_string().contains("at least one worker"), "{error}");
}

#[mp::task]
fn exit_if(code: Option<i32>) -> u32 {
    if let Some(code) = code {
        std::process::exit(code);
    }
    std::process::id()
}

/// A worker that dies takes one item along, not the pool.
#[test]
fn pool_test_broken_process_pool_traceback() {
    let _watchdog = watchdog(180);
    let pool = Pool::new(2).unwrap();
    let items = [Some(1), None, Some(2), Some(3), None];
    let outcomes = pool.try_map(exit_if, items).unwrap();
    let mut died = BTreeSet::new();
    for (index, (outcome, item)) in outcomes.iter().zip(items).enumerate() {
        match (outcome, item) {
            (Ok(_), None) => {}
            (Err(error), Some(code)) => {
                assert_eq!(error.exit_code(), Some(code));
                assert_eq!(error.index(), Some(index as u64));
                assert!(died.insert(error.pid().unwrap()), "{error}");
            }
            (outcome, item) => panic!("{item:?} came to {outcome:?}"),
        }
    }
    assert_eq!(pool.map(square, [3]).unwrap(), [9]);
}

#[test]
fn pool_process_pool_executor_test_map_chunksize() {
    let _watchdog = watchdog(180);
    for pool in pools_with_chunks(&[6, 50, 40]) {
        let powers = pool.starmap(power, (0..40).map(|x| (x, 2))).unwrap();
        assert!(powers.into_iter().eq((0..40).map(|x| x * x)));
    }
    let zero = || Pool::builder().chunk_size(0).build();
    assert!(catch_unwind(zero).is_err());
}

#[test]
fn pool_test_traceback_when_child_process_terminates_abruptly() {
    let _watchdog = watchdog(180);
    let pool = Pool::new(1).unwrap();
    let error = pool.apply(exit_if, (Some(99),)).unwrap_err();
    let failure = error.task().unwrap();
    assert!(failure.is_crash());
    assert_eq!(failure.exit_code(), Some(99));
    assert!(error.to_string().contains("exited with code 99"), "{error}");
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
    let pool = Pool::new(1).unwrap();
    let dropped = Queue::new().unwrap();
    for _ in 0..3 {
        let precious = Precious(dropped.clone());
        let worker = pool.apply(use_precious, (precious,)).unwrap();
        assert_eq!(dropped.get().unwrap(), worker);
        assert!(dropped.is_empty());
    }
}

#[test]
fn pool_test_max_tasks_per_child_pending_tasks_gh115634() {
    let _watchdog = watchdog(180);
    for (workers, most, tasks) in [(1, 2, 6), (2, 2, 8)] {
        let mut builder = Pool::builder();
        builder.workers(workers).max_tasks_per_worker(most);
        let pool = builder.build().unwrap();
        assert!(
            pool.map(square, 0..tasks)
                .unwrap()
                .into_iter()
                .eq((0..tasks).map(|x| x * x))
        );
    }
}

#[test]
fn pool_test_shutdown_no_wait_max_tasks_gh119592() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    builder.workers(1).max_tasks_per_worker(1).name("gh119592");
    let pool = builder.build().unwrap();
    let mut results = pool.imap(square, 0..5).unwrap();
    assert_eq!(results.next().unwrap().unwrap(), 0);
    // The worker is being replaced now.
    pool.close();
    assert!(results.map(Result::unwrap).eq([1, 4, 9, 16]));
    eventually(|| !is_active("gh119592"));
}

#[test]
fn pool_test_force_shutdown_during_max_tasks_worker_exit() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    builder.workers(1).max_tasks_per_worker(1).name("forced");
    let pool = builder.build().unwrap();
    let (items, go, _started) = gates(5);
    let mut results = pool.imap(pass, items).unwrap();
    go.put(0).unwrap();
    assert_eq!(results.next().unwrap().unwrap().0, 0);
    // The worker is being replaced now.
    pool.terminate();
    assert!(!is_active("forced"));
    let rest: Vec<_> = results.collect();
    assert!(!rest.is_empty());
    for outcome in rest {
        assert!(outcome.unwrap_err().is_cancelled());
    }
    pool.join().unwrap();
    assert!(!is_active("forced"));
}

#[test]
fn pool_test_failed_worker_replacement_breaks_pool() {
    alone("pool_test_failed_worker_replacement_breaks_pool", || {
        let _watchdog = watchdog(180);
        let mut builder = Pool::builder();
        builder.workers(1).max_tasks_per_worker(1);
        let pool = builder.build().unwrap();
        let (items, go, started) = gates(5);
        let outcomes = std::thread::scope(|scope| {
            let call = scope.spawn(|| pool.try_map(pass, items));
            assert_eq!(started.get().unwrap(), 0);
            // Nothing can be opened from now on, so no worker be started.
            let limit = limit_descriptors(3);
            go.close();
            let outcomes = call.join().unwrap().unwrap();
            limit_descriptors(limit);
            outcomes
        });
        assert_eq!(outcomes.len(), 5);
        for (index, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok((0, _)) if index == 0 => {}
                Err(error) if index > 0 => {
                    assert!(error.is_lost() && !error.may_have_started(), "{error}");
                    assert!(error.to_string().contains("Too many open files"), "{error}");
                }
                outcome => panic!("{index}: {outcome:?}"),
            }
        }
        let error = pool.apply(square, (2,)).unwrap_err();
        assert!(error.to_string().contains("Too many open files"), "{error}");
    });
}

#[mp::task]
fn ignore_termination(started: Queue<()>) {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    started.put(()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn pool_test_kill_workers() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    let pool = builder.workers(2).name("killed").build().unwrap();
    let workers = workers_of("killed");
    let started = Queue::new().unwrap();
    std::thread::scope(|scope| {
        let items = [started.clone(), started.clone()];
        let call = scope.spawn(|| pool.map(ignore_termination, items));
        started.get().unwrap();
        started.get().unwrap();
        pool.terminate();
        let error = call.join().unwrap().unwrap_err();
        assert!(error.task().unwrap().is_cancelled(), "{error}");
    });
    assert_eq!(workers.len(), 2);
    for worker in workers {
        assert!(support::wait_readable(&worker, Some(Duration::ZERO)));
    }
}

#[test]
fn pool_test_force_shutdown_workers_dead_workers() {
    let _watchdog = watchdog(180);
    let pool = Pool::new(1).unwrap();
    let worker = pool.apply(process_id, ()).unwrap();
    let pidfd = support::pidfd(worker);
    support::send_signal(worker, libc::SIGKILL);
    assert!(support::wait_readable(&pidfd, None));
    pool.terminate();
    pool.terminate();
    pool.join().unwrap();
}

#[test]
fn pool_test_force_shutdown_workers_not_started_yet() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    let pool = builder.workers(3).name("unready").build().unwrap();
    // They have been started and are not ready.
    pool.terminate();
    assert!(!is_active("unready"));
    pool.join().unwrap();
}

#[test]
fn pool_initializer_mixin_test_initializer() {
    let _watchdog = watchdog(180);
    let log = Queue::new().unwrap();
    let mut builder = Pool::builder();
    builder
        .workers(2)
        .max_tasks_per_worker(1)
        .initializer(initialize, (7, log.clone()));
    let pool = builder.build().unwrap();
    // Workers that come later have been initialized too.
    let outcomes = pool.starmap(initialized, [(); 10]).unwrap();
    assert!(outcomes.iter().all(|(number, _)| *number == 7));
    let workers: BTreeSet<_> = outcomes.iter().map(|(_, id)| *id).collect();
    assert_eq!(workers.len(), 10);
    let logged: BTreeSet<_> = log.get_many(1000).unwrap().into_iter().collect();
    assert!(logged.is_superset(&workers));
}

#[mp::task]
fn fail_to_initialize(log: Queue<()>) {
    log.put(()).unwrap();
    be_quiet();
    panic!("cannot be initialized");
}

#[test]
fn pool_failing_initializer_mixin_test_initializer() {
    let _watchdog = watchdog(180);
    let log = Queue::new().unwrap();
    let mut builder = Pool::builder();
    builder.workers(2).name("broken");
    builder.initializer(fail_to_initialize, (log.clone(),));
    let pool = builder.build().unwrap();
    for _ in 0..2 {
        let error = pool.apply(square, (2,)).unwrap_err();
        assert!(
            error.to_string().contains("cannot be initialized"),
            "{error}"
        );
    }
    // No more are started.
    assert!(!is_active("broken"));
    assert!((2..100).contains(&log.len()), "{log:?}");
}

#[test]
fn pool_test_run_after_shutdown() {
    let _watchdog = watchdog(180);
    let pool = Pool::new(1).unwrap();
    pool.close();
    let error = pool.apply(square, (2,)).unwrap_err();
    assert!(error.is_closed() && error.task().is_none(), "{error}");
    pool.join().unwrap();
}

/// All workers are there from the beginning.
#[test]
fn pool_test_processes_terminate() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    let pool = builder.workers(3).name("three-blocked").build().unwrap();
    let workers = workers_of("three-blocked");
    let (items, go, started) = gates(3);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| pool.map(pass, items));
        // They run at the same time.
        for _ in 0..3 {
            started.get().unwrap();
        }
        pool.close();
        go.close();
        let outcomes = call.join().unwrap().unwrap();
        let ids: BTreeSet<_> = outcomes.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), 3);
    });
    pool.join().unwrap();
    assert_eq!(workers.len(), 3);
    for worker in workers {
        assert!(support::wait_readable(&worker, Some(Duration::ZERO)));
    }
}

#[test]
fn pool_test_context_manager_shutdown() {
    let _watchdog = watchdog(180);
    let workers = {
        let mut builder = Pool::builder();
        let pool = builder.workers(5).name("manager").build().unwrap();
        assert_eq!(pool.map(square, 0..3).unwrap(), [0, 1, 4]);
        workers_of("manager")
    };
    assert_eq!(workers.len(), 5);
    for worker in workers {
        assert!(support::wait_readable(&worker, Some(Duration::ZERO)));
    }
    assert!(!is_active("manager"));
}

#[test]
fn pool_test_shutdown_no_wait() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    let pool = builder.workers(5).name("no-wait").build().unwrap();
    let results = pool.imap(square, 0..20).unwrap();
    pool.close();
    assert!(results.map(Result::unwrap).eq((0..20).map(|x| x * x)));
    eventually(|| !is_active("no-wait"));
}

#[test]
fn pool_test_shutdown_gh_132969_case_1() {
    let _watchdog = watchdog(180);
    let pool = quiet(2).max_tasks_per_worker(1).build().unwrap();
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

// Pool: what goes wrong on the way to a worker, in it, and on the way back.

/// A value that does something else than travel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Awkward {
    Fine,
    NotEncoded,
    NotDecoded,
    ExitsInDecode,
    CrashesInDecode,
    CrashesInEncode,
}

impl Awkward {
    const ALL: [Self; 6] = [
        Self::Fine,
        Self::NotEncoded,
        Self::NotDecoded,
        Self::ExitsInDecode,
        Self::CrashesInDecode,
        Self::CrashesInEncode,
    ];
}

impl Serialize for Awkward {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::NotEncoded => Err(serde::ser::Error::custom("it does not want to")),
            Self::CrashesInEncode => segfault(),
            _ => serializer.serialize_u8(*self as u8),
        }
    }
}

impl<'de> Deserialize<'de> for Awkward {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Self::ALL[usize::from(u8::deserialize(deserializer)?)];
        match value {
            Self::NotDecoded => Err(serde::de::Error::custom("it stays what it is")),
            Self::ExitsInDecode => std::process::exit(1),
            Self::CrashesInDecode => segfault(),
            _ => Ok(value),
        }
    }
}

#[mp::task]
fn take(value: Awkward) -> bool {
    value == Awkward::Fine
}

/// Makes the value in the worker.
#[mp::task]
fn give(index: u8) -> Awkward {
    Awkward::ALL[usize::from(index)]
}

#[mp::task]
fn crash_if(crashes: bool) -> bool {
    if crashes {
        segfault();
    }
    true
}

/// Runs a task over one item that goes wrong between two that do not; these must be what they are,
/// and the pool go on.
fn failure_of<F, A, R>(task: F, fine: A, awkward: A) -> mp::TaskError
where
    F: mp::TaskFn<(A,), Output = R> + Copy,
    A: mp::Transfer + Clone,
    R: mp::Transfer + std::fmt::Debug,
{
    let pool = quiet(2).build().unwrap();
    let items = [fine.clone(), awkward, fine.clone()];
    let mut outcomes = pool.try_map(task, items).unwrap();
    assert_eq!(outcomes.len(), 3);
    outcomes.pop().unwrap().unwrap();
    let error = outcomes.pop().unwrap().unwrap_err();
    outcomes.pop().unwrap().unwrap();
    assert_eq!(error.index(), Some(1));
    pool.map(task, vec![fine; 4]).unwrap();
    pool.close();
    pool.join().unwrap();
    error
}

#[test]
fn pool_test_error_at_task_pickle() {
    let _watchdog = watchdog(180);
    let error = failure_of(take, Awkward::Fine, Awkward::NotEncoded);
    assert!(
        error.is_not_encoded() && !error.may_have_started(),
        "{error}"
    );
    assert!(error.to_string().contains("it does not want to"), "{error}");
}

#[test]
fn pool_test_exit_at_task_unpickle() {
    let _watchdog = watchdog(180);
    let error = failure_of(take, Awkward::Fine, Awkward::ExitsInDecode);
    assert!(error.is_crash() && error.exit_code() == Some(1), "{error}");
}

#[test]
fn pool_test_crash_at_task_unpickle() {
    let _watchdog = watchdog(180);
    let error = failure_of(take, Awkward::Fine, Awkward::CrashesInDecode);
    assert!(error.is_crash(), "{error}");
    assert_eq!(error.signal(), Some(libc::SIGSEGV));
}

#[test]
fn pool_test_crash_during_func_exec_on_worker() {
    let _watchdog = watchdog(180);
    let error = failure_of(crash_if, false, true);
    assert!(error.is_crash() && error.may_have_started(), "{error}");
    assert_eq!(error.signal(), Some(libc::SIGSEGV));
}

#[test]
fn pool_test_error_during_func_exec_on_worker() {
    let _watchdog = watchdog(180);
    let error = failure_of(half, 2, 3);
    assert!(error.is_panic() && error.may_have_started(), "{error}");
    assert_eq!(error.message(), Some("3 is odd"));
}

#[test]
fn pool_test_crash_during_result_pickle_on_worker() {
    let _watchdog = watchdog(180);
    let error = failure_of(give, Awkward::Fine as u8, Awkward::CrashesInEncode as u8);
    assert!(error.is_crash() && error.may_have_started(), "{error}");
    assert_eq!(error.signal(), Some(libc::SIGSEGV));
}

#[test]
fn pool_test_error_during_result_pickle_on_worker() {
    let _watchdog = watchdog(180);
    let error = failure_of(give, Awkward::Fine as u8, Awkward::NotEncoded as u8);
    assert!(
        error.is_not_encoded() && error.may_have_started(),
        "{error}"
    );
    assert!(error.to_string().contains("it does not want to"), "{error}");
}

/// Only the item whose result it is fails.
#[test]
fn pool_test_error_during_result_unpickle_in_result_handler() {
    let _watchdog = watchdog(180);
    let error = failure_of(give, Awkward::Fine as u8, Awkward::NotDecoded as u8);
    assert!(
        error.is_not_decoded() && error.may_have_started(),
        "{error}"
    );
    assert!(error.to_string().contains("it stays what it is"), "{error}");
}

#[test]
fn pool_test_shutdown_deadlock_pickle() {
    let _watchdog = watchdog(180);
    let mut builder = Pool::builder();
    let pool = builder.workers(2).name("pickle").build().unwrap();
    let mut results = pool.imap(take, [Awkward::NotEncoded]).unwrap();
    pool.close();
    let error = results.next().unwrap().unwrap_err();
    assert!(error.is_not_encoded(), "{error}");
    assert!(results.next().is_none());
    drop(results);
    eventually(|| !is_active("pickle"));
    pool.join().unwrap();
}

/// The bytes are in shared memory before the worker looks at them: it crashes with half of them read.
#[test]
fn pool_test_crash_big_data() {
    let _watchdog = watchdog(180);
    let data = || vec![7_u8; 1 << 18];
    let fine = (data(), Awkward::Fine, data());
    let crash = (data(), Awkward::CrashesInDecode, data());
    let error = failure_of(take_data, fine, crash);
    assert!(error.is_crash(), "{error}");
    assert_eq!(error.signal(), Some(libc::SIGSEGV));
}

#[mp::task]
fn take_data((before, _, after): (Vec<u8>, Awkward, Vec<u8>)) -> usize {
    before.len() + after.len()
}
