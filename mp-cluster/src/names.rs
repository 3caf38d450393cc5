//! What things are called on the server.
//!
//! Everything of a namespace `ns` is in the subjects `mp.ns.>`, so that permissions can be given by
//! subject: see `deploy/nats.conf`.

use crate::build::Build;

/// The names of one namespace, as one build uses them.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    namespace: String,
    pub(crate) build: Build,
}

impl Names {
    pub(crate) fn new(namespace: &str, build: Build) -> Self {
        Self {
            namespace: namespace.to_owned(),
            build,
        }
    }

    fn subject(&self, rest: &str) -> String {
        format!("mp.{}.{rest}", self.namespace)
    }

    /// The stream of the tasks that wait or are leased.
    pub(crate) fn stream(&self) -> String {
        format!("mp-{}", self.namespace)
    }

    /// The subjects of that stream.
    pub(crate) fn tasks(&self) -> String {
        self.subject("t.>")
    }

    /// The tasks of this build, which only agents of this build are given.
    pub(crate) fn tasks_of_build(&self) -> String {
        self.subject(&format!("t.{}.>", self.build))
    }

    /// The tasks of a pool.
    pub(crate) fn tasks_of_pool(&self, pool: &str) -> String {
        self.subject(&format!("t.{}.{pool}.*", self.build))
    }

    /// One task message.
    pub(crate) fn task(&self, pool: &str, id: u64) -> String {
        self.subject(&format!("t.{}.{pool}.{id}", self.build))
    }

    /// The pool and the number in a task's subject.
    pub(crate) fn parse_task<'a>(&self, subject: &'a str) -> Option<(&'a str, u64)> {
        let rest = subject.strip_prefix(&self.subject(&format!("t.{}.", self.build)))?;
        let (pool, id) = rest.split_once('.')?;
        Some((pool, id.parse().ok()?))
    }

    /// The consumer from which the agents of this build pull.
    pub(crate) fn consumer(&self) -> String {
        self.build.to_string()
    }

    /// Where a pool takes outcomes.
    pub(crate) fn outcomes(&self, pool: &str) -> String {
        self.subject(&format!("r.{pool}"))
    }

    /// Where agents are told what is not wanted any more.
    pub(crate) fn cancelled(&self) -> String {
        self.subject("c")
    }

    /// Where agents of this build answer that they are there.
    pub(crate) fn roll_of_build(&self) -> String {
        self.subject(&format!("a.{}", self.build))
    }

    /// Where agents of any build answer.
    pub(crate) fn roll(&self) -> String {
        self.subject("a")
    }

    /// The key-value store of what is shared by name.
    pub(crate) fn objects(&self) -> String {
        format!("mp-{}", self.namespace)
    }

    /// The key-value store of the processes that hold something of it.
    pub(crate) fn members(&self) -> String {
        format!("mp_members-{}", self.namespace)
    }

    /// The stream of a named queue.
    pub(crate) fn queue_stream(&self, name: &str) -> String {
        format!("mp-{}={name}", self.namespace)
    }

    /// Where values are put into it.
    pub(crate) fn queue(&self, name: &str) -> String {
        self.subject(&format!("q.{name}"))
    }

    /// What that is replaced by when it is closed.
    pub(crate) fn closed_queue(&self, name: &str) -> String {
        self.subject(&format!("qc.{name}"))
    }

    /// Where those who wait for it are told of changes.
    pub(crate) fn queue_news(&self, name: &str) -> String {
        self.subject(&format!("qn.{name}"))
    }

    /// Where one agent is asked to run something in each of its workers.
    pub(crate) fn broadcast(&self, agent: &str) -> String {
        self.subject(&format!("b.{agent}"))
    }
}
