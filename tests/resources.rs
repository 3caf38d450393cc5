//! Whatever comes of them, processes, pools and what processes share leave nothing behind: no
//! descriptor, mapping, child, zombie, thread, file or shared memory.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use mp::{
    Address, Array, Barrier, Bytes, Client, Condition, Connection, Event, Key, List, Listener,
    Lock, Manager, Map, Pool, Process, Queue, RLock, RemoteManager, RwLock, Semaphore, Shared,
    Stdio, Value,
};
use serde::{Deserialize, Serialize};
use support::{
    alone, alone_command, alone_with, children, eventually, is_alone, run_alone, send_signal,
    status_line, watchdog,
};

/// What a process has.
#[derive(Debug)]
struct Holdings {
    /// What its descriptors are of, and how many of each.
    descriptors: BTreeMap<String, usize>,
    /// Mapped files, and how many mappings of each.
    files: BTreeMap<String, usize>,
    threads: usize,
    /// Those that run, and those that ended and were not waited for.
    children: usize,
    /// Files in a temporary directory that nobody else uses.
    temporary: Vec<String>,
    /// Files in `/dev/shm` that could be ours.
    shared: Vec<String>,
    /// Units of shared memory in use, and objects in it.
    units: u64,
    objects: u32,
    /// What the audit finds wrong: among other things what a burial that goes on has yet to free.
    faults: Vec<String>,
}

impl Holdings {
    fn now() -> Self {
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
            // The one of the directory that is being read is gone when it is looked at.
            if let Ok(target) = fs::read_link(entry.path()) {
                let kind = target.to_string_lossy();
                // Sockets and pipes have a number each.
                let kind = kind.split(":[").next().unwrap_or_default();
                if !kind.ends_with("/fd") {
                    *descriptors.entry(kind.to_owned()).or_default() += 1;
                }
            }
        }
        let mut files = BTreeMap::new();
        for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
            // Memory that the C library keeps for itself is not counted here.
            if let Some(path) = line.split_whitespace().nth(5)
                && path.starts_with('/')
            {
                *files.entry(path.to_owned()).or_default() += 1;
            }
        }
        let audit = mp::__private::audit().unwrap();
        Self {
            descriptors,
            files,
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
            children: children().len(),
            temporary: names(&std::env::temp_dir()),
            shared: names(Path::new("/dev/shm"))
                .into_iter()
                .filter(|name| name.contains("mp"))
                .collect(),
            units: audit.process_units + audit.object_units,
            objects: audit.objects,
            faults: audit.faults,
        }
    }

    /// Whether there is no more than `before`. Less there may be: mp's own thread lets go of a child
    /// a moment after it was joined.
    fn is_within(&self, before: &Self) -> bool {
        let no_more = |now: &BTreeMap<String, usize>, before: &BTreeMap<String, usize>| {
            now.iter()
                .all(|(key, count)| before.get(key) >= Some(count))
        };
        no_more(&self.descriptors, &before.descriptors)
            && no_more(&self.files, &before.files)
            && self.threads <= before.threads
            && self.children == 0
            && self.temporary.is_empty()
            && self.shared.iter().all(|name| before.shared.contains(name))
            && (self.units, self.objects) == (0, 0)
            && self.faults.is_empty()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .count()
}

/// Runs a scenario many times, in a process and with a temporary directory of its own; it must have
/// no more after all of them than after the first.
#[track_caller]
fn leaves_nothing(name: &str, mut scenario: impl FnMut() + Send + 'static) {
    const TIMES: usize = 20;
    let directory = (!is_alone(name)).then(|| tempfile::tempdir().unwrap());
    alone_with(
        name,
        |command| {
            command.env("TMPDIR", directory.as_ref().unwrap().path());
        },
        || {
            let mut run = move || {
                // On a thread of its own, because a thread keeps memory from call to call.
                std::thread::scope(|scope| {
                    let thread = scope.spawn(&mut scenario);
                    thread.join().unwrap();
                });
            };
            // The first time the arena and mp's own threads are made, which stay.
            run();
            let mut before = Holdings::now();
            eventually(|| {
                before = Holdings::now();
                (before.units, before.objects, before.children) == (0, 0, 0)
            });
            assert_eq!(before.temporary, [""; 0]);
            let mapped = mappings();
            for _ in 0..TIMES {
                run();
            }
            let mut after = Holdings::now();
            for _ in 0..6000 {
                if after.is_within(&before) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
                after = Holdings::now();
            }
            assert!(after.is_within(&before), "{before:#?}\nand now {after:#?}");
            // The C library keeps memory of threads that ended, but not of each.
            assert!(mappings() < mapped + TIMES, "{mapped}, now {}", mappings());
        },
    );
}

