//! Which jobs go in one message.
//!
//! A message costs the server and both sides more than a short job does. So short jobs of a task that
//! wait to be sent at the same moment go together. Nothing waits for company.

use std::time::Duration;

use mp::__private::Shipment;

use crate::pace::Paces;

/// Work that goes together, at most, by what such jobs took lately.
const MOST_WORK: Duration = Duration::from_millis(1);
/// Bytes of arguments that go together, at most.
const MOST_BYTES: usize = 64 * 1024;
/// Jobs that go together, at most, however short they are: the others are for other agents.
const MOST_JOBS: usize = 128;

/// A message that is not full.
struct Envelope {
    jobs: Vec<Shipment>,
    work: Duration,
    bytes: usize,
}

/// Sorts jobs into messages.
pub(super) fn pack(
    waiting: impl IntoIterator<Item = Shipment>,
    paces: &Paces,
) -> Vec<Vec<Shipment>> {
    let mut full = Vec::new();
    let mut open: Vec<Envelope> = Vec::new();
    for shipment in waiting {
        let (count, records) = shipment.items();
        let bytes = records.len();
        let pace = paces.of(shipment.task());
        let work = pace.map(|each| each.saturating_mul(count));
        let Some(work) = work.filter(|_| !shipment.is_sharing()) else {
            // Of what is not known it is found out first how long it takes.
            full.push(vec![shipment]);
            continue;
        };
        let like = |it: &Envelope| {
            let first = &it.jobs[0];
            first.limit() == shipment.limit() && first.task() == shipment.task()
        };
        if let Some(at) = open.iter().position(like) {
            let envelope = &mut open[at];
            let has_room = envelope.work + work <= MOST_WORK
                && envelope.bytes + bytes <= MOST_BYTES
                && envelope.jobs.len() < MOST_JOBS;
            if has_room {
                envelope.work += work;
                envelope.bytes += bytes;
                envelope.jobs.push(shipment);
                continue;
            }
            full.push(open.swap_remove(at).jobs);
        }
        open.push(Envelope {
            jobs: vec![shipment],
            work,
            bytes,
        });
    }
    full.extend(open.into_iter().map(|envelope| envelope.jobs));
    full
}
