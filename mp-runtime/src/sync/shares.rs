//! An object in which each process has a number of shares: its state, and the table of who has how
//! many, which is a block of the object's own.

use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::object::{Object, State, describe};
use super::raw::{Holder, Peers, RawShares};
use crate::error::Error;
use crate::loom::AtomicU64;
use crate::shm::Owner;
use crate::shm::table::MAX_PROCESSES;
use crate::wire::transfer;

/// A handle of such an object, which has `N` kinds of shares.
pub(super) struct Shares<S: 'static, const N: usize> {
    object: Object<S>,
    entries: [&'static [AtomicU64]; N],
}

/// A state that has `N` kinds of shares in it.
pub(super) trait HasShares<const N: usize>: State {
    /// The shares.
    fn shares(&self) -> [&RawShares; N];
}

impl HasShares<1> for RawShares {
    fn shares(&self) -> [&RawShares; 1] {
        [self]
    }
}

/// Opens a new object with so many shares of each kind, at most `bound`.
pub(super) fn open<S: HasShares<N>, const N: usize>(
    object: &Object<S>,
    total: u32,
    bound: u32,
) -> Result<(), Error> {
    let program = object.program();
    let me = Owner::Process(program.roster.me());
    let block = program
        .arena
        .allocate(N * TABLE, me)
        .map_err(|_| Error::out_of_memory("no shared memory is left for who holds the lock"))?;
    // True: it is ours. From here on it goes with the object.
    let _ = program
        .arena
        .set_owner(block.id(), me, Owner::Object(object.id()));
    let tables = (block.offset()..).step_by(TABLE);
    for (shares, table) in object.state().shares().into_iter().zip(tables) {
        shares.open(total, bound, table);
    }
    Ok(())
}

/// Bytes of a table of entries.
const TABLE: usize = MAX_PROCESSES as usize * size_of::<AtomicU64>();

impl<S: HasShares<N>, const N: usize> Shares<S, N> {
    /// A handle of an object that was opened.
    pub(super) fn over(object: Object<S>) -> Result<Self, Error> {
        let table = &object.program().table;
        let mut entries: [&[AtomicU64]; N] = [&[]; N];
        for (which, entries) in entries.iter_mut().enumerate() {
            (_, *entries) = table
                .shares(object.id(), which)
                .ok_or_else(transfer::gone)?;
        }
        Ok(Self { object, entries })
    }

    /// Who has how many of each kind.
    #[inline]
    pub(super) fn entries(&self) -> [&'static [AtomicU64]; N] {
        self.entries
    }

    /// Who has shares, as `Debug` shows it, but for kinds that `is_shown` leaves out.
    pub(super) fn describe(
        &self,
        state: &'static S,
        is_shown: impl Fn(usize) -> bool,
    ) -> Vec<String> {
        let roster = self.object.roster();
        let mut counts: Vec<(Holder, u32)> = Vec::new();
        let kinds = state.shares().into_iter().zip(self.entries).enumerate();
        for (_, (shares, entries)) in kinds.filter(|&(which, _)| is_shown(which)) {
            for (holder, count) in shares.holders(roster, entries) {
                match counts.iter_mut().find(|(known, _)| *known == holder) {
                    Some((_, sum)) => *sum += count,
                    None => counts.push((holder, count)),
                }
            }
        }
        counts
            .into_iter()
            .map(|(holder, count)| format!("{}: {count}", describe(roster, Some(holder))))
            .collect()
    }
}

impl Shares<RawShares, 1> {
    /// The shares of an object that has one kind, and who has how many.
    #[inline]
    pub(super) fn parts(
        &self,
        state: &'static RawShares,
    ) -> (&'static RawShares, &'static [AtomicU64]) {
        (state, self.entries[0])
    }
}

impl<S, const N: usize> Deref for Shares<S, N> {
    type Target = Object<S>;

    fn deref(&self) -> &Object<S> {
        &self.object
    }
}

impl<S, const N: usize> Clone for Shares<S, N> {
    fn clone(&self) -> Self {
        Self {
            object: self.object.clone(),
            entries: self.entries,
        }
    }
}

impl<S, const N: usize> Serialize for Shares<S, N> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        self.object.serialize(serializer)
    }
}

impl<'de, S: HasShares<N>, const N: usize> Deserialize<'de> for Shares<S, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::deserialize(deserializer)?;
        Self::over(object).map_err(serde::de::Error::custom)
    }
}
