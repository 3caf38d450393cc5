//! One task message at an agent: from its bytes to the outcomes that its submitter has.
//!
//! Each of its jobs is a job of the local pool. Those that are over at the same moment are told
//! together, while the others go on.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::client::{Request, RequestErrorKind};
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use mp::__private::{
    Content, Encoded, pack_lost, pack_outcomes, pack_refusals, recall, shared_of, submit_encoded,
};
use mp::{Error, Job, Pool, TaskError};
use tokio::sync::{Mutex, watch};

use crate::agent::{LONG, SILENCE, Stage};
use crate::blobs::{Blobs, Unavailable, Upload};
use crate::data::{self, Incoming, Missing};
use crate::fault::fault;
use crate::link::Link;
use crate::message::{self, Datum, Elsewhere, MISSING, Order, Piece, Report, Told, Unwanted, Word};
use crate::pace::Paces;

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
    /// Whether its submitter was found to be gone.
    pub(crate) is_left: bool,
    pub(crate) stage: Arc<Stage>,
    pub(crate) host: String,
    /// How long an object store may not take outcomes.
    pub(crate) patience: Duration,
    pub(crate) paces: Paces,
    /// Whose turn it is among jobs of which one may cost the agent its life. The others are not begun
    /// meanwhile, and so not to blame, until it has run for [`LONG`].
    pub(crate) suspects: Arc<Mutex<()>>,
}

/// How it ended.
pub(crate) enum End {
    /// The submitter has the outcomes, or nobody wants them.
    Settled,
    /// Its submitter is gone.
    Unwanted,
    /// So it was before, and still is.
    Left,
    /// It could not begin: another may.
    Again,
    /// The local pool runs nothing any more, and why.
    Broken(Error),
}

/// What is to end before it is over.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    /// All of it.
    pub(crate) is_all: bool,
    /// The jobs at these places.
    pub(crate) places: HashSet<u32>,
    /// What has not begun: it is for another agent.
    pub(crate) is_recalled: bool,
}

/// What a message has become in the local pool.
enum Work {
    Begun(Begun),
    /// It cannot be run: the outcomes say why.
    Refused(Batch),
    /// It makes no sense.
    Senseless,
}

/// Its jobs in the local pool.
struct Begun {
    task: String,
    parts: FuturesUnordered<Part>,
    /// The shared data that their arguments refer to.
    _shared: Vec<Arc<Content>>,
}

/// A job of the local pool, which also tells how long its items have run.
struct Part {
    piece: Piece,
    job: Awaited<Ran>,
    is_stopped: bool,
    is_recalled: bool,
}

/// What came of its items, and how long they have run.
type Ran = (Vec<Result<Encoded, TaskError>>, Duration);

impl Future for Part {
    type Output = (Piece, Ended);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = std::task::ready!(self.job.0.poll_unpin(context));
        let ended = match ended {
            _ if self.is_stopped => Ended::Stopped,
            Ok(ran) => Ended::Ran(ran),
            Err(error) if self.is_recalled && is_fresh(&error) => Ended::Back,
            Err(error) => Ended::Broken(error),
        };
        Poll::Ready((self.piece, ended))
    }
}

/// Whether a job was cancelled before it began.
fn is_fresh(error: &Error) -> bool {
    let task = error.task();
    task.is_some_and(|task| task.is_cancelled() && !task.may_have_started())
}

/// How a job of the local pool ended.
enum Ended {
    Ran(Ran),
    /// Nobody wants it.
    Stopped,
    /// It was not begun.
    Back,
    Broken(Error),
}

/// What is to be told of jobs.
#[derive(Default)]
struct Batch {
    jobs: Vec<Told>,
    records: Vec<u8>,
    /// The shared data that results refer to, with their places, by the places of jobs.
    shared: HashMap<u32, Vec<(u32, Vec<Content>)>>,
    back: Vec<u32>,
    /// That none of the message can be read.
    is_senseless: bool,
}

