//! A map over large items: what moving bytes to a worker and back costs.

use std::thread;

use anyhow::ensure;
use crossbeam_channel::bounded;
use mp::Pool;
use rayon::prelude::*;

use crate::race::{Race, Results, Sample, Target, Unit};
use crate::{Plan, WORKERS, procs};

/// Changes the item as little as shows that a worker had it.
#[mp::task]
fn flip_first(mut item: Vec<u8>) -> Vec<u8> {
    item[0] ^= 0xFF;
    item
}

pub(crate) fn there_and_back(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let count = plan.count(64, 4);
    let size = plan.count(16 << 20, 1 << 20);
    // Each item differs from its neighbours, and none begins with what a flipped one begins with.
    let items: Vec<_> = (0..count)
        .map(|index| vec![(index % 251) as u8; size as usize])
        .collect();
    let items = items.as_slice();
    let title = format!("map of {count} × {} MiB, there and back", size >> 20);
    let mut race = Race::new(title, Unit::GigabytesPerSecond);

    let pool = Pool::new(WORKERS)?;
    race.enter("mp Pool", move || {
        let (sample, results) = Sample::of(count * size, || pool.map_ref(flip_first, items));
        check(items, &results?)?;
        Ok(sample)
    });
    race.target(Target::AtLeast(3.0));

    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(WORKERS)
        .build()?;
    race.enter(
        "rayon threads, which copy once, into huge pages",
        move || {
            let (sample, results) = Sample::of(count * size, || {
                threads.install(|| {
                    items
                        .par_iter()
                        .map(|item| flip_first(copy(item)))
                        .collect::<Vec<_>>()
                })
            });
            check(items, &results)?;
            Ok(sample)
        },
    );
    race.limit();

    let mut copies = Copies::new(size as usize);
    race.enter("the four copies alone, by threads", move || {
        let (sample, results) = Sample::of(count * size, || copies.map(items));
        check(items, &results)?;
        Ok(sample)
    });

    let pool = procs::Pool::new(WORKERS)?;
    race.enter("procspawn Pool, ByteBuf", move || {
        let part = &items[..items.len() / 4];
        let bytes = part.len() as u64 * size;
        let (sample, results) = Sample::of(bytes, || pool.flip(part));
        check(part, &results?)?;
        Ok(sample)
    });

    let mut target = vec![0; size as usize];
    race.enter("memcpy alone, one copy", move || {
        let (sample, ()) = Sample::of(count * size, || {
            for item in items {
                std::hint::black_box(&mut target).copy_from_slice(item);
            }
        });
        ensure!(Some(&target) == items.last(), "a copy is wrong");
        Ok(sample)
    });

    if let Some(python) = &plan.python {
        let mut peer = python.start("bulk", &[size])?;
        let count = plan.count(8, 2);
        race.enter(format!("Python Pool, {count} items"), move || {
            peer.measure(count)
        });
    }
    Ok(vec![race.run(plan)?])
}

/// Items that are out at once, as many as a pool has of this size.
const OUT: usize = 4;

/// The least that a map costs whose results others make and hand over: its caller copies an item to
/// memory that both have, a worker to its own and its result back, and the caller that to a vector
/// which is new. All memory but that has been touched before.
struct Copies {
    free: Vec<(Vec<u8>, Vec<u8>)>,
    own: [Vec<u8>; WORKERS],
}

impl Copies {
    fn new(size: usize) -> Self {
        Self {
            free: vec![(vec![1; size], vec![1; size]); OUT],
            own: std::array::from_fn(|_| vec![1; size]),
        }
    }

