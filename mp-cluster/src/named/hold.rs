//! What may be given up in the middle: if it is, what it may have taken is given back.

use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use mp::Error;

use super::cell::{Cell, State, Step, Until};
use super::cluster::Core;
use super::member::{Hold, Member};

/// Between two attempts to give something back, each of which is as patient as any call.
const PAUSE: Duration = Duration::from_secs(1);

/// A hold that is about to be taken, or was: dropping it gives it back.
pub(super) struct Claim<S: Release> {
    pub(super) cell: Cell,
    pub(super) member: Arc<Member>,
    pub(super) hold: Hold,
    /// What is stored when it is given back.
    pub(super) data: Option<Vec<u8>>,
    is_given: bool,
    marker: std::marker::PhantomData<fn(S)>,
}

/// A state of which something is held.
pub(super) trait Release: State + Send + 'static {
    /// Gives a hold back; whether it was there.
    fn release(&mut self, hold: &Hold) -> bool;
}

impl<S: Release> Claim<S> {
    pub(super) async fn new(cell: &Cell) -> Result<Self, Error> {
        let member = cell.core().member().await?;
        let hold = Hold {
            member: member.id.clone(),
            id: crate::random_name(),
        };
        Ok(Self {
            cell: cell.clone(),
            member,
            hold,
            data: None,
            is_given: false,
            marker: std::marker::PhantomData,
        })
    }

    /// Whether it is certain that nobody else was given what is held.
    pub(super) fn is_held(&self) -> bool {
        self.member.is_current()
    }

    /// Whether it is another's to take, since this process was taken for dead while it waited.
    pub(super) fn is_lost(&self) -> bool {
        self.member.is_dead()
    }

    /// It was not taken, or is not to be given back.
    pub(super) fn forget(mut self) {
        self.is_given = true;
    }

    /// Gives it back; whether it was there.
    pub(super) async fn give_back(mut self) -> Result<bool, Error> {
        let given = give_back::<S>(&self.cell, &self.hold, self.data.as_deref()).await;
        // Otherwise it is tried once more.
        self.is_given = given.is_ok();
        given
    }
}

async fn give_back<S: Release>(
    cell: &Cell,
    hold: &Hold,
    data: Option<&[u8]>,
) -> Result<bool, Error> {
    let given = cell.change::<S, _>(Until::Forever, |seen, _| {
        if !seen.state.release(hold) {
            return Step::Leave(false);
        }
        if let Some(data) = data {
            seen.data = data.to_vec();
        }
        Step::Write(true)
    });
    Ok(given.await?.is_some_and(|(was_held, _)| was_held))
}

impl<S: Release> Drop for Claim<S> {
    fn drop(&mut self) {
        if self.is_given {
            return;
        }
        let (cell, hold, member) = (self.cell.clone(), self.hold.clone(), self.member.clone());
        let data = self.data.take();
        let core: Arc<Core> = cell.core().clone();
        let (giving, given) = std_mpsc::channel::<()>();
        core.spawn(async move {
            // While this process lives nobody else may give it back, however long the server is away.
            while give_back::<S>(&cell, &hold, data.as_deref()).await.is_err() && !member.is_dead()
            {
                tokio::time::sleep(PAUSE).await;
            }
            drop(giving);
        });
        // So that whoever drops it and looks finds it given back.
        if core.is_connected() {
            let _ = given.recv_timeout(core.timeout);
        }
    }
}
