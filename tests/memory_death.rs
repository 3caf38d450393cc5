//! Who dies while it makes shared data, at each named point, leaves nothing behind.
#![cfg(feature = "faults")]

mod support;

use mp::{Array, Bytes, Process, Queue, Value};
use support::{settles_at, watchdog};

/// Makes things until it dies at its point.
#[mp::task]
fn make(ready: Queue<()>) {
    ready.put(()).unwrap();
    for _ in 0..10 {
        let _bytes = Bytes::from_slice(&[1; 300_000]).unwrap();
        let _array = Array::<u64>::zeroed(100_000).unwrap();
        let _value = Value::new(1).unwrap();
    }
}

#[mp::task]
fn die_in_the_middle(array: Array<u64>) {
    let mut numbers = array.lock().unwrap();
    numbers[0] = 1;
    std::process::abort();
}

/// One after the other: the audit is of the whole program.
#[test]
fn maker_that_is_killed_leaves_nothing() {
    let _watchdog = watchdog(120);
    let ready = Queue::new().unwrap();
    ready.put(()).unwrap();
    ready.get().unwrap();
    let books = || {
        let audit = mp::__private::audit().unwrap();
        let faults = audit.faults;
        (
            audit.process_units,
            audit.object_units,
            audit.objects,
            faults,
        )
    };
    let before = books();
    for point in ["memory.allocated", "memory.filled"] {
        for time in 1..=4 {
            let child =
                Process::new(make, (ready.clone(),)).env("MP_FAULT", format!("{point}:{time}"));
            let error = child.start().unwrap().join().unwrap_err();
            assert_eq!(error.signal(), Some(libc::SIGKILL), "{point}: {error}");
            ready.get().unwrap();
            settles_at(&before, books);
        }
    }
    let array = Array::zeroed(100_000).unwrap();
    for _ in 0..3 {
        let child = Process::new(die_in_the_middle, (array.clone(),)).stderr(mp::Stdio::null());
        child.start().unwrap().join().unwrap_err();
        assert!(array.lock().is_err());
        assert_eq!(array.recover()[0], 1);
        assert_eq!(array.read(1..3).unwrap(), [0, 0]);
    }
    drop(array);
    settles_at(&before, books);
}
