//! Workers and parents that are killed while items that go one by one share jobs.
#![cfg(feature = "faults")]

#[path = "support/singles.rs"]
mod singles;
mod support;

use std::sync::{Mutex, MutexGuard};

use singles::{Common, MANY, builder, wait_if_slow};
use support::{eventually, watchdog};

/// One test at a time: the audit is of the whole program.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[mp::task]
fn count(n: u64) -> u64 {
    mp::worker_state::<Common>().runs.fetch_add(1);
    n + 1
}

#[test]
fn worker_killed_at_any_point_costs_the_item_it_was_at() {
    let _alone = alone();
    let _watchdog = watchdog(300);
    for point in ["pool.closed:2", "pool.item:5000", "pool.ran:5000"] {
        check(point);
    }
    // Whether anything is left to be taken away from the one that waits is a matter of chance.
    while check("pool.cut:1") == 0 {}
}

/// Returns how many items failed.
fn check(point: &str) -> u64 {
    let common = Common::new();
    let pool = builder(&common).env("MP_FAULT", point).build().unwrap();
    let outcomes = match point {
        "pool.cut:1" => pool.try_map(wait_if_slow, 0..MANY),
        // What dies with its worker is not counted, and would be waited for.
        _ => pool.try_map(count, 0..MANY),
    };
    let outcomes = outcomes.unwrap();
    let (mut done, mut begun) = (0, 0);
    for (n, outcome) in (0..MANY).zip(outcomes) {
        match outcome {
            Ok(value) => {
                assert_eq!(value, n + 1);
                done += 1;
            }
            Err(error) => {
                assert_eq!(error.signal(), Some(libc::SIGKILL), "{point}: {error}");
                begun += u64::from(error.may_have_started());
            }
        }
    }
    let runs = common.runs.load();
    assert!((done..=done + begun).contains(&runs), "{point}: {runs}");
    assert_eq!(done + begun, MANY, "{point}");
    // Before it began anything, no item is lost.
    assert!(point != "pool.closed:2" || begun == 0, "{point}: {begun}");
    begun
}

#[mp::task]
fn map_and_share() {
    let common = Common::new();
    let pool = builder(&common).env_remove("MP_FAULT").build().unwrap();
    let _ = pool.map(wait_if_slow, 0..MANY);
    panic!("the parent should have died by now");
}

#[test]
fn parent_killed_while_it_shares_takes_its_workers_along() {
    let _alone = alone();
    let _watchdog = watchdog(120);
    let before = mp::__private::audit().unwrap();
    let parent = mp::Process::new(map_and_share, ())
        .env("MP_FAULT", "pool.splitting")
        .start()
        .unwrap();
    let error = parent.join().unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGKILL), "{error}");
    eventually(|| {
        let audit = mp::__private::audit().unwrap();
        // What a pool before has left may go meanwhile.
        audit.faults.is_empty() && audit.process_units <= before.process_units
    });
}
