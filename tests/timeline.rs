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

#[mp::task]
fn inside(x: u64) -> u64 {
    x
}

#[mp::task]
fn call(x: u64) -> u64 {
    let numbers = mp::pool().unwrap().map(inside, 0..10).unwrap();
    if x == 1 {
        // What it had done is known all the same.
        std::process::abort();
    }
    numbers.len() as u64
}

/// What the traced program does.
#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn traced_program() {
    let pool = mp::Pool::new(2).unwrap();
    assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
    assert_eq!(pool.try_map(fail, 0..5).unwrap().len(), 5);
    assert_eq!(pool.try_map(call, 0..3).unwrap().len(), 3);
    let child = mp::Process::new(square, (7,))
        .name("seven")
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), 49);
}

/// How many items an event is about.
fn items(event: &serde_json::Value) -> u64 {
    let label = event["args"]["items"].as_str().unwrap();
    let numbers: Vec<u64> = label.split(' ').filter_map(|w| w.parse().ok()).collect();
    numbers[numbers.len() - 1] - numbers[0] + 1
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
    assert_eq!(squares.iter().map(items).sum::<u64>(), 101);
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
    assert!(page.contains("called by Worker-") && page.contains("<path d=\"M"));
    assert!(!page.contains("http"), "it refers to something outside");
}

#[test]
fn what_a_task_has_its_own_pool_do_has_bars_that_lead_back_to_it() {
    let _watchdog = watchdog(60);
    let dir = run_traced(Some("trace.json"));
    let text = fs::read_to_string(dir.path().join("trace.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |name: &'static str| events.iter().filter(move |event| event["name"] == *name);
    let time = |event: &serde_json::Value| event["ts"].as_f64().unwrap();
    let inside: Vec<_> = named("timeline::inside").collect();
    assert_eq!(inside.iter().map(|event| items(event)).sum::<u64>(), 30);
    let calls: Vec<_> = named("timeline::call")
        .filter(|event| event["ph"] == "X")
        .collect();
    assert!(calls.iter().all(|call| call["args"]["caller"] == ""));
    let arrows: Vec<_> = events.iter().filter(|event| event["ph"] == "s").collect();
    assert_eq!(arrows.len(), inside.len());
    for event in inside {
        // Its arrow ends at its beginning, and begins in the bar of the task that called.
        let end = events
            .iter()
            .find(|end| end["ph"] == "f" && end["tid"] == event["tid"] && end["ts"] == event["ts"]);
        let arrow = arrows
            .iter()
            .find(|arrow| arrow["id"] == end.unwrap()["id"]);
        let arrow = arrow.unwrap();
        let call = calls.iter().find(|call| {
            let end = time(call) + call["dur"].as_f64().unwrap();
            call["tid"] == arrow["tid"] && time(call) <= time(arrow) && time(arrow) <= end
        });
        assert!(call.is_some(), "{arrow} is in none of {calls:?}");
        let caller = event["args"]["caller"].as_str().unwrap();
        assert!(
            caller.ends_with(&format!(" ({})", arrow["tid"])),
            "{caller}"
        );
        assert_ne!(event["tid"], arrow["tid"]);
    }
}

#[test]
fn without_the_variable_nothing_is_written() {
    let _watchdog = watchdog(60);
    let dir = run_traced(None);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
