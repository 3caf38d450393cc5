//! Behaviours that CPython's own tests demand of `multiprocessing`, demanded of `mp`.
//!
//! Source: `Lib/test/_test_multiprocessing.py` and `Lib/test/test_multiprocessing_*` of CPython (PSF
//! licence 2). Rewritten: no code was taken over, each test states the behaviour anew in the terms of
//! `mp`. What differs is said at the test.
//!
//! A test is named after the area and the method that it answers, and after the class as well where
//! two classes of an area have a method of that name. Here are the areas process, queue and lock, but
//! for the recursive lock, which is in `cpython_sync.rs`. Left out are:
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
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mp::{
    AcquireTimeoutError, Child, GetTimeoutError, Lock, Process, Queue, Stdio, TryAcquireError,
    TryGetError,
};
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

// Queue.

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
    let queue = Queue::bounded(6).unwrap();
    let (go, done) = queues();
    let child = Process::new(get_all, (queue.clone(), 6, go.clone(), done.clone()))
        .start()
        .unwrap();
    assert!(queue.is_empty() && !queue.is_full());
    queue.put(1).unwrap();
    queue.put_timeout(2, Duration::ZERO).unwrap();
    queue.put_timeout(3, Duration::MAX).unwrap();
    queue.try_put(4).unwrap();
    queue.put_ref(&5).unwrap();
    assert!(!queue.is_full());
    queue.put(6).unwrap();
    assert!(!queue.is_empty() && queue.is_full());

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
    assert!(queue.is_empty() && !queue.is_full());
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
    let queue = Queue::new().unwrap();
    let (go, done) = queues();
    let child = Process::new(put_four, (queue.clone(), go.clone(), done.clone()))
        .start()
        .unwrap();
    assert!(queue.is_empty());
    go.put(()).unwrap();
    done.get().unwrap();
    assert!(!queue.is_empty());
    assert_eq!(queue.get().unwrap(), 2);
    assert_eq!(queue.get_timeout(Duration::MAX).unwrap(), 3);
    assert_eq!(queue.get_timeout(Duration::ZERO).unwrap(), 4);
    assert_eq!(queue.try_get().unwrap(), 5);
    assert!(queue.is_empty());

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
    let queue = Queue::new().unwrap();
    assert_eq!(queue.len(), 0);
    queue.put(1).unwrap();
    assert_eq!(queue.len(), 1);
    queue.put(5).unwrap();
    assert_eq!(queue.len(), 2);
    queue.get().unwrap();
    assert_eq!(queue.len(), 1);
    queue.get().unwrap();
    assert_eq!(queue.len(), 0);
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
    let (items, go) = queues();
    let start = |_| Process::new(work_off, (items.clone(), go.clone())).start();
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
    let queue = Queue::bounded(1).unwrap();
    for _ in 0..3 {
        let error = queue.put(Encodable(false)).unwrap_err();
        assert!(error.is_not_encoded(), "{error}");
        assert!(error.to_string().contains("this one stays here"), "{error}");
        assert_eq!(error.into_inner(), Encodable(false));
        assert_eq!(queue.len(), 0);
        // The one place is still there.
        queue.try_put(Encodable(true)).unwrap();
        assert_eq!(queue.get().unwrap(), Encodable(true));
    }
}

/// A closed queue can be asked whether it is empty: what is in it can still be got.
#[test]
fn queue_test_closed_queue_empty_exceptions() {
    let _watchdog = watchdog(60);
    let unused = Queue::<u32>::new().unwrap();
    unused.close();
    assert!(unused.is_empty());
    assert!(matches!(unused.try_get(), Err(TryGetError::Closed)));

    let used = Queue::new().unwrap();
    used.put(1).unwrap();
    used.close();
    assert!(!used.is_empty());
    assert!(used.put(2).unwrap_err().is_closed());
    assert_eq!(used.get().unwrap(), 1);
    assert!(used.is_empty());
    assert!(matches!(used.try_get(), Err(TryGetError::Closed)));
}

#[mp::task]
fn put_one(queue: Queue<u32>, value: u32) {
    queue.put(value).unwrap();
}

#[mp::task]
fn queue_with_a_grandchild() -> Result<u32, mp::AnyError> {
    let queue = Queue::new()?;
    let grandchild = Process::new(put_one, (queue.clone(), 17)).start()?;
    let value = queue.get()?;
    grandchild.join()?;
    Ok(value)
}

#[test]
fn queue_test_queue_in_process() {
    let _watchdog = watchdog(60);
    let child = Process::new(queue_with_a_grandchild, ()).start().unwrap();
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
    let queue = Queue::new().unwrap();
    let child = Process::new(put_and_pass_on, (queue.clone(),))
        .start()
        .unwrap();
    child.join().unwrap().unwrap();
    assert_eq!(queue.get_many(10).unwrap(), [1, 2]);
}

#[mp::task]
fn put_when_told(queue: Queue<bool>, go: Queue<()>) -> [bool; 2] {
    go.get().unwrap();
    let before = queue.is_empty();
    queue.put(true).unwrap();
    [before, queue.is_empty()]
}

#[test]
fn queue_test_empty() {
    let _watchdog = watchdog(60);
    let (queue, go) = queues();
    let child = Process::new(put_when_told, (queue.clone(), go.clone()))
        .start()
        .unwrap();
    assert!(queue.is_empty());
    go.put(()).unwrap();
    assert_eq!(child.join().unwrap(), [true, false]);
    assert!(!queue.is_empty());
    assert!(queue.get().unwrap());
    assert!(queue.is_empty());
}

#[test]
fn queue_test_close() {
    let queue = Queue::<u32>::new().unwrap();
    assert!(!queue.is_closed());
    for _ in 0..3 {
        queue.close();
        assert!(queue.is_closed());
    }
}

// Lock.

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

#[test]
fn lock_test_lock() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let would_block = || matches!(lock.try_acquire(), Err(TryAcquireError::WouldBlock));
    assert!(!lock.is_locked());
    let guard = lock.acquire().unwrap();
    assert!(lock.is_locked() && would_block());
    let timed_out = lock.acquire_timeout(A_MOMENT);
    assert!(matches!(timed_out, Err(AcquireTimeoutError::Timeout)));
    drop(guard);
    assert!(!lock.is_locked());
    let guard = lock.try_acquire().unwrap();
    assert!(lock.is_locked() && would_block());
    drop(guard);

    // And the same with a holder that is another process.
    let (held, go) = queues();
    let child = Process::new(hold, (lock.clone(), held.clone(), go.clone()))
        .start()
        .unwrap();
    held.get().unwrap();
    assert!(lock.is_locked() && would_block());
    go.put(()).unwrap();
    child.join().unwrap();
    drop(lock.try_acquire().unwrap());
}

#[test]
fn lock_test_lock_context() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    {
        let _guard = lock.acquire().unwrap();
        assert!(lock.is_locked());
    }
    assert!(!lock.is_locked());
    // A scope that is left by a panic is left.
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _guard = lock.acquire().unwrap();
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err() && !lock.is_locked());
}
