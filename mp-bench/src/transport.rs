//! What a map costs without `mp`: chunks of items go through shared memory to two processes, and their
//! results come back. Nobody watches: a panic, a death or an item that does not fit would end the run. What
//! is the same are the bytes, in place, and what becomes of them: that is the least that `mp` could take.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::ensure;
use memmap2::MmapRaw;
use mp::{AnyError, Child, Process};
use serde::{Deserialize, Serialize};

use crate::WORKERS;
use crate::word::{await_change, hand_over};

/// Chunks that are on their way at once: two for each worker.
const SLOTS: usize = 2 * WORKERS;
/// Bytes of a slot's items, and of its results.
const ROOM: usize = 1 << 20;
/// Bytes of a slot: a line for its words, then those.
const SLOT: usize = 4096 + 2 * ROOM;
/// Bytes after which a chunk is full, and items of one at most.
const FULL: usize = 256 << 10;
const MOST: usize = 16 << 10;
/// How often a word is looked at before its reader sleeps.
const LOOKS: u32 = 2000;

/// States of a slot.
// Zero is none yet.
const ASKED: u32 = 1;
const ANSWERED: u32 = 2;
const OVER: u32 = 3;

/// What is mapped.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// A number to its square and one.
    Square,
    /// A text and a number to a text.
    Describe,
}

/// Two processes that wait for chunks. Dropping it ends them.
pub(crate) struct Transport {
    slots: Slots,
    /// The slot of the next chunk: each worker goes through its own in turn.
    next: Cell<usize>,
    workers: Vec<Child<Result<(), AnyError>>>,
}

impl Transport {
    pub(crate) fn start(work: Work) -> anyhow::Result<Self> {
        let file = tempfile::NamedTempFile::new_in("/dev/shm")?;
        file.as_file().set_len((SLOTS * SLOT) as u64)?;
        let slots = Slots::open(file.path())?;
        let start = |worker| {
            let arguments = (file.path().to_owned(), worker, work);
            Process::new(serve, arguments).start()
        };
        let workers = (0..WORKERS).map(start).collect::<Result<_, _>>()?;
        let transport = Self {
            slots,
            next: Cell::new(0),
            workers,
        };
        // When they have answered, they have the file open.
        for slot in 0..SLOTS {
            transport.slots.ask(slot, 0);
            ensure!(transport.slots.answer(slot)? == 0, "an answer to nothing");
        }
        Ok(transport)
    }

    /// Maps items; `encode` appends one, and `decode` takes a result off the front.
    pub(crate) fn map<A, R>(
        &self,
        items: impl ExactSizeIterator<Item = A>,
        encode: impl Fn(A, &mut Out<'_>),
        decode: impl Fn(&mut &[u8]) -> R,
    ) -> anyhow::Result<Vec<R>> {
        let first = self.next.get();
        let slot = |chunk: usize| (first + chunk) % SLOTS;
        let mut results = Vec::with_capacity(items.len());
        let mut items = items.peekable();
        let mut take = |chunk: usize| {
            let len = self.slots.answer(slot(chunk))?;
            let mut bytes = &self.slots.results(slot(chunk))[..len];
            while !bytes.is_empty() {
                results.push(decode(&mut bytes));
            }
            anyhow::Ok(())
        };
        let mut chunk = 0;
        while items.peek().is_some() {
            if chunk >= SLOTS {
                take(chunk - SLOTS)?;
            }
            let mut out = Out::new(self.slots.items(slot(chunk)));
            for _ in 0..MOST {
                let Some(item) = items.next_if(|_| out.len < FULL) else {
                    break;
                };
                encode(item, &mut out);
            }
            self.slots.ask(slot(chunk), out.len);
            chunk += 1;
        }
        for chunk in chunk.saturating_sub(SLOTS)..chunk {
            take(chunk)?;
        }
        self.next.set(slot(chunk));
        Ok(results)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        for slot in 0..SLOTS {
            hand_over(self.slots.state(slot), OVER);
        }
        for worker in &self.workers {
            let _ = worker.join();
        }
    }
}

/// Bytes that are written one behind the other.
pub(crate) struct Out<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl<'a> Out<'a> {
    fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, len: 0 }
    }

    #[inline]
    pub(crate) fn number(&mut self, number: u64) {
        self.raw(&number.to_le_bytes());
    }

    #[inline]
    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.raw(text.as_bytes());
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

