//! Order, chunks and windows.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mp::{Imap, Pool};

use super::super::Sure;
use super::{gates, one_by_one, pass, pools_with_chunks, power, square, world};
use crate::backend::mp;
use crate::support::watchdog;

/// As [`power`], for the methods that know tasks of one argument only.
#[mp::task]
fn power_of((base, exponent): (u64, u32)) -> u64 {
    base.pow(exponent)
}

#[mp::task]
fn describe(number: i32, options: BTreeMap<String, bool>) -> String {
    format!("{number} {options:?}")
}

#[test]
fn pool_test_apply() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool(2);
    assert_eq!(pool.apply(square, (5,)).unwrap(), 25);
    let options = BTreeMap::from([("verbose".to_owned(), true)]);
    let text = pool.apply(describe, (3, options)).unwrap();
    assert_eq!(text, "3 {\"verbose\": true}");
}

#[test]
fn pool_test_map() {
    let _watchdog = watchdog(180);
    let world = world!();
    for pool in pools_with_chunks(&world, &[20, 1]) {
        assert!(
            pool.map(square, 0..10)
                .unwrap()
                .into_iter()
                .eq((0..10).map(|x| x * x))
        );
        assert!(
            pool.map(square, 0..100)
                .unwrap()
                .into_iter()
                .eq((0..100).map(|x| x * x))
        );
    }
}

#[test]
fn pool_test_starmap() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pairs = || (0..100).zip((0..4).cycle());
    for pool in pools_with_chunks(&world, &[20, 1]) {
        let powers = pool.starmap(power, pairs()).unwrap();
        assert!(
            powers
                .into_iter()
                .eq(pairs().map(|(x, n): (u64, u32)| x.pow(n)))
        );
    }
}

#[test]
fn pool_test_map_chunksize() {
    let _watchdog = watchdog(180);
    let world = world!();
    for pool in pools_with_chunks(&world, &[1]) {
        assert!(pool.map(square, []).unwrap().is_empty());
        assert!(pool.try_map(square, []).unwrap().is_empty());
        assert!(pool.starmap(power, []).unwrap().is_empty());
        assert_eq!(pool.imap(square, []).unwrap().count(), 0);
        assert_eq!(pool.imap_unordered(square, []).unwrap().count(), 0);
    }
}

#[test]
fn pool_test_imap() {
    let _watchdog = watchdog(180);
    let world = world!();
    for pool in pools_with_chunks(&world, &[100, 1]) {
        let mut results = pool.imap(square, 0..10).unwrap();
        for x in 0..10 {
            assert_eq!(results.next().unwrap().unwrap(), x * x);
        }
        assert!(results.next().is_none());
        assert!(results.next().is_none());
        drop(results);
        let results = pool.imap(square, 0..1000).unwrap();
        assert!(results.map(Result::unwrap).eq((0..1000).map(|x| x * x)));
    }
}

/// Numbers up to `end`, of which that at `failing` is a panic instead.
pub(super) fn failing_numbers(end: u64, failing: u64) -> impl Iterator<Item = u64> {
    (0..end).inspect(move |&number| {
        if number == failing {
            std::panic::resume_unwind(Box::new("somebody said no"));
        }
    })
}

/// What comes of a stream: its results, and the panics of its input.
fn results_and_panics<I: Iterator<Item = u64>>(mut stream: Imap<'_, I, u64>) -> (Vec<u64>, usize) {
    let (mut results, mut panics) = (Vec::new(), 0);
    loop {
        match catch_unwind(AssertUnwindSafe(|| stream.next())) {
            Ok(Some(result)) => results.push(result.unwrap()),
            Ok(None) => return (results, panics),
            Err(panic) => {
                assert_eq!(panic.downcast_ref(), Some(&"somebody said no"));
                panics += 1;
            }
        }
    }
}

/// The input's error is its panic. It comes out of `next` when the item is pulled, which is ahead of
/// the results: those of the items before can still be had.
#[test]
fn pool_test_imap_handle_iterable_exception() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(4, one_by_one);
    for (end, failing) in [(1, 0), (10, 3), (10, 5), (50, 49)] {
        let squares: Vec<_> = (0..failing).map(|x| x * x).collect();
        // Once more: it is repeatable.
        for _ in 0..2 {
            let stream = pool.imap(square, failing_numbers(end, failing)).unwrap();
            assert_eq!(results_and_panics(stream), (squares.clone(), 1));
            let stream = pool.imap_unordered(square, failing_numbers(end, failing));
            let (mut results, panics) = results_and_panics(stream.unwrap());
            results.sort_unstable();
            assert_eq!((results, panics), (squares.clone(), 1));
        }
    }
    let map = || pool.map(square, failing_numbers(10, 3));
    let panic = catch_unwind(AssertUnwindSafe(map)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"somebody said no"));
    assert_eq!(pool.map(square, [3]).unwrap(), [9]);
}

