//! A pool that ends in good order: what workers are at is finished, the rest is cancelled.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::Pool;
use super::inner::{Inner, Stop, lock};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::life::program::is_forked;
use crate::sys;

impl Pool {
    /// Ends the pool, but lets the workers finish the jobs they are at, for at most `grace`; then it
    /// does as [`terminate`](Self::terminate). Returns whether they all did.
    ///
    /// Calls under way return when it is over. Items that no worker has begun fail as
    /// [cancelled](crate::TaskError::is_cancelled), without having
    /// [started](crate::TaskError::may_have_started); every result that was finished is there.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// #[mp::task]
    /// fn square(x: u64) -> u64 {
    ///     x * x
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = mp::Pool::new(2)?;
    /// let job = pool.map_async(square, 0..1000)?;
    /// assert!(pool.drain(Duration::from_secs(60)));
    /// match job.wait() {
    ///     Ok(squares) => assert_eq!(squares.len(), 1000),
    ///     Err(error) => assert!(error.task().unwrap().is_cancelled()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn drain(&self, grace: Duration) -> bool {
        if is_forked() {
            return false;
        }
        self.refuse_inside("drain");
        self.inner.begin_drain();
        let is_drained = self.inner.wait_for_crew(Deadline::after(grace));
        self.inner.end();
        is_drained
    }
}

impl Inner {
    /// Ends the pool at once.
    pub(super) fn end(&self) {
        self.set_stop(Stop::Terminated);
        self.kill_crew();
        self.wait_for_crew(Deadline::after(super::END_TIMEOUT));
        self.end_desk();
    }
}

/// The pools that are drained when this process is asked to end.
struct Watch {
    /// The signals' handler adds to it.
    counter: OwnedFd,
    pools: Mutex<Vec<(Weak<Inner>, Duration)>>,
}

/// Has `pool` drained, for at most `grace`, when this process is asked to end.
pub(super) fn drain_on_signals(pool: &Arc<Inner>, grace: Duration) -> Result<(), Error> {
    static WATCH: Mutex<Option<&'static Watch>> = Mutex::new(None);

    let failed = |error| Error::system("could not prepare for signals", error);
    let mut existing = lock(&WATCH);
    let watch = match *existing {
        Some(watch) => watch,
        None => *existing.insert(start().map_err(failed)?),
    };
    drop(existing);
    let signals = [
        (sys::signal::TERMINATE, "SIGTERM"),
        (sys::signal::INTERRUPT, "SIGINT"),
    ];
    for (signal, name) in signals {
        if !sys::signal::announce(signal, &watch.counter).map_err(failed)? {
            let text = format!(
                "this program handles {name} itself: call `Pool::drain` when it comes, instead of \
                 `drain_on_signals`"
            );
            return Err(Error::new(ErrorKind::Other, text));
        }
    }
    let mut pools = lock(&watch.pools);
    pools.retain(|(pool, _)| pool.strong_count() > 0);
    pools.push((Arc::downgrade(pool), grace));
    Ok(())
}

/// Starts the thread that drains pools, which lives as long as the process.
fn start() -> std::io::Result<&'static Watch> {
    let watch: &Watch = Box::leak(Box::new(Watch {
        counter: sys::fd::event_counter()?,
        pools: Mutex::default(),
    }));
    std::thread::Builder::new()
        .name("mp-signals".into())
        .spawn(move || {
            loop {
                if sys::fd::wait_readable(&[watch.counter.as_fd()], None).unwrap_or(false) {
                    sys::fd::clear_events(&watch.counter);
                    drain_all(watch);
                }
            }
        })?;
    Ok(watch)
}

/// Drains all pools at the same time.
fn drain_all(watch: &Watch) {
    let pools = std::mem::take(&mut *lock(&watch.pools));
    let mut draining = Vec::new();
    for (pool, grace) in pools {
        if let Some(pool) = pool.upgrade() {
            pool.begin_drain();
            draining.push((pool, Deadline::after(grace)));
        }
    }
    for (pool, deadline) in draining {
        pool.wait_for_crew(deadline);
        pool.end();
    }
}
