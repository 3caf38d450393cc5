//! Looking for a moment before one sleeps: a result of a small task is there sooner than one who
//! sleeps could be woken, on another CPU.

use crate::loom::{AtomicU32, Ordering, hint};
use crate::sys;

/// How often one looks: for 10 to 25 µs, much less than it takes to fall asleep and be woken.
const LOOKS: u32 = 500;
/// After so many looks in vain, one after the other, it is not worth the CPU time …
const MOST_IN_VAIN: u32 = 8;
/// … but for each so many times.
const AGAIN: u32 = 64;

/// Whether looking pays, as far as the last calls tell.
#[derive(Debug)]
pub(super) struct Lookout {
    /// Whether there is another CPU than this one: what the process may use, while nothing else is
    /// known.
    has_cpus: bool,
    /// Times in a row that nothing was found, or that it was not tried for that reason.
    in_vain: AtomicU32,
}

impl Lookout {
    pub(super) fn new() -> Self {
        Self {
            has_cpus: sys::process::cpu_count() > 1,
            in_vain: AtomicU32::new(0),
        }
    }

    /// Looks for a moment, if that pays, and tells whether it `is_there`. `is_apart` says whether
    /// whoever is waited for runs on another CPU, if that is known: if not, it needs this one.
    pub(super) fn look(&self, is_apart: Option<bool>, is_there: impl Fn() -> bool) -> bool {
        if !is_apart.unwrap_or(self.has_cpus) {
            return false;
        }
        // Relaxed, here and below: it is a guess, and others may make it worse meanwhile.
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        let pays = in_vain < MOST_IN_VAIN || in_vain.is_multiple_of(AGAIN);
        let found = pays
            && (0..LOOKS).any(|_| {
                hint::spin_loop();
                is_there()
            });
        let in_vain = if found { 0 } else { in_vain.wrapping_add(1) };
        self.in_vain.store(in_vain, Ordering::Relaxed);
        found
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn looks_seldom_where_nothing_is_found_until_something_is() {
        let lookout = Lookout {
            has_cpus: true,
            in_vain: AtomicU32::new(0),
        };
        let looks = Cell::new(0);
        let look = |is_there: bool| {
            lookout.look(None, || {
                looks.set(looks.get() + 1);
                is_there
            })
        };
        for _ in 0..AGAIN {
            assert!(!look(false));
        }
        assert_eq!(looks.take(), MOST_IN_VAIN * LOOKS);
        // Tried again, and found: from now on it looks each time.
        assert!(look(true));
        assert!(look(true));
        assert_eq!(looks.take(), 2);
    }

    #[test]
    fn does_not_look_where_there_is_one_cpu() {
        let lookout = |has_cpus| Lookout {
            has_cpus,
            in_vain: AtomicU32::new(0),
        };
        assert!(!lookout(false).look(None, || panic!("it looked")));
        assert!(!lookout(true).look(Some(false), || panic!("it looked")));
        // Two processes that may use one CPU each still have two.
        assert!(lookout(false).look(Some(true), || true));
    }
}
