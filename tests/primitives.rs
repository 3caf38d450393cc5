//! The primitives beside locks: who is let in, who waits, how they travel, and what is refused.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use mp::{
    AcquireTimeoutError, Barrier, BoundedSemaphore, Condition, Event, Lock, Process, Queue, RLock,
    RwLock, Semaphore, TryAcquireError, TryWaitError, Value,
};
use serde::{Deserialize, Serialize};
use support::{eventually, watchdog};

const A_MOMENT: Duration = Duration::from_millis(30);

/// One of each.
#[derive(Clone, Serialize, Deserialize)]
struct All {
    rlock: RLock,
    rwlock: RwLock,
    semaphore: Semaphore,
    bounded: BoundedSemaphore,
    lock: Lock,
    condition: Condition,
    event: Option<Event>,
    barrier: Vec<Barrier>,
}

impl All {
    fn new() -> Self {
        Self {
            rlock: RLock::new().unwrap(),
            rwlock: RwLock::new().unwrap(),
            semaphore: Semaphore::new(1).unwrap(),
            bounded: BoundedSemaphore::new(1).unwrap(),
            lock: Lock::new().unwrap(),
            condition: Condition::new().unwrap(),
            event: Some(Event::new().unwrap()),
            barrier: vec![Barrier::new(2).unwrap()],
        }
    }

    /// Whether they are held, as seen by somebody who does not hold them.
    fn are_held(&self) -> [bool; 5] {
        [
            self.rlock.try_acquire().is_err(),
            self.rwlock.try_read().is_err(),
            self.rwlock.try_write().is_err(),
            self.semaphore.try_acquire().is_err(),
            self.bounded.try_acquire().is_err(),
        ]
    }
}

#[mp::task]
fn look(through: Queue<All>) -> [bool; 5] {
    let all = through.get().unwrap();
    let held = all.are_held();
    all.event.as_ref().unwrap().set();
    all.barrier[0].wait().unwrap();
    let _guard = all.lock.acquire().unwrap();
    all.condition.notify_all();
    held
}

#[mp::task]
fn look_from_a_grandchild(through: Queue<All>) -> [bool; 5] {
    let child = Process::new(look, (through,)).start().unwrap();
    child.join().unwrap()
}

#[test]
fn they_are_the_same_in_a_queue_item_in_a_grandchild() {
    let _watchdog = watchdog(60);
    let all = All::new();
    let through = Queue::new().unwrap();
    let _held = (
        all.rlock.acquire().unwrap(),
        all.rwlock.write().unwrap(),
        all.semaphore.acquire(),
        all.bounded.acquire(),
    );
    let guard = all.lock.acquire().unwrap();
    let child = Process::new(look_from_a_grandchild, (through.clone(),));
    let child = child.start().unwrap();
    through.put(all.clone()).unwrap();
    all.event.as_ref().unwrap().wait();
    all.barrier[0].wait().unwrap();
    drop(all.condition.wait(guard).unwrap());
    assert_eq!(child.join().unwrap(), [true; 5]);
}

#[test]
fn many_read_and_one_writes() {
    let _watchdog = watchdog(60);
    let lock = RwLock::new().unwrap();
    assert_eq!(
        format!("{lock:?}"),
        "RwLock { writer: none, readers: [], waiting: [] }"
    );
    let readers = (lock.read().unwrap(), lock.read().unwrap());
    let shown = "RwLock { writer: none, readers: [\"this process: 2\"], waiting: [] }";
    assert_eq!(format!("{lock:?}"), shown);
    assert_eq!(lock.try_write().unwrap_err(), TryAcquireError::WouldBlock);
    assert_eq!(
        lock.write_timeout(A_MOMENT).unwrap_err(),
        AcquireTimeoutError::Timeout
    );
    // One who gave up waiting to write keeps nobody out.
    drop(lock.try_read().unwrap());
    drop(readers);
    let writer = lock.try_write().unwrap();
    let shown = "RwLock { writer: this process, readers: [], waiting: [] }";
    assert_eq!(format!("{lock:?}"), shown);
    assert_eq!(lock.try_read().unwrap_err(), TryAcquireError::WouldBlock);
    assert_eq!(
        lock.read_timeout(A_MOMENT).unwrap_err(),
        AcquireTimeoutError::Timeout
    );
    drop(writer);
    drop(lock.read().unwrap());
}

