//! The child's half of an isolated worker: jobs come and results go through a socket. Nothing of the
//! program's shared memory is mapped here, nor is a descriptor of it.

use std::os::fd::OwnedFd;

use super::link::{self, Broken, End, JobFrame, Kind, Link, Setup};
use super::{current, initializer, wire};
use crate::error::{Error, Refusal};
use crate::fault::fault;
use crate::life::program::{is_forked, notice_forks};
use crate::process::message::Message;
use crate::shm::buffer::{Buffer, Full};
use crate::spans;
use crate::sys;
use crate::task::call::{self, Tag, read_record};
use crate::task::registry::{self, Entry};
use crate::wire::codec;
use crate::wire::transfer;

/// The exit code of a worker whose initializer failed.
const UNFIT: i32 = 1;

/// The exit code of a copy of a worker that comes back from the task that made it.
const COPY: i32 = 1;

/// An isolated worker in its own process.
#[derive(Debug)]
pub(crate) struct Isolated {
    link: Link,
    setup: Setup,
    /// The task of the last job.
    task: Option<&'static Entry>,
}

impl Isolated {
    /// Learns from the parent who the calling process is.
    pub(crate) fn meet(socket: OwnedFd) -> Result<(Self, Message), Error> {
        notice_forks().map_err(|error| Error::memory("could not map a page of its own", error))?;
        let mut link = Link::new(socket);
        let message = expect(&mut link, Kind::Message)?;
        let setup = expect(&mut link, Kind::Setup)?;
        fault!("isolated.met");
        let worker = Self {
            link,
            setup,
            task: None,
        };
        Ok((worker, message))
    }

    /// Works until the parent shuts the link; returns the exit code. The process is as it was asked
    /// to be.
    pub(crate) fn work(mut self) -> i32 {
        // A handle in an argument or a result would be of another program.
        transfer::abroad(|| self.work_until_broken().unwrap_or(0))
    }

    fn work_until_broken(&mut self) -> Result<i32, Broken> {
        if let Ok(socket) = self.link.socket() {
            current::set_isolated(socket);
        }
        self.link.send(Kind::Hello, &[])?;
        fault!("isolated.greeted");
        let initializer = std::mem::take(&mut self.setup.initializer);
        if !initializer.is_empty()
            && let Err(mut text) = spans::until_installed(|| initializer::run(&initializer))
        {
            text.truncate(text.floor_char_boundary(link::MOST_TEXT as usize));
            self.link.send(Kind::Unfit, &[text.as_bytes()])?;
            fault!("isolated.unfit");
            return Ok(UNFIT);
        }
        spans::install();
        self.link.send(Kind::Ready, &[])?;
        fault!("isolated.ready");
        let (mut input, mut out) = (Vec::new(), Buffer::new());
        loop {
            input.clear();
            match self.link.receive(u64::MAX, &mut input)? {
                Kind::Job => {}
                // That job is over already.
                Kind::Stop => continue,
                _ => return Err(Broken::Senseless),
            }
            fault!("isolated.received");
            let job = link::read_job(&input).ok_or(Broken::Senseless)?;
            let end = self.run_job(&job, &mut out)?;
            let most = self.setup.max_memory;
            let is_heavy = most != 0 && sys::process::own_memory().is_ok_and(|bytes| bytes > most);
            self.link
                .send(Kind::End, &[&job.nonce, &[end as u8, u8::from(is_heavy)]])?;
            fault!("isolated.ended");
            // What one large job took is not kept for the next.
            if input.capacity() > link::ENOUGH {
                input = Vec::new();
            }
            if out.len() > link::ENOUGH {
                out = Buffer::new();
            }
        }
    }

    /// Runs the items of a job and sends their outcomes, each as soon as it is there.
    fn run_job(&mut self, job: &JobFrame<'_>, out: &mut Buffer) -> Result<End, Broken> {
        let (task, _, span) = wire::read_name(job.task);
        let Some(task) = self.task(task) else {
            return Ok(End::Unreadable);
        };
        spans::begin_job(span);
        self.link.send(Kind::Begun, &[&job.nonce])?;
        fault!("isolated.begun");
        let (mut items, mut sent) = (job.records, 0);
        for item in 0..job.count {
            if sent >= link::ENOUGH {
                return Ok(End::Enough);
            }
            if self.link.is_told() {
                return Ok(End::Stopped);
            }
            let Some((_, mut arguments)) = read_record(&mut items) else {
                return Ok(End::Unreadable);
            };
            out.truncate(0);
            // Private memory has no end that it tells of.
            current::begin_item(job.limit);
            spans::begin_item(job.first + item, task.name);
            let ran = call::run(task, &mut arguments, out);
            if is_forked() {
                // The copy that a task made of us must not answer for it, nor take its next item.
                sys::process::exit_now(COPY);
            }
            current::end_item();
            spans::end_item();
            let Ok(tag) = ran else {
                return Ok(End::Unreadable);
            };
            fault!("isolated.ran");
            self.keep_to_limit(tag, out);
            self.link
                .send(Kind::Outcome, &[&job.nonce, out.as_slice()])?;
            fault!("isolated.told");
            sent += out.len();
        }
        Ok(End::Through)
    }

    /// Says so instead of a result that is larger than it may be.
    fn keep_to_limit(&self, tag: Tag, out: &mut Buffer) {
        let limit = match tag {
            Tag::Value => self.setup.result_limit,
            Tag::Panic | Tag::NotDecoded | Tag::NotEncoded | Tag::Failed => {
                self.setup.result_limit.max(link::MOST_TEXT)
            }
        };
        let mut record = out.as_slice();
        let len = read_record(&mut record).map_or(0, |(_, payload)| payload.len() as u64);
        if len <= limit {
            return;
        }
        *out = Buffer::new();
        let why = format!(
            "it takes {len} bytes, and a result of this pool's isolated workers may take {limit}: \
             see `PoolBuilder::result_limit`"
        );
        let _: Result<(), Full> = refuse(why, Tag::NotEncoded, out);
    }

    /// The task of that name.
    fn task(&mut self, name: &str) -> Option<&'static Entry> {
        if let Some(task) = self.task
            && (task.name)() == name
        {
            return Some(task);
        }
        self.task = registry::by_name(name).ok();
        self.task
    }
}

/// Appends the outcome of an item whose result was refused.
pub(super) fn refuse(why: String, tag: Tag, out: &mut Buffer) -> Result<(), Full> {
    let refusal = Refusal {
        what: "result".to_owned(),
        why,
        ..Refusal::default()
    };
    call::write_refusal(refusal, tag, out)
}

/// Waits for a frame of that kind and decodes it.
fn expect<T>(link: &mut Link, kind: Kind) -> Result<T, Error>
where
    T: serde::de::DeserializeOwned + 'static,
{
    let mut bytes = Vec::new();
    match link.receive(u64::MAX, &mut bytes) {
        Ok(found) if found == kind => codec::decode(&mut bytes.as_slice())
            .map_err(|error| Error::wrong_build(format!("the {kind:?} cannot be read: {error}"))),
        _ => Err(Error::wrong_build("the parent said nothing of what to do")),
    }
}
