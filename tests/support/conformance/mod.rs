//! Behaviours that CPython's own tests demand, demanded of pools and of what processes share, on one
//! machine or on several.
//!
//! Whoever uses this has a module `backend` beside it, with the types, a `World` in which they live, and
//! what their errors are called; and a module `support` with a watchdog.
//!
//! Source: `Lib/test/_test_multiprocessing.py`, `Lib/test/lock_tests.py` and
//! `Lib/test/test_concurrent_futures/` of CPython (PSF licence 2). Rewritten: no code was taken over, each
//! test states the behaviour anew in the terms of `mp`. A test is named after the area and the method that
//! it answers, and after the class as well where two classes of an area have a method of that name.

#![allow(
    clippy::unit_arg,
    reason = "what cannot fail on one machine, and gives nothing, can on several"
)]

mod lock;
mod pool;
mod queue;
mod sync;

use std::fmt::Debug;
use std::time::Duration;

use super::backend::mp;

const A_MOMENT: Duration = Duration::from_millis(30);

/// What a call gives, whether it can fail or not.
trait Sure {
    type Value;

    /// The value; a failure ends the test.
    fn sure(self) -> Self::Value;
}

impl<T, E: Debug> Sure for Result<T, E> {
    type Value = T;

    #[track_caller]
    fn sure(self) -> T {
        self.unwrap()
    }
}

macro_rules! cannot_fail {
    ($($type:ty),*) => {
        $(impl Sure for $type {
            type Value = Self;

            fn sure(self) -> Self {
                self
            }
        })*
    };
}

cannot_fail!((), bool, u32, usize, mp::Permit<'_>);
