//! A manager that serves other programs at an address, and the other program's side of that.
//!
//! In the manager's process each connection has a thread, which asks as any client of the program does:
//! so calls of other programs are served one at a time with all others.

use std::any::type_name;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::link::{self, Link, Request, Wanted};
use super::object::{Managed, Object};
use super::{registry, server};
use crate::error::{Error, TaskError};
use crate::life::program;
use crate::listener::{Address, Client, Key, Listener, SocketFile};
use crate::queue::Line;
use crate::sync::raw::Peers;
use crate::task::call::{self, decode_result, read_record};
use crate::task::{Arguments, Returned, encode_arguments};
use crate::wire::buffer::Buffer;
use crate::wire::{codec, transfer};

/// What another program asks. Arguments of a function follow it; the answer is a record.
#[derive(Debug, Serialize, Deserialize)]
enum Asked {
    /// For the number of a published object.
    Find { name: String, wanted: Wanted },
    /// To call a function of an object.
    Call { object: u64, function: u32 },
}

/// Messages go both ways as bytes.
type Connection = Client<(), ()>;

/// An address at which a manager serves; the socket's file goes with it.
#[derive(Debug)]
pub(super) struct Door {
    _file: Option<SocketFile>,
}

/// Serves other programs at an address, on threads of their own.
pub(super) fn listen(
    address: Address,
    key: &Key,
    requests: &Line,
) -> Result<(Address, Door), Error> {
    let mut listener = Listener::<(), ()>::bind(address, key)?;
    let address = listener.address().clone();
    let file = listener.take_file();
    // The link of threads that do not serve: they may wait.
    let link = Link::to(requests.clone(), program()?.roster.me())?;
    let accept = move || {
        let listener = Arc::new(listener);
        loop {
            // Out of descriptors, for one: until some are given back.
            let Ok(knock) = listener.knock() else {
                continue;
            };
            let (listener, link) = (listener.clone(), link.clone());
            // Without a thread for it the other side sees the end.
            let _ = std::thread::Builder::new()
                .name("mp-manager-client".to_owned())
                .spawn(move || {
                    if let Ok(connection) = listener.admit(knock) {
                        serve(&connection, &link);
                    }
                });
        }
    };
    std::thread::Builder::new()
        .name("mp-manager-listener".to_owned())
        .spawn(accept)
        .map_err(|error| Error::system("could not start a thread to listen", error))?;
    Ok((address, Door { _file: file }))
}

/// Asks for another program until that ends, or asks what makes no sense.
fn serve(connection: &Connection, link: &Link) {
    // Objects that it was told of: it may have made up the number of any other.
    let mut told = HashSet::new();
    while let Ok(bytes) = connection.recv_bytes() {
        let mut input = bytes.as_slice();
        let Ok(asked) = transfer::abroad(|| codec::decode::<Asked>(&mut input)) else {
            return;
        };
        let is_find = match &asked {
            Asked::Find { .. } => true,
            Asked::Call { object, .. } if told.contains(object) => false,
            Asked::Call { .. } => return,
        };
        let answer = link.ask(
            |session| match asked {
                Asked::Find { name, wanted } => Request::Find {
                    session,
                    name,
                    wanted,
                },
                Asked::Call { object, function } => Request::Call {
                    session,
                    object,
                    function,
                    is_abroad: true,
                    waiting: link::waiting(),
                },
            },
            |out| Ok(out.write(input)?),
            <[u8]>::to_vec,
        );
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.is_out_of_memory() => out_of_memory(),
            Err(_) => return,
        };
        if is_find && let Ok(Ok(object)) = decode::<Result<u64, Error>>(&answer) {
            told.insert(object);
        }
        if connection.send_bytes(&answer).is_err() {
            return;
        }
    }
}

