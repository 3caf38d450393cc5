//! What a fork server answers, and what a copy of it is told.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::sys::process::Tick;

/// Bytes of the name of a preload task, and of an answer, at most.
pub(super) const MOST_NAME: usize = 64 * 1024;
pub(super) const MOST_ANSWER: usize = 4096;

/// What the server is asked for a copy by, with the copy's end of its socket.
pub(super) const REQUEST: [u8; 1] = *b"c";

/// The child that a copy is to be: its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// The descriptors that go with an order.
#[derive(Debug)]
pub(super) struct Parts<Fd> {
    /// The directory that it begins in.
    pub(super) directory: Fd,
    /// A pool's memory.
    pub(super) region: Option<Fd>,
    /// Its standard streams, as far as they are open.
    pub(super) streams: [Option<Fd>; 3],
}

/// Which of the descriptors that may be missing are there.
const REGION: u8 = 1 << 3;

impl Order {
    pub(super) const LEN: usize = 9;

    pub(super) fn to_bytes(self, parts: &Parts<BorrowedFd<'_>>) -> [u8; Order::LEN] {
        let mut present = if parts.region.is_some() { REGION } else { 0 };
        for (index, stream) in parts.streams.iter().enumerate() {
            present |= u8::from(stream.is_some()) << index;
        }
        let mut bytes = [present; Order::LEN];
        bytes[1..5].copy_from_slice(&self.slot.to_le_bytes());
        bytes[5..].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    /// Reads an order with its descriptors; `None` if it is none.
    pub(super) fn parse(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<(Order, Parts<OwnedFd>)> {
        let bytes: &[u8; Order::LEN] = bytes.try_into().ok()?;
        let (present, rest) = bytes.split_first()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let generation = rest.first_chunk()?;
        let order = Order {
            slot: u32::from_le_bytes(*slot),
            generation: u32::from_le_bytes(*generation),
        };
        let mut fds = fds.into_iter();
        let directory = fds.next()?;
        let mut next_if = |bit: u8| (present & bit != 0).then(|| fds.next()).flatten();
        let parts = Parts {
            directory,
            region: next_if(REGION),
            streams: [next_if(1), next_if(2), next_if(4)],
        };
        Some((order, parts))
    }
}

impl<'a> Parts<BorrowedFd<'a>> {
    /// In the order in which they travel.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'a>> {
        let optional = [self.region].into_iter().chain(self.streams);
        [self.directory]
            .into_iter()
            .chain(optional.flatten())
            .collect()
    }
}

/// What the server answers when it is asked for a copy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was made, and in that tick, if it is known to have been in one.
    Made(Option<Tick>),
    /// It could not be, and this is why.
    Failed(String),
    /// None will be: the server is unfit, and this is why.
    Unfit(String),
}

impl Answer {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let (tag, text) = match self {
            Answer::Made(tick) => {
                let tick = tick.map_or(0, Tick::number).to_le_bytes();
                return [&[b'm'][..], &tick].concat();
            }
            Answer::Failed(text) => (b'f', text.as_str()),
            Answer::Unfit(text) => (b'u', text.as_str()),
        };
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&text.as_bytes()[..text.len().min(MOST_ANSWER - 1)]);
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Answer {
        let text = |text| String::from_utf8_lossy(text).into_owned();
        match bytes {
            [b'm', tick @ ..] => {
                let tick = tick.try_into().map_or(0, u64::from_le_bytes);
                Answer::Made((tick != 0).then_some(Tick::from_number(tick)))
            }
            [b'f', why @ ..] => Answer::Failed(text(why)),
            [b'u', why @ ..] => Answer::Unfit(text(why)),
            _ => Answer::Failed("it gave an answer that makes no sense".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let order = Order {
            slot: 3,
            generation: 70_000,
        };
        let fd = || crate::sys::fd::event_counter().unwrap();
        let all = [fd(), fd(), fd()];
        let parts = Parts {
            directory: all[0].as_fd(),
            region: Some(all[1].as_fd()),
            streams: [None, Some(all[2].as_fd()), None],
        };
        let bytes = order.to_bytes(&parts);
        assert_eq!(parts.fds().len(), 3);
        let (read, parts) = Order::parse(&bytes, all.into()).unwrap();
        assert_eq!(read, order);
        assert!(parts.region.is_some());
        assert_eq!(
            parts.streams.map(|stream| stream.is_some()),
            [false, true, false]
        );
        assert!(Order::parse(&bytes, Vec::new()).is_none());
        assert!(Order::parse(&bytes[1..], vec![fd(), fd()]).is_none());
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        for answer in [
            Answer::Made(None),
            Answer::Made(Some(Tick::now())),
            Answer::Failed("no memory".to_owned()),
            Answer::Unfit(String::new()),
        ] {
            assert_eq!(Answer::parse(&answer.to_bytes()), answer);
        }
        assert!(matches!(Answer::parse(b""), Answer::Failed(_)));
    }
}
