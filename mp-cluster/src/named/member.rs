//! Which processes live: each that holds something says so again and again, and one that says nothing
//! for its lease is buried by whoever waits for it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::kv::{Operation, Store};
use mp::Error;
use serde::{Deserialize, Serialize};

use super::cluster::Core;
use crate::error::chain;
use crate::fault::fault;

const NO_ANSWER: &str = "there is no answer";
/// How often a process says in its lease that it lives.
const BEATS: u32 = 4;

/// A process that holds something, as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Who {
    pub(super) pid: u32,
    pub(super) name: String,
    pub(super) host: String,
}

/// What a process holds, in the state of what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hold {
    /// The member that has it.
    pub(super) member: String,
    /// What nothing else is called, so that it is given back once.
    pub(super) id: String,
}

/// What a member says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    who: Who,
    /// Milliseconds after which it is dead if it says nothing.
    lease: u64,
}

/// This process as a member, and what it knows of others.
pub(super) struct Members {
    store: Store,
    own: tokio::sync::Mutex<Option<Arc<Member>>>,
    census: Mutex<Census>,
}

#[derive(Default)]
struct Census {
    seen: HashMap<String, Observation>,
    dead: HashSet<String>,
}

/// When a member's last word was first seen.
#[derive(Clone, Copy)]
struct Observation {
    revision: u64,
    since: Instant,
    /// What the count of changes of the connection was.
    changes: u64,
}

/// A life of this process as a holder. It ends when the process does, or is taken for dead.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: String,
    life: Mutex<Life>,
}

#[derive(Debug)]
struct Life {
    revision: u64,
    /// Until when nobody takes it for dead.
    until: Instant,
    is_dead: bool,
}

impl Member {
    /// Whether what this member holds is certainly its own.
    pub(super) fn is_current(&self) -> bool {
        let life = self.life();
        !life.is_dead && Instant::now() < life.until
    }

    pub(super) fn is_dead(&self) -> bool {
        self.life().is_dead
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Members {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            own: tokio::sync::Mutex::new(None),
            census: Mutex::default(),
        }
    }

    /// Whether this process has said for too long nothing of itself.
    async fn is_mute(&self) -> bool {
        let own = self.own.lock().await;
        own.as_ref()
            .is_some_and(|own| !own.is_dead() && !own.is_current())
    }

    fn census(&self) -> MutexGuard<'_, Census> {
        self.census
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Who {
    pub(super) fn this_process() -> Self {
        let process = mp::current_process();
        Self {
            pid: process.id(),
            name: process.name().to_owned(),
            host: crate::host_name(),
        }
    }
}

/// What became of something that was written if nobody had written meanwhile.
pub(super) enum Swapped {
    Done(u64),
    Changed,
}

impl Core {
    /// This process as a member.
    pub(super) async fn member(self: &Arc<Self>) -> Result<Arc<Member>, Error> {
        let mut own = self.members.own.lock().await;
        if let Some(member) = &*own
            && !member.is_dead()
        {
            return Ok(member.clone());
        }
        let id = crate::random_name();
        let note = Note {
            who: Who::this_process(),
            lease: self.lease.as_millis() as u64,
        };
        let note = serde_json::to_vec(&note).unwrap_or_default();
        let began = Instant::now();
        let revision = match self.swap(&self.members.store, &id, 0, Some(&note)).await? {
            Swapped::Done(revision) => revision,
            // Nothing else has that name, so it was taken for dead already.
            Swapped::Changed => 0,
        };
        let life = Life {
            revision,
            until: began + self.lease,
            is_dead: revision == 0,
        };
        let member = Arc::new(Member {
            id,
            life: Mutex::new(life),
        });
        self.spawn_aside(beat(self.clone(), member.clone(), note));
        *own = Some(member.clone());
        Ok(member)
    }

    /// Takes leave as a member, having given everything back.
    pub(super) async fn leave(&self) {
        let own = self.members.own.lock().await.take();
        if let Some(own) = own {
            let revision = {
                let mut life = own.life();
                life.is_dead = true;
                life.revision
            };
            let _ = self
                .swap(&self.members.store, &own.id, revision, None)
                .await;
        }
    }

    /// Those of these members that are dead.
    pub(super) async fn dead<'a>(
        &self,
        members: impl IntoIterator<Item = &'a str>,
    ) -> Result<HashSet<String>, Error> {
        let mut dead = HashSet::new();
        let mut asked = HashSet::new();
        for member in members {
            if asked.insert(member) && self.is_dead(member).await? {
                dead.insert(member.to_owned());
            }
        }
        Ok(dead)
    }

