//! A short text in shared memory, such as a process's name.

use super::safe::shared;
use crate::loom::{AtomicU64, Ordering};

/// Bytes that a text can have; a longer one is cut.
pub(crate) const TEXT_LEN: usize = 64;

shared! {
    /// The text. All zeros is empty. Whoever sets it sees to it that nobody reads it meanwhile.
    pub(crate) struct Text {
        len: AtomicU64,
        words: [AtomicU64; TEXT_LEN / 8],
    }
}

impl Text {
    /// Stores `text`, cut to [`TEXT_LEN`] bytes.
    pub(crate) fn set(&self, text: &str) {
        let end = text.floor_char_boundary(TEXT_LEN);
        let mut bytes = [0; TEXT_LEN];
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        for (word, chunk) in self.words.iter().zip(bytes.chunks_exact(8)) {
            let chunk = chunk.try_into().expect("chunks of eight bytes");
            word.store(u64::from_ne_bytes(chunk), Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `get`.
        self.len.store(end as u64, Ordering::Release);
    }

    /// The text.
    pub(crate) fn get(&self) -> String {
        // Acquire: pairs with the Release in `set`.
        let len = (self.len.load(Ordering::Acquire) as usize).min(TEXT_LEN);
        let bytes: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
            .take(len)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
