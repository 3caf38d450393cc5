//! Calls that come from another machine: their task is known by its name only, their arguments and
//! results as bytes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::handle::Job;
use super::retries::Retries;
use super::source::Source;
use super::submit::{Outcomes, Reach};
use super::{Pool, Tuned};
use crate::error::{Error, ErrorKind, TaskError, TaskFailure};
use crate::memory::Content;
use crate::shm::buffer::{Buffer, Full, Tail};
use crate::task::call::{self, Encoded, Record, Tag, read_record};
use crate::task::registry;
use crate::wire::codec::EncodeError;
use crate::wire::transfer::{self, Handle};

/// Calls the task of that name with each of `count` arguments, which lie in `records` one behind the
/// other, once each, and returns at once. They refer to `shared` data by its places. The job tells
/// how long they have run, too, all together; `each` is what one takes, if that is known.
///
/// # Errors
///
/// There is no such task, the records are not so many, or as of [`Pool::submit`].
pub fn submit_encoded(
    pool: &Pool,
    task: &str,
    (count, records): (u32, Vec<u8>),
    shared: &[Arc<Content>],
    limit: Option<Duration>,
    each: Option<Duration>,
) -> Result<Job<(Outcomes<Encoded>, Duration)>, Error> {
    let task = registry::by_name(task)?;
    let mut source = Records::new(count, records)?;
    source.shared = shared.iter().map(|it| it.handle().clone()).collect();
    let reach = match (count, each) {
        (1, _) => Reach::One,
        (_, Some(each)) => Reach::Paced(each),
        (_, None) => Reach::Many,
    };
    let finish = |outcomes, worked| Ok((outcomes, worked));
    tuned(pool, limit).hand_over(task, source, reach, finish)
}

/// Ends a job as cancelled, unless a worker has begun with it: then it goes on.
pub fn recall<R>(job: &Job<R>) {
    job.recall();
}

/// Calls the task of that name once in each worker, with the arguments in `record`, and returns at
/// once. They refer to `shared` data by its places.
///
/// # Errors
///
/// There is no such task, the record is none, or as of [`Pool::broadcast`].
pub fn broadcast_encoded(
    pool: &Pool,
    task: &str,
    record: &[u8],
    shared: &[Arc<Content>],
    limit: Option<Duration>,
) -> Result<Job<Outcomes<Encoded>>, Error> {
    let task = registry::by_name(task)?;
    let pool = tuned(pool, limit);
    let workers = pool.inner.staying();
    let mut source = Records::new(workers.len() as u32, record.repeat(workers.len()))?;
    source.shared = shared.iter().map(|it| it.handle().clone()).collect();
    let finish = |outcomes, _| Ok(outcomes);
    pool.hand_over(task, source, Reach::Each(workers), finish)
}

/// The shared data that results refer to, in the order in which each does, with the places of the
/// results.
///
/// # Errors
///
/// It is not there any more.
pub fn shared_of(outcomes: &Outcomes<Encoded>) -> Result<Vec<(u32, Vec<Content>)>, Error> {
    let mut shared = Vec::new();
    for (place, outcome) in (0..).zip(outcomes) {
        if let Ok(Encoded {
            shared: handles, ..
        }) = outcome
            && !handles.is_empty()
        {
            let contents = handles.iter().cloned().map(Content::open);
            shared.push((place, contents.collect::<Result<_, _>>()?));
        }
    }
    Ok(shared)
}

/// The outcomes as records one behind the other. Workers are called `name on place`.
pub fn pack_outcomes(outcomes: Outcomes<Encoded>, place: &str) -> Vec<u8> {
    let mut out = Buffer::new();
    for outcome in outcomes {
        let written = match outcome {
            Ok(Encoded { bytes, .. }) => write_value(&bytes, &mut out).map_err(EncodeError::from),
            Err(error) => {
                let who = error.process().map(|name| format!("{name} on {place}"));
                let pid = error.pid();
                let error = match (who, pid) {
                    (Some(who), Some(pid)) => error.with_process(who, pid),
                    _ => error,
                };
                call::write_error(&error, &mut out)
            }
        };
        debug_assert!(
            written.is_ok(),
            "private memory has no end that it tells of"
        );
    }
    out.as_slice().to_vec()
}

/// Outcomes of `count` items that came to no worker, and why.
pub fn pack_refusals(count: u32, why: &str) -> Vec<u8> {
    let why = why.to_owned();
    pack_failures(count, TaskFailure::NotStarted { why })
}

/// Outcomes of `count` items of which nobody knows what became of them, and why.
pub fn pack_lost(count: u32, why: &str) -> Vec<u8> {
    let why = why.to_owned();
    pack_failures(count, TaskFailure::Lost { why })
}

/// Outcomes of `count` items that were run by one machine after the other, all of which were lost.
pub(super) fn pack_machines_lost(count: u32, why: &str) -> Vec<u8> {
    let why = why.to_owned();
    pack_failures(count, TaskFailure::MachinesLost { why })
}

fn pack_failures(count: u32, failure: TaskFailure) -> Vec<u8> {
    let error = TaskError::new(failure);
    pack_outcomes(vec![Err(error); count as usize], "")
}

fn write_value(bytes: &[u8], out: &mut Buffer) -> Result<(), Full> {
    let mut out = out.tail();
    let record = Record::open(&mut out)?;
    out.write(bytes)?;
    record.close(Tag::Value, &mut out)
}

/// The pool for calls that somebody else runs again if they fail.
fn tuned(pool: &Pool, limit: Option<Duration>) -> Tuned<'_> {
    let pool = pool.with_retries(Retries::NONE);
    match limit {
        Some(limit) => pool.with_timeout(limit),
        None => pool,
    }
}

/// Arguments as records one behind the other.
struct Records {
    bytes: Vec<u8>,
    /// Where the next begins, and how many there are from there on.
    next: usize,
    left: u32,
    /// The arguments of the item that is held.
    held: Option<Range<usize>>,
    /// The shared data that they refer to.
    shared: Vec<Arc<Handle>>,
}

impl Records {
    fn new(count: u32, bytes: Vec<u8>) -> Result<Self, Error> {
        let mut rest = bytes.as_slice();
        let are_so_many = (0..count).all(|_| read_record(&mut rest).is_some());
        if !are_so_many || !rest.is_empty() {
            let text = "the arguments are not what they should be";
            return Err(Error::new(ErrorKind::NotDecoded, text));
        }
        Ok(Self {
            bytes,
            next: 0,
            left: count,
            held: None,
            shared: Vec::new(),
        })
    }
}

impl Source for Records {
    fn load(&mut self) -> bool {
        if self.held.is_none() && self.left > 0 {
            let mut rest = &self.bytes[self.next..];
            let payload = read_record(&mut rest).map_or(0, |(_, payload)| payload.len());
            self.left -= 1;
            self.next = self.bytes.len() - rest.len();
            self.held = Some(self.next - payload..self.next);
        }
        self.held.is_some()
    }

    fn encode(&self, out: &mut Tail<'_>) -> Result<(), EncodeError> {
        match &self.held {
            Some(held) => {
                transfer::attach(&self.shared);
                Ok(out.write(&self.bytes[held.clone()])?)
            }
            None => Ok(()),
        }
    }

    fn is_held(&self) -> bool {
        self.held.is_some()
    }

    fn pass(&mut self) {
        self.held = None;
    }

    fn left(&self) -> Option<u64> {
        Some(u64::from(self.left) + u64::from(self.held.is_some()))
    }

    fn type_name(&self) -> &'static str {
        "of another machine"
    }
}
