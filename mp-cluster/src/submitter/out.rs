//! What is out: messages, and the jobs in them.

use std::collections::HashMap;
use std::time::Instant;

use async_nats::Subject;
use mp::__private::Shipment;

use crate::blobs::Stored;
use crate::link::LEASE;

/// The messages that are out, by their numbers.
#[derive(Default)]
pub(super) struct Out {
    messages: HashMap<u64, Message>,
    /// The message in which a job is, by the job's number, and its place there.
    places: HashMap<u64, (u64, u32)>,
    /// The number of the next message.
    next: u64,
}

/// A message that is out.
pub(super) struct Message {
    /// The jobs in it, by their places; none where a job is over.
    jobs: Vec<Option<Job>>,
    /// How many are not.
    left: usize,
    /// What of its arguments is in the object store.
    pub(super) stored: Stored,
    /// Where to answer who waits until outcomes of it are fetched from there.
    pub(super) fetching: Option<Subject>,
    /// Since when it is out.
    pub(super) since: Instant,
    /// When it is to be sent again, since the server did not take it.
    pub(super) again: Option<Instant>,
    /// When the server was known to have it.
    pub(super) taken: Option<Instant>,
    /// Whether it is on its way there.
    pub(super) is_on_its_way: bool,
    /// Its number there, as long as it is known to be that of no other message.
    pub(super) sequence: Option<u64>,
    pub(super) taking_back: TakingBack,
    /// When an agent last said that it is at it.
    pub(super) at_work: Option<Instant>,
    /// Since when its arguments are not in the object store.
    pub(super) unstored: Option<Instant>,
    /// How often an agent was lost that may have begun with it.
    pub(super) lost: u32,
    /// Whether who had it last has not begun with it.
    pub(super) is_untouched: bool,
}

/// Whether the server is to forget a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TakingBack {
    No,
    Asked,
    /// It has done so since then. An agent may have it all the same.
    Done(Instant),
}

/// A job that is out.
struct Job {
    shipment: Shipment,
    /// Whether somebody waits for its outcome.
    is_wanted: bool,
}

impl Out {
    /// Makes a message of jobs, the agents of which were lost so often, and returns its number.
    pub(super) fn put(&mut self, shipments: Vec<Shipment>, lost: u32) -> u64 {
        let id = self.next;
        self.next += 1;
        for (place, shipment) in (0..).zip(&shipments) {
            self.places.insert(shipment.id(), (id, place));
        }
        let jobs: Vec<_> = shipments
            .into_iter()
            .map(|shipment| {
                Some(Job {
                    shipment,
                    is_wanted: true,
                })
            })
            .collect();
        let message = Message {
            left: jobs.len(),
            jobs,
            stored: Stored::default(),
            fetching: None,
            since: Instant::now(),
            again: None,
            taken: None,
            is_on_its_way: false,
            sequence: None,
            taking_back: TakingBack::No,
            at_work: None,
            unstored: None,
            lost,
            is_untouched: false,
        };
        self.messages.insert(id, message);
        id
    }

    /// The message in which a job is, and its place there.
    pub(super) fn find(&self, job: u64) -> Option<(u64, u32)> {
        self.places.get(&job).copied()
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Message> {
        self.messages.get_mut(&id)
    }

    /// Takes a job out, and the message with it if it was the last one in it.
    pub(super) fn take(&mut self, id: u64, place: u32) -> Option<Shipment> {
        let message = self.messages.get_mut(&id)?;
        let job = message.jobs.get_mut(place as usize)?.take()?;
        message.left -= 1;
        if message.left == 0 {
            self.messages.remove(&id);
        }
        self.places.remove(&job.shipment.id());
        Some(job.shipment)
    }

    /// Takes a message out, with the jobs that are left in it.
    pub(super) fn remove(&mut self, id: u64) -> Vec<Shipment> {
        let message = self.messages.remove(&id);
        let jobs = message.into_iter().flat_map(|message| message.jobs);
        let shipments: Vec<_> = jobs.flatten().map(|job| job.shipment).collect();
        for shipment in &shipments {
            self.places.remove(&shipment.id());
        }
        shipments
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Message> {
        self.messages.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Message)> {
        self.messages.iter_mut().map(|(id, message)| (*id, message))
    }

    /// The numbers of those of which that is so.
    pub(super) fn ids(&self, mut is_so: impl FnMut(u64, &Message) -> bool) -> Vec<u64> {
        let messages = self.messages.iter();
        let chosen = messages.filter(|(id, message)| is_so(**id, message));
        chosen.map(|(id, _)| *id).collect()
    }

    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.places.clear();
    }
}

impl Message {
    /// The jobs that are left in it, with their places.
    pub(super) fn jobs(&self) -> impl Iterator<Item = (u32, &Shipment)> {
        let jobs = (0..).zip(&self.jobs);
        jobs.filter_map(|(place, job)| Some((place, &job.as_ref()?.shipment)))
    }

    /// The places of those that are over.
    pub(super) fn over(&self) -> impl Iterator<Item = u32> {
        let jobs = (0..).zip(&self.jobs);
        jobs.filter_map(|(place, job)| job.is_none().then_some(place))
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Nobody waits for the job at that place; whether somebody waits for another.
    pub(super) fn is_wanted_without(&mut self, place: u32) -> bool {
        if let Some(Some(job)) = self.jobs.get_mut(place as usize) {
            job.is_wanted = false;
        }
        self.is_wanted()
    }

    /// Whether somebody waits for the job at that place.
    pub(super) fn is_wanted_at(&self, place: u32) -> bool {
        let job = self.jobs.get(place as usize);
        job.is_some_and(|job| job.as_ref().is_some_and(|job| job.is_wanted))
    }

    /// Whether somebody waits for one of the jobs.
    pub(super) fn is_wanted(&self) -> bool {
        self.jobs.iter().flatten().any(|job| job.is_wanted)
    }

    /// Whether some of it may have been begun, by an agent that has it or by one that was lost.
    pub(super) fn was_begun(&self) -> bool {
        self.at_work.is_some() || self.lost > 0
    }

    /// Whether an agent has it, and was heard of within a lease.
    pub(super) fn is_at_work(&self, now: Instant) -> bool {
        self.at_work.is_some_and(|said| now - said < LEASE)
    }
}
