//! Locks: one holder at a time, whoever waits, and everybody told when a holder died.

mod support;

use std::error::Error as _;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mp::{AcquireTimeoutError, Child, Lock, OwnerDied, Process, Queue, TryAcquireError};
use serde::{Deserialize, Serialize};
use support::{Random, alone, eventually, send_signal, status_line, watchdog};

/// So much more is done in a release build.
const MORE: u64 = if cfg!(debug_assertions) { 1 } else { 5 };

/// Longer than it takes a waiter to look for itself whether the holder lives.
const LONG: Duration = Duration::from_millis(250);

fn is_asleep(thread: u32) -> bool {
    status_line(thread, "State").is_some_and(|state| state.starts_with('S'))
}

fn this_thread() -> u32 {
    // SAFETY: asks for a number.
    unsafe { libc::gettid() as u32 }
}

/// Waits until somebody who announced himself in `ready` sleeps.
#[track_caller]
fn wait_for_sleeper(ready: &Queue<u32>) {
    let thread = ready.get().unwrap();
    eventually(|| is_asleep(thread));
}

fn start<R>(process: Process<R>) -> Child<R> {
    process.start().unwrap()
}

/// Kills a child, which ends by that and by nothing else.
#[track_caller]
fn kill<R: fmt::Debug + mp::Returned>(child: &Child<R>) {
    child.kill();
    child.join().unwrap_err();
    let status = child.exit_status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

/// What acquiring a lock gave, at once or after a while.
type Got = Result<(), OwnerDied>;

/// Holds the lock until it is let go.
#[mp::task]
fn hold(lock: Lock, ready: Queue<u32>, go: Queue<()>) {
    let _guard = lock.acquire().unwrap();
    ready.put(this_thread()).unwrap();
    let _ = go.get();
}

/// Starts a child that holds the lock until the queue is closed.
fn holder(lock: &Lock, name: &str) -> (Child<()>, Queue<()>) {
    let (ready, go) = (Queue::new().unwrap(), Queue::new().unwrap());
    let arguments = (lock.clone(), ready.clone(), go.clone());
    let child = start(Process::new(hold, arguments).name(name));
    ready.get().unwrap();
    (child, go)
}

#[mp::task]
fn acquire(lock: Lock, ready: Queue<u32>) -> Got {
    ready.put(this_thread()).unwrap();
    lock.acquire().map(drop)
}

#[mp::task]
fn acquire_timeout(lock: Lock, ready: Queue<u32>, wait: Duration) -> Option<Got> {
    ready.put(this_thread()).unwrap();
    match lock.acquire_timeout(wait) {
        Ok(guard) => {
            drop(guard);
            Some(Ok(()))
        }
        Err(AcquireTimeoutError::OwnerDied(died)) => Some(Err(died)),
        Err(AcquireTimeoutError::Timeout) => None,
    }
}

/// Asks for a lock in each way that does not wait: `None` if it is held.
#[mp::task]
fn look(lock: Lock) -> Option<Got> {
    match lock.try_acquire() {
        Ok(guard) => {
            drop(guard);
            Some(Ok(()))
        }
        Err(TryAcquireError::OwnerDied(died)) => Some(Err(died)),
        Err(TryAcquireError::WouldBlock) => None,
    }
}

fn look_elsewhere(lock: &Lock) -> Option<Got> {
    start(Process::new(look, (lock.clone(),))).join().unwrap()
}

#[track_caller]
fn assert_names(died: &OwnerDied, pid: u32, name: &str) {
    assert_eq!((died.pid(), died.name()), (pid, name));
}

// Mutual exclusion.

/// A number in a file, which only a lock makes safe to change.
struct Counter(File);

impl Counter {
    fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).open(path);
        Self(file.unwrap())
    }

    fn get(&self) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn set(&self, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), 0).unwrap();
    }
}

#[mp::task]
fn count_up(lock: Lock, path: PathBuf, threads: u32, times: u64) {
    let counter = Counter::open(&path);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (lock, counter) = (&lock, &counter);
            scope.spawn(move || {
                for _ in 0..times {
                    // Whichever way it is acquired.
                    let guard = match thread % 4 {
                        0 => lock.acquire().unwrap(),
                        1 => lock.acquire_timeout(Duration::from_secs(3600)).unwrap(),
                        2 => lock.recover(),
                        _ => loop {
                            match lock.try_acquire() {
                                Ok(guard) => break guard,
                                Err(error) => assert_eq!(error, TryAcquireError::WouldBlock),
                            }
                            thread::yield_now();
                        },
                    };
                    counter.set(counter.get() + 1);
                    drop(guard);
                }
            });
        }
    });
}

