//! Large data that a worker reads where it lies.

use std::hint::black_box;

use anyhow::ensure;
use mp::{AnyError, Bytes, Pool, Shared};
use rayon::prelude::*;

use crate::race::{Race, Results, Sample, Target, Unit};
use crate::{Plan, WORKERS, proc_fs};

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

#[mp::task]
fn sum_bytes(bytes: Bytes) -> u64 {
    sum_of_words(&bytes)
}

#[mp::task]
fn sum_vec(bytes: Vec<u8>) -> u64 {
    sum_of_words(&bytes)
}

fn sum_of_words(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks();
    let words = words.iter().map(|&word| u64::from_le_bytes(word));
    words.fold(0, u64::wrapping_add)
}

/// Many large items summed by the workers, and how often each is copied on its way.
pub(crate) fn many_summed(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let count = plan.count(64, 4);
    let size = plan.count(16 << 20, 1 << 20) as usize;
    let total = count * size as u64;
    let items: Vec<_> = (0..count).map(|index| vec![index as u8; size]).collect();
    let expected: Vec<_> = items.iter().map(|item| sum_of_words(item)).collect();
    let shared = items.iter().map(|item| Bytes::from_slice(item));
    let shared = shared.collect::<Result<Vec<_>, _>>()?;
    let pool = Pool::new(WORKERS)?;
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(WORKERS)
        .build()?;

    let title = format!("{count} × {} MiB summed by the workers", size >> 20);
    let mut race = Race::new(title, Unit::GigabytesPerSecond);
    race.enter("mp Pool, Bytes", || {
        let (sample, sums) = Sample::of(total, || pool.map_ref(sum_bytes, &shared));
        ensure!(sums? == expected, "a sum is wrong");
        Ok(sample)
    });
    race.target(Target::AtLeast(15.0));
    race.enter("mp Pool, Vec<u8>", || {
        let (sample, sums) = Sample::of(total, || pool.map_ref(sum_vec, &items));
        ensure!(sums? == expected, "a sum is wrong");
        Ok(sample)
    });
    race.enter("rayon threads", || {
        let (sample, sums) = Sample::of(total, || {
            let sums = items.par_iter().map(|item| sum_of_words(item));
            threads.install(|| sums.collect::<Vec<_>>())
        });
        ensure!(sums == expected, "a sum is wrong");
        Ok(sample)
    });
    race.limit();
    let speed = race.run(plan)?;

    let mut race = Race::new("copies of such an item on its way", Unit::Count);
    race.enter("mp Pool, Bytes", || {
        copies(size, |pool| Ok(pool.map_ref(sum_bytes, &shared[1..2])?))
    });
    race.target(Target::AtMost(0.1));
    race.enter("mp Pool, Vec<u8>", || {
        copies(size, |pool| Ok(pool.map_ref(sum_vec, &items[1..2])?))
    });
    Ok(vec![speed, race.run_rounds(plan.rounds.min(3))?])
}

/// Forgets the worker's peak of memory, and tells what it has.
#[mp::task]
fn begin_peak() -> Result<u64, AnyError> {
    proc_fs::reset_peak()?;
    Ok(proc_fs::peak_kib().map_err(std::io::Error::other)?)
}

#[mp::task]
fn peak() -> Result<u64, AnyError> {
    Ok(proc_fs::peak_kib().map_err(std::io::Error::other)?)
}

/// How often an item of so many bytes is in memory beside the one that is sent, by the kernel's
/// count: what the peaks of caller and worker grow by during `call`, less once the item, which the
/// worker has mapped to read it. Pool and worker are new, so neither has memory from before in
/// which a copy would go unseen.
fn copies(
    size: usize,
    call: impl FnOnce(&Pool) -> anyhow::Result<Vec<u64>>,
) -> anyhow::Result<Sample> {
    let pool = Pool::new(1)?;
    let worker = pool.apply(begin_peak, ())?.map_err(mp::Error::from)?;
    proc_fs::reset_peak()?;
    let own = proc_fs::peak_kib()?;
    let sums = call(&pool)?;
    let own = proc_fs::peak_kib()? - own;
    let worker = pool.apply(peak, ())?.map_err(mp::Error::from)? - worker;
    ensure!(sums.len() == 1, "a sum is missing");
    Ok(Sample::figure(
        (own + worker) as f64 * 1024.0 / size as f64 - 1.0,
    ))
}
