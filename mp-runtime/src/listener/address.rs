//! Where a program listens.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// Where a program listens: as a text `unix:/run/app.sock`, `abstract:app` or `tcp:localhost:7000`.
///
/// Functions that take an address take the text as well, a path, or a
/// [`SocketAddr`].
///
/// ```
/// let address: mp::Address = "tcp:localhost:7000".parse()?;
/// assert_eq!(address, mp::Address::Tcp("localhost:7000".to_owned()));
/// assert_eq!(address.to_string(), "tcp:localhost:7000");
/// # Ok::<(), mp::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Address {
    /// A Unix socket with a place in the file system, which is removed when its listener is dropped.
    Unix(PathBuf),
    /// A Unix socket with a name of its own, that no file shows. Linux only.
    Abstract(String),
    /// A TCP port, as `host:port`. For a listener port 0 is one that is free:
    /// [`Listener::address`](crate::Listener::address) tells which.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "abstract:{name}"),
            Self::Tcp(place) => write!(f, "tcp:{place}"),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("abstract", name)) if !name.is_empty() => Ok(Self::Abstract(name.to_owned())),
            Some(("tcp", place)) if place.contains(':') => Ok(Self::Tcp(place.to_owned())),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{text:?} is no address: there are unix:/some/path, abstract:some-name and \
                     tcp:host:port"
                ),
            )),
        }
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        text.parse()
    }
}

impl TryFrom<&String> for Address {
    type Error = Error;

    fn try_from(text: &String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<&Self> for Address {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address.to_string())
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

/// For what turns into an [`Address`] without fail.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