#[test]
fn lock_excludes_processes_and_threads() {
    let _watchdog = watchdog(120);
    let file = tempfile::NamedTempFile::new().unwrap();
    let counter = Counter::open(file.path());
    counter.set(0);
    let (lock, times) = (Lock::new().unwrap(), 300 * MORE);
    let arguments = || (lock.clone(), file.path().to_owned(), 4, times);
    let children = [(); 3].map(|()| start(Process::new(count_up, arguments())));
    count_up(lock.clone(), file.path().to_owned(), 4, times);
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(counter.get(), 4 * 4 * times);
    assert!(!lock.is_locked());
}

#[test]
fn lock_is_held_until_its_guard_is_dropped() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let same = lock.clone();
    assert!(!lock.is_locked());
    let guard = lock.acquire().unwrap();
    assert!(lock.is_locked() && same.is_locked());
    // Not even its holder acquires it twice.
    assert_eq!(same.try_acquire().unwrap_err(), TryAcquireError::WouldBlock);
    thread::scope(|scope| {
        scope.spawn(|| assert!(lock.try_acquire().is_err()));
    });
    assert_eq!(look_elsewhere(&lock), None);
    drop(guard);
    assert!(!lock.is_locked());
    assert_eq!(look_elsewhere(&lock), Some(Ok(())));
    let guard = same.try_acquire().unwrap();
    assert!(lock.is_locked());
    drop(guard);
    drop(lock.acquire_timeout(Duration::ZERO).unwrap());
}

#[test]
fn holder_in_another_process_keeps_everybody_out() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let (child, go) = holder(&lock, "holder");
    assert!(lock.is_locked());
    assert_eq!(lock.try_acquire().unwrap_err(), TryAcquireError::WouldBlock);
    let error = lock.acquire_timeout(Duration::ZERO).unwrap_err();
    assert_eq!(error, AcquireTimeoutError::Timeout);
    assert_eq!(look_elsewhere(&lock), None);
    go.close();
    drop(lock.acquire().unwrap());
    child.join().unwrap();
}

#[test]
fn waiters_are_served_one_after_the_other() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    for _ in 0..5 * MORE {
        let guard = lock.acquire().unwrap();
        let waiters = [(); 3].map(|()| {
            let arguments = (lock.clone(), ready.clone());
            start(Process::new(acquire, arguments))
        });
        for _ in &waiters {
            wait_for_sleeper(&ready);
        }
        drop(guard);
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Ok(()));
        }
    }
}

#[test]
fn acquire_timeout_waits_at_least_that_long() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let _guard = lock.acquire().unwrap();
    for wait in [0, 40, 260].map(Duration::from_millis) {
        let start = Instant::now();
        let error = lock.acquire_timeout(wait).unwrap_err();
        assert!(start.elapsed() >= wait);
        assert_eq!(error, AcquireTimeoutError::Timeout);
        assert_eq!(error.to_string(), "the lock was held until the timeout");
    }
}

#[test]
fn acquire_timeout_acquires_as_soon_as_the_lock_is_free() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    // The largest can't be added to a time, and is none.
    for wait in [Duration::from_secs(3600), Duration::MAX] {
        let guard = lock.acquire().unwrap();
        let arguments = (lock.clone(), ready.clone(), wait);
        let waiter = start(Process::new(acquire_timeout, arguments));
        wait_for_sleeper(&ready);
        assert_eq!(waiter.try_join().unwrap(), None);
        drop(guard);
        assert_eq!(waiter.join().unwrap(), Some(Ok(())));
    }
}

#[test]
fn waiter_that_gave_up_is_not_missed() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    let guard = lock.acquire().unwrap();
    let short = (lock.clone(), ready.clone(), Duration::from_millis(50));
    let first = start(Process::new(acquire_timeout, short));
    let second = start(Process::new(acquire, (lock.clone(), ready.clone())));
    ready.get().unwrap();
    ready.get().unwrap();
    assert_eq!(first.join().unwrap(), None);
    drop(guard);
    assert_eq!(second.join().unwrap(), Ok(()));
    assert!(!lock.is_locked());
}

#[mp::task]
fn panic_with(lock: Lock) {
    let _guard = lock.acquire().unwrap();
    panic!("while it holds the lock");
}

