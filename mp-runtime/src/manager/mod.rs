//! State that lives in one process and is used by all.
//!
//! - here: [`Manager`], the process, and [`ManagerBuilder`].
//! - [`registry`]: from a type to what `#[mp::shared]` registered for it.
//! - [`object`]: a handle of an object in a manager.
//! - [`link`]: a process's way to a manager.
//! - [`server`]: the manager's process.
//! - [`remote`]: other programs.
//! - [`opaque`]: values that a manager keeps as bytes.
//! - [`map`], [`list`], [`set`], [`namespace`]: ready-made objects.
//!
//! The protocol is in `manager/README.md`.

/// What a ready-made object has in common with the handles that `#[mp::shared]` writes.
macro_rules! handle {
    ($Name:ident<$($T:ident),*>, $Handle:ident, $State:ident) => {
        impl<$($T),*> $Name<$($T),*> {
            fn over(handle: $Handle) -> Self {
                Self { handle, marker: PhantomData }
            }
        }

        impl<$($T),*> Clone for $Name<$($T),*> {
            fn clone(&self) -> Self {
                Self::over(self.handle.clone())
            }
        }

        impl<$($T),*> Managed for $Name<$($T),*> {
            fn state_type() -> TypeId {
                TypeId::of::<$State>()
            }

            fn from_object(object: Object) -> Self {
                Self::over($Handle::from_object(object))
            }

            fn object(&self) -> &Object {
                self.handle.object()
            }
        }

        impl<$($T),*> fmt::Debug for $Name<$($T),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($Name)).field(self.handle.object()).finish()
            }
        }

        impl<$($T),*> serde::Serialize for $Name<$($T),*> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.handle.serialize(serializer)
            }
        }

        impl<'de, $($T),*> serde::Deserialize<'de> for $Name<$($T),*> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $Handle::deserialize(deserializer).map(Self::over)
            }
        }
    };
}
use handle;

mod link;
mod list;
mod map;
mod namespace;
mod object;
mod opaque;
mod registry;
mod remote;
mod server;
mod set;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::link::{Link, Request};
pub use self::list::{List, ListIter};
pub use self::map::Map;
pub use self::namespace::Namespace;
use self::object::Token;
pub use self::object::{Managed, Object};
use self::opaque::Opaque;
pub use self::registry::{SharedType, absent as shared_absent, value as shared_value};
pub use self::remote::RemoteManager;
use self::server::{Start, serve};
pub use self::set::Set;
use crate::error::{Error, ErrorKind, TaskError};
use crate::life::program;
use crate::listener::{Address, Key};
use crate::process::{Child, Process};
use crate::queue::Line;
use crate::shm::Kind;
use crate::task::{Arguments, Nothing, Returned, TaskFn, assert_task, encode_arguments};
use crate::wire::buffer::Buffer;
use crate::wire::transfer::{self, Handle};

/// A process that keeps objects which other processes use.
///
/// An object is a value of a type with [`#[mp::shared]`](crate::shared) above its `impl` block, or a
/// ready-made [`Map`], [`List`], [`Set`] or [`Namespace`]. It lives in the manager's process; others
/// have handles, which they call and which travel in arguments, in items of queues, in structs, and in
/// other objects. The manager runs one call at a time, so an object is never seen half changed. An
/// object is dropped when its last handle is.
///
/// A panic in a call is that call's error: the manager goes on, and the object stays as the panic left
/// it. A function of an object cannot call objects of its own manager, nor of another one that waits
/// for it to return: that manager would wait for itself, so it is an error.
///
/// A `Manager` is a handle as well. The process ends when no handle of it and of its objects is left,
/// when [`shutdown`](Self::shutdown) is called, and with the process that started it, whose child it
/// is.
///
/// # When a process dies
///
/// - one that has handles: they are given back, and objects that it alone held are dropped, within a
///   second. A call that it had made is finished.
/// - the manager: what it kept is gone, and every call, under way or to come, fails with
///   [`Error::is_owner_died`].
///
/// # Examples
///
/// ```
/// use mp::{Manager, Process};
///
/// struct Counter {
///     count: u64,
/// }
///
/// #[mp::shared]
/// impl Counter {
///     fn new(count: u64) -> Self {
///         Self { count }
///     }
///
///     fn incr(&mut self, by: u64) -> u64 {
///         self.count += by;
///         self.count
///     }
/// }
///
/// #[mp::task]
/// fn count_to(counter: SharedCounter, n: u64) -> mp::Result<()> {
///     for _ in 0..n {
///         counter.incr(1)?;
///     }
///     Ok(())
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = Manager::new()?;
/// let counter = SharedCounter::new(&manager, 40)?;
/// let child = Process::new(count_to, (counter.clone(), 2)).start()?;
/// child.join()??;
/// assert_eq!(counter.incr(0)?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Manager {
    token: Arc<Token>,
    /// In the process that started it.
    child: Option<Arc<Child<Result<(), TaskError>>>>,
}

