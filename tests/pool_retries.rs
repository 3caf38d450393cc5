//! Items that are run again when they fail, and those that are not.

mod support;

use std::time::{Duration, Instant};

use mp::{Pool, Queue, Retries, TaskError, Value};
use support::watchdog;

/// What an item does in its first attempts, and how many of them.
type Item = (u32, String, u32, Value<u32>);

/// Fails as often as it is told to; each item counts its attempts.
#[mp::task]
fn fail((n, how, times, attempts): Item) -> u32 {
    if attempts.fetch_add(1) < times {
        match how.as_str() {
            "abort" => std::process::abort(),
            "exit" => std::process::exit(0),
            "panic" => panic!("as told"),
            _ => loop {
                std::thread::park();
            },
        }
    }
    n * 2
}

fn item(n: u32, how: &str, times: u32) -> Item {
    (n, how.to_owned(), times, Value::new(0).unwrap())
}

fn attempts(item: &Item) -> u32 {
    item.3.load()
}

fn pool(retries: impl Into<Retries>) -> Pool {
    Pool::builder()
        .workers(2)
        .chunk_size(6)
        .retries(retries)
        .build()
        .unwrap()
}

fn failure<T: std::fmt::Debug>(result: mp::Result<T>) -> TaskError {
    let error = result.unwrap_err();
    error.task().unwrap_or_else(|| panic!("{error}")).clone()
}

#[test]
fn item_that_fails_is_run_again_and_no_other_is() {
    let _watchdog = watchdog(120);
    let items: Vec<_> = (0..40)
        .map(|n| match n % 8 {
            3 => item(n, "abort", 1),
            4 => item(n, "exit", 2),
            _ => item(n, "", 0),
        })
        .collect();
    let results = pool(2).map(fail, items.clone()).unwrap();
    assert_eq!(results, (0..40).map(|n| n * 2).collect::<Vec<_>>());
    for item in &items {
        assert_eq!(attempts(item), item.2 + 1, "item {}", item.0);
    }
}

#[test]
fn item_that_fails_again_and_again_is_given_up() {
    let _watchdog = watchdog(120);
    let items: Vec<_> = (0..12)
        .map(|n| item(n, "abort", if n == 5 { 99 } else { 0 }))
        .collect();
    let outcomes = pool(2).try_map(fail, items.clone()).unwrap();
    for (n, outcome) in (0..).zip(&outcomes) {
        assert_eq!(outcome.is_err(), n == 5);
    }
    let error = outcomes[5].as_ref().unwrap_err();
    assert!(error.is_crash());
    assert_eq!((error.attempts(), error.index()), (3, Some(5)));
    assert!(
        error.to_string().contains("given up after 3 attempts"),
        "{error}"
    );
    assert_eq!(attempts(&items[5]), 3);
}

#[test]
fn nothing_is_run_again_unless_asked_for() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1).unwrap();
    let once = item(1, "abort", 1);
    let error = failure(pool.map(fail, [once.clone()]));
    assert_eq!((error.attempts(), attempts(&once)), (1, 1));
    assert!(!error.to_string().contains("attempts"), "{error}");
}

#[test]
fn panic_is_no_reason_unless_it_is_made_one() {
    let _watchdog = watchdog(120);
    let pool = pool(5);
    let once = item(1, "panic", 1);
    assert!(failure(pool.map(fail, [once.clone()])).is_panic());
    assert_eq!(attempts(&once), 1);
    let items: Vec<_> = (0..12).map(|n| item(n, "panic", n % 3)).collect();
    let patient = pool.with_retries(Retries::new(5).panics(true));
    let results = patient.map(fail, items.clone()).unwrap();
    assert_eq!(results, (0..12).map(|n| n * 2).collect::<Vec<_>>());
    assert!(items.iter().all(|item| attempts(item) == item.2 + 1));
}

#[test]
fn reason_that_is_excluded_is_none() {
    let _watchdog = watchdog(120);
    let pool = pool(Retries::new(5).crashes(false).timeouts(false));
    let once = item(1, "abort", 1);
    assert!(failure(pool.map(fail, [once.clone()])).is_crash());
    let hangs = item(1, "hang", 1);
    let hasty = pool.with_timeout(Duration::from_millis(20));
    assert!(failure(hasty.map(fail, [hangs.clone()])).is_timeout());
    assert_eq!((attempts(&once), attempts(&hangs)), (1, 1));
}

#[test]
fn item_that_took_too_long_is_run_again_with_time_of_its_own() {
    let _watchdog = watchdog(120);
    let pool = pool(3);
    let hangs = item(4, "hang", 2);
    let hasty = pool.with_timeout(Duration::from_secs(2));
    assert_eq!(hasty.apply(fail, (hangs.clone(),)).unwrap(), 8);
    assert_eq!(attempts(&hangs), 3);
}

#[test]
fn predicate_decides_alone() {
    let _watchdog = watchdog(120);
    let odd = |error: &TaskError| error.index().is_some_and(|index| index % 2 == 1);
    let pool = pool(Retries::new(1).when(odd));
    let items: Vec<_> = (0..6).map(|n| item(n, "panic", 1)).collect();
    let outcomes = pool.try_map(fail, items).unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_ok(), n % 2 == 1);
    }
    let rude = pool.with_retries(Retries::new(1).when(|_| panic!("no idea")));
    assert!(failure(rude.map(fail, [item(1, "abort", 1)])).is_crash());
}

