//! Starts and ends that go wrong at an awkward moment: without descriptors, memory or a parent.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio as StdStdio;
use std::time::Duration;

use mp::{Child, Lock, Process, Queue, Stdio};
use support::{alone, alone_command, alone_with, eventually, is_alone, watchdog};

// What children do.

#[mp::task]
fn add(a: i32, b: i32) -> i32 {
    a + b
}

/// Says that it runs, and waits to be let go.
#[mp::task]
fn wait_for(go: Queue<u32>, started: Queue<u32>) -> u32 {
    started.put(std::process::id()).unwrap();
    go.get().unwrap_or(0)
}

/// Starts a child that runs until it is let go.
fn waiting_as(change: impl FnOnce(Process<u32>) -> Process<u32>) -> (Child<u32>, Queue<u32>) {
    let go = Queue::new().unwrap();
    let started = Queue::new().unwrap();
    let child = change(Process::new(wait_for, (go.clone(), started.clone())))
        .start()
        .unwrap();
    assert_eq!(started.get().unwrap(), child.id());
    (child, go)
}

fn assert_works() {
    let child = Process::new(add, (1, 2)).start().unwrap();
    assert_eq!(child.join().unwrap(), 3);
}

fn set_limit(resource: libc::__rlimit_resource_t, value: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: points to a limit, to be written.
    assert_eq!(unsafe { libc::getrlimit(resource, &mut limit) }, 0);
    limit.rlim_cur = value.min(limit.rlim_max);
    // SAFETY: points to a valid limit.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

/// Takes descriptors until none is left.
fn all_descriptors() -> Vec<OwnedFd> {
    std::iter::from_fn(|| {
        // SAFETY: takes integers.
        let copy = unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 0) };
        // SAFETY: the kernel just gave it to us.
        (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
    })
    .collect()
}

// The end of the parent, while it starts a child.

/// The process whose end a child awaits before its constructors run.
const AWAITED: &str = "MP_TEST_AWAITED";

/// Runs before `mp`'s: those with a number come first.
#[used]
// SAFETY: the section is an array of functions that are called before `main`.
#[unsafe(link_section = ".init_array.00101")]
static EARLY: extern "C" fn() = await_orphanage;

extern "C" fn await_orphanage() {
    let awaited = std::env::var(AWAITED).ok().and_then(|pid| pid.parse().ok());
    // SAFETY: has no preconditions.
    while awaited.is_some_and(|pid: i32| pid == unsafe { libc::getppid() }) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How often `main` runs in the processes of the program that is started for a test.
fn count_mains(name: &str) -> usize {
    let mut root = alone_command(name)
        .stdout(StdStdio::piped())
        .stderr(StdStdio::null())
        .spawn()
        .unwrap();
    // All processes of the program have inherited the pipe: it ends when the last of them has ended.
    let lines = BufReader::new(root.stdout.take().unwrap()).lines();
    let mains = lines
        .filter(|line| line.as_ref().unwrap().ends_with("main runs"))
        .count();
    root.wait().unwrap();
    mains
}

#[test]
fn child_whose_parent_is_gone_does_not_run_main() {
    let name = "child_whose_parent_is_gone_does_not_run_main";
    if is_alone(name) {
        println!("main runs");
        if std::env::var_os(AWAITED).is_none() {
            Process::new(add, (1, 2))
                .env(AWAITED, std::process::id().to_string())
                .start()
                .unwrap();
            support::send_signal(std::process::id(), libc::SIGKILL);
        }
        return;
    }
    let _watchdog = watchdog(60);
    assert_eq!(count_mains(name), 1);
}

#[test]
fn exit_with_a_pool_at_work_runs_main_nowhere_else() {
    let name = "exit_with_a_pool_at_work_runs_main_nowhere_else";
    if is_alone(name) {
        println!("main runs");
        let pool = mp::Pool::new(2).unwrap();
        assert_eq!(pool.map(double, 0..4).unwrap(), [0, 2, 4, 6]);
        std::process::exit(0);
    }
    let _watchdog = watchdog(120);
    for _ in 0..10 {
        assert_eq!(count_mains(name), 1);
    }
}

#[mp::task]
fn double(n: u32) -> u32 {
    n * 2
}

/// An exit handler that runs after `mp`'s.
extern "C" fn start_at_exit() {
    match Process::new(add, (1, 2)).start() {
        Ok(child) => println!("started {}", child.id()),
        Err(error) => println!("refused: {error}"),
    }
}

#[test]
fn process_that_exits_starts_no_more() {
    let name = "process_that_exits_starts_no_more";
    if is_alone(name) {
        // SAFETY: the function may be called at exit. Handlers run in reverse order.
        assert_eq!(unsafe { libc::atexit(start_at_exit) }, 0);
        assert_works();
        return;
    }
    let _watchdog = watchdog(60);
    let output = alone_command(name).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("refused: this process is exiting"), "{text}");
}