#[test]
fn a_writer_that_waits_keeps_new_readers_out() {
    let _watchdog = watchdog(60);
    let lock = RwLock::new().unwrap();
    let reader = lock.read().unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| drop(lock.write().unwrap()));
        eventually(|| lock.try_read().is_err());
        let later = scope.spawn(|| drop(lock.read().unwrap()));
        assert!(!writer.is_finished());
        drop(reader);
        writer.join().unwrap();
        later.join().unwrap();
    });
}

/// Writes over and over, until it is told to stop; says when it has begun.
#[mp::task]
fn write_without_end(lock: RwLock, begun: Semaphore, stop: Event) {
    let mut is_first = true;
    while !stop.is_set() {
        drop(lock.write().unwrap());
        if std::mem::take(&mut is_first) {
            begun.release();
        }
    }
}

/// Two keep the lock in hand all the time, by turns.
#[test]
fn writers_that_follow_one_another_let_readers_in() {
    let _watchdog = watchdog(120);
    let lock = RwLock::new().unwrap();
    let (begun, stop) = (Semaphore::new(0).unwrap(), Event::new().unwrap());
    let arguments = (lock.clone(), begun.clone(), stop.clone());
    let writers = [(); 2].map(|()| {
        Process::new(write_without_end, arguments.clone())
            .start()
            .unwrap()
    });
    for _ in &writers {
        begun.acquire().consume();
    }
    for _ in 0..100 {
        drop(lock.read().unwrap());
    }
    stop.set();
    for writer in writers {
        writer.join().unwrap();
    }
}

/// A reader that came while somebody wrote is let in before the next writer, which waits for it.
#[test]
fn a_reader_waits_for_one_writer_only() {
    let _watchdog = watchdog(60);
    let lock = RwLock::new().unwrap();
    let [reading, done] = [(); 2].map(|()| Event::new().unwrap());
    let writing = lock.write().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = lock.read().unwrap();
            reading.set();
            done.wait();
        });
        eventually(|| format!("{lock:?}").contains("waiting: [\"this process: 1\"]"));
        let next = scope.spawn(|| drop(lock.write().unwrap()));
        drop(writing);
        reading.wait();
        assert!(!next.is_finished());
        assert_eq!(lock.try_write().unwrap_err(), TryAcquireError::WouldBlock);
        done.set();
        next.join().unwrap();
    });
}

#[mp::task]
fn write_often(lock: RwLock, inside: Semaphore, rounds: u32) {
    for _ in 0..rounds {
        let _guard = lock.write().unwrap();
        // The only one in here.
        inside.try_acquire().unwrap().consume();
        inside.release();
    }
}

#[mp::task]
fn read_often(lock: RwLock, inside: Semaphore, rounds: u32) {
    for _ in 0..rounds {
        let _guard = lock.read().unwrap();
        // No writer has it.
        assert_eq!(inside.available(), 1);
    }
}

#[test]
fn readers_never_meet_a_writer() {
    let _watchdog = watchdog(120);
    let (lock, inside) = (RwLock::new().unwrap(), Semaphore::new(1).unwrap());
    let mut children = Vec::new();
    for _ in 0..2 {
        let arguments = (lock.clone(), inside.clone(), 300);
        children.push(
            Process::new(write_often, arguments.clone())
                .start()
                .unwrap(),
        );
        children.push(Process::new(read_often, arguments).start().unwrap());
    }
    for child in children {
        child.join().unwrap();
    }
}

