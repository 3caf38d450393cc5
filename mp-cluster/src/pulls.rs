//! How many messages an agent has asked for.
//!
//! A pull asks the server for some messages, which come as they are there. What comes does not say
//! which pull it answers, so pulls are counted together: a message is one less to come, and a pull
//! whose time is over says how many it leaves.

use std::time::{Duration, Instant};

use async_nats::{Client, Message, StatusCode, Subscriber};

use crate::link::Link;

/// How long the server keeps a pull.
const EXPIRES: Duration = Duration::from_secs(10);
/// When what the server should have said of a pull is taken for lost.
const LOST: Duration = Duration::from_secs(12);

#[derive(Debug)]
pub(crate) struct Pulls {
    client: Client,
    /// Where the server takes them.
    subject: String,
    /// Where it answers.
    inbox: String,
    /// Messages that are to come.
    due: usize,
    /// What came so far, of any kind.
    came: u64,
    /// When the last pull was made.
    last: Instant,
    /// Whether the server has no such stream or consumer any more.
    is_refused: bool,
}

impl Pulls {
    pub(crate) fn new(link: &Link, inbox: String) -> Self {
        let (stream, consumer) = (link.names.stream(), link.names.consumer());
        Self {
            client: link.client.clone(),
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inbox,
            due: 0,
            came: 0,
            last: Instant::now(),
            is_refused: false,
        }
    }

    /// Asks for so many messages, less those that are to come.
    pub(crate) async fn ask(&mut self, wanted: usize) {
        if self.last.elapsed() > LOST {
            self.due = 0;
        }
        let lacking = wanted.saturating_sub(self.due);
        // Not one by one, where there are many.
        if self.is_refused || lacking == 0 || lacking < wanted / 4 {
            return;
        }
        let expires = EXPIRES.as_nanos();
        let request = format!(r#"{{"batch":{lacking},"expires":{expires}}}"#);
        let (subject, inbox) = (self.subject.clone(), self.inbox.clone());
        let asked = self
            .client
            .publish_with_reply(subject, inbox, request.into())
            .await;
        if asked.is_ok() {
            self.due += lacking;
            self.last = Instant::now();
        }
    }

    /// Notes what came; whether it is a message that was asked for, not the end of a pull.
    pub(crate) fn take(&mut self, message: &Message) -> bool {
        self.came += 1;
        let Some(status) = message.status else {
            self.due = self.due.saturating_sub(1);
            return true;
        };
        let left = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages"))
            .and_then(|left| left.as_str().parse().ok());
        match left {
            Some(left) => self.due = self.due.saturating_sub(left),
            // That of a server or consumer that is gone speaks for all pulls.
            None => {
                self.due = 0;
                self.is_refused = status == StatusCode::NO_RESPONDERS
                    || message.description.as_deref() == Some("Consumer Deleted");
            }
        }
        false
    }

    /// Has the server forget what was asked for. What it has sent until then still comes, after which
    /// `pulled` is over.
    ///
    /// There is no word for that. So it is told to send no more than there may be on its way, and that
    /// much is asked for with the wish that an answer comes at once.
    pub(crate) async fn end(&mut self, pulled: &mut Subscriber) {
        let due = self.due as u64;
        if pulled.unsubscribe_after(self.came + due).await.is_err() {
            return;
        }
        for _ in 0..due {
            let (subject, inbox) = (self.subject.clone(), self.inbox.clone());
            let request = r#"{"batch":1,"no_wait":true}"#;
            // Whoever waits for the end does so for some time only.
            let _ = self
                .client
                .publish_with_reply(subject, inbox, request.into())
                .await;
        }
    }

    /// Whether there is nobody who takes pulls, until [`reset`](Self::reset).
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// None that was made is answered any more.
    pub(crate) fn reset(&mut self) {
        self.due = 0;
        self.is_refused = false;
    }
}
