//! Behaviours that CPython's own tests demand of `multiprocessing`, demanded of `mp`.
//!
//! Source: `Lib/test/_test_multiprocessing.py` and `Lib/test/test_multiprocessing_*` of CPython (PSF
//! licence 2). Rewritten: no code was taken over, each test states the behaviour anew in the terms of
//! `mp`. What differs is said at the test.
//!
//! A test is named after the area and the method that it answers, and after the class as well where
//! two classes of an area have a method of that name. Here is the area process, and what a lock shows;
//! the areas queue and lock are in `support/conformance`, but for what a recursive lock shows, which is in
//! `cpython_sync.rs`. Left out are:
//!
//! | behaviour | reason |
//! |---|---|
//! | process: `test_set_executable` | a child is always this program again, which is what lets it find the function |
//!
//! Parts of rows that cannot be written in `mp`: asking a child that was not started or a handle that
//! was closed (there is no such value), releasing a lock that is not held (the guard releases).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mp::{Child, Lock, Process, Queue, Stdio};
use serde::{Deserialize, Serialize};
use support::{alone, alone_with, eventually, watchdog};

const A_MOMENT: Duration = Duration::from_millis(30);

// What children and workers do.

#[mp::task]
fn process_id() -> u32 {
    std::process::id()
}

/// Says that it runs, and waits to be let go: by a value, or by the end of the queue.
#[mp::task]
fn wait_for(go: Queue<u32>, started: Queue<u32>) -> u32 {
    started.put(std::process::id()).unwrap();
    go.get().unwrap_or(0)
}

/// Starts a child that runs until it is let go.
fn waiting(name: &str) -> (Child<u32>, Queue<u32>) {
    let (go, started) = queues();
    let child = Process::new(wait_for, (go.clone(), started.clone()))
        .name(name)
        .start()
        .unwrap();
    assert_eq!(started.get().unwrap(), child.id());
    (child, go)
}

fn queues<T, U>() -> (Queue<T>, Queue<U>) {
    (Queue::new().unwrap(), Queue::new().unwrap())
}

/// Whether one of our children has that name, or begins with it.
fn is_active(prefix: &str) -> bool {
    let active = mp::active_children();
    active.iter().any(|child| child.name().starts_with(prefix))
}

/// How many descriptors this process has open. Those of a child that has ended may be among them for
/// a moment, so that a count from before is a bound and not what comes back.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

// Process.

#[mp::task]
fn current() -> (String, u32, bool) {
    let me = mp::current_process();
    (me.name().to_owned(), me.id(), me.is_daemon())
}

/// There is no authkey: nobody can connect to a program's processes from outside.
#[test]
fn process_test_current() {
    let _watchdog = watchdog(60);
    let me = mp::current_process();
    assert!(!me.is_daemon());
    assert!(me.is_main());
    assert!(!me.name().is_empty());
    assert_eq!(me.id(), std::process::id());
    let child = Process::new(current, ()).name("me").start().unwrap();
    let expected = ("me".to_owned(), child.id(), true);
    assert_eq!(child.join().unwrap(), expected);
}

#[mp::task]
fn daemon_flags() -> Result<[bool; 3], mp::AnyError> {
    let by_default = Process::new(current, ()).start()?;
    Ok([
        mp::current_process().is_daemon(),
        by_default.is_daemon(),
        by_default.join()?.2,
    ])
}

/// In the main process the default is true, unlike Python's.
#[test]
fn process_test_daemon_argument() {
    let _watchdog = watchdog(60);
    let flags = |process: Process<Result<[bool; 3], mp::AnyError>>| {
        let child = process.start().unwrap();
        let is_daemon = child.is_daemon();
        let inside = child.join().unwrap().unwrap();
        (is_daemon, inside)
    };
    let process = || Process::new(daemon_flags, ());
    assert_eq!(flags(process()), (true, [true; 3]));
    assert_eq!(flags(process().daemon(true)), (true, [true; 3]));
    // The grandchild's flag is that of its creator.
    assert_eq!(flags(process().daemon(false)), (false, [false; 3]));
}

#[mp::task]
fn parent() -> Option<(u32, String)> {
    mp::parent_process().map(|parent| (parent.id(), parent.name().to_owned()))
}

#[mp::task]
fn parent_of_grandchild() -> Result<Option<(u32, String)>, mp::AnyError> {
    Ok(Process::new(parent, ()).start()?.join()?)
}

