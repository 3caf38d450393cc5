//! The arena that all processes of a program share: made by the first, attached to by the others.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use super::Roster;
use super::slot::State;
use crate::error::Error;
use crate::loom::{AtomicU32, AtomicU64, Ordering};
use crate::shm::arena::Audit;
pub(crate) use crate::shm::region::{is_forked, notice_forks};
use crate::shm::{Arena, Owner, Region, Table, shared};
use crate::sync::raw::{Holder, Peers, RawMutex};
use crate::sys;
use crate::sys::startup::Extra;

/// What every process of a program shares, seen by one of them.
#[derive(Debug)]
pub(crate) struct Program {
    region: &'static Arc<Region>,
    id: u64,
    pub(crate) roster: &'static Roster,
    pub(crate) arena: Arc<Arena>,
    pub(crate) table: Table,
}

shared! {
    /// The first bytes of the arena.
    #[repr(align(64))]
    pub(super) struct Header {
        /// [`MAGIC`], which names the layout as well.
        magic: AtomicU64,
        /// Tells this program's arena from any other: handles carry it.
        id: AtomicU64,
        /// Held while a death is being settled.
        pub(super) reaping: RawMutex,
        /// Whose death that is, as the bits of a holder.
        pub(super) burying: AtomicU32,
        pub(super) redo: crate::shm::redo::Redo,
    }
}

/// "mp arena" and the version of the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"mparena\x03");

const ROSTER: u64 = 4096;
pub(super) const TABLE: u64 = (ROSTER + Roster::LEN).next_multiple_of(4096);
const ARENA: u64 = (TABLE + Table::LEN).next_multiple_of(4096);

/// The smallest arena that is of use: the tables, and some data.
const LEAST: u64 = ARENA + 16 * 1024 * 1024;
/// What the arena takes of the address space for each byte of its budget: blocks must not fail
/// for want of one long span while the budget lasts.
const SPREAD: u64 = 4;

static PROGRAM: OnceLock<Program> = OnceLock::new();

/// The program's shared state; makes it if this process is the first of its program.
///
/// # Errors
///
/// If no shared memory can be had, if the process is a copy made by `fork`, or if it is a child
/// that has not been taken over.
#[inline]
pub(crate) fn program() -> Result<&'static Program, Error> {
    match PROGRAM.get() {
        Some(program) if !is_forked() => Ok(program),
        _ => make(),
    }
}

/// The program's shared state, if there is one and it is ours.
#[inline]
pub(crate) fn existing() -> Option<&'static Program> {
    PROGRAM.get().filter(|_| !is_forked())
}

/// For what has no error to tell it by.
///
/// # Panics
///
/// In a copy of the process made by `fork`.
#[inline]
#[track_caller]
pub(crate) fn assert_not_forked() {
    assert!(
        !is_forked(),
        "mp does not work in a copy of a process made by fork: use mp::Process instead"
    );
}

#[cold]
fn make() -> Result<&'static Program, Error> {
    // One at a time: a second arena, even one thrown away, would be touched and mapped for nothing.
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    if is_forked() {
        return Err(Error::forked());
    }
    if let Some(claim) = sys::startup::claim()
        && PROGRAM.get().is_none()
    {
        return Err(match (claim.arena, claim.extra) {
            (_, Some(Extra::ForkServer(_))) => Error::in_fork_server(),
            (Some(_), _) => Error::not_taken_over(),
            (None, _) => Error::isolated(),
        });
    }
    let _making = MAKING.lock().unwrap_or_else(|poison| poison.into_inner());
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let program = Program::create()?;
    Ok(PROGRAM.get_or_init(|| program))
}

/// Maps the arena of a child's program.
pub(crate) fn map(memory: OwnedFd) -> Result<Region, Error> {
    let region = Region::map(memory)
        .map_err(|error| Error::memory("could not map the program's shared memory", error))?;
    let header: &Header = region.at(0);
    if header.magic.load(Ordering::Acquire) != MAGIC {
        return Err(Error::wrong_build(
            "the shared memory has another layout".to_owned(),
        ));
    }
    Ok(region)
}

