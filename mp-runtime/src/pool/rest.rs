//! The pause of a pool whose workers came to nothing, before more are started: a thread that is there
//! while one lasts.

use std::sync::Weak;
use std::time::Duration;

use super::inner::{Inner, lock};
use super::supervisor::Crew;
use crate::deadline::Deadline;

impl Inner {
    /// Has no workers started for so long, and then those that are lacking.
    pub(super) fn rest_crew(&self, crew: &mut Crew, pause: Duration) {
        let is_resting = crew.rest.is_some();
        let Some(pool) = self.this.get().and_then(Weak::upgrade) else {
            return;
        };
        crew.rest = Some(Deadline::after(pause));
        if is_resting {
            return;
        }
        let thread = std::thread::Builder::new()
            .name("mp-pool-rest".into())
            .spawn(move || pool.wait_for_rest());
        if thread.is_err() {
            // Too early rather than never.
            crew.rest = None;
        }
    }

    /// Has those look again who wait for the end of the pause, or of the workers: none are needed.
    pub(super) fn end_rest(&self) {
        // Under the lock, so that nobody is between the look and the sleep.
        let _crew = lock(&self.crew);
        self.crew_changed.notify_all();
    }

    fn wait_for_rest(&self) {
        let mut crew = lock(&self.crew);
        while let Some(rest) = crew.rest
            && !rest.has_passed()
            && self.needs_workers()
        {
            let left = rest.remaining().unwrap_or_default();
            let waited = self.crew_changed.wait_timeout(crew, left);
            (crew, _) = waited.unwrap_or_else(|poison| poison.into_inner());
        }
        crew.rest = None;
        drop(crew);
        self.start_lacking();
    }
}
