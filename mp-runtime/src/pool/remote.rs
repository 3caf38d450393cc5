//! A pool whose workers are elsewhere: its jobs leave through a [`Carrier`], their outcomes come back
//! through it.
//!
//! To its callers it is a pool as any other. In the place of its workers there is the *dispatcher*, a
//! thread that claims every job as it is offered, in the name of this process, and gives it to the
//! carrier as a [`Shipment`]. As with isolated workers nothing of the program's memory is shared and
//! nothing that comes back is believed before it was checked; see "Pools whose workers are elsewhere"
//! in `pool/README.md`.

use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::attendant::give_up_large;
use super::encoded::{pack_lost, pack_machines_lost, pack_refusals};
use super::failure;
use super::inner::{Inner, lock};
use super::job::{Early, Finish, JOBS, Job, Progress, Running};
use super::region::{CLOSED, DRAINING, STOPPED};
use super::stats::WorkerStats;
use super::{Pool, PoolBuilder, wire};
use crate::deadline::Deadline;
use crate::error::{Error, TaskError};
use crate::loom::Ordering;
use crate::memory::Content;
use crate::shm::BlockId;
use crate::shm::buffer::{Buffer, Full, Tail};
use crate::sync::raw::Peers;
use crate::sys;
use crate::task::Transfer;
use crate::task::call::{self, read_record};
use crate::task::registry::Entry;
use crate::wire::codec::EncodeError;
use crate::wire::transfer::{self, Delivery};

/// What takes jobs to where they are run. Its methods return at once and run on threads that hold
/// no lock of the pool.
pub trait Carrier: Send + Sync + 'static {
    /// Takes a job over.
    fn ship(&self, shipment: Shipment);

    /// Nobody wants the outcome of that shipment any more: it need not be begun.
    fn withdraw(&self, id: u64);

    /// That shipment is to end, also if it has begun.
    fn cancel(&self, id: u64);

    /// Calls a task once in each worker there is, and returns the outcomes; `argument` is the record of
    /// its arguments, which refer to `shared` data by its places.
    ///
    /// # Errors
    ///
    /// The workers cannot be reached.
    fn broadcast(
        &self,
        task: &str,
        argument: &[u8],
        shared: Vec<Content>,
        limit: Option<Duration>,
    ) -> Result<Vec<Answer>, Error>;

    /// How many workers there are.
    fn workers(&self) -> usize;

    /// What they have done and are doing, as far as is known.
    fn crew(&self) -> Vec<WorkerStats>;

    /// No more jobs come. Those that are out and were not begun are to be [given
    /// back](Shipment::give_back), the others are waited for.
    fn drain(&self);

    /// No more jobs come, and those that are out are not wanted any more.
    fn close(&self);
}

/// What came of a broadcast on one machine.
#[derive(Debug, Default)]
pub struct Answer {
    /// The outcomes of its workers, as records one behind the other.
    pub records: Vec<u8>,
    /// The shared data that results refer to, with their places among the outcomes.
    pub shared: Vec<(u32, Vec<Arc<Content>>)>,
}

/// The carrier of a pool.
pub(super) struct Remote(pub(super) Arc<dyn Carrier>);

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
    }
}

/// A job on its way: some items of one call. One that is dropped fails all of them as lost, or as
/// cancelled if its pool was terminated.
pub struct Shipment {
    pool: Arc<Inner>,
    index: u32,
    /// Until it is over.
    running: Option<Running>,
    /// How many of the pool are out.
    out: Arc<AtomicUsize>,
}

impl Shipment {
    /// A number that no other shipment of the pool has.
    pub fn id(&self) -> u64 {
        id_of(self.job(), self.index)
    }

    /// The task's name.
    pub fn task(&self) -> &str {
        self.contents().map_or("", |(task, _)| task)
    }

