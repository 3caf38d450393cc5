//! Who is alive, who sleeps where, and what a death sets free. The protocol is in
//! `life/README.md`.
//!
//! There is one mechanism for death. Every process of a program has a slot with a generation; lock
//! words, blocks and holds name slot and generation; when a process is gone its slot's generation
//! moves on, which makes all of them stale at once, and everybody who sleeps where it slept wakes.
//!
//! - [`slot`]: a process's slot: identity, generation, threads and what they sleep on.
//! - [`roster`]: all slots; who we are; sleeping and waking ([`Peers`](crate::sync::raw::Peers)).
//! - [`mod@program`]: the arena that all processes of a program share, made or attached to.
//! - [`mark`]: a lock that says who died with it.
//! - [`reap`]: what a death sets free, and who sees to it.
//! - [`whereabouts`]: on which CPU somebody runs, for those who look for what it does.

pub(crate) mod mark;
pub(crate) mod program;
mod reap;
pub(crate) mod roster;
pub(crate) mod slot;
mod whereabouts;

pub(crate) use self::program::{Program, program};
pub(crate) use self::roster::Roster;
pub(crate) use self::slot::Slot;
pub(crate) use self::whereabouts::Whereabouts;
