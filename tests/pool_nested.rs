//! Calls that a task makes on the pool that runs it.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use mp::{Event, Pool, PoolEvent, Process, Queue, Retries, Value};
use support::{eventually, is_gone, watchdog};

/// What a pool has in its memory while nothing is under way, and nothing more.
fn check_books(pool: &Pool) {
    eventually(|| {
        let (audit, jobs) = mp::__private::audit_of_pool(pool);
        audit.faults.is_empty() && audit.process_units == 0 && jobs == 0
    });
}

fn own_pool() -> &'static Pool {
    mp::pool().unwrap()
}

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

#[mp::task]
fn power(base: u64, exponent: u32) -> u64 {
    base.pow(exponent)
}

#[mp::task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[mp::task]
fn nothing(_: u64) {}

/// Waits for a future as a plain executor does.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Calls in one of the ways there are; each comes to 14.
#[mp::task]
fn call(way: usize) -> mp::Result<u64> {
    let pool = own_pool();
    let sum = |squares: Vec<u64>| squares.into_iter().sum::<u64>();
    let pairs = [(1, 2), (2, 2), (3, 2)];
    Ok(match way {
        0 => sum(pool.map(square, 1..=3)?),
        1 => pool
            .try_map(square, 1..=3)?
            .into_iter()
            .sum::<Result<_, _>>()?,
        2 => sum(pool.map_ref(square, &[1, 2, 3])?),
        3 => sum(pool.starmap(power, pairs)?),
        4 => pool.apply(add, (5, 9))?,
        5 => pool.submit(add, (5, 9))?.wait()?,
        6 => sum(pool.map_async(square, 1..=3)?.wait()?),
        7 => sum(pool.starmap_async(power, pairs)?.wait()?),
        8 => pool.imap(square, 1..=3)?.sum::<Result<_, _>>()?,
        9 => pool.imap_unordered(square, 1..)?.take(3).count() as u64 + 11,
        10 => pool.istarmap(power, pairs)?.sum::<Result<_, _>>()?,
        11 => pool
            .istarmap_unordered(power, pairs)?
            .sum::<Result<_, _>>()?,
        12 => pool.for_each(nothing, 1..=3).map(|()| 14)?,
        13 => pool.map_reduce(square, add, 1..=3)?.unwrap(),
        14 => sum(pool
            .with_timeout(Duration::from_secs(60))
            .map(square, 1..=3)?),
        15 => sum(pool.with_retries(3).map(square, 1..=3)?),
        16 => {
            let jobs = (1..=3).map(|x| pool.submit(square, (x,)));
            let jobs = jobs.collect::<mp::Result<Vec<_>>>()?;
            sum(mp::wait_all(jobs).into_iter().collect::<mp::Result<_>>()?)
        }
        17 => {
            let jobs = (1..=3).map(|x| pool.submit(square, (x,)));
            let jobs = jobs.collect::<mp::Result<Vec<_>>>()?;
            mp::as_completed(jobs)
                .map(|(_, result)| result)
                .sum::<mp::Result<_>>()?
        }
        18 => block_on(pool.submit(add, (5, 9))?)?,
        19 => {
            let job = pool.submit(add, (5, 9))?;
            while !job.is_done() {
                std::thread::yield_now();
            }
            job.wait()?
        }
        20 => {
            let (sender, results) = mpsc::channel();
            pool.submit(add, (5, 9))?
                .on_done(move |result| sender.send(result).unwrap());
            results.recv().unwrap()?
        }
        21 => {
            let mut job = pool.submit(add, (5, 9))?;
            loop {
                match job.wait_timeout(Duration::from_millis(1)) {
                    Ok(result) => break result?,
                    Err(unfinished) => job = unfinished,
                }
            }
        }
        22 => std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=3)
                .map(|x| scope.spawn(move || own_pool().apply(square, (x,))))
                .collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap());
            results.sum::<mp::Result<_>>()
        })?,
        _ => return Ok(0),
    })
}

#[test]
fn task_calls_its_pool_in_every_way() {
    let _watchdog = watchdog(120);
    let one = Pool::new(1).unwrap();
    let on_demand = Pool::builder()
        .workers(2)
        .idle_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    for pool in [one, on_demand] {
        for way in 0..23 {
            let sum = pool.apply(call, (way,)).unwrap();
            assert_eq!(sum.unwrap(), 14, "way {way}");
        }
        let sums = pool.map(call, 0..23).unwrap();
        assert!(sums.into_iter().all(|sum| sum.unwrap() == 14));
        check_books(&pool);
    }
}

