//! Two large matrices multiplied by blocks in the workers of a pool, with no copying:
//! `cargo run --release --example matrix -- [SIZE] [--workers N]`
//!
//! Each worker reads both matrices where the parent wrote them, and writes its block of rows to
//! memory that the parent then reads there: what travels is a few bytes a block.

use std::error::Error;
use std::time::Instant;

use clap::Parser;
use mp::{Pool, Shared};

/// Multiplies two matrices.
#[derive(Parser)]
struct Options {
    /// Rows and columns.
    #[arg(default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Worker processes; as many as there are CPUs unless given.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

/// Rows that a worker computes at a time.
const BLOCK: usize = 32;

/// Some rows of `a` times `b`, of which both have `size` columns.
#[mp::task]
fn multiply_rows(
    a: Shared<[f64]>,
    b: Shared<[f64]>,
    size: usize,
) -> Result<Shared<[f64]>, mp::Error> {
    Shared::filled(a.len(), |out: &mut [f64]| {
        out.fill(0.0);
        for (row, out) in a.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
            for (&factor, line) in row.iter().zip(b.chunks_exact(size)) {
                for (sum, &item) in out.iter_mut().zip(line) {
                    *sum += factor * item;
                }
            }
        }
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let size = options.size as usize;
    let workers = options.workers.unwrap_or_else(mp::cpu_count);
    let at = |index: usize, factor: usize| ((index * factor) % 17) as f64 - 8.0;
    let a = Shared::from_values((0..size * size).map(|index| at(index, 7)))?;
    let b = Shared::from_values((0..size * size).map(|index| at(index, 5)))?;

    let start = Instant::now();
    let pool = Pool::new(workers)?;
    let blocks = (0..size).step_by(BLOCK).map(|row| {
        let rows = row * size..(row + BLOCK).min(size) * size;
        (a.slice(rows), b.clone(), size)
    });
    let products = pool.starmap(multiply_rows, blocks)?;
    let products = products.into_iter().collect::<Result<Vec<_>, _>>()?;
    let seconds = start.elapsed().as_secs_f64();

    // Some of the sums, computed here: they are whole numbers, so that they are equal to the last bit.
    for i in 0..size.min(64) {
        let (row, column) = (i * 31 % size, i * 57 % size);
        let expected: f64 = (0..size)
            .map(|k| a[row * size + k] * b[k * size + column])
            .sum();
        let block = &products[row / BLOCK];
        assert_eq!(
            block[row % BLOCK * size + column],
            expected,
            "at {row}, {column}"
        );
    }
    println!("{size} × {size} by {workers} workers in {seconds:.2} s: the same as computed here");
    Ok(())
}
