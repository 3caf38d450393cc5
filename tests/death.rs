//! A kill at each named point in turn: the one who dies there takes at most what it was at, and
//! everybody else goes on.
//!
//! Each point is a `fault!` in mp's source. A process that was started with `MP_FAULT=point:n` gets
//! SIGKILL when it comes there for the n-th time. Run with `--features faults`.
#![cfg(feature = "faults")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ChildStdout;
use std::thread;
use std::time::Duration;

use mp::__private::{Audit, audit};
use mp::{Child, GetError, Lock, Pool, Process, Queue, Stdio, TaskError};
use serde::{Deserialize, Serialize};
use support::{alone, eventually, watchdog};

// The points.

/// What a point is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Put,
    Get,
    Lock,
    /// Whoever takes memory and objects.
    Churn,
    /// The child, between its start and its end.
    Child,
    /// The parent that starts a child.
    Start,
    /// Whoever sees to what a dead child has left.
    Burial,
    Adoption,
    /// Whoever calls a manager, and the manager: see manager_death.rs.
    Manager,
    /// Whoever has the last handle of a pipe's end: see pipe_death.rs.
    Pipe,
    PoolWorker,
    PoolParent,
    /// The fork server, its parent and its child: `tests/fork_server_death.rs`.
    ForkServer,
    /// The primitives' users: `tests/sync_death.rs`.
    Sync,
}

/// Every point there is. `every_point_is_in_the_table_or_in_a_file_of_its_own` compares it with the source.
const POINTS: &[(&str, By)] = &[
    ("put.encoded", By::Put),
    ("put.locked", By::Put),
    ("put.grown", By::Put),
    ("put.written", By::Put),
    ("put.announced", By::Put),
    ("put.owned", By::Put),
    ("put.committed", By::Put),
    ("put.unlocked", By::Put),
    ("get.locked", By::Get),
    ("take.announced", By::Get),
    ("take.committed", By::Get),
    ("take.owned", By::Get),
    ("take.freed", By::Get),
    ("get.taken", By::Get),
    ("get.unlocked", By::Get),
    ("get.decoded", By::Get),
    ("lock.acquired", By::Lock),
    ("lock.releasing", By::Lock),
    ("event.raised", By::Sync),
    ("barrier.arrived", By::Sync),
    ("barrier.passed", By::Sync),
    ("shares.recorded", By::Sync),
    ("shares.struck", By::Sync),
    ("shares.unlocked", By::Sync),
    ("shares.consumed", By::Sync),
    ("shares.added", By::Sync),
    ("shares.reclaimed", By::Sync),
    ("semaphore.acquired", By::Sync),
    ("rwlock.entered", By::Sync),
    ("rwlock.claimed", By::Sync),
    ("rwlock.released", By::Sync),
    ("arena.owned", By::Churn),
    ("arena.freed", By::Churn),
    ("arena.cut", By::Churn),
    ("arena.extended", By::Churn),
    ("arena.split", By::Churn),
    ("arena.merged", By::Churn),
    ("arena.punching", By::Churn),
    ("table.filled", By::Churn),
    ("table.let_go", By::Churn),
    ("table.doomed", By::Churn),
    ("table.freed_one", By::Churn),
    ("table.emptied", By::Churn),
    ("parcel.counted", By::Churn),
    ("parcel.released", By::Churn),
    ("redo.recorded", By::Churn),
    ("redo.applying", By::Churn),
    ("redo.applied", By::Churn),
    ("child.claimed", By::Child),
    ("child.attached", By::Child),
    ("child.ready", By::Child),
    ("child.done", By::Child),
    ("child.committing", By::Child),
    ("child.committed", By::Child),
    ("start.reserved", By::Start),
    ("start.posted", By::Start),
    ("start.spawned", By::Start),
    ("fork.spawned", By::ForkServer),
    ("fork.sent", By::ForkServer),
    ("fork.ordered", By::ForkServer),
    ("fork.forked", By::ForkServer),
    ("fork.born", By::ForkServer),
    ("fork.taken", By::ForkServer),
    ("fork.asked", By::ForkServer),
    ("reap.dead", By::Burial),
    ("reap.woken", By::Burial),
    ("reap.counted", By::Burial),
    ("reap.let_go", By::Burial),
    ("reap.freed", By::Burial),
    ("lock.marking", By::Burial),
    ("adopt.burying", By::Adoption),
    ("manager.asked", By::Manager),
    ("manager.answered", By::Manager),
    ("manager.taken", By::Manager),
    ("manager.called", By::Manager),
    ("manager.created", By::Manager),
    ("manager.served", By::Manager),
    ("manager.dropped", By::Manager),
    ("pipe.closing", By::Pipe),
    ("pool.ready", By::PoolWorker),
    ("pool.idle", By::PoolWorker),
    ("pool.claimed", By::PoolWorker),
    ("pool.item", By::PoolWorker),
    ("pool.ran", By::PoolWorker),
    ("pool.packed", By::PoolWorker),
    ("pool.committing", By::PoolWorker),
    ("pool.handed", By::PoolWorker),
    ("pool.committed", By::PoolWorker),
    ("pool.filled", By::PoolParent),
    ("pool.offered", By::PoolParent),
    ("pool.put", By::PoolParent),
    ("pool.pushed", By::PoolParent),
    ("pool.harvesting", By::PoolParent),
    ("pool.requeueing", By::PoolParent),
    ("pool.harvested", By::PoolParent),
    ("pool.buried", By::PoolParent),
    ("pool.replacing", By::PoolParent),
];

