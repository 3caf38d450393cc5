//! The socket between an isolated worker and the parent's thread for it: frames of a kind, a length
//! and so many bytes.
//!
//! Nothing that comes out of it is believed: a frame is copied into private memory, no longer than
//! the reader allows, before anybody looks at it.

use std::io::{self, BufReader, Read};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use crate::fault::fault;
use crate::sys;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// To the worker: who it is, as [`Message`](crate::process::message::Message).
    Message = 1,
    /// To the worker: a [`Setup`].
    Setup = 2,
    /// To the worker: items, as [`begin_job`] begins them.
    Job = 3,
    /// From the worker: it is set up as asked.
    Hello = 4,
    /// From the worker: it has run the initializer, and waits for jobs.
    Ready = 5,
    /// From the worker: what the initializer failed of, in words, which is why it ends.
    Unfit = 6,
    /// From the worker: the first item of the job begins. This and what follows begins with the job's
    /// [`Nonce`].
    Begun = 7,
    /// From the worker: the outcome of the item it was at, as a record. The next one begins.
    Outcome = 8,
    /// From the worker: it stops at this job. The payload is two bytes, an [`End`] and whether it has
    /// as much memory as it may.
    End = 9,
    /// To the worker, while it is at a job: nobody wants the items of it that are not begun. One that
    /// comes too late is passed over.
    Stop = 10,
}

/// Why a worker stops at a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    /// All items were run.
    Through = 0,
    /// The results so far are enough for one job.
    Enough = 1,
    /// The bytes are not what it expects.
    Unreadable = 2,
    /// It was told to.
    Stopped = 3,
}

/// What a worker needs to know beside who it is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Setup {
    /// Bytes of an encoded result at most.
    pub(super) result_limit: u64,
    /// Bytes of memory of its own with which it ends.
    pub(super) max_memory: u64,
    /// The call to make first, as a block of items; empty if there is none.
    pub(super) initializer: Vec<u8>,
}

/// Why no frame came.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other end is closed, or this one was shut.
    Gone,
    /// It is no frame, or longer than allowed.
    Senseless,
}

/// A number that nobody can know before its job has come: what is left in the link of what an earlier
/// item wrote there does not pass for this job's.
pub(super) type Nonce = [u8; 8];

/// Bytes of results after which a worker stops at a job, to have them taken.
pub(super) const ENOUGH: usize = 256 * 1024;

/// The longest frame beside those with results: a failure's texts are cut to less.
pub(super) const MOST_TEXT: u64 = 1 << 20;

/// The longest frame with a result of at most `limit` bytes, or a failure.
pub(super) fn most_of_record(limit: u64) -> u64 {
    const HEADERS: u64 = size_of::<Nonce>() as u64 + 16;
    limit.max(MOST_TEXT).saturating_add(HEADERS)
}

const HEADER: usize = 1 + size_of::<u64>();

/// One end.
#[derive(Debug)]
pub(super) struct Link {
    stream: BufReader<UnixStream>,
}

