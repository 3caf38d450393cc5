//! A change of several words that a successor can finish.
//!
//! The record holds absolute values, and its count is stored last, so doing it again is harmless
//! at every point. It lies inside the lock whose holder makes the change.

use super::Region;
use super::safe::shared;
use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering};

/// Words that one change may touch.
const WORDS: usize = 3;

shared! {
    /// The record. All zeros is "nothing pending".
    pub(crate) struct Redo {
        /// How many entries are valid; zero once they have been stored.
        count: AtomicU32,
        _pad: AtomicU32,
        entries: [Entry; WORDS],
    }
}

shared! {
    struct Entry {
        offset: AtomicU64,
        value: AtomicU64,
    }
}

impl Redo {
    /// Stores each value in its word, all or none. The caller holds the lock of the record, and
    /// the words lie in `region`.
    pub(crate) fn commit(&self, region: &Region, changes: &[(&AtomicU64, u64)]) {
        self.record(region, changes);
        self.finish(region);
    }

    /// Writes down what is to be stored: from here on a successor does it.
    pub(super) fn record(&self, region: &Region, changes: &[(&AtomicU64, u64)]) {
        assert!(changes.len() <= WORDS, "too many words for one redo record");
        for (entry, (word, value)) in self.entries.iter().zip(changes) {
            let offset = region
                .offset_of(*word)
                .expect("the word lies in the region");
            // Release, both: not before the count of the last change is zero, or a successor would
            // take an entry of this one for one of that.
            entry.offset.store(offset, Ordering::Release);
            entry.value.store(*value, Ordering::Release);
        }
        fault!("redo.recorded");
        // Release: pairs with the Acquire in `finish`; the entries are visible there.
        self.count.store(changes.len() as u32, Ordering::Release);
    }

    /// Does what is pending. The caller holds the lock of the record.
    pub(crate) fn finish(&self, region: &Region) {
        // Acquire: pairs with the Release in `commit`.
        let count = self.count.load(Ordering::Acquire) as usize;
        for entry in &self.entries[..count.min(WORDS)] {
            fault!("redo.applying");
            let word: &AtomicU64 = region.at(entry.offset.load(Ordering::Relaxed));
            // Release: whoever reads the word without the lock sees what it refers to.
            word.store(entry.value.load(Ordering::Relaxed), Ordering::Release);
        }
        fault!("redo.applied");
        // Release: not before the words.
        self.count.store(0, Ordering::Release);
    }
}
