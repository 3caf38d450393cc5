//! A process's way to a manager: requests go there by one queue, and each call that is under way has
//! a queue of its own on which its answer comes back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::fault::fault;
use crate::life::{Program, program};
use crate::queue::Line;
use crate::shm::ObjectId;
use crate::sync::raw::{Holder, Peers};
use crate::wire::buffer::Buffer;
use crate::wire::codec::{self, EncodeError, EncodeErrorKind};

/// What a manager is asked. Arguments of a function follow it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// To call a function of an object.
    Call {
        session: u64,
        object: u64,
        function: u32,
        /// Another program asks: no handles.
        is_abroad: bool,
        /// The managers that wait for it, see [`waiting`].
        waiting: Vec<u64>,
    },
    /// To make an object for which this token stands.
    Create {
        session: u64,
        token: u64,
        name: String,
        function: u32,
        waiting: Vec<u64>,
    },
    /// To answer calls of this session there, as long as the process lives.
    Open {
        session: u64,
        process: u32,
        answers: Line,
    },
    /// To forget a session.
    Close { session: u64 },
    /// To look whether an object, or the manager, is still held.
    Released { token: u64 },
    /// To answer.
    Ping { session: u64 },
    /// To let other programs have an object by a name.
    Publish {
        session: u64,
        object: u64,
        name: String,
    },
    /// To serve other programs at an address.
    Listen {
        session: u64,
        address: crate::Address,
        key: crate::Key,
    },
    /// To find a published object of a type.
    Find {
        session: u64,
        name: String,
        wanted: Wanted,
    },
    /// To end.
    Shutdown,
}

/// A type as another program knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) functions: Vec<String>,
}

/// The way from this process to a manager.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) requests: Line,
    pub(super) manager: Holder,
    program: &'static Program,
    /// Sessions that no call uses.
    idle: Mutex<Vec<Session>>,
}

/// Where the answer of one call at a time comes back.
#[derive(Debug)]
struct Session {
    id: u64,
    answers: Line,
}

/// The links of this process, by their requests.
static LINKS: Mutex<Option<HashMap<ObjectId, Weak<Link>>>> = Mutex::new(None);

thread_local! {
    /// The managers that wait until this thread is done, by their requests: the one that it serves, and
    /// those whose functions called what it runs, one from within another.
    static WAITING: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The managers that will wait for what this thread asks.
pub(super) fn waiting() -> Vec<u64> {
    WAITING.with_borrow(Vec::clone)
}

/// Notes which managers wait until this thread is done.
pub(super) fn set_waiting(managers: Vec<u64>) {
    WAITING.set(managers);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// The link to a manager; a process has one.
    pub(super) fn to(requests: Line, manager: Holder) -> Result<Arc<Self>, Error> {
        let program = program()?;
        let mut links = lock(&LINKS);
        let links = links.get_or_insert_default();
        if let Some(link) = links.get(&requests.id()).and_then(Weak::upgrade) {
            return Ok(link);
        }
        links.retain(|_, link| link.strong_count() > 0);
        let link = Arc::new(Self {
            requests,
            manager,
            program,
            idle: Mutex::new(Vec::new()),
        });
        links.insert(link.requests.id(), Arc::downgrade(&link));
        Ok(link)
    }

    pub(super) fn program(&self) -> &'static Program {
        self.program
    }

    /// What stands for the manager in [`waiting`].
    pub(super) fn number(&self) -> u64 {
        self.requests.id().bits()
    }

    /// Asks something and waits for the answer, which `receive` is shown.
    ///
    /// # Errors
    ///
    /// The manager has ended, before or meanwhile; or the request cannot be encoded.
    pub(super) fn ask<R>(
        &self,
        request: impl FnOnce(u64) -> Request,
        arguments: impl FnOnce(&mut Buffer) -> Result<(), EncodeError>,
        receive: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, Error> {
        if WAITING.with_borrow(|waiting| waiting.contains(&self.number())) {
            return Err(Error::new(
                ErrorKind::Other,
                "a function of a shared object cannot call an object of its own manager, nor of one \
                 that waits for it to return: the manager would wait for itself",
            ));
        }
        let session = self.session()?;
        let mut not_encoded = None;
        let put = self.requests.put(|out| {
            codec::encode(&request(session.id), out)?;
            // The reason is kept: the queue would speak of its items.
            arguments(out).inspect_err(|error| not_encoded = Some(error.clone()))
        });
        if let Err(error) = put {
            lock(&self.idle).push(session);
            return Err(match not_encoded {
                Some(error) if error.kind == EncodeErrorKind::Full => {
                    Error::out_of_memory("the arguments do not fit into the shared memory")
                }
                Some(error) => {
                    Error::not_encoded(format!("the arguments cannot be encoded: {error}"))
                }
                None if error.is_closed() => self.ended(),
                None => error,
            });
        }
        fault!("manager.asked");
        let mut receive = Some(receive);
        let mut received = None;
        let taken = session.answers.take_from(self.manager, |bytes| {
            received = receive.take().map(|receive| receive(bytes));
        });
        fault!("manager.answered");
        match (taken, received) {
            (Ok(()), Some(received)) => {
                lock(&self.idle).push(session);
                Ok(received)
            }
            (Err(error), _) if !error.is_closed() => {
                // Its answer may still come, for nobody.
                self.close(session);
                Err(error)
            }
            _ => Err(self.ended()),
        }
    }

    /// A session for one call.
    fn session(&self) -> Result<Session, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        // In a copy made by `fork` the roster is not there to be looked at.
        program()?;
        if !self.program.roster.is_alive(self.manager) {
            return Err(self.ended());
        }
        if let Some(session) = lock(&self.idle).pop() {
            return Ok(session);
        }
        let me = self.program.roster.me();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let session = Session {
            id: (u64::from(me.bits()) << 32) | u64::from(number),
            answers: Line::new()?,
        };
        let opened = self.requests.put(|out| {
            let request = Request::Open {
                session: session.id,
                process: me.bits(),
                answers: session.answers.clone(),
            };
            codec::encode(&request, out)
        });
        match opened {
            Ok(()) => Ok(session),
            Err(error) if error.is_closed() => Err(self.ended()),
            Err(error) => Err(error),
        }
    }

    /// Has the manager forget a session.
    fn close(&self, Session { id, .. }: Session) {
        self.tell(&Request::Close { session: id });
    }

    /// Tells the manager something that needs no answer. If that fails it finds out by itself.
    pub(super) fn tell(&self, request: &Request) {
        if crate::life::program::is_forked() || !self.program.roster.is_alive(self.manager) {
            return;
        }
        let _ = self.requests.put(|out| codec::encode(request, out));
    }

    /// Why there is no answer.
    #[cold]
    fn ended(&self) -> Error {
        if self.requests.is_closed() {
            return Error::closed("the manager was shut down");
        }
        if self.program.roster.is_alive(self.manager) {
            return Error::out_of_memory("the manager found no shared memory for its answer");
        }
        Error::new(
            ErrorKind::OwnerDied,
            "the manager's process died, and what it kept is gone with it",
        )
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        for session in idle {
            self.close(session);
        }
    }
}
