//! Machines that cannot reach the server for a while.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use mp::named::Cluster;
use mp::{Connect, Connection, Pool};
use mp_cluster as mp;
use support::network::Network;
use support::{Agent, Marks, Server, all_marked, eventually, square, wait_for, watchdog};

#[mp::task]
fn pid() -> i32 {
    std::process::id() as i32
}

/// A server that the machines of a network reach, and the address at which each does.
fn server(network: &Network, machines: usize) -> Option<(Server, Vec<String>)> {
    // It is to miss soon who is cut off.
    let configuration = r#"
        jetstream { store_dir: $STORE }
        ping_interval: "1s"
        ping_max: 3
    "#;
    let server = Server::at("0.0.0.0", configuration, |_| {})?;
    let urls = (0..machines)
        .map(|machine| format!("nats://{}:{}", network.here(machine), server.port()))
        .collect();
    Some((server, urls))
}

fn agent(network: &Network, machine: usize, url: &str) -> Agent {
    Agent::on(network, machine, url, 1)
}

#[test]
fn what_a_machine_was_at_that_is_cut_off_is_run_elsewhere_and_counts_once() {
    let Some(network) = Network::new(2) else {
        return;
    };
    let Some((server, urls)) = server(&network, 2) else {
        return;
    };
    let marks = Marks::new();
    let _first = agent(&network, 0, &urls[0]);
    let pool = server.pool(1);
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    let cut_off = marks.await_begun(0);
    let _second = agent(&network, 1, &urls[1]);
    network.cut(0);
    eventually("another has it", || marks.begun(0).len() == 2);
    // Both are through with it; the one that is cut off cannot say so.
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
    network.mend(0);
    eventually("the machine is back", || {
        let there = pool.broadcast(pid, ()).unwrap();
        let mut there = there.into_iter().flatten();
        there.any(|pid| pid == cut_off)
    });
    assert_eq!(pool.stats().done, 1, "its outcome came once");
    assert_eq!(pool.map(square, 0..100).unwrap()[99], 99 * 99);
}

#[test]
fn every_item_has_one_outcome_though_a_machine_is_cut_off_meanwhile() {
    let Some(network) = Network::new(2) else {
        return;
    };
    let Some((server, urls)) = server(&network, 2) else {
        return;
    };
    let _agents = [0, 1].map(|machine| agent(&network, machine, &urls[machine]));
    let pool = server.pool(2);
    let marks = Marks::new();
    let count = 400;
    let items = (0..count).map(|x| (marks.path(), x, 5));
    let results = std::thread::scope(|scope| {
        let calling = scope.spawn(|| all_marked(&pool, items));
        marks.await_begun(count / 4);
        network.cut(0);
        marks.await_begun(count / 2);
        network.mend(0);
        calling.join().unwrap()
    });
    assert!(results.into_iter().eq(0..count));
    assert_eq!(pool.stats().done, count);
}

/// A process on a machine of its own, and files by which it is told what to do and says what it did.
struct Outpost {
    process: Child,
    files: tempfile::TempDir,
}

