//! Managers and their clients that are killed at named points: nobody hangs, nothing leaks.
#![cfg(feature = "faults")]

mod support;

use std::sync::{Mutex, MutexGuard};
use std::thread;

use mp::{List, Manager, Process, Queue};
use support::{eventually, watchdog};

/// One test at a time: the audit is of the whole program.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Counts, and holds a queue by which its end can be seen.
struct Counter {
    count: u64,
    carried: Option<Queue<u64>>,
}

#[mp::shared]
impl Counter {
    fn new(carried: Queue<u64>) -> Self {
        let carried = Some(carried);
        Self { count: 0, carried }
    }

    fn incr(&mut self, bytes: Vec<u8>, carried: Queue<u64>) -> (u64, Vec<u8>, Queue<u64>) {
        self.count += 1;
        (self.count, bytes, self.carried.replace(carried).unwrap())
    }

    fn get(&self) -> u64 {
        self.count
    }
}

/// Calls an object that all have, and one of its own, `times` times; reports each call that was made.
#[mp::task]
fn call(manager: Manager, counter: SharedCounter, made: Queue<u64>, times: u64) -> mp::Result<()> {
    let own = SharedCounter::new(&manager, Queue::new()?)?;
    for n in 0..times {
        // Small ones, ones with a block of their own, and all with a handle.
        let bytes = vec![n as u8; if n % 3 == 0 { 20_000 } else { 10 }];
        let (_, same, _) = counter.incr(bytes.clone(), Queue::new()?)?;
        assert_eq!(same, bytes);
        made.put(n)?;
        own.incr(vec![], Queue::new()?)?;
    }
    Ok(())
}

/// Where a process that asks may die.
const ASKING: &[&str] = &[
    "manager.asked",
    "manager.answered",
    "put.encoded",
    "put.locked",
    "put.grown",
    "put.written",
    "put.announced",
    "put.owned",
    "put.committed",
    "put.unlocked",
    "get.locked",
    "take.announced",
    "take.committed",
    "take.owned",
    "get.taken",
    "get.unlocked",
    "get.decoded",
    "parcel.counted",
    "table.filled",
    "table.let_go",
    "redo.recorded",
    "redo.applied",
    "arena.owned",
    "arena.freed",
];

/// Where a manager may die besides.
const SERVING: &[&str] = &[
    "manager.taken",
    "manager.called",
    "manager.created",
    "manager.served",
    "manager.dropped",
];

#[test]
fn client_killed_at_any_point_costs_nobody_else_anything() {
    let _alone = alone();
    let _watchdog = watchdog(500);
    let before = mp::__private::audit().unwrap();
    let manager = Manager::new().unwrap();
    let counter = SharedCounter::new(&manager, Queue::new().unwrap()).unwrap();
    let mut expected = 0..=counter.get().unwrap();
    let settled = mp::__private::audit().unwrap();
    let mut killed = 0;
    for point in ASKING {
        for every in [1, 4] {
            let made = Queue::new().unwrap();
            let start = |fault: Option<String>| {
                let arguments = (manager.clone(), counter.clone(), made.clone(), 6);
                let mut process = Process::new(call, arguments);
                if let Some(fault) = fault {
                    process = process.env("MP_FAULT", fault);
                }
                process.start().unwrap()
            };
            let dies = start(Some(format!("{point}:{every}")));
            let lives = start(None);
            lives.join().unwrap().unwrap();
            match dies.join() {
                Ok(result) => result.unwrap(),
                Err(error) => {
                    killed += 1;
                    assert_eq!(error.signal(), Some(libc::SIGKILL), "{point}: {error}");
                }
            }
            // What it was told was made, was; one more may have been.
            let told = made.len() as u64;
            expected = expected.start() + told..=expected.end() + told + 1;
            let count = counter.get().unwrap();
            assert!(
                expected.contains(&count),
                "{point}:{every}: {count}, {expected:?}"
            );
            expected = count..=count;
        }
    }
    assert!(killed > ASKING.len(), "{killed} clients were killed");
    // The manager has dropped what they held, and has forgotten where it answered them.
    eventually(|| {
        let now = mp::__private::audit().unwrap();
        now.faults.is_empty() && now.objects == settled.objects
    });
    drop(counter);
    manager.shutdown().unwrap();
    drop(manager);
    eventually(|| {
        let now = mp::__private::audit().unwrap();
        now.faults.is_empty() && now.objects == before.objects
    });
}

#[test]
fn manager_killed_at_any_point_is_an_error_for_all_who_call() {
    let _alone = alone();
    let _watchdog = watchdog(500);
    let before = mp::__private::audit().unwrap();
    for point in SERVING.iter().chain(ASKING) {
        for every in [3, 8] {
            let manager = Manager::builder()
                .env("MP_FAULT", format!("{point}:{every}"))
                .build();
            let Ok(manager) = manager else { continue };
            let made = Queue::new().unwrap();
            let counter = SharedCounter::new(&manager, Queue::new().unwrap());
            let is_told = |error: mp::Error| assert!(error.is_owner_died(), "{point}: {error}");
            let Ok(counter) = counter.map_err(is_told) else {
                continue;
            };
            let children: Vec<_> = (0..2)
                .map(|_| {
                    let arguments = (manager.clone(), counter.clone(), made.clone(), 20);
                    Process::new(call, arguments).start().unwrap()
                })
                .collect();
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..20 {
                            let list = match List::<u64>::new(&manager) {
                                Ok(list) => list,
                                Err(error) => return is_told(error),
                            };
                            if let Err(error) = list.push_many(0..3) {
                                return is_told(error);
                            }
                        }
                    });
                }
            });
            for child in children {
                if let Err(error) = child.join().unwrap() {
                    is_told(error);
                }
            }
            // A manager that did not come to the point lives.
            if counter.get().is_ok() {
                manager.shutdown().unwrap();
            }
        }
    }
    eventually(|| {
        let now = mp::__private::audit().unwrap();
        now.faults.is_empty() && now.objects == before.objects
    });
}
