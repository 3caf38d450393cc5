//! Calls to an object that lives in a manager's process, one right after the other.

use anyhow::ensure;
use mp::{Manager, Map};

use crate::Plan;
use crate::race::{Race, Results, Sample, Unit};

struct Counter {
    count: u64,
}

#[mp::shared]
impl Counter {
    fn new() -> Self {
        Self { count: 0 }
    }

    fn add(&mut self, number: u64) -> u64 {
        self.count += number;
        self.count
    }
}

pub(crate) fn calls(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new("a call to an object of a manager", Unit::Microseconds);
    let count = plan.count(2000, 10);

    let manager = Manager::new()?;
    let counter = SharedCounter::new(&manager)?;
    race.enter("mp, a method of a shared object", move || {
        let before = counter.add(0)?;
        let (sample, last) = Sample::of(count, || {
            let mut last = 0;
            for _ in 0..count {
                last = counter.add(1)?;
            }
            anyhow::Ok(last)
        });
        ensure!(last? == before + count, "a call was lost");
        Ok(sample)
    });

    let map = Map::<u64, u64>::new(&manager)?;
    race.enter("mp, Map::insert", move || {
        map.clear()?;
        let (sample, done) = Sample::of(count, || {
            for key in 0..count {
                map.insert(&key, &key)?;
            }
            anyhow::Ok(())
        });
        done?;
        ensure!(map.len()? as u64 == count, "an item was lost");
        Ok(sample)
    });

    let map = Map::<u64, u64>::new(&manager)?;
    race.enter("mp, Map::insert_many, an item", move || {
        map.clear()?;
        let (sample, done) =
            Sample::of(count, || map.insert_many((0..count).map(|key| (key, key))));
        done?;
        ensure!(map.len()? as u64 == count, "an item was lost");
        Ok(sample)
    });

    if let Some(python) = &plan.python {
        let mut peer = python.start("manager", &[])?;
        race.enter("Python, a method of a proxy", move || peer.measure(count));
    }
    Ok(vec![race.run(plan)?])
}
