//! What agents say, and what they are answered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Message, Subject};
use bytes::Bytes;
use mp::__private::Content;

use super::State;
use crate::blobs::{Blobs, Unavailable};
use crate::data::{Incoming, Missing};
use crate::fault::fault;
use crate::link::PROGRESS;
use crate::message::{self, MISSING, Report, Unwanted, Word};

/// Agents that may be lost while they are at the same item.
const MOST_LOST: u32 = 3;

/// How long an agent is at a message without saying so again.
const HEARD: Duration = PROGRESS.saturating_mul(2);
/// Why a job is not begun anew that an agent may have begun.
const LOST_IN_DRAIN: &str = "who had it was lost, and the pool is being drained";

/// Outcomes of which something was in the object store, if it could be had.
pub(super) struct Fetched {
    report: Report,
    outcomes: Result<Outcomes, Missing>,
}

/// The records of outcomes, and the data that they refer to.
struct Outcomes {
    records: Bytes,
    shared: SharedData,
}

/// The shared data of results, with their places, by the places of jobs.
type SharedData = HashMap<u32, Vec<(u32, Vec<Arc<Content>>)>>;

impl State {
    /// Takes what an agent says, and answers it.
    pub(super) async fn take_word(&mut self, message: &Message) {
        let reply = message.reply.clone();
        let Some((word, records)) = message::unpack::<Word>(&message.payload) else {
            return;
        };
        let mut answer = Vec::new();
        match word {
            Word::Done(report) => {
                if let Some(out) = self.out.get_mut(report.id)
                    && !(report.blob.is_none() && report.shared.is_empty())
                    // Otherwise the agent did not hear that they were taken, and they are there no more.
                    && out.jobs().any(|(place, _)| report.jobs.iter().any(|told| told.place == place))
                {
                    // Where it asked before it does not wait any more, and an answer there may be forbidden.
                    if let Some(reply) = reply
                        && out.fetching.replace(reply).is_none()
                    {
                        self.fetch(report, Bytes::copy_from_slice(records));
                    }
                    // It is answered once they are here.
                    return;
                }
                fault!("submit.finishing");
                self.finish(&report, records, &SharedData::new());
                fault!("submit.finished");
            }
            Word::Failed { id, place, why } => {
                let failed = match place {
                    Some(place) => self.out.take(id, place).into_iter().collect(),
                    None => self.out.remove(id),
                };
                for shipment in failed {
                    shipment.lose(&why);
                }
            }
            Word::Lacking { id } => {
                if let Some(out) = self.out.get_mut(id)
                    && out.again.is_none()
                {
                    self.blobs.unshelve(&out.stored);
                    self.note_unstored(id, "what was put there is not there");
                }
            }
            Word::Untouched { id } => {
                if let Some(out) = self.out.get_mut(id) {
                    out.is_untouched = true;
                    out.at_work = None;
                }
            }
            Word::Again { id } => {
                let mut unwanted = Unwanted::default();
                if !self.note_lost(id) {
                    unwanted.messages.push(id);
                }
                answer = message::pack_head(&unwanted);
            }
            Word::AtWork(ids) => {
                let now = Instant::now();
                let mut unwanted = Unwanted::default();
                for id in ids {
                    match self.out.get_mut(id) {
                        Some(out) => {
                            out.at_work = Some(now);
                            let over = out.over().map(|place| (id, place));
                            unwanted.jobs.extend(over);
                        }
                        None => unwanted.messages.push(id),
                    }
                }
                answer = message::pack_head(&unwanted);
            }
        }
        // Also of outcomes that were taken before: the agent did not hear of it.
        self.answer(reply, answer.into()).await;
    }

    /// An agent has what another one did not bring to an end; whether it is to begin with it.
    pub(super) fn note_lost(&mut self, id: u64) -> bool {
        let Some(out) = self.out.get_mut(id) else {
            return false;
        };
        if std::mem::take(&mut out.is_untouched) {
            return true;
        }
        if out.at_work.is_some_and(|said| said.elapsed() < HEARD) {
            // Who was cut off is back, and goes on. If it is not heard of any more the message is sent again.
            return false;
        }
        out.at_work = None;
        out.lost += 1;
        let lost = out.lost;
        if out.left() > 1 {
            // One of the jobs may be to blame: those that have no outcome go one by one.
            for shipment in self.out.remove(id) {
                match self.is_draining {
                    false => self.send_new(vec![shipment], lost),
                    true => shipment.lose(LOST_IN_DRAIN),
                }
            }
            return false;
        }
        let items: u32 = out.jobs().map(|(_, shipment)| shipment.items().0).sum();
        // Of several items one may be to blame: they are tried by themselves.
        let most = if items > 1 { 1 } else { MOST_LOST };
        if lost < most {
            return true;
        }
        let why = format!(
            "{most} agents, one after the other, ended or were cut off while they were at it"
        );
        for shipment in self.out.remove(id) {
            shipment.crash(&why);
        }
        false
    }

