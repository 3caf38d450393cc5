//! How much later than it should a task that takes too long is over, while others run, a thousand a
//! second, each with a deadline of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use mp::{Pool, Value};

use crate::race::{Race, Results, Sample, Target, Unit};
use crate::{Plan, WORKERS};

/// How long a task may take.
const LIMIT: Duration = Duration::from_millis(20);
/// One of the others begins each time so much is over.
const BEAT: Duration = Duration::from_millis(1);

#[mp::task]
fn be_quick(n: u64) -> u64 {
    n + 1
}

/// Says when it began, and never ends.
#[mp::task]
fn hang(began: Value<u64>) {
    began.store(now());
    loop {
        thread::park();
    }
}

/// Nanoseconds by a clock that all processes share.
fn now() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_nanos() as u64
}

/// The median of a slice, and the latest of it.
pub(crate) fn hard(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let tasks = plan.count(50, 3) as usize;
    let title = "a hard deadline is late by, while 1000 tasks a second run";
    let rounds = plan.rounds.min(5);
    let race = |what: &str, rank: fn(&[u64]) -> u64, target: Option<Target>| {
        let mut race = Race::new(format!("{title}, {what}"), Unit::Microseconds);
        race.enter("mp Pool", move || {
            let mut late = lateness(tasks)?;
            late.sort_unstable();
            Ok(Sample::new(1, Duration::from_nanos(rank(&late))))
        });
        if let Some(target) = target {
            race.target(target);
        }
        race.run_rounds(rounds)
    };
    Ok(vec![
        race("p50", |late| late[late.len() / 2], None)?,
        race(
            "the latest of 50",
            |late| late[late.len() - 1],
            Some(Target::AtMost(20_000.0)),
        )?,
    ])
}

/// By how many nanoseconds the caller heard too late of tasks that hang, one after the other.
fn lateness(tasks: usize) -> anyhow::Result<Vec<u64>> {
    let pool = Pool::builder()
        .workers(WORKERS + 1)
        .task_timeout(LIMIT)
        .build()?;
    pool.broadcast(be_quick, (0,))?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let others = scope.spawn(|| run_others(&pool, &is_over));
        let measured = (0..tasks).map(|_| one(&pool)).collect();
        is_over.store(true, Ordering::Relaxed);
        others.join().ok().context("the others panicked")??;
        measured
    })
}

fn one(pool: &Pool) -> anyhow::Result<u64> {
    let began = Value::new(0_u64)?;
    let outcome = pool.apply(hang, (began.clone(),));
    let heard = now();
    let error = outcome.err().context("it came to an end")?;
    ensure!(
        error.task().is_some_and(mp::TaskError::is_timeout),
        "{error}"
    );
    Ok(heard.saturating_sub(began.load() + LIMIT.as_nanos() as u64))
}

/// Hands over a task each beat until it is told that it is over.
fn run_others(pool: &Pool, is_over: &AtomicBool) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut jobs = std::collections::VecDeque::new();
    for n in 0_u32.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        jobs.push_back(pool.submit(be_quick, (u64::from(n),))?);
        while jobs.front().is_some_and(mp::Job::is_done) {
            jobs.pop_front();
        }
        thread::sleep((begin + BEAT * n).saturating_duration_since(Instant::now()));
    }
    Ok(())
}
