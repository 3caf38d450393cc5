//! The workers of a pool: what they keep, how many there are, when they begin and end.

mod support;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use mp::{Pool, PoolEvent, Queue};
use support::{alone, children, eventually, is_gone, send_signal, status_line, watchdog};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

#[mp::task]
fn pid() -> u32 {
    std::process::id()
}

#[mp::task]
fn pid_of(_: u64) -> u32 {
    std::process::id()
}

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

// What they keep.

#[derive(Debug)]
struct Counter {
    start: u64,
    count: Mutex<u64>,
}

#[mp::task]
fn keep_counter(start: u64) {
    let count = Mutex::new(0);
    mp::set_worker_state(Counter { start, count });
}

#[mp::task]
fn count() -> (u32, u64) {
    let counter = mp::worker_state::<Counter>();
    let mut count = counter.count.lock().unwrap();
    *count += 1;
    (std::process::id(), counter.start + *count)
}

#[mp::task]
fn has_counter() -> bool {
    mp::try_worker_state::<Counter>().is_some()
}

#[test]
fn tasks_find_what_the_initializer_keeps_in_every_worker() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(2)
        .max_tasks_per_worker(5)
        .initializer(keep_counter, (100,))
        .build()?;
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let (pid, count) = pool.apply(count, ())?;
        assert!((101..=105).contains(&count));
        assert!(seen.insert((pid, count)), "a worker counted {count} twice");
    }
    let pids: HashSet<u32> = seen.iter().map(|seen| seen.0).collect();
    assert!(pids.len() >= 4);
    assert!(mp::try_worker_state::<Counter>().is_none());
    Ok(())
}

#[test]
fn state_that_nobody_set_is_its_items_failure() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(1)?;
    assert!(!pool.apply(has_counter, ())?);
    let error = pool.apply(count, ()).unwrap_err();
    let task = error.task().unwrap();
    assert!(task.is_panic());
    assert!(error.to_string().contains("set_worker_state"), "{error}");
    Ok(())
}

#[mp::task]
fn keep_two_counters() {
    keep_counter(1);
    keep_counter(2);
}

// Initializers that fail.

#[mp::task]
fn exit_at_once(starts: Queue<u32>, code: i32) {
    starts.put(std::process::id()).unwrap();
    std::process::exit(code);
}

#[test]
fn initializer_that_fails_stops_the_pool_after_a_few_starts() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .initializer(keep_two_counters, ())
        .build()?;
    let error = pool.apply(pid, ()).unwrap_err();
    assert!(error.to_string().contains("a state of type"), "{error}");
    for code in [0, 7] {
        for idle in [None, Some(Duration::from_secs(3600))] {
            let starts = Queue::new()?;
            let mut builder = Pool::builder();
            builder
                .workers(1)
                .initializer(exit_at_once, (starts.clone(), code));
            if let Some(idle) = idle {
                builder.idle_timeout(idle);
            }
            let pool = builder.build()?;
            let error = pool.apply(pid, ()).unwrap_err();
            let why = format!("exited with code {code} before its initializer");
            assert!(error.to_string().contains(&why), "{error}");
            pool.terminate();
            let starts = starts.len();
            assert!((1..=5).contains(&starts), "{starts} starts");
        }
    }
    Ok(())
}

#[mp::task(timeout = "50ms")]
fn hang() {
    loop {
        std::thread::park();
    }
}

#[mp::task(timeout = "1h")]
fn not_hang() {}

#[test]
fn initializer_that_takes_longer_than_it_may_fails() -> AnyResult {
    let _watchdog = watchdog(120);
    for is_isolated in [false, true] {
        let mut builder = Pool::builder();
        builder.workers(1).isolated(is_isolated);
        let pool = builder.initializer(hang, ()).build()?;
        let error = pool.apply(pid, ()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("hang") && text.contains("50ms"), "{error}");
        let pool = builder.initializer(not_hang, ()).build()?;
        assert_eq!(pool.map(square, 0..4)?, [0, 1, 4, 9]);
    }
    Ok(())
}

#[mp::task]
fn read_settings(path: String) -> Result<(), mp::AnyError> {
    std::fs::read(&path)?;
    keep_counter(5);
    Ok(())
}

#[mp::task]
fn refuse(why: String) -> Result<(), String> {
    Err(why)
}