fn points(by: By) -> impl Iterator<Item = &'static str> {
    POINTS
        .iter()
        .filter(move |point| point.1 == by)
        .map(|point| point.0)
}

#[test]
fn every_point_is_in_the_table_or_in_a_file_of_its_own() {
    fn find(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                find(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).unwrap();
                let names = text.split("fault!(\"").skip(1);
                found.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }
    let mut found = BTreeSet::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("mp-runtime/src");
    find(&source, &mut found);
    let known: BTreeSet<_> = POINTS.iter().map(|point| point.0.to_owned()).collect();
    let stale: Vec<_> = known.difference(&found).collect();
    assert!(stale.is_empty(), "the source has no such points: {stale:?}");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let elsewhere: String = fs::read_dir(tests)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with("_death.rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let untested: Vec<_> = found
        .difference(&known)
        // Alone, or as in "point:2".
        .filter(|point| !elsewhere.contains(&format!("\"{point}\"")))
        .filter(|point| !elsewhere.contains(&format!("\"{point}:")))
        .collect();
    assert!(untested.is_empty(), "no test dies at {untested:?}");
}

// Dying, and what is the same for every death.

const FAULT: &str = "MP_FAULT";

/// Units of processes and of objects, objects, and those that nobody holds; what is wrong with them.
fn books() -> ([u64; 4], Vec<String>) {
    let Audit {
        process_units,
        object_units,
        objects,
        unheld_objects,
        faults,
        ..
    } = audit().unwrap();
    let left = [
        process_units,
        object_units,
        objects.into(),
        unheld_objects.into(),
    ];
    (left, faults)
}

/// Runs a scenario, after which nothing of it may be left in shared memory.
#[track_caller]
fn scenario(name: &str, run: impl FnOnce() + Send + 'static) {
    // On a thread of its own, because a thread keeps memory from call to call.
    let ended = thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .unwrap()
        .join();
    assert!(ended.is_ok(), "the scenario of {name} failed");
    // What orphans had comes back when they are found ended.
    let mut left = books();
    for _ in 0..6000 {
        if left == Default::default() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
        left = books();
    }
    panic!("{name}: units of processes and objects, objects, and unheld ones are left: {left:?}");
}

/// A child and the numbers that it reports through its standard output.
struct Victim<R> {
    child: Child<R>,
    reports: ChildStdout,
}

/// Starts a child that is to die at `fault`, which is a point or `point:n`.
fn victim<R: mp::Transfer>(fault: &str, process: Process<R>) -> Victim<R> {
    let child = process
        .env(FAULT, fault)
        .name("victim")
        .stdout(Stdio::piped())
        .start()
        .unwrap();
    let reports = child.take_stdout().unwrap();
    Victim { child, reports }
}

/// Reports a number to whoever started this process as a victim.
fn report(number: u64) {
    let mut out = std::io::stdout();
    writeln!(out, "{number}").unwrap();
    out.flush().unwrap();
}

impl<R: mp::Transfer> Victim<R> {
    /// Waits for its death; returns the last words, and whether it was killed. Its children are
    /// gone as well: they would keep the pipe open.
    fn end(mut self) -> (Vec<u64>, Result<R, TaskError>, bool) {
        let mut text = String::new();
        self.reports.read_to_string(&mut text).unwrap();
        let result = self.child.join();
        let numbers = text.lines().map(|line| line.parse().unwrap()).collect();
        let status = self.child.exit_status().unwrap();
        let is_killed = status.signal() == Some(libc::SIGKILL);
        assert!(is_killed || result.is_ok(), "{status}: {:?}", result.err());
        (numbers, result, is_killed)
    }

    /// As [`end`](Self::end), for a victim that must have come to its point.
    #[track_caller]
    fn die(self) -> (Vec<u64>, TaskError) {
        let (numbers, result, is_killed) = self.end();
        assert!(is_killed, "the point was not reached");
        let Err(error) = result else {
            panic!("a result came from one who was killed before it had one");
        };
        assert_eq!(error.signal(), Some(libc::SIGKILL), "{error}");
        (numbers, error)
    }
}

// Values.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Size {
    /// In the queue's own memory.
    Small,
    /// The same, but a few of them fill a segment.
    Filling,
    /// In a block.
    Large,
    /// With a handle.
    Handle,
    /// In a block, with a handle.
    LargeHandle,
}

const SIZES: [Size; 5] = [
    Size::Small,
    Size::Filling,
    Size::Large,
    Size::Handle,
    Size::LargeHandle,
];

impl Size {
    fn has_block(self) -> bool {
        matches!(self, Self::Large | Self::LargeHandle)
    }

    fn has_handle(self) -> bool {
        matches!(self, Self::Handle | Self::LargeHandle)
    }

    fn len(self) -> usize {
        match self {
            Self::Small => 5,
            Self::Filling | Self::Handle => 7000,
            Self::Large => 200_000,
            Self::LargeHandle => 70_000,
        }
    }
}

/// A value that shows whether it is whole.
#[derive(Debug, Serialize, Deserialize)]
struct Item {
    number: u64,
    text: String,
    /// Holds as many as the number says, and one more.
    handle: Option<Queue<u64>>,
}

impl Item {
    fn new(number: u64, size: Size) -> Self {
        let digit = char::from(b'0' + (number % 10) as u8);
        // Nothing is put in there: that would pass the points of putting as well.
        let handle = size
            .has_handle()
            .then(|| Queue::bounded(number as usize + 1).unwrap());
        Self {
            number,
            text: std::iter::repeat_n(digit, size.len()).collect(),
            handle,
        }
    }

