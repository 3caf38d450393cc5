//! What may go wrong: connections that end, messages that are lost, workers that have left.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;
use futures_util::TryStreamExt;

use super::out::{Message, TakingBack};
use super::{CHECK, State};
use crate::error::chain;
use crate::link::{Change, LEASE};

/// How long nothing may be heard of a server that is there, with calls under way.
const SILENCE: Duration = Duration::from_secs(7);

/// When the server is asked again which messages it has, after it did not tell.
const CHECK_AGAIN: Duration = Duration::from_secs(1);

/// The messages that the server had when it was asked, or why it did not tell.
pub(super) type Found = Result<HashSet<u64>, String>;

/// That the server has no stream of ours, or does not tell of it.
pub(super) struct Unfound {
    since: Instant,
    /// When that was found last.
    now: Instant,
    why: String,
}

/// How long an agent may say nothing of what it was at, until the message is sent again though the
/// server has it: it should have given it to another long since, unless all are busy.
const FORGOTTEN: Duration = LEASE.saturating_mul(3);

impl State {
    pub(super) async fn note_change(&mut self, change: Change) {
        match change {
            Change::Disconnected => {
                self.disconnected.get_or_insert_with(Instant::now);
                self.is_back = false;
            }
            Change::Connected => {
                self.is_back = self.disconnected.is_some();
                self.restore().await;
            }
        }
    }

    /// Goes on after a reconnect, once the server has our stream again.
    async fn restore(&mut self) {
        if !self.is_back {
            return;
        }
        // It may be another by now, without what was in it.
        let stream = match self.link.stream().await {
            Ok(stream) => stream,
            Err(error) => return self.note_unfound(&error.to_string()),
        };
        self.unfound = None;
        let is_another = self.is_another(&stream);
        self.stream = stream;
        self.is_back = false;
        self.disconnected = None;
        self.blobs.forget();
        let now = Instant::now();
        let mut lacking = Vec::new();
        for (id, out) in self.out.iter_mut() {
            if is_another {
                // It may have another message by that number.
                out.sequence = None;
            }
            if let TakingBack::Done(since) = &mut out.taking_back {
                // Who has it could not say so.
                *since = now;
            }
            match out.is_at_work(now) {
                // It is looked for once its agent had the time to say that it still is.
                true => out.taken = Some(now),
                false => lacking.push(id),
            }
        }
        for id in lacking {
            self.send(id);
        }
        self.next_check = now + CHECK;
        self.call_roll().await;
    }

    /// Whether it is not the stream that there was. One that was lost by one of several servers looks
    /// as if it had been made then, but counts from the beginning.
    fn is_another(&self, stream: &Stream) -> bool {
        let (before, now) = (self.stream.cached_info(), stream.cached_info());
        let greatest = self.out.iter().filter_map(|out| out.sequence).max();
        before.created != now.created || greatest > Some(now.state.last_sequence)
    }

    /// Asks the server which messages of ours it has.
    fn check(&mut self) {
        self.next_check = Instant::now() + CHECK;
        if self.out.is_empty() {
            return;
        }
        let stream = self.stream.clone();
        let names = self.link.names.clone();
        let subjects = names.tasks_of_pool(&self.pool);
        let finding = self.finding.clone();
        tokio::spawn(async move {
            let asked = Instant::now();
            let found = async {
                let found = stream.info_with_subjects(subjects).await;
                let ids = found.map_err(|error| chain(&error))?;
                let ids = ids.try_filter_map(async |(subject, _)| {
                    Ok(names.parse_task(&subject).map(|(_, id)| id))
                });
                ids.try_collect().await.map_err(|error| chain(&error))
            };
            let _ = finding.send((asked, found.await));
        });
    }

    /// The server has no stream of ours, or does not tell of it.
    pub(super) fn note_unfound(&mut self, why: &str) {
        let now = Instant::now();
        self.next_check = now + CHECK_AGAIN;
        let since = self.unfound.take().map_or(now, |unfound| unfound.since);
        let why = why.to_owned();
        self.unfound = Some(Unfound { since, now, why });
    }

