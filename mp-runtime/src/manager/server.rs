//! The manager's process: keeps the objects, and answers one request after the other.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use mp_macros::task;
use serde::{Deserialize, Serialize};

use super::Opaque;
use super::link::{self, Request, Wanted};
use super::registry::{self, SharedType, State};
use super::remote::{self, Door};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, TaskError};
use crate::fault::fault;
use crate::life::{Program, program};
use crate::queue::Line;
use crate::shm::ObjectId;
use crate::sync::raw::{Holder, Peers};
use crate::task::call::{self, Call, Stop};
use crate::task::{self, Returned, effect};
use crate::wire::codec::{self, EncodeError};
use crate::wire::transfer;

/// How often it looks, unless it is told to, which clients have died and what they alone held.
const SWEEP: Duration = Duration::from_secs(1);

/// What a manager's process is started with.
#[derive(Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) requests: Line,
    /// The token of the manager itself, which it must not hold.
    pub(super) token: u64,
    /// A task to run first, and its arguments.
    pub(super) initializer: Option<(String, Opaque)>,
}

/// Serves until nobody needs it any more.
#[task(crate = crate)]
pub(super) fn serve(start: Start) -> Result<(), TaskError> {
    let program = match program() {
        Ok(program) => program,
        Err(error) => unreachable!("a child has its program's memory: {error}"),
    };
    if let Some((name, arguments)) = &start.initializer {
        initialize(program, name, arguments)?;
    }
    let mut server = Server {
        program,
        requests: start.requests,
        token: ObjectId::from_bits(start.token),
        sessions: HashMap::new(),
        objects: HashMap::new(),
        published: HashMap::new(),
        doors: Vec::new(),
        is_over: false,
    };
    server.run();
    server.end();
    Ok(())
}

/// Runs the initializer.
fn initialize(program: &Program, name: &str, arguments: &Opaque) -> Result<(), TaskError> {
    let entry = match task::registry::by_name(name) {
        Ok(entry) => entry,
        Err(error) => unreachable!("the parent found the task: {error}"),
    };
    let run = || effect::run(entry, arguments.bytes());
    let (result, _sent) = transfer::sending(|| transfer::receiving(program, run));
    result
}

struct Server {
    program: &'static Program,
    requests: Line,
    token: ObjectId,
    sessions: HashMap<u64, Session>,
    objects: HashMap<u64, Shared>,
    /// Objects that other programs may have, which stay whoever lets go of them.
    published: HashMap<String, u64>,
    doors: Vec<Door>,
    is_over: bool,
}

/// Where the answers of a client's thread go.
struct Session {
    process: Holder,
    answers: Line,
}

/// An object, and what is known of its type.
struct Shared {
    entry: &'static SharedType,
    state: State,
}

impl Server {
    fn run(&mut self) {
        let requests = self.requests.clone();
        self.is_waited_for_by(Vec::new());
        let mut swept = Instant::now();
        while !self.is_over && self.is_needed() {
            let taken = requests.take(Deadline::after(SWEEP), |bytes| self.serve(bytes));
            if taken.is_err_and(|error| error.is_closed()) {
                return;
            }
            if swept.elapsed() >= SWEEP {
                self.sweep();
                swept = Instant::now();
            }
        }
    }

    /// Notes which managers wait until this thread is done, beside its own.
    fn is_waited_for_by(&self, mut others: Vec<u64>) {
        others.push(self.requests.id().bits());
        link::set_waiting(others);
    }

    /// Whether somebody holds the manager or an object in it.
    fn is_needed(&self) -> bool {
        self.program.table.is_live(self.token) || !self.objects.is_empty()
    }

