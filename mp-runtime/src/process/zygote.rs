//! The fork server's half: preload, then make a child for each order.
//!
//! The server has one thread and uses nothing of `mp` but this: it has no slot, and the arena is
//! mapped for the one word in it where the kernel writes a child's process id. So a child of it is as
//! fresh as one that was executed, and takes over in the same way.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::child;
use super::order::{Answer, MOST_NAME, Order, Parts};
use crate::fault::fault;
use crate::shm::buffer::Buffer;
use crate::sys;
use crate::sys::fork::Forked;
use crate::sys::startup::{Claim, Extra};
use crate::task::{call, panic, registry};

/// Takes orders from the socket `control` until our parent needs us no longer.
pub(super) fn serve(claim: &'static Claim, socket: OwnedFd, control: RawFd) -> ! {
    if sys::signal::die_with(socket.as_fd()).is_err() {
        sys::process::exit_now(child::REFUSED);
    }
    let _ = sys::signal::leave_to_parent(sys::signal::INTERRUPT);
    let Ok(control) = sys::fd::inherited(control) else {
        sys::process::exit_now(child::REFUSED);
    };
    let Some(arena) = claim.arena else {
        sys::process::exit_now(child::REFUSED);
    };
    let arena = sys::fd::inherited(arena).and_then(|arena| {
        let len = sys::memory::memory_len(arena.as_fd())?;
        // Not lent to the children: they map it for themselves.
        let mapping = sys::memory::map(arena.as_fd(), len as usize)?;
        // Its descriptor stays as it is, for them.
        std::mem::forget(arena);
        Ok(mapping)
    });
    let unfit = arena
        .as_ref()
        .err()
        .map(|error| format!("the shared memory could not be mapped: {error}"));
    // For all children: they are copies of this process.
    let build = child::check_build(claim).err();
    let unfit = build.map(|error| format!("{error:#}")).or(unfit);
    let unfit = preload(control.as_fd()).err().or(unfit);
    // Once for all children.
    registry::prepare();
    panic::install_hook();
    loop {
        let (bytes, fds) = match sys::fd::receive_packet(control.as_fd(), Order::LEN) {
            Ok(Some(message)) => message,
            // What was asked could not be understood, but it will be answered.
            Err(error) if error.raw_os_error().is_none() => {
                answer(control.as_fd(), &Answer::Failed(error.to_string()));
                continue;
            }
            // Nobody is there to ask.
            Ok(None) | Err(_) => sys::process::exit_now(0),
        };
        fault!("fork.ordered");
        let ordered = Order::parse(&bytes, fds);
        let forked = match (&unfit, &arena, &ordered) {
            (None, Ok(arena), Some((order, _))) => sys::fork::fork_sibling(arena, order.pid_place)
                .map_err(|error| Answer::Failed(error.to_string())),
            (Some(why), ..) => Err(Answer::Unfit(why.clone())),
            _ => Err(Answer::Failed(
                "it was asked for something that makes no sense".to_owned(),
            )),
        };
        let (reply, ordered) = match (forked, ordered) {
            (Ok(Forked::Sibling), Some((order, parts))) => {
                // The server's own.
                drop((control, socket));
                begin(claim, order, parts)
            }
            // Kept until it is answered: what closing them takes need not be waited for.
            (Ok(_), ordered) => (Answer::Made, ordered),
            (Err(answer), ordered) => (answer, ordered),
        };
        fault!("fork.forked");
        answer(control.as_fd(), &reply);
        drop(ordered);
    }
}

fn answer(control: BorrowedFd<'_>, answer: &Answer) {
    // If our parent is gone there is nobody to tell, and the next message says so.
    let _ = sys::fd::send_packet(control, &answer.to_bytes(), &[]);
}

/// Makes the call that is to be made before any child is, and sees that this process can be copied.
fn preload(control: BorrowedFd<'_>) -> Result<(), String> {
    let first = sys::fd::receive_packet(control, MOST_NAME).map_err(|error| error.to_string())?;
    let Some((bytes, fds)) = first else {
        sys::process::exit_now(0);
    };
    // The first byte says whether there is a call.
    if let [1, name @ ..] = bytes.as_slice() {
        let name = String::from_utf8_lossy(name);
        let failed = |why: String| format!("its preload task \"{name}\" failed: {why}");
        let mut arguments = Vec::new();
        if let Some(memory) = fds.into_iter().next() {
            File::from(memory)
                .read_to_end(&mut arguments)
                .map_err(|error| failed(error.to_string()))?;
        }
        let task = registry::by_name(&name).map_err(|error| failed(error.to_string()))?;
        panic::install_hook();
        let mut out = Buffer::new();
        let _ = call::run(task, &mut arguments.as_slice(), &mut out);
        let (tag, payload) =
            call::read_record(&mut out.as_slice()).ok_or_else(|| failed("no result".to_owned()))?;
        call::decode_result::<()>(tag, payload).map_err(|error| failed(error.to_string()))?;
    }
    sys::fork::settle_before_forks().map_err(|error| error.to_string())
}

/// In the child: becomes what a process that was executed for it would be, and takes over.
fn begin(server: &'static Claim, order: Order, parts: Parts<OwnedFd>) -> ! {
    fault!("fork.born");
    let Parts {
        socket,
        directory,
        region,
        streams,
    } = parts;
    if !sys::signal::arm_parent_death(server.parent_pid) {
        sys::process::exit_now(child::REFUSED);
    }
    let ready = sys::fork::replace_std_streams(streams)
        .and_then(|()| sys::fork::enter_directory(directory.as_fd()));
    drop(directory);
    if let Err(error) = ready {
        let error = crate::error::Error::system("could not set the process up", error);
        child::refuse(socket.as_fd(), &error);
    }
    let claim = Claim {
        socket: socket.as_raw_fd(),
        slot: order.slot,
        generation: order.generation,
        extra: region
            .as_ref()
            .map(|region| Extra::Pool(region.as_raw_fd())),
        ..server.clone()
    };
    // Taken over by who takes over.
    std::mem::forget((socket, region));
    child::take_over_copy(Box::leak(Box::new(claim)))
}
