//! A state under a name that processes change one after the other: compare-and-set on one key of the
//! server, and waiting for others to change it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::kv::{Entry, Operation, Watch};
use futures_util::StreamExt;
use mp::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cluster::{Cluster, Core};
use super::member::Swapped;
use crate::error;
use crate::message;

/// The longest that a change may go unnoticed of which the server does not tell, as after its restart.
const POLL: Duration = Duration::from_millis(500);

/// A state on the server.
#[derive(Clone)]
pub(super) struct Cell {
    pub(super) cluster: Cluster,
    /// `kind.name`.
    key: String,
}

/// What a state consists of.
pub(super) trait State: Serialize + DeserializeOwned + Default + Sync {
    /// The members that hold something of it.
    fn members(&self) -> Vec<&str>;
}

/// A state as it was at a revision, and bytes that belong to it.
pub(super) struct Seen<S> {
    pub(super) state: S,
    pub(super) data: Vec<u8>,
    revision: u64,
}

/// What is to be done about a state.
pub(super) enum Step<R> {
    /// It was changed, and is to be written.
    Write(R),
    /// It stays as it is.
    Leave(R),
    /// Somebody else has to change it first.
    Wait,
}

/// How long somebody waits for others to change a state.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// Not at all.
    Now,
    Deadline(Instant),
    Forever,
}

impl Until {
    pub(super) fn after(timeout: Duration) -> Self {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => Self::Deadline(deadline),
            None => Self::Forever,
        }
    }

    pub(super) fn is_over(self) -> bool {
        match self {
            Self::Now => true,
            Self::Deadline(deadline) => Instant::now() >= deadline,
            Self::Forever => false,
        }
    }

    /// The time that is left, `most` at most.
    pub(super) fn left(self, most: Duration) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::Deadline(deadline) => {
                deadline.saturating_duration_since(Instant::now()).min(most)
            }
            Self::Forever => most,
        }
    }

    /// Runs something that is given up when the time is over. Without waiting there is still the time
    /// that an answer takes.
    pub(super) async fn bound<T>(
        self,
        core: &Core,
        future: impl Future<Output = Result<Option<T>, Error>>,
    ) -> Result<Option<T>, Error> {
        let left = match self {
            Self::Now => core.timeout,
            Self::Deadline(deadline) => deadline.saturating_duration_since(Instant::now()),
            Self::Forever => return future.await,
        };
        match tokio::time::timeout(left, future).await {
            Ok(result) => result,
            Err(_) if matches!(self, Self::Now) || !core.is_connected() => Err(core.no_answer()),
            Err(_) => Ok(None),
        }
    }
}

impl Cell {
    pub(super) fn new(cluster: Cluster, kind: &str, name: &str) -> Result<Self, Error> {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(is_fit) {
            let text = format!("a name is of letters, digits, `-` and `_`, not {name:?}");
            return Err(error::cluster(text));
        }
        let key = format!("{kind}.{name}");
        Ok(Self { cluster, key })
    }

    pub(super) fn name(&self) -> &str {
        self.key.split_once('.').map_or("", |(_, name)| name)
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        self.cluster.core()
    }

    /// The state now.
    pub(super) async fn read<S: State>(&self) -> Result<Seen<S>, Error> {
        let entry = self.core().entry(&self.core().objects, &self.key).await?;
        self.parse(entry.as_ref())
    }

    fn parse<S: State>(&self, entry: Option<&Entry>) -> Result<Seen<S>, Error> {
        let Some(entry) = entry else {
            return Ok(Seen {
                state: S::default(),
                data: Vec::new(),
                revision: 0,
            });
        };
        let revision = entry.revision;
        if entry.operation != Operation::Put {
            return Ok(Seen {
                state: S::default(),
                data: Vec::new(),
                revision,
            });
        }
        let Some((state, data)) = message::unpack(&entry.value) else {
            let text = format!("what is stored as {} is of another version of mp", self.key);
            return Err(error::cluster(text));
        };
        Ok(Seen {
            state,
            data: data.to_vec(),
            revision,
        })
    }

    /// Writes a state in the place of the one that was seen, unless others have changed that.
    pub(super) async fn write<S: State>(&self, seen: &Seen<S>) -> Result<Swapped, Error> {
        let core = self.core();
        let value = message::pack(&seen.state, &seen.data);
        core.swap(&core.objects, &self.key, seen.revision, Some(&value))
            .await
    }

    /// Has `step` look at the state, as often as others change it, until it has had its way. Returns
    /// what it said and the state's revision from then on; `None` when the time is over.
    ///
    /// `step` may be called for a change that then does not come about.
    pub(super) async fn change<S: State, R>(
        &self,
        until: Until,
        mut step: impl FnMut(&mut Seen<S>, &HashSet<String>) -> Step<R>,
    ) -> Result<Option<(R, u64)>, Error> {
        let core = self.core();
        let mut watch = None;
        let mut told = None;
        loop {
            let mut seen = match told.take() {
                Some(entry) => self.parse(Some(&entry))?,
                None => self.read::<S>().await?,
            };
            let dead = core.dead(seen.state.members()).await?;
            match step(&mut seen, &dead) {
                Step::Leave(result) => return Ok(Some((result, seen.revision))),
                Step::Write(result) => {
                    if let Swapped::Done(revision) = self.write(&seen).await? {
                        return Ok(Some((result, revision)));
                    }
                }
                Step::Wait if until.is_over() => return Ok(None),
                Step::Wait => told = self.wait(&mut watch, seen.revision, until).await,
            }
        }
    }

    /// Waits for another state than that of a revision, but not long: the server may be another by
    /// now, and holders may be dead.
    async fn wait(&self, watch: &mut Option<Watch>, revision: u64, until: Until) -> Option<Entry> {
        let core = self.core();
        let pause = until.left(POLL.min(core.lease / 8));
        if watch.is_none() {
            // It begins with the state at this moment.
            *watch = core.objects.watch_with_history(&self.key).await.ok();
        }
        let Some(watched) = watch else {
            tokio::time::sleep(pause).await;
            return None;
        };
        let news = async {
            loop {
                match watched.next().await {
                    Some(Ok(entry)) if entry.revision <= revision => {}
                    Some(Ok(entry)) => return Some(entry),
                    Some(Err(_)) | None => return None,
                }
            }
        };
        match tokio::time::timeout(pause, news).await {
            Ok(Some(entry)) => Some(entry),
            Ok(None) => {
                *watch = None;
                tokio::time::sleep(pause).await;
                None
            }
            Err(_) => None,
        }
    }

    /// Forgets the state.
    pub(super) async fn remove(&self) -> Result<(), Error> {
        loop {
            let entry = self.core().entry(&self.core().objects, &self.key).await?;
            let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else {
                return Ok(());
            };
            let objects = &self.core().objects;
            let swapped = self.core().swap(objects, &self.key, entry.revision, None);
            if let Swapped::Done(_) = swapped.await? {
                return Ok(());
            }
        }
    }
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
