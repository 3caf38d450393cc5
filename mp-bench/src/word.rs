//! Words that two processes share by a mapped file: what the machine does without `mp`.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::MmapRaw;

/// What a processor has from another one at once.
const LINE: usize = 64;
/// Bytes of the mapping: its words lie in lines of their own, and these so far apart that none is
/// fetched with another.
const LEN: usize = 6 * LINE;

/// A mapped file with a count, a futex, and a flag with a number beside it.
pub(crate) struct Words {
    mapping: MmapRaw,
}

impl Words {
    /// Makes a file of the right size, which goes when the path is dropped.
    pub(crate) fn file() -> std::io::Result<tempfile::TempPath> {
        let file = tempfile::NamedTempFile::new_in("/dev/shm")?;
        file.as_file().set_len(LEN as u64)?;
        Ok(file.into_temp_path())
    }

    /// Maps a file that [`file`](Self::file) made.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let mapping = MmapRaw::map_raw(&file)?;
        if mapping.len() < LEN {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { mapping })
    }

    /// The count.
    pub(crate) fn count(&self) -> &AtomicU64 {
        // SAFETY: the mapping is long enough, begins at a page, lives as long as the reference, and
        // its file is neither cut nor accessed otherwise while the run lasts.
        unsafe { AtomicU64::from_ptr(self.mapping.as_mut_ptr().cast()) }
    }

    /// The futex.
    pub(crate) fn futex(&self) -> &AtomicU32 {
        // SAFETY: the third line lies within the mapping.
        let line = unsafe { self.mapping.as_mut_ptr().add(2 * LINE) };
        // SAFETY: as in `count`.
        unsafe { AtomicU32::from_ptr(line.cast()) }
    }

    /// The flag.
    pub(crate) fn flag(&self) -> &AtomicU32 {
        // SAFETY: the fifth line lies within the mapping.
        let line = unsafe { self.mapping.as_mut_ptr().add(4 * LINE) };
        // SAFETY: as in `count`.
        unsafe { AtomicU32::from_ptr(line.cast()) }
    }

    /// The number in the flag's line.
    pub(crate) fn beside_flag(&self) -> &AtomicU64 {
        // SAFETY: as in `flag`.
        let place = unsafe { self.mapping.as_mut_ptr().add(4 * LINE + 8) };
        // SAFETY: as in `count`.
        unsafe { AtomicU64::from_ptr(place.cast()) }
    }
}

/// Stores `value` and wakes who sleeps on the word.
pub(crate) fn hand_over(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    wake(word, 1);
}

/// Wakes so many of those who sleep on the word.
pub(crate) fn wake(word: &AtomicU32, count: u32) {
    // SAFETY: a wake-up touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}

/// Looks at the word until it is no longer `old`, and returns what it is then; `None` if that takes longer
/// than a minute.
pub(crate) fn look_for_change(word: &AtomicU32, old: u32) -> Option<u32> {
    /// Looks between two at the clock.
    const LOOKS: u32 = 1 << 16;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        for _ in 0..LOOKS {
            let seen = word.load(Ordering::Acquire);
            if seen != old {
                return Some(seen);
            }
            std::hint::spin_loop();
        }
    }
    None
}

/// Sleeps until the word is no longer `old`, without a timer of the kernel's. Whoever is to change it may have
/// died: then the run ends when the subject takes too long.
pub(crate) fn await_change(word: &AtomicU32, old: u32) {
    let forever = std::ptr::null::<libc::timespec>();
    while word.load(Ordering::Acquire) == old {
        // SAFETY: the word lives during the call, and no timeout is read.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                old,
                forever,
            )
        };
    }
}