#[test]
fn process_test_parent_process_attributes() {
    let _watchdog = watchdog(60);
    assert!(mp::parent_process().is_none());
    let child = Process::new(parent, ()).start().unwrap();
    let me = mp::current_process();
    let expected = Some((me.id(), me.name().to_owned()));
    assert_eq!(child.join().unwrap(), expected);

    let child = Process::new(parent_of_grandchild, ())
        .name("middle")
        .start()
        .unwrap();
    let expected = Some((child.id(), "middle".to_owned()));
    assert_eq!(child.join().unwrap().unwrap(), expected);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Told {
    arguments: (i32, i32, BTreeMap<String, f64>),
    name: String,
    id: u32,
}

#[mp::task]
fn tell(first: i32, second: i32, named: BTreeMap<String, f64>, told: Queue<Told>, go: Queue<()>) {
    let me = mp::current_process();
    told.put(Told {
        arguments: (first, second, named),
        name: me.name().to_owned(),
        id: me.id(),
    })
    .unwrap();
    go.get().unwrap();
}

/// Before the start there is no child that could be asked.
#[test]
fn process_test_process() {
    let _watchdog = watchdog(60);
    let (told, go) = queues::<Told, ()>();
    let named = BTreeMap::from([("hello".to_owned(), 23.0), ("bye".to_owned(), 2.54)]);
    let process = Process::new(tell, (1, 2, named.clone(), told.clone(), go.clone()))
        .name("SomeProcess")
        .daemon(true);
    assert!(!is_active("SomeProcess"));

    let child = process.start().unwrap();
    assert!(child.is_alive() && child.is_daemon());
    assert_eq!(child.exit_status(), None);
    assert!(is_active("SomeProcess"));
    let expected = Told {
        arguments: (1, 2, named),
        name: "SomeProcess".to_owned(),
        id: child.id(),
    };
    assert_eq!(told.get().unwrap(), expected);
    assert_ne!(child.id(), std::process::id());
    assert_eq!(child.name(), "SomeProcess");

    go.put(()).unwrap();
    child.join().unwrap();
    assert_eq!(child.exit_status().unwrap().code(), Some(0));
    assert!(!child.is_alive());
    assert!(!is_active("SomeProcess"));
}

/// The kernel's id of the thread that calls.
fn thread_id() -> u32 {
    // SAFETY: takes nothing.
    unsafe { libc::gettid() as u32 }
}

#[mp::task]
fn native_id() -> u32 {
    thread_id()
}

#[test]
fn process_test_process_mainthread_native_id() {
    let _watchdog = watchdog(60);
    let child = Process::new(native_id, ()).start().unwrap();
    let native_id = child.join().unwrap();
    // A task runs on its process's main thread, whose id is the process's.
    assert_eq!(native_id, child.id());
    assert_ne!(native_id, std::process::id());
    assert_ne!(native_id, thread_id());
}

#[test]
fn process_test_interrupt_no_handler() {
    let _watchdog = watchdog(60);
    let (child, _go) = waiting("interrupted");
    child.interrupt();
    assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGINT));
    let status = child.exit_status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGINT));
}

#[test]
fn process_test_terminate() {
    let _watchdog = watchdog(60);
    let (child, _go) = waiting("terminated");
    assert!(child.is_alive() && is_active("terminated"));
    assert_eq!(child.exit_status(), None);
    assert_eq!(child.join_timeout(Duration::ZERO).unwrap(), None);
    assert_eq!(child.try_join().unwrap(), None);
    assert!(child.is_alive());

    child.terminate();
    assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGTERM));
    let status = child.exit_status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGTERM));
    assert!(!child.is_alive() && !is_active("terminated"));
}

#[test]
fn process_test_cpu_count() {
    assert!(mp::cpu_count() >= 1);
}

#[test]
fn process_test_active_children() {
    let _watchdog = watchdog(60);
    let (go, started) = queues();
    let process = Process::new(wait_for, (go.clone(), started.clone())).name("active");
    assert!(!is_active("active"));
    let child = process.start().unwrap();
    let has = || {
        mp::active_children()
            .iter()
            .any(|one| one.id() == child.id())
    };
    assert!(has());
    started.get().unwrap();
    assert!(has());
    go.put(1).unwrap();
    assert_eq!(child.join().unwrap(), 1);
    assert!(!has());
}

#[test]
fn process_test_sentinel() {
    let _watchdog = watchdog(60);
    let (child, go) = waiting("sentinel");
    let sentinel = child.as_fd();
    assert!(!support::wait_readable(&sentinel, Some(A_MOMENT)));
    go.put(0).unwrap();
    assert!(support::wait_readable(&sentinel, None));
    assert_eq!(child.join().unwrap(), 0);
    assert!(support::wait_readable(&sentinel, Some(Duration::ZERO)));
}

