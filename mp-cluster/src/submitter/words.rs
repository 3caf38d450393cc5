//! What agents say, and what they are answered.

use std::time::{Duration, Instant};

use async_nats::{Message, Subject};
use bytes::Bytes;

use super::State;
use crate::fault::fault;
use crate::message::{self, Elsewhere, MISSING, Report, Unwanted, Word};

/// Agents that may be lost while they are at the same item.
const MOST_LOST: u32 = 3;

/// Outcomes that were fetched from the object store, if they could be.
pub(super) struct Fetched {
    report: Report,
    records: Option<Bytes>,
    reply: Option<Subject>,
}

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
                    && let Some(blob) = report.blob.clone()
                {
                    if !out.is_fetching {
                        out.is_fetching = true;
                        self.fetch(report, blob, reply);
                    }
                    // It is answered once they are here.
                    return;
                }
                fault!("submit.finishing");
                self.finish(&report, records);
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
                    // It was not begun.
                    out.lost = out.lost.saturating_sub(1);
                    self.blobs.unshelve(&out.stored);
                    self.note_unstored(id, "what was put there is not there");
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
    fn note_lost(&mut self, id: u64) -> bool {
        let Some(out) = self.out.get_mut(id) else {
            return false;
        };
        out.lost += 1;
        let lost = out.lost;
        if out.left() > 1 {
            // One of the jobs may be to blame: those that have no outcome go one by one.
            for shipment in self.out.remove(id) {
                match self.is_draining {
                    false => self.send_new(vec![shipment], lost),
                    true => shipment.lose("who had it was lost, and the pool is being drained"),
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

    fn finish(&mut self, report: &Report, mut records: &[u8]) {
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
                shipment.finish(outcomes, elapsed);
            }
        }
        // Not in the message that is theirs: that is the agent's until it is through with the others.
        let lost = self.out.get_mut(report.id).map_or(0, |out| out.lost);
        for place in &report.back {
            if let Some(shipment) = self.out.take(report.id, *place) {
                match lost {
                    _ if self.is_draining => shipment.give_back(),
                    0 => self.waiting.push(shipment),
                    _ => self.send_new(vec![shipment], lost),
                }
            }
        }
        self.send_waiting();
    }

    /// Fetches outcomes that are in the object store.
    fn fetch(&self, report: Report, blob: Elsewhere, reply: Option<Subject>) {
        let blobs = self.blobs.clone();
        let fetching = self.fetching.clone();
        tokio::spawn(async move {
            let records = blobs.get(&blob).await.ok();
            let is_there = records.is_some();
            fault!("submit.fetched");
            let _ = fetching.send(Fetched {
                report,
                records,
                reply,
            });
            if is_there {
                blobs.remove(&blob.name).await;
                fault!("submit.removed");
            }
        });
    }

    pub(super) async fn note_fetched(&mut self, fetched: Fetched) {
        let answer = match fetched.records {
            Some(records) => {
                self.finish(&fetched.report, &records);
                Bytes::new()
            }
            None => {
                if let Some(out) = self.out.get_mut(fetched.report.id) {
                    out.is_fetching = false;
                }
                Bytes::from_static(MISSING)
            }
        };
        self.answer(fetched.reply, answer).await;
    }

    /// Answers an agent. One that waits in vain says it again.
    async fn answer(&self, reply: Option<Subject>, answer: Bytes) {
        if let Some(reply) = reply
            && self.link.is_connected()
        {
            let _ = self.link.client.publish(reply, answer).await;
        }
    }
}