    /// The arguments of its items, as records one behind the other, and how many they are.
    pub fn items(&self) -> (u32, &[u8]) {
        let job = self.job();
        let first = job.first.load(Ordering::Relaxed);
        // None any more if its caller has gone.
        let count = job.count().saturating_sub(first);
        let Some((_, mut records)) = self.contents() else {
            return (0, &[]);
        };
        for _ in 0..first {
            let _ = read_record(&mut records);
        }
        let mut rest = records;
        for _ in 0..count {
            let _ = read_record(&mut rest);
        }
        (count, &records[..records.len() - rest.len()])
    }

    /// Whether its items refer to shared data.
    pub fn is_sharing(&self) -> bool {
        self.job().input_parcel.load(Ordering::Relaxed) != 0
    }

    /// The shared data that its items refer to, in the order in which they do.
    ///
    /// # Errors
    ///
    /// It is not there any more.
    pub fn shared(&self) -> Result<Vec<Content>, Error> {
        let parcel = self.job().input_parcel.load(Ordering::Relaxed);
        let Some(parcel) = BlockId::from_bits(parcel) else {
            return Ok(Vec::new());
        };
        let handles = transfer::unpack(self.pool.program, parcel).ok_or_else(transfer::gone)?;
        handles.into_iter().map(Content::open).collect()
    }

    /// How long an item may take.
    pub fn limit(&self) -> Option<Duration> {
        let limit = self.job().limit.load(Ordering::Relaxed);
        (limit > 0).then(|| Duration::from_nanos(limit))
    }

    /// Ends it with the outcomes of all its items, as records one behind the other, whose running
    /// took `elapsed`. They come from another machine: what is not an outcome for each item is taken
    /// for none. `shared` is the data that results refer to, with their places among the outcomes.
    pub fn finish(
        mut self,
        outcomes: &[u8],
        shared: &[(u32, Vec<Arc<Content>>)],
        elapsed: Duration,
    ) {
        let (count, _) = self.items();
        let places = shared.iter().map(|&(place, _)| place);
        let are_places = places.clone().is_sorted_by(|one, next| one < next)
            && places.max().is_none_or(|last| last < count);
        match are_places && is_outcomes(outcomes, count) {
            true => self.settle(outcomes, shared, elapsed),
            false => self.settle_lost(SENSELESS),
        }
    }

    /// Ends it without outcomes: `why` nobody knows what became of its items.
    pub fn lose(mut self, why: &str) {
        self.settle_lost(why);
    }

    /// Ends it: one machine after the other was lost that ran it. Several items are run again one by
    /// one, since one of them may be why.
    pub fn crash(mut self, why: &str) {
        let (count, _) = self.items();
        self.settle(&pack_machines_lost(count, why), &[], Duration::ZERO);
    }

    /// Ends it: its items came to no worker.
    pub fn refuse(mut self, why: &str) {
        let (count, _) = self.items();
        self.settle(&pack_refusals(count, why), &[], Duration::ZERO);
    }

    /// Ends it: none of its items was begun. They are offered again, if their call is not over.
    pub fn give_back(mut self) {
        self.settle_without(false);
    }

    fn settle_lost(&mut self, why: &str) {
        let (count, _) = self.items();
        self.settle(&pack_lost(count, why), &[], Duration::ZERO);
    }

    /// Puts the outcomes into the pool's memory and commits the job, or buries it if nobody wants it
    /// any more.
    fn settle(&mut self, outcomes: &[u8], shared: &[(u32, Vec<Arc<Content>>)], elapsed: Duration) {
        let Some(running) = self.running.take() else {
            return;
        };
        let job = self.job();
        let (count, _) = self.items();
        let first = job.first.load(Ordering::Relaxed);
        let block = self.to_block(outcomes, shared).or_else(|Full| {
            // Rather the small ones, and of the others that there is no room for them.
            self.to_block(&give_up_large(outcomes, count), &[])
        });
        let early = match block {
            Ok(block) => {
                job.result.store(block.bits(), Ordering::Release);
                let done = Progress::from(first + count);
                // No item of it expires here: its time is measured where it runs.
                let _ = job.settle(&running, done);
                Early::No
            }
            Err(Full) => Early::OutOfMemory,
        };
        job.set_early(early);
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        job.elapsed.store(elapsed, Ordering::Relaxed);
        self.commit(running);
    }

