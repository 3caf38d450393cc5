//! How many items make a job: few enough to spread, many enough not to be felt.

use std::time::Duration;

use super::job::MOST_ITEMS;

/// What a job should take: long against what it costs to hand it over, short against what a
/// caller would notice.
const TARGET: Duration = Duration::from_millis(1);
/// So many times as long a job may take while many such jobs are left: whoever hands it over, takes its
/// results and sleeps meanwhile does so less often, and there is enough behind it to make up for one that
/// takes longer than was thought.
const STRETCH: u64 = 4;
/// The same where jobs go to another machine.
const REMOTE_TARGET: Duration = Duration::from_millis(20);
/// The same where items are together only for speed: what is taken away again is handed over anew.
const LOOSE_TARGET: Duration = Duration::from_micros(100);
/// Work that is out at once for each worker on another machine: more than it does while word of a
/// result travels there and back.
const REMOTE_LEAD: Duration = Duration::from_millis(5);
/// What a job takes at least if there are items for it: as long as it may cost to hand it over.
const LEAST: Duration = Duration::from_micros(20);
/// How much larger the next job may be than those whose time is known.
const GROWTH: u64 = 8;
/// Items of a job at most; elsewhere its time and its bytes are what bounds it.
pub(super) const MAX_ITEMS: u64 = 16 * 1024;
/// Bytes of items after which a job is full; a larger item is a job of its own.
pub(super) const MAX_BYTES: usize = 256 * 1024;

/// Sizes the jobs of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizer {
    /// A size that was asked for, which stays.
    fixed: Option<u64>,
    /// No job is larger.
    most: u64,
    /// Jobs into which what is left should be cut at least.
    shares: u64,
    size: u64,
    /// Nanoseconds that an item takes, as far as is known.
    each: Option<f64>,
    /// What a job should take.
    target: Duration,
    /// Items of a job at most, whatever they take.
    ceiling: u64,
    /// Work that should be out at once for each worker, where that is more than its next job.
    lead: Duration,
}

impl Sizer {
    /// For `workers` workers; a job of more than `most` items is of no use.
    #[inline]
    pub(super) fn new(fixed: Option<u64>, most: u64, workers: u64) -> Self {
        Self {
            fixed,
            most: most.clamp(1, u64::from(MOST_ITEMS)),
            shares: workers * 2,
            // One, so that a few long items go to as many workers.
            size: 1,
            each: None,
            target: match fixed {
                Some(_) => LOOSE_TARGET,
                None => TARGET,
            },
            ceiling: MAX_ITEMS,
            lead: Duration::ZERO,
        }
    }

    /// For workers on other machines.
    pub(super) fn remote(self) -> Self {
        Self {
            target: REMOTE_TARGET,
            ceiling: u64::from(MOST_ITEMS),
            lead: REMOTE_LEAD,
            ..self
        }
    }

    /// Knows from the outset what an item takes.
    pub(super) fn seeded(mut self, each: Duration) -> Self {
        let each = nanos(each);
        self.each = Some(each);
        self.size = self.wish(each);
        self
    }

    /// How many items the next job should have, when `left` are left, if that is known.
    #[inline]
    pub(super) fn next(&self, left: Option<u64>) -> u64 {
        if let Some(fixed) = self.fixed {
            return fixed.min(self.most);
        }
        self.next_loose(left)
    }

    /// The same for a job whose items are together only for speed, whatever size was asked for.
    #[inline]
    pub(super) fn next_loose(&self, left: Option<u64>) -> u64 {
        let share = left.map_or(u64::MAX, |left| left.div_ceil(self.shares));
        let share = share.max(self.within(LEAST));
        self.size.min(share).min(self.most).max(1)
    }

    /// The same for a call whose results nobody takes before all of them are there.
    pub(super) fn next_long(&self, left: Option<u64>) -> u64 {
        let next = self.next(left);
        // Neither before it is known what an item takes, nor where the size has still to grow.
        let is_settled = self.each.is_some_and(|each| self.size == self.wish(each));
        let share = left.map_or(0, |left| left / (self.shares * STRETCH));
        // A size that was asked for, and jobs for elsewhere, have another target.
        if self.target != TARGET || !is_settled {
            return next;
        }
        let long = self.within(TARGET * STRETCH as u32).min(self.ceiling);
        long.min(share).min(self.most).max(next)
    }

    /// How many items a worker is through with in that time, as far as is known.
    #[inline]
    fn within(&self, time: Duration) -> u64 {
        let items = |each: f64| nanos(time) / each.max(0.1);
        self.each.map_or(0.0, items) as u64
    }

    /// Learns from a job how long its items took.
    pub(super) fn learn(&mut self, items: u64, elapsed: Duration) {
        if items == 0 {
            return;
        }
        let each = nanos(elapsed) / items as f64;
        // The slower of what was known and what is new counts more: a job that is too long hurts
        // more than one that is too short.
        let known = self.each.unwrap_or(each);
        let weight = if each > known { 0.5 } else { 0.25 };
        let each = known + (each - known) * weight;
        self.each = Some(each);
        self.size = self
            .wish(each)
            .min(items.saturating_mul(GROWTH).max(self.size));
    }

    /// Items that take as long as a job should.
    fn wish(&self, each: f64) -> u64 {
        let wish = (nanos(self.target) / each.max(0.1)) as u64;
        wish.clamp(1, self.ceiling)
    }

