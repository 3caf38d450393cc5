//! Calls of a pool that return at once, through the public interface: their handles, results, cancelling, ends.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use mp::{Pool, Queue};
use serde::{Deserialize, Serialize};
use support::{eventually, watchdog};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

#[mp::task]
fn square(x: u64) -> u64 {
    x.wrapping_mul(x).wrapping_add(1)
}

#[mp::task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

/// Panics or dies as the item says.
#[mp::task]
fn suffer(how: String) -> String {
    match how.as_str() {
        "panic" => panic!("as told"),
        "abort" => std::process::abort(),
        _ => how,
    }
}

/// Tells that it has begun, then waits to be told to go on.
#[mp::task]
fn wait_for(x: u64, begun: Queue<u64>, go: Queue<u64>) -> u64 {
    begun.put(x).unwrap();
    x + go.get().unwrap()
}

#[mp::task]
fn tell(x: u64, told: Queue<u64>) {
    told.put(x).unwrap();
}

/// An argument that is encoded only if its number is even.
#[derive(Debug, Deserialize)]
struct Moody(u64);

impl Serialize for Moody {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(self.0.is_multiple_of(2), "an odd mood");
        serializer.serialize_newtype_struct("Moody", &self.0)
    }
}

#[mp::task]
fn mood(moody: Moody) -> u64 {
    moody.0
}

/// A minimal executor: polls on this thread and parks in between.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn submitted_calls_run_at_the_same_time_and_each_has_its_own_result() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let (begun, go) = (Queue::new()?, Queue::new()?);
    let first = pool.submit(wait_for, (10, begun.clone(), go.clone()))?;
    let second = pool.submit(wait_for, (20, begun.clone(), go.clone()))?;
    let mut both = [begun.get()?, begun.get()?];
    both.sort();
    assert_eq!(both, [10, 20]);
    assert!(!first.is_done() && !second.is_done());
    go.put(1)?;
    go.put(1)?;
    assert_eq!((first.wait()?, second.wait()?), (11, 21));
    Ok(())
}

#[test]
fn any_number_of_calls_may_be_handed_over() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    // More than the job table has entries.
    let jobs = (0..6000)
        .map(|x| pool.submit(square, (x,)))
        .collect::<Result<Vec<_>, _>>()?;
    for (x, result) in mp::wait_all(jobs).into_iter().enumerate() {
        assert_eq!(result?, square(x as u64));
    }
    Ok(())
}

#[test]
fn failure_of_a_job_names_its_cause_and_costs_no_other() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let jobs = ["fine", "panic", "abort", "well"]
        .map(|how| pool.submit(suffer, (how.to_owned(),)))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let results = mp::wait_all(jobs);
    assert_eq!(results[0].as_deref().unwrap(), "fine");
    let panic = results[1].as_ref().unwrap_err().task().unwrap();
    assert_eq!(panic.message(), Some("as told"));
    assert_eq!(panic.index(), None);
    assert!(results[2].as_ref().unwrap_err().task().unwrap().is_crash());
    assert_eq!(results[3].as_deref().unwrap(), "well");
    Ok(())
}

#[test]
fn map_async_has_all_results_in_order_or_the_first_failure() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let squares = pool.map_async(square, 0..50_000)?;
    let sums = pool.starmap_async(add, (0..100).map(|x| (x, x)))?;
    assert!(sums.wait()?.into_iter().eq((0..100).map(|x| 2 * x)));
    assert!(squares.wait()?.into_iter().eq((0..50_000).map(square)));
    assert!(pool.map_async(square, [])?.wait()?.is_empty());

    let items = ["a", "b", "panic", "c", "abort"].map(String::from);
    let error = pool.map_async(suffer, items)?.wait().unwrap_err();
    let failure = error.task().unwrap();
    assert!(failure.is_panic());
    assert_eq!(failure.index(), Some(2));
    Ok(())
}

#[test]
fn argument_that_panics_while_it_is_encoded_fails_its_job_alone() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1)?;
    let odd = pool.submit(mood, (Moody(1),))?;
    let even = pool.submit(mood, (Moody(2),))?;
    let mixed = pool.map_async(mood, [2, 3, 4, 5].map(Moody))?;
    let error = odd.wait().unwrap_err();
    assert!(error.task().unwrap().is_not_encoded(), "{error}");
    assert!(error.to_string().contains("it panicked: "), "{error}");
    assert_eq!(even.wait()?, 2);
    let error = mixed.wait().unwrap_err();
    assert_eq!(error.task().unwrap().index(), Some(1));
    Ok(())
}

