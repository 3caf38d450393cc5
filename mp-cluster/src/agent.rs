//! The side that runs tasks: one thread that owns the connection, pulls task messages and hands them
//! to a local pool.
//!
//! A message is leased: the agent says every [`PROGRESS`] that it is still at it, and one whose agent
//! says nothing any more goes to another. It is acknowledged once the submitter has its outcomes.
//! What becomes of the workers is the local pool's matter: a panic, a crash, a deadline are
//! outcomes as any others.
//!
//! It pulls only what it has workers for, and a little more when tasks are short, so that a task
//! never waits at one agent while another has nothing to do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
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
use crate::errand::{End, Errand};
use crate::error;
use crate::link::{Change, Link, PROGRESS};
use crate::message::{self, Announcement, Cancelled, Presence};
use crate::names::Names;
use crate::pulls::Pulls;

/// How often it looks whether something is due.
const TICK: Duration = Duration::from_millis(100);
/// How long a submitter that does not answer is waited for; then it is gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Work that is held beyond what the workers are at: as much as they do while more is fetched.
const AHEAD: Duration = Duration::from_millis(2);
/// Messages of that at most.
const MOST_AHEAD: usize = 64;

/// Serves the pools that are connected to the same server, until it is told to end: by SIGTERM or
/// SIGINT, which let it finish what it is at.
pub(crate) fn serve(connection: &Connection, builder: &PoolBuilder) -> Result<(), Error> {
    let build = Build::own()?;
    // What is shared by name is known to them by it.
    let pool = build_local(builder, connection.variables())?;
    let runtime = crate::runtime()?;
    runtime.block_on(async {
        let agent = Agent::open(connection, build, pool).await?;
        agent.run().await
    })
}

struct Agent {
    link: Link,
    pool: Arc<Pool>,
    presence: Presence,
    changes: mpsc::UnboundedReceiver<Change>,
    /// Task messages that were pulled, and what became of pulls.
    pulled: Subscriber,
    pulls: Pulls,
    cancelled: Subscriber,
    roll: Subscriber,
    roll_of_build: Subscriber,
    broadcasts: Subscriber,
    blobs: Blobs,
    /// The messages that it is at.
    held: HashMap<(String, u64), Held>,
    /// The pools of what was broadcast and is under way, and the way to stop it.
    broadcasting: HashMap<String, watch::Sender<bool>>,
    over: mpsc::UnboundedReceiver<Over>,
    finishing: mpsc::UnboundedSender<Over>,
    /// Pools whose submitters were asked whether they are there, and the answers.
    heard: mpsc::UnboundedReceiver<(String, bool)>,
    hearing: mpsc::UnboundedSender<(String, bool)>,
    /// Since when nobody is there.
    silent: HashMap<String, Instant>,
    /// How long a message takes, as far as is known.
    pace: Option<Duration>,
    /// Whether it is to end.
    is_draining: bool,
    /// Whether the stream is yet to be found, after a reconnect.
    is_lost: bool,
}

/// A message that the agent is at.
struct Held {
    /// Where it is acknowledged.
    reply: Subject,
    stop: watch::Sender<bool>,
}

/// The end of a message that the agent was at.
struct Over {
    key: (String, u64),
    elapsed: Duration,
    end: End,
}

