//! Calls for every worker, for what a task does, for several arguments, and on the process's pool.

mod support;

use std::collections::HashSet;
use std::sync::Barrier;
use std::time::Duration;

use mp::{Pool, Queue, TaskError};
use support::{alone, eventually, watchdog};

#[mp::task]
fn note_pid(runs: Queue<u32>) -> u32 {
    let pid = std::process::id();
    runs.put(pid).unwrap();
    pid
}

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

fn pids(outcomes: Vec<Result<u32, TaskError>>) -> Vec<u32> {
    outcomes.into_iter().map(Result::unwrap).collect()
}

fn drain(queue: &Queue<u32>) -> Vec<u32> {
    std::iter::from_fn(|| queue.try_get().ok()).collect()
}

#[test]
fn broadcast_runs_once_on_every_worker() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(4).unwrap();
    let runs = Queue::new().unwrap();
    let first = pids(pool.broadcast(note_pid, (runs.clone(),)).unwrap());
    assert_eq!(first.len(), 4);
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 4);
    let mut ran = drain(&runs);
    ran.sort_unstable();
    let mut expected = first.clone();
    expected.sort_unstable();
    assert_eq!(ran, expected);
    // The same workers, in the same order.
    let again = pids(pool.broadcast(note_pid, (runs.clone(),)).unwrap());
    assert_eq!(again, first);
    pool.resize(2).unwrap();
    assert_eq!(pids(pool.broadcast(note_pid, (runs,)).unwrap()), first[..2]);
}

#[test]
fn broadcasts_and_other_calls_go_on_at_the_same_time() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(3).unwrap();
    let runs = Queue::new().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..30 {
                    let outcomes = pool.broadcast(note_pid, (runs.clone(),)).unwrap();
                    let workers: HashSet<_> = pids(outcomes).into_iter().collect();
                    assert_eq!(workers.len(), 3);
                }
            });
            scope.spawn(|| {
                for _ in 0..30 {
                    let squares = pool.map(square, 0..200).unwrap();
                    assert!((0..200).zip(squares).all(|(x, squared)| squared == x * x));
                }
            });
        }
    });
    assert_eq!(drain(&runs).len(), 3 * 30 * 3);
}

#[mp::task]
fn die_once(tickets: Queue<u32>) {
    if tickets.try_get().is_ok() {
        std::process::abort();
    }
}

#[test]
fn worker_that_dies_in_a_broadcast_costs_its_own_outcome() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(3).retries(5).build().unwrap();
    let tickets = Queue::new().unwrap();
    tickets.put(1).unwrap();
    let outcomes = pool.broadcast(die_once, (tickets,)).unwrap();
    let errors: Vec<_> = outcomes
        .iter()
        .flat_map(|outcome| outcome.as_ref().err())
        .collect();
    assert_eq!((outcomes.len(), errors.len()), (3, 1));
    assert!(errors[0].is_crash() && errors[0].attempts() == 1);
    let runs = Queue::new().unwrap();
    eventually(|| {
        let outcomes = pool.broadcast(note_pid, (runs.clone(),)).unwrap();
        outcomes.len() == 3 && outcomes.iter().all(Result::is_ok)
    });
}

#[mp::task]
fn tell_and_wait(begun: Queue<u32>, end: Queue<u32>) {
    begun.put(std::process::id()).unwrap();
    let _ = end.get();
}

#[test]
fn broadcast_to_a_worker_that_ends_first_has_not_begun_there() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2).unwrap();
    let (begun, end) = (Queue::new().unwrap(), Queue::<u32>::new().unwrap());
    let job = pool.submit(tell_and_wait, (begun.clone(), end)).unwrap();
    let busy = begun.get().unwrap();
    let runs = Queue::new().unwrap();
    let outcomes = std::thread::scope(|scope| {
        let broadcast = scope.spawn(|| pool.broadcast(note_pid, (runs.clone(),)).unwrap());
        // The other worker has run it, so it was put out for both.
        runs.get().unwrap();
        job.cancel();
        broadcast.join().unwrap()
    });
    assert!(job.wait().is_err());
    let errors: Vec<_> = outcomes
        .iter()
        .flat_map(|outcome| outcome.as_ref().err())
        .collect();
    assert_eq!((outcomes.len(), errors.len()), (2, 1));
    assert!(!errors[0].may_have_started(), "{}", errors[0]);
    assert_eq!((errors[0].pid(), errors[0].attempts()), (Some(busy), 0));
    // It did not crash: another job was cancelled.
    assert!(errors[0].is_not_started(), "{}", errors[0]);
}

