//! What the server itself can do, at most: as many messages as one task each would take, and nothing
//! else.
//!
//! One connection publishes into a stream as tasks have, and has what it publishes acknowledged; two
//! pull from it in batches, publish a result for each message, and acknowledge it. Each is a thread,
//! as in a submitter and two agents.

use std::sync::Arc;
use std::time::Instant;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use async_nats::{Client, Subject};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;

const NAME: &str = "bare";
const RESULTS: &str = "bare-results";
/// Messages that are not acknowledged at once.
const WINDOW: usize = 512;
/// Messages of a pull.
const BATCH: usize = 256;

/// Messages a second, of `count`.
pub(crate) fn rate(url: &str, count: u64) -> f64 {
    let ended = Arc::new(Notify::new());
    runtime().block_on(async {
        let client = async_nats::connect(url).await.unwrap();
        let context = jetstream::new(client.clone());
        let config = stream::Config {
            name: NAME.to_owned(),
            subjects: vec![format!("{NAME}.*")],
            retention: stream::RetentionPolicy::WorkQueue,
            storage: stream::StorageType::Memory,
            ..stream::Config::default()
        };
        let stream = context.create_stream(config).await.unwrap();
        let config = pull::Config {
            durable_name: Some(NAME.to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.unwrap();
        let mut results = client.subscribe(RESULTS).await.unwrap();
        client.flush().await.unwrap();
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (url, ended) = (url.to_owned(), ended.clone());
                std::thread::spawn(move || runtime().block_on(work(&url, &ended)))
            })
            .collect();
        let began = Instant::now();
        let publishing = async {
            let mut acks = FuturesUnordered::new();
            for number in 0..count {
                let subject = format!("{NAME}.{number}");
                let ack = context.publish(subject, "square".into()).await.unwrap();
                acks.push(ack.into_future());
                if acks.len() >= WINDOW {
                    acks.next().await.unwrap().unwrap();
                }
            }
            while let Some(ack) = acks.next().await {
                ack.unwrap();
            }
        };
        let taking = async {
            for _ in 0..count {
                results.next().await.unwrap();
            }
        };
        tokio::join!(publishing, taking);
        let elapsed = began.elapsed();
        ended.notify_waiters();
        for worker in workers {
            worker.join().unwrap();
        }
        context.delete_stream(NAME).await.unwrap();
        count as f64 / elapsed.as_secs_f64()
    })
}

async fn work(url: &str, ended: &Notify) {
    let ended = ended.notified();
    let client: Client = async_nats::connect(url).await.unwrap();
    let context = jetstream::new(client.clone());
    let consumer: jetstream::consumer::PullConsumer =
        context.get_consumer_from_stream(NAME, NAME).await.unwrap();
    let pulls = consumer.stream().max_messages_per_batch(BATCH);
    let mut messages = pulls.messages().await.unwrap();
    let working = async {
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            client.publish(RESULTS, "square".into()).await.unwrap();
            let reply: Subject = message.reply.clone().unwrap();
            client.publish(reply, "+ACK".into()).await.unwrap();
        }
    };
    tokio::select! {
        () = working => {}
        () = ended => {}
    }
    let _ = client.flush().await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
