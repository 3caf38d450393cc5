//! A task that every worker runs once.
//!
//! It goes to each agent by itself, not through the stream. Until an agent has the outcomes it says
//! again and again that it is at it, so that one that is gone is not waited for. An agent in turn
//! stops once the submitter is gone.

use std::pin::pin;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use async_nats::{Client, StatusCode, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use mp::__private::{
    Answer, Content, broadcast_encoded, pack_lost, pack_outcomes, pack_refusals, shared_of,
};
use mp::{Error, Pool};
use tokio::sync::watch;

use crate::blobs::{Blobs, Stored, Unavailable, Upload};
use crate::build::Build;
use crate::data::{self, Incoming, Missing, Outgoing};
use crate::errand::Awaited;
use crate::error;
use crate::link::{Link, PROGRESS};
use crate::message::{self, Announcement, Answered, Presence};

/// How long an agent may say nothing.
const SILENCE: Duration = Duration::from_secs(6);

/// A task, its arguments, and where the outcomes go.
#[derive(Debug)]
pub(crate) struct Broadcast {
    pub(crate) task: String,
    /// The record of its arguments.
    pub(crate) argument: Vec<u8>,
    /// The data that they refer to.
    pub(crate) shared: Vec<Content>,
    pub(crate) limit: Option<Duration>,
    pub(crate) answered: std_mpsc::Sender<Result<Vec<Answer>, Error>>,
}

impl Broadcast {
    /// Has all of these agents run it.
    pub(crate) async fn run(
        self,
        link: Link,
        blobs: Blobs,
        outgoing: Outgoing,
        pool: String,
        agents: Vec<Presence>,
    ) {
        // It is in the object store until all have answered.
        let stored = Stored::default();
        let shared = match outgoing.publish(self.shared, &stored).await {
            Ok(shared) => shared,
            Err(Unavailable(why)) => {
                let text = format!(
                    "the server's object store does not take the shared data of the arguments: {why}"
                );
                let _ = self.answered.send(Err(error::cluster(text)));
                return;
            }
        };
        let announcement = Announcement {
            pool,
            task: self.task.clone(),
            limit: self.limit.map(|limit| limit.as_nanos() as u64),
            signature: link.names.build.signature(&self.task),
            shared,
        };
        let order = message::pack(&announcement, &self.argument);
        let order = Bytes::from(order);
        let agents = agents.iter().map(|agent| {
            let subject = link.names.broadcast(&agent.agent);
            ask(&link.client, &blobs, agent, order.clone(), subject)
        });
        let answers = futures_util::future::join_all(agents).await;
        let _ = self.answered.send(Ok(answers));
    }
}

/// Has an agent run it, and returns the outcomes of its workers.
async fn ask(
    client: &Client,
    blobs: &Blobs,
    agent: &Presence,
    order: Bytes,
    subject: String,
) -> Answer {
    let workers = agent.workers as u32;
    let only = |records| Answer {
        records,
        shared: Vec::new(),
    };
    let most = client.max_payload();
    if order.len() > most {
        let why = format!(
            "its arguments take {} bytes, and the server takes {most}",
            order.len()
        );
        return only(pack_refusals(workers, &why));
    }
    let lost = |why: &str| only(pack_lost(workers, &format!("{why}: {}", agent.host)));
    let inbox = client.new_inbox();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else {
        return lost("the connection ended before it was sent to a machine");
    };
    let asked = client.publish_with_reply(subject, inbox, order);
    if asked.await.is_err() {
        return lost("the connection ended before it was sent to a machine");
    }
    let payload = loop {
        match tokio::time::timeout(SILENCE, answers.next()).await {
            Ok(Some(answer)) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                return only(pack_refusals(workers, "its worker's machine has left"));
            }
            // It is at it.
            Ok(Some(answer)) if answer.payload.is_empty() => {}
            Ok(Some(answer)) => break answer.payload,
            Ok(None) | Err(_) => return lost("nothing is heard of its worker's machine"),
        }
    };
    let Some((answered, records)) = message::unpack::<Answered>(&payload) else {
        return lost("what came back from its worker's machine makes no sense");
    };
    let shared = Incoming::new(blobs).get_all(&answered.shared).await;
    for datum in answered.shared.iter().flat_map(|(_, data)| data) {
        blobs.remove(&datum.blob.name).await;
    }
    match shared {
        Ok(shared) => Answer {
            records: records.to_vec(),
            shared,
        },
        Err(Missing::Unavailable) => lost("the shared data of its result is not there"),
        Err(Missing::Refused(why)) => lost(&why),
    }
}

/// Runs what another process has broadcast in each worker of `pool`, and answers, unless it is
/// stopped.
pub(crate) async fn answer(
    client: Client,
    (blobs, incoming): (Blobs, Incoming),
    (pool, build, host): (&Pool, &Build, &str),
    (announcement, record): (Announcement, &[u8]),
    reply: Subject,
    mut stopped: watch::Receiver<bool>,
) {
    let limit = announcement.limit.map(Duration::from_nanos);
    let only = |records| (records, Vec::new(), Vec::new());
    let outcomes = async {
        let workers = pool.workers() as u32;
        let signature = announcement.signature.as_deref();
        if let Some(why) = build.objection(&announcement.task, signature) {
            return only(pack_refusals(workers, &why));
        }
        let mut shared = Vec::with_capacity(announcement.shared.len());
        for datum in &announcement.shared {
            match incoming.get(datum).await {
                Ok(content) => shared.push(content),
                Err(Missing::Refused(why)) => return only(pack_refusals(workers, &why)),
                Err(Missing::Unavailable) => {
                    let why = "the shared data of its arguments is not there";
                    return only(pack_refusals(workers, why));
                }
            }
        }
        let begun = broadcast_encoded(pool, &announcement.task, record, &shared, limit);
        let outcomes = match begun.map(Awaited) {
            Ok(mut job) => (&mut job.0).await,
            Err(error) => return only(pack_refusals(workers, &error.to_string())),
        };
        let there = match outcomes.and_then(|outcomes| Ok((shared_of(&outcomes)?, outcomes))) {
            Ok(there) => there,
            Err(error) => return only(pack_lost(workers, &error.to_string())),
        };
        let (shared, outcomes) = there;
        let mut uploads = Vec::new();
        match data::upload(&blobs, &announcement.pool, &shared, &mut uploads).await {
            Ok(shared) => (pack_outcomes(outcomes, host), shared, uploads),
            Err(Unavailable(why)) => {
                let why = format!(
                    "the server's object store does not take the shared data of its result: {why}"
                );
                only(pack_lost(workers, &why))
            }
        }
    };
    let mut outcomes = pin!(outcomes);
    let mut progress = tokio::time::interval(PROGRESS);
    let (records, shared, uploads) = loop {
        tokio::select! {
            outcomes = &mut outcomes => break outcomes,
            Ok(()) = stopped.changed() => return,
            _ = progress.tick() => {
                let _ = client.publish(reply.clone(), "".into()).await;
            }
        }
    };
    let most = client.max_payload();
    let mut answer = message::pack(&Answered { shared }, &records);
    if answer.len() > most {
        let why = format!(
            "its outcomes take {} bytes, and the server takes {most}",
            records.len()
        );
        let lost = pack_lost(pool.workers() as u32, &why);
        answer = message::pack(&Answered { shared: Vec::new() }, &lost);
    } else {
        // Who has fetched it removes it, or it goes with its pool.
        uploads.into_iter().for_each(Upload::keep);
    }
    let _ = client.publish(reply, answer.into()).await;
}
