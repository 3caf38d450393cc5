//! One child: what it is told, what it returns, how it ends, and what its end does to others.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::Stdio as StdStdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mp::{Child, Process, Queue, Stdio};
use serde::{Deserialize, Serialize};
use support::{alone, alone_in_a_copy, alone_with, eventually, watchdog};

// What children do.

#[mp::task]
fn add(a: i32, b: i32) -> i32 {
    a + b
}

#[mp::task]
fn process_id() -> u32 {
    std::process::id()
}

/// Says that it runs, and waits to be let go.
#[mp::task]
fn wait_for(go: Queue<u32>, started: Queue<u32>) -> u32 {
    started.put(std::process::id()).unwrap();
    go.get().unwrap_or(0)
}

/// Starts a child that runs until it is let go.
fn waiting() -> (Child<u32>, Queue<u32>) {
    waiting_as(|process| process)
}

fn waiting_as(change: impl FnOnce(Process<u32>) -> Process<u32>) -> (Child<u32>, Queue<u32>) {
    let go = Queue::new().unwrap();
    let started = Queue::new().unwrap();
    let child = change(Process::new(wait_for, (go.clone(), started.clone())))
        .start()
        .unwrap();
    assert_eq!(started.get().unwrap(), child.id());
    (child, go)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum End {
    Panic(String),
    PanicWithANumber,
    Exit(i32),
    Abort,
    Signal(i32),
    Segfault,
}

#[mp::task]
fn end(how: End) -> u32 {
    eprintln!("about to end");
    match how {
        End::Panic(message) => panic!("{message}"),
        End::PanicWithANumber => std::panic::panic_any(7_u32),
        End::Exit(code) => std::process::exit(code),
        End::Abort => std::process::abort(),
        End::Signal(signal) => {
            // SAFETY: takes an integer.
            unsafe { libc::raise(signal) };
            0
        }
        End::Segfault => {
            // SAFETY: nothing is there, and that is what is wanted: the kernel ends the process.
            unsafe { std::ptr::without_provenance_mut::<u8>(64).write_volatile(1) };
            0
        }
    }
}

fn ended(how: End) -> (Child<u32>, mp::TaskError) {
    let child = Process::new(end, (how,))
        .stderr(Stdio::piped())
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    (child, error)
}

/// Runs where a child's death before its handshake is wanted: before `main`, and before `mp` takes
/// the child over.
#[used]
// SAFETY: the section is an array of functions that are called before `main`.
#[unsafe(link_section = ".init_array")]
static EARLY: extern "C" fn() = early;

extern "C" fn early() {
    match std::env::var("MP_TEST_EARLY").as_deref() {
        Ok("exit") => {
            let _ = std::io::stderr().write_all(b"last words\n");
            // SAFETY: takes an integer and does not return.
            unsafe { libc::_exit(7) };
        }
        Ok("kill") => {
            // SAFETY: takes an integer.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        Ok("hang") => loop {
            std::thread::park();
        },
        _ => {}
    }
}

// Results.

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    text: String,
    bytes: Vec<u8>,
    numbers: (u8, i64, f64, Option<char>),
    map: BTreeMap<String, Vec<Option<u16>>>,
    unit: (),
    ends: Vec<End>,
    path: PathBuf,
    wait: Duration,
}

#[mp::task]
fn echo(value: Everything) -> Everything {
    value
}

#[test]
fn values_come_back_as_they_were() {
    let _watchdog = watchdog(60);
    let value = Everything {
        text: "grüße 🦀".repeat(1000),
        bytes: (0..=255).cycle().take(1 << 20).collect(),
        numbers: (255, i64::MIN, f64::MIN_POSITIVE, Some('\0')),
        map: BTreeMap::from([("a".into(), vec![None, Some(3)]), (String::new(), vec![])]),
        unit: (),
        ends: vec![End::Abort, End::Exit(-1), End::Panic("x".into())],
        path: "/a/b".into(),
        wait: Duration::from_nanos(1),
    };
    let child = Process::new(echo, (value.clone(),)).start().unwrap();
    assert_eq!(child.join().unwrap(), value);
}

#[mp::task]
#[expect(clippy::too_many_arguments, reason = "that many are allowed")]
fn twelve(
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
    i: u8,
    j: u8,
    k: u8,
    l: String,
) -> String {
    format!("{a}{b}{c}{d}{e}{f}{g}{h}{i}{j}{k}{l}")
}

#[test]
fn task_has_none_to_twelve_arguments() {
    let _watchdog = watchdog(60);
    let none = Process::new(process_id, ()).start().unwrap();
    assert_eq!(none.join().unwrap(), none.id());
    let all = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, "!".to_owned());
    assert_eq!(
        Process::new(twelve, all).start().unwrap().join().unwrap(),
        "01234567890!"
    );
}

#[mp::task]
fn reverse(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.reverse();
    bytes
}

#[test]
fn large_arguments_and_results_arrive() {
    let _watchdog = watchdog(120);
    for len in [0, 1, 4095, 4096, 65_536, 64 << 20] {
        let bytes: Vec<u8> = (0..len).map(|i: usize| (i % 251) as u8).collect();
        let child = Process::new(reverse, (bytes.clone(),)).start().unwrap();
        let reversed = child.join().unwrap();
        assert!(reversed.iter().rev().eq(&bytes), "{len} bytes");
    }
}

#[mp::task]
fn divide(a: i32, b: i32) -> Result<i32, String> {
    a.checked_div(b)
        .ok_or_else(|| "division by zero".to_owned())
}

#[test]
fn a_tasks_own_error_is_its_value() {
    let _watchdog = watchdog(60);
    let child = Process::new(divide, (1, 0)).start().unwrap();
    assert_eq!(child.join().unwrap(), Err("division by zero".to_owned()));
    assert!(child.exit_status().unwrap().success());
}

#[mp::task]
fn relay(how: End) -> mp::Result<u32> {
    Ok(Process::new(end, (how,))
        .stderr(Stdio::null())
        .name("inner")
        .start()?
        .join()?)
}

#[mp::task]
fn read(path: String) -> Result<String, mp::AnyError> {
    Ok(fs::read_to_string(path)?)
}

