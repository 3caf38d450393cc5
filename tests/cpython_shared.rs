//! What `support/conformance` demands, demanded of processes on one machine. `mp-cluster` has the same
//! for several.

mod support;

#[path = "support/conformance/mod.rs"]
mod conformance;

/// What lies in the program's shared memory.
mod backend {
    pub(super) use ::mp;
    pub(super) use mp::{
        AcquireTimeoutError, Barrier, BrokenBarrier as Broken, Event, Lock, Queue, RLock,
        Semaphore, TryAcquireError,
    };
    use mp::{Arguments, BoundedSemaphore, Pool, PoolBuilder, Process, TaskFn, Transfer};

    pub(super) use super::support::eventually;

    /// The passes of a barrier that must stay in step.
    pub(super) const PASSES: u32 = 1000;

    /// Whether a pool's workers are on other machines.
    pub(super) const IS_ELSEWHERE: bool = false;

    /// What is in it, belongs to a test.
    pub(super) struct World {
        test: &'static str,
    }

    impl World {
        /// There always is one.
        pub(super) fn new() -> Option<Self> {
            Self::of("")
        }

        /// As `new`, for a test with pools.
        pub(super) fn of(test: &'static str) -> Option<Self> {
            Some(Self { test })
        }

        pub(super) fn pool(&self, workers: usize) -> Pool {
            self.pool_with(workers, |_| {})
        }

        pub(super) fn pool_with(
            &self,
            workers: usize,
            settings: impl FnOnce(&mut PoolBuilder),
        ) -> Pool {
            let mut builder = Pool::builder();
            builder.workers(workers).name(self.test);
            settings(&mut builder);
            builder.build().unwrap()
        }

        /// Waits until none of so many workers has to do with a pool that has ended.
        pub(super) fn await_let_go(&self, _workers: usize) {
            let is_ours = |child: &mp::ActiveChild| child.name().starts_with(self.test);
            eventually(|| !mp::active_children().iter().any(is_ours));
        }

        pub(super) fn queue<T>(&self) -> Queue<T> {
            Queue::new().unwrap()
        }

        pub(super) fn bounded<T>(&self, capacity: usize) -> Queue<T> {
            Queue::bounded(capacity).unwrap()
        }

        pub(super) fn lock(&self) -> Lock {
            Lock::new().unwrap()
        }

        pub(super) fn rlock(&self) -> RLock {
            RLock::new().unwrap()
        }

        pub(super) fn semaphore(&self, permits: u32) -> Semaphore {
            Semaphore::new(permits).unwrap()
        }

        pub(super) fn bounded_semaphore(&self, permits: u32) -> BoundedSemaphore {
            BoundedSemaphore::new(permits).unwrap()
        }

        pub(super) fn event(&self) -> Event {
            Event::new().unwrap()
        }

        pub(super) fn barrier(&self, parties: u32) -> Barrier {
            Barrier::new(parties).unwrap()
        }

        /// A process in which what is shared is known.
        pub(super) fn process<F, A, R>(&self, task: F, arguments: A) -> Process<R>
        where
            F: TaskFn<A, Output = R>,
            A: Arguments,
            R: Transfer,
        {
            Process::new(task, arguments)
        }
    }

    /// A queue that a child makes.
    pub(super) fn queue_of_a_child<T>() -> mp::Result<Queue<T>> {
        Queue::new()
    }

    /// Whether a lock was not acquired because somebody holds it.
    pub(super) fn is_held<G>(result: Result<G, TryAcquireError>) -> bool {
        matches!(result, Err(TryAcquireError::WouldBlock))
    }

    /// Whether a lock was not acquired because the time was over.
    pub(super) fn is_late<G>(result: Result<G, AcquireTimeoutError>) -> bool {
        matches!(result, Err(AcquireTimeoutError::Timeout))
    }

    pub(super) fn is_abort(error: &Broken) -> bool {
        error.is_abort()
    }

    pub(super) fn is_timeout(error: &Broken) -> bool {
        error.is_timeout()
    }
}
