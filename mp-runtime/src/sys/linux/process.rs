//! Processes: executing this program again, pidfds, exit status, and who a process id stands for.
//!
//! # Safety
//!
//! The calls get C strings and arrays of pointers to them that are borrowed until they return.

#![expect(unsafe_code, reason = "posix_spawn, pidfds and waitid")]

use std::{
    ffi::{CStr, CString, OsStr},
    fs,
    io::{self, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::MetadataExt,
        },
    },
    path::Path,
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use super::{
    fd, poll,
    recent::Recent,
    result::{check, check_code, retry},
};
use crate::sys::process::{Fingerprint, Spawn, Status};

/// The file that this process executes, also when no other path names it any more.
const OWN_FILE: &str = "/proc/self/exe";

/// Starts a process and returns its id.
///
/// By `posix_spawn`, whose cost does not grow with this process's memory. The child begins with no
/// signal blocked and all at their defaults, whatever this program did to its own. Its affinity and
/// priority are the calling thread's; it dies with that *thread* if it arms
/// [`arm_parent_death`](super::signal::arm_parent_death).
pub(crate) fn spawn(spawn: &Spawn<'_>) -> io::Result<u32> {
    // Lives until the call: sources that a redirection of another stream would overwrite.
    let mut moved = Vec::new();
    let mut actions = FileActions::new()?;
    for (target, source) in (libc::STDIN_FILENO..).zip(&spawn.stdio) {
        let Some(source) = source.map(|source| source.as_raw_fd()) else {
            continue;
        };
        if source == target || source > libc::STDERR_FILENO {
            actions.duplicate(source, target)?;
        } else {
            let copy = fd::duplicate(source)?;
            actions.duplicate(copy.as_raw_fd(), target)?;
            moved.push(copy);
        }
    }
    for fd in spawn.inherit {
        debug_assert!(fd.as_raw_fd() > libc::STDERR_FILENO);
        // Onto itself: that keeps the number and takes the close-on-exec flag off, in the child
        // only. glibc 2.29, musl 1.1.24.
        actions.duplicate(fd.as_raw_fd(), fd.as_raw_fd())?;
    }
    let attributes = Attributes::with_default_signals()?;
    let argv = pointers(spawn.argv, None);
    let envp = pointers(spawn.envp, spawn.variable);
    let mut pid = 0;
    // SAFETY: actions and attributes are initialised; `argv` and `envp` end in null, and they and
    // the C strings they point to live until the call returns, which only reads them.
    check_code(unsafe {
        libc::posix_spawn(
            &mut pid,
            spawn.path.as_ptr(),
            actions.as_ptr(),
            attributes.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
        )
    })?;
    // A process id is positive.
    Ok(pid as u32)
}

/// The addresses of C strings, perhaps of one more, and the null that ends them.
fn pointers(strings: &[CString], last: Option<&CStr>) -> Vec<*mut libc::c_char> {
    strings
        .iter()
        .map(CString::as_c_str)
        .chain(last)
        .map(|string| string.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}

/// What the child does to its descriptors before it executes.
///
/// Boxed: POSIX does not let the value move once it is initialised.
struct FileActions(Box<MaybeUninit<libc::posix_spawn_file_actions_t>>);

impl FileActions {
    fn new() -> io::Result<FileActions> {
        let mut actions = Box::new(MaybeUninit::uninit());
        // SAFETY: writes to memory of that type.
        check_code(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        Ok(FileActions(actions))
    }

    /// Adds `dup2(source, target)`.
    fn duplicate(&mut self, source: RawFd, target: RawFd) -> io::Result<()> {
        let actions = self.0.as_mut_ptr();
        // SAFETY: initialised in `FileActions::new`.
        check_code(unsafe { libc::posix_spawn_file_actions_adddup2(actions, source, target) })
    }

    fn as_ptr(&self) -> *const libc::posix_spawn_file_actions_t {
        self.0.as_ptr()
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised in `FileActions::new`, destroyed once, here.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.as_mut_ptr()) };
    }
}

/// How the child's signals are set before it executes.
struct Attributes(Box<MaybeUninit<libc::posix_spawnattr_t>>);

