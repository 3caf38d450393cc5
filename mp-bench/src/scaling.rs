//! Many workers, simulated: tasks that sleep need no CPU, so that what is left is what the parent
//! and the pool's own work cost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use mp::Pool;

use crate::Plan;
use crate::crew::Crew;
use crate::race::{Race, Results, Sample, Target, Unit};

/// How long a task sleeps.
pub(crate) const NAP: Duration = Duration::from_millis(1);

#[mp::task]
fn nap(item: u64) -> u64 {
    thread::sleep(NAP);
    item
}

/// Throughput at 1, 2, 4 … 256 workers against as many threads and against the ideal, and the CPU
/// time that the parent spends on a task.
pub(crate) fn sleeping_tasks(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let most = plan.count(256, 4);
    let mut results = Vec::new();
    let mut workers = 1;
    while workers <= most {
        results.extend(at(plan, workers)?);
        workers *= if workers < 16 { 2 } else { 4 };
    }
    Ok(results)
}

fn at(plan: &Plan, workers: u64) -> anyhow::Result<[Results; 2]> {
    let tasks = plan.count(200, 5) * workers;
    let pool = Pool::new(workers as usize)?;
    // All are there before time counts.
    ensure!(
        pool.map(nap, 0..workers)?.len() as u64 == workers,
        "results are missing"
    );

    let crew = Crew::start(workers)?;
    let mut race = Race::new(
        format!("tasks that sleep 1 ms, {workers} workers, a task"),
        Unit::Microseconds,
    );
    let run = || {
        let (sample, results) = Sample::of(tasks, || pool.map(nap, 0..tasks));
        ensure!(results?.into_iter().eq(0..tasks), "results are wrong");
        Ok::<_, anyhow::Error>(sample)
    };
    race.enter("mp Pool", run);
    race.enter("ideal: naps as long as one alone", || {
        // What a nap takes beyond what was asked for differs from one second to the next.
        let share = tasks / workers;
        Ok(Sample::of(tasks, || (0..share).for_each(|_| thread::sleep(NAP))).0)
    });
    let share = if workers > 64 { 0.85 } else { 0.95 };
    race.target(Target::Ratio(1.0 / share));
    race.enter("a bare pool of processes, over a futex", || {
        let (sample, napped) = Sample::of(tasks, || crew.nap(tasks as u32));
        napped?;
        Ok(sample)
    });
    race.limit();
    race.enter("threads, which count up", || {
        Ok(Sample::of(tasks, || nap_in_threads(workers, tasks)).0)
    });
    let throughput = race.run_rounds(plan.rounds.min(3))?;

    let mut race = Race::new(
        format!("the parent's CPU time for one of them, {workers} workers"),
        Unit::Microseconds,
    );
    race.enter("mp Pool", || {
        let before = own_cpu();
        run()?;
        Ok(Sample::new(tasks, own_cpu() - before))
    });
    Ok([throughput, race.run_rounds(plan.rounds.min(3))?])
}

fn nap_in_threads(workers: u64, tasks: u64) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < tasks {
                    thread::sleep(NAP);
                }
            });
        }
    });
}

/// CPU time of this process, without its children.
fn own_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: points to a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