#[test]
fn errors_travel_as_results() {
    let _watchdog = watchdog(60);
    let child = Process::new(relay, (End::Exit(9),)).start().unwrap();
    let error = child.join().unwrap().unwrap_err();
    let task = error.task().unwrap();
    assert_eq!((task.exit_code(), task.process()), (Some(9), Some("inner")));

    let child = Process::new(read, ("/does/not/exist".to_owned(),))
        .start()
        .unwrap();
    let error = child.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[test]
fn join_can_be_asked_again_and_by_several_threads() {
    let _watchdog = watchdog(60);
    let (child, go) = waiting();
    std::thread::scope(|scope| {
        let joins: Vec<_> = (0..4).map(|_| scope.spawn(|| child.join())).collect();
        go.put(5).unwrap();
        for join in joins {
            assert_eq!(join.join().unwrap().unwrap(), 5);
        }
    });
    assert_eq!(child.join().unwrap(), 5);
    assert_eq!(child.try_join().unwrap(), Some(5));
}

#[test]
fn join_with_a_timeout_leaves_the_child_alone() {
    let _watchdog = watchdog(60);
    let (child, go) = waiting();
    assert_eq!(child.try_join().unwrap(), None);
    let begin = Instant::now();
    assert_eq!(child.join_timeout(Duration::from_millis(50)).unwrap(), None);
    assert!(begin.elapsed() >= Duration::from_millis(50));
    assert!(child.is_alive());
    assert_eq!(child.exit_status(), None);
    go.put(6).unwrap();
    assert_eq!(child.join_timeout(Duration::MAX).unwrap(), Some(6));
    assert!(!child.is_alive());
    assert!(child.exit_status().unwrap().success());
}

// Before the start.

#[test]
fn nothing_runs_before_start() {
    let _watchdog = watchdog(60);
    let go = Queue::new().unwrap();
    let started = Queue::new().unwrap();
    let process = Process::new(wait_for, (go.clone(), started.clone()));
    // One that is started later has come and gone, and the other has not begun.
    Process::new(add, (1, 1)).start().unwrap().join().unwrap();
    assert!(started.is_empty());
    drop(process);
    assert!(started.is_empty());
    assert!(
        mp::active_children()
            .iter()
            .all(|child| child.name() != "never")
    );
}

/// Refuses to be encoded or decoded, as its content says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Awkward {
    NotEncoded,
    NotDecoded,
    PanicsInEncode,
    PanicsInDecode,
    Fine,
}

impl Serialize for Awkward {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::NotEncoded => Err(serde::ser::Error::custom("it does not want to")),
            Self::PanicsInEncode => panic!("no encoding"),
            Self::NotDecoded => serializer.serialize_u8(1),
            Self::PanicsInDecode => serializer.serialize_u8(2),
            Self::Fine => serializer.serialize_u8(0),
        }
    }
}

impl<'de> Deserialize<'de> for Awkward {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            0 => Ok(Self::Fine),
            1 => Err(serde::de::Error::custom("it stays what it is")),
            _ => panic!("no decoding"),
        }
    }
}

#[mp::task]
fn take_awkward(first: u32, value: Awkward) -> u32 {
    let _ = value;
    first
}

#[mp::task]
fn give_awkward(number: u8) -> Awkward {
    match number {
        0 => Awkward::NotEncoded,
        1 => Awkward::NotDecoded,
        2 => Awkward::PanicsInEncode,
        _ => Awkward::Fine,
    }
}

#[test]
fn argument_that_cannot_be_encoded_is_an_error_of_start() {
    let _watchdog = watchdog(60);
    let error = Process::new(take_awkward, (1, Awkward::NotEncoded))
        .start()
        .unwrap_err();
    assert!(error.is_not_encoded(), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("take_awkward") && text.contains("it does not want to"),
        "{text}"
    );
}

