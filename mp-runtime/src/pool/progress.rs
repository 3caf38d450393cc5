//! A bar that shows how far a stream of results is.

use std::borrow::Cow;
use std::fmt;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::source::Source;
use super::stream::Imap;
use crate::error::TaskError;
use crate::task::Transfer;

/// The results of [`Imap`], with a bar that shows how many there are; see
/// [`Imap::progress`].
pub struct Progress<'p, I: Iterator, R> {
    results: Imap<'p, I, R>,
    bar: ProgressBar,
    failed: u64,
}

impl<'p, I: Iterator, R: Transfer> Imap<'p, I, R> {
    /// Shows on the standard error, if that is a terminal, how many results were taken, out of how
    /// many if the input knows, and how many of them are failures.
    ///
    /// It is there with the feature `progress`. For a bar of your own making see
    /// [`progress_with`](Self::progress_with).
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// #[mp::task]
    /// fn resize(width: u32) -> u32 {
    ///     width / 2
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(2)?;
    /// for half in pool.imap(resize, [640, 800, 1024])?.progress("resizing") {
    ///     assert!(half? >= 320);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "results come as they are taken"]
    pub fn progress(self, title: impl Into<Cow<'static, str>>) -> Progress<'p, I, R> {
        let left = self.source().left();
        let (bar, style) = match left {
            Some(left) => (
                ProgressBar::new(left),
                "{prefix} {wide_bar} {pos}/{len}{msg}, {eta} left",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{prefix} {spinner} {pos}{msg}, {per_sec}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_prefix(title);
        self.progress_with(bar.with_finish(ProgressFinish::Abandon))
    }

    /// As [`progress`](Self::progress), with a bar of the caller's: its position counts the results
    /// and its message names the failures, once there are any.
    #[must_use = "results come as they are taken"]
    pub fn progress_with(self, bar: ProgressBar) -> Progress<'p, I, R> {
        Progress {
            results: self,
            bar,
            failed: 0,
        }
    }
}

impl<I: Iterator, R: Transfer> Iterator for Progress<'_, I, R> {
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.results.next();
        match &result {
            None => self.bar.finish_using_style(),
            Some(outcome) => {
                if outcome.is_err() {
                    self.failed += 1;
                    self.bar.set_message(format!(", {} failed", self.failed));
                }
                self.bar.inc(1);
            }
        }
        result
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.results.size_hint()
    }
}

impl<I: Iterator, R: Transfer> std::iter::FusedIterator for Progress<'_, I, R> {}

impl<I: Iterator, R> fmt::Debug for Progress<'_, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("results", &self.results)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