#[inline]
pub(crate) fn read_number(input: &mut &[u8]) -> u64 {
    input
        .split_off(..8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

#[inline]
pub(crate) fn read_text(input: &mut &[u8]) -> String {
    let len = read_number(input) as usize;
    let bytes = input.split_off(..len).unwrap_or_default();
    String::from_utf8(bytes.to_vec()).unwrap_or_default()
}

/// Answers what is asked in every slot that is this worker's.
#[mp::task]
fn serve(path: PathBuf, worker: usize, work: Work) -> Result<(), AnyError> {
    let slots = Slots::open(&path)?;
    for slot in (0..SLOTS).cycle().skip(worker).step_by(WORKERS) {
        let state = slots.state(slot);
        let mut seen = ANSWERED;
        while seen != ASKED {
            seen = look_for_other(state, seen);
            if seen == OVER {
                return Ok(());
            }
        }
        let mut input = &slots.items(slot)[..slots.len(slot)];
        let mut out = Out::new(slots.results(slot));
        while !input.is_empty() {
            match work {
                Work::Square => {
                    let x = read_number(&mut input);
                    out.number(x * x + 1);
                }
                Work::Describe => {
                    let (name, number) = (read_text(&mut input), read_number(&mut input));
                    out.text(&format!("{name}:{number}"));
                }
            }
        }
        slots.set_len(slot, out.len);
        hand_over(state, ANSWERED);
    }
    Ok(())
}

/// The value of a word once it is another one.
fn look_for_other(word: &AtomicU32, old: u32) -> u32 {
    for _ in 0..LOOKS {
        let now = word.load(Ordering::Acquire);
        if now != old {
            return now;
        }
        std::hint::spin_loop();
    }
    await_change(word, old);
    word.load(Ordering::Acquire)
}

/// The shared memory.
struct Slots {
    mapping: MmapRaw,
}

impl Slots {
    fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let mapping = MmapRaw::map_raw(&file)?;
        if mapping.len() < SLOTS * SLOT {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { mapping })
    }

    fn ask(&self, slot: usize, len: usize) {
        self.set_len(slot, len);
        hand_over(self.state(slot), ASKED);
    }

    /// Waits for the answer, which is so long.
    fn answer(&self, slot: usize) -> anyhow::Result<usize> {
        let state = self.state(slot);
        let mut seen = ASKED;
        while seen == ASKED {
            seen = look_for_other(state, seen);
        }
        ensure!(seen == ANSWERED, "a slot was not asked");
        Ok(self.len(slot))
    }

    fn state(&self, slot: usize) -> &AtomicU32 {
        self.word(slot, 0)
    }

    fn len(&self, slot: usize) -> usize {
        self.word(slot, 1).load(Ordering::Relaxed) as usize
    }

    fn set_len(&self, slot: usize, len: usize) {
        self.word(slot, 1).store(len as u32, Ordering::Relaxed);
    }

    fn word(&self, slot: usize, word: usize) -> &AtomicU32 {
        // SAFETY: the slot lies within the mapping.
        let place = unsafe { self.mapping.as_mut_ptr().add(slot * SLOT) };
        // SAFETY: as is its first line.
        let place = unsafe { place.cast::<u32>().add(word) };
        // SAFETY: it is aligned, lives as long as the reference, and is used as an atomic alone.
        unsafe { AtomicU32::from_ptr(place) }
    }

    fn items(&self, slot: usize) -> &mut [u8] {
        self.area(slot, 4096)
    }

    fn results(&self, slot: usize) -> &mut [u8] {
        self.area(slot, 4096 + ROOM)
    }

    #[expect(clippy::mut_from_ref, reason = "the state says whose it is")]
    fn area(&self, slot: usize, from: usize) -> &mut [u8] {
        // SAFETY: the area lies within the mapping.
        let place = unsafe { self.mapping.as_mut_ptr().add(slot * SLOT + from) };
        // SAFETY: an area is used by one side at a time, as the slot's state says, and by no other.
        unsafe { std::slice::from_raw_parts_mut(place, ROOM) }
    }
}