    fn finish(&mut self, report: &Report, mut records: &[u8], shared: &SharedData) {
        for told in &report.jobs {
            // What is not there makes no sense as an outcome.
            let (outcomes, rest) = records.split_at_checked(told.len).unwrap_or_default();
            records = rest;
            if let Some(shipment) = self.out.take(report.id, told.place) {
                let elapsed = Duration::from_nanos(told.elapsed);
                let (count, _) = shipment.items();
                if count > 0 {
                    self.paces.learn(shipment.task(), elapsed / count);
                }
                let shared = shared.get(&told.place).map_or(&[][..], |shared| shared);
                shipment.finish(outcomes, shared, elapsed);
            }
        }
        // Not in the message that is theirs: that is the agent's until it is through with the others.
        let lost = self.out.get_mut(report.id).map_or(0, |out| out.lost);
        for place in &report.back {
            let out = self.out.get_mut(report.id);
            let is_wanted = out.is_some_and(|out| out.is_wanted_at(*place));
            if let Some(shipment) = self.out.take(report.id, *place) {
                match lost {
                    0 if self.is_draining => shipment.give_back(),
                    _ if self.is_draining => shipment.lose(LOST_IN_DRAIN),
                    _ if !is_wanted => shipment.refuse("it was handed back"),
                    0 => self.waiting.push(shipment),
                    _ => self.send_new(vec![shipment], lost),
                }
            }
        }
        self.send_waiting();
    }

    /// Fetches outcomes that are in the object store, or the shared data that they refer to.
    fn fetch(&self, report: Report, records: Bytes) {
        let blobs = self.blobs.clone();
        let fetching = self.fetching.clone();
        tokio::spawn(async move {
            let outcomes = Outcomes::fetch(&blobs, &report, records).await;
            let is_there = !matches!(outcomes, Err(Missing::Unavailable));
            let shared = report.shared.values().flatten();
            let shared = shared.flat_map(|(_, data)| data).map(|datum| &datum.blob);
            let named: HashSet<_> = report.blob.iter().chain(shared).cloned().collect();
            fault!("submit.fetched");
            let _ = fetching.send(Fetched { report, outcomes });
            if is_there {
                for blob in named {
                    blobs.remove(&blob.name).await;
                }
                fault!("submit.removed");
            }
        });
    }

    pub(super) async fn note_fetched(&mut self, fetched: Fetched) {
        let out = self.out.get_mut(fetched.report.id);
        let reply = out.and_then(|out| out.fetching.take());
        let answer = match fetched.outcomes {
            Ok(outcomes) => {
                self.finish(&fetched.report, &outcomes.records, &outcomes.shared);
                Bytes::new()
            }
            Err(Missing::Refused(why)) => {
                for told in &fetched.report.jobs {
                    if let Some(shipment) = self.out.take(fetched.report.id, told.place) {
                        shipment.lose(&why);
                    }
                }
                Bytes::new()
            }
            Err(Missing::Unavailable) => Bytes::from_static(MISSING),
        };
        self.answer(reply, answer).await;
    }

    /// Answers an agent. One that waits in vain says it again.
    async fn answer(&self, reply: Option<Subject>, answer: Bytes) {
        if let Some(reply) = reply
            && self.link.is_connected()
        {
            self.link.say(reply, None, answer).await;
        }
    }
}

impl Outcomes {
    /// Gets what is in the object store.
    async fn fetch(blobs: &Blobs, report: &Report, records: Bytes) -> Result<Self, Missing> {
        let records = match &report.blob {
            Some(blob) => {
                let got = blobs.get(blob).await;
                got.map_err(|Unavailable(_)| Missing::Unavailable)?
            }
            None => records,
        };
        let incoming = Incoming::new(blobs);
        let mut shared = SharedData::new();
        for (job, results) in &report.shared {
            shared.insert(*job, incoming.get_all(results).await?);
        }
        Ok(Self { records, shared })
    }
}
