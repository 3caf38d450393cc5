//! Copying what was read to a vector of its own: by two threads, where it is vast.
//!
//! # Safety
//!
//! A vector that two threads fill has its length once both are through.

#![expect(
    unsafe_code,
    reason = "a vector is filled by two threads, which no safe method does"
)]

use std::iter;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::shm::copy::{LARGE, copy};
use crate::sys;

/// From this on a second thread is worth what it takes to start it.
const VAST: usize = 4 << 20;

/// How much of a vast copy one of the two threads does at a time: a huge page, so that each is cleared
/// by one of them.
const SHARE: usize = 2 << 20;

/// Who copies what is vast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hands {
    /// The calling thread.
    One,
    /// Another one as well, if there is a CPU for it. For memory that is new to the process: then it
    /// takes three times as long to have it cleared as to copy, and whoever receives results from
    /// several workers would be what they all wait for.
    Two,
}

/// Copies `items` to a vector.
#[inline]
pub(super) fn to_vec<T: Copy + Send + Sync>(items: &[T], hands: Hands) -> Vec<T> {
    if size_of_val(items) >= LARGE {
        return large(items, hands);
    }
    let mut vec: Vec<T> = Vec::with_capacity(items.len());
    let place = vec.as_mut_ptr().cast();
    // SAFETY: there is capacity for them, and numbers have no bytes that were not written.
    unsafe { copy(items.as_ptr().cast(), place, size_of_val(items)) };
    // SAFETY: so many were written.
    unsafe { vec.set_len(items.len()) };
    vec
}

/// The same for many bytes. They go to memory that is new to the process, as a rule, and then its
/// first touch costs more than the copy.
#[cold]
fn large<T: Copy + Send + Sync>(items: &[T], hands: Hands) -> Vec<T> {
    let mut vec: Vec<T> = Vec::with_capacity(items.len());
    sys::memory::expect_writes(vec.spare_capacity_mut());
    let is_vast = hands == Hands::Two && size_of_val(items) >= VAST;
    if is_vast && sys::process::affinity().is_ok_and(|cpus| cpus.len() > 1) {
        by_two(items, &mut vec.spare_capacity_mut()[..items.len()]);
        // SAFETY: there is capacity for so many, and each of them was written.
        unsafe { vec.set_len(items.len()) };
    } else {
        vec.extend_from_slice(items);
    }
    vec
}

/// Copies `from` to `to`, which is as long, in shares that this thread and another take as they come
/// to them: if the other comes late or cannot be started, this one does all.
fn by_two<T: Copy + Send + Sync>(from: &[T], to: &mut [MaybeUninit<T>]) {
    let place = to.as_ptr().addr();
    let first = (place.next_multiple_of(SHARE) - place) / size_of::<T>();
    let (from_first, from) = from.split_at(first.min(from.len()));
    let (to_first, to) = to.split_at_mut(from_first.len());
    let each = SHARE / size_of::<T>();
    let others = from.chunks(each).zip(to.chunks_mut(each));
    let shares = Mutex::new(iter::once((from_first, to_first)).chain(others));
    let next = || {
        let mut shares = shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.next()
    };
    let copy = || {
        while let Some((from, to)) = next() {
            to.write_copy_of_slice(from);
        }
    };
    thread::scope(|scope| {
        let other = thread::Builder::new().name("mp-copy".into());
        let _ = other.spawn_scoped(scope, copy);
        copy();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "takes long")]
    fn copies_by_two_are_equal_whatever_their_length() {
        let all: Vec<u16> = (0..VAST as u32 + 7).map(|i| (i >> 3) as u16).collect();
        let least = VAST / size_of::<u16>();
        for len in [least - 1, least, least + 1, all.len()] {
            assert!(to_vec(&all[..len], Hands::Two) == all[..len]);
        }
        // Those who take the shares may begin anywhere in the first one.
        for shift in [0, 1, 4_000, SHARE / 2 - 1] {
            let mut copy = vec![0_u16; all.len() + shift];
            let place = copy.as_mut_ptr().cast::<MaybeUninit<u16>>();
            // SAFETY: every number is one that may not be there, and nothing else is written.
            let to = unsafe { std::slice::from_raw_parts_mut(place, copy.len()) };
            by_two(&all, &mut to[shift..]);
            assert!(copy[shift..] == all);
        }
    }
}
