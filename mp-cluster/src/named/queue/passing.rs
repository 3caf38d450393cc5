//! Values on their way to the server, and from it.

use std::time::{Duration, Instant};

use async_nats::client::{Request, RequestErrorKind};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{HeaderMap, Subject, Subscriber};
use futures_util::StreamExt;
use mp::__private::{Reason, decode_abroad, encode_abroad};
use mp::{Error, Transfer};

use super::super::cell::Until;
use super::{Item, POLL, Queue};
use crate::error::chain;
use crate::fault::fault;
use crate::link::LEASE;

/// What the server says of a stream that holds as much as it may.
const FULL: u64 = 10077;
/// How long the server keeps one question for an item; then it is looked whether there will be any.
const ASKED: Duration = Duration::from_secs(5);

/// What the server has given.
pub(super) struct Given {
    pub(super) value: Vec<u8>,
    /// Where it is told what became of it.
    pub(super) reply: Subject,
    pub(super) at: Instant,
}

impl<T: Transfer> Queue<T> {
    pub(super) fn send(&self, value: &T, until: Until) -> Result<(), Reason> {
        let value = encode_abroad(value)?;
        let put = self.publish(value.into(), until);
        // What is under way is seen through: it would be in the queue, or not, and nobody knew.
        let put = self.cell.cluster.run(until.bound(self.core(), put));
        match put.map_err(Reason::Failed)? {
            Some(true) => Ok(()),
            Some(false) => Err(Reason::Closed),
            None => Err(Reason::TimedOut),
        }
    }

    /// Puts bytes; false if the queue is closed.
    async fn publish(&self, value: bytes::Bytes, until: Until) -> Result<Option<bool>, Error> {
        let link = &self.core().link;
        let what = "put into a queue";
        let mut patience = self.core().patience(what);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", crate::random_name());
        let mut news = None;
        fault!("named.putting");
        loop {
            let sent =
                link.context
                    .publish_with_headers(self.subject(), headers.clone(), value.clone());
            let sent = async {
                match sent.await {
                    Ok(taken) => taken.await,
                    Err(error) => Err(error),
                }
            };
            let error = match link.until_denied(sent).await {
                Ok(Ok(_)) => {
                    fault!("named.put");
                    return Ok(Some(true));
                }
                Ok(Err(error)) => error,
                Err(said) => return Err(link.denied(what, &said)),
            };
            match error.kind() {
                // Nobody takes it: the queue is closed or gone, or the server is about to start.
                PublishErrorKind::StreamNotFound => {
                    let info = self.info().await?;
                    if self.is_closed_by(&info) {
                        return Ok(Some(false));
                    }
                }
                PublishErrorKind::MaxPayloadExceeded => {
                    let text = format!(
                        "a value of {} bytes is too large for a queue: the server takes {} in a \
                         message (`max_payload`). Put what is large into files or a store that \
                         all can read, and its name into the queue",
                        value.len(),
                        link.client.max_payload()
                    );
                    return Err(crate::error::cluster(text));
                }
                _ if is_full(&error) => {
                    if until.is_over() {
                        return Ok(None);
                    }
                    match &mut news {
                        // There may be room since.
                        None => news = Some(self.listen().await),
                        Some(news) => hear(news, until.left(POLL)).await,
                    }
                    patience = self.core().patience(what);
                    continue;
                }
                _ => {}
            }
            patience.bear(chain(&error)).await?;
        }
    }

    pub(super) fn receive(&self, until: Until) -> Result<T, Reason> {
        let given = self.take(until)?;
        self.keep(&given)?;
        decode_abroad(&given.value)
    }

    pub(super) fn receive_item(&self, until: Until) -> Result<Item<T>, Reason> {
        let given = self.take(until)?;
        match decode_abroad(&given.value) {
            Ok(value) => Ok(Item::new(self.clone(), given, value)),
            Err(reason) => {
                self.keep(&given)?;
                Err(reason)
            }
        }
    }

    /// Tells the server that an item is ours. It is, whether the server says that it knows or not.
    fn keep(&self, given: &Given) -> Result<(), Reason> {
        let settle = async { Ok(self.settle(given).await) };
        let settled = self.cell.cluster.run(settle);
        settled.map(drop).map_err(Reason::Failed)
    }

    fn take(&self, until: Until) -> Result<Given, Reason> {
        let asked = self.cell.cluster.run(self.ask(until));
        match asked.map_err(Reason::Failed)? {
            Asked::Given(given) => {
                fault!("named.given");
                Ok(given)
            }
            Asked::Closed => Err(Reason::Closed),
            Asked::Nothing => Err(Reason::TimedOut),
        }
    }
}