#[test]
fn error_that_an_initializer_returns_fails_the_pool_with_it() -> AnyResult {
    let _watchdog = watchdog(120);
    for is_isolated in [false, true] {
        let build = |path: &str| {
            let mut builder = Pool::builder();
            builder.workers(1).isolated(is_isolated);
            builder
                .initializer(read_settings, (path.to_owned(),))
                .build()
        };
        assert_eq!(build("/proc/self/status")?.apply(count, ())?.1, 6);
        let error = build("/does/not/exist")?.apply(pid, ()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("read_settings") && text.contains("No such file"),
            "{text}"
        );
    }
    let mut builder = Pool::builder();
    let pool = builder
        .workers(1)
        .initializer(refuse, ("no licence".to_owned(),))
        .build()?;
    let error = pool.apply(pid, ()).unwrap_err();
    assert!(error.to_string().contains("failed: no licence"), "{error}");
    Ok(())
}

/// The monotonic clock, which all processes share.
fn now() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes to the place that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[mp::task]
fn note_and_fail(starts: Queue<Duration>) -> Result<(), String> {
    starts.put(now()).unwrap();
    Err("not today".to_owned())
}

#[test]
fn workers_that_end_at_once_are_started_after_longer_and_longer_pauses() -> AnyResult {
    let _watchdog = watchdog(120);
    let starts = Queue::new()?;
    let mut builder = Pool::builder();
    builder
        .workers(1)
        .initializer(note_and_fail, (starts.clone(),));
    let pool = builder.build()?;
    assert!(pool.apply(pid, ()).is_err());
    let starts: Vec<_> = std::iter::from_fn(|| starts.try_get().ok()).collect();
    assert_eq!(starts.len(), 5);
    for (pair, pause) in starts.windows(2).zip([0, 10, 20, 40]) {
        assert!(
            pair[1] - pair[0] >= Duration::from_millis(pause),
            "{starts:?}"
        );
    }
    Ok(())
}

#[test]
fn pool_that_rests_is_joined_and_ended() -> AnyResult {
    let _watchdog = watchdog(120);
    let starts = Queue::new()?;
    let mut builder = Pool::builder();
    builder
        .workers(1)
        .initializer(note_and_fail, (starts.clone(),));
    // Without a call nobody is missed, with one it is waited for until the pool gives up.
    for has_call in [false, true] {
        let pool = builder.build()?;
        starts.get()?;
        starts.get()?;
        let job = has_call.then(|| pool.submit(pid, ())).transpose()?;
        pool.close();
        pool.join()?;
        assert!(job.is_none_or(|job| job.wait().is_err()));
    }
    // Ended while it rests.
    let pool = builder.build()?;
    starts.get()?;
    starts.get()?;
    pool.terminate();
    pool.join()?;
    Ok(())
}

#[mp::task]
fn need_a_licence(licences: Queue<u32>, starts: Queue<u32>) {
    starts.put(std::process::id()).unwrap();
    licences.try_get().expect("no licence is left");
}

#[test]
fn workers_that_cannot_begin_do_not_stop_those_that_could() -> AnyResult {
    let _watchdog = watchdog(120);
    let (licences, starts) = (Queue::new()?, Queue::new()?);
    licences.put(1)?;
    let pool = Pool::builder()
        .workers(3)
        .initializer(need_a_licence, (licences.clone(), starts.clone()))
        .build()?;
    for _ in 0..20 {
        let squares = pool.map(square, 0..1000)?;
        assert_eq!(squares[999], 998_001);
    }
    // One began, and no more than a few tried in vain.
    let had = starts.len();
    assert!(had <= 1 + 5 + 2, "{had} starts");
    pool.close();
    pool.join()?;
    Ok(())
}

// When they end.

#[mp::task]
fn leak(bytes: usize) -> u32 {
    std::mem::forget(vec![1_u8; bytes]);
    std::process::id()
}

#[test]
fn workers_with_too_much_memory_are_renewed_and_no_item_fails() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .max_memory_per_worker(64 << 20)
        .build()?;
    let leaky = pool.map(leak, vec![8 << 20; 40])?;
    let leaky: HashSet<u32> = leaky.into_iter().collect();
    assert!((3..=20).contains(&leaky.len()), "{} workers", leaky.len());
    let sound = pool.map(leak, vec![1; 40])?;
    let sound: HashSet<u32> = sound.into_iter().collect();
    assert!(sound.len() <= 2);
    Ok(())
}

#[test]
fn workers_on_demand_come_with_the_work_and_go_without() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(3)
        .idle_timeout(Duration::from_millis(50))
        .build()?;
    let mut last = 0;
    for _ in 0..5 {
        let worker = pool.apply(pid, ())?;
        assert_ne!(worker, last, "it should have ended");
        eventually(|| is_gone(worker));
        last = worker;
    }
    // As many as there are jobs, and no more than there may be.
    let (here, there) = (Queue::new()?, Queue::new()?);
    let pair = [
        pool.submit(meet, (here.clone(), there.clone()))?,
        pool.submit(meet, (there, here))?,
    ];
    let pids: HashSet<u32> = mp::wait_all(pair).into_iter().collect::<mp::Result<_>>()?;
    assert_eq!(pids.len(), 2);
    assert_eq!(pool.map(square, 0..10_000)?.len(), 10_000);
    pool.close();
    pool.join()?;
    Ok(())
}