#[mp::task(retries = 2)]
fn fail_by_attribute(attempts: Value<u32>, times: u32) -> u32 {
    if attempts.fetch_add(1) < times {
        std::process::abort();
    }
    7
}

#[test]
fn call_goes_before_task_and_task_before_pool() {
    let _watchdog = watchdog(120);
    let pool = pool(9);
    let value = || Value::new(0).unwrap();
    assert_eq!(pool.apply(fail_by_attribute, (value(), 2)).unwrap(), 7);
    assert_eq!(
        failure(pool.apply(fail_by_attribute, (value(), 9))).attempts(),
        3
    );
    let once = pool.with_retries(Retries::NONE);
    assert_eq!(
        failure(once.apply(fail_by_attribute, (value(), 1))).attempts(),
        1
    );
    let more = pool.with_retries(4);
    assert_eq!(more.apply(fail_by_attribute, (value(), 4)).unwrap(), 7);
    let both = pool.with_timeout(Duration::from_secs(600)).with_retries(4);
    assert_eq!(
        both.submit(fail_by_attribute, (value(), 4))
            .unwrap()
            .wait()
            .unwrap(),
        7
    );
}

#[mp::task(retries = 0)]
fn fail_once(attempts: Value<u32>) {
    attempts.fetch_add(1);
    std::process::abort();
}

#[test]
fn task_that_is_to_run_once_does_whatever_the_pool_says() {
    let _watchdog = watchdog(120);
    let pool = pool(9);
    let attempts = Value::new(0).unwrap();
    let error = failure(pool.apply(fail_once, (attempts.clone(),)));
    assert_eq!((error.attempts(), attempts.load()), (1, 1));
    let error = failure(pool.with_retries(1).apply(fail_once, (attempts.clone(),)));
    assert_eq!((error.attempts(), attempts.load()), (2, 3));
}

#[test]
fn attempts_keep_their_distance() {
    let _watchdog = watchdog(120);
    let pool = pool(Retries::new(3).backoff(Duration::from_millis(20)));
    let begun = Instant::now();
    assert_eq!(pool.apply(fail, (item(3, "abort", 2),)).unwrap(), 6);
    assert!(begun.elapsed() >= Duration::from_millis(20 + 40));
    // Also of calls that nobody waits for.
    let begun = Instant::now();
    let jobs: Vec<_> = (0..3)
        .map(|n| pool.submit(fail, (item(n, "abort", 2),)).unwrap())
        .collect();
    for (n, result) in (0..).zip(mp::wait_all(jobs)) {
        assert_eq!(result.unwrap(), n * 2);
    }
    assert!(begun.elapsed() >= Duration::from_millis(20 + 40));
    let short = Retries::new(3)
        .backoff(Duration::from_secs(1000))
        .max_backoff(Duration::from_millis(1));
    assert_eq!(
        pool.with_retries(short)
            .apply(fail, (item(3, "abort", 2),))
            .unwrap(),
        6
    );
}

#[test]
fn item_that_waits_for_its_next_attempt_holds_up_no_other() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(2).chunk_size(2).build().unwrap();
    let patient = pool.with_retries(Retries::new(1).backoff(Duration::from_secs(1000)));
    let items = (0..200).map(|n| item(n, "abort", u32::from(n == 4)));
    let others = patient.imap_unordered(fail, items).unwrap().take(199);
    let mut results: Vec<_> = others.map(Result::unwrap).collect();
    results.sort_unstable();
    let expected = (0..200).filter(|&n| n != 4).map(|n| n * 2);
    assert_eq!(results, expected.collect::<Vec<_>>());
}

#[test]
fn pool_that_ends_ends_the_wait_for_the_next_attempt() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .chunk_size(3)
        .retries(Retries::new(1).backoff(Duration::from_secs(1000)))
        .build()
        .unwrap();
    let items: Vec<_> = (0..3)
        .map(|n| item(n, "abort", u32::from(n == 1)))
        .collect();
    let (first, last) = (items[1].clone(), items[2].clone());
    let job = pool.map_async(fail, items).unwrap();
    support::eventually(|| attempts(&first) == 1 && attempts(&last) == 1);
    pool.terminate();
    let error = failure(job.wait());
    assert!(error.is_cancelled() && error.may_have_started(), "{error}");
    assert_eq!(attempts(&first), 1);
}

#[mp::task]
fn send_or_die(queue: Queue<Queue<u32>>, attempts: Value<u32>, carried: Queue<u32>) -> Queue<u32> {
    queue.put(carried.clone()).unwrap();
    if attempts.fetch_add(1) < 2 {
        std::process::abort();
    }
    carried
}

#[test]
fn handles_among_the_arguments_are_there_in_each_attempt() {
    let _watchdog = watchdog(120);
    let pool = pool(2);
    let queue = Queue::new().unwrap();
    let carried = Queue::new().unwrap();
    carried.put(5).unwrap();
    let attempts = Value::new(0).unwrap();
    let back = pool.apply(send_or_die, (queue.clone(), attempts, carried));
    assert_eq!(back.unwrap().get().unwrap(), 5);
    assert_eq!(queue.len(), 3);
}
