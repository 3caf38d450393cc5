//! What this process may use: memory, processors, priority, the size of a file.
//!
//! # Safety
//!
//! Plain queries with a structure on the stack for the answer.

#![expect(unsafe_code, reason = "libc's queries")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use super::result::check;

/// Returns the memory that this process can have at best, in bytes: the smaller of the machine's
/// RAM and of the limits of its control group and all groups above it.
pub(crate) fn memory_limit() -> u64 {
    // SAFETY: sysconf reads a number.
    let pages = check(unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) });
    // SAFETY: as above.
    let page = check(unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
    // Neither is ever unknown on Linux; if it were, there would be no limit to report.
    let ram = match (pages, page) {
        (Ok(pages), Ok(page)) => (pages as u64).saturating_mul(page as u64),
        _ => u64::MAX,
    };
    let v2 = group_files("", "memory.max").into_iter();
    let v1 = group_files("memory", "memory.limit_in_bytes");
    // "max" (version 2) does not parse, and is no limit; nor is version 1's "no limit", 2^63 less
    // one page.
    v2.chain(v1)
        .filter_map(|text| text.trim().parse().ok())
        .fold(ram, u64::min)
}

/// Returns the most bytes a file of this process may have, if that is limited (`RLIMIT_FSIZE`).
pub(crate) fn file_size_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `limit` is valid for writing one `rlimit`.
    check(unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) }).ok()?;
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Returns how many processors this process may really use: those that the calling thread may run
/// on, less what the quota of its control group withholds; at least 1.
pub(crate) fn cpu_count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the processor that the calling thread runs on at this moment. No system call.
pub(crate) fn current_cpu() -> Option<u32> {
    // SAFETY: has no preconditions.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// One word of a set of processors, as the kernel lays it out.
type Word = libc::c_ulong;

/// Returns the processors that the calling thread may run on.
pub(crate) fn affinity() -> io::Result<Vec<usize>> {
    /// Far more than any kernel is built for.
    const MOST_WORDS: usize = 1 << 14;
    let mut words = vec![0 as Word; 1024 / Word::BITS as usize];
    loop {
        let bytes = size_of_val(words.as_slice());
        // SAFETY: `words` is `bytes` long and valid to write; as a set of processors it is a plain
        // array of words.
        match check(unsafe { libc::sched_getaffinity(0, bytes, words.as_mut_ptr().cast()) }) {
            Ok(_) => break,
            // Too short for the processors of this machine.
            Err(error)
                if error.raw_os_error() == Some(libc::EINVAL) && words.len() < MOST_WORDS =>
            {
                words = vec![0; words.len() * 2];
            }
            Err(error) => return Err(error),
        }
    }
    let mut cpus = Vec::new();
    // Bit by bit only where one is set: a set has room for many more than there are.
    for (index, &word) in words.iter().enumerate() {
        let mut left = word;
        while left != 0 {
            cpus.push(index * Word::BITS as usize + left.trailing_zeros() as usize);
            left &= left - 1;
        }
    }
    Ok(cpus)
}

/// Lets the calling thread, and what it starts from now on, run on these processors only.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] if none of them is there to be used.
pub(crate) fn set_affinity(cpus: &[usize]) -> io::Result<()> {
    /// Far more processors than any kernel is built for, so that a wild number allocates nothing.
    const MOST: usize = 1 << 20;
    let highest = cpus.iter().copied().max().unwrap_or(0);
    if highest >= MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut words = vec![0 as Word; highest / Word::BITS as usize + 1];
    for cpu in cpus {
        words[cpu / Word::BITS as usize] |= 1 << (cpu % Word::BITS as usize);
    }
    let bytes = size_of_val(words.as_slice());
    // SAFETY: `words` is `bytes` long and valid to read.
    check(unsafe { libc::sched_setaffinity(0, bytes, words.as_ptr().cast()) })?;
    Ok(())
}

/// The calling thread, to the calls on priorities.
const THIS_THREAD: libc::c_int = 0;

/// Returns the niceness of the calling thread: from -20, which gets most of the processor, to 19.
pub(crate) fn nice() -> io::Result<i32> {
    // The system call and not libc's function of that name, whose -1 is both a niceness and an
    // error. It answers `{ 20 - niceness }`.
    // SAFETY: takes and returns integers.
    let answer =
        check(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, THIS_THREAD) })?;
    // From 1 to 40.
    Ok(20 - answer as i32)
}

