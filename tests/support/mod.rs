//! What the behaviour tests share: a watchdog, waiting for a condition, and tests that need a process
//! of their own.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Aborts the process if it lives longer than it was given.
pub struct Watchdog {
    _alive: Sender<()>,
}

/// Has a test that hangs end with its name rather than in silence. Keep what it returns.
#[must_use]
#[track_caller]
pub fn watchdog(seconds: u64) -> Watchdog {
    let place = std::panic::Location::caller();
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let (alive, ended) = channel::<()>();
    std::thread::spawn(move || {
        let limit = Duration::from_secs(seconds);
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            // Not by eprintln, which the harness may have captured.
            let _ = writeln!(
                std::io::stderr(),
                "\nwatchdog: test {name} at {place} hangs: {seconds} s are over\n{}",
                threads()
            );
            std::process::abort();
        }
    });
    Watchdog { _alive: alive }
}

/// Where the threads of this process are, as the kernel tells it.
fn threads() -> String {
    let mut text = String::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten() {
        let Ok(task) = task else { continue };
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        text += &format!(
            "  {}: {} {}\n",
            read("comm").trim(),
            read("wchan"),
            read("children")
        );
    }
    text
}

/// Waits until something is so that nobody announces.
#[track_caller]
pub fn eventually(mut condition: impl FnMut() -> bool) {
    let place = std::panic::Location::caller();
    for _ in 0..6000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the condition at {place} never came true");
}

/// Waits until what `read` returns is `expected`, as counts of what others use come to be.
#[track_caller]
pub fn settles_at<T: PartialEq + std::fmt::Debug>(expected: &T, mut read: impl FnMut() -> T) {
    let place = std::panic::Location::caller();
    let mut now = read();
    for _ in 0..6000 {
        if now == *expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
        now = read();
    }
    panic!("at {place}: {expected:?} was expected and never came, last there was {now:?}");
}

/// Names the test that this process was started for, and where it reports that it is through.
const ALONE: &str = "MP_TEST_ALONE";
const DONE: &str = "MP_TEST_DONE";

/// Runs the body of test `name` in a process of its own: this program executed again.
#[track_caller]
pub fn alone(name: &str, body: impl FnOnce()) {
    alone_with(name, |_| {}, body);
}

/// As [`alone`]; `prepare` may change how the process is started.
#[track_caller]
pub fn alone_with(name: &str, prepare: impl FnOnce(&mut Command), body: impl FnOnce()) {
    run_in_another(name, prepare, body);
}

/// As [`alone`], for a body that does things at random: the seed is printed first, whatever comes of
/// it, and with [`SEED`] set to it the same is done again. What the body says is printed as well.
#[track_caller]
pub fn alone_seeded(name: &str, body: impl FnOnce(Random)) {
    let seed = seed();
    // Not by eprintln, which the harness would show only if the test fails.
    let mut stderr = std::io::stderr();
    if !is_alone(name) {
        let _ = writeln!(stderr, "\n{name}: {SEED}={seed} repeats it");
    }
    let prepare = |command: &mut Command| {
        command.env(SEED, seed.to_string());
    };
    let said = run_in_another(name, prepare, || body(Random::seeded(seed)));
    // Without what the harness in there says.
    let of_harness = format!("test {} ... ", name_in_file(name));
    for line in said.lines() {
        let line = line.strip_prefix(&of_harness).unwrap_or(line);
        let is_harness = ["running ", "test "].iter().any(|it| line.starts_with(it));
        if !is_harness && !line.is_empty() && line != "ok" {
            let _ = writeln!(stderr, "{name}: {line}");
        }
    }
}