impl Batch {
    fn add(&mut self, piece: Piece, elapsed: Duration, outcomes: &[u8]) {
        self.records.extend_from_slice(outcomes);
        self.jobs.push(Told {
            place: piece.place,
            elapsed: elapsed.as_nanos() as u64,
            len: outcomes.len(),
        });
    }

    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.back.is_empty() && !self.is_senseless
    }

    /// One batch for each job.
    fn apart(self) -> impl Iterator<Item = Self> {
        let Self {
            jobs,
            records,
            mut shared,
            back,
            is_senseless: _,
        } = self;
        let mut from = 0;
        let each = jobs.into_iter().map(move |told| {
            let records = records[from..from + told.len].to_vec();
            from += told.len;
            Self {
                jobs: vec![told],
                records,
                shared: shared.remove_entry(&told.place).into_iter().collect(),
                ..Self::default()
            }
        });
        let back = Self {
            back,
            ..Self::default()
        };
        each.chain(std::iter::once(back).filter(|batch| !batch.is_empty()))
    }
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
    pub(crate) async fn run(self, message: &[u8], stops: watch::Receiver<Stops>) -> End {
        let mut stopped = stops.clone();
        tokio::select! {
            end = self.see_through(message, stops) => end,
            Ok(_) = stopped.wait_for(|stops| stops.is_all) => End::Settled,
        }
    }

    async fn see_through(&self, message: &[u8], mut stops: watch::Receiver<Stops>) -> End {
        if self.is_left && self.is_nobodys().await {
            return End::Left;
        }
        let unpacked = message::unpack::<Order>(message);
        let (pieces, is_suspect) = match &unpacked {
            Some((order, _)) => (&order.pieces[..], order.is_suspect),
            None => (&[][..], false),
        };
        let mut turn = None;
        if self.is_again || is_suspect {
            // Several go one by one from here on; nothing of this message is begun.
            let is_one = matches!(pieces, [Piece { count: 1, .. }]);
            if is_one {
                self.stage.note_left(1);
                tokio::select! {
                    own = self.suspects.clone().lock_owned() => turn = Some(own),
                    () = recalled(&mut stops) => {
                        // As if it began: whoever had it before may have been lost by it.
                        if self.is_again && self.is_given_up().await {
                            return End::Settled;
                        }
                        return self.hand_back(pieces).await;
                    }
                }
                self.stage.note_turn();
            }
            if self.is_again && self.is_given_up().await {
                return End::Settled;
            }
            self.stage.note_claimed();
        }
        let mut begun = match self.begin(unpacked).await {
            Ok(Work::Begun(begun)) => begun,
            Ok(Work::Refused(refusals)) => return self.tell_all(refusals).await,
            Ok(Work::Senseless) => {
                let senseless = Batch {
                    is_senseless: true,
                    ..Batch::default()
                };
                return self.hand_over(&senseless).await;
            }
            Err(end) => return end,
        };
        let mut turn_is_over = pin!(tokio::time::sleep(LONG));
        while !begun.parts.is_empty() {
            self.stage.note_left(begun.parts.len());
            tokio::select! {
                Some(first) = begun.parts.next() => {
                    let batch = match self.gather(first, &mut begun) {
                        Ok(batch) => batch,
                        Err(error) => return End::Broken(error),
                    };
                    fault!("agent.ran");
                    match self.tell_all(batch).await {
                        End::Settled => {}
                        end => return end,
                    }
                }
                Ok(()) = stops.changed() => begun.stop(&stops.borrow_and_update()),
                () = &mut turn_is_over, if turn.is_some() => turn = None,
            }
        }
        End::Settled
    }

    /// Has the submitter send again what was not begun.
    async fn hand_back(&self, pieces: &[Piece]) -> End {
        let back = pieces.iter().map(|piece| piece.place).collect();
        let batch = Batch {
            back,
            ..Batch::default()
        };
        self.hand_over(&batch).await
    }

    /// What is to be told of the job that is over, and of those that are over as well.
    fn gather(&self, first: (Piece, Ended), begun: &mut Begun) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        let mut next = Some(first);
        while let Some((piece, ended)) = next {
            match ended {
                Ended::Ran((outcomes, worked)) => {
                    self.paces.learn(&begun.task, worked / piece.count.max(1));
                    // What its submitter sizes jobs by is not what they waited, here or on their way.
                    let outcomes = match shared_of(&outcomes) {
                        Ok(shared) => {
                            if !shared.is_empty() {
                                batch.shared.insert(piece.place, shared);
                            }
                            pack_outcomes(outcomes, &self.host)
                        }
                        Err(error) => pack_lost(piece.count, &error.to_string()),
                    };
                    batch.add(piece, worked, &outcomes);
                }
                Ended::Stopped => {}
                Ended::Back => batch.back.push(piece.place),
                Ended::Broken(error) => return Err(error),
            }
            next = begun.parts.next().now_or_never().flatten();
        }
        Ok(batch)
    }

    /// Tells the submitter that it begins with what may have cost other agents their lives, and whether
    /// that is to be enough.
    async fn is_given_up(&self) -> bool {
        let word = message::pack(&Word::Again { id: self.id }, &[]);
        // Without an answer it is found out later who is there.
        let answer = self.tell(word.into()).await.unwrap_or_default();
        let unwanted: Unwanted = serde_json::from_slice(&answer).unwrap_or_default();
        unwanted.messages.contains(&self.id)
    }

    /// Whether its submitter is gone still.
    async fn is_nobodys(&self) -> bool {
        // That it is at this one it may say only later.
        let word = message::pack(&Word::AtWork(Vec::new()), &[]);
        let answer = self.tell(word.into()).await;
        answer == Err(RequestErrorKind::NoResponders)
    }

    /// Asks which jobs of the message are still wanted: one that was cancelled while it waited with
    /// others could not be taken back.
    async fn drop_unwanted(&self, pieces: &mut Vec<(Piece, &[u8])>) {
        let word = message::pack(&Word::AtWork(vec![self.id]), &[]);
        // Without an answer it is found out later.
        let answer = self.tell(word.into()).await.unwrap_or_default();
        let unwanted: Unwanted = serde_json::from_slice(&answer).unwrap_or_default();
        if unwanted.messages.contains(&self.id) {
            pieces.clear();
        }
        pieces.retain(|(piece, _)| !unwanted.jobs.contains(&(self.id, piece.place)));
    }

    /// Has the local pool begin with what is in a message.
    async fn begin(&self, unpacked: Option<(Order, &[u8])>) -> Result<Work, End> {
        let Some((order, records)) = unpacked else {
            return Ok(Work::Senseless);
        };
        let signature = order.signature.as_deref();
        if let Some(why) = self.link.names.build.objection(&order.task, signature) {
            return Ok(refused(&order, &why));
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
                Err(Missing::Refused(why)) => return Ok(refused(&order, &why)),
            }
        }
        let Some(mut pieces) = cut(&order.pieces, records) else {
            return Ok(Work::Senseless);
        };
        if pieces.len() > 1 {
            self.drop_unwanted(&mut pieces).await;
            fault!("agent.asked");
        }
        let limit = order.limit.map(Duration::from_nanos);
        let each = self.paces.of(&order.task);
        let parts = FuturesUnordered::new();
        for (piece, records) in pieces {
            let items = (piece.count, records.to_vec());
            match submit_encoded(&self.pool, &order.task, items, &shared, limit, each) {
                Ok(job) => {
                    parts.push(Part {
                        piece,
                        job: Awaited(job),
                        is_stopped: false,
                        is_recalled: false,
                    });
                    fault!("agent.begun");
                }
                Err(error)
                    if error.is_unknown_task()
                        || error.is_ambiguous_task()
                        || error.is_not_decoded() =>
                {
                    return Ok(refused(&order, &error.to_string()));
                }
                Err(error) => return Err(End::Broken(error)),
            }
        }
        Ok(Work::Begun(Begun {
            task: order.task,
            parts,
            _shared: shared,
        }))
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

    /// Tells what became of jobs, of each by itself if together they are too much for a message.
    async fn tell_all(&self, batch: Batch) -> End {
        let is_small = batch.records.len() <= self.most() && batch.shared.is_empty();
        if batch.jobs.len() <= 1 || is_small {
            return self.hand_over(&batch).await;
        }
        for one in batch.apart() {
            match self.hand_over(&one).await {
                End::Settled => {}
                end => return end,
            }
        }
        End::Settled
    }

    /// Bytes of outcomes that a message may have.
    fn most(&self) -> usize {
        // They may be more than the arguments, which have made the submitter's message full.
        self.link.client.max_payload().saturating_sub(HEAD)
    }

    /// Hands outcomes over, as often as it takes: while the server is away, or has no leader, that
    /// does not work, and they are not run again for it.
    async fn hand_over(&self, batch: &Batch) -> End {
        if batch.is_empty() {
            return End::Settled;
        }
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
                message = match self.pack(batch).await {
                    Ok(packed) => Some(packed),
                    Err(Unavailable(why)) => {
                        let since = *unstored.get_or_insert_with(Instant::now);
                        let is_over = since.elapsed() >= self.patience;
                        is_over.then(|| (self.failed(batch, &why), Vec::new()))
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
                            message = Some((self.failed(batch, why), Vec::new()));
                        }
                    }
                    Ok(_) => {
                        fault!("agent.handed");
                        // Who has fetched them removes them.
                        let (_, uploads) = message.unwrap_or_default();
                        uploads.into_iter().for_each(Upload::keep);
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
    async fn pack(&self, batch: &Batch) -> Result<(Bytes, Vec<Upload>), Unavailable> {
        if batch.is_senseless {
            let why = "the message makes no sense to the worker's machine".to_owned();
            let (id, place) = (self.id, None);
            let word = Word::Failed { id, place, why };
            return Ok((message::pack(&word, &[]).into(), Vec::new()));
        }
        let mut uploads = Vec::new();
        let mut report = Report {
            id: self.id,
            jobs: batch.jobs.clone(),
            back: batch.back.clone(),
            blob: None,
            shared: HashMap::new(),
        };
        for (place, shared) in &batch.shared {
            let there = data::upload(&self.blobs, &self.submitter, shared, &mut uploads).await?;
            report.shared.insert(*place, there);
        }
        let records = &batch.records;
        if records.len() <= self.most() {
            return Ok((message::pack(&Word::Done(report), records).into(), uploads));
        }
        let name = Blobs::new_name(&self.submitter);
        uploads.push(self.blobs.put(&name, records).await?);
        fault!("agent.stored");
        let len = records.len();
        report.blob = Some(Elsewhere { name, len });
        let message = message::pack(&Word::Done(report), &[]);
        Ok((message.into(), uploads))
    }

    fn failed(&self, batch: &Batch, why: &str) -> Bytes {
        let shared = batch.shared.values().flatten();
        let shared = shared.flat_map(|(_, contents)| contents);
        let shared: usize = shared.map(|content| content.bytes().len()).sum();
        let (id, len) = (self.id, batch.records.len() + shared);
        // What is too large for a message is of one job.
        let place = batch.jobs.first().map(|told| told.place);
        let why = format!(
            "its outcomes take {len} bytes, and the server's object store does not take them: {why}"
        );
        message::pack(&Word::Failed { id, place, why }, &[]).into()
    }
}

impl Begun {
    /// Ends what nobody wants, and what has not begun if it is for another agent.
    fn stop(&mut self, stops: &Stops) {
        for part in self.parts.iter_mut() {
            if !part.is_stopped && stops.places.contains(&part.piece.place) {
                part.is_stopped = true;
                part.job.0.cancel();
            } else if !part.is_recalled && stops.is_recalled {
                part.is_recalled = true;
                recall(&part.job.0);
            }
        }
    }
}

/// Waits until what has not begun is for another agent.
async fn recalled(stops: &mut watch::Receiver<Stops>) {
    if stops.wait_for(|stops| stops.is_recalled).await.is_err() {
        // Nobody is there who could say so.
        std::future::pending().await
    }
}

/// The jobs of a message, each with its records; `None` if they are not there.
fn cut<'a>(pieces: &[Piece], mut records: &'a [u8]) -> Option<Vec<(Piece, &'a [u8])>> {
    let cut = pieces.iter().map(|piece| {
        let (own, rest) = records.split_at_checked(piece.len)?;
        records = rest;
        // No record is empty.
        (piece.count as usize <= own.len()).then_some((*piece, own))
    });
    cut.collect()
}

/// What is said of jobs that came to no worker.
fn refused(order: &Order, why: &str) -> Work {
    let mut refusals = Batch::default();
    for piece in &order.pieces {
        if piece.count as usize > piece.len {
            // There are no such records: not even that can be said for each of so many.
            return Work::Senseless;
        }
        let outcomes = pack_refusals(piece.count, why);
        refusals.add(*piece, Duration::ZERO, &outcomes);
    }
    Work::Refused(refusals)
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
