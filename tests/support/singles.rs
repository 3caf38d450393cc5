//! A pool whose items go one by one and share jobs, and an item that waits for all others.

use mp::{Event, Pool, PoolBuilder, Value};

/// Many enough to share jobs after the first.
pub const MANY: u64 = 20_000;

/// What the tasks of a pool have in common.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Common {
    /// Items that were begun.
    pub runs: Value<u64>,
    /// Set when all but the one were.
    pub others: Event,
}

impl Common {
    pub fn new() -> Self {
        Self {
            runs: Value::new(0).unwrap(),
            others: Event::new().unwrap(),
        }
    }
}

#[mp::task]
fn share(common: Common) {
    mp::set_worker_state(common);
}

/// With two workers, each of which has `common` for its state.
pub fn builder(common: &Common) -> PoolBuilder {
    let mut builder = Pool::builder();
    builder.workers(2).chunk_size(1);
    builder.initializer(share, (common.clone(),));
    builder
}

/// The one that waits for all others.
pub const SLOW: u64 = MANY / 2 + 77;

#[mp::task]
pub fn wait_if_slow(n: u64) -> u64 {
    let common = mp::worker_state::<Common>();
    if common.runs.fetch_add(1) + 1 == MANY {
        common.others.set();
    }
    if n == SLOW {
        common.others.wait();
    }
    n + 1
}
