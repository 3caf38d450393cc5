//! The side that submits: one thread that owns the connection, sends task messages and takes outcomes.
//!
//! The pool gives it jobs as [`Shipment`]s. Each becomes one message in the stream of tasks, or short
//! ones of a task become one together; outcomes come as requests, which are answered once they are
//! taken, so that the agent that has them keeps them until then. What was delivered twice is dropped:
//! a shipment is taken from [`State::out`] once.
//!
//! After a reconnect everything that is out is sent again: a server that still has a message with
//! that subject refuses the second, and one that has lost it, as a restarted one with its stream in
//! memory, has it again. What agents say that they are at is not. Every now and then it also looks
//! which messages the server has: one that was dropped in our absence is sent again as well.
//!
//! - `sending`: messages on their way to the server, and what becomes of them.
//! - `words`: what agents say, and what they are answered.
//! - `workers`: who is there.
//! - `trouble`: what may go wrong.
//! - `taking_back`: what the server is to forget, as that of a pool that is drained.
//! - `out`: what is out.
//! - `envelope`: which jobs go in one message.

mod envelope;
mod out;
mod sending;
mod taking_back;
mod trouble;
mod words;
mod workers;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use async_nats::Subscriber;
use async_nats::jetstream::stream::Stream;
use futures_util::{FutureExt, StreamExt};
use mp::__private::{Answer, Carrier, Content, Shipment};
use mp::{Error, WorkerStats};
use tokio::sync::{Semaphore, mpsc};

use self::out::Out;
use self::sending::Sent;
use self::trouble::{Found, Unfound};
use self::words::Fetched;
use crate::blobs::Blobs;
use crate::broadcast::Broadcast;
use crate::build::Build;
use crate::connection::Connection;
use crate::data::Outgoing;
use crate::error;
use crate::link::{Change, Link};
use crate::names::Names;
use crate::pace::Paces;
use crate::roll::Roll;

