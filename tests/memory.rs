//! Values, arrays and data that is written once, between processes and threads.

mod support;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use mp::{Array, Bytes, Pool, Process, Queue, Shared, Stdio, TryAcquireError, Value};
use serde::{Deserialize, Serialize};
use support::{alone, settles_at, watchdog};

// Values.

#[mp::task]
fn add_under_lock(value: Value<u64>, times: u64) {
    for _ in 0..times {
        *value.lock().unwrap() += 1;
    }
}

#[mp::task]
fn add_without_lock(value: Value<u64>, times: u64) {
    for _ in 0..times {
        value.fetch_add(1);
    }
}

#[test]
fn additions_of_many_processes_are_not_lost() {
    let _watchdog = watchdog(60);
    let value = Value::new(7).unwrap();
    let arguments = || (value.clone(), 5000);
    let mut children = Vec::new();
    for _ in 0..3 {
        children.push(Process::new(add_under_lock, arguments()).start().unwrap());
    }
    add_under_lock(value.clone(), 5000);
    for child in children.drain(..) {
        child.join().unwrap();
    }
    assert_eq!(value.get().unwrap(), 20_007);
    for _ in 0..3 {
        children.push(Process::new(add_without_lock, arguments()).start().unwrap());
    }
    add_without_lock(value.clone(), 5000);
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(value.load(), 40_007);
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable, Serialize, Deserialize)]
#[repr(C)]
struct Point {
    x: f64,
    y: f64,
    tag: [u8; 8],
}

#[mp::task]
fn move_right(point: Value<Point>) -> Point {
    point.lock().unwrap().x += 1.0;
    point.get().unwrap()
}

#[test]
fn values_of_a_struct_are_shared() {
    let _watchdog = watchdog(60);
    let point = Value::new(Point {
        x: 0.5,
        y: -1.0,
        tag: *b"a point!",
    })
    .unwrap();
    let seen = Process::new(move_right, (point.clone(),)).start().unwrap();
    let seen = seen.join().unwrap();
    assert_eq!(seen.x, 1.5);
    assert_eq!(point.get().unwrap(), seen);
    assert_eq!(
        Value::<Point>::zeroed().unwrap().get().unwrap(),
        Point::zeroed()
    );
}

#[test]
fn debug_shows_the_value_or_who_has_it() {
    let value = Value::new(5).unwrap();
    assert_eq!(format!("{value:?}"), "Value(5)");
    let guard = value.lock().unwrap();
    assert!(format!("{value:?}").contains("this process"));
    assert_eq!(format!("{guard:?}"), "Guard(5)");
    drop(guard);
    let array = Array::from_slice(&[1, 2]).unwrap();
    assert!(format!("{array:?}").contains("len: 2"), "{array:?}");
}

#[mp::task]
fn die_with(value: Value<u64>) {
    let mut guard = value.lock().unwrap();
    *guard = 99;
    std::process::abort();
}

#[test]
fn death_of_the_holder_is_told_until_recover() {
    let _watchdog = watchdog(60);
    let value = Value::new(1).unwrap();
    let mut process = Process::new(die_with, (value.clone(),)).name("fated");
    process = process.stderr(Stdio::null());
    assert!(process.start().unwrap().join().unwrap_err().is_crash());
    assert_eq!(value.lock().unwrap_err().name(), "fated");
    assert!(matches!(
        value.try_lock(),
        Err(TryAcquireError::OwnerDied(_))
    ));
    assert!(value.lock_timeout(Duration::ZERO).is_err());
    // It is as far as it came.
    assert_eq!(*value.recover(), 99);
    assert_eq!(value.get().unwrap(), 99);
}

#[test]
fn leaked_guard_is_as_a_holder_that_died() {
    let _watchdog = watchdog(60);
    let name = "leaked_guard_is_as_a_holder_that_died";
    alone(name, || {
        let value = Value::new(1_u32).unwrap();
        std::mem::forget(value.lock().unwrap());
        assert!(matches!(value.try_lock(), Err(TryAcquireError::WouldBlock)));
    });
}

