//! A stretch of shared memory and the typed places in it.
//!
//! # Safety
//!
//! Mapped memory has no Rust owner, so references into it are made here, after a check of bounds
//! and alignment, for types that [`ShmSafe`] allows.

#![expect(
    unsafe_code,
    reason = "references into a mapping are made from pointers"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

use super::ShmSafe;
use crate::loom::{AtomicU32, Ordering};
use crate::sys;

/// Bytes that a region can have: positions in a queue are counted in 35 bits of 16 bytes.
pub(crate) const MOST: u64 = 1 << 39;

/// Reads 1 in the process that set it and 0 in a copy made by `fork`, which has no region mapped.
static FORK_PAGE: OnceLock<&'static AtomicU32> = OnceLock::new();

/// Whether this process is a copy that `fork` made of one that uses `mp`.
#[inline]
pub(crate) fn is_forked() -> bool {
    FORK_PAGE
        .get()
        .is_some_and(|page| page.load(Ordering::Relaxed) == 0)
}

/// Has [`is_forked`] know copies of this process, also where it maps no region.
pub(crate) fn notice_forks() -> io::Result<()> {
    if FORK_PAGE.get().is_none() {
        let page = sys::memory::fork_page()?;
        FORK_PAGE.get_or_init(|| page);
    }
    Ok(())
}

/// A mapping of shared memory, unmapped when it is dropped.
#[derive(Debug)]
pub(crate) struct Region {
    mapping: sys::memory::Mapping,
    memory: OwnedFd,
}

impl Region {
    /// Makes new memory of `len` bytes, all zero.
    pub(crate) fn create(name: &str, len: u64) -> io::Result<Self> {
        Self::map(sys::memory::create_memory(name, len)?)
    }

    /// Maps memory that another process made.
    pub(crate) fn map(memory: OwnedFd) -> io::Result<Self> {
        notice_forks()?;
        Ok(Self {
            mapping: sys::memory::map(memory.as_fd())?,
            memory,
        })
    }

    /// The size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// The memory as a descriptor, to hand to a child.
    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// The object at `offset`.
    ///
    /// # Panics
    ///
    /// Panics if it would reach beyond the end or is not aligned.
    #[inline]
    pub(crate) fn at<T: ShmSafe>(&self, offset: u64) -> &T {
        let place = self.pointer(offset, size_of::<T>()).cast::<T>();
        assert!(place.is_aligned(), "misplaced object in shared memory");
        // SAFETY: `pointer` checked the bounds; the mapping lives as long as `self`; `ShmSafe`
        // makes every content a value and every change an atomic one.
        unsafe { place.as_ref() }
    }

    /// The objects that begin at `offset`.
    ///
    /// # Panics
    ///
    /// Panics as [`Region::at`] does.
    pub(crate) fn slice_at<T: ShmSafe>(&self, offset: u64, count: usize) -> &[T] {
        let place = self.pointer(offset, size_of::<T>() * count).cast::<T>();
        assert!(place.is_aligned(), "misplaced objects in shared memory");
        // SAFETY: as in `at`, for `count` objects in a row.
        unsafe { std::slice::from_raw_parts(place.as_ptr(), count) }
    }

    /// The bytes of a place, for those who own them by a protocol.
    ///
    /// # Panics
    ///
    /// Panics if they would reach beyond the end.
    #[inline]
    pub(crate) fn pointer(&self, offset: u64, len: usize) -> NonNull<u8> {
        let end = (offset as usize).checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.mapping.len()),
            "offset beyond the end of shared memory"
        );
        // SAFETY: the sum was checked to lie within the mapping.
        unsafe { self.mapping.base().add(offset as usize) }
    }

    /// Says that the bytes of a place are about to be read: then the processor may fetch them from where
    /// another one has written them. A hint, which may be wrong and costs hardly more than a few
    /// instructions for each line.
    ///
    /// # Panics
    ///
    /// Panics if they would reach beyond the end.
    #[inline]
    pub(crate) fn expect_reads(&self, offset: u64, len: usize) {
        let place = self.pointer(offset, len);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        for line in (0..len).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = place.as_ptr().wrapping_add(line).cast();
            // SAFETY: it reads nothing that the program could see, and does not fail.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = place;
    }

    /// As [`expect_reads`](Self::expect_reads), of bytes that are about to be written: the processor may
    /// take the lines away from others, which it would have to do for the first write.
    ///
    /// # Panics
    ///
    /// Panics if they would reach beyond the end.
    #[inline]
    pub(crate) fn expect_writes(&self, offset: u64, len: usize) {
        let place = self.pointer(offset, len);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        for line in (0..len).step_by(64) {
            let line = place.as_ptr().wrapping_add(line);
            // SAFETY: as in `expect_reads`. Processors that do not know the instruction pass over it.
            unsafe {
                std::arch::asm!(
                    "prefetchw [{}]",
                    in(reg) line,
                    options(nostack, preserves_flags, readonly)
                );
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = place;
    }

    /// The offset of an object, if it lies in this region.
    pub(crate) fn offset_of<T>(&self, object: &T) -> Option<u64> {
        let base = self.mapping.base().as_ptr() as usize;
        (std::ptr::from_ref(object) as usize)
            .checked_sub(base)
            .filter(|offset| offset + size_of::<T>() <= self.mapping.len())
            .map(|offset| offset as u64)
    }

    /// Gives the pages of a place back to the system; they read as zeros afterwards.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        sys::memory::punch_hole(self.memory.as_fd(), offset, len)
    }
}