    /// The number of a value that is whole.
    #[track_caller]
    fn check(self, size: Size) -> u64 {
        let digit = b'0' + (self.number % 10) as u8;
        assert_eq!(self.text.len(), size.len());
        assert!(self.text.bytes().all(|byte| byte == digit));
        assert_eq!(self.handle.is_some(), size.has_handle());
        if let Some(handle) = &self.handle {
            assert_eq!(handle.capacity(), Some(self.number as usize + 1));
        }
        self.number
    }
}

#[track_caller]
fn drain(queue: &Queue<Item>, size: Size) -> Vec<u64> {
    let len = queue.len();
    let numbers: Vec<_> = std::iter::from_fn(|| queue.try_get().ok())
        .map(|item| item.check(size))
        .collect();
    assert_eq!(numbers.len(), len);
    assert!(queue.is_empty());
    numbers
}

/// Puts as many as it is told to.
#[mp::task]
fn put_items(queue: Queue<Item>, numbers: (u64, u64), size: Size) {
    for number in numbers.0..numbers.1 {
        queue.put(Item::new(number, size)).unwrap();
        report(number);
    }
}

/// Gets until there is no more.
#[mp::task]
fn get_items(queue: Queue<Item>, size: Size) {
    while let Ok(item) = queue.get() {
        report(item.check(size));
    }
}

/// The same, many at once.
#[mp::task]
fn get_batches(queue: Queue<Item>, most: usize) {
    while let Ok(items) = queue.get_many(most) {
        if items.is_empty() {
            return;
        }
        for item in items {
            report(item.number);
        }
    }
}

/// Gets until there is no more, and returns what it got.
#[mp::task]
fn collect_items(queue: Queue<Item>, size: Size) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        match queue.get() {
            Ok(item) => numbers.push(item.check(size)),
            Err(GetError::Closed) => return numbers,
            Err(error) => panic!("{error}"),
        }
    }
}

#[mp::task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

/// That a process can be started, run, and joined.
#[track_caller]
fn starts_still_work() {
    let child = Process::new(add, (40, 2))
        .env_remove(FAULT)
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), 42);
}

// Putting.

/// Whether a value is in the queue when its putter dies at that point.
fn is_committed(point: &str) -> bool {
    matches!(point, "put.committed" | "put.unlocked")
}

/// Which values reach a point of putting.
fn reaches_put(point: &str, size: Size) -> bool {
    match point {
        "put.announced" | "put.owned" => size.has_block() || size.has_handle(),
        _ => true,
    }
}

#[test]
fn putter_dies() {
    let _watchdog = watchdog(300);
    alone("putter_dies", || {
        starts_still_work();
        for point in points(By::Put) {
            for size in SIZES {
                if !reaches_put(point, size) {
                    continue;
                }
                let most = match (point, size) {
                    // Few values need a second segment.
                    ("put.grown", Size::Small | Size::Large | Size::LargeHandle) => 1,
                    _ => 3,
                };
                for count in 1..=most {
                    let fault = format!("{point}:{count}");
                    scenario(&format!("{fault} {size:?}"), move || {
                        putter_dies_at(&fault, size);
                    });
                }
            }
        }
    });
}

fn putter_dies_at(fault: &str, size: Size) {
    let point = fault.split(':').next().unwrap();
    let queue = Queue::new().unwrap();
    let mut expected = Vec::new();
    // The second one inherits what the first one left.
    for round in 0..2 {
        let first = 1000 * round;
        let numbers = (first, first + 40);
        let process = Process::new(put_items, (queue.clone(), numbers, size));
        let (reported, error) = victim(fault, process).die();
        assert!(error.is_crash(), "{error}");
        let put: Vec<_> = (first..).take(reported.len()).collect();
        assert_eq!(reported, put);
        expected.extend(put);
        if is_committed(point) {
            expected.push(first + reported.len() as u64);
        }
        assert_eq!(queue.len(), expected.len());
    }
    queue.put(Item::new(5555, size)).unwrap();
    expected.push(5555);
    assert_eq!(drain(&queue, size), expected);
    assert_eq!(queue.lost(), 0);
    starts_still_work();
}

/// A getter that sleeps gets what a putter committed and died before it could wake anybody.
#[test]
fn getter_sleeps_while_a_putter_dies() {
    let _watchdog = watchdog(200);
    alone("getter_sleeps_while_a_putter_dies", || {
        for point in points(By::Put) {
            for size in [Size::Small, Size::LargeHandle] {
                if reaches_put(point, size) {
                    scenario(&format!("{point} {size:?}"), move || {
                        getter_sleeps_while_a_putter_dies_at(point, size);
                    });
                }
            }
        }
    });
}

fn getter_sleeps_while_a_putter_dies_at(point: &str, size: Size) {
    let queue = Queue::new().unwrap();
    let getter = Process::new(collect_items, (queue.clone(), size))
        .start()
        .unwrap();
    eventually(|| is_asleep(getter.id()));
    let process = Process::new(put_items, (queue.clone(), (0, 40), size));
    let (reported, _) = victim(point, process).die();
    eventually(|| queue.is_empty());
    queue.put(Item::new(5555, size)).unwrap();
    queue.close();
    let got = getter.join().unwrap();
    let (last, got) = got.split_last().unwrap();
    assert_eq!(*last, 5555);
    assert!(got.iter().copied().eq(0..got.len() as u64));
    let more = got.len() - reported.len();
    assert!(more <= usize::from(is_committed(point)), "{more}");
    assert_eq!(queue.lost(), 0);
}

