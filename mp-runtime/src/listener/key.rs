//! The secret that two programs share.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::sys;

/// The secret by which two programs know each other, see [`Listener`](crate::Listener).
///
/// It never travels over a connection: each side proves that it has it. `Debug` does not show it.
///
/// ```
/// let key = mp::Key::random()?;
/// let same = mp::Key::new(key.as_bytes())?; // as the other program reads it from a file
/// assert!(mp::Key::new("abc").is_err());
/// # assert_eq!(same.as_bytes(), key.as_bytes());
/// # Ok::<(), mp::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Key(Vec<u8>);

impl Key {
    /// Bytes that a key has at least: who pretends to be a listener may try shorter ones.
    const LEAST: usize = 16;
    /// Bytes of a random key.
    const RANDOM: usize = 32;

    /// Takes the bytes of a key. They are best random, as those of [`random`](Self::random) are.
    ///
    /// # Errors
    ///
    /// If they are fewer than 16.
    #[doc(alias = "authkey")]
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, Error> {
        let bytes = bytes.as_ref();
        if bytes.len() < Self::LEAST {
            return Err(Error::new(
                ErrorKind::Other,
                format!(
                    "a key of {} bytes can be guessed: take 16 or more, or mp::Key::random()",
                    bytes.len()
                ),
            ));
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Makes a key of 32 random bytes.
    ///
    /// # Errors
    ///
    /// If the system has none to give.
    pub fn random() -> Result<Self, Error> {
        let mut bytes = [0; Self::RANDOM];
        sys::net::random(&mut bytes)
            .map_err(|error| Error::system("could not make a random key", error))?;
        Ok(Self(bytes.to_vec()))
    }

    /// Its bytes, to be handed to the other program.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes)", self.0.len())
    }
}
