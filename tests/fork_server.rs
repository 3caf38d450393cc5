//! The fork server: all that holds for processes that are executed, and what is special about it.
#![allow(
    clippy::duplicate_mod,
    reason = "each file has the support that it needs"
)]

// Here, every process and worker is forked unless it says otherwise.
#[path = "limits.rs"]
mod limits;
#[path = "pool.rs"]
mod pool;
#[path = "process.rs"]
mod process;

mod support;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use mp::{Pool, Process, Queue, StartMethod};
use support::{alone, alone_command, children, eventually, send_signal, watchdog};

// SAFETY: the section is an array of such function pointers.
#[used]
#[unsafe(link_section = ".init_array")]
static FORK_UNLESS_TOLD_OTHERWISE: extern "C" fn() = fork_unless_told_otherwise;

extern "C" fn fork_unless_told_otherwise() {
    mp::set_start_method(StartMethod::ForkServer);
}

#[mp::task]
fn add(a: i32, b: i32) -> i32 {
    a + b
}

/// Process id, parent's process id, and what the kernel and the C library take for this thread's.
#[mp::task]
fn ids() -> (u32, u32, u32, i32) {
    // SAFETY: has no preconditions.
    let (parent, thread) = unsafe { (libc::getppid(), libc::gettid()) };
    // SAFETY: has no preconditions.
    let main = unsafe { libc::pthread_self() };
    // By another thread: to this one it is sent by the id that the C library has kept.
    // SAFETY: that thread waits here; signal 0 is none.
    let ask = std::thread::spawn(move || unsafe { libc::pthread_kill(main, 0) });
    let own = ask.join().unwrap();
    (std::process::id(), parent as u32, thread as u32, own)
}

/// The children that are none of `mp`'s active ones, the oldest first: the fork server, and the copy
/// of it that waits for the next start.
fn helpers() -> Vec<u32> {
    let active: Vec<u32> = mp::active_children()
        .iter()
        .map(|child| child.id())
        .collect();
    let is_active = |pid: &u32| active.contains(pid);
    children()
        .into_iter()
        .filter(|pid| !is_active(pid))
        .collect()
}

fn server() -> u32 {
    match helpers()[..] {
        [server] | [server, _] => server,
        ref others => panic!("which of {others:?} is the fork server?"),
    }
}

/// The copy that waits for the next start, which may be about to be made.
fn copy_ahead() -> u32 {
    eventually(|| helpers().len() == 2);
    helpers()[1]
}

fn forked_sum(a: i32, b: i32) -> mp::Result<i32> {
    Ok(Process::new(add, (a, b)).start()?.join()?)
}

#[test]
fn forked_child_is_this_process_own_child() {
    let _watchdog = watchdog(60);
    assert_eq!(mp::start_method(), StartMethod::ForkServer);
    let child = Process::new(ids, ()).start().unwrap();
    let (pid, parent, thread, own) = child.join().unwrap();
    assert_eq!((pid, parent), (child.id(), std::process::id()));
    assert_eq!((thread, own), (pid, 0));
    assert!(child.exit_status().unwrap().success());
}

#[test]
fn builder_decides_before_the_default() {
    alone("builder_decides_before_the_default", || {
        let _watchdog = watchdog(60);
        let spawned = Process::new(add, (1, 2)).start_method(StartMethod::Spawn);
        assert_eq!(spawned.start().unwrap().join().unwrap(), 3);
        assert_eq!(children(), [0; 0]);
        let mut pool = Pool::builder();
        let pool = pool
            .workers(1)
            .start_method(StartMethod::Spawn)
            .build()
            .unwrap();
        assert_eq!(pool.apply(add, (1, 2)).unwrap(), 3);
        assert_eq!(children().len(), 1);
        drop(pool);

        mp::set_start_method(StartMethod::Spawn);
        let forked = Process::new(add, (3, 4)).start_method(StartMethod::ForkServer);
        assert_eq!(forked.start().unwrap().join().unwrap(), 7);
        assert_eq!(children(), [server()]);
    });
}

/// How children are started here, and by children whether that is the same.
#[mp::task]
fn methods(depth: u32) -> mp::Result<Vec<StartMethod>> {
    let mut methods = vec![mp::start_method()];
    if depth > 0 {
        methods.extend(
            Process::new(methods_of_a_child, (depth - 1,))
                .start()?
                .join()??,
        );
    }
    Ok(methods)
}

