//! Large data that a worker reads where it lies.

use std::hint::black_box;

use anyhow::ensure;
use mp::{Bytes, Pool, Shared};

use crate::Plan;
use crate::race::{Race, Results, Sample, Unit};

/// Gives the data back but for its first byte, as a sign that it had it.
#[mp::task]
fn behind_first(bytes: Bytes) -> Bytes {
    bytes.slice(1..)
}

#[mp::task]
fn without_last(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.pop();
    bytes
}

/// To a worker and back: what it costs must not depend on the size.
pub(crate) fn there_and_back(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let size = plan.count(16 << 20, 1 << 20) as usize;
    let title = format!("{} MiB to a worker and back", size >> 20);
    let pool = &Pool::new(1)?;
    let mut race = Race::new(title, Unit::Microseconds);
    let count = plan.count(2000, 10);

    for (name, size) in [("mp Bytes", size), ("mp Bytes of 8 bytes", 8)] {
        let bytes = Bytes::filled(size, |bytes| bytes.fill(7))?;
        race.enter(name, move || {
            let (sample, done) = Sample::of(count, || {
                for _ in 0..count {
                    let back = pool.apply(behind_first, (bytes.clone(),))?;
                    ensure!(
                        back.as_ptr_range() == bytes[1..].as_ptr_range(),
                        "the data has moved"
                    );
                }
                Ok(())
            });
            done?;
            Ok(sample)
        });
    }

    let item = vec![7; size];
    let copies = plan.count(10, 2);
    race.enter("mp Vec<u8>, copied", move || {
        let (sample, done) = Sample::of(copies, || {
            for _ in 0..copies {
                let back = pool.apply(without_last, (item.clone(),))?;
                ensure!(back.len() == size - 1, "the data is wrong");
            }
            Ok(())
        });
        done?;
        Ok(sample)
    });
    if let Some(python) = &plan.python {
        let mut peer = python.start("bytes", &[size as u64])?;
        race.enter("Python bytes, copied", move || peer.measure(copies));
    }
    Ok(vec![race.run(plan)?])
}

#[mp::task]
fn sum(numbers: Shared<[u64]>) -> u64 {
    sum_of(&numbers)
}

fn sum_of(numbers: &[u64]) -> u64 {
    numbers
        .iter()
        .fold(0, |sum, number| sum.wrapping_add(*number))
}

/// A worker adds up what its parent wrote.
pub(crate) fn summed(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let len = plan.count(16 << 20, 1 << 20) as usize / size_of::<u64>();
    let title = format!("{} MiB of u64 summed by a worker", (len * 8) >> 20);
    let mut race = Race::new(title, Unit::GigabytesPerSecond);
    let count = plan.count(16, 2);
    let bytes = count * len as u64 * 8;
    let numbers: Vec<u64> = (0..len as u64).collect();
    let expected = sum_of(&numbers);

    let pool = Pool::new(1)?;
    let shared = Shared::from_slice(&numbers)?;
    race.enter("mp Shared<[u64]>", move || {
        let (sample, sums) = Sample::of(bytes, || {
            (0..count)
                .map(|_| pool.apply(sum, (shared.clone(),)))
                .collect::<Result<Vec<_>, _>>()
        });
        ensure!(sums?.iter().all(|sum| *sum == expected), "a sum is wrong");
        Ok(sample)
    });
    race.enter("a Vec<u64>, summed here", move || {
        let (sample, sums) = Sample::of(bytes, || {
            let sums = (0..count).map(|_| sum_of(black_box(&numbers)));
            sums.collect::<Vec<_>>()
        });
        ensure!(sums.iter().all(|sum| *sum == expected), "a sum is wrong");
        Ok(sample)
    });
    Ok(vec![race.run(plan)?])
}