/// The answer to what did not fit into the shared memory.
fn out_of_memory() -> Vec<u8> {
    let mut out = Buffer::new();
    match call::write_out_of_memory(&mut out) {
        Ok(()) => out.as_slice().to_vec(),
        // It makes no sense to the other side, which says so.
        Err(_) => Vec::new(),
    }
}

/// A connection to the manager of another program.
#[derive(Debug)]
pub(super) struct Remote {
    /// Held from a question to its answer.
    connection: Mutex<Connection>,
}

impl Remote {
    /// Calls a function of an object there; the answer is a record.
    pub(super) fn call<A: Arguments>(
        &self,
        object: u64,
        function: u32,
        arguments: &A,
    ) -> Result<Vec<u8>, Error> {
        let mut out = Buffer::new();
        let asked = Asked::Call { object, function };
        transfer::abroad(|| {
            codec::encode(&asked, &mut out)?;
            encode_arguments(arguments, &mut out)
        })
        .map_err(|error| Error::not_encoded(format!("the arguments cannot be encoded: {error}")))?;
        self.ask(out.as_slice())
    }

    fn ask(&self, question: &[u8]) -> Result<Vec<u8>, Error> {
        let connection = self.connection.lock();
        let connection = connection.unwrap_or_else(PoisonError::into_inner);
        connection.send_bytes(question)?;
        connection.recv_bytes()
    }
}

/// The manager of another program, by whose address and key it can be reached.
///
/// Threads that use objects of one connection wait for each other; each thread may have a connection of
/// its own. Values that are sent, and objects that are called, hold no handles of this program's queues,
/// locks and the like: they mean nothing there.
///
/// # When a process dies
///
/// Calls fail with [`Error::is_closed`] once the manager's process has ended. When this process ends, what
/// it had asked for is done, and no more.
///
/// # Examples
///
/// ```
/// use mp::{Key, List, Manager, RemoteManager};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = Key::random()?;
/// let manager = Manager::new()?;
/// let names = List::<String>::new(&manager)?;
/// manager.publish("names", &names)?;
/// let address = manager.listen("tcp:localhost:0", &key)?;
///
/// // In another program, which knows address and key:
/// let remote = RemoteManager::connect(&address, &key)?;
/// let same = remote.get::<List<String>>("names")?;
/// same.push(&"ann".to_owned())?;
/// assert_eq!(names.to_vec()?, ["ann"]);
/// # manager.shutdown()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RemoteManager {
    remote: Arc<Remote>,
}

impl RemoteManager {
    /// Connects to a manager that listens there, see [`Manager::listen`](crate::Manager::listen).
    ///
    /// # Errors
    ///
    /// As for [`Client::connect`].
    pub fn connect<A>(address: A, key: &Key) -> Result<Self, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let connection = Mutex::new(Client::connect(address, key)?);
        let remote = Arc::new(Remote { connection });
        Ok(Self { remote })
    }

    /// A handle of what is published there by that name.
    ///
    /// # Errors
    ///
    /// If nothing is, or if its type is another there than here: it is known by its name, and by what its
    /// functions look like.
    pub fn get<T: Managed>(&self, name: &str) -> Result<T, Error> {
        let entry = registry::by_type(T::state_type(), type_name::<T>())?;
        let asked = Asked::Find {
            name: name.to_owned(),
            wanted: server::wanted_of(entry),
        };
        let mut out = Buffer::new();
        codec::encode(&asked, &mut out).map_err(|error| Error::not_encoded(error.to_string()))?;
        let answer = self.remote.ask(out.as_slice())?;
        let object = decode::<Result<u64, Error>>(&answer)??;
        Ok(T::from_object(Object::there(self.remote.clone(), object)))
    }
}

fn decode<R: Returned>(mut answer: &[u8]) -> Result<R, TaskError> {
    match read_record(&mut answer) {
        Some((tag, payload)) => transfer::abroad(|| decode_result::<R>(tag, payload)),
        None => Err(super::object::no_answer()),
    }
}
