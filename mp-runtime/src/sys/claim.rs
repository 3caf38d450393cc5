//! What a child is told by its environment: the format of the variable `MP_CHILD`, both ways.
//!
//! ```text
//! MP_CHILD=1;4711;c;5;4;17;3;66306:1050629:4711376:1763850231:120000000;-
//!          | |    | | | |  | fingerprint of the executable              ` another descriptor: of a pool's
//!          | |    | | | |  |     memory (p6), of a fork server's orders (f6), or none
//!          | |    | | | |  ` generation of the slot
//!          | |    | | | ` process slot in the arena
//!          | |    | | ` descriptor of the arena, or none
//!          | |    | ` descriptor of the socket to the parent
//!          | |    ` who takes over: the constructor, or init()
//!          | ` process id of the parent
//!          ` version of the protocol
//! ```
//!
//! The parent and the socket stay where they are in every version: by them a child recognises that it
//! is meant, before it can know the rest.

use std::{ffi::CString, fmt, str::FromStr};

use super::fd::RawFd;

/// The variable's name.
pub(crate) const VARIABLE: &str = "MP_CHILD";

/// Version of the variable's format and of everything that parent and child do with it.
const PROTOCOL: u32 = 1;

/// What the parent tells the child it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Process id of the parent.
    pub(crate) parent_pid: u32,
    /// Whether the child takes over in `mp::init()`, rather than in the constructor.
    pub(crate) by_init: bool,
    /// The child's end of a socket, on which it refuses, and whose end of file is its own.
    pub(crate) socket: RawFd,
    /// The memory of the program's arena; none for a child that shares no memory with its parent.
    pub(crate) arena: Option<RawFd>,
    /// The child's process slot in the arena.
    pub(crate) slot: u32,
    /// The generation of that slot.
    pub(crate) generation: u32,
    /// The executable, as the parent knows it.
    pub(crate) fingerprint: Fingerprint,
    /// Another inherited descriptor.
    pub(crate) extra: Option<Extra>,
}

/// What else a child inherits, which says what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// The memory of the pool that it works for, or the socket to it in a child without the arena.
    Pool(RawFd),
    /// The socket from which it takes orders as a fork server. It has no slot.
    ForkServer(RawFd),
}

impl Extra {
    /// The descriptor.
    pub(crate) fn fd(self) -> RawFd {
        match self {
            Extra::Pool(fd) | Extra::ForkServer(fd) => fd,
        }
    }
}

impl FromStr for Extra {
    type Err = ();

    fn from_str(text: &str) -> Result<Extra, ()> {
        let (kind, fd) = text.split_at_checked(1).ok_or(())?;
        let fd = fd.parse().map_err(|_| ())?;
        match kind {
            "p" => Ok(Extra::Pool(fd)),
            "f" => Ok(Extra::ForkServer(fd)),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extra::Pool(fd) => write!(f, "p{fd}"),
            Extra::ForkServer(fd) => write!(f, "f{fd}"),
        }
    }
}

impl Claim {
    /// Returns the environment's entry for the child, `MP_CHILD=…`.
    pub(crate) fn to_variable(&self) -> CString {
        let Claim {
            parent_pid,
            by_init,
            socket,
            arena,
            slot,
            generation,
            fingerprint,
            extra,
        } = self;
        let take_over = if *by_init { 'i' } else { 'c' };
        let maybe = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let arena = maybe(arena.map(|fd| fd.to_string()));
        let extra = maybe(extra.map(|extra| extra.to_string()));
        let entry = format!(
            "{VARIABLE}={PROTOCOL};{parent_pid};{take_over};{socket};{arena};{slot};{generation};\
             {fingerprint};{extra}"
        );
        CString::new(entry).expect("digits and punctuation hold no NUL")
    }

    /// Returns the parent that a value of the variable names, whatever its version.
    ///
    /// Never 0: that is the parent, and the maker of a socket, of whom the kernel does not tell, as
    /// where it is in another namespace.
    pub(super) fn parent_of(value: &str) -> Option<u32> {
        let parent = value.split(';').nth(1)?.parse().ok();
        parent.filter(|&parent| parent != 0)
    }

    /// Returns the socket that a value of the variable names, whatever its version.
    pub(super) fn socket_of(value: &str) -> Option<RawFd> {
        value.split(';').nth(3)?.parse().ok()
    }

    /// Reads a value of the variable.
    pub(super) fn parse(value: &str) -> Result<Claim, Unreadable> {
        let mut fields = value.split(';');
        let version = fields.next().unwrap_or_default();
        if version.parse() != Ok(PROTOCOL) {
            return Err(Unreadable::Version(version.to_owned()));
        }
        Claim::parse_fields(fields).ok_or_else(|| Unreadable::Value(value.to_owned()))
    }

