//! Who is there: waiting for workers, and the roll call.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode};
use futures_util::StreamExt;
use mp::Error;

use super::{State, lock};
use crate::connection::Connection;
use crate::error;
use crate::message::Presence;

/// How often it asks who is there.
const ROLL_CALL: Duration = Duration::from_secs(1);

impl State {
    /// Waits until there are as many workers as there should be.
    pub(super) async fn await_workers(&mut self, connection: &Connection) -> Result<(), Error> {
        let (wanted, timeout) = connection.awaited.unwrap_or((1, Duration::ZERO));
        // None if it is so far away that there is no such time.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.call_roll().await;
            let until =
                Instant::now() + Duration::from_millis(if timeout.is_zero() { 1000 } else { 250 });
            while let Ok(Some(answer)) =
                tokio::time::timeout_at(until.into(), self.answers.next()).await
            {
                let is_nobody = self.take_answer(&answer);
                if self.roll.workers() >= wanted || (is_nobody && timeout.is_zero()) {
                    break;
                }
            }
            if self.roll.workers() >= wanted {
                return Ok(());
            }
            if let Some(said) = self.link.objection() {
                return Err(self.link.denied("ask which workers are there", &said));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let others = self.others().await;
        let place = connection.place();
        let namespace = &connection.namespace;
        let build = &self.link.names.build;
        let there = match self.roll.workers() {
            0 => {
                format!("no worker of this build ({build}) is at {place}, namespace {namespace:?}")
            }
            there => {
                format!("only {there} of {wanted} workers of this build ({build}) are at {place}")
            }
        };
        let text = format!(
            "{there}{others}: start this very program there with MP_ROLE=worker and MP_CLUSTER set"
        );
        match timeout.is_zero() {
            true => Err(error::cluster(format!(
                "{text}, or wait for it by `Connection::wait_for_workers` or MP_CLUSTER_WAIT=1"
            ))),
            false => Err(error::timed_out(format!("{text}; waited for {timeout:?}"))),
        }
    }

    /// The workers of other builds, for a message.
    async fn others(&self) -> String {
        let inbox = self.link.client.new_inbox();
        let Ok(mut answers) = self.link.client.subscribe(inbox.clone()).await else {
            return String::new();
        };
        let roll = self.link.names.roll();
        let asked = self.link.client.publish_with_reply(roll, inbox, "".into());
        if asked.await.is_err() {
            return String::new();
        }
        let mut others: HashMap<String, usize> = HashMap::new();
        let until = Instant::now() + Duration::from_millis(200);
        while let Ok(Some(answer)) = tokio::time::timeout_at(until.into(), answers.next()).await {
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                break;
            }
            if let Some(presence) = Presence::read(&answer.payload)
                && presence.build != self.link.names.build.to_string()
            {
                *others.entry(presence.build).or_default() += presence.workers;
            }
        }
        if others.is_empty() {
            return String::new();
        }
        let mut told: Vec<_> = others
            .into_iter()
            .map(|(build, workers)| format!("{workers} of build {build}"))
            .collect();
        told.sort();
        format!(", though {} are", told.join(" and "))
    }

    pub(super) async fn call_roll(&mut self) {
        self.next_roll = Instant::now() + ROLL_CALL;
        let roll = self.link.names.roll_of_build();
        let inbox = Some(self.inbox.clone().into());
        self.link.say(roll.into(), inbox, "".into()).await;
    }

    /// Takes an answer to the roll call; whether it is that nobody is there.
    pub(super) fn take_answer(&mut self, answer: &Message) -> bool {
        self.heard = Instant::now();
        let is_nobody = answer.status == Some(StatusCode::NO_RESPONDERS);
        if is_nobody {
            self.roll.clear();
        } else if let Some(presence) = Presence::read(&answer.payload) {
            self.roll.note(presence);
        }
        self.count_workers();
        is_nobody
    }

    pub(super) fn count_workers(&mut self) {
        let workers = self.roll.workers();
        self.workers.count.store(workers, Ordering::Relaxed);
        *lock(&self.workers.crew) = self.roll.crew();
        self.deserted = match workers {
            0 => self.deserted.or_else(|| Some(Instant::now())),
            _ => None,
        };
    }
}
