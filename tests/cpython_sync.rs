//! Behaviours that CPython's own tests demand of `multiprocessing`'s primitives, demanded of `mp`.
//!
//! Source: `Lib/test/_test_multiprocessing.py` and `Lib/test/lock_tests.py` of CPython (PSF
//! licence 2). Rewritten: no code was taken over, each test states the behaviour anew in the terms of
//! `mp`. A test is named after the area and the method that it answers. What several machines can share
//! as well is in `support/conformance`. Left out of the areas lock, semaphore, condition, event and barrier
//! are:
//!
//! | behaviour | reason |
//! |---|---|
//! | condition: `test_wait_result`, the part of Ctrl-C | a signal interrupts no wait of `mp`: its default ends the process, and a handler of the program's own runs while the wait goes on |
//! | lock: `test_rlock`, `test_lock`, one release too many | the guard releases, and it is given once |
//! | lock: `test_repr_rlock`, the name of the owner's thread | `Debug` names the process |
//!
//! Counting is done with semaphores, because their permits can be added by any process.

mod support;

use std::thread;
use std::time::Duration;

use mp::{Child, Condition, Event, Lock, OwnerDied, Process, RLock, Semaphore};
use support::{eventually, watchdog};

const A_MOMENT: Duration = Duration::from_millis(30);
/// Nothing takes so long.
const AGES: Duration = Duration::from_secs(60);

fn start<R>(process: Process<R>) -> Child<R> {
    process.start().unwrap()
}

fn join_all<R: mp::Transfer>(children: Vec<Child<R>>) -> Vec<R> {
    children
        .into_iter()
        .map(|child| child.join().unwrap())
        .collect()
}

// Locks.

#[mp::task]
fn hold_rlock(lock: RLock, held: Event, go: Event) {
    let _outer = lock.acquire().unwrap();
    let _inner = lock.acquire().unwrap();
    held.set();
    go.wait();
}

#[test]
fn lock_test_repr_rlock() {
    let _watchdog = watchdog(60);
    let lock = RLock::new().unwrap();
    assert_eq!(format!("{lock:?}"), "RLock { holder: none, depth: 0 }");
    let outer = lock.acquire().unwrap();
    let inner = lock.acquire().unwrap();
    assert_eq!(
        format!("{lock:?}"),
        "RLock { holder: this process, depth: 2 }"
    );
    thread::scope(|scope| {
        scope.spawn(|| assert!(format!("{lock:?}").contains("this process, depth: 2")));
    });
    drop((outer, inner));
    let (held, go) = (Event::new().unwrap(), Event::new().unwrap());
    let arguments = (lock.clone(), held.clone(), go.clone());
    let child = start(Process::new(hold_rlock, arguments).name("owner"));
    held.wait();
    let shown = format!("RLock {{ holder: owner ({}), depth: 2 }}", child.id());
    assert_eq!(format!("{lock:?}"), shown);
    go.set();
    child.join().unwrap();
}

// Conditions.

/// Waits for a token, a permit that somebody adds under the lock.
fn take_token(
    lock: &Lock,
    changed: &Condition,
    tokens: &Semaphore,
    woken: &Semaphore,
) -> Result<(), OwnerDied> {
    let guard = lock.acquire()?;
    let _guard = changed.wait_while(guard, |_| match tokens.try_acquire() {
        Ok(token) => {
            token.consume();
            false
        }
        Err(_) => true,
    })?;
    woken.release();
    Ok(())
}

#[mp::task]
fn wait_for_token(lock: Lock, changed: Condition, tokens: Semaphore, woken: Semaphore) {
    take_token(&lock, &changed, &tokens, &woken).unwrap();
}

#[test]
fn condition_test_notify() {
    let _watchdog = watchdog(60);
    let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
    let (tokens, woken) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    let arguments = (lock.clone(), changed.clone(), tokens.clone(), woken.clone());
    let child = start(Process::new(wait_for_token, arguments));
    thread::scope(|scope| {
        scope.spawn(|| take_token(&lock, &changed, &tokens, &woken).unwrap());
        for round in 1..=2 {
            assert_eq!(woken.available(), round - 1);
            let guard = lock.acquire().unwrap();
            tokens.release();
            changed.notify_one();
            drop(guard);
            eventually(|| woken.available() == round);
        }
    });
    child.join().unwrap();
    assert_eq!(woken.available(), 2);
}