    /// Commits the job with no outcome, though its items may have been begun.
    fn settle_without(&mut self, may_have_begun: bool) {
        let Some(running) = self.running.take() else {
            return;
        };
        let job = self.job();
        let done = job.first.load(Ordering::Relaxed);
        let claimed = if may_have_begun { job.count() } else { done };
        let _ = job.settle(&running, Progress { claimed, done });
        job.set_early(Early::Retired);
        job.elapsed.store(0, Ordering::Relaxed);
        self.commit(running);
    }

    fn commit(&self, running: Running) {
        let memory = &self.pool.memory;
        let job = self.job();
        // Read before the commit: afterwards the job is the caller's.
        let bell = job.bell.load(Ordering::Relaxed);
        if job.finish(running) == Finish::TakenAway {
            // It was cancelled: nobody else marks a job that is in our name.
            job.bury(memory.peers().me());
        }
        memory.done_bell(bell).ring_all(memory.peers());
        // AcqRel: pairs with the Acquire of the dispatcher, which goes on once all are settled.
        let left = self.out.fetch_sub(1, Ordering::AcqRel) - 1;
        if left == 0 && memory.header().flags.load(Ordering::Acquire) & DRAINING != 0 {
            memory.ring_workers();
        }
    }

    fn to_block(
        &self,
        outcomes: &[u8],
        shared: &[(u32, Vec<Arc<Content>>)],
    ) -> Result<BlockId, Full> {
        let memory = &self.pool.memory;
        let len = wire::RECORDS + outcomes.len();
        let mut out = Buffer::in_block(memory.arena().clone(), memory.parent(), len)?;
        wire::begin_results(&mut out)?;
        let mut parcels = Vec::new();
        let written = self.write_outcomes(outcomes, shared, &mut parcels, &mut out);
        let block = written.and_then(|()| out.into_block().map(|block| block.id()));
        if block.is_err() {
            let program = self.pool.program;
            for parcel in parcels {
                program.table.discard(&program.arena, parcel);
            }
        }
        block
    }

    /// Writes outcomes, with a mark before those that refer to shared data, which the caller lets go of.
    fn write_outcomes(
        &self,
        mut outcomes: &[u8],
        shared: &[(u32, Vec<Arc<Content>>)],
        parcels: &mut Vec<BlockId>,
        out: &mut Buffer,
    ) -> Result<(), Full> {
        let program = self.pool.program;
        let mut written = 0;
        for (place, contents) in shared {
            let mut rest = outcomes;
            while written < *place && read_record(&mut rest).is_some() {
                written += 1;
            }
            out.write(&outcomes[..outcomes.len() - rest.len()])?;
            outcomes = rest;
            let ids: Vec<_> = contents.iter().map(|it| it.handle().id()).collect();
            let parcel = program.table.pack(&program.arena, &ids)?;
            parcels.push(parcel);
            wire::write_mark(parcel, out)?;
        }
        out.write(outcomes)
    }

    fn contents(&self) -> Option<(&str, &[u8])> {
        let job = self.job();
        let len = job.input_len.load(Ordering::Relaxed) as usize;
        let input = self
            .pool
            .memory
            .bytes(job.input.load(Ordering::Relaxed), len)?;
        let (name, records) = wire::read_items(input)?;
        // Results are not merged there.
        let (task, ..) = wire::read_name(name);
        Some((task, records))
    }

    fn job(&self) -> &Job {
        self.pool.memory.job(self.index)
    }
}

impl Drop for Shipment {
    fn drop(&mut self) {
        if self.running.is_none() {
            return;
        }
        match self.pool.memory.header().flags.load(Ordering::Acquire) & STOPPED {
            0 => self.settle_lost("it was given up on its way to a worker"),
            // Its caller says so.
            _ => self.settle_without(true),
        }
    }
}