/// Whether the main thread of a process waits on a futex.
fn is_asleep(pid: u32) -> bool {
    // The number of the system call comes first.
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split_whitespace().next() == Some(&libc::SYS_futex.to_string())
}

// Getting.

/// Which values reach a point of getting.
fn reaches_get(point: &str, size: Size) -> bool {
    match point {
        "take.owned" | "get.unlocked" => size.has_block() || size.has_handle(),
        "take.freed" => matches!(size, Size::Filling | Size::Handle),
        _ => true,
    }
}

/// How many values are lost when their getter dies at that point.
fn is_lost(point: &str) -> bool {
    !matches!(point, "get.locked" | "take.announced")
}

#[test]
fn getter_dies() {
    let _watchdog = watchdog(300);
    alone("getter_dies", || {
        starts_still_work();
        for point in points(By::Get) {
            for size in SIZES {
                if !reaches_get(point, size) {
                    continue;
                }
                for count in 1..=2 {
                    let fault = format!("{point}:{count}");
                    scenario(&format!("{fault} {size:?}"), move || {
                        getter_dies_at(&fault, size);
                    });
                }
            }
        }
    });
}

fn getter_dies_at(fault: &str, size: Size) {
    const ITEMS: u64 = 40;
    let point = fault.split(':').next().unwrap();
    let queue = Queue::new().unwrap();
    for number in 0..ITEMS {
        queue.put(Item::new(number, size)).unwrap();
    }
    let mut gone = 0;
    let mut lost = 0;
    // The second one inherits what the first one left.
    for round in 0..2 {
        let process = Process::new(get_items, (queue.clone(), size));
        let (reported, error) = victim(fault, process).die();
        assert!(error.is_crash(), "{error}");
        assert!(
            reported
                .iter()
                .copied()
                .eq(gone..gone + reported.len() as u64)
        );
        gone += reported.len() as u64;
        // The segment that the first one did not free is freed before anything is taken.
        let is_repair = fault == "take.freed:1" && round == 1;
        if is_lost(point) && !is_repair {
            lost += 1;
            gone += 1;
        }
        assert_eq!(queue.lost(), lost, "lost");
        assert_eq!(queue.len() as u64, ITEMS - gone, "left");
    }
    queue.put(Item::new(ITEMS, size)).unwrap();
    assert!(drain(&queue, size).into_iter().eq(gone..=ITEMS));
    assert_eq!(queue.lost(), lost);
    starts_still_work();
}

/// Of many values that were taken at once all or none are lost, and counted.
#[test]
fn getter_of_many_dies() {
    let _watchdog = watchdog(120);
    alone("getter_of_many_dies", || {
        for point in points(By::Get) {
            if !reaches_get(point, Size::Small) {
                continue;
            }
            for count in 1..=2 {
                scenario(point, move || {
                    let queue = Queue::new().unwrap();
                    for number in 0..50 {
                        queue.put(Item::new(number, Size::Small)).unwrap();
                    }
                    let process = Process::new(get_batches, (queue.clone(), 8));
                    let (reported, _) = victim(&format!("{point}:{count}"), process).die();
                    assert!(reported.iter().copied().eq(0..8 * (count - 1)));
                    let lost = if is_lost(point) { 8 } else { 0 };
                    assert_eq!(queue.lost(), lost);
                    let left = drain(&queue, Size::Small);
                    assert!(left.into_iter().eq(reported.len() as u64 + lost..50));
                });
            }
        }
    });
}

/// A putter that sleeps uses the room that a getter made and died before it could wake anybody.
#[test]
fn putter_sleeps_while_a_getter_dies() {
    let _watchdog = watchdog(200);
    alone("putter_sleeps_while_a_getter_dies", || {
        for point in points(By::Get) {
            for size in [Size::Small, Size::Large] {
                // With so few values no segment is passed.
                if reaches_get(point, size) {
                    scenario(&format!("{point} {size:?}"), move || {
                        putter_sleeps_while_a_getter_dies_at(point, size);
                    });
                }
            }
        }
    });
}

fn putter_sleeps_while_a_getter_dies_at(point: &str, size: Size) {
    let queue = Queue::bounded(2).unwrap();
    let putter = Process::new(put_items, (queue.clone(), (0, 5), size))
        .stdout(Stdio::null())
        .start()
        .unwrap();
    eventually(|| queue.is_full() && is_asleep(putter.id()));
    let process = Process::new(get_items, (queue.clone(), size));
    let (reported, _) = victim(point, process).die();
    assert_eq!(reported, []);
    let lost = u64::from(is_lost(point));
    // Nobody else has taken anything: the room that is filled is the one that the dead one made.
    eventually(|| queue.is_full());
    assert_eq!(queue.lost(), lost);
    let got: Vec<_> = (lost..5)
        .map(|_| queue.get().unwrap().check(size))
        .collect();
    assert!(got.into_iter().eq(lost..5));
    putter.join().unwrap();
}

/// Values that were lost count as done.
#[test]
fn join_returns_though_a_getter_dies() {
    let _watchdog = watchdog(60);
    alone("join_returns_though_a_getter_dies", || {
        for point in ["take.announced", "take.committed", "get.decoded"] {
            scenario(point, move || {
                let queue = Queue::new().unwrap();
                for number in 0..3 {
                    queue.put(Item::new(number, Size::Small)).unwrap();
                }
                let process = Process::new(get_items, (queue.clone(), Size::Small));
                victim(point, process).die();
                for _ in drain(&queue, Size::Small) {
                    queue.task_done().unwrap();
                }
                queue.join().unwrap();
                assert!(queue.task_done().is_err());
            });
        }
    });
}

