//! Calls whose results are merged where they were made, before they travel.

use super::Pool;
use super::call::Order;
use super::map::results;
use super::source::{Argument, Items, Tuple};
use super::wire;
use crate::error::Error;
use crate::life::Program;
use crate::shm::buffer::Buffer;
use crate::task::call::{self, Tag, read_record};
use crate::task::registry::{self, Entry};
use crate::task::{TaskFn, Transfer, assert_task};
use crate::wire::transfer;

impl Pool {
    /// Runs `task` on each item and merges the results, by `merge`, into one; `None` if there were
    /// no items.
    ///
    /// Results are merged in the workers, before they travel: a job of many items has one. What the
    /// jobs bring is merged by calls of `merge` in the workers, too. Neighbours are merged, in the
    /// order of the items, but in any grouping: `merge` must be associative. Results with handles in
    /// them, and those of items with a deadline or for a `merge` with one, are merged only afterwards:
    /// then each call of `merge` has its own time, and its own retries.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map); also if `merge` fails.
    ///
    /// # When a process dies
    ///
    /// As for [`map`](Self::map): a worker that dies fails the item it was at, and the results that
    /// it had are merged without it; but then the call fails. One that dies while it merges costs no
    /// item, since the results are there until they have been merged: that is done again, in another
    /// worker, and if it fails there, so does the call. So `merge` may run twice on the same values.
    ///
    /// # Examples
    ///
    /// ```
    /// # use mp::Pool;
    /// use std::collections::BTreeMap;
    ///
    /// #[mp::task]
    /// fn count(line: String) -> BTreeMap<String, u64> {
    ///     let mut counts = BTreeMap::new();
    ///     for word in line.split_whitespace() {
    ///         *counts.entry(word.to_owned()).or_default() += 1;
    ///     }
    ///     counts
    /// }
    ///
    /// #[mp::task]
    /// fn add(mut a: BTreeMap<String, u64>, b: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    ///     for (word, count) in b {
    ///         *a.entry(word).or_default() += count;
    ///     }
    ///     a
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new(2)?;
    /// let lines = ["to be or", "not to be"].map(String::from);
    /// let counts = pool.map_reduce(count, add, lines)?.unwrap();
    /// assert_eq!((counts["to"], counts["not"]), (2, 1));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "fold")]
    pub fn map_reduce<F, M, A, R, I>(&self, task: F, merge: M, items: I) -> Result<Option<R>, Error>
    where
        F: TaskFn<(A,), Output = R>,
        M: TaskFn<(R, R), Output = R>,
        I: IntoIterator<Item = A>,
        A: Transfer,
        R: Transfer,
    {
        assert_task!(F);
        assert_task!(M);
        let _ = (task, merge);
        let mut values = self.merged::<F, M, A, R>(items.into_iter())?;
        while values.len() > 1 {
            let odd = (values.len() % 2 == 1).then(|| values.pop()).flatten();
            let mut rest = values.into_iter();
            let pairs = std::iter::from_fn(move || Some((rest.next()?, rest.next()?)));
            values = self.collect::<M, R>(Items::new::<Tuple>(pairs))?;
            values.extend(odd);
        }
        Ok(values.pop())
    }

    /// Runs `F` on each item; each value is that of one item, or of some in a row.
    fn merged<F, M, A, R>(&self, items: impl Iterator<Item = A>) -> Result<Vec<R>, Error>
    where
        F: 'static,
        M: 'static,
        A: Transfer,
        R: Transfer,
    {
        let merge = registry::by_type::<M>()?;
        let mut call = self.call::<F, R>(Order::Input)?;
        // One with a deadline is a call for each two: nobody watches over what is merged with a job.
        if self
            .terms
            .of_call(merge, &self.inner.settings.terms)
            .limit()
            == 0
        {
            call = call.merging(merge);
        }
        results(&mut call, &mut Items::new::<Argument>(items))
    }
}

/// Merges results that lie one behind the other, and returns the bytes of what they come to; `None`
/// if one of them is a failure or carries handles, if there are not two, or if `merge` fails.
pub(super) fn merge(
    program: &'static Program,
    merge: &Entry,
    mut records: &[u8],
) -> Option<Vec<u8>> {
    let mut values = plain(&mut records)?.to_vec();
    if records.is_empty() {
        return None;
    }
    let mut out = Buffer::new();
    let run = || {
        while !records.is_empty() {
            values.extend_from_slice(plain(&mut records)?);
            out.truncate(0);
            let tag = call::run(merge, &mut values.as_slice(), &mut out).ok()?;
            if tag != Tag::Value || transfer::take_sent().is_some() {
                return None;
            }
            values.clear();
            values.extend_from_slice(read_record(&mut out.as_slice())?.1);
        }
        Some(())
    };
    let (merged, _) = transfer::sending(|| transfer::receiving(program, run));
    merged.map(|()| values)
}

/// Takes a value without handles off the front.
fn plain<'a>(records: &mut &'a [u8]) -> Option<&'a [u8]> {
    let outcome = wire::read_outcome(records)?;
    (outcome.tag == Tag::Value && outcome.parcel.is_none()).then_some(outcome.payload)
}