/// Waits until mp has found every child ended: nobody joins some of them.
fn settled() {
    eventually(|| children().is_empty());
}

// What children do.

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum End {
    Return,
    Panic,
    Exit,
    Abort,
    Kill,
}

const ENDS: [End; 5] = [End::Return, End::Panic, End::Exit, End::Abort, End::Kill];

#[mp::task]
fn end(how: End, data: Vec<u8>) -> Vec<u8> {
    // No core dump of what is meant to crash.
    // SAFETY: points to a valid limit.
    unsafe {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
    }
    match how {
        End::Return => {}
        End::Panic => panic!("as wanted"),
        End::Exit => std::process::exit(3),
        End::Abort => std::process::abort(),
        End::Kill => send_signal(std::process::id(), libc::SIGKILL),
    }
    data
}

#[mp::task]
fn wait(queue: Queue<u64>) -> u64 {
    queue.get().unwrap_or(0)
}

#[mp::task]
fn own_descriptors() -> Vec<String> {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_string_lossy().into_owned();
            let target = fs::read_link(entry.path()).ok()?;
            Some(format!("{number} {}", target.to_string_lossy()))
        })
        .collect()
}

fn null() -> Stdio {
    Stdio::null()
}

// Processes.

#[test]
fn process_leaves_nothing_however_it_ends() {
    let _watchdog = watchdog(120);
    leaves_nothing("process_leaves_nothing_however_it_ends", || {
        let children = ENDS.map(|how| {
            Process::new(end, (how, vec![7; 100_000]))
                .stderr(null())
                .start()
                .unwrap()
        });
        for (child, how) in children.iter().zip(ENDS) {
            assert_eq!(child.join().is_ok(), matches!(how, End::Return));
        }
    });
}

#[test]
fn process_that_nobody_joins_leaves_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("process_that_nobody_joins_leaves_nothing", || {
        for how in ENDS {
            let child = Process::new(end, (how, vec![7; 100_000]))
                .stderr(null())
                .start()
                .unwrap();
            drop(child);
        }
        settled();
    });
}

#[test]
fn process_that_is_killed_leaves_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("process_that_is_killed_leaves_nothing", || {
        let idle = Queue::new().unwrap();
        let children: Vec<_> = (0..3)
            .map(|_| Process::new(wait, (idle.clone(),)).start().unwrap())
            .collect();
        for child in &children {
            child.kill();
        }
        for child in children {
            child.join().unwrap_err();
            assert_eq!(child.exit_status().unwrap().signal(), Some(libc::SIGKILL));
        }
    });
}

#[test]
fn streams_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("streams_leave_nothing", || {
        for is_taken in [false, true] {
            let child = Process::new(end, (End::Return, vec![]))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .start()
                .unwrap();
            if is_taken {
                drop(child.take_stdin());
                let mut text = String::new();
                child
                    .take_stdout()
                    .unwrap()
                    .read_to_string(&mut text)
                    .unwrap();
                child
                    .take_stderr()
                    .unwrap()
                    .read_to_string(&mut text)
                    .unwrap();
            }
            child.join().unwrap();
        }
    });
}

fn no_task(_: u8) {}

#[test]
fn failed_start_leaves_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("failed_start_leaves_nothing", || {
        let queue = Queue::<u8>::new().unwrap();
        assert!(Process::new(no_task, (1,)).start().is_err());
        let process = Process::new(end, (End::Return, vec![7; 100_000]));
        assert!(process.env("A=B", "").start().is_err());
        // It fails in the child: that is found when it is joined.
        let child = Process::new(end, (End::Return, vec![7; 100_000]))
            .current_dir("/no/such/directory")
            .start()
            .unwrap();
        assert!(child.join().unwrap_err().is_not_started());
        drop(queue);
    });
}