// The child's exit.

#[mp::task]
fn leave_a_child_behind(go: Queue<u32>, started: Queue<u32>) -> u32 {
    Process::new(wait_and_say, (go, started))
        .daemon(false)
        .start()
        .unwrap()
        .id()
}

#[mp::task]
fn wait_and_say(go: Queue<u32>, started: Queue<u32>) {
    started.put(0).unwrap();
    started.put(go.get().unwrap() + 1).unwrap();
}

#[test]
fn child_that_is_through_waits_for_its_children_as_long_as_they_take() {
    let _watchdog = watchdog(60);
    let (go, said) = (Queue::new().unwrap(), Queue::new().unwrap());
    let child = Process::new(leave_a_child_behind, (go.clone(), said.clone()))
        .start()
        .unwrap();
    assert_eq!(said.get().unwrap(), 0);
    // Longer than exit handlers may take.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.is_alive());
    go.put(7).unwrap();
    assert_eq!(said.get().unwrap(), 8);
    child.join().unwrap();
    assert!(child.exit_status().unwrap().success());
}

// Starts that fail.

#[test]
fn start_without_descriptors_leaves_no_process() {
    alone("start_without_descriptors_leaves_no_process", || {
        let _watchdog = watchdog(120);
        assert_works();
        set_limit(libc::RLIMIT_NOFILE, 64);
        let mut failed = 0;
        for left in 0..12 {
            let mut fill = all_descriptors();
            fill.truncate(fill.len() - left);
            let child = Process::new(add, (1, 2))
                .stderr(if left % 2 == 0 {
                    Stdio::inherit()
                } else {
                    Stdio::piped()
                })
                .start();
            drop(fill);
            match child {
                Ok(child) => assert_eq!(child.join().unwrap(), 3),
                Err(error) => {
                    failed += 1;
                    assert!(error.is_not_started(), "{error}");
                }
            }
            eventually(|| support::children().is_empty());
        }
        assert!((1..12).contains(&failed));
        assert_works();
    });
}

#[test]
fn start_without_room_for_a_thread_can_be_tried_again() {
    alone("start_without_room_for_a_thread_can_be_tried_again", || {
        let _watchdog = watchdog(60);
        // Makes the shared memory, which counts.
        let (go, started) = (Queue::<u32>::new().unwrap(), Queue::<u32>::new().unwrap());
        let process = Process::new(wait_for, (go.clone(), started.clone()));
        let status = support::status_line(std::process::id(), "VmSize").unwrap();
        let size: u64 = status.trim_end_matches(" kB").trim().parse().unwrap();
        // Less than a thread's stack.
        set_limit(libc::RLIMIT_AS, (size + 1024) << 10);
        let error = process.start().unwrap_err();
        set_limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        assert!(error.is_not_started(), "{error}");

        let child = Process::new(wait_for, (go.clone(), started.clone()))
            .start()
            .unwrap();
        assert_eq!(started.get().unwrap(), child.id());
        // Nobody joins it: only the supervisor sees its end.
        drop(child);
        go.put(0).unwrap();
        eventually(|| support::children().is_empty());
    });
}

#[mp::task]
fn len(bytes: Vec<u8>) -> usize {
    bytes.len()
}

/// Puts items of that size until there is no room for another.
fn fill(queue: &Queue<Vec<u8>>, size: usize) {
    while queue.put(vec![1; size]).is_ok() {}
}

#[test]
fn start_without_memory_gives_back_what_it_had() {
    alone("start_without_memory_gives_back_what_it_had", || {
        let _watchdog = watchdog(120);
        set_limit(libc::RLIMIT_FSIZE, 256 << 20);
        let queue = Queue::new().unwrap();
        const SIZE: usize = 1 << 20;
        let process = Process::new(len, (vec![1; SIZE],));
        let mut size = 16 << 20;
        while size > 0 {
            fill(&queue, size);
            size /= 2;
        }
        assert!(queue.put(vec![1; SIZE / 2]).is_err());
        let error = process.start().unwrap_err();
        assert!(error.is_out_of_memory(), "{error}");
        // Where the arguments were.
        queue.put(vec![1; SIZE / 2]).unwrap();
    });
}

// Settings that nobody asked for.

