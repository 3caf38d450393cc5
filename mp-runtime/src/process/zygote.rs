//! The fork server's half: preload, then make a copy whenever it is asked for one.
//!
//! The server has one thread and uses nothing of `mp` but this: it has no slot, and of shared memory
//! only the page where the kernel writes a copy's process id. So a copy of it is as fresh as a process
//! that was executed, and takes over in the same way.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::child;
use super::message;
use super::order::{Answer, MOST_NAME, Order, Parts, REQUEST};
use crate::error::Error;
use crate::fault::fault;
use crate::shm::buffer::Buffer;
use crate::sys;
use crate::sys::fork::Forked;
use crate::sys::memory::Mapping;
use crate::sys::process::Tick;
use crate::sys::startup::{Claim, Extra};
use crate::task::{call, panic, registry};

/// Makes copies for who has the other end of `control`, until we are needed no longer.
pub(super) fn serve(claim: &'static Claim, socket: OwnedFd, control: RawFd) -> ! {
    if sys::signal::die_with(socket.as_fd()).is_err() {
        sys::process::exit_now(child::REFUSED);
    }
    let _ = sys::signal::leave_to_parent(sys::signal::INTERRUPT);
    let Ok(control) = sys::fd::inherited(control) else {
        sys::process::exit_now(child::REFUSED);
    };
    let Ok(Some((recipe, fds))) = sys::fd::receive_packet(control.as_fd(), MOST_NAME) else {
        sys::process::exit_now(0);
    };
    let mut fds = fds.into_iter();
    let place = map_place(fds.next());
    let unfit = place.as_ref().err();
    let unfit = unfit.map(|error| format!("the shared memory could not be mapped: {error}"));
    // For all children: they are copies of this process.
    let build = child::check_build(claim).err();
    let unfit = build.map(|error| format!("{error:#}")).or(unfit);
    let unfit = preload(&recipe, fds.next()).err().or(unfit);
    // Once for all children.
    registry::prepare();
    panic::install_hook();
    let sample = message::sample();
    loop {
        let mut theirs = match sys::fd::receive_packet(control.as_fd(), REQUEST.len()) {
            Ok(Some((_, fds))) => fds,
            // What was asked could not be understood, but it will be answered.
            Err(error) if error.raw_os_error().is_none() => {
                answer(control.as_fd(), &Answer::Failed(error.to_string()));
                continue;
            }
            // Nobody is there to ask.
            Ok(None) | Err(_) => sys::process::exit_now(0),
        };
        fault!("fork.ordered");
        let before = Tick::now();
        let forked = match (&unfit, &place, theirs.is_empty()) {
            (Some(why), ..) => Err(Answer::Unfit(why.clone())),
            (None, Ok(place), false) => {
                sys::fork::fork_sibling(place, 0).map_err(|error| Answer::Failed(error.to_string()))
            }
            _ => Err(Answer::Failed("its socket did not arrive".to_owned())),
        };
        let reply = match forked {
            Ok(Forked::Sibling) => {
                // The server's own.
                drop((control, socket));
                wait_for_order(claim, theirs.swap_remove(0), &sample)
            }
            Ok(Forked::Original) => Answer::Made(before.if_now()),
            Err(answer) => answer,
        };
        fault!("fork.forked");
        answer(control.as_fd(), &reply);
        // Not before: what closing it takes need not be waited for.
        drop(theirs);
    }
}

/// Maps the memory in which the kernel writes the process id of each copy. They do not have it: by
/// [`sys::memory::map`] alone, which keeps it from them.
fn map_place(memory: Option<OwnedFd>) -> io::Result<Mapping> {
    let memory = memory.ok_or(io::ErrorKind::NotFound)?;
    sys::memory::map(memory.as_fd())
}

fn answer(control: BorrowedFd<'_>, answer: &Answer) {
    // If our parent is gone there is nobody to tell, and the next message says so.
    let _ = sys::fd::send_packet(control, &answer.to_bytes(), &[]);
}

/// Makes the call that is to be made before any child is, and sees that this process can be copied.
fn preload(recipe: &[u8], arguments: Option<OwnedFd>) -> Result<(), String> {
    // The first byte says whether there is a call.
    if let [1, name @ ..] = recipe {
        let name = String::from_utf8_lossy(name);
        let failed = |why: String| format!("its preload task \"{name}\" failed: {why}");
        let mut encoded = Vec::new();
        if let Some(memory) = arguments {
            File::from(memory)
                .read_to_end(&mut encoded)
                .map_err(|error| failed(error.to_string()))?;
        }
        let task = registry::by_name(&name).map_err(|error| failed(error.to_string()))?;
        panic::install_hook();
        let mut out = Buffer::new();
        let _ = call::run(task, &mut encoded.as_slice(), &mut out);
        let (tag, payload) =
            call::read_record(&mut out.as_slice()).ok_or_else(|| failed("no result".to_owned()))?;
        call::decode_result::<()>(tag, payload).map_err(|error| failed(error.to_string()))?;
    }
    sys::fork::settle_before_forks().map_err(|error| error.to_string())
}

/// In the copy: does ahead what every child begins with, and when it is told which one it is, becomes
/// what a process that was executed for that would be, and takes over.
fn wait_for_order(server: &'static Claim, socket: OwnedFd, sample: &[u8]) -> ! {
    fault!("fork.born");
    if !sys::signal::arm_parent_death(server.parent_pid) {
        sys::process::exit_now(child::REFUSED);
    }
    let arena = match server.arena {
        Some(arena) => child::map_arena(arena),
        None => Err(Error::wrong_build("a fork server has an arena")),
    };
    let arena = arena.unwrap_or_else(|error| child::refuse(socket.as_fd(), &error));
    child::rehearse(sample);
    let order = match sys::fd::receive_packet(socket.as_fd(), Order::LEN) {
        Ok(Some((bytes, fds))) => Order::parse(&bytes, fds)
            .ok_or_else(|| Error::wrong_build("the order for it makes no sense")),
        Err(error) if error.raw_os_error().is_none() => {
            Err(Error::system("the order for it did not arrive", error))
        }
        // It is not needed, or nobody is there any more.
        Ok(None) | Err(_) => sys::process::exit_now(0),
    };
    fault!("fork.taken");
    let begin = |(order, parts): (Order, Parts<OwnedFd>)| {
        sys::fork::replace_std_streams(parts.streams)
            .and_then(|()| sys::fork::enter_directory(parts.directory.as_fd()))
            .map_err(|error| Error::system("could not set the process up", error))?;
        Ok((order, parts.region))
    };
    let (order, region) = match order.and_then(begin) {
        Ok(ready) => ready,
        Err(error) => child::refuse(socket.as_fd(), &error),
    };
    let claim = Claim {
        socket: socket.as_raw_fd(),
        slot: order.slot,
        generation: order.generation,
        extra: region
            .as_ref()
            .map(|region| Extra::Pool(region.as_raw_fd())),
        ..server.clone()
    };
    // Taken over by who needs it.
    std::mem::forget(region);
    child::begin(&claim, socket, Ok(arena))
}
