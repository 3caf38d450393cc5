//! Errors, panics, exits and crashes at each step of a task.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::calls::failing_numbers;
use super::{HALF, half, process_id, quietly, square, world};
use crate::backend::{Queue, World, mp};
use crate::support::watchdog;

/// Makes an access to nothing, by which the kernel ends the process.
fn segfault() -> ! {
    // SAFETY: nothing is there, and that is what is wanted.
    unsafe { std::ptr::without_provenance_mut::<u8>(64).write_volatile(1) };
    unreachable!()
}

#[test]
fn pool_test_map_unplicklable() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(3);
    let items = || {
        let mut items = [Awkward::Fine; 4];
        items[2] = Awkward::NotEncoded;
        items
    };
    let error = pool.map(take, items()).unwrap_err();
    let failure = error.task().unwrap();
    assert!(
        failure.is_not_encoded() && !failure.may_have_started(),
        "{error}"
    );
    assert_eq!(failure.index(), Some(2));
    assert!(error.to_string().contains("it does not want to"), "{error}");
    let outcomes = pool.try_map(take, items()).unwrap();
    let is_ok: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(is_ok, [true, true, false, true]);
}

#[test]
fn pool_test_traceback() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(1, |builder| {
        quietly(builder);
        builder.env("RUST_BACKTRACE", "1");
    });
    let worker = pool.apply(process_id, ()).unwrap();
    let error = pool.apply(half, (123,)).unwrap_err();
    let failure = error.task().unwrap();
    assert!(failure.is_panic());
    assert_eq!(failure.message(), Some("123 is odd"));
    assert_eq!(failure.file(), Some(HALF));
    assert_eq!(failure.pid(), Some(worker));
    let trace = failure.backtrace().unwrap();
    // Without its path where it was inlined.
    assert!(trace.contains("half"), "{trace}");
    // That of a local iterator is a panic here and nothing else.
    let map = || pool.map(square, failing_numbers(1, 0));
    let panic = catch_unwind(AssertUnwindSafe(map)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"somebody said no"));
}

#[mp::task]
fn fail_at_length(number: u32, run: Queue<u32>) {
    run.put(number).unwrap();
    panic!("{}", "x".repeat(1 << 20));
}

#[test]
fn pool_test_map_no_failfast() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(2, quietly);
    let run = world.queue();
    let items = (0..6).map(|number| (number, run.clone()));
    let error = pool.starmap(fail_at_length, items).unwrap_err();
    let failure = error.task().unwrap();
    assert_eq!(failure.index(), Some(0));
    assert_eq!(failure.message().unwrap().len(), 1 << 20);
    // All of them were waited for.
    let mut numbers = run.get_many(10).unwrap();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    pool.close();
    pool.join().unwrap();
}

#[test]
fn pool_test_map_exception() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(2, quietly);
    let mut results = pool.imap(half, [2, 4, 5, 6]).unwrap();
    assert_eq!(results.next().unwrap().unwrap(), 1);
    assert_eq!(results.next().unwrap().unwrap(), 2);
    let error = results.next().unwrap().unwrap_err();
    assert_eq!(error.message(), Some("5 is odd"));
    assert_eq!(error.index(), Some(2));
    assert_eq!(results.next().unwrap().unwrap(), 3);
    assert!(results.next().is_none());
}

#[mp::task]
fn return_unless(hangs: bool) -> bool {
    if hangs {
        loop {
            std::thread::park();
        }
    }
    true
}

/// Each item has its time, and not all of them together. Letting go of the rest cancels it.
#[test]
fn pool_executor_test_map_timeout() {
    let _watchdog = watchdog(180);
    let world = world!();
    // Long for an item that does nothing, however busy the machine is.
    let pool = world.pool_with(1, |builder| {
        builder.task_timeout(Duration::from_secs(3));
    });
    let items = [false, true].into_iter().chain(std::iter::repeat(true));
    let mut stream = pool.imap(return_unless, items).unwrap();
    assert!(stream.next().unwrap().unwrap());
    let error = stream.next().unwrap().unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.index(), Some(1));
    drop(stream);
    assert!(pool.apply(return_unless, (false,)).unwrap());
}

