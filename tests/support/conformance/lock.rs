//! Locks, wherever the processes are.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::backend::{self, Lock, Queue, RLock, World, mp};
use super::super::support::watchdog;
use super::{A_MOMENT, Sure};

#[mp::task]
fn hold(lock: Lock, held: Queue<()>, go: Queue<()>) {
    let _guard = lock.acquire().unwrap();
    held.put(()).unwrap();
    go.get().unwrap();
}

#[test]
fn lock_test_lock() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let lock = world.lock();
    let would_block = || backend::is_held(lock.try_acquire());
    assert!(!lock.is_locked().sure());
    let guard = lock.acquire().unwrap();
    assert!(lock.is_locked().sure() && would_block());
    assert!(backend::is_late(lock.acquire_timeout(A_MOMENT)));
    drop(guard);
    assert!(!lock.is_locked().sure());
    let guard = lock.try_acquire().unwrap();
    assert!(lock.is_locked().sure() && would_block());
    drop(guard);

    // And the same with a holder that is another process.
    let (held, go) = (world.queue(), world.queue());
    let child = world
        .process(hold, (lock.clone(), held.clone(), go.clone()))
        .start()
        .unwrap();
    held.get().unwrap();
    assert!(lock.is_locked().sure() && would_block());
    go.put(()).unwrap();
    child.join().unwrap();
    drop(lock.try_acquire().unwrap());
}

#[test]
fn lock_test_lock_context() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let lock = world.lock();
    {
        let _guard = lock.acquire().unwrap();
        assert!(lock.is_locked().sure());
    }
    assert!(!lock.is_locked().sure());
    // A scope that is left by a panic is left.
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _guard = lock.acquire().unwrap();
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err() && !lock.is_locked().sure());
}

#[mp::task]
fn try_rlock(lock: RLock) -> bool {
    !backend::is_held(lock.try_acquire())
}

#[test]
fn lock_test_rlock() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let lock = world.rlock();
    let other_can = || {
        let child = world.process(try_rlock, (lock.clone(),)).start();
        child.unwrap().join().unwrap()
    };
    let mut guards: Vec<_> = (0..3).map(|_| lock.acquire().unwrap()).collect();
    while let Some(guard) = guards.pop() {
        assert!(lock.is_locked().sure());
        assert!(!other_can());
        std::thread::scope(|scope| {
            // Another thread of this process is somebody else too.
            scope.spawn(|| {
                assert!(backend::is_held(lock.try_acquire()));
                assert!(backend::is_late(lock.acquire_timeout(A_MOMENT)));
            });
        });
        drop(guard);
    }
    assert!(!lock.is_locked().sure());
    assert!(other_can());
}

#[test]
fn lock_test_rlock_context() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let lock = world.rlock();
    {
        let _guard = lock.acquire().unwrap();
        assert!(lock.is_locked().sure());
    }
    assert!(!lock.is_locked().sure());
}
