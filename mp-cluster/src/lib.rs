#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod agent;
mod blobs;
mod broadcast;
mod build;
mod connection;
mod data;
mod errand;
mod error;
mod fault;
mod health;
mod link;
mod message;
pub mod named;
mod names;
mod pace;
mod pulls;
mod roll;
mod submitter;

use std::sync::Arc;

#[doc(hidden)]
pub use mp::__private;
pub use mp::*;

use mp::__private::{Connector, build_remote, inventory};
use ring::rand::{SecureRandom, SystemRandom};

use self::blobs::Blobs;
use self::build::Build;
pub use self::connection::Connection;
use self::link::Link;
use self::names::Names;
use self::submitter::Submitter;

/// Makes pools whose workers are on other machines.
pub trait Connect {
    /// Makes the pool: its calls are run by the workers that are connected to the same server, and
    /// are of the same build.
    ///
    /// What the builder says of the workers themselves (how many there are, their limits, their
    /// initializer) is for the process that has them: see [`worker`]. In a process that was started
    /// with `MP_ROLE=worker` this does not return: it serves, with these settings.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, is too old or has no JetStream, if it refuses us, or if there
    /// are not as many workers as [`Connection::wait_for_workers`] says, one if it says nothing.
    ///
    /// # When a process dies
    ///
    /// A worker that dies fails the item that it was at, as in any pool. When a whole machine dies
    /// its items are run again elsewhere, five seconds later; so an item may be run twice, and its
    /// outcome is seen once. When the server ends, calls go on once it is back, and what it has
    /// forgotten is sent again. Without a server, or without any worker, calls fail after
    /// [`Connection::patience`]. When this process ends, the workers stop what they are at for it.
    fn connect(&self, connection: impl Into<Connection>) -> Result<Pool>;
}

impl Connect for PoolBuilder {
    fn connect(&self, connection: impl Into<Connection>) -> Result<Pool> {
        let connection = connection.into();
        if is_worker()? {
            serve(&connection, self);
        }
        let submitter = Submitter::start(&connection)?;
        build_remote(self, Arc::new(submitter))
    }
}

/// Serves the pools that are connected to the same server and are of the same build, with a worker
/// for each processor, until it is told to end: SIGTERM and SIGINT let it finish what it is at.
///
/// # Errors
///
/// If the server cannot be reached, is too old or has no JetStream, or if it refuses us; later, if
/// workers die at once, again and again. A server that ends later is waited for.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> mp::Result<()> {
/// mp_cluster::worker("tls://nats.example.org")?;
/// # Ok(())
/// # }
/// ```
pub fn worker(connection: impl Into<Connection>) -> Result<()> {
    worker_with(connection, &Pool::builder())
}

/// As [`worker`], with the workers that a builder describes.
///
/// # Errors
///
/// As of [`worker`] and [`PoolBuilder::build`].
///
/// # Examples
///
/// ```no_run
/// # fn main() -> mp::Result<()> {
/// let mut workers = mp::Pool::builder();
/// workers.workers(4).memory_limit(1 << 30);
/// mp_cluster::worker_with("nats://127.0.0.1:4222", &workers)?;
/// # Ok(())
/// # }
/// ```
pub fn worker_with(connection: impl Into<Connection>, workers: &PoolBuilder) -> Result<()> {
    agent::serve(&connection.into(), workers)
}

/// Makes on the server what pools and workers of a namespace need: a stream for their tasks, an
/// object store for what is large, and two key-value stores for what is shared by name.
///
/// Whoever may make them does so when they are missed. Where the server's permissions let neither
/// pools nor workers do it, as with the roles in `deploy/nats.conf`, an administrator does, once.
///
/// # Errors
///
/// If the server cannot be reached, is too old or has no JetStream, or if it refuses us.
///
/// # Examples
///
/// ```no_run
/// use mp_cluster::Connection;
///
/// # fn main() -> mp::Result<()> {
/// # let password = String::new();
/// let mut connection = Connection::new("tls://nats.example.org");
/// mp_cluster::prepare(connection.user("admin", password))?;
/// # Ok(())
/// # }
/// ```
pub fn prepare(connection: impl Into<Connection>) -> Result<()> {
    let connection = connection.into();
    let names = Names::new(&connection.namespace, Build::of(&connection)?);
    let runtime = runtime()?;
    let prepared = runtime.block_on(async {
        let (changed, _changes) = tokio::sync::mpsc::unbounded_channel();
        let link = Link::open(&connection, names, changed).await?;
        link.stream().await?;
        named::prepare(&link).await?;
        Blobs::new(&link).prepare().await
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    prepared
}

/// Has `Pool::new` and `PoolBuilder::build` use the cluster that the environment names.
fn connector(builder: &PoolBuilder) -> Option<Result<Pool>> {
    match Connection::from_env() {
        Ok(None) => match is_worker() {
            Ok(false) => None,
            Ok(true) => {
                let text = "MP_ROLE=worker needs the address to serve at in MP_CLUSTER";
                Some(Err(error::cluster(text)))
            }
            Err(error) => Some(Err(error)),
        },
        Ok(Some(connection)) => Some(builder.connect(connection)),
        Err(error) => Some(Err(error)),
    }
}

inventory::submit! { Connector(connector) }

/// Whether this process is to serve.
fn is_worker() -> Result<bool> {
    if !current_process().is_main() {
        return Ok(false);
    }
    match std::env::var("MP_ROLE").as_deref() {
        Err(_) | Ok("" | "submitter") => Ok(false),
        Ok("worker") => Ok(true),
        Ok(other) => {
            let text = format!("MP_ROLE is worker or submitter, not {other:?}");
            Err(error::cluster(text))
        }
    }
}

/// Serves, in the place of the rest of the program.
fn serve(connection: &Connection, builder: &PoolBuilder) -> ! {
    match agent::serve(connection, builder) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("mp worker: {error:#}");
            std::process::exit(1);
        }
    }
}

/// What a thread with a connection runs on.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error::cluster(format!("could not prepare the connection: {error}")))
}

/// A name that nothing else has.
fn random_name() -> String {
    let mut bytes = [0; 8];
    // The system's generator fails on no system that runs us.
    let _ = SystemRandom::new().fill(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}

/// What this machine is called.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}