    /// Whether a member is dead, which it is once it has said nothing for its lease, while we
    /// listened: then it is buried, so that it learns of it should it come back.
    async fn is_dead(&self, member: &str) -> Result<bool, Error> {
        if self.members.census().dead.contains(member) {
            return Ok(true);
        }
        let changes = self.changes();
        let entry = self.entry(&self.members.store, member).await?;
        // Whoever cannot say itself that it lives does not take others for dead: while the server has no
        // leader, nobody can. It counts from the beginning then.
        let is_mute = self.members.is_mute().await;
        let (revision, is_over) = match &entry {
            Some(entry) if entry.operation == Operation::Put => {
                let lease = serde_json::from_slice::<Note>(&entry.value)
                    .map_or(self.lease, |note| Duration::from_millis(note.lease));
                let seen = Observation {
                    revision: entry.revision,
                    since: Instant::now(),
                    changes,
                };
                let mut census = self.members.census();
                let first = census.seen.entry(member.to_owned()).or_insert(seen);
                if is_mute || first.revision != seen.revision || first.changes != seen.changes {
                    *first = seen;
                }
                (entry.revision, first.since.elapsed() >= lease)
            }
            // It took leave, or was buried.
            Some(_) => {
                self.note_dead(member);
                return Ok(true);
            }
            // What answers may be behind the others: that it is not there is confirmed by burying it.
            None => (0, true),
        };
        if !is_over {
            return Ok(false);
        }
        match self
            .swap(&self.members.store, member, revision, None)
            .await?
        {
            Swapped::Done(_) => {
                self.note_dead(member);
                Ok(true)
            }
            Swapped::Changed => {
                self.members.census().seen.remove(member);
                Ok(false)
            }
        }
    }

    fn note_dead(&self, member: &str) {
        let mut census = self.members.census();
        census.seen.remove(member);
        census.dead.insert(member.to_owned());
    }

    /// What is stored under a key.
    pub(super) async fn entry(
        &self,
        store: &Store,
        key: &str,
    ) -> Result<Option<async_nats::jetstream::kv::Entry>, Error> {
        let mut patience = self.patience("read what is shared by name");
        loop {
            let entry = tokio::time::timeout(self.attempt(), store.entry(key));
            let why = match self.link.until_denied(entry).await {
                Ok(Ok(Ok(entry))) => return Ok(entry),
                Ok(Ok(Err(error))) => chain(&error),
                Ok(Err(_)) => NO_ANSWER.to_owned(),
                Err(said) => return Err(self.link.denied("read what is shared by name", &said)),
            };
            patience.bear(why).await?;
        }
    }

    /// Writes under a key, or deletes what is there, if its revision is still this one. It is tried
    /// until the server has answered: what it did already, it knows by the message's id.
    pub(super) async fn swap(
        &self,
        store: &Store,
        key: &str,
        revision: u64,
        value: Option<&[u8]>,
    ) -> Result<Swapped, Error> {
        let what = "change what is shared by name";
        let mut patience = self.patience(what);
        let id = crate::random_name();
        loop {
            let write = self.write(store, key, revision, value, &id);
            let write = tokio::time::timeout(self.attempt(), write);
            let why = match self.link.until_denied(write).await {
                Ok(Ok(Ok(swapped))) => return Ok(swapped),
                Ok(Ok(Err(why))) => why?,
                Ok(Err(_)) => NO_ANSWER.to_owned(),
                Err(said) => return Err(self.link.denied(what, &said)),
            };
            patience.bear(why).await?;
        }
    }

    /// How long one attempt may take: a server that was restarted in the middle never answers, and a
    /// lease is short.
    fn attempt(&self) -> Duration {
        self.timeout.min(self.lease / BEATS)
    }

    /// One attempt. The error is why another may do better, or why it may not.
    async fn write(
        &self,
        store: &Store,
        key: &str,
        revision: u64,
        value: Option<&[u8]>,
        id: &str,
    ) -> Result<Swapped, Result<String, Error>> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string());
        headers.insert("Nats-Msg-Id", id);
        if value.is_none() {
            headers.insert("KV-Operation", "DEL");
        }
        let subject = format!("{}{key}", store.prefix);
        let payload = value.unwrap_or_default().to_vec();
        let context = &self.link.context;
        let sent = context
            .publish_with_headers(subject, headers, payload.into())
            .await;
        let sent = match sent {
            Ok(taken) => taken.await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(taken) => Ok(Swapped::Done(taken.sequence)),
            Err(error) => match error.kind() {
                PublishErrorKind::WrongLastSequence => Ok(Swapped::Changed),
                PublishErrorKind::MaxPayloadExceeded => Err(Err(crate::error::cluster(format!(
                    "it takes more bytes than the server takes in a message: {}",
                    chain(&error)
                )))),
                _ => Err(Ok(chain(&error))),
            },
        }
    }
}

/// Says again and again that a member lives, until it is told that it does not.
async fn beat(core: Arc<Core>, member: Arc<Member>, note: Vec<u8>) {
    let mut beats = tokio::time::interval(core.lease / BEATS);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    beats.tick().await;
    loop {
        beats.tick().await;
        let revision = {
            let life = member.life();
            if life.is_dead {
                return;
            }
            life.revision
        };
        let began = Instant::now();
        let swapped = core
            .swap(&core.members.store, &member.id, revision, Some(&note))
            .await;
        fault!("named.beat");
        let mut life = member.life();
        match swapped {
            Ok(Swapped::Done(revision)) => {
                life.revision = revision;
                life.until = began + core.lease;
            }
            Ok(Swapped::Changed) => life.is_dead = true,
            // The next beat tries again; meanwhile its time runs out.
            Err(_) => {}
        }
    }
}