#[mp::task]
fn deepen(depth: u32) -> Vec<u32> {
    let mut pids = match depth {
        0 => Vec::new(),
        _ => own_pool().apply(deepen, (depth - 1,)).unwrap(),
    };
    pids.push(std::process::id());
    pids
}

#[test]
fn call_inside_a_call_runs_in_a_process_of_its_own() {
    let _watchdog = watchdog(60);
    let pool = Pool::new(1).unwrap();
    let mut pids = pool.apply(deepen, (3,)).unwrap();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4);
    // Those that stand by serve the next call, and then end.
    let started = pool.stats().workers_started;
    for _ in 0..20 {
        pool.apply(deepen, (3,)).unwrap();
    }
    assert!(pool.stats().workers_started < started + 20);
    eventually(|| pool.stats().workers.len() == 1);
    check_books(&pool);
}

#[mp::task]
fn fib(n: u64) -> u64 {
    match n {
        0 | 1 => n,
        _ => own_pool()
            .map(fib, [n - 1, n - 2])
            .unwrap()
            .into_iter()
            .sum(),
    }
}

#[test]
fn tree_of_calls_has_no_more_processes_than_it_is_deep_and_leaves_none() {
    let _watchdog = watchdog(120);
    for (workers, n, value) in [(1, 7, 13), (2, 12, 144)] {
        let pool = Pool::new(workers).unwrap();
        assert_eq!(pool.apply(fib, (n,)).unwrap(), value);
        let stats = pool.stats();
        // The call of the tree counts, and so does each of its nodes.
        assert_eq!(stats.done, 2 * (value_of_next(n) - 1) + 1);
        eventually(|| pool.stats().workers.len() == workers);
        assert_eq!(pool.stats().workers_died, 0);
        check_books(&pool);
    }
}

/// The number of the Fibonacci series after the one of that place.
fn value_of_next(n: u64) -> u64 {
    (0..n).fold((0, 1), |(a, b), _| (b, a + b)).1
}

#[mp::task]
fn fail(how: u32) -> u32 {
    match how {
        0 => panic!("on purpose"),
        1 => std::process::exit(7),
        2 => std::process::abort(),
        3 => loop {
            std::thread::park();
        },
        _ => how,
    }
}

#[mp::task]
fn tell_failures() -> Vec<Result<u32, mp::TaskError>> {
    let pool = own_pool();
    let mut outcomes = pool.try_map(fail, [0, 1, 2, 4]).unwrap();
    // The others might take longer than this one may, on a busy machine.
    let in_time = pool.with_timeout(Duration::from_millis(50));
    outcomes.extend(in_time.try_map(fail, [3]).unwrap());
    outcomes
}

#[test]
fn failure_inside_is_told_there_and_costs_nothing_else() {
    let _watchdog = watchdog(60);
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = events.clone();
    let pool = Pool::builder()
        .workers(1)
        .on_event(move |event| {
            if let PoolEvent::ItemFailed { error, .. } = event {
                told.lock().unwrap().push(error.index());
            }
        })
        .build()
        .unwrap();
    let outcomes = pool.apply(tell_failures, ()).unwrap();
    let values = outcomes.iter().flatten();
    assert_eq!(values.collect::<Vec<_>>(), [&4]);
    let errors: Vec<_> = outcomes.iter().flat_map(|it| it.as_ref().err()).collect();
    assert!(errors[0].is_panic() && errors[0].message() == Some("on purpose"));
    assert!(errors[1].is_crash() && errors[1].exit_code() == Some(7));
    assert!(errors[2].is_crash() && errors[2].signal() == Some(libc::SIGABRT));
    assert!(errors[3].is_timeout(), "{}", errors[3]);
    for (error, index) in errors.iter().zip([0, 1, 2, 0]) {
        assert_eq!(error.index(), Some(index));
        let text = error.to_string();
        assert!(
            text.contains("pool_nested::fail") && text.contains("Worker-"),
            "{text}"
        );
    }
    let failed = pool.stats().failed;
    assert_eq!(
        (
            failed.panics,
            failed.crashes,
            failed.timeouts,
            failed.total()
        ),
        (1, 2, 1, 4)
    );
    assert_eq!(pool.stats().done, 2);
    eventually(|| events.lock().unwrap().len() == 4);
    check_books(&pool);
}