#[test]
fn argument_that_cannot_be_decoded_is_an_error_of_its_own() {
    let _watchdog = watchdog(60);
    let child = Process::new(take_awkward, (1, Awkward::NotDecoded))
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    assert!(
        error.is_not_decoded() && !error.may_have_started(),
        "{error}"
    );
    let text = error.to_string();
    for part in ["take_awkward", "value", "Awkward", "it stays what it is"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn panic_while_an_argument_is_decoded_is_told() {
    let _watchdog = watchdog(60);
    let child = Process::new(take_awkward, (1, Awkward::PanicsInDecode))
        .stderr(Stdio::null())
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    assert!(error.is_not_decoded(), "{error}");
    let why = error.message().unwrap();
    assert!(
        why.contains("no decoding") && why.contains(file!()),
        "{why}"
    );
}

#[test]
fn result_that_cannot_be_sent_is_an_error_of_its_own() {
    let _watchdog = watchdog(60);
    let result = |number| {
        let process = Process::new(give_awkward, (number,)).stderr(Stdio::null());
        process.start().unwrap().join()
    };
    let error = result(0).unwrap_err();
    assert!(
        error.is_not_encoded() && error.may_have_started(),
        "{error}"
    );
    assert!(error.to_string().contains("it does not want to"), "{error}");
    let error = result(1).unwrap_err();
    assert!(
        error.is_not_decoded() && error.may_have_started(),
        "{error}"
    );
    assert!(error.to_string().contains("it stays what it is"), "{error}");
    let error = result(2).unwrap_err();
    assert!(error.is_not_encoded(), "{error}");
    let why = error.message().unwrap();
    assert!(
        why.contains("no encoding") && why.contains(file!()),
        "{why}"
    );
    assert_eq!(result(3).unwrap(), Awkward::Fine);
}

fn plain(a: i32) -> i32 {
    a
}

#[test]
fn function_that_is_no_task_is_an_error_at_once() {
    let error = Process::new(plain, (1,)).start().unwrap_err();
    assert!(error.is_unknown_task(), "{error}");
    assert_eq!(
        error.to_string(),
        concat!(
            module_path!(),
            "::plain is not a task: add #[mp::task] above the function"
        )
    );
}

// What the child is told.

#[mp::task]
fn identity() -> (String, u32, bool, bool, Option<(String, u32)>) {
    let me = mp::current_process();
    let parent = mp::parent_process().map(|parent| (parent.name().to_owned(), parent.id()));
    (
        me.name().to_owned(),
        me.id(),
        me.is_main(),
        me.is_daemon(),
        parent,
    )
}

#[test]
fn child_knows_its_name_and_its_parent() {
    let _watchdog = watchdog(60);
    let me = mp::current_process();
    assert!(me.is_main() && !me.is_daemon() && me.id() == std::process::id());
    assert_eq!(me.name(), "MainProcess");
    assert!(mp::parent_process().is_none());
    for daemon in [true, false] {
        let process = Process::new(identity, ()).name("tom").daemon(daemon);
        let child = process.start().unwrap();
        let parent = Some(("MainProcess".to_owned(), std::process::id()));
        assert_eq!(child.name(), "tom");
        assert_eq!(child.is_daemon(), daemon);
        let expected = ("tom".to_owned(), child.id(), false, daemon, parent);
        assert_eq!(child.join().unwrap(), expected);
    }
}

#[test]
fn name_may_be_anything() {
    let _watchdog = watchdog(60);
    for name in ["", "two words", "grüße", &"long".repeat(1000)] {
        let child = Process::new(identity, ()).name(name).start().unwrap();
        assert_eq!(child.name(), name);
        assert_eq!(child.join().unwrap().0, name);
    }
}

#[mp::task]
fn names_down_to(depth: u32) -> Result<Vec<String>, mp::AnyError> {
    let mut names = vec![mp::current_process().name().to_owned()];
    if depth > 0 {
        for _ in 0..2 {
            names.extend(
                Process::new(names_down_to, (depth - 1,))
                    .start()?
                    .join()??,
            );
        }
    }
    Ok(names)
}

#[test]
fn default_names_count_and_nest() {
    alone("default_names_count_and_nest", || {
        let names = |depth| {
            let child = Process::new(names_down_to, (depth,)).start().unwrap();
            child.join().unwrap().unwrap()
        };
        assert_eq!(names(0), ["Process-1"]);
        let nested = ["2", "2:1", "2:1:1", "2:1:2", "2:2", "2:2:1", "2:2:2"];
        assert_eq!(names(2), nested.map(|numbers| format!("Process-{numbers}")));
    });
}

#[test]
fn nested_three_deep() {
    let _watchdog = watchdog(60);
    let child = Process::new(names_down_to, (3,)).start().unwrap();
    assert_eq!(child.join().unwrap().unwrap().len(), 15);
}

#[mp::task]
fn variables(names: Vec<String>) -> Vec<Option<String>> {
    names.iter().map(|name| std::env::var(name).ok()).collect()
}

#[test]
fn environment_is_the_parents_with_the_changes_asked_for() {
    let _watchdog = watchdog(60);
    let names = [
        "PATH",
        "MP_TEST_A",
        "MP_TEST_B",
        "CARGO_MANIFEST_DIR",
        "MP_CHILD",
    ];
    let child = Process::new(variables, (names.map(str::to_owned).to_vec(),))
        .env("MP_TEST_A", "1")
        .env("MP_TEST_A", "2=3")
        .env("MP_TEST_B", "4")
        .env_remove("MP_TEST_B")
        .env_remove("CARGO_MANIFEST_DIR")
        .start()
        .unwrap();
    let path = std::env::var("PATH").ok();
    assert!(path.is_some() && std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let expected = vec![path, Some("2=3".to_owned()), None, None, None];
    assert_eq!(child.join().unwrap(), expected);
}

#[test]
fn impossible_variable_is_an_error_of_start() {
    for (name, value) in [("", "x"), ("A=B", "x"), ("A", "x\0y")] {
        let error = Process::new(add, (1, 2))
            .env(name, value)
            .start()
            .unwrap_err();
        assert!(
            error.to_string().contains("environment variable"),
            "{error}"
        );
    }
}

#[mp::task]
fn arguments() -> Vec<std::ffi::OsString> {
    std::env::args_os().collect()
}

#[test]
fn child_sees_the_programs_arguments() {
    let _watchdog = watchdog(60);
    let child = Process::new(arguments, ()).start().unwrap();
    assert!(child.join().unwrap().into_iter().eq(std::env::args_os()));
}

#[mp::task]
fn directory() -> Result<PathBuf, mp::AnyError> {
    Ok(std::env::current_dir()?)
}

#[test]
fn child_works_in_the_directory_asked_for() {
    let _watchdog = watchdog(60);
    let here = Process::new(directory, ()).start().unwrap();
    assert_eq!(
        here.join().unwrap().unwrap(),
        std::env::current_dir().unwrap()
    );
    let other = tempfile::tempdir().unwrap();
    let there = Process::new(directory, ())
        .current_dir(other.path())
        .start()
        .unwrap();
    let other = other.path().canonicalize().unwrap();
    assert_eq!(there.join().unwrap().unwrap(), other);
}

#[test]
fn directory_that_does_not_exist_is_told() {
    let _watchdog = watchdog(60);
    let child = Process::new(directory, ())
        .current_dir("/does/not/exist")
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    assert!(
        error.is_not_started() && !error.may_have_started(),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("/does/not/exist") && text.contains("No such file"),
        "{text}"
    );
}

#[mp::task]
fn cpus_and_nice() -> (Option<String>, i32, usize) {
    let cpus = support::status_line(std::process::id(), "Cpus_allowed_list");
    // SAFETY: takes integers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    (cpus, nice, mp::cpu_count())
}

#[test]
fn affinity_and_nice_are_set() {
    let _watchdog = watchdog(60);
    let all = support::status_line(std::process::id(), "Cpus_allowed_list");
    let child = Process::new(cpus_and_nice, ()).start().unwrap();
    assert_eq!(child.join().unwrap().0, all);
    let cpu: usize = all
        .unwrap()
        .split([',', '-'])
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let child = Process::new(cpus_and_nice, ())
        .cpu_affinity([cpu])
        .nice(7)
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), (Some(cpu.to_string()), 7, 1));
    let nowhere = Process::new(cpus_and_nice, ())
        .cpu_affinity([])
        .start()
        .unwrap();
    let error = nowhere.join().unwrap_err();
    assert!(error.is_not_started(), "{error}");
}

// Standard streams.

#[mp::task]
fn shout() -> Result<u32, mp::AnyError> {
    let mut lines = 0;
    for line in std::io::stdin().lines() {
        println!("{}", line?.to_uppercase());
        lines += 1;
    }
    eprintln!("{lines} lines");
    Ok(lines)
}

#[test]
fn streams_can_be_piped() {
    let _watchdog = watchdog(60);
    let child = Process::new(shout, ())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .start()
        .unwrap();
    let mut stdin = child.take_stdin().unwrap();
    let mut stdout = BufReader::new(child.take_stdout().unwrap());
    let mut stderr = child.take_stderr().unwrap();
    let mut line = String::new();
    stdin.write_all(b"one\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ONE\n");
    stdin.write_all(b"two\n").unwrap();
    drop(stdin);
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ONE\nTWO\n");
    assert_eq!(child.join().unwrap().unwrap(), 2);
    line.clear();
    stderr.read_to_string(&mut line).unwrap();
    assert_eq!(line, "2 lines\n");
    assert!(child.take_stdin().is_none() && child.take_stdout().is_none());
    assert!(child.take_stderr().is_none());
}

#[test]
fn streams_that_are_not_piped_cannot_be_taken() {
    let _watchdog = watchdog(60);
    let child = Process::new(add, (1, 2)).start().unwrap();
    assert!(child.take_stdin().is_none() && child.take_stdout().is_none());
    assert!(child.take_stderr().is_none());
    child.join().unwrap();
}

#[test]
fn streams_can_be_files_or_nothing() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    fs::write(path("in"), "a\nb\nc\n").unwrap();
    let child = Process::new(shout, ())
        .stdin(fs::File::open(path("in")).unwrap())
        .stdout(fs::File::create(path("out")).unwrap())
        .stderr(fs::File::create(path("err")).unwrap())
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap().unwrap(), 3);
    assert_eq!(fs::read_to_string(path("out")).unwrap(), "A\nB\nC\n");
    assert_eq!(fs::read_to_string(path("err")).unwrap(), "3 lines\n");

    let child = Process::new(shout, ())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap().unwrap(), 0);
}

#[mp::task]
fn write_standard_error(lines: u32) {
    for line in 0..lines {
        eprintln!("line {line}");
    }
    std::process::exit(4);
}

#[test]
fn end_of_a_piped_standard_error_is_in_the_error() {
    let _watchdog = watchdog(60);
    // Much more than a pipe holds: the child must not wait for a reader.
    let child = Process::new(write_standard_error, (100_000,))
        .stderr(Stdio::piped())
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    let tail = error.stderr_tail().unwrap();
    assert!(tail.ends_with("line 99998\nline 99999\n"), "{tail}");
    assert!(format!("{error:#}").ends_with("line 99999"));
    assert!(!error.to_string().contains("line 99999"));
}

#[test]
fn inherited_standard_error_is_not_kept() {
    let _watchdog = watchdog(60);
    let child = Process::new(write_standard_error, (0,)).start().unwrap();
    assert_eq!(child.join().unwrap_err().stderr_tail(), None);
}

#[mp::task]
fn standard_streams() -> Vec<String> {
    let name = |fd| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    (0..3).map(|fd| name(fd).display().to_string()).collect()
}

