//! What ends, or stands still, while it holds what is shared by name: a process, the server.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mp::Connection;
use mp::named::{Cluster, Queue};
use mp_cluster as mp;
use support::{Replicas, Server, eventually, watchdog};
use tempfile::TempDir;

/// Short, so that a test need not wait long; longer than a busy machine stands still.
const LEASE: Duration = Duration::from_secs(2);

fn cluster_at(url: &str) -> Cluster {
    let mut connection = Connection::new(url);
    Cluster::connect(connection.lease(LEASE)).unwrap()
}

fn cluster(server: &Server) -> Cluster {
    cluster_at(&server.url())
}

/// A process that holds something until it is let go.
struct Holder {
    process: Child,
    files: TempDir,
}

impl Holder {
    /// Starts this binary again, which comes to the test `holder`, and waits until it holds that.
    fn start(server: &Server, what: &str) -> Self {
        let this = Self::begin(server, what);
        eventually("it has it", || this.says("has").is_some());
        this
    }

    fn begin(server: &Server, what: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut command: Command = mp::command(std::env::current_exe().unwrap());
        let process = command
            .args(["--exact", "holder", "--nocapture"])
            .env("HOLD", what)
            .env("HOLD_AT", server.url())
            .env("HOLD_FILES", files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, files }
    }

    fn says(&self, what: &str) -> Option<String> {
        std::fs::read_to_string(self.files.path().join(what)).ok()
    }

    fn go(&self) {
        std::fs::write(self.files.path().join("go"), "").unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a system call; the process is ours and was not waited for.
        assert_eq!(unsafe { libc::kill(self.process.id() as i32, signal) }, 0);
    }

    fn join(mut self) {
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a [`Holder`] does; nothing, if this process is none.
#[test]
fn holder() {
    let Ok(what) = std::env::var("HOLD") else {
        return;
    };
    let cluster = cluster_at(&std::env::var("HOLD_AT").unwrap());
    let files = std::path::PathBuf::from(std::env::var("HOLD_FILES").unwrap());
    let say = |what: &str, text: String| {
        let draft = files.join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, files.join(what)).unwrap();
    };
    let wait = || eventually("it is let go", || files.join("go").exists());
    match what.as_str() {
        "lock" => {
            let lock = cluster.lock("it").unwrap();
            let guard = lock.acquire().unwrap();
            say("has", guard.token().to_string());
            wait();
            let was_held = guard.is_held();
            let released = guard.release().map_err(|error| error.to_string());
            say("then", format!("{was_held} {released:?}"));
        }
        "value" => {
            let value = cluster.value("it", 1_u64).unwrap();
            let mut guard = value.lock().unwrap();
            *guard = 2;
            say("has", String::new());
            wait();
        }
        "permit" => {
            let semaphore = cluster.semaphore("it", 1).unwrap();
            let _permit = semaphore.acquire().unwrap();
            say("has", String::new());
            wait();
        }
        "barrier" => {
            let barrier = cluster.barrier("it", 3).unwrap();
            let _ = barrier.wait();
        }
        "item" => {
            let queue: Queue<u32> = cluster.queue("it").unwrap();
            let item = queue.get_item().unwrap();
            say("has", item.to_string());
            wait();
        }
        "getter" => {
            let queue: Queue<u32> = cluster.queue("it").unwrap();
            say("has", String::new());
            let _ = queue.get();
        }
        other => panic!("{other} cannot be held"),
    }
}

#[test]
fn lock_of_a_killed_process_is_released_and_marked() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let cluster = cluster(&server);
    let lock = cluster.lock("it").unwrap();
    let mut holder = Holder::start(&server, "lock");
    let token: u64 = holder.says("has").unwrap().parse().unwrap();
    std::thread::scope(|scope| {
        let waiting = [(); 2].map(|()| scope.spawn(|| lock.acquire().map(drop)));
        assert!(lock.try_acquire().unwrap_err().is_timeout());
        holder.kill();
        // All are told, and by whom.
        for waiting in waiting {
            let error = waiting.join().unwrap().unwrap_err();
            assert!(error.is_owner_died(), "{error}");
            let pid = format!("(pid {})", holder.process.id());
            assert!(error.to_string().contains(&pid), "{error}");
        }
    });
    assert!(lock.try_acquire().unwrap_err().is_owner_died());
    let guard = lock.recover().unwrap();
    assert!(guard.token() > token);
    guard.release().unwrap();
    lock.acquire().unwrap().release().unwrap();
}

