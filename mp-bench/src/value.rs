//! A number in shared memory that is counted up: under its lock, and without.

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::ensure;
use mp::Value;

use crate::Plan;
use crate::race::{Race, Results, Sample, Unit};

pub(crate) fn increment(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let count = plan.count(1_000_000, 1000);
    let python_count = plan.count(50_000, 1000);
    let is_right = move |total: u64| -> anyhow::Result<()> {
        ensure!(total == count, "of {count} additions {total} were made");
        Ok(())
    };

    let mut locked = Race::new("a Value counted up under its lock", Unit::Nanoseconds);
    let value = Value::new(0_u64)?;
    locked.enter("mp Value, lock", move || {
        value.store(0);
        let (sample, done) = Sample::of(count, || {
            for _ in 0..count {
                *black_box(&value).lock()? += 1;
            }
            Ok::<_, mp::Error>(())
        });
        done?;
        is_right(value.load())?;
        Ok(sample)
    });
    let mutex = Mutex::new(0_u64);
    locked.enter("std Mutex, threads only", move || {
        let lock = || {
            mutex
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
        };
        *lock() = 0;
        let (sample, ()) = Sample::of(count, || {
            for _ in 0..count {
                *black_box(lock()) += 1;
            }
        });
        is_right(*lock())?;
        Ok(sample)
    });
    if let Some(python) = &plan.python {
        let mut peer = python.start("value", &[])?;
        locked.enter("Python Value, get_lock", move || peer.measure(python_count));
    }

    let mut bare = Race::new("a Value counted up without its lock", Unit::Nanoseconds);
    let value = Value::new(0_u64)?;
    bare.enter("mp Value, fetch_add", move || {
        value.store(0);
        let (sample, ()) = Sample::of(count, || {
            for _ in 0..count {
                black_box(&value).fetch_add(1);
            }
        });
        is_right(value.load())?;
        Ok(sample)
    });
    let atomic = AtomicU64::new(0);
    bare.enter("std AtomicU64, threads only", move || {
        atomic.store(0, Ordering::SeqCst);
        let (sample, ()) = Sample::of(count, || {
            for _ in 0..count {
                black_box(&atomic).fetch_add(1, Ordering::SeqCst);
            }
        });
        is_right(atomic.load(Ordering::SeqCst))?;
        Ok(sample)
    });
    Ok(vec![locked.run(plan)?, bare.run(plan)?])
}
