//! A kill at each named point of the primitives in turn: everybody else goes on or is told, and
//! nothing is left. Run with `--features faults`; `tests/death.rs` tells more.
#![cfg(feature = "faults")]

mod support;

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use mp::__private::{Audit, audit};
use mp::{
    Barrier, Child, Condition, Event, Lock, OwnerDied, Process, Queue, RLock, RwLock, Semaphore,
};
use support::{alone, eventually, watchdog};

const FAULT: &str = "MP_FAULT";
/// Nothing takes so long.
const AGES: Duration = Duration::from_secs(60);

/// Runs a scenario, after which nothing of it may be left in shared memory.
#[track_caller]
fn scenario(name: &str, run: impl FnOnce() + Send + 'static) {
    // On a thread of its own, because a thread keeps memory from call to call.
    let thread = thread::Builder::new().name(name.to_owned());
    let ended = thread.spawn(run).unwrap().join();
    assert!(ended.is_ok(), "the scenario of {name} failed");
    eventually(|| {
        let Audit {
            process_units,
            object_units,
            objects,
            faults,
            ..
        } = audit().unwrap();
        (process_units, object_units, objects) == (0, 0, 0) && faults.is_empty()
    });
}

fn start<R>(process: Process<R>) -> Child<R> {
    process.start().unwrap()
}

#[track_caller]
fn was_killed<R: mp::Transfer + fmt::Debug>(child: &Child<R>) {
    child.join().unwrap_err();
    assert_eq!(child.exit_status().unwrap().signal(), Some(libc::SIGKILL));
}

/// Runs a child that dies at `fault`.
#[track_caller]
fn dies_at<R: mp::Transfer + fmt::Debug>(fault: &str, process: Process<R>) {
    was_killed(&start(process.env(FAULT, fault).name("victim")));
}

#[track_caller]
fn kill<R: mp::Transfer + fmt::Debug>(child: &Child<R>) {
    child.kill();
    was_killed(child);
}

// Semaphores.

#[mp::task]
fn use_semaphore(semaphore: Semaphore) {
    let one = semaphore.acquire();
    let two = semaphore.acquire();
    drop(one);
    two.consume();
    semaphore.release();
}

#[test]
fn permits_of_the_dead_come_back_exactly() {
    let _watchdog = watchdog(240);
    alone("permits_of_the_dead_come_back_exactly", || {
        // With how many permits the semaphore is left.
        for (fault, left) in [
            ("shares.recorded", 3),
            ("semaphore.acquired", 3),
            ("shares.recorded:2", 3),
            ("semaphore.acquired:2", 3),
            ("shares.struck", 3),
            ("shares.unlocked", 3),
            ("shares.consumed", 2),
            ("shares.struck:2", 2),
            ("shares.added", 3),
        ] {
            scenario(fault, move || {
                let semaphore = Semaphore::new(3).unwrap();
                let ours = semaphore.acquire();
                dies_at(fault, Process::new(use_semaphore, (semaphore.clone(),)));
                assert_eq!(semaphore.available(), left - 1, "{fault}");
                let rest: Vec<_> = (1..left)
                    .map(|_| semaphore.acquire_timeout(AGES).unwrap())
                    .collect();
                semaphore.try_acquire().unwrap_err();
                drop((ours, rest));
                assert_eq!(semaphore.available(), left, "{fault}");
            });
        }
    });
}

#[mp::task]
fn keep_permits(semaphore: Semaphore, taken: Event) {
    std::mem::forget(semaphore.acquire());
    std::mem::forget(semaphore.acquire());
    // The process has them although it has no handle any more.
    drop(semaphore);
    taken.set();
    Event::new().unwrap().wait();
}

#[mp::task]
fn count_permits(semaphore: Semaphore) -> u32 {
    semaphore.available()
}

#[test]
fn permits_come_back_though_the_finder_dies() {
    let _watchdog = watchdog(120);
    alone("permits_come_back_though_the_finder_dies", || {
        scenario("shares.reclaimed", || {
            let semaphore = Semaphore::new(3).unwrap();
            let taken = Event::new().unwrap();
            let keeper = start(Process::new(
                keep_permits,
                (semaphore.clone(), taken.clone()),
            ));
            taken.wait();
            kill(&keeper);
            let finder = Process::new(count_permits, (semaphore.clone(),));
            dies_at("shares.reclaimed", finder);
            assert_eq!(semaphore.available(), 3);
        });
    });
}

