//! Which build this is: a task is run by the very program that submitted it, on whatever machine.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Mutex;

use mp::Error;
use ring::digest::{Context, SHA256};

use crate::error;

/// The beginning of the hash of the program's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Build(u64);

impl Build {
    /// For what is of no build.
    pub(crate) const NONE: Self = Self(0);

    /// This program's.
    pub(crate) fn own() -> Result<Self, Error> {
        static OWN: Mutex<Option<Build>> = Mutex::new(None);
        let mut own = OWN.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(build) = *own {
            return Ok(build);
        }
        // Also if its file was replaced meanwhile.
        let build = Self::of("/proc/self/exe").map_err(|error| {
            error::cluster(format!("this program's own file cannot be read: {error}"))
        })?;
        Ok(*own.insert(build))
    }

    fn of(path: &str) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hash = Context::new(&SHA256);
        let mut bytes = vec![0; 1 << 20];
        loop {
            match file.read(&mut bytes)? {
                0 => break,
                read => hash.update(&bytes[..read]),
            }
        }
        let hash = hash.finish();
        let (head, _) = hash.as_ref().split_first_chunk().unwrap_or((&[0; 8], &[]));
        Ok(Self(u64::from_be_bytes(*head)))
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
