//! Plain values and the lock that protects them.
//!
//! # Safety
//!
//! The values are seen through a guard of their lock, or by atomic operations on them, or by whoever
//! uses a raw pointer and answers for it. The lock excludes processes and threads alike; it is in the
//! same object, so that every handle of the values has it.

#![expect(
    unsafe_code,
    reason = "that the lock is held is what makes a reference unique"
)]

use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;

use super::object;
use crate::error::Error;
use crate::shm::Kind;
use crate::shm::plain::{Cells, Exclusive};
use crate::sync::{AcquireTimeoutError, Guard, Lock, OwnerDied, TryAcquireError};
use crate::wire::transfer::Handle;

/// A run of values with its lock.
#[derive(Clone)]
pub(super) struct Locked<T> {
    lock: Lock,
    cells: Cells<T>,
}

impl<T> Locked<T> {
    /// What a handle names.
    pub(super) fn open(handle: Arc<Handle>) -> Result<Self, Error> {
        let cells = object::open(&handle, Kind::Cells)?;
        let state = object::lock_of(&handle)?;
        let lock = Lock::within(handle, state)?;
        Ok(Self { lock, cells })
    }

    pub(super) fn handle(&self) -> &Arc<Handle> {
        self.lock.handle()
    }

    /// The lock alone, for what it shows.
    pub(super) fn lock(&self) -> &Lock {
        &self.lock
    }

    pub(super) fn cells(&self) -> Cells<T> {
        self.cells
    }
}

impl<T: Pod> Locked<T> {
    /// Makes a run of `len` values that `fill` writes.
    pub(super) fn create(len: usize, fill: impl FnOnce(&mut [T])) -> Result<Self, Error> {
        let (handle, _) = object::create(Kind::Cells, len, |cells| {
            // SAFETY: nobody has a handle of the object yet.
            fill(&mut unsafe { cells.exclusive() });
            Ok(())
        })?;
        Self::open(handle)
    }

    #[inline]
    pub(super) fn acquire(&self) -> Result<Guard<'_, [T]>, OwnerDied> {
        self.lock.acquire().map(|guard| self.guard(guard))
    }

    pub(super) fn try_acquire(&self) -> Result<Guard<'_, [T]>, TryAcquireError> {
        self.lock.try_acquire().map(|guard| self.guard(guard))
    }

    pub(super) fn acquire_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Guard<'_, [T]>, AcquireTimeoutError> {
        self.lock
            .acquire_timeout(timeout)
            .map(|guard| self.guard(guard))
    }

    pub(super) fn recover(&self) -> Guard<'_, [T]> {
        self.guard(self.lock.recover())
    }

    #[inline]
    fn guard<'a>(&'a self, held: Guard<'a>) -> Guard<'a, [T]> {
        // SAFETY: the lock of these values was acquired, and the guard that is returned releases it.
        let values: Exclusive<'a, [T]> = unsafe { self.cells.exclusive() };
        held.over(values)
    }
}
