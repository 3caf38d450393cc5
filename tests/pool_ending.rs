//! How pools end: in good order, at once, with their process, by a signal.

mod support;

use std::os::unix::process::CommandExt;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use mp::{Event, Pool, Process, Queue, TaskError};
use support::{
    alone, alone_command, alone_with, eventually, is_alone, is_gone, send_signal, settles_at,
    watchdog,
};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

const HOUR: Duration = Duration::from_secs(3600);

#[mp::task]
fn wait_for((n, begun, gate): (u32, Queue<u32>, Queue<()>)) -> u32 {
    begun.put(std::process::id()).unwrap();
    gate.get().unwrap();
    n
}

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

/// What came of items that were handed over in order: so many are done, and the others were not begun.
fn count_done(outcomes: &[Result<u32, TaskError>]) -> usize {
    let mut done = 0;
    for (n, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(value) => {
                assert_eq!(*value as usize, n);
                done += 1;
            }
            Err(error) => {
                assert!(error.is_cancelled() && !error.may_have_started(), "{error}");
                assert_eq!(error.index(), Some(n as u64));
            }
        }
    }
    done
}

#[test]
fn join_waits_for_a_call_that_has_no_worker_yet() -> AnyResult {
    let _watchdog = watchdog(120);
    for n in 0..20 {
        // None before they are needed.
        let pool = Pool::builder().workers(2).idle_timeout(HOUR).build()?;
        let job = pool.submit(square, (n,))?;
        pool.close();
        pool.join()?;
        drop(pool);
        assert_eq!(job.wait()?, n * n);
    }
    Ok(())
}

#[test]
fn drained_pool_finishes_what_was_begun_and_cancels_the_rest() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder().workers(2).chunk_size(1).build()?;
    let (begun, gate) = (Queue::new()?, Queue::new()?);
    let items: Vec<_> = (0..50).map(|n| (n, begun.clone(), gate.clone())).collect();
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| pool.try_map(wait_for, items));
        begun.get().unwrap();
        begun.get().unwrap();
        let drained = scope.spawn(|| pool.drain(HOUR));
        eventually(|| {
            pool.submit(square, (1,))
                .is_err_and(|error| error.is_closed())
        });
        gate.put_many([(); 50]).unwrap();
        assert!(drained.join().unwrap());
        let outcomes = caller.join().unwrap().unwrap();
        assert_eq!(outcomes.len(), 50);
        assert!((2..=4).contains(&count_done(&outcomes)));
    });
    assert!(pool.stats().workers.is_empty());
    assert!(pool.resize(3).unwrap_err().is_closed());
    pool.join()?;
    Ok(())
}

#[test]
fn pool_that_takes_too_long_to_drain_is_terminated() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::new(1)?;
    let (begun, gate) = (Queue::new()?, Queue::<()>::new()?);
    let job = pool.submit(wait_for, ((1, begun.clone(), gate.clone()),))?;
    let worker = begun.get()?;
    assert!(!pool.drain(Duration::from_millis(20)));
    assert!(is_gone(worker));
    let error = job.wait().unwrap_err();
    let task = error.task().unwrap();
    assert!(task.is_cancelled() && task.may_have_started());
    assert!(pool.drain(HOUR), "it is over already");
    Ok(())
}

#[test]
fn finished_results_outlive_the_pool() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .chunk_size(3)
        .max_tasks_per_worker(4)
        .window(12)
        .build()?;
    let (begun, gate) = (Queue::new()?, Queue::new()?);
    gate.put_many([(); 3])?;
    let items = (0..20).map(|n| (n, begun.clone(), gate.clone()));
    let mut results = pool.imap(wait_for, items)?;
    let first = results.next().unwrap()?;
    assert_eq!(first, 0);
    // From here on nobody looks at the jobs.
    gate.put(())?;
    // The first worker left in the middle of the second job, at the fourth item.
    eventually(|| pool.stats().workers_retired >= 1);
    pool.terminate();
    let mut rest: Vec<_> = results.collect();
    rest.insert(0, Ok(first));
    let done = rest.iter().take_while(|outcome| outcome.is_ok()).count();
    assert_eq!(done, 4);
    assert!(rest[4..].iter().all(|outcome| {
        let error = outcome.as_ref().unwrap_err();
        error.is_cancelled()
    }));
    Ok(())
}

// With their process.

