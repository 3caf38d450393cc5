//! A pool of two workers for four items of different length:
//! `cargo run --example work_log -- [SCALE]`
//!
//! Each item says how many seconds it takes, times SCALE, by default 1.0.

use std::time::{Duration, Instant};

use mp::Pool;

/// Waits as long as the item says; returns its name.
#[mp::task]
fn work_log((name, seconds, scale): (String, u64, f64)) -> String {
    println!(" Process {name} waiting {seconds} seconds");
    std::thread::sleep(Duration::from_secs(seconds).mul_f64(scale));
    println!(" Process {name} Finished.");
    name
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scale: f64 = std::env::args().nth(1).map_or(Ok(1.0), |arg| arg.parse())?;
    let work = [("A", 5), ("B", 2), ("C", 1), ("D", 3)];

    let start = Instant::now();
    let pool = Pool::new(2)?;
    let items = work.map(|(name, seconds)| (name.to_owned(), seconds, scale));
    let names = pool.map(work_log, items)?;

    // In the order of the input, whichever was finished first.
    assert_eq!(names, work.map(|(name, _)| name));
    // No sleep is cut short, so two workers take at least half of the sum.
    let sum: u64 = work.iter().map(|(_, seconds)| seconds).sum();
    assert!(start.elapsed() >= Duration::from_secs(sum).mul_f64(scale / 2.0));
    Ok(())
}