#[test]
fn closed_standard_streams_are_nothing_in_a_child() {
    let close = |command: &mut std::process::Command| {
        let close = || {
            for fd in 0..3 {
                // SAFETY: takes an integer.
                unsafe { libc::close(fd) };
            }
            Ok(())
        };
        // SAFETY: close is safe between fork and exec.
        unsafe { command.pre_exec(close) };
    };
    alone_with(
        "closed_standard_streams_are_nothing_in_a_child",
        close,
        || {
            // Rust's own start has opened them in this process: close them again.
            for fd in 0..3 {
                // SAFETY: takes an integer.
                unsafe { libc::close(fd) };
            }
            let child = Process::new(standard_streams, ()).start().unwrap();
            assert_eq!(child.join().unwrap(), ["/dev/null"; 3]);
            let child = Process::new(relay, (End::Exit(9),)).start().unwrap();
            let error = child.join().unwrap().unwrap_err();
            assert_eq!(error.task().unwrap().exit_code(), Some(9));
        },
    );
}

// How a child ends.

#[test]
fn panic_comes_back_with_message_and_place() {
    let _watchdog = watchdog(60);
    let (child, error) = ended(End::Panic("so it goes".to_owned()));
    assert!(error.is_panic() && !error.is_crash(), "{error}");
    assert_eq!(error.message(), Some("so it goes"));
    assert_eq!(error.file(), Some(file!()));
    let line = include_str!("process.rs")
        .lines()
        .position(|line| line.contains("panic!(\"{message}\")"));
    assert_eq!(error.line(), line.map(|line| line as u32 + 1));
    assert_eq!(error.task(), concat!(module_path!(), "::end"));
    assert_eq!(
        (error.process(), error.pid()),
        (Some(child.name()), Some(child.id()))
    );
    assert_eq!(child.exit_status().unwrap().code(), Some(101));
    // And it is on the child's standard error, as any panic.
    let tail = error.stderr_tail().unwrap();
    assert!(
        tail.contains("so it goes") && tail.contains(file!()),
        "{tail}"
    );
    let place = format!("{}:{}", file!(), error.line().unwrap());
    let text = error.to_string();
    for part in [
        "process::end",
        "panicked",
        &place,
        "so it goes",
        child.name(),
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn panic_without_a_text_is_a_panic() {
    let _watchdog = watchdog(60);
    let (_, error) = ended(End::PanicWithANumber);
    assert!(error.is_panic() && error.line().is_some(), "{error}");
}

#[test]
fn backtrace_comes_where_it_is_enabled() {
    let _watchdog = watchdog(60);
    for enabled in ["0", "1"] {
        let child = Process::new(end, (End::Panic("x".to_owned()),))
            .env("RUST_BACKTRACE", enabled)
            .stderr(Stdio::null())
            .start()
            .unwrap();
        let error = child.join().unwrap_err();
        // By its file, for a release build has the task inlined and its name shortened.
        let shows_task = error.backtrace().map(|trace| trace.contains(file!()));
        assert_eq!(shows_task, (enabled == "1").then_some(true), "{error:#}");
    }
}

#[test]
fn crash_comes_back_as_what_it_is() {
    let _watchdog = watchdog(60);
    let cases = [
        (End::Exit(3), None, Some(3), "exited with code 3"),
        (End::Exit(0), None, Some(0), "exited with code 0"),
        (End::Abort, Some(libc::SIGABRT), None, "SIGABRT"),
        (
            End::Signal(libc::SIGKILL),
            Some(libc::SIGKILL),
            None,
            "SIGKILL",
        ),
        (
            End::Signal(libc::SIGTERM),
            Some(libc::SIGTERM),
            None,
            "SIGTERM",
        ),
        (
            End::Signal(libc::SIGSYS),
            Some(libc::SIGSYS),
            None,
            "SIGSYS",
        ),
        (End::Segfault, Some(libc::SIGSEGV), None, "SIGSEGV"),
    ];
    for (how, signal, code, part) in cases {
        let (child, error) = ended(how.clone());
        assert!(error.is_crash() && !error.is_panic(), "{how:?}: {error}");
        assert!(error.may_have_started());
        assert_eq!(
            (error.signal(), error.exit_code()),
            (signal, code),
            "{how:?}"
        );
        let status = child.exit_status().unwrap();
        assert_eq!((status.signal(), status.code()), (signal, code), "{how:?}");
        assert_eq!(error.stderr_tail(), Some("about to end\n"));
        let (text, pid) = (error.to_string(), child.id().to_string());
        for part in [part, "process::end", child.name(), &pid] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn child_is_ended_by_the_signal_it_is_sent() {
    let _watchdog = watchdog(60);
    type Send = fn(&Child<u32>);
    let cases: [(Send, i32); 3] = [
        (Child::interrupt, libc::SIGINT),
        (Child::terminate, libc::SIGTERM),
        (Child::kill, libc::SIGKILL),
    ];
    for (send, signal) in cases {
        let (child, _go) = waiting();
        assert!(child.is_alive());
        send(&child);
        assert_eq!(child.join().unwrap_err().signal(), Some(signal));
        assert!(!child.is_alive());
        // A number that may be another process's by now is not signalled.
        send(&child);
    }
}

#[mp::task]
fn ignore_termination(started: Queue<()>) {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    started.put(()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn child_that_ignores_termination_can_be_killed() {
    let _watchdog = watchdog(60);
    let started = Queue::new().unwrap();
    let child = Process::new(ignore_termination, (started.clone(),))
        .start()
        .unwrap();
    started.get().unwrap();
    child.terminate();
    assert!(child.is_alive());
    child.kill();
    assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGKILL));
}

extern "C" fn crash() {
    // SAFETY: takes an integer.
    unsafe { libc::raise(libc::SIGSEGV) };
}

extern "C" fn hang() {
    loop {
        std::thread::park();
    }
}

extern "C" fn say_goodbye() {
    println!("goodbye");
}

#[mp::task]
fn result_then(at_exit: u8) -> u32 {
    let handler = [crash, hang, say_goodbye][usize::from(at_exit)];
    // SAFETY: the handler is a function of the program, which lives as long as it does.
    unsafe { libc::atexit(handler) };
    print!("no newline, ");
    77
}

#[test]
fn result_survives_a_crash_at_exit() {
    let _watchdog = watchdog(60);
    let child = Process::new(result_then, (0,))
        .stdout(Stdio::null())
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), 77);
    assert_eq!(child.exit_status().unwrap().signal(), Some(libc::SIGSEGV));
}

#[test]
fn exit_handler_that_hangs_is_killed() {
    let _watchdog = watchdog(60);
    let child = Process::new(result_then, (1,))
        .stdout(Stdio::null())
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), 77);
    assert_eq!(child.exit_status().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn exit_handlers_run_and_output_is_flushed() {
    let _watchdog = watchdog(60);
    let child = Process::new(result_then, (2,))
        .stdout(Stdio::piped())
        .start()
        .unwrap();
    let mut text = String::new();
    child
        .take_stdout()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(
        text.contains("no newline, ") && text.contains("goodbye\n"),
        "{text}"
    );
    assert_eq!(child.join().unwrap(), 77);
    assert!(child.exit_status().unwrap().success());
}

// Death before the handshake.

#[test]
fn death_before_the_handshake_is_told_with_its_status() {
    let _watchdog = watchdog(60);
    let start = |how| {
        let process = Process::new(add, (1, 2)).env("MP_TEST_EARLY", how);
        // Where a child is executed, so that it has an early time.
        let process = process.start_method(mp::StartMethod::Spawn);
        let child = process.stderr(Stdio::piped()).start().unwrap();
        let error = child.join().unwrap_err();
        assert!(
            error.is_not_started() && !error.may_have_started(),
            "{error}"
        );
        assert!(error.to_string().contains("process::add"), "{error}");
        (error, child.exit_status().unwrap())
    };
    let (error, status) = start("exit");
    assert!(error.to_string().contains("exited with code 7"), "{error}");
    assert_eq!(error.stderr_tail(), Some("last words\n"));
    assert_eq!(status.code(), Some(7));
    let (error, status) = start("kill");
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

#[test]
fn child_that_does_not_shake_hands_in_time_is_killed() {
    let _watchdog = watchdog(60);
    let child = Process::new(add, (1, 2))
        .env("MP_TEST_EARLY", "hang")
        .start_method(mp::StartMethod::Spawn)
        .start_timeout(Duration::from_millis(100))
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    assert!(
        error.is_not_started() && error.message().unwrap().contains("in time"),
        "{error}"
    );
    assert_eq!(child.exit_status().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn child_that_is_ready_may_take_its_time() {
    let _watchdog = watchdog(60);
    // Longer each time: on a busy machine a child may really be late.
    for limit in (0..).map(|round| Duration::from_millis(500 << round)) {
        let (go, started) = (Queue::new().unwrap(), Queue::new().unwrap());
        let child = Process::new(wait_for, (go.clone(), started.clone()))
            .start_timeout(limit)
            .start()
            .unwrap();
        eventually(|| !started.is_empty() || !child.is_alive());
        if started.is_empty() {
            assert!(child.join().unwrap_err().is_not_started());
            continue;
        }
        assert_eq!(child.join_timeout(limit).unwrap(), None);
        go.put(1).unwrap();
        assert_eq!(child.join().unwrap(), 1);
        break;
    }
}

// Who is there.

#[test]
fn active_children_are_those_that_have_not_ended() {
    let _watchdog = watchdog(60);
    let has = |id| mp::active_children().iter().any(|child| child.id() == id);
    let (first, go_first) = waiting_as(|process| process.name("first"));
    let (second, _go) = waiting();
    let active = mp::active_children();
    let place = |id| active.iter().position(|child| child.id() == id);
    assert!(place(first.id()).unwrap() < place(second.id()).unwrap());
    assert_eq!(active[place(first.id()).unwrap()].name(), "first");
    go_first.put(0).unwrap();
    first.join().unwrap();
    assert!(!has(first.id()) && has(second.id()));
    let second = mp::active_children()
        .into_iter()
        .find(|child| child.id() == second.id());
    let second = second.unwrap();
    assert!(second.is_alive());
    second.kill();
    eventually(|| !second.is_alive());
    assert!(!has(second.id()));
}

#[test]
fn descriptor_becomes_readable_at_the_end() {
    let _watchdog = watchdog(60);
    let (child, go) = waiting();
    let fd = child.as_fd();
    assert!(!support::wait_readable(&fd, Some(Duration::ZERO)));
    go.put(0).unwrap();
    assert!(support::wait_readable(&fd, None));
    assert!(!child.is_alive());
    assert_eq!(child.join().unwrap(), 0);
}

#[test]
fn dropped_handle_leaves_the_child_running() {
    let _watchdog = watchdog(60);
    for detach in [true, false] {
        let (child, go) = waiting();
        let pidfd = support::pidfd(child.id());
        if detach {
            child.detach()
        } else {
            drop(child)
        }
        assert!(!support::wait_readable(
            &pidfd,
            Some(Duration::from_millis(20))
        ));
        go.put(0).unwrap();
        assert!(support::wait_readable(&pidfd, None));
    }
}

#[test]
fn child_whose_handle_was_dropped_leaves_no_zombie() {
    let _watchdog = watchdog(60);
    let (child, go) = waiting();
    let id = child.id();
    // The list that the kernel gives may lack one while another child ends.
    eventually(|| support::children().contains(&id));
    drop(child);
    go.put(0).unwrap();
    eventually(|| !support::children().contains(&id));
}

#[test]
fn scope_waits_for_its_children() {
    let _watchdog = watchdog(60);
    let started = Queue::new().unwrap();
    let go = Queue::new().unwrap();
    let children: Vec<_> = mp::scope(|scope| {
        let start = || scope.start(Process::new(wait_for, (go.clone(), started.clone())));
        let children = (0..3).map(|_| start().unwrap()).collect();
        for _ in 0..3 {
            started.get().unwrap();
        }
        go.put_many([1, 1, 1]).unwrap();
        children
    });
    for child in children {
        assert!(!child.is_alive());
        assert_eq!(child.join().unwrap(), 1);
    }
}

#[test]
fn scope_waits_also_when_it_panics() {
    let _watchdog = watchdog(60);
    let go = Queue::new().unwrap();
    let started = Queue::<u32>::new().unwrap();
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
        mp::scope(|scope| {
            let process = Process::new(wait_for, (go.clone(), started.clone()));
            scope.start(process).unwrap();
            go.put(1).unwrap();
            std::panic::resume_unwind(Box::new(()));
        });
    }));
    assert!(panicked.is_err());
    let id = started.get().unwrap();
    assert!(mp::active_children().iter().all(|child| child.id() != id));
}

#[test]
fn children_can_be_started_by_many_threads() {
    let _watchdog = watchdog(120);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            scope.spawn(move || {
                let start = |n| Process::new(add, (thread, n)).start().unwrap();
                let children: Vec<_> = (0..8).map(start).collect();
                for (n, child) in (0..).zip(children) {
                    assert_eq!(child.join().unwrap(), thread + n);
                }
            });
        }
    });
}