// Arrays.

#[mp::task]
fn prefix_sum(numbers: Array<i64>) {
    let mut sum = 0;
    for number in numbers.lock().unwrap().iter_mut() {
        sum += *number;
        *number = sum;
    }
}

#[test]
fn arrays_of_any_length_are_shared() {
    let _watchdog = watchdog(60);
    // Inline, at the edge, beyond it, and of many blocks.
    for len in [0, 1, 24, 25, 1000, 1_000_000] {
        let array = Array::from_slice(&vec![1_i64; len]).unwrap();
        assert_eq!((array.len(), array.is_empty()), (len, len == 0));
        let child = Process::new(prefix_sum, (array.clone(),)).start().unwrap();
        child.join().unwrap();
        assert!(array.read(..).unwrap().into_iter().eq(1..=len as i64));
    }
}

#[test]
fn slices_are_read_and_written() {
    let array = Array::<u16>::zeroed(10).unwrap();
    array.write(3, &[1, 2, 3]).unwrap();
    assert_eq!(array.read(2..7).unwrap(), [0, 1, 2, 3, 0]);
    assert_eq!(array.get(4).unwrap(), Some(2));
    assert_eq!(array.get(10).unwrap(), None);
    array.write(10, &[]).unwrap();
}

#[test]
fn write_beyond_the_end_changes_nothing() {
    let array = Array::from_slice(&[1_u8, 2, 3]).unwrap();
    for (start, values) in [(2, &[7_u8, 7][..]), (4, &[]), (usize::MAX, &[7])] {
        let error = array.write(start, values).unwrap_err();
        assert!(error.to_string().contains("of the array"), "{error}");
    }
    assert_eq!(array.read(..).unwrap(), [1, 2, 3]);
}

#[test]
#[should_panic(expected = "range")]
fn read_beyond_the_end_panics() {
    let _ = Array::from_slice(&[1_u8, 2, 3]).unwrap().read(2..5);
}

/// Memory that was used before holds what was there.
#[test]
fn zeroed_is_zeroed_in_memory_that_was_used() {
    for _ in 0..3 {
        let array = Array::from_slice(&[0xAB_u8; 300_000]).unwrap();
        drop(array);
        let array = Array::<u8>::zeroed(300_000).unwrap();
        assert!(array.lock().unwrap().iter().all(|&byte| byte == 0));
    }
}

#[mp::task]
fn write_half(array: Array<u32>, which: usize) {
    let half = array.len() / 2;
    for index in which * half..(which + 1) * half {
        // SAFETY: each half is one process's, and the parent reads when both have ended.
        unsafe { array.as_mut_ptr().add(index).write(index as u32) };
    }
}

#[test]
fn processes_write_ranges_of_their_own_without_the_lock() {
    let _watchdog = watchdog(60);
    let array = Array::zeroed(100_000).unwrap();
    let children = [0, 1].map(|which| Process::new(write_half, (array.clone(), which)).start());
    for child in children {
        child.unwrap().join().unwrap();
    }
    assert!(array.read(..).unwrap().into_iter().eq(0..100_000));
}

#[mp::task]
fn fork(value: Value<u64>, array: Array<u8>) -> i32 {
    // SAFETY: the copy only does what is under test, and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        std::panic::set_hook(Box::new(|_| {}));
        let panics = |f: &dyn Fn()| std::panic::catch_unwind(AssertUnwindSafe(f)).is_err();
        let checks = [
            panics(&|| drop(value.lock())),
            panics(&|| assert!(value.load() > 0)),
            panics(&|| assert!(value.fetch_add(1) > 0)),
            panics(&|| drop(array.read(..))),
            array.len() == 3,
            !format!("{value:?} {array:?}").is_empty(),
            Value::new(1).is_err_and(|error| error.is_forked()),
        ];
        drop((value, array));
        let failed = checks.iter().position(|fine| !fine);
        // SAFETY: takes an integer and does not return.
        unsafe { libc::_exit(failed.map_or(0, |check| check as i32 + 1)) };
    }
    let mut status = 0;
    // SAFETY: points to an integer.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

