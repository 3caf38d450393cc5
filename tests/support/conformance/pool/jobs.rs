//! A `Future` of `concurrent.futures` is a `Job` here.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use mp::{Job, Pool};

use super::super::{A_MOMENT, Sure};
use super::{half, power, quietly, square, world};
use crate::backend::{self, Queue, World, eventually, mp};
use crate::support::watchdog;

/// Says that it runs, waits to be let go, and returns half of `x`, which it may have none of.
#[mp::task]
fn wait_for(x: u64, started: Queue<u64>, go: Queue<()>) -> u64 {
    started.put(x).unwrap();
    let _ = go.get();
    half(x)
}

/// Jobs that run until they are let go, one for each number, and more of them.
struct Gated {
    pool: Pool,
    started: Queue<u64>,
    go: Queue<()>,
}

impl Gated {
    fn new(world: &World, workers: usize) -> Self {
        Self {
            pool: world.pool_with(workers, quietly),
            started: world.queue(),
            go: world.queue(),
        }
    }

    /// A job that no worker need have begun.
    fn submit(&self, x: u64) -> Job<u64> {
        let arguments = (x, self.started.clone(), self.go.clone());
        self.pool.submit(wait_for, arguments).unwrap()
    }

    /// A job that runs. There must be an idle worker.
    fn running(&self, x: u64) -> Job<u64> {
        let job = self.submit(x);
        assert_eq!(self.started.get().unwrap(), x);
        job
    }

    fn finished(&self, x: u64) -> Job<u64> {
        let job = self.pool.submit(half, (x,)).unwrap();
        eventually(|| job.is_done());
        job
    }

    /// A job that was cancelled. A worker may be busy with it for a moment.
    fn cancelled(&self) -> Job<u64> {
        let job = self.submit(2);
        job.cancel();
        eventually(|| job.is_done());
        job
    }
}

#[track_caller]
fn assert_cancelled<R: std::fmt::Debug>(result: Result<R, mp::Error>, may_have_started: bool) {
    let error = result.unwrap_err();
    let failure = error.task().unwrap();
    assert!(failure.is_cancelled(), "{error}");
    // Of what has left this machine nobody here knows better.
    if may_have_started || !backend::IS_ELSEWHERE {
        assert_eq!(failure.may_have_started(), may_have_started, "{error}");
    }
}

// Of the pool.

#[test]
fn pool_test_starmap_async() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(4);
    let pairs = || (0..100).zip((0..4).cycle());
    let powers = pool.starmap_async(power, pairs()).unwrap().wait().unwrap();
    assert_eq!(powers, pool.starmap(power, pairs()).unwrap());
    assert!(powers.into_iter().eq(pairs().map(|(x, n)| x.pow(n))));
}

#[test]
fn pool_test_map_async() {
    let _watchdog = watchdog(180);
    let world = world!();
    for chunk in [1, 20] {
        let pool = world.pool_with(4, |builder| {
            builder.chunk_size(chunk);
        });
        let squares = pool.map_async(square, 0..100).unwrap().wait().unwrap();
        assert!(squares.into_iter().eq((0..100).map(|x| x * x)));
    }
}

#[test]
fn pool_test_async() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    // It runs while we go on, and its result is there once it has ended, not before.
    let job = gated.running(14);
    assert!(!job.is_done());
    gated.go.put(()).unwrap();
    assert_eq!(job.wait().unwrap(), 7);
}

#[test]
fn pool_test_async_timeout() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let begun = Instant::now();
    let job = gated.running(14).wait_timeout(A_MOMENT).unwrap_err();
    assert!(begun.elapsed() >= A_MOMENT);
    // The job goes on, and can be asked again.
    gated.go.put(()).unwrap();
    assert_eq!(job.wait().unwrap(), 7);
}

#[test]
fn pool_test_async_error_callback() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 2);
    let error = gated.finished(3).wait().unwrap_err();
    assert_eq!(error.task().unwrap().message(), Some("3 is odd"));

    let (sender, errors) = mpsc::channel();
    let job = gated.running(5);
    job.on_done(move |result| sender.send(result.unwrap_err()).unwrap());
    gated.go.put(()).unwrap();
    let error = errors.recv().unwrap();
    let failure = error.task().unwrap();
    assert!(failure.is_panic());
    assert_eq!(failure.message(), Some("5 is odd"));
    // Of several it is the first.
    let error = gated.pool.map_async(half, [2, 7, 9]).unwrap().wait();
    assert_eq!(error.unwrap_err().task().unwrap().index(), Some(1));
}

// Of the executor.