// Locks.

/// Takes the lock and lets it go, until it is told that somebody died.
#[mp::task]
fn use_lock(lock: Lock) -> (u32, String) {
    loop {
        if let Err(died) = lock.acquire() {
            return (died.pid(), died.name().to_owned());
        }
    }
}

/// Adds one to each place of a file, a hundred times, under the lock.
#[mp::task]
fn count_in_file(lock: Lock, path: String) {
    for _ in 0..100 {
        let _guard = lock.acquire().unwrap();
        let count: u64 = fs::read_to_string(&path).unwrap().parse().unwrap();
        fs::write(&path, (count + 1).to_string()).unwrap();
    }
}

#[track_caller]
fn lock_excludes(lock: &Lock) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "0").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let children: Vec<_> = (0..2)
        .map(|_| {
            Process::new(count_in_file, (lock.clone(), path.clone()))
                .start()
                .unwrap()
        })
        .collect();
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap(), "200");
}

#[test]
fn lock_holder_dies() {
    let _watchdog = watchdog(120);
    alone("lock_holder_dies", || {
        starts_still_work();
        for point in points(By::Lock) {
            for count in [1, 2, 50] {
                let fault = format!("{point}:{count}");
                scenario(&fault.clone(), move || {
                    let lock = Lock::new().unwrap();
                    let waiters: Vec<_> = (0..2)
                        .map(|_| Process::new(use_lock, (lock.clone(),)).start().unwrap())
                        .collect();
                    let victim = victim(&fault, Process::new(use_lock, (lock.clone(),)));
                    let pid = victim.child.id();
                    victim.die();
                    for waiter in waiters {
                        assert_eq!(waiter.join().unwrap(), (pid, "victim".to_owned()));
                    }
                    let died = lock.acquire().unwrap_err();
                    assert_eq!((died.pid(), died.name()), (pid, "victim"));
                    drop(lock.recover());
                    lock_excludes(&lock);
                });
            }
        }
    });
}

/// Starts a child that dies with the lock, and finds it dead.
#[mp::task]
fn find_holder_dead(lock: Lock, count: u32) {
    let child = Process::new(use_lock, (lock,))
        .env(FAULT, format!("lock.acquired:{count}"))
        .start()
        .unwrap();
    child.join().unwrap_err();
}

/// It dies while it tells the others that another one died.
#[test]
fn lock_heir_dies() {
    let _watchdog = watchdog(60);
    alone("lock_heir_dies", || {
        for count in [1, 2, 50] {
            scenario("lock.marking", move || {
                // The waiter may be quicker, and then there is nothing left to tell.
                assert!(
                    (0..50).any(|_| heir_dies(count)),
                    "the point was not reached"
                );
            });
        }
    });
}

/// Returns whether the heir died of it.
fn heir_dies(count: u32) -> bool {
    let lock = Lock::new().unwrap();
    let waiter = Process::new(use_lock, (lock.clone(),)).start().unwrap();
    let process = Process::new(find_holder_dead, (lock.clone(), count));
    let heir = victim("lock.marking", process);
    let pid = heir.child.id();
    let (.., is_killed) = heir.end();
    // The last who died with it, or if the waiter was quick, the first.
    let (died, _) = waiter.join().unwrap();
    assert_ne!(died, 0);
    assert_eq!(lock.acquire().unwrap_err().pid(), died);
    assert!(died == pid || !Path::new(&format!("/proc/{died}")).exists());
    assert!(lock.try_acquire().is_err());
    drop(lock.recover());
    lock_excludes(&lock);
    is_killed
}

/// One who dies while it puts the lock right again leaves it as one who dies with it.
#[mp::task]
fn recover_lock(lock: Lock) {
    drop(lock.recover());
}

#[test]
fn lock_recoverer_dies() {
    let _watchdog = watchdog(60);
    alone("lock_recoverer_dies", || {
        scenario("lock.releasing", || {
            let lock = Lock::new().unwrap();
            victim("lock.acquired", Process::new(use_lock, (lock.clone(),))).die();
            let recoverer = victim(
                "lock.releasing",
                Process::new(recover_lock, (lock.clone(),)),
            );
            let pid = recoverer.child.id();
            recoverer.die();
            assert_eq!(lock.acquire().unwrap_err().pid(), pid);
            drop(lock.recover());
            lock_excludes(&lock);
        });
    });
}

// Memory and objects.

/// Makes objects, puts and gets in a queue of its own, and lets go of all of it; now and then a
/// value goes to the others.
#[mp::task]
fn churn(queue: Queue<Item>, big: bool) {
    for number in 0..3 {
        let own = Queue::new().unwrap();
        let lock = Lock::new().unwrap();
        for size in SIZES {
            let item = Item::new(number, size);
            if let Some(handle) = &item.handle {
                handle.put(number).unwrap();
            }
            own.put(item).unwrap();
        }
        queue.put(Item::new(number, Size::LargeHandle)).unwrap();
        report(number);
        for size in SIZES {
            assert_eq!(own.get().unwrap().check(size), number);
        }
        // These die with their queue.
        own.put(Item::new(number, Size::Large)).unwrap();
        own.put(Item::new(number, Size::LargeHandle)).unwrap();
        drop((own, lock));
    }
    if big {
        let own = Queue::new().unwrap();
        own.put("x".repeat(80 << 20)).unwrap();
        drop(own);
    }
}

