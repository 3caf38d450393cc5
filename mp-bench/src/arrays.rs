//! A map without chunks: items are copied into an array in shared memory, two processes make another of it, and
//! that is copied out. Nobody watches, and all items have to be there before the first is taken.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::MmapRaw;
use mp::{AnyError, Child, Process};

use crate::WORKERS;
use crate::word::{await_change, hand_over};

/// Bytes of the words in front of the arrays, each in a line of its own.
const WORDS: usize = 4096;
const LINE: usize = 64;

/// A worker ends at this; other even numbers are its to answer by the next odd one.
const END: u32 = u32::MAX - 1;

/// Two arrays of numbers, and processes that make one of the other. Dropping it ends them.
pub(crate) struct Arrays {
    memory: Memory,
    turn: Cell<u32>,
    workers: Vec<Child<Result<(), AnyError>>>,
}

impl Arrays {
    /// For so many numbers.
    pub(crate) fn start(len: usize) -> anyhow::Result<Self> {
        let file = tempfile::NamedTempFile::new_in("/dev/shm")?;
        file.as_file().set_len((WORDS + 2 * 8 * len) as u64)?;
        let memory = Memory::open(file.path(), len)?;
        let start = |worker| Process::new(serve, (file.path().to_owned(), worker, len)).start();
        let arrays = Self {
            memory,
            turn: Cell::new(0),
            workers: (0..WORKERS).map(start).collect::<Result<_, _>>()?,
        };
        // When they have answered they have the file open.
        arrays.run();
        Ok(arrays)
    }

    /// Maps as many numbers as there is room for.
    pub(crate) fn map(&self, items: &[u64]) -> Vec<u64> {
        // SAFETY: the workers wait.
        unsafe { self.memory.items() }.copy_from_slice(items);
        self.run();
        // SAFETY: the workers wait again.
        unsafe { self.memory.results() }.to_vec()
    }

    fn run(&self) {
        let turn = self.turn.get() + 2;
        self.turn.set(turn);
        for worker in 0..WORKERS {
            hand_over(self.memory.word(worker), turn);
        }
        for worker in 0..WORKERS {
            await_change(self.memory.word(worker), turn);
        }
    }
}

impl Drop for Arrays {
    fn drop(&mut self) {
        for worker in 0..WORKERS {
            hand_over(self.memory.word(worker), END);
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

#[mp::task]
fn serve(path: PathBuf, worker: usize, len: usize) -> Result<(), AnyError> {
    let memory = Memory::open(&path, len)?;
    let word = memory.word(worker);
    let part = len.div_ceil(WORKERS);
    let range = (worker * part).min(len)..((worker + 1) * part).min(len);
    let mut turn = 0;
    loop {
        await_change(word, turn);
        let seen = word.load(Ordering::Acquire);
        if seen == END {
            return Ok(());
        }
        // SAFETY: the caller waits, and reads alone are made of this array meanwhile.
        let items = unsafe { &*memory.array(0) };
        let (start, count) = (memory.array(1).cast::<u64>(), range.len());
        // SAFETY: the range lies within the array.
        let start = unsafe { start.add(range.start) };
        // SAFETY: the caller waits, and each worker has a range of its own.
        let results = unsafe { slice::from_raw_parts_mut(start, count) };
        for (result, x) in results.iter_mut().zip(&items[range.clone()]) {
            *result = x * x + 1;
        }
        turn = seen + 1;
        hand_over(word, turn);
    }
}

/// The shared memory.
struct Memory {
    mapping: MmapRaw,
    len: usize,
}

impl Memory {
    fn open(path: &Path, len: usize) -> std::io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let mapping = MmapRaw::map_raw(&file)?;
        if mapping.len() < WORDS + 2 * 8 * len {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { mapping, len })
    }

    fn word(&self, worker: usize) -> &AtomicU32 {
        assert!((worker + 1) * LINE <= WORDS, "no such word");
        // SAFETY: the line lies within the mapping, as was checked.
        let word = unsafe { self.mapping.as_mut_ptr().add(worker * LINE) };
        // SAFETY: the mapping begins at a page and lives as long as the reference.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    /// The items, or the results.
    fn array(&self, which: usize) -> *mut [u64] {
        let offset = WORDS + which * 8 * self.len;
        // SAFETY: both arrays lie within the mapping, whose length was checked.
        let start = unsafe { self.mapping.as_mut_ptr().add(offset) };
        std::ptr::slice_from_raw_parts_mut(start.cast(), self.len)
    }

    /// # Safety
    ///
    /// No worker is at work.
    #[expect(clippy::mut_from_ref, reason = "the words say whose it is")]
    unsafe fn items(&self) -> &mut [u64] {
        // SAFETY: the array is aligned, as the mapping is, and nobody else uses it.
        unsafe { &mut *self.array(0) }
    }

    /// # Safety
    ///
    /// No worker is at work.
    unsafe fn results(&self) -> &[u64] {
        // SAFETY: as for the items.
        unsafe { &*self.array(1) }
    }
}
