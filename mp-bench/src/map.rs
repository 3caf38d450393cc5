//! A map over small items: what handing an item over and taking its result back costs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use mp::Pool;
use rayon::prelude::*;

use crate::arrays::Arrays;
use crate::python::Interpreter;
use crate::race::{Race, Results, Sample, Target, Unit};
use crate::report::thousands;
use crate::transport::{Out, Transport, Work, read_number, read_text};
use crate::{Plan, WORKERS, procs};

#[mp::task]
fn square_plus_one(x: u64) -> u64 {
    x * x + 1
}

pub(crate) fn tiny_items(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let count = plan.count(1_000_000, 10_000);
    let items: Vec<u64> = (0..count).collect();
    let items = items.as_slice();
    let mut race = Race::new(
        format!("map of {} items to x·x+1, an item", thousands(count)),
        Unit::Nanoseconds,
    );

    let pool = Pool::new(WORKERS)?;
    race.enter("mp Pool", move || {
        let (sample, results) =
            Sample::of(count, || pool.map(square_plus_one, items.iter().copied()));
        check(items, &results?)?;
        Ok(sample)
    });
    race.target(Target::AtMost(15.0));

    let transport = Transport::start(Work::Square)?;
    race.enter("the transport alone, nobody watching", move || {
        let (sample, results) = Sample::of(count, || {
            let items = items.iter().copied();
            transport.map(items, |x, out| out.number(x), read_number)
        });
        check(items, &results?)?;
        Ok(sample)
    });
    race.limit();
    let arrays = Arrays::start(items.len())?;
    race.enter("shared arrays, copied in and out", move || {
        let (sample, results) = Sample::of(count, || arrays.map(items));
        check(items, &results)?;
        Ok(sample)
    });
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(WORKERS)
        .build()?;
    race.enter("rayon threads", move || {
        let (sample, results) = Sample::of(count, || {
            threads.install(|| {
                items
                    .par_iter()
                    .map(|&x| square_plus_one(x))
                    .collect::<Vec<_>>()
            })
        });
        check(items, &results)?;
        Ok(sample)
    });

    let pool = procs::Pool::new(WORKERS)?;
    let part = &items[..items.len() / 5];
    race.enter("procspawn Pool, by hand in chunks of 1,000", move || {
        let (sample, results) = Sample::of(part.len() as u64, || pool.map(part, 1000));
        check(part, &results?)?;
        Ok(sample)
    });

    if let Some(python) = &plan.python {
        let count = plan.count(200_000, 1000);
        enter_python(&mut race, python, "map", "Python Pool", count)?;
        let name = "Python futures, by 1,000";
        let count = plan.count(100_000, 1000);
        enter_python(&mut race, python, "futures", name, count)?;
        if python.has("joblib") {
            let count = plan.count(20_000, 1000);
            enter_python(&mut race, python, "joblib", "Python joblib, auto", count)?;
        } else {
            eprintln!("joblib is left out: this Python does not have it");
        }
    }
    Ok(vec![race.run(plan)?])
}

/// Each item for itself: what handing over a task costs when nothing is shared out.
pub(crate) fn one_by_one(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let count = plan.count(100_000, 1000);
    let items: Vec<u64> = (0..count).collect();
    let items = items.as_slice();
    let mut race = Race::new(
        format!("the same, {} items in chunks of 1", thousands(count)),
        Unit::Nanoseconds,
    );
    let pool = Pool::builder().workers(WORKERS).chunk_size(1).build()?;
    race.enter("mp Pool", move || {
        let (sample, results) =
            Sample::of(count, || pool.map(square_plus_one, items.iter().copied()));
        check(items, &results?)?;
        Ok(sample)
    });
    race.target(Target::AtMost(200.0));
    race.enter("crossbeam-channel threads", move || {
        let (sample, results) = Sample::of(count, || map_by_channels(items));
        check(items, &results)?;
        Ok(sample)
    });
    let pool = procs::Pool::new(WORKERS)?;
    let few = &items[..items.len() / 100];
    race.enter(
        format!("procspawn Pool, {} items", thousands(few.len() as u64)),
        move || {
            let (sample, results) = Sample::of(few.len() as u64, || pool.map(few, 1));
            check(few, &results?)?;
            Ok(sample)
        },
    );
    if let Some(python) = &plan.python {
        let count = plan.count(5000, 100);
        enter_python(&mut race, python, "map-one", "Python Pool", count)?;
    }
    Ok(vec![race.run(plan)?])
}

/// A channel to two threads, and one back.
fn map_by_channels(items: &[u64]) -> Vec<u64> {
    let (tasks, tasks_out) = crossbeam_channel::unbounded::<(usize, u64)>();
    let (results_in, results) = crossbeam_channel::unbounded();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (tasks_out, results_in) = (tasks_out.clone(), results_in.clone());
            scope.spawn(move || {
                for (index, x) in tasks_out {
                    let _ = results_in.send((index, square_plus_one(x)));
                }
            });
        }
        drop((tasks_out, results_in));
        for task in items.iter().copied().enumerate() {
            let _ = tasks.send(task);
        }
        drop(tasks);
        let mut mapped = vec![0; items.len()];
        for (index, result) in results {
            mapped[index] = result;
        }
        mapped
    })
}