impl Attributes {
    fn with_default_signals() -> io::Result<Attributes> {
        let mut attributes = Box::new(MaybeUninit::uninit());
        // SAFETY: writes to memory of that type.
        check_code(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        let mut this = Attributes(attributes);
        let attributes = this.0.as_mut_ptr();

        let mut none = MaybeUninit::uninit();
        // SAFETY: writes to memory of that type.
        check(unsafe { libc::sigemptyset(none.as_mut_ptr()) })?;
        // A blocked signal passes through exec, and would leave the child deaf to it.
        // SAFETY: `attributes` was initialised above, `none` by sigemptyset.
        check_code(unsafe { libc::posix_spawnattr_setsigmask(attributes, none.as_ptr()) })?;
        let mut all = MaybeUninit::uninit();
        // SAFETY: writes to memory of that type.
        check(unsafe { libc::sigfillset(all.as_mut_ptr()) })?;
        // So does an ignored one.
        // SAFETY: `attributes` was initialised above, `all` by sigfillset.
        check_code(unsafe { libc::posix_spawnattr_setsigdefault(attributes, all.as_ptr()) })?;

        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        // SAFETY: `attributes` was initialised above.
        check_code(unsafe { libc::posix_spawnattr_setflags(attributes, flags as libc::c_short) })?;
        Ok(this)
    }

    fn as_ptr(&self) -> *const libc::posix_spawnattr_t {
        self.0.as_ptr()
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `Attributes::with_default_signals`, destroyed once, here.
        unsafe { libc::posix_spawnattr_destroy(self.0.as_mut_ptr()) };
    }
}

/// Opens a descriptor that stands for a process and becomes readable when that ends.
///
/// An id may have passed to another process by now; that of a child that was not reaped has not.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes and returns integers. Since Linux 5.3; always close-on-exec.
    let raw = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call just returned this descriptor, which fits an int, and nothing else owns it.
    unsafe { fd::adopt(raw as RawFd) }
}

/// Sends a signal to the process behind a pidfd; to one that has ended it is an error.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo the call takes integers only. Since Linux 5.1.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            no_info,
            0,
        )
    })?;
    Ok(())
}

/// Asks how a process ended, and releases its id if it is a child of ours.
///
/// `None` means that it has not ended, which is not returned where we `block`.
/// [`Status::Unknown`] means that it has, and that we will never know how.
pub(crate) fn reap(pidfd: BorrowedFd<'_>, pid: u32, block: bool) -> io::Result<Option<Status>> {
    let flags = libc::WEXITED | if block { 0 } else { libc::WNOHANG };
    let by_pidfd = wait_for(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, flags);
    let result = match by_pidfd {
        // Linux 5.3 has pidfds, and can't wait for them.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            wait_for(libc::P_PID, pid, flags)
        }
        result => result,
    };
    match result {
        // Not our child (any more), or so long ended that there was no pidfd to be had for it: whether
        // it has ended is to be seen from the descriptor.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ECHILD | libc::EBADF)) => {
            let now = Some(std::time::Duration::ZERO);
            let ended = poll::wait_readable(&[pidfd], if block { None } else { now })?;
            Ok(ended.then_some(Status::Unknown))
        }
        result => result,
    }
}

/// Kills a child of ours, waits for its end, and releases its id.
pub(crate) fn kill_unwatched(pid: u32) {
    // An error means that other code of this program has reaped it, and the id may be another's.
    let looks = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    if wait_for(libc::P_PID, pid, looks).is_err() {
        return;
    }
    // SAFETY: takes integers; `pid` is our child's until it is reaped, here.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    let _ = wait_for(libc::P_PID, pid, libc::WEXITED);
}

fn wait_for(
    kind: libc::idtype_t,
    id: libc::id_t,
    flags: libc::c_int,
) -> io::Result<Option<Status>> {
    // SAFETY: all zeros is a valid siginfo, which consists of integers and pointers; and with
    // WNOHANG, zeros are how one sees that nothing was reported.
    let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: `info` is valid to write.
    retry(|| unsafe { libc::waitid(kind, id, &mut info, flags) })?;
    // SAFETY: waitid filled in the fields of SIGCHLD, or left the zeros.
    if unsafe { info.si_pid() } == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Ok(Some(match info.si_code {
        libc::CLD_EXITED => Status::Exited(status),
        code => Status::Signaled {
            signal: status,
            core: code == libc::CLD_DUMPED,
        },
    }))
}

/// Returns when a process started, in clock ticks since the machine did: with its id, that names a
/// process for good.
pub(crate) fn start_time(pid: u32) -> io::Result<u64> {
    Ok(Stat::read(pid)?.start_time)
}