impl Outpost {
    /// Starts this binary again, which comes to the test `outpost`.
    fn start(network: &Network, url: &str, role: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let binary = std::env::current_exe().unwrap();
        let process = network
            .command(0, &binary)
            .args(["--exact", "outpost", "--nocapture"])
            .env("OUTPOST", role)
            .env("OUTPOST_AT", url)
            .env("OUTPOST_FILES", files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, files }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn await_word(&self, word: &str) -> String {
        eventually(word, || self.file(word).exists());
        std::fs::read_to_string(self.file(word)).unwrap()
    }

    /// Waits until its task has begun.
    fn await_task(&self) {
        let begun = || {
            let files = std::fs::read_dir(self.files.path()).unwrap();
            let mut names = files.map(|file| file.unwrap().file_name());
            names.any(|name| name.to_string_lossy().starts_with("0."))
        };
        eventually("the task begins", begun);
    }

    fn tell(&self, word: &str) {
        std::fs::write(self.file(word), "").unwrap();
    }

    fn join(mut self) {
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Outpost {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Does what this process was started for on another machine; otherwise there is nothing to test.
#[test]
fn outpost() {
    let Ok(role) = std::env::var("OUTPOST") else {
        return;
    };
    let files = std::env::var("OUTPOST_FILES").unwrap();
    let files = Path::new(&files);
    let say = |word: &str, text: &str| {
        std::fs::write(files.join("writing"), text).unwrap();
        std::fs::rename(files.join("writing"), files.join(word)).unwrap();
    };
    let mut connection = Connection::new(std::env::var("OUTPOST_AT").unwrap());
    connection
        .plain()
        .wait_for_workers(1, Duration::from_secs(60))
        .patience(Duration::from_secs(if role == "submit" { 600 } else { 5 }))
        .lease(Duration::from_secs(2));
    if role == "hold" {
        let lock = Cluster::connect(&mut connection)
            .unwrap()
            .lock("it")
            .unwrap();
        let guard = lock.acquire().unwrap();
        say("has", &guard.token().to_string());
        eventually("it is cut off", || !guard.is_held());
        say("lost", "");
        eventually("it is told", || files.join("go").exists());
        // Another had it meanwhile, also once the cable is there again.
        assert!(!guard.is_held());
        assert!(guard.release().is_err());
        let again = lock.recover().unwrap();
        return say("again", &again.token().to_string());
    }
    let pool = Pool::builder().connect(connection).unwrap();
    let marks = files.to_str().unwrap().to_owned();
    let job = pool.submit(wait_for, (marks, 0)).unwrap();
    match job.wait() {
        Ok(result) => say("result", &result.to_string()),
        Err(error) => say("error", &error.to_string()),
    }
    // Its connection stands, or is made again, as long as it is needed.
    eventually("it is told", || files.join("end").exists());
    assert_eq!(pool.map(square, 0..100).unwrap()[99], 99 * 99);
}

#[test]
fn submitter_that_was_cut_off_gets_its_outcomes_when_it_is_back() {
    let _watchdog = watchdog(240);
    let Some(network) = Network::new(1) else {
        return;
    };
    let Some((server, urls)) = server(&network, 1) else {
        return;
    };
    let _agent = server.agent(1);
    let submitter = Outpost::start(&network, &urls[0], "submit");
    submitter.await_task();
    network.cut(0);
    // The outcome is there, and nobody to take it.
    submitter.tell("go");
    eventually("the server misses it", || server.connections() == 1);
    network.mend(0);
    assert_eq!(submitter.await_word("result"), "0");
    submitter.tell("end");
    submitter.join();
    eventually("nothing is left", || server.tasks() == 0);
}

#[test]
fn submitter_that_stays_cut_off_is_told_and_keeps_no_machine_busy() {
    let _watchdog = watchdog(240);
    let Some(network) = Network::new(1) else {
        return;
    };
    let Some((server, urls)) = server(&network, 1) else {
        return;
    };
    let _agent = server.agent(1);
    let submitter = Outpost::start(&network, &urls[0], "give up");
    submitter.await_task();
    network.cut(0);
    let error = submitter.await_word("error");
    assert!(error.contains("the server"), "{error}");
    // Nobody wants what it is at.
    eventually("it is dropped", || server.tasks() == 0);
    let pool = server.pool(1);
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
    network.mend(0);
    submitter.tell("end");
    submitter.join();
}

#[test]
fn lock_whose_holder_is_cut_off_is_anothers_after_its_lease() {
    let _watchdog = watchdog(240);
    let Some(network) = Network::new(1) else {
        return;
    };
    let Some((server, urls)) = server(&network, 1) else {
        return;
    };
    let holder = Outpost::start(&network, &urls[0], "hold");
    let token: u64 = holder.await_word("has").parse().unwrap();
    let mut connection = Connection::new(server.url());
    let cluster = Cluster::connect(connection.lease(Duration::from_secs(2))).unwrap();
    let lock = cluster.lock("it").unwrap();
    network.cut(0);
    let error = lock.acquire().map(|guard| guard.token()).unwrap_err();
    assert!(error.is_owner_died(), "{error}");
    // Its own count was over before ours.
    holder.await_word("lost");
    let guard = lock.recover().unwrap();
    assert!(
        guard.token() > token,
        "writes of the old holder can be told"
    );
    network.mend(0);
    holder.tell("go");
    // It waits like anybody.
    assert!(guard.is_held());
    let token = guard.token();
    guard.release().unwrap();
    let again: u64 = holder.await_word("again").parse().unwrap();
    assert!(again > token);
    holder.join();
}
