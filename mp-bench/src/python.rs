//! The other side of `python/peer.py`: one Python process a subject, kept warm, asked for one slice
//! of work at a time.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::race::Sample;

/// A Python that was found.
#[derive(Debug)]
pub(crate) struct Interpreter {
    script: PathBuf,
}

/// Looks for a Python that has multiprocessing; gives its version beside.
pub(crate) fn find() -> anyhow::Result<(Interpreter, String)> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/peer.py");
    ensure!(script.is_file(), "{} is missing", script.display());
    let output = Command::new("python3")
        .args([
            "-c",
            "import multiprocessing, sys; print('Python', sys.version.split()[0])",
        ])
        .stdin(Stdio::null())
        .output()
        .context("cannot run python3")?;
    ensure!(
        output.status.success(),
        "python3 has no multiprocessing: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((Interpreter { script }, version))
}

impl Interpreter {
    /// Whether it has a module.
    pub(crate) fn has(&self, module: &str) -> bool {
        Command::new("python3")
            .args(["-c", &format!("import {module}")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Starts a process for a subject that `peer.py` knows, with that subject's arguments.
    pub(crate) fn start(&self, subject: &str, arguments: &[u64]) -> anyhow::Result<Peer> {
        let mut process = Command::new("python3")
            .arg(&self.script)
            .arg(subject)
            .args(arguments.iter().map(u64::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run python3")?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("python3 has no pipes");
        };
        Ok(Peer {
            process,
            requests: Some(stdin),
            replies: BufReader::new(stdout),
        })
    }
}

/// A Python process at one subject. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Peer {
    process: Child,
    /// None once the process is to end.
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Peer {
    /// Has it measure a slice of so many operations, or milliseconds, as the subject has it.
    pub(crate) fn measure(&mut self, count: u64) -> anyhow::Result<Sample> {
        let [nanoseconds, operations, right] = self.reply_to(count)?;
        ensure!(
            right == operations,
            "of {operations} answers of Python {right} are right"
        );
        Ok(Sample::new(operations, Duration::from_nanos(nanoseconds)))
    }

    /// Asks for the first of its three numbers.
    pub(crate) fn ask(&mut self, count: u64) -> anyhow::Result<u64> {
        let [first, ..] = self.reply_to(count)?;
        Ok(first)
    }

    fn reply_to(&mut self, count: u64) -> anyhow::Result<[u64; 3]> {
        let requests = self
            .requests
            .as_mut()
            .context("the Python process has ended")?;
        writeln!(requests, "{count}").context("the Python process has ended")?;
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(second)), Some(Ok(third)), None) = (
            numbers.next(),
            numbers.next(),
            numbers.next(),
            numbers.next(),
        ) else {
            bail!("the Python process did not give three numbers but {line:?}");
        };
        Ok([first, second, third])
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        self.requests = None;
        let _ = self.process.wait();
    }
}
