//! One task message at an agent: from its bytes to the outcomes that its submitter has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::client::{Request, RequestErrorKind};
use bytes::Bytes;
use mp::__private::{Encoded, pack_outcomes, pack_refusals, submit_encoded};
use mp::{Error, Job, Pool, TaskError};
use tokio::sync::watch;

use crate::agent::SILENCE;
use crate::blobs::{Blobs, INLINE, Unavailable};
use crate::message::{self, Elsewhere, Order, Report};

/// How long a submitter may take to take outcomes.
const HAND_OVER: Duration = Duration::from_secs(5);
/// How often the object store is asked for arguments before the message goes to another agent.
const ATTEMPTS: u32 = 3;
/// The pause between two attempts, the first of them and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// What it takes.
pub(crate) struct Errand {
    pub(crate) client: Client,
    pub(crate) blobs: Blobs,
    pub(crate) pool: Arc<Pool>,
    /// Where the submitter takes outcomes, and by which number it knows them.
    pub(crate) subject: String,
    pub(crate) id: u64,
    pub(crate) host: String,
}

/// How it ended.
pub(crate) enum End {
    /// The submitter has the outcomes, or nobody wants them.
    Settled,
    /// Its submitter is gone.
    Unwanted,
    /// It could not begin: another may.
    Again,
    /// The local pool runs nothing any more, and why.
    Broken(Error),
}

/// What a message has become in the local pool.
enum Work {
    Begun(Awaited),
    /// It cannot be run: the outcomes say why.
    Refused(Vec<u8>),
}

/// A job that ends with whoever waits for it.
pub(crate) struct Awaited(pub(crate) Job<Vec<Result<Encoded, TaskError>>>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Errand {
    /// Sees a message through, unless it is stopped.
    pub(crate) async fn run(self, message: &[u8], mut stopped: watch::Receiver<bool>) -> End {
        tokio::select! {
            end = self.see_through(message) => end,
            Ok(()) = stopped.changed() => End::Settled,
        }
    }

    async fn see_through(&self, message: &[u8]) -> End {
        let began = Instant::now();
        let records = match self.begin(message).await {
            Ok(Work::Refused(records)) => records,
            Ok(Work::Begun(mut job)) => match (&mut job.0).await {
                Ok(outcomes) => pack_outcomes(outcomes, &self.host),
                Err(error) => return End::Broken(error),
            },
            Err(end) => return end,
        };
        let elapsed = began.elapsed().as_nanos() as u64;
        self.hand_over(elapsed, &records).await
    }

    /// Has the local pool begin with what is in a message.
    async fn begin(&self, message: &[u8]) -> Result<Work, End> {
        let Some((order, records)) = message::unpack::<Order>(message) else {
            // Its submitter finds that there is no outcome for each item.
            return Ok(Work::Refused(Vec::new()));
        };
        let records = match &order.blob {
            Some(blob) => self.fetch(blob).await.ok_or(End::Again)?.to_vec(),
            None => records.to_vec(),
        };
        let limit = order.limit.map(Duration::from_nanos);
        match submit_encoded(&self.pool, &order.task, (order.count, records), limit) {
            Ok(job) => Ok(Work::Begun(Awaited(job))),
            Err(error)
                if error.is_unknown_task()
                    || error.is_ambiguous_task()
                    || error.is_not_decoded() =>
            {
                let refusals = pack_refusals(order.count, &error.to_string());
                Ok(Work::Refused(refusals))
            }
            Err(error) => Err(End::Broken(error)),
        }
    }

    /// Gets arguments from the object store.
    async fn fetch(&self, blob: &Elsewhere) -> Option<Bytes> {
        let mut pause = Pause::default();
        for _ in 0..ATTEMPTS {
            if let Ok(bytes) = self.blobs.get_shared(&blob.name, blob.len).await {
                return Some(bytes);
            }
            pause.take().await;
        }
        None
    }

    /// Hands outcomes over, as often as it takes: while the server is away, or has no leader, that
    /// does not work, and they are not run again for it.
    async fn hand_over(&self, elapsed: u64, records: &[u8]) -> End {
        let mut report = Report {
            id: self.id,
            elapsed,
            blob: None,
        };
        let mut pause = Pause::default();
        let mut silent = None;
        let mut message = None;
        loop {
            let packed = match &message {
                Some(message) => Ok(message),
                None if records.len() <= INLINE => {
                    Ok(&*message.insert(Bytes::from(message::pack(&report, records))))
                }
                None => self.put(records).await.map(|blob| {
                    report.blob = Some(blob);
                    &*message.insert(Bytes::from(message::pack(&report, &[])))
                }),
            };
            if let Ok(message) = packed {
                let request = Request::new()
                    .payload(message.clone())
                    .timeout(Some(HAND_OVER));
                let answer = self
                    .client
                    .send_request(self.subject.clone(), request)
                    .await;
                match answer.map_err(|error| error.kind()) {
                    Ok(_) => return End::Settled,
                    Err(RequestErrorKind::NoResponders) => {
                        // It may be about to reconnect.
                        let since = *silent.get_or_insert_with(Instant::now);
                        if since.elapsed() >= SILENCE {
                            if let Some(blob) = report.blob {
                                self.blobs.remove(&blob.name).await;
                            }
                            return End::Unwanted;
                        }
                    }
                    Err(_) => silent = None,
                }
            }
            pause.take().await;
        }
    }

    /// Puts outcomes into the object store.
    async fn put(&self, records: &[u8]) -> Result<Elsewhere, Unavailable> {
        let name = crate::random_name();
        self.blobs.put(&name, records).await?;
        let len = records.len();
        Ok(Elsewhere { name, len })
    }
}

/// Pauses that grow.
#[derive(Default)]
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) async fn take(&mut self) {
        let (first, longest) = PAUSES;
        self.0 = (self.0 * 2).clamp(first, longest);
        tokio::time::sleep(self.0).await;
    }
}