/// A moment on the clock by which the kernel says when a process started, in the same ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick(u64);

impl Tick {
    /// This moment.
    pub(crate) fn now() -> Tick {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: points to a timespec that is ours. The call cannot fail for this clock.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        // SAFETY: takes and returns integers.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let tick = 1_000_000_000 / u64::try_from(per_second).unwrap_or(100).max(1);
        Tick((time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64) / tick)
    }

    /// This tick, if it is not over.
    pub(crate) fn if_now(self) -> Option<Tick> {
        (Tick::now() == self).then_some(self)
    }

    /// Its number, which is not 0 once the machine has started.
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// The tick of that number.
    pub(crate) fn from_number(number: u64) -> Tick {
        Tick(number)
    }
}

/// As [`start_time`], for a process of which it may be known that it was started in `only` one tick: then
/// there is no need to ask, which makes the kernel build an entry of `/proc` that it must take apart
/// again.
pub(crate) fn start_time_within(pid: u32, only: Option<Tick>) -> io::Result<u64> {
    // Not every kernel that runs Linux programs need count alike, so it is tried first.
    const UNKNOWN: u8 = 0;
    const ALIKE: u8 = 1;
    const DIFFERENT: u8 = 2;
    static CLOCKS: AtomicU8 = AtomicU8::new(UNKNOWN);
    let only = only.map(Tick::number);
    // Relaxed: the value is all there is.
    let clocks = CLOCKS.load(Ordering::Relaxed);
    match only {
        Some(tick) if clocks == ALIKE => return Ok(tick),
        _ => {}
    }
    let told = start_time(pid)?;
    if let Some(tick) = only
        && clocks == UNKNOWN
    {
        let found = if tick == told { ALIKE } else { DIFFERENT };
        CLOCKS.store(found, Ordering::Relaxed);
    }
    Ok(told)
}

/// Returns how many threads this process has.
pub(super) fn own_threads() -> io::Result<u64> {
    Ok(Stat::read(std::process::id())?.threads)
}

/// Returns whether the process that had this id and started then no longer runs.
///
/// One that has ended but was not reaped (a zombie) is gone. In doubt it is not. If it is not known
/// when it started, `start` is zero, and another process that has its number is taken for it.
pub(crate) fn is_gone(pid: u32, start: u64) -> bool {
    match Stat::read(pid) {
        Ok(stat) => {
            // While other threads run, a main thread that has ended makes a zombie of the process
            // only by its looks.
            let zombie = matches!(stat.state, b'Z' | b'X') && stat.threads <= 1;
            zombie || (start != 0 && stat.start_time != start)
        }
        // Without /proc, or where it hides other users' processes, only the id can be asked for.
        // SAFETY: signal 0 is never sent.
        Err(_) => check(unsafe { libc::kill(pid as libc::pid_t, 0) })
            .is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH)),
    }
}

/// What we read of `/proc/<pid>/stat`; see proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    /// Field 3.
    state: u8,
    /// Field 20.
    threads: u64,
    /// Field 22.
    start_time: u64,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Stat> {
        let mut buffer = [0; 1024];
        let bytes = read_text(format!("/proc/{pid}/stat"), &mut buffer)?;
        Stat::parse(bytes).ok_or_else(|| {
            let text = format!("/proc/{pid}/stat is not in the known format");
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    fn parse(bytes: &[u8]) -> Option<Stat> {
        // Field 2 is the file's name in parentheses, and may itself hold any byte. No later field
        // has a parenthesis.
        let end = bytes.iter().rposition(|&byte| byte == b')')?;
        let rest = str::from_utf8(&bytes[end + 1..]).ok()?;
        // Begins with field 3.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Stat {
            state: *fields.first()?.as_bytes().first()?,
            threads: fields.get(20 - 3)?.parse().ok()?,
            start_time: fields.get(22 - 3)?.parse().ok()?,
        })
    }
}

/// Reads a text of the kernel's, as far as there is room: by fewer calls than where its size is
/// unknown.
pub(super) fn read_text(path: impl AsRef<Path>, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let mut file = fs::File::open(path)?;
    let mut len = 0;
    loop {
        match file.read(&mut buffer[len..])? {
            0 => return Ok(&buffer[..len]),
            read => len += read,
        }
    }
}