/// What came of asking for an item.
enum Asked {
    Given(Given),
    Closed,
    Nothing,
}

impl<T> Queue<T> {
    /// Asks the server for an item.
    ///
    /// Each question has its time, and its answer is waited for: one that was given up might be
    /// answered by an item, which nobody would get until its lease is over.
    async fn ask(&self, until: Until) -> Result<Asked, Error> {
        let mut patience = self.core().patience("get from a queue");
        let mut news = None;
        loop {
            let time = until.left(ASKED);
            let why = match self.question(time, &mut news).await {
                Ok(Some(given)) => return Ok(Asked::Given(given)),
                Ok(None) => {
                    patience = self.core().patience("get from a queue");
                    let info = self.info().await?;
                    if self.is_closed_by(&info) && info.state.messages == 0 {
                        return Ok(Asked::Closed);
                    }
                    if until.is_over() {
                        return Ok(Asked::Nothing);
                    }
                    if news.is_none() {
                        news = self.listen().await;
                    }
                    continue;
                }
                Err(why) => why,
            };
            if until.is_over() {
                return match self.core().is_connected() {
                    true => Ok(Asked::Nothing),
                    false => Err(self.core().no_answer()),
                };
            }
            patience.bear(why).await?;
        }
    }

    /// One question; the error is why it has no answer.
    async fn question(
        &self,
        time: Duration,
        news: &mut Option<Subscriber>,
    ) -> Result<Option<Given>, String> {
        let consumer = match self.consumer().await {
            Ok(consumer) => consumer,
            Err(error) => return Err(error.to_string()),
        };
        let began = Instant::now();
        // The server takes times from a millisecond on.
        let asked = if time < Duration::from_millis(2) {
            consumer.fetch().max_messages(1).messages().await
        } else {
            let batch = consumer.batch().max_messages(1).expires(time);
            batch.messages().await
        };
        let mut answers = asked.map_err(|error| chain(&error))?;
        loop {
            // It answers in time or never: what it gives may be lost on its way, and comes again.
            let left = time
                .saturating_add(self.core().timeout)
                .saturating_sub(began.elapsed());
            let answer = tokio::time::timeout(left, answers.next());
            let answer = match news {
                None => answer.await,
                Some(news) => tokio::select! {
                    biased;
                    answer = answer => answer,
                    told = news.next() => {
                        // If it was closed, and nothing is left, nothing comes.
                        if told.is_some()
                            && let Ok(info) = self.info().await
                            && self.is_closed_by(&info)
                            && info.state.messages == 0
                        {
                            return Ok(None);
                        }
                        continue;
                    }
                },
            };
            let Ok(answer) = answer else {
                return Err("the server does not answer".to_owned());
            };
            return match answer {
                None => Ok(None),
                Some(Ok(message)) => {
                    let reply = message.reply.clone().ok_or("an item without a reply")?;
                    Ok(Some(Given {
                        value: message.payload.to_vec(),
                        reply,
                        at: Instant::now(),
                    }))
                }
                Some(Err(error)) => Err(error.to_string()),
            };
        }
    }

    /// Tells the server that an item is ours, until it has said that it knows, or gives it to another
    /// anyway; whether it said so.
    pub(super) async fn settle(&self, given: &Given) -> bool {
        let client = &self.core().link.client;
        let mut is_settled = false;
        while !is_settled && given.at.elapsed() < LEASE {
            let request = Request::new()
                .payload("+ACK".into())
                .timeout(Some(LEASE / 4));
            let answer = client.send_request(given.reply.clone(), request).await;
            is_settled = answer.is_ok();
            fault!("named.settled");
            if answer.is_err_and(|error| error.kind() != RequestErrorKind::TimedOut) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        if self.capacity.is_some() {
            self.tell().await;
        }
        is_settled
    }
}

/// Waits for news, but not long.
async fn hear(news: &mut Option<Subscriber>, most: Duration) {
    match news {
        Some(news) => {
            let _ = tokio::time::timeout(most, news.next()).await;
        }
        None => tokio::time::sleep(most).await,
    }
}

/// Whether a queue took nothing because it holds as much as it may.
fn is_full(error: &async_nats::jetstream::context::PublishError) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .is_some_and(|error| error.error_code() == ErrorCode(FULL))
}