#[test]
fn child_outlives_the_thread_that_started_it() {
    let _watchdog = watchdog(60);
    let (child, go) = std::thread::spawn(waiting).join().unwrap();
    assert_eq!(child.join_timeout(Duration::from_millis(50)).unwrap(), None);
    go.put(3).unwrap();
    assert_eq!(child.join().unwrap(), 3);
}

/// What children find that are started by another thread, which has ended, and by the main one, which
/// has become nicer than that, and what that one has itself.
#[mp::task]
fn start_by_both() -> mp::Result<[(Option<String>, i32, usize); 3]> {
    let start = || Process::new(cpus_and_nice, ()).start();
    let by_another = std::thread::spawn(start).join().unwrap()?;
    // SAFETY: takes integers; it is about this thread.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: as above.
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice + 3) };
    assert_eq!(set, 0);
    let by_main = start()?;
    Ok([by_another.join()?, by_main.join()?, cpus_and_nice()])
}

#[test]
fn child_of_a_main_thread_has_what_that_has() {
    let _watchdog = watchdog(60);
    // A task runs on the main thread of its process.
    let [by_another, by_main, main] = Process::new(start_by_both, ())
        .start()
        .unwrap()
        .join()
        .unwrap()
        .unwrap();
    assert_eq!(by_main, main);
    assert_eq!(by_another.1 + 3, main.1);
    assert_eq!(by_another.0, main.0);
}

