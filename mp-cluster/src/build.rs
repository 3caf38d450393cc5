//! Which build this is: a task is run by the very program that submitted it, on whatever machine, or by
//! one that says outright that it may.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Mutex;

use mp::__private::signature_by_name;
use mp::Error;
use ring::digest::{Context, SHA256};

use crate::connection::Connection;
use crate::error;

/// The beginning of the hash of the program's file, or a name that stands for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Build {
    name: String,
    /// Whether programs may differ that say so.
    is_mixed: bool,
}

impl Build {
    /// For what is of no build.
    pub(crate) const NONE: Self = Self {
        name: String::new(),
        is_mixed: false,
    };

    /// This program's, as a connection has it.
    pub(crate) fn of(connection: &Connection) -> Result<Self, Error> {
        match &connection.fingerprint {
            Some(fingerprint) => Ok(Self {
                name: fingerprint.clone(),
                is_mixed: true,
            }),
            None => Self::own(),
        }
    }

    /// The signature of a task, if others of this build may have another.
    pub(crate) fn signature(&self, task: &str) -> Option<String> {
        self.is_mixed.then(|| signature_by_name(task))?
    }

    /// What keeps this program from running a task for one to which it has that signature.
    pub(crate) fn objection(&self, task: &str, signature: Option<&str>) -> Option<String> {
        let (there, here) = (signature?, signature_by_name(task)?);
        (there != here).then(|| {
            format!(
                "the task \"{task}\" is another in the worker's program: `{here}`, and not `{there}`"
            )
        })
    }

    fn own() -> Result<Self, Error> {
        static OWN: Mutex<Option<Build>> = Mutex::new(None);
        let mut own = OWN.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(build) = &*own {
            return Ok(build.clone());
        }
        // Also if its file was replaced meanwhile.
        let build = Self::of_file("/proc/self/exe").map_err(|error| {
            error::cluster(format!("this program's own file cannot be read: {error}"))
        })?;
        Ok(own.insert(build).clone())
    }

    fn of_file(path: &str) -> std::io::Result<Self> {
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
        Ok(Self {
            name: format!("{:016x}", u64::from_be_bytes(*head)),
            is_mixed: false,
        })
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
