//! Signals that ask this process to end, for a program that wants to finish something first.
//!
//! # Safety
//!
//! The handler writes to a descriptor that is never closed, which is safe in a handler, and restores
//! `errno`.

#![expect(unsafe_code, reason = "signal actions")]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicI32, Ordering},
};

use super::result::check;

/// The counter to which the handler adds.
static COUNTER: AtomicI32 = AtomicI32::new(-1);

/// Has `signal` add to an event counter instead of ending this process, once: the next one ends it.
/// Returns false, and changes nothing, if the program handles the signal itself. One that is ignored
/// stays so.
pub(crate) fn announce(signal: i32, counter: &'static OwnedFd) -> io::Result<bool> {
    COUNTER.store(counter.as_raw_fd(), Ordering::Relaxed);
    let ours = announced as extern "C" fn(libc::c_int) as libc::sighandler_t;
    let mut present = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: changes nothing, and `present` has room for the answer.
    check(unsafe { libc::sigaction(signal, ptr::null(), present.as_mut_ptr()) })?;
    // SAFETY: the call filled it in.
    let present = unsafe { present.assume_init() }.sa_sigaction;
    if present == ours || present == libc::SIG_IGN || super::signal::is_left_to_parent(present) {
        return Ok(true);
    }
    if present != libc::SIG_DFL {
        return Ok(false);
    }
    // SAFETY: all zeros is a valid sigaction, which consists of integers and function pointers that
    // may be null.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = ours;
    // Restart, so that no system call of the user's fails because of it.
    action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
    // SAFETY: the handler has the type that is asked for and is safe to run at any point.
    check(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) })?;
    Ok(true)
}

extern "C" fn announced(_signal: libc::c_int) {
    // SAFETY: the pointer is valid for the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let one = 1_u64;
    // SAFETY: `one` is 8 bytes to read, and write is safe in a handler.
    let _ = unsafe {
        libc::write(
            COUNTER.load(Ordering::Relaxed),
            ptr::from_ref(&one).cast(),
            size_of::<u64>(),
        )
    };
    // SAFETY: as above.
    unsafe { *errno = before };
}
