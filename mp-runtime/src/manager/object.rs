//! A handle of an object that lives in a manager.

use std::any::{TypeId, type_name};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::link::{self, Link, Request};
use super::registry;
use super::remote::Remote;
use super::{Manager, Opaque};
use crate::error::{Error, TaskError};
use crate::queue::Line;
use crate::shm::{Kind, ObjectId};
use crate::sync::raw::Holder;
use crate::task::call::{decode_result, read_record};
use crate::task::{Arguments, Returned, Transfer, encode_arguments};
use crate::wire::buffer::Buffer;
use crate::wire::codec::{self, DecodeError, EncodeError};
use crate::wire::transfer::{self, Handle};

/// An object in a manager, as the handles that `#[mp::shared]` writes have it inside.
#[derive(Clone)]
pub struct Object(Place);

#[derive(Clone)]
enum Place {
    /// In a manager of this program.
    Here(Arc<Token>),
    /// In another program's, by its number there.
    There(Arc<Remote>, u64),
}

/// A type of handle, as [`Manager::publish`] and [`RemoteManager::get`](crate::RemoteManager::get) take
/// it: `#[mp::shared]` implements it.
pub trait Managed: Sized {
    /// The type whose value lives in the manager.
    #[doc(hidden)]
    fn state_type() -> TypeId;

    #[doc(hidden)]
    fn from_object(object: Object) -> Self;

    #[doc(hidden)]
    fn object(&self) -> &Object;
}

/// What keeps something in a manager alive: an object of the arena that the processes which use it
/// hold, and the manager does not.
pub(super) struct Token {
    link: Arc<Link>,
    /// Let go before the manager is told.
    handle: Option<Arc<Handle>>,
    id: ObjectId,
}

impl Token {
    pub(super) fn new(link: Arc<Link>, handle: Arc<Handle>) -> Self {
        Self {
            link,
            id: handle.id(),
            handle: Some(handle),
        }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(super) fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(handle) = &self.handle else {
            return Err(ser::Error::custom("the handle was dropped"));
        };
        let manager = self.link.manager.bits();
        (&self.link.requests, manager, Carried(handle.clone())).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Self, D::Error> {
        let (requests, manager, Carried(handle)) =
            <(Line, u32, Carried)>::deserialize(deserializer)?;
        let manager = Holder::from_bits(manager)
            .ok_or_else(|| de::Error::custom("the handle names no manager"))?;
        let link = Link::to(requests, manager).map_err(de::Error::custom)?;
        Ok(Self::new(link, handle))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.handle = None;
        let token = self.id.bits();
        self.link.tell(&Request::Released { token });
    }
}

/// A handle of any kind of object, inside a value.
pub(super) struct Carried(pub(super) Arc<Handle>);

impl Serialize for Carried {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Carried {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize(deserializer).map(Self)
    }
}

impl Object {
    /// Makes an object by the constructor of that number.
    ///
    /// # Errors
    ///
    /// The constructor panicked, or the manager has ended.
    pub fn create<T: 'static, A: Arguments>(
        manager: &Manager,
        function: u32,
        arguments: &A,
    ) -> Result<Self, Error> {
        let name = (registry::by_type(TypeId::of::<T>(), type_name::<T>())?.name)();
        let link = manager.link();
        let handle = Handle::create(Kind::Token)?;
        let token = Token::new(link.clone(), handle);
        let request = |session| Request::Create {
            session,
            token: token.id.bits(),
            name: name.to_owned(),
            function,
            waiting: link::waiting(),
        };
        let made = link.ask(
            request,
            |out| encode_arguments(arguments, out),
            |answer| read_answer::<()>(link, answer),
        )?;
        made.map_err(|error| error.with_task(format!("{name}::new")))?;
        Ok(Self(Place::Here(Arc::new(token))))
    }

    pub(super) fn there(remote: Arc<Remote>, object: u64) -> Self {
        Self(Place::There(remote, object))
    }