#[test]
fn job_that_is_not_done_comes_back_and_goes_on() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1)?;
    let (begun, go) = (Queue::new()?, Queue::new()?);
    let job = pool.submit(wait_for, (1, begun.clone(), go.clone()))?;
    begun.get()?;
    let job = job.try_get().unwrap_err();
    let job = job.wait_timeout(Duration::from_millis(1)).unwrap_err();
    go.put(1)?;
    assert_eq!(job.wait()?, 2);

    let job = pool.submit(square, (2,))?;
    eventually(|| job.is_done());
    assert_eq!(job.try_get().unwrap()?, 5);
    Ok(())
}

#[test]
fn cancelled_job_that_waits_is_never_begun() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1)?;
    let (begun, go, told) = (Queue::new()?, Queue::new()?, Queue::new()?);
    let first = pool.submit(wait_for, (1, begun.clone(), go.clone()))?;
    begun.get()?;
    let waiting = pool.submit(tell, (7, told.clone()))?;
    waiting.cancel();
    let error = waiting.wait().unwrap_err();
    let failure = error.task().unwrap();
    assert!(failure.is_cancelled());
    assert!(!failure.may_have_started());
    go.put(1)?;
    assert_eq!(first.wait()?, 2);
    pool.submit(tell, (8, told.clone()))?.wait()?;
    assert_eq!(told.try_get()?, 8);
    Ok(())
}

#[test]
fn cancelled_job_that_runs_is_stopped_and_costs_no_other() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let (begun, go, never) = (Queue::new()?, Queue::new()?, Queue::new()?);
    let other = pool.submit(wait_for, (1, begun.clone(), go.clone()))?;
    begun.get()?;
    for _ in 0..5 {
        let endless = pool.submit(wait_for, (2, begun.clone(), never.clone()))?;
        assert_eq!(begun.get()?, 2);
        endless.cancel();
        let error = endless.wait().unwrap_err();
        let failure = error.task().unwrap();
        assert!(failure.is_cancelled());
        assert!(failure.may_have_started());
        assert_eq!(failure.task(), "pool_jobs::wait_for");
    }
    let many = pool.map_async(square, 0..1000)?;
    go.put(1)?;
    assert_eq!(other.wait()?, 2);
    assert_eq!(many.wait()?.len(), 1000);
    Ok(())
}

#[test]
fn job_that_is_done_stays_done_when_it_is_cancelled() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1)?;
    let job = pool.submit(square, (3,))?;
    eventually(|| job.is_done());
    job.cancel();
    assert_eq!(job.wait()?, 10);
    Ok(())
}

#[test]
fn job_that_is_dropped_goes_on() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1)?;
    let told = Queue::new()?;
    drop(pool.submit(tell, (5, told.clone()))?);
    assert_eq!(told.get()?, 5);
    Ok(())
}

#[test]
fn callback_gets_the_result_and_its_panic_is_nobody_elses() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1)?;
    pool.submit(square, (1,))?
        .on_done(|_| panic!("a callback's own"));
    let (sender, results) = mpsc::channel();
    let failed = sender.clone();
    pool.submit(suffer, ("panic".to_owned(),))?
        .on_done(move |result| failed.send(result.map(|_| 0)).unwrap());
    assert!(results.recv()?.unwrap_err().task().unwrap().is_panic());
    // Also one that is asked for after the job was done.
    let job = pool.submit(square, (2,))?;
    eventually(|| job.is_done());
    job.on_done(move |result| sender.send(result).unwrap());
    assert_eq!(results.recv()??, 5);
    Ok(())
}

#[test]
fn callback_may_use_the_pool_and_wait_for_its_jobs() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Arc::new(Pool::new(1)?);
    let (sender, results) = mpsc::channel();
    let inner = pool.clone();
    pool.submit(square, (2,))?.on_done(move |result| {
        let next = inner.submit(square, (result.unwrap(),)).unwrap();
        sender.send(next.wait().unwrap()).unwrap();
    });
    assert_eq!(results.recv()?, 26);
    Ok(())
}