#[test]
fn stopped_holder_loses_the_lock_and_is_told() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let cluster = cluster(&server);
    let lock = cluster.lock("it").unwrap();
    let holder = Holder::start(&server, "lock");
    let token: u64 = holder.says("has").unwrap().parse().unwrap();
    holder.signal(libc::SIGSTOP);
    assert!(lock.acquire().unwrap_err().is_owner_died());
    let guard = lock.recover().unwrap();
    assert!(guard.token() > token, "that of the stopped one is stale");
    holder.signal(libc::SIGCONT);
    holder.go();
    eventually("it looks at what it has", || holder.says("then").is_some());
    let then = holder.says("then").unwrap();
    assert!(then.starts_with("false Err"), "{then}");
    assert!(then.contains("not held to the end"), "{then}");
    holder.join();
    // What it gave back was not ours.
    assert!(guard.is_held() && lock.is_locked().unwrap());
    guard.release().unwrap();
}

#[test]
fn value_of_a_killed_process_is_as_it_was() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let value = cluster(&server).value("it", 1_u64).unwrap();
    let mut holder = Holder::start(&server, "value");
    holder.kill();
    assert!(value.get().unwrap_err().is_owner_died());
    assert_eq!(*value.recover().unwrap(), 1);
    assert_eq!(value.get().unwrap(), 1);
}

#[test]
fn permit_of_a_killed_process_comes_back() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let semaphore = cluster(&server).semaphore("it", 1).unwrap();
    let mut holder = Holder::start(&server, "permit");
    assert_eq!(semaphore.available().unwrap(), 0);
    holder.kill();
    let permit = semaphore.acquire().unwrap();
    assert!(permit.is_held());
    drop(permit);
    assert_eq!(semaphore.available().unwrap(), 1);
}

#[test]
fn barrier_at_which_a_process_was_killed_is_broken() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let barrier = cluster(&server).barrier("it", 3).unwrap();
    let mut holder = Holder::begin(&server, "barrier");
    eventually("it waits", || barrier.waiting().unwrap() == 1);
    holder.kill();
    for _ in 0..2 {
        let error = barrier.wait().unwrap_err();
        assert!(error.is_owner_died(), "{error}");
    }
    barrier.reset().unwrap();
    assert!(!barrier.is_broken().unwrap());
}

#[test]
fn item_of_a_killed_process_comes_back_and_its_question_takes_none() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let queue = cluster(&server).queue::<u32>("it").unwrap();
    queue.put_many([1, 2]).unwrap();
    let mut holder = Holder::start(&server, "item");
    assert_eq!(holder.says("has").unwrap(), "1");
    assert_eq!(queue.get().unwrap(), 2);
    holder.kill();
    assert_eq!(queue.get().unwrap(), 1);
    let mut getter = Holder::start(&server, "getter");
    getter.kill();
    queue.put(3).unwrap();
    assert_eq!(queue.get().unwrap(), 3);
}

#[test]
fn what_is_held_and_kept_outlives_the_server() {
    let _watchdog = watchdog(180);
    let Some(mut server) = Server::start() else {
        return;
    };
    let (here, there) = (cluster(&server), cluster(&server));
    let lock = here.lock("it").unwrap();
    let other = there.lock("it").unwrap();
    let guard = lock.acquire().unwrap();
    let queue = here.queue::<u32>("it").unwrap();
    queue.put_many(0..100).unwrap();
    let event = here.event("it").unwrap();
    event.set().unwrap();
    let value = here.value("it", 7_u32).unwrap();
    std::thread::scope(|scope| {
        // Waits for the lock all the while.
        let waiting = scope.spawn(|| other.acquire().map(|guard| guard.token()));
        let later = here.queue::<u32>("later").unwrap();
        let getting = scope.spawn(move || later.get());
        for _ in 0..2 {
            server.kill();
            server.restart();
            eventually("the lease is renewed", || guard.is_held());
        }
        for number in 0..100 {
            assert_eq!(queue.get().unwrap(), number);
        }
        assert!(event.is_set().unwrap());
        assert_eq!(value.get().unwrap(), 7);
        there.queue("later").unwrap().put(8_u32).unwrap();
        assert_eq!(getting.join().unwrap().unwrap(), 8);
        let token = guard.token();
        guard.release().unwrap();
        assert!(waiting.join().unwrap().unwrap() > token);
    });
}

#[test]
fn lock_outlives_the_leader_of_three_replicas() {
    let _watchdog = watchdog(180);
    let Some(mut replicas) = Replicas::start() else {
        return;
    };
    let (here, there) = (cluster_at(&replicas.url()), cluster_at(&replicas.url()));
    let lock = here.lock("it").unwrap();
    let other = there.lock("it").unwrap();
    let guard = lock.acquire().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.acquire().map(|guard| guard.token()));
        let event = here.event("it").unwrap();
        for stream in ["KV_mp_members-default", "KV_mp-default"] {
            // Until another leads nothing can be written, which may take longer than the lease.
            let killed = replicas.kill_leader_of(stream);
            event.set().unwrap();
            event.clear().unwrap();
            // Longer than anybody would wait for one that is dead.
            std::thread::sleep(2 * LEASE);
            eventually("the lease is renewed", || guard.is_held());
            replicas.restart(killed);
        }
        let token = guard.token();
        guard.release().unwrap();
        assert!(waiting.join().unwrap().unwrap() > token);
    });
}