#[test]
fn scope_leaves_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("scope_leaves_nothing", || {
        let queue = Queue::new().unwrap();
        mp::scope(|scope| {
            for _ in 0..3 {
                scope.start(Process::new(wait, (queue.clone(),))).unwrap();
            }
            for number in 0..3 {
                queue.put(number).unwrap();
            }
        });
        assert!(queue.is_empty());
    });
}

/// Starts children that run until their parent ends.
#[mp::task]
fn leave_children(depth: u32, idle: Queue<u64>) {
    let arguments = (depth.saturating_sub(1), idle.clone());
    if depth > 0 {
        let child = Process::new(leave_children, arguments).start().unwrap();
        drop(child);
    }
    let _daemon = Process::new(wait, (idle.clone(),)).daemon(true).start();
    idle.get().unwrap();
}

#[test]
fn descendants_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("descendants_leave_nothing", || {
        let idle = Queue::new().unwrap();
        let child = Process::new(leave_children, (2, idle.clone()))
            .start()
            .unwrap();
        std::thread::yield_now();
        child.kill();
        child.join().unwrap_err();
        drop(idle);
        settled();
    });
}

/// Not a moment later either, when another thread still looks after the child.
#[test]
fn result_goes_with_its_handle() {
    alone("result_goes_with_its_handle", || {
        let _watchdog = watchdog(60);
        let go = Queue::new().unwrap();
        let units = || mp::__private::audit().unwrap().process_units;
        for round in 0..3 {
            let child = Process::new(wait, (go.clone(),)).start().unwrap();
            let active = mp::active_children();
            assert_eq!(active.len(), 1);
            if round < 2 {
                go.put(5).unwrap();
                assert_eq!(child.join().unwrap(), 5);
                assert!(units() > 0);
                drop(child);
            } else {
                drop(child);
                go.put(5).unwrap();
                eventually(|| !active[0].is_alive());
            }
            assert_eq!(units(), 0);
        }
    });
}

/// A child has the standard streams, its socket and the arena, and nothing else of its parent's.
#[test]
fn child_inherits_only_what_it_needs() {
    let _watchdog = watchdog(60);
    leaves_nothing("child_inherits_only_what_it_needs", || {
        let file = tempfile::tempfile().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let child = Process::new(own_descriptors, ()).start().unwrap();
        let found = child.join().unwrap();
        let own =
            |fd: &dyn AsRawFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        for fd in [&file as &dyn AsRawFd, &listener, &reader, &writer] {
            let target = own(fd);
            let target = target.to_str().unwrap();
            assert!(!found.iter().any(|line| line.contains(target)), "{found:?}");
        }
        let count = |kind| found.iter().filter(|line| line.contains(kind)).count();
        assert_eq!((count("socket:["), count("/memfd:")), (1, 1), "{found:?}");
        // What our parent's shell gave to everybody may be there as well; none of these is.
        assert_eq!((count("eventpoll"), count("pidfd")), (0, 0), "{found:?}");
        drop((file, listener, reader, writer));
    });
}

// Queues and locks.

#[derive(Clone, Serialize, Deserialize)]
struct Tree {
    name: String,
    inner: Option<Queue<Tree>>,
    lock: Lock,
}

#[test]
fn queues_and_locks_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("queues_and_locks_leave_nothing", || {
        let outer = Queue::new().unwrap();
        for number in 0..20 {
            let inner = Queue::new().unwrap();
            let tree = |inner| Tree {
                name: "x".repeat(number * 1000),
                inner,
                lock: Lock::new().unwrap(),
            };
            inner.put(tree(None)).unwrap();
            outer.put(tree(Some(inner))).unwrap();
        }
        // Half of them die with the queue.
        for _ in 0..10 {
            let tree: Tree = outer.get().unwrap();
            drop(tree.lock.acquire().unwrap());
            tree.inner.unwrap().get().unwrap();
        }
    });
}