    /// Calls the function of that number.
    ///
    /// # Errors
    ///
    /// It panicked, an argument or the result cannot be sent, or the manager has ended.
    pub fn call<R: Returned, A: Arguments>(
        &self,
        function: u32,
        name: &'static str,
        arguments: &A,
    ) -> Result<R, Error> {
        let answer = match &self.0 {
            Place::Here(token) => {
                let link = &token.link;
                let request = |session| Request::Call {
                    session,
                    object: token.id.bits(),
                    function,
                    is_abroad: false,
                    waiting: link::waiting(),
                };
                link.ask(
                    request,
                    |out| encode_arguments(arguments, out),
                    |answer| read_answer::<R>(link, answer),
                )?
            }
            Place::There(remote, object) => {
                let answer = remote.call(*object, function, arguments)?;
                transfer::abroad(|| {
                    read_record(&mut answer.as_slice())
                        .map(|(tag, payload)| decode_result::<R>(tag, payload))
                })
                .unwrap_or_else(|| Err(no_answer()))
            }
        };
        answer.map_err(|error| error.with_task(name).into())
    }

    /// The token, of an object in this program.
    pub(super) fn token(&self) -> Result<&Arc<Token>, Error> {
        match &self.0 {
            Place::Here(token) => Ok(token),
            Place::There(..) => Err(Error::unsupported(
                "the object lives in another program, which alone can publish it",
            )),
        }
    }

    /// Whether the object lives in the manager of that link.
    pub(super) fn number_in(&self, link: &Link) -> Option<u64> {
        match &self.0 {
            Place::Here(token) if token.link.requests.id() == link.requests.id() => {
                Some(token.id.bits())
            }
            _ => None,
        }
    }

    /// Encodes a value that the object keeps as bytes.
    pub(super) fn encode<T: Transfer>(&self, value: &T) -> Result<Opaque, Error> {
        let mut out = Buffer::new();
        let encoded: Result<_, EncodeError> = match &self.0 {
            Place::Here(_) => transfer::encode(value, &mut out),
            Place::There(..) => {
                transfer::abroad(|| codec::encode(value, &mut out)).map(|()| Default::default())
            }
        };
        let sent = encoded
            .map_err(|error| Error::not_encoded(format!("the value cannot be encoded: {error}")))?;
        Ok(Opaque::new(out.as_slice().into(), sent.into_handles()))
    }

    /// Decodes a value that the object kept as bytes.
    pub(super) fn decode<T: Transfer>(&self, value: &Opaque) -> Result<T, Error> {
        let decoded: Result<T, DecodeError> = match &self.0 {
            Place::Here(token) => transfer::decode(token.link.program(), value.bytes()),
            Place::There(..) => transfer::abroad(|| codec::decode(&mut value.bytes())),
        };
        decoded.map_err(|error| {
            Error::new(
                crate::error::ErrorKind::NotDecoded,
                format!(
                    "what was kept is no {}: {error}",
                    std::any::type_name::<T>()
                ),
            )
        })
    }
}

pub(super) fn read_answer<R: Returned>(link: &Link, mut answer: &[u8]) -> Result<R, TaskError> {
    match read_record(&mut answer) {
        Some((tag, payload)) => {
            transfer::receiving(link.program(), || decode_result::<R>(tag, payload))
        }
        None => Err(no_answer()),
    }
}

pub(super) fn no_answer() -> TaskError {
    TaskError::new(crate::error::TaskFailure::Lost {
        why: "the manager's answer makes no sense".to_owned(),
    })
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Here(token) => write!(f, "object {}", token.id.index()),
            Place::There(_, object) => write!(f, "object {object} of another program"),
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Place::Here(token) => token.serialize(serializer),
            Place::There(..) => Err(ser::Error::custom(
                "an object of another program's manager cannot be sent: let the other process \
                 connect to the manager itself",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let token = Token::deserialize(deserializer)?;
        Ok(Self(Place::Here(Arc::new(token))))
    }
}