#[test]
fn cpu_count_is_what_this_process_may_use() {
    let count = mp::cpu_count();
    assert!(count >= 1);
    assert!(count <= std::thread::available_parallelism().unwrap().get());
}

// What a child inherits.

#[mp::task]
fn descriptors() -> Vec<String> {
    let name = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    let listed = fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(name);
    let mut names: Vec<_> = listed.map(|name| name.display().to_string()).collect();
    names.retain(|name| !name.starts_with("/proc/")); // The listing itself.
    names
}

#[test]
fn child_inherits_no_descriptors_but_its_own() {
    alone("child_inherits_no_descriptors_but_its_own", || {
        let _watchdog = watchdog(60);
        let kept = tempfile::NamedTempFile::new().unwrap();
        let is_kept = |name: &String| *name == kept.path().display().to_string();
        let list = || {
            Process::new(descriptors, ())
                .start()
                .unwrap()
                .join()
                .unwrap()
        };
        let alone = list();
        assert!(!alone.iter().any(is_kept), "{alone:?}");
        let siblings: Vec<_> = (0..5).map(|_| waiting()).collect();
        assert_eq!(list().len(), alone.len());
        drop(siblings);
    });
}

/// The signals that are blocked, and those that are ignored.
#[mp::task]
fn signals() -> [Vec<u32>; 2] {
    ["SigBlk", "SigIgn"].map(|key| {
        let set = support::status_line(std::process::id(), key).unwrap();
        let set = u64::from_str_radix(&set, 16).unwrap();
        // Not 32 and 33, which are the C library's own.
        (1..32)
            .filter(|signal| set >> (signal - 1) & 1 == 1)
            .collect()
    })
}

#[test]
fn parents_signal_mask_and_dispositions_stay_with_it() {
    alone("parents_signal_mask_and_dispositions_stay_with_it", || {
        let _watchdog = watchdog(60);
        // SAFETY: all zeros is a valid signal set, which sigfillset fills; SIG_IGN is valid.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            assert_eq!(
                libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut()),
                0
            );
            for signal in [libc::SIGUSR1, libc::SIGINT, libc::SIGTERM, libc::SIGCHLD] {
                if signal != libc::SIGCHLD {
                    libc::signal(signal, libc::SIG_IGN);
                }
            }
        }
        let child = Process::new(signals, ()).start().unwrap();
        assert_eq!(child.join().unwrap(), [vec![], vec![libc::SIGPIPE as u32]]);
        let (child, _go) = waiting();
        child.terminate();
        assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGTERM));
        let (child, _go) = waiting();
        child.interrupt();
        assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGINT));
    });
}

/// What a program that a child executes finds ignored or blocked.
#[mp::task]
fn signals_of_a_program() -> Result<String, mp::AnyError> {
    let output = std::process::Command::new("grep")
        .args(["-E", "Sig(Blk|Ign)", "/proc/self/status"])
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn program_that_a_child_executes_can_be_interrupted() {
    let _watchdog = watchdog(60);
    let child = Process::new(signals_of_a_program, ()).start().unwrap();
    let signals = child.join().unwrap().unwrap();
    let interrupt = 1 << (libc::SIGINT - 1);
    assert_eq!(signals.lines().count(), 2, "{signals}");
    for line in signals.lines() {
        let (_, set) = line.split_once('\t').unwrap();
        let set = u64::from_str_radix(set, 16).unwrap();
        assert_eq!(set & interrupt, 0, "{line}");
    }
}

#[test]
fn interrupt_from_elsewhere_is_left_to_the_parent() {
    let _watchdog = watchdog(60);
    let (child, go) = waiting();
    // As from a terminal: not from the parent, so from a shell.
    let kill = format!("kill -INT {}", child.id());
    let status = std::process::Command::new("sh")
        .args(["-c", &kill])
        .status()
        .unwrap();
    assert!(status.success());
    go.put(8).unwrap();
    assert_eq!(child.join().unwrap(), 8);
}

#[mp::task]
fn oom_score() -> i32 {
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    score.trim().parse().unwrap()
}

#[test]
fn child_is_killed_before_its_parent_when_memory_is_short() {
    let _watchdog = watchdog(60);
    let (child, go) = waiting();
    let score = |pid: String| {
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        score.trim().parse::<i32>().unwrap()
    };
    let own = score("self".to_owned());
    assert!(own == 1000 || score(child.id().to_string()) > own);
    go.put(0).unwrap();
    child.join().unwrap();
}

#[mp::task]
fn arena_mappings() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_arena = false;
    let (mut arenas, mut not_dumped) = (0, 0);
    for line in maps.lines() {
        if line
            .split_whitespace()
            .next()
            .is_some_and(|word| word.contains('-'))
        {
            is_arena = line.contains("/memfd:mp");
            arenas += usize::from(is_arena);
        } else if is_arena && line.starts_with("VmFlags:") {
            not_dumped += usize::from(line.split_whitespace().any(|flag| flag == "dd"));
        }
    }
    (arenas, not_dumped)
}

#[test]
fn shared_memory_is_in_no_core_dump() {
    let _watchdog = watchdog(60);
    let (arenas, not_dumped) = Process::new(arena_mappings, ())
        .start()
        .unwrap()
        .join()
        .unwrap();
    assert!(arenas >= 1);
    assert_eq!(not_dumped, arenas);
    // Another test's thread may be about to say so of a mapping that it has just made.
    eventually(|| {
        let (arenas, not_dumped) = arena_mappings();
        arenas >= 1 && not_dumped == arenas
    });
}

#[mp::task]
fn dump_core(items: Queue<Vec<u8>>) {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: points to a valid limit.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &limit) };
    let item = items.get().unwrap();
    assert_eq!(item.len(), 64 << 20);
    std::process::abort();
}

#[test]
fn crash_with_core_dumps_enabled_is_a_crash_like_any_other() {
    let _watchdog = watchdog(120);
    let directory = tempfile::tempdir().unwrap();
    let items = Queue::new().unwrap();
    let child = Process::new(dump_core, (items.clone(),))
        .current_dir(directory.path())
        .start()
        .unwrap();
    items.put(vec![1; 64 << 20]).unwrap();
    items.put(vec![1; 64 << 20]).unwrap();
    let error = child.join().unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGABRT));
    assert_eq!(
        error.core_dumped(),
        child.exit_status().unwrap().core_dumped()
    );
    // Where the system writes it to a file here, the shared memory is not in it; the item that was
    // got is the child's own and may be.
    for file in fs::read_dir(directory.path()).unwrap().flatten() {
        assert!(file.metadata().unwrap().len() < 128 << 20);
    }
    assert_eq!(items.get().unwrap().len(), 64 << 20);
}

// The state of the parent.

#[test]
fn thousands_of_arguments_reach_the_child() {
    let more = |command: &mut std::process::Command| {
        command.args((0..5002).map(|n| format!("argument-{n}")));
    };
    alone_with("thousands_of_arguments_reach_the_child", more, || {
        let _watchdog = watchdog(60);
        let child = Process::new(arguments, ()).start().unwrap();
        let seen = child.join().unwrap();
        assert!(seen.len() > 5002 && seen.into_iter().eq(std::env::args_os()));
    });
}

