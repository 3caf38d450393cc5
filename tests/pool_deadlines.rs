//! Items that take too long, and what a task knows of its time.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mp::{Pool, PoolBuilder, Queue};
use support::{eventually, watchdog};

/// Long for an item that does next to nothing, however busy the machine is.
const LONG: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_millis(30);

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

#[mp::task]
fn hang_at_7((n, runs): (u32, Queue<u32>)) -> u32 {
    runs.put(n).unwrap();
    if n == 7 {
        hang();
    }
    n * 2
}

#[test]
fn item_that_takes_too_long_fails_alone_also_in_the_middle_of_a_job() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(2)
        .chunk_size(5)
        .task_timeout(LONG)
        .build()
        .unwrap();
    let runs = Queue::new().unwrap();
    let items = (0..30).map(|n| (n, runs.clone()));
    let outcomes = pool.try_map(hang_at_7, items).unwrap();
    for (n, outcome) in (0..).zip(&outcomes) {
        match outcome {
            Ok(value) => assert_eq!(*value, n * 2),
            Err(error) => {
                assert_eq!(n, 7, "{error}");
                assert!(error.is_timeout() && !error.is_crash(), "{error}");
                assert_eq!(error.index(), Some(7));
                assert_eq!(error.attempts(), 1);
                assert!(error.may_have_started() && error.pid().is_some());
                let text = error.to_string();
                assert!(text.contains("ran out of time (3s)"), "{text}");
            }
        }
    }
    assert!(outcomes[7].is_err());
    let mut ran: Vec<u32> = std::iter::from_fn(|| runs.try_get().ok()).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..30).collect::<Vec<_>>());
}

#[mp::task]
fn pid_or_hang(is_to_hang: bool) -> u32 {
    if is_to_hang {
        hang();
    }
    std::process::id()
}

#[test]
fn worker_that_was_out_of_time_is_replaced() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1).unwrap();
    let before = pool.apply(pid_or_hang, (false,)).unwrap();
    let error = pool.with_timeout(SHORT).apply(pid_or_hang, (true,));
    let error = error.unwrap_err();
    let failure = error.task().unwrap();
    assert!(failure.is_timeout(), "{error}");
    assert_eq!(failure.pid(), Some(before));
    assert_ne!(pool.apply(pid_or_hang, (false,)).unwrap(), before);
}

#[test]
fn deadline_holds_for_every_way_to_call() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(2)
        .task_timeout(SHORT)
        .build()
        .unwrap();
    let job = pool.submit(pid_or_hang, (true,)).unwrap();
    assert!(job.wait().unwrap_err().task().unwrap().is_timeout());
    let job = pool.map_async(pid_or_hang, [true]).unwrap();
    assert!(job.wait().unwrap_err().task().unwrap().is_timeout());
    let outcomes: Vec<_> = pool.imap(pid_or_hang, [true, true]).unwrap().collect();
    assert!(
        outcomes
            .into_iter()
            .all(|outcome| outcome.unwrap_err().is_timeout())
    );
    let error = pool.map(pid_or_hang, [true]).unwrap_err();
    assert!(error.task().unwrap().is_timeout());
}

fn left() -> Option<Duration> {
    Some(mp::deadline()?.saturating_duration_since(Instant::now()))
}

#[mp::task]
fn time_left() -> Option<Duration> {
    left()
}

#[mp::task(timeout = "1000s")]
fn time_left_of_1000() -> Option<Duration> {
    left()
}

/// About as much, and not more.
#[track_caller]
fn assert_is(left: Option<Duration>, limit: u64) {
    let limit = Duration::from_secs(limit);
    let left = left.expect("there is a limit");
    assert!(left <= limit && left > limit / 2, "{left:?} of {limit:?}");
}

#[test]
fn call_goes_before_task_and_task_before_pool() {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1).unwrap();
    assert_eq!(mp::deadline(), None);
    assert!(!mp::is_cancelled());
    assert_eq!(pool.apply(time_left, ()).unwrap(), None);
    assert_is(pool.apply(time_left_of_1000, ()).unwrap(), 1000);
    let tuned = pool.with_timeout(Duration::from_secs(100));
    assert_is(tuned.apply(time_left, ()).unwrap(), 100);
    assert_is(tuned.apply(time_left_of_1000, ()).unwrap(), 100);
    let job = tuned.submit(time_left, ()).unwrap();
    assert_is(job.wait().unwrap(), 100);
    drop(tuned);
    let pool = Pool::builder()
        .workers(1)
        .task_timeout(Duration::from_secs(400))
        .build()
        .unwrap();
    assert_is(pool.apply(time_left, ()).unwrap(), 400);
    assert_is(pool.apply(time_left_of_1000, ()).unwrap(), 1000);
    // The view was dropped, not the pool.
    assert_is(
        pool.with_timeout(LONG * 100).apply(time_left, ()).unwrap(),
        300,
    );
    assert_is(pool.apply(time_left, ()).unwrap(), 400);
}

#[mp::task]
fn work_until_cancelled(events: Queue<String>) -> u32 {
    events.put("begun".to_owned()).unwrap();
    while !mp::is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
    events.put("stopped".to_owned()).unwrap();
    7
}

#[test]
fn task_that_stops_within_its_grace_has_a_result_after_its_deadline() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .task_timeout(SHORT)
        .grace(Duration::from_secs(1000))
        .build()
        .unwrap();
    let events = Queue::new().unwrap();
    assert_eq!(pool.apply(work_until_cancelled, (events,)).unwrap(), 7);
    // It was not killed.
    assert!(pool.map(pid_or_hang, [false]).is_ok());
}

