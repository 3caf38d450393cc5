//! The bar that shows how far a stream of results is.

mod support;

use indicatif::ProgressBar;
use mp::Pool;
use support::watchdog;

#[mp::task]
fn check(x: u32) -> u32 {
    assert!(!x.is_multiple_of(4), "divisible by four");
    x
}

#[test]
fn bar_counts_results_and_names_failures() {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2).unwrap();
    let bar = ProgressBar::hidden();
    let mut results = pool.imap(check, 1..=10).unwrap().progress_with(bar.clone());
    for x in 1..=10_u32 {
        assert_eq!(results.next().unwrap().is_ok(), x % 4 != 0);
        assert_eq!(bar.position(), u64::from(x));
    }
    assert_eq!(bar.message(), ", 2 failed");
    assert!(!bar.is_finished());
    assert!(results.next().is_none());
    assert!(bar.is_finished());
    assert!(results.next().is_none());
}

#[test]
fn results_are_the_same_with_a_bar() {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2).unwrap();
    let odd = || (1..2000).step_by(2);
    let plain: Vec<_> = pool.imap(check, odd()).unwrap().collect();
    let shown: Vec<_> = pool.imap(check, odd()).unwrap().progress("odd").collect();
    assert_eq!(plain.len(), shown.len());
    for (plain, shown) in plain.into_iter().zip(shown) {
        assert_eq!(plain.unwrap(), shown.unwrap());
    }
    // Of an input without an end, and dropped before it.
    let endless = (1..).step_by(2);
    let some = pool
        .imap_unordered(check, endless)
        .unwrap()
        .progress("some");
    assert_eq!(some.take(100).filter(Result::is_ok).count(), 100);
    assert_eq!(pool.apply(check, (3,)).unwrap(), 3);
}
