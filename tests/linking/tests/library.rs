//! Tasks of a library that the program depends on, which knows `mp` under another name.

#[path = "../../support/mod.rs"]
mod support;

use mp::{Pool, Process};
use mp_test_library::text::words;
use mp_test_library::{double, double_elsewhere};

#[test]
fn tasks_of_a_library_run() {
    let _watchdog = support::watchdog(60);
    assert_eq!(double(4), 8);
    assert_eq!(double_elsewhere(21).unwrap(), 42);
    let child = Process::new(words, ("one two three".to_owned(),)).start();
    assert_eq!(child.unwrap().join().unwrap(), 3);
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.map(double, 0..100).unwrap()[99], 198);
}
