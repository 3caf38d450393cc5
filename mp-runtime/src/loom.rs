//! The door through which algorithms on shared words reach atomics and the futex: std's and the
//! kernel's, or, under `--cfg loom`, loom's and a model.
//!
//! `sync::raw` uses nothing else that orders memory or waits, so that loom sees all of it.

#[cfg(not(loom))]
pub(crate) use std::{
    hint,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use ::loom::{
    hint,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

/// Waiting for a word to change: the kernel's futex.
#[cfg(not(loom))]
pub(crate) mod futex {
    pub(crate) use crate::sys::futex::{Wait, wait, wake};
}

/// Waiting for a word to change: a model of the kernel's futex.
///
/// Comparing the word and falling asleep are one step, wakers take the longest sleeper first, and
/// nothing is spurious. The model knows no time: a wait ends only when the word has changed or
/// somebody woke it, so an algorithm that needs its timeout to make progress is reported as a
/// deadlock. One edge is there that the kernel does not promise: a waker happens before the return
/// of whom it woke.
#[cfg(loom)]
pub(crate) mod futex {
    use std::{
        collections::{HashMap, VecDeque},
        time::Duration,
    };

    use ::loom::sync::{Arc, Condvar, Mutex};

    use super::{AtomicU32, Ordering};

    /// Why [`wait`] returned.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Wait {
        Woken,
        Changed,
    }

    /// A thread asleep in [`wait`].
    struct Sleeper {
        /// Set by [`wake`], and only under the lock of [`SLEEPERS`].
        woken: std::sync::atomic::AtomicBool,
        /// Where the thread sleeps; one each, so that a wake reaches the one it chose.
        bell: Condvar,
    }

    ::loom::lazy_static! {
        /// Who sleeps on which word, by its address, in the order of arrival. Made anew for each
        /// execution.
        static ref SLEEPERS: Mutex<HashMap<usize, VecDeque<Arc<Sleeper>>>> = Mutex::new(HashMap::new());
    }

    /// Sleeps while `word` holds `expected` until woken; see [`crate::sys::futex::wait`].
    pub(crate) fn wait(word: &AtomicU32, expected: u32, _timeout: Option<Duration>) -> Wait {
        let mut sleepers = SLEEPERS.lock().unwrap();
        // Relaxed: a store that precedes a wake that precedes us is visible through the lock, which
        // stands for the kernel's own; any other store is followed by a wake that will find us in
        // the table.
        if word.load(Ordering::Relaxed) != expected {
            return Wait::Changed;
        }
        let sleeper = Arc::new(Sleeper {
            woken: false.into(),
            bell: Condvar::new(),
        });
        sleepers
            .entry(address(word))
            .or_default()
            .push_back(sleeper.clone());
        // Relaxed: read and written under the lock.
        while !sleeper.woken.load(Ordering::Relaxed) {
            sleepers = sleeper.bell.wait(sleepers).unwrap();
        }
        Wait::Woken
    }

    /// Wakes at most `n` sleepers of `word`; see [`crate::sys::futex::wake`].
    pub(crate) fn wake(word: &AtomicU32, n: u32) -> usize {
        let mut sleepers = SLEEPERS.lock().unwrap();
        let Some(waiting) = sleepers.get_mut(&address(word)) else {
            return 0;
        };
        let n = waiting.len().min(n as usize);
        for sleeper in waiting.drain(..n) {
            // Relaxed: read and written under the lock.
            sleeper.woken.store(true, Ordering::Relaxed);
            sleeper.bell.notify_one();
        }
        n
    }

    fn address(word: &AtomicU32) -> usize {
        std::ptr::from_ref(word).addr()
    }
}

#[cfg(all(test, loom))]
mod tests {
    use ::loom::{sync::Arc, thread};

    use super::{AtomicU32, Ordering, futex};

    #[test]
    fn store_then_wake_is_never_missed() {
        ::loom::model(|| {
            let word = Arc::new(AtomicU32::new(0));
            let waker = thread::spawn({
                let word = word.clone();
                move || {
                    word.store(1, Ordering::Release);
                    futex::wake(&word, 1);
                }
            });
            while word.load(Ordering::Acquire) == 0 {
                futex::wait(&word, 0, None);
            }
            waker.join().unwrap();
        });
    }
}
