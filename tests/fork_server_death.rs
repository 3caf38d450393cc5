//! Who dies in the middle of a start by the fork server, at each named point, costs at most that start.
#![cfg(feature = "faults")]

mod support;

use mp::{Pool, Process, StartMethod};
use support::{
    alone_command, alone_with, children, eventually, is_alone, run_alone, settles_at, watchdog,
};

#[mp::task]
fn add(a: u32, b: u32) -> u32 {
    a + b
}

fn start(n: u32) -> mp::Result<mp::Child<u32>> {
    Process::new(add, (n, 1))
        .start_method(StartMethod::ForkServer)
        .start()
}

/// Units of processes and of objects, objects, and what is wrong with them.
fn books() -> (u64, u64, u32, Vec<String>) {
    let audit = mp::__private::audit().unwrap();
    (
        audit.process_units,
        audit.object_units,
        audit.objects,
        audit.faults,
    )
}

/// Starts children until each way of dying was seen, of servers that die at every second order.
fn start_many(dies_before_the_child: bool) {
    let _watchdog = watchdog(120);
    let before = books();
    let mut failed = 0;
    for n in 0..12 {
        match start(n) {
            Ok(child) => assert_eq!(child.join().unwrap(), n + 1),
            Err(error) => {
                let text = format!("{error:#}");
                assert!(error.is_not_started(), "{text}");
                assert!(text.contains("was killed by SIGKILL"), "{text}");
                failed += 1;
            }
        }
        settles_at(&before, books);
    }
    assert_eq!(failed, if dies_before_the_child { 6 } else { 0 });
    eventually(|| children().len() <= 1);
}

#[test]
fn server_that_dies_before_it_makes_a_worker_costs_the_pool_nothing() {
    let name = "server_that_dies_before_it_makes_a_worker_costs_the_pool_nothing";
    let prepare = |command: &mut std::process::Command| {
        command.env("MP_FAULT", "fork.ordered:2");
    };
    alone_with(name, prepare, || {
        let _watchdog = watchdog(120);
        // One worker at a time, each of which another server makes.
        let pool = Pool::builder()
            .workers(1)
            .max_tasks_per_worker(1)
            .start_method(StartMethod::ForkServer)
            .build()
            .unwrap();
        let sums = pool.starmap(add, (0..12).map(|n| (n, 1))).unwrap();
        assert_eq!(sums, (1..=12).collect::<Vec<_>>());
        pool.resize(3).unwrap();
    });
}

#[test]
fn server_that_dies_before_it_makes_a_child_costs_that_start() {
    let name = "server_that_dies_before_it_makes_a_child_costs_that_start";
    let prepare = |command: &mut std::process::Command| {
        command.env("MP_FAULT", "fork.ordered:2");
    };
    alone_with(name, prepare, || start_many(true));
}

#[test]
fn server_that_dies_after_it_has_made_a_child_costs_nothing() {
    let name = "server_that_dies_after_it_has_made_a_child_costs_nothing";
    let prepare = |command: &mut std::process::Command| {
        command.env("MP_FAULT", "fork.forked:2");
    };
    alone_with(name, prepare, || start_many(false));
}

#[test]
fn child_that_dies_at_its_birth_was_not_started() {
    let name = "child_that_dies_at_its_birth_was_not_started";
    let prepare = |command: &mut std::process::Command| {
        command.env("MP_FAULT", "fork.born");
    };
    alone_with(name, prepare, || {
        let _watchdog = watchdog(60);
        let before = books();
        for n in 0..5 {
            let child = start(n).unwrap();
            let error = child.join().unwrap_err();
            assert!(
                error.is_not_started() && !error.may_have_started(),
                "{error}"
            );
            assert!(error.to_string().contains("SIGKILL"), "{error}");
            settles_at(&before, books);
        }
        // The server, and a copy that died while nobody needed it.
        assert!(children().len() <= 2);
    });
}

#[test]
fn child_that_dies_with_its_order_was_not_started() {
    let name = "child_that_dies_with_its_order_was_not_started";
    let prepare = |command: &mut std::process::Command| {
        command.env("MP_FAULT", "fork.taken");
    };
    alone_with(name, prepare, || {
        let _watchdog = watchdog(60);
        let before = books();
        for n in 0..5 {
            // The server makes its copies before they are told anything: each dies, and none of them while
            // it waits.
            let error = start(n).unwrap().join().unwrap_err();
            assert!(
                error.is_not_started() && !error.may_have_started(),
                "{error}"
            );
            settles_at(&before, books);
        }
        // The server, and the copy that it is about to make.
        eventually(|| children().len() == 2);
    });
}

/// Its parent is killed with an order or a copy under way, or with a server that nobody has recorded.
#[test]
fn parent_that_dies_leaves_neither_server_nor_child() {
    let name = "parent_that_dies_leaves_neither_server_nor_child";
    if is_alone(name) {
        run_alone(|| {
            for n in 0..2 {
                let _ = start(n).map(|child| child.join());
            }
        });
        return;
    }
    let _watchdog = watchdog(60);
    for point in ["fork.spawned", "fork.sent", "fork.asked"] {
        // Whoever of them lives holds the pipe's other end.
        let mut command = alone_command(name);
        command.env("MP_FAULT", point).env("RUST_BACKTRACE", "0");
        let output = command.output().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(libc::SIGKILL), "{point}: {output:?}");
    }
}
