//! Who takes over in a child, seen by a program with a `main` of its own: the user's `main` never
//! runs in a child, with `mp::init()` or without.
//!
//! The program is executed again for each scenario; each `main` that runs leaves a line in a file.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use mp::{Process, Stdio};

/// Tells a process which scenario it runs in.
const SCENARIO: &str = "MP_TEST_SCENARIO";
/// Where every `main` leaves a line.
const TRACE: &str = "MP_TEST_TRACE";

/// A scenario, what its root does, and what the trace holds then.
type Scenario = (&'static str, fn(), &'static str);

const SCENARIOS: [Scenario; 5] = [
    ("nothing in main", start_nested, "main\n"),
    ("init first in main", start_nested, "main\nafter init\n"),
    // Code before init runs in children too: the two children and the grandchild of each.
    (
        "init late in main",
        start_nested,
        "before init\nafter init\nbefore init\nbefore init\nbefore init\nbefore init\n",
    ),
    ("init passed twice", start_nested, "main\nafter init\n"),
    (
        "init not on every way",
        start_without_init,
        "main\nafter init\n",
    ),
];

#[mp::task]
fn who() -> (bool, Option<String>) {
    let thread = std::thread::current().name().map(str::to_owned);
    (mp::current_process().is_main(), thread)
}

#[mp::task]
fn nested() -> Result<(bool, Option<String>), mp::AnyError> {
    Ok(Process::new(who, ()).start()?.join()?)
}

fn start_nested() {
    for _ in 0..2 {
        let (is_main, thread) = Process::new(nested, ())
            .start()
            .unwrap()
            .join()
            .unwrap()
            .unwrap();
        assert!(!is_main);
        // Without `init` Rust's runtime does not know its main thread.
        let by_init = std::env::var(SCENARIO).is_ok_and(|scenario| scenario.contains("init"));
        assert_eq!(thread.as_deref() == Some("main"), by_init);
    }
}

/// The child goes a way through `main` that does not pass `init`.
fn start_without_init() {
    let child = Process::new(who, ())
        .env("MP_TEST_NO_INIT", "1")
        .stderr(Stdio::null());
    let error = child.start().unwrap().join().unwrap_err();
    assert!(error.is_not_started(), "{error}");
    assert!(error.to_string().contains("mp::init()"), "{error}");
    start_first();
}

fn start_first() {
    assert!(!Process::new(who, ()).start().unwrap().join().unwrap().0);
}

fn trace(text: &str) {
    let path = std::env::var_os(TRACE).unwrap();
    let mut file = fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn main() {
    let Ok(scenario) = std::env::var(SCENARIO) else {
        run_all();
        return;
    };
    match &*scenario {
        "init first in main" | "init passed twice" => mp::init(),
        "init late in main" => {
            trace("before init\n");
            mp::init();
        }
        "init not on every way" if std::env::var_os("MP_TEST_NO_INIT").is_some() => {
            // It can start nothing, so that a program without end is out of the question.
            let error = Process::new(who, ()).start().unwrap_err();
            assert!(error.to_string().contains("mp::init()"), "{error}");
            return;
        }
        "init not on every way" => mp::init(),
        _ => {}
    }
    if scenario == "init passed twice" {
        mp::init();
    }
    if scenario != "init late in main" {
        trace("main\n");
    }
    if scenario.contains("init") {
        trace("after init\n");
    }
    let (_, run, _) = SCENARIOS
        .into_iter()
        .find(|(name, ..)| *name == scenario)
        .unwrap();
    run();
}

fn run_all() {
    // What the usual harness would answer to those who list and choose tests.
    let arguments: Vec<_> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            println!("main_never_runs_in_a_child: test");
        }
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (number, (name, _, expected)) in SCENARIOS.into_iter().enumerate() {
        let path = directory.path().join(number.to_string());
        run(name, &path);
        assert_eq!(fs::read_to_string(path).unwrap(), expected, "{name}");
    }
}

fn run(name: &str, trace: &Path) {
    let status = Command::new(std::env::current_exe().unwrap())
        .env(SCENARIO, name)
        .env(TRACE, trace)
        .status()
        .unwrap();
    assert!(status.success(), "{name}: {status}");
}
