//! Handles of shared objects, and how they travel inside a value.
//!
//! A handle serialises as a few bytes that name its object. The bytes alone keep nothing alive:
//! whoever sends a value packs its handles into a parcel, which the objects count, and whoever
//! decodes it becomes a holder before the parcel is discarded. So a handle can be serialised inside
//! a call of `mp` only, and both directions go through a scope that this file keeps per thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::codec::{self, DecodeError, EncodeError};
use crate::error::{Error, ErrorKind};
use crate::life::program::existing;
use crate::life::{Program, program};
use crate::shm::buffer::Buffer;
use crate::shm::{BlockId, Kind, ObjectId, OutOfMemory, ShmSafe};
use crate::sync::raw::Peers;

/// One process's hold on a shared object; the object's holder is the process, which counts its
/// handles itself.
#[derive(Debug)]
pub(crate) struct Handle {
    id: ObjectId,
}

/// How many [`Handle`]s of each object this process has.
static HELD: Mutex<Option<HashMap<ObjectId, usize>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<HashMap<ObjectId, usize>>> {
    // No user code runs under this lock, so a poisoned one is as good as any.
    HELD.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl Handle {
    /// Makes a new object and holds it.
    pub(crate) fn create(kind: Kind) -> Result<Arc<Self>, Error> {
        let program = program()?;
        let mut held = held();
        let id = program
            .table
            .create(kind)
            .map_err(|_| Error::too_many_objects())?;
        held.get_or_insert_default().insert(id, 1);
        Ok(Arc::new(Self { id }))
    }

    /// Holds an object that a message brought, while its parcel still does.
    fn receive(program: &Program, id: ObjectId) -> Option<Arc<Self>> {
        let mut held = held();
        let held = held.get_or_insert_default();
        match held.get_mut(&id) {
            Some(count) => *count += 1,
            None => {
                program.table.hold(id).ok()?;
                held.insert(id, 1);
            }
        }
        Some(Arc::new(Self { id }))
    }

    /// The object's name.
    pub(crate) fn id(&self) -> ObjectId {
        self.id
    }

    /// The object's state in shared memory.
    pub(crate) fn state<T: ShmSafe>(&self, kind: Kind) -> Option<&'static T> {
        existing()?.table.payload(self.id, kind).ok()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // In a copy made by `fork` nothing is ours to let go.
        let Some(program) = existing() else { return };
        let mut held = held();
        let held = held.get_or_insert_default();
        let Some(count) = held.get_mut(&self.id) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            held.remove(&self.id);
            let me = program.roster.me();
            if program.is_kept(self.id) {
                // A guard was forgotten: the burial finds by the holder what is to be given back.
                return;
            }
            // Under the lock, so that a handle received meanwhile is not let go with this one.
            program.table.let_go(&program.arena, self.id, me.slot());
        }
    }
}

thread_local! {
    /// How many values are being encoded by this thread, one inside the other.
    static SENDING: Cell<u32> = const { Cell::new(0) };
    /// Whether one of them has given a handle: the rule is that none does, and then nothing below
    /// is looked at.
    static HAS_SENT: Cell<bool> = const { Cell::new(false) };
    /// The handles given so far, each with the value it is in.
    static SENT: RefCell<Vec<(u32, Arc<Handle>)>> = const { RefCell::new(Vec::new()) };
    /// The program whose value is being decoded; zero if none is.
    static RECEIVING: Cell<u64> = const { Cell::new(0) };
    /// Whether the value is another program's, or is for one.
    static ABROAD: Cell<bool> = const { Cell::new(false) };
    /// How many values are being encoded, up to the one that is for another machine; zero if none is.
    static EXPORTING: Cell<u32> = const { Cell::new(0) };
    /// The parcel with the shared data that the value being decoded refers to, if it came from
    /// another machine.
    static IMPORTED: Cell<Option<BlockId>> = const { Cell::new(None) };
}

/// Handles that were encoded, alive until they are packed.
#[derive(Debug, Default)]
pub(crate) struct Sent(Vec<Arc<Handle>>);

impl Sent {
    /// The handles themselves.
    pub(crate) fn into_handles(self) -> Vec<Arc<Handle>> {
        self.0
    }

    /// Whether there are none, which is the rule.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Packs them for a message; the parcel is the calling process's.
    pub(crate) fn pack(&self, program: &Program) -> Result<Option<BlockId>, OutOfMemory> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let ids: Vec<_> = self.0.iter().map(|handle| handle.id).collect();
        program.table.pack(&program.arena, &ids).map(Some)
    }
}

/// A parcel that has arrived: discarded when it is dropped, by when its handles are held.
#[derive(Debug)]
pub(crate) struct Delivery {
    program: &'static Program,
    parcel: BlockId,
}

