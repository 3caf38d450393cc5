//! The monotonic clock, as a number that all processes of the machine agree on.

#![expect(unsafe_code, reason = "reading the clock")]

/// Nanoseconds of the monotonic clock. They mean the same in each process, unlike std's `Instant`,
/// whose number is nobody's to see.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: points to a timespec that is ours. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