#[mp::task]
fn methods_of_a_child(depth: u32) -> mp::Result<Vec<StartMethod>> {
    methods(depth)
}

#[test]
fn children_start_theirs_in_the_same_way() {
    let _watchdog = watchdog(60);
    let child = Process::new(methods, (2,)).start().unwrap();
    assert_eq!(child.join().unwrap().unwrap(), [StartMethod::ForkServer; 3]);
}

#[mp::task]
fn surroundings() -> (PathBuf, Option<String>, u32) {
    (
        std::env::current_dir().unwrap(),
        std::env::var("MP_TEST_SURROUNDINGS").ok(),
        std::env::vars_os().count() as u32,
    )
}

#[test]
fn what_changed_since_the_server_began_is_seen_by_children() {
    alone(
        "what_changed_since_the_server_began_is_seen_by_children",
        || {
            let _watchdog = watchdog(60);
            let seen = || {
                Process::new(surroundings, ())
                    .start()
                    .unwrap()
                    .join()
                    .unwrap()
            };
            let before = seen();
            let directory = tempfile::tempdir().unwrap();
            std::env::set_current_dir(directory.path()).unwrap();
            // SAFETY: this process's other threads are mp's, which leave the environment alone now.
            unsafe { std::env::set_var("MP_TEST_SURROUNDINGS", "new") };
            let (path, value, count) = seen();
            assert_eq!(path, directory.path().canonicalize().unwrap());
            assert_eq!((value.as_deref(), count), (Some("new"), before.2 + 1));
            // SAFETY: as above.
            unsafe { std::env::remove_var("MP_TEST_SURROUNDINGS") };
            std::env::set_current_dir(&before.0).unwrap();
            assert_eq!(seen(), before);
        },
    );
}

// What is loaded before.

static LOADED: OnceLock<(u32, String)> = OnceLock::new();

#[mp::task]
fn load(what: String) {
    // Left in a buffer, it would come out once for each child.
    print!("loading {what}");
    LOADED.set((std::process::id(), what)).unwrap();
}

#[mp::task]
fn loaded() -> Option<(u32, String)> {
    LOADED.get().cloned()
}

fn loaded_in_a_child() -> Option<(u32, String)> {
    Process::new(loaded, ()).start().unwrap().join().unwrap()
}

#[test]
fn preloaded_data_is_there_in_every_child() {
    let name = "preloaded_data_is_there_in_every_child";
    if !support::is_alone(name) {
        let output = alone_command(name).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        // In each of two servers.
        assert_eq!(text.matches("loading the model").count(), 2, "{text}");
        return;
    }
    let _watchdog = watchdog(60);
    assert_eq!(loaded_in_a_child(), None);
    let before = server();
    mp::preload(load, ("the model".to_owned(),)).unwrap();
    let (maker, what) = loaded_in_a_child().unwrap();
    assert_eq!(what, "the model");
    // In one fork server, which took the first one's place.
    assert_ne!(maker, before);
    let pool = Pool::new(2).unwrap();
    for seen in pool.starmap(loaded, [(); 8]).unwrap() {
        assert_eq!(seen, Some((maker, what.clone())));
    }
    drop(pool);
    eventually(|| matches!(children()[..], [first, _copy] if first == maker));
    // One that died is replaced by one that has loaded it as well.
    send_signal(maker, libc::SIGKILL);
    eventually(|| children().is_empty());
    let (next, what) = loaded_in_a_child().unwrap();
    assert_eq!(what, "the model");
    assert_ne!(next, maker);
}

#[mp::task]
fn fail_to_load(why: String) {
    panic!("could not load: {why}");
}

#[mp::task]
fn start_a_thread() {
    std::thread::spawn(|| std::thread::sleep(Duration::MAX));
}

#[mp::task]
fn use_mp() {
    Queue::<u32>::new().unwrap();
}

#[mp::task]
fn take_a_queue(_queue: Queue<u32>) {}

#[mp::task]
fn exit_instead(code: i32) {
    std::process::exit(code);
}

fn not_loaded(_what: String) {}

