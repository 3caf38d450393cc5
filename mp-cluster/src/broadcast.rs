//! A task that every worker runs once.
//!
//! It goes to each agent by itself, not through the stream. Until an agent has the outcomes it says
//! again and again that it is at it, so that one that is gone is not waited for. An agent in turn
//! stops once the submitter is gone.

use std::pin::pin;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use async_nats::{Client, StatusCode, Subject};
use futures_util::StreamExt;
use mp::__private::{broadcast_encoded, pack_lost, pack_outcomes, pack_refusals};
use mp::{Error, Pool};
use tokio::sync::watch;

use crate::build::Build;
use crate::errand::Awaited;
use crate::link::PROGRESS;
use crate::message::{self, Announcement, Presence};

/// How long an agent may say nothing.
const SILENCE: Duration = Duration::from_secs(6);

/// A task, its arguments, and where the outcomes go.
#[derive(Debug)]
pub(crate) struct Broadcast {
    pub(crate) task: String,
    /// The record of its arguments.
    pub(crate) argument: Vec<u8>,
    pub(crate) limit: Option<Duration>,
    pub(crate) answered: std_mpsc::Sender<Result<Vec<u8>, Error>>,
}

impl Broadcast {
    /// Has an agent run it, and returns the outcomes of its workers.
    pub(crate) fn to(
        &self,
        pool: &str,
        build: &Build,
        agent: Presence,
        client: Client,
        subject: String,
    ) -> impl Future<Output = Vec<u8>> + Send + use<> {
        let announcement = Announcement {
            pool: pool.to_owned(),
            task: self.task.clone(),
            limit: self.limit.map(|limit| limit.as_nanos() as u64),
            signature: build.signature(&self.task),
        };
        let order = message::pack(&announcement, &self.argument);
        async move {
            let workers = agent.workers as u32;
            let most = client.max_payload();
            if order.len() > most {
                let why = format!(
                    "its arguments take {} bytes, and the server takes {most}",
                    order.len()
                );
                return pack_refusals(workers, &why);
            }
            let lost = |why: &str| pack_lost(workers, &format!("{why}: {}", agent.host));
            let inbox = client.new_inbox();
            let Ok(mut answers) = client.subscribe(inbox.clone()).await else {
                return lost("the connection ended before it was sent to a machine");
            };
            let asked = client.publish_with_reply(subject, inbox, order.into());
            if asked.await.is_err() {
                return lost("the connection ended before it was sent to a machine");
            }
            loop {
                match tokio::time::timeout(SILENCE, answers.next()).await {
                    Ok(Some(answer)) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                        return pack_refusals(workers, "its worker's machine has left");
                    }
                    // It is at it.
                    Ok(Some(answer)) if answer.payload.is_empty() => {}
                    Ok(Some(answer)) => return answer.payload.to_vec(),
                    Ok(None) | Err(_) => return lost("nothing is heard of its worker's machine"),
                }
            }
        }
    }
}

/// Runs what another process has broadcast in each worker of `pool`, and answers, unless it is
/// stopped.
pub(crate) async fn answer(
    client: Client,
    (pool, build, host): (&Pool, &Build, &str),
    (announcement, record): (Announcement, &[u8]),
    reply: Subject,
    mut stopped: watch::Receiver<bool>,
) {
    let limit = announcement.limit.map(Duration::from_nanos);
    let outcomes = async {
        let workers = pool.workers() as u32;
        let signature = announcement.signature.as_deref();
        if let Some(why) = build.objection(&announcement.task, signature) {
            return pack_refusals(workers, &why);
        }
        match broadcast_encoded(pool, &announcement.task, record, limit) {
            Ok(job) => {
                let mut job = Awaited(job);
                match (&mut job.0).await {
                    Ok(outcomes) => pack_outcomes(outcomes, host),
                    Err(error) => pack_lost(workers, &error.to_string()),
                }
            }
            Err(error) => pack_refusals(workers, &error.to_string()),
        }
    };
    let mut outcomes = pin!(outcomes);
    let mut progress = tokio::time::interval(PROGRESS);
    let outcomes = loop {
        tokio::select! {
            outcomes = &mut outcomes => break outcomes,
            Ok(()) = stopped.changed() => return,
            _ = progress.tick() => {
                let _ = client.publish(reply.clone(), "".into()).await;
            }
        }
    };
    let most = client.max_payload();
    let outcomes = match outcomes.len() > most {
        true => pack_lost(
            pool.workers() as u32,
            &format!(
                "its outcomes take {} bytes, and the server takes {most}",
                outcomes.len()
            ),
        ),
        false => outcomes,
    };
    let _ = client.publish(reply, outcomes.into()).await;
}