#[mp::task]
fn meet(here: Queue<()>, there: Queue<()>) -> u32 {
    here.put(()).unwrap();
    there.get().unwrap();
    std::process::id()
}

#[mp::task]
fn sometimes_die(x: u64) -> u64 {
    if x % 10 == 3 {
        std::process::abort();
    }
    x
}

#[test]
fn workers_that_leave_for_want_of_work_lose_no_job() -> AnyResult {
    let _watchdog = watchdog(300);
    let pool = Pool::builder()
        .workers(2)
        .idle_timeout(Duration::from_micros(1))
        .build()?;
    for x in 0..60 {
        match pool.apply(sometimes_die, (x,)) {
            Ok(value) => assert_eq!(value, x),
            Err(error) => {
                assert_eq!(x % 10, 3);
                assert!(error.task().unwrap().is_crash(), "{error}");
            }
        }
    }
    let outcomes = pool.try_map(sometimes_die, 0..60)?;
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(failed, 6);
    Ok(())
}

// How many there are.

#[test]
fn pool_grows_and_shrinks_while_it_works() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1)?;
    let (here, there) = (Queue::new()?, Queue::new()?);
    let first = pool.submit(meet, (here.clone(), there.clone()))?;
    let second = pool.submit(meet, (there, here))?;
    // One worker alone would wait for ever.
    pool.resize(3)?;
    assert_eq!(pool.workers(), 3);
    assert_ne!(first.wait()?, second.wait()?);

    let outcomes = pool.map_async(square, 0..200_000)?;
    for workers in [1, 4, 2, 3, 1] {
        pool.resize(workers)?;
    }
    let squares = outcomes.wait()?;
    assert!(
        (0..200_000)
            .zip(&squares)
            .all(|(x, &square)| x * x == square)
    );
    // Those that are too many are gone in the end, and the one that is left does all the work.
    let alone = || -> mp::Result<bool> {
        let pids: HashSet<u32> = (0..8)
            .map(|_| pool.apply(pid, ()))
            .collect::<mp::Result<_>>()?;
        Ok(pids.len() == 1)
    };
    eventually(|| alone().unwrap());
    let worker = pool.apply(pid, ())?;
    assert!(pool.map(pid_of, 0..1000)?.iter().all(|&pid| pid == worker));

    // One that was killed is replaced, and those that were dismissed are not.
    send_signal(worker, libc::SIGKILL);
    eventually(|| is_gone(worker));
    let next = pool.apply(pid, ())?;
    assert!(pool.map(pid_of, 0..1000)?.iter().all(|&pid| pid == next));
    Ok(())
}

#[test]
fn pool_cannot_be_made_empty_or_grow_once_it_is_closed() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(1)?;
    let error = pool.resize(0).unwrap_err();
    assert!(error.to_string().contains("at least one"), "{error}");
    pool.close();
    assert!(pool.resize(2).unwrap_err().is_closed());
    pool.join()?;
    Ok(())
}

#[test]
fn dismissed_workers_finish_what_they_are_at() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2)?;
    let (here, there) = (Queue::new()?, Queue::new()?);
    let first = pool.submit(meet, (here.clone(), there.clone()))?;
    here.get()?;
    let second = pool.submit(meet, (here.clone(), there.clone()))?;
    here.get()?;
    // Both are at work: whichever is dismissed finishes its job.
    pool.resize(1)?;
    there.put_many([(), ()])?;
    assert_ne!(first.wait()?, second.wait()?);
    Ok(())
}

// What they are given.

#[mp::task]
fn surroundings() -> (String, i32, String, String) {
    let me = std::process::id();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let nice = stat.rsplit(')').next().unwrap().split_whitespace().nth(16);
    (
        status_line(me, "Cpus_allowed_list").unwrap(),
        nice.unwrap().parse().unwrap(),
        std::env::var("MP_TEST_COLOUR").unwrap_or_default(),
        mp::current_process().name().to_owned(),
    )
}

