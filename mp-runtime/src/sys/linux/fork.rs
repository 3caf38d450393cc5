//! Forking on behalf of another process: a fork whose parent is the parent of the one that forks,
//! and what such a copy is given of its own.
//!
//! # Safety
//!
//! Forks are made by processes with one thread only, which is the caller's to see to.

#![expect(unsafe_code, reason = "clone, and calls of the C library")]

use std::{
    ffi::CString,
    io::{self, Write},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    ptr,
};

use super::{
    fd,
    memory::Mapping,
    process::own_threads,
    result::{check, retry},
};

/// Which of the two this is after [`fork_sibling`].
#[derive(Debug)]
pub(crate) enum Forked {
    /// The one that was there before.
    Original,
    /// The new one.
    Sibling,
}

/// Forks this process, which must have one thread, and makes the new one a child of this one's
/// parent, and of the thread in it that started this one.
///
/// Before the new one runs, the kernel writes its process id to `offset` in `memory`: whether it
/// was made is to be seen there, whatever becomes of this process.
///
/// No handlers of `pthread_atfork` are run.
///
/// # Errors
///
/// [`io::ErrorKind::Unsupported`] where the C library keeps the thread's id in an unknown place.
pub(crate) fn fork_sibling(memory: &Mapping, offset: u64) -> io::Result<Forked> {
    let is_inside = offset.is_multiple_of(4) && offset + 4 <= memory.len() as u64;
    if !is_inside {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // By address: this process may be made to fork only by who may write there.
    let pid_place = memory.base().as_ptr().wrapping_add(offset as usize);
    let tid_place = tid_place()?;
    let mut robust = ptr::null_mut::<libc::c_void>();
    let mut robust_len = 0_usize;
    // SAFETY: both are valid to write; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &mut robust, &mut robust_len) })?;
    let flags = libc::CLONE_PARENT
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_SETTID
        | libc::CLONE_CHILD_CLEARTID
        | libc::SIGCHLD;
    let no_stack = ptr::null_mut::<libc::c_void>();
    let no_tls = ptr::null_mut::<libc::c_void>();
    // SAFETY: without CLONE_VM the new process runs on a copy of this stack and of all memory.
    // There is one thread, so no lock is held by another. The kernel writes to two places: one in
    // the mapping, and the C library's own for this thread's id.
    #[cfg(target_arch = "x86_64")]
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            no_stack,
            pid_place,
            tid_place,
            no_tls,
        )
    })?;
    // SAFETY: as above; the last two have changed places.
    #[cfg(target_arch = "aarch64")]
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            no_stack,
            pid_place,
            no_tls,
            tid_place,
        )
    })?;
    if pid != 0 {
        return Ok(Forked::Original);
    }
    // The kernel forgot it; the C library, which has made it, does not know.
    // SAFETY: the list was this thread's, and its copy is at the same place.
    let _ = unsafe { libc::syscall(libc::SYS_set_robust_list, robust, robust_len) };
    Ok(Forked::Sibling)
}

/// Where the C library keeps this thread's id, which must be the new one in a fork.
fn tid_place() -> io::Result<*mut libc::pid_t> {
    /// libc does not name it on this system. Since Linux 3.5, if the kernel is built with it.
    const PR_GET_TID_ADDRESS: libc::c_int = 40;
    let unsupported = || {
        let text = "the fork server needs glibc and a kernel with PR_GET_TID_ADDRESS: use \
                    StartMethod::Spawn";
        io::Error::new(io::ErrorKind::Unsupported, text)
    };
    let mut place = ptr::null_mut::<libc::pid_t>();
    // SAFETY: `place` is valid to write.
    check(unsafe { libc::prctl(PR_GET_TID_ADDRESS, &mut place) }).map_err(|_| unsupported())?;
    // SAFETY: null, or what the C library gave to the kernel to clear at the end of this thread.
    let known = unsafe { place.as_ref() }.copied();
    // SAFETY: has no preconditions.
    if known != Some(unsafe { libc::gettid() }) {
        return Err(unsupported());
    }
    Ok(place)
}

/// Makes sure that a fork would copy the whole of this process: that it has one thread, and that what
/// was printed has left it.
pub(crate) fn settle_before_forks() -> io::Result<()> {
    let threads = own_threads()?;
    if threads != 1 {
        let text = format!(
            "it has {threads} threads, of which a fork would copy one: what is preloaded, and what \
             stands in main before mp::init(), may start none"
        );
        return Err(io::Error::other(text));
    }
    let _ = io::stdout().flush();
    // SAFETY: null stands for all streams of the C library.
    unsafe { libc::fflush(ptr::null_mut()) };
    Ok(())
}

/// Does some of what an exit does to the C library's and the loader's data, and changes nothing: flushes
/// streams that are empty, and looks at the first object that is loaded.
pub(crate) fn rehearse_exit() {
    // SAFETY: null stands for all streams of the C library.
    unsafe { libc::fflush(ptr::null_mut()) };
    let _ = super::startup::in_main_executable();
}

/// Makes descriptors 0 to 2 what is given; `/dev/null` where nothing is.
pub(crate) fn replace_std_streams(streams: [Option<OwnedFd>; 3]) -> io::Result<()> {
    for (target, stream) in (libc::STDIN_FILENO..).zip(&streams) {
        match stream {
            // SAFETY: takes integers; whoever used the old descriptor uses the new one from now on,
            // as is meant.
            Some(stream) => retry(|| unsafe { libc::dup2(stream.as_raw_fd(), target) })?,
            // SAFETY: as above.
            None => unsafe { libc::close(target) },
        };
    }
    fd::open_std_streams();
    Ok(())
}

/// Returns whether a standard stream of this process is open, as a descriptor.
pub(crate) fn std_stream(number: usize) -> Option<BorrowedFd<'static>> {
    let raw = number as RawFd;
    debug_assert!(raw <= libc::STDERR_FILENO);
    // SAFETY: F_GETFD takes no argument.
    check(unsafe { libc::fcntl(raw, libc::F_GETFD) }).ok()?;
    // SAFETY: it is open, and nobody closes a standard stream without reckoning with its users.
    Some(unsafe { BorrowedFd::borrow_raw(raw) })
}

/// Opens the directory that this process works in, also if no path leads there any more.
pub(crate) fn working_directory() -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the path is a C string.
    let raw = check(unsafe { libc::open(c".".as_ptr(), flags) })?;
    // SAFETY: the call just returned it, and nothing else owns it.
    unsafe { fd::adopt(raw) }
}

/// Has this process work in a directory.
pub(crate) fn enter_directory(directory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(unsafe { libc::fchdir(directory.as_raw_fd()) })?;
    Ok(())
}

/// Makes these entries, `NAME=value` each, the whole environment of this process, which must have one
/// thread.
pub(crate) fn replace_environment(entries: impl Iterator<Item = CString>) {
    unsafe extern "C" {
        static mut environ: *const *const libc::c_char;
    }
    // For good, as what a process begins with is.
    let pointers: Vec<*const libc::c_char> = entries
        .map(|entry| entry.into_raw().cast_const())
        .chain([ptr::null()])
        .collect();
    let array = pointers.leak().as_ptr();
    // SAFETY: an array of C strings that ends in null and lives for ever; no other thread reads the
    // old one.
    unsafe { environ = array };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_working_directory_is_where_paths_begin() {
        let directory = working_directory().unwrap();
        enter_directory(directory.as_fd()).unwrap();
        assert!(enter_directory(std_stream(2).unwrap()).is_err());
    }
}