#[test]
fn panic_releases_the_lock() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let child = start(Process::new(panic_with, (lock.clone(),)));
    assert!(child.join().unwrap_err().is_panic());
    drop(lock.acquire().unwrap());
    let panic = || {
        let _guard = lock.acquire().unwrap();
        panic!("here too");
    };
    catch_unwind(AssertUnwindSafe(panic)).unwrap_err();
    drop(lock.try_acquire().unwrap());
}

// Where locks travel.

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Till {
    lock: Lock,
    others: Vec<Option<Lock>>,
}

#[mp::task]
fn hand_back(tills: Queue<Till>) -> Till {
    tills.get().unwrap()
}

#[mp::task]
fn make_lock() -> Lock {
    Lock::new().unwrap()
}

#[test]
fn locks_travel_in_structs_items_and_results() {
    let _watchdog = watchdog(60);
    let till = Till {
        lock: Lock::new().unwrap(),
        others: vec![None, Some(Lock::new().unwrap())],
    };
    let tills = Queue::new().unwrap();
    tills.put(till.clone()).unwrap();
    let child = start(Process::new(hand_back, (tills.clone(),)));
    let back = child.join().unwrap();
    let guard = back.lock.acquire().unwrap();
    assert!(till.lock.is_locked());
    drop(guard);
    assert!(!till.lock.is_locked());
    let _other = back.others[1].as_ref().unwrap().acquire().unwrap();
    assert!(till.others[1].as_ref().unwrap().is_locked());
    assert!(!till.lock.is_locked());
}

#[test]
fn lock_outlives_the_process_that_made_it() {
    let _watchdog = watchdog(60);
    let child = start(Process::new(make_lock, ()));
    let lock = child.join().unwrap();
    drop(child);
    let guard = lock.acquire().unwrap();
    assert_eq!(look_elsewhere(&lock), None);
    drop(guard);
    assert_eq!(look_elsewhere(&lock), Some(Ok(())));
}

// A holder dies.

#[test]
fn death_of_the_holder_is_told_to_all_who_wait() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    let (victim, _go) = holder(&lock, "victim");
    let waiters = [(); 3].map(|()| {
        let arguments = (lock.clone(), ready.clone());
        start(Process::new(acquire, arguments))
    });
    let timed = (lock.clone(), ready.clone(), Duration::from_secs(3600));
    let timed = start(Process::new(acquire_timeout, timed));
    let told = thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| acquire(lock.clone(), ready.clone())));
        for _ in 0..6 {
            wait_for_sleeper(&ready);
        }
        kill(&victim);
        threads.map(|thread| thread.join().unwrap())
    });
    let told = told
        .into_iter()
        .chain(waiters.map(|waiter| waiter.join().unwrap()))
        .chain([timed.join().unwrap().unwrap()]);
    for died in told {
        assert_names(&died.unwrap_err(), victim.id(), "victim");
    }
}

#[test]
fn death_of_the_holder_is_told_to_all_who_ask_until_recover() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let (victim, _go) = holder(&lock, "victim");
    kill(&victim);
    for _ in 0..3 {
        let died = lock.acquire().unwrap_err();
        assert_names(&died, victim.id(), "victim");
        assert!(died.to_string().contains("\"victim\""), "{died}");
        assert!(died.to_string().contains("recover()"), "{died}");
        assert!(died.source().is_none());
        let told = TryAcquireError::OwnerDied(died.clone());
        assert_eq!(lock.try_acquire().unwrap_err(), told);
        let told = AcquireTimeoutError::OwnerDied(died.clone());
        assert_eq!(lock.acquire_timeout(Duration::MAX).unwrap_err(), told);
        assert_eq!(look_elsewhere(&lock), Some(Err(died)));
        assert!(!lock.is_locked(), "nobody holds it");
    }
    // Whoever recovers it holds it, and nobody is told any more.
    let guard = lock.recover();
    assert!(lock.is_locked());
    assert_eq!(look_elsewhere(&lock), None);
    drop(guard);
    drop(lock.acquire().unwrap());
    assert_eq!(look_elsewhere(&lock), Some(Ok(())));
    // Until the next death.
    let (next, _go) = holder(&lock, "next");
    kill(&next);
    assert_names(&lock.acquire().unwrap_err(), next.id(), "next");
}