#[test]
fn workers_have_the_cpus_the_nice_value_and_the_environment_they_were_given() -> AnyResult {
    let _watchdog = watchdog(60);
    let allowed = status_line(std::process::id(), "Cpus_allowed_list").unwrap();
    let first: usize = allowed.split([',', '-']).next().unwrap().parse()?;
    let pool = Pool::builder()
        .workers(1)
        .name("painter")
        .cpu_affinity([first])
        .nice(7)
        .env("MP_TEST_COLOUR", "green")
        .max_tasks_per_worker(1)
        .build()?;
    for number in 1..=3 {
        let (cpus, nice, colour, name) = pool.apply(surroundings, ())?;
        assert_eq!(cpus, first.to_string());
        assert_eq!(nice, 7);
        assert_eq!(colour, "green");
        assert_eq!(name, format!("painter-{number}"));
    }
    Ok(())
}

#[test]
fn pools_leave_no_child() -> AnyResult {
    support::alone("pools_leave_no_child", || {
        let _watchdog = watchdog(120);
        let pool = Pool::builder()
            .workers(3)
            .idle_timeout(Duration::from_millis(20))
            .build()
            .unwrap();
        assert!(children().is_empty(), "nobody has asked for a worker");
        pool.map(square, 0..100).unwrap();
        eventually(|| children().is_empty());
        let pool = Pool::new(4).unwrap();
        pool.resize(1).unwrap();
        eventually(|| children().len() == 1);
        drop(pool);
        eventually(|| children().is_empty());
    });
    Ok(())
}

// What cannot be.

#[test]
fn more_workers_than_there_may_be_processes_are_refused_before_any_is_started() -> AnyResult {
    let _watchdog = watchdog(120);
    for workers in [1024, usize::MAX] {
        assert!(Pool::new(workers).unwrap_err().is_limit());
    }
    let pool = Pool::new(1)?;
    assert!(pool.resize(usize::MAX).unwrap_err().is_limit());
    assert_eq!((pool.workers(), pool.stats().workers_started), (1, 1));
    Ok(())
}

/// Lets this process open no descriptor, or as many as it could before.
fn lower_descriptors(limit: &libc::rlimit, is_low: bool) {
    let rlim_cur = if is_low { 0 } else { limit.rlim_cur };
    let limit = libc::rlimit { rlim_cur, ..*limit };
    // SAFETY: reads a structure.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

#[mp::task]
fn die() {
    std::process::abort();
}

#[test]
fn workers_that_could_not_be_started_for_a_time_come_later() {
    alone(
        "workers_that_could_not_be_started_for_a_time_come_later",
        || {
            let _watchdog = watchdog(120);
            let (ended, ends) = channel();
            let pool = Pool::builder()
                .workers(2)
                .on_event(move |event| {
                    if matches!(event, PoolEvent::WorkerEnded { .. }) {
                        let _ = ended.send(());
                    }
                })
                .build()
                .unwrap();
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: writes a structure.
            assert_eq!(
                unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) },
                0
            );
            lower_descriptors(&limit, true);
            assert!(pool.apply(die, ()).is_err());
            ends.recv().unwrap();
            assert!(pool.resize(4).is_err());
            assert_eq!(pool.workers(), 2);
            assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
            lower_descriptors(&limit, false);
            eventually(|| pool.stats().workers.len() == 2);

            lower_descriptors(&limit, true);
            assert!(pool.apply(die, ()).is_err());
            assert!(pool.apply(die, ()).is_err());
            let error = pool.apply(square, (3,)).unwrap_err();
            assert!(
                error.to_string().contains("none could be started"),
                "{error}"
            );
            let refused = pool.resize(3).unwrap_err();
            assert_eq!(refused.to_string(), error.to_string());
            lower_descriptors(&limit, false);
        },
    );
}

#[test]
fn worker_that_is_stopped_on_its_way_to_a_job_is_not_waited_for() {
    let _watchdog = watchdog(60);
    let mut builder = Pool::builder();
    builder.workers(2).env("MP_FAULT", "stop@pool.woken");
    let pool = builder.build().unwrap();
    let pids = || -> Vec<u32> { pool.stats().workers.iter().map(|each| each.pid).collect() };
    let are = |state: char| {
        let is = |&pid: &u32| status_line(pid, "State").is_some_and(|line| line.starts_with(state));
        pids().iter().all(is)
    };
    eventually(|| are('S') && pool.stats().workers.iter().all(|each| each.is_ready));
    std::thread::scope(|scope| {
        let results = scope.spawn(|| pool.map(square, 0..1000).unwrap());
        // The first never comes to wake the other.
        eventually(|| are('T'));
        for pid in pids() {
            send_signal(pid, libc::SIGCONT);
        }
        let results = results.join().unwrap();
        assert!(results.into_iter().eq((0..1000).map(square)));
    });
}