#[mp::task]
fn put_and_hold(queue: Queue<Tree>, held: Lock) {
    let _guard = held.acquire().unwrap();
    loop {
        let inner = Queue::new().unwrap();
        let tree = |inner| Tree {
            name: "y".repeat(20_000),
            inner,
            lock: held.clone(),
        };
        inner.put(tree(None)).unwrap();
        queue.put(tree(Some(inner))).unwrap();
    }
}

#[test]
fn killed_users_of_queues_and_locks_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("killed_users_of_queues_and_locks_leave_nothing", || {
        let queue = Queue::bounded(3).unwrap();
        let lock = Lock::new().unwrap();
        let child = Process::new(put_and_hold, (queue.clone(), lock.clone()))
            .start()
            .unwrap();
        let kept = queue.get().unwrap();
        child.kill();
        child.join().unwrap_err();
        assert!(lock.acquire().is_err());
        drop(lock.recover());
        assert!(kept.inner.unwrap().len() == 1);
    });
}

// Primitives.

/// One of each.
#[derive(Clone, Serialize, Deserialize)]
struct Primitives {
    lock: Lock,
    recursive: RLock,
    readers: RwLock,
    permits: Semaphore,
    changed: Condition,
    event: Event,
    barrier: Barrier,
    value: Value<u64>,
}

impl Primitives {
    fn new() -> Self {
        Self {
            lock: Lock::new().unwrap(),
            recursive: RLock::new().unwrap(),
            readers: RwLock::new().unwrap(),
            permits: Semaphore::new(2).unwrap(),
            changed: Condition::new().unwrap(),
            event: Event::new().unwrap(),
            barrier: Barrier::new(2).unwrap(),
            value: Value::new(0).unwrap(),
        }
    }
}

#[mp::task]
fn use_primitives(all: Primitives) -> Primitives {
    let guard = all.lock.acquire().unwrap();
    let (guard, _) = all
        .changed
        .wait_timeout(guard, Duration::from_millis(1))
        .unwrap();
    drop(guard);
    drop(all.recursive.acquire().unwrap());
    drop(all.readers.read().unwrap());
    drop(all.permits.acquire());
    all.value.fetch_add(1);
    all.event.set();
    all.barrier.wait().unwrap();
    all
}

#[test]
fn primitives_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("primitives_leave_nothing", || {
        let all = Primitives::new();
        let child = Process::new(use_primitives, (all.clone(),)).start();
        all.event.wait();
        all.barrier.wait().unwrap();
        let back = child.unwrap().join().unwrap();
        assert_eq!(back.value.load(), 1);
        // Some die with the queue that they are in.
        let queue = Queue::new().unwrap();
        queue.put_many([all, back, Primitives::new()]).unwrap();
        drop(queue.get().unwrap());
    });
}

/// Holds of each what can be held, and says so.
#[mp::task]
fn hold_primitives(all: Primitives, held: Queue<()>) {
    let _lock = all.lock.acquire().unwrap();
    let _outer = all.recursive.acquire().unwrap();
    let _inner = all.recursive.acquire().unwrap();
    let _reading = all.readers.read().unwrap();
    let _permits = [all.permits.acquire(), all.permits.acquire()];
    let _value = all.value.lock().unwrap();
    held.put(()).unwrap();
    let _ = all.barrier.wait();
    std::thread::park();
}

#[test]
fn killed_holders_of_primitives_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("killed_holders_of_primitives_leave_nothing", || {
        let (all, held) = (Primitives::new(), Queue::new().unwrap());
        let child = Process::new(hold_primitives, (all.clone(), held.clone()));
        let child = child.start().unwrap();
        held.get().unwrap();
        child.kill();
        child.join().unwrap_err();
        drop((all.lock.recover(), all.recursive.recover()));
        drop((all.readers.write().unwrap(), all.value.recover()));
        assert_eq!(all.permits.available(), 2);
        assert!(all.barrier.is_broken());
    });
}

// Values, arrays, shared data.

