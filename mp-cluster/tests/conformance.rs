//! What is demanded of queues, locks and the like on one machine, demanded of those that several share
//! by name: the very same tests, with children that have a connection each.
//!
//! Of the areas queue, lock, semaphore, event and barrier these behaviours are left out:
//!
//! | behaviour | reason |
//! |---|---|
//! | lock: `test_repr_lock`, event: `test_repr` | `Debug` asks no server, and shows the name |
//! | lock: `test_rlock`, `test_rlock_context`, `test_repr_rlock` | there is no recursive lock by name |
//! | semaphore: `test_bounded_semaphore` | there is no bounded semaphore by name |
//! | all of condition, array, shared memory, pipe | they are of one machine: a `Value` with its lock stands for them |

mod support;

#[path = "../../tests/support/conformance/mod.rs"]
mod conformance;

/// What the server has, by name.
mod backend {
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(super) use mp::Error as Broken;
    pub(super) use mp::named::{Barrier, Event, Lock, Queue, Semaphore};
    use mp::named::{Cluster, Guard};
    use mp::{Arguments, Process, TaskFn, Transfer};
    pub(super) use mp_cluster as mp;

    use super::support::{self, Server};

    /// The passes of a barrier that must stay in step.
    pub(super) const PASSES: u32 = 100;

    /// A server, and a connection to it.
    pub(super) struct World {
        cluster: Cluster,
        server: Server,
        names: AtomicU32,
    }

    impl World {
        /// If there is a server to be had.
        pub(super) fn new() -> Option<Self> {
            let server = Server::start()?;
            Some(Self {
                cluster: Cluster::connect(server.url()).unwrap(),
                server,
                names: AtomicU32::new(0),
            })
        }

        fn name(&self) -> String {
            let number = self.names.fetch_add(1, Ordering::Relaxed);
            format!("name-{number}")
        }

        pub(super) fn queue<T>(&self) -> Queue<T> {
            self.cluster.queue(&self.name()).unwrap()
        }

        pub(super) fn bounded<T>(&self, capacity: usize) -> Queue<T> {
            self.cluster.bounded_queue(&self.name(), capacity).unwrap()
        }

        pub(super) fn lock(&self) -> Lock {
            self.cluster.lock(&self.name()).unwrap()
        }

        pub(super) fn semaphore(&self, permits: u32) -> Semaphore {
            self.cluster.semaphore(&self.name(), permits).unwrap()
        }

        pub(super) fn event(&self) -> Event {
            self.cluster.event(&self.name()).unwrap()
        }

        pub(super) fn barrier(&self, parties: u32) -> Barrier {
            self.cluster.barrier(&self.name(), parties).unwrap()
        }

        /// A process that has a connection of its own.
        pub(super) fn process<F, A, R>(&self, task: F, arguments: A) -> Process<R>
        where
            F: TaskFn<A, Output = R>,
            A: Arguments,
            R: Transfer,
        {
            Process::new(task, arguments).env("MP_CLUSTER", self.server.url())
        }
    }

    /// A queue that a child makes.
    pub(super) fn queue_of_a_child<T>() -> mp::Result<Queue<T>> {
        Queue::named("of-a-child")
    }

    /// Whether a lock was not acquired because somebody holds it.
    pub(super) fn is_held(result: mp::Result<Guard<'_>>) -> bool {
        result.is_err_and(|error| error.is_timeout())
    }

    /// Whether a lock was not acquired because the time was over.
    pub(super) fn is_late(result: mp::Result<Guard<'_>>) -> bool {
        is_held(result)
    }

    pub(super) fn is_abort(error: &Broken) -> bool {
        error.is_closed()
    }

    pub(super) fn is_timeout(error: &Broken) -> bool {
        error.is_timeout()
    }

    pub(super) fn eventually(is_so: impl FnMut() -> bool) {
        support::eventually("a condition", is_so);
    }
}