    /// Answers what is asked.
    fn serve(&mut self, bytes: &[u8]) {
        fault!("manager.taken");
        let mut input = bytes;
        let decoded = transfer::receiving(self.program, || codec::decode::<Request>(&mut input));
        // All who put here are this program: what cannot be read was sent by one that died.
        let Ok(request) = decoded else { return };
        match request {
            Request::Call {
                session,
                object,
                function,
                is_abroad,
                waiting,
            } => {
                let Some(asking) = self.sessions.get(&session) else {
                    return;
                };
                self.is_waited_for_by(waiting);
                let answer = |call: &mut Call<'_>| match self.objects.get_mut(&object) {
                    Some(shared) => (shared.entry.call)(&mut shared.state, function, call),
                    None => panic!("the object no longer exists"),
                };
                let is_answered = asking.answer(self.program, is_abroad, &mut input, answer);
                self.is_waited_for_by(Vec::new());
                self.keep_if(is_answered, session);
            }
            Request::Create {
                session,
                token,
                name,
                function,
                waiting,
            } => {
                self.is_waited_for_by(waiting);
                self.create(session, token, &name, function, &mut input);
                self.is_waited_for_by(Vec::new());
            }
            Request::Open {
                session,
                process,
                answers,
            } => {
                if let Some(process) = Holder::from_bits(process) {
                    self.sessions.insert(session, Session { process, answers });
                }
            }
            Request::Close { session } => {
                self.sessions.remove(&session);
            }
            // Of the manager itself nothing is left to do but to look, before the next request.
            Request::Released { token } => {
                if self.is_unused(token) && self.drop_object(token) {
                    // It may have held others.
                    self.sweep();
                }
            }
            Request::Ping { session } => self.say(session, &()),
            Request::Publish {
                session,
                object,
                name,
            } => {
                let published = self.publish(object, name);
                self.say(session, &published);
            }
            Request::Listen {
                session,
                address,
                key,
            } => {
                let opened = remote::listen(address, &key, &self.requests);
                let opened = opened.map(|(address, door)| {
                    self.doors.push(door);
                    address
                });
                self.say(session, &opened);
            }
            Request::Find {
                session,
                name,
                wanted,
            } => {
                let found = self.find(&name, &wanted);
                self.say(session, &found);
            }
            Request::Shutdown => self.is_over = true,
        }
        fault!("manager.served");
    }

    fn create(&mut self, session: u64, token: u64, name: &str, function: u32, input: &mut &[u8]) {
        let Some(asking) = self.sessions.get(&session) else {
            return;
        };
        let mut state = None;
        let found = registry::by_name(name);
        let is_answered = asking.answer(self.program, false, input, |call| match &found {
            Ok(entry) => (entry.call)(&mut state, function, call),
            Err(error) => panic!("{error}"),
        });
        fault!("manager.created");
        if let (Ok(entry), Some(_)) = (found, &state) {
            self.objects.insert(token, Shared { entry, state });
        }
        self.keep_if(is_answered, session);
    }

    fn publish(&mut self, object: u64, name: String) -> Result<(), Error> {
        if !self.objects.contains_key(&object) {
            return Err(Error::closed("the object no longer exists"));
        }
        self.published.insert(name, object);
        Ok(())
    }

    fn find(&self, name: &str, wanted: &Wanted) -> Result<u64, Error> {
        let found = self
            .published
            .get(name)
            .and_then(|&object| Some((object, self.objects.get(&object)?)));
        let Some((object, shared)) = found else {
            let known: Vec<_> = self.published.keys().collect();
            return Err(Error::new(
                ErrorKind::Other,
                format!("nothing is published as {name:?}; published are {known:?}"),
            ));
        };
        let ours = wanted_of(shared.entry);
        if ours == *wanted {
            return Ok(object);
        }
        Err(Error::wrong_build(format!(
            "what is published as {name:?} is another type there than here: {ours:?} is not \
             {wanted:?}"
        )))
    }

    fn say<T: Returned + Clone>(&mut self, session: u64, value: &T) {
        if let Some(asking) = self.sessions.get(&session) {
            let is_answered = asking.answer(self.program, false, &mut &[][..], |call| {
                call.start();
                call.finish(value.clone())
            });
            self.keep_if(is_answered, session);
        }
    }

    /// Forgets a session that was closed for want of memory: its client has given it up as well.
    fn keep_if(&mut self, is_answered: bool, session: u64) {
        if !is_answered {
            self.sessions.remove(&session);
        }
    }

    /// Forgets the sessions of the dead, and drops the objects that nobody holds.
    fn sweep(&mut self) {
        let roster = self.program.roster;
        self.sessions
            .retain(|_, session| roster.is_alive(session.process));
        // As long as there are some: one may have held the next.
        loop {
            let tokens = self.objects.keys().copied();
            let unused: Vec<_> = tokens.filter(|&token| self.is_unused(token)).collect();
            if unused.is_empty() {
                return;
            }
            for token in unused {
                self.drop_object(token);
            }
        }
    }

    fn is_unused(&self, token: u64) -> bool {
        !self.program.table.is_live(ObjectId::from_bits(token))
            && !self.published.values().any(|&object| object == token)
    }

    /// Drops an object; false if there is none of that token.
    fn drop_object(&mut self, token: u64) -> bool {
        let dropped = self.objects.remove(&token).map(drop_quietly);
        fault!("manager.dropped");
        dropped.is_some()
    }

    /// Tells all who wait, or will ask, that it is over.
    fn end(&mut self) {
        self.requests.close();
        for session in self.sessions.values() {
            session.answers.close();
        }
        self.doors.clear();
        self.objects
            .drain()
            .for_each(|(_, shared)| drop_quietly(shared));
    }
}

impl Session {
    /// Runs a call and sends its outcome, or that there is no room for it; false if there is none for
    /// that either, which closes the session.
    fn answer(
        &self,
        program: &Program,
        is_abroad: bool,
        input: &mut &[u8],
        run: impl FnOnce(&mut Call<'_>) -> Result<(), Stop>,
    ) -> bool {
        let sent = self.answers.put(|out| {
            let run = || call::run_with(run, input, out);
            let done = match is_abroad {
                true => transfer::abroad(run),
                false => transfer::receiving(program, run),
            };
            fault!("manager.called");
            done.map(drop).map_err(EncodeError::from)
        });
        if sent.is_ok() || self.answers.put(call::write_out_of_memory).is_ok() {
            return true;
        }
        // The end of the answers tells it.
        self.answers.close();
        false
    }
}

/// Drops an object, whose code may panic.
fn drop_quietly(shared: Shared) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(shared))) {
        // Its drop may panic as well.
        std::mem::forget(panic);
    }
}

/// A type as the other program must know it.
pub(super) fn wanted_of(entry: &SharedType) -> Wanted {
    Wanted {
        name: (entry.name)().to_owned(),
        functions: entry
            .functions
            .iter()
            .map(|&text| text.to_owned())
            .collect(),
    }
}
