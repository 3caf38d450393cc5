//! The queue of bytes below [`Queue`](super::Queue): two locks, three bells, waiting until a deadline.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{NotDecoded, Reason, TaskDoneError};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fault::fault;
use crate::life::program::assert_not_forked;
use crate::life::slot::{Debt, DebtWords};
use crate::life::{Program, Whereabouts, program};
use crate::loom::{AtomicU32, AtomicU64, Ordering, hint};
use crate::shm::buffer::{Buffer, SMALL};
use crate::shm::segment::{self, Item, PutSide, Record, TakeSide, Taken, Values};
use crate::shm::table::QUEUE_CLOSED;
use crate::shm::{BlockId, Kind, ObjectId, Owner, shared};
use crate::sync::raw::{Acquired, Bell, Holder, Peers, RawMutex, Refused, spin_until};
use crate::wait::Source;
use crate::wire::codec::{self, DecodeError, EncodeError};
use crate::wire::transfer::{self, Handle, Sent};

pub(crate) use crate::shm::segment::MAX_ITEMS;

/// How long an operation whose time is over still waits for a lock: its holder is copying a message,
/// unless it was stopped.
const GRACE: Duration = Duration::from_millis(10);
/// Bytes that one batch puts under one lock.
const BATCH: usize = 2 * SMALL;
/// Bytes of a message that a getter copies to its stack.
const FEW: usize = 64;
/// How long `join` sleeps at most before it looks at what deaths have changed.
const NAP: Duration = Duration::from_millis(100);
/// Messages, and bytes of them, that a way of a pipe holds before its sender waits.
const WAY_ITEMS: u64 = 1024;
const WAY_BYTES: u64 = 64 << 20;

shared! {
    /// A queue's words in shared memory, a cache line for each party. All zeros is empty.
    pub(super) struct State {
        put: PutLine,
        take: TakeLine,
        items: ItemsLine,
        space: SpaceLine,
    }
}

shared! {
    /// What putters change.
    #[repr(align(64))]
    struct PutLine {
        lock: RawMutex,
        /// Not zero once the queue is closed. Changes under the put lock, or, of a way of a pipe, by
        /// the burial of an end.
        closed: AtomicU32,
        side: PutSide,
        /// The last seen count of values taken: spares putters the getters' cache line.
        taken: AtomicU64,
    }
}

shared! {
    /// What getters change.
    #[repr(align(64))]
    struct TakeLine {
        lock: RawMutex,
        _pad: AtomicU32,
        side: TakeSide,
    }
}

shared! {
    /// What putters read and waiting getters change.
    #[repr(align(64))]
    struct ItemsLine {
        /// Rung for each value put.
        bell: Bell,
        _pad: AtomicU32,
        /// Items that it holds at most; zero if there is no limit.
        capacity: AtomicU64,
        /// Of whom puts, in a way of a pipe.
        putter: Whereabouts,
    }
}

shared! {
    /// What getters read and waiting putters change.
    #[repr(align(64))]
    struct SpaceLine {
        /// Rung for each value taken from a bounded queue.
        bell: Bell,
        /// Rung when no work is left.
        done_bell: Bell,
        /// Items reported as done, modulo 2^29.
        done: AtomicU64,
        /// Values that died with their getter.
        lost: AtomicU64,
        /// Of whom takes, in a way of a pipe.
        getter: Whereabouts,
    }
}

// The table knows where the locks and the bells are.
const _: () =
    assert!(std::mem::offset_of!(State, put) == 0 && std::mem::offset_of!(State, take) == 64);
const _: () = assert!(std::mem::offset_of!(PutLine, closed) as u64 == QUEUE_CLOSED);

/// A handle of a queue of bytes.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    handle: Arc<Handle>,
    state: &'static State,
    program: &'static Program,
    /// Whether the room for a message depends on its size.
    is_way: bool,
}

/// A message as its getter sees it.
pub(crate) struct Message<'a> {
    bytes: &'a [u8],
    /// How many come after it, of those that were taken with it.
    behind: usize,
    program: &'static Program,
}

