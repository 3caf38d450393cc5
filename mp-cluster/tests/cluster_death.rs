//! Submitters, agents and holders of what has a name that are killed at each step of what they do with
//! others.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use mp::named::{Cluster, Lock, Queue};
use mp::{Connection, GetError, Pool};
use mp_cluster as mp;
use support::{Agent, Marks, Server, eventually, mark_and_wait, watchdog};

/// More than goes with a message.
const LARGE: usize = 2 << 20;
/// Short, so that a test need not wait long; longer than a busy machine stands still.
const LEASE: Duration = Duration::from_secs(2);

/// Says that it is run.
#[mp::task]
fn work(marks: String, argument: String, len: usize) -> String {
    mark_and_wait(marks, argument.len() as u64, 0);
    "x".repeat(len)
}

/// Does something at each of several points, all at the same time.
fn at_each<T: Sync>(points: &[T], check: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        for point in points {
            scope.spawn(|| check(point));
        }
    });
}

/// Nothing is there to be run any more, and nothing large.
fn await_empty(server: &Server) {
    eventually("no task is left", || server.tasks() == 0);
    eventually("no object is left", || server.object_bytes() < 10_000);
}

/// Waits until a process is killed as it was to be.
fn await_killed(point: &str, mut process: Child) {
    let mut status = None;
    eventually(point, || {
        status = process.try_wait().unwrap();
        status.is_some()
    });
    let signal = status.and_then(|status| status.signal());
    assert_eq!(signal, Some(libc::SIGKILL), "{point}: {status:?}");
}

/// How often a task is run whose agent dies, and whether its result is larger than a message.
struct AgentDies {
    point: &'static str,
    runs: std::ops::RangeInclusive<usize>,
    is_large: bool,
}

#[test]
fn agent_that_is_killed_anywhere_costs_no_item_and_its_outcome_is_seen_once() {
    let _watchdog = watchdog(240);
    if Server::start().is_none() {
        return;
    }
    let dies = |point, runs, is_large| AgentDies {
        point,
        runs,
        is_large,
    };
    let points = [
        dies("agent.taken", 1..=1, false),
        // Its worker may have got to it.
        dies("agent.begun", 1..=2, false),
        dies("agent.ran", 2..=2, false),
        dies("store.piece:3", 2..=2, true),
        dies("agent.stored", 2..=2, true),
        dies("agent.handed", 1..=1, false),
        dies("agent.handed", 1..=1, true),
        dies("agent.settled", 1..=1, false),
    ];
    at_each(&points, |dies| {
        let server = Server::start().unwrap();
        let marks = Marks::new();
        let mut first = Agent::with(&server.url(), 1, |command| {
            command.env("MP_FAULT", dies.point);
        });
        let pool = server.pool(1);
        let len = if dies.is_large { LARGE } else { 10 };
        let job = pool.submit(work, (marks.path(), String::new(), len));
        let mut status = None;
        eventually(dies.point, || {
            status = first.has_ended();
            status.is_some()
        });
        assert_eq!(status.unwrap().signal(), Some(libc::SIGKILL));
        let _second = server.agent(1);
        assert_eq!(job.unwrap().wait().unwrap().len(), len, "{}", dies.point);
        eventually("no task is left", || server.tasks() == 0);
        let runs = marks.begun(0).len();
        assert!(dies.runs.contains(&runs), "{}: {runs} runs", dies.point);
        assert_eq!(pool.stats().done, 1);
        drop(pool);
        await_empty(&server);
    });
}

#[test]
fn agent_that_is_killed_among_short_jobs_costs_none_of_them() {
    let _watchdog = watchdog(240);
    if Server::start().is_none() {
        return;
    }
    // Each comes once for each of the first jobs, but for the second: that is of several.
    let points = [
        "agent.begun:25",
        "agent.asked",
        "agent.ran:22",
        "agent.handed:22",
    ];
    at_each(&points, |point| {
        let server = Server::start().unwrap();
        let mut first = Agent::with(&server.url(), 1, |command| {
            command.env("MP_FAULT", point);
        });
        let pool = server.pool(1);
        for x in 0..20 {
            assert_eq!(pool.apply(support::square, (x,)).unwrap(), x * x);
        }
        let mut jobs = Vec::new();
        // They are only as short as this machine is quick.
        eventually(point, || {
            let new = jobs.len() as u64..jobs.len() as u64 + 200;
            let new: Vec<_> = new
                .map(|x| pool.submit(support::square, (x,)).unwrap())
                .collect();
            let is_over = || new.iter().all(mp::Job::is_done);
            eventually(point, || first.has_ended().is_some() || is_over());
            jobs.extend(new);
            first.has_ended().is_some()
        });
        let status = first.has_ended().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        let _second = server.agent(1);
        let count = 20 + jobs.len() as u64;
        for (x, job) in (0..).zip(jobs) {
            assert_eq!(job.wait().unwrap(), x * x, "{point}");
        }
        assert_eq!(pool.stats().done, count, "{point}");
        drop(pool);
        await_empty(&server);
    });
}

/// A program that submits one task; see `submitter_that_is_killed_anywhere_leaves_nothing`.
#[test]
fn submitter() {
    let Ok(url) = std::env::var("SUBMIT_TO") else {
        return;
    };
    let len = |name| std::env::var(name).unwrap().parse().unwrap();
    let mut connection = Connection::new(url);
    connection.wait_for_workers(1, Duration::from_secs(60));
    let pool = mp::Connect::connect(&Pool::builder(), connection).unwrap();
    let marks = std::env::var("MARKS").unwrap();
    let argument = "y".repeat(len("ARGUMENT"));
    let _ = pool.apply(work, (marks, argument, len("RESULT")));
    await_death();
}