#[test]
fn nice_value_that_cannot_be_had_is_no_reason_to_refuse() {
    alone(
        "nice_value_that_cannot_be_had_is_no_reason_to_refuse",
        || {
            let _watchdog = watchdog(60);
            const CAP_SYS_NICE: libc::c_ulong = 23;
            // SAFETY: takes integers. Without the right to it, there is nothing to drop.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_NICE, 0, 0, 0) };
            // The thread that starts children inherits the value of the first who asks for one.
            std::thread::spawn(|| {
                // SAFETY: takes integers.
                assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 5) }, 0);
                assert_works();
            })
            .join()
            .unwrap();
            assert_works();
            let child = Process::new(add, (1, 2)).nice(-5).start().unwrap();
            let error = child.join().unwrap_err();
            assert!(error.is_not_started(), "{error}");
        },
    );
}

#[test]
fn stray_variable_is_in_nobodys_way() {
    let name = "stray_variable_is_in_nobodys_way";
    /// Set in children: where the `main` of one runs, it must not go on.
    const CHILD: &str = "MP_TEST_CHILD";
    for stray in [&b""[..], b"stray", b"1", b"\xFF;1", b"1;1;c;5;4"] {
        let stray = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(stray);
        alone_with(
            name,
            |command| {
                command.env("MP_CHILD", stray);
            },
            || {
                assert_eq!(std::env::var_os(CHILD), None, "main runs in a child");
                let _watchdog = watchdog(60);
                assert_eq!(std::env::var_os("MP_CHILD"), None);
                for value in ["stray", "1;1;c;5;4"] {
                    let child = Process::new(add, (1, 2))
                        .env(CHILD, "1")
                        .env("MP_CHILD", value)
                        .start()
                        .unwrap();
                    assert_eq!(child.join().unwrap(), 3);
                }
            },
        );
    }
}

// Children that have ended.

#[test]
fn children_that_have_ended_hold_few_descriptors() {
    alone("children_that_have_ended_hold_few_descriptors", || {
        let _watchdog = watchdog(120);
        let count = || fs::read_dir("/proc/self/fd").unwrap().count();
        assert_works();
        let before = count();
        mp::scope(|scope| {
            for _ in 0..20 {
                let child = scope.start(Process::new(add, (1, 2))).unwrap();
                assert_eq!(child.join().unwrap(), 3);
            }
            // The scope looks through them at the next start.
            eventually(|| count() <= before + 2);
        });
        let children: Vec<_> = (0..20)
            .map(|_| Process::new(add, (1, 2)).start().unwrap())
            .collect();
        for child in &children {
            assert_eq!(child.join().unwrap(), 3);
        }
        // As a descriptor, each is still there. Those of one that has ended may be counted for a
        // moment longer, before as well.
        eventually(|| count() <= before + children.len());
        let (with, number) = (count(), children.len());
        drop(children);
        eventually(|| count() + number <= with);
    });
}

#[test]
fn join_ends_an_input_that_nobody_took() {
    let _watchdog = watchdog(60);
    let child = Process::new(read_all, ()).stdin(Stdio::piped());
    assert_eq!(child.start().unwrap().join().unwrap(), Ok(0));
}

#[mp::task]
fn read_all() -> Result<usize, String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())
}

// Orphans.

/// Has a child of its own run a task, and waits for it.
#[mp::task]
fn parent_of_large(go: Queue<u32>, started: Queue<u32>) {
    let _ = Process::new(large, (go, started)).start().unwrap().join();
}

const LARGE: usize = 6 << 20;

#[mp::task]
fn large(go: Queue<u32>, started: Queue<u32>) -> Vec<u8> {
    started.put(std::process::id()).unwrap();
    go.get().unwrap();
    vec![1; LARGE]
}

#[test]
fn result_of_an_orphan_takes_no_memory() {
    alone("result_of_an_orphan_takes_no_memory", || {
        let _watchdog = watchdog(120);
        set_limit(libc::RLIMIT_FSIZE, 256 << 20);
        let (go, started) = (Queue::new().unwrap(), Queue::new().unwrap());
        for _ in 0..50 {
            let child = Process::new(parent_of_large, (go.clone(), started.clone()))
                .start()
                .unwrap();
            let grandchild = support::pidfd(started.get().unwrap());
            // Its parent must not see it end.
            support::send_signal(child.id(), libc::SIGSTOP);
            eventually(|| {
                let state = support::status_line(child.id(), "State").unwrap();
                state.starts_with('T')
            });
            go.put(0).unwrap();
            assert!(support::wait_readable(&grandchild, None));
            child.kill();
            assert!(child.join().is_err());
        }
        let child = Process::new(large, (go.clone(), started)).start().unwrap();
        go.put(0).unwrap();
        assert_eq!(child.join().unwrap().len(), LARGE);
    });
}

