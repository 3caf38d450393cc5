//! Pools, wherever their workers are.
//!
//! A test says which pool it wants before it does anything else: over a cluster its workers are those of
//! another process, which runs the same test up to there. All pools of a test have the same workers.

/// Calls that take items one by one, in chunks, and in windows.
mod calls;
/// What goes wrong on the way to a worker, in it, and on the way back.
mod failures;
/// Calls that return at once.
mod jobs;
/// How workers begin, take turns and end.
mod life;

use mp::{Pool, PoolBuilder};
use serde::{Deserialize, Serialize};

use crate::backend::{Queue, World, mp};

/// The world of a test with pools, or the end of that test.
macro_rules! world {
    () => {{
        // A closure's name begins with that of the function that has it.
        let Some(world) = $crate::backend::World::of(std::any::type_name_of_val(&|| ())) else {
            return;
        };
        world
    }};
}
use world;

#[mp::task]
fn process_id() -> u32 {
    std::process::id()
}

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

#[mp::task]
fn power(base: u64, exponent: u32) -> u64 {
    base.pow(exponent)
}

/// The file of [`half`].
const HALF: &str = file!();

#[mp::task]
fn half(x: u64) -> u64 {
    assert!(x.is_multiple_of(2), "{x} is odd");
    x / 2
}

/// What [`pass`] is given.
#[derive(Clone, Serialize, Deserialize)]
struct Gate {
    number: u32,
    go: Queue<u32>,
    started: Queue<u32>,
}

/// Says by its number that it runs, waits to be let go, returns its number and its process.
#[mp::task]
fn pass(gate: Gate) -> (u32, u32) {
    gate.started.put(gate.number).unwrap();
    let _ = gate.go.get();
    (gate.number, std::process::id())
}

/// So many items for [`pass`], with the queues that they share.
fn gates(
    world: &World,
    count: u32,
) -> (impl Iterator<Item = Gate> + use<>, Queue<u32>, Queue<u32>) {
    let (go, started) = (world.queue(), world.queue());
    let gate = {
        let (go, started) = (go.clone(), started.clone());
        move |number| Gate {
            number,
            go: go.clone(),
            started: started.clone(),
        }
    };
    ((0..count).map(gate), go, started)
}

/// Lets go of standard error, where what is about to happen would fill the screen.
#[mp::task]
fn be_quiet() {
    let nothing = std::fs::File::create("/dev/null").unwrap();
    // SAFETY: takes integers, both of them open descriptors.
    unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&nothing), 2) };
}

/// Has the workers' panics not shown.
fn quietly(builder: &mut PoolBuilder) {
    builder.initializer(be_quiet, ());
}

/// Has an item be a job of its own.
fn one_by_one(builder: &mut PoolBuilder) {
    builder.chunk_size(1);
}

/// Pools of four that differ in their chunks.
fn pools_with_chunks(world: &World, chunks: &[u64]) -> Vec<Pool> {
    let chunked = chunks.iter().map(|&items| {
        world.pool_with(4, |builder| {
            builder.chunk_size(items);
        })
    });
    std::iter::once(world.pool(4)).chain(chunked).collect()
}