    fn parse_fields<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<Claim> {
        let claim = Claim {
            parent_pid: next(&mut fields)?,
            by_init: match fields.next()? {
                "i" => true,
                "c" => false,
                _ => return None,
            },
            socket: next(&mut fields)?,
            arena: maybe(&mut fields)?,
            slot: next(&mut fields)?,
            generation: next(&mut fields)?,
            fingerprint: next(&mut fields)?,
            extra: maybe(&mut fields)?,
        };
        fields.next().is_none().then_some(claim)
    }
}

/// Reads the next of a value's fields.
fn next<'a, T: FromStr>(fields: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    fields.next()?.parse().ok()
}

/// Reads a field that may be empty.
fn maybe<'a, T: FromStr>(fields: &mut impl Iterator<Item = &'a str>) -> Option<Option<T>> {
    match fields.next()? {
        "-" => Some(None),
        text => Some(Some(text.parse().ok()?)),
    }
}

/// Why the variable can't be read, though it names our parent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Its protocol version, which is not ours.
    Version(String),
    /// The value, which is not in the format.
    Value(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Version(version) => write!(
                f,
                "the parent process speaks version {version:?} of mp's protocol and this \
                 executable version {PROTOCOL}: was it replaced while the program ran, or are two \
                 versions of mp in it?"
            ),
            Unreadable::Value(value) => write!(f, "{VARIABLE}={value:?} is not what mp writes"),
        }
    }
}

/// Identity of an executable file: two processes with equal fingerprints run the same build.
///
/// Displayed and parsed as `dev:ino:size:mtime_sec:mtime_nsec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Device that holds the file.
    pub(crate) dev: u64,
    /// The file's number on it.
    pub(crate) ino: u64,
    /// Bytes in it.
    pub(crate) size: u64,
    /// When it was last written: seconds since 1970.
    pub(crate) mtime_sec: i64,
    /// And nanoseconds.
    pub(crate) mtime_nsec: i64,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fingerprint {
            dev,
            ino,
            size,
            mtime_sec,
            mtime_nsec,
        } = self;
        write!(f, "{dev}:{ino}:{size}:{mtime_sec}:{mtime_nsec}")
    }
}

/// What is not a [`Fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Fingerprint, NotAFingerprint> {
        let mut fields = text.split(':');
        let mut read = || {
            Some(Fingerprint {
                dev: next(&mut fields)?,
                ino: next(&mut fields)?,
                size: next(&mut fields)?,
                mtime_sec: next(&mut fields)?,
                mtime_nsec: next(&mut fields)?,
            })
        };
        match read() {
            Some(fingerprint) if fields.next().is_none() => Ok(fingerprint),
            _ => Err(NotAFingerprint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Claim {
        Claim {
            parent_pid: 4711,
            by_init: false,
            socket: 5,
            arena: Some(4),
            slot: 17,
            generation: u32::MAX,
            fingerprint: Fingerprint {
                dev: u64::MAX,
                ino: 1,
                size: 2,
                mtime_sec: -3,
                mtime_nsec: 4,
            },
            extra: None,
        }
    }

    fn value(claim: &Claim) -> String {
        let entry = claim.to_variable().into_string().unwrap();
        entry.strip_prefix("MP_CHILD=").unwrap().to_owned()
    }

    #[test]
    fn a_claim_is_read_as_it_was_written() {
        let plain = example();
        let by_init = Claim {
            by_init: true,
            extra: Some(Extra::Pool(7)),
            ..example()
        };
        let server = Claim {
            extra: Some(Extra::ForkServer(8)),
            ..example()
        };
        let isolated = Claim {
            arena: None,
            extra: Some(Extra::Pool(7)),
            ..example()
        };
        for claim in [plain, by_init, server, isolated] {
            assert_eq!(Claim::parse(&value(&claim)), Ok(claim));
        }
    }

    #[test]
    fn the_parent_is_known_in_every_version() {
        assert_eq!(Claim::parent_of(&value(&example())), Some(4711));
        assert_eq!(Claim::parent_of("2;12"), Some(12));
        assert_eq!(Claim::parent_of("2;12;new:things"), Some(12));
        for nobody in ["", "1", ";", "1;", "1;x", "1;0;c;5", "yes"] {
            assert_eq!(Claim::parent_of(nobody), None, "{nobody:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(
            Claim::parse("2;12"),
            Err(Unreadable::Version("2".to_owned()))
        );
        let good = value(&example());
        let mut bad = vec![
            format!("{good};"),
            good.replace('c', "x"),
            good.replace(":1:", "::"),
        ];
        bad.extend((2..good.len()).map(|end| good[..end].to_owned()));
        for value in bad {
            assert_eq!(Claim::parse(&value), Err(Unreadable::Value(value.clone())));
        }
    }

    #[test]
    fn a_fingerprint_is_read_as_it_was_written() {
        let fingerprint = example().fingerprint;
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!("1:2:3:4".parse::<Fingerprint>(), Err(NotAFingerprint));
        assert_eq!("1:2:3:4:5:6".parse::<Fingerprint>(), Err(NotAFingerprint));
    }
}
