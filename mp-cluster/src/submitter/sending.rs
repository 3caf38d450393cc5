//! Messages on their way to the server, and back from there.

use std::error::Error as _;
use std::time::Instant;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use mp::__private::{Content, Shipment};

use super::out::TakingBack;
use super::{State, TICK, envelope};
use crate::blobs::{Blobs, INLINE, Stored, Unavailable};
use crate::data::Outgoing;
use crate::error::chain;
use crate::fault::fault;
use crate::message::{self, Cancelled, Elsewhere, Order, Piece};

/// What a message is to hold.
enum Payload {
    Ready(Vec<u8>),
    /// Some of it goes to the object store first.
    Due(Box<Due>),
}

/// Arguments on their way to the object store.
struct Due {
    order: Order,
    items: Vec<u8>,
    shared: Vec<Content>,
    pool: String,
    blobs: Blobs,
    outgoing: Outgoing,
    stored: Stored,
    /// What was stored for the same message before, which may be the same.
    before: Stored,
}

impl Due {
    /// Stores what is to be stored, and returns the message.
    async fn store(self) -> Result<Vec<u8>, Unavailable> {
        let Self {
            mut order, items, ..
        } = self;
        let items = match order.is_sharing {
            true => {
                let data = self.outgoing.publish(self.shared, &self.stored).await?;
                message::pack(&data, &items)
            }
            false => items,
        };
        let payload = match items.len() <= INLINE {
            true => message::pack(&order, &items),
            false => {
                let (name, len) = (Blobs::name_of(&self.pool, &items), items.len());
                self.blobs.put_kept(&name, &items, &self.stored).await?;
                order.blob = Some(Elsewhere { name, len });
                message::pack(&order, &[])
            }
        };
        drop(self.before);
        Ok(payload)
    }
}

/// What became of a message.
pub(super) enum Sent {
    /// The server has it, by this number if that is known.
    Taken(Option<u64>),
    /// It may, or may not: it is to be sent again.
    Unsure,
    /// It does not take it now, and why.
    NotNow(String),
    /// It does not take the arguments now, and why.
    NotStored(String),
    /// There is no stream.
    NoStream,
    /// It will never take it, and why.
    Refused(String),
}