#[test]
fn broadcast_ends_with_the_pool() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1).unwrap();
    let (begun, end) = (Queue::new().unwrap(), Queue::<u32>::new().unwrap());
    let _job = pool.submit(tell_and_wait, (begun.clone(), end)).unwrap();
    begun.get().unwrap();
    let runs = Queue::new().unwrap();
    let outcomes = std::thread::scope(|scope| {
        let broadcast = scope.spawn(|| pool.broadcast(note_pid, (runs.clone(),)));
        std::thread::sleep(Duration::from_millis(5));
        pool.terminate();
        broadcast.join().unwrap()
    });
    // It may have come too late.
    let errors = outcomes
        .iter()
        .flatten()
        .map(|outcome| outcome.as_ref().unwrap_err());
    assert!(errors.into_iter().all(TaskError::is_cancelled));
    assert!(pool.broadcast(note_pid, (runs,)).unwrap_err().is_closed());
}

#[mp::task]
fn put_even((n, out): (u32, Queue<u32>)) {
    assert!(n % 2 == 0, "{n} is odd");
    out.put(n).unwrap();
}

#[test]
fn for_each_runs_every_item_and_tells_of_the_first_failure() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2).unwrap();
    let out = Queue::new().unwrap();
    let items = |step: u32| (0..20).map(|n| (n * step, out.clone())).collect::<Vec<_>>();
    pool.for_each(put_even, items(2)).unwrap();
    assert_eq!(drain(&out).len(), 20);
    let error = pool.for_each(put_even, items(1)).unwrap_err();
    assert_eq!(error.task().unwrap().index(), Some(1));
    assert_eq!(drain(&out).len(), 10);
}

#[mp::task]
fn letter(n: u32) -> String {
    assert!(n != 13, "bad luck");
    char::from(b'a' + (n % 26) as u8).to_string()
}

#[mp::task]
fn join(a: String, b: String) -> String {
    a + &b
}

#[test]
fn results_are_merged_in_the_order_of_the_items_whatever_the_jobs() {
    let _watchdog = watchdog(120);
    for chunk_size in [None, Some(1), Some(7), Some(1000)] {
        let mut builder = Pool::builder();
        builder.workers(3);
        if let Some(items) = chunk_size {
            builder.chunk_size(items).window(2000);
        }
        let pool = builder.build().unwrap();
        let expected: String = (0..3000_u32)
            .map(|n| char::from(b'a' + (n % 26) as u8))
            .collect();
        for len in [0, 1, 2, 3, 10, 3000] {
            // Without the unlucky one.
            let items = (0..len).map(|n| if n == 13 { 13 + 26 } else { n });
            let merged = pool.map_reduce(letter, join, items).unwrap();
            let expected = (len > 0).then(|| expected[..len as usize].to_owned());
            assert_eq!(merged, expected, "{chunk_size:?}");
        }
        let error = pool.map_reduce(letter, join, 0..20).unwrap_err();
        assert_eq!(error.task().unwrap().index(), Some(13));
        // With a deadline they travel as they are.
        let hasty = pool.with_timeout(Duration::from_secs(1000));
        let merged = hasty.map_reduce(letter, join, 0..10).unwrap();
        assert_eq!(merged.unwrap(), expected[..10]);
    }
}

#[mp::task]
fn with_tickets((n, tickets): (u64, Queue<u32>)) -> (u64, Vec<Queue<u32>>) {
    // Handles travel with some of the results, which are not merged before.
    (
        n,
        if n % 5 == 0 {
            vec![tickets]
        } else {
            Vec::new()
        },
    )
}

#[mp::task]
fn add_or_die(a: (u64, Vec<Queue<u32>>), b: (u64, Vec<Queue<u32>>)) -> (u64, Vec<Queue<u32>>) {
    let queues: Vec<_> = a.1.into_iter().chain(b.1).collect();
    if queues.iter().any(|tickets| tickets.try_get().is_ok()) {
        std::process::abort();
    }
    (a.0 + b.0, queues)
}

