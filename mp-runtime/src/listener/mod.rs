//! Connections between programs that are not parent and child.
//!
//! - [`address`]: where a program listens.
//! - [`key`]: the secret that both programs know.
//! - [`handshake`]: how both sides prove that they know it, before anything else is read.
//! - [`stream`]: bytes of a Unix or TCP socket until a deadline.
//! - [`client`]: messages over it, typed.
//! - [`accept`]: the side that listens.
//!
//! The protocol is in `listener/README.md`.

mod accept;
mod address;
mod client;
mod handshake;
mod key;
mod stream;

pub use self::accept::Listener;
pub(crate) use self::accept::SocketFile;
pub use self::address::Address;
pub use self::client::{Client, ConnectionOptions};
pub use self::key::Key;