#[test]
fn owner_of_memory_dies() {
    let _watchdog = watchdog(400);
    alone("owner_of_memory_dies", || {
        starts_still_work();
        for point in points(By::Churn) {
            for count in 1.. {
                let fault = format!("{point}:{count}");
                let (reached, was_reached) = std::sync::mpsc::channel();
                scenario(&fault.clone(), move || {
                    reached.send(owner_of_memory_dies_at(&fault)).unwrap();
                });
                let was_reached = was_reached.recv().unwrap();
                assert!(was_reached || count > 1, "{point} is never reached");
                if !was_reached || count == 12 {
                    break;
                }
            }
        }
    });
}

/// Returns whether the point was reached.
fn owner_of_memory_dies_at(fault: &str) -> bool {
    let queue = Queue::new().unwrap();
    let witness = Item::new(7, Size::LargeHandle);
    let big = fault.starts_with("arena.punching");
    let process = Process::new(churn, (queue.clone(), big));
    let (reported, _, is_killed) = victim(fault, process).end();
    let numbers = drain(&queue, Size::LargeHandle);
    // One may be in the queue whose putter had no time to report it.
    let more = numbers.len() - reported.len();
    assert!(more <= 1, "{more}");
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64));
    assert_eq!(queue.lost(), 0);
    // What was ours before is as it was, and what is new is whole.
    assert_eq!(witness.check(Size::LargeHandle), 7);
    for size in SIZES {
        queue.put(Item::new(8, size)).unwrap();
        assert_eq!(queue.get().unwrap().check(size), 8);
    }
    if is_killed {
        starts_still_work();
    }
    is_killed
}

/// Two die at once, while two others work in the same memory.
#[test]
fn others_work_while_owners_of_memory_die() {
    let _watchdog = watchdog(200);
    alone("others_work_while_owners_of_memory_die", || {
        for point in points(By::Churn) {
            if point == "arena.punching" {
                continue;
            }
            scenario(point, move || {
                let queue = Queue::new().unwrap();
                let others: Vec<_> = (0..2)
                    .map(|_| {
                        Process::new(churn, (Queue::new().unwrap(), false))
                            .stdout(Stdio::null())
                            .start()
                            .unwrap()
                    })
                    .collect();
                let victims = [1, 2].map(|count| {
                    let process = Process::new(churn, (queue.clone(), false));
                    victim(&format!("{point}:{count}"), process)
                });
                let dead = victims.map(|victim| victim.end().2);
                assert!(dead.contains(&true), "{point} is never reached");
                for other in others {
                    other.join().unwrap();
                }
                drain(&queue, Size::LargeHandle);
            });
        }
    });
}

// The child.

#[mp::task]
fn echo(item: Item) -> Item {
    item
}

#[test]
fn child_dies() {
    let _watchdog = watchdog(120);
    alone("child_dies", || {
        starts_still_work();
        for point in points(By::Child) {
            for size in SIZES {
                scenario(&format!("{point} {size:?}"), move || {
                    let process = Process::new(echo, (Item::new(3, size),));
                    let (_, result, is_killed) = victim(point, process).end();
                    assert!(is_killed, "{point} was not reached");
                    match result {
                        // A result that was complete stays one.
                        Ok(item) => {
                            assert_eq!(point, "child.committed");
                            assert_eq!(item.check(size), 3);
                        }
                        Err(error) if point == "child.claimed" => {
                            assert!(error.is_not_started(), "{error}");
                            assert!(error.to_string().contains("SIGKILL"), "{error}");
                            assert!(!error.may_have_started());
                        }
                        Err(error) => {
                            assert!(error.is_crash(), "{error}");
                            assert_eq!(error.signal(), Some(libc::SIGKILL));
                            assert_eq!(error.process(), Some("victim"));
                            assert!(error.may_have_started());
                            assert_ne!(point, "child.committed");
                        }
                    }
                    starts_still_work();
                });
            }
        }
    });
}

// The parent of a child, itself a child.

/// Takes what can be taken and dies of a signal, or lives until its parent dies.
#[mp::task]
fn hold_everything(lock: Lock, queue: Queue<Item>, idle: Queue<Item>) {
    let waits = idle.clone();
    thread::spawn(move || waits.get().is_ok());
    let _guard = lock.acquire();
    let _mine = Item::new(1, Size::LargeHandle);
    // Dies in here if it is told to; else nobody knows how far it gets.
    let _ = queue.get();
    report(std::process::id().into());
    let _ = idle.get();
}

/// Starts a child that takes what can be taken; both stay until somebody ends them.
#[mp::task]
fn start_child(lock: Lock, queue: Queue<Item>, idle: Queue<Item>) {
    let arguments = (lock, queue, idle.clone());
    let child = Process::new(hold_everything, arguments)
        .env_remove(FAULT)
        .start();
    let _ = idle.get();
    drop(child);
}

