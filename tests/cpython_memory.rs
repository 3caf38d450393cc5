//! Behaviours of CPython's `Lib/test/_test_multiprocessing.py` (Python Software Foundation License),
//! areas value, array and shm: the cases were written anew for mp, each test is named after the row it
//! answers.
//!
//! Left out, because nothing here has a name in the system:
//! `shm_test_shared_memory_name_with_embedded_null`, `shm_test_shared_memory_recreate`,
//! `shm_test_shared_memory_untracking`, `shm_test_that_shared_memory_name_with_colons_has_no_resource_tracker_errors`.
//! `value_test_rawvalue` is a `Value` whose lock is not used: the atomic operations.

mod support;

use std::fs;

use bytemuck::{Pod, Zeroable};
use mp::{Array, Bytes, Process, Queue, Shared, Stdio, Value};
use serde::{Deserialize, Serialize};
use support::{Random, alone, alone_command, is_alone, watchdog};

#[mp::task]
fn accumulate(array: Array<i32>) {
    let mut numbers = array.lock().unwrap();
    for index in 1..numbers.len() {
        numbers[index] += numbers[index - 1];
    }
}

#[test]
fn array_test_array() {
    let _watchdog = watchdog(60);
    let numbers = [680, 626, 934, 821, 150, 233, 548, 982, 714, 831];
    let array = Array::from_slice(&numbers).unwrap();
    assert_eq!(array.len(), numbers.len());
    assert_eq!(array.get(5).unwrap(), Some(numbers[5]));
    assert_eq!(array.read(2..7).unwrap(), numbers[2..7]);
    array.write(4, &[1, 2, 3, 4]).unwrap();
    let mut expected = numbers;
    expected[4..8].copy_from_slice(&[1, 2, 3, 4]);
    assert_eq!(array.read(..).unwrap(), expected);
    let child = Process::new(accumulate, (array.clone(),)).start().unwrap();
    child.join().unwrap();
    let mut sum = 0;
    for number in &mut expected {
        sum += *number;
        *number = sum;
    }
    assert_eq!(array.read(..).unwrap(), expected);
}

#[test]
fn array_test_array_from_size() {
    for _ in 0..3 {
        let array = Array::<i32>::zeroed(10_000).unwrap();
        assert_eq!(array.len(), 10_000);
        assert!(array.read(..).unwrap().iter().all(|&number| number == 0));
        array
            .lock()
            .unwrap()
            .iter_mut()
            .zip(0..)
            .for_each(|(a, b)| *a = b);
        assert!(array.read(..).unwrap().into_iter().eq(0..10_000));
    }
}

#[mp::task]
fn change_all(values: (Value<i32>, Value<f64>, Value<i16>, Value<[u8; 4]>)) {
    values.0.set(-3).unwrap();
    values.1.set(2.25).unwrap();
    values.2.set(7).unwrap();
    values.3.set(*b"done").unwrap();
}

#[test]
fn value_test_value() {
    let _watchdog = watchdog(60);
    let values = (
        Value::new(5).unwrap(),
        Value::new(3.625).unwrap(),
        Value::new(2_i16).unwrap(),
        Value::new(*b"todo").unwrap(),
    );
    assert_eq!(values.0.get().unwrap(), 5);
    assert_eq!(values.1.get().unwrap(), 3.625);
    assert_eq!(values.3.get().unwrap(), *b"todo");
    let child = Process::new(change_all, (values.clone(),)).start().unwrap();
    child.join().unwrap();
    assert_eq!(values.0.get().unwrap(), -3);
    assert_eq!(values.1.get().unwrap(), 2.25);
    assert_eq!(values.2.get().unwrap(), 7);
    assert_eq!(values.3.get().unwrap(), *b"done");
}

#[mp::task]
fn store_without_lock(value: Value<i64>) {
    value.store(value.load() * 2);
}

#[test]
fn value_test_rawvalue() {
    let _watchdog = watchdog(60);
    let value = Value::new(21_i64).unwrap();
    // The lock is not looked at.
    let _held = value.lock().unwrap();
    let child = Process::new(store_without_lock, (value.clone(),)).start();
    child.unwrap().join().unwrap();
    assert_eq!(value.load(), 42);
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable, Serialize, Deserialize)]
#[repr(C)]
struct Record {
    x: i64,
    y: f64,
}

#[mp::task]
fn double(x: Value<i32>, record: Value<Record>, array: Array<f64>, text: Array<u8>) {
    *x.lock().unwrap() *= 2;
    let mut held = record.lock().unwrap();
    *held = Record {
        x: held.x * 2,
        y: held.y * 2.0,
    };
    drop(held);
    array
        .lock()
        .unwrap()
        .iter_mut()
        .for_each(|item| *item *= 2.0);
    text.lock().unwrap().make_ascii_uppercase();
}

#[test]
fn value_test_synchronize() {
    let _watchdog = watchdog(60);
    let x = Value::new(7).unwrap();
    let record = Value::new(Record { x: 3, y: 2.0 }).unwrap();
    let array = Array::from_slice(&[0.0, 1.5, 3.0]).unwrap();
    let text = Array::from_slice(b"hello").unwrap();
    let arguments = (x.clone(), record.clone(), array.clone(), text.clone());
    Process::new(double, arguments)
        .start()
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(x.get().unwrap(), 14);
    assert_eq!(record.get().unwrap(), Record { x: 6, y: 4.0 });
    assert_eq!(array.read(..).unwrap(), [0.0, 3.0, 6.0]);
    assert_eq!(text.read(..).unwrap(), b"HELLO");
}