    /// Sends again what the server has lost, or has dropped since we were not there.
    pub(super) fn note_found(&mut self, asked: Instant, found: Found) {
        let found = match found {
            Ok(found) => found,
            Err(why) => return self.note_unfound(&why),
        };
        let now = Instant::now();
        self.heard = now;
        self.unfound = None;
        let lost = self.out.ids(|id, out| {
            // What an agent has handed over is taken from `out` before its message goes.
            out.taken.is_some_and(|taken| taken < asked)
                && out.taking_back == TakingBack::No
                && !found.contains(&id)
                && !out.is_at_work(now)
        });
        for id in lost {
            match self.is_draining {
                false => self.send_again(id),
                true => self.note_deleted(id, true),
            }
        }
        // What the server has, and gives to nobody though its agent is gone.
        let stuck = self.out.ids(|id, out| {
            out.taken.is_some_and(|taken| taken < asked)
                && found.contains(&id)
                && out.at_work.is_some_and(|said| now - said > FORGOTTEN)
        });
        for id in stuck {
            self.renew(id);
        }
    }

    /// Sends again what the server does not have any more. If an agent said that it was at it, that is gone,
    /// and the message may be to blame.
    pub(super) fn send_again(&mut self, id: u64) {
        let was_begun = self
            .out
            .get_mut(id)
            .is_some_and(|out| out.at_work.is_some());
        if !was_begun || self.note_lost(id) {
            self.send(id);
        }
    }

    /// Sends a message again in the place of the one that the server has. Who is at that goes on.
    fn renew(&mut self, id: u64) {
        let Some(out) = self.out.get_mut(id) else {
            return;
        };
        match out.sequence {
            Some(_) => self.take_back(id),
            // The server says by which number it has it.
            None => self.send(id),
        }
    }

    /// Does what is due: sends again what was not taken, asks who is there, gives up.
    pub(super) async fn look_after(&mut self) {
        self.restore().await;
        self.look_after_taken_back();
        let now = Instant::now();
        if self.disconnected.is_none() {
            if now >= self.next_roll {
                self.roll.age();
                self.count_workers();
                self.call_roll().await;
            }
            let is_due = |_, out: &Message| out.again.is_some_and(|again| again <= now);
            let due = self.out.ids(is_due);
            for id in due {
                self.send(id);
            }
            if now >= self.next_check {
                self.check();
            }
        }
        if let Some((since, why)) = &self.full
            && now - *since >= self.patience
        {
            let why = format!("the server takes no more tasks: {why}");
            self.full = None;
            self.refuse_waiting(&why);
        }
        if let Some(said) = self.link.objection() {
            // Whatever it was about is never answered.
            self.give_up(
                Duration::ZERO,
                &format!("the server does not permit it: {said}"),
            );
        }
        let patience = self.patience;
        let is_over = |since: Option<Instant>| since.is_some_and(|since| now - since >= patience);
        if is_over(self.disconnected) {
            let why = format!("there has been no connection to the server for {patience:?}");
            self.give_up(patience, &why);
        } else if self.disconnected.is_none()
            && let Some(unfound) = &self.unfound
            && unfound.now - unfound.since >= patience
        {
            let why = format!(
                "the server has not had the stream of tasks for {patience:?}, or has not told of it: \
                 {}",
                unfound.why
            );
            // Outcomes do not come by the stream.
            let is_over = |out: &Message| out.since.elapsed() >= patience && !out.is_at_work(now);
            self.give_up_if(is_over, &why);
        } else if self.disconnected.is_none() && is_over(self.deserted) {
            // Of a connection that is cut one learns late.
            let whom = match now - self.heard < SILENCE {
                true => "there has been no worker of this build",
                false => "nothing has been heard of the server, nor of any worker,",
            };
            let why = format!("{whom} for {patience:?}");
            // Who ends, and is not counted any more, finishes what it is at.
            let is_over = |out: &Message| out.since.elapsed() >= patience && !out.is_at_work(now);
            self.give_up_if(is_over, &why);
        }
    }

    /// Fails what the server has not taken.
    fn refuse_waiting(&mut self, why: &str) {
        for id in self.out.ids(|_, out| out.again.is_some()) {
            for shipment in self.out.remove(id) {
                shipment.refuse(why);
            }
        }
    }

    /// Fails what has been out for so long: what was called just now is waited for as well.
    fn give_up(&mut self, patience: Duration, why: &str) {
        self.give_up_if(|out| out.since.elapsed() >= patience, why);
    }

    fn give_up_if(&mut self, is_over: impl Fn(&Message) -> bool, why: &str) {
        let old = self.out.ids(|_, out| is_over(out));
        self.is_untidy |= !old.is_empty();
        for id in old {
            self.take_back(id);
            for shipment in self.out.remove(id) {
                shipment.lose(why);
            }
        }
    }
}
