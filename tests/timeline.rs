//! `MP_TRACE`: a program without a line about it writes what ran where and when.

mod support;

use std::fs;
use std::process::Command;

use support::watchdog;

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

#[mp::task]
fn fail(x: u64) -> u64 {
    if x == 3 {
        std::process::abort();
    }
    x
}

/// What the traced program does.
#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn traced_program() {
    let pool = mp::Pool::new(2).unwrap();
    assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
    assert_eq!(pool.try_map(fail, 0..5).unwrap().len(), 5);
    let child = mp::Process::new(square, (7,))
        .name("seven")
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), 49);
}

/// Runs it with the variable set to a file in a new directory.
fn run_traced(file: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "traced_program", "--ignored"]);
    command.env_remove("MP_TRACE");
    if let Some(file) = file {
        command.env("MP_TRACE", dir.path().join(file));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    dir
}

#[test]
fn every_job_and_child_is_on_the_timeline() {
    let _watchdog = watchdog(60);
    let dir = run_traced(Some("trace.json"));
    let text = fs::read_to_string(dir.path().join("trace.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let spans = |task: &str| {
        let name = format!("timeline::{task}");
        let of = events.iter().filter(move |event| event["name"] == *name);
        of.cloned().collect::<Vec<_>>()
    };
    let squares = spans("square");
    // The items of the map's jobs and the child's one call.
    let items: u64 = squares
        .iter()
        .map(|event| {
            let label = event["args"]["items"].as_str().unwrap();
            let numbers: Vec<u64> = label.split(' ').filter_map(|w| w.parse().ok()).collect();
            numbers[numbers.len() - 1] - numbers[0] + 1
        })
        .sum();
    assert_eq!(items, 101);
    assert!(squares.iter().all(|event| {
        event["ph"] == "X"
            && event["dur"].as_f64().unwrap() >= 0.0
            && event["args"]["outcome"] == "done"
    }));
    let failed: Vec<_> = spans("fail");
    let failed = failed.iter().filter(|e| e["args"]["outcome"] == "failed");
    assert_eq!(failed.count(), 1);
    assert!(events.iter().any(|event| {
        event["ph"] == "M"
            && event["args"]["name"]
                .as_str()
                .unwrap()
                .starts_with("seven (")
    }));
}

#[test]
fn timeline_is_a_page_too() {
    let _watchdog = watchdog(60);
    let dir = run_traced(Some("trace.json"));
    let page = fs::read_to_string(dir.path().join("trace.json.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("timeline::square"));
    assert!(page.contains("class=\"failed\""));
    assert!(!page.contains("http"), "it refers to something outside");
}

#[test]
fn without_the_variable_nothing_is_written() {
    let _watchdog = watchdog(60);
    let dir = run_traced(None);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
