//! Linux, on x86_64 and aarch64. The contract of these files is [`crate::sys`].

pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod ending;
pub(crate) mod fd;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod packet;
pub(crate) mod poll;
pub(crate) mod process;
mod recent;
mod result;
pub(crate) mod rlimit;
#[cfg(feature = "sandbox")]
pub(crate) mod sandbox;
pub(crate) mod signal;
pub(crate) mod startup;

pub(crate) use libc::{ENOMEM, ESRCH};
