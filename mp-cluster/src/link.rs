//! A connection to the server that is fit for us: its version, its JetStream, our stream on it.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{
    self, DeleteStatus, DiscardPolicy, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, ConnectErrorKind, Event, ServerError, Subject};
use bytes::Bytes;
use mp::Error;
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use crate::blobs::INLINE;
use crate::connection::Connection;
use crate::error::{self, chain};
use crate::names::Names;

/// The oldest server that does what we rely on: in older ones a purge by subject could take other
/// messages with it.
const OLDEST: (u64, u64, u64) = (2, 10, 23);

/// How long an agent has a task message before it goes to another, unless it says that it is still
/// at it.
pub(crate) const LEASE: Duration = Duration::from_secs(5);
/// How often it says so.
pub(crate) const PROGRESS: Duration = Duration::from_millis(1500);
/// How long one waits to be able to say what is said again, or asked for again, if it is not heard.
const SAY: Duration = Duration::from_millis(100);

/// When what is left of a build that is not used any more goes.
const UNUSED: Duration = Duration::from_secs(24 * 3600);
/// When a task message goes that nobody has taken: its submitter sends it again if it is still there.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// What a message may have to hold: records of [`INLINE`] bytes, the head before them, and the parts
/// of 128 KiB in which objects are stored.
const LEAST_PAYLOAD: usize = INLINE + 64 * 1024;

/// A connection, and what we have on the server.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) names: Names,
    said: Arc<Said>,
    /// Servers that keep what we make.
    pub(crate) replicas: usize,
    /// For messages.
    place: String,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Connected,
    Disconnected,
}

/// What the server said in answer to nothing in particular: that something is not permitted.
#[derive(Debug, Default)]
struct Said {
    last: Mutex<Option<String>>,
    told: Notify,
}

