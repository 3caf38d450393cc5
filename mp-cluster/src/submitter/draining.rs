//! A pool that is drained: what an agent has is finished, the rest is given back.

use std::time::{Duration, Instant};

use super::out::Message;
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
        let is_nowhere = |_, out: &Message| !out.is_fetching && !out.is_at_work(now);
        for id in self.out.ids(is_nowhere) {
            let was_at_work = self
                .out
                .get_mut(id)
                .is_some_and(|out| out.at_work.is_some());
            for shipment in self.out.remove(id) {
                match was_at_work {
                    false => shipment.give_back(),
                    true => shipment.lose(
                        "who had it has not been heard of for a while, and the pool is being \
                         drained",
                    ),
                }
            }
        }
    }
}
