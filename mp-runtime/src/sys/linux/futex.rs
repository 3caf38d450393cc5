//! Futexes on words that several processes share: wait until woken or a timeout, wake some, wake
//! all.
//!
//! Never the private kind, which the kernel keys by virtual address and which therefore works
//! inside one process only.
//!
//! # Safety
//!
//! The system call gets the address of an `AtomicU32` that is borrowed for the call, and a timeout
//! on the stack.

#![expect(unsafe_code, reason = "libc has no safe futex")]

use std::{io, ptr, sync::atomic::AtomicU32, time::Duration};

use super::result::check;
use crate::sys::futex::Wait;

/// Sleeps while `word` holds `expected`, until another thread or process wakes this word, or
/// `timeout` has passed on the monotonic clock. A timeout too long for the kernel is none.
///
/// # Memory ordering
///
/// None is promised. The caller's next load of the word is what synchronises it with the waker.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Wait {
    let timeout = timeout.and_then(|timeout| {
        Some(libc::timespec {
            tv_sec: timeout.as_secs().try_into().ok()?,
            // Below 10^9, which every `c_long` holds.
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        })
    });
    // SAFETY: `word` is borrowed for the whole call, and `timeout` is null or a timespec that lives
    // as long.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            // FUTEX_WAIT takes a relative timeout, and measures it on CLOCK_MONOTONIC.
            libc::FUTEX_WAIT,
            expected,
            timeout.as_ref().map_or(ptr::null(), ptr::from_ref),
        )
    });
    match result {
        Ok(_) => Wait::Woken,
        Err(error) => not_woken(&error),
    }
}

#[cold]
fn not_woken(error: &io::Error) -> Wait {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Wait::Changed,
        Some(libc::ETIMEDOUT) => Wait::TimedOut,
        code => {
            // Whatever else a kernel may answer, looking at the word again is right, if not cheap.
            debug_assert_eq!(code, Some(libc::EINTR), "futex wait: {error}");
            Wait::Interrupted
        }
    }
}

/// Wakes at most `n` of the threads that sleep on `word`, in this or any other process; `u32::MAX`
/// means all of them. Returns how many there were.
pub(crate) fn wake(word: &AtomicU32, n: u32) -> usize {
    // The kernel reads a signed count, and would take a negative one for 1.
    let n = n.min(i32::MAX as u32);
    // SAFETY: FUTEX_WAKE only looks the address up; `word` is borrowed for the whole call.
    let woken =
        check(unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, n) });
    debug_assert!(woken.is_ok(), "futex wake: {woken:?}");
    // An error can only mean that nobody could have slept there.
    woken.map_or(0, |woken| woken as usize)
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, thread};

    use super::*;

    #[test]
    fn another_value_does_not_sleep() {
        assert_eq!(wait(&AtomicU32::new(1), 0, None), Wait::Changed);
    }

    #[test]
    fn a_timeout_ends_the_wait() {
        let word = AtomicU32::new(0);
        assert_eq!(wait(&word, 0, Some(Duration::ZERO)), Wait::TimedOut);
        let wakened = wait(&word, 0, Some(Duration::from_millis(5)));
        assert!(matches!(
            wakened,
            Wait::TimedOut | Wait::Woken | Wait::Interrupted
        ));
    }

    #[test]
    fn nobody_is_woken_where_nobody_sleeps() {
        assert_eq!(wake(&AtomicU32::new(0), 1), 0);
        assert_eq!(wake(&AtomicU32::new(0), u32::MAX), 0);
    }

    #[test]
    fn a_wake_reaches_every_sleeper() {
        let word = AtomicU32::new(0);
        thread::scope(|scope| {
            for timeout in [None, Some(Duration::MAX), Some(Duration::from_secs(3600))] {
                let word = &word;
                scope.spawn(move || {
                    while word.load(Ordering::Acquire) == 0 {
                        wait(word, 0, timeout);
                    }
                });
            }
            // Once all three were asleep at the same time, each has gone to sleep at least once.
            while wake(&word, u32::MAX) < 3 {
                thread::sleep(Duration::from_millis(1));
            }
            word.store(1, Ordering::Release);
            wake(&word, u32::MAX);
        });
    }
}
