//! Copying long runs of bytes, around a place where processors stumble.
//!
//! From a few KiB on `memcpy` is one instruction (`rep movsb`) on newer x86 processors. Some of them
//! copy ten to thirty times slower by it when the target's place in its page is less than 64 bytes
//! behind the source's, and here that is no rarity: a vector's own memory and a message's begin at
//! a page, and each is followed by a header of a few bytes.

use crate::sys;
use crate::wire::buffer::{Buffer, Full};

/// Up to this `memcpy` is a loop on every processor.
const PIECE: usize = 1024;

/// From this on it is one again, past the caches.
const LARGE: usize = 2 << 20;

/// Whether the one instruction would stumble.
#[inline]
fn stumbles(from: usize, to: usize, len: usize) -> bool {
    const PAGE: usize = 4096;
    (PIECE + 1..LARGE).contains(&len) && (1..64).contains(&(to.wrapping_sub(from) % PAGE))
}

/// Appends `bytes` to `out`.
#[inline]
pub(super) fn append(bytes: &[u8], out: &mut Buffer) -> Result<(), Full> {
    out.reserve(bytes.len())?;
    let to = out.as_slice().as_ptr_range().end;
    if stumbles(bytes.as_ptr().addr(), to.addr(), bytes.len()) {
        return bytes.chunks(PIECE).try_for_each(|piece| out.write(piece));
    }
    out.write(bytes)
}

/// Copies `items` to a vector.
#[inline]
pub(super) fn to_vec<T: Copy>(items: &[T]) -> Vec<T> {
    let mut vec: Vec<T> = Vec::with_capacity(items.len());
    if size_of_val(items) >= LARGE {
        // So much memory is new to the process, as a rule, and then its first touch costs more
        // than the copy.
        sys::memory::expect_writes(vec.spare_capacity_mut());
    }
    if stumbles(
        items.as_ptr().addr(),
        vec.as_ptr().addr(),
        size_of_val(items),
    ) {
        let count = PIECE / size_of::<T>().max(1);
        for piece in items.chunks(count.max(1)) {
            vec.extend_from_slice(piece);
        }
    } else {
        vec.extend_from_slice(items);
    }
    vec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal_wherever_they_lie() {
        let all: Vec<u8> = (0..10_000_u32).map(|i| i as u8).collect();
        for shift in 0..80 {
            for len in [0, 1, PIECE, PIECE + 1, 9_000] {
                let run = &all[shift..][..len];
                assert_eq!(to_vec(run), run);
                let mut out = Buffer::new();
                append(&all[..shift], &mut out).unwrap();
                append(run, &mut out).unwrap();
                assert_eq!(&out.as_slice()[shift..], run);
            }
        }
    }

    #[test]
    fn stumbling_is_a_little_behind_in_the_page_only() {
        assert!(stumbles(0x1000, 0x7008, 9_000));
        assert!(stumbles(0x1FF8, 0x7000, 9_000));
        for to in [0x7000, 0x7040, 0x6FF8] {
            assert!(!stumbles(0x1000, to, 9_000));
        }
        assert!(!stumbles(0x1000, 0x7008, PIECE));
        assert!(!stumbles(0x1000, 0x7008, LARGE));
    }
}