#[test]
fn a_permit_of_the_dead_wakes_who_waits() {
    let _watchdog = watchdog(120);
    alone("a_permit_of_the_dead_wakes_who_waits", || {
        scenario("a waiter", || {
            let semaphore = Semaphore::new(2).unwrap();
            let taken = Event::new().unwrap();
            let keeper = start(Process::new(
                keep_permits,
                (semaphore.clone(), taken.clone()),
            ));
            taken.wait();
            let shown = format!("{semaphore:?}");
            let holder = format!("\"Process-1 ({}): 2\"", keeper.id());
            assert!(shown.contains(&holder), "{shown}");
            thread::scope(|scope| {
                let waiters = [(); 2].map(|()| scope.spawn(|| drop(semaphore.acquire())));
                kill(&keeper);
                for waiter in waiters {
                    waiter.join().unwrap();
                }
            });
            assert_eq!(semaphore.available(), 2);
        });
    });
}

// Events.

#[mp::task]
fn set(event: Event) {
    event.set();
}

#[test]
fn event_is_heard_though_the_setter_dies() {
    let _watchdog = watchdog(120);
    alone("event_is_heard_though_the_setter_dies", || {
        scenario("event.raised", || {
            let event = Event::new().unwrap();
            thread::scope(|scope| {
                let waiters = [(); 2].map(|()| scope.spawn(|| event.wait()));
                dies_at("event.raised", Process::new(set, (event.clone(),)));
                for waiter in waiters {
                    waiter.join().unwrap();
                }
            });
        });
    });
}

// Barriers.

#[mp::task]
fn meet(barrier: Barrier) {
    barrier.wait().unwrap();
}

#[mp::task]
fn stay_away(_barrier: Barrier, ready: Event) {
    ready.set();
    Event::new().unwrap().wait();
}

/// It is like new after a reset.
fn is_whole(barrier: &Barrier) {
    assert!(barrier.is_broken());
    barrier.reset();
    assert!(!barrier.is_broken());
    let other = start(Process::new(meet, (barrier.clone(),)));
    barrier.wait().unwrap();
    other.join().unwrap();
}

#[test]
fn barrier_breaks_when_a_party_dies() {
    let _watchdog = watchdog(120);
    alone("barrier_breaks_when_a_party_dies", || {
        scenario("a party that has not come", || {
            let (barrier, ready) = (Barrier::new(2).unwrap(), Event::new().unwrap());
            let party = start(Process::new(stay_away, (barrier.clone(), ready.clone())));
            ready.wait();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| barrier.wait());
                eventually(|| barrier.waiting() == 1);
                kill(&party);
                assert!(waiter.join().unwrap().unwrap_err().is_death());
            });
            is_whole(&barrier);
        });
        scenario("barrier.arrived", || {
            let barrier = Barrier::new(2).unwrap();
            dies_at("barrier.arrived", Process::new(meet, (barrier.clone(),)));
            assert!(barrier.wait().unwrap_err().is_death());
            is_whole(&barrier);
        });
        scenario("barrier.passed", || {
            let barrier = Barrier::new(2).unwrap();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| barrier.wait());
                eventually(|| barrier.waiting() == 1);
                dies_at("barrier.passed", Process::new(meet, (barrier.clone(),)));
                // The pass was made, and nobody was told but by the burial.
                assert!(!waiter.join().unwrap().unwrap().is_leader());
            });
            is_whole(&barrier);
        });
    });
}

/// Gives a barrier to a child, kills it, and sees to what it has left.
#[mp::task]
fn bury_a_party(barrier: Barrier, ready: Event) {
    let party = start(Process::new(stay_away, (barrier, ready.clone())).env(FAULT, "none"));
    ready.wait();
    party.kill();
    let _ = party.join();
}

