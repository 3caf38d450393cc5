//! A value that a manager keeps as bytes, with the handles in it.
//!
//! The manager's process knows nothing of its type: it neither decodes nor drops the value, and runs
//! no code of the user's for it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::object::Carried;
use crate::wire::transfer::Handle;

/// The bytes of a value. Two values are equal if their bytes are.
#[derive(Clone)]
pub(crate) struct Opaque {
    bytes: Arc<[u8]>,
    /// What the handles in the value refer to lives as long as the value is kept.
    handles: Arc<[Arc<Handle>]>,
}

impl Opaque {
    pub(super) fn new(bytes: Arc<[u8]>, handles: Vec<Arc<Handle>>) -> Self {
        let handles = handles.into();
        Self { bytes, handles }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Opaque {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Opaque {}

impl Hash for Opaque {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of {} bytes", self.bytes.len())
    }
}

impl Serialize for Opaque {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let handles: Vec<_> = self.handles.iter().cloned().map(Carried).collect();
        (handles, Bytes(self.bytes.clone())).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Opaque {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (handles, Bytes(bytes)) = <(Vec<Carried>, Bytes)>::deserialize(deserializer)?;
        let handles = handles.into_iter().map(|Carried(handle)| handle).collect();
        Ok(Self::new(bytes, handles))
    }
}

/// Bytes that are copied as memory, and not one by one.
struct Bytes(Arc<[u8]>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Run;

        impl Visitor<'_> for Run {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.into()))
            }
        }

        deserializer.deserialize_bytes(Run)
    }
}