#[mp::task]
fn parent_of_slow(lock: Lock, started: Queue<u32>) {
    let _ = Process::new(slow, (lock, started)).start().unwrap().join();
}

/// Takes long to die: the kernel has to give much memory back, page by page.
#[mp::task]
fn slow(lock: Lock, started: Queue<u32>) {
    let len = 1 << 30;
    // SAFETY: asks for new memory.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(memory, libc::MAP_FAILED);
    // SAFETY: the memory is ours.
    unsafe { libc::madvise(memory, len, libc::MADV_NOHUGEPAGE) };
    for page in (0..len).step_by(4096) {
        // SAFETY: inside of the memory.
        unsafe { memory.cast::<u8>().add(page).write_volatile(1) };
    }
    let _held = lock.acquire().unwrap();
    started.put(std::process::id()).unwrap();
    loop {
        std::thread::park();
    }
}

/// Kills the parent of a grandchild that takes long to die and holds a lock, while this process holds
/// the descriptors that `fill` takes.
fn orphan_keeps_its_lock_until_it_is_gone(fill: fn() -> Vec<OwnedFd>) {
    let (lock, started) = (Lock::new().unwrap(), Queue::new().unwrap());
    let child = Process::new(parent_of_slow, (lock.clone(), started.clone()))
        .start()
        .unwrap();
    let grandchild = support::pidfd(started.get().unwrap());
    let fill = fill();
    child.kill();
    assert!(child.join().is_err());
    assert!(lock.acquire().is_err(), "its holder died");
    assert!(support::wait_readable(&grandchild, Some(Duration::ZERO)));
    drop(fill);
    // The supervisor is in good health.
    assert_works();
}

#[test]
fn orphan_that_takes_long_to_die_is_waited_for() {
    alone("orphan_that_takes_long_to_die_is_waited_for", || {
        let _watchdog = watchdog(120);
        orphan_keeps_its_lock_until_it_is_gone(Vec::new);
    });
}

#[test]
fn orphan_is_waited_for_also_without_descriptors() {
    alone("orphan_is_waited_for_also_without_descriptors", || {
        let _watchdog = watchdog(120);
        set_limit(libc::RLIMIT_NOFILE, 64);
        orphan_keeps_its_lock_until_it_is_gone(all_descriptors);
    });
}

// The user's own fork, and signal handlers.

#[test]
fn copy_made_by_fork_waits_for_nobody() {
    alone("copy_made_by_fork_waits_for_nobody", || {
        let _watchdog = watchdog(60);
        let (child, go) = waiting_as(|process| process.stderr(Stdio::piped()));
        // SAFETY: the copy only does what is under test, and leaves.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: takes an integer: the copy ends also if it hangs.
            unsafe { libc::alarm(30) };
            child.kill();
            let checks = [
                child.join().is_err(),
                child.join_timeout(Duration::ZERO).is_err(),
                child.exit_status().is_none(),
                child.take_stderr().is_none(),
                mp::active_children().is_empty(),
            ];
            let failed = checks.iter().position(|fine| !fine);
            // SAFETY: takes an integer and does not return.
            unsafe { libc::_exit(failed.map_or(0, |check| check as i32 + 1)) };
        }
        let mut status = 0;
        // SAFETY: points to an integer.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        let status = std::process::ExitStatus::from_raw(status);
        assert_eq!(status.code(), Some(0), "the check that failed, or {status}");
        assert!(child.is_alive());
        go.put(7).unwrap();
        assert_eq!(child.join().unwrap(), 7);
    });
}

#[test]
fn threads_of_the_library_run_no_signal_handlers() {
    let _watchdog = watchdog(60);
    // The main thread, on which this may run, needs no launcher.
    std::thread::spawn(assert_works).join().unwrap();
    // A thread says what it is called, and then blocks signals, once it runs for the first time.
    eventually(|| {
        let is_blocked = ["mp-supervisor", "mp-launcher"].map(blocks_signals);
        is_blocked == [Some(true); 2]
    });
}

/// Whether a thread of that name blocks the signals that are meant for the program, but not those
/// of its own faults; `None` if there is none.
fn blocks_signals(name: &str) -> Option<bool> {
    // Threads of other tests come and go.
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    let thread = fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .find(|task| read(task.path().join("comm")).trim() == name)?;
    let status = read(thread.path().join("status"));
    let blocked = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))?;
    let blocked = u64::from_str_radix(blocked.trim(), 16).unwrap();
    let is_blocked = |signal: i32| blocked & (1 << (signal - 1)) != 0;
    let ours = [libc::SIGUSR1, libc::SIGTERM, libc::SIGPROF];
    Some(ours.into_iter().all(is_blocked) && !is_blocked(libc::SIGSEGV))
}