#[test]
fn burial_that_is_broken_off_breaks_a_barrier_once() {
    let _watchdog = watchdog(120);
    alone("burial_that_is_broken_off_breaks_a_barrier_once", || {
        for fault in ["barrier.reporting", "barrier.reported", "reap.let_go"] {
            scenario(fault, move || {
                let (barrier, ready) = (Barrier::new(2).unwrap(), Event::new().unwrap());
                let bury = Process::new(bury_a_party, (barrier.clone(), ready));
                dies_at(fault, bury);
                is_whole(&barrier);
            });
        }
        scenario("a reset before another buries", || {
            let (barrier, ready) = (Barrier::new(2).unwrap(), Event::new().unwrap());
            let bury = Process::new(bury_a_party, (barrier.clone(), ready));
            let burier = start(bury.env(FAULT, "stop@barrier.reported"));
            eventually(|| barrier.is_broken());
            barrier.reset();
            kill(&burier);
            assert!(!barrier.is_broken());
        });
    });
}

// Conditions.

#[mp::task]
fn take(lock: Lock, changed: Condition, there: Queue<u32>, items: Queue<u32>) -> u32 {
    let guard = lock.acquire().unwrap();
    there.put(0).unwrap();
    let _guard = changed.wait_while(guard, |_| items.is_empty()).unwrap();
    items.get().unwrap()
}

#[test]
fn a_waiter_that_dies_takes_no_notification_along() {
    let _watchdog = watchdog(120);
    alone("a_waiter_that_dies_takes_no_notification_along", || {
        scenario("a waiter", || {
            let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
            let (there, items) = (Queue::new().unwrap(), Queue::new().unwrap());
            let [first, second] = [(); 2].map(|()| {
                let arguments = (lock.clone(), changed.clone(), there.clone(), items.clone());
                start(Process::new(take, arguments))
            });
            there.get().unwrap();
            there.get().unwrap();
            let guard = lock.acquire().unwrap();
            // Both wait. The notification is for either, and neither gets to the item while we hold the
            // lock. The one that dies may have been woken.
            items.put(7).unwrap();
            changed.notify_one();
            kill(&first);
            drop(guard);
            assert_eq!(second.join().unwrap(), 7);
        });
    });
}

#[mp::task]
fn hold_the_lock(lock: Lock, _changed: Condition, held: Event) {
    let _guard = lock.acquire().unwrap();
    held.set();
    Event::new().unwrap().wait();
}

#[test]
fn waiters_of_a_condition_are_told_that_the_owner_died() {
    let _watchdog = watchdog(120);
    alone(
        "waiters_of_a_condition_are_told_that_the_owner_died",
        || {
            scenario("a holder", || {
                let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
                let held = Event::new().unwrap();
                thread::scope(|scope| {
                    let (lock, changed, held) = (&lock, &changed, &held);
                    let (waiting, waits) = (Event::new().unwrap(), Event::new().unwrap());
                    waiting.set();
                    let waiter = scope.spawn({
                        let waits = waits.clone();
                        move || -> Result<(), OwnerDied> {
                            let guard = lock.acquire()?;
                            waits.set();
                            changed.wait_while(guard, |_| true).map(drop)
                        }
                    });
                    waits.wait();
                    // It gets the lock once the waiter waits.
                    let arguments = (lock.clone(), changed.clone(), held.clone());
                    let holder = start(Process::new(hold_the_lock, arguments).name("holder"));
                    held.wait();
                    kill(&holder);
                    let died = waiter.join().unwrap().unwrap_err();
                    assert_eq!((died.pid(), died.name()), (holder.id(), "holder"));
                });
                drop(lock.recover());
                drop(lock.acquire().unwrap());
            });
        },
    );
}

// Recursive locks, and locks for readers and writers.

#[mp::task]
fn hold_twice(lock: RLock, held: Event) {
    let _outer = lock.acquire().unwrap();
    let _inner = lock.acquire().unwrap();
    held.set();
    Event::new().unwrap().wait();
}