#[test]
fn copy_made_by_fork_is_told() {
    let _watchdog = watchdog(60);
    let (value, array) = (Value::new(1).unwrap(), Array::zeroed(3).unwrap());
    let child = Process::new(fork, (value, array)).start().unwrap();
    assert_eq!(child.join().unwrap(), 0);
}

// Written once.

#[mp::task]
fn sum(numbers: Shared<[f64]>) -> f64 {
    numbers.iter().sum()
}

#[mp::task]
fn reversed(bytes: Bytes) -> Bytes {
    Bytes::from_values(bytes.iter().rev().copied()).unwrap()
}

#[mp::task]
fn shout(text: Shared<str>) -> Shared<str> {
    Shared::from_text(&text.to_uppercase()).unwrap()
}

#[test]
fn data_is_read_where_it_lies_and_handed_back() {
    let _watchdog = watchdog(60);
    let pool = Pool::new(2).unwrap();
    for len in [0, 3, 192, 193, 5_000_000] {
        let bytes = Bytes::from_values((0..len).map(|x| x as u8)).unwrap();
        let back = pool.apply(reversed, (bytes.clone(),)).unwrap();
        assert!(back.iter().eq(bytes.iter().rev()), "{len}");
    }
    let numbers = Shared::from_slice(&[0.25; 10_000]).unwrap();
    assert_eq!(pool.apply(sum, (numbers,)).unwrap(), 2500.0);
    let text = Shared::from_text("grün").unwrap();
    assert_eq!(&*pool.apply(shout, (text,)).unwrap(), "GRÜN");
}

#[test]
fn slices_are_parts_of_the_same_memory() {
    let _watchdog = watchdog(60);
    let all = Shared::from_values((0..1000).map(f64::from)).unwrap();
    let part = all.slice(100..=199).slice(10..20);
    assert_eq!(part.as_ptr(), all[110..].as_ptr());
    drop(all);
    let pool = Pool::new(1).unwrap();
    assert_eq!(
        pool.apply(sum, (part.clone(),)).unwrap(),
        f64::from((110..120).sum::<i32>())
    );
    assert_eq!(part.len(), 10);
}

#[test]
#[should_panic(expected = "cuts a character")]
fn slice_through_a_character_panics() {
    let _ = Shared::from_text("grün").unwrap().slice(..3);
}

#[test]
#[should_panic(expected = "does not lie within")]
fn slice_beyond_the_end_panics() {
    let _ = Bytes::from_slice(b"abc").unwrap().slice(2..5);
}

#[test]
fn files_and_readers_are_read_to_the_end() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..500_000_u32).map(|x| (x / 7) as u8).collect();
    std::fs::write(file.path(), &content).unwrap();
    assert_eq!(&Bytes::from_file(file.path()).unwrap()[..], content);
    // Whatever was expected.
    for expected in [0, 10, 500_000, 900_000] {
        let bytes = Bytes::from_reader(&mut &content[..], expected).unwrap();
        assert_eq!(&bytes[..], content, "{expected}");
    }
    let error = Bytes::from_file("/nowhere/to/be/found").unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/to/be/found"),
        "{error}"
    );
}

/// One that says something else than it does.
struct Liar(u32);

impl Iterator for Liar {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0 = self.0.checked_sub(1)?;
        Some(self.0)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (5, Some(5))
    }
}

#[test]
fn iterator_that_misjudges_itself_has_its_way() {
    assert_eq!(
        Shared::from_values(Liar(7)).unwrap()[..],
        [6, 5, 4, 3, 2, 1, 0]
    );
    assert_eq!(Shared::from_values(Liar(3)).unwrap()[..3], [2, 1, 0]);
}

#[derive(Clone, Serialize, Deserialize)]
struct Picture {
    name: String,
    pixels: Bytes,
    size: Value<u64>,
    rows: Array<u32>,
}

#[mp::task]
fn pass_on(pictures: Queue<Picture>, done: Queue<Picture>) {
    for picture in &pictures {
        picture.size.store(picture.pixels.len() as u64);
        picture.rows.write(0, &[1, 2]).unwrap();
        done.put(picture).unwrap();
    }
}

