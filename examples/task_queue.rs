//! Ten tasks in a queue, four processes that take them, a second queue for what is done:
//! `cargo run --example task_queue -- [SCALE]`
//!
//! Each task takes half a second times SCALE, by default 1.0.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use mp::{Process, Queue, TryGetError};

/// Takes tasks until none is left; returns how many.
#[mp::task]
fn do_job(
    tasks_to_accomplish: Queue<String>,
    tasks_that_are_done: Queue<String>,
    pause: Duration,
) -> mp::Result<usize, mp::AnyError> {
    let mut count = 0;
    loop {
        let task = match tasks_to_accomplish.try_get() {
            Ok(task) => task,
            Err(TryGetError::Empty) => return Ok(count),
            Err(error) => return Err(error.into()),
        };
        println!("{task}");
        let name = mp::current_process().name().to_owned();
        tasks_that_are_done.put(format!("{task} is done by {name}"))?;
        std::thread::sleep(pause);
        count += 1;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    const TASKS: usize = 10;
    const PROCESSES: usize = 4;
    let scale: f64 = std::env::args().nth(1).map_or(Ok(1.0), |arg| arg.parse())?;
    let pause = Duration::try_from_secs_f64(0.5 * scale)?;

    let tasks_to_accomplish = Queue::new()?;
    let tasks_that_are_done = Queue::new()?;
    for i in 0..TASKS {
        tasks_to_accomplish.put(format!("Task no {i}"))?;
    }

    let children = (0..PROCESSES)
        .map(|_| {
            let queues = (tasks_to_accomplish.clone(), tasks_that_are_done.clone());
            Process::new(do_job, (queues.0, queues.1, pause)).start()
        })
        .collect::<mp::Result<Vec<_>>>()?;
    let mut count = 0;
    for child in &children {
        count += child.join()??;
    }

    // Every put is complete when its process has ended: nothing can come late.
    let mut done = BTreeSet::new();
    while let Ok(line) = tasks_that_are_done.try_get() {
        println!("{line}");
        let (task, process) = line.split_once(" is done by ").ok_or("a line of its own")?;
        assert!(children.iter().any(|child| child.name() == process));
        done.insert(task.to_owned());
    }
    assert_eq!(count, TASKS);
    assert_eq!(done, (0..TASKS).map(|i| format!("Task no {i}")).collect());
    Ok(())
}