#[derive(Clone, Serialize, Deserialize)]
struct Memory {
    values: Array<u64>,
    bytes: Bytes,
    numbers: Shared<[f64]>,
    text: Shared<str>,
}

impl Memory {
    fn new() -> Self {
        Self {
            values: Array::zeroed(30_000).unwrap(),
            bytes: Bytes::from_file("Cargo.toml").unwrap(),
            numbers: Shared::filled(50_000, |numbers: &mut [f64]| numbers.fill(0.5)).unwrap(),
            text: Shared::from_text(&"long ".repeat(100)).unwrap(),
        }
    }
}

#[mp::task]
fn use_memory(memory: Memory) -> Memory {
    memory
        .values
        .write(7, &[memory.bytes.len() as u64])
        .unwrap();
    let numbers = memory.numbers.iter().map(|number| number * 2.0);
    Memory {
        numbers: Shared::from_values(numbers).unwrap(),
        bytes: memory.bytes.slice(1..),
        ..memory
    }
}

#[test]
fn shared_memory_leaves_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("shared_memory_leaves_nothing", || {
        let memory = Memory::new();
        let child = Process::new(use_memory, (memory.clone(),)).start().unwrap();
        let back = child.join().unwrap();
        assert_eq!((back.numbers[9], back.numbers.len()), (1.0, 50_000));
        drop(memory);
        assert_ne!(back.values.get(7).unwrap(), Some(0));
        let queue = Queue::new().unwrap();
        queue.put_many([back, Memory::new()]).unwrap();
        assert!(Bytes::from_file("/no/such/file").is_err());
        std::panic::catch_unwind(|| Bytes::filled(1 << 20, |_| panic!("as wanted"))).unwrap_err();
    });
}

#[mp::task]
fn hold_memory(memory: Memory, ready: Queue<()>) {
    let _own = Memory::new();
    let _guard = memory.values.lock().unwrap();
    ready.put(()).unwrap();
    std::thread::park();
}

#[test]
fn killed_holders_of_shared_memory_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("killed_holders_of_shared_memory_leave_nothing", || {
        let (memory, ready) = (Memory::new(), Queue::new().unwrap());
        let child = Process::new(hold_memory, (memory.clone(), ready.clone()));
        let child = child.start().unwrap();
        ready.get().unwrap();
        let values = memory.values.clone();
        drop(memory);
        child.kill();
        child.join().unwrap_err();
        assert!(values.lock().is_err());
    });
}

// Pipes.

type Pictures = Connection<Memory, Memory>;

#[mp::task]
fn echo(end: Pictures) {
    for memory in &end {
        end.send(memory).unwrap();
    }
}

#[test]
fn pipes_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("pipes_leave_nothing", || {
        let (here, there) = mp::pipe::<Memory, Memory>().unwrap();
        let child = Process::new(echo, (there,)).start().unwrap();
        for _ in 0..3 {
            here.send(Memory::new()).unwrap();
        }
        let ready = mp::wait(&[&here, &child], None).unwrap();
        assert_eq!(ready, [0]);
        let descriptor = here.descriptor().unwrap();
        here.recv().unwrap();
        drop(descriptor);
        // Two are on their way yet.
        drop(here);
        let _ = child.join();
        // And what nobody ever receives.
        let (one, other) = mp::pipe::<Memory, Vec<u8>>().unwrap();
        one.send(Memory::new()).unwrap();
        other.send(vec![7; 100_000]).unwrap();
        one.send_bytes(&[7; 100_000]).unwrap();
    });
}

#[test]
fn killed_users_of_pipes_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("killed_users_of_pipes_leave_nothing", || {
        let (here, there) = mp::pipe::<Memory, Memory>().unwrap();
        let child = Process::new(echo, (there,)).start().unwrap();
        here.send(Memory::new()).unwrap();
        here.recv().unwrap();
        here.send(Memory::new()).unwrap();
        child.kill();
        child.join().unwrap_err();
        // What it sent before may be there.
        while here.recv().is_ok() {}
        assert!(here.send(Memory::new()).is_err());
    });
}

// Managers, and connections between programs.