/// How often it looks after what is out.
const TICK: Duration = Duration::from_millis(250);
/// How often it looks which messages the server has.
const CHECK: Duration = Duration::from_secs(5);
/// What the pool asks for is looked at so much at a time.
const MOST_COMMANDS: usize = 512;
/// Messages that the server is told to forget at a time: it drops what too many ask for.
const MOST_DELETIONS: usize = 256;
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
    Drain,
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
        shared: Vec<Content>,
        limit: Option<Duration>,
    ) -> Result<Vec<Answer>, Error> {
        let (answered, answer) = std_mpsc::channel();
        self.command(Command::Broadcast(Broadcast {
            task: task.to_owned(),
            argument: argument.to_vec(),
            shared,
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

    fn drain(&self) {
        self.command(Command::Drain);
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
    /// Jobs that are about to be sent.
    waiting: Vec<Shipment>,
    paces: Paces,
    out: Out,
    /// What became of messages that were sent.
    sent: mpsc::UnboundedReceiver<(u64, Sent)>,
    sending: mpsc::UnboundedSender<(u64, Sent)>,
    /// Messages that are on their way, and are to be taken back once the server has them.
    unwanted: HashSet<u64>,
    /// Messages that the server was told to forget, and whether it has.
    deleted: mpsc::UnboundedReceiver<(u64, bool)>,
    deleting: mpsc::UnboundedSender<(u64, bool)>,
    /// How many it is told so at a time.
    deletions: Arc<Semaphore>,
    /// Outcomes that came by the object store.
    fetched: mpsc::UnboundedReceiver<Fetched>,
    fetching: mpsc::UnboundedSender<Fetched>,
    /// The messages that the server had when it was asked.
    found: mpsc::UnboundedReceiver<(Instant, Found)>,
    finding: mpsc::UnboundedSender<(Instant, Found)>,
    next_check: Instant,
    blobs: Blobs,
    /// The shared data among them.
    shared: Outgoing,
    /// Whether there may be outcomes in the object store that nobody has fetched.
    is_untidy: bool,
    /// Since when the server has taken nothing, and what it says.
    full: Option<(Instant, String)>,
    unfound: Option<Unfound>,
    /// Since when there has been no connection, or no worker.
    disconnected: Option<Instant>,
    /// Whether there is one again, and the stream is yet to be found.
    is_back: bool,
    deserted: Option<Instant>,
    /// Whether what no agent has is to be given back.
    is_draining: bool,
    /// When anything was last heard of the server.
    heard: Instant,
    next_roll: Instant,
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
        let (deleting, deleted) = mpsc::unbounded_channel();
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
            waiting: Vec::new(),
            paces: Paces::default(),
            out: Out::default(),
            sent,
            sending,
            unwanted: HashSet::new(),
            deleted,
            deleting,
            deletions: Arc::new(Semaphore::new(MOST_DELETIONS)),
            fetched,
            fetching,
            found,
            finding,
            next_check: Instant::now() + CHECK,
            is_untidy: false,
            full: None,
            unfound: None,
            disconnected: None,
            is_back: false,
            deserted: None,
            is_draining: false,
            heard: Instant::now(),
            next_roll: Instant::now(),
        };
        state.await_workers(connection).await?;
        Ok(state)
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut given = Vec::new();
        let closing = loop {
            tokio::select! {
                count = commands.recv_many(&mut given, MOST_COMMANDS) => {
                    let closing = self.follow(&mut given).await;
                    if closing.is_some() || count == 0 {
                        break closing;
                    }
                }
                Some(message) = self.outcomes.next() => self.take_word(&message).await,
                Some((id, sent)) = self.sent.recv() => self.note_sent(id, sent),
                Some((id, is_gone)) = self.deleted.recv() => self.note_deleted(id, is_gone),
                Some(fetched) = self.fetched.recv() => self.note_fetched(fetched).await,
                Some((asked, found)) = self.found.recv() => self.note_found(asked, found),
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

    /// Does what the pool asks for; whoever waits for the end, if that is what it asks for.
    async fn follow(&mut self, given: &mut Vec<Command>) -> Option<std_mpsc::Sender<()>> {
        let mut closing = None;
        for command in given.drain(..) {
            if let Command::Ship(shipment) = command {
                self.waiting.push(shipment);
                continue;
            }
            // What was asked for before.
            self.send_waiting();
            match command {
                Command::Ship(_) => {}
                Command::Withdraw(job) => self.withdraw(job),
                Command::Cancel(job) => self.cancel(job).await,
                Command::Broadcast(broadcast) => self.broadcast(broadcast),
                Command::Drain => self.drain(),
                Command::Close(ended) => closing = Some(ended),
            }
        }
        self.send_waiting();
        closing
    }

    /// Has every agent that is there run a task once in each of its workers.
    fn broadcast(&self, broadcast: Broadcast) {
        if self.roll.workers() == 0 {
            let nobody = error::cluster("no worker of this build is there");
            let _ = broadcast.answered.send(Err(nobody));
            return;
        }
        let agents = self.roll.agents().cloned().collect();
        let outgoing = self.shared.clone();
        let (link, blobs, pool) = (self.link.clone(), self.blobs.clone(), self.pool.clone());
        tokio::spawn(broadcast.run(link, blobs, outgoing, pool, agents));
    }

    /// Has the server and the agents forget this pool.
    async fn close(&mut self) {
        self.is_untidy |= !self.out.is_empty();
        let sequences: Vec<_> = self.out.iter().filter_map(|out| out.sequence).collect();
        let mut on_their_way = std::mem::take(&mut self.unwanted);
        on_their_way.extend(self.out.ids(|_, out| out.is_on_its_way));
        self.out.clear();
        // From now on agents hear that nobody is here.
        let _ = self.outcomes.unsubscribe().await;
        self.tell_agents(None, None).await;
        let (link, sent) = (&self.link, &mut self.sent);
        // The server has them soon, if it is there, and says by which numbers.
        let late = async {
            let mut late = Vec::new();
            while !on_their_way.is_empty()
                && let Some((id, sent)) = sent.recv().await
            {
                if on_their_way.remove(&id)
                    && let Sent::Taken(Some(sequence)) = sent
                {
                    late.push(sequence);
                }
            }
            futures_util::stream::iter(late)
        };
        let deleted = futures_util::stream::iter(sequences)
            .chain(late.flatten_stream())
            .map(|sequence| link.delete_task(sequence))
            .buffer_unordered(MOST_DELETIONS)
            .count();
        let tidied = async {
            self.blobs.close(&self.pool).await;
            if self.is_untidy {
                self.blobs.sweep(&self.pool).await;
            }
        };
        let said = async {
            tokio::join!(deleted, tidied);
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
