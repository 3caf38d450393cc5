//! A pool that is drained: what an agent has is finished, the rest is given back.

use std::time::{Duration, Instant};

use super::out::Outstanding;
use super::{CLOSING, State};
use crate::link::PROGRESS;

/// How long agents have to say that they are at what the server was told to forget.
const CLAIM: Duration = PROGRESS.saturating_mul(2);

impl State {
    pub(super) async fn drain(&mut self) {
        self.is_draining = true;
        self.look_after_draining().await;
    }

    /// Has the server forget what waits, and gives back what no agent says that it has.
    pub(super) async fn look_after_draining(&mut self) {
        if !self.is_draining || !self.link.is_connected() {
            return;
        }
        let Some(emptied) = self.emptied else {
            let mine = self.link.names.tasks_of_pool(&self.pool);
            let purge = self.stream.purge().filter(mine).into_future();
            if let Ok(Ok(_)) = tokio::time::timeout(CLOSING, purge).await {
                self.emptied = Some(Instant::now());
            }
            return;
        };
        if emptied.elapsed() < CLAIM {
            return;
        }
        let now = Instant::now();
        let is_nowhere = |out: &Outstanding| !out.is_fetching && !out.is_at_work(now);
        for (_, out) in self.out.extract_if(|_, out| is_nowhere(out)) {
            match out.at_work {
                None => out.shipment.give_back(),
                Some(_) => out.shipment.lose(
                    "who had it has not been heard of for a while, and the pool is being drained",
                ),
            }
        }
    }
}
