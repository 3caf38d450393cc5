//! Queues, wherever the processes are.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::backend::{self, Queue, World, mp};
use super::super::support::watchdog;
use super::{A_MOMENT, Sure};
use mp::{GetTimeoutError, Process, TryGetError};

#[mp::task]
fn get_all(queue: Queue<u32>, count: u32, go: Queue<()>, done: Queue<()>) {
    go.get().unwrap();
    for _ in 0..count {
        queue.get().unwrap();
    }
    done.put(()).unwrap();
}

#[test]
fn queue_test_put() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let queue = world.bounded(6);
    let (go, done) = (world.queue(), world.queue());
    let child = world
        .process(get_all, (queue.clone(), 6, go.clone(), done.clone()))
        .start()
        .unwrap();
    assert!(queue.is_empty().sure() && !queue.is_full().sure());
    queue.put(1).unwrap();
    queue.put_timeout(2, Duration::ZERO).unwrap();
    queue.put_timeout(3, Duration::MAX).unwrap();
    queue.try_put(4).unwrap();
    queue.put_ref(&5).unwrap();
    assert!(!queue.is_full().sure());
    queue.put(6).unwrap();
    assert!(!queue.is_empty().sure() && queue.is_full().sure());

    let error = queue.try_put(7).unwrap_err();
    assert!(error.is_full() && error.into_inner() == 7);
    for timeout in [Duration::ZERO, A_MOMENT] {
        let begin = Instant::now();
        let error = queue.put_timeout(8, timeout).unwrap_err();
        assert!(begin.elapsed() >= timeout);
        assert!(error.is_timeout() && error.into_inner() == 8);
    }

    // A put that waits goes through as soon as there is room.
    std::thread::scope(|scope| {
        let put = scope.spawn(|| queue.put(9));
        go.put(()).unwrap();
        done.get().unwrap();
        put.join().unwrap().unwrap();
    });
    assert_eq!(queue.get().unwrap(), 9);
    assert!(queue.is_empty().sure() && !queue.is_full().sure());
    child.join().unwrap();
}

#[mp::task]
fn put_four(queue: Queue<u32>, go: Queue<()>, done: Queue<()>) {
    go.get().unwrap();
    for value in 2..6 {
        queue.put(value).unwrap();
    }
    done.put(()).unwrap();
}

#[test]
fn queue_test_get() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let queue = world.queue();
    let (go, done) = (world.queue(), world.queue());
    let child = world
        .process(put_four, (queue.clone(), go.clone(), done.clone()))
        .start()
        .unwrap();
    assert!(queue.is_empty().sure());
    go.put(()).unwrap();
    done.get().unwrap();
    assert!(!queue.is_empty().sure());
    assert_eq!(queue.get().unwrap(), 2);
    assert_eq!(queue.get_timeout(Duration::MAX).unwrap(), 3);
    assert_eq!(queue.get_timeout(Duration::ZERO).unwrap(), 4);
    assert_eq!(queue.try_get().unwrap(), 5);
    assert!(queue.is_empty().sure());

    assert!(matches!(queue.try_get(), Err(TryGetError::Empty)));
    for timeout in [Duration::ZERO, A_MOMENT] {
        let begin = Instant::now();
        let result = queue.get_timeout(timeout);
        assert!(matches!(result, Err(GetTimeoutError::Timeout)));
        assert!(begin.elapsed() >= timeout);
    }
    child.join().unwrap();
}

#[test]
fn queue_test_qsize() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let queue = world.queue();
    assert_eq!(queue.len().sure(), 0);
    queue.put(1).unwrap();
    assert_eq!(queue.len().sure(), 1);
    queue.put(5).unwrap();
    assert_eq!(queue.len().sure(), 2);
    queue.get().unwrap();
    assert_eq!(queue.len().sure(), 1);
    queue.get().unwrap();
    assert_eq!(queue.len().sure(), 0);
}

/// Works on items, each of which waits to be let go, until there is a `None`.
#[mp::task]
fn work_off(items: Queue<Option<u32>>, go: Queue<()>) -> u32 {
    let mut count = 0;
    while let Ok(Some(_)) = items.get() {
        go.get().unwrap();
        items.task_done().unwrap();
        count += 1;
    }
    items.task_done().unwrap();
    count
}