#[test]
fn pool_test_cancel_futures() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 5);
    let jobs: Vec<_> = (0..50).map(|x| gated.submit(2 * x)).collect();
    for _ in 0..10 {
        gated.go.put(()).unwrap();
    }
    eventually(|| jobs.iter().filter(|job| job.is_done()).count() == 10);
    eventually(|| gated.started.len().sure() == 15);
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| gated.pool.drain(Duration::from_secs(3600)));
        eventually(|| gated.pool.submit(half, (2,)).is_err());
        // Those that run can go on only now.
        gated.go.close().sure();
        assert!(drained.join().unwrap());
    });
    let mut cancelled = 0;
    for (x, job) in jobs.into_iter().enumerate() {
        match job.wait() {
            Ok(half) => assert_eq!(half, x as u64),
            Err(error) => {
                assert!(error.task().unwrap().is_cancelled(), "{error}");
                cancelled += 1;
            }
        }
    }
    // What an agent has fetched is run.
    let most_run = if backend::IS_ELSEWHERE { 29 } else { 15 };
    assert!((50 - most_run..=35).contains(&cancelled), "{cancelled}");
}

// Of a future.

/// The outcome that a callback of the job is given.
fn told<R: Send + 'static>(job: Job<R>) -> mpsc::Receiver<Result<R, mp::Error>> {
    let (sender, results) = mpsc::channel();
    job.on_done(move |result| sender.send(result).unwrap());
    results
}

#[test]
fn pool_test_done_callback_with_result() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let results = told(gated.running(10));
    assert!(results.try_recv().is_err());
    gated.go.put(()).unwrap();
    assert_eq!(results.recv().unwrap().unwrap(), 5);
    // Once.
    assert!(results.recv().is_err());
}

#[test]
fn pool_test_done_callback_with_exception() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let results = told(gated.running(1));
    gated.go.put(()).unwrap();
    let error = results.recv().unwrap().unwrap_err();
    assert_eq!(error.task().unwrap().message(), Some("1 is odd"));
}

/// A job has one callback. The panic of one is reported as any panic is, and the next one runs.
#[test]
fn pool_test_done_callback_raises() {
    let _watchdog = watchdog(180);
    let world = world!();
    let reports = reports_of_panics();
    let gated = Gated::new(&world, 1);
    let first = gated.running(2);
    let second = gated.submit(4);
    first.on_done(|_| panic!("a callback said no"));
    let results = told(second);
    gated.go.close().sure();
    assert_eq!(results.recv().unwrap().unwrap(), 2);
    assert_eq!(reports("a callback said no"), 1);
}

/// Counts the panics with a message, as the panic hook is told of them.
fn reports_of_panics() -> impl Fn(&str) -> usize {
    static INSTALLED: Once = Once::new();
    static REPORTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let message = panic.payload_as_str().unwrap_or("?").to_owned();
            REPORTS.lock().unwrap().push(message);
            before(panic);
        }));
    });
    |message| {
        let reports = REPORTS.lock().unwrap();
        reports.iter().filter(|report| *report == message).count()
    }
}

#[test]
fn pool_test_done_callback_already_successful() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let results = told(gated.finished(6));
    assert_eq!(results.recv().unwrap().unwrap(), 3);
}

#[test]
fn pool_test_done_callback_already_cancelled() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let _busy = gated.running(2);
    let results = told(gated.cancelled());
    assert_cancelled(results.recv().unwrap(), false);
}

#[test]
fn pool_test_done_callback_raises_already_succeeded() {
    let _watchdog = watchdog(180);
    let world = world!();
    let reports = reports_of_panics();
    let gated = Gated::new(&world, 1);
    // Here nothing of it is to be seen.
    gated
        .finished(6)
        .on_done(|_| panic!("a callback said no, late"));
    eventually(|| reports("a callback said no, late") == 1);
    assert_eq!(gated.finished(8).wait().unwrap(), 4);
}

/// Also a job that runs can be cancelled.
#[test]
fn pool_test_cancel() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let running = gated.running(2);
    let pending = gated.submit(4);
    // Twice is as good as once.
    pending.cancel();
    pending.cancel();
    eventually(|| pending.is_done());
    pending.cancel();
    assert_cancelled(pending.wait(), false);
    assert!(!running.is_done());
    running.cancel();
    assert_cancelled(running.wait(), true);
    // What has an outcome keeps it.
    let finished = gated.finished(6);
    finished.cancel();
    assert_eq!(finished.wait().unwrap(), 3);
    let failed = gated.finished(7);
    failed.cancel();
    assert!(failed.wait().unwrap_err().task().unwrap().is_panic());
}

/// Of a job that is done the outcome says so, of one that is not it is not known.
#[test]
fn pool_test_cancelled() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let is_cancelled = |job: Job<u64>| match job.try_get() {
        Ok(result) => result.is_err_and(|error| error.task().unwrap().is_cancelled()),
        Err(_not_done) => false,
    };
    assert!(!is_cancelled(gated.finished(2)));
    assert!(!is_cancelled(gated.finished(3)));
    let running = gated.running(2);
    assert!(!is_cancelled(gated.submit(2)));
    assert!(is_cancelled(gated.cancelled()));
    assert!(!is_cancelled(running));
}