#[mp::task]
fn fill(lists: Map<String, List<Memory>>) {
    let list = lists.get(&"list".to_owned()).unwrap().unwrap();
    for _ in 0.. {
        list.push(&Memory::new()).unwrap();
    }
}

#[test]
fn managers_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("managers_leave_nothing", || {
        let manager = Manager::new().unwrap();
        let list = List::<Memory>::new(&manager).unwrap();
        list.push(&Memory::new()).unwrap();
        let lists = Map::<String, List<Memory>>::new(&manager).unwrap();
        lists.insert(&"list".to_owned(), &list).unwrap();
        let client = Process::new(fill, (lists.clone(),)).start().unwrap();
        while list.len().unwrap() < 3 {}
        client.kill();
        client.join().unwrap_err();
        assert!(list.pop().unwrap().is_some());
        manager.shutdown().unwrap();
        drop((list, lists, manager));
        settled();
    });
}

#[test]
fn managers_that_listen_or_are_killed_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("managers_that_listen_or_are_killed_leave_nothing", || {
        let key = Key::new("the key of these tests").unwrap();
        let socket = std::env::temp_dir().join("manager");
        for is_killed in [false, true] {
            let manager = Manager::new().unwrap();
            let list = List::<String>::new(&manager).unwrap();
            manager.publish("list", &list).unwrap();
            let address = manager.listen(Address::Unix(socket.clone()), &key).unwrap();
            let remote = RemoteManager::connect(&address, &key).unwrap();
            let there = remote.get::<List<String>>("list").unwrap();
            there.push(&"from afar".to_owned()).unwrap();
            if is_killed {
                send_signal(manager.process_id().unwrap(), libc::SIGKILL);
                eventually(|| list.len().is_err());
                // A killed one cannot take its socket's file along.
                fs::remove_file(&socket).unwrap();
            } else {
                manager.shutdown().unwrap();
            }
        }
        settled();
    });
}

#[test]
fn listeners_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("listeners_leave_nothing", || {
        let key = Key::new("the key of these tests").unwrap();
        let addresses = [
            Address::Unix(std::env::temp_dir().join("listener")),
            Address::Tcp("127.0.0.1:0".to_owned()),
        ];
        for address in addresses {
            let listener = Listener::<Vec<u8>, Vec<u8>>::bind(address, &key).unwrap();
            std::thread::scope(|scope| {
                let client = scope.spawn(|| {
                    let wrong = Key::new("another key than theirs").unwrap();
                    Client::<(), ()>::connect(listener.address(), &wrong).unwrap_err();
                    Client::<Vec<u8>, Vec<u8>>::connect(listener.address(), &key).unwrap()
                });
                listener.accept().unwrap_err();
                let accepted = listener.accept().unwrap();
                let client = client.join().unwrap();
                accepted.send(&vec![7; 100_000]).unwrap();
                assert_eq!(client.recv().unwrap().len(), 100_000);
            });
        }
    });
}

// Pools.

#[mp::task]
fn item(number: u64) -> Vec<u64> {
    if number % 100 == 99 {
        send_signal(std::process::id(), libc::SIGKILL);
    }
    vec![number; 1000]
}

#[test]
fn pool_leaves_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("pool_leaves_nothing", || {
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.map(item, 0..50).unwrap().len(), 50);
        let outcomes = pool.try_map(item, 0..150).unwrap();
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.is_err()).count(),
            1
        );
        pool.close();
        pool.join().unwrap();
    });
}

#[mp::task]
fn block(queue: Queue<u64>) -> u64 {
    queue.get().unwrap_or(0)
}

#[test]
fn pool_that_is_dropped_at_work_leaves_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("pool_that_is_dropped_at_work_leaves_nothing", || {
        let pool = Pool::new(2).unwrap();
        let queue = Queue::new().unwrap();
        let mut results = pool.imap_unordered(block, vec![queue.clone(); 10]).unwrap();
        queue.put(5).unwrap();
        queue.put(5).unwrap();
        assert_eq!(results.next().unwrap().unwrap(), 5);
        drop(results);
        drop(pool);
        // Workers that were never ready end as well.
        drop(Pool::new(3).unwrap());
    });
}