#[test]
fn dead_holder_is_named_when_its_successor_runs() {
    let _watchdog = watchdog(60);
    // Nobody looks at the lock before other processes had the chance to take the dead one's place.
    for _ in 0..3 {
        let lock = Lock::new().unwrap();
        let (victim, _go) = holder(&lock, "first of its kind");
        kill(&victim);
        let others = [(); 3].map(|()| {
            let lock = Lock::new().unwrap();
            holder(&lock, "somebody else")
        });
        let died = lock.acquire().unwrap_err();
        assert_names(&died, victim.id(), "first of its kind");
        assert_eq!(look_elsewhere(&lock), Some(Err(died)));
        for (other, go) in others {
            go.close();
            other.join().unwrap();
        }
    }
}

#[test]
fn each_lock_of_the_dead_is_marked_and_no_other() {
    let _watchdog = watchdog(60);
    let locks: Vec<_> = (0..20).map(|_| Lock::new().unwrap()).collect();
    let ready = Queue::new().unwrap();
    let arguments = (locks.clone(), ready.clone());
    let child = start(Process::new(hold_every_second, arguments).name("hoarder"));
    ready.get().unwrap();
    kill(&child);
    for (index, lock) in locks.iter().enumerate() {
        match lock.acquire() {
            Ok(_guard) => assert_eq!(index % 2, 1),
            Err(died) => {
                assert_eq!(index % 2, 0);
                assert_names(&died, child.id(), "hoarder");
            }
        }
    }
}

#[mp::task]
fn hold_every_second(locks: Vec<Lock>, ready: Queue<u32>) {
    // Each was held by it before; that is over for every second one.
    let guards: Vec<_> = locks.iter().map(|lock| lock.acquire().unwrap()).collect();
    let _kept: Vec<_> = guards.into_iter().step_by(2).collect();
    ready.put(this_thread()).unwrap();
    loop {
        thread::park();
    }
}

#[mp::task]
fn exit_with(lock: Lock, code: i32) {
    let _guard = lock.acquire().unwrap();
    std::process::exit(code);
}

#[test]
fn exit_and_leak_count_as_death() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    for code in [0, 3] {
        let child = start(Process::new(exit_with, (lock.clone(), code)).name("leaver"));
        child.join().unwrap_err();
        assert_names(&lock.acquire().unwrap_err(), child.id(), "leaver");
        drop(lock.recover());
    }
    let child = start(Process::new(forget, (lock.clone(),)).name("leaker"));
    child.join().unwrap();
    assert_names(&lock.acquire().unwrap_err(), child.id(), "leaker");
}

#[mp::task]
fn forget(lock: Lock) {
    std::mem::forget(lock.acquire().unwrap());
}

#[test]
fn long_names_are_cut() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let name = "ä".repeat(50);
    let (victim, _go) = holder(&lock, &name);
    kill(&victim);
    let died = lock.acquire().unwrap_err();
    assert_names(&died, victim.id(), &"ä".repeat(32));
}

#[test]
fn recover_waits_for_a_holder_that_lives() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    let (child, go) = holder(&lock, "living");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            ready.put(this_thread()).unwrap();
            drop(lock.recover());
        });
        wait_for_sleeper(&ready);
        assert!(!waiter.is_finished() && lock.is_locked());
        go.close();
        waiter.join().unwrap();
    });
    child.join().unwrap();
    // And nothing is there to be recovered from.
    drop(lock.recover());
    drop(lock.acquire().unwrap());
}

#[test]
fn recover_that_waits_gets_the_lock_of_a_holder_that_dies() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    let (victim, _go) = holder(&lock, "victim");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            ready.put(this_thread()).unwrap();
            drop(lock.recover());
        });
        wait_for_sleeper(&ready);
        kill(&victim);
        waiter.join().unwrap();
    });
    drop(lock.acquire().unwrap());
}

#[mp::task]
fn recover_and_hold(lock: Lock, ready: Queue<u32>) {
    let _guard = lock.recover();
    ready.put(this_thread()).unwrap();
    loop {
        thread::park();
    }
}

#[test]
fn death_of_who_recovers_is_told_as_its_own() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    let (first, _go) = holder(&lock, "first");
    kill(&first);
    assert_names(&lock.acquire().unwrap_err(), first.id(), "first");
    let second = Process::new(recover_and_hold, (lock.clone(), ready.clone()));
    let second = start(second.name("second"));
    ready.get().unwrap();
    kill(&second);
    assert_names(&lock.acquire().unwrap_err(), second.id(), "second");
    drop(lock.recover());
    drop(lock.acquire().unwrap());
}

