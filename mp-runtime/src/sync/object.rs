//! What each primitive is: a handle of a shared object, and where the object's state lies.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::raw::{Holder, Peers};
use crate::error::Error;
use crate::life::program::{assert_not_forked, existing};
use crate::life::{Program, Roster, program};
use crate::shm::{Kind, ObjectId, ShmSafe};
use crate::wire::transfer::{self, Handle};

/// The state of one kind of object.
pub(super) trait State: ShmSafe {
    /// The kind.
    const KIND: Kind;
}

/// A handle of an object, and its state.
pub(super) struct Object<S: 'static> {
    handle: Arc<Handle>,
    state: &'static S,
    program: &'static Program,
}

impl<S: State> Object<S> {
    /// Makes an object whose state is all zeros.
    pub(super) fn create() -> Result<Self, Error> {
        Self::over(Handle::create(S::KIND)?)
    }

    fn over(handle: Arc<Handle>) -> Result<Self, Error> {
        let program = program()?;
        let state = handle.state(S::KIND).ok_or_else(transfer::gone)?;
        Ok(Self {
            handle,
            state,
            program,
        })
    }
}

impl<S> Object<S> {
    /// The object's name.
    pub(super) fn id(&self) -> ObjectId {
        self.handle.id()
    }

    /// The state, for a call that works on it.
    ///
    /// # Panics
    ///
    /// In a copy of the process made by `fork`.
    #[inline]
    #[track_caller]
    pub(super) fn state(&self) -> &'static S {
        assert_not_forked();
        self.state
    }

    /// The processes of the program.
    #[inline]
    pub(super) fn roster(&self) -> &'static Roster {
        self.program.roster
    }

    /// The program that the object is in.
    #[inline]
    pub(super) fn program(&self) -> &'static Program {
        self.program
    }

    /// The state, to be shown; `None` in a copy of the process made by `fork`.
    pub(super) fn shown(&self) -> Option<&'static S> {
        existing().map(|_| self.state)
    }
}

impl<S> Clone for Object<S> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
            state: self.state,
            program: self.program,
        }
    }
}

impl<S> Serialize for Object<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        transfer::serialize(&self.handle, serializer)
    }
}

impl<'de, S: State> Deserialize<'de> for Object<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let handle = transfer::deserialize(deserializer)?;
        Self::over(handle).map_err(serde::de::Error::custom)
    }
}

/// Who holds something, as `Debug` shows it.
pub(super) fn describe(roster: &Roster, holder: Option<Holder>) -> String {
    match holder {
        None => "none".to_owned(),
        Some(holder) if holder == roster.me() => "this process".to_owned(),
        Some(holder) => {
            let slot = roster.slot(holder.slot());
            format!("{} ({})", slot.name.get(), slot.pid())
        }
    }
}
