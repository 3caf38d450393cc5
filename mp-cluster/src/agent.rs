//! The side that runs tasks: one thread that owns the connection, pulls task messages and hands them
//! to a local pool.
//!
//! A message is leased: the agent says every [`PROGRESS`] that it is still at it, and one whose agent
//! says nothing any more goes to another. It is acknowledged once the submitter has its outcomes.
//! What becomes of the workers is the local pool's matter: a panic, a crash, a deadline are
//! outcomes as any others.
//!
//! It pulls only what it has workers for, and a little more when tasks are short. What waits all the
//! same, since something took longer than what came before, it hands back, so that a task does not
//! wait at one agent while another has nothing to do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::stream::Stream;
use async_nats::{Message, Subject, Subscriber};
use futures_util::StreamExt;
use mp::__private::build_local;
use mp::{Error, Pool, PoolBuilder};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::blobs::Blobs;
use crate::broadcast;
use crate::build::Build;
use crate::connection::Connection;
use crate::data::Incoming;
use crate::errand::{End, Errand, Stops};
use crate::error;
use crate::fault::fault;
use crate::health::{Health, State};
use crate::link::{Change, Link, PROGRESS};
use crate::message::{self, Announcement, Cancelled, Presence, Unwanted, Word};
use crate::names::Names;
use crate::pace::Paces;
use crate::pulls::{Pulled, Pulls};

/// How often it looks whether something is due.
const TICK: Duration = Duration::from_millis(100);
/// How long a submitter that does not answer is waited for; then it is gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
/// When what has not begun goes to another agent, if there is one: long against [`AHEAD`].
pub(crate) const LONG: Duration = Duration::from_millis(100);
/// How long a submitter that is gone is remembered.
const GONE: Duration = Duration::from_secs(3600);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Messages that are held beyond what the workers are at, if one takes less than that: as many as
/// take so long. It is more than they do while others are fetched, and no long wait for one that
/// another agent might begin.
const AHEAD: Duration = Duration::from_millis(10);
/// Messages of that at most.
const MOST_AHEAD: usize = 64;

