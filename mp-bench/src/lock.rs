//! A lock that nobody else wants, and one that two want all the time.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use mp::{AnyError, Child, Lock, OwnerDied, Process, Queue};
use serde::{Deserialize, Serialize};

use crate::Plan;
use crate::race::{Race, Results, Sample, Target, Unit};
use crate::robust::RobustMutex;
use crate::word::Words;

pub(crate) fn uncontended(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new("acquire and release a free lock", Unit::Nanoseconds);
    let count = plan.count(1_000_000, 1000);

    let lock = Lock::new()?;
    race.enter("mp Lock", move || {
        let (sample, total) = Sample::of(count, || {
            let mut total = 0;
            for _ in 0..count {
                let _guard = black_box(&lock).acquire()?;
                total = black_box(total + 1);
            }
            Ok::<_, anyhow::Error>(total)
        });
        check(count, total?)?;
        Ok(sample)
    });

    race.target(Target::AtMost(12.0));
    let mutex = Mutex::new(0);
    race.enter("std Mutex, threads only", move || {
        *lock_mutex(&mutex) = 0;
        let (sample, ()) = Sample::of(count, || {
            for _ in 0..count {
                let mut total = lock_mutex(black_box(&mutex));
                *total = black_box(*total + 1);
            }
        });
        check(count, *lock_mutex(&mutex))?;
        Ok(sample)
    });

    let mutex = RobustMutex::new()?;
    race.enter("a robust mutex of pthreads", move || {
        let (sample, total) = Sample::of(count, || {
            let mut total = 0;
            for _ in 0..count {
                black_box(&mutex).with(|| total = black_box(total + 1))?;
            }
            Ok::<_, anyhow::Error>(total)
        });
        check(count, total?)?;
        Ok(sample)
    });

    let word = AtomicU32::new(0);
    race.enter("a bare compare-and-set, and one back", move || {
        let (sample, total) = Sample::of(count, || {
            let mut total = 0;
            for _ in 0..count {
                let word = black_box(&word);
                let locked = word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
                total = black_box(total + u64::from(locked.is_ok()));
                let _ = word.compare_exchange(1, 0, Ordering::Release, Ordering::Relaxed);
            }
            total
        });
        check(count, total)?;
        Ok(sample)
    });
    race.limit();

    if let Some(python) = &plan.python {
        let mut peer = python.start("lock", &[])?;
        let count = plan.count(100_000, 1000);
        race.enter("Python Lock", move || peer.measure(count));
    }
    Ok(vec![race.run(plan)?])
}

pub(crate) fn contended(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new("lock that two want all the time", Unit::MillionsPerSecond);
    let milliseconds = plan.count(50, 2);
    let slice = Duration::from_millis(milliseconds);

    let mut rival = Rival::start()?;
    race.enter("mp Lock, 2 processes", move || rival.measure(slice));
    race.target(Target::AtLeast(25.0));

    let mutex = Mutex::new(0);
    race.enter("std Mutex, 2 threads", move || {
        *lock_mutex(&mutex) = 0;
        let add = || *lock_mutex(black_box(&mutex)) += 1;
        let (operations, time) = contend_in_threads(slice, add)?;
        check(operations, *lock_mutex(&mutex))?;
        Ok(Sample::new(operations, time))
    });

    let (mutex, total) = (RobustMutex::new()?, AtomicU64::new(0));
    race.enter("a robust mutex of pthreads, 2 threads", move || {
        total.store(0, Ordering::Relaxed);
        // In two steps, as with the lock: it shows whether the mutex excludes.
        let add = || total.store(total.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let (operations, time) = contend_in_threads(slice, || {
            // One that fails leaves the total short.
            let _ = black_box(&mutex).with(add);
        })?;
        check(operations, total.load(Ordering::Relaxed))?;
        Ok(Sample::new(operations, time))
    });

    if let Some(python) = &plan.python {
        let mut peer = python.start("lock-tight", &[])?;
        race.enter("Python Lock, 2 processes", move || {
            peer.measure(milliseconds)
        });
    }
    Ok(vec![race.run(plan)?])
}

/// How much of a lock that two want all the time the one gets who gets less: a half is fair.
pub(crate) fn share(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new("the lesser share of a lock that two want", Unit::Percent);
    let slice = Duration::from_millis(plan.count(200, 2));
    let lesser = |own: u64, other: u64| {
        let (own, other) = (own as f64, other as f64);
        Sample::figure(100.0 * own.min(other) / (own + other))
    };

    let mut rival = Rival::start()?;
    race.enter("mp Lock, 2 processes", move || {
        let (own, other, _) = rival.contend(slice)?;
        Ok(lesser(own, other))
    });
    race.target(Target::AtLeast(35.0));

    let mutex = Mutex::new(0);
    race.enter("std Mutex, 2 threads", move || {
        let ready = Barrier::new(2);
        let add = || *lock_mutex(black_box(&mutex)) += 1;
        let counts = thread::scope(|scope| {
            let other = scope.spawn(|| {
                ready.wait();
                contend(slice, add)
            });
            ready.wait();
            let own = contend(slice, add);
            other.join().map(|other| (own, other))
        });
        let Ok((own, other)) = counts else {
            bail!("a thread panicked");
        };
        Ok(lesser(own, other))
    });
    Ok(vec![race.run(plan)?])
}

fn lock_mutex(mutex: &Mutex<u64>) -> std::sync::MutexGuard<'_, u64> {
    // Whoever panicked with it has ended the run.
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn check(count: u64, total: u64) -> anyhow::Result<()> {
    ensure!(
        total == count,
        "of {count} additions under a lock {total} were not lost"
    );
    Ok(())
}

/// Calls `add` over and over for so long; returns how often.
fn contend(slice: Duration, mut add: impl FnMut()) -> u64 {
    // So seldom that reading the clock does not show.
    const UNTIL_NEXT_LOOK: u64 = 64;
    let begin = Instant::now();
    let mut operations = 0;
    while begin.elapsed() < slice {
        for _ in 0..UNTIL_NEXT_LOOK {
            add();
        }
        operations += UNTIL_NEXT_LOOK;
    }
    operations
}

/// Has two threads call `add` over and over for so long; returns how often, and how long that took.
fn contend_in_threads(slice: Duration, add: impl Fn() + Sync) -> anyhow::Result<(u64, Duration)> {
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            ready.wait();
            contend(slice, &add)
        });
        ready.wait();
        let begin = Instant::now();
        let own = contend(slice, &add);
        match other.join() {
            Ok(other) => Ok((own + other, begin.elapsed())),
            Err(_) => bail!("a thread panicked"),
        }
    })
}