impl State {
    /// Sends the jobs that wait for it, short ones of a task together.
    pub(super) fn send_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for jobs in envelope::pack(waiting, &self.paces) {
            self.send_new(jobs, 0);
        }
    }

    /// Sends jobs in a message, with which so many agents were lost.
    pub(super) fn send_new(&mut self, jobs: Vec<Shipment>, lost: u32) {
        let id = self.out.put(jobs, lost);
        self.send(id);
    }

    /// Sends a message that is out, if it still is, with the jobs that are left in it.
    pub(super) fn send(&mut self, id: u64) {
        if !self.link.is_connected() || self.is_draining {
            // Everything is sent again once there is a connection, or given back.
            return;
        }
        let Some(out) = self.out.get_mut(id) else {
            return;
        };
        if out.taking_back != TakingBack::No {
            return;
        }
        out.taken = None;
        out.sequence = None;
        out.again = None;
        let mut pieces = Vec::with_capacity(out.left());
        let mut items = Vec::new();
        let mut shared = Ok(Vec::new());
        let mut order = None;
        for (place, shipment) in out.jobs() {
            let (count, records) = shipment.items();
            items.extend_from_slice(records);
            let len = records.len();
            pieces.push(Piece { place, count, len });
            if shipment.is_sharing() {
                // It is alone.
                shared = shipment.shared();
            }
            // They are of one task, on the same terms.
            order.get_or_insert_with(|| Order {
                task: shipment.task().to_owned(),
                pieces: Vec::new(),
                limit: shipment.limit().map(|limit| limit.as_nanos() as u64),
                signature: self.link.names.build.signature(shipment.task()),
                is_suspect: out.lost > 0,
                is_sharing: shipment.is_sharing(),
                blob: None,
            });
        }
        let Some(mut order) = order else { return };
        order.pieces = pieces;
        let shared = match shared {
            Ok(shared) => shared,
            Err(error) => return self.note_sent(id, Sent::Refused(error.to_string())),
        };
        let payload = match shared.is_empty() && items.len() <= INLINE {
            true => Payload::Ready(message::pack(&order, &items)),
            false => {
                // What was stored for it before is kept until then.
                let before = std::mem::take(&mut out.stored);
                Payload::Due(Box::new(Due {
                    order,
                    items,
                    shared,
                    pool: self.pool.clone(),
                    blobs: self.blobs.clone(),
                    outgoing: self.shared.clone(),
                    stored: out.stored.clone(),
                    before,
                }))
            }
        };
        out.is_on_its_way = true;
        let mut headers = HeaderMap::new();
        // There is one message with that subject, or none.
        headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
        let subject = self.link.names.task(&self.pool, id);
        let context = self.link.context.clone();
        let sending = self.sending.clone();
        tokio::spawn(async move {
            let payload = match payload {
                Payload::Ready(payload) => payload,
                Payload::Due(due) => match due.store().await {
                    Ok(payload) => {
                        fault!("submit.stored");
                        payload
                    }
                    Err(Unavailable(why)) => {
                        let _ = sending.send((id, Sent::NotStored(why)));
                        return;
                    }
                },
            };
            fault!("submit.sending");
            let sent = match context
                .publish_with_headers(subject, headers, payload.into())
                .await
            {
                Ok(taken) => taken.await,
                Err(error) => Err(error),
            };
            let sent = match sent {
                Ok(taken) => Sent::Taken(Some(taken.sequence)),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    Sent::Refused(format!(
                        "the server takes messages of less than {INLINE} bytes: its max_payload \
                         is too small"
                    ))
                }
                Err(error) => match error.kind() {
                    // It has it since it was sent before.
                    PublishErrorKind::WrongLastSequence => Sent::Taken(last_sequence(&error)),
                    PublishErrorKind::StreamNotFound => Sent::NoStream,
                    PublishErrorKind::Other => Sent::NotNow(chain(&error)),
                    _ => Sent::Unsure,
                },
            };
            let _ = sending.send((id, sent));
        });
    }

    pub(super) fn note_sent(&mut self, id: u64, sent: Sent) {
        if !matches!(sent, Sent::Unsure | Sent::NotStored(_)) {
            self.heard = Instant::now();
        }
        let is_unwanted = self.unwanted.remove(&id);
        if let Some(out) = self.out.get_mut(id) {
            out.is_on_its_way = false;
        }
        match sent {
            Sent::Taken(sequence) => {
                fault!("submit.sent");
                self.full = None;
                self.unfound = None;
                if let Some(out) = self.out.get_mut(id) {
                    out.taken = Some(Instant::now());
                    out.sequence = sequence;
                    out.unstored = None;
                }
                if let Some(sequence) = sequence.filter(|_| is_unwanted) {
                    self.delete(id, sequence);
                }
            }
            Sent::Unsure => self.send_later(id),
            Sent::NotNow(why) => {
                let since = self
                    .full
                    .as_ref()
                    .map_or_else(Instant::now, |(since, _)| *since);
                self.full = Some((since, why));
                self.send_later(id);
            }
            Sent::NotStored(why) => self.note_unstored(id, &why),
            Sent::NoStream => {
                self.is_back = true;
                self.note_unfound("it is not there");
                self.send_later(id);
            }
            Sent::Refused(why) => {
                for shipment in self.out.remove(id) {
                    shipment.refuse(&why);
                }
            }
        }
    }

    pub(super) fn send_later(&mut self, id: u64) {
        if let Some(out) = self.out.get_mut(id) {
            out.again = Some(Instant::now() + TICK);
        }
    }

    /// The arguments of a message are not in the object store: for a while they are put there again.
    pub(super) fn note_unstored(&mut self, id: u64, why: &str) {
        let Some(out) = self.out.get_mut(id) else {
            return;
        };
        let since = *out.unstored.get_or_insert_with(Instant::now);
        if since.elapsed() < self.patience {
            return self.send_later(id);
        }
        self.take_back(id);
        for shipment in self.out.remove(id) {
            let shared = shipment.shared().unwrap_or_default();
            let shared: usize = shared.iter().map(|it| it.bytes().len()).sum();
            let text = format!(
                "its arguments take {} bytes, and the server's object store does not take them: \
                 {why}",
                shipment.items().1.len() + shared
            );
            shipment.refuse(&text);
        }
    }

    /// Nobody waits for a job any more: its message need not be begun, if that is so of all in it. What
    /// an agent is at is finished.
    pub(super) fn withdraw(&mut self, job: u64) {
        if let Some((id, place)) = self.out.find(job)
            && let Some(out) = self.out.get_mut(id)
            && !out.is_wanted_without(place)
            && !out.is_at_work(Instant::now())
        {
            self.take_back(id);
        }
    }

    pub(super) async fn cancel(&mut self, job: u64) {
        self.is_untidy = true;
        let Some((id, place)) = self.out.find(job) else {
            return;
        };
        let is_last = self.out.get_mut(id).is_none_or(|out| out.left() == 1);
        if is_last {
            self.take_back(id);
        }
        if let Some(shipment) = self.out.take(id, place) {
            shipment.lose("it was cancelled");
        }
        // Who is at the message stops the job; who takes it later asks which of several are wanted.
        self.tell_agents(Some(id), (!is_last).then_some(place))
            .await;
    }

    /// Tells agents that a job is not wanted any more, or all of a message, or all of the pool.
    pub(super) async fn tell_agents(&self, id: Option<u64>, place: Option<u32>) {
        if !self.link.is_connected() {
            return;
        }
        let pool = self.pool.clone();
        let cancelled = message::pack_head(&Cancelled { pool, id, place });
        let subject = self.link.names.cancelled();
        // Whom it does not reach hears it when it says what it is at.
        self.link.say(subject.into(), None, cancelled.into()).await;
    }
}

/// The number of the message that the server has, as it says when it refuses another of that subject.
fn last_sequence(refusal: &PublishError) -> Option<u64> {
    let text = refusal.source()?.to_string();
    let (_, said) = text.split_once("last sequence: ")?;
    let digits = said.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}