impl Link {
    /// Connects, and looks whether the server is fit. What becomes of the connection later is sent to
    /// `changes`.
    pub(crate) async fn open(
        connection: &Connection,
        names: Names,
        changes: mpsc::UnboundedSender<Change>,
    ) -> Result<Self, Error> {
        let place = connection.place();
        let said = Arc::new(Said::default());
        let heard = said.clone();
        let options = connection.options().await?.event_callback(move |event| {
            // Without a receiver nobody wants to know.
            let _ = match event {
                Event::Connected => changes.send(Change::Connected),
                Event::Disconnected | Event::Closed => changes.send(Change::Disconnected),
                // It says other things as well: that a connection was too slow, or that it ends.
                Event::ServerError(ServerError::Other(text))
                    if text.to_lowercase().starts_with("permissions violation") =>
                {
                    heard.note(text);
                    Ok(())
                }
                _ => Ok(()),
            };
            std::future::ready(())
        });
        let connecting = options.connect(connection.servers()?);
        let client = match tokio::time::timeout(connection.timeout, connecting).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(not_connected(&place, error.kind(), &error)),
            Err(_) => {
                let text = format!(
                    "no server answered at {place} within {:?}",
                    connection.timeout
                );
                return Err(error::cluster(text));
            }
        };
        let mut context = jetstream::new(client.clone());
        context.set_timeout(connection.timeout);
        let link = Self {
            client,
            context,
            names,
            said,
            replicas: connection.replicas,
            place,
        };
        link.check_server()?;
        Ok(link)
    }

    fn check_server(&self) -> Result<(), Error> {
        let server = self.client.server_info();
        let (major, minor, patch) = OLDEST;
        let place = &self.place;
        if parse_version(&server.version).is_some_and(|version| version < OLDEST) {
            let text = format!(
                "the server at {place} is nats-server {}, and mp needs {major}.{minor}.{patch} or newer",
                server.version
            );
            return Err(error::cluster(text));
        }
        if !server.jetstream {
            let text = format!(
                "the server at {place} runs without JetStream: start it with `-js`, or with \
                 `jetstream {{}}` in its configuration"
            );
            return Err(error::cluster(text));
        }
        if server.max_payload < LEAST_PAYLOAD {
            let text = format!(
                "the server at {place} takes messages of {} bytes, and mp needs {LEAST_PAYLOAD}: \
                 raise `max_payload` in its configuration (1MB unless it says otherwise)",
                server.max_payload
            );
            return Err(error::cluster(text));
        }
        Ok(())
    }

    /// Whether there is a connection now. What is sent without one waits for it, and more than some
    /// thousand messages make the sender wait.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Says what need not arrive, and waits for room for it no longer than [`SAY`].
    pub(crate) async fn say(&self, subject: Subject, reply: Option<Subject>, payload: Bytes) {
        let said = async {
            match reply {
                Some(reply) => {
                    self.client
                        .publish_with_reply(subject, reply, payload)
                        .await
                }
                None => self.client.publish(subject, payload).await,
            }
        };
        let _ = tokio::time::timeout(SAY, said).await;
    }

    /// Finds the stream of tasks, or makes it.
    pub(crate) async fn stream(&self) -> Result<Stream, Error> {
        let name = self.names.stream();
        let found = self.until_denied(self.context.get_stream(&name)).await;
        let error = match found {
            Ok(Ok(stream)) => return self.checked(stream),
            Ok(Err(error)) => error,
            Err(denied) => return Err(self.denied("use the stream of tasks", &denied)),
        };
        if !is_missing(&error) {
            return Err(self.failed("find the stream of tasks", &error));
        }
        let config = stream::Config {
            name,
            subjects: vec![self.names.tasks()],
            retention: RetentionPolicy::WorkQueue,
            // Full is full: whoever submits waits, and nothing that was taken is dropped.
            discard: DiscardPolicy::New,
            storage: StorageType::Memory,
            num_replicas: self.replicas,
            max_age: MAX_AGE,
            description: Some("tasks of mp that wait for a worker".to_owned()),
            ..stream::Config::default()
        };
        match self.until_denied(self.context.create_stream(config)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.failed("make the stream of tasks", &error)),
            Err(denied) => Err(self.denied(
                "make the stream of tasks, which an administrator has to make first",
                &denied,
            )),
        }
    }

    /// The stream, unless somebody else has made one of that name for something else.
    fn checked(&self, stream: Stream) -> Result<Stream, Error> {
        let config = &stream.cached_info().config;
        if config.retention == RetentionPolicy::WorkQueue && config.subjects == [self.names.tasks()]
        {
            return Ok(stream);
        }
        let text = format!(
            "the stream {:?} at {} is not one of mp's: use another namespace, or delete it",
            config.name, self.place
        );
        Err(error::cluster(text))
    }

    /// Finds the consumer of this build, or makes it; when it was made, in nanoseconds as the server
    /// tells.
    pub(crate) async fn consumer(&self, stream: &Stream) -> Result<i128, Error> {
        let config = pull::Config {
            durable_name: Some(self.names.consumer()),
            filter_subject: self.names.tasks_of_build(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: LEASE,
            // The server would park what was delivered more often, and tell nobody.
            max_deliver: -1,
            max_ack_pending: -1,
            max_waiting: 16 * 1024,
            inactive_threshold: UNUSED,
            ..pull::Config::default()
        };
        match self.until_denied(stream.create_consumer(config)).await {
            Ok(Ok(made)) => Ok(made.cached_info().created.unix_timestamp_nanos()),
            Ok(Err(error)) => Err(self.failed("make the consumer of tasks", &error)),
            Err(denied) => Err(self.denied("make the consumer of tasks", &denied)),
        }
    }

    /// Has the server forget the task message of that number; whether it has none any more.
    ///
    /// Messages of this stream go one by one. A purge of some subjects has the server forget, with
    /// others that the consumer has given out, that they are leased: it would not give them out
    /// again when their agents die. What agents have given back it would keep until a lease is over.
    pub(crate) async fn delete_task(&self, sequence: u64) -> bool {
        let subject = format!("STREAM.MSG.DELETE.{}", self.names.stream());
        let request = json!({ "seq": sequence, "no_erase": true });
        match self.context.request(subject, &request).await {
            Ok(Response::Ok(DeleteStatus { success })) => success,
            Ok(Response::Err { error }) => error.error_code() == ErrorCode::SEQUENCE_NOT_FOUND,
            Err(_) => false,
        }
    }

    /// The answer to a request, or that the server does not permit it: such a request is not
    /// answered, so that waiting for it is in vain.
    pub(crate) async fn until_denied<T>(
        &self,
        request: impl IntoFuture<Output = T>,
    ) -> Result<T, String> {
        let told = self.said.told.notified();
        tokio::select! {
            answer = request.into_future() => Ok(answer),
            () = told => Err(self.said.take()),
        }
    }

    /// What the server has said of what is not permitted, since it was last asked for.
    pub(crate) fn objection(&self) -> Option<String> {
        lock(&self.said.last).take()
    }

    pub(crate) fn denied(&self, what: &str, said: &str) -> Error {
        let place = &self.place;
        error::cluster(format!(
            "the server at {place} does not permit us to {what}: {said}"
        ))
    }

    pub(crate) fn failed(&self, what: &str, error: &dyn StdError) -> Error {
        let place = &self.place;
        let text = chain(error);
        error::cluster(format!("could not {what} at {place}: {text}"))
    }
}

/// Whether there is no such stream, as the server says.
pub(crate) fn is_missing(error: &GetStreamError) -> bool {
    matches!(
        error.kind(),
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND
    )
}

impl Said {
    fn note(&self, text: String) {
        *lock(&self.last) = Some(text);
        self.told.notify_waiters();
    }

    fn take(&self) -> String {
        lock(&self.last).take().unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

fn not_connected(place: &str, kind: ConnectErrorKind, error: &dyn StdError) -> Error {
    let text = match kind {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            format!(
                "the server at {place} refused us: name and password, token or key are not right"
            )
        }
        ConnectErrorKind::Tls => {
            let why = chain(error);
            format!("no secure connection to the server at {place} could be made: {why}")
        }
        _ => {
            let why = chain(error);
            format!("there is no server at {place}, or it cannot be reached: {why}")
        }
    };
    error::cluster(text)
}

/// `2.10.27`, with or without a letter in front and something behind.
fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.trim_start_matches('v').splitn(3, '.');
    let mut number = || {
        let part = parts.next()?;
        let end = part.find(|c: char| !c.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse().ok()
    };
    Some((number()?, number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(parse_version("2.10.27"), Some((2, 10, 27)));
        assert_eq!(parse_version("v2.11.0-beta.1"), Some((2, 11, 0)));
        assert_eq!(parse_version("dev"), None);
        assert!(parse_version("2.9.10") < Some(OLDEST));
        assert!(parse_version("2.10.23") >= Some(OLDEST));
        assert!(parse_version("2.9.100") < parse_version("2.10.9"));
    }
}
