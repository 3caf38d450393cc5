//! Items that go one by one and share jobs where they are small: nobody can tell but by the time it
//! takes.

#[path = "support/singles.rs"]
mod singles;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use mp::{Pool, Queue};
use singles::{Common, MANY, SLOW, builder, wait_if_slow};
use support::watchdog;

#[test]
fn no_item_waits_for_another_that_takes_its_time() {
    let _watchdog = watchdog(120);
    let common = Common::new();
    let pool = builder(&common).build().unwrap();
    let results = pool.map(wait_if_slow, 0..MANY).unwrap();
    assert!(results.into_iter().eq(1..=MANY));

    common.runs.store(0);
    common.others.clear();
    let job = pool.map_async(wait_if_slow, 0..MANY).unwrap();
    assert!(job.wait().unwrap().into_iter().eq(1..=MANY));
    // Those that were taken away from one worker are none the fewer or more.
    assert_eq!(common.runs.load(), MANY);
    assert_eq!(pool.stats().done, 2 * MANY);
}

#[mp::task]
fn answer(n: u64) -> u64 {
    let common = mp::worker_state::<Common>();
    common.runs.fetch_add(1);
    n
}

#[test]
fn input_may_wait_for_what_was_handed_over() {
    let _watchdog = watchdog(120);
    let common = Common::new();
    let pool = builder(&common).build().unwrap();
    let input = (0..MANY).inspect(|&n| {
        while n > MANY - 200 && common.runs.load() < n {
            std::thread::yield_now();
        }
    });
    assert!(pool.map(answer, input).unwrap().into_iter().eq(0..MANY));
}

/// Every thousandth waits until the next one is begun.
#[mp::task]
fn meet_the_next(n: u64) -> u64 {
    let common = mp::worker_state::<Common>();
    common.runs.fetch_add(1);
    while n % 1000 == 77 && common.runs.load() < n + 2 {
        std::thread::yield_now();
    }
    n
}

#[test]
fn input_may_wait_for_items_that_wait_for_one_another() {
    let _watchdog = watchdog(120);
    let common = Common::new();
    let pool = builder(&common).build().unwrap();
    let (audit, jobs) = mp::__private::audit_of_pool(&pool);
    // What the initializer is called with.
    let before = (audit.process_units, jobs);
    let input = (0..MANY).inspect(|&n| {
        while n % 1000 == 79 && common.runs.load() < n {
            std::thread::yield_now();
        }
    });
    let results = pool.map(meet_the_next, input).unwrap();
    assert!(results.into_iter().eq(0..MANY));
    assert_eq!(common.runs.load(), MANY);
    let (audit, jobs) = mp::__private::audit_of_pool(&pool);
    assert!(audit.faults.is_empty(), "{audit:?}");
    assert_eq!((audit.process_units, jobs), before);
}

#[test]
fn what_was_handed_over_before_the_input_panicked_runs() {
    let _watchdog = watchdog(120);
    let common = Common::new();
    let pool = builder(&common).build().unwrap();
    let input = (0..MANY).inspect(|&n| assert!(n < SLOW, "no more"));
    assert!(catch_unwind(AssertUnwindSafe(|| pool.map(answer, input))).is_err());
    assert!(common.runs.load() <= SLOW);
    assert!(pool.map(answer, 0..MANY).unwrap().into_iter().eq(0..MANY));
}

#[mp::task]
fn count_and_pass((n, queue): (u64, Option<Queue<u64>>)) -> (u64, Option<Queue<u64>>) {
    if let Some(queue) = &queue {
        queue.put(n).unwrap();
    }
    (n, queue)
}

#[test]
fn items_with_handles_go_between_others() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(2).chunk_size(1).build().unwrap();
    let queue = Queue::new().unwrap();
    let items = (0..MANY).map(|n| (n, (n % 1000 == 7).then(|| queue.clone())));
    let results = pool.map(count_and_pass, items).unwrap();
    for (n, result) in (0..MANY).zip(results) {
        assert_eq!((result.0, result.1.is_some()), (n, n % 1000 == 7));
    }
    assert_eq!(queue.len() as u64, MANY / 1000);
}

#[mp::task]
fn fail_at_times(n: u64) -> u64 {
    assert!(n % 1000 != 3, "as told");
    if n == SLOW {
        support::send_signal(std::process::id(), libc::SIGKILL);
    }
    n
}

#[test]
fn item_that_fails_fails_alone() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(2).chunk_size(1).build().unwrap();
    for (n, outcome) in (0..MANY).zip(pool.try_map(fail_at_times, 0..MANY).unwrap()) {
        match outcome {
            Ok(value) => assert!(value == n && n % 1000 != 3 && n != SLOW),
            Err(error) if n == SLOW => assert_eq!(error.signal(), Some(libc::SIGKILL)),
            Err(error) => assert!(n % 1000 == 3 && error.is_panic(), "{n}: {error}"),
        }
    }
}