#[mp::task]
fn start_holder(lock: Lock, ready: Queue<u32>) {
    let go = Queue::new().unwrap();
    let arguments = (lock, ready, go);
    let grandchild = start(Process::new(hold, arguments).name("grandchild"));
    grandchild.join().unwrap();
}

#[test]
fn grandchild_that_dies_with_its_parent_is_named() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    let child = start(Process::new(start_holder, (lock.clone(), ready.clone())));
    let grandchild = ready.get().unwrap();
    assert!(lock.try_acquire().is_err());
    kill(&child);
    // It ends as its parent did, and those who wait are told.
    assert_names(&lock.acquire().unwrap_err(), grandchild, "grandchild");
}

// A waiter dies.

#[test]
fn killed_waiter_is_not_noticed() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    let guard = lock.acquire().unwrap();
    let waiters = [(); 3].map(|()| {
        let waiter = start(Process::new(acquire, (lock.clone(), ready.clone())));
        wait_for_sleeper(&ready);
        waiter
    });
    // The first and the last in the row.
    kill(&waiters[0]);
    kill(&waiters[2]);
    drop(guard);
    assert_eq!(waiters[1].join().unwrap(), Ok(()));
    assert!(!lock.is_locked());
    drop(lock.acquire().unwrap());
}

#[test]
fn waiter_killed_as_it_was_woken_takes_no_wake_up_with_it() {
    let _watchdog = watchdog(180);
    let mut random = Random::new();
    let mut ends = [0; 3];
    for _ in 0..40 * MORE {
        let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
        let guard = lock.acquire().unwrap();
        let waiters = [(); 2].map(|()| start(Process::new(acquire, (lock.clone(), ready.clone()))));
        wait_for_sleeper(&ready);
        wait_for_sleeper(&ready);
        drop(guard);
        for _ in 0..random.below(3000) {
            std::hint::spin_loop();
        }
        let dead = random.below(2) as usize;
        waiters[dead].kill();
        // Whether or not the dead one was woken, or had the lock, the other comes through.
        match waiters[1 - dead].join().unwrap() {
            Ok(()) => ends[0] += 1,
            Err(died) => {
                assert_eq!(died.pid(), waiters[dead].id());
                ends[1] += 1;
            }
        }
        ends[2] += i32::from(waiters[dead].join().is_err());
        drop(lock.recover());
        drop(lock.acquire().unwrap());
    }
    eprintln!(
        "{} not told, {} told, {} killed in time",
        ends[0], ends[1], ends[2]
    );
}

/// Acquires and releases for ever; recovers if it must, and notes of whom.
#[mp::task]
fn acquire_for_ever(lock: Lock, path: PathBuf, told: Queue<u32>) {
    let counter = Counter::open(&path);
    loop {
        match lock.acquire() {
            Ok(_guard) => change(&counter),
            Err(died) => {
                let _guard = lock.recover();
                told.put(died.pid()).unwrap();
            }
        }
    }
}

/// Leaves an even number, and one that rises.
fn change(counter: &Counter) {
    // It is odd, and somebody died: that is put right by the next.
    let value = counter.get().next_multiple_of(2);
    counter.set(value + 1);
    thread::yield_now();
    assert_eq!(counter.get(), value + 1, "somebody else has changed it");
    counter.set(value + 2);
}

#[test]
fn random_kills_neither_block_nor_break_the_lock() {
    let _watchdog = watchdog(180);
    let mut random = Random::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let counter = Counter::open(file.path());
    counter.set(0);
    let (lock, told) = (Lock::new().unwrap(), Queue::new().unwrap());
    let new = || {
        let arguments = (lock.clone(), file.path().to_owned(), told.clone());
        start(Process::new(acquire_for_ever, arguments))
    };
    let mut children = [(); 3].map(|()| new());
    let mut killed = Vec::new();
    for _ in 0..25 * MORE {
        let victim = &mut children[random.below(3) as usize];
        thread::sleep(Duration::from_micros(random.below(5000)));
        kill(victim);
        killed.push(victim.id());
        *victim = new();
        // The others go on. A child that failed its own assertion is found by its status.
        let seen = counter.get();
        eventually(|| counter.get() > seen);
    }
    for child in children {
        kill(&child);
        killed.push(child.id());
    }
    for pid in std::iter::from_fn(|| told.try_get().ok()) {
        assert!(killed.contains(&pid), "{pid} was not killed: {killed:?}");
    }
    assert_eq!(told.lost(), 0);
    drop(lock.recover());
    drop(lock.acquire().unwrap());
}

