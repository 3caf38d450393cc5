//! The one place where a system call's `-1` becomes an [`io::Error`], and where `EINTR` is tried
//! again.

use std::io;

/// What a failing call returns in place of its result: `-1`, in the width of that call.
pub(crate) trait MinusOne: Copy {
    /// Whether this is the value that stands for failure.
    fn is_minus_one(self) -> bool;
}

impl MinusOne for i32 {
    fn is_minus_one(self) -> bool {
        self == -1
    }
}

impl MinusOne for i64 {
    fn is_minus_one(self) -> bool {
        self == -1
    }
}

impl MinusOne for isize {
    fn is_minus_one(self) -> bool {
        self == -1
    }
}

/// Turns `-1` into the calling thread's `errno`.
///
/// To be called on the result at once: anything in between may overwrite `errno`.
pub(crate) fn check<T: MinusOne>(result: T) -> io::Result<T> {
    if result.is_minus_one() {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Like [`check`], and calls again for as long as a signal handler interrupted the call.
///
/// Not for `close`, after which Linux has released the descriptor even when it answers `EINTR`, nor
/// for a call with a relative timeout, which would begin anew.
pub(crate) fn retry<T: MinusOne>(mut call: impl FnMut() -> T) -> io::Result<T> {
    loop {
        match check(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}

/// Turns the error number that functions such as `posix_spawn` return (rather than set) into an
/// [`io::Error`].
pub(crate) fn check_code(code: libc::c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "the tests set errno")]
mod tests {
    use super::*;

    fn fail_with(code: libc::c_int) -> libc::c_int {
        // SAFETY: asks for an address.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: this thread's errno is always valid to write.
        unsafe { *errno = code };
        -1
    }

    #[test]
    fn minus_one_becomes_the_error_of_the_call() {
        assert_eq!(check(7).unwrap(), 7);
        assert_eq!(
            check(fail_with(libc::ENOENT)).unwrap_err().raw_os_error(),
            Some(libc::ENOENT)
        );
        assert_eq!(
            check_code(libc::EACCES).unwrap_err().raw_os_error(),
            Some(libc::EACCES)
        );
        assert!(check_code(0).is_ok());
    }

    #[test]
    fn an_interrupted_call_is_made_again() {
        let mut left = 3;
        let result = retry(|| {
            left -= 1;
            if left > 0 { fail_with(libc::EINTR) } else { 42 }
        });
        assert_eq!(result.unwrap(), 42);
    }
}