impl Link {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            stream: BufReader::with_capacity(64 * 1024, socket.into()),
        }
    }

    /// Another descriptor of the socket.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        self.stream.get_ref().try_clone().map(OwnedFd::from)
    }

    /// Whether something has come that was not received.
    pub(super) fn is_told(&self) -> bool {
        !self.stream.buffer().is_empty()
            || sys::fd::has_bytes(self.stream.get_ref().as_fd()) == Some(true)
    }

    /// Makes a handle that can shut the link while another thread waits on it.
    pub(super) fn closer(&self) -> io::Result<Closer> {
        self.stream.get_ref().try_clone().map(Closer)
    }

    /// Sends a frame.
    pub(super) fn send(&self, kind: Kind, parts: &[&[u8]]) -> Result<(), Broken> {
        /// What is not longer is sent in one piece.
        const SHORT: usize = 16 * 1024;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(HEADER + len.min(SHORT));
        bytes.push(kind as u8);
        bytes.extend_from_slice(&(len as u64).to_le_bytes());
        if len <= SHORT {
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
            return self.send_bytes(&bytes);
        }
        self.send_bytes(&bytes)?;
        fault!("link.headed");
        parts.iter().try_for_each(|part| self.send_bytes(part))
    }

    fn send_bytes(&self, bytes: &[u8]) -> Result<(), Broken> {
        sys::fd::send_all(self.stream.get_ref().as_fd(), bytes).map_err(|_| Broken::Gone)
    }

    /// Waits for the next frame, whose payload has at most `most` bytes, and appends that to `to`.
    ///
    /// Memory is taken as bytes arrive, whatever the frame says of its length.
    pub(super) fn receive(&mut self, most: u64, to: &mut Vec<u8>) -> Result<Kind, Broken> {
        let mut header = [0; HEADER];
        self.stream
            .read_exact(&mut header)
            .map_err(|_| Broken::Gone)?;
        let [kind, len @ ..] = header;
        let kind = Kind::from_byte(kind).ok_or(Broken::Senseless)?;
        let len = u64::from_le_bytes(len);
        if len > most {
            return Err(Broken::Senseless);
        }
        match (&mut self.stream).take(len).read_to_end(to) {
            Ok(read) if read as u64 == len => Ok(kind),
            _ => Err(Broken::Gone),
        }
    }
}

/// Shuts a link, or stops who is at its other end.
#[derive(Debug)]
pub(super) struct Closer(UnixStream);

impl Closer {
    /// Sends a [`Kind::Stop`], if there is room for it now; false if there is none. Not while another
    /// thread sends.
    pub(super) fn stop(&self) -> bool {
        let mut frame = [0; HEADER];
        frame[0] = Kind::Stop as u8;
        match sys::fd::send_some(self.0.as_fd(), &frame) {
            Ok(sent) if sent == frame.len() => true,
            Ok(0) => false,
            // Half a frame is worse than none; who finds that and the end stops, too.
            Ok(_) | Err(_) => {
                self.finish();
                true
            }
        }
    }

    /// Has the other end find the end of the stream once it has read what was sent; what it sends
    /// still arrives.
    pub(super) fn finish(&self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Has both ends find the end of the stream.
    pub(super) fn shut(&self) {
        // One whose other end is closed is shut already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Message,
            Self::Setup,
            Self::Job,
            Self::Hello,
            Self::Ready,
            Self::Unfit,
            Self::Begun,
            Self::Outcome,
            Self::End,
            Self::Stop,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

impl End {
    /// Reads the payload of a [`Kind::End`].
    pub(super) fn read(payload: &[u8]) -> Option<(Self, bool)> {
        let &[end, is_heavy] = payload else {
            return None;
        };
        [Self::Through, Self::Enough, Self::Unreadable, Self::Stopped]
            .into_iter()
            .find(|known| *known as u8 == end)
            .map(|end| (end, is_heavy != 0))
    }
}

/// What stands in a job before its records: its nonce, how long each item may take in nanoseconds,
/// which of the job's they are, and the task's name.
pub(super) fn begin_job(nonce: Nonce, limit: u64, task: &str, items: Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24 + task.len());
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(&limit.to_le_bytes());
    bytes.extend_from_slice(&items.start.to_le_bytes());
    bytes.extend_from_slice(&(items.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(task.len() as u32).to_le_bytes());
    bytes.extend_from_slice(task.as_bytes());
    bytes
}

/// Reads the beginning of a job.
pub(super) fn read_job(bytes: &[u8]) -> Option<JobFrame<'_>> {
    let (nonce, rest) = bytes.split_first_chunk()?;
    let (limit, rest) = rest.split_first_chunk()?;
    let (first, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (task, records) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let task = std::str::from_utf8(task).ok()?;
    Some(JobFrame {
        nonce: *nonce,
        limit: u64::from_le_bytes(*limit),
        task,
        first: u32::from_le_bytes(*first),
        count: u32::from_le_bytes(*count),
        records,
    })
}

/// A job as it arrives.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JobFrame<'a> {
    pub(super) nonce: Nonce,
    /// Nanoseconds that each item may take; zero is no limit.
    pub(super) limit: u64,
    pub(super) task: &'a str,
    /// The number of the first item, and how many there are.
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) records: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Link, Link) {
        let (one, two) = sys::fd::socket_pair().unwrap();
        (Link::new(one), Link::new(two))
    }