impl Message<'_> {
    /// What was encoded.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The value.
    pub(crate) fn decode<T: DeserializeOwned + 'static>(&self) -> Result<T, NotDecoded> {
        transfer::receiving(self.program, || self.decode_inside())
    }

    /// The value, inside of [`transfer::receiving`].
    #[inline]
    fn decode_inside<T: DeserializeOwned + 'static>(&self) -> Result<T, NotDecoded> {
        codec::decode(&mut &*self.bytes).map_err(|error| self.not_decoded(&error))
    }

    #[cold]
    fn not_decoded(&self, error: &DecodeError) -> NotDecoded {
        NotDecoded::new(error.to_string(), self.bytes.to_vec())
    }
}

/// A message with parts outside of the queue's segments: gives them back when it is done with.
struct Parts {
    program: &'static Program,
    block: Option<BlockId>,
    parcel: Option<BlockId>,
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Some(block) = self.block {
            self.program.arena.free(block);
        }
        if let Some(parcel) = self.parcel {
            self.program.table.discard(&self.program.arena, parcel);
        }
    }
}

/// Values taken and not handed over yet, on record in case this thread's process dies.
struct Owed(Option<&'static DebtWords>);

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(words) = self.0 {
            words.settle();
        }
    }
}

/// How far the short way has got with taking a message.
enum Start {
    /// It is there, of so many bytes.
    Taken(usize, Owed),
    /// There was none.
    Empty,
    /// There is one that takes more, and the lock is held.
    Locked,
    /// It was not tried, or somebody else held the lock.
    Unlocked,
}

thread_local! {
    /// Memory for messages on their way, kept from call to call.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

struct Scratch {
    /// Messages that were taken.
    values: Values,
    /// The message that is being put.
    buffer: Option<Buffer>,
}

impl Scratch {
    const fn new() -> Self {
        Self {
            values: Values::new(),
            buffer: None,
        }
    }

    /// Lends this thread's scratch memory, or in a nested call, and while the thread ends, other.
    #[inline]
    fn with<R>(run: impl FnOnce(&mut Self) -> R) -> R {
        let mut run = Some(run);
        let mut lend = |scratch: &mut Self| run.take().map(|run| run(scratch));
        let lent = SCRATCH.try_with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => lend(&mut scratch),
            Err(_) => None,
        });
        match lent.ok().flatten().or_else(|| lend(&mut Self::new())) {
            Some(result) => result,
            None => unreachable!("one of the two was lent"),
        }
    }

    /// An empty buffer whose blocks are this process's.
    #[inline]
    fn buffer(&mut self, program: &'static Program) -> &mut Buffer {
        let buffer = self.buffer.get_or_insert_with(|| {
            let me = Owner::Process(program.roster.me());
            Buffer::with_home(program.arena.clone(), me)
        });
        buffer.clear();
        buffer
    }
}

impl Channel {
    pub(crate) fn create(capacity: Option<u64>) -> Result<Self, Error> {
        let channel = Self::over(Handle::create(Kind::Queue)?)?;
        channel
            .state
            .items
            .capacity
            .store(capacity.unwrap_or(0), Ordering::Relaxed);
        Ok(channel)
    }

    pub(crate) fn over(handle: Arc<Handle>) -> Result<Self, Error> {
        let program = program()?;
        let state = handle.state(Kind::Queue).ok_or_else(transfer::gone)?;
        Ok(Self {
            handle,
            state,
            program,
            is_way: false,
        })
    }

    /// Makes one way of a pipe.
    pub(crate) fn create_way() -> Result<Self, Error> {
        let way = Self::create(Some(WAY_ITEMS))?;
        Ok(Self {
            is_way: true,
            ..way
        })
    }

