//! What workers cost that have nothing to do: memory and wake-ups.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use mp::Pool;

use crate::race::{Race, Results, Sample, Target, Unit};
use crate::{Plan, WORKERS, proc_fs, process};

#[mp::task]
fn worker_id(_item: u64) -> u32 {
    std::process::id()
}

/// Private memory of a worker that has had a few items.
pub(crate) fn memory(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new("private memory of an idle worker", Unit::Kibibytes);
    race.enter("mp Pool", || {
        let pool = Pool::new(WORKERS)?;
        let ids = pool.map(worker_id, 0..100)?;
        Ok(Sample::figure(proc_fs::private_kib(ids[0])? as f64))
    });
    race.target(Target::AtMost(200.0));
    race.enter("this program, executed and asleep", bare_process);
    race.limit();
    race.enter("procspawn Pool", || {
        let pool = procspawn::Pool::new(1)?;
        let id = pool.spawn((), |()| std::process::id()).join()?;
        Ok(Sample::figure(proc_fs::private_kib(id)? as f64))
    });
    if let Some(python) = &plan.python {
        for (method, number) in [("forked", 0), ("spawned", 2)] {
            let mut peer = python.start("worker", &[number])?;
            race.enter(format!("Python Pool, {method}"), move || {
                let pid = peer.ask(1)?;
                Ok(Sample::figure(proc_fs::private_kib(pid as u32)? as f64))
            });
        }
    }
    Ok(vec![race.run_rounds(plan.rounds.min(3))?])
}

/// Private memory that any process of this program has: what the loader writes, a stack, a heap.
fn bare_process() -> anyhow::Result<Sample> {
    let mut process = Command::new(std::env::current_exe()?)
        .arg(process::IDLE)
        .stdin(Stdio::piped())
        .spawn()?;
    // It has come to its sleep.
    thread::sleep(Duration::from_millis(100));
    let memory = proc_fs::private_kib(process.id());
    // Which ends its input first.
    process.wait()?;
    Ok(Sample::figure(memory? as f64))
}

/// How often a large pool runs while it has nothing to do.
pub(crate) fn wake_ups(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let workers = plan.count(100, 4);
    let pause = Duration::from_secs(plan.count(10, 1));
    let title = format!(
        "times that an idle pool of {workers} workers ran within {} s",
        pause.as_secs()
    );
    let mut race = Race::new(title, Unit::Count);
    race.enter("mp Pool, its workers and its parent's threads", move || {
        let pool = Pool::new(workers as usize)?;
        ensure!(
            pool.map(worker_id, 0..1000)?.len() == 1000,
            "results are missing"
        );
        // Its workers settle down.
        thread::sleep(Duration::from_millis(500));
        let children = mp::active_children().len();
        ensure!(children as u64 == workers, "{children} workers are there");
        let before = runs()?;
        thread::sleep(pause);
        // Once each time that we slept ourselves.
        Ok(Sample::figure(runs()?.saturating_sub(before + 1) as f64))
    });
    race.target(Target::AtMost(0.0));
    Ok(vec![race.run_rounds(1)?])
}

/// How often this process and its children were put on a CPU.
fn runs() -> anyhow::Result<u64> {
    let mut sum = proc_fs::switches(std::process::id())?;
    for child in mp::active_children() {
        sum += proc_fs::switches(child.id())?;
    }
    Ok(sum)
}