#[test]
fn they_travel_in_structs_and_queues() {
    let _watchdog = watchdog(60);
    let (pictures, done) = (Queue::new().unwrap(), Queue::new().unwrap());
    let picture = Picture {
        name: "a".into(),
        pixels: Bytes::from_slice(&[7; 100_000]).unwrap(),
        size: Value::new(0).unwrap(),
        rows: Array::zeroed(2).unwrap(),
    };
    let child = Process::new(pass_on, (pictures.clone(), done.clone()));
    let child = child.start().unwrap();
    pictures.put(picture.clone()).unwrap();
    pictures.close();
    child.join().unwrap();
    let back = done.get().unwrap();
    assert_eq!((back.name.as_str(), back.size.load()), ("a", 100_000));
    assert_eq!(back.rows.read(..).unwrap(), [1, 2]);
    // The same memory all the way.
    assert_eq!(back.pixels.as_ptr(), picture.pixels.as_ptr());
}

#[test]
fn handle_of_another_type_is_refused() {
    let _watchdog = watchdog(60);
    // The bytes of the handle are the same; the object says what it is.
    let floats = Queue::<Array<f32>>::new().unwrap();
    // SAFETY: a queue has the same fields whatever its items are.
    let same: Queue<Array<u32>> = unsafe { std::mem::transmute(floats.clone()) };
    same.put(Array::from_slice(&[1_u32]).unwrap()).unwrap();
    let error = floats.get().unwrap_err();
    assert!(error.to_string().contains("something else"), "{error}");
}

#[test]
fn serialising_outside_of_a_call_is_an_error() {
    let bytes = Bytes::from_slice(b"abc").unwrap();
    let error = serde_json::to_string(&bytes).unwrap_err();
    assert!(
        error.to_string().contains("only while mp sends it"),
        "{error}"
    );
}

// Memory comes back.

#[mp::task]
fn hold_until_killed(bytes: Bytes, ready: Queue<()>) {
    ready.put(()).unwrap();
    std::hint::black_box(bytes.len());
    loop {
        std::thread::park();
    }
}

fn units() -> u64 {
    let audit = mp::__private::audit().unwrap();
    audit.object_units
}

#[test]
fn dead_holder_keeps_nothing() {
    let _watchdog = watchdog(60);
    alone("dead_holder_keeps_nothing", || {
        let ready = Queue::new().unwrap();
        ready.put(()).unwrap();
        ready.get().unwrap();
        let before = units();
        let bytes = Bytes::from_slice(&[1; 1 << 20]).unwrap();
        let child = Process::new(hold_until_killed, (bytes.clone(), ready.clone()));
        let child = child.start().unwrap();
        ready.get().unwrap();
        drop(bytes);
        // It is the child's alone now.
        assert!(units() > before);
        child.kill();
        child.join().unwrap_err();
        settles_at(&before, units);
    });
}

#[test]
fn buffers_made_and_dropped_come_back_to_where_it_started() {
    let _watchdog = watchdog(120);
    alone(
        "buffers_made_and_dropped_come_back_to_where_it_started",
        || {
            drop(Bytes::from_slice(&[0; 1000]).unwrap());
            let before = units();
            // MP_TEST_GIB=8 is the size that a machine of 24 GiB should stand.
            let gib = std::env::var("MP_TEST_GIB").map_or(0.25, |gib| gib.parse().unwrap());
            let size = (gib * (1 << 30) as f64) as usize / 1000;
            for _ in 0..2 {
                let buffers: Vec<_> = (0..1000_usize)
                    .map(|index| Bytes::filled(size, |bytes| bytes.fill(index as u8)).unwrap())
                    .collect();
                for (index, buffer) in buffers.iter().enumerate() {
                    assert_eq!((buffer[0], buffer[size - 1]), (index as u8, index as u8));
                }
                drop(buffers);
                assert_eq!(units(), before);
            }
        },
    );
}
