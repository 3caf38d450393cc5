//! What a child is told once it runs: a block in the arena, named by its slot.

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::method::StartMethod;
#[cfg(feature = "sandbox")]
use super::sandbox::Sandbox;
use crate::error::{Error, ErrorKind};
use crate::life::{Program, Slot};
use crate::loom::Ordering;
use crate::shm::buffer::Buffer;
use crate::shm::{BlockId, Owner};
use crate::spans::Wanted;
use crate::sync::raw::{Holder, Peers};
use crate::sys;
use crate::wire::codec;

/// What a child is to do, and as whom.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    /// Its whole name.
    pub(crate) name: String,
    /// Its numbers in the tree of processes, as in `Process-1:2`.
    pub(crate) numbers: String,
    /// Whether children that it starts are daemons unless told otherwise.
    pub(crate) is_daemon: bool,
    pub(crate) work: Work,
    /// The directory to work in, as the bytes of its path.
    pub(crate) current_dir: Option<Vec<u8>>,
    /// What was asked for: the child refuses to begin without.
    pub(crate) asked: Scheduling,
    /// What it is to have where nothing was asked for, if it may.
    pub(crate) inherited: Scheduling,
    /// The child refuses to begin if they cannot be set.
    pub(crate) limits: Limits,
    /// As above.
    #[cfg(feature = "sandbox")]
    pub(crate) sandbox: Option<Sandbox>,
    /// The encoded arguments: a block, how many bytes of it, and the parcel with the handles.
    pub(crate) arguments: Option<(u64, u64)>,
    pub(crate) parcel: u64,
    /// How it starts children of its own unless told otherwise.
    pub(crate) start_method: StartMethod,
    /// What the parent wants to be told of what it logs.
    pub(crate) wanted: Wanted,
    /// Its whole environment, if it is not that of the fork server that made it.
    pub(crate) environment: Option<Vec<Vec<u8>>>,
}

/// Where and how readily a thread runs, as far as it is told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Scheduling {
    /// CPUs to run on.
    pub(crate) cpu_affinity: Option<Vec<usize>>,
    pub(crate) nice: Option<i32>,
}

impl Scheduling {
    /// That of the calling thread.
    pub(crate) fn of_this_thread() -> Self {
        Self {
            cpu_affinity: sys::process::affinity().ok(),
            nice: sys::process::nice().ok(),
        }
    }
}

/// What a child runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// A task, by name, once.
    Task(String),
    /// The tasks of a pool, whose memory is the extra descriptor.
    Pool,
}

/// A message like any other, encoded.
pub(super) fn sample() -> Vec<u8> {
    let sample = Message {
        name: "a name".to_owned(),
        numbers: "1".to_owned(),
        is_daemon: true,
        work: Work::Task("a task".to_owned()),
        current_dir: None,
        asked: Scheduling::default(),
        inherited: Scheduling {
            cpu_affinity: Some(vec![0]),
            nice: Some(0),
        },
        limits: Limits::default(),
        #[cfg(feature = "sandbox")]
        sandbox: None,
        arguments: Some((0, 0)),
        parcel: 0,
        start_method: StartMethod::default(),
        wanted: Wanted::default(),
        environment: None,
    };
    encode(&sample).unwrap_or_default()
}

/// Decodes a [`sample`], for nothing but to have done it.
pub(super) fn rehearse(sample: &[u8]) {
    let message = codec::decode::<Message>(&mut &*sample);
    debug_assert!(message.is_ok(), "{message:?}");
}

/// Writes a message and hands it, with the blocks in it, to the child in the reserved slot.
pub(crate) fn post(program: &Program, to: Holder, message: &Message) -> Result<(), Error> {
    let me = Owner::Process(program.roster.me());
    let child = Owner::Process(to);
    let mut buffer = Buffer::in_block(program.arena.clone(), me, 0)
        .map_err(|_| Error::out_of_memory("to start a process"))?;
    encode_into(message, &mut buffer)?;
    let block = buffer
        .give_up_block()
        .expect("the buffer was made in a block");
    // If we die between these steps, what is ours is freed with us and what is the child's with it.
    for id in [
        message.arguments.and_then(|(id, _)| BlockId::from_bits(id)),
        BlockId::from_bits(message.parcel),
        Some(block.id()),
    ]
    .into_iter()
    .flatten()
    {
        let handed = program.arena.set_owner(id, me, child);
        debug_assert!(handed, "the parts of a message belong to its sender");
    }
    let slot = program.roster.slot(to.slot());
    slot.message.store(block.id().bits(), Ordering::Release);
    Ok(())
}

/// The bytes of a message to a child that shares no memory with us.
pub(crate) fn encode(message: &Message) -> Result<Vec<u8>, Error> {
    let mut buffer = Buffer::new();
    encode_into(message, &mut buffer)?;
    Ok(buffer.as_slice().to_vec())
}

fn encode_into(message: &Message, buffer: &mut Buffer) -> Result<(), Error> {
    codec::encode(message, buffer).map_err(|error| {
        Error::new(
            ErrorKind::Other,
            format!("could not describe the process: {error}"),
        )
    })
}

/// Reads the message to the calling process, and gives the block back.
pub(crate) fn collect(program: &Program, slot: &Slot) -> Result<Message, Error> {
    let id = BlockId::from_bits(slot.message.swap(0, Ordering::Acquire));
    let block = id
        .and_then(|id| program.arena.find(id))
        .ok_or_else(|| Error::wrong_build("there is no message for this process".to_owned()))?;
    let mut bytes = program.arena.bytes(&block, block.capacity());
    let message = codec::decode(&mut bytes)
        .map_err(|error| Error::wrong_build(format!("the message cannot be read: {error}")));
    program.arena.free(block.id());
    message
}