#[test]
fn value_test_copy() {
    let record = Value::new(Record { x: 2, y: 5.0 }).unwrap();
    let copy = record.get().unwrap();
    record.set(Record { x: 0, y: 0.0 }).unwrap();
    assert_eq!(copy, Record { x: 2, y: 5.0 });
}

#[test]
fn shm_test_heap() {
    let _watchdog = watchdog(120);
    alone("shm_test_heap", || {
        let audit = || {
            let audit = mp::__private::audit().unwrap();
            assert_eq!(audit.faults, [""; 0]);
            (audit.process_units, audit.object_units, audit.objects)
        };
        drop(Bytes::from_slice(b"the arena is made").unwrap());
        let before = audit();
        let mut random = Random::new();
        let mut blocks: Vec<(Bytes, u8)> = Vec::new();
        for round in 0..5000_usize {
            if !blocks.is_empty() && random.below(2) == 0 {
                let at = random.below(blocks.len() as u64) as usize;
                let (bytes, mark) = blocks.swap_remove(at);
                assert!(bytes.iter().all(|&byte| byte == mark));
            } else {
                let len = 1 << random.below(19);
                let mark = round as u8;
                blocks.push((Bytes::filled(len, |bytes| bytes.fill(mark)).unwrap(), mark));
            }
            if blocks.len() > 60 {
                blocks.drain(..30);
            }
        }
        audit();
        drop(blocks);
        assert_eq!(audit(), before);
    });
}

#[test]
fn shm_test_invalid_shared_memory_creation() {
    // A size is never negative here, and none of zero bytes is a length like any other. What cannot
    // be had is an error.
    assert!(Bytes::from_slice(&[]).unwrap().is_empty());
    for len in [usize::MAX / 2, 1 << 50] {
        let error = Bytes::filled(len, |_| {}).unwrap_err();
        assert!(error.is_out_of_memory(), "{error}");
        assert!(Array::<u64>::zeroed(len).unwrap_err().is_out_of_memory());
    }
}

#[mp::task]
fn look_at(queue: Queue<Shared<[u16]>>, go: Queue<()>) -> Option<String> {
    go.get().unwrap();
    // The message was thrown away with the queue's other holder: there is nothing to get.
    queue.try_get().err().map(|error| error.to_string())
}

#[test]
fn shm_test_shared_memory_pickle_unpickle_dead_object() {
    let _watchdog = watchdog(60);
    // A handle on its way keeps its object: it is there though its sender has dropped it.
    let queue = Queue::new().unwrap();
    queue
        .put(Shared::from_slice(&[1_u16; 5000]).unwrap())
        .unwrap();
    assert_eq!(queue.get().unwrap()[..], [1; 5000]);
    let go = Queue::new().unwrap();
    let child = Process::new(look_at, (queue, go.clone())).start().unwrap();
    go.put(()).unwrap();
    assert!(child.join().unwrap().unwrap().contains("empty"));
}

#[mp::task]
fn write_and_tell(array: Array<u8>, by_queue: Queue<Array<u8>>) {
    array.write(0, b"by argument").unwrap();
    by_queue.get().unwrap().write(0, b"by queue").unwrap();
}

#[test]
fn shm_test_shared_memory_across_processes() {
    let _watchdog = watchdog(60);
    let (first, second) = (Array::zeroed(512).unwrap(), Array::zeroed(512).unwrap());
    let queue = Queue::new().unwrap();
    let child = Process::new(write_and_tell, (first.clone(), queue.clone()))
        .start()
        .unwrap();
    queue.put(second.clone()).unwrap();
    child.join().unwrap();
    assert_eq!(first.read(..11).unwrap(), b"by argument");
    assert_eq!(second.read(..8).unwrap(), b"by queue");
}

/// Ours, and not those of other programs that are at work meanwhile.
fn in_dev_shm(pid: u32) -> usize {
    let owned = |name: String| name.contains(&pid.to_string()) || name.starts_with("mp");
    fs::read_dir("/dev/shm")
        .map(|all| {
            all.flatten()
                .filter(|file| owned(file.file_name().to_string_lossy().into()))
                .count()
        })
        .unwrap_or(0)
}

#[test]
fn shm_test_resource_tracker() {
    let _watchdog = watchdog(60);
    let name = "shm_test_resource_tracker";
    if is_alone(name) {
        let _value = Value::new(1).unwrap();
        let _bytes = Bytes::from_slice(&[1; 1 << 20]).unwrap();
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    let child = alone_command(name)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let child = child.unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    // Nobody is left to warn, and there is nothing to warn of.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(in_dev_shm(pid), 0);
}

#[mp::task]
fn die(value: Value<u8>) {
    let _guard = value.lock().unwrap();
    std::process::abort();
}

/// Not a row of its own: what Python cannot tell of a lock around shared data.
#[test]
fn value_whose_holder_died_says_so() {
    let _watchdog = watchdog(60);
    let value = Value::new(0_u8).unwrap();
    let child = Process::new(die, (value.clone(),)).stderr(Stdio::null());
    child.start().unwrap().join().unwrap_err();
    assert!(value.get().unwrap_err().to_string().contains("recover()"));
}