/// `close` is `drop`; that of a running child leaves it running.
#[test]
fn process_test_close() {
    alone("process_test_close", || {
        let _watchdog = watchdog(60);
        // What the first child of a program opens stays.
        Process::new(process_id, ())
            .start()
            .unwrap()
            .join()
            .unwrap();
        eventually(|| support::children().is_empty());
        let before = descriptors();

        let (child, go) = waiting("closed");
        let open = descriptors();
        go.put(0).unwrap();
        for _ in 0..2 {
            assert_eq!(child.join().unwrap(), 0);
        }
        assert_eq!(child.exit_status().unwrap().code(), Some(0));
        drop(child);
        eventually(|| descriptors() <= before && descriptors() < open);
        assert!(support::children().is_empty());

        let (child, go) = waiting("running");
        let pidfd = support::pidfd(child.id());
        drop(child);
        assert!(!support::wait_readable(&pidfd, Some(A_MOMENT)));
        go.put(0).unwrap();
        assert!(support::wait_readable(&pidfd, None));
        drop(pidfd);
        eventually(|| descriptors() <= before && support::children().is_empty());
    });
}

#[mp::task]
fn count_descriptors() -> usize {
    descriptors()
}

#[test]
fn process_test_child_fd_inflation() {
    alone("process_test_child_fd_inflation", || {
        let _watchdog = watchdog(60);
        let count = || {
            let child = Process::new(count_descriptors, ()).start().unwrap();
            child.join().unwrap()
        };
        let without_siblings = count();
        let siblings: Vec<_> = (0..10).map(|_| waiting("sibling")).collect();
        assert_eq!(count(), without_siblings);
        assert!(siblings.iter().all(|(child, _)| child.is_alive()));
    });
}

#[test]
fn process_test_error_on_stdio_flush_1() {
    alone("process_test_error_on_stdio_flush_1", || {
        let _watchdog = watchdog(60);
        for fd in [1, 2] {
            // SAFETY: takes an integer.
            unsafe { libc::close(fd) };
            let child = Process::new(process_id, ()).start().unwrap();
            assert_eq!(child.join().unwrap(), child.id());
            assert_eq!(child.exit_status().unwrap().code(), Some(0));
        }
    });
}

#[derive(Serialize, Deserialize)]
enum Request {
    Uppercase(String),
    Stop,
}

/// The object with a `run` of its own: it owns its state and answers until it is told to stop.
#[derive(Serialize, Deserialize)]
struct Upcaser {
    answered: u32,
    requests: Queue<Request>,
    answers: Queue<String>,
}

#[mp::task]
fn run(mut upcaser: Upcaser) -> u32 {
    while let Ok(Request::Uppercase(text)) = upcaser.requests.get() {
        upcaser.answers.put(text.to_uppercase()).unwrap();
        upcaser.answered += 1;
    }
    upcaser.answered
}

#[test]
fn process_test_subclassing() {
    let _watchdog = watchdog(60);
    let (requests, answers) = queues();
    let upcaser = Upcaser {
        answered: 0,
        requests: requests.clone(),
        answers: answers.clone(),
    };
    let child = Process::new(run, (upcaser,)).daemon(true).start().unwrap();
    for (word, upper) in [("hello", "HELLO"), ("world", "WORLD")] {
        requests.put(Request::Uppercase(word.to_owned())).unwrap();
        assert_eq!(answers.get().unwrap(), upper);
    }
    requests.put(Request::Stop).unwrap();
    assert_eq!(child.join().unwrap(), 2);
}

#[mp::task]
fn divide_by_zero(zero: u32) -> u32 {
    eprint!("no end of line: ");
    1 / zero
}

#[test]
fn process_test_stderr_flush() {
    let _watchdog = watchdog(60);
    let child = Process::new(divide_by_zero, (0,))
        .stderr(Stdio::piped())
        .start()
        .unwrap();
    let mut text = String::new();
    let mut stderr = child.take_stderr().unwrap();
    stderr.read_to_string(&mut text).unwrap();
    let error = child.join().unwrap_err();
    assert!(text.starts_with("no end of line: "), "{text}");
    let place = format!("{}:{}", file!(), error.line().unwrap());
    for part in ["panicked", "attempt to divide by zero", &place] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert!(text.ends_with('\n'), "{text:?}");
}

static INTERRUPTIONS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_interruption(_: i32) {
    INTERRUPTIONS.fetch_add(1, Ordering::Relaxed);
}

/// Interrupts a thread of another process, each time that it sleeps.
#[mp::task]
fn interrupt_sleeper(process: u32, thread: u32, times: u32, go: Queue<()>) -> u32 {
    go.get().unwrap();
    for _ in 0..times {
        let status = format!("/proc/{process}/task/{thread}/status");
        eventually(|| fs::read_to_string(&status).is_ok_and(|text| text.contains("State:\tS")));
        // SAFETY: takes integers.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
    }
    times
}

