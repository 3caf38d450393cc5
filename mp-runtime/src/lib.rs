#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
#![cfg_attr(
    mp_unsupported,
    allow(dead_code, reason = "without a platform much is out of reach")
)]

// Under `--cfg loom` the state machines on shared words are all there is.
#[cfg(not(loom))]
mod carried;
mod deadline;
#[cfg(not(loom))]
mod error;
mod fault;
mod loom;
#[cfg(not(loom))]
mod sys;

#[cfg(not(loom))]
mod life;
#[cfg(not(loom))]
mod shm;
mod sync;

#[cfg(not(loom))]
mod spans;
#[cfg(not(loom))]
mod task;
#[cfg(not(loom))]
mod trace;
#[cfg(not(loom))]
mod wire;

#[cfg(not(loom))]
mod listener;
#[cfg(not(loom))]
mod manager;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod pipe;
#[cfg(not(loom))]
mod pool;
#[cfg(not(loom))]
mod process;
#[cfg(not(loom))]
mod queue;
#[cfg(not(loom))]
mod wait;

#[cfg(not(loom))]
#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;

#[cfg(all(not(loom), feature = "progress"))]
pub use self::pool::Progress;
#[cfg(all(not(loom), feature = "sandbox"))]
pub use self::process::sandbox::Sandbox;

#[cfg(not(loom))]
pub use {
    self::error::{AnyError, Error, Result, TaskError},
    self::listener::{Address, Client, ConnectionOptions, Key, Listener},
    self::manager::{
        List, ListIter, Managed, Manager, ManagerBuilder, Map, Namespace, RemoteManager, Set,
    },
    self::memory::{Array, Bytes, Integer, LengthMismatch, Shared, Value},
    self::pipe::{
        Connection, Messages, RecvBytesIntoError, RecvError, RecvTimeoutError, SendError,
        SendTimeoutError, TryRecvError, TrySendError, pipe,
    },
    self::pool::{
        AsCompleted, FailureStats, Imap, Job, Pool, PoolBuilder, PoolEvent, PoolStats, Retries,
        Tuned, WorkerStats, as_completed, deadline, is_cancelled, pool, set_worker_state,
        try_worker_state, wait_all, worker_state,
    },
    self::process::{
        ActiveChild, Child, CurrentProcess, ParentProcess, Process, Scope, StartMethod, Stdio,
        active_children, command, cpu_count, current_process, init, parent_process, preload, scope,
        set_start_method, start_method,
    },
    self::queue::{
        GetError, GetManyError, GetTimeoutError, Iter, JoinTimeoutError, NotDecoded, PutError,
        PutTimeoutError, Queue, TaskDoneError, TryGetError, TryPutError,
    },
    self::sync::{
        AcquireTimeoutError, Barrier, BarrierWaitResult, BoundedSemaphore, BrokenBarrier,
        Condition, Event, Guard, Held, Lock, NoPermit, OwnerDied, Permit, RLock, RLockGuard,
        ReadGuard, ReleaseError, RwLock, Semaphore, TryAcquireError, TryWaitError, WriteGuard,
    },
    self::task::{Arguments, Nothing, Returned, TaskFn, Transfer},
    self::wait::{Descriptor, Waitable, wait},
    mp_macros::{shared, task},
};