/// Runs the body in a process of its own, and returns what that printed; nothing in that process.
#[track_caller]
fn run_in_another(name: &str, prepare: impl FnOnce(&mut Command), body: impl FnOnce()) -> String {
    if is_alone(name) {
        run_alone(body);
        return String::new();
    }
    let done = tempfile::NamedTempFile::new().unwrap();
    let mut command = alone_command(name);
    command.env(DONE, done.path());
    prepare(&mut command);
    let output = command.output().unwrap();
    let text = || {
        format!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    assert!(output.status.success(), "{}\n{}", output.status, text());
    let ran = fs::read_to_string(done.path()).unwrap();
    assert_eq!(ran, "done", "the body of {name} did not run:\n{}", text());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether this process was started for that test.
pub fn is_alone(name: &str) -> bool {
    std::env::var(ALONE).is_ok_and(|wanted| wanted == name)
}

/// Runs a body in the process that was started for it, and reports that it came to its end.
pub fn run_alone(body: impl FnOnce()) {
    body();
    if let Some(done) = std::env::var_os(DONE) {
        fs::write(done, "done").unwrap();
    }
}

/// This program executed again for one test.
pub fn alone_command(name: &str) -> Command {
    command_of(&std::env::current_exe().unwrap(), name)
}

fn command_of(program: &Path, name: &str) -> Command {
    let mut command = Command::new(program);
    let name_in_file = name_in_file(name);
    command
        .args(["--exact", &name_in_file, "--nocapture", "--test-threads=1"])
        .env(ALONE, name)
        .stdin(Stdio::null());
    let die_with_the_test = || {
        // SAFETY: takes integers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    };
    // SAFETY: prctl is safe between fork and exec.
    unsafe { command.pre_exec(die_with_the_test) };
    command
}

/// A test's whole name: some files are modules of others.
fn name_in_file(name: &str) -> String {
    match module_path!().split("::").collect::<Vec<_>>().as_slice() {
        [_file, modules @ .., _support] if !modules.is_empty() => {
            format!("{}::{name}", modules.join("::"))
        }
        _ => name.to_owned(),
    }
}

/// Runs the body of test `name` in a process of its own that executes a copy of this program, so
/// that the file can be changed.
#[track_caller]
pub fn alone_in_a_copy(name: &str, body: impl FnOnce()) {
    if is_alone(name) {
        run_alone(body);
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = copy_of_this_program(directory.path());
    let done = directory.path().join("done");
    let output = retry_busy(|| command_of(&program, name).env(DONE, &done).output());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert_eq!(
        fs::read_to_string(done).unwrap_or_default(),
        "done",
        "{text}"
    );
}

/// Copies the program to `directory` and returns the copy's path.
pub fn copy_of_this_program(directory: &Path) -> PathBuf {
    let program = directory.join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    program
}

/// Another test's fork may for a moment hold the copy open for writing.
fn retry_busy<T>(mut run: impl FnMut() -> std::io::Result<T>) -> T {
    loop {
        match run() {
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {
                std::thread::yield_now();
            }
            result => return result.unwrap(),
        }
    }
}

/// A descriptor of a process that becomes readable when it ends.
pub fn pidfd(pid: u32) -> OwnedFd {
    try_pidfd(pid).unwrap_or_else(|error| panic!("pidfd_open: {error}"))
}

/// As [`pidfd`], of a process that may have ended and been reaped.
pub fn try_pidfd(pid: u32) -> std::io::Result<OwnedFd> {
    // SAFETY: takes integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits until a descriptor is readable; false if `timeout` passes first.
pub fn wait_readable(fd: &impl AsRawFd, timeout: Option<Duration>) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as i32);
    loop {
        // SAFETY: points to one valid entry.
        match unsafe { libc::poll(&mut poll, 1, timeout) } {
            -1 => assert_eq!(
                std::io::Error::last_os_error().kind(),
                std::io::ErrorKind::Interrupted
            ),
            count => return count > 0,
        }
    }
}

/// Sends a signal to a process.
pub fn send_signal(pid: u32, signal: i32) {
    // SAFETY: takes integers.
    unsafe { libc::kill(pid as i32, signal) };
}

/// The children of this process, zombies among them.
pub fn children() -> Vec<u32> {
    let mut children = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(
            list.split_whitespace()
                .map(|pid| pid.parse::<u32>().unwrap()),
        );
    }
    children
}

/// A line of `/proc/<pid>/status`.
pub fn status_line(pid: u32, key: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim().to_owned()))
}

/// Whether a process has ended and was waited for, be it by nobody yet because its parent died before it: then
/// it is init's, which comes to it when it likes.
pub fn is_gone(pid: u32) -> bool {
    match (status_line(pid, "State"), status_line(pid, "PPid")) {
        (Some(state), Some(parent)) => state.starts_with('Z') && parent == "1",
        _ => true,
    }
}

/// The variable that says what tests do that do things at random.
const SEED: &str = "MP_TEST_SEED";

/// What it says, or else the time.
fn seed() -> u64 {
    let said = std::env::var(SEED).ok();
    said.map_or_else(
        || {
            let now = std::time::SystemTime::now();
            let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64
        },
        |seed| seed.parse().expect(SEED),
    )
}

/// A generator of numbers that look random, told apart by their seed.
pub struct Random(u64);

impl Random {
    /// Seeded by [`SEED`], or else by the time; prints which.
    pub fn new() -> Self {
        let seed = seed();
        eprintln!("repeat with {SEED}={seed}");
        Self::seeded(seed)
    }

    /// Seeded by that.
    pub fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }
}