impl Delivery {
    pub(crate) fn new(program: &'static Program, parcel: BlockId) -> Self {
        Self { program, parcel }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.program.table.discard(&self.program.arena, self.parcel);
    }
}

/// Runs `encode`, in which handles may be serialised, and returns them with its result.
#[inline]
pub(crate) fn sending<R>(encode: impl FnOnce() -> R) -> (R, Sent) {
    let outer = SENDING.with(|depth| depth.replace(depth.get() + 1));
    let restore = Restore(&SENDING, outer);
    let result = encode();
    drop(restore);
    let sent = if HAS_SENT.get() {
        collect_sent(outer + 1)
    } else {
        Sent::default()
    };
    (result, sent)
}

/// Takes the handles of the value at `depth`, and of values inside it whose encoding panicked.
#[cold]
fn collect_sent(depth: u32) -> Sent {
    SENT.with_borrow_mut(|sent| {
        let first = sent.partition_point(|&(at, _)| at < depth);
        let taken = sent.drain(first..).map(|(_, handle)| handle).collect();
        HAS_SENT.set(!sent.is_empty());
        Sent(taken)
    })
}

/// Takes the handles that were serialised so far in the innermost [`sending`] of this thread, if
/// there are any: for those who encode many values in one.
#[inline]
pub(crate) fn take_sent() -> Option<Sent> {
    HAS_SENT
        .get()
        .then(|| collect_sent(SENDING.get()))
        .filter(|sent| !sent.is_empty())
}

/// Whether a handle was serialised since the present scope began.
#[inline]
pub(crate) fn has_sent() -> bool {
    HAS_SENT.get()
}

/// Runs `decode`, in which handles may be deserialised.
#[inline]
pub(crate) fn receiving<R>(program: &Program, decode: impl FnOnce() -> R) -> R {
    let _restore = Restore(&RECEIVING, RECEIVING.replace(program.id()));
    decode()
}

/// As [`receiving`], of a value that may have come from another machine: the shared data that it
/// refers to is in the parcel.
#[inline]
pub(crate) fn receiving_from<R>(
    program: &Program,
    parcel: Option<BlockId>,
    decode: impl FnOnce() -> R,
) -> R {
    let _restore = Restore(&IMPORTED, IMPORTED.replace(parcel));
    receiving(program, decode)
}

/// Runs `decode`, of a value from another machine, or of one that only passes through on its way to one:
/// the shared data that it refers to is in the parcel.
pub(crate) fn importing<R>(parcel: BlockId, decode: impl FnOnce() -> R) -> R {
    let _restore = Restore(&IMPORTED, IMPORTED.replace(Some(parcel)));
    decode()
}

/// The shared data that the value being decoded may refer to, in its order.
pub(crate) fn imported_handles() -> Vec<Arc<Handle>> {
    let parcel = IMPORTED.get().zip(existing());
    parcel
        .and_then(|(parcel, program)| unpack(program, parcel))
        .unwrap_or_default()
}

/// Runs `code`, which encodes for another program or decodes what one sent: handles are refused.
pub(crate) fn abroad<R>(code: impl FnOnce() -> R) -> R {
    let _restore = (
        Restore(&SENDING, SENDING.replace(0)),
        Restore(&RECEIVING, RECEIVING.replace(0)),
        Restore(&EXPORTING, EXPORTING.replace(0)),
        Restore(&IMPORTED, IMPORTED.replace(None)),
        Restore(&ABROAD, ABROAD.replace(true)),
    );
    code()
}

/// Runs `encode`, which encodes for another machine, and returns the handles of shared data in it: they
/// are named by their places among these. All others are refused.
pub(crate) fn exporting<R>(encode: impl FnOnce() -> R) -> (R, Sent) {
    let _restore = Restore(&EXPORTING, EXPORTING.replace(SENDING.get() + 1));
    sending(encode)
}

/// Puts shared data that came from another machine with the value that is being encoded, which has it
/// named already.
pub(crate) fn attach(handles: &[Arc<Handle>]) {
    let depth = SENDING.get();
    if depth == 0 || handles.is_empty() {
        // Where no handles travel the names mean nothing, and are refused.
        return;
    }
    SENT.with_borrow_mut(|sent| {
        // Values that are sent together came together.
        let is_there = sent.last().is_some_and(|&(at, _)| at == depth);
        if !is_there {
            HAS_SENT.set(true);
            sent.extend(handles.iter().map(|handle| (depth, handle.clone())));
        }
    });
}

/// Holds what is in a parcel.
pub(crate) fn unpack(program: &Program, parcel: BlockId) -> Option<Vec<Arc<Handle>>> {
    let ids = program.table.packed(&program.arena, parcel);
    ids.map(|id| Handle::receive(program, id)).collect()
}

/// Puts the outer scope back, also when user code panics.
struct Restore<T: Copy + 'static>(&'static std::thread::LocalKey<Cell<T>>, T);

