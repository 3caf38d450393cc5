//! What `tracing` is told of calls, with the feature `tracing`: a span for each, a child of what was the
//! caller's, and in it what tasks log in other processes.
//!
//! - `call`: the span of a call, and what goes with it to the workers.
//! - `forwarder`: the subscriber of a child, which sends its events to the parent.
//! - `record`: an event as it travels.
//! - `collector`: the parent's thread that takes them and tells the subscriber there.
//! - `site`: where an event came from, as `tracing` wants it.
//! - `off`: the same names where the feature is off. They do nothing.
//!
//! Events go through the socket that each child has for its last words, as packets that are told from
//! those by their first byte. A child never waits for room in it: what finds none is counted, and the
//! parent told how much that was. So memory is bounded by the socket's, and a task that logs without
//! end slows nobody down but itself. The parent believes nothing of what comes from an isolated worker:
//! a packet is decoded by itself, and of the places in the source that events name only so many are
//! kept.
//!
//! A call that a task makes on the pool that runs it has its span in the pool's parent as well. The
//! worker tells it of the call before the first job is out, and the jobs' headers have the number by
//! which it did: the worker's process id, and a count. Events of those jobs come from other workers,
//! through other sockets. So the parent looks at all sockets, then begins the calls that it was told of,
//! then tells the events. A call that is over is forgotten a round later: what its workers have logged was
//! there before that was said, but perhaps not when their sockets were looked at. Those of a process that has
//! ended are over. If a worker has no room to tell of a call, its events belong to the call around it.

#[cfg(feature = "tracing")]
mod call;
#[cfg(feature = "tracing")]
mod collector;
#[cfg(feature = "tracing")]
mod forwarder;
#[cfg(not(feature = "tracing"))]
mod off;
#[cfg(feature = "tracing")]
mod record;
#[cfg(feature = "tracing")]
mod site;

#[cfg(not(feature = "tracing"))]
pub(crate) use self::off::{
    Call, Wanted, begin_item, begin_job, end_item, install, keep, later, prepare, starting,
    until_installed, watch,
};
#[cfg(feature = "tracing")]
pub(crate) use self::{
    call::{Call, Wanted, later},
    collector::{keep, starting, watch},
    forwarder::{begin_item, begin_job, end_item, install, prepare, until_installed},
};

/// The first byte of a packet that is an event. Last words never begin with it.
pub(crate) const EVENT: u8 = 0;