impl fmt::Debug for Shipment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shipment")
            .field("task", &self.task())
            .field("items", &self.items().0)
            .finish_non_exhaustive()
    }
}

/// Whether these bytes are so many outcomes, and nothing else.
fn is_outcomes(mut bytes: &[u8], count: u32) -> bool {
    (0..count).all(|_| read_record(&mut bytes).is_some()) && bytes.is_empty()
}

/// What a use of an entry of the job table is called outside.
fn id_of(job: &Job, index: u32) -> u64 {
    job.epoch() * u64::from(JOBS) + u64::from(index)
}

/// A way to workers elsewhere, as another crate offers it: it is asked whenever a pool is to be made
/// in a program's main process, and makes it if the program was told to use such workers.
#[derive(Debug)]
pub struct Connector(pub fn(&PoolBuilder) -> Option<Result<Pool, Error>>);

inventory::collect!(Connector);

/// Makes the pool that a connector makes, if one does.
pub(super) fn connect(builder: &PoolBuilder) -> Option<Result<Pool, Error>> {
    let mut connectors = inventory::iter::<Connector>().peekable();
    connectors.peek()?;
    if !crate::current_process().is_main() {
        // What a task runs in pools of its own stays on its machine.
        return None;
    }
    connectors.find_map(|Connector(connect)| connect(builder))
}

/// Makes the pool that a builder describes, whose jobs go through a carrier.
///
/// # Errors
///
/// As of [`PoolBuilder::build`].
pub fn build_remote(builder: &PoolBuilder, carrier: Arc<dyn Carrier>) -> Result<Pool, Error> {
    builder.build_over(Some(Remote(carrier)), None)
}