/// Makes a process a likelier victim than this one when the machine runs out of memory.
///
/// Best effort: without it, `mp` works as well, until the kernel chooses the parent.
pub(crate) fn raise_oom_score(pid: u32) {
    /// The highest score there is.
    const HIGHEST: i32 = 1000;
    static OWN: Recent<i32> = Recent::new();
    let own = OWN.get(|| {
        let mut buffer = [0; 16];
        let own = read_text("/proc/self/oom_score_adj", &mut buffer);
        own.ok()
            .and_then(|text| str::from_utf8(text).ok()?.trim().parse().ok())
            .unwrap_or(0)
    });
    // Half of the scale for each generation, so that grandchildren go before children.
    let score = HIGHEST.min(own + HIGHEST / 2);
    let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
}

/// Returns the identity of the file that this process executes.
pub(crate) fn own_fingerprint() -> io::Result<Fingerprint> {
    fingerprint(Path::new(OWN_FILE))
}

fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    let metadata = fs::metadata(path)?;
    Ok(Fingerprint {
        dev: metadata.dev(),
        ino: metadata.ino(),
        size: metadata.size(),
        mtime_sec: metadata.mtime(),
        mtime_nsec: metadata.mtime_nsec(),
    })
}

/// Returns a path that executes this program again, and the identity of the file.
///
/// Its own path where that still leads to it: a process started through `/proc/self/exe` is called
/// "exe", and valgrind and qemu refuse it.
pub(crate) fn executable() -> io::Result<(CString, Fingerprint)> {
    /// What was found last. Where the path still leads to a file of that identity, it leads to ours,
    /// whose number is not free for another, and there is nothing to ask for anew.
    static LAST: Mutex<Option<(CString, Fingerprint)>> = Mutex::new(None);
    let leads_to = |path: &OsStr, own: Fingerprint| {
        fingerprint(Path::new(path)).is_ok_and(|found| found == own)
    };
    let mut last = LAST.lock().unwrap_or_else(|poison| poison.into_inner());
    if let Some((path, own)) = &*last
        && leads_to(OsStr::from_bytes(path.as_bytes()), *own)
    {
        return Ok((path.clone(), *own));
    }
    let own = own_fingerprint()?;
    // Where a file was deleted the link has this appended, and might then name another file.
    let deleted = |path: &OsStr| path.as_bytes().ends_with(b" (deleted)");
    let path = fs::read_link(OWN_FILE)?;
    if !deleted(path.as_os_str()) && leads_to(path.as_os_str(), own) {
        let path = CString::new(path.into_os_string().into_vec())?;
        *last = Some((path.clone(), own));
        return Ok((path, own));
    }
    Ok((CString::new(OWN_FILE)?, own))
}

/// Returns whether the calling thread is the process's first, which ends with it.
pub(crate) fn is_main_thread() -> bool {
    // SAFETY: has no preconditions.
    let thread = unsafe { libc::gettid() };
    // SAFETY: as above.
    thread == unsafe { libc::getpid() }
}

/// Ends this process at once, without running anything.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Ends this process at once, as if somebody had killed it.
pub(crate) fn kill_self() -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::raise(libc::SIGKILL) };
    // Not reached, but that is the kernel's promise and not the compiler's.
    exit_now(128 + libc::SIGKILL)
}

