//! What ends while calls are under way: a worker, an agent, the submitter, the server.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use mp_cluster as mp;
use support::{Server, eventually};

#[test]
fn serve() {
    support::serve();
}

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

/// Says which process runs it, then takes its time.
#[mp::task]
fn mark_and_wait(marks: String, x: u64, millis: u64) -> u64 {
    let mark = format!("{x}.{}", std::process::id());
    std::fs::write(std::path::Path::new(&marks).join(mark), "").unwrap();
    std::thread::sleep(Duration::from_millis(millis));
    x
}

/// Waits for a file, and says that it has begun.
#[mp::task]
fn wait_for(marks: String, x: u64) -> u64 {
    let marks = std::path::Path::new(&marks);
    std::fs::write(marks.join(format!("{x}.{}", std::process::id())), "").unwrap();
    while !marks.join("go").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    x
}

/// The files that tasks have left.
struct Marks(tempfile::TempDir);

impl Marks {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> String {
        self.0.path().to_str().unwrap().to_owned()
    }

    fn go(&self) {
        std::fs::write(self.0.path().join("go"), "").unwrap();
    }

    /// The processes that have begun with `x`.
    fn begun(&self, x: u64) -> Vec<i32> {
        let prefix = format!("{x}.");
        std::fs::read_dir(self.0.path())
            .unwrap()
            .filter_map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.strip_prefix(&prefix)?.parse().ok()
            })
            .collect()
    }

    fn await_begun(&self, x: u64) -> i32 {
        eventually("the task begins", || !self.begun(x).is_empty());
        self.begun(x)[0]
    }
}

fn kill(pid: i32) {
    // SAFETY: a system call; the process is a worker of this test's.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn killed_worker_costs_its_item() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(2);
    let pool = server.pool(2);
    let marks = Marks::new();
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    let other = pool.submit(wait_for, (marks.path(), 1)).unwrap();
    marks.await_begun(1);
    kill(marks.await_begun(0));
    let error = job.wait().unwrap_err();
    assert_eq!(
        error.task().unwrap().signal(),
        Some(libc::SIGKILL),
        "{error}"
    );
    marks.go();
    assert_eq!(other.wait().unwrap(), 1);
    assert_eq!(
        pool.apply(square, (3,)).unwrap(),
        9,
        "another has its place"
    );
}

#[test]
fn what_a_killed_agent_was_at_is_run_elsewhere() {
    let Some(server) = Server::start() else {
        return;
    };
    let marks = Marks::new();
    let mut first = server.agent(1);
    let pool = server.pool(1);
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    let worker = marks.await_begun(0);
    let _second = server.agent(1);
    first.kill();
    eventually("its workers end with it", || !is_alive(worker));
    eventually("another has it", || marks.begun(0).len() == 2);
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
}

#[test]
fn every_item_has_one_outcome_though_agents_come_and_go() {
    let Some(server) = Server::start() else {
        return;
    };
    let _stays = server.agent(1);
    let mut killed = server.agent(1);
    let pool = server.pool(2);
    let marks = Marks::new();
    let count = 400;
    let items = (0..count).map(|x| (marks.path(), x, 5));
    let results = std::thread::scope(|scope| {
        let calling = scope.spawn(|| pool.try_map_of(items));
        marks.await_begun(count / 4);
        killed.kill();
        let joined = server.agent(1);
        let results = calling.join().unwrap();
        drop(joined);
        results
    });
    assert!(results.into_iter().eq(0..count));
}

/// All results of [`mark_and_wait`], in order.
trait TryMapOf {
    fn try_map_of(&self, items: impl Iterator<Item = (String, u64, u64)>) -> Vec<u64>;
}

impl TryMapOf for mp::Pool {
    fn try_map_of(&self, items: impl Iterator<Item = (String, u64, u64)>) -> Vec<u64> {
        let outcomes = self.istarmap(mark_and_wait, items).unwrap();
        outcomes.map(Result::unwrap).collect()
    }
}

#[test]
fn agent_that_is_asked_to_end_finishes_what_it_is_at() {
    let Some(server) = Server::start() else {
        return;
    };
    let agent = server.agent(1);
    let pool = server.pool(1);
    let marks = Marks::new();
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    let queued = pool.submit(wait_for, (marks.path(), 1)).unwrap();
    marks.await_begun(0);
    agent.signal(libc::SIGTERM);
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
    assert_eq!(agent.join(), Some(0));
    // What it did not begin is for the next.
    let _next = server.agent(1);
    assert_eq!(queued.wait().unwrap(), 1);
    assert_eq!(marks.begun(0).len(), 1, "it was run once");
}

/// A program that submits and never waits to the end; see `work_of_a_killed_submitter_is_dropped`.
#[test]
fn submitter() {
    let Ok(url) = std::env::var("SUBMIT_TO") else {
        return;
    };
    let marks = std::env::var("MARKS").unwrap();
    let mut connection = mp::Connection::new(url);
    connection.wait_for_workers(1, Duration::from_secs(60));
    let pool = mp::Connect::connect(&mp::Pool::builder(), connection).unwrap();
    let _ = pool.map(mark_and_wait_long, std::iter::repeat_n(marks, 100));
}

#[mp::task]
fn mark_and_wait_long(marks: String) {
    mark_and_wait(marks, 0, 600_000);
}

#[test]
fn work_of_a_killed_submitter_is_dropped() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let marks = Marks::new();
    let binary = std::env::current_exe().unwrap();
    let mut submitter = mp::command(binary)
        .args(["--exact", "submitter", "--nocapture"])
        .env("SUBMIT_TO", server.url())
        .env("MARKS", marks.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    marks.await_begun(0);
    submitter.kill().unwrap();
    assert_eq!(submitter.wait().unwrap().signal(), Some(libc::SIGKILL));
    // Before: the one worker is at an item for ten minutes, and a hundred are to come.
    assert_eq!(server.pool(1).apply(square, (4,)).unwrap(), 16);
}

#[test]
fn server_that_comes_back_goes_on_where_it_was() {
    // Its stream is in memory: what was in it is sent again.
    let Some(mut server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let pool = server.pool(2);
    let marks = Marks::new();
    let count = 300;
    let items = (0..count).map(|x| (marks.path(), x, 5));
    let results = std::thread::scope(|scope| {
        let calling = scope.spawn(|| pool.try_map_of(items));
        marks.await_begun(count / 4);
        server.kill();
        server.restart();
        calling.join().unwrap()
    });
    assert!(results.into_iter().eq(0..count));
    assert_eq!(pool.map(square, 0..100).unwrap()[99], 99 * 99);
}
