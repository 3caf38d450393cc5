//! Three stages, each a process or two, with bounded queues between them:
//! `cargo run --release --example pipeline -- [ITEMS]`
//!
//! The first stage reads lines, the second, which is the slow one, finds the prime factors of the
//! number in each, the third checks and counts them. A queue that is full holds up the stage before
//! it, so however many items there are, few are in memory.

use std::error::Error;
use std::time::Instant;

use mp::{AnyError, Process, Queue};
use serde::{Deserialize, Serialize};

/// Items that wait between two stages at most.
const ROOM: usize = 64;
/// Processes of the slow stage.
const WORKERS: usize = 2;

/// A number and its prime factors.
#[derive(Debug, Serialize, Deserialize)]
struct Factored {
    number: u64,
    factors: Vec<u64>,
}

/// What the last stage has seen.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    items: u64,
    primes: u64,
    sum: u64,
}

/// Reads lines, of which this one invents as many as it is told.
#[mp::task]
fn read(count: u64, lines: Queue<String>) -> Result<(), AnyError> {
    for number in 0..count {
        lines.put(format!("number {}", 1_000_003 + number))?; // waits while there is no room
    }
    lines.close(); // the loops of the next stage end when it is empty
    Ok(())
}

#[mp::task]
fn factor(lines: Queue<String>, found: Queue<Factored>) -> Result<(), AnyError> {
    for line in &lines {
        let number = line.trim_start_matches("number ").parse()?;
        let factors = factors(number);
        found.put(Factored { number, factors })?;
    }
    Ok(())
}

#[mp::task]
fn collect(found: Queue<Factored>) -> Result<Summary, AnyError> {
    let mut summary = Summary {
        items: 0,
        primes: 0,
        sum: 0,
    };
    for item in &found {
        if item.factors.iter().product::<u64>() != item.number {
            return Err(AnyError::new(format!("{item:?} is wrong")));
        }
        summary.items += 1;
        summary.primes += u64::from(item.factors.len() == 1);
        summary.sum += item.number;
    }
    Ok(summary)
}

fn factors(mut number: u64) -> Vec<u64> {
    let mut factors = Vec::new();
    let mut divisor = 2;
    while divisor * divisor <= number {
        while number.is_multiple_of(divisor) {
            factors.push(divisor);
            number /= divisor;
        }
        divisor += 1;
    }
    factors.extend((number > 1).then_some(number));
    factors
}

fn main() -> Result<(), Box<dyn Error>> {
    let count: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(200_000), |count| count.parse())?;
    let lines = Queue::bounded(ROOM)?;
    let found = Queue::bounded(ROOM)?;

    let begin = Instant::now();
    let collector = Process::new(collect, (found.clone(),)).start()?;
    let workers = (0..WORKERS)
        .map(|_| Process::new(factor, (lines.clone(), found.clone())).start())
        .collect::<mp::Result<Vec<_>>>()?;
    let reader = Process::new(read, (count, lines.clone())).start()?;

    reader.join()??;
    for worker in workers {
        worker.join()??;
    }
    found.close(); // all that will ever be put has been put
    let summary = collector.join()??;
    let time = begin.elapsed().as_secs_f64();

    assert_eq!(summary.items, count);
    assert_eq!(summary.sum, (0..count).map(|n| 1_000_003 + n).sum::<u64>());
    println!(
        "{} items, {} of them prime, through three stages",
        summary.items, summary.primes
    );
    println!("{:.0} items/s", count as f64 / time);
    Ok(())
}