#[mp::task]
fn crash_once(tries: Value<u32>) -> u32 {
    match tries.fetch_add(1) {
        0 => std::process::abort(),
        before => before,
    }
}

#[mp::task]
fn retry_inside(tries: Value<u32>) -> u32 {
    own_pool().apply(crash_once, (tries,)).unwrap()
}

#[test]
fn retries_and_deadlines_of_the_pool_hold_inside() {
    let _watchdog = watchdog(60);
    let pool = Pool::builder()
        .workers(1)
        .retries(1)
        .task_timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    assert_eq!(
        pool.apply(retry_inside, (Value::new(0).unwrap(),)).unwrap(),
        1
    );
    check_books(&pool);
}

/// Says who it is, and stays until it is ended.
#[mp::task]
fn stay(pids: Queue<u32>) {
    pids.put(std::process::id()).unwrap();
    loop {
        std::thread::park();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
enum End {
    Killed,
    Expired,
    Cancelled,
    Aborted,
    Exited,
}

/// Has two that stay run, and one that is not begun, and comes to an end.
#[mp::task]
fn come_to_an_end(end: End, pids: Queue<u32>, running: Queue<u32>) {
    pids.put(std::process::id()).unwrap();
    let pool = own_pool();
    let mut stream = pool.imap(stay, vec![running.clone(); 3]).unwrap();
    if end == End::Aborted || end == End::Exited {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while running.len() < 2 {
                    std::thread::yield_now();
                }
                match end {
                    End::Exited => std::process::exit(3),
                    _ => std::process::abort(),
                }
            });
            stream.next();
        });
    }
    stream.next();
}

#[test]
fn calls_of_a_task_that_is_ended_end_with_it() {
    let _watchdog = watchdog(120);
    for end in [
        End::Killed,
        End::Expired,
        End::Cancelled,
        End::Aborted,
        End::Exited,
    ] {
        let pool = Pool::new(2).unwrap();
        let (pids, running) = (Queue::new().unwrap(), Queue::new().unwrap());
        let arguments = (end, pids.clone(), running.clone());
        let job = match end {
            End::Expired => pool
                .with_timeout(Duration::from_millis(500))
                .submit(come_to_an_end, arguments),
            _ => pool.submit(come_to_an_end, arguments),
        };
        let job = job.unwrap();
        let outer = pids.get().unwrap();
        let inner = if matches!(end, End::Aborted | End::Exited) {
            Vec::new()
        } else {
            // Nobody takes them out there.
            vec![running.get().unwrap(), running.get().unwrap()]
        };
        match end {
            End::Killed => support::send_signal(outer, libc::SIGKILL),
            End::Cancelled => job.cancel(),
            _ => {}
        }
        let error = job.wait().unwrap_err();
        let error = error.task().unwrap();
        match end {
            End::Killed => assert_eq!(error.signal(), Some(libc::SIGKILL)),
            End::Expired => assert!(error.is_timeout(), "{error}"),
            End::Cancelled => assert!(error.is_cancelled(), "{error}"),
            End::Aborted => assert_eq!(error.signal(), Some(libc::SIGABRT)),
            End::Exited => assert_eq!(error.exit_code(), Some(3)),
        }
        for pid in inner {
            eventually(|| is_gone(pid));
        }
        while let Ok(pid) = running.try_get() {
            eventually(|| is_gone(pid));
        }
        assert_eq!(pool.apply(call, (0,)).unwrap().unwrap(), 14, "{end:?}");
        check_books(&pool);
    }
}

#[mp::task]
fn panic_in_between(pids: Queue<u32>) {
    let mut stream = own_pool()
        .imap_unordered(tell_pid_if, (0..3).map(|n| (n, pids.clone())))
        .unwrap();
    stream.next();
    panic!("on purpose");
}

#[mp::task]
fn tell_pid_if((n, pids): (u32, Queue<u32>)) {
    if n > 0 {
        pids.put(std::process::id()).unwrap();
    }
}