/// Serves the pools that are connected to the same server, until it is told to end: by SIGTERM or
/// SIGINT, which let it finish what it is at.
pub(crate) fn serve(connection: &Connection, builder: &PoolBuilder) -> Result<(), Error> {
    let build = Build::of(connection)?;
    // What is shared by name is known to them by it.
    let pool = build_local(builder, connection.variables())?;
    let runtime = crate::runtime()?;
    let served = runtime.block_on(async {
        let health = Health::open(connection.health.as_deref()).await?;
        let agent = Agent::open(connection, build, pool, health).await?;
        agent.run().await
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    served
}

struct Agent {
    link: Link,
    pool: Arc<Pool>,
    presence: Presence,
    changes: mpsc::UnboundedReceiver<Change>,
    /// Task messages that are pulled, and what becomes of pulls.
    pulls: Pulls,
    cancelled: Subscriber,
    roll: Subscriber,
    roll_of_build: Subscriber,
    broadcasts: Subscriber,
    blobs: Blobs,
    shared: Incoming,
    paces: Paces,
    suspects: Arc<tokio::sync::Mutex<()>>,
    /// The messages that it is at.
    held: HashMap<(String, u64), Held>,
    /// The pools of what was broadcast and is under way, and the way to stop it.
    broadcasting: HashMap<String, watch::Sender<bool>>,
    over: mpsc::UnboundedReceiver<Over>,
    finishing: mpsc::UnboundedSender<Over>,
    /// Pools whose submitters were asked whether they are there, and the answers.
    heard: mpsc::UnboundedReceiver<(String, Heard)>,
    hearing: mpsc::UnboundedSender<(String, Heard)>,
    /// Since when nobody is there.
    silent: HashMap<String, Instant>,
    /// Pools whose submitters are gone, and when that was last found. What is left of them is
    /// dropped as it comes.
    gone: HashMap<String, Instant>,
    /// How long a message takes, as far as is known.
    pace: Option<Duration>,
    /// Whether it is to end.
    is_draining: bool,
    /// Whether the stream is yet to be found, after a reconnect.
    is_lost: bool,
    /// The stream, when it was found; whether it is being looked for.
    restored: mpsc::UnboundedReceiver<Option<Found>>,
    restoring: mpsc::UnboundedSender<Option<Found>>,
    is_restoring: bool,
    made: Made,
    patience: Duration,
    /// Since when there is no connection.
    away: Option<Instant>,
    health: Health,
}

/// A message that the agent is at.
struct Held {
    /// Where it is acknowledged, if it is in the stream that there is now.
    reply: Option<Subject>,
    stop: watch::Sender<Stops>,
    stage: Arc<Stage>,
}

/// How far a message has come, for the agent to see.
#[derive(Default)]
pub(crate) struct Stage {
    /// Jobs of it that are not over, once they wait for workers.
    left: AtomicUsize,
    /// Since when there has been nothing else to wait for: neither arguments nor the submitter.
    ready: Mutex<Option<Instant>>,
    /// Whether the submitter is to hear that we are at it: if it came again, not before it has heard that.
    is_claimed: AtomicBool,
}

impl Stage {
    /// So many jobs wait for workers, or for their turn.
    pub(crate) fn note_left(&self, left: usize) {
        // Relaxed: it stands alone.
        self.left.store(left, Ordering::Relaxed);
        lock(&self.ready).get_or_insert_with(Instant::now);
    }

    /// The submitter has heard that it came again, if it did.
    pub(crate) fn note_claimed(&self) {
        // Relaxed: it stands alone.
        self.is_claimed.store(true, Ordering::Relaxed);
    }

    /// Their turn has come, and they are about to be prepared.
    pub(crate) fn note_turn(&self) {
        *lock(&self.ready) = None;
    }
}

impl Held {
    /// Whether it takes so long that others are not to wait behind it.
    fn is_long(&self, now: Instant) -> bool {
        let ready = *lock(&self.stage.ready);
        ready.is_some_and(|since| now.saturating_duration_since(since) >= LONG)
    }

    /// The workers that are at it, as far as is known: what takes long has nothing that has not begun.
    fn workers(&self, now: Instant) -> usize {
        match self.is_long(now) {
            // Relaxed: it stands alone.
            true => self.stage.left.load(Ordering::Relaxed).max(1),
            false => 1,
        }
    }
}

/// When the stream and its consumer were made, as the server tells.
#[derive(PartialEq, Eq)]
struct Made {
    stream: i128,
    consumer: i128,
}

impl Made {
    fn of(stream: &Stream, consumer: i128) -> Self {
        Self {
            stream: stream.cached_info().created.unix_timestamp_nanos(),
            consumer,
        }
    }
}

/// The stream as it was found after a reconnect.
struct Found {
    made: Made,
    /// The numbers of the last message that it was given, and of the last of those that were held when
    /// it was asked for that.
    last: u64,
    last_held: u64,
}

/// What was heard of a submitter.
enum Heard {
    /// It is there, and does not want these.
    There(Unwanted),
    Gone,
}

/// The end of a message that the agent was at.
struct Over {
    key: (String, u64),
    elapsed: Duration,
    end: End,
}

impl Agent {
    async fn open(
        connection: &Connection,
        build: Build,
        pool: Pool,
        health: Health,
    ) -> Result<Self, Error> {
        let (changed, changes) = mpsc::unbounded_channel();
        let names = Names::new(&connection.namespace, build.clone());
        let link = Link::open(connection, names, changed).await?;
        let stream = link.stream().await?;
        let consumer = link.consumer(&stream).await?;
        let subscribe = async |subject: String| {
            let subscribed = link.client.subscribe(subject).await;
            subscribed.map_err(|error| error::cluster(format!("could not subscribe: {error}")))
        };
        let pulls = Pulls::new(&link).await?;
        let cancelled = subscribe(link.names.cancelled()).await?;
        let roll = subscribe(link.names.roll()).await?;
        let roll_of_build = subscribe(link.names.roll_of_build()).await?;
        let presence = Presence {
            agent: crate::random_name(),
            host: crate::host_name(),
            build: build.to_string(),
            workers: pool.workers(),
            crew: Vec::new(),
        };
        let broadcasts = subscribe(link.names.broadcast(&presence.agent)).await?;
        let (finishing, over) = mpsc::unbounded_channel();
        let (hearing, heard) = mpsc::unbounded_channel();
        let (restoring, restored) = mpsc::unbounded_channel();
        let blobs = Blobs::new(&link);
        Ok(Self {
            pulls,
            shared: Incoming::new(&blobs),
            blobs,
            paces: Paces::default(),
            suspects: Arc::default(),
            link,
            pool: Arc::new(pool),
            presence,
            changes,
            cancelled,
            roll,
            roll_of_build,
            broadcasts,
            held: HashMap::new(),
            broadcasting: HashMap::new(),
            over,
            finishing,
            heard,
            hearing,
            silent: HashMap::new(),
            gone: HashMap::new(),
            pace: None,
            is_draining: false,
            is_lost: false,
            restored,
            restoring,
            is_restoring: false,
            made: Made::of(&stream, consumer),
            patience: connection.patience,
            away: None,
            health,
        })
    }

    async fn run(mut self) -> Result<(), Error> {
        let no_signal = |error| error::cluster(format!("could not listen to signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut progress = tokio::time::interval(PROGRESS);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut result = Ok(());
        while !(self.is_draining && self.is_idle()) {
            self.pull().await;
            tokio::select! {
                Some(pulled) = self.pulls.next() => self.take(pulled).await,
                Some(over) = self.over.recv() => {
                    if let Err(error) = self.note_over(over).await {
                        self.is_draining = true;
                        result = Err(error);
                    }
                }
                Some((pool, heard)) = self.heard.recv() => self.note_heard(pool, heard),
                Some(found) = self.restored.recv() => self.note_restored(found),
                Some(message) = self.cancelled.next() => self.cancel(&message),
                Some(message) = self.roll.next() => self.answer(&message).await,
                Some(message) = self.roll_of_build.next() => self.answer(&message).await,
                Some(message) = self.broadcasts.next() => self.begin_broadcast(message),
                Some(change) = self.changes.recv() => self.note_change(change),
                _ = terminate.recv() => self.drain(),
                _ = interrupt.recv() => self.drain(),
                _ = progress.tick() => {
                    self.say_progress().await;
                    self.ask_submitters();
                    self.shared.tidy_up();
                }
                _ = tick.tick() => {
                    self.restore();
                    self.look_at_health();
                    self.recall();
                    if self.is_draining && self.is_away_for_good() {
                        let text = format!(
                            "there has been no connection to the server for {:?}: the outcomes of \
                             {} task messages could not be handed over",
                            self.patience,
                            self.held.len()
                        );
                        result = Err(error::cluster(text));
                        break;
                    }
                    if let Some(said) = self.link.objection() {
                        self.is_draining = true;
                        result = Err(self.link.denied("serve", &said));
                    }
                }
            }
        }
        self.give_back().await;
        self.pool.terminate();
        // Until the server has answered: what it has not read yet is lost with a connection that is closed
        // while something unread lies here.
        let heard = self.link.context.get_stream(self.link.names.stream());
        let _ = tokio::time::timeout(LAST_WORDS, heard).await;
        result
    }

    /// Gives back what was asked for and still comes, or it would be leased to nobody.
    async fn give_back(&mut self) {
        if !self.link.is_connected() {
            return;
        }
        // Whatever is to end it: nothing is begun any more.
        self.is_draining = true;
        let until = Instant::now() + LAST_WORDS;
        self.pulls.end().await;
        while let Ok(Some(pulled)) = tokio::time::timeout_at(until.into(), self.pulls.next()).await
        {
            self.take(pulled).await;
        }
    }

    fn is_idle(&mut self) -> bool {
        self.broadcasting.retain(|_, stop| !stop.is_closed());
        self.held.is_empty() && self.broadcasting.is_empty()
    }

    /// Whether the server has been away for longer than it is waited for.
    fn is_away_for_good(&mut self) -> bool {
        if self.link.is_connected() {
            self.away = None;
            return false;
        }
        let since = *self.away.get_or_insert_with(Instant::now);
        since.elapsed() >= self.patience
    }

    /// Takes no more.
    fn drain(&mut self) {
        self.is_draining = true;
        self.look_at_health();
    }

    fn look_at_health(&self) {
        self.health.set(if self.is_draining {
            State::Draining
        } else if self.is_lost {
            State::Disconnected
        } else if self.pool.stats().workers.iter().any(|it| it.is_ready) {
            State::Ready
        } else {
            State::Starting
        });
    }

    /// Asks for as many messages as it could begin.
    async fn pull(&mut self) {
        if self.is_draining || self.is_lost || !self.link.is_connected() {
            return;
        }
        let now = Instant::now();
        let (mut held, mut long) = (0, 0);
        for message in self.held.values() {
            let workers = message.workers(now);
            held += workers;
            long += if message.is_long(now) { workers } else { 0 };
        }
        let ahead = match self.pace {
            // What it takes here has the time in it that it waits behind others: so they are fewer
            // than it seems.
            Some(pace) if pace < AHEAD => {
                let ahead = AHEAD.as_nanos().div_ceil(pace.as_nanos().max(1));
                let quick = self.presence.workers.saturating_sub(long);
                (ahead as usize * quick).min(MOST_AHEAD)
            }
            _ => 0,
        };
        let wanted = self.presence.workers + ahead;
        self.pulls.ask(wanted.saturating_sub(held)).await;
    }

    /// Takes a message that was pulled, or the news that a pull is over.
    async fn take(&mut self, pulled: Pulled) {
        let Some(message) = self.pulls.take(pulled) else {
            return;
        };
        let Some(reply) = message.reply.clone() else {
            return;
        };
        let Some((pool, id)) = self.link.names.parse_task(&message.subject) else {
            // Nothing of ours: nobody could ever run it.
            return self.say(&reply, "+TERM").await;
        };
        let key = (pool.to_owned(), id);
        if let Some(held) = self.held.get_mut(&key) {
            // It came again, since the server has not heard of us for a lease.
            held.reply = Some(reply);
            return;
        }
        let is_again = deliveries(&reply) > 1;
        if self.is_draining {
            // Of one that came again the next agent says so, whoever had it before us.
            if !is_again {
                self.say_untouched(&key).await;
            }
            return self.say(&reply, "-NAK").await;
        }
        let (stop, stops) = watch::channel(Stops::default());
        let is_left = self.gone.contains_key(&key.0);
        let reply = Some(reply);
        let stage = Arc::<Stage>::default();
        if !is_again {
            stage.note_claimed();
        }
        let held = Held {
            reply,
            stop,
            stage: stage.clone(),
        };
        self.held.insert(key.clone(), held);
        fault!("agent.taken");
        let finishing = self.finishing.clone();
        let errand = Errand {
            link: self.link.clone(),
            blobs: self.blobs.clone(),
            shared: self.shared.clone(),
            pool: self.pool.clone(),
            submitter: key.0.clone(),
            id,
            is_again,
            is_left,
            stage,
            host: self.presence.host.clone(),
            patience: self.patience,
            paces: self.paces.clone(),
            suspects: self.suspects.clone(),
        };
        tokio::spawn(async move {
            let began = Instant::now();
            let end = errand.run(&message.payload, stops).await;
            let elapsed = began.elapsed();
            let _ = finishing.send(Over { key, elapsed, end });
        });
    }

    async fn note_over(&mut self, over: Over) -> Result<(), Error> {
        let Some(held) = self.held.remove(&over.key) else {
            return Ok(());
        };
        let before = self.pace.unwrap_or(over.elapsed);
        self.pace = Some((before * 3 + over.elapsed) / 4);
        let (said, result) = match over.end {
            End::Settled => ("+ACK", Ok(())),
            End::Unwanted => {
                self.forget(&over.key.0);
                ("+TERM", Ok(()))
            }
            End::Left => ("+TERM", Ok(())),
            End::Again => {
                self.say_untouched(&over.key).await;
                (r#"-NAK {"delay": 1000000000}"#, Ok(()))
            }
            // Until then it counts as one that we are at.
            End::Broken(error) => (r#"-NAK {"delay": 3000000000}"#, Err(error)),
        };
        if let Some(reply) = &held.reply {
            self.say(reply, said).await;
            fault!("agent.settled");
        }
        result
    }

    /// Has each worker run what was broadcast.
    fn begin_broadcast(&mut self, message: Message) {
        let Some(reply) = message.reply else { return };
        let payload = message.payload;
        let Some((announcement, _)) = message::unpack::<Announcement>(&payload) else {
            // Nothing of ours: nobody waits for it.
            return;
        };
        let of = self.broadcasting.entry(announcement.pool);
        let stopped = of.or_insert_with(|| watch::channel(false).0).subscribe();
        let (client, host) = (self.link.client.clone(), self.presence.host.clone());
        let (pool, build) = (self.pool.clone(), self.link.names.build.clone());
        let stores = (self.blobs.clone(), self.shared.clone());
        tokio::spawn(async move {
            if let Some(order) = message::unpack(&payload) {
                let here = (&*pool, &build, &*host);
                broadcast::answer(client, stores, here, order, reply, stopped).await;
            }
        });
    }

    /// Tells those for whom it works what it is at, and hears whether they are there and want it: what
    /// takes long need not be done for nobody.
    fn ask_submitters(&mut self) {
        self.broadcasting.retain(|_, stop| !stop.is_closed());
        let mut pools: HashMap<&String, Vec<u64>> = HashMap::new();
        for ((pool, id), held) in &self.held {
            let ids = pools.entry(pool).or_default();
            if held.stage.is_claimed.load(Ordering::Relaxed) {
                ids.push(*id);
            }
        }
        for pool in self.broadcasting.keys() {
            pools.entry(pool).or_default();
        }
        self.silent.retain(|pool, _| pools.contains_key(pool));
        self.gone.retain(|_, found| found.elapsed() < GONE);
        if !self.link.is_connected() {
            return;
        }
        for (pool, ids) in pools {
            let client = self.link.client.clone();
            let (pool, hearing) = (pool.clone(), self.hearing.clone());
            let subject = self.link.names.outcomes(&pool);
            let question = message::pack(&Word::AtWork(ids), &[]);
            tokio::spawn(async move {
                let answer = client.request(subject, question.into()).await;
                let heard = match answer.map_err(|error| error.kind()) {
                    Ok(answer) => match serde_json::from_slice(&answer.payload) {
                        Ok(unwanted) => Heard::There(unwanted),
                        Err(_) => return,
                    },
                    Err(RequestErrorKind::NoResponders) => Heard::Gone,
                    // Nobody knows.
                    Err(_) => return,
                };
                let _ = hearing.send((pool, heard));
            });
        }
    }

    fn note_heard(&mut self, pool: String, heard: Heard) {
        match heard {
            Heard::There(unwanted) => {
                self.silent.remove(&pool);
                self.gone.remove(&pool);
                for id in unwanted.messages {
                    self.stop_message(&pool, id, None);
                }
                for (id, place) in unwanted.jobs {
                    self.stop_message(&pool, id, Some(place));
                }
            }
            Heard::Gone => {
                // It may be about to reconnect.
                let since = *self.silent.entry(pool.clone()).or_insert_with(Instant::now);
                if since.elapsed() >= SILENCE {
                    self.silent.remove(&pool);
                    self.forget(&pool);
                }
            }
        }
    }

    /// Drops what is left of a pool whose submitter is gone. One that comes back sends it again.
    fn forget(&mut self, pool: &str) {
        self.stop(pool);
        let (blobs, pool) = (self.blobs.clone(), pool.to_owned());
        self.gone.insert(pool.clone(), Instant::now());
        tokio::spawn(async move { blobs.sweep(&pool).await });
    }

    fn cancel(&mut self, message: &Message) {
        let Ok(cancelled) = serde_json::from_slice::<Cancelled>(&message.payload) else {
            return;
        };
        match cancelled.id {
            Some(id) => self.stop_message(&cancelled.pool, id, cancelled.place),
            None => {
                self.stop(&cancelled.pool);
                self.gone.insert(cancelled.pool, Instant::now());
            }
        }
    }

    /// Stops a message of a pool, or one of its jobs.
    fn stop_message(&self, pool: &str, id: u64, place: Option<u32>) {
        if let Some(held) = self.held.get(&(pool.to_owned(), id)) {
            held.stop.send_modify(|stops| match place {
                Some(place) => drop(stops.places.insert(place)),
                None => stops.is_all = true,
            });
        }
    }

    /// Has others do what waits here behind what takes long.
    fn recall(&self) {
        if !self.pool.stats().workers.iter().any(|it| it.is_ready) {
            // All of it waits for workers that are about to be there.
            return;
        }
        let now = Instant::now();
        for held in self.held.values().filter(|held| held.is_long(now)) {
            held.stop
                .send_if_modified(|stops| !std::mem::replace(&mut stops.is_recalled, true));
        }
    }

    /// Stops all that is done for a pool.
    fn stop(&mut self, pool: &str) {
        for ((of, _), held) in &self.held {
            if of == pool {
                held.stop.send_modify(|stops| stops.is_all = true);
            }
        }
        self.shared.forget(pool);
        if let Some(stop) = self.broadcasting.remove(pool) {
            stop.send_replace(true);
        }
    }

    /// Answers the roll call, but not when it is about to end.
    async fn answer(&self, question: &Message) {
        if let Some(reply) = question.reply.clone()
            && !self.is_draining
        {
            let answer = message::pack_head(&self.presence());
            self.link.say(reply, None, answer.into()).await;
        }
    }

    /// Who and how it is now.
    fn presence(&self) -> Presence {
        let host = &self.presence.host;
        let mut crew = self.pool.stats().workers;
        for worker in &mut crew {
            worker.name = format!("{} on {host}", worker.name);
        }
        Presence {
            crew,
            ..self.presence.clone()
        }
    }

    async fn say_progress(&self) {
        for held in self.held.values() {
            if let Some(reply) = &held.reply {
                self.say(reply, "+WPI").await;
            }
        }
    }

    /// Says something of a message to the server. If that does not arrive the lease ends, and the
    /// message is delivered again: its outcomes are taken once all the same.
    async fn say(&self, reply: &Subject, what: &'static str) {
        if !self.link.is_connected() {
            return;
        }
        self.link.say(reply.clone(), None, what.into()).await;
    }

    /// Tells a submitter that of a message that goes to another agent nothing has been begun here. If that
    /// does not arrive the message counts as one that has cost an agent its life.
    async fn say_untouched(&self, (pool, id): &(String, u64)) {
        if !self.link.is_connected() {
            return;
        }
        let subject = self.link.names.outcomes(pool);
        let word = message::pack(&Word::Untouched { id: *id }, &[]);
        self.link.say(subject.into(), None, word.into()).await;
    }

    fn note_change(&mut self, change: Change) {
        match change {
            Change::Disconnected => self.is_lost = true,
            // The first time there was nothing to lose, and what was asked for stands.
            Change::Connected => self.restore(),
        }
    }

    /// Goes on after a reconnect, once the server has our stream again. Meanwhile it says what it is at.
    fn restore(&mut self) {
        self.is_lost |= self.pulls.is_refused();
        if !self.is_lost || self.is_restoring || !self.link.is_connected() {
            return;
        }
        self.is_restoring = true;
        let (link, restoring) = (self.link.clone(), self.restoring.clone());
        let held = self.held.values().filter_map(|held| held.reply.as_ref());
        let last_held = held.filter_map(sequence).max().unwrap_or(0);
        tokio::spawn(async move {
            let restored = async {
                let stream = link.stream().await?;
                let consumer = link.consumer(&stream).await?;
                Ok::<_, Error>(Found {
                    made: Made::of(&stream, consumer),
                    last: stream.cached_info().state.last_sequence,
                    last_held,
                })
            };
            let _ = restoring.send(restored.await.ok());
        });
    }

    fn note_restored(&mut self, found: Option<Found>) {
        self.is_restoring = false;
        let Some(found) = found else {
            return;
        };
        // One that was lost by one of several servers looks as if it had been made then, but counts
        // from the beginning.
        if found.made != self.made || found.last < found.last_held {
            // What it is at was in another, and has another's number in this one.
            self.made = found.made;
            for held in self.held.values_mut() {
                held.reply = None;
            }
        }
        self.pulls.reset();
        self.is_lost = false;
    }
}

/// How often a message was delivered, as its reply subject tells.
fn deliveries(reply: &Subject) -> u64 {
    told_by(reply, 0).unwrap_or(1)
}

/// The number of a message in the stream, as its reply subject tells.
fn sequence(reply: &Subject) -> Option<u64> {
    told_by(reply, 1)
}

/// A number in the subject `$JS.ACK.stream.consumer.deliveries.sequence…`, which has a domain and an
/// account before the stream on newer servers.
fn told_by(reply: &Subject, place: usize) -> Option<u64> {
    let parts: Vec<_> = reply.split('.').collect();
    let first = match parts.len() {
        9 => 4,
        _ => 6,
    };
    parts.get(first + place)?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_and_number_are_told_by_the_reply_subject() {
        for (reply, expected) in [
            (
                "$JS.ACK.mp-default.build.3.17.5.1700000000.0",
                (3, Some(17)),
            ),
            (
                "$JS.ACK._.ACCOUNT.mp-default.build.2.18.5.1700000000.0",
                (2, Some(18)),
            ),
            (
                "$JS.ACK.hub.ACCOUNT.mp-default.build.4.19.5.1700000000.0.random",
                (4, Some(19)),
            ),
            ("_INBOX.x", (1, None)),
        ] {
            let reply = Subject::from(reply);
            assert_eq!((deliveries(&reply), sequence(&reply)), expected, "{reply}");
        }
    }
}
