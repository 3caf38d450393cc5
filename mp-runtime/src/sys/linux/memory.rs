//! Memory without a name that processes share: sealed memfds, their mappings, and giving pages
//! back.
//!
//! # Safety
//!
//! Mappings are made and unmapped here and handed out as a base and a length only. Whoever
//! dereferences them answers for what other processes write there; see `shm`.

#![expect(unsafe_code, reason = "mapping memory")]

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    fd, limits,
    result::{check, retry},
};

/// Creates `len` bytes of zeroed shared memory that no path names: a memfd, whose pages come into
/// being when they are touched and go with the last descriptor and mapping.
///
/// It is sealed: nobody can change its size (so that no access to a mapping can be cut off under a
/// process) or make it executable. `name` only shows in `/proc/<pid>/maps`.
///
/// # Errors
///
/// [`io::ErrorKind::FileTooLarge`] if `len` is above this process's limit for files, and whatever
/// the kernel answers.
pub(crate) fn create_memory(name: &str, len: u64) -> io::Result<OwnedFd> {
    let too_large = |limit: u64| {
        let text = format!(
            "shared memory of {len} bytes is above this process's file size limit of {limit} bytes (ulimit -f)"
        );
        io::Error::new(io::ErrorKind::FileTooLarge, text)
    };
    // Before ftruncate and not by its error: beyond the limit the kernel sends SIGXFSZ, which
    // kills.
    if let Some(limit) = limits::file_size_limit().filter(|&limit| len > limit) {
        return Err(too_large(limit));
    }
    let size = libc::off_t::try_from(len).map_err(|_| too_large(libc::off_t::MAX as u64))?;

    let name = CString::new(name)?;
    let fd = match memfd(
        &name,
        libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL,
    ) {
        // Kernels before 6.3 don't know the flag.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            memfd(&name, libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        }
        result => result,
    }?;
    // SAFETY: only changes the size of the file that we just made, which nothing maps yet.
    retry(|| unsafe { libc::ftruncate(fd.as_raw_fd(), size) })?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes an integer and touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(fd)
}

fn memfd(name: &CString, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a C string that outlives the call.
    let raw = check(unsafe { libc::memfd_create(name.as_ptr(), flags) })?;
    // SAFETY: the call just returned this descriptor, and nothing else owns it.
    unsafe { fd::adopt(raw) }
}

/// Returns the size of the memory behind a descriptor, in bytes.
fn memory_len(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: all zeros is a valid `stat`, which consists of integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writing one `stat`.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) })?;
    // A size is never negative.
    Ok(stat.st_size as u64)
}

/// Gives the pages of `offset..offset + len` back to the system; who reads there afterwards finds
/// zeros.
///
/// Only pages that lie in the range as a whole are freed; the rest of it is overwritten with zeros
/// all the same.
pub(crate) fn punch_hole(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = libc::off_t::try_from(offset).map_err(too_large)?;
    let len = libc::off_t::try_from(len).map_err(too_large)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: what the file holds changes as a write to it would; that other processes write to
    // shared memory is what the users of a mapping reckon with.
    retry(|| unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, len) })?;
    Ok(())
}

/// Says that all of `memory` is about to be written for the first time: it may then come in huge
/// pages, which takes a quarter of the time of small ones. A hint; what fails is left as it is.
pub(crate) fn expect_writes<T>(memory: &mut [MaybeUninit<T>]) {
    const PAGE: usize = 4096;
    let range = memory.as_mut_ptr_range();
    let start = range.start.addr().next_multiple_of(PAGE);
    let end = range.end.addr() & !(PAGE - 1);
    if start < end {
        let first = range.start.with_addr(start).cast();
        // SAFETY: the pages lie within `memory`, which is ours alone; the advice changes how they
        // are backed and not what is in them.
        unsafe { libc::madvise(first, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// A readable and writable range of addresses, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// First byte; on a page boundary.
    base: NonNull<u8>,
    /// Bytes mapped.
    len: usize,
}

// SAFETY: the value is an address and a length. Neither belongs to a thread, and munmap may be
// called from any.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` only hands the address out.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Where the range begins: on a page boundary, valid until the mapping is dropped.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many bytes are mapped.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn new(flags: libc::c_int, fd: libc::c_int, len: usize) -> io::Result<Mapping> {
        // SAFETY: without MAP_FIXED the kernel picks addresses that nothing uses.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // The kernel never picks page 0.
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, len })
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is ours, and the advice used here (below) changes no byte of it in this
        // process.
        check(unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) })?;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range came from mmap in `Mapping::new` and is unmapped once, here; what was
        // reached through `base` is not used beyond the mapping by the contract of `base`.
        let result = check(unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) });
        debug_assert!(result.is_ok(), "munmap: {result:?}");
    }
}