#[test]
fn job_is_a_future_in_any_executor() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let sum = block_on(async {
        let first = pool.submit(square, (2,))?;
        let second = pool.submit(square, (3,))?;
        Ok::<_, mp::Error>(first.await? + second.await?)
    })?;
    assert_eq!(sum, 15);
    let error = block_on(pool.submit(suffer, ("abort".to_owned(),))?).unwrap_err();
    assert!(error.task().unwrap().is_crash());
    Ok(())
}

#[test]
fn as_completed_gives_each_job_once_and_the_first_done_first() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let (begun, go) = (Queue::new()?, Queue::new()?);
    let mut jobs = vec![pool.submit(wait_for, (100, begun.clone(), go.clone()))?];
    begun.get()?;
    for x in 0..20 {
        jobs.push(pool.submit(square, (x,))?);
    }
    let mut done = mp::as_completed(jobs);
    let mut places = Vec::new();
    for _ in 0..20 {
        let (place, result) = done.next().unwrap();
        assert_eq!(result?, square(place as u64 - 1));
        places.push(place);
    }
    assert_eq!(done.len(), 1);
    go.put(1)?;
    let (place, result) = done.next().unwrap();
    assert_eq!((place, result?), (0, 101));
    assert!(done.next().is_none());
    places.sort();
    assert!(places.into_iter().eq(1..=20));
    Ok(())
}

#[test]
fn jobs_of_a_pool_that_ends_are_over() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1)?;
    let (begun, go) = (Queue::new()?, Queue::<u64>::new()?);
    let running = pool.submit(wait_for, (1, begun.clone(), go.clone()))?;
    begun.get()?;
    let waiting = pool.submit(square, (1,))?;
    let many = pool.map_async(square, 0..100)?;
    drop(pool);
    let error = running.wait().unwrap_err();
    assert!(error.task().unwrap().is_cancelled() && error.task().unwrap().may_have_started());
    assert!(waiting.wait().unwrap_err().task().unwrap().is_cancelled());
    assert!(many.wait().unwrap_err().task().unwrap().is_cancelled());
    Ok(())
}

#[test]
fn closed_pool_finishes_its_jobs_and_takes_no_more() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let jobs = (0..500)
        .map(|x| pool.submit(square, (x,)))
        .collect::<Result<Vec<_>, _>>()?;
    let many = pool.map_async(square, 0..500)?;
    pool.close();
    assert!(pool.submit(square, (1,)).unwrap_err().is_closed());
    assert!(pool.map_async(square, [1]).unwrap_err().is_closed());
    pool.join()?;
    assert!(mp::wait_all(jobs).into_iter().all(|result| result.is_ok()));
    assert_eq!(many.wait()?.len(), 500);
    Ok(())
}

#[test]
fn threads_that_submit_and_cancel_at_random_get_an_outcome_for_each_job() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(2)?;
    let (done, cancelled) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (pool, done, cancelled) = (&pool, &done, &cancelled);
            scope.spawn(move || {
                for x in 0..60 {
                    let job = pool.submit(square, (x,)).unwrap();
                    if (x + thread).is_multiple_of(3) {
                        job.cancel();
                    }
                    match job.wait() {
                        Ok(value) => {
                            assert_eq!(value, square(x));
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert!(error.task().unwrap().is_cancelled(), "{error}");
                            cancelled.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert!(done.load(Ordering::Relaxed) >= 120);
    assert_eq!(done.into_inner() + cancelled.into_inner(), 180);
    assert_eq!(pool.map(square, 0..100)?.len(), 100);
    Ok(())
}

/// Whether the next result that is dropped in this process panics.
static IS_FRAGILE: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Serialize, Deserialize)]
struct Fragile(u64);

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(!IS_FRAGILE.swap(false, Ordering::Relaxed), "it broke");
    }
}

#[mp::task]
fn fragile(x: u64) -> Fragile {
    assert!(x < 2, "as told");
    Fragile(x)
}

#[test]
fn result_that_panics_when_it_is_dropped_makes_its_job_fail() -> AnyResult {
    let _watchdog = watchdog(60);
    let pool = Pool::new(1)?;
    IS_FRAGILE.store(true, Ordering::Relaxed);
    let error = pool.map_async(fragile, 0..3)?.wait().unwrap_err();
    assert!(error.to_string().contains("it broke"), "{error}");
    assert_eq!(pool.submit(square, (3,))?.wait()?, square(3));
    Ok(())
}
