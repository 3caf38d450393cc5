//! Three processes work in steps: nobody begins a step before all have ended the one before, and the
//! last to end it says so: `cargo run --example barrier_steps`

use std::error::Error;

use mp::{AnyError, Barrier, Event, Process, Queue};

const PROCESSES: u64 = 3;
const STEPS: u64 = 4;

/// Adds up what all have put, step by step: each process needs the results of all others.
#[mp::task]
fn work(start: Event, barrier: Barrier, sums: Vec<Queue<u64>>, me: u64) -> Result<u64, AnyError> {
    start.wait();
    let mut mine = me;
    for step in 1..=STEPS {
        for queue in &sums {
            queue.put(mine)?;
        }
        // All have put theirs; the last one to arrive speaks before anybody goes on.
        barrier.wait_with(|| println!("step {step}: all {PROCESSES} have come"))?;
        mine = 0;
        for _ in 0..PROCESSES {
            mine += sums[me as usize - 1].get()?;
        }
        // Nobody puts the next before all have taken these.
        barrier.wait()?;
    }
    Ok(mine)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (start, barrier) = (Event::new()?, Barrier::new(PROCESSES as u32)?);
    let sums = (0..PROCESSES)
        .map(|_| Queue::new())
        .collect::<mp::Result<Vec<_>>>()?;
    let children = (1..=PROCESSES)
        .map(|me| {
            let arguments = (start.clone(), barrier.clone(), sums.clone(), me);
            Process::new(work, arguments).start()
        })
        .collect::<mp::Result<Vec<_>>>()?;
    println!("ready");
    start.set();

    // 1 + 2 + 3, and three times that in each further step.
    let expected = 6 * PROCESSES.pow(STEPS as u32 - 1);
    for child in children {
        let sum = child.join()??;
        assert_eq!(sum, expected);
        println!("{} has {sum}", child.name());
    }
    Ok(())
}