#[test]
fn parent_dies_while_it_starts_a_child() {
    let _watchdog = watchdog(120);
    alone("parent_dies_while_it_starts_a_child", || {
        starts_still_work();
        for point in points(By::Start) {
            for _ in 0..5 {
                scenario(point, move || {
                    let (lock, queue) = (Lock::new().unwrap(), Queue::new().unwrap());
                    let idle = Queue::new().unwrap();
                    queue.put(Item::new(0, Size::LargeHandle)).unwrap();
                    let arguments = (lock.clone(), queue.clone(), idle.clone());
                    victim(point, Process::new(start_child, arguments)).die();
                    // The child, if it was, died with its parent: after an unknown while.
                    drop(lock.recover());
                    lock_excludes(&lock);
                    eventually(|| queue.len() as u64 + queue.lost() <= 1);
                    queue.put(Item::new(1, Size::LargeHandle)).unwrap();
                    assert_eq!(drain(&queue, Size::LargeHandle).last(), Some(&1));
                    starts_still_work();
                });
            }
        }
    });
}

/// Starts a child that dies with everything in its hands, and settles what that leaves.
#[mp::task]
fn settle_child(lock: Lock, queue: Queue<Item>, idle: Queue<Item>) {
    let child = Process::new(hold_everything, (lock, queue, idle))
        .env(FAULT, "get.decoded")
        .name("grandchild")
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGKILL));
}

#[test]
fn parent_dies_while_it_settles_a_child() {
    let _watchdog = watchdog(300);
    alone("parent_dies_while_it_settles_a_child", || {
        starts_still_work();
        // A burial frees memory and lets go of objects, so it comes to these as well.
        let memory = points(By::Churn).filter(|point| !point.starts_with("arena.punching"));
        let mut reached = BTreeSet::new();
        for point in points(By::Burial).chain(memory) {
            for count in 1..=4 {
                let fault = format!("{point}:{count}");
                let (tell, is_killed) = std::sync::mpsc::channel();
                scenario(&fault.clone(), move || {
                    tell.send(parent_dies_while_it_settles_a_child_at(&fault))
                        .unwrap();
                });
                if !is_killed.recv().unwrap() {
                    break;
                }
                reached.insert(point);
            }
        }
        for point in points(By::Burial) {
            assert!(reached.contains(point), "{point} is never reached");
        }
    });
}

/// Returns whether the point was reached.
fn parent_dies_while_it_settles_a_child_at(fault: &str) -> bool {
    let (lock, queue) = (Lock::new().unwrap(), Queue::new().unwrap());
    let idle = Queue::<Item>::new().unwrap();
    queue.put(Item::new(0, Size::LargeHandle)).unwrap();
    queue.put(Item::new(1, Size::LargeHandle)).unwrap();
    let arguments = (lock.clone(), queue.clone(), idle.clone());
    let (_, _, is_killed) = victim(fault, Process::new(settle_child, arguments)).end();
    // One value was in the grandchild's hands, if there ever was a grandchild.
    eventually(|| queue.len() as u64 + queue.lost() == 2);
    let lost = queue.lost();
    assert!(lost <= 1);
    match lock.acquire() {
        Ok(_) => assert_eq!(lost, 0, "who took the value had the lock"),
        Err(died) => assert_eq!(died.name(), "grandchild"),
    }
    drop(lock.recover());
    if fault.starts_with("reap.") {
        assert_eq!(lost, 1, "the grandchild dies before this point");
    }
    queue.put(Item::new(2, Size::LargeHandle)).unwrap();
    assert!(drain(&queue, Size::LargeHandle).into_iter().eq(lost..3));
    lock_excludes(&lock);
    starts_still_work();
    is_killed
}

/// Starts a child and waits for its end.
#[mp::task]
fn adopt_grandchild(lock: Lock, queue: Queue<Item>, idle: Queue<Item>) {
    let child = Process::new(leave_child, (lock, queue, idle.clone()))
        .env_remove(FAULT)
        .start()
        .unwrap();
    child.join().unwrap_err();
    let _ = idle.get();
}

/// Starts a child that holds what can be held, and is killed once that is so.
#[mp::task]
fn leave_child(lock: Lock, queue: Queue<Item>, idle: Queue<Item>) {
    let _child = Process::new(hold_everything, (lock.clone(), queue.clone(), idle))
        .name("orphan")
        .start()
        .unwrap();
    eventually(|| lock.is_locked() && queue.is_empty());
    support::send_signal(std::process::id(), libc::SIGKILL);
}

#[test]
fn adopter_dies() {
    let _watchdog = watchdog(120);
    alone("adopter_dies", || {
        for point in points(By::Adoption).chain(["reap.dead", "reap.let_go", "reap.freed"]) {
            for count in 1..=2 {
                let fault = format!("{point}:{count}");
                if fault == "adopt.burying:2" {
                    continue; // There is one orphan.
                }
                scenario(&fault.clone(), move || {
                    let (lock, queue) = (Lock::new().unwrap(), Queue::new().unwrap());
                    let idle = Queue::<Item>::new().unwrap();
                    queue.put(Item::new(0, Size::LargeHandle)).unwrap();
                    let arguments = (lock.clone(), queue.clone(), idle.clone());
                    victim(&fault, Process::new(adopt_grandchild, arguments)).die();
                    let died = lock.acquire().unwrap_err();
                    assert_eq!(died.name(), "orphan");
                    drop(lock.recover());
                    lock_excludes(&lock);
                    queue.put(Item::new(1, Size::LargeHandle)).unwrap();
                    assert_eq!(drain(&queue, Size::LargeHandle), [1]);
                    starts_still_work();
                });
            }
        }
    });
}

// Pools.

/// Returns a value with a handle for each odd number.
#[mp::task]
fn make_item(number: u64) -> Item {
    Item::new(number, size_of_item(number))
}