impl Agent {
    async fn open(connection: &Connection, build: Build, pool: Pool) -> Result<Self, Error> {
        let (changed, changes) = mpsc::unbounded_channel();
        let names = Names::new(&connection.namespace, build);
        let link = Link::open(connection, names, changed).await?;
        let stream = link.stream().await?;
        link.consumer(&stream).await?;
        let subscribe = async |subject: String| {
            let subscribed = link.client.subscribe(subject).await;
            subscribed.map_err(|error| error::cluster(format!("could not subscribe: {error}")))
        };
        let inbox = link.client.new_inbox();
        let pulled = subscribe(inbox.clone()).await?;
        let cancelled = subscribe(link.names.cancelled()).await?;
        let roll = subscribe(link.names.roll()).await?;
        let roll_of_build = subscribe(link.names.roll_of_build()).await?;
        let presence = Presence {
            agent: crate::random_name(),
            host: crate::host_name(),
            build: build.to_string(),
            workers: pool.workers(),
        };
        let broadcasts = subscribe(link.names.broadcast(&presence.agent)).await?;
        let (finishing, over) = mpsc::unbounded_channel();
        let (hearing, heard) = mpsc::unbounded_channel();
        Ok(Self {
            pulls: Pulls::new(&link, inbox),
            blobs: Blobs::new(&link),
            link,
            pool: Arc::new(pool),
            presence,
            changes,
            pulled,
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
            pace: None,
            is_draining: false,
            is_lost: false,
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
        while !(self.is_draining && self.held.is_empty()) {
            self.pull().await;
            tokio::select! {
                Some(message) = self.pulled.next() => self.take(message).await,
                Some(over) = self.over.recv() => {
                    if let Err(error) = self.note_over(over).await {
                        self.is_draining = true;
                        result = Err(error);
                    }
                }
                Some((pool, is_there)) = self.heard.recv() => self.note_heard(pool, is_there).await,
                Some(message) = self.cancelled.next() => self.cancel(&message),
                Some(message) = self.roll.next() => self.answer(&message).await,
                Some(message) = self.roll_of_build.next() => self.answer(&message).await,
                Some(message) = self.broadcasts.next() => self.begin_broadcast(message),
                Some(change) = self.changes.recv() => self.note_change(change).await,
                _ = terminate.recv() => self.is_draining = true,
                _ = interrupt.recv() => self.is_draining = true,
                _ = progress.tick() => {
                    self.say_progress().await;
                    self.ask_submitters();
                }
                _ = tick.tick() => {
                    self.restore().await;
                    if let Some(said) = self.link.objection() {
                        self.is_draining = true;
                        result = Err(self.link.denied("serve", &said));
                    }
                }
            }
        }
        // What was broadcast is not waited for.
        self.pool.terminate();
        let _ = tokio::time::timeout(LAST_WORDS, self.link.client.flush()).await;
        result
    }

    /// Asks for as many messages as it could begin.
    async fn pull(&mut self) {
        if self.is_draining || self.is_lost {
            return;
        }
        let ahead = match self.pace {
            Some(pace) => {
                let ahead = AHEAD.as_nanos() / pace.as_nanos().max(1);
                (ahead as usize * self.presence.workers).min(MOST_AHEAD)
            }
            None => 0,
        };
        let wanted = self.presence.workers + ahead;
        self.pulls.ask(wanted.saturating_sub(self.held.len())).await;
    }

    /// Takes a message that was pulled, or the news that a pull is over.
    async fn take(&mut self, message: Message) {
        if !self.pulls.take(&message) {
            return;
        }
        let Some(reply) = message.reply.clone() else {
            return;
        };
        let Some((pool, id)) = Names::parse_task(&message.subject) else {
            // Nothing of ours: nobody could ever run it.
            return self.say(&reply, "+TERM").await;
        };
        let key = (pool.to_owned(), id);
        if self.is_draining {
            return self.say(&reply, "-NAK").await;
        }
        if let Some(held) = self.held.get_mut(&key) {
            // It came again, since the server has not heard of us for a lease.
            held.reply = reply;
            return;
        }
        let (stop, stopped) = watch::channel(false);
        self.held.insert(key.clone(), Held { reply, stop });
        let finishing = self.finishing.clone();
        let errand = Errand {
            client: self.link.client.clone(),
            blobs: self.blobs.clone(),
            pool: self.pool.clone(),
            subject: self.link.names.outcomes(&key.0),
            id,
            host: self.presence.host.clone(),
        };
        tokio::spawn(async move {
            let began = Instant::now();
            let end = errand.run(&message.payload, stopped).await;
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
        match over.end {
            End::Settled => self.say(&held.reply, "+ACK").await,
            End::Unwanted => {
                self.say(&held.reply, "+TERM").await;
                self.forget(&over.key.0).await;
            }
            End::Again => self.say(&held.reply, r#"-NAK {"delay": 1000000000}"#).await,
            End::Broken(error) => {
                self.say(&held.reply, "-NAK").await;
                return Err(error);
            }
        }
        Ok(())
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
        let pool = self.pool.clone();
        tokio::spawn(async move {
            if let Some(order) = message::unpack(&payload) {
                broadcast::answer(client, &pool, &host, order, reply, stopped).await;
            }
        });
    }

    /// Asks for whom it works whether they are there: what takes long need not be done for nobody.
    fn ask_submitters(&mut self) {
        self.broadcasting.retain(|_, stop| !stop.is_closed());
        let held = self.held.keys().map(|(pool, _)| pool);
        let pools: HashSet<_> = held.chain(self.broadcasting.keys()).collect();
        self.silent.retain(|pool, _| pools.contains(pool));
        for pool in pools {
            let client = self.link.client.clone();
            let (pool, hearing) = (pool.clone(), self.hearing.clone());
            let subject = self.link.names.outcomes(&pool);
            tokio::spawn(async move {
                let answer = client.request(subject, "".into()).await;
                let is_there = match answer.map_err(|error| error.kind()) {
                    Ok(_) => true,
                    Err(RequestErrorKind::NoResponders) => false,
                    // Nobody knows.
                    Err(_) => return,
                };
                let _ = hearing.send((pool, is_there));
            });
        }
    }

    async fn note_heard(&mut self, pool: String, is_there: bool) {
        if is_there {
            self.silent.remove(&pool);
        } else {
            // It may be about to reconnect.
            let since = *self.silent.entry(pool.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= SILENCE {
                self.silent.remove(&pool);
                self.forget(&pool).await;
            }
        }
    }

    /// Drops all that is left of a pool whose submitter is gone.
    async fn forget(&mut self, pool: &str) {
        for (_, held) in self.held.iter().filter(|((of, _), _)| of == pool) {
            held.stop.send_replace(true);
        }
        self.stop_broadcasts(pool);
        let subject = self.link.names.tasks_of_pool(pool);
        if let Ok(stream) = self
            .link
            .context
            .get_stream_no_info(self.link.names.stream())
            .await
        {
            // What is left otherwise goes one by one, in the same way.
            let _ = stream.purge().filter(subject).await;
        }
    }

    fn stop_broadcasts(&mut self, pool: &str) {
        if let Some(stop) = self.broadcasting.remove(pool) {
            stop.send_replace(true);
        }
    }

    fn cancel(&mut self, message: &Message) {
        let Ok(cancelled) = serde_json::from_slice::<Cancelled>(&message.payload) else {
            return;
        };
        for ((pool, id), held) in &self.held {
            if *pool == cancelled.pool && cancelled.id.is_none_or(|cancelled| cancelled == *id) {
                held.stop.send_replace(true);
            }
        }
        if cancelled.id.is_none() {
            self.stop_broadcasts(&cancelled.pool);
        }
    }

    /// Answers the roll call, but not when it is about to end.
    async fn answer(&self, question: &Message) {
        if let Some(reply) = question.reply.clone()
            && !self.is_draining
        {
            let answer = message::pack_head(&self.presence);
            let _ = self.link.client.publish(reply, answer.into()).await;
        }
    }

    async fn say_progress(&self) {
        for held in self.held.values() {
            self.say(&held.reply, "+WPI").await;
        }
    }

    /// Says something of a message to the server. If that does not arrive the lease ends, and the
    /// message is delivered again: its outcomes are taken once all the same.
    async fn say(&self, reply: &Subject, what: &'static str) {
        let _ = self.link.client.publish(reply.clone(), what.into()).await;
    }

    async fn note_change(&mut self, change: Change) {
        match change {
            Change::Disconnected => self.is_lost = true,
            // The first time there was nothing to lose, and what was asked for stands.
            Change::Connected => self.restore().await,
        }
    }

    /// Goes on after a reconnect, once the server has our stream again.
    async fn restore(&mut self) {
        self.is_lost |= self.pulls.is_refused();
        if !self.is_lost
            || self.link.client.connection_state() != async_nats::connection::State::Connected
        {
            return;
        }
        let Ok(stream) = self.link.stream().await else {
            return;
        };
        if self.link.consumer(&stream).await.is_ok() {
            self.pulls.reset();
            self.is_lost = false;
        }
    }
}