/// What of a text and a number makes a text.
#[mp::task]
fn describe(name: String, number: u64) -> String {
    format!("{name}:{number}")
}

/// Items with text in them, which cannot be copied as memory.
pub(crate) fn texts(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let count = plan.count(1_000_000, 5000);
    let items: Vec<_> = (0..count).map(|x| (format!("item {x}"), x)).collect();
    let items = items.as_slice();
    let mut race = Race::new(
        format!(
            "map of {} (String, u64) to String, an item",
            thousands(count)
        ),
        Unit::Nanoseconds,
    );
    let pool = Pool::new(WORKERS)?;
    let is_right = |(result, (name, x)): (&String, &(String, u64))| {
        result.strip_prefix(name.as_str()) == Some(&format!(":{x}"))
    };
    race.enter("mp Pool", move || {
        let tuples = items.to_vec();
        let (sample, results) = Sample::of(count, || pool.starmap(describe, tuples));
        let results = results?;
        ensure!(
            results.len() == items.len() && results.iter().zip(items).all(is_right),
            "a map gave a wrong result"
        );
        Ok(sample)
    });
    let transport = Transport::start(Work::Describe)?;
    let transport = move || {
        let tuples = items.to_vec();
        let (sample, results) = Sample::of(count, || {
            let encode = |(name, x): (String, u64), out: &mut Out<'_>| {
                out.text(&name);
                out.number(x);
            };
            transport.map(tuples.into_iter(), encode, read_text)
        });
        ensure!(
            results?.iter().zip(items).all(is_right),
            "a map gave a wrong result"
        );
        Ok(sample)
    };
    if let Some(python) = &plan.python {
        let count = plan.count(200_000, 1000);
        enter_python(&mut race, python, "texts", "Python Pool", count)?;
        race.target(Target::Ratio(1.0 / 8.0));
    }
    race.enter("the transport alone, nobody watching", transport);
    race.limit();
    Ok(vec![race.run(plan)?])
}

/// Computes for so many microseconds.
#[mp::task]
fn compute(microseconds: u64) -> u64 {
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < Duration::from_micros(microseconds) {
        rounds += 1;
    }
    std::hint::black_box(rounds).min(microseconds)
}

/// One item in a hundred takes a hundred times as long: chunks must not leave a worker idle.
pub(crate) fn uneven(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let count = plan.count(4000, 200);
    let items: Vec<u64> = (0..count)
        .map(|x| if x % 100 == 37 { 5000 } else { 50 })
        .collect();
    let total: u64 = items.iter().sum();
    let items = items.as_slice();
    let mut race = Race::new(
        format!(
            "uneven work, {} items, one in 100 takes 100 times as long",
            thousands(count)
        ),
        Unit::Seconds,
    );
    let pool = Pool::new(WORKERS)?;
    race.enter("mp Pool", move || {
        let (sample, results) = Sample::of(1, || pool.map(compute, items.iter().copied()));
        ensure!(results?.len() == items.len(), "results are missing");
        Ok(sample)
    });
    let ideal = Duration::from_micros(total / WORKERS as u64);
    race.enter("ideal: the sum over two", move || Ok(Sample::new(1, ideal)));
    race.target(Target::Ratio(1.05));
    race.enter("threads, which count up", move || {
        Ok(Sample::of(1, || compute_in_threads(items)).0)
    });
    race.limit();
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(WORKERS)
        .build()?;
    race.enter("rayon threads", move || {
        let (sample, results) = Sample::of(1, || {
            threads.install(|| {
                let items = items.par_iter().map(|&x| compute(x));
                items.collect::<Vec<_>>()
            })
        });
        ensure!(results.len() == items.len(), "results are missing");
        Ok(sample)
    });
    Ok(vec![race.run(plan)?])
}

/// The least that it takes: whoever is free takes the next one, and nothing is handed over.
fn compute_in_threads(items: &[u64]) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(&item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compute(item);
                }
            });
        }
    });
}

fn enter_python(
    race: &mut Race<'_>,
    python: &Interpreter,
    subject: &str,
    name: &str,
    count: u64,
) -> anyhow::Result<()> {
    let mut peer = python.start(subject, &[])?;
    race.enter(format!("{name}, {} items", thousands(count)), move || {
        peer.measure(count)
    });
    Ok(())
}

fn check(items: &[u64], results: &[u64]) -> anyhow::Result<()> {
    let is_right = items.iter().map(|x| x * x + 1).eq(results.iter().copied());
    ensure!(is_right, "a map gave a wrong result");
    Ok(())
}