#[test]
fn what_cannot_be_preloaded_fails_the_starts_and_says_why() {
    alone(
        "what_cannot_be_preloaded_fails_the_starts_and_says_why",
        || {
            let _watchdog = watchdog(60);
            let failure = || {
                let error = forked_sum(1, 2).unwrap_err();
                format!("{error:#}")
            };
            let says = |parts: &[&str]| {
                let text = failure();
                for part in parts {
                    assert!(text.contains(part), "{text}");
                }
            };
            mp::preload(fail_to_load, ("no file".to_owned(),)).unwrap();
            for _ in 0..2 {
                says(&[
                    "fork server",
                    "fork_server::fail_to_load",
                    "could not load: no file",
                ]);
            }
            mp::preload(start_a_thread, ()).unwrap();
            says(&["2 threads"]);
            mp::preload(use_mp, ()).unwrap();
            says(&["mp does not work"]);
            mp::preload(exit_instead, (7,)).unwrap();
            says(&["exited with code 7"]);

            let queue = Queue::new().unwrap();
            assert!(
                mp::preload(take_a_queue, (queue,))
                    .unwrap_err()
                    .is_not_encoded()
            );
            let error = mp::preload(not_loaded, (String::new(),)).unwrap_err();
            assert!(error.is_unknown_task(), "{error}");

            // It is over as soon as something else is to be preloaded.
            mp::preload(load, ("nothing".to_owned(),)).unwrap();
            assert_eq!(forked_sum(1, 2).unwrap(), 3);
            assert!(
                Process::new(add, (1, 2))
                    .start_method(StartMethod::Spawn)
                    .start()
                    .unwrap()
                    .join()
                    .is_ok()
            );
        },
    );
}

#[mp::task]
fn hang() {
    std::thread::sleep(Duration::MAX);
}

#[test]
fn server_that_does_not_answer_in_time_is_killed() {
    alone("server_that_does_not_answer_in_time_is_killed", || {
        let _watchdog = watchdog(60);
        mp::preload(hang, ()).unwrap();
        let start = Process::new(add, (1, 2)).start_timeout(Duration::from_millis(50));
        let error = format!("{:#}", start.start().unwrap_err());
        assert!(error.contains("start_timeout"), "{error}");
        eventually(|| children().is_empty());
        assert_eq!(mp::active_children().len(), 0);

        mp::preload(load, ("something".to_owned(),)).unwrap();
        assert_eq!(forked_sum(1, 2).unwrap(), 3);
        let stopped = server();
        send_signal(stopped, libc::SIGSTOP);
        let start = Process::new(add, (1, 2)).start_timeout(Duration::from_millis(50));
        start.start().unwrap_err();
        assert_eq!(forked_sum(3, 4).unwrap(), 7);
    });
}

// Deaths.

#[mp::task]
fn wait_for(go: Queue<i32>, started: Queue<()>) -> i32 {
    started.put(()).unwrap();
    go.get().unwrap()
}

#[test]
fn server_that_is_killed_costs_no_process_and_is_replaced() {
    alone(
        "server_that_is_killed_costs_no_process_and_is_replaced",
        || {
            let _watchdog = watchdog(60);
            let (go, started) = (Queue::new().unwrap(), Queue::new().unwrap());
            let child = Process::new(wait_for, (go.clone(), started.clone()))
                .start()
                .unwrap();
            started.get().unwrap();
            let killed = server();
            send_signal(killed, libc::SIGKILL);
            // It is reaped, though nobody asks for it.
            eventually(|| children() == [child.id()]);
            assert!(child.is_alive());
            assert_eq!(forked_sum(1, 2).unwrap(), 3);
            assert_ne!(server(), killed);
            go.put(5).unwrap();
            assert_eq!(child.join().unwrap(), 5);
        },
    );
}

#[test]
fn copy_waits_for_the_next_start_from_the_second_child_on() {
    let name = "copy_waits_for_the_next_start_from_the_second_child_on";
    alone(name, || {
        let _watchdog = watchdog(60);
        assert_eq!(forked_sum(1, 2).unwrap(), 3);
        // A program that starts one child has no process more for it.
        assert_eq!(children(), [server()]);
        assert_eq!(forked_sum(3, 4).unwrap(), 7);
        let copy = copy_ahead();
        assert_eq!(mp::active_children().len(), 0);
        let child = Process::new(add, (5, 6)).start().unwrap();
        assert_eq!(child.id(), copy);
        assert_eq!(child.join().unwrap(), 11);
        assert_ne!(copy_ahead(), copy);
    });
}

