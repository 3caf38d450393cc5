//! What processes on any machines share, known by name.
//!
//! The nouns are those of [`mp`](crate), and so are the verbs; what is different is that a server stands
//! between the processes, so that every call can fail, and that what a process holds, it holds by a
//! lease. Everything here lives at the server until it is removed, and is of one namespace
//! ([`Connection::namespace`](crate::Connection::namespace)), whatever program uses it.
//!
//! `Lock::named("ledger")` and the like use the server that `MP_CLUSTER` names; [`Cluster`] has the
//! same for any [`Connection`](crate::Connection). What is named travels in arguments and results of
//! tasks, by its name; what is not (an [`mp::Lock`](crate::Lock) …) lives in the memory of one machine,
//! and is refused as an argument of a cluster's task before anything is sent.
//!
//! How it works is in `named/README.md`:
//!
//! - `cluster`: the connection, in one thread.
//! - `cell`: a state that is changed by compare-and-set, and waited for.
//! - `member`: which processes live.
//! - `hold`: what is held, and given back.
//! - `address`: how a name travels.

mod address;
mod barrier;
mod cell;
mod cluster;
mod event;
mod hold;
mod lock;
mod member;
mod queue;
mod rlock;
mod semaphore;
mod value;

pub use self::barrier::Barrier;
pub use self::cluster::Cluster;
pub(crate) use self::cluster::prepare;
pub use self::event::Event;
pub use self::lock::{Guard, Lock};
pub use self::queue::{Item, Iter, Queue};
pub use self::rlock::{RLock, RLockGuard};
pub use self::semaphore::{BoundedSemaphore, Permit, Semaphore};
pub use self::value::{Value, ValueGuard};