/// Sets the niceness of the calling thread and of what it starts from now on.
///
/// # Errors
///
/// [`io::ErrorKind::PermissionDenied`] if it would become less nice, without the privilege for it.
pub(crate) fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: takes and returns integers.
    check(unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, THIS_THREAD, nice) })?;
    Ok(())
}

/// The contents of `file` in this process's control group of `controller`, and in all above it.
fn group_files(controller: &str, file: &str) -> Vec<String> {
    let paths = group_paths(controller, file).into_iter();
    paths
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}

/// Where `file` of this process's control group of `controller` would be, and those above it.
pub(super) fn group_paths(controller: &str, file: &str) -> Vec<PathBuf> {
    Group::of_this_process(controller).map_or_else(Vec::new, |group| group.each(file))
}

/// A control group, as a directory below the place where its hierarchy is mounted.
struct Group {
    /// Where the hierarchy is mounted: the end of the walk upwards.
    mount: PathBuf,
    /// The group itself.
    directory: PathBuf,
}

impl Group {
    /// The group of this process in the hierarchy of `controller` (version 1), or in the unified
    /// one (`""`).
    fn of_this_process(controller: &str) -> Option<Group> {
        let path = group_in(&fs::read_to_string("/proc/self/cgroup").ok()?, controller)?;
        // Where systemd, Docker and everybody else mounts them.
        let mount = Path::new("/sys/fs/cgroup").join(controller);
        let directory = mount.join(path.trim_start_matches('/'));
        Some(Group { mount, directory })
    }

    /// The paths of `file` in this group and all groups above it.
    ///
    /// In a container the path may name a group that can't be seen from there: then the mount
    /// itself is ours.
    fn each(self, file: &str) -> Vec<PathBuf> {
        let up = self
            .directory
            .ancestors()
            .take_while(|directory| directory.starts_with(&self.mount));
        up.map(|directory| directory.join(file)).collect()
    }
}

/// Finds a hierarchy's path in the text of `/proc/<pid>/cgroup`, whose lines are
/// `id:controller,controller:path`.
fn group_in(text: &str, controller: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let path = parts.next()?;
        controllers
            .split(',')
            .any(|name| name == controller)
            .then(|| path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_limited_by_something_sensible() {
        let limit = memory_limit();
        assert!((1 << 20..1 << 50).contains(&limit), "{limit}");
    }

    #[test]
    fn a_thread_keeps_to_its_processors() {
        thread::spawn(|| {
            let all = affinity().unwrap();
            assert!(!all.is_empty());
            assert!(cpu_count() <= all.len());
            set_affinity(&all[..1]).unwrap();
            assert_eq!(affinity().unwrap(), all[..1]);
            assert_eq!(cpu_count(), 1);
            assert!(set_affinity(&[]).is_err());
            assert!(set_affinity(&[usize::MAX]).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_has_its_own_niceness() {
        let before = nice().unwrap();
        thread::spawn(move || {
            let nicer = (before + 1).min(19);
            set_nice(nicer).unwrap();
            assert_eq!(nice().unwrap(), nicer);
        })
        .join()
        .unwrap();
        assert_eq!(nice().unwrap(), before);
    }

    #[test]
    fn groups_are_found_by_controller() {
        let text = "4:memory:/a/b\n3:cpu,cpuacct:/c:d\n1:name=systemd:/e\n0::/f\n";
        assert_eq!(group_in(text, "memory").as_deref(), Some("/a/b"));
        assert_eq!(group_in(text, "cpu").as_deref(), Some("/c:d"));
        assert_eq!(group_in(text, "").as_deref(), Some("/f"));
        assert_eq!(group_in(text, "pids"), None);
    }
}
