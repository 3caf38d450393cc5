//! What the kernel tells in a file of its own, kept for a moment: to open, read and close such a file takes
//! longer than all else that a start asks of the kernel, and children are often started one after the
//! other.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// How old an answer may be.
const MOMENT: Duration = Duration::from_millis(10);

/// The last answer to a question, and when it was given.
pub(super) struct Recent<T>(Mutex<Option<(Instant, T)>>);

impl<T: Copy> Recent<T> {
    pub(super) const fn new() -> Self {
        Recent(Mutex::new(None))
    }

    /// The last answer, or a new one if that is no longer recent.
    pub(super) fn get(&self, ask: impl FnOnce() -> T) -> T {
        let kept = *self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        match kept {
            Some((at, answer)) if at.elapsed() < MOMENT => answer,
            _ => self.keep(ask()),
        }
    }

    /// Takes an answer for the last one, and returns it.
    pub(super) fn keep(&self, answer: T) -> T {
        let mut kept = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        *kept = Some((Instant::now(), answer));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_again_until_it_is_old_or_another_is_known() {
        let recent = Recent::new();
        let began = Instant::now();
        assert_eq!(recent.get(|| 1), 1);
        let again = recent.get(|| 2);
        // Unless this test was held up.
        assert!(again == 1 || began.elapsed() >= MOMENT);
        assert_eq!(recent.keep(3), 3);
        std::thread::sleep(MOMENT);
        assert_eq!(recent.get(|| 4), 4);
    }
}