impl Manager {
    /// Starts a manager; [`builder`](Self::builder) sets more.
    ///
    /// # Errors
    ///
    /// If the process cannot be started.
    #[doc(alias = "SyncManager")]
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// What can be set before it starts.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::default()
    }

    fn link(&self) -> &Arc<Link> {
        self.token.link()
    }

    /// Lets other programs that connect to the manager have an object by a name, until the manager
    /// ends: it stays when the last handle is dropped. Under a name that is taken it replaces what was
    /// there.
    ///
    /// # Errors
    ///
    /// If the object is not one of this manager, or the manager has ended.
    pub fn publish<T: Managed>(&self, name: &str, object: &T) -> Result<(), Error> {
        object.object().token()?;
        let object = object.object().number_in(self.link()).ok_or_else(|| {
            Error::new(
                ErrorKind::Other,
                "the object lives in another manager, which alone can publish it",
            )
        })?;
        let request = |session| Request::Publish {
            session,
            object,
            name: name.to_owned(),
        };
        self.ask::<Result<(), Error>>(request)?
    }

    /// Has the manager serve other programs at an address, if they know the key, see
    /// [`RemoteManager`]. Returns the address, of a TCP port 0 the one that was free.
    ///
    /// # Errors
    ///
    /// As for [`Listener::bind`](crate::Listener::bind), or if the manager has ended.
    ///
    /// # When a process dies
    ///
    /// A Unix socket's file goes when the manager ends by itself. If it is killed, also because the
    /// process that started it ends, the file stays until the next one listens there.
    pub fn listen<A>(&self, address: A, key: &Key) -> Result<Address, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let (address, key) = (address.try_into()?, key.clone());
        let request = |session| Request::Listen {
            session,
            address,
            key,
        };
        self.ask::<Result<Address, Error>>(request)?
    }

    /// Ends the manager, and with it what it keeps: later calls fail with [`Error::is_closed`]. In the
    /// process that started it this waits for its end, and so for the calls that were made before; if one
    /// of them may never return, there is [`kill`](Self::kill).
    ///
    /// # Errors
    ///
    /// If it had died already, or dies on the way.
    pub fn shutdown(&self) -> Result<(), Error> {
        program()?;
        self.link().tell(&Request::Shutdown);
        match &self.child {
            Some(child) => Ok(child.join()??),
            None => Ok(()),
        }
    }

    /// Kills the manager's process, also in the middle of a call, and waits for its end. Calls under way
    /// and later ones fail with [`Error::is_owner_died`].
    ///
    /// # Errors
    ///
    /// In another process than the one that started it, which alone can do that.
    ///
    /// # Examples
    ///
    /// ```
    /// let manager = mp::Manager::new()?;
    /// let names = mp::List::<String>::new(&manager)?;
    /// manager.kill()?;
    /// assert!(names.len().unwrap_err().is_owner_died());
    /// # Ok::<_, mp::Error>(())
    /// ```
    pub fn kill(&self) -> Result<(), Error> {
        program()?;
        let Some(child) = &self.child else {
            return Err(Error::unsupported(
                "only the process that started a manager can kill it",
            ));
        };
        child.kill();
        // However it ended: it has.
        let _ = child.join();
        Ok(())
    }

    /// The id of the manager's process, in the process that started it.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.id())
    }

    fn ask<R: Returned>(&self, request: impl FnOnce(u64) -> Request) -> Result<R, Error> {
        let link = self.link();
        let answer = link.ask(
            request,
            |_| Ok(()),
            |answer| object::read_answer::<R>(link, answer),
        )?;
        Ok(answer?)
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("process_id", &self.process_id())
            .finish_non_exhaustive()
    }
}

