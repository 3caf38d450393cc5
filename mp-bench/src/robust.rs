//! A mutex of pthreads that survives the death of its owner, and that processes can share: what the system
//! has for what a lock of `mp` does.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;

/// It stays where it is, since threads that own one have it in a list.
pub(crate) struct RobustMutex(Box<UnsafeCell<libc::pthread_mutex_t>>);

// SAFETY: a mutex is there for several threads.
unsafe impl Send for RobustMutex {}
// SAFETY: as above.
unsafe impl Sync for RobustMutex {}

impl RobustMutex {
    pub(crate) fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        let mutex = Box::new(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
        // SAFETY: points to attributes that are made here.
        check(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) })?;
        let shared = libc::PTHREAD_PROCESS_SHARED;
        // SAFETY: they were made above.
        check(unsafe { libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), shared) })?;
        let robust = libc::PTHREAD_MUTEX_ROBUST;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), robust) })?;
        // SAFETY: nobody uses the mutex yet, and the attributes were made above.
        check(unsafe { libc::pthread_mutex_init(mutex.get(), attributes.as_ptr()) })?;
        // SAFETY: nobody uses them any more.
        check(unsafe { libc::pthread_mutexattr_destroy(attributes.as_mut_ptr()) })?;
        Ok(Self(mutex))
    }

    /// Runs `section` with the mutex.
    #[inline]
    pub(crate) fn with<R>(&self, section: impl FnOnce() -> R) -> io::Result<R> {
        // SAFETY: it was made, and lives.
        check(unsafe { libc::pthread_mutex_lock(self.0.get()) })?;
        let result = section();
        // SAFETY: this thread has it.
        check(unsafe { libc::pthread_mutex_unlock(self.0.get()) })?;
        Ok(result)
    }
}

impl Drop for RobustMutex {
    fn drop(&mut self) {
        // SAFETY: nobody has it, or refers to it any more.
        unsafe { libc::pthread_mutex_destroy(self.0.get()) };
    }
}

fn check(code: i32) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}