#[mp::task]
fn exit_in_a_call(begun: Queue<u32>, gate: Queue<()>) {
    let pool: &'static Pool = Box::leak(Box::new(Pool::new(2).unwrap()));
    let items: Vec<_> = (0..100).map(|n| (n, begun.clone(), gate.clone())).collect();
    let telling = begun.clone();
    std::thread::spawn(move || pool.map(wait_for, items));
    let pids = [telling.get().unwrap(), telling.get().unwrap()];
    telling.put_many(pids).unwrap();
    std::process::exit(3);
}

#[test]
fn parent_that_exits_in_a_call_takes_its_workers_along() -> AnyResult {
    let _watchdog = watchdog(120);
    let (begun, gate) = (Queue::new()?, Queue::new()?);
    let error = Process::new(exit_in_a_call, (begun.clone(), gate))
        .start()?
        .join()
        .unwrap_err();
    assert_eq!(error.exit_code(), Some(3), "{error}");
    for _ in 0..2 {
        let worker = begun.get()?;
        eventually(|| is_gone(worker));
    }
    Ok(())
}

/// What a call under way said, whose process exits.
static SAID: Mutex<Option<mp::Error>> = Mutex::new(None);
static HAS_SAID: Condvar = Condvar::new();

/// Waits until a call has ended, and exits with 0 if it says that it was cancelled.
extern "C" fn exit_as_was_said() {
    let said = SAID.lock().unwrap();
    let said = HAS_SAID.wait_while(said, |said| said.is_none()).unwrap();
    let error = said.as_ref().unwrap();
    let is_cancelled = error.task().is_some_and(TaskError::is_cancelled);
    if !is_cancelled {
        eprintln!("{error}");
    }
    // SAFETY: takes an integer and does not return.
    unsafe { libc::_exit(if is_cancelled { 4 } else { 5 }) };
}

#[test]
fn call_whose_process_exits_is_cancelled() {
    if is_alone("call_whose_process_exits_is_cancelled") {
        let _watchdog = watchdog(120);
        // Called last: handlers run in the reverse order.
        // SAFETY: a function of the right kind.
        assert_eq!(unsafe { libc::atexit(exit_as_was_said) }, 0);
        let (begun, gate) = (Queue::new().unwrap(), Queue::new().unwrap());
        let pool = Pool::new(1).unwrap();
        let telling = begun.clone();
        std::thread::spawn(move || {
            let error = pool.apply(wait_for, ((1, telling, gate),)).unwrap_err();
            *SAID.lock().unwrap() = Some(error);
            HAS_SAID.notify_all();
            // It is not the pool's end that ends the call.
            std::mem::forget(pool);
        });
        begun.get().unwrap();
        std::process::exit(1);
    }
    let output = alone_command("call_whose_process_exits_is_cancelled")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
}

#[mp::task]
fn hold_a_pool(begun: Queue<u32>, gate: Queue<()>) {
    let pool = Pool::new(1).unwrap();
    let _ = pool.apply(wait_for, ((1, begun, gate),));
}

#[test]
fn signal_ends_a_process_in_a_call_and_its_workers() -> AnyResult {
    let _watchdog = watchdog(120);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (begun, gate) = (Queue::new()?, Queue::new()?);
        let child = Process::new(hold_a_pool, (begun.clone(), gate)).start()?;
        let worker = begun.get()?;
        send_signal(child.id(), signal);
        assert_eq!(child.join().unwrap_err().signal(), Some(signal));
        eventually(|| is_gone(worker));
    }
    Ok(())
}

// By a signal that is waited for.

/// Drains by a signal that `send` sends once two items are begun; returns how many were done.
fn drain_by(send: impl Fn()) -> usize {
    let pool = Pool::builder()
        .workers(2)
        .chunk_size(1)
        .drain_on_signals(HOUR)
        .build()
        .unwrap();
    let (begun, gate) = (Queue::new().unwrap(), Queue::new().unwrap());
    let items: Vec<_> = (0..50).map(|n| (n, begun.clone(), gate.clone())).collect();
    let outcomes = std::thread::scope(|scope| {
        let caller = scope.spawn(|| pool.try_map(wait_for, items));
        begun.get().unwrap();
        begun.get().unwrap();
        send();
        eventually(|| {
            pool.submit(square, (1,))
                .is_err_and(|error| error.is_closed())
        });
        gate.put_many([(); 50]).unwrap();
        caller.join().unwrap().unwrap()
    });
    assert_eq!(outcomes.len(), 50);
    pool.join().unwrap();
    count_done(&outcomes)
}