#[test]
fn queue_test_task_done() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let (items, go) = (world.queue(), world.queue());
    let start = |_| world.process(work_off, (items.clone(), go.clone())).start();
    let workers: Vec<_> = (0..4).map(|number| start(number).unwrap()).collect();
    items.put_many((0..10).map(Some)).unwrap();
    // As long as one of them is not done, there is something to wait for.
    for left in (1..=10).rev() {
        let error = loop {
            let error = items.join_timeout(Duration::from_millis(1)).unwrap_err();
            if error.unfinished() == left {
                break error;
            }
        };
        assert_eq!(error.unfinished(), left);
        go.put(()).unwrap();
    }
    items.join().unwrap();
    items.put_many([None; 4]).unwrap();
    let done: u32 = workers.iter().map(|worker| worker.join().unwrap()).sum();
    assert_eq!(done, 10);
    items.join().unwrap();
    // Called too often.
    items.task_done().unwrap_err();
}

/// Cannot be encoded if it is false.
#[derive(Debug, PartialEq, Deserialize)]
struct Encodable(bool);

impl Serialize for Encodable {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            true => serializer.serialize_bool(true),
            false => Err(serde::ser::Error::custom("this one stays here")),
        }
    }
}

#[test]
fn queue_test_queue_feeder_donot_stop_onexc() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let queue = world.bounded(1);
    for _ in 0..3 {
        let error = queue.put(Encodable(false)).unwrap_err();
        assert!(error.is_not_encoded(), "{error}");
        assert!(error.to_string().contains("this one stays here"), "{error}");
        assert_eq!(error.into_inner(), Encodable(false));
        assert_eq!(queue.len().sure(), 0);
        // The one place is still there.
        queue.try_put(Encodable(true)).unwrap();
        assert_eq!(queue.get().unwrap(), Encodable(true));
    }
}

/// A closed queue can be asked whether it is empty: what is in it can still be got.
#[test]
fn queue_test_closed_queue_empty_exceptions() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let unused = world.queue::<u32>();
    unused.close().sure();
    assert!(unused.is_empty().sure());
    assert!(matches!(unused.try_get(), Err(TryGetError::Closed)));

    let used = world.queue();
    used.put(1).unwrap();
    used.close().sure();
    assert!(!used.is_empty().sure());
    assert!(used.put(2).unwrap_err().is_closed());
    assert_eq!(used.get().unwrap(), 1);
    assert!(used.is_empty().sure());
    assert!(matches!(used.try_get(), Err(TryGetError::Closed)));
}

#[mp::task]
fn put_one(queue: Queue<u32>, value: u32) {
    queue.put(value).unwrap();
}

#[mp::task]
fn queue_with_a_grandchild() -> Result<u32, mp::AnyError> {
    let queue = backend::queue_of_a_child()?;
    let grandchild = Process::new(put_one, (queue.clone(), 17)).start()?;
    let value = queue.get()?;
    grandchild.join()?;
    Ok(value)
}

#[test]
fn queue_test_queue_in_process() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let child = world.process(queue_with_a_grandchild, ()).start().unwrap();
    assert_eq!(child.join().unwrap().unwrap(), 17);
    assert_eq!(child.exit_status().unwrap().code(), Some(0));
}

#[mp::task]
fn put_and_pass_on(queue: Queue<u32>) -> Result<(), mp::AnyError> {
    queue.put(1)?;
    Process::new(put_one, (queue, 2)).start()?.join()?;
    Ok(())
}

#[test]
fn queue_test_nested_startmethod() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let queue = world.queue();
    let child = world
        .process(put_and_pass_on, (queue.clone(),))
        .start()
        .unwrap();
    child.join().unwrap().unwrap();
    assert_eq!(queue.get_many(10).unwrap(), [1, 2]);
}

#[mp::task]
fn put_when_told(queue: Queue<bool>, go: Queue<()>) -> [bool; 2] {
    go.get().unwrap();
    let before = queue.is_empty().sure();
    queue.put(true).unwrap();
    [before, queue.is_empty().sure()]
}

#[test]
fn queue_test_empty() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let (queue, go) = (world.queue(), world.queue());
    let child = world
        .process(put_when_told, (queue.clone(), go.clone()))
        .start()
        .unwrap();
    assert!(queue.is_empty().sure());
    go.put(()).unwrap();
    assert_eq!(child.join().unwrap(), [true, false]);
    assert!(!queue.is_empty().sure());
    assert!(queue.get().unwrap());
    assert!(queue.is_empty().sure());
}

#[test]
fn queue_test_close() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let queue = world.queue::<u32>();
    assert!(!queue.is_closed().sure());
    for _ in 0..3 {
        queue.close().sure();
        assert!(queue.is_closed().sure());
    }
}