/// Attaches a child to its program's arena; `me` is the slot that its parent reserved for it.
pub(crate) fn attach(region: Region, me: Holder) -> Result<&'static Program, Error> {
    let program = Program::over(region, me)?;
    let slot = program.roster.my_slot();
    let generation = me.generation();
    if !slot.change((State::Reserved, generation), (State::Running, generation)) {
        return Err(Error::wrong_build("the parent no longer waits"));
    }
    // Not before: the slot of a child that comes too late may be another's.
    // Release: pairs with the Acquire in `last_identity`.
    slot.pid.store(std::process::id(), Ordering::Release);
    Ok(PROGRAM.get_or_init(|| program))
}

/// Notes that the child `holder`, which shares no memory with us, has begun; false if nobody waits for
/// it any more.
pub(crate) fn attach_for(program: &Program, holder: Holder) -> bool {
    let generation = holder.generation();
    let slot = program.roster.slot(holder.slot());
    slot.change((State::Reserved, generation), (State::Running, generation))
}

impl Program {
    fn create() -> Result<Self, Error> {
        let budget = sys::memory::memory_limit() / 2;
        let region = Self::create_region(budget)?;
        let header: &Header = region.at(0);
        let id = std::hash::BuildHasher::hash_one(
            &std::collections::hash_map::RandomState::new(),
            std::process::id(),
        );
        header.id.store(id | 1, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        let program = Self::over(region, Holder::new(0, 0))?;
        program.arena.set_budget(budget);
        let reserved = program.roster.reserve("MainProcess");
        debug_assert_eq!(reserved, Some(program.roster.me()));
        let pid = std::process::id();
        let start_time = sys::process::start_time(pid).unwrap_or(0);
        program
            .roster
            .record_process(program.roster.me(), pid, start_time);
        let slot = program.roster.my_slot();
        slot.parent.store(0, Ordering::Relaxed);
        let running = slot.change((State::Reserved, 0), (State::Running, 0));
        debug_assert!(running);
        Ok(program)
    }

    /// The memory: as large as the budget asks for, or as the system grants.
    fn create_region(budget: u64) -> Result<Region, Error> {
        let wish = (budget.saturating_mul(SPREAD) + LEAST).min(crate::shm::MOST);
        let limit = sys::memory::file_size_limit().unwrap_or(u64::MAX);
        let mut len = wish.min(limit) & !4095;
        loop {
            if len < LEAST {
                return Err(Error::memory(
                    "could not make the program's shared memory: raise the limits on file size \
                     (ulimit -f) and address space (ulimit -v)",
                    std::io::ErrorKind::OutOfMemory.into(),
                ));
            }
            match Region::create("mp", len) {
                Ok(region) => return Ok(region),
                Err(error) if error.raw_os_error() == Some(sys::ENOMEM) => len = (len / 2) & !4095,
                Err(error) => {
                    return Err(Error::memory(
                        "could not make the program's shared memory",
                        error,
                    ));
                }
            }
        }
    }

    fn over(region: Region, me: Holder) -> Result<Self, Error> {
        // The arena stays mapped as long as the process lives: handles point into it.
        let region: &'static Arc<Region> = Box::leak(Box::new(Arc::new(region)));
        let roster: &'static Roster = Box::leak(Box::new(Roster::new(region, ROSTER, me)));
        let header: &Header = region.at(0);
        Ok(Self {
            id: header.id.load(Ordering::Relaxed),
            arena: Arc::new(Arena::new(region.clone(), ARENA, roster)),
            table: Table::new(region.clone(), TABLE, roster),
            region,
            roster,
        })
    }

    /// The arena's memory, to hand to a child.
    pub(crate) fn memory(&self) -> BorrowedFd<'static> {
        self.region.memory()
    }

    /// The arena's memory as a region.
    pub(crate) fn region(&self) -> &'static Arc<Region> {
        self.region
    }

    /// Tells this program's handles from those of any other; never zero.
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Walks everything shared: every block must be free or owned by somebody who lives.
    pub(crate) fn audit(&self) -> Audit {
        let mut audit = self.arena.audit(|owner| match owner {
            Owner::Process(holder) => self.roster.is_alive(holder),
            Owner::Object(id) => self.table.is_live(id),
        });
        (audit.objects, audit.unheld_objects) = self.table.count();
        audit
    }

    pub(super) fn header(&self) -> &'static Header {
        self.region.at(0)
    }
}