    #[test]
    fn frames_arrive_whole_and_in_order() {
        let (here, mut there) = pair();
        let long = vec![7; 1 << 20];
        let sender = std::thread::spawn(move || {
            here.send(Kind::Ready, &[]).unwrap();
            here.send(Kind::Outcome, &[b"short", b"er"]).unwrap();
            here.send(Kind::Outcome, &[&long]).unwrap();
        });
        let mut payload = Vec::new();
        assert_eq!(there.receive(0, &mut payload).unwrap(), Kind::Ready);
        assert_eq!(there.receive(100, &mut payload).unwrap(), Kind::Outcome);
        assert_eq!(payload, b"shorter");
        payload.clear();
        there.receive(1 << 20, &mut payload).unwrap();
        assert_eq!(payload, vec![7; 1 << 20]);
        sender.join().unwrap();
        assert!(matches!(there.receive(0, &mut payload), Err(Broken::Gone)));
    }

    #[test]
    fn what_is_no_frame_is_told_from_an_end() {
        for (bytes, is_gone) in [
            (&[0; 9][..], false),
            (&[255; 9], false),
            (&[Kind::Outcome as u8, 11, 0, 0, 0, 0, 0, 0, 0], false),
            (&[Kind::Outcome as u8, 10, 0, 0, 0, 0, 0, 0, 0, 1], true),
            (&[Kind::Outcome as u8], true),
        ] {
            let (here, mut there) = pair();
            here.send_bytes(bytes).unwrap();
            drop(here);
            let found = there.receive(10, &mut Vec::new());
            assert_eq!(
                matches!(found, Err(Broken::Gone)),
                is_gone,
                "{bytes:?}: {found:?}"
            );
            assert!(found.is_err());
        }
    }

    #[test]
    fn job_comes_back_and_garbage_is_none() {
        let mut job = begin_job([9; 8], 5, "app::task", 4..7);
        job.extend_from_slice(b"records");
        let expected = JobFrame {
            nonce: [9; 8],
            limit: 5,
            task: "app::task",
            first: 4,
            count: 3,
            records: b"records",
        };
        assert_eq!(read_job(&job), Some(expected));
        for len in 0..36 {
            assert_eq!(read_job(&job[..len]), None);
        }
        assert_eq!(read_job(&[255; 64]), None);
    }

    #[test]
    fn stop_is_sent_if_there_is_room_and_never_in_part() {
        let (here, mut there) = pair();
        let closer = here.closer().unwrap();
        assert!(!there.is_told());
        assert!(closer.stop() && there.is_told());
        assert_eq!(there.receive(0, &mut Vec::new()).unwrap(), Kind::Stop);
        assert!(!there.is_told());
        // As many as there is room for: each of them arrives whole.
        let sent = (0..1_000_000).take_while(|_| closer.stop()).count();
        closer.finish();
        let arrived = std::iter::from_fn(|| there.receive(0, &mut Vec::new()).ok());
        assert_eq!(arrived.take_while(|kind| *kind == Kind::Stop).count(), sent);
    }

    #[test]
    fn link_that_is_shut_wakes_who_waits_on_it() {
        let (mut here, _there) = pair();
        let closer = here.closer().unwrap();
        let waiter = std::thread::spawn(move || here.receive(0, &mut Vec::new()));
        closer.shut();
        assert!(matches!(waiter.join().unwrap(), Err(Broken::Gone)));
    }
}
