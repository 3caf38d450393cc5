//! The side that submits: one thread that owns the connection, sends task messages and takes outcomes.
//!
//! The pool gives it jobs as [`Shipment`]s. Each becomes one message in the stream of tasks; its
//! outcomes come as a request, which is answered once they are taken, so that the agent that has
//! them keeps them until then. What was delivered twice is dropped: a shipment is taken from
//! [`State::out`] once.
//!
//! After a reconnect everything that is out is sent again: a server that still has a message with
//! that subject refuses the second, and one that has lost it, as a restarted one with its stream in
//! memory, has it again. What agents say that they are at is not. Every now and then it also looks
//! which messages the server has: one that was dropped in our absence is sent again as well.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::Stream;
use async_nats::{HeaderMap, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use mp::__private::{Carrier, Content, Shipment};
use mp::{Error, WorkerStats};
use tokio::sync::mpsc;

use crate::blobs::{Blobs, INLINE, Stored, Unavailable};
use crate::broadcast::Broadcast;
use crate::build::Build;
use crate::connection::Connection;
use crate::data::Outgoing;
use crate::error::{self, chain};
use crate::link::{Change, LEASE, Link};
use crate::message::{
    self, Cancelled, Elsewhere, MISSING, Order, Presence, Report, Unwanted, Word,
};
use crate::names::Names;
use crate::roll::Roll;

/// How often it looks after what is out.
const TICK: Duration = Duration::from_millis(250);
/// How often it asks who is there.
const ROLL_CALL: Duration = Duration::from_secs(1);
/// How often it looks which messages the server has.
const CHECK: Duration = Duration::from_secs(5);
/// Agents that may be lost while they are at the same item.
const MOST_LOST: u32 = 3;
/// How long nothing may be heard of a server that is there, with calls under way.
const SILENCE: Duration = Duration::from_secs(7);
/// How long ending a pool waits until the server knows.
const CLOSING: Duration = Duration::from_secs(2);

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Submitter {
    commands: mpsc::UnboundedSender<Command>,
    workers: Arc<Workers>,
}

/// The workers that are there, as the thread knows them.
#[derive(Debug, Default)]
struct Workers {
    count: AtomicUsize,
    crew: Mutex<Vec<WorkerStats>>,
}

#[derive(Debug)]
enum Command {
    Ship(Shipment),
    Withdraw(u64),
    Cancel(u64),
    Broadcast(Broadcast),
    /// Ends the thread, which drops the sender when it has told the server.
    Close(std_mpsc::Sender<()>),
}

impl Submitter {
    /// Connects, and waits for as many workers as there should be.
    pub(crate) fn start(connection: &Connection) -> Result<Self, Error> {
        let build = Build::of(connection)?;
        let (commands, received) = mpsc::unbounded_channel();
        let (started, start) = std_mpsc::channel();
        let workers = Arc::<Workers>::default();
        let connection = connection.clone();
        let counted = workers.clone();
        let run = move || {
            let runtime = match crate::runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            runtime.block_on(async {
                match State::open(&connection, build, counted).await {
                    Ok(state) => {
                        let _ = started.send(Ok(()));
                        state.run(received).await;
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
        };
        std::thread::Builder::new()
            .name("mp-cluster".to_owned())
            .spawn(run)
            .map_err(|error| error::cluster(format!("could not start a thread: {error}")))?;
        match start.recv() {
            Ok(result) => result?,
            Err(_) => return Err(error::cluster("the thread for the connection has ended")),
        }
        Ok(Self { commands, workers })
    }

    fn command(&self, command: Command) {
        // A thread that has ended drops it, and with it the shipment.
        let _ = self.commands.send(command);
    }
}

impl Carrier for Submitter {
    fn ship(&self, shipment: Shipment) {
        self.command(Command::Ship(shipment));
    }

    fn withdraw(&self, id: u64) {
        self.command(Command::Withdraw(id));
    }

    fn cancel(&self, id: u64) {
        self.command(Command::Cancel(id));
    }

    fn broadcast(
        &self,
        task: &str,
        argument: &[u8],
        limit: Option<Duration>,
    ) -> Result<Vec<u8>, Error> {
        let (answered, answer) = std_mpsc::channel();
        self.command(Command::Broadcast(Broadcast {
            task: task.to_owned(),
            argument: argument.to_vec(),
            limit,
            answered,
        }));
        let gone = |_| error::cluster("the pool ended while a task was broadcast");
        answer.recv().map_err(gone)?
    }

    fn workers(&self) -> usize {
        self.workers.count.load(Ordering::Relaxed)
    }

    fn crew(&self) -> Vec<WorkerStats> {
        lock(&self.workers.crew).clone()
    }

    fn close(&self) {
        let (closing, closed) = std_mpsc::channel();
        self.command(Command::Close(closing));
        let _ = closed.recv_timeout(CLOSING);
    }
}

/// What the thread has.
struct State {
    link: Link,
    stream: Stream,
    /// What this pool is called.
    pool: String,
    patience: Duration,
    changes: mpsc::UnboundedReceiver<Change>,
    outcomes: Subscriber,
    answers: Subscriber,
    /// Where agents answer the roll call.
    inbox: String,
    roll: Roll,
    workers: Arc<Workers>,
    out: HashMap<u64, Outstanding>,
    /// What became of messages that were sent, and of purges.
    sent: mpsc::UnboundedReceiver<(u64, Sent)>,
    sending: mpsc::UnboundedSender<(u64, Sent)>,
    /// Outcomes that came by the object store.
    fetched: mpsc::UnboundedReceiver<Fetched>,
    fetching: mpsc::UnboundedSender<Fetched>,
    /// The messages that the server had when it was asked.
    found: mpsc::UnboundedReceiver<(Instant, HashSet<u64>)>,
    finding: mpsc::UnboundedSender<(Instant, HashSet<u64>)>,
    next_check: Instant,
    blobs: Blobs,
    /// The shared data among them.
    shared: Outgoing,
    /// Whether there may be outcomes in the object store that nobody has fetched.
    is_untidy: bool,
    /// Since when the server has taken nothing, and what it says.
    full: Option<(Instant, String)>,
    /// Since when there has been no connection, or no worker.
    disconnected: Option<Instant>,
    /// Whether there is one again, and the stream is yet to be found.
    is_back: bool,
    deserted: Option<Instant>,
    /// When anything was last heard of the server.
    heard: Instant,
    next_roll: Instant,
}

/// A job that is out.
struct Outstanding {
    shipment: Shipment,
    /// What of its arguments is in the object store.
    stored: Stored,
    /// Whether its outcomes are being fetched from there.
    is_fetching: bool,
    /// Since when it is out.
    since: Instant,
    /// When its message is to be sent again, since the server did not take it.
    again: Option<Instant>,
    /// When the server was known to have it.
    taken: Option<Instant>,
    /// When an agent last said that it is at it.
    at_work: Option<Instant>,
    /// Since when its arguments are not in the object store.
    unstored: Option<Instant>,
    /// How often an agent was lost that may have begun with it.
    lost: u32,
}

impl Outstanding {
    /// Whether an agent has it, and was heard of within a lease.
    fn is_at_work(&self, now: Instant) -> bool {
        self.at_work.is_some_and(|said| now - said < LEASE)
    }
}

/// What a message is to hold.
enum Payload {
    Ready(Vec<u8>),
    /// Some of it goes to the object store first.
    Due(Box<Due>),
}

/// Arguments on their way to the object store.
struct Due {
    order: Order,
    items: Vec<u8>,
    shared: Vec<Content>,
    pool: String,
    blobs: Blobs,
    outgoing: Outgoing,
    stored: Stored,
    /// What was stored for the same message before, which may be the same.
    before: Stored,
}

impl Due {
    /// Stores what is to be stored, and returns the message.
    async fn store(self) -> Result<Vec<u8>, Unavailable> {
        let Self {
            mut order, items, ..
        } = self;
        let items = match order.is_sharing {
            true => {
                let data = self.outgoing.publish(self.shared, &self.stored).await?;
                message::pack(&data, &items)
            }
            false => items,
        };
        let payload = match items.len() <= INLINE {
            true => message::pack(&order, &items),
            false => {
                let (name, len) = (Blobs::name_of(&self.pool, &items), items.len());
                self.blobs.put_kept(&name, &items, &self.stored).await?;
                order.blob = Some(Elsewhere { name, len });
                message::pack(&order, &[])
            }
        };
        drop(self.before);
        Ok(payload)
    }
}

/// Outcomes that were fetched from the object store, if they could be.
struct Fetched {
    report: Report,
    records: Option<Bytes>,
    reply: Option<Subject>,
}

/// What became of a message.
enum Sent {
    /// The server has it.
    Taken,
    /// It may, or may not: it is to be sent again.
    Unsure,
    /// It does not take it now, and why.
    NotNow(String),
    /// It does not take the arguments now, and why.
    NotStored(String),
    /// There is no stream.
    NoStream,
    /// It will never take it, and why.
    Refused(String),
    /// It was taken back before an agent had it.
    TakenBack,
}

impl State {
    async fn open(
        connection: &Connection,
        build: Build,
        workers: Arc<Workers>,
    ) -> Result<Self, Error> {
        let (changed, changes) = mpsc::unbounded_channel();
        let names = Names::new(&connection.namespace, build);
        let link = Link::open(connection, names, changed).await?;
        let stream = link.stream().await?;
        let pool = crate::random_name();
        let inbox = link.client.new_inbox();
        let subscribe = async |subject: String| {
            let subscribed = link.client.subscribe(subject).await;
            subscribed.map_err(|error| error::cluster(format!("could not subscribe: {error}")))
        };
        let outcomes = subscribe(link.names.outcomes(&pool)).await?;
        let answers = subscribe(inbox.clone()).await?;
        let (sending, sent) = mpsc::unbounded_channel();
        let (fetching, fetched) = mpsc::unbounded_channel();
        let (finding, found) = mpsc::unbounded_channel();
        let blobs = Blobs::new(&link);
        let mut state = Self {
            shared: Outgoing::new(&pool, &blobs),
            blobs,
            link,
            stream,
            pool,
            patience: connection.patience,
            changes,
            outcomes,
            answers,
            inbox,
            roll: Roll::default(),
            workers,
            out: HashMap::new(),
            sent,
            sending,
            fetched,
            fetching,
            found,
            finding,
            next_check: Instant::now() + CHECK,
            is_untidy: false,
            full: None,
            disconnected: None,
            is_back: false,
            deserted: None,
            heard: Instant::now(),
            next_roll: Instant::now(),
        };
        state.await_workers(connection).await?;
        Ok(state)
    }

    /// Waits until there are as many workers as there should be.
    async fn await_workers(&mut self, connection: &Connection) -> Result<(), Error> {
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

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let closing = loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Ship(shipment)) => self.ship(shipment),
                    Some(Command::Withdraw(id)) => self.take_back(id),
                    Some(Command::Cancel(id)) => self.cancel(id).await,
                    Some(Command::Broadcast(broadcast)) => self.broadcast(broadcast),
                    Some(Command::Close(closing)) => break Some(closing),
                    None => break None,
                },
                Some(message) = self.outcomes.next() => self.take_word(&message).await,
                Some((id, sent)) = self.sent.recv() => self.note_sent(id, sent),
                Some(fetched) = self.fetched.recv() => self.note_fetched(fetched).await,
                Some((asked, found)) = self.found.recv() => self.note_found(asked, &found),
                Some(answer) = self.answers.next() => {
                    self.take_answer(&answer);
                }
                Some(change) = self.changes.recv() => self.note_change(change).await,
                _ = tick.tick() => self.look_after().await,
            }
        };
        self.close().await;
        drop(closing);
    }

    /// Sends a job's message.
    fn ship(&mut self, shipment: Shipment) {
        let id = shipment.id();
        let out = Outstanding {
            shipment,
            stored: Stored::default(),
            is_fetching: false,
            since: Instant::now(),
            again: None,
            taken: None,
            at_work: None,
            unstored: None,
            lost: 0,
        };
        self.out.insert(id, out);
        self.send(id);
    }

    /// Sends the message of a job that is out, if it still is.
    fn send(&mut self, id: u64) {
        if !self.link.is_connected() {
            // Everything is sent again once there is a connection.
            return;
        }
        let Some(out) = self.out.get_mut(&id) else {
            return;
        };
        out.taken = None;
        out.again = None;
        let shared = match out.shipment.shared() {
            Ok(shared) => shared,
            Err(error) => return self.note_sent(id, Sent::Refused(error.to_string())),
        };
        let (count, items) = out.shipment.items();
        let order = Order {
            task: out.shipment.task().to_owned(),
            count,
            limit: out.shipment.limit().map(|limit| limit.as_nanos() as u64),
            signature: self.link.names.build.signature(out.shipment.task()),
            is_sharing: !shared.is_empty(),
            blob: None,
        };
        let payload = match shared.is_empty() && items.len() <= INLINE {
            true => Payload::Ready(message::pack(&order, items)),
            false => {
                // What was stored for it before is kept until then.
                let before = std::mem::take(&mut out.stored);
                Payload::Due(Box::new(Due {
                    order,
                    items: items.to_vec(),
                    shared,
                    pool: self.pool.clone(),
                    blobs: self.blobs.clone(),
                    outgoing: self.shared.clone(),
                    stored: out.stored.clone(),
                    before,
                }))
            }
        };
        let mut headers = HeaderMap::new();
        // There is one message with that subject, or none.
        headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
        let subject = self.link.names.task(&self.pool, id);
        let context = self.link.context.clone();
        let sending = self.sending.clone();
        tokio::spawn(async move {
            let payload = match payload {
                Payload::Ready(payload) => payload,
                Payload::Due(due) => match due.store().await {
                    Ok(payload) => payload,
                    Err(Unavailable(why)) => {
                        let _ = sending.send((id, Sent::NotStored(why)));
                        return;
                    }
                },
            };
            let sent = match context
                .publish_with_headers(subject, headers, payload.into())
                .await
            {
                Ok(taken) => taken.await.map(drop),
                Err(error) => Err(error),
            };
            let sent = match sent {
                Ok(()) => Sent::Taken,
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    Sent::Refused(format!(
                        "the server takes messages of less than {INLINE} bytes: its max_payload \
                         is too small"
                    ))
                }
                Err(error) => match error.kind() {
                    // It has it since it was sent before.
                    PublishErrorKind::WrongLastSequence => Sent::Taken,
                    PublishErrorKind::StreamNotFound => Sent::NoStream,
                    PublishErrorKind::Other => Sent::NotNow(chain(&error)),
                    _ => Sent::Unsure,
                },
            };
            let _ = sending.send((id, sent));
        });
    }

    fn note_sent(&mut self, id: u64, sent: Sent) {
        if !matches!(sent, Sent::Unsure | Sent::NotStored(_)) {
            self.heard = Instant::now();
        }
        match sent {
            Sent::Taken => {
                self.full = None;
                if let Some(out) = self.out.get_mut(&id) {
                    out.taken = Some(Instant::now());
                    out.unstored = None;
                }
            }
            Sent::Unsure => self.send_later(id),
            Sent::NotNow(why) => {
                let since = self
                    .full
                    .as_ref()
                    .map_or_else(Instant::now, |(since, _)| *since);
                self.full = Some((since, why));
                self.send_later(id);
            }
            Sent::NotStored(why) => self.note_unstored(id, &why),
            Sent::NoStream => {
                self.is_back = true;
                self.send_later(id);
            }
            Sent::Refused(why) => {
                if let Some(out) = self.out.remove(&id) {
                    out.shipment.refuse(&why);
                }
            }
            Sent::TakenBack => {
                if let Some(out) = self.out.remove(&id) {
                    out.shipment.refuse("it was taken back");
                }
            }
        }
    }

    fn send_later(&mut self, id: u64) {
        if let Some(out) = self.out.get_mut(&id) {
            out.again = Some(Instant::now() + TICK);
        }
    }

    /// The arguments of a job are not in the object store: for a while they are put there again.
    fn note_unstored(&mut self, id: u64, why: &str) {
        let Some(out) = self.out.get_mut(&id) else {
            return;
        };
        let since = *out.unstored.get_or_insert_with(Instant::now);
        if since.elapsed() < self.patience {
            self.send_later(id);
        } else if let Some(out) = self.out.remove(&id) {
            let shared = out.shipment.shared().unwrap_or_default();
            let shared: usize = shared.iter().map(|it| it.bytes().len()).sum();
            let text = format!(
                "its arguments take {} bytes, and the server's object store does not take them: \
                 {why}",
                out.shipment.items().1.len() + shared
            );
            out.shipment.refuse(&text);
            self.take_back(id);
        }
    }

    /// Has the server forget a message that no agent has yet.
    fn take_back(&self, id: u64) {
        if !self.link.is_connected() {
            // An agent that takes it later hears that it is not wanted.
            return;
        }
        let subject = self.link.names.task(&self.pool, id);
        let stream = self.stream.clone();
        let sending = self.sending.clone();
        tokio::spawn(async move {
            if let Ok(purged) = stream.purge().filter(subject).await
                && purged.purged > 0
            {
                let _ = sending.send((id, Sent::TakenBack));
            }
        });
    }

    async fn cancel(&mut self, id: u64) {
        self.is_untidy = true;
        self.take_back(id);
        self.tell_agents(Some(id)).await;
        if let Some(out) = self.out.remove(&id) {
            out.shipment.lose("it was cancelled");
        }
    }

    /// Has every agent that is there run a task once in each of its workers.
    fn broadcast(&self, broadcast: Broadcast) {
        if self.roll.workers() == 0 {
            let nobody = error::cluster("no worker of this build is there");
            let _ = broadcast.answered.send(Err(nobody));
            return;
        }
        let agents = self.roll.agents().map(|agent| {
            broadcast.to(
                &self.pool,
                &self.link.names.build,
                agent.clone(),
                self.link.client.clone(),
                self.link.names.broadcast(&agent.agent),
            )
        });
        let agents = futures_util::future::join_all(agents);
        let answered = broadcast.answered.clone();
        tokio::spawn(async move {
            let _ = answered.send(Ok(agents.await.concat()));
        });
    }

    async fn tell_agents(&self, id: Option<u64>) {
        if !self.link.is_connected() {
            return;
        }
        let pool = self.pool.clone();
        let cancelled = message::pack_head(&Cancelled { pool, id });
        let subject = self.link.names.cancelled();
        // Whom it does not reach hears it when it says what it is at.
        let _ = self.link.client.publish(subject, cancelled.into()).await;
    }

    /// Takes what an agent says, and answers it.
    async fn take_word(&mut self, message: &Message) {
        let reply = message.reply.clone();
        let Some((word, records)) = message::unpack::<Word>(&message.payload) else {
            return;
        };
        let mut answer = Vec::new();
        match word {
            Word::Done(report) => {
                if let Some(out) = self.out.get_mut(&report.id)
                    && let Some(blob) = report.blob.clone()
                {
                    if !out.is_fetching {
                        out.is_fetching = true;
                        self.fetch(report, blob, reply);
                    }
                    // It is answered once they are here.
                    return;
                }
                self.finish(&report, records);
            }
            Word::Failed { id, why } => {
                if let Some(out) = self.out.remove(&id) {
                    out.shipment.lose(&why);
                }
            }
            Word::Lacking { id } => {
                if let Some(out) = self.out.get_mut(&id)
                    && out.again.is_none()
                {
                    // It was not begun.
                    out.lost = out.lost.saturating_sub(1);
                    self.blobs.unshelve(&out.stored);
                    self.note_unstored(id, "what was put there is not there");
                }
            }
            Word::Again { id } => {
                let unwanted = match self.note_lost(id) {
                    true => Vec::new(),
                    false => vec![id],
                };
                answer = message::pack_head(&Unwanted(unwanted));
            }
            Word::AtWork(ids) => {
                let now = Instant::now();
                let mut unwanted = Vec::new();
                for id in ids {
                    match self.out.get_mut(&id) {
                        Some(out) => out.at_work = Some(now),
                        None => unwanted.push(id),
                    }
                }
                answer = message::pack_head(&Unwanted(unwanted));
            }
        }
        // Also of outcomes that were taken before: the agent did not hear of it.
        self.answer(reply, answer.into()).await;
    }

    /// An agent has what another one did not bring to an end; whether it is to begin with it.
    fn note_lost(&mut self, id: u64) -> bool {
        let Some(out) = self.out.get_mut(&id) else {
            return false;
        };
        out.lost += 1;
        let (count, _) = out.shipment.items();
        // Of several items one may be to blame: they are tried by themselves.
        let most = if count > 1 { 1 } else { MOST_LOST };
        if out.lost >= most
            && let Some(out) = self.out.remove(&id)
        {
            let why = format!(
                "{most} agents, one after the other, ended or were cut off while they were at it"
            );
            out.shipment.crash(&why);
            return false;
        }
        true
    }

    fn finish(&mut self, report: &Report, records: &[u8]) {
        if let Some(out) = self.out.remove(&report.id) {
            let elapsed = Duration::from_nanos(report.elapsed);
            out.shipment.finish(records, elapsed);
        }
    }

    /// Fetches outcomes that are in the object store.
    fn fetch(&self, report: Report, blob: Elsewhere, reply: Option<Subject>) {
        let blobs = self.blobs.clone();
        let fetching = self.fetching.clone();
        tokio::spawn(async move {
            let records = blobs.get(&blob).await.ok();
            let is_there = records.is_some();
            let _ = fetching.send(Fetched {
                report,
                records,
                reply,
            });
            if is_there {
                blobs.remove(&blob.name).await;
            }
        });
    }

    async fn note_fetched(&mut self, fetched: Fetched) {
        let answer = match fetched.records {
            Some(records) => {
                self.finish(&fetched.report, &records);
                Bytes::new()
            }
            None => {
                if let Some(out) = self.out.get_mut(&fetched.report.id) {
                    out.is_fetching = false;
                }
                Bytes::from_static(MISSING)
            }
        };
        self.answer(fetched.reply, answer).await;
    }

    /// Answers an agent. One that waits in vain says it again.
    async fn answer(&self, reply: Option<Subject>, answer: Bytes) {
        if let Some(reply) = reply
            && self.link.is_connected()
        {
            let _ = self.link.client.publish(reply, answer).await;
        }
    }

    // Who is there.

    async fn call_roll(&mut self) {
        self.next_roll = Instant::now() + ROLL_CALL;
        let roll = self.link.names.roll_of_build();
        let inbox = self.inbox.clone();
        let _ = self
            .link
            .client
            .publish_with_reply(roll, inbox, "".into())
            .await;
    }

    /// Takes an answer to the roll call; whether it is that nobody is there.
    fn take_answer(&mut self, answer: &Message) -> bool {
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

    fn count_workers(&mut self) {
        let workers = self.roll.workers();
        self.workers.count.store(workers, Ordering::Relaxed);
        *lock(&self.workers.crew) = self.roll.crew();
        self.deserted = match workers {
            0 => self.deserted.or_else(|| Some(Instant::now())),
            _ => None,
        };
    }

    // What may go wrong.

    async fn note_change(&mut self, change: Change) {
        match change {
            Change::Disconnected => {
                self.disconnected.get_or_insert_with(Instant::now);
                self.is_back = false;
            }
            Change::Connected => {
                self.is_back = self.disconnected.is_some();
                self.restore().await;
            }
        }
    }

    /// Goes on after a reconnect, once the server has our stream again.
    async fn restore(&mut self) {
        if !self.is_back {
            return;
        }
        // It may be another by now, without what was in it.
        let Ok(stream) = self.link.stream().await else {
            return;
        };
        self.stream = stream;
        self.is_back = false;
        self.disconnected = None;
        self.blobs.forget();
        let now = Instant::now();
        let mut lacking = Vec::new();
        for (id, out) in &mut self.out {
            match out.is_at_work(now) {
                // It is looked for once its agent had the time to say that it still is.
                true => out.taken = Some(now),
                false => lacking.push(*id),
            }
        }
        for id in lacking {
            self.send(id);
        }
        self.next_check = now + CHECK;
        self.call_roll().await;
    }

    /// Asks the server which messages of ours it has.
    fn check(&mut self) {
        self.next_check = Instant::now() + CHECK;
        if self.out.is_empty() {
            return;
        }
        let stream = self.stream.clone();
        let names = self.link.names.clone();
        let subjects = names.tasks_of_pool(&self.pool);
        let finding = self.finding.clone();
        tokio::spawn(async move {
            let asked = Instant::now();
            let Ok(found) = stream.info_with_subjects(subjects).await else {
                return;
            };
            let ids = found.try_filter_map(async |(subject, _)| {
                Ok(names.parse_task(&subject).map(|(_, id)| id))
            });
            if let Ok(ids) = ids.try_collect().await {
                let _ = finding.send((asked, ids));
            }
        });
    }

    /// Sends again what the server has lost, or has dropped since we were not there.
    fn note_found(&mut self, asked: Instant, found: &HashSet<u64>) {
        let now = Instant::now();
        self.heard = now;
        let is_lost = |(id, out): &(&u64, &Outstanding)| {
            // What an agent has handed over is taken from `out` before its message goes.
            out.taken.is_some_and(|taken| taken < asked)
                && !found.contains(id)
                && !out.is_at_work(now)
        };
        let lost: Vec<_> = self.out.iter().filter(is_lost).map(|(id, _)| *id).collect();
        for id in lost {
            self.send(id);
        }
    }

    /// Does what is due: sends again what was not taken, asks who is there, gives up.
    async fn look_after(&mut self) {
        self.restore().await;
        let now = Instant::now();
        if self.disconnected.is_none() {
            if now >= self.next_roll {
                self.roll.age();
                self.count_workers();
                self.call_roll().await;
            }
            let due = |out: &Outstanding| out.again.is_some_and(|again| again <= now);
            let due: Vec<_> = self
                .out
                .iter()
                .filter(|(_, out)| due(out))
                .map(|(id, _)| *id)
                .collect();
            for id in due {
                self.send(id);
            }
            if now >= self.next_check {
                self.check();
            }
        }
        if let Some((since, why)) = &self.full
            && now - *since >= self.patience
        {
            let why = format!("the server takes no more tasks: {why}");
            self.full = None;
            self.refuse_waiting(&why);
        }
        if let Some(said) = self.link.objection() {
            // Whatever it was about is never answered.
            self.give_up(
                Duration::ZERO,
                &format!("the server does not permit it: {said}"),
            );
        }
        let patience = self.patience;
        let is_over = |since: Option<Instant>| since.is_some_and(|since| now - since >= patience);
        if is_over(self.disconnected) {
            let why = format!("there has been no connection to the server for {patience:?}");
            self.give_up(patience, &why);
        } else if self.disconnected.is_none() && is_over(self.deserted) {
            // Of a connection that is cut one learns late.
            let whom = match now - self.heard < SILENCE {
                true => "there has been no worker of this build",
                false => "nothing has been heard of the server, nor of any worker,",
            };
            self.give_up(patience, &format!("{whom} for {patience:?}"));
        }
    }

    /// Fails what the server has not taken.
    fn refuse_waiting(&mut self, why: &str) {
        let waiting: Vec<_> = self.out.extract_if(|_, out| out.again.is_some()).collect();
        for (_, out) in waiting {
            out.shipment.refuse(why);
        }
    }

    /// Fails what has been out for so long: what was called just now is waited for as well.
    fn give_up(&mut self, patience: Duration, why: &str) {
        let old = |out: &Outstanding| out.since.elapsed() >= patience;
        let out: Vec<_> = self.out.extract_if(|_, out| old(out)).collect();
        self.is_untidy |= !out.is_empty();
        for (id, Outstanding { shipment, .. }) in out {
            shipment.lose(why);
            self.take_back(id);
        }
    }

    /// Has the server and the agents forget this pool.
    async fn close(&mut self) {
        self.is_untidy |= !self.out.is_empty();
        self.out.clear();
        self.tell_agents(None).await;
        let purge = self
            .stream
            .purge()
            .filter(self.link.names.tasks_of_pool(&self.pool));
        let said = async {
            let _ = purge.await;
            self.blobs.clear().await;
            if self.is_untidy {
                self.blobs.sweep(&self.pool).await;
            }
            let _ = self.link.client.flush().await;
        };
        if let Err(late) = tokio::time::timeout(CLOSING, said).await {
            // The agents find nobody who takes the outcomes.
            let _: tokio::time::error::Elapsed = late;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under it is whole at any moment.
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