    /// The way of a pipe behind a handle.
    pub(crate) fn over_way(handle: Arc<Handle>) -> Result<Self, Error> {
        let way = Self::over(handle)?;
        Ok(Self {
            is_way: true,
            ..way
        })
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    pub(crate) fn len(&self) -> u64 {
        assert_not_forked();
        loop {
            let taken = self.state.take.side.word();
            let put = self.state.put.side.word();
            // Nothing was taken meanwhile: the difference was exact when `put` was read.
            if self.state.take.side.word() == taken {
                return segment::between(taken, put);
            }
            hint::spin_loop();
        }
    }

    pub(crate) fn capacity(&self) -> Option<u64> {
        assert_not_forked();
        match self.state.items.capacity.load(Ordering::Relaxed) {
            0 => None,
            capacity => Some(capacity),
        }
    }

    pub(crate) fn lost(&self) -> u64 {
        assert_not_forked();
        self.state.space.lost.load(Ordering::Acquire)
    }

    pub(crate) fn is_closed(&self) -> bool {
        assert_not_forked();
        // Acquire: pairs with the Release in `close`; every value put before is visible.
        self.state.put.closed.load(Ordering::Acquire) != 0
    }

    pub(crate) fn close(&self) {
        assert_not_forked();
        // Under the lock: no value is put after a getter was told that none will come.
        if self.lock_put(Deadline::NEVER).is_ok() {
            self.state.put.closed.store(1, Ordering::Release);
            self.unlock_put();
        }
        self.state.items.bell.ring_all(self.program.roster);
        self.state.space.bell.ring_all(self.program.roster);
    }

    // Putting.

    /// Encodes a value and puts it.
    pub(crate) fn put<T: Serialize + 'static>(
        &self,
        value: &T,
        deadline: Deadline,
    ) -> Result<(), Reason> {
        self.put_with(|buffer| codec::encode(value, buffer), deadline)
    }

    /// Puts what `encode` writes.
    #[inline]
    pub(super) fn put_with(
        &self,
        encode: impl FnOnce(&mut Buffer) -> Result<(), EncodeError>,
        deadline: Deadline,
    ) -> Result<(), Reason> {
        self.check()?;
        Scratch::with(|scratch| {
            let buffer = scratch.buffer(self.program);
            let (encoded, sent) = transfer::sending(|| encode(buffer));
            encoded.map_err(Reason::not_encoded)?;
            let parcel = match sent.is_empty() {
                true => None,
                false => self.pack(&sent)?,
            };
            self.put_encoded(buffer, parcel, deadline)
        })
    }

    /// Puts bytes as they are.
    pub(crate) fn put_bytes(&self, bytes: &[u8], deadline: Deadline) -> Result<(), Reason> {
        self.check()?;
        Scratch::with(|scratch| {
            let buffer = scratch.buffer(self.program);
            let written = buffer
                .reserve(bytes.len())
                .and_then(|()| buffer.write(bytes));
            written.map_err(|_| Reason::OutOfMemory)?;
            self.put_encoded(buffer, None, deadline)
        })
    }

    /// Whether `mp` works in this process.
    #[inline]
    fn check(&self) -> Result<(), Reason> {
        match crate::life::program::is_forked() {
            false => Ok(()),
            true => Err(Reason::Failed(Error::forked())),
        }
    }

    fn pack(&self, sent: &Sent) -> Result<Option<BlockId>, Reason> {
        sent.pack(self.program).map_err(|_| Reason::OutOfMemory)
    }

    /// Puts a message that is all in `bytes` if the lock is free, there is room, and the segment
    /// has space for it; whether it is in the queue. What most calls do, in as few steps as that takes.
    fn put_at_once(&self, bytes: &[u8]) -> bool {
        let line = &self.state.put;
        if !line.lock.lock_free(self.program.roster.me()) {
            return false;
        }
        fault!("put.locked");
        let is_put = line.closed.load(Ordering::Relaxed) == 0
            && self.room_for(1, self.most(bytes.len() as u64)) == 1
            && line.side.put_inline(&self.program.arena, bytes);
        self.unlock_put();
        if is_put {
            fault!("put.unlocked");
            self.tell_getters(1);
        }
        is_put
    }

    /// Rings for so many values that were put under the lock just let go.
    #[inline]
    fn tell_getters(&self, count: u32) {
        let items = &self.state.items;
        if self.is_way {
            items.putter.note();
        }
        items.bell.ring_unlocked(self.program.roster, count);
    }

    /// Puts the message in `buffer`; its block, if it has one, goes with it.
    #[inline]
    fn put_encoded(
        &self,
        buffer: &mut Buffer,
        parcel: Option<BlockId>,
        deadline: Deadline,
    ) -> Result<(), Reason> {
        fault!("put.encoded");
        let is_inline = parcel.is_none() && buffer.block().is_none();
        if is_inline && self.put_at_once(buffer.as_slice()) {
            return Ok(());
        }
        self.put_waiting(buffer, parcel, deadline)
    }

