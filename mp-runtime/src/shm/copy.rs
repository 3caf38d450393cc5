//! Copying long runs of bytes, around a place where processors stumble.
//!
//! From a few KiB on `memcpy` is one instruction (`rep movsb`) on newer x86 processors. Some of them
//! copy ten to thirty times slower by it when the target's place in its page is less than 64 bytes
//! behind the source's, and here that is no rarity: a vector's own memory and a message's begin at
//! a page, and each is followed by a header of a few bytes. A plain loop does not stumble there. Calls of `memcpy`
//! that are too short for the instruction do in their own way, and take three times as long as the loop.
//!
//! # Safety
//!
//! The caller of a copy answers for both places, as with [`std::ptr::copy_nonoverlapping`].

#![expect(unsafe_code, reason = "bytes are copied by pointers")]

/// Up to this `memcpy` is a loop on every processor.
const SHORT: usize = 1024;

/// From this on it is one again, past the caches.
pub(crate) const LARGE: usize = 2 << 20;

/// Whether the one instruction would stumble.
#[inline]
fn stumbles(from: usize, to: usize, len: usize) -> bool {
    const PAGE: usize = 4096;
    cfg!(target_arch = "x86_64")
        && (SHORT + 1..LARGE).contains(&len)
        && (1..64).contains(&(to.wrapping_sub(from) % PAGE))
}

/// Copies bytes.
///
/// # Safety
///
/// As for [`std::ptr::copy_nonoverlapping`]; and each of the bytes must have been written.
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if stumbles(from.addr(), to.addr(), len) {
        // SAFETY: as the caller says.
        unsafe { copy_by_loop(from, to, len) };
    } else {
        // SAFETY: as the caller says.
        unsafe { to.copy_from_nonoverlapping(from, len) };
    }
}

/// Appends bytes to a vector.
#[inline]
pub(crate) fn append(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len());
    let end = out.spare_capacity_mut().as_mut_ptr().cast();
    // SAFETY: there is capacity for them behind the end, which is nobody else's.
    unsafe { copy(bytes.as_ptr(), end, bytes.len()) };
    // SAFETY: so many more were written.
    unsafe { out.set_len(out.len() + bytes.len()) };
}

/// [`copy`] without `memcpy`, but for the rest of less than a line.
///
/// # Safety
///
/// As for [`copy`].
#[cfg(target_arch = "x86_64")]
#[inline(never)]
unsafe fn copy_by_loop(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_storeu_si128};
    const LINE: usize = 64;
    let lines = len - len % LINE;
    for line in (0..lines).step_by(LINE) {
        let parts = [0, 16, 32, 48].map(|part| line + part);
        // All loads before the stores: several of them in a row the compiler leaves as they are.
        let values = parts.map(|part| {
            let place = from.wrapping_add(part).cast();
            // SAFETY: the part lies within the bytes to be read.
            unsafe { _mm_loadu_si128(place) }
        });
        for (part, value) in parts.into_iter().zip(values) {
            let place = to.wrapping_add(part).cast();
            // SAFETY: the part lies within the bytes to be written.
            unsafe { _mm_storeu_si128(place, value) };
        }
    }
    let (from, to) = (from.wrapping_add(lines), to.wrapping_add(lines));
    // SAFETY: the rest of both.
    unsafe { to.copy_from_nonoverlapping(from, len - lines) };
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_by_loop(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as the caller says.
    unsafe { to.copy_from_nonoverlapping(from, len) };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal_wherever_they_lie() {
        let all: Vec<u8> = (0..10_000_u32).map(|i| (i / 3) as u8).collect();
        // With as many bytes before, the target's place in its page is any that there is.
        for shift in 0..80 {
            for len in [0, 1, SHORT, SHORT + 1, 9_000, 9_088] {
                let run = &all[80 - shift..][..len];
                let mut out = Vec::with_capacity(20_000);
                out.resize(shift, 0);
                append(run, &mut out);
                assert_eq!(&out[shift..], run);
                // SAFETY: both places are as long, and of different vectors.
                unsafe { copy_by_loop(run.as_ptr(), out.as_mut_ptr(), len) };
                assert_eq!(&out[..len], run);
            }
        }
    }

    #[test]
    fn stumbling_is_a_little_behind_in_the_page_only() {
        let is_here = cfg!(target_arch = "x86_64");
        assert_eq!(stumbles(0x1000, 0x7008, 9_000), is_here);
        assert_eq!(stumbles(0x1FF8, 0x7000, 9_000), is_here);
        for to in [0x7000, 0x7040, 0x6FF8] {
            assert!(!stumbles(0x1000, to, 9_000));
        }
        assert!(!stumbles(0x1000, 0x7008, SHORT));
        assert!(!stumbles(0x1000, 0x7008, LARGE));
    }
}