/// Makes the pool that a builder describes, with workers of this machine, in whose environment these
/// variables are set, or not, unless the builder says otherwise. They leave signals that ask for the end
/// to this process, also where they reach the whole group.
///
/// # Errors
///
/// As of [`PoolBuilder::build`].
pub fn build_local(
    builder: &PoolBuilder,
    env: Vec<(&'static str, Option<OsString>)>,
) -> Result<Pool, Error> {
    builder.build_over(None, Some(env))
}

/// Starts the thread that hands a pool's jobs to its carrier.
pub(super) fn dispatch(pool: &Arc<Inner>) -> Result<(), Error> {
    let dispatched = pool.clone();
    lock(&pool.crew).is_dispatching = true;
    std::thread::Builder::new()
        .name("mp-dispatcher".to_owned())
        .spawn(move || run(&dispatched))
        .map(drop)
        .map_err(|error| {
            lock(&pool.crew).is_dispatching = false;
            Error::not_started("could not start a pool's thread", error)
        })
}

/// The dispatcher's loop: every job that is offered goes to the carrier.
fn run(pool: &Arc<Inner>) {
    sys::signal::block_signals();
    let Some(Remote(carrier)) = &pool.remote else {
        return;
    };
    let memory = &pool.memory;
    let header = memory.header();
    let me = memory.peers().me();
    let out = Arc::new(AtomicUsize::new(0));
    let mut is_draining = false;
    loop {
        let ticket = memory.work_bell().listen();
        // Acquire: pairs with the Release of who sets the flags.
        let flags = header.flags.load(Ordering::Acquire);
        if flags & STOPPED != 0 {
            break;
        }
        if flags & DRAINING != 0 {
            if !std::mem::replace(&mut is_draining, true) {
                carrier.drain();
            }
            // Acquire: pairs with the AcqRel in `Shipment::commit`.
            if out.load(Ordering::Acquire) == 0 {
                break;
            }
        } else if let Some((job, running)) = memory.claim(me) {
            job.began.store(sys::clock::now(), Ordering::Relaxed);
            // Where it is going it may be begun with at any time.
            let first = job.first.load(Ordering::Relaxed);
            let claimed = job.count().max(first);
            let progress = Progress {
                claimed,
                done: first,
            };
            let _ = job.settle(&running, progress);
            // Relaxed: it is this thread that waits for them.
            out.fetch_add(1, Ordering::Relaxed);
            carrier.ship(Shipment {
                pool: pool.clone(),
                index: memory.index_of(job),
                running: Some(running),
                out: out.clone(),
            });
            continue;
        }
        if flags & CLOSED != 0 && header.calls.load(Ordering::Acquire) == 0 {
            break;
        }
        memory
            .work_bell()
            .wait(memory.peers(), ticket, Deadline::NEVER);
        memory.arrive();
    }
    carrier.close();
    lock(&pool.crew).is_dispatching = false;
    pool.crew_changed.notify_all();
}

impl Inner {
    /// Whose workers are elsewhere.
    #[inline]
    pub(super) fn carrier(&self) -> Option<&dyn Carrier> {
        self.remote.as_ref().map(|Remote(carrier)| &**carrier)
    }

    /// Tells the carrier, if there is one, that the job `index` is not wanted any more.
    pub(super) fn withdraw_remotely(&self, index: u32) {
        if let Some(carrier) = self.carrier() {
            carrier.withdraw(id_of(self.memory.job(index), index));
        }
    }

    /// Tells the carrier, if there is one, that the job `index` is to end.
    pub(super) fn cancel_remotely(&self, index: u32) {
        if let Some(carrier) = self.carrier() {
            carrier.cancel(id_of(self.memory.job(index), index));
        }
    }
}

impl Inner {
    /// Runs `decode`, of a result from elsewhere that refers to shared data.
    fn import<R>(
        &self,
        shared: &[Arc<Content>],
        decode: impl FnOnce() -> Result<R, TaskError>,
    ) -> Result<R, TaskError> {
        if shared.is_empty() {
            return transfer::abroad(decode);
        }
        let ids: Vec<_> = shared.iter().map(|it| it.handle().id()).collect();
        let packed = self.program.table.pack(&self.program.arena, &ids);
        let parcel = packed.map_err(|_| failure::no_room_for_result())?;
        let _delivery = Delivery::new(self.program, parcel);
        transfer::abroad(|| transfer::importing(parcel, decode))
    }
}

impl Pool {
    /// Calls a task once on each worker elsewhere.
    pub(super) fn broadcast_remotely<R: Transfer>(
        &self,
        carrier: &dyn Carrier,
        task: &'static Entry,
        encode: impl FnOnce(&mut Tail<'_>) -> Result<(), EncodeError>,
    ) -> Result<Vec<Result<R, TaskError>>, Error> {
        let name = (task.name)();
        let limit = self.terms.of_call(task, &self.inner.settings.terms).limit();
        let limit = (limit > 0).then(|| Duration::from_nanos(limit));
        let mut argument = Buffer::new();
        let (encoded, sent) =
            transfer::exporting(|| wire::write_item(&mut argument.tail(), encode));
        encoded.map_err(|error| {
            let text = format!("the arguments of \"{name}\" cannot be encoded: {error}");
            Error::not_encoded(text)
        })?;
        let shared = sent.into_handles().into_iter().map(Content::open);
        let shared = shared.collect::<Result<_, _>>()?;
        self.inner.enter()?;
        let answers = carrier.broadcast(name, argument.as_slice(), shared, limit);
        self.inner.leave();
        let mut outcomes = Vec::new();
        for answer in answers? {
            let mut records = answer.records.as_slice();
            let mut place = 0;
            while !records.is_empty() {
                let outcome = match read_record(&mut records) {
                    Some((tag, payload)) => {
                        let shared = answer.shared.iter().find(|(of, _)| *of == place);
                        let shared = shared.map_or(&[][..], |(_, shared)| shared);
                        self.inner
                            .import(shared, || call::decode_result(tag, payload))
                    }
                    None => {
                        records = &[];
                        Err(failure::lost(SENSELESS))
                    }
                };
                outcomes.push(outcome.map_err(|error| error.with_task(name)));
                place += 1;
            }
        }
        Ok(outcomes)
    }
}

/// What is said of outcomes that are none.
const SENSELESS: &str = "what came back from the worker's machine makes no sense";