#[test]
fn handles_among_results_that_are_merged_arrive() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(2).chunk_size(4).build().unwrap();
    let tickets = Queue::new().unwrap();
    let items = |n| (0..n).map(|n| (n, tickets.clone())).collect::<Vec<_>>();
    let (sum, queues) = pool
        .map_reduce(with_tickets, add_or_die, items(40))
        .unwrap()
        .unwrap();
    assert_eq!((sum, queues.len()), ((0..40).sum(), 8));
    tickets.put(1).unwrap();
    let error = pool
        .map_reduce(with_tickets, add_or_die, items(6))
        .unwrap_err();
    assert!(error.task().unwrap().is_crash());
}

#[mp::task(timeout = "50ms")]
fn add_in_time(a: (u64, Vec<Queue<u32>>), b: (u64, Vec<Queue<u32>>)) -> (u64, Vec<Queue<u32>>) {
    if a.0 == 7 || b.0 == 7 {
        loop {
            std::thread::park();
        }
    }
    (a.0 + b.0, a.1.into_iter().chain(b.1).collect())
}

#[test]
fn deadline_of_a_merge_holds_and_handles_arrive_under_one() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(2).chunk_size(4).build().unwrap();
    let tickets = Queue::new().unwrap();
    let items = |from| {
        (from..from + 6)
            .map(|n| (n, tickets.clone()))
            .collect::<Vec<_>>()
    };
    let error = pool
        .map_reduce(with_tickets, add_in_time, items(2))
        .unwrap_err();
    let failure = error.task().unwrap();
    assert!(
        failure.is_timeout() && failure.task().ends_with("add_in_time"),
        "{error}"
    );
    let patient = pool.with_timeout(Duration::from_secs(1000));
    let (sum, queues) = patient
        .map_reduce(with_tickets, add_or_die, items(8))
        .unwrap()
        .unwrap();
    assert_eq!((sum, queues.len()), ((8..14).sum(), 1));
    drop(queues);
    assert_eq!(mp::__private::audit_of_pool(&pool).1, 0);
}

#[mp::task]
fn die_at_7(a: u64, b: u64) -> u64 {
    if a == 7 || b == 7 {
        std::process::abort();
    }
    a.max(b)
}

#[test]
fn worker_that_dies_while_it_merges_costs_no_result() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(1).chunk_size(3).build().unwrap();
    let roots = [1, 2, 3, 4, 5, 6, 9, 9, 9].map(|x| x as u64);
    assert_eq!(pool.map_reduce(square, die_at_7, roots).unwrap(), Some(81));
    let error = pool.map_reduce(sqrt, die_at_7, [36, 49, 64]).unwrap_err();
    let failure = error.task().unwrap();
    assert!(
        failure.is_crash() && failure.task().ends_with("die_at_7"),
        "{error}"
    );
}

#[mp::task]
fn sqrt(x: u64) -> u64 {
    x.isqrt()
}

#[mp::task]
fn power(base: u64, exponent: u32) -> u64 {
    base.wrapping_pow(exponent)
}

#[test]
fn starred_streams_are_lazy_too() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2).unwrap();
    let powers = pool.istarmap(power, (0..).map(|n| (3, n))).unwrap();
    for (n, value) in (0..).zip(powers.take(100)) {
        assert_eq!(value.unwrap(), 3_u64.wrapping_pow(n));
    }
    let powers = pool.istarmap_unordered(power, (0..50).map(|n| (n, 2)));
    let sum: u64 = powers.unwrap().map(Result::unwrap).sum();
    assert_eq!(sum, (0..50).map(|n| n * n).sum());
}

#[mp::task]
fn begin((n, begun, gate): (u32, Queue<u32>, Queue<()>)) -> u32 {
    begun.put(n).unwrap();
    if n == 10 {
        gate.get().unwrap();
    }
    n
}

#[test]
fn items_of_a_stream_that_is_dropped_are_not_begun_any_more() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(1).chunk_size(10).build().unwrap();
    let (begun, gate) = (Queue::new().unwrap(), Queue::new().unwrap());
    let items = (0..).map(|n| (n, begun.clone(), gate.clone()));
    let mut stream = pool.imap(begin, items).unwrap();
    assert_eq!(stream.next().unwrap().unwrap(), 0);
    while begun.get().unwrap() != 10 {}
    // The worker is at the first item of a job of ten, and others are ready.
    drop(stream);
    gate.put(()).unwrap();
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
    assert!(begun.try_get().is_err());
}

#[mp::task]
fn sum_in_own_pool(n: u64) -> (u64, u32) {
    let pool = mp::pool().unwrap();
    let squares = pool.map(square, 0..n).unwrap();
    (squares.into_iter().sum(), std::process::id())
}

