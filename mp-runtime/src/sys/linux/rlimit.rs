//! Limits that a process sets for itself, and signs that it died of one.
//!
//! # Safety
//!
//! Calls with a structure on the stack, and a handler that makes system calls only.

#![expect(unsafe_code, reason = "libc's limits, and a signal handler")]

use std::{
    fs, io,
    mem::MaybeUninit,
    path::PathBuf,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering},
    },
};

use super::{recent::Recent, result::check};
use crate::sys::process::{OUT_OF_MEMORY, Resource, Sign};

/// Lets this process use at most so much of something, and the processes that it starts as well,
/// each for itself. A tighter limit that is there already stays.
pub(crate) fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let number = match resource {
        // Private memory that can be written, whether from brk or mmap: since Linux 4.7. What is
        // mapped shared does not count.
        Resource::Memory => libc::RLIMIT_DATA,
        Resource::CpuSeconds => libc::RLIMIT_CPU,
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::FileSize => libc::RLIMIT_FSIZE,
    };
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `limit` is valid for writing one `rlimit`.
    check(unsafe { libc::getrlimit(number, &mut limit) })?;
    // At the soft limit of CPU time comes SIGXCPU, which a program may handle; a second later, at
    // the hard one, SIGKILL.
    let hard = match resource {
        Resource::CpuSeconds => most.saturating_add(1),
        _ => most,
    };
    limit.rlim_max = limit.rlim_max.min(hard);
    limit.rlim_cur = limit.rlim_max.min(most);
    // SAFETY: `limit` is valid for reading one `rlimit`.
    check(unsafe { libc::setrlimit(number, &limit) })?;
    if matches!(resource, Resource::FileSize) {
        // Then writing beyond it is an error and not the end.
        // SAFETY: sets no handler.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    }
    Ok(())
}

/// Returns how much memory of this process counts against [`Resource::Memory`], about.
pub(crate) fn private_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    data_pages(text.as_bytes())
        .map(|pages| pages.saturating_mul(page_size()))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns how much memory this process has that no other has, in bytes.
