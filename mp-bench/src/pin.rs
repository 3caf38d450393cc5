//! On which CPUs something runs: what is started by a pinned thread is pinned as well.

use std::io;

/// The CPUs that the calling thread may use.
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    let mut set = empty();
    // SAFETY: the set is as large as the kernel is told.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the numbers lie within the set.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Runs `start` with the calling thread pinned to some CPUs.
pub(crate) fn on<R>(cpus: &[usize], start: impl FnOnce() -> R) -> io::Result<R> {
    let before = allowed()?;
    restrict(cpus)?;
    let result = start();
    restrict(&before)?;
    Ok(result)
}

/// Pins the calling thread.
pub(crate) fn restrict(cpus: &[usize]) -> io::Result<()> {
    let mut set = empty();
    for &cpu in cpus {
        // SAFETY: the numbers came from such a set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set is as large as the kernel is told.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn empty() -> libc::cpu_set_t {
    // SAFETY: a set of CPUs is bits, and all zeros is none.
    unsafe { std::mem::zeroed() }
}