#[mp::task]
fn exit_if(code: Option<i32>) -> u32 {
    if let Some(code) = code {
        std::process::exit(code);
    }
    std::process::id()
}

/// A worker that dies takes one item along, not the pool.
#[test]
fn pool_test_broken_process_pool_traceback() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(2);
    let items = [Some(1), None, Some(2), Some(3), None];
    let outcomes = pool.try_map(exit_if, items).unwrap();
    let mut died = BTreeSet::new();
    for (index, (outcome, item)) in outcomes.iter().zip(items).enumerate() {
        match (outcome, item) {
            (Ok(_), None) => {}
            (Err(error), Some(code)) => {
                assert_eq!(error.exit_code(), Some(code));
                assert_eq!(error.index(), Some(index as u64));
                assert!(died.insert(error.pid().unwrap()), "{error}");
            }
            (outcome, item) => panic!("{item:?} came to {outcome:?}"),
        }
    }
    assert_eq!(pool.map(square, [3]).unwrap(), [9]);
}

#[test]
fn pool_test_traceback_when_child_process_terminates_abruptly() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(1);
    let error = pool.apply(exit_if, (Some(99),)).unwrap_err();
    let failure = error.task().unwrap();
    assert!(failure.is_crash());
    assert_eq!(failure.exit_code(), Some(99));
    assert!(error.to_string().contains("exited with code 99"), "{error}");
}

/// A value that does something else than travel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Awkward {
    Fine,
    NotEncoded,
    NotDecoded,
    ExitsInDecode,
    CrashesInDecode,
    CrashesInEncode,
}

impl Awkward {
    const ALL: [Self; 6] = [
        Self::Fine,
        Self::NotEncoded,
        Self::NotDecoded,
        Self::ExitsInDecode,
        Self::CrashesInDecode,
        Self::CrashesInEncode,
    ];
}

impl Serialize for Awkward {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::NotEncoded => Err(serde::ser::Error::custom("it does not want to")),
            Self::CrashesInEncode => segfault(),
            _ => serializer.serialize_u8(*self as u8),
        }
    }
}

impl<'de> Deserialize<'de> for Awkward {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Self::ALL[usize::from(u8::deserialize(deserializer)?)];
        match value {
            Self::NotDecoded => Err(serde::de::Error::custom("it stays what it is")),
            Self::ExitsInDecode => std::process::exit(1),
            Self::CrashesInDecode => segfault(),
            _ => Ok(value),
        }
    }
}

#[mp::task]
fn take(value: Awkward) -> bool {
    value == Awkward::Fine
}

/// Makes the value in the worker.
#[mp::task]
fn give(index: u8) -> Awkward {
    Awkward::ALL[usize::from(index)]
}

#[mp::task]
fn crash_if(crashes: bool) -> bool {
    if crashes {
        segfault();
    }
    true
}

/// Runs a task over one item that goes wrong between two that do not; these must be what they are,
/// and the pool go on.
fn failure_of<F, A, R>(world: &World, task: F, fine: A, awkward: A) -> mp::TaskError
where
    F: mp::TaskFn<(A,), Output = R> + Copy,
    A: mp::Transfer + Clone,
    R: mp::Transfer + std::fmt::Debug,
{
    let pool = world.pool_with(2, quietly);
    let items = [fine.clone(), awkward, fine.clone()];
    let mut outcomes = pool.try_map(task, items).unwrap();
    assert_eq!(outcomes.len(), 3);
    outcomes.pop().unwrap().unwrap();
    let error = outcomes.pop().unwrap().unwrap_err();
    outcomes.pop().unwrap().unwrap();
    assert_eq!(error.index(), Some(1));
    pool.map(task, vec![fine; 4]).unwrap();
    pool.close();
    pool.join().unwrap();
    error
}

