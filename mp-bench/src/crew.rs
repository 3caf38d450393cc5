//! The least that a pool of many processes could do: they take numbers off a counter in shared memory and
//! nap. Who waits sleeps on one word, and nobody watches: a death would end the run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::ensure;
use memmap2::MmapRaw;
use mp::{AnyError, Child, Process};

use crate::scaling::NAP;
use crate::word::{await_change, wake};

/// Bytes of the mapping: each word lies in a line of its own.
const LEN: usize = 4096;
const LINE: usize = 64;

/// Processes that wait for numbers. Dropping it ends them.
pub(crate) struct Crew {
    words: Words,
    workers: Vec<Child<Result<(), AnyError>>>,
}

impl Crew {
    pub(crate) fn start(workers: u64) -> anyhow::Result<Self> {
        let file = tempfile::NamedTempFile::new_in("/dev/shm")?;
        file.as_file().set_len(LEN as u64)?;
        let words = Words::open(file.path())?;
        let start = |_| Process::new(serve, (file.path().to_owned(),)).start();
        let workers = (0..workers).map(start).collect::<Result<_, _>>()?;
        let crew = Self { words, workers };
        // When each has napped, as a rule, they have the file open.
        crew.nap(crew.workers.len() as u32)?;
        while crew.words.ready().load(Ordering::Acquire) < crew.workers.len() as u32 {
            thread::sleep(NAP);
        }
        Ok(crew)
    }

    /// Has them nap so many times. All numbers are out at once, and the last one done wakes who waits.
    pub(crate) fn nap(&self, naps: u32) -> anyhow::Result<()> {
        let words = &self.words;
        let first = words.put().load(Ordering::Relaxed);
        let sum = words.sum().load(Ordering::Relaxed);
        let goal = first.wrapping_add(naps);
        let rung = words.done_bell().load(Ordering::SeqCst);
        words.put().store(goal, Ordering::SeqCst);
        words.bell().fetch_add(1, Ordering::SeqCst);
        wake(words.bell(), u32::MAX >> 1);
        if naps > 0 {
            await_change(words.done_bell(), rung);
        }
        let expected = (0..naps).fold(sum, |sum, nap| sum.wrapping_add(first.wrapping_add(nap)));
        let sum = words.sum().load(Ordering::Relaxed);
        ensure!(sum == expected, "a number was lost, or taken twice");
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.words.is_over().store(1, Ordering::SeqCst);
        self.words.bell().fetch_add(1, Ordering::SeqCst);
        wake(self.words.bell(), u32::MAX >> 1);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

#[mp::task]
fn serve(path: PathBuf) -> Result<(), AnyError> {
    let words = Words::open(&path)?;
    words.ready().fetch_add(1, Ordering::AcqRel);
    loop {
        let next = words.taken().load(Ordering::SeqCst);
        if next == words.put().load(Ordering::SeqCst) {
            let rung = words.bell().load(Ordering::SeqCst);
            let is_over = words.is_over().load(Ordering::SeqCst) != 0;
            if !is_over
                && words.taken().load(Ordering::SeqCst) == words.put().load(Ordering::SeqCst)
            {
                await_change(words.bell(), rung);
            }
            if is_over {
                return Ok(());
            }
            continue;
        }
        let after = next.wrapping_add(1);
        let taken = words
            .taken()
            .compare_exchange(next, after, Ordering::SeqCst, Ordering::SeqCst);
        if taken.is_err() {
            continue;
        }
        thread::sleep(NAP);
        words.sum().fetch_add(next, Ordering::Relaxed);
        let done = words.done().fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        if done == words.put().load(Ordering::SeqCst) {
            words.done_bell().fetch_add(1, Ordering::SeqCst);
            wake(words.done_bell(), 1);
        }
    }
}

/// The words that they share.
struct Words {
    mapping: MmapRaw,
}

impl Words {
    fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let mapping = MmapRaw::map_raw(&file)?;
        if mapping.len() < LEN {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { mapping })
    }

    /// How many have the file open.
    fn ready(&self) -> &AtomicU32 {
        self.at(0)
    }

    /// How many numbers were ever put, taken and done with, and the sum of the last, modulo 2^32.
    fn put(&self) -> &AtomicU32 {
        self.at(1)
    }

    fn taken(&self) -> &AtomicU32 {
        self.at(2)
    }

    fn done(&self) -> &AtomicU32 {
        self.at(3)
    }

    fn sum(&self) -> &AtomicU32 {
        self.at(4)
    }

    /// Where those wait who have no number.
    fn bell(&self) -> &AtomicU32 {
        self.at(5)
    }

    /// Where the one waits who puts numbers.
    fn done_bell(&self) -> &AtomicU32 {
        self.at(6)
    }

    /// Whether the processes are to end.
    fn is_over(&self) -> &AtomicU32 {
        self.at(7)
    }

    fn at(&self, line: usize) -> &AtomicU32 {
        assert!((line + 1) * LINE <= LEN, "no such word");
        // SAFETY: the line lies within the mapping, as was checked.
        let word = unsafe { self.mapping.as_mut_ptr().add(line * LINE) };
        // SAFETY: the mapping begins at a page and lives as long as the reference, and its file is
        // neither cut nor accessed otherwise while the run lasts.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }
}