    /// Jobs of a size that was asked for that should be out at once for each worker, as far as is
    /// known: where they are short one is not enough to go on with.
    #[inline]
    pub(super) fn lead(&self) -> u64 {
        match (self.fixed, self.each) {
            (Some(items), Some(each)) => {
                let job = each.max(0.1) * items as f64;
                (nanos(self.lead) / job) as u64
            }
            _ => 0,
        }
    }
}

/// From 64 bits, which fit: what is made of 128 takes a hundred instructions.
fn nanos(time: Duration) -> f64 {
    time.as_nanos() as u64 as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(each: u64, items: u64) -> Duration {
        Duration::from_nanos(each * items)
    }

    #[test]
    fn first_jobs_have_one_item() {
        assert_eq!(Sizer::new(None, u64::MAX, 2).next(None), 1);
        assert_eq!(Sizer::new(None, u64::MAX, 2).next(Some(1_000_000)), 1);
    }

    #[test]
    fn jobs_of_cheap_items_grow_to_the_limit_and_of_dear_ones_not_at_all() {
        let mut cheap = Sizer::new(None, u64::MAX, 2);
        let mut dear = cheap;
        for _ in 0..10 {
            let items = cheap.next(None);
            cheap.learn(items, time(10, items));
            let items = dear.next(None);
            dear.learn(items, time(5_000_000, items));
        }
        assert_eq!(cheap.next(None), MAX_ITEMS);
        assert_eq!(dear.next(None), 1);
    }

    #[test]
    fn growth_is_bounded_and_items_that_become_dear_shrink_the_jobs() {
        let mut sizer = Sizer::new(None, u64::MAX, 2);
        sizer.learn(1, time(10, 1));
        assert_eq!(sizer.next(None), GROWTH);
        for _ in 0..10 {
            let items = sizer.next(None);
            sizer.learn(items, time(10, items));
        }
        for _ in 0..3 {
            sizer.learn(100, time(1_000_000, 100));
        }
        assert!(sizer.next(None) <= 2);
    }

    #[test]
    fn what_is_left_is_shared_out() {
        let mut sizer = Sizer::new(None, u64::MAX, 2);
        for _ in 0..10 {
            let items = sizer.next(None);
            sizer.learn(items, time(1000, items));
        }
        assert_eq!(sizer.next(Some(1000)), 250);
        // To share out less would cost more than to run it.
        assert_eq!(sizer.next(Some(40)), 20);
        assert_eq!(sizer.next(Some(0)), 20);
        let mut sizer = Sizer::new(None, u64::MAX, 2);
        sizer.learn(1, time(1_000_000, 1));
        assert_eq!(sizer.next(Some(3)), 1);
        assert_eq!(sizer.next(Some(0)), 1);
    }

    #[test]
    fn jobs_are_longer_while_many_are_left_and_nobody_waits_for_one() {
        let mut sizer = Sizer::new(None, u64::MAX, 2);
        assert_eq!(sizer.next_long(Some(1_000_000)), 1, "nothing is known");
        for _ in 0..10 {
            let items = sizer.next(None);
            sizer.learn(items, time(10_000, items));
        }
        assert_eq!(sizer.next_long(Some(1_000_000)), 400);
        assert_eq!(sizer.next_long(Some(3200)), 200);
        assert_eq!(sizer.next_long(Some(1600)), 100);
        assert_eq!(sizer.next_long(Some(200)), 50);
        assert_eq!(sizer.next_long(None), 100, "nobody knows how many are left");
        assert_eq!(sizer.next(Some(1_000_000)), 100);
        sizer.learn(400, time(1_000_000, 400));
        assert_eq!(
            sizer.next_long(Some(1_000_000)),
            7,
            "half a millisecond each"
        );
        sizer.learn(7, time(10_000_000, 7));
        assert_eq!(sizer.next_long(Some(1_000_000)), 1);
        let mut fixed = Sizer::new(Some(20), u64::MAX, 2);
        fixed.learn(20, time(10, 20));
        assert_eq!(fixed.next_long(Some(1_000_000)), 20);
    }

    #[test]
    fn jobs_for_other_machines_are_as_long_as_they_should_be_however_many_items_that_takes() {
        let mut sizer = Sizer::new(None, u64::MAX, 2).remote();
        for _ in 0..10 {
            let items = sizer.next(None);
            sizer.learn(items, time(100, items));
        }
        assert_eq!(sizer.next(None), 200_000);
    }

    #[test]
    fn many_short_jobs_of_a_size_are_out_at_other_machines_and_few_long_ones() {
        let sizer = Sizer::new(Some(1), u64::MAX, 2);
        let (mut short, mut long) = (sizer.remote(), sizer.remote());
        assert_eq!(short.lead(), 0, "nothing is known");
        short.learn(1, Duration::from_micros(10));
        assert_eq!(short.lead(), 500);
        long.learn(1, Duration::from_millis(10));
        assert_eq!(long.lead(), 0);
        let mut here = sizer;
        here.learn(1, Duration::from_micros(10));
        assert_eq!(here.lead(), 0);
    }

    #[test]
    fn what_is_known_beforehand_makes_the_first_job() {
        let sizer = Sizer::new(None, u64::MAX, 2).seeded(Duration::from_micros(10));
        assert_eq!(sizer.next(None), 100);
    }

    #[test]
    fn fixed_size_stays_within_what_is_of_use() {
        let mut sizer = Sizer::new(Some(20), u64::MAX, 2);
        sizer.learn(20, time(1_000_000_000, 20));
        assert_eq!(sizer.next(Some(5)), 20);
        assert_eq!(Sizer::new(Some(20), 7, 2).next(None), 7);
    }
}