    /// As [`put_encoded`](Self::put_encoded), whatever that takes.
    fn put_waiting(
        &self,
        buffer: &mut Buffer,
        parcel: Option<BlockId>,
        deadline: Deadline,
    ) -> Result<(), Reason> {
        let mut parts = Parts {
            program: self.program,
            block: None,
            parcel,
        };
        let len = buffer.len() as u64;
        let block = match buffer.give_up_block() {
            Some(block) => {
                parts.block = Some(block.id());
                Some((block.id(), len))
            }
            None => None,
        };
        let item = Item {
            bytes: if block.is_some() {
                &[]
            } else {
                buffer.as_slice()
            },
            block,
            parcel,
        };
        let side = &self.state.put.side;
        self.put_items(1, self.most(len), deadline, |_| {
            let (arena, id) = (&self.program.arena, self.handle.id());
            usize::from(side.put(arena, id, item).is_ok())
        })
        .map_err(|(_, reason)| reason)?;
        // The parts are the queue's now.
        (parts.block, parts.parcel) = (None, None);
        Ok(())
    }

    /// Puts so many items by `put_next`, which is called under the lock with the number of those that
    /// there is room for, and tells how many memory sufficed for. `most` items may be there afterwards. On failure
    /// tells how many are in the queue.
    #[inline]
    fn put_items(
        &self,
        count: usize,
        most: u64,
        deadline: Deadline,
        mut put_next: impl FnMut(usize) -> usize,
    ) -> Result<(), (usize, Reason)> {
        let mut put = 0;
        let mut has_slept = false;
        let result = self.put_some(
            count,
            most,
            deadline,
            &mut put_next,
            &mut put,
            &mut has_slept,
        );
        if result.is_err() && has_slept {
            // The room that woke us is somebody else's to fill.
            self.state.space.bell.ring(self.program.roster, 1);
        }
        result.map_err(|reason| (put, reason))
    }

    #[inline]
    fn put_some(
        &self,
        count: usize,
        most: u64,
        deadline: Deadline,
        put_next: &mut impl FnMut(usize) -> usize,
        put: &mut usize,
        has_slept: &mut bool,
    ) -> Result<(), Reason> {
        let peers = self.program.roster;
        let mut has_spun = false;
        loop {
            self.lock_put(deadline)?;
            fault!("put.locked");
            if self.state.put.closed.load(Ordering::Relaxed) != 0 {
                self.unlock_put();
                return Err(Reason::Closed);
            }
            let first = *put;
            let wanted = self.room_for(count - first, most);
            if wanted > 0 {
                *put += put_next(wanted);
            }
            self.unlock_put();
            fault!("put.unlocked");
            if *put > first {
                self.tell_getters(u32::try_from(*put - first).unwrap_or(u32::MAX));
            }
            if *put < first + wanted {
                return Err(Reason::OutOfMemory);
            }
            if *put == count {
                return Ok(());
            }
            if !has_spun && !deadline.has_passed() {
                has_spun = !self.spin_until(&self.state.space.getter, || !self.looks_full(most));
                if !has_spun {
                    continue;
                }
            }
            let ticket = self.state.space.bell.listen();
            if self.looks_full(most) && !self.is_closed() {
                if deadline.has_passed() {
                    return Err(Reason::TimedOut);
                }
                self.state.space.bell.wait(peers, ticket, deadline);
                *has_slept = true;
            }
        }
    }

    /// How many of so many items fit. Under the put lock.
    #[inline]
    fn room_for(&self, count: usize, most: u64) -> usize {
        let line = &self.state.put;
        let put = line.side.word();
        let room = |taken| most.saturating_sub(segment::between(taken, put)) as usize;
        let known = room(line.taken.load(Ordering::Relaxed));
        if known >= count {
            return count;
        }
        let taken = self.state.take.side.word();
        line.taken.store(taken, Ordering::Relaxed);
        room(taken).min(count)
    }