/// What kills this process comes soon.
fn await_death() {
    eventually("it is killed", || false);
}

#[test]
fn submitter_that_is_killed_anywhere_leaves_nothing() {
    let _watchdog = watchdog(240);
    if Server::start().is_none() {
        return;
    }
    let points = [
        ("submit.sending", 3, 3),
        ("submit.sent", 3, 3),
        ("submit.sent", LARGE, 3),
        ("store.piece", LARGE, 3),
        ("submit.stored", LARGE, 3),
        ("submit.finishing", 3, 3),
        ("submit.finished", 3, 3),
        ("submit.fetched", 3, LARGE),
        ("submit.removed", 3, LARGE),
    ];
    at_each(&points, |&(point, argument, result)| {
        let server = Server::start().unwrap();
        let marks = Marks::new();
        let _agent = server.agent(1);
        let submitter = mp::command(std::env::current_exe().unwrap())
            .args(["--exact", "submitter", "--nocapture"])
            .env("SUBMIT_TO", server.url())
            .env("MARKS", marks.path())
            .env("ARGUMENT", argument.to_string())
            .env("RESULT", result.to_string())
            .env("MP_FAULT", point)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        await_killed(point, submitter);
        match point {
            // No agent has heard of its pool yet: what it has stored goes after a day.
            "store.piece" | "submit.stored" => eventually(point, || server.tasks() == 0),
            _ => await_empty(&server),
        }
        // The worker is free.
        let pool = server.pool(1);
        let done = pool.apply(work, (marks.path(), String::new(), 3)).unwrap();
        assert_eq!(done, "xxx");
    });
}

fn cluster(url: &str) -> Cluster {
    Cluster::connect(Connection::new(url).lease(LEASE)).unwrap()
}

/// A program that does something with what has a name; nothing, if this process is none.
#[test]
fn holder() {
    let Ok(what) = std::env::var("HOLD") else {
        return;
    };
    let cluster = cluster(&std::env::var("HOLD_AT").unwrap());
    let lock = || cluster.lock("it").unwrap();
    let queue = || cluster.queue::<u32>("it").unwrap();
    match what.as_str() {
        "put" => queue().put(2).unwrap(),
        "get" => drop(queue().get().unwrap()),
        "commit" => drop(queue().get_item().unwrap().commit().unwrap()),
        "close" => queue().close().unwrap(),
        "lock" => lock().acquire().unwrap().release().unwrap(),
        "keep" => {
            let lock = lock();
            let _guard = lock.acquire().unwrap();
            await_death();
        }
        other => panic!("{other} is not known"),
    }
}

/// Has another process do something until it is killed at a point.
fn die(server: &Server, what: &str, point: &str) {
    let holder = mp::command(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--nocapture"])
        .env("HOLD", what)
        .env("HOLD_AT", server.url())
        .env("MP_FAULT", point)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    await_killed(point, holder);
}

#[test]
fn queue_by_name_has_what_was_put_and_not_got_wherever_a_process_is_killed() {
    let _watchdog = watchdog(240);
    if Server::start().is_none() {
        return;
    }
    // With what is in the queue afterwards, in which there was 1.
    let points = [
        ("put", "named.putting", vec![1]),
        ("put", "named.put", vec![1, 2]),
        ("get", "named.given", vec![1]),
        ("get", "named.settled", vec![]),
        ("commit", "named.given", vec![1]),
        ("commit", "named.settled", vec![]),
        ("close", "named.closed", vec![1]),
    ];
    at_each(&points, |(what, point, left)| {
        let server = Server::start().unwrap();
        let queue: Queue<u32> = cluster(&server.url()).queue("it").unwrap();
        queue.put(1).unwrap();
        die(&server, what, point);
        let is_closed = queue.is_closed().unwrap();
        assert_eq!(is_closed, *what == "close", "{point}");
        let mut got = Vec::new();
        for _ in left {
            // What was given to the one that was killed comes back.
            got.push(queue.get().unwrap());
        }
        assert_eq!(got, *left, "{what} {point}");
        assert_eq!(queue.len().unwrap(), 0, "{what} {point}");
        match is_closed {
            true => assert!(matches!(queue.get(), Err(GetError::Closed))),
            false => {
                queue.put(3).unwrap();
                assert_eq!(queue.get().unwrap(), 3);
            }
        }
    });
}

#[test]
fn lock_by_name_is_free_or_marked_wherever_a_process_is_killed() {
    let _watchdog = watchdog(240);
    if Server::start().is_none() {
        return;
    }
    // With whether the lock is marked then.
    let points = [
        ("lock", "named.claiming", false),
        ("lock", "named.acquired", true),
        ("lock", "named.releasing", true),
        ("lock", "named.released", false),
        ("keep", "named.beat", true),
    ];
    at_each(&points, |&(what, point, is_marked)| {
        let server = Server::start().unwrap();
        let lock: Lock = cluster(&server.url()).lock("it").unwrap();
        die(&server, what, point);
        if is_marked {
            let error = lock.acquire().unwrap_err();
            assert!(error.is_owner_died(), "{point}: {error}");
            lock.recover().unwrap().release().unwrap();
        }
        let first = lock.acquire().unwrap();
        let token = first.token();
        first.release().unwrap();
        assert!(lock.acquire().unwrap().token() > token, "{point}");
    });
}
