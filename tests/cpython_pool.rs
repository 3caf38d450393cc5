//! Behaviours that CPython's own tests demand of `multiprocessing`'s pools, demanded of `mp`, as far as
//! they are of one machine. The rest of the area pool is in `support/conformance/pool`.
//!
//! Source: `Lib/test/_test_multiprocessing.py` and `Lib/test/test_concurrent_futures/` of CPython (PSF
//! licence 2). Rewritten: no code was taken over, each test states the behaviour anew in the terms of
//! `mp`. What differs is said at the test.
//!
//! A test is named after the area and the method that it answers, and after the class as well where
//! two classes of the area have a method of that name. Left out are:
//!
//! | behaviour | reason |
//! |---|---|
//! | `test_terminate_workers` | a pool ends its workers by SIGKILL alone: `pool_test_kill_workers` |
//! | `test_multiple_set_result`, `test_multiple_set_exception` | unrepresentable: an outcome is not set by hand |
//! | `test_duplicate_futures` | unrepresentable: a job is not cloned, so that no list has it twice |
//! | `test_running` | a job says whether it is done; whether it had begun is in its error, as `pool_test_cancel` shows |
//! | `test_exception_with_timeout` | a result and an error come by the same call: `pool_test_result_with_timeout` |
//! | `test_correct_timeout_exception_msg` | `as_completed` has no timeout; how many are left is its `len`, as `pool_test_no_timeout` shows |
//!
//! Parts of rows that cannot be written in `mp`: negative sizes (the types have none), a
//! `maxtasksperchild` or an initializer that cannot be called (does not compile).

mod support;

use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use mp::{Pool, Queue};
use support::{alone, eventually, watchdog};

#[mp::task]
fn process_id() -> u32 {
    std::process::id()
}

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

/// Lets go of standard error, where what is about to happen would fill the screen.
#[mp::task]
fn be_quiet() {
    let nothing = fs::File::create("/dev/null").unwrap();
    // SAFETY: takes integers, both of them open descriptors.
    unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&nothing), 2) };
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

#[test]
fn pool_test_max_workers_negative() {
    let error = Pool::builder().workers(0).build().unwrap_err();
    assert!(error.to_string().contains("at least one worker"), "{error}");
}

/// Says that it runs, and waits to be let go.
#[mp::task]
fn wait_for((number, started, go): (u32, Queue<()>, Queue<()>)) -> u32 {
    started.put(()).unwrap();
    let _ = go.get();
    number
}

#[test]
fn pool_test_failed_worker_replacement_breaks_pool() {
    alone("pool_test_failed_worker_replacement_breaks_pool", || {
        let _watchdog = watchdog(180);
        let mut builder = Pool::builder();
        builder.workers(1).max_tasks_per_worker(1);
        let pool = builder.build().unwrap();
        let (started, go) = (Queue::new().unwrap(), Queue::new().unwrap());
        let items = (0..5).map(|number| (number, started.clone(), go.clone()));
        let outcomes = std::thread::scope(|scope| {
            let call = scope.spawn(|| pool.try_map(wait_for, items));
            started.get().unwrap();
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
                Ok(0) if index == 0 => {}
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

/// A pool whose workers are started as there is work, and stay.
fn on_demand(workers: usize, name: &str) -> Pool {
    let mut builder = Pool::builder();
    builder.workers(workers).name(name);
    builder.idle_timeout(Duration::from_secs(3600));
    builder.build().unwrap()
}

fn count_active(name: &str) -> usize {
    let prefix = format!("{name}-");
    let active = mp::active_children();
    active
        .iter()
        .filter(|child| child.name().starts_with(&prefix))
        .count()
}

#[test]
fn pool_test_idle_process_reuse_one() {
    let _watchdog = watchdog(180);
    let pool = on_demand(4, "reuse-one");
    assert_eq!(count_active("reuse-one"), 0);
    let worker = pool.apply(process_id, ()).unwrap();
    for _ in 0..10 {
        assert_eq!(pool.apply(process_id, ()).unwrap(), worker);
    }
    eventually(|| count_active("reuse-one") == 1);
}

#[test]
fn pool_test_idle_process_reuse_multiple() {
    let _watchdog = watchdog(180);
    let pool = on_demand(3, "reuse-multiple");
    let (started, go) = (Queue::new().unwrap(), Queue::new().unwrap());
    let running = [2, 4].map(|x| {
        let job = pool.submit(wait_for, ((x, started.clone(), go.clone()),));
        started.get().unwrap();
        job.unwrap()
    });
    // A worker may be at its task before the thread that started it has it in the list.
    eventually(|| count_active("reuse-multiple") == 2);
    let third = pool.apply(process_id, ()).unwrap();
    assert_eq!(pool.apply(process_id, ()).unwrap(), third);
    eventually(|| count_active("reuse-multiple") == 3);
    go.close();
    let numbers = mp::wait_all(running).into_iter().map(Result::unwrap);
    assert!(numbers.eq([2, 4]));
    // All are idle now, and enough for whatever comes.
    let ids = pool.starmap(process_id, [(); 100]).unwrap();
    assert_eq!(ids.len(), 100);
    assert_eq!(count_active("reuse-multiple"), 3);
}

static POOL: OnceLock<Pool> = OnceLock::new();

#[mp::task]
fn print_once_let_go(started: Queue<()>, go: Queue<()>) {
    started.put(()).unwrap();
    let _ = go.get();
    println!("apple");
}

/// Runs a test's body as a program of its own, to its end and that of all who have its output open.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

/// A program whose work is wanted waits for it, by `join` or by the job. Otherwise:
/// `pool_test_hang_gh83386`.
#[test]
fn pool_test_interpreter_shutdown() {
    let name = "pool_test_interpreter_shutdown";
    let _watchdog = watchdog(180);
    if !support::is_alone(name) {
        let printed = output_of(&mut support::alone_command(name));
        assert!(printed.contains("apple"), "{printed}");
        return;
    }
    let pool = POOL.get_or_init(|| Pool::new(1).unwrap());
    let (started, go) = (Queue::new().unwrap(), Queue::new().unwrap());
    let arguments = (started.clone(), go.clone());
    drop(pool.submit(print_once_let_go, arguments).unwrap());
    started.get().unwrap();
    go.close();
    pool.close();
    pool.join().unwrap();
}

/// The program's end is the end of its workers, whatever they do: nothing is left that could print.
#[test]
fn pool_test_hang_gh83386() {
    let name = "pool_test_hang_gh83386";
    let _watchdog = watchdog(180);
    if !support::is_alone(name) {
        let printed = output_of(&mut support::alone_command(name));
        assert!(!printed.contains("apple"), "{printed}");
        return;
    }
    let pool = POOL.get_or_init(|| Pool::new(1).unwrap());
    let (started, go) = (Queue::new().unwrap(), Queue::new().unwrap());
    drop(
        pool.submit(print_once_let_go, (started.clone(), go))
            .unwrap(),
    );
    started.get().unwrap();
    pool.close();
}