#[test]
fn recursive_lock_tells_that_its_owner_died() {
    let _watchdog = watchdog(120);
    alone("recursive_lock_tells_that_its_owner_died", || {
        scenario("an owner", || {
            let (lock, held) = (RLock::new().unwrap(), Event::new().unwrap());
            let owner = start(Process::new(hold_twice, (lock.clone(), held.clone())));
            held.wait();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| lock.acquire().map(drop));
                kill(&owner);
                assert_eq!(waiter.join().unwrap().unwrap_err().pid(), owner.id());
            });
            lock.acquire().unwrap_err();
            let recovered = lock.recover();
            let again = lock.acquire().unwrap();
            drop(recovered);
            assert!(lock.is_locked());
            drop(again);
            assert!(!lock.is_locked());
            drop(lock.acquire().unwrap());
        });
    });
}

#[mp::task]
fn read(lock: RwLock) {
    drop(lock.read().unwrap());
}

#[mp::task]
fn write(lock: RwLock) {
    drop(lock.write().unwrap());
}

#[test]
fn readers_die_unnoticed() {
    let _watchdog = watchdog(120);
    alone("readers_die_unnoticed", || {
        for fault in [
            "shares.recorded",
            "rwlock.joined",
            "rwlock.entered",
            "shares.struck",
            "shares.unlocked",
        ] {
            scenario(fault, move || {
                let lock = RwLock::new().unwrap();
                let ours = lock.read().unwrap();
                thread::scope(|scope| {
                    let writer = scope.spawn(|| {
                        dies_at(fault, Process::new(read, (lock.clone(),)));
                        drop(lock.write().unwrap());
                    });
                    // The writer waits for us too.
                    drop(ours);
                    writer.join().unwrap();
                });
                drop(lock.try_read().unwrap());
            });
        }
    });
}

#[test]
fn everybody_is_told_that_a_writer_died() {
    let _watchdog = watchdog(120);
    alone("everybody_is_told_that_a_writer_died", || {
        for fault in ["lock.acquired", "rwlock.claimed", "lock.releasing"] {
            scenario(fault, move || {
                let lock = RwLock::new().unwrap();
                // A reader that was there first knows nothing of it.
                let ours = lock.read().unwrap();
                let victim = Process::new(write, (lock.clone(),));
                let victim = start(victim.env(FAULT, fault).name("victim"));
                if fault == "lock.releasing" {
                    // It has yet to write.
                    drop(ours);
                    was_killed(&victim);
                } else {
                    was_killed(&victim);
                    drop(ours);
                }
                assert_eq!(lock.read().unwrap_err().pid(), victim.id());
                assert_eq!(lock.write().unwrap_err().name(), "victim");
                lock.try_read().unwrap_err();
                drop(lock.recover());
                let readers = (lock.read().unwrap(), lock.read().unwrap());
                lock.try_write().unwrap_err();
                drop(readers);
                drop(lock.try_write().unwrap());
            });
        }
        scenario("rwlock.released", || {
            let lock = RwLock::new().unwrap();
            thread::scope(|scope| {
                let victim = Process::new(write, (lock.clone(),));
                dies_at("rwlock.released", victim);
                // All was written, but nobody knows.
                let reader = scope.spawn(|| lock.read().map(drop));
                reader.join().unwrap().unwrap_err();
            });
            drop(lock.recover());
            drop(lock.read().unwrap());
            drop(lock.write().unwrap());
        });
    });
}

#[mp::task]
fn hold_to_write(lock: RwLock, held: Event) {
    let _guard = lock.write().unwrap();
    held.set();
    Event::new().unwrap().wait();
}

#[test]
fn waiting_readers_and_writers_are_told_that_a_writer_died() {
    let _watchdog = watchdog(120);
    alone(
        "waiting_readers_and_writers_are_told_that_a_writer_died",
        || {
            scenario("a writer", || {
                let (lock, held) = (RwLock::new().unwrap(), Event::new().unwrap());
                let writer = start(Process::new(hold_to_write, (lock.clone(), held.clone())));
                held.wait();
                thread::scope(|scope| {
                    let reading = [(); 2].map(|()| scope.spawn(|| lock.read().map(drop)));
                    let writing = scope.spawn(|| lock.write().map(drop));
                    kill(&writer);
                    for waiter in reading {
                        assert_eq!(waiter.join().unwrap().unwrap_err().pid(), writer.id());
                    }
                    assert_eq!(writing.join().unwrap().unwrap_err().pid(), writer.id());
                });
                drop(lock.recover());
            });
        },
    );
}