impl<T: Copy> Drop for Restore<T> {
    #[inline]
    fn drop(&mut self) {
        // `LocalKey::set` is a call, and has a way for keys that are not initialised yet.
        self.0.with(|cell| cell.set(self.1));
    }
}

/// Encodes a value with the handles in it.
#[inline]
pub(crate) fn encode<T: Serialize + 'static>(
    value: &T,
    out: &mut Buffer,
) -> Result<Sent, EncodeError> {
    let (result, sent) = sending(|| codec::encode(value, out));
    result.map(|()| sent)
}

/// Decodes a value with the handles in it; the parcel, if there was one, can be discarded then.
#[inline]
pub(crate) fn decode<T: de::DeserializeOwned + 'static>(
    program: &Program,
    mut bytes: &[u8],
) -> Result<T, DecodeError> {
    receiving(program, || codec::decode(&mut bytes))
}

/// The object of a handle is not there, or is of another kind.
pub(crate) fn gone() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the shared object no longer exists, or is of another kind than its handle says",
    )
}

/// Why a handle does not travel to another program, or to a process that shares no memory with ours.
pub(crate) const NOT_ABROAD: &str = "a queue, a lock or another shared object means nothing in \
    another program or in an isolated worker: send what is in it";

/// The same of an unnamed object, where others have names.
pub(crate) const NOT_ON_ANOTHER_MACHINE: &str = "a queue, a lock or another shared object without a \
    name means nothing on another machine: give it one (`Queue::named`, `Lock::named` and so on, of \
    `named`), or send what is in it";

/// The program in the name of shared data that is on its way to another machine: the entry is its place
/// among the shared data that the value refers to.
const ON_ITS_WAY: u64 = u64::MAX;

/// What a handle is on the wire: program, entry, generation.
#[derive(Serialize, Deserialize)]
struct Name(u64, u32, u32);

/// Serialises a handle, inside a call of `mp`.
pub(crate) fn serialize<S: Serializer>(
    handle: &Arc<Handle>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let depth = SENDING.get();
    let program = existing().filter(|_| depth > 0);
    let Some(program) = program else {
        if ABROAD.get() {
            return Err(ser::Error::custom(NOT_ABROAD));
        }
        return Err(ser::Error::custom(
            "a shared object can be serialised only while mp sends it: as an argument or result \
             of a task, or as an item of a queue",
        ));
    };
    if EXPORTING.get() == depth {
        return export(program, handle, serializer);
    }
    HAS_SENT.set(true);
    SENT.with_borrow_mut(|sent| sent.push((depth, handle.clone())));
    Name(program.id(), handle.id.index(), handle.id.generation()).serialize(serializer)
}

/// Serialises a handle for another machine.
#[cold]
fn export<S: Serializer>(
    program: &Program,
    handle: &Arc<Handle>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if !program.table.is(handle.id, Kind::Shared) {
        return Err(ser::Error::custom(NOT_ON_ANOTHER_MACHINE));
    }
    let depth = SENDING.get();
    let place = SENT.with_borrow_mut(|sent| {
        let first = sent.partition_point(|&(at, _)| at < depth);
        let known = sent[first..].iter().position(|(_, it)| it.id == handle.id);
        known.unwrap_or_else(|| {
            sent.push((depth, handle.clone()));
            sent.len() - 1 - first
        })
    });
    HAS_SENT.set(true);
    Name(ON_ITS_WAY, place as u32, 0).serialize(serializer)
}

/// Deserialises a handle, inside a call of `mp`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<Handle>, D::Error> {
    let Name(id, index, generation) = Name::deserialize(deserializer)?;
    match existing() {
        Some(program) if RECEIVING.get() == program.id() => {
            let object = match id {
                ON_ITS_WAY => imported(program, index),
                _ if id == program.id() => Some(ObjectId::new(index, generation)),
                _ => return Err(de::Error::custom("a shared object of another program")),
            };
            object
                .and_then(|object| Handle::receive(program, object))
                .ok_or_else(|| de::Error::custom("the shared object no longer exists"))
        }
        Some(program) if id == ON_ITS_WAY && IMPORTED.get().is_some() => imported(program, index)
            .and_then(|object| Handle::receive(program, object))
            .ok_or_else(|| de::Error::custom("the shared data has not come with it")),
        _ if ABROAD.get() => Err(de::Error::custom(NOT_ABROAD)),
        _ => Err(de::Error::custom(
            "a shared object can be deserialised only while mp receives it",
        )),
    }
}

/// The shared data at a place among that which came with the value.
#[cold]
fn imported(program: &Program, place: u32) -> Option<ObjectId> {
    let mut objects = program.table.packed(&program.arena, IMPORTED.get()?);
    objects.nth(place as usize)
}