#[mp::task]
fn pass_through(seats: Semaphore, inside: Semaphore, rounds: u32) {
    for _ in 0..rounds {
        let _permit = seats.acquire();
        inside.release();
        assert!(inside.available() <= 2);
        inside.try_acquire().unwrap().consume();
    }
}

#[test]
fn no_more_are_let_in_than_there_are_permits() {
    let _watchdog = watchdog(120);
    let (seats, inside) = (Semaphore::new(2).unwrap(), Semaphore::new(0).unwrap());
    let children = [(); 4].map(|()| {
        Process::new(pass_through, (seats.clone(), inside.clone(), 200))
            .start()
            .unwrap()
    });
    for child in children {
        child.join().unwrap();
    }
    assert_eq!((seats.available(), inside.available()), (2, 0));
}

#[test]
fn a_permit_given_back_on_another_thread_wakes_who_waits() {
    let _watchdog = watchdog(60);
    let semaphore = Semaphore::new(1).unwrap();
    let permit = semaphore.acquire();
    assert_eq!(
        format!("{semaphore:?}"),
        "Semaphore { available: 0, holders: [\"this process: 1\"] }"
    );
    thread::scope(|scope| {
        let waiter = scope.spawn(|| drop(semaphore.acquire()));
        scope.spawn(move || drop(permit));
        waiter.join().unwrap();
    });
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn a_semaphore_that_would_have_too_many_permits_panics() {
    let semaphore = Semaphore::new(u32::MAX).unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| semaphore.release())).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("cannot have more than"), "{text}");
    assert_eq!(semaphore.available(), u32::MAX);
}

#[mp::task]
fn take_one(semaphore: Semaphore, lock: RwLock, taken: Queue<u32>, go_on: Event) {
    let _permit = semaphore.acquire();
    let _reading = lock.read().unwrap();
    taken.put(semaphore.available()).unwrap();
    go_on.wait();
}

#[test]
fn who_has_permits_is_not_read_from_what_the_memory_held_before() {
    let _watchdog = watchdog(60);
    // Memory that is free afterwards, and as good as any for the next ones.
    drop(mp::Bytes::from_slice(&[0xFF; 8 << 20]).unwrap());
    let made = || (Semaphore::new(4).unwrap(), RwLock::new().unwrap());
    let all: Vec<_> = (0..16).map(|_| made()).collect();
    let (taken, go_on) = (Queue::new().unwrap(), Event::new().unwrap());
    for (semaphore, lock) in &all {
        assert_eq!(semaphore.available(), 4);
        assert!(lock.try_write().is_ok());
    }
    let (semaphore, lock) = &all[7];
    let start = || {
        let arguments = (
            semaphore.clone(),
            lock.clone(),
            taken.clone(),
            go_on.clone(),
        );
        Process::new(take_one, arguments).start().unwrap()
    };
    let children: Vec<_> = (0..3).map(|_| start()).collect();
    let mut left: Vec<_> = (0..3).map(|_| taken.get().unwrap()).collect();
    left.sort_unstable();
    assert!(left.iter().all(|&left| left < 4), "{left:?}");
    assert_eq!(semaphore.available(), 1);
    assert!(lock.try_write().is_err());
    assert!(lock.try_read().is_ok());
    go_on.set();
    for child in children {
        child.join().unwrap();
    }
    for (semaphore, lock) in &all {
        assert_eq!(semaphore.available(), 4);
        assert!(lock.try_write().is_ok());
    }
}

#[test]
fn a_barrier_is_for_at_least_one_and_not_for_too_many() {
    for parties in [0, 65_536] {
        let error = Barrier::new(parties).unwrap_err();
        assert!(error.to_string().contains("1 to 65535 parties"), "{error}");
    }
    let barrier = Barrier::new(65_535).unwrap();
    assert_eq!(barrier.parties(), 65_535);
}