#[test]
fn working_directory_may_be_gone() {
    alone("working_directory_may_be_gone", || {
        let _watchdog = watchdog(60);
        let directory = tempfile::tempdir().unwrap();
        std::env::set_current_dir(directory.path()).unwrap();
        drop(directory);
        assert!(std::env::current_dir().is_err());
        let child = Process::new(names_down_to, (1,)).start().unwrap();
        assert_eq!(child.join().unwrap().unwrap().len(), 3);
    });
}

#[test]
fn programs_file_may_be_deleted() {
    alone_in_a_copy("programs_file_may_be_deleted", || {
        let _watchdog = watchdog(60);
        fs::remove_file(std::env::current_exe().unwrap()).unwrap();
        let child = Process::new(names_down_to, (1,)).start().unwrap();
        assert_eq!(child.join().unwrap().unwrap().len(), 3);
    });
}

#[test]
fn programs_file_may_be_replaced() {
    alone_in_a_copy("programs_file_may_be_replaced", || {
        let _watchdog = watchdog(60);
        let program = std::env::current_exe().unwrap();
        fs::remove_file(&program).unwrap();
        fs::copy("/bin/false", &program).unwrap();
        let child = Process::new(names_down_to, (1,)).start().unwrap();
        assert_eq!(child.join().unwrap().unwrap().len(), 3);
    });
}

#[test]
fn programs_file_may_be_moved() {
    alone_in_a_copy("programs_file_may_be_moved", || {
        let _watchdog = watchdog(60);
        let program = std::env::current_exe().unwrap();
        fs::rename(&program, program.with_extension("moved")).unwrap();
        fs::copy("/bin/false", &program).unwrap();
        let child = Process::new(names_down_to, (1,)).start().unwrap();
        assert_eq!(child.join().unwrap().unwrap().len(), 3);
    });
}

#[test]
fn programs_file_may_be_replaced_between_two_starts() {
    alone_in_a_copy("programs_file_may_be_replaced_between_two_starts", || {
        let _watchdog = watchdog(60);
        let program = std::env::current_exe().unwrap();
        let start = || Process::new(add, (20, 22)).start().unwrap();
        assert_eq!(start().join().unwrap(), 42);
        fs::rename(&program, program.with_extension("moved")).unwrap();
        assert_eq!(start().join().unwrap(), 42);
        fs::copy("/bin/false", &program).unwrap();
        assert_eq!(start().join().unwrap(), 42);
        fs::rename(program.with_extension("moved"), &program).unwrap();
        assert_eq!(start().join().unwrap(), 42);
    });
}

/// Exchanges two files.
fn exchange(a: &std::ffi::CStr, b: &std::ffi::CStr) {
    let (here, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both are strings that live as long as the call.
    let result = unsafe { libc::renameat2(here, a.as_ptr(), here, b.as_ptr(), flags) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn another_build_is_refused() {
    alone_in_a_copy("another_build_is_refused", || {
        let _watchdog = watchdog(120);
        let program = std::env::current_exe().unwrap();
        let other = program.with_extension("other");
        fs::copy(&program, &other).unwrap();
        // Another build, as far as anybody can tell.
        let mut file = fs::File::options().append(true).open(&other).unwrap();
        file.write_all(b"\n").unwrap();
        drop(file);
        let name =
            |path: PathBuf| std::ffi::CString::new(path.into_os_string().into_encoded_bytes());
        let (program, other) = (name(program).unwrap(), name(other).unwrap());
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // The file is exchanged between the moments when `mp` reads its name and executes it.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    exchange(&program, &other);
                }
            });
            let start = || {
                Process::new(add, (20, 22))
                    .start_method(mp::StartMethod::Spawn)
                    .start()
                    .unwrap()
            };
            let is_refused = || match start().join() {
                Ok(sum) => {
                    assert_eq!(sum, 42);
                    false
                }
                Err(error) => {
                    assert!(error.is_not_started(), "{error}");
                    let why = error.message().unwrap();
                    assert!(why.contains("replaced by another build"), "{why}");
                    true
                }
            };
            while !is_refused() {}
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn parent_may_have_touched_much_memory() {
    alone("parent_may_have_touched_much_memory", || {
        let _watchdog = watchdog(120);
        let memory = vec![1_u8; 1 << 30];
        for n in 0..10 {
            assert_eq!(
                Process::new(add, (n, 1)).start().unwrap().join().unwrap(),
                n + 1
            );
        }
        assert_eq!(
            memory
                .iter()
                .step_by(4096)
                .map(|&byte| u64::from(byte))
                .sum::<u64>(),
            1 << 18
        );
    });
}

#[test]
fn limit_on_file_size_is_respected() {
    alone("limit_on_file_size_is_respected", || {
        let _watchdog = watchdog(60);
        let limit = libc::rlimit {
            rlim_cur: 256 << 20,
            rlim_max: 256 << 20,
        };
        // SAFETY: points to a valid limit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
        let child = Process::new(reverse, (vec![1; 1 << 20],)).start().unwrap();
        assert_eq!(child.join().unwrap().len(), 1 << 20);
        // Too large an argument is an error, not the end of the program.
        let error = Process::new(reverse, (vec![1; 512 << 20],))
            .start()
            .unwrap_err();
        assert!(error.is_out_of_memory(), "{error}");
        let child = Process::new(add, (1, 2)).start().unwrap();
        assert_eq!(child.join().unwrap(), 3);
    });
}

#[test]
fn limit_on_file_size_that_leaves_no_room_is_an_error() {
    alone("limit_on_file_size_that_leaves_no_room_is_an_error", || {
        let _watchdog = watchdog(60);
        let limit = libc::rlimit {
            rlim_cur: 4096,
            rlim_max: 4096,
        };
        // SAFETY: points to a valid limit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
        let error = Process::new(add, (1, 2)).start().unwrap_err();
        assert!(error.is_out_of_memory(), "{error}");
        assert!(error.to_string().contains("ulimit -f"), "{error}");
    });
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Interrupts the calling thread's system calls again and again while `wait` runs.
fn interrupted<T>(wait: impl FnOnce() -> T, then: impl FnOnce() + Send) -> T {
    // SAFETY: the handler touches an atomic; all zeros is a valid sigaction, and means that system
    // calls are not restarted.
    let me = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int) = count_signal;
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
        libc::pthread_self()
    };
    let before = SIGNALS.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while SIGNALS.load(Ordering::Relaxed) < before + 50 {
                // SAFETY: the thread waits below for this one.
                unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                std::thread::sleep(Duration::from_millis(1));
            }
            then();
        });
        wait()
    })
}

#[test]
fn signals_do_not_break_waiting() {
    alone("signals_do_not_break_waiting", || {
        let _watchdog = watchdog(60);
        let (child, go) = waiting();
        assert_eq!(
            interrupted(|| child.join(), || go.put(4).unwrap()).unwrap(),
            4
        );

        let queue = Queue::<u32>::new().unwrap();
        assert_eq!(
            interrupted(|| queue.get(), || queue.put(5).unwrap()).unwrap(),
            5
        );
        let begin = Instant::now();
        let wait = Duration::from_millis(200);
        let timed_out = interrupted(|| queue.get_timeout(wait), || {});
        assert!(matches!(timed_out, Err(mp::GetTimeoutError::Timeout)));
        assert!(begin.elapsed() >= wait);

        let (child, go) = waiting();
        let begin = Instant::now();
        assert_eq!(
            interrupted(|| child.join_timeout(wait), || {}).unwrap(),
            None
        );
        assert!(begin.elapsed() >= wait);
        go.put(0).unwrap();
        child.join().unwrap();
    });
}