#[test]
fn process_has_one_pool_and_so_has_each_of_its_workers() {
    let _watchdog = watchdog(120);
    let pool = mp::pool().unwrap();
    assert!(std::ptr::eq(pool, mp::pool().unwrap()));
    assert_eq!(pool.workers(), mp::cpu_count());
    let sums = pool.map(sum_in_own_pool, [3, 4, 5]).unwrap();
    assert_eq!(sums.iter().map(|it| it.0).collect::<Vec<_>>(), [5, 14, 30]);
    assert!(sums.iter().all(|it| it.1 != std::process::id()));
}

/// Jobs that a pool can have out at once, and that one call has in a pool of [`WORKERS`].
const JOBS: usize = 4096;
const WORKERS: usize = 16;
const WINDOW: usize = 2 * WORKERS + 1;

#[test]
fn calls_that_together_want_more_jobs_than_there_can_be_come_to_an_end() {
    const CALLERS: usize = JOBS / (WINDOW - 1);
    let _watchdog = watchdog(120);
    let mut builder = Pool::builder();
    // Single items could share jobs.
    let pool = builder.workers(WORKERS).chunk_size(2).build().unwrap();
    // All put out a job, and then all the next one, until there is none left for anybody.
    let together = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let items = (0..2 * WINDOW as u64).inspect(|_| {
                    together.wait();
                });
                assert_eq!(pool.map(square, items).unwrap()[5], 25);
            });
        }
    });
    assert_eq!(pool.stats().done, (CALLERS * 2 * WINDOW) as u64);
    let (audit, jobs) = mp::__private::audit_of_pool(&pool);
    assert!(audit.faults.is_empty(), "{audit:?}");
    assert_eq!((audit.process_units, jobs), (0, 0));
}

// Input that misleads.

/// Says that it has more than there can be.
struct Boastful(u64);

impl Iterator for Boastful {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 += 1;
        (self.0 < 5).then_some(self.0)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, Some(usize::MAX))
    }
}

#[test]
fn input_that_promises_too_much_is_pulled_as_it_is() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2).unwrap();
    let squares = [1, 4, 9, 16];
    assert_eq!(pool.map(square, Boastful(0)).unwrap(), squares);
    let stream = pool.imap(square, Boastful(0)).unwrap();
    assert!(stream.map(Result::unwrap).eq(squares));
}

// The user's own fork.

#[test]
fn calls_of_a_copy_made_by_fork_are_refused() {
    alone("calls_of_a_copy_made_by_fork_are_refused", || {
        let _watchdog = watchdog(120);
        let pool = Pool::new(2).unwrap();
        let mut stream = pool.imap(square, 0..10).unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), 0);
        let job = pool.submit(square, (3,)).unwrap();
        // SAFETY: the copy only does what is under test, and leaves.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let is_forked = |error: mp::Error| error.is_forked();
            let checks = [
                pool.map(square, 0..3).is_err_and(is_forked),
                pool.imap(square, 0..3).is_err_and(is_forked),
                pool.imap_unordered(square, 0..3).is_err_and(is_forked),
                pool.submit(square, (1,)).is_err_and(is_forked),
                pool.broadcast(square, (1,)).is_err_and(is_forked),
                pool.map_reduce(square, power_of, 0..3)
                    .is_err_and(is_forked),
                pool.with_timeout(Duration::from_secs(1))
                    .map(square, 0..3)
                    .is_err_and(is_forked),
                pool.resize(3).is_err_and(is_forked),
                pool.join().is_err_and(is_forked),
                Pool::new(1).is_err_and(is_forked),
                pool.workers() == 0 && pool.stats().workers.is_empty(),
                !format!("{pool:?} {stream:?} {job:?}").is_empty(),
                // What had arrived is a copy's as well.
                stream.by_ref().count() < 10,
                job.wait().is_err_and(is_forked),
            ];
            pool.close();
            pool.terminate();
            drop(stream);
            drop(pool);
            let failed = checks.iter().position(|fine| !fine);
            // SAFETY: takes an integer and does not return.
            unsafe { libc::_exit(failed.map_or(0, |check| check as i32 + 1)) };
        }
        let mut status = 0;
        // SAFETY: `status` is valid to write.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "{status:#x}");
        assert_eq!(stream.count(), 9);
        assert_eq!(job.wait().unwrap(), 9);
    });
}

#[mp::task]
fn power_of(a: u64, b: u64) -> u64 {
    a * b
}
