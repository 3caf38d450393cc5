//! Named values of any types, that live in a manager.

use std::any::{TypeId, type_name};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::map::{MapHandle, MapState};
use super::{Managed, Manager, Object, Opaque};
use crate::error::{Error, ErrorKind};
use crate::task::Transfer;

/// Values of any types by name, that live in a [`Manager`], used by any process.
///
/// A handle, as all of them: a clone is the same namespace, and so is what arrives where it was sent.
///
/// # Errors
///
/// Each call fails if a value cannot be encoded or decoded, and if the manager has ended.
///
/// # Examples
///
/// ```
/// # fn main() -> mp::Result<()> {
/// let manager = mp::Manager::new()?;
/// let settings = mp::Namespace::new(&manager)?;
/// settings.set("depth", &3_u32)?;
/// settings.set("title", &"a title".to_owned())?;
/// assert_eq!(settings.get::<u32>("depth")?, Some(3));
/// assert!(settings.get::<u32>("title").unwrap_err().is_not_decoded());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Namespace {
    handle: MapHandle,
}

#[expect(clippy::missing_errors_doc, reason = "the type says when calls fail")]
impl Namespace {
    /// Makes an empty one.
    pub fn new(manager: &Manager) -> Result<Self, Error> {
        let handle = MapHandle::new(manager)?;
        Ok(Self { handle })
    }

    /// Sets what a name stands for.
    pub fn set<T: Transfer>(&self, name: &str, value: &T) -> Result<(), Error> {
        let object = self.handle.object();
        let value = (type_name::<T>().to_owned(), object.encode(value)?);
        self.handle
            .insert(object.encode(&name.to_owned())?, object.encode(&value)?)?;
        Ok(())
    }

    /// What a name stands for: a value of the type that was set, or [`Error::is_not_decoded`] says which
    /// type it has.
    pub fn get<T: Transfer>(&self, name: &str) -> Result<Option<T>, Error> {
        let object = self.handle.object();
        let Some(kept) = self.handle.get(object.encode(&name.to_owned())?)? else {
            return Ok(None);
        };
        let (kept_type, value): (String, Opaque) = object.decode(&kept)?;
        if kept_type != type_name::<T>() {
            return Err(Error::new(
                ErrorKind::NotDecoded,
                format!(
                    "{name:?} is a {kept_type}, and was asked for as a {}",
                    type_name::<T>()
                ),
            ));
        }
        object.decode(&value).map(Some)
    }

    /// Removes a name; whether it was there.
    pub fn remove(&self, name: &str) -> Result<bool, Error> {
        let name = self.handle.object().encode(&name.to_owned())?;
        Ok(self.handle.remove(name)?.is_some())
    }

    /// All names, in the order in which they were first set.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let names = self.handle.keys()?;
        let object = self.handle.object();
        names.iter().map(|name| object.decode(name)).collect()
    }
}

impl Managed for Namespace {
    fn state_type() -> TypeId {
        TypeId::of::<MapState>()
    }

    fn from_object(object: Object) -> Self {
        let handle = MapHandle::from_object(object);
        Self { handle }
    }

    fn object(&self) -> &Object {
        self.handle.object()
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace")
            .field(self.handle.object())
            .finish()
    }
}

impl Serialize for Namespace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.handle.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let handle = MapHandle::deserialize(deserializer)?;
        Ok(Self { handle })
    }
}
