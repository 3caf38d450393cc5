//! A queue of bytes for other parts of `mp`: who puts encodes as it likes, who takes sees the bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::channel::Channel;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::shm::ObjectId;
use crate::sync::raw::Holder;
use crate::wire::buffer::Buffer;
use crate::wire::codec::EncodeError;
use crate::wire::transfer;

/// A handle of such a queue.
#[derive(Clone, Debug)]
pub(crate) struct Line(Channel);

impl Line {
    /// Makes one without a limit.
    pub(crate) fn new() -> Result<Self, Error> {
        Channel::create(None).map(Self)
    }

    /// Its name, the same in every process.
    pub(crate) fn id(&self) -> ObjectId {
        self.0.handle().id()
    }

    /// Puts what `encode` writes, with the handles in it.
    pub(crate) fn put(
        &self,
        encode: impl FnOnce(&mut Buffer) -> Result<(), EncodeError>,
    ) -> Result<(), Error> {
        Ok(self.0.put_with(encode, Deadline::NEVER)?)
    }

    /// Takes one message; its handles live as long as `receive` runs.
    pub(crate) fn take(
        &self,
        deadline: Deadline,
        mut receive: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        Ok(self
            .0
            .take(1, deadline, |message| receive(message.bytes()))?)
    }

    /// As [`take`](Self::take), without a deadline but for the life of `peer`, who alone puts here:
    /// once it is dead and all is taken, the queue counts as closed.
    pub(crate) fn take_from(
        &self,
        peer: Holder,
        mut receive: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        Ok(self.0.take_from(peer, |message| receive(message.bytes()))?)
    }

    pub(crate) fn close(&self) {
        self.0.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize(self.0.handle(), serializer)
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let handle = transfer::deserialize(deserializer)?;
        Channel::over(handle)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}