#[test]
fn pool_test_error_at_task_pickle() {
    let _watchdog = watchdog(180);
    let world = world!();
    let error = failure_of(&world, take, Awkward::Fine, Awkward::NotEncoded);
    assert!(
        error.is_not_encoded() && !error.may_have_started(),
        "{error}"
    );
    assert!(error.to_string().contains("it does not want to"), "{error}");
}

#[test]
fn pool_test_exit_at_task_unpickle() {
    let _watchdog = watchdog(180);
    let world = world!();
    let error = failure_of(&world, take, Awkward::Fine, Awkward::ExitsInDecode);
    assert!(error.is_crash() && error.exit_code() == Some(1), "{error}");
}

#[test]
fn pool_test_crash_at_task_unpickle() {
    let _watchdog = watchdog(180);
    let world = world!();
    let error = failure_of(&world, take, Awkward::Fine, Awkward::CrashesInDecode);
    assert!(error.is_crash(), "{error}");
    assert_eq!(error.signal(), Some(libc::SIGSEGV));
}

#[test]
fn pool_test_crash_during_func_exec_on_worker() {
    let _watchdog = watchdog(180);
    let world = world!();
    let error = failure_of(&world, crash_if, false, true);
    assert!(error.is_crash() && error.may_have_started(), "{error}");
    assert_eq!(error.signal(), Some(libc::SIGSEGV));
}

#[test]
fn pool_test_error_during_func_exec_on_worker() {
    let _watchdog = watchdog(180);
    let world = world!();
    let error = failure_of(&world, half, 2, 3);
    assert!(error.is_panic() && error.may_have_started(), "{error}");
    assert_eq!(error.message(), Some("3 is odd"));
}

#[test]
fn pool_test_crash_during_result_pickle_on_worker() {
    let _watchdog = watchdog(180);
    let world = world!();
    let error = failure_of(
        &world,
        give,
        Awkward::Fine as u8,
        Awkward::CrashesInEncode as u8,
    );
    assert!(error.is_crash() && error.may_have_started(), "{error}");
    assert_eq!(error.signal(), Some(libc::SIGSEGV));
}

#[test]
fn pool_test_error_during_result_pickle_on_worker() {
    let _watchdog = watchdog(180);
    let world = world!();
    let error = failure_of(&world, give, Awkward::Fine as u8, Awkward::NotEncoded as u8);
    assert!(
        error.is_not_encoded() && error.may_have_started(),
        "{error}"
    );
    assert!(error.to_string().contains("it does not want to"), "{error}");
}

/// Only the item whose result it is fails.
#[test]
fn pool_test_error_during_result_unpickle_in_result_handler() {
    let _watchdog = watchdog(180);
    let world = world!();
    let error = failure_of(&world, give, Awkward::Fine as u8, Awkward::NotDecoded as u8);
    assert!(
        error.is_not_decoded() && error.may_have_started(),
        "{error}"
    );
    assert!(error.to_string().contains("it stays what it is"), "{error}");
}

#[test]
fn pool_test_shutdown_deadlock_pickle() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(2);
    let mut results = pool.imap(take, [Awkward::NotEncoded]).unwrap();
    pool.close();
    let error = results.next().unwrap().unwrap_err();
    assert!(error.is_not_encoded(), "{error}");
    assert!(results.next().is_none());
    drop(results);
    world.await_let_go(2);
    pool.join().unwrap();
}

/// The bytes are in shared memory before the worker looks at them: it crashes with half of them read.
#[test]
fn pool_test_crash_big_data() {
    let _watchdog = watchdog(180);
    let world = world!();
    let data = || vec![7_u8; 1 << 18];
    let fine = (data(), Awkward::Fine, data());
    let crash = (data(), Awkward::CrashesInDecode, data());
    let error = failure_of(&world, take_data, fine, crash);
    assert!(error.is_crash(), "{error}");
    assert_eq!(error.signal(), Some(libc::SIGSEGV));
}

#[mp::task]
fn take_data((before, _, after): (Vec<u8>, Awkward, Vec<u8>)) -> usize {
    before.len() + after.len()
}
