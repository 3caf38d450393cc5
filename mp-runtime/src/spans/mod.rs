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
    Call, Wanted, begin_item, begin_job, end_item, install, keep, prepare, until_installed, watch,
};
#[cfg(feature = "tracing")]
pub(crate) use self::{
    call::{Call, Wanted},
    collector::{keep, watch},
    forwarder::{begin_item, begin_job, end_item, install, prepare, until_installed},
};

/// The first byte of a packet that is an event. Last words never begin with it.
pub(crate) const EVENT: u8 = 0;
