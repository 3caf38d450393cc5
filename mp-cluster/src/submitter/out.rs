//! The jobs that are out.

use std::time::Instant;

use mp::__private::Shipment;

use crate::blobs::Stored;
use crate::link::LEASE;

/// A job that is out.
pub(super) struct Outstanding {
    pub(super) shipment: Shipment,
    /// What of its arguments is in the object store.
    pub(super) stored: Stored,
    /// Whether its outcomes are being fetched from there.
    pub(super) is_fetching: bool,
    /// Since when it is out.
    pub(super) since: Instant,
    /// When its message is to be sent again, since the server did not take it.
    pub(super) again: Option<Instant>,
    /// When the server was known to have it.
    pub(super) taken: Option<Instant>,
    /// When an agent last said that it is at it.
    pub(super) at_work: Option<Instant>,
    /// Since when its arguments are not in the object store.
    pub(super) unstored: Option<Instant>,
    /// How often an agent was lost that may have begun with it.
    pub(super) lost: u32,
}

impl Outstanding {
    /// Whether an agent has it, and was heard of within a lease.
    pub(super) fn is_at_work(&self, now: Instant) -> bool {
        self.at_work.is_some_and(|said| now - said < LEASE)
    }
}
