//! What messages carry: a head as JSON, and behind it bytes that are left as they are.
//!
//! `{ length of the head: 32 bits, little endian }`, the head, the bytes.

use std::collections::HashMap;

use mp::__private::Make;
use mp::WorkerStats;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Workers that an agent may have. One that says more is not believed.
const MOST_WORKERS: usize = 1 << 16;

/// Jobs of a task on their way to an agent; behind it the records of their arguments, before which
/// stand, as a message of its own, the [`Datum`]s that these refer to, if they do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) task: String,
    pub(crate) pieces: Vec<Piece>,
    /// Nanoseconds that each item may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u64>,
    /// What the task is to its submitter, where it may be another here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<String>,
    /// Whether an agent was lost that may have begun with it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) is_suspect: bool,
    /// Whether the arguments refer to shared data.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) is_sharing: bool,
    /// Where the records are, if they are not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blob: Option<Elsewhere>,
}

/// A job in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Piece {
    /// Its place among the jobs that the message had when it was first sent.
    pub(crate) place: u32,
    /// How many items it has.
    pub(crate) count: u32,
    /// Bytes of their records.
    pub(crate) len: usize,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Shared data that arguments refer to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Datum {
    /// What it is made of.
    pub(crate) make: Make,
    pub(crate) blob: Elsewhere,
}

/// A task that each worker of an agent is to run once; behind it the record of its arguments.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announcement {
    /// Whose it is.
    pub(crate) pool: String,
    pub(crate) task: String,
    /// Nanoseconds that each worker may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u64>,
    /// What the task is to its submitter, where it may be another here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<String>,
    /// The shared data that the arguments refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) shared: Vec<Datum>,
}

/// What came of a broadcast; behind it the records of the outcomes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// The shared data that results refer to, with their places among the outcomes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) shared: Vec<(u32, Vec<Datum>)>,
}

/// Bytes in the object store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Elsewhere {
    pub(crate) name: String,
    pub(crate) len: usize,
}

/// What an agent says to a submitter.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// Here are outcomes; behind it their records. The answer is empty, or [`MISSING`].
    Done(Report),
    /// There are outcomes of a job, but no way to hand them over, and why; or of all of a message.
    Failed {
        id: u64,
        place: Option<u32>,
        why: String,
    },
    /// The arguments are not in the object store.
    Lacking { id: u64 },
    /// It gives a message back, of which it has begun nothing.
    Untouched { id: u64 },
    /// It is about to begin with what another agent may have begun: the answer is [`Unwanted`].
    Again { id: u64 },
    /// It is at these: the answer is [`Unwanted`].
    AtWork(Vec<u64>),
}

/// The answer that outcomes are not in the object store any more.
pub(crate) const MISSING: &[u8] = b"missing";

/// What an agent need not be at.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unwanted {
    pub(crate) messages: Vec<u64>,
    /// Jobs of other messages, with their places there.
    pub(crate) jobs: Vec<(u64, u32)>,
}

/// What became of jobs of a message.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) id: u64,
    /// Those that are over, in the order of their records.
    pub(crate) jobs: Vec<Told>,
    /// The places of those that were not begun, and are for another agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) back: Vec<u32>,
    /// Where the records are, if they are not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blob: Option<Elsewhere>,
    /// The shared data that their results refer to, by the places of jobs.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub(crate) shared: HashMap<u32, Vec<(u32, Vec<Datum>)>>,
}

/// A job that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) place: u32,
    /// Nanoseconds that its items have run.
    pub(crate) elapsed: u64,
    /// Bytes of the records of their outcomes.
    pub(crate) len: usize,
}

/// What an agent answers to the question who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Presence {
    pub(crate) agent: String,
    pub(crate) host: String,
    pub(crate) build: String,
    pub(crate) workers: usize,
    /// What each has done and is doing.
    #[serde(default)]
    pub(crate) crew: Vec<WorkerStats>,
}

impl Presence {
    /// What an agent has sent, if it can be.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let presence: Self = serde_json::from_slice(bytes).ok()?;
        (presence.workers <= MOST_WORKERS).then_some(presence)
    }
}

/// What is not wanted any more: a job of a message of a pool, all of a message, or all messages.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancelled {
    pub(crate) pool: String,
    pub(crate) id: Option<u64>,
    pub(crate) place: Option<u32>,
}

/// A head and bytes as one message.
pub(crate) fn pack<T: Serialize>(head: &T, bytes: &[u8]) -> Vec<u8> {
    let head = pack_head(head);
    let mut message = Vec::with_capacity(4 + head.len() + bytes.len());
    message.extend_from_slice(&(head.len() as u32).to_le_bytes());
    message.extend_from_slice(&head);
    message.extend_from_slice(bytes);
    message
}

/// A head alone.
pub(crate) fn pack_head<T: Serialize>(head: &T) -> Vec<u8> {
    // Their types have nothing that JSON lacks.
    serde_json::to_vec(head).unwrap_or_default()
}

/// Takes a message apart; `None` if it is none.
pub(crate) fn unpack<T: DeserializeOwned>(message: &[u8]) -> Option<(T, &[u8])> {
    let (len, rest) = message.split_first_chunk()?;
    let (head, bytes) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((serde_json::from_slice(head).ok()?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_comes_apart_as_it_was_put_together() {
        let word = Word::Done(Report {
            id: 7,
            jobs: vec![Told {
                place: 1,
                elapsed: 9,
                len: 7,
            }],
            back: vec![2],
            blob: None,
            shared: HashMap::new(),
        });
        let message = pack(&word, b"records");
        assert_eq!(unpack(&message), Some((word, b"records".as_slice())));
    }

    #[test]
    fn garbage_is_no_message() {
        for bytes in [&[][..], &[1, 0], &[255; 64], &[2, 0, 0, 0, b'{', b'x', 1]] {
            assert!(unpack::<Word>(bytes).is_none());
        }
    }
}