#[test]
fn condition_test_notify_all() {
    let _watchdog = watchdog(120);
    let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
    let (slept, woken) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    // First all six wait until their time is over.
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let guard = lock.acquire().unwrap();
                let (_guard, notified) = changed.wait_timeout(guard, A_MOMENT).unwrap();
                assert!(!notified);
            });
        }
    });
    // Then three processes and three threads wait without limit.
    let children: Vec<_> = (0..3)
        .map(|_| {
            let arguments = (lock.clone(), changed.clone(), slept.clone(), woken.clone());
            start(Process::new(wait_once, arguments))
        })
        .collect();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| wait_once(lock.clone(), changed.clone(), slept.clone(), woken.clone()));
        }
        eventually(|| slept.available() == 6);
        let guard = lock.acquire().unwrap();
        changed.notify_all();
        drop(guard);
        eventually(|| woken.available() == 6);
    });
    join_all(children);
}

#[mp::task]
fn wait_once(lock: Lock, changed: Condition, slept: Semaphore, woken: Semaphore) {
    let guard = lock.acquire().unwrap();
    // Under the lock: whoever sees it and gets the lock finds us waiting.
    slept.release();
    drop(changed.wait(guard).unwrap());
    woken.release();
}

#[mp::task]
fn wait_a_moment(lock: Lock, changed: Condition) -> bool {
    let guard = lock.acquire().unwrap();
    let (_guard, notified) = changed.wait_timeout(guard, A_MOMENT).unwrap();
    notified
}

#[test]
fn condition_test_timeout() {
    let _watchdog = watchdog(60);
    let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
    // One that finds nobody is not kept for who comes.
    changed.notify_all();
    let child = start(Process::new(wait_a_moment, (lock.clone(), changed.clone())));
    assert!(!child.join().unwrap());
    assert!(!wait_a_moment(lock, changed));
}

#[mp::task]
fn wait_for_steps(lock: Lock, changed: Condition, steps: Semaphore) -> bool {
    let guard = lock.acquire().unwrap();
    let (_guard, reached) = changed
        .wait_timeout_while(guard, AGES, |_| steps.available() < 4)
        .unwrap();
    reached
}

#[test]
fn condition_test_waitfor() {
    let _watchdog = watchdog(60);
    let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
    let steps = Semaphore::new(0).unwrap();
    let arguments = (lock.clone(), changed.clone(), steps.clone());
    let child = start(Process::new(wait_for_steps, arguments));
    for _ in 0..4 {
        let guard = lock.acquire().unwrap();
        steps.release();
        changed.notify_one();
        drop(guard);
    }
    assert!(child.join().unwrap());
    let guard = lock.acquire().unwrap();
    let (_guard, reached) = changed
        .wait_timeout_while(guard, A_MOMENT, |_| steps.available() < 5)
        .unwrap();
    assert!(!reached);
}

#[mp::task]
fn notify_when_there(lock: Lock, changed: Condition) {
    drop(lock.acquire().unwrap());
    changed.notify_all();
}

#[test]
fn condition_test_wait_result() {
    let _watchdog = watchdog(60);
    let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
    let guard = lock.acquire().unwrap();
    let (guard, notified) = changed.wait_timeout(guard, Duration::ZERO).unwrap();
    assert!(!notified);
    let (guard, notified) = changed.wait_timeout(guard, A_MOMENT).unwrap();
    assert!(!notified);
    // It comes to the notification once we wait, because we hold the lock until then.
    let arguments = (lock.clone(), changed.clone());
    let child = start(Process::new(notify_when_there, arguments));
    let (guard, notified) = changed.wait_timeout(guard, AGES).unwrap();
    assert!(notified);
    drop(guard);
    child.join().unwrap();
}

// Events.

#[test]
fn event_test_repr() {
    let event = Event::new().unwrap();
    assert_eq!(format!("{event:?}"), "Event { is_set: false }");
    event.set();
    assert_eq!(format!("{event:?}"), "Event { is_set: true }");
}
