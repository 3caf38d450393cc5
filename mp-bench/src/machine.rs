//! What the figures were measured on, and how busy it was with other things.

use std::fs;
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

/// Clock ticks a second in /proc, as the kernel has them for programs on every architecture.
const TICKS: f64 = 100.0;

/// The machine as it was before the first subject.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    /// The setting of transparent huge pages, on which first touches of memory depend.
    pub(crate) huge_pages: String,
    pub(crate) python: Option<String>,
    /// What was measured; None if the checkout is gone, or has no history.
    pub(crate) commit: Option<String>,
    pub(crate) load_before: String,
}

impl Machine {
    pub(crate) fn look(python: Option<String>) -> Self {
        Self {
            cpu: cpu_model(),
            cpus: mp::cpu_count(),
            kernel: read("/proc/sys/kernel/osrelease"),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            python,
            commit: commit(),
            load_before: load(),
        }
    }
}

/// The load averages of the last 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = read("/proc/loadavg");
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The commit that is checked out where this program was built, and whether files differ from it.
fn commit() -> Option<String> {
    let git = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .output()
        .ok()?;
    let name = String::from_utf8(git.stdout).ok()?;
    git.status.success().then(|| name.trim().to_owned())
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'))
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |(_, model)| model.trim().to_owned(),
        )
}

/// The word in brackets.
fn chosen(choices: &str) -> String {
    let inside = choices
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or("unknown", |(word, _)| word).to_owned()
}

fn read(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(_) => "unknown".to_owned(),
    }
}

/// Measures how much of the machine others use.
#[derive(Debug)]
pub(crate) struct Meter {
    begin: Instant,
    /// Seconds of CPU used on the whole machine, and by this program.
    used: Option<(f64, f64)>,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self {
            begin: Instant::now(),
            used: machine_seconds().zip(own_seconds()),
        }
    }

    /// CPUs that others used since the start, on average; the host's other guests are among them.
    pub(crate) fn cpus_of_others(&self) -> Option<f64> {
        let (machine_before, own_before) = self.used?;
        let machine = machine_seconds()? - machine_before;
        let own = own_seconds()? - own_before;
        Some((machine - own).max(0.0) / self.begin.elapsed().as_secs_f64())
    }
}

/// User, nice, system, idle, iowait, irq, softirq, steal: all but the two that are no work.
fn machine_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields = stat.lines().next()?.split_whitespace().skip(1).take(8);
    let ticks = fields
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4));
    sum(ticks.map(|(_, field)| field))
}

/// User and system time of this program and of its children.
fn own_seconds() -> Option<f64> {
    seconds_of("self")
}

/// User and system time of a process, of its children that ended, and of those that have not.
fn seconds_of(process: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses, field 2, may have spaces in it; the times are fields 14 to 17.
    let (_, behind_name) = stat.rsplit_once(')')?;
    let own = sum(behind_name.split_whitespace().skip(11).take(4))?;
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let children = threads.filter_map(|thread| {
        let path = thread.ok()?.path().join("children");
        fs::read_to_string(path).ok()
    });
    // One that ends meanwhile is counted a moment later.
    let live = children.flat_map(|children| {
        let pids = children.split_whitespace();
        pids.filter_map(seconds_of).collect::<Vec<_>>()
    });
    Some(own + live.sum::<f64>())
}

fn sum<'a>(ticks: impl Iterator<Item = &'a str>) -> Option<f64> {
    let ticks = ticks
        .map(|field| field.parse::<u64>().ok())
        .sum::<Option<u64>>()?;
    Some(ticks as f64 / TICKS)
}
