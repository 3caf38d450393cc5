//! One child: what it is to do, how it is started, and what came of it.
//!
//! - [`builder`]: [`Process`], a call that is yet to be made.
//! - [`environment`], [`stdio`]: what a child has for its environment, and what it gets as its standard
//!   streams.
//! - [`spawn`]: the parent's half of a start: reserve, describe, launch.
//! - [`launcher`]: the thread that starts children.
//! - [`method`]: by which of two ways children come into being.
//! - [`fork_server`]: the parent's half of a start by the fork server: keeping one; [`copies`]: asking it
//!   for copies, and making children of them; [`zygote`]: that server's half; [`order`]: what passes
//!   between them.
//! - [`supervisor`]: the thread that watches them and settles what a death leaves.
//! - [`running`]: a child as its parent's threads share it.
//! - [`join`]: [`Child`], and waiting for its result.
//! - [`limits`]: how much a child may use, and what its end says about that.
//! - [`message`]: what a child is told once it runs.
//! - [`child`]: the child's half: take over, run, report, exit.
//! - [`identity`]: who we are, and who our parent and children are.
//! - [`mod@scope`]: children that do not outlive a call.
//!
//! The protocols are in `process/README.md`.

mod builder;
pub(crate) mod child;
mod command;
mod copies;
mod environment;
mod fork_server;
mod identity;
mod join;
mod launcher;
pub(crate) mod limits;
pub(crate) mod message;
pub(crate) mod method;
mod order;
pub(crate) mod running;
#[cfg(feature = "sandbox")]
pub(crate) mod sandbox;
mod scope;
pub(crate) mod spawn;
mod stdio;
pub(crate) mod supervisor;
mod zygote;

pub use self::builder::Process;
pub use self::child::init;
pub use self::command::command;
pub use self::fork_server::preload;
pub use self::identity::{
    ActiveChild, CurrentProcess, ParentProcess, active_children, cpu_count, current_process,
    parent_process,
};
pub use self::join::Child;
pub use self::method::{StartMethod, set_start_method, start_method};
pub use self::scope::{Scope, scope};
pub use self::stdio::Stdio;