#[test]
fn status_that_others_took_is_unknown() {
    alone("status_that_others_took_is_unknown", || {
        let _watchdog = watchdog(60);
        // SAFETY: SIG_IGN is a valid disposition; the kernel reaps children by itself then.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let child = Process::new(add, (1, 2)).start().unwrap();
        assert_eq!(child.join().unwrap(), 3);
        assert_eq!(child.exit_status(), None);
        assert!(!child.is_alive());
        let child = Process::new(end, (End::Exit(3),)).start().unwrap();
        let error = child.join().unwrap_err();
        assert!(error.is_crash(), "{error}");
        assert_eq!((error.exit_code(), error.signal()), (None, None));
    });
}

// Ends of the program.

#[mp::task]
fn speak_late() {
    // The parent's exit is under way meanwhile; if it did not wait, nobody would speak.
    std::thread::sleep(Duration::from_millis(200));
    println!("spoken late");
}

#[test]
fn exit_waits_for_children_that_are_no_daemons() {
    let name = "exit_waits_for_children_that_are_no_daemons";
    if support::is_alone(name) {
        Process::new(speak_late, ()).daemon(false).start().unwrap();
        return;
    }
    let _watchdog = watchdog(60);
    let output = support::alone_command(name).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("spoken late"));
}

#[test]
fn exit_kills_daemons() {
    let name = "exit_kills_daemons";
    if support::is_alone(name) {
        let (child, _go) = waiting_as(|process| process.daemon(true));
        assert!(child.is_daemon());
        return;
    }
    let _watchdog = watchdog(60);
    // The output ends when the child, which has inherited it, has ended.
    let output = support::alone_command(name).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

/// Says that it is there, and starts others that do the same.
#[mp::task]
fn tree(depth: u32) {
    let children: Vec<_> = (0..if depth > 0 { 2 } else { 0 })
        .map(|_| Process::new(tree, (depth - 1,)).start().unwrap())
        .collect();
    let _ = std::io::stdout().write_all(b"here\n");
    for child in children {
        let _ = child.join();
    }
    loop {
        std::thread::park();
    }
}

#[test]
fn killed_program_leaves_nobody() {
    let name = "killed_program_leaves_nobody";
    if support::is_alone(name) {
        tree(2);
    }
    let _watchdog = watchdog(120);
    // In every order of life and death: as soon as so many of the seven are there.
    for count in (0..=7).chain(0..=7) {
        let mut root = support::alone_command(name)
            .stdout(StdStdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(root.stdout.take().unwrap()).lines();
        let mut here = 0;
        while here < count {
            here += usize::from(lines.next().unwrap().unwrap().ends_with("here"));
        }
        root.kill().unwrap();
        assert_eq!(root.wait().unwrap().signal(), Some(libc::SIGKILL));
        // All have inherited the pipe: it ends when the last of them has ended.
        assert!(lines.all(|line| line.is_ok()));
    }
}

#[mp::task]
fn parent_of(go: Queue<u32>, started: Queue<u32>) {
    let child = Process::new(wait_for, (go, started)).start().unwrap();
    let _ = child.join();
}

#[test]
fn grandchild_ends_with_its_parent() {
    let _watchdog = watchdog(60);
    type Send = fn(&Child<()>);
    for send in [Child::kill, Child::terminate] as [Send; 2] {
        let (go, started) = (Queue::new().unwrap(), Queue::new().unwrap());
        let child = Process::new(parent_of, (go, started.clone()))
            .start()
            .unwrap();
        let grandchild = support::pidfd(started.get().unwrap());
        assert!(!support::wait_readable(&grandchild, Some(Duration::ZERO)));
        send(&child);
        assert!(support::wait_readable(&grandchild, None));
        assert!(child.join().is_err());
    }
}

#[mp::task]
fn run_command(started: Queue<u32>) {
    let mut command = mp::command("sleep");
    let mut sleep = command.arg("1000").spawn().unwrap();
    started.put(sleep.id()).unwrap();
    let _ = sleep.wait();
}

#[test]
fn command_ends_with_its_process() {
    let _watchdog = watchdog(60);
    let started = Queue::new().unwrap();
    let child = Process::new(run_command, (started.clone(),))
        .start()
        .unwrap();
    let sleep = support::pidfd(started.get().unwrap());
    assert!(!support::wait_readable(&sleep, Some(Duration::ZERO)));
    child.kill();
    assert!(support::wait_readable(&sleep, None));
}

// The user's own fork.

#[mp::task]
fn fork(queue: Queue<u32>, lock: mp::Lock) -> (i32, u32) {
    queue.put(1).unwrap();
    let held = lock.acquire().unwrap();
    // SAFETY: the copy only does what is under test, and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        std::panic::set_hook(Box::new(|_| {}));
        let panics = |f: &dyn Fn()| std::panic::catch_unwind(AssertUnwindSafe(f)).is_err();
        let checks = [
            Queue::<u32>::new().is_err_and(|error| error.is_forked()),
            mp::Lock::new().is_err_and(|error| error.is_forked()),
            Process::new(add, (1, 2))
                .start()
                .is_err_and(|error| error.is_forked()),
            matches!(queue.get(), Err(mp::GetError::Failed(error)) if error.is_forked()),
            queue.put(2).is_err_and(|error| error.into_inner() == 2),
            queue.join().is_err_and(|error| error.is_forked()),
            panics(&|| drop(lock.try_acquire())),
            panics(&|| drop(lock.recover())),
            !format!("{queue:?} {lock:?}").is_empty(),
            mp::active_children().is_empty(),
        ];
        drop((queue, held));
        let failed = checks.iter().position(|fine| !fine);
        // SAFETY: takes an integer and does not return.
        unsafe { libc::_exit(failed.map_or(0, |check| check as i32 + 1)) };
    }
    let mut status = 0;
    // SAFETY: points to an integer.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    // What the copy dropped is ours all the same.
    assert!(lock.is_locked());
    drop(held);
    (libc::WEXITSTATUS(status), queue.get().unwrap())
}

#[test]
fn copy_made_by_fork_gets_errors() {
    let _watchdog = watchdog(60);
    let (queue, lock) = (Queue::new().unwrap(), mp::Lock::new().unwrap());
    let child = Process::new(fork, (queue.clone(), lock.clone()))
        .start()
        .unwrap();
    assert_eq!(
        child.join().unwrap(),
        (0, 1),
        "the number of the check that failed, and the item"
    );
    assert!(!lock.is_locked());
    queue.put(3).unwrap();
    assert_eq!(queue.get().unwrap(), 3);
}

// Types.

#[test]
fn handles_can_go_to_other_threads() {
    fn anywhere<T: Send + Sync + std::fmt::Debug>() {}
    anywhere::<Child<*const u8>>();
    anywhere::<Queue<u8>>();
    anywhere::<mp::Lock>();
    anywhere::<mp::Error>();
    anywhere::<mp::TaskError>();
    anywhere::<mp::OwnerDied>();
    anywhere::<mp::ActiveChild>();
}