/// Stops this process until somebody continues or kills it.
#[cfg(feature = "faults")]
pub(crate) fn stop_self() {
    // SAFETY: has no preconditions.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Has `f` called when this process exits in the ordinary way.
pub(crate) fn on_exit(f: extern "C" fn()) -> io::Result<()> {
    // SAFETY: `f` is a function of the right kind, in code that is never unloaded: `mp` starts
    // nothing where it is not part of the main executable.
    match unsafe { libc::atexit(f) } {
        0 => Ok(()),
        _ => Err(io::ErrorKind::OutOfMemory.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::AsFd, time::Duration};

    use super::*;
    use crate::sys::process::Spawn;

    fn sh<'a>(argv: &'a [CString]) -> Spawn<'a> {
        Spawn {
            path: c"/bin/sh",
            argv,
            envp: &[],
            variable: None,
            stdio: [None; 3],
            inherit: &[],
        }
    }

    fn script(text: &str) -> Vec<CString> {
        ["sh", "-c", text]
            .iter()
            .map(|text| CString::new(*text).unwrap())
            .collect()
    }

    fn run(text: &str) -> Status {
        let pid = spawn(&sh(&script(text))).unwrap();
        let pidfd = pidfd_open(pid).unwrap();
        reap(pidfd.as_fd(), pid, true).unwrap().unwrap()
    }

    #[test]
    fn the_status_says_how_a_process_ended() {
        assert_eq!(run("exit 0"), Status::Exited(0));
        assert_eq!(run("exit 200"), Status::Exited(200));
        let killed = Status::Signaled {
            signal: libc::SIGKILL,
            core: false,
        };
        assert_eq!(run("kill -9 $$"), killed);
    }

    #[test]
    fn a_process_that_runs_has_no_status_yet() {
        let argv = script("read line");
        let (reader, _writer) = fd::pipe().unwrap();
        let how = Spawn {
            stdio: [Some(reader.as_fd()), None, None],
            ..sh(&argv)
        };
        let pid = spawn(&how).unwrap();
        let start = start_time(pid).unwrap();
        let pidfd = pidfd_open(pid).unwrap();
        assert_eq!(reap(pidfd.as_fd(), pid, false).unwrap(), None);
        assert!(!poll::wait_readable(&[pidfd.as_fd()], Some(Duration::ZERO)).unwrap());
        assert!(!is_gone(pid, start));
        assert!(is_gone(pid, start + 1));

        pidfd_signal(pidfd.as_fd(), libc::SIGTERM).unwrap();
        assert!(poll::wait_readable(&[pidfd.as_fd()], None).unwrap());
        // A zombie.
        assert!(is_gone(pid, start));
        let terminated = Status::Signaled {
            signal: libc::SIGTERM,
            core: false,
        };
        assert_eq!(reap(pidfd.as_fd(), pid, false).unwrap(), Some(terminated));
        assert!(is_gone(pid, start));
        assert!(pidfd_signal(pidfd.as_fd(), libc::SIGTERM).is_err());
    }

    #[test]
    fn a_child_that_is_not_watched_is_killed() {
        let argv = script("read line");
        let (reader, _writer) = fd::pipe().unwrap();
        let how = Spawn {
            stdio: [Some(reader.as_fd()), None, None],
            ..sh(&argv)
        };
        let pid = spawn(&how).unwrap();
        kill_unwatched(pid);
        assert!(wait_for(libc::P_PID, pid, libc::WEXITED).is_err());
    }

    #[test]
    fn what_somebody_else_reaped_is_unknown() {
        let pid = spawn(&sh(&script("exit 3"))).unwrap();
        let pidfd = pidfd_open(pid).unwrap();
        assert!(reap(pidfd.as_fd(), pid, true).unwrap().is_some());
        assert_eq!(
            reap(pidfd.as_fd(), pid, true).unwrap(),
            Some(Status::Unknown)
        );
        assert_eq!(
            reap(pidfd.as_fd(), pid, false).unwrap(),
            Some(Status::Unknown)
        );
    }

    #[test]
    fn a_process_that_is_no_child_is_not_gone_while_it_runs() {
        let own = std::process::id();
        let pidfd = pidfd_open(own).unwrap();
        assert_eq!(reap(pidfd.as_fd(), own, false).unwrap(), None);
        assert!(!is_gone(own, start_time(own).unwrap()));
    }

    #[test]
    fn a_file_that_is_not_there_is_the_callers_error() {
        let how = Spawn {
            path: c"/does/not/exist",
            ..sh(&[])
        };
        assert_eq!(spawn(&how).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn streams_may_be_permuted_and_more_inherited() {
        let (reader, writer) = fd::pipe().unwrap();
        let (_quiet, extra) = fd::pipe().unwrap();
        let argv = script(&format!(
            "echo out; echo err >&2; test -e /dev/fd/{} && echo inherited; \
             test -e /dev/fd/{} || echo closed; echo $NAME $OTHER",
            extra.as_raw_fd(),
            reader.as_raw_fd(),
        ));
        let null = File::open("/dev/null").unwrap();
        let inherit = [extra.as_fd()];
        let envp = [c"NAME=value".to_owned()];
        let stdio = [
            Some(null.as_fd()),
            Some(writer.as_fd()),
            Some(writer.as_fd()),
        ];
        let pid = spawn(&Spawn {
            envp: &envp,
            variable: Some(c"OTHER=more"),
            stdio,
            inherit: &inherit,
            ..sh(&argv)
        })
        .unwrap();
        drop(writer);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "out\nerr\ninherited\nclosed\nvalue more\n");
        // The flag is the child's alone.
        // SAFETY: F_GETFD takes no argument.
        let flags = unsafe { libc::fcntl(extra.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
        let pidfd = pidfd_open(pid).unwrap();
        assert_eq!(
            reap(pidfd.as_fd(), pid, true).unwrap(),
            Some(Status::Exited(0))
        );
    }

    #[test]
    fn standard_streams_may_be_exchanged() {
        let (reader, writer) = fd::pipe().unwrap();
        let links = |pid| [1, 2].map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap());
        let argv = script("read line");
        let (own_out, own_err) = (io::stdout(), io::stderr());
        let stdio = [
            Some(reader.as_fd()),
            Some(own_err.as_fd()),
            Some(own_out.as_fd()),
        ];
        let pid = spawn(&Spawn { stdio, ..sh(&argv) }).unwrap();
        let [out, err] = links(std::process::id());
        assert_eq!(links(pid), [err, out]);
        drop(writer);
        let pidfd = pidfd_open(pid).unwrap();
        assert!(reap(pidfd.as_fd(), pid, true).unwrap().is_some());
    }

    #[test]
    fn signals_begin_at_their_defaults_and_unblocked() {
        let status = std::thread::spawn(|| {
            let mut all = MaybeUninit::uninit();
            // SAFETY: writes to memory of that type.
            unsafe { libc::sigfillset(all.as_mut_ptr()) };
            // SAFETY: the set was just written; only this thread's mask changes.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut()) };
            // The test harness ignores SIGPIPE, as every Rust program does. Signals 32 and 33 are
            // glibc's own, which posix_spawn ignores whatever it is told.
            run("grep -q 'SigBlk:.0*$' /proc/self/status && \
                 grep -q 'SigIgn:.0000000[01][08]0000000$' /proc/self/status")
        });
        assert_eq!(status.join().unwrap(), Status::Exited(0));
    }

    #[test]
    fn the_name_of_a_file_does_not_disturb() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 4 18 8812 20 21";
        let expected = Some(Stat {
            state: b'S',
            threads: 4,
            start_time: 8812,
        });
        for name in ["cat", "a b", "x) R 1 (y", ")", "\u{e9}\n"] {
            assert_eq!(
                Stat::parse(format!("17 ({name}) {fields}").as_bytes()),
                expected
            );
        }
        assert_eq!(Stat::parse(b"17 (cat) S 1 2"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn this_program_knows_its_file() {
        let (path, own) = executable().unwrap();
        assert_eq!(
            path.to_str().unwrap(),
            std::env::current_exe().unwrap().to_str().unwrap()
        );
        assert_eq!(fingerprint(Path::new(path.to_str().unwrap())).unwrap(), own);
        assert_eq!(own_fingerprint().unwrap(), own);
        // From what was found before.
        assert_eq!(executable().unwrap(), (path, own));
    }

    #[test]
    fn the_start_of_a_child_is_known_without_asking() {
        let argv = script("read line");
        let (reader, _writer) = fd::pipe().unwrap();
        for _ in 0..5 {
            let how = Spawn {
                stdio: [Some(reader.as_fd()), None, None],
                ..sh(&argv)
            };
            let before = Tick::now();
            let pid = spawn(&how).unwrap();
            let told = start_time(pid).unwrap();
            assert!((before.0..=Tick::now().0).contains(&told));
            assert_eq!(start_time_within(pid, before.if_now()).unwrap(), told);
            kill_unwatched(pid);
        }
    }

    #[test]
    fn a_child_goes_before_its_parent() {
        let own: i32 = {
            let text = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
            text.trim().parse().unwrap()
        };
        let (reader, writer) = fd::pipe().unwrap();
        let argv = script("read line; cat /proc/self/oom_score_adj >&2");
        let (result, result_writer) = fd::pipe().unwrap();
        let stdio = [Some(reader.as_fd()), None, Some(result_writer.as_fd())];
        let pid = spawn(&Spawn { stdio, ..sh(&argv) }).unwrap();
        drop(result_writer);
        raise_oom_score(pid);
        drop(writer);
        let mut text = String::new();
        File::from(result).read_to_string(&mut text).unwrap();
        assert!(text.trim().parse::<i32>().unwrap() > own, "{text}");
        let pidfd = pidfd_open(pid).unwrap();
        reap(pidfd.as_fd(), pid, true).unwrap();
    }
}