#[test]
fn pool_test_imap_unordered() {
    let _watchdog = watchdog(180);
    let world = world!();
    for pool in pools_with_chunks(&world, &[100, 1]) {
        for count in [10, 1000] {
            let results = pool.imap_unordered(square, 0..count).unwrap();
            let mut results: Vec<_> = results.map(Result::unwrap).collect();
            results.sort_unstable();
            assert!(results.into_iter().eq((0..count).map(|x| x * x)));
        }
    }
}

/// Goes through a stream of squares, and on the way sees that no more was pulled than the window lets.
fn assert_windowed<I: Iterator<Item = u64>>(
    stream: Imap<'_, I, u64>,
    pulled: &Cell<u64>,
    window: u64,
) {
    let mut results = Vec::new();
    for result in stream {
        results.push(result.unwrap());
        let most = results.len() as u64 + window;
        assert!(pulled.get() <= most, "{} of {most}", pulled.get());
    }
    results.sort_unstable();
    assert!(results.into_iter().eq((0..100).map(|x| x * x)));
    assert_eq!(pulled.get(), 100);
}

#[test]
fn pool_test_imap_and_imap_unordered_with_buffersize_when_buffer_is_full() {
    let _watchdog = watchdog(180);
    let world = world!();
    for window in [1, 4, 10] {
        let pool = world.pool_with(4, |builder| {
            builder.window(window);
        });
        let pulled = Cell::new(0);
        let items = || (0..100).inspect(|_| pulled.set(pulled.get() + 1));
        assert_windowed(pool.imap(square, items()).unwrap(), &pulled, window);
        pulled.set(0);
        assert_windowed(
            pool.imap_unordered(square, items()).unwrap(),
            &pulled,
            window,
        );
    }
}

#[test]
fn pool_executor_test_map() {
    let _watchdog = watchdog(180);
    let world = world!();
    let bases = 0..10;
    for pool in pools_with_chunks(&world, &[3]) {
        let powers = pool.starmap(power, bases.clone().zip(0..10)).unwrap();
        let expected = bases.clone().zip(0..10).map(|(x, n): (u64, u32)| x.pow(n));
        assert!(powers.into_iter().eq(expected));
    }
}

#[test]
fn pool_test_map_close() {
    let _watchdog = watchdog(180);
    let world = world!();
    let pool = world.pool_with(1, one_by_one);
    let (items, go, started) = gates(&world, 100);
    let mut results = pool.imap(pass, items).unwrap();
    go.put(0).unwrap();
    assert_eq!(results.next().unwrap().unwrap().0, 0);
    drop(results);
    // At most the one that had begun is run: it waits to be let go.
    go.close().sure();
    pool.close();
    pool.join().unwrap();
    let run = started.get_many(100).unwrap();
    assert!(run == [0] || run == [0, 1], "{run:?}");
}

#[test]
fn pool_test_map_buffersize() {
    let _watchdog = watchdog(180);
    let world = world!();
    for window in [1, 2, 10, 11, 20] {
        let pool = world.pool_with(2, |builder| {
            builder.window(window);
        });
        let results = pool.imap(square, 0..10).unwrap();
        assert!(results.map(Result::unwrap).eq((0..10).map(|x| x * x)));
    }
    let zero = || Pool::builder().window(0).build();
    assert!(catch_unwind(zero).is_err());
}

#[test]
fn pool_test_map_buffersize_on_multiple_iterables() {
    let _watchdog = watchdog(180);
    let world = world!();
    for window in [1, 2, 10, 11, 20] {
        let pool = world.pool_with(2, |builder| {
            builder.window(window);
        });
        let results = pool.imap(power_of, (0..10).zip(0..10)).unwrap();
        let expected = (0..10).zip(0..10).map(|(x, n): (u64, u32)| x.pow(n));
        assert!(results.map(Result::unwrap).eq(expected));
    }
}

#[test]
fn pool_test_map_buffersize_on_multiple_infinite_iterables() {
    let _watchdog = watchdog(180);
    let world = world!();
    for window in [1, 2, 10] {
        let pool = world.pool_with(2, |builder| {
            builder.window(window);
        });
        let items = || (0..).zip((0..3).cycle());
        let results = pool.imap(power_of, items()).unwrap().take(100);
        let expected = items().map(|(x, n): (u64, u32)| x.pow(n)).take(100);
        assert!(results.map(Result::unwrap).eq(expected));
    }
}

#[test]
fn pool_test_map_buffersize_on_empty_iterable() {
    let _watchdog = watchdog(180);
    let world = world!();
    for window in [1, 2, 10] {
        let pool = world.pool_with(2, |builder| {
            builder.window(window);
        });
        assert!(pool.imap(square, []).unwrap().next().is_none());
    }
}

#[test]
fn pool_process_pool_executor_test_map_chunksize() {
    let _watchdog = watchdog(180);
    let world = world!();
    for pool in pools_with_chunks(&world, &[6, 50, 40]) {
        let powers = pool.starmap(power, (0..40).map(|x| (x, 2))).unwrap();
        assert!(powers.into_iter().eq((0..40).map(|x| x * x)));
    }
    let zero = || Pool::builder().chunk_size(0).build();
    assert!(catch_unwind(zero).is_err());
}
