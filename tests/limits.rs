//! What a child may use, and what is said when it uses more.

mod support;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::process::Command;
use std::time::Duration;

use mp::{Pool, Process, Queue};
use support::watchdog;

const MIB: u64 = 1 << 20;

/// Far above what a child has before its task begins, and below what the tests take.
const MEMORY: u64 = 256 * MIB;

#[mp::task]
fn allocate(bytes: u64) -> u64 {
    std::hint::black_box(vec![1u8; bytes as usize]).len() as u64
}

/// Takes memory in small pieces until there is none.
#[mp::task]
fn leak() {
    loop {
        std::hint::black_box(Box::leak(Box::new([1u8; 4096])));
    }
}

#[test]
fn a_task_that_exceeds_its_memory_is_reported_as_that() {
    let _watchdog = watchdog(120);
    // In one step that leaves most of it unused, whatever Rust's runtime prints; and in many small
    // ones.
    for backtrace in ["0", "1"] {
        let step = Process::new(allocate, (4 * MEMORY,))
            .env("RUST_BACKTRACE", backtrace)
            .memory_limit(MEMORY)
            .start()
            .unwrap();
        let error = step.join().unwrap_err();
        assert!(error.is_crash() && error.is_out_of_memory(), "{error}");
        let text = error.to_string();
        assert!(text.contains("probably out of memory"), "{text}");
    }

    let small = Process::new(leak, ()).memory_limit(MEMORY).start().unwrap();
    let error = small.join().unwrap_err();
    assert!(error.is_crash() && error.is_out_of_memory(), "{error}");
}

#[test]
fn a_task_within_its_memory_does_not_notice() {
    let _watchdog = watchdog(120);
    let child = Process::new(allocate, (MEMORY / 4,))
        .memory_limit(MEMORY)
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), MEMORY / 4);
}

#[mp::task]
fn abort() {
    std::process::abort();
}

#[mp::task]
fn wait_for_end(started: Queue<()>) {
    started.put(()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn another_end_is_no_lack_of_memory() {
    let _watchdog = watchdog(120);
    let child = Process::new(abort, ())
        .memory_limit(MEMORY)
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGABRT));
    assert!(!error.is_out_of_memory(), "{error}");

    let started = Queue::new().unwrap();
    let child = Process::new(wait_for_end, (started.clone(),))
        .memory_limit(MEMORY)
        .start()
        .unwrap();
    started.get().unwrap();
    child.kill();
    let error = child.join().unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGKILL));
    assert!(!error.is_out_of_memory(), "{error}");
}

/// What the process and a program that it executes may use.
#[mp::task]
fn data_limits() -> (Option<u64>, Option<u64>) {
    let own = std::fs::read_to_string("/proc/self/limits").unwrap();
    let other = Command::new("cat")
        .arg("/proc/self/limits")
        .output()
        .unwrap();
    let other = String::from_utf8(other.stdout).unwrap();
    let soft = |text: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with("Max data size"))?;
        line.split_ascii_whitespace().nth(3)?.parse().ok()
    };
    (soft(&own), soft(&other))
}

#[mp::task]
fn data_limits_of_a_child() -> (Option<u64>, Option<u64>) {
    Process::new(data_limits, ())
        .memory_limit(2 * MEMORY)
        .start()
        .unwrap()
        .join()
        .unwrap()
}

#[test]
fn descendants_have_the_limit_too_and_cannot_raise_it() {
    let _watchdog = watchdog(120);
    let child = Process::new(data_limits, ())
        .memory_limit(MEMORY)
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), (Some(MEMORY), Some(MEMORY)));
    let child = Process::new(data_limits_of_a_child, ())
        .memory_limit(MEMORY)
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), (Some(MEMORY), Some(MEMORY)));
}

#[test]
fn a_limit_that_lets_no_task_begin_is_refused() {
    let _watchdog = watchdog(120);
    let child = Process::new(allocate, (1,))
        .memory_limit(1)
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    assert!(error.is_not_started(), "{error}");
    assert!(
        error.to_string().contains("memory limit of 1 bytes"),
        "{error}"
    );
}

#[mp::task]
fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

#[mp::task]
fn spin_and_ignore() {
    // SAFETY: sets no handler.
    unsafe { libc::signal(libc::SIGXCPU, libc::SIG_IGN) };
    spin();
}

