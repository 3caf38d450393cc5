//! A server of one's own, agents that are other processes of this very binary, and the tasks that they
//! run.

#![allow(dead_code, reason = "each test binary uses some of it")]

pub(crate) mod network;
mod proxy;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mp_cluster as mp;
use mp_cluster::{Connect, Connection, Pool};
use tempfile::TempDir;

use self::network::Network;
use self::proxy::Proxy;

/// A server that ends with the test, and whatever it kept with it.
pub(crate) struct Server {
    process: Child,
    address: String,
    port: u16,
    /// Where it tells how it is, over HTTP.
    monitor: u16,
    directory: TempDir,
    configuration: String,
}

impl Server {
    /// Starts one; without a server to be had it says so, and the test is skipped.
    pub(crate) fn start() -> Option<Self> {
        Self::configured("jetstream { store_dir: $STORE }")
    }

    /// As `start`, with the rest of its configuration.
    pub(crate) fn configured(configuration: &str) -> Option<Self> {
        Self::prepared(configuration, |_| {})
    }

    /// As `configured`, once its directory has what the configuration needs.
    pub(crate) fn prepared(configuration: &str, prepare: impl FnOnce(&Path)) -> Option<Self> {
        Self::at("127.0.0.1", configuration, prepare)
    }

    /// As `prepared`, where machines of a [`Network`](network::Network) reach it.
    pub(crate) fn at(
        address: &str,
        configuration: &str,
        prepare: impl FnOnce(&Path),
    ) -> Option<Self> {
        let program = server_program()?;
        let directory = tempfile::tempdir().expect("a directory of its own");
        prepare(directory.path());
        let (port, monitor) = (free_port(), free_port());
        let process = run(
            program,
            address,
            [port, monitor],
            directory.path(),
            configuration,
        );
        let server = Self {
            process,
            address: address.to_owned(),
            port,
            monitor,
            directory,
            configuration: configuration.to_owned(),
        };
        server.await_port();
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        let address = match self.address.as_str() {
            "0.0.0.0" => "127.0.0.1",
            address => address,
        };
        format!("nats://{address}:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A way to it that can be cut.
    pub(crate) fn proxy(&self) -> Proxy {
        Proxy::to(self.port)
    }

    /// A way to it on which everything takes so long, in each direction.
    pub(crate) fn slow_proxy(&self, delay: Duration) -> Proxy {
        Proxy::slow(self.port, delay)
    }

    pub(crate) fn connection(&self) -> Connection {
        let mut connection = Connection::new(self.url());
        connection.wait_for_workers(1, Duration::from_secs(60));
        connection
    }

    /// A pool of the workers that are there, once there are so many.
    pub(crate) fn pool(&self, workers: usize) -> Pool {
        let mut connection = self.connection();
        connection.wait_for_workers(workers, Duration::from_secs(60));
        Pool::builder()
            .connect(connection)
            .expect("workers come, and the server is there")
    }

    /// Starts an agent with so many workers.
    pub(crate) fn agent(&self, workers: usize) -> Agent {
        Agent::start(&self.url(), workers)
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
    }

    /// Starts it again, with what it has kept.
    pub(crate) fn restart(&mut self) {
        let program = server_program().expect("it was there before");
        self.process = run(
            program,
            &self.address,
            [self.port, self.monitor],
            self.directory.path(),
            &self.configuration,
        );
        self.await_port();
    }

    /// Starts it again, with nothing.
    pub(crate) fn restart_empty(&mut self) {
        std::fs::remove_dir_all(self.directory.path().join("store")).expect("it was there");
        self.restart();
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Bytes in its object store. What was removed leaves a note of some hundred.
    pub(crate) fn object_bytes(&self) -> u64 {
        self.stream("OBJ_mp-default").map_or(0, |store| {
            store["state"]["bytes"].as_u64().expect("a number")
        })
    }

    /// Messages in its stream of tasks.
    pub(crate) fn tasks(&self) -> u64 {
        self.stream("mp-default").map_or(0, |stream| {
            stream["state"]["messages"].as_u64().expect("a number")
        })
    }

    /// Who is connected.
    pub(crate) fn connections(&self) -> u64 {
        let told = self.ask("/connz");
        told["num_connections"].as_u64().expect("a number")
    }

    /// Messages with tasks that it was ever given.
    pub(crate) fn last_message(&self) -> u64 {
        let stream = self.stream("mp-default").expect("it was made");
        stream["state"]["last_seq"].as_u64().expect("a number")
    }

    /// Bytes that clients have sent to it, and that it has sent to them.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let told = self.ask("/varz");
        let bytes = |what: &str| told[what].as_u64().expect("a number");
        (bytes("in_bytes"), bytes("out_bytes"))
    }

    /// What it tells of a stream, if it has it.
    fn stream(&self, name: &str) -> Option<serde_json::Value> {
        let told = self.ask("/jsz?streams=true");
        let streams = told["account_details"][0]["stream_detail"].as_array()?;
        streams.iter().find(|it| it["name"] == name).cloned()
    }

    fn ask(&self, path: &str) -> serde_json::Value {
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", self.monitor)).expect("it listens");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("it is JSON")
    }

    fn await_port(&self) {
        eventually("the server answers", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three servers that are one.
pub(crate) struct Replicas(Vec<Server>);

impl Replicas {
    pub(crate) fn start() -> Option<Self> {
        let routes: [u16; 3] = std::array::from_fn(|_| free_port());
        let all = routes.map(|port| format!("\"nats://127.0.0.1:{port}\""));
        let servers: Option<Vec<_>> = routes
            .iter()
            .map(|port| {
                Server::configured(&format!(
                    "server_name: \"server-{port}\"
                     jetstream {{ store_dir: $STORE }}
                     cluster {{
                         name: mp
                         listen: \"127.0.0.1:{port}\"
                         routes: [{}]
                     }}",
                    all.join(", ")
                ))
            })
            .collect();
        let replicas = Self(servers?);
        let mut connection = Connection::new(replicas.url());
        connection.replicas(3);
        eventually("they agree", || {
            mp_cluster::prepare(&mut connection).is_ok()
        });
        Some(replicas)
    }

    pub(crate) fn url(&self) -> String {
        let urls: Vec<_> = self.0.iter().map(Server::url).collect();
        urls.join(",")
    }

    /// Kills the server that the others follow in what concerns the tasks, and returns its place.
    pub(crate) fn kill_leader(&mut self) -> usize {
        self.kill_leader_of("mp-default")
    }

    /// As `kill_leader`, of another stream.
    pub(crate) fn kill_leader_of(&mut self, stream: &str) -> usize {
        let port = |server: &Server| server.ask("/varz")["server_name"].clone();
        let names: Vec<_> = self.0.iter().map(port).collect();
        let mut leader = None;
        eventually("one leads", || {
            let streams = self.0.iter().find_map(|server| server.stream(stream));
            let told = streams.map(|stream| stream["cluster"]["leader"].clone());
            leader = told.and_then(|told| names.iter().position(|name| *name == told));
            leader.is_some()
        });
        let leader = leader.expect("one leads");
        self.0[leader].kill();
        leader
    }

    pub(crate) fn restart(&mut self, server: usize) {
        self.0[server].restart();
    }
}

fn run(
    program: &Path,
    address: &str,
    ports: [u16; 2],
    directory: &Path,
    configuration: &str,
) -> Child {
    let [port, monitor] = ports.map(|port| port.to_string());
    let store = directory.join("store");
    let file = directory.join("nats.conf");
    let text = configuration
        .replace("$STORE", &format!("{:?}", store.to_str().expect("UTF-8")))
        .replace("$DIR", directory.to_str().expect("UTF-8"));
    std::fs::write(&file, text).expect("the directory is ours");
    mp_cluster::command(program)
        .args(["-a", address, "-p", &port, "-m", &monitor, "-c"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server starts")
}

/// The server's program, found or fetched once.
pub(crate) fn server_program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let scripts = manifest
            .ancestors()
            .map(|place| place.join("scripts/nats-server"));
        let script = scripts
            .into_iter()
            .find(|script| script.exists())
            .expect("the repository is all there");
        let found = Command::new(script).output().expect("the script runs");
        let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        if found.status.success() {
            return Some(PathBuf::from(path));
        }
        let why = String::from_utf8_lossy(&found.stderr).trim().to_owned();
        eprintln!("skipped: {why}");
        None
    };
    PROGRAM.get_or_init(find).as_deref()
}

/// One that nobody has now, nor is given: not of those that the kernel gives to connections, and no other
/// test of this process gets it.
pub(crate) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // Tests of other processes begin elsewhere.
    let begin = std::process::id().wrapping_mul(331);
    loop {
        let number = begin.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + number % PORTS.len() as u32) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A process that serves; it is killed with the test.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts this binary again, as a worker; it comes to the test [`serve`].
    pub(crate) fn start(url: &str, workers: usize) -> Self {
        Self::with(url, workers, |_| {})
    }

    /// Of another binary.
    pub(crate) fn of(binary: &Path, url: &str, workers: usize) -> Self {
        Self::run(binary, url, workers, |_| {})
    }

    pub(crate) fn with(url: &str, workers: usize, more: impl FnOnce(&mut Command)) -> Self {
        let binary = std::env::current_exe().expect("this very binary");
        Self::run(&binary, url, workers, more)
    }

    fn run(binary: &Path, url: &str, workers: usize, more: impl FnOnce(&mut Command)) -> Self {
        Self::of_program(binary, url, |command| {
            command
                .args(["--exact", "support::serve", "--nocapture"])
                .env("WORKERS", workers.to_string());
            more(command);
        })
    }

    /// Of this binary, which comes to a pool in that test.
    pub(crate) fn in_test(name: &str, url: &str) -> Self {
        let binary = std::env::current_exe().expect("this very binary");
        Self::of_program(&binary, url, |command| {
            command.args(["--exact", name, "--nocapture"]);
        })
    }

    /// Of this binary, on a machine of a network.
    pub(crate) fn on(network: &Network, machine: usize, url: &str, workers: usize) -> Self {
        let binary = std::env::current_exe().expect("this very binary");
        let command = network.command(machine, &binary);
        Self::of_command(command, url, |command| {
            command
                .args(["--exact", "support::serve", "--nocapture"])
                .env("WORKERS", workers.to_string())
                // Nobody else is on it.
                .env("MP_CLUSTER_PLAIN", "1");
        })
    }

    /// Of a program that makes a pool.
    pub(crate) fn of_program(program: &Path, url: &str, more: impl FnOnce(&mut Command)) -> Self {
        Self::of_command(mp_cluster::command(program), url, more)
    }

    fn of_command(mut command: Command, url: &str, more: impl FnOnce(&mut Command)) -> Self {
        command
            .env("MP_CLUSTER", url)
            .env("MP_ROLE", "worker")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        more(&mut command);
        Self(command.spawn().expect("the agent starts"))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it is ours");
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a system call; the process is ours and was not waited for.
        let sent = unsafe { libc::kill(self.pid(), signal) };
        assert_eq!(sent, 0);
    }

    /// Whether it has, and how.
    pub(crate) fn has_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().expect("it is ours")
    }

    /// Waits until it has ended by itself, and returns its exit code.
    pub(crate) fn join(mut self) -> Option<i32> {
        let process = &mut self.0;
        eventually("the agent ends", || {
            process.try_wait().expect("it is ours").is_some()
        });
        process.wait().expect("it is ours").code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves, if this process was started as an agent; otherwise there is nothing to test.
#[test]
fn serve() {
    let Ok(workers) = std::env::var("WORKERS") else {
        return;
    };
    let workers = workers.parse().expect("a number");
    let pool = Pool::new(workers);
    panic!("an agent does not come back: {pool:?}");
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[mp::task]
pub(crate) fn square(x: u64) -> u64 {
    x * x
}

#[mp::task]
pub(crate) fn length(bytes: Vec<u8>) -> usize {
    bytes.len()
}

/// Says which process runs it, then takes its time.
#[mp::task]
pub(crate) fn mark_and_wait(marks: String, x: u64, millis: u64) -> u64 {
    mark(&marks, x);
    std::thread::sleep(Duration::from_millis(millis));
    x
}

/// Says which process runs it, and waits for a file.
#[mp::task]
pub(crate) fn wait_for(marks: String, x: u64) -> u64 {
    mark(&marks, x);
    while !Path::new(&marks).join("go").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    x
}

pub(crate) fn mark(marks: &str, x: u64) {
    let mark = format!("{x}.{}", std::process::id());
    std::fs::write(Path::new(marks).join(mark), "").expect("the directory is there");
}

/// All results of [`mark_and_wait`], in order.
pub(crate) fn all_marked(pool: &Pool, items: impl Iterator<Item = (String, u64, u64)>) -> Vec<u64> {
    let outcomes = pool.istarmap(mark_and_wait, items).expect("it begins");
    outcomes.map(|outcome| outcome.expect("a result")).collect()
}

/// The files that tasks have left.
pub(crate) struct Marks(TempDir);

impl Marks {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory of its own"))
    }

    pub(crate) fn path(&self) -> String {
        self.0.path().to_str().expect("UTF-8").to_owned()
    }

    pub(crate) fn go(&self) {
        std::fs::write(self.0.path().join("go"), "").expect("the directory is ours");
    }

    /// The processes that have begun with `x`.
    pub(crate) fn begun(&self, x: u64) -> Vec<i32> {
        let prefix = format!("{x}.");
        std::fs::read_dir(self.0.path())
            .expect("the directory is ours")
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                name.strip_prefix(&prefix)?.parse().ok()
            })
            .collect()
    }

    pub(crate) fn await_begun(&self, x: u64) -> i32 {
        eventually("the task begins", || !self.begun(x).is_empty());
        self.begun(x)[0]
    }
}

/// Aborts the process if a test takes longer than that. Keep what it returns.
#[must_use]
pub(crate) fn watchdog(seconds: u64) -> std::sync::mpsc::Sender<()> {
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let (alive, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let timeout = std::sync::mpsc::RecvTimeoutError::Timeout;
        if ended.recv_timeout(Duration::from_secs(seconds)) == Err(timeout) {
            // Not by eprintln, which the harness may have captured.
            let _ = writeln!(
                std::io::stderr(),
                "\nwatchdog: {name} hangs: {seconds} s are over"
            );
            std::process::abort();
        }
    });
    alive
}