/// Maps shared memory as a whole: past its end an access is a SIGBUS.
///
/// No core dump contains it (a sparse arena would fill gigabytes), and the copy of this process
/// that a user's own `fork` makes has nothing at these addresses, so that it can't disturb the
/// others.
///
/// # Errors
///
/// [`io::ErrorKind::OutOfMemory`] if there are not enough addresses (as under `ulimit -v`).
pub(crate) fn map(fd: BorrowedFd<'_>) -> io::Result<Mapping> {
    let len = usize::try_from(memory_len(fd)?).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mapping = Mapping::new(libc::MAP_SHARED | libc::MAP_NORESERVE, fd.as_raw_fd(), len)?;
    mapping.advise(libc::MADV_DONTDUMP)?;
    mapping.advise(libc::MADV_DONTFORK)?;
    Ok(mapping)
}

/// Maps `len` zeroed bytes that belong to this process alone.
pub(crate) fn map_private(len: usize) -> io::Result<Mapping> {
    Mapping::new(
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        -1,
        len,
    )
}

/// Returns a new word that holds 1 in this process and 0 in every copy of it that `fork` makes.
///
/// Each call maps a page that is never unmapped, so it is to be called once.
pub(crate) fn fork_page() -> io::Result<&'static AtomicU32> {
    // Rounded up to one page by the kernel.
    let page = map_private(size_of::<AtomicU32>())?;
    // Since Linux 4.14.
    page.advise(libc::MADV_WIPEONFORK)?;
    let word = page.base().cast::<AtomicU32>();
    std::mem::forget(page);
    // SAFETY: aligned to a page, zeroed, which is a valid AtomicU32, and with its mapping
    // forgotten, valid for ever.
    let word: &'static AtomicU32 = unsafe { word.as_ref() };
    // Relaxed: whoever gets the reference, gets it from this thread; a fork copies or wipes the
    // page as a whole.
    word.store(1, Ordering::Relaxed);
    Ok(word)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::{fd::AsFd, unix::fs::FileExt},
        sync::atomic::AtomicU8,
    };

    use super::*;

    const PAGE: usize = 4096;

    fn bytes(mapping: &Mapping) -> &[AtomicU8] {
        // SAFETY: mapped for as long as the borrow, and any byte is a valid AtomicU8.
        unsafe { std::slice::from_raw_parts(mapping.base().cast().as_ptr(), mapping.len()) }
    }

    #[test]
    fn memory_is_zeroed_sealed_and_not_inherited() {
        let fd = create_memory("mp-test", 10 * PAGE as u64).unwrap();
        assert_eq!(memory_len(fd.as_fd()).unwrap(), 10 * PAGE as u64);
        assert!(fd.as_raw_fd() > 2);
        // SAFETY: F_GETFD takes no argument.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);

        let file = File::from(fd);
        assert!(file.set_len(1).is_err());
        assert!(file.set_len(1 << 40).is_err());
        let mut first = [1];
        file.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [0]);
    }

    #[test]
    fn two_mappings_show_the_same_bytes() {
        let fd = create_memory("mp-test", PAGE as u64).unwrap();
        let one = map(fd.as_fd()).unwrap();
        let two = map(fd.as_fd()).unwrap();
        assert_ne!(one.base(), two.base());
        assert_eq!(one.len(), PAGE);
        bytes(&one)[5].store(7, Ordering::Relaxed);
        assert_eq!(bytes(&two)[5].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_size_beyond_all_is_refused() {
        let error = create_memory("mp-test", u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_hole_reads_as_zeros() {
        let fd = create_memory("mp-test", 4 * PAGE as u64).unwrap();
        let mapping = map(fd.as_fd()).unwrap();
        for byte in bytes(&mapping) {
            byte.store(9, Ordering::Relaxed);
        }
        punch_hole(fd.as_fd(), PAGE as u64, PAGE as u64).unwrap();
        let page = |n: usize| bytes(&mapping)[n * PAGE].load(Ordering::Relaxed);
        assert_eq!([page(0), page(1), page(2)], [9, 0, 9]);
    }

    #[test]
    fn a_fork_finds_its_page_wiped_and_the_shared_memory_gone() {
        let word = fork_page().unwrap();
        assert_eq!(word.load(Ordering::Relaxed), 1);
        let fd = create_memory("mp-test", PAGE as u64).unwrap();
        let mapping = map(fd.as_fd()).unwrap();
        // SAFETY: the child only loads, calls mincore, and leaves by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let mut resident = 0_u8;
            // SAFETY: asks about one page; `resident` has room for its answer.
            let gone =
                unsafe { libc::mincore(mapping.base().as_ptr().cast(), PAGE, &mut resident) } == -1;
            let wiped = word.load(Ordering::Relaxed) == 0;
            // SAFETY: ends the child without running anything of the test harness.
            unsafe { libc::_exit(if wiped && gone { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made; `status` is valid to write.
        let reaped = retry(|| unsafe { libc::waitpid(child, &mut status, 0) });
        assert_eq!(reaped.unwrap(), child);
        assert_eq!(status, 0);
        assert_eq!(word.load(Ordering::Relaxed), 1);
    }
}
