//! A stream of very many items: memory must not grow with them.

use anyhow::ensure;
use mp::Pool;

use crate::race::{Race, Results, Sample, Target, Unit};
use crate::report::thousands;
use crate::{Plan, WORKERS, proc_fs};

#[mp::task]
fn add_one(x: u64) -> u64 {
    x + 1
}

/// Throughput beside `map`'s, and what the parent's memory grew by.
pub(crate) fn many_items(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let count = plan.count(10_000_000, 10_000);
    let pool = Pool::new(WORKERS)?;
    let stream = || {
        let mut sum = 0_u64;
        for result in pool.imap_unordered(add_one, 0..count)? {
            sum = sum.wrapping_add(result?);
        }
        ensure!(sum == count * (count + 1) / 2, "results are wrong");
        Ok::<_, anyhow::Error>(())
    };

    let mut race = Race::new(
        format!("imap_unordered of {} items, an item", thousands(count)),
        Unit::Nanoseconds,
    );
    race.enter("mp imap_unordered", || {
        let (sample, done) = Sample::of(count, stream);
        done?;
        Ok(sample)
    });
    let part = count / 10;
    race.enter(format!("mp map, {} items", thousands(part)), || {
        let (sample, results) = Sample::of(part, || pool.map(add_one, 0..part));
        ensure!(results?.into_iter().eq(1..=part), "results are wrong");
        Ok(sample)
    });
    race.target(Target::Ratio(1.0 / 0.8));
    let speed = race.run_rounds(plan.rounds.min(5))?;

    let mut race = Race::new(
        "what the parent's peak of memory grew by meanwhile",
        Unit::Kibibytes,
    );
    race.enter("mp imap_unordered", || {
        proc_fs::reset_peak()?;
        let before = proc_fs::peak_kib()?;
        stream()?;
        Ok(Sample::figure((proc_fs::peak_kib()? - before) as f64))
    });
    Ok(vec![speed, race.run_rounds(1)?])
}
