//! Waiting until what was put has been done.

use std::time::Duration;

use mp::__private::{join_failed, join_timed_out, too_often_done};
use mp::{Error, JoinTimeoutError};
use serde::{Deserialize, Serialize};

use super::super::cell::{Seen, State, Step, Until};
use super::super::member::Swapped;
use super::{POLL, Queue};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Done {
    done: u64,
}

impl State for Done {
    fn members(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl<T> Queue<T> {
    /// Tells that the work on one item that was got is finished, for [`join`](Self::join).
    ///
    /// # Errors
    ///
    /// If it was called as often as items were put already, and as of [`len`](Self::len).
    pub fn task_done(&self) -> Result<(), Error> {
        let count = async {
            let mut put = 0;
            loop {
                let mut seen = self.cell.read::<Done>().await?;
                if seen.state.done >= put {
                    // Asked after that: all that is done was put before.
                    put = self.info().await?.state.last_sequence;
                    if seen.state.done >= put {
                        return Ok(false);
                    }
                }
                seen.state.done += 1;
                if let Swapped::Done(_) = self.cell.write(&seen).await? {
                    return Ok(true);
                }
            }
        };
        match self.run(count)? {
            true => Ok(()),
            false => Err(Error::from(too_often_done())),
        }
    }

    /// Waits until [`task_done`](Self::task_done) was called for every item that was put.
    ///
    /// # Errors
    ///
    /// As of [`len`](Self::len).
    ///
    /// # When a process dies
    ///
    /// What it had got and not finished is never reported as done: use
    /// [`join_timeout`](Self::join_timeout) where processes may die.
    #[doc(alias = "JoinableQueue")]
    pub fn join(&self) -> Result<(), Error> {
        self.await_done(Until::Forever).map(drop)
    }

    /// As [`join`](Self::join), but waits at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`JoinTimeoutError`] tells how many items were not done in time.
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), JoinTimeoutError> {
        match self.await_done(Until::after(timeout)) {
            Ok(0) => Ok(()),
            Ok(left) => Err(join_timed_out(left)),
            Err(error) => Err(join_failed(error)),
        }
    }

    /// Waits until all is done, and returns how many items are not.
    fn await_done(&self, until: Until) -> Result<u64, Error> {
        let wait = async {
            loop {
                let put = self.info().await?.state.last_sequence;
                let step = until.left(2 * POLL);
                let done = self
                    .cell
                    .change(Until::after(step), |seen: &mut Seen<Done>, _| {
                        let left = put.saturating_sub(seen.state.done);
                        match left {
                            0 => Step::Leave(0),
                            _ if step.is_zero() => Step::Leave(left),
                            _ => Step::Wait,
                        }
                    });
                match done.await? {
                    Some((left, _)) if left > 0 => return Ok(left),
                    Some(_) if self.info().await?.state.last_sequence == put => return Ok(0),
                    _ => {}
                }
            }
        };
        self.cell.cluster.run(wait)
    }
}
