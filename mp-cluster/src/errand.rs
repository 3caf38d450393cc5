//! One task message at an agent: from its bytes to the outcomes that its submitter has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::client::{Request, RequestErrorKind};
use bytes::Bytes;
use mp::__private::{Content, Encoded, pack_outcomes, pack_refusals, submit_encoded};
use mp::{Error, Job, Pool, TaskError};
use tokio::sync::watch;

use crate::agent::SILENCE;
use crate::blobs::{Blobs, Unavailable, Upload};
use crate::data::{Incoming, Missing};
use crate::fault::fault;
use crate::link::Link;
use crate::message::{self, Datum, Elsewhere, MISSING, Order, Report, Unwanted, Word};

/// How long a submitter may take to take outcomes.
const HAND_OVER: Duration = Duration::from_secs(5);
/// How often the object store is asked for arguments before the message goes to another agent.
const ATTEMPTS: u32 = 3;
/// What a message has beside outcomes, at most.
const HEAD: usize = 64 * 1024;
/// The pause between two attempts, the first of them and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// What it takes.
pub(crate) struct Errand {
    pub(crate) link: Link,
    pub(crate) blobs: Blobs,
    pub(crate) shared: Incoming,
    pub(crate) pool: Arc<Pool>,
    /// The submitter's pool, and by which number it knows the message.
    pub(crate) submitter: String,
    pub(crate) id: u64,
    /// Whether the message was delivered before.
    pub(crate) is_again: bool,
    pub(crate) host: String,
    /// How long an object store may not take outcomes.
    pub(crate) patience: Duration,
    pub(crate) paces: Paces,
}

/// What an item takes, as far as is known, by the task's name.
pub(crate) type Paces = Arc<Mutex<HashMap<String, Duration>>>;

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
    Begun(Begun),
    /// It cannot be run: the outcomes say why.
    Refused(Vec<u8>),
}

/// A job of the local pool, which also tells how long its items have run.
struct Begun {
    job: Awaited<(Vec<Result<Encoded, TaskError>>, Duration)>,
    task: String,
    count: u32,
    /// The shared data that its arguments refer to.
    _shared: Vec<Arc<Content>>,
}

/// A job that ends with whoever waits for it.
pub(crate) struct Awaited<R>(pub(crate) Job<R>);