// A holder stops.

#[test]
fn stopped_holder_is_not_dead() {
    let _watchdog = watchdog(60);
    let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
    let (child, go) = holder(&lock, "stopped");
    let waiter = start(Process::new(acquire, (lock.clone(), ready.clone())));
    wait_for_sleeper(&ready);
    send_signal(child.id(), libc::SIGSTOP);
    eventually(|| status_line(child.id(), "State").is_some_and(|state| state.starts_with('T')));
    let error = lock.acquire_timeout(LONG).unwrap_err();
    assert_eq!(error, AcquireTimeoutError::Timeout);
    assert_eq!(lock.try_acquire().unwrap_err(), TryAcquireError::WouldBlock);
    assert!(lock.is_locked());
    assert_eq!(waiter.try_join().unwrap(), None);
    go.close();
    assert!(lock.acquire_timeout(LONG).is_err());
    send_signal(child.id(), libc::SIGCONT);
    assert_eq!(waiter.join().unwrap(), Ok(()));
    drop(lock.acquire().unwrap());
    child.join().unwrap();
}

// Signals.

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Has SIGUSR1 interrupt system calls.
fn install_handler() {
    let handler: extern "C" fn(i32) = count_signal;
    // SAFETY: all zeros is a valid `sigaction` without flags, above all without SA_RESTART.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler only counts, and `action` is valid.
    let result = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

fn interrupt(thread: u32) {
    // SAFETY: takes integers.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, libc::SIGUSR1) };
}

#[test]
fn signals_do_not_end_a_wait() {
    alone("signals_do_not_end_a_wait", || {
        let _watchdog = watchdog(60);
        install_handler();
        let (lock, ready) = (Lock::new().unwrap(), Queue::new().unwrap());
        let waiters: [&(dyn Fn() + Sync); 3] = [
            &|| drop(lock.acquire().unwrap()),
            &|| drop(lock.acquire_timeout(Duration::from_secs(3600)).unwrap()),
            &|| drop(lock.recover()),
        ];
        for waiter in waiters {
            let guard = lock.acquire().unwrap();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    ready.put(this_thread()).unwrap();
                    waiter();
                });
                let thread = ready.get().unwrap();
                for _ in 0..30 {
                    eventually(|| is_asleep(thread));
                    let before = SIGNALS.load(Ordering::Relaxed);
                    interrupt(thread);
                    eventually(|| SIGNALS.load(Ordering::Relaxed) > before);
                }
                assert!(!waiter.is_finished());
                drop(guard);
                waiter.join().unwrap();
            });
        }
        // A deadline is neither forgotten nor met early.
        let _guard = lock.acquire().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                ready.put(this_thread()).unwrap();
                let start = Instant::now();
                assert!(lock.acquire_timeout(LONG).is_err());
                start.elapsed()
            });
            let thread = ready.get().unwrap();
            while !waiter.is_finished() {
                interrupt(thread);
                thread::sleep(Duration::from_millis(1));
            }
            assert!(waiter.join().unwrap() >= LONG);
        });
    });
}

// How it looks.

#[test]
fn debug_tells_the_holder() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    assert_eq!(format!("{lock:?}"), "Lock { holder: none }");
    let guard = lock.acquire().unwrap();
    assert_eq!(format!("{lock:?}"), "Lock { holder: this process }");
    drop(guard);
    assert_eq!(format!("{lock:?}"), "Lock { holder: none }");

    let (child, _go) = holder(&lock, "Ada");
    let id = child.id();
    assert_eq!(
        format!("{lock:?}"),
        format!("Lock {{ holder: Ada ({id}) }}")
    );
    kill(&child);
    let text = format!("{lock:?}");
    assert!(text.starts_with("Lock { holder: none"), "{text}");
    let died = lock.acquire().unwrap_err();
    let marked = format!("Lock {{ holder: none, owner_died: {died:?} }}");
    assert_eq!(format!("{lock:?}"), marked);
    assert_eq!(
        format!("{died:?}"),
        format!("OwnerDied {{ pid: {id}, name: \"Ada\" }}")
    );
    let guard = lock.recover();
    assert_eq!(format!("{lock:?}"), "Lock { holder: this process }");
    drop(guard);
    assert_eq!(format!("{lock:?}"), "Lock { holder: none }");
}
