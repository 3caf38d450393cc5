//! What a queue is at the server: a stream, and the consumer that all getters share.

use async_nats::Subscriber;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream,
};
use mp::Error;

use super::Queue;
use crate::error;
use crate::link::LEASE;

/// The consumer that all getters share.
const GETTERS: &str = "getters";

impl<T> Queue<T> {
    pub(super) fn stream_name(&self) -> String {
        self.core().link.names.queue_stream(self.name())
    }

    pub(super) fn subject(&self) -> String {
        self.core().link.names.queue(self.name())
    }

    pub(super) fn closed_subject(&self) -> String {
        self.core().link.names.closed_queue(self.name())
    }

    /// Where those who wait are told that something has changed of which the server does not tell.
    fn news(&self) -> String {
        self.core().link.names.queue_news(self.name())
    }

    /// Finds the stream, or makes it.
    pub(super) async fn make(&self, capacity: Option<usize>) -> Result<Info, Error> {
        let link = &self.core().link;
        let what = "make a queue, which an administrator has to make first";
        if let Some(info) = self.find().await? {
            return Ok(info);
        }
        let config = Config {
            name: self.stream_name(),
            subjects: vec![self.subject()],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_messages: capacity.map_or(-1, |capacity| capacity as i64),
            storage: StorageType::File,
            num_replicas: link.replicas,
            description: Some("a queue of mp".to_owned()),
            ..Config::default()
        };
        let made = link.until_denied(link.context.create_stream(config));
        match made.await {
            Ok(Ok(stream)) => Ok(stream.cached_info().clone()),
            // Another has made it meanwhile, with another bound.
            Ok(Err(error))
                if matches!(error.kind(), CreateStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NAME_EXIST) =>
            {
                self.info().await
            }
            Ok(Err(error)) => Err(link.failed("make a queue", &error)),
            Err(said) => Err(link.denied(what, &said)),
        }
    }

    async fn find(&self) -> Result<Option<Info>, Error> {
        let link = &self.core().link;
        let found = link.context.get_stream(self.stream_name());
        match link.until_denied(found).await {
            Ok(Ok(stream)) => Ok(Some(stream.cached_info().clone())),
            Ok(Err(error))
                if matches!(error.kind(), GetStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND) =>
            {
                Ok(None)
            }
            Ok(Err(error)) => Err(link.failed("find a queue", &error)),
            Err(said) => Err(link.denied("find a queue", &said)),
        }
    }

    /// What the server has of it.
    pub(super) async fn info(&self) -> Result<Info, Error> {
        let mut patience = self.core().patience("find a queue");
        loop {
            match self.find().await {
                Ok(Some(info)) => return Ok(info),
                Ok(None) => return Err(self.gone()),
                // As without a server, or while it starts.
                Err(error) => patience.bear(error.to_string()).await?,
            }
        }
    }

    fn gone(&self) -> Error {
        let place = &self.core().place;
        error::cluster(format!("there is no queue {:?} at {place}", self.name()))
    }

    async fn stream(&self) -> Result<Stream<()>, Error> {
        let link = &self.core().link;
        let stream = link.context.get_stream_no_info(self.stream_name()).await;
        stream.map_err(|error| link.failed("find a queue", &error))
    }

    pub(super) async fn consumer(&self) -> Result<&PullConsumer, Error> {
        let make = || async {
            let link = &self.core().link;
            let stream = self.stream().await?;
            let config = pull::Config {
                durable_name: Some(GETTERS.to_owned()),
                ack_policy: AckPolicy::Explicit,
                ack_wait: LEASE,
                max_deliver: -1,
                max_ack_pending: -1,
                max_waiting: 16 * 1024,
                ..pull::Config::default()
            };
            match link.until_denied(stream.create_consumer(config)).await {
                Ok(Ok(consumer)) => Ok(consumer),
                Ok(Err(error)) => Err(link.failed("get from a queue", &error)),
                Err(said) => Err(link.denied("get from a queue", &said)),
            }
        };
        self.consumer.get_or_try_init(make).await
    }

    pub(super) async fn listen(&self) -> Option<Subscriber> {
        self.core().link.client.subscribe(self.news()).await.ok()
    }

    pub(super) async fn tell(&self) {
        // Who does not hear of it looks for itself.
        let client = &self.core().link.client;
        let _ = client.publish(self.news(), "".into()).await;
    }
}

pub(super) fn bound_of(config: &Config) -> Option<usize> {
    usize::try_from(config.max_messages)
        .ok()
        .filter(|bound| *bound > 0)
}
