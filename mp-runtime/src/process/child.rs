//! The child's half: take over, shake hands, run, report, exit.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::identity::{self, Identity};
use super::message::{self, Message, Work};
use super::spawn::INIT_PASSED;
use super::supervisor;
use super::{method, zygote};
use crate::error::Error;
use crate::fault::fault;
use crate::life::{Program, program};
use crate::pool::isolated::Isolated;
use crate::shm::buffer::Buffer;
use crate::shm::{BlockId, Owner, Region};
use crate::spans;
use crate::sync::raw::{Holder, Peers};
use crate::sys;
use crate::sys::process::Sign;
use crate::sys::startup::{Claim, Extra};
use crate::task::call::{self, Tag};
use crate::task::panic;
use crate::task::registry::{self, Entry};
use crate::wire::transfer::{self, Delivery};

/// The exit code of a child that refuses to begin.
pub(super) const REFUSED: i32 = 125;
/// The exit code of a child whose task panicked, as of a `main` that does.
const PANICKED: i32 = 101;
/// How long exit handlers may take once the outcome is known.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Lets children take over here, with Rust's runtime complete, instead of before `main`.
///
/// A program need not call it. One that does gets in its children what Rust sets up before `main`: a
/// report of a stack overflow, the name of the main thread. It belongs first in `main`, because what
/// stands before it runs in children too. In a child it does not return.
///
/// # Examples
///
/// ```
/// mp::init(); // First in `main`.
/// ```
pub fn init() {
    match sys::startup::claim() {
        Some(claim) if claim.by_init && !INIT_PASSED.load(Ordering::Relaxed) => take_over(claim),
        _ => INIT_PASSED.store(true, Ordering::Relaxed),
    }
}

/// Runs what the parent wants instead of the program's `main`.
pub(crate) fn take_over(claim: &'static Claim) -> ! {
    INIT_PASSED.store(claim.by_init, Ordering::Relaxed);
    let Ok(socket) = sys::fd::inherited(claim.socket) else {
        sys::process::exit_now(REFUSED);
    };
    if let Some(Extra::ForkServer(control)) = claim.extra {
        zygote::serve(claim, socket, control);
    }
    if let Err(error) = check_build(claim) {
        refuse(socket.as_fd(), &error);
    }
    match claim.arena {
        Some(arena) => begin(claim, socket, map_arena(arena)),
        None => take_over_isolated(claim, socket),
    }
}

/// Maps the arena, which was inherited.
pub(super) fn map_arena(arena: RawFd) -> Result<Region, Error> {
    let arena = sys::fd::inherited(arena)
        .map_err(|error| Error::system("the shared memory did not arrive", error))?;
    program::map(arena)
}

/// Does ahead, in a copy of a fork server that waits, some of what every child does and what leaves no
/// trace. A fork has to map its code anew, and has pages of its own only where it has written to them:
/// half of the time that a child takes are page faults, and nobody waits for these. `sample` is of the
/// server's making: a child encodes no message.
pub(super) fn rehearse(sample: &[u8]) {
    message::rehearse(sample);
    registry::rehearse();
    let _ = sys::signal::leave_to_parent(sys::signal::INTERRUPT);
    method::set_start_method(method::start_method());
    sys::fork::rehearse_exit();
}

/// Does what the parent wants, and ends.
pub(super) fn begin(claim: &Claim, socket: OwnedFd, arena: Result<Region, Error>) -> ! {
    match arena.and_then(|arena| shake_hands(claim, arena)) {
        Ok((program, message)) => {
            // The parent's end lives as long as the parent: its end of file is our death.
            if sys::signal::die_with(socket.as_fd()).is_err() {
                sys::process::exit_now(REFUSED);
            }
            std::mem::forget(socket);
            fault!("child.ready");
            run(program, message, claim.extra.map(Extra::fd))
        }
        Err(error) => {
            refuse(socket.as_fd(), &error);
        }
    }
}

/// As [`take_over`], in a child that shares no memory with its parent.
fn take_over_isolated(claim: &Claim, socket: OwnedFd) -> ! {
    let begin = || {
        let link = claim
            .extra
            .map(Extra::fd)
            .ok_or_else(|| Error::wrong_build("the worker's socket did not arrive"))?;
        let link = sys::fd::inherited(link)
            .map_err(|error| Error::system("the worker's socket did not arrive", error))?;
        let (worker, message) = Isolated::meet(link)?;
        prepare(&message, Sign::Socket(claim.socket))?;
        spans::prepare(&message.wanted, claim.socket);
        Ok(worker)
    };
    match begin() {
        Ok(worker) => {
            if sys::signal::die_with(socket.as_fd()).is_err() {
                sys::process::exit_now(REFUSED);
            }
            std::mem::forget(socket);
            exit(worker.work())
        }
        Err(error) => refuse(socket.as_fd(), &error),
    }
}

/// Makes sure that we are the build that the parent runs.
pub(super) fn check_build(claim: &Claim) -> Result<(), Error> {
    let own = sys::process::own_fingerprint()
        .map_err(|error| Error::system("could not look at the program's file", error))?;
    if own != claim.fingerprint {
        return Err(Error::wrong_build(
            "the program's file was replaced by another build while the program ran: start the \
             program again",
        ));
    }
    Ok(())
}

