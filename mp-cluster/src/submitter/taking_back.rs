//! What the server is to forget: of a pool that is drained, and what nobody waits for. What an agent
//! has is finished, the rest is given back.

use std::time::{Duration, Instant};

use super::State;
use super::out::{Message, TakingBack};
use crate::link::PROGRESS;

/// How long agents have to say that they are at what the server was told to forget.
const CLAIM: Duration = PROGRESS.saturating_mul(2);

impl State {
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.look_after_taken_back();
    }

    /// Has the server forget a message, unless that is under way.
    pub(super) fn take_back(&mut self, id: u64) {
        let Some(out) = self.out.get_mut(id) else {
            return;
        };
        if out.taking_back != TakingBack::No {
            return;
        }
        match out.sequence {
            Some(sequence) => self.delete(id, sequence),
            None if out.is_on_its_way => drop(self.unwanted.insert(id)),
            // An agent that takes it later hears that it is not wanted.
            None => out.taking_back = TakingBack::Done(Instant::now()),
        }
    }

    /// Has the server forget a message of that number.
    pub(super) fn delete(&mut self, id: u64, sequence: u64) {
        if !self.link.is_connected() {
            // It is sent again once there is a connection, or heard to be not wanted.
            return;
        }
        if let Some(out) = self.out.get_mut(id) {
            out.taking_back = TakingBack::Asked;
        }
        let link = self.link.clone();
        let (deleting, deletions) = (self.deleting.clone(), self.deletions.clone());
        tokio::spawn(async move {
            // Nobody closes it.
            let turn = deletions.acquire().await;
            let is_gone = link.delete_task(sequence).await;
            drop(turn);
            let _ = deleting.send((id, is_gone));
        });
    }

    /// The server has forgotten a message, or it has not, for whatever reason.
    pub(super) fn note_deleted(&mut self, id: u64, is_gone: bool) {
        let Some(out) = self.out.get_mut(id) else {
            return;
        };
        if !is_gone {
            out.taking_back = TakingBack::No;
            return;
        }
        self.heard = Instant::now();
        if self.is_draining || !out.is_wanted() {
            out.taking_back = TakingBack::Done(self.heard);
        } else {
            out.taking_back = TakingBack::No;
            self.send_again(id);
        }
    }

    /// Has the server forget what nobody waits for and no agent says that it has; of a pool that is
    /// drained, nobody waits for anything. Gives up what it has forgotten, and no agent has claimed.
    pub(super) fn look_after_taken_back(&mut self) {
        if !self.link.is_connected() {
            return;
        }
        let now = Instant::now();
        let is_idle = |out: &Message| out.fetching.is_none() && !out.is_at_work(now);
        let is_draining = self.is_draining;
        let is_over = |_, out: &Message| (is_draining || !out.is_wanted()) && is_idle(out);
        for id in self.out.ids(is_over) {
            self.take_back(id);
        }
        let is_nowhere = |_, out: &Message| match out.taking_back {
            TakingBack::Done(since) => now - since >= CLAIM && is_idle(out),
            _ => false,
        };
        for id in self.out.ids(is_nowhere) {
            let was_at_work = self.out.get_mut(id).is_some_and(|out| out.was_begun());
            for shipment in self.out.remove(id) {
                match (was_at_work, self.is_draining) {
                    (false, true) => shipment.give_back(),
                    (false, false) => shipment.refuse("it was taken back"),
                    (true, true) => shipment.lose(
                        "who had it has not been heard of for a while, and the pool is being \
                         drained",
                    ),
                    (true, false) => shipment.lose(
                        "who had it has not been heard of for a while, and nobody waits for it",
                    ),
                }
            }
        }
    }
}