#[test]
fn pool_test_result_with_timeout() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let finished = gated.finished(2);
    let failed = gated.finished(3);
    let running = gated.running(4);
    let pending = gated.submit(6);
    let cancelled = gated.cancelled();

    assert_eq!(finished.try_get().unwrap().unwrap(), 1);
    let error = failed.try_get().unwrap().unwrap_err();
    assert_eq!(error.task().unwrap().message(), Some("3 is odd"));
    assert_cancelled(cancelled.try_get().unwrap(), false);
    let running = running.try_get().unwrap_err();
    let pending = pending.try_get().unwrap_err();
    let zero = Duration::ZERO;
    let running = running.wait_timeout(zero).unwrap_err();
    let pending = pending.wait_timeout(zero).unwrap_err();
    gated.go.close().sure();
    assert_eq!(running.wait().unwrap(), 2);
    assert_eq!(pending.wait().unwrap(), 3);
}

/// Notes that it was called.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A thread in `wait` has the job, so that nobody else can cancel it: the end of its pool does. One that
/// awaits the job may cancel it itself.
#[test]
fn pool_test_result_with_cancel() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let mut job = gated.running(2);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    assert!(Pin::new(&mut job).poll(&mut context).is_pending());
    job.cancel();
    eventually(|| woken.0.load(Ordering::Relaxed));
    match Pin::new(&mut job).poll(&mut context) {
        Poll::Ready(result) => assert_cancelled(result, true),
        Poll::Pending => panic!("it was woken for nothing"),
    }

    let job = gated.running(4);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| job.wait());
        gated.pool.terminate();
        assert_cancelled(waiting.join().unwrap(), true);
    });
}

// Waiting for several.

#[test]
fn pool_test_first_completed() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 2);
    let slow = gated.running(2);
    let quick = gated.pool.submit(half, (8,)).unwrap();
    let mut done = mp::as_completed([slow, quick]);
    let (place, result) = done.next().unwrap();
    assert_eq!((place, result.unwrap()), (1, 4));
    assert_eq!(done.len(), 1);
}

#[test]
fn pool_test_first_completed_some_already_completed() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let finished = gated.finished(8);
    let running = gated.running(2);
    let cancelled = gated.cancelled();
    // Two are done already, in the order in which they were given.
    let mut done = mp::as_completed([running, cancelled, finished]);
    let (place, result) = done.next().unwrap();
    assert_eq!(place, 1);
    assert_cancelled(result, false);
    let (place, result) = done.next().unwrap();
    assert_eq!((place, result.unwrap()), (2, 4));
    assert_eq!(done.len(), 1);
}

/// The first failure is what `find` finds; those that are done are gone through before.
#[test]
fn pool_test_first_exception_some_already_complete() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 3);
    let finished = gated.finished(2);
    let failing = gated.running(3);
    let go = world.queue();
    let arguments = (4, gated.started.clone(), go.clone());
    let slow = gated.pool.submit(wait_for, arguments).unwrap();
    assert_eq!(gated.started.get().unwrap(), 4);
    let mut done = mp::as_completed([slow, failing, finished]);
    gated.go.put(()).unwrap();
    let (place, error) = done.find(|(_, result)| result.is_err()).unwrap();
    assert_eq!(place, 1);
    let error = error.unwrap_err();
    assert_eq!(error.task().unwrap().message(), Some("3 is odd"));
    assert_eq!(done.len(), 1);
    go.close().sure();
    assert_eq!(done.next().unwrap().1.unwrap(), 2);
}

#[test]
fn pool_test_first_exception_one_already_failed() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let failed = gated.finished(3);
    let running = gated.running(2);
    let mut done = mp::as_completed([running, failed]);
    let (place, error) = done.find(|(_, result)| result.is_err()).unwrap();
    assert_eq!(place, 1);
    assert!(error.unwrap_err().task().unwrap().is_panic());
    assert_eq!(done.len(), 1);
}

/// Each is given what is left of the time.
#[test]
fn pool_test_timeout() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 1);
    let finished = [gated.finished(2), gated.finished(4)];
    let running = gated.running(6);
    let pending = gated.submit(8);
    let (mut done, mut not_done) = (Vec::new(), Vec::new());
    let end = Instant::now() + A_MOMENT;
    for job in finished.into_iter().chain([running, pending]) {
        match job.wait_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(result) => done.push(result.unwrap()),
            Err(job) => not_done.push(job),
        }
    }
    assert!(Instant::now() >= end);
    assert_eq!(done, [1, 2]);
    gated.go.close().sure();
    let rest: Vec<_> = mp::wait_all(not_done)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rest, [3, 4]);
}

#[test]
fn pool_test_no_timeout() {
    let _watchdog = watchdog(180);
    let world = world!();
    let gated = Gated::new(&world, 2);
    let jobs = vec![
        gated.running(4),
        gated.finished(2),
        gated.finished(3),
        gated.running(6),
        gated.cancelled(),
    ];
    let mut done = mp::as_completed(jobs);
    let mut places = Vec::new();
    for left in [4, 3, 2] {
        places.push(done.next().unwrap().0);
        assert_eq!(done.len(), left);
    }
    places.sort_unstable();
    assert_eq!(places, [1, 2, 4]);
    gated.go.close().sure();
    let mut rest: Vec<_> = done
        .map(|(place, result)| (place, result.unwrap()))
        .collect();
    rest.sort_unstable();
    assert_eq!(rest, [(0, 2), (3, 3)]);
}