#[test]
fn stream_of_a_task_that_panics_is_cleared_away() {
    let _watchdog = watchdog(60);
    let pool = Pool::new(1).unwrap();
    let error = pool
        .apply(panic_in_between, (Queue::new().unwrap(),))
        .unwrap_err();
    assert!(error.task().unwrap().is_panic());
    assert_eq!(pool.apply(call, (0,)).unwrap().unwrap(), 14);
    check_books(&pool);
}

#[mp::task]
fn cancel_inside(pids: Queue<u32>) -> bool {
    let job = own_pool().submit(stay, (pids.clone(),)).unwrap();
    while pids.is_empty() {
        std::thread::yield_now();
    }
    job.cancel();
    job.wait().unwrap_err().task().unwrap().is_cancelled()
}

#[test]
fn job_inside_is_cancelled_and_its_worker_killed() {
    let _watchdog = watchdog(60);
    for grace in [0, 20] {
        let pool = Pool::builder()
            .workers(2)
            .grace(Duration::from_millis(grace))
            .build()
            .unwrap();
        let pids = Queue::new().unwrap();
        assert!(pool.apply(cancel_inside, (pids.clone(),)).unwrap());
        let pid = pids.get().unwrap();
        eventually(|| is_gone(pid));
        check_books(&pool);
    }
}

#[mp::task]
fn hand_over(done: Queue<u64>, count: u64) {
    let pool = own_pool();
    for n in 0..count {
        drop(pool.submit(put_late, (done.clone(), n)).unwrap());
    }
}

#[mp::task]
fn put_late(done: Queue<u64>, n: u64) {
    std::thread::sleep(Duration::from_millis(1));
    done.put(n).unwrap();
}

#[test]
fn what_a_task_hands_over_is_done_though_its_worker_leaves() {
    let _watchdog = watchdog(60);
    for max_tasks in [None, Some(1)] {
        let mut builder = Pool::builder();
        builder.workers(1);
        if let Some(most) = max_tasks {
            builder.max_tasks_per_worker(most);
        }
        let pool = builder.build().unwrap();
        let done = Queue::new().unwrap();
        pool.apply(hand_over, (done.clone(), 10)).unwrap();
        let mut all: Vec<u64> = (0..10).map(|_| done.get().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, Vec::from_iter(0..10));
        pool.close();
        pool.join().unwrap();
        check_books(&pool);
    }
}

/// Hands over a call whose callback takes a while.
#[mp::task]
fn hand_over_with_callback(done: Queue<u64>) {
    let job = own_pool().submit(square, (3,)).unwrap();
    job.on_done(move |result| {
        std::thread::sleep(Duration::from_millis(50));
        done.put(result.unwrap()).unwrap();
    });
}

#[test]
fn callback_of_a_task_is_run_though_its_worker_leaves() {
    let _watchdog = watchdog(60);
    let mut builder = Pool::builder();
    let pool = builder.workers(1).max_tasks_per_worker(1).build().unwrap();
    let done = Queue::new().unwrap();
    pool.apply(hand_over_with_callback, (done.clone(),))
        .unwrap();
    pool.close();
    pool.join().unwrap();
    assert_eq!(done.try_get().unwrap(), 9);
    check_books(&pool);
}

/// Calls once it is let.
#[mp::task]
fn call_after(begun: Event, gate: Event) -> u64 {
    begun.set();
    gate.wait();
    own_pool().map(square, 1..=3).unwrap().into_iter().sum()
}

#[test]
fn pool_that_is_closed_or_drained_finishes_what_its_tasks_call() {
    let _watchdog = watchdog(60);
    for drains in [false, true] {
        let pool = Pool::new(2).unwrap();
        let (begun, gate) = (Event::new().unwrap(), Event::new().unwrap());
        let job = pool
            .submit(call_after, (begun.clone(), gate.clone()))
            .unwrap();
        begun.wait();
        if drains {
            std::thread::scope(|scope| {
                let drain = scope.spawn(|| pool.drain(Duration::from_secs(60)));
                // The other worker leaves at once.
                eventually(|| pool.stats().workers.len() == 1);
                gate.set();
                assert!(drain.join().unwrap());
            });
        } else {
            pool.close();
            gate.set();
            pool.join().unwrap();
        }
        assert_eq!(job.wait().unwrap(), 14);
        check_books(&pool);
    }
}

#[mp::task]
fn call_endless(pids: Queue<u32>) {
    pids.put(std::process::id()).unwrap();
    let _ = own_pool().apply(stay, (pids,));
}