#[test]
fn process_test_poll_eintr() {
    let _watchdog = watchdog(60);
    // Without SA_RESTART: every call that waits is to fail with EINTR.
    // SAFETY: all zeros is a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count_interruption as extern "C" fn(i32) as usize;
    // SAFETY: the action is valid, and its handler only adds to an atomic.
    unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    let go = Queue::new().unwrap();
    let arguments = (std::process::id(), thread_id(), 20, go.clone());
    let child = Process::new(interrupt_sleeper, arguments).start().unwrap();
    go.put(()).unwrap();
    assert_eq!(child.join().unwrap(), 20);
    assert!(INTERRUPTIONS.load(Ordering::Relaxed) > 0);
}

/// Names the file in which the body of the test below leaves its traces.
const TRACE: &str = "MP_TEST_TRACE";

/// Without a guard around it: a child that ran this program's `main` would come here again, since it
/// has the same arguments and environment, and start the next.
#[test]
fn process_test_noforkbomb() {
    let _watchdog = watchdog(60);
    let trace = tempfile::NamedTempFile::new().unwrap();
    let prepare = |command: &mut std::process::Command| {
        command.env(TRACE, trace.path());
    };
    alone_with("process_test_noforkbomb", prepare, || {
        let trace = std::env::var_os(TRACE).unwrap();
        let mut trace = fs::OpenOptions::new().append(true).open(trace).unwrap();
        writeln!(trace, "here").unwrap();
        for _ in 0..2 {
            let child = Process::new(process_id, ()).start().unwrap();
            assert_eq!(child.join().unwrap(), child.id());
        }
    });
    if !support::is_alone("process_test_noforkbomb") {
        assert_eq!(fs::read_to_string(trace.path()).unwrap(), "here\n");
    }
}

extern "C" fn at_exit() {
    println!("at exit");
}

#[mp::task]
fn register_exit_handler() {
    // SAFETY: the handler is a function of the program, which lives as long as the process does.
    unsafe { libc::atexit(at_exit) };
    println!("in the task");
}

#[test]
fn process_test_atexit() {
    let _watchdog = watchdog(60);
    let child = Process::new(register_exit_handler, ())
        .stdout(Stdio::piped())
        .start()
        .unwrap();
    let mut text = String::new();
    let mut stdout = child.take_stdout().unwrap();
    stdout.read_to_string(&mut text).unwrap();
    child.join().unwrap();
    assert_eq!(text, "in the task\nat exit\n");
}

#[mp::task]
fn program_arguments() -> Vec<String> {
    std::env::args().collect()
}

#[test]
fn process_test_preload_main_large_sys_argv() {
    let _watchdog = watchdog(120);
    alone_with(
        "process_test_preload_main_large_sys_argv",
        |command| {
            command.args((0..5002).map(|number| format!("argument{number}")));
        },
        || {
            let child = Process::new(program_arguments, ()).start().unwrap();
            let arguments = child.join().unwrap();
            assert!(arguments.len() > 5002);
            assert_eq!(arguments.last().unwrap(), "argument5001");
            assert!(arguments.into_iter().eq(std::env::args()));
        },
    );
}

// Lock. The rest is in `support/conformance/lock.rs`.

#[mp::task]
fn hold(lock: Lock, held: Queue<()>, go: Queue<()>) -> String {
    let _guard = lock.acquire().unwrap();
    held.put(()).unwrap();
    go.get().unwrap();
    format!("{lock:?}")
}

/// A thread is not told apart: it is its process that holds a lock.
#[test]
fn lock_test_repr_lock() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    assert_eq!(format!("{lock:?}"), "Lock { holder: none }");
    let guard = lock.acquire().unwrap();
    assert_eq!(format!("{lock:?}"), "Lock { holder: this process }");
    drop(guard);
    std::thread::scope(|scope| {
        let hold = || {
            let guard = lock.acquire().unwrap();
            std::mem::forget(guard);
        };
        scope.spawn(hold).join().unwrap();
    });
    assert_eq!(format!("{lock:?}"), "Lock { holder: this process }");

    let lock = Lock::new().unwrap();
    let (held, go) = queues();
    let child = Process::new(hold, (lock.clone(), held.clone(), go.clone()))
        .name("P1")
        .start()
        .unwrap();
    held.get().unwrap();
    let expected = format!("Lock {{ holder: P1 ({}) }}", child.id());
    assert_eq!(format!("{lock:?}"), expected);
    go.put(()).unwrap();
    assert_eq!(child.join().unwrap(), "Lock { holder: this process }");
    assert_eq!(format!("{lock:?}"), "Lock { holder: none }");
}