impl Serialize for Manager {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.token.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Manager {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let token = Arc::new(Token::deserialize(deserializer)?);
        Ok(Self { token, child: None })
    }
}

/// What can be set for a [`Manager`] before it starts.
///
/// ```
/// #[mp::task]
/// fn prepare(words: Vec<String>) {
///     // Runs in the manager's process, before anything else.
///     assert_eq!(words.len(), 1);
/// }
///
/// # fn main() -> mp::Result<()> {
/// let manager = mp::Manager::builder()
///     .name("keeper")
///     .initializer(prepare, (vec!["a".to_owned()],))
///     .build()?;
/// # manager.shutdown()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct ManagerBuilder {
    name: Option<String>,
    env: Vec<(OsString, OsString)>,
    initializer: Option<Result<(String, Opaque), Error>>,
}

impl ManagerBuilder {
    /// Names the process; `Manager` unless told otherwise.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Self {
        self.name = Some(name.into());
        self
    }

    /// Sets a variable in the process's environment.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.env.push((name, value));
        self
    }

    /// Sets a task that runs in the manager's process first. If it panics or returns an error the manager
    /// does not start.
    pub fn initializer<F, A, R>(&mut self, task: F, arguments: A) -> &mut Self
    where
        F: TaskFn<A, Output = R>,
        A: Arguments,
        R: Nothing,
    {
        assert_task!(F);
        let _ = task;
        self.initializer = Some(encode_call::<F, A>(&arguments));
        self
    }

    /// Starts the manager, and waits until it serves.
    ///
    /// # Errors
    ///
    /// If the process cannot be started, or the initializer failed, which
    /// [`task`](Error::task) of the error tells.
    pub fn build(&self) -> Result<Manager, Error> {
        let requests = Line::new()?;
        let handle = Handle::create(Kind::Token)?;
        let start = Start {
            requests: requests.clone(),
            token: handle.id().bits(),
            initializer: self.initializer.clone().transpose()?,
        };
        let mut process = Process::new(serve, (start,))
            .name(self.name.as_deref().unwrap_or("Manager"))
            .daemon(true);
        for (name, value) in &self.env {
            process = process.env(name, value);
        }
        let child = process.start()?;
        let link = Link::to(requests, child.holder())?;
        let manager = Manager {
            token: Arc::new(Token::new(link, handle)),
            child: Some(Arc::new(child)),
        };
        match manager.ask::<()>(|session| Request::Ping { session }) {
            Ok(()) => Ok(manager),
            Err(error) => Err(manager.why_not_started(error)),
        }
    }
}

impl Manager {
    /// What its process says of why it does not serve.
    fn why_not_started(&self, error: Error) -> Error {
        let ended = self.child.as_ref().map(|child| child.join());
        let task = match ended {
            Some(Err(task) | Ok(Err(task))) => task,
            _ => return error,
        };
        Error::new(ErrorKind::NotStarted, "the manager could not begin").because_of(task)
    }
}

fn encode_call<F: 'static, A: Arguments>(arguments: &A) -> Result<(String, Opaque), Error> {
    let task = crate::task::registry::by_type::<F>()?;
    let mut out = Buffer::new();
    let (encoded, sent) = transfer::sending(|| encode_arguments(arguments, &mut out));
    encoded.map_err(|error| {
        Error::not_encoded(format!(
            "task \"{}\": its arguments cannot be encoded: {error}",
            (task.name)()
        ))
    })?;
    let arguments = Opaque::new(out.as_slice().into(), sent.into_handles());
    Ok(((task.name)().to_owned(), arguments))
}