#[test]
fn a_task_that_uses_its_cpu_time_up_is_ended_and_told() {
    let _watchdog = watchdog(120);
    let child = Process::new(spin, ())
        .cpu_time_limit(Duration::from_millis(10))
        .start()
        .unwrap();
    let deaf = Process::new(spin_and_ignore, ())
        .cpu_time_limit(Duration::from_millis(10))
        .start()
        .unwrap();
    let error = child.join().unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGXCPU));
    assert!(error.to_string().contains("CPU time"), "{error}");
    assert_eq!(deaf.join().unwrap_err().signal(), Some(libc::SIGKILL));
}

#[mp::task]
fn open_files(most: usize) -> (usize, Option<i32>) {
    let mut files = Vec::new();
    while files.len() < most {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => return (files.len(), error.raw_os_error()),
        }
    }
    (files.len(), None)
}

#[test]
fn too_many_open_files_are_an_error_in_the_task() {
    let _watchdog = watchdog(120);
    let child = Process::new(open_files, (100,))
        .open_files_limit(50)
        .start()
        .unwrap();
    let (opened, error) = child.join().unwrap();
    assert!((1..50).contains(&opened), "{opened}");
    assert_eq!(error, Some(libc::EMFILE));
}

#[mp::task]
fn write_file(bytes: usize) -> Option<bool> {
    let mut file = tempfile::tempfile().unwrap();
    let error = file.write_all(&vec![0; bytes]).err()?;
    Some(error.kind() == ErrorKind::FileTooLarge)
}

#[test]
fn too_large_a_file_is_an_error_in_the_task() {
    let _watchdog = watchdog(120);
    let write = |bytes| {
        let child = Process::new(write_file, (bytes,)).file_size_limit(1 << 16);
        child.start().unwrap().join().unwrap()
    };
    assert_eq!(write(1 << 16), None);
    assert_eq!(write((1 << 16) + 1), Some(true));
}

#[test]
fn one_item_that_exceeds_a_workers_memory_fails_alone() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(2)
        .memory_limit(MEMORY)
        .chunk_size(2)
        .build()
        .unwrap();
    let items = [MIB, 4 * MEMORY, MIB, 2 * MIB, MIB];
    let outcomes = pool.try_map(allocate, items).unwrap();
    for (index, (outcome, item)) in outcomes.iter().zip(items).enumerate() {
        match outcome {
            Ok(len) => assert_eq!(*len, item),
            Err(error) => {
                assert_eq!((index, error.index()), (1, Some(1)), "{error}");
                assert!(error.is_crash() && error.is_out_of_memory(), "{error}");
            }
        }
    }
    assert!(outcomes[1].is_err());
}

#[test]
fn each_worker_has_the_pools_limits() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .cpu_time_limit(Duration::from_secs(1))
        .open_files_limit(50)
        .file_size_limit(1 << 16)
        .build()
        .unwrap();
    assert_eq!(
        pool.apply(open_files, (100,)).unwrap().1,
        Some(libc::EMFILE)
    );
    assert_eq!(
        pool.apply(write_file, ((1 << 16) + 1,)).unwrap(),
        Some(true)
    );
    let error = pool.apply(spin, ()).unwrap_err();
    let error = error.task().unwrap();
    assert_eq!(error.signal(), Some(libc::SIGXCPU), "{error}");
}

#[test]
fn limits_without_end_are_none() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .memory_limit(u64::MAX)
        .cpu_time_limit(Duration::MAX)
        .open_files_limit(u64::MAX)
        .file_size_limit(u64::MAX)
        .build()
        .unwrap();
    assert_eq!(pool.apply(allocate, (MIB,)).unwrap(), MIB);
}

/// Allocates so that a lack of memory is a panic and not the end.
#[mp::task]
fn reserve_or_map(bytes: u64, maps: bool) {
    if !maps {
        Vec::<u8>::new().try_reserve_exact(bytes as usize).unwrap();
        return;
    }
    let (prot, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a fresh mapping, which nobody uses.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, prot, flags, -1, 0) };
    if map == libc::MAP_FAILED {
        panic!("{}", std::io::Error::last_os_error());
    }
}

#[test]
fn panics_for_want_of_memory_are_told_as_that() {
    let _watchdog = watchdog(120);
    let pool = Pool::builder()
        .workers(1)
        .memory_limit(MEMORY)
        .build()
        .unwrap();
    for maps in [false, true] {
        let error = pool.apply(reserve_or_map, (4 * MEMORY, maps)).unwrap_err();
        let task = error.task().unwrap();
        assert!(task.is_panic() && task.is_out_of_memory(), "{error}");
    }
}