    fn map(&mut self, items: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let (jobs_in, jobs) = bounded::<(usize, Vec<u8>, Vec<u8>)>(OUT);
        let (done_in, done) = bounded(OUT);
        let (free, own) = (&mut self.free, &mut self.own);
        thread::scope(|scope| {
            for own in own {
                let (jobs, done_in) = (jobs.clone(), done_in.clone());
                scope.spawn(move || {
                    for (index, there, mut back) in jobs {
                        own.copy_from_slice(&there);
                        own[0] ^= 0xFF;
                        back.copy_from_slice(own);
                        let _ = done_in.send((index, there, back));
                    }
                });
            }
            let mut results = vec![Vec::new(); items.len()];
            let mut take = |free: &mut Vec<_>| {
                if let Ok((index, there, back)) = done.recv() {
                    results[index] = copy(&back);
                    free.push((there, back));
                }
            };
            for (index, item) in items.iter().enumerate() {
                if free.is_empty() {
                    take(free);
                }
                if let Some((mut there, back)) = free.pop() {
                    there.copy_from_slice(item);
                    let _ = jobs_in.send((index, there, back));
                }
            }
            while free.len() < OUT {
                take(free);
            }
            drop(jobs_in);
            results
        })
    }
}

/// A copy in memory that comes in huge pages, which is the quickest to be had.
fn copy<T: Copy>(items: &[T]) -> Vec<T> {
    const PAGE: usize = 4096;
    let mut copy = Vec::with_capacity(items.len());
    let place: *mut T = copy.as_mut_ptr();
    let behind = place.addr().next_multiple_of(PAGE);
    let len = (place.addr() + size_of_val(items)).saturating_sub(behind) & !(PAGE - 1);
    // SAFETY: the pages are the vector's alone, and the advice does not change what is in them.
    unsafe { libc::madvise(place.with_addr(behind).cast(), len, libc::MADV_HUGEPAGE) };
    copy.extend_from_slice(items);
    copy
}

/// Doubles each number.
#[mp::task]
fn double(mut numbers: Vec<f64>) -> Vec<f64> {
    for number in &mut numbers {
        *number *= 2.0;
    }
    numbers
}

/// Numbers, as a user has them, without doing anything about how they travel.
pub(crate) fn numbers(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let count = plan.count(64, 4);
    let size = plan.count(16 << 20, 1 << 20);
    let len = size as usize / size_of::<f64>();
    let items: Vec<_> = (0..count).map(|index| vec![index as f64; len]).collect();
    let items = items.as_slice();
    let title = format!("map of {count} × {} MiB of f64, doubled", size >> 20);
    let mut race = Race::new(title, Unit::GigabytesPerSecond);
    let is_right = move |results: &[Vec<f64>]| {
        let mut pairs = items.iter().zip(results);
        results.len() == items.len() && pairs.all(|(item, result)| double(copy(item)) == *result)
    };

    let pool = Pool::new(WORKERS)?;
    race.enter("mp Pool, Vec<f64>", move || {
        let (sample, results) = Sample::of(count * size, || pool.map_ref(double, items));
        ensure!(is_right(&results?), "numbers came back wrong");
        Ok(sample)
    });
    race.target(Target::AtLeast(2.5));
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(WORKERS)
        .build()?;
    race.enter(
        "rayon threads, which copy once, into huge pages",
        move || {
            let (sample, results) = Sample::of(count * size, || {
                threads.install(|| {
                    let items = items.par_iter().map(|item| double(copy(item)));
                    items.collect::<Vec<_>>()
                })
            });
            ensure!(is_right(&results), "numbers came back wrong");
            Ok(sample)
        },
    );
    race.limit();
    Ok(vec![race.run(plan)?])
}

fn check(items: &[Vec<u8>], results: &[Vec<u8>]) -> anyhow::Result<()> {
    let is_right = |item: &Vec<u8>, result: &Vec<u8>| {
        item.len() == result.len() && item[0] == result[0] ^ 0xFF && item[1..] == result[1..]
    };
    let mut pairs = items.iter().zip(results);
    ensure!(
        items.len() == results.len() && pairs.all(|(item, result)| is_right(item, result)),
        "a large item came back wrong"
    );
    Ok(())
}