    /// Looks a while for what the other side does, unless that runs on this CPU, as far as is known.
    /// It is of the two sides of a pipe, which take turns; those of a queue may be many.
    #[inline]
    fn spin_until(&self, other: &Whereabouts, is_so: impl FnMut() -> bool) -> bool {
        other.is_elsewhere() != Some(false) && spin_until(is_so)
    }

    fn looks_full(&self, most: u64) -> bool {
        let taken = self.state.take.side.word();
        segment::between(taken, self.state.put.side.word()) >= most
    }

    /// Items that it can hold with one more of `len` bytes.
    ///
    /// In a way of a pipe a message waits while those before it are so many that as many of its own
    /// size would exceed the bytes: so a count bounds the bytes, to a few times as much at worst, and
    /// a message of any size goes into an empty way.
    #[inline]
    fn most(&self, len: u64) -> u64 {
        match self.state.items.capacity.load(Ordering::Relaxed) {
            0 => MAX_ITEMS,
            capacity if self.is_way => capacity.min(WAY_BYTES / len.max(1)).max(1),
            capacity => capacity,
        }
    }

    /// Encodes values and puts them in order, many under one lock: how many are in the queue, and
    /// why not all.
    pub(crate) fn put_all<T: Serialize + 'static>(
        &self,
        values: &[T],
    ) -> (usize, Result<(), Reason>) {
        if let Err(reason) = self.check() {
            return (0, Err(reason));
        }
        Scratch::with(|scratch| {
            let mut batch = Batch {
                channel: self,
                records: scratch.buffer(self.program),
                count: 0,
                put: 0,
            };
            // One scope for all values: to enter one costs as much as a small value.
            let (added, _) = transfer::sending(|| values.iter().try_for_each(|it| batch.add(it)));
            // What was encoded before a value that could not be goes first; if that fails too, its
            // reason counts.
            let result = batch.flush().and(added);
            (batch.put, result)
        })
    }

    // Taking.

    /// Waits until there is something to take, or nothing can come any more; false at the deadline.
    pub(crate) fn wait_ready(&self, deadline: Deadline) -> bool {
        assert_not_forked();
        let mut has_slept = false;
        loop {
            let ticket = self.state.items.bell.listen();
            let is_ready = self.is_ready();
            if is_ready || deadline.has_passed() {
                if has_slept {
                    // The value that woke us is not taken by us.
                    self.state.items.bell.ring(self.program.roster, 1);
                }
                return is_ready;
            }
            let peers = self.program.roster;
            self.state.items.bell.wait(peers, ticket, deadline);
            has_slept = true;
        }
    }

    /// Takes between one and `most` messages and gives them to `receive`, which runs without a lock.
    pub(crate) fn take(
        &self,
        most: usize,
        deadline: Deadline,
        mut receive: impl FnMut(Message<'_>),
    ) -> Result<(), Reason> {
        self.check()?;
        let program = self.program;
        let mut few = [0; FEW];
        let start = match most {
            1 => self.take_at_once(&mut few),
            _ => Start::Unlocked,
        };
        if let Start::Taken(len, owed) = start {
            receive(Message {
                bytes: &few[..len],
                behind: 0,
                program,
            });
            fault!("get.decoded");
            drop(owed);
            return Ok(());
        }
        Scratch::with(|scratch| {
            // More than this is not worth keeping for a thread that may never use it again.
            scratch.values.clear(4 * BATCH);
            let (taken, owed) = self.take_bytes(start, most, deadline, scratch)?;
            match taken {
                Taken::Inline => {
                    let mut behind = scratch.values.count();
                    for bytes in scratch.values.iter() {
                        behind -= 1;
                        receive(Message {
                            bytes,
                            behind,
                            program,
                        });
                    }
                }
                Taken::Outside { len, block, parcel } => {
                    let parts = Parts {
                        program,
                        block,
                        parcel,
                    };
                    fault!("get.unlocked");
                    let bytes = match block.and_then(|id| program.arena.find(id)) {
                        Some(block) => program.arena.bytes(&block, len as usize),
                        None => scratch.values.alone(),
                    };
                    receive(Message {
                        bytes,
                        behind: 0,
                        program,
                    });
                    drop(parts);
                }
            }
            fault!("get.decoded");
            drop(owed);
            Ok(())
        })
    }

    /// As [`take`](Self::take), with the messages decoded; beside each how many come after it.
    pub(crate) fn take_values<T: DeserializeOwned + 'static>(
        &self,
        most: usize,
        deadline: Deadline,
        mut receive: impl FnMut(Result<T, NotDecoded>, usize),
    ) -> Result<(), Reason> {
        // One scope for all values: to enter one costs as much as a small value.
        transfer::receiving(self.program, || {
            self.take(most, deadline, |message| {
                receive(message.decode_inside(), message.behind);
            })
        })
    }

    /// Takes one message; closed is also what `peer`, who alone puts here, has left empty by its death.
    pub(super) fn take_from(
        &self,
        peer: Holder,
        mut receive: impl FnMut(Message<'_>),
    ) -> Result<(), Reason> {
        let peers = self.program.roster;
        loop {
            // Before the look: what it had put until then is seen.
            let is_over = !peers.is_alive(peer) || self.is_closed();
            if !self.looks_empty() {
                match self.take(1, Deadline::after(Duration::ZERO), &mut receive) {
                    Err(Reason::TimedOut) => {}
                    result => return result,
                }
            }
            if is_over {
                return Err(Reason::Closed);
            }
            if !self.spin_until(&self.state.items.putter, || !self.looks_empty()) {
                let ticket = self.state.items.bell.listen();
                if self.looks_empty() && !self.is_closed() && peers.is_alive(peer) {
                    let bell = &self.state.items.bell;
                    bell.wait_watching(peers, ticket, peer, Deadline::NEVER);
                }
            }
        }
    }

    /// Takes the next message if it is there, has no parts and few bytes, and the lock is free. What
    /// most calls do, in as few steps as that takes.
    fn take_at_once(&self, few: &mut [u8; FEW]) -> Start {
        let line = &self.state.take;
        if !line.side.has_seen_more() && self.looks_empty() {
            return Start::Empty;
        }
        if !line.lock.lock_free(self.program.roster.me()) {
            return Start::Unlocked;
        }
        fault!("get.locked");
        let available = line.side.available(&self.state.put.side);
        if available == 0 {
            line.lock.unlock(self.program.roster);
            return Start::Empty;
        }
        let mut owed = Owed(None);
        let owe = |before, count| owed.0 = self.owe(before, count);
        let Some(len) = line.side.take_inline(&self.program.arena, few, owe) else {
            return Start::Locked;
        };
        line.lock.unlock(self.program.roster);
        fault!("get.taken");
        self.tell_putters(1, available);
        Start::Taken(len, owed)
    }

    /// Puts values that are about to be taken on record.
    #[inline]
    fn owe(&self, before: u64, count: u64) -> Option<&'static DebtWords> {
        let region = self.program.region();
        let offset = |word: &AtomicU64| region.offset_of(word).unwrap_or_default();
        let debt = Debt {
            counter: offset(self.state.take.side.counter()),
            lost: offset(&self.state.space.lost),
            before: before as u32,
            count: count as u32,
        };
        self.program.roster.thread()?.owe(debt)
    }

    /// Rings for the room of so many values of those that were `available`, taken under the lock just let
    /// go.
    #[inline]
    fn tell_putters(&self, count: u32, available: u64) {
        let (space, items) = (&self.state.space, &self.state.items);
        // What is room for one who waits may be none for another, whose message is longer.
        let count = match self.is_way {
            true => u32::MAX,
            false => count,
        };
        if self.is_way {
            space.getter.note();
        }
        if items.capacity.load(Ordering::Relaxed) != 0 || available > MAX_ITEMS / 2 {
            space.bell.ring_unlocked(self.program.roster, count);
        }
    }

    fn take_bytes(
        &self,
        start: Start,
        most: usize,
        deadline: Deadline,
        scratch: &mut Scratch,
    ) -> Result<(Taken, Owed), Reason> {
        if let Start::Locked = start
            && let Some(taken) = self.take_locked(most, scratch)
        {
            return Ok(taken);
        }
        let mut has_slept = false;
        let result = self.take_some(start, most, deadline, scratch, &mut has_slept);
        if result.is_err() && has_slept {
            // The value that woke us is somebody else's to take.
            self.state.items.bell.ring(self.program.roster, 1);
        }
        result
    }

    fn take_some(
        &self,
        start: Start,
        most: usize,
        deadline: Deadline,
        scratch: &mut Scratch,
        has_slept: &mut bool,
    ) -> Result<(Taken, Owed), Reason> {
        let peers = self.program.roster;
        let mut has_spun = false;
        let mut is_empty = matches!(start, Start::Empty);
        loop {
            if !std::mem::take(&mut is_empty)
                && let Some(taken) = self.take_now(most, deadline, scratch)?
            {
                return Ok(taken);
            }
            if !has_spun && !deadline.has_passed() {
                has_spun = !self.spin_until(&self.state.items.putter, || !self.looks_empty());
                if !has_spun {
                    continue;
                }
            }
            let ticket = self.state.items.bell.listen();
            // Closed first: nothing is put after that, so empty is empty for good then.
            let is_closed = self.is_closed();
            if self.looks_empty() {
                if is_closed {
                    return Err(Reason::Closed);
                }
                if deadline.has_passed() {
                    return Err(Reason::TimedOut);
                }
                self.state.items.bell.wait(peers, ticket, deadline);
                *has_slept = true;
            }
        }
    }

    /// Takes what is there under the lock; `None` if that is nothing.
    fn take_now(
        &self,
        most: usize,
        deadline: Deadline,
        scratch: &mut Scratch,
    ) -> Result<Option<(Taken, Owed)>, Reason> {
        let line = &self.state.take;
        if !line.side.has_seen_more() && self.looks_empty() {
            return Ok(None);
        }
        self.lock_take(deadline)?;
        fault!("get.locked");
        Ok(self.take_locked(most, scratch))
    }

    /// As [`take_now`](Self::take_now), with the lock held, which is let go.
    fn take_locked(&self, most: usize, scratch: &mut Scratch) -> Option<(Taken, Owed)> {
        let line = &self.state.take;
        let available = line.side.available(&self.state.put.side);
        let result = (available > 0).then(|| {
            let mut owed = Owed(None);
            let taken = line.side.take(
                &self.program.arena,
                self.handle.id(),
                &self.state.put.side,
                available.min(most as u64),
                &mut scratch.values,
                |before, count| owed.0 = self.owe(before, count),
            );
            (taken, owed)
        });
        line.lock.unlock(self.program.roster);
        fault!("get.taken");
        if result.is_some() {
            self.tell_putters(scratch.values.count() as u32, available);
        }
        result
    }

    fn looks_empty(&self) -> bool {
        segment::between(self.state.take.side.word(), self.state.put.side.word()) == 0
    }

    // Done.

    pub(crate) fn task_done(&self) -> Result<(), TaskDoneError> {
        assert_not_forked();
        let done = &self.state.space.done;
        let mut seen = done.load(Ordering::Relaxed);
        loop {
            if self.unfinished(seen) == 0 {
                return Err(TaskDoneError(()));
            }
            // Release: pairs with the Acquire in `join`; the work is visible to who waited for it.
            match done.compare_exchange_weak(
                seen,
                (seen + 1) & MAX_ITEMS,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        if self.unfinished(seen + 1) == 0 {
            self.state.space.done_bell.ring_all(self.program.roster);
        }
        Ok(())
    }

    /// Waits until nothing is left to be done; returns what is left at the deadline.
    pub(crate) fn join(&self, deadline: Deadline) -> Result<u64, Error> {
        let program = program()?;
        let space = &self.state.space;
        loop {
            let ticket = space.done_bell.listen();
            let left = self.unfinished(space.done.load(Ordering::Acquire));
            if left == 0 || deadline.has_passed() {
                return Ok(left);
            }
            // In naps: what deaths have lost is counted without a ring.
            let nap = Deadline::after(deadline.nap(NAP));
            space.done_bell.wait(program.roster, ticket, nap);
        }
    }

    fn unfinished(&self, done: u64) -> u64 {
        let put = self.state.put.side.word();
        segment::between(done, put).saturating_sub(self.state.space.lost.load(Ordering::Acquire))
    }

    // The locks.

    #[inline]
    fn lock_put(&self, deadline: Deadline) -> Result<(), Reason> {
        if self.lock(&self.state.put.lock, deadline)?.is_some() {
            let loose = self
                .state
                .put
                .side
                .repair(&self.program.arena, self.handle.id());
            self.discard(loose);
        }
        Ok(())
    }

    fn unlock_put(&self) {
        self.state.put.lock.unlock(self.program.roster);
    }

    #[inline]
    fn lock_take(&self, deadline: Deadline) -> Result<(), Reason> {
        if let Some(dead) = self.lock(&self.state.take.lock, deadline)? {
            // What the dead announced and did not take was not lost.
            let side = &self.state.take.side;
            let region = self.program.region();
            self.program.roster.forgive(dead, region, side.counter());
            let loose = side.repair(&self.program.arena, self.handle.id());
            self.discard(loose);
        }
        Ok(())
    }

    /// Acquires one of the two locks; if it was inherited, from whom.
    #[inline]
    fn lock(&self, lock: &RawMutex, deadline: Deadline) -> Result<Option<Holder>, Reason> {
        let roster = self.program.roster;
        let acquired = lock
            .lock(roster, deadline)
            // A holder that lives is done in a moment: to be busy is not to be empty or full.
            .or_else(|_| lock.lock(roster, Deadline::after(GRACE)));
        match acquired {
            Ok(Acquired::Clean) => Ok(None),
            Ok(Acquired::Inherited(dead)) => Ok(Some(dead)),
            Err(Refused::TimedOut | Refused::Marked) => Err(Reason::TimedOut),
        }
    }

    #[cold]
    fn discard(&self, loose: Vec<BlockId>) {
        for id in loose {
            if self.program.arena.is_parcel(id) {
                self.program.table.discard(&self.program.arena, id);
            } else {
                self.program.arena.free(id);
            }
        }
    }
}

/// Values that are put under one lock.
struct Batch<'a> {
    channel: &'a Channel,
    /// The records of values that are in the queue soon, and how many.
    records: &'a mut Buffer,
    count: usize,
    /// Values that are in the queue.
    put: usize,
}