#[test]
fn pool_that_is_ended_ends_what_its_tasks_call() {
    let _watchdog = watchdog(60);
    let ends: [fn(Pool); 3] = [
        |pool| pool.terminate(),
        |pool| assert!(!pool.drain(Duration::from_millis(50))),
        drop,
    ];
    for end in ends {
        let pool = Pool::new(1).unwrap();
        let pids = Queue::new().unwrap();
        let job = pool.submit(call_endless, (pids.clone(),)).unwrap();
        let both = [pids.get().unwrap(), pids.get().unwrap()];
        end(pool);
        assert!(job.wait().unwrap_err().task().unwrap().is_cancelled());
        assert!(both.into_iter().all(is_gone));
    }
    eventually(|| mp::__private::audit().unwrap().faults.is_empty());
}

/// Ends with a pool whose task waits for a call.
#[mp::task]
fn leave_a_call(pids: Queue<u32>) {
    let pool = Pool::new(1).unwrap();
    let told = Queue::new().unwrap();
    let _job = pool.submit(call_endless, (told.clone(),)).unwrap();
    for _ in 0..2 {
        pids.put(told.get().unwrap()).unwrap();
    }
    support::send_signal(std::process::id(), libc::SIGKILL);
}

#[test]
fn all_die_with_the_process_that_has_the_pool() {
    let _watchdog = watchdog(60);
    let pids = Queue::new().unwrap();
    let parent = Process::new(leave_a_call, (pids.clone(),)).start().unwrap();
    assert_eq!(parent.join().unwrap_err().signal(), Some(libc::SIGKILL));
    for _ in 0..2 {
        let pid = pids.get().unwrap();
        eventually(|| is_gone(pid));
    }
}

#[mp::task]
fn try_what_is_not_for_tasks() -> Vec<String> {
    let pool = own_pool();
    let message = |run: &dyn Fn()| {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    };
    vec![
        pool.broadcast(square, (1,)).unwrap_err().to_string(),
        pool.resize(3).unwrap_err().to_string(),
        pool.join().unwrap_err().to_string(),
        message(&|| pool.close()),
        message(&|| pool.terminate()),
        message(&|| {
            pool.drain(Duration::ZERO);
        }),
    ]
}

#[test]
fn what_a_task_may_not_do_to_its_pool_is_refused() {
    let _watchdog = watchdog(60);
    let pool = Pool::new(1).unwrap();
    let texts = pool.apply(try_what_is_not_for_tasks, ()).unwrap();
    let verbs = [
        "broadcast to",
        "resize",
        "join",
        "close",
        "terminate",
        "drain",
    ];
    for (text, verb) in texts.iter().zip(verbs) {
        let expected = format!("a task cannot {verb} the pool that runs it");
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[mp::task]
fn call_too_early() {
    own_pool().map(square, 1..=3).unwrap();
}

#[test]
fn initializer_that_calls_its_pool_fails_with_the_reason() {
    let _watchdog = watchdog(60);
    let pool = Pool::builder()
        .workers(1)
        .initializer(call_too_early, ())
        .build()
        .unwrap();
    let error = pool.apply(square, (1,)).unwrap_err();
    assert!(
        error.to_string().contains("an initializer cannot"),
        "{error}"
    );
}

#[mp::task]
fn isolated_call() -> String {
    mp::pool().map(drop).unwrap_err().to_string()
}

#[test]
fn isolated_worker_is_told_why_it_cannot_call() {
    let _watchdog = watchdog(60);
    let pool = Pool::builder().workers(1).isolated(true).build().unwrap();
    let text = pool.apply(isolated_call, ()).unwrap();
    assert!(text.contains("isolated"), "{text}");
}

#[mp::task]
fn own_pool_is_parents() -> (u32, u32) {
    (
        own_pool().apply(parent, ()).unwrap(),
        Pool::new(1).unwrap().apply(parent, ()).unwrap(),
    )
}

#[mp::task]
fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

#[mp::task]
fn global_pool_in_a_process() -> u32 {
    own_pool().apply(parent, ()).unwrap()
}

#[mp::task]
fn call_inside_a_pool_inside() -> u64 {
    let pool = Pool::new(1).unwrap();
    assert!(pool.apply(fail, (0,)).is_err());
    pool.apply(call, (0,)).unwrap().unwrap() + own_pool().apply(call, (0,)).unwrap().unwrap()
}

#[test]
fn pool_of_a_worker_is_that_of_its_parent_and_one_that_it_makes_its_own() {
    let _watchdog = watchdog(60);
    let me = std::process::id();
    let pool = Pool::new(1).unwrap();
    let (of_parent, of_own) = pool.apply(own_pool_is_parents, ()).unwrap();
    assert_eq!(of_parent, me);
    assert_ne!(of_own, me);
    assert_eq!(pool.apply(call_inside_a_pool_inside, ()).unwrap(), 28);
    let child = Process::new(global_pool_in_a_process, ()).start().unwrap();
    let pid = child.id();
    assert_eq!(child.join().unwrap(), pid);
}

#[mp::task]
fn dive(depth: u32) -> Result<u32, String> {
    match own_pool().apply(dive, (depth + 1,)) {
        Ok(result) => result,
        Err(error) => Err(format!("{depth}: {error}")),
    }
}

#[test]
fn recursion_without_end_is_an_error() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1).unwrap();
    let error = pool.apply(dive, (0,)).unwrap().unwrap_err();
    assert!(
        error.starts_with("100: ") && error.contains("nested 100 deep"),
        "{error}"
    );
    check_books(&pool);
}

