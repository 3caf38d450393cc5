//! What is demanded of pools, queues, locks and the like on one machine, demanded of those of several:
//! the very same tests, with an agent for the workers and children that have a connection each.
//!
//! Of the areas pool, queue, lock, semaphore, event and barrier these behaviours are left out. Those of
//! pools are in `tests/cpython_pool.rs`, for one machine.
//!
//! | behaviour | reason |
//! |---|---|
//! | lock: `test_repr_lock`, `test_repr_rlock`, event: `test_repr` | `Debug` asks no server, and shows the name |
//! | pool: `test_make_pool`, `test_max_workers_negative` | how many workers there are is the agents' matter |
//! | pool: `test_large_pool`, `test_release_unused_processes`, `test_failed_worker_replacement_breaks_pool` | how workers start, or fail to, is that of an agent's own pool, which is a local one |
//! | pool: `test_idle_process_reuse_one`, `test_idle_process_reuse_multiple` | as before: when an agent's workers start |
//! | pool: `FailingInitializerMixin`, `test_initializer` | an agent whose workers cannot be initialized ends, and says why to whoever started it |
//! | pool: `test_kill_workers`, `test_force_shutdown_workers_dead_workers`, `test_force_shutdown_workers_not_started_yet` | the end of a pool is not the end of an agent's workers: they are free for another, which all tests of ends show |
//! | pool: `test_worker_finalization_via_atexit_handler_of_multiprocessing`, `test_interpreter_shutdown`, `test_hang_gh83386` | workers are no children of the program, and print where they are; its end is in `kills.rs` |
//! | all of condition, array, shared memory, pipe | they are of one machine: a `Value` with its lock stands for them |

mod support;

#[path = "../../tests/support/conformance/mod.rs"]
mod conformance;

/// What the server has, by name.
mod backend {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    pub(super) use mp::Error as Broken;
    pub(super) use mp::named::{Barrier, Event, Lock, Queue, RLock, Semaphore};
    use mp::named::{BoundedSemaphore, Cluster};
    use mp::{Arguments, Connect, Connection, Pool, PoolBuilder, Process, TaskFn, Transfer};
    pub(super) use mp_cluster as mp;

    use super::support::{self, Agent, Server};

    /// The passes of a barrier that must stay in step.
    pub(super) const PASSES: u32 = 100;

    /// Whether a pool's workers are on other machines.
    pub(super) const IS_ELSEWHERE: bool = true;

    /// A server, and a connection to it.
    pub(super) struct World {
        cluster: Cluster,
        /// Nobody's in an agent, which is told of one.
        server: Option<Server>,
        test: &'static str,
        agent: Mutex<Option<Agent>>,
        names: AtomicU32,
    }

    impl World {
        /// If there is a server to be had.
        pub(super) fn new() -> Option<Self> {
            Self::of("")
        }

        /// As `new`, for a test with pools; a function in it is called `test`. That of an agent is the
        /// one in which it was started.
        pub(super) fn of(test: &'static str) -> Option<Self> {
            let (server, cluster) = match Connection::from_env().unwrap() {
                Some(connection) => (None, Cluster::connect(connection).unwrap()),
                None => {
                    let server = Server::start()?;
                    let cluster = Cluster::connect(server.url()).unwrap();
                    (Some(server), cluster)
                }
            };
            Some(Self {
                cluster,
                server,
                test,
                agent: Mutex::new(None),
                names: AtomicU32::new(0),
            })
        }

        pub(super) fn pool(&self, workers: usize) -> Pool {
            self.pool_with(workers, |_| {})
        }

        /// A pool of the workers of an agent. The first call starts it: this binary again, which runs
        /// the same test up to here, and serves.
        pub(super) fn pool_with(
            &self,
            workers: usize,
            settings: impl FnOnce(&mut PoolBuilder),
        ) -> Pool {
            let mut builder = Pool::builder();
            builder.workers(workers);
            settings(&mut builder);
            let Some(server) = &self.server else {
                let pool = builder.build();
                panic!("an agent does not come back: {pool:?}");
            };
            self.agent.lock().unwrap().get_or_insert_with(|| {
                let (_crate, name) = self.test.split_once("::").unwrap();
                let name = name.trim_end_matches("::{{closure}}");
                Agent::in_test(name, &server.url())
            });
            let mut connection = Connection::new(server.url());
            connection.wait_for_workers(workers, Duration::from_secs(60));
            builder.connect(connection).unwrap()
        }

        /// Waits until none of so many workers has to do with a pool that has ended: another one can
        /// have them all.
        pub(super) fn await_let_go(&self, workers: usize) {
            let pool = self.pool_with(workers, |builder| {
                builder.chunk_size(1);
            });
            let (arrived, go) = (self.queue::<()>(), self.queue::<()>());
            let jobs: Vec<_> = (0..workers)
                .map(|_| pool.submit(arrive, (arrived.clone(), go.clone())).unwrap())
                .collect();
            for _ in 0..workers {
                arrived.get().unwrap();
            }
            go.close().unwrap();
            for job in jobs {
                job.wait().unwrap();
            }
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

        pub(super) fn rlock(&self) -> RLock {
            self.cluster.rlock(&self.name()).unwrap()
        }

        pub(super) fn semaphore(&self, permits: u32) -> Semaphore {
            self.cluster.semaphore(&self.name(), permits).unwrap()
        }

        pub(super) fn bounded_semaphore(&self, permits: u32) -> BoundedSemaphore {
            let name = self.name();
            self.cluster.bounded_semaphore(&name, permits).unwrap()
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
            let server = self.server.as_ref().unwrap();
            Process::new(task, arguments).env("MP_CLUSTER", server.url())
        }
    }

    #[mp::task]
    fn arrive(arrived: Queue<()>, go: Queue<()>) {
        arrived.put(()).unwrap();
        let _ = go.get();
    }

    /// A queue that a child makes.
    pub(super) fn queue_of_a_child<T>() -> mp::Result<Queue<T>> {
        Queue::named("of-a-child")
    }

    /// Whether a lock was not acquired because somebody holds it.
    pub(super) fn is_held<G>(result: mp::Result<G>) -> bool {
        result.is_err_and(|error| error.is_timeout())
    }

    /// Whether a lock was not acquired because the time was over.
    pub(super) fn is_late<G>(result: mp::Result<G>) -> bool {
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