impl Batch<'_> {
    /// Encodes a value, inside of [`transfer::sending`]; it may be put now or with the next ones.
    #[inline]
    fn add<T: Serialize + 'static>(&mut self, value: &T) -> Result<(), Reason> {
        let start = self.records.len();
        let record = Record::begin(self.records).map_err(|_| Reason::OutOfMemory)?;
        let result = codec::encode(value, self.records);
        let sent = transfer::take_sent();
        if result.is_err() {
            self.records.truncate(start);
        }
        result.map_err(Reason::not_encoded)?;
        if record.end(self.records) && sent.is_none() {
            self.count += 1;
            return Ok(());
        }
        // Too large, or with handles: what came before goes first, then this one alone.
        self.records.truncate(start);
        self.flush()?;
        self.channel.put(value, Deadline::NEVER)?;
        self.put += 1;
        Ok(())
    }

    /// Puts what was encoded and not put yet.
    fn flush(&mut self) -> Result<(), Reason> {
        let channel = self.channel;
        let (arena, id) = (&channel.program.arena, channel.handle.id());
        let (mut rest, mut left) = (self.records.as_slice(), self.count);
        let most = channel.most(0);
        let result = channel.put_items(self.count, most, Deadline::NEVER, |count| {
            let side = &channel.state.put.side;
            let (put, len) = side.put_records(arena, id, rest, count, count == left);
            (rest, left) = (&rest[len..], left - put);
            put
        });
        let (put, result) = match result {
            Ok(()) => (self.count, Ok(())),
            Err((put, reason)) => (put, Err(reason)),
        };
        self.put += put;
        self.count = 0;
        self.records.clear();
        result
    }
}

impl Source for Channel {
    fn is_ready(&self) -> bool {
        // Closed first: nothing is put after that.
        self.is_closed() || !self.looks_empty()
    }

    fn bell(&self) -> Option<(ObjectId, &Bell)> {
        Some((self.handle.id(), &self.state.items.bell))
    }
}