#[test]
fn jobs_leave_nothing() {
    let _watchdog = watchdog(120);
    leaves_nothing("jobs_leave_nothing", || {
        let pool = Pool::new(2).unwrap();
        let queue = Queue::new().unwrap();
        let job = |number| pool.submit(item, (number,)).unwrap();
        job(1).wait().unwrap();
        job(99).wait().unwrap_err();
        let (sender, results) = std::sync::mpsc::channel();
        job(2).on_done(move |result| sender.send(result.unwrap().len()).unwrap());
        assert_eq!(results.recv().unwrap(), 1000);
        assert_eq!(mp::as_completed((0..20).map(job)).count(), 20);
        drop(job(3));
        for is_cancelled in [true, false] {
            let blocked = pool.submit(block, (queue.clone(),)).unwrap();
            if is_cancelled {
                blocked.cancel();
                blocked.wait().unwrap_err();
            }
        }
        // The last one runs, or waits, when its pool ends.
        let many = pool.map_async(block, vec![queue; 10]).unwrap();
        drop(pool);
        many.wait().unwrap_err();
    });
}

// The whole program.

/// Starts what there is to start, says so, and waits to be killed.
fn start_everything() {
    let idle = Queue::new().unwrap();
    let lock = Lock::new().unwrap();
    let queue = Queue::<Tree>::new().unwrap();
    for _ in 0..2 {
        let arguments = (2, idle.clone());
        drop(Process::new(leave_children, arguments).start().unwrap());
    }
    let holder = Process::new(put_and_hold, (queue.clone(), lock.clone()));
    drop(holder.start().unwrap());
    let pool = Pool::new(2).unwrap();
    let work = Queue::new().unwrap();
    let mut results = pool.imap_unordered(block, vec![work.clone(); 10]).unwrap();
    work.put(1).unwrap();
    let _ = results.next();
    // Not by println!, which the test harness captures.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "started").unwrap();
    loop {
        std::thread::park();
    }
}

/// SIGKILL of the first process ends all others, and nothing of the program is left.
#[test]
fn killed_program_leaves_nothing() {
    const NAME: &str = "killed_program_leaves_nothing";
    let _watchdog = watchdog(120);
    if is_alone(NAME) {
        run_alone(start_everything);
        return;
    }
    let shared = || {
        let mut names = names(Path::new("/dev/shm"));
        names.retain(|name| name.contains("mp"));
        names
    };
    // Other programs may have some.
    let before = shared();
    for round in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let mut program = alone_command(NAME)
            .env("TMPDIR", directory.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Its descendants hold the pipe open.
        let mut said = program.stdout.take().unwrap();
        if round > 0 {
            let mut seen = Vec::new();
            while !seen.ends_with(b"started\n") {
                let mut byte = [0];
                assert_eq!(said.read(&mut byte).unwrap(), 1);
                seen.push(byte[0]);
            }
        }
        let id = program.id();
        assert_ne!(status_line(id, "State"), None);
        program.kill().unwrap();
        let status = program.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        // The end of file comes when the last of them is gone.
        said.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(names(directory.path()), [""; 0]);
        eventually(|| shared().iter().all(|name| before.contains(name)));
    }
}

/// Bytes of shared memory that this process has touched.
fn touched() -> u64 {
    let line = status_line(std::process::id(), "RssShmem").unwrap();
    let kib: u64 = line.trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

#[test]
fn semaphores_take_no_more_memory_than_they_use() {
    alone("semaphores_take_no_more_memory_than_they_use", || {
        let _watchdog = watchdog(120);
        // What comes with the first one.
        drop(Semaphore::new(1).unwrap().acquire());
        let before = touched();
        let semaphores: Vec<_> = (0..10_000).map(|_| Semaphore::new(1).unwrap()).collect();
        let unused = touched() - before;
        for semaphore in &semaphores {
            drop(semaphore.acquire());
        }
        let used = touched() - before;
        // Their entries in the table of objects, and a page for who has permits.
        assert!(unused < 16 << 20, "{unused} bytes");
        assert!(used < 64 << 20, "{used} bytes");
    });
}