#[test]
fn copy_that_is_killed_while_it_waits_costs_nothing() {
    alone("copy_that_is_killed_while_it_waits_costs_nothing", || {
        let _watchdog = watchdog(60);
        for _ in 0..2 {
            assert_eq!(forked_sum(1, 2).unwrap(), 3);
        }
        for n in 0..4 {
            let (server, killed) = (server(), copy_ahead());
            let end = support::pidfd(killed);
            send_signal(killed, libc::SIGKILL);
            assert!(support::wait_readable(&end, None));
            if n % 2 == 0 {
                // It is reaped though nobody starts anything.
                eventually(|| children() == [server]);
            }
            assert_eq!(forked_sum(3, 4).unwrap(), 7);
            // It was reaped, and there is another.
            assert_ne!(copy_ahead(), killed);
            eventually(|| children() == [server, copy_ahead()]);
        }
    });
}

#[test]
fn copy_that_waits_ends_with_its_server() {
    alone("copy_that_waits_ends_with_its_server", || {
        let _watchdog = watchdog(60);
        for _ in 0..2 {
            assert_eq!(forked_sum(1, 2).unwrap(), 3);
        }
        copy_ahead();
        send_signal(server(), libc::SIGKILL);
        eventually(|| children().is_empty());
        // So does that of one whose place another takes.
        for _ in 0..2 {
            assert_eq!(forked_sum(1, 2).unwrap(), 3);
        }
        let ends = [server(), copy_ahead()].map(support::pidfd);
        mp::preload(load, ("something".to_owned(),)).unwrap();
        assert_eq!(forked_sum(1, 2).unwrap(), 3);
        for end in ends {
            assert!(support::wait_readable(&end, None));
        }
        eventually(|| children().len() == 1);
    });
}

#[test]
fn nothing_is_left_of_many_children() {
    alone("nothing_is_left_of_many_children", || {
        let _watchdog = watchdog(120);
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let of_server = || {
            let path = format!("/proc/{}/fd", server());
            std::fs::read_dir(path).unwrap().count()
        };
        for _ in 0..3 {
            assert_eq!(forked_sum(0, 0).unwrap(), 0);
        }
        // Of the first children there may be something left for a moment longer, on either side.
        let (server, _copy) = (server(), copy_ahead());
        let before = (descriptors(), of_server());
        for round in 0..100 {
            assert_eq!(forked_sum(round, 1).unwrap(), round + 1);
        }
        eventually(|| matches!(children()[..], [first, _copy] if first == server));
        // The server closes what it got after it has answered.
        eventually(|| descriptors() <= before.0 && of_server() <= before.1);
        assert_eq!(children().len(), 2);
        eventually(|| mp::__private::audit().unwrap().faults.is_empty());
    });
}

#[mp::task]
fn hold(started: Queue<u32>) {
    started.put(std::process::id()).unwrap();
    std::thread::sleep(Duration::MAX);
}

/// The program of the test after it.
#[test]
#[ignore = "is run by server_and_children_end_with_their_program"]
fn program_with_a_fork_server() {
    let started = Queue::new().unwrap();
    assert_eq!(forked_sum(1, 2).unwrap(), 3);
    let _child = Process::new(hold, (started.clone(),)).start().unwrap();
    let pids = [started.get().unwrap(), server(), copy_ahead()];
    println!("pids: {} {} {}.", pids[0], pids[1], pids[2]);
    std::thread::sleep(Duration::MAX);
}

#[test]
fn server_and_children_end_with_their_program() {
    let _watchdog = watchdog(60);
    let mut command = alone_command("program_with_a_fork_server");
    command
        .arg("--ignored")
        .stdout(std::process::Stdio::piped());
    let mut program = command.spawn().unwrap();
    let output = std::io::BufReader::new(program.stdout.take().unwrap());
    let line = std::io::BufRead::lines(output)
        .map(Result::unwrap)
        .find(|line| line.contains("pids: "))
        .unwrap();
    let (_, pids) = line.split_once("pids: ").unwrap();
    let ends: Vec<_> = pids
        .trim_end_matches('.')
        .split(' ')
        .map(|pid| support::try_pidfd(pid.parse().unwrap()).unwrap())
        .collect();
    program.kill().unwrap();
    program.wait().unwrap();
    for end in ends {
        assert!(support::wait_readable(&end, None));
    }
}
