//! How many messages an agent has asked for.
//!
//! A pull asks the server for some messages, which come as they are there. What comes does not say
//! which pull it answers, so pulls are counted together: a message is one less to come, and a pull
//! whose time is over says how many it leaves.
//!
//! A server that ends takes pulls with it, and nobody says so if it is not the one that we are connected
//! to. So they are counted in two ways, each with a subscription of its own, that take turns: when one
//! is used again the pulls that were made by it before are over, whatever was heard of them.

use std::time::{Duration, Instant};

use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use mp::Error;

use crate::error;
use crate::link::Link;

/// How long the server keeps a pull.
const EXPIRES: Duration = Duration::from_secs(10);
/// How long one way is used, after which the server has said all of the pulls that were made by the
/// other one.
const TURN: Duration = Duration::from_secs(12);

pub(crate) struct Pulls {
    client: Client,
    /// Where the server takes them.
    subject: String,
    ways: [Way; 2],
    dues: Dues,
    /// Whether the server has no such stream or consumer any more.
    is_refused: bool,
}

/// Where the server answers.
struct Way {
    inbox: String,
    pulled: Subscriber,
    /// What came so far, of any kind.
    came: u64,
}

/// What came: by which way, and what.
pub(crate) type Pulled = (usize, Message);

impl Pulls {
    pub(crate) async fn new(link: &Link) -> Result<Self, Error> {
        let (stream, consumer) = (link.names.stream(), link.names.consumer());
        Ok(Self {
            client: link.client.clone(),
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            ways: [
                Way::open(&link.client).await?,
                Way::open(&link.client).await?,
            ],
            dues: Dues::new(Instant::now()),
            is_refused: false,
        })
    }

    /// Asks for so many messages, less those that are to come.
    pub(crate) async fn ask(&mut self, wanted: usize) {
        self.dues.take_turns(Instant::now());
        let lacking = wanted.saturating_sub(self.dues.sum());
        // Not one by one, where there are many.
        if self.is_refused || lacking == 0 || lacking < wanted / 4 {
            return;
        }
        let expires = EXPIRES.as_nanos();
        let request = format!(r#"{{"batch":{lacking},"expires":{expires}}}"#);
        let inbox = self.ways[self.dues.turn].inbox.clone();
        let asked = self
            .client
            .publish_with_reply(self.subject.clone(), inbox, request.into())
            .await;
        if asked.is_ok() {
            self.dues.add(lacking);
        }
    }

    /// Waits for what comes next; none once they have [ended](Self::end).
    pub(crate) async fn next(&mut self) -> Option<Pulled> {
        let [first, second] = &mut self.ways;
        tokio::select! {
            Some(message) = first.pulled.next() => Some((0, message)),
            Some(message) = second.pulled.next() => Some((1, message)),
            else => None,
        }
    }

    /// Notes what came, and returns it if it is a message that was asked for, not the end of a pull.
    pub(crate) fn take(&mut self, (way, message): Pulled) -> Option<Message> {
        self.ways[way].came += 1;
        let Some(status) = message.status else {
            self.dues.subtract(way, 1);
            return Some(message);
        };
        let left = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages"))
            .and_then(|left| left.as_str().parse().ok());
        match left {
            Some(left) => self.dues.subtract(way, left),
            // That of a server or consumer that is gone speaks for all pulls.
            None => {
                self.dues.clear();
                self.is_refused = status == StatusCode::NO_RESPONDERS
                    || message.description.as_deref() == Some("Consumer Deleted");
            }
        }
        None
    }

    /// Has the server forget what was asked for. What it has sent until then still comes, after which
    /// [`next`](Self::next) has none.
    ///
    /// There is no word for that. So it is told to send no more than there may be on its way, and that
    /// much is asked for with the wish that an answer comes at once.
    pub(crate) async fn end(&mut self) {
        for (way, due) in self.ways.iter_mut().zip(self.dues.each) {
            let most = way.came + due as u64;
            if way.pulled.unsubscribe_after(most).await.is_err() {
                return;
            }
            for _ in 0..due {
                let (subject, inbox) = (self.subject.clone(), way.inbox.clone());
                let request = r#"{"batch":1,"no_wait":true}"#;
                // Whoever waits for the end does so for some time only.
                let _ = self
                    .client
                    .publish_with_reply(subject, inbox, request.into())
                    .await;
            }
        }
    }

    /// Whether there is nobody who takes pulls, until [`reset`](Self::reset).
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// None that was made is answered any more.
    pub(crate) fn reset(&mut self) {
        self.dues.clear();
        self.is_refused = false;
    }
}

impl Way {
    async fn open(client: &Client) -> Result<Self, Error> {
        let inbox = client.new_inbox();
        let pulled = client.subscribe(inbox.clone()).await;
        let pulled =
            pulled.map_err(|error| error::cluster(format!("could not subscribe: {error}")))?;
        Ok(Self {
            inbox,
            pulled,
            came: 0,
        })
    }
}

/// Messages that are to come.
struct Dues {
    /// By each way.
    each: [usize; 2],
    /// By which way pulls are made, and since when.
    turn: usize,
    since: Instant,
}

impl Dues {
    fn new(now: Instant) -> Self {
        Self {
            each: [0; 2],
            turn: 0,
            since: now,
        }
    }

    /// Goes over to the other way if it is time, of which nothing is to come any more.
    fn take_turns(&mut self, now: Instant) {
        if now - self.since > TURN {
            self.turn = 1 - self.turn;
            self.since = now;
            self.each[self.turn] = 0;
        }
    }

    fn sum(&self) -> usize {
        self.each.iter().sum()
    }

    fn add(&mut self, count: usize) {
        self.each[self.turn] += count;
    }

    fn subtract(&mut self, way: usize, count: usize) {
        self.each[way] = self.each[way].saturating_sub(count);
    }

    fn clear(&mut self) {
        self.each = [0; 2];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_pulls_are_made_again_though_others_are_answered() {
        const WANTED: usize = 8;
        let mut now = Instant::now();
        let mut dues = Dues::new(now);
        dues.add(WANTED);
        // Of those that the server has, the others being lost.
        let mut there = [3, 0];
        for _ in 0..(4 * TURN.as_secs()) {
            now += Duration::from_secs(1);
            if let Some(way) = there.iter().position(|count| *count > 0) {
                there[way] -= 1;
                dues.subtract(way, 1);
            }
            let turn = dues.turn;
            dues.take_turns(now);
            if dues.turn != turn {
                // Their time is over.
                there[dues.turn] = 0;
            }
            let lacking = WANTED - dues.sum();
            dues.add(lacking);
            there[dues.turn] += lacking;
        }
        assert_eq!(there.iter().sum::<usize>(), WANTED);
    }
}
