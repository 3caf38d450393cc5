//! What the kernel counts of a process.

use std::{fs, io, mem};

use anyhow::Context;

/// Memory that a process shares with nobody, in KiB.
pub(crate) fn private_kib(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(["Private_Clean:", "Private_Dirty:"]
        .iter()
        .filter_map(|name| number_after(&text, name))
        .sum())
}

/// The most memory that this process ever had at once, in KiB, since [`reset_peak`].
pub(crate) fn peak_kib() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    number_after(&text, "VmHWM:").context("the kernel does not tell the peak")
}

/// Bytes of memory that could be had, as far as the kernel tells.
pub(crate) fn available() -> io::Result<Option<u64>> {
    let text = fs::read_to_string("/proc/meminfo")?;
    Ok(number_after(&text, "MemAvailable:").map(|kib| kib << 10))
}

/// Forgets the peak.
pub(crate) fn reset_peak() -> io::Result<()> {
    fs::write("/proc/self/clear_refs", "5")
}

/// How often the threads of a process were put on a CPU.
pub(crate) fn switches(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("status"))?;
        let names = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
        for line in text.lines() {
            if let Some(count) = names.iter().find_map(|name| line.strip_prefix(name)) {
                sum += count.trim().parse::<u64>()?;
            }
        }
    }
    Ok(sum)
}

/// How many page faults all children together took that have ended.
pub(crate) fn faults_of_children() -> io::Result<u64> {
    // SAFETY: numbers, of which zero is one.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: points to what it writes.
    match unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) } {
        0 => Ok(usage.ru_minflt as u64),
        _ => Err(io::Error::last_os_error()),
    }
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