impl<R> Drop for Awaited<R> {
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
        if self.is_again && self.is_given_up().await {
            return End::Settled;
        }
        // What its submitter sizes jobs by is not what they waited, here or on their way.
        let (records, worked) = match self.begin(message).await {
            Ok(Work::Refused(records)) => (records, Duration::ZERO),
            Ok(Work::Begun(mut begun)) => match (&mut begun.job.0).await {
                Ok((outcomes, worked)) => {
                    self.learn(&begun.task, worked / begun.count.max(1));
                    (pack_outcomes(outcomes, &self.host), worked)
                }
                Err(error) => return End::Broken(error),
            },
            Err(end) => return end,
        };
        fault!("agent.ran");
        self.hand_over(worked.as_nanos() as u64, &records).await
    }

    /// Tells the submitter that it begins with what may have cost other agents their lives, and whether
    /// that is to be enough.
    async fn is_given_up(&self) -> bool {
        let word = message::pack(&Word::Again { id: self.id }, &[]);
        // Without an answer it is found out later who is there.
        let answer = self.tell(word.into()).await.unwrap_or_default();
        serde_json::from_slice(&answer).is_ok_and(|Unwanted(ids)| ids.contains(&self.id))
    }

    /// Has the local pool begin with what is in a message.
    async fn begin(&self, message: &[u8]) -> Result<Work, End> {
        let Some((order, records)) = message::unpack::<Order>(message) else {
            // Its submitter finds that there is no outcome for each item.
            return Ok(Work::Refused(Vec::new()));
        };
        let signature = order.signature.as_deref();
        if let Some(why) = self.link.names.build.objection(&order.task, signature) {
            return Ok(Work::Refused(pack_refusals(order.count, &why)));
        }
        let fetched;
        let records = match &order.blob {
            Some(blob) => {
                fetched = self.fetch(blob).await.ok_or(End::Again)?;
                &fetched[..]
            }
            None => records,
        };
        let (data, records) = match order.is_sharing {
            true => message::unpack::<Vec<Datum>>(records).unwrap_or_default(),
            false => (Vec::new(), records),
        };
        let mut shared = Vec::with_capacity(data.len());
        for datum in &data {
            match self.fetch_shared(datum).await {
                Ok(content) => shared.push(content),
                Err(Missing::Unavailable) => return Err(End::Again),
                Err(Missing::Refused(why)) => {
                    return Ok(Work::Refused(pack_refusals(order.count, &why)));
                }
            }
        }
        if order.count as usize > records.len() {
            // There are no such records: not even that can be said for each of so many.
            return Ok(Work::Refused(Vec::new()));
        }
        let limit = order.limit.map(Duration::from_nanos);
        let each = lock(&self.paces).get(&order.task).copied();
        let items = (order.count, records.to_vec());
        match submit_encoded(&self.pool, &order.task, items, &shared, limit, each) {
            Ok(job) => {
                fault!("agent.begun");
                Ok(Work::Begun(Begun {
                    job: Awaited(job),
                    task: order.task,
                    count: order.count,
                    _shared: shared,
                }))
            }
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

    /// Learns what an item of a task takes.
    fn learn(&self, task: &str, each: Duration) {
        let mut paces = lock(&self.paces);
        match paces.get_mut(task) {
            // What takes longer counts more: a job that is too long hurts more than one that is too
            // short.
            Some(pace) if each > *pace => *pace = (*pace + each) / 2,
            Some(pace) => *pace = (*pace * 3 + each) / 4,
            None => drop(paces.insert(task.to_owned(), each)),
        }
    }

    /// Gets arguments from the object store.
    async fn fetch(&self, blob: &Elsewhere) -> Option<Bytes> {
        let mut pause = Pause::default();
        for _ in 0..ATTEMPTS {
            if let Ok(bytes) = self.blobs.get_shared(blob).await {
                return Some(bytes);
            }
            pause.take().await;
        }
        self.say_lacking().await;
        None
    }

    /// Gets shared data that arguments refer to.
    async fn fetch_shared(&self, datum: &Datum) -> Result<Arc<Content>, Missing> {
        let mut pause = Pause::default();
        for _ in 0..ATTEMPTS {
            match self.shared.get(datum).await {
                Err(Missing::Unavailable) => pause.take().await,
                answer => return answer,
            }
        }
        self.say_lacking().await;
        Err(Missing::Unavailable)
    }

    /// Has the submitter put arguments into the object store again.
    async fn say_lacking(&self) {
        let lacking = message::pack(&Word::Lacking { id: self.id }, &[]);
        let _ = self.tell(lacking.into()).await;
    }

    /// Hands outcomes over, as often as it takes: while the server is away, or has no leader, that
    /// does not work, and they are not run again for it.
    async fn hand_over(&self, elapsed: u64, records: &[u8]) -> End {
        let mut pause = Pause::default();
        let mut silent = None;
        let mut unstored: Option<Instant> = None;
        let mut message = None;
        loop {
            if !self.link.is_connected() {
                silent = None;
                pause.take().await;
                continue;
            }
            if message.is_none() {
                message = match self.pack(elapsed, records).await {
                    Ok(packed) => Some(packed),
                    Err(Unavailable(why)) => {
                        let since = *unstored.get_or_insert_with(Instant::now);
                        let is_over = since.elapsed() >= self.patience;
                        is_over.then(|| (self.failed(records, &why), None))
                    }
                };
            }
            if let Some((packed, _)) = &message {
                match self.tell(packed.clone()).await {
                    Ok(answer) if answer == MISSING => {
                        message = None;
                        let since = *unstored.get_or_insert_with(Instant::now);
                        if since.elapsed() >= self.patience {
                            let why = "what was put there is not there";
                            message = Some((self.failed(records, why), None));
                        }
                    }
                    Ok(_) => {
                        fault!("agent.handed");
                        // Who has fetched them removes them.
                        if let Some((_, Some(upload))) = message {
                            upload.keep();
                        }
                        return End::Settled;
                    }
                    Err(RequestErrorKind::NoResponders) => {
                        // It may be about to reconnect.
                        let since = *silent.get_or_insert_with(Instant::now);
                        if since.elapsed() >= SILENCE {
                            return End::Unwanted;
                        }
                    }
                    Err(_) => silent = None,
                }
            }
            pause.take().await;
        }
    }

    /// Says something to the submitter, and returns its answer.
    async fn tell(&self, word: Bytes) -> Result<Bytes, RequestErrorKind> {
        let subject = self.link.names.outcomes(&self.submitter);
        let request = Request::new().payload(word).timeout(Some(HAND_OVER));
        match self.link.client.send_request(subject, request).await {
            Ok(answer) => Ok(answer.payload),
            Err(error) => Err(error.kind()),
        }
    }

    /// Outcomes as a message; what is too large for one is put into the object store.
    async fn pack(
        &self,
        elapsed: u64,
        records: &[u8],
    ) -> Result<(Bytes, Option<Upload>), Unavailable> {
        let mut report = Report {
            id: self.id,
            elapsed,
            blob: None,
        };
        // They may be more than the arguments, which have made the submitter's message full.
        let most = self.link.client.max_payload().saturating_sub(HEAD);
        if records.len() <= most {
            return Ok((message::pack(&Word::Done(report), records).into(), None));
        }
        let name = Blobs::new_name(&self.submitter);
        let upload = self.blobs.put(&name, records).await?;
        fault!("agent.stored");
        let len = records.len();
        report.blob = Some(Elsewhere { name, len });
        let message = message::pack(&Word::Done(report), &[]);
        Ok((message.into(), Some(upload)))
    }

    fn failed(&self, records: &[u8], why: &str) -> Bytes {
        let (id, len) = (self.id, records.len());
        let why = format!(
            "its outcomes take {len} bytes, and the server's object store does not take them: {why}"
        );
        message::pack(&Word::Failed { id, why }, &[]).into()
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under it is whole at any moment.
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