#[test]
fn a_party_that_would_have_to_wait_has_not_come() {
    let barrier = Barrier::new(2).unwrap();
    assert_eq!(barrier.try_wait().unwrap_err(), TryWaitError::WouldBlock);
    assert_eq!(barrier.waiting(), 0);
    assert_eq!(
        format!("{barrier:?}"),
        "Barrier { parties: 2, waiting: 0, broken: None }"
    );
}

#[test]
fn reset_of_a_barrier_in_use_is_told_to_those_who_wait() {
    let _watchdog = watchdog(60);
    let barrier = Barrier::new(2).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| barrier.wait());
        eventually(|| barrier.waiting() == 1);
        barrier.reset();
        let error = waiter.join().unwrap().unwrap_err();
        assert!(error.is_reset(), "{error}");
        // And it is not broken for those who come.
        let other = scope.spawn(|| barrier.wait());
        barrier.wait().unwrap();
        other.join().unwrap().unwrap();
    });
}

#[test]
fn timeout_that_runs_out_at_the_pass_is_told_alike_to_all() {
    let _watchdog = watchdog(120);
    let barrier = Barrier::new(2).unwrap();
    for round in 0..1_000_u32 {
        thread::scope(|scope| {
            // Its time is over when it has come, and the other one comes at once or a little later.
            let hasty = scope.spawn(|| barrier.wait_timeout(Duration::ZERO));
            while barrier.waiting() == 0 && !barrier.is_broken() {
                std::hint::spin_loop();
            }
            for _ in 0..round % 50 {
                std::hint::spin_loop();
            }
            let here = barrier.wait();
            let there = hasty.join().unwrap();
            assert_eq!(
                here.map(|passed| passed.index()),
                there.map(|passed| 1 - passed.index())
            );
        });
        // And nobody breaks the next pass for the sake of the last one.
        assert_eq!(barrier.is_broken(), barrier.waiting() > 0);
        barrier.reset();
    }
}

#[test]
fn a_panic_in_the_action_breaks_the_barrier() {
    let _watchdog = watchdog(60);
    let barrier = Barrier::new(2).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| barrier.wait());
        eventually(|| barrier.waiting() == 1);
        let action = || barrier.wait_with(|| panic!("in the action"));
        catch_unwind(AssertUnwindSafe(action)).unwrap_err();
        assert!(waiter.join().unwrap().unwrap_err().is_abort());
    });
}

#[test]
fn an_event_that_is_cleared_at_once_lets_all_go_who_waited() {
    let _watchdog = watchdog(60);
    let (event, ready) = (Event::new().unwrap(), Queue::<u32>::new().unwrap());
    thread::scope(|scope| {
        let waiters = [(); 2].map(|()| {
            scope.spawn(|| {
                // SAFETY: asks for a number.
                ready.put(unsafe { libc::gettid() as u32 }).unwrap();
                event.wait();
            })
        });
        for _ in 0..2 {
            let thread = ready.get().unwrap();
            eventually(|| {
                support::status_line(thread, "State").is_some_and(|state| state.starts_with('S'))
            });
        }
        event.set();
        event.clear();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
    assert!(!event.is_set());
}

#[mp::task]
fn wait_for(event: Event, ready: Queue<()>) {
    ready.put(()).unwrap();
    event.wait();
}

/// Whoever waited and runs only when the flag is down again.
#[test]
fn an_event_is_heard_by_a_process_that_was_stopped_meanwhile() {
    let _watchdog = watchdog(60);
    let (event, ready) = (Event::new().unwrap(), Queue::new().unwrap());
    let child = Process::new(wait_for, (event.clone(), ready.clone()))
        .start()
        .unwrap();
    let is = |state: char| {
        let shown = support::status_line(child.id(), "State");
        shown.is_some_and(|shown| shown.starts_with(state))
    };
    ready.get().unwrap();
    eventually(|| is('S'));
    support::send_signal(child.id(), libc::SIGSTOP);
    eventually(|| is('T'));
    event.set();
    event.clear();
    support::send_signal(child.id(), libc::SIGCONT);
    child.join().unwrap();
}

// Conditions.

/// Whether a thread that was asleep sleeps on: how often it has gone to sleep tells one that slept again.
fn sleeps(thread: u32) -> Option<String> {
    let is_asleep = support::status_line(thread, "State")?.starts_with('S');
    let count = support::status_line(thread, "voluntary_ctxt_switches")?;
    is_asleep.then_some(count)
}

#[test]
fn a_notification_of_one_wakes_one() {
    let _watchdog = watchdog(60);
    let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
    let (ready, woken) = (Queue::new().unwrap(), Queue::new().unwrap());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let guard = lock.acquire().unwrap();
                // SAFETY: asks for a number.
                ready.put(unsafe { libc::gettid() as u32 }).unwrap();
                drop(changed.wait(guard).unwrap());
                woken.put(()).unwrap();
            });
        }
        let threads = [(); 4].map(|()| ready.get().unwrap());
        // Who gets the lock finds all of them waiting, or on their way to sleep.
        let guard = lock.acquire().unwrap();
        eventually(|| threads.iter().all(|&thread| sleeps(thread).is_some()));
        let before = threads.map(sleeps);
        changed.notify_one();
        let left = threads.map(sleeps);
        let on = before
            .iter()
            .zip(&left)
            .filter(|(before, now)| before == now);
        assert!(on.count() >= 3, "{before:?} {left:?}");
        drop(guard);
        woken.get().unwrap();
        changed.notify_all();
    });
}