/// As [`contend`], with a lock of mp around each addition.
fn contend_for(lock: &Lock, total: &Words, slice: Duration) -> Result<u64, OwnerDied> {
    let mut died = None;
    let operations = contend(slice, || match lock.acquire() {
        Ok(_guard) => add_unprotected(total),
        Err(error) => died = Some(error),
    });
    died.map_or(Ok(operations), Err)
}

/// Says that it is ready when it gets a slice's length, and how often it had the lock at its end.
#[mp::task]
fn rival(
    lock: Lock,
    path: PathBuf,
    slices: Queue<Duration>,
    replies: Queue<Reply>,
) -> Result<(), AnyError> {
    let total = Words::open(&path)?;
    for slice in &slices {
        replies.put(Reply::Ready)?;
        let operations = contend_for(&lock, &total, slice)?;
        replies.put(Reply::Done(operations))?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Reply {
    Ready,
    Done(u64),
}

/// Another process that wants the lock. Dropping it ends it.
struct Rival {
    lock: Lock,
    total: Words,
    slices: Queue<Duration>,
    replies: Queue<Reply>,
    process: Child<Result<(), AnyError>>,
    _file: tempfile::TempPath,
}

impl Rival {
    fn start() -> anyhow::Result<Self> {
        let path = Words::file()?;
        let (lock, slices, replies) = (Lock::new()?, Queue::new()?, Queue::new()?);
        let arguments = (
            lock.clone(),
            path.to_path_buf(),
            slices.clone(),
            replies.clone(),
        );
        Ok(Self {
            process: Process::new(rival, arguments).start()?,
            lock,
            total: Words::open(&path)?,
            slices,
            replies,
            _file: path,
        })
    }

    fn measure(&mut self, slice: Duration) -> anyhow::Result<Sample> {
        let (own, other, time) = self.contend(slice)?;
        Ok(Sample::new(own + other, time))
    }

    /// How often this process had the lock, how often the other, and how long that took.
    fn contend(&mut self, slice: Duration) -> anyhow::Result<(u64, u64, Duration)> {
        let before = self.total.count().load(Ordering::Relaxed);
        self.slices.put(slice)?;
        let Reply::Ready = self.replies.get()? else {
            bail!("the other process is not ready");
        };
        let begin = Instant::now();
        let own = contend_for(&self.lock, &self.total, slice)?;
        let Reply::Done(other) = self.replies.get()? else {
            bail!("the other process is not done");
        };
        let time = begin.elapsed();
        let total = self.total.count().load(Ordering::Relaxed);
        check(own + other, total - before)?;
        Ok((own, other, time))
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        self.slices.close();
        let _ = self.process.join();
    }
}

/// Adds one, in two steps: it shows whether a lock excludes. Relaxed: the lock orders them, or the
/// count comes out wrong.
fn add_unprotected(total: &Words) {
    let count = total.count();
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