/// Makes sure that we are who the parent means, and finds out what it wants.
fn shake_hands(claim: &Claim, arena: Region) -> Result<(&'static Program, Message), Error> {
    fault!("child.claimed");
    let me = Holder::new(claim.slot, claim.generation);
    let program = program::attach(arena, me)?;
    fault!("child.attached");
    let message = message::collect(program, program.roster.my_slot())?;
    if let Some(environment) = &message.environment {
        let entries = environment.iter().cloned();
        sys::fork::replace_environment(entries.filter_map(|entry| CString::new(entry).ok()));
        crate::fault::reread();
    }
    prepare(
        &message,
        Sign::Word(&program.roster.my_slot().out_of_memory),
    )?;
    if let Work::Task(name) = &message.work {
        registry::by_name(name)?;
    }
    spans::prepare(&message.wanted, claim.socket);
    Ok((program, message))
}

/// Sets up the process as the parent asked for.
fn prepare(message: &Message, sign: Sign) -> Result<(), Error> {
    let _ = sys::signal::leave_to_parent(sys::signal::INTERRUPT);
    panic::install_hook();
    method::set_start_method(message.start_method);
    identity::set(Identity {
        name: message.name.clone(),
        numbers: message.numbers.clone(),
        is_daemon: message.is_daemon,
    });
    if let Some(path) = &message.current_dir {
        let path = OsString::from_vec(path.clone());
        std::env::set_current_dir(&path).map_err(|error| {
            Error::system(format!("could not change to the directory {path:?}"), error)
        })?;
    }
    if let Some(cpus) = &message.asked.cpu_affinity {
        sys::process::set_affinity(cpus)
            .map_err(|error| Error::system(format!("could not run on the CPUs {cpus:?}"), error))?;
    } else if let Some(cpus) = &message.inherited.cpu_affinity {
        // Nobody asked for it: as far as we may.
        let _ = sys::process::set_affinity(cpus);
    }
    if let Some(nice) = message.asked.nice {
        if sys::process::nice().ok() != Some(nice) {
            sys::process::set_nice(nice).map_err(|error| {
                Error::system(format!("could not set the nice value {nice}"), error)
            })?;
        }
    } else if let Some(nice) = message.inherited.nice {
        // As above: the thread that started us may be nicer than the one whose value this is.
        let _ = sys::process::set_nice(nice);
    }
    // Last: what stands above needs files and memory of its own.
    message.limits.apply(sign)?;
    #[cfg(feature = "sandbox")]
    if let Some(sandbox) = &message.sandbox {
        sandbox.enter()?;
    }
    Ok(())
}

pub(super) fn refuse(socket: BorrowedFd<'_>, error: &Error) -> ! {
    // If the parent is gone there is nobody to tell.
    let _ = sys::fd::send_all(socket, format!("{error:#}").as_bytes());
    sys::process::exit_now(REFUSED)
}

fn run(program: &'static Program, message: Message, extra: Option<RawFd>) -> ! {
    let code = match &message.work {
        Work::Task(name) => match registry::by_name(name) {
            Ok(task) => {
                spans::install();
                spans::begin_item(0, task.name);
                let code = run_task(program, task, &message);
                spans::end_item();
                code
            }
            Err(error) => unreachable!("the handshake found the task: {error}"),
        },
        Work::Pool => crate::pool::worker::work(program, extra),
    };
    exit(code)
}

/// Runs the one task and commits its outcome; returns the exit code.
fn run_task(program: &'static Program, task: &Entry, message: &Message) -> i32 {
    let me = Owner::Process(program.roster.me());
    let block = message
        .arguments
        .and_then(|(id, len)| Some((program.arena.find(BlockId::from_bits(id)?)?, len as usize)));
    let mut input = block
        .as_ref()
        .map_or(&[][..], |(block, len)| program.arena.bytes(block, *len));
    let result = Buffer::in_block(program.arena.clone(), me, 0).and_then(|mut out| {
        let parcel = BlockId::from_bits(message.parcel);
        let delivery = parcel.map(|parcel| Delivery::new(program, parcel));
        let run = || call::run_delivered(task.run, &mut input, &mut out, delivery);
        let (tag, sent) = transfer::sending(|| transfer::receiving(program, run));
        Ok((tag?, sent.pack(program)?, out))
    });
    let Ok((tag, parcel, out)) = result else {
        let name = (task.name)();
        eprintln!("mp: no shared memory is left for the result of task \"{name}\"");
        return PANICKED;
    };
    fault!("child.done");
    commit(program, out, parcel);
    release(program, message);
    if tag == Tag::Value { 0 } else { PANICKED }
}

/// Gives the arguments' memory back: they were decoded.
fn release(program: &Program, message: &Message) {
    if let Some(block) = message.arguments.and_then(|(id, _)| BlockId::from_bits(id)) {
        program.arena.free(block);
    }
}

/// Names the outcome. From then on it stays, however we end: our burial hands it to the parent.
fn commit(program: &Program, mut out: Buffer, parcel: Option<BlockId>) {
    let len = out.len();
    let Some(block) = out.give_up_block() else {
        return;
    };
    let slot = program.roster.my_slot();
    slot.outcome_len.store(len as u64, Ordering::Relaxed);
    slot.outcome_parcel
        .store(parcel.map_or(0, BlockId::bits), Ordering::Relaxed);
    fault!("child.committing");
    // Release: pairs with the Acquire in the burial; the outcome is whole.
    slot.outcome.store(block.id().bits(), Ordering::Release);
    fault!("child.committed");
}

/// Exits as a program does. Once the children are through that are to be waited for, that does not
/// take for ever: the outcome is known.
pub(crate) fn exit(code: i32) -> ! {
    supervisor::wait_for_non_daemons();
    let _ = sys::signal::kill_self_after(EXIT_TIMEOUT);
    std::process::exit(code)
}
