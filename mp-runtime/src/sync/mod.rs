//! Primitives between the processes of a program.
//!
//! - [`lock`]: mutual exclusion that outlives its holder.
//! - [`rlock`]: the same, for a thread that acquires what it holds already.
//! - [`guard`]: what a held lock is.
//! - [`rwlock`]: many to read, or one to write.
//! - [`semaphore`]: a number of permits.
//! - [`condition`]: waiting for a change that others make under a lock.
//! - [`event`]: a flag that many wait for.
//! - [`barrier`]: a number of parties that wait for each other.
//! - [`object`]: what they have in common: a handle and a state.
//! - [`shares`]: and, for some, how much of it each process has.
//! - [`raw`]: the state machines on shared words that stand below.

#[cfg(not(loom))]
mod barrier;
#[cfg(not(loom))]
mod condition;
#[cfg(not(loom))]
mod event;
#[cfg(not(loom))]
mod guard;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod object;
pub(crate) mod raw;
#[cfg(not(loom))]
mod rlock;
#[cfg(not(loom))]
mod rwlock;
#[cfg(not(loom))]
mod semaphore;
#[cfg(not(loom))]
mod shares;

#[cfg(not(loom))]
pub use self::{
    barrier::{Barrier, BarrierWaitResult, BrokenBarrier, TryWaitError},
    condition::Condition,
    event::Event,
    guard::{Guard, Held},
    lock::{AcquireTimeoutError, Lock, OwnerDied, TryAcquireError},
    rlock::{RLock, RLockGuard},
    rwlock::{ReadGuard, RwLock, WriteGuard},
    semaphore::{BoundedSemaphore, NoPermit, Permit, ReleaseError, Semaphore},
};

// For the primitives of `mp-cluster`, which have the same results.
#[cfg(not(loom))]
pub use self::{
    barrier::{Reason as Broken, broken_barrier, passed_barrier},
    lock::owner_died,
};