#[test]
fn cancelled_task_has_the_grace_to_stop() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .grace(Duration::from_secs(1000))
        .build()
        .unwrap();
    let events = Queue::new().unwrap();
    let job = pool
        .submit(work_until_cancelled, (events.clone(),))
        .unwrap();
    assert_eq!(events.get().unwrap(), "begun");
    job.cancel();
    assert!(job.wait().unwrap_err().task().unwrap().is_cancelled());
    assert_eq!(events.get().unwrap(), "stopped");
    // Another worker has its place.
    assert!(pool.apply(pid_or_hang, (false,)).is_ok());
}

// Isolated workers, which share nothing that would tell them.

fn isolated() -> PoolBuilder {
    let mut builder = Pool::builder();
    builder.workers(1).isolated(true).grace(LONG * 1000);
    builder
}

/// Says in a directory what it is at.
#[mp::task]
fn note_until_cancelled(directory: PathBuf) -> u32 {
    std::fs::write(directory.join("begun"), "").unwrap();
    while !mp::is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::fs::write(directory.join("stopped"), "").unwrap();
    std::process::id()
}

#[mp::task]
fn is_cancelled() -> bool {
    mp::is_cancelled()
}

#[mp::task]
fn time_left_of_any(_: u32) -> Option<Duration> {
    left()
}

#[test]
fn isolated_task_knows_its_deadline() {
    let _watchdog = watchdog(120);
    let pool = isolated().build().unwrap();
    assert_eq!(pool.apply(time_left, ()).unwrap(), None);
    assert_is(pool.apply(time_left_of_1000, ()).unwrap(), 1000);
    let tuned = pool.with_timeout(Duration::from_secs(100));
    for left in tuned.map(time_left_of_any, 0..5).unwrap() {
        assert_is(left, 100);
    }
    assert_eq!(pool.apply(time_left, ()).unwrap(), None);
    assert!(!pool.apply(is_cancelled, ()).unwrap());
}

#[test]
fn isolated_task_stops_by_itself_at_its_deadline() {
    let _watchdog = watchdog(120);
    let pool = isolated().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let hasty = pool.with_timeout(SHORT);
    let pid = hasty.apply(note_until_cancelled, (path,)).unwrap();
    // It was not killed.
    assert_eq!(pool.map(pid_or_hang, [false]).unwrap(), [pid]);
}

#[test]
fn isolated_task_learns_that_it_was_cancelled() {
    let _watchdog = watchdog(120);
    let pool = isolated().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let job = pool.submit(note_until_cancelled, (path.clone(),)).unwrap();
    eventually(|| path.join("begun").exists());
    job.cancel();
    assert!(job.wait().unwrap_err().task().unwrap().is_cancelled());
    eventually(|| path.join("stopped").exists());
    // Another worker has its place.
    assert!(pool.apply(pid_or_hang, (false,)).is_ok());
}

#[test]
fn isolated_task_stops_for_a_pool_that_is_drained_and_its_result_counts() {
    let _watchdog = watchdog(120);
    let pool = isolated().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let job = pool.submit(note_until_cancelled, (path.clone(),)).unwrap();
    eventually(|| path.join("begun").exists());
    assert!(pool.drain(LONG * 1000));
    assert!(job.wait().is_ok());
    assert_eq!(pool.stats().workers_retired, 1);
}

#[test]
fn task_that_ignores_its_grace_is_killed() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .task_timeout(SHORT)
        .grace(SHORT)
        .build()
        .unwrap();
    let error = pool.apply(pid_or_hang, (true,)).unwrap_err();
    assert!(error.task().unwrap().is_timeout(), "{error}");
    let job = pool.with_timeout(LONG * 1000).submit(pid_or_hang, (true,));
    let job = job.unwrap();
    job.cancel();
    assert!(job.wait().unwrap_err().task().unwrap().is_cancelled());
    let patient = pool.with_timeout(LONG * 1000);
    assert!(patient.apply(pid_or_hang, (false,)).is_ok());
}

/// Drops a stream once a worker is at an item that never ends.
fn leave_hanging(pool: &Pool, runs: &Queue<u32>) {
    let pool = pool.with_timeout(LONG);
    let items = [1, 7].map(|n| (n, runs.clone()));
    let mut results = pool.imap(hang_at_7, items).unwrap();
    assert_eq!(results.next().unwrap().unwrap(), 2);
    // Two workers may be at them.
    let mut begun = [1, 2].map(|_| runs.get().unwrap());
    begun.sort_unstable();
    assert_eq!(begun, [1, 7]);
}

#[mp::task]
fn leave_hanging_inside(runs: Queue<u32>) {
    leave_hanging(mp::pool().unwrap(), &runs);
}

#[test]
fn deadline_of_an_item_holds_though_its_caller_has_gone() {
    let _watchdog = watchdog(120);
    let runs = Queue::new().unwrap();
    // Another runs the items inside: a task that waits in the queue does not count as one that waits.
    let pool = Pool::builder().workers(2).chunk_size(1).build().unwrap();
    leave_hanging(&pool, &runs);
    // Nothing of this call has a deadline.
    pool.apply(leave_hanging_inside, (runs,)).unwrap();
    pool.close();
    pool.join().unwrap();
}

#[test]
fn pool_with_deadlines_ends_while_tasks_hang() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(2)
        .task_timeout(LONG * 1000)
        .build()
        .unwrap();
    let jobs: Vec<_> = (0..4)
        .map(|_| pool.submit(pid_or_hang, (true,)).unwrap())
        .collect();
    pool.terminate();
    for job in jobs {
        assert!(job.wait().unwrap_err().task().unwrap().is_cancelled());
    }
}

#[test]
#[should_panic(expected = "no task ends in no time")]
fn deadline_of_no_time_is_refused() {
    let _ = Pool::builder().task_timeout(Duration::ZERO);
}