#[mp::task]
fn add_under(lock: RLock, changed: Condition, number: Value<u64>) {
    let _outer = lock.acquire().unwrap();
    let _inner = lock.acquire().unwrap();
    number.fetch_add(1);
    changed.notify_all();
}

/// However often the thread has acquired it, a wait lets it go, and it is held as often again.
#[test]
fn a_condition_lets_a_recursive_lock_go_altogether() {
    let _watchdog = watchdog(60);
    let (lock, changed) = (RLock::new().unwrap(), Condition::new().unwrap());
    let number = Value::new(0).unwrap();
    let outer = lock.acquire().unwrap();
    let inner = lock.acquire().unwrap();
    let arguments = (lock.clone(), changed.clone(), number.clone());
    let child = Process::new(add_under, arguments).start().unwrap();
    let inner = changed.wait_while(inner, |_| number.load() == 0).unwrap();
    child.join().unwrap();
    let shown = "RLock { holder: this process, depth: 2 }";
    assert_eq!(format!("{lock:?}"), shown);
    let (inner, is_notified) = changed.wait_timeout(inner, A_MOMENT).unwrap();
    assert!(!is_notified);
    drop(inner);
    assert!(lock.is_locked());
    drop(outer);
    assert!(!lock.is_locked());
}

#[mp::task]
fn die_with(lock: RLock) {
    std::mem::forget(lock.acquire().unwrap());
    std::process::exit(1);
}

/// Who is told of a death in a wait holds nothing any more, whatever guards it has left.
#[test]
fn guards_left_of_a_wait_that_failed_release_nothing() {
    let _watchdog = watchdog(60);
    let (lock, changed) = (RLock::new().unwrap(), Condition::new().unwrap());
    let outer = lock.acquire().unwrap();
    let inner = lock.acquire().unwrap();
    let child = Process::new(die_with, (lock.clone(),)).start().unwrap();
    let mut inner = Some(inner);
    let died = loop {
        match changed.wait_timeout(inner.take().unwrap(), A_MOMENT) {
            Ok((guard, _)) => inner = Some(guard),
            Err(died) => break died,
        }
    };
    assert_eq!(died.pid(), child.id());
    child.join().unwrap_err();
    let recovered = lock.recover();
    drop(outer);
    assert!(lock.is_locked());
    drop(recovered);
    assert!(!lock.is_locked());
}
