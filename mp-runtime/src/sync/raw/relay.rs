//! Beside a bell at which many wait for jobs in a row: whoever was woken wakes the next.
//!
//! To wake somebody takes a system call, and on the same CPU the one that calls is put aside for it.
//! Who puts jobs in a row, one after the other, would come to one job each time. So for a job behind
//! others it wakes nobody while the one that it woke for those is on its way: that one looks at the row
//! once it is there, and wakes another if it leaves something.
//!
//! What is woken may never come: it is killed, and then its killer rings the bell; or it is stopped, and
//! then it is believed in for a moment only, and who has left a job to it looks again.

use super::{Bell, Peers};
use crate::loom::{AtomicU64, Ordering, fence};

/// Nanoseconds for which one that was woken is believed to be on its way.
const MOMENT: u64 = 1_000_000;

/// Who is on its way. All zeros is nobody.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Relay {
    /// When it was woken, by the monotonic clock; zero if it has arrived.
    since: AtomicU64,
}

impl Relay {
    /// Whether somebody is on its way, as far as is known, who will see what the caller has put by the time
    /// `now`. It is to be believed only if, by a look after this, something before that was not taken: a
    /// ring that woke nobody, since who listened took it without sleeping, is taken down by nobody. Who is
    /// about to sleep looks first at how much was taken, then passes a fence, then looks at how much was put.
    pub(crate) fn carries(&self, now: u64) -> bool {
        // SeqCst: pairs with the fence in `arrive`. Either who arrives sees what was put, or we see that
        // nobody is on its way any more.
        fence(Ordering::SeqCst);
        let since = self.since.load(Ordering::Relaxed);
        since != 0 && now < since.saturating_add(MOMENT)
    }

    /// Wakes one of those who wait at `bell`, if somebody does.
    #[inline]
    pub(crate) fn ring(
        &self,
        bell: &Bell,
        peers: &(impl Peers + ?Sized),
        now: impl FnOnce() -> u64,
    ) {
        // SeqCst: pairs with the fence in `Bell::listen`.
        fence(Ordering::SeqCst);
        if bell.is_awaited() {
            // Before the ring: it is taken down by whom that wakes.
            self.since.store(now().max(1), Ordering::Relaxed);
            bell.ring(peers, 1);
        }
    }

    /// Notes that the caller has slept at the bell and looks from here on.
    pub(crate) fn arrive(&self) {
        self.since.store(0, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `carries`.
        fence(Ordering::SeqCst);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::super::model::World;
    use super::*;
    use crate::deadline::Deadline;
    use crate::loom::AtomicU32;

    /// A row of jobs: how many were put and how many were taken.
    struct Row {
        put: AtomicU32,
        taken: AtomicU32,
        relay: Relay,
        bell: Bell,
        world: World,
    }

    impl Row {
        fn put(&self, slot: u32) {
            let put = self.put.fetch_add(1, Ordering::Release);
            if !(self.relay.carries(1) && self.taken.load(Ordering::Acquire) < put) {
                self.relay.ring(&self.bell, &self.world.process(slot), || 1);
            }
        }

        fn has_more(&self) -> bool {
            self.put.load(Ordering::Acquire) > self.taken.load(Ordering::Acquire)
        }

        fn take(&self) -> bool {
            self.taken
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
                    (taken < self.put.load(Ordering::Acquire)).then_some(taken + 1)
                })
                .is_ok()
        }

        /// Takes one, and is busy with it for good.
        fn work(&self, slot: u32) {
            let me = self.world.process(slot);
            let mut has_slept = false;
            loop {
                if self.take() {
                    if has_slept && self.has_more() {
                        self.relay.ring(&self.bell, &me, || 1);
                    }
                    return;
                }
                let ticket = self.bell.listen();
                let taken = self.taken.load(Ordering::Acquire);
                fence(Ordering::SeqCst);
                if self.put.load(Ordering::Acquire) <= taken {
                    self.bell.wait(&me, ticket, Deadline::NEVER);
                    self.relay.arrive();
                    has_slept = true;
                }
            }
        }
    }

    #[test]
    fn each_job_gets_a_worker_though_not_each_wakes_one() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let row = Arc::new(Row {
                put: AtomicU32::new(0),
                taken: AtomicU32::new(0),
                relay: Relay {
                    since: AtomicU64::new(0),
                },
                bell: Bell::new(),
                world: World::new(),
            });
            let workers: Vec<_> = (1..3)
                .map(|slot| {
                    let row = row.clone();
                    thread::spawn(move || row.work(slot))
                })
                .collect();
            row.put(0);
            row.put(0);
            for worker in workers {
                worker.join().unwrap();
            }
        });
    }
}