#[mp::task]
fn first_only(begun: Value<u32>) {
    assert_eq!(begun.fetch_add(1), 0, "only the first worker gets here");
}

#[mp::task]
fn call_in_vain() -> String {
    own_pool().apply(square, (1,)).unwrap_err().to_string()
}

#[test]
fn call_for_which_no_worker_can_be_started_fails_with_the_reason() {
    let _watchdog = watchdog(60);
    let pool = Pool::builder()
        .workers(1)
        .initializer(first_only, (Value::new(0).unwrap(),))
        .build()
        .unwrap();
    let text = pool.apply(call_in_vain, ()).unwrap();
    assert!(text.contains("no other could be started"), "{text}");
    assert!(text.contains("only the first worker"), "{text}");
    // What is left in its memory is the initializer's arguments and failure.
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
}

#[mp::task]
fn carry(queue: Queue<u64>, data: Vec<u8>) -> (Queue<u64>, Vec<u8>) {
    queue.put(data.len() as u64).unwrap();
    (queue, data)
}

#[mp::task]
fn carry_inside(queue: Queue<u64>) -> Queue<u64> {
    let items = (0..20).map(|n| (queue.clone(), vec![n as u8; n * 20_000]));
    let results = own_pool().starmap(carry, items).unwrap();
    for (n, (_, data)) in results.iter().enumerate() {
        assert_eq!(*data, vec![n as u8; n * 20_000]);
    }
    results.into_iter().next().unwrap().0
}

#[test]
fn handles_and_large_values_travel_inside() {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2).unwrap();
    let queue = Queue::new().unwrap();
    let back = pool.apply(carry_inside, (queue,)).unwrap();
    let sum: u64 = (0..20).map(|_| back.get().unwrap()).sum();
    assert_eq!(sum, 190 * 20_000);
    check_books(&pool);
    drop((back, pool));
    eventually(|| mp::__private::audit().unwrap().faults.is_empty());
}

#[mp::task]
fn fail_first(tries: Value<u32>) -> u32 {
    let before = tries.fetch_add(1);
    assert!(before > 0, "as told");
    before
}

/// How often a callee that fails once was run, by a call that says nothing of retries, and by one
/// that has a predicate of its own.
#[mp::task]
fn call_fail_first() -> (u32, u32) {
    let pool = mp::pool().unwrap();
    let runs = |retries: Option<Retries>| {
        let tries = Value::new(0).unwrap();
        let _ = match retries {
            Some(retries) => pool
                .with_retries(retries)
                .apply(fail_first, (tries.clone(),)),
            None => pool.apply(fail_first, (tries.clone(),)),
        };
        tries.load()
    };
    let own = Retries::new(3).when(mp::TaskError::is_panic);
    (runs(None), runs(Some(own)))
}

#[test]
fn predicate_of_the_pool_is_not_asked_in_tasks_but_one_of_the_call_is() {
    let _watchdog = watchdog(60);
    let retries = Retries::new(3).when(|_| true);
    let pool = Pool::builder().workers(1).retries(retries).build().unwrap();
    assert_eq!(pool.apply(call_fail_first, ()).unwrap(), (1, 2));
}
