//! Children of a benchmark: nothing runs twice, whatever harness a program has.
//!
//! `cargo bench --bench children`. It measures nothing; that is what `mp-bench` is for.

use mp::{Pool, Process};

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("main runs");
    assert_eq!(Process::new(square, (12,)).start()?.join()?, 144);
    assert_eq!(Pool::new(2)?.map(square, 0..4)?, [0, 1, 4, 9]);
    Ok(())
}