pub(crate) fn own_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let page = |at| text.split(' ').nth(at)?.parse::<u64>().ok();
    // What is resident, but for what is mapped from files and shared.
    match (page(1), page(2)) {
        (Some(resident), Some(shared)) => Ok(resident.saturating_sub(shared) * page_size()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The sixth number of `/proc/<pid>/statm`. Allocates nothing.
fn data_pages(text: &[u8]) -> Option<u64> {
    let field = text.split(|&byte| byte == b' ').nth(5)?;
    field.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn page_size() -> u64 {
    // SAFETY: sysconf reads a number, and may be called in a signal handler.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

/// Where the handler writes, and the limit that it compares with.
static SIGN: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
static SIGN_SOCKET: AtomicI32 = AtomicI32::new(-1);
static MEMORY_LIMIT: AtomicU64 = AtomicU64::new(0);

/// Has `sign` given should this process abort for want of memory: after an allocation that
/// failed, or with less than a sixteenth of `limit` left.
///
/// Rust ends so when an allocation fails, as do most C++ programs.
pub(crate) fn note_out_of_memory(limit: u64, sign: Sign) -> io::Result<()> {
    MEMORY_LIMIT.store(limit, Ordering::Relaxed);
    // Release: pairs with the Acquire in `aborting`; the limit is there.
    match sign {
        Sign::Word(word) => SIGN.store(ptr::from_ref(word).cast_mut(), Ordering::Release),
        Sign::Socket(socket) => SIGN_SOCKET.store(socket, Ordering::Release),
    }
    // SAFETY: all zeros is a valid sigaction, which consists of integers and function pointers
    // that may be null.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let handler: extern "C" fn(libc::c_int) = aborting;
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler has the type that is asked for without SA_SIGINFO, and is safe to run at
    // any point.
    check(unsafe { libc::sigaction(libc::SIGABRT, &action, ptr::null_mut()) })?;
    Ok(())
}

extern "C" fn aborting(signal: libc::c_int) {
    // First: an allocator that finds no memory leaves this in `errno`.
    let failed = io::Error::last_os_error().raw_os_error() == Some(libc::ENOMEM);
    // Acquire: pairs with the Release in `note_out_of_memory`.
    let sign = SIGN.load(Ordering::Acquire);
    // SAFETY: it is null, or came from a reference that lives as long as the process.
    let sign = unsafe { sign.as_ref() };
    // Acquire: as above.
    let socket = SIGN_SOCKET.load(Ordering::Acquire);
    if sign.is_some() || socket >= 0 {
        let limit = MEMORY_LIMIT.load(Ordering::Relaxed);
        let near = || data_size().is_some_and(|used| used >= limit - limit / 16);
        // A backtrace that Rust's runtime prints overwrites `errno`, but not the stack.
        if failed || is_allocation_error() || near() {
            // Release: pairs with the Acquire of the parent that settles this process.
            if let Some(sign) = sign {
                sign.store(1, Ordering::Release);
            }
            let (bytes, flags) = (
                OUT_OF_MEMORY.as_bytes(),
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            );
            // SAFETY: the bytes are valid to read for their length; safe in a handler. Without a
            // socket it is an error.
            unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) };
        }
    }
    // As if there had been no handler. The signal is blocked until we return, and kills then.
    // SAFETY: safe in a handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: safe in a handler.
    unsafe { libc::raise(signal) };
}

/// Whether Rust's `handle_alloc_error` is among the callers of the calling signal handler: whether
/// an address right behind its beginning, to which a call from there returns, lies on the stack.
///
/// It never returns, so nothing else leaves such an address behind. Where it was inlined it is not
/// found.
fn is_allocation_error() -> bool {
    /// Bytes of the stack that are looked at: the kernel's frame, which holds all registers, and
    /// the runtime's few.
    const DEPTH: usize = 32 * 1024;
    /// Bytes of the function that are looked at: it does no more than pass its arguments on.
    const LENGTH: usize = 64;
    const WORDS: usize = 128;

    let function = std::alloc::handle_alloc_error as fn(std::alloc::Layout) -> ! as usize;
    let own = std::process::id() as libc::pid_t;
    let mut words = [0_usize; WORDS];
    let size = size_of_val(&words);
    let start = (&raw const words).addr() + size;
    (start..start + DEPTH).step_by(size).any(|from| {
        let local = libc::iovec {
            iov_base: words.as_mut_ptr().cast(),
            iov_len: size,
        };
        let remote = libc::iovec {
            iov_base: ptr::without_provenance_mut(from),
            iov_len: size,
        };
        // By the kernel, which answers an error where the stack ends. Safe in a handler.
        // SAFETY: `words` is valid to write for its length. The other side is only read, and may be
        // no memory at all.
        let read = unsafe { libc::process_vm_readv(own, &local, 1, &remote, 1, 0) };
        let count = usize::try_from(read).unwrap_or(0) / size_of::<usize>();
        words[..count]
            .iter()
            .any(|word| (function + 1..=function + LENGTH).contains(word))
    })
}

/// As [`private_memory`], but for a signal handler: it allocates nothing.
fn data_size() -> Option<u64> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the path is a C string; safe in a handler.
    let fd = check(unsafe { libc::open(c"/proc/self/statm".as_ptr(), flags) }).ok()?;
    let mut text = [0_u8; 128];
    // SAFETY: `text` is valid to write for its length; safe in a handler.
    let read = unsafe { libc::read(fd, text.as_mut_ptr().cast(), text.len()) };
    // SAFETY: opened above and used by nobody else.
    unsafe { libc::close(fd) };
    let text = text.get(..usize::try_from(read).ok()?)?;
    data_pages(text)?.checked_mul(page_size())
}

/// How often the kernel has killed a process for want of memory: in our control group where that
/// tells, else on this machine. Zero where neither tells.
///
/// In the group that we were in at the first call: what counts is by how much it grows. It is one file
/// that is read, and not `/proc/vmstat`, which takes long, unless it must be.
pub(crate) fn out_of_memory_kills() -> u64 {
    RECENT_KILLS.keep(read_out_of_memory_kills())
}

/// As [`out_of_memory_kills`], and perhaps not up to date: every start asks. What has happened in the moment
/// before, and nobody of ours has seen, counts as if it had happened since.
pub(crate) fn recent_out_of_memory_kills() -> u64 {
    RECENT_KILLS.get(read_out_of_memory_kills)
}

static RECENT_KILLS: Recent<u64> = Recent::new();

fn read_out_of_memory_kills() -> u64 {
    static TELLS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let read = |path: &PathBuf| {
        // Room for all of `/proc/vmstat` as well.
        let mut buffer = [0; 16 * 1024];
        let text = super::process::read_text(path, &mut buffer).ok()?;
        kills_in(str::from_utf8(text).ok()?)
    };
    let tells = TELLS.get_or_init(|| {
        super::limits::group_paths("", "memory.events")
            .into_iter()
            .chain(super::limits::group_paths("memory", "memory.oom_control"))
            .chain([PathBuf::from("/proc/vmstat")])
            .find(|path| read(path).is_some())
    });
    tells.as_ref().and_then(read).unwrap_or(0)
}

/// The line `oom_kill N` in a text of such lines.
fn kills_in(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|number| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_grows_with_what_is_allocated() {
        let before = private_memory().unwrap();
        let block = vec![1_u8; 64 << 20];
        let after = private_memory().unwrap();
        assert!(after >= before + (32 << 20), "{before} {after}");
        assert_eq!(std::hint::black_box(block)[5], 1);
        assert!(data_size().is_some());
    }

    #[test]
    fn kernels_texts_are_read() {
        assert_eq!(data_pages(b"1 2 3 4 5 678 0\n"), Some(678));
        for broken in [&b""[..], b"1 2 3", b"1 2 3 4 5 x 0"] {
            assert_eq!(data_pages(broken), None);
        }
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 9\n";
        assert_eq!(kills_in(events), Some(2));
        assert_eq!(kills_in("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