#[test]
fn signals_drain_a_pool_that_asked_for_it() {
    for (name, signal) in [("sigterm", libc::SIGTERM), ("sigint", libc::SIGINT)] {
        // One process for each: the second signal would end it.
        if std::env::var("MP_TEST_SIGNAL").is_ok_and(|wanted| wanted != name) {
            continue;
        }
        let prepare = |command: &mut std::process::Command| {
            command.env("MP_TEST_SIGNAL", name).process_group(0);
        };
        alone_with("signals_drain_a_pool_that_asked_for_it", prepare, || {
            let _watchdog = watchdog(120);
            // What a shell runs in the background ignores SIGINT.
            // SAFETY: sets no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            // As from a service manager: the workers get it as well, and not from their parent.
            let group = format!("kill -{signal} -{}", std::process::id());
            let done = drain_by(|| {
                let mut shell = std::process::Command::new("sh");
                let status = shell.args(["-c", &group]).process_group(0).status();
                assert!(status.unwrap().success());
            });
            assert!((2..=4).contains(&done), "{done} done");
        });
    }
}

#[mp::task]
fn drain_for_ever(begun: Queue<u32>, gate: Queue<()>, draining: Queue<()>) {
    let pool = Pool::builder()
        .workers(1)
        .drain_on_signals(HOUR)
        .build()
        .unwrap();
    let job = pool.submit(wait_for, ((1, begun, gate),)).unwrap();
    while pool.submit(square, (1,)).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    draining.put(()).unwrap();
    let _ = job.wait();
}

#[test]
fn second_signal_ends_a_process_that_drains() -> AnyResult {
    let _watchdog = watchdog(120);
    let (begun, gate, draining) = (Queue::new()?, Queue::new()?, Queue::new()?);
    let arguments = (begun.clone(), gate, draining.clone());
    let child = Process::new(drain_for_ever, arguments).start()?;
    let worker = begun.get()?;
    child.terminate();
    draining.get()?;
    assert!(child.is_alive());
    child.terminate();
    assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGTERM));
    eventually(|| is_gone(worker));
    Ok(())
}

extern "C" fn handle(_: i32) {}

#[test]
fn signals_that_the_program_handles_itself_are_left_to_it() {
    alone(
        "signals_that_the_program_handles_itself_are_left_to_it",
        || {
            let _watchdog = watchdog(60);
            let mut builder = Pool::builder();
            builder.workers(1).drain_on_signals(HOUR);
            // SAFETY: ignores the signal.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
            let pool = builder.build().unwrap();
            send_signal(std::process::id(), libc::SIGINT);
            assert_eq!(pool.apply(square, (4,)).unwrap(), 16);
            drop(pool);
            let handler = handle as extern "C" fn(i32) as libc::sighandler_t;
            // SAFETY: the handler does nothing.
            unsafe { libc::signal(libc::SIGTERM, handler) };
            let error = builder.build().unwrap_err();
            assert!(error.to_string().contains("Pool::drain"), "{error}");
            support::eventually(|| support::children().is_empty());
        },
    );
}

/// Makes a queue for each item but the last, at which it stays.
#[mp::task]
fn make_or_stay((is_last, begun): (bool, Event)) -> Queue<u32> {
    if is_last {
        begun.set();
        loop {
            std::thread::park();
        }
    }
    Queue::new().unwrap()
}

#[test]
fn handles_in_results_that_nobody_took_go_with_their_pool() {
    alone(
        "handles_in_results_that_nobody_took_go_with_their_pool",
        || {
            let _watchdog = watchdog(60);
            let begun = Event::new().unwrap();
            let pool = Pool::builder().workers(1).chunk_size(6).build().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let items = (1..=6).map(|n| (n == 6, begun.clone()));
                    let outcomes = pool.try_map(make_or_stay, items).unwrap();
                    // Had this thread not come to look for results before, it has those that were there.
                    assert!(outcomes.last().unwrap().is_err());
                });
                begun.wait();
                pool.terminate();
            });
            drop(pool);
            // The event.
            settles_at(&1, || mp::__private::audit().unwrap().objects);
        },
    );
}