fn size_of_item(number: u64) -> Size {
    match number % 4 {
        0 => Size::Small,
        1 => Size::Handle,
        2 => Size::Large,
        _ => Size::LargeHandle,
    }
}

#[test]
fn worker_dies() {
    let _watchdog = watchdog(200);
    alone("worker_dies", || {
        starts_still_work();
        for point in points(By::PoolWorker) {
            for chunk_size in [1, 5] {
                for count in [1, 4] {
                    let fault = format!("{point}:{count}");
                    if matches!(point, "pool.ready" | "pool.idle") && count > 1 {
                        continue; // A worker comes there once, or nobody knows how often.
                    }
                    scenario(&fault.clone(), move || worker_dies_at(&fault, chunk_size));
                }
            }
        }
    });
}

fn worker_dies_at(fault: &str, chunk_size: u64) {
    const ITEMS: u64 = 30;
    let (point, count) = fault.split_once(':').unwrap();
    let pool = Pool::builder()
        .workers(2)
        .chunk_size(chunk_size)
        .env(FAULT, fault)
        .build()
        .unwrap();
    let outcomes = pool.try_map(make_item, 0..ITEMS).unwrap();
    assert_eq!(outcomes.len() as u64, ITEMS);
    let mut failed = 0;
    for (number, outcome) in (0..ITEMS).zip(outcomes) {
        match outcome {
            Ok(item) => assert_eq!(item.check(size_of_item(number)), number),
            Err(error) => {
                failed += 1;
                assert_eq!(error.index(), Some(number));
                let is_crash = error.is_crash() && error.signal() == Some(libc::SIGKILL);
                assert!(is_crash || error.is_lost(), "{error}");
                // What had begun is a crash; what was refused by workers that die at once is not.
                assert!(error.is_crash() || !error.may_have_started(), "{error}");
            }
        }
    }
    match point {
        // Each worker dies with the item it was at, and with that alone.
        "pool.item" | "pool.packed" | "pool.ran" => {
            assert!(failed > 0, "{point} was not reached");
            let runs: u64 = count.parse().unwrap();
            if point != "pool.packed" {
                assert!(failed <= ITEMS / runs, "{failed}");
            }
        }
        // A job whose results are complete is not lost.
        "pool.committing" | "pool.handed" | "pool.committed" => assert_eq!(failed, 0),
        // Workers that never do anything are given up at some time.
        "pool.ready" => assert_eq!(failed, ITEMS),
        "pool.claimed" if count == "1" => assert_eq!(failed, ITEMS),
        _ => {}
    }
    if point != "pool.idle" {
        let error = pool.broken_or_works();
        let may_stop = matches!(fault, "pool.ready:1" | "pool.claimed:1");
        assert!(error.is_none() || may_stop, "{error:?}");
    }
    drop(pool);
    starts_still_work();
}

trait BrokenOrWorks {
    /// The error with which the pool refuses to work, if it does.
    fn broken_or_works(&self) -> Option<mp::Error>;
}

impl BrokenOrWorks for Pool {
    fn broken_or_works(&self) -> Option<mp::Error> {
        self.try_map(add_one, 0..3_u64).err()
    }
}

#[mp::task]
fn add_one(number: u64) -> u64 {
    number + 1
}

/// Every fourth item aborts its worker.
#[mp::task]
fn fragile(number: u64) -> Item {
    if number % 8 == 5 {
        support::send_signal(std::process::id(), libc::SIGKILL);
    }
    Item::new(number, size_of_item(number))
}

/// Runs a pool of its own.
#[mp::task]
fn run_pool() -> usize {
    let pool = Pool::builder()
        .workers(2)
        .chunk_size(3)
        .env_remove(FAULT)
        .build()
        .unwrap();
    let mut good = 0;
    for outcome in pool.try_map(fragile, 0..24).unwrap() {
        good += usize::from(outcome.is_ok());
    }
    good
}

#[test]
fn parent_of_a_pool_dies() {
    let _watchdog = watchdog(200);
    alone("parent_of_a_pool_dies", || {
        starts_still_work();
        for point in points(By::PoolParent) {
            for count in 1..=3 {
                let fault = format!("{point}:{count}");
                scenario(&fault.clone(), move || {
                    let (_, result, is_killed) = victim(&fault, Process::new(run_pool, ())).end();
                    match result {
                        // Not all of them are reached so often.
                        Ok(good) => assert!(good == 21 && count > 1, "{fault}: {good}"),
                        Err(error) => assert!(is_killed && error.is_crash(), "{error}"),
                    }
                    starts_still_work();
                });
            }
        }
    });
}

/// Nobody dies without the variable: what the tests above see is the kill at the point.
#[test]
fn nobody_dies_of_a_point_that_is_not_named() {
    let _watchdog = watchdog(60);
    alone("nobody_dies_of_a_point_that_is_not_named", || {
        scenario("none", || {
            let fault = "no.such.point";
            let queue = Queue::new().unwrap();
            let size = Size::LargeHandle;
            let process = Process::new(put_items, (queue.clone(), (0, 40), size));
            assert!(!victim(fault, process).end().2);
            queue.close();
            let process = Process::new(get_items, (queue.clone(), size));
            assert_eq!(victim(fault, process).end().0.len(), 40);
            let process = Process::new(churn, (Queue::new().unwrap(), true));
            assert!(!victim(fault, process).end().2);
            let (_, good, is_killed) = victim(fault, Process::new(run_pool, ())).end();
            assert_eq!((good.unwrap(), is_killed), (21, false));
        });
    });
}
