//! Both sides prove that they know the key before anything else is read.
//!
//! Every part has a fixed size, so a stranger can make us keep a few bytes and no more.

use hmac_sha256::HMAC;

use super::key::Key;
use super::stream::{self, Stream, Written};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::sys;

/// What the first bytes of both sides are.
const MAGIC: [u8; 8] = *b"mp\0link\n";
/// Changes with the handshake, the frames and the encoding of values.
const VERSION: u32 = 1;
/// Bytes that make each handshake differ from all others.
const NONCE: usize = 32;
/// Magic, version, nonce.
const HELLO: usize = MAGIC.len() + size_of::<u32>() + NONCE;
/// Bytes of a proof.
const PROOF: usize = 32;

/// The listener's first byte after the client's proof: it holds.
const ACCEPTED: u8 = 1;
/// It does not: the keys differ.
const REFUSED: u8 = 2;

/// Which side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Listener,
    Client,
}

impl Side {
    /// What a proof of this side begins with: one side's is none of the other's.
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Listener => b"mp: proof of the listener",
            Self::Client => b"mp: proof of the client",
        }
    }

    /// How the other side is called in messages.
    const fn other(self) -> &'static str {
        match self {
            Self::Listener => "the client",
            Self::Client => "the listener",
        }
    }
}

/// Proves to the other side that we know the key, and has it prove the same.
pub(super) fn shake(
    stream: &Stream,
    key: &Key,
    side: Side,
    deadline: Deadline,
) -> Result<(), Error> {
    let shaking = Shaking {
        stream,
        side,
        deadline,
    };
    let ours = hello()?;
    shaking.write(&ours)?;
    let theirs = shaking.read_hello()?;
    let (of_listener, of_client) = match side {
        Side::Listener => (&ours, &theirs),
        Side::Client => (&theirs, &ours),
    };
    let claim = |side: Side| [side.label(), of_listener, of_client].concat();
    match side {
        Side::Client => {
            shaking.write(&HMAC::mac(claim(Side::Client), key.as_bytes()))?;
            if shaking.read::<1>()? != [ACCEPTED] {
                return Err(refused(
                    "the listener refused us: it has another key than we",
                ));
            }
            if !HMAC::verify(claim(Side::Listener), key.as_bytes(), &shaking.read()?) {
                return Err(refused(
                    "the listener has another key than we, and pretended to have ours",
                ));
            }
        }
        Side::Listener => {
            if !HMAC::verify(claim(Side::Client), key.as_bytes(), &shaking.read()?) {
                // It may be gone by now; then there is nobody to tell.
                let _ = shaking.write(&[REFUSED]);
                return Err(refused("a client was refused: it has another key than we"));
            }
            let mut answer = [ACCEPTED; 1 + PROOF];
            answer[1..].copy_from_slice(&HMAC::mac(claim(Side::Listener), key.as_bytes()));
            shaking.write(&answer)?;
        }
    }
    Ok(())
}

/// Our first bytes.
fn hello() -> Result<[u8; HELLO], Error> {
    let mut hello = [0; HELLO];
    let (magic, rest) = hello.split_at_mut(MAGIC.len());
    let (version, nonce) = rest.split_at_mut(size_of::<u32>());
    magic.copy_from_slice(&MAGIC);
    version.copy_from_slice(&VERSION.to_le_bytes());
    sys::net::random(nonce)
        .map_err(|error| Error::system("could not get random bytes for a handshake", error))?;
    Ok(hello)
}

fn refused(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused, text)
}

/// A handshake under way.
struct Shaking<'a> {
    stream: &'a Stream,
    side: Side,
    deadline: Deadline,
}

impl Shaking<'_> {
    fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        match self.stream.write(bytes, &[], self.deadline) {
            Ok(Written::Whole) => Ok(()),
            Ok(_) => Err(self.late()),
            Err(error) if stream::is_end(&error) => Err(self.ended()),
            Err(error) => {
                let other = self.side.other();
                Err(Error::system(
                    format!("could not write the handshake to {other}"),
                    error,
                ))
            }
        }
    }

    fn late(&self) -> Error {
        Error::new(
            ErrorKind::TimedOut,
            format!("{} did not finish the handshake in time", self.side.other()),
        )
    }

    fn ended(&self) -> Error {
        refused(format!(
            "{} ended in the handshake: it is no mp program, or refused ours",
            self.side.other()
        ))
    }

    /// Reads so many bytes.
    fn read<const N: usize>(&self) -> Result<[u8; N], Error> {
        let other = self.side.other();
        let mut bytes = [0; N];
        let mut got = 0;
        while got < N {
            match self.stream.read(&mut bytes[got..], self.deadline) {
                Ok(Some(0)) => return Err(self.ended()),
                Ok(Some(more)) => got += more,
                Ok(None) => return Err(self.late()),
                Err(error) => {
                    return Err(Error::system(
                        format!("could not read the handshake of {other}"),
                        error,
                    ));
                }
            }
        }
        Ok(bytes)
    }

    /// Reads the first bytes of the other side, and refuses it as soon as they are wrong.
    fn read_hello(&self) -> Result<[u8; HELLO], Error> {
        let other = self.side.other();
        let magic: [u8; MAGIC.len()] = self.read()?;
        if magic != MAGIC {
            return Err(refused(format!(
                "{other} is a stranger: it does not speak mp's protocol"
            )));
        }
        let version = self.read()?;
        if u32::from_le_bytes(version) != VERSION {
            return Err(refused(format!(
                "{other} speaks version {} of mp's protocol, and we version {VERSION}: build both \
                 programs with the same version of mp",
                u32::from_le_bytes(version)
            )));
        }
        let nonce: [u8; NONCE] = self.read()?;
        let mut hello = [0; HELLO];
        hello[..MAGIC.len()].copy_from_slice(&magic);
        hello[MAGIC.len()..][..version.len()].copy_from_slice(&version);
        hello[HELLO - NONCE..].copy_from_slice(&nonce);
        Ok(hello)
    }
}
