//! Pools whose workers share no memory with the program, and workers that write what they like.

mod support;

use std::fs;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use mp::{Event, Pool, PoolBuilder, Process, Queue, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use support::{Random, alone, eventually, watchdog};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

fn isolated(workers: usize) -> PoolBuilder {
    let mut builder = Pool::builder();
    builder.workers(workers).isolated(true);
    builder
}

#[mp::task]
fn square(x: u64) -> u64 {
    x.wrapping_mul(x)
}

#[mp::task]
fn echo(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

#[mp::task]
fn zeros(len: usize) -> Vec<u8> {
    vec![0; len]
}

/// Panics or dies as the item says.
#[mp::task]
fn suffer(how: String) -> String {
    match how.as_str() {
        "panic" => panic!("as told"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(7),
        _ => how,
    }
}

#[mp::task]
fn hang(_: ()) {
    loop {
        std::thread::park();
    }
}

#[mp::task]
fn pid() -> u32 {
    std::process::id()
}

// As any pool.

#[test]
fn calls_are_as_of_any_pool() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = isolated(2).build()?;
    let squares: Vec<u64> = (0..20_000).map(|x: u64| x * x).collect();
    assert_eq!(pool.map(square, 0..20_000)?, squares);
    let mut unordered: Vec<u64> = pool
        .imap_unordered(square, 0..20_000)?
        .collect::<Result<_, _>>()?;
    unordered.sort_unstable();
    assert_eq!(unordered, squares);
    assert_eq!(pool.apply(square, (7,))?, 49);
    assert_eq!(pool.submit(square, (8,))?.wait()?, 64);
    for len in [0, 1, 100_000, 5_000_000] {
        let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
        assert_eq!(pool.apply(echo, (bytes.clone(),))?, bytes);
    }
    // More results than one job is to bring.
    let all = pool.map(zeros, vec![50_000; 200])?;
    assert!(all.len() == 200 && all.iter().all(|bytes| bytes.len() == 50_000));
    pool.close();
    pool.join()?;
    Ok(())
}

#[test]
fn failures_cost_their_item_alone_and_say_why() -> AnyResult {
    let _watchdog = watchdog(120);
    let mut builder = isolated(2);
    let pool = builder.chunk_size(3).build()?;
    let fates = [
        "a", "panic", "b", "abort", "c", "exit", "d", "e", "abort", "f",
    ];
    let outcomes = pool.try_map(suffer, fates.map(str::to_owned))?;
    for (fate, outcome) in fates.into_iter().zip(outcomes) {
        match (fate, outcome) {
            ("panic", Err(error)) => {
                assert!(error.is_panic() && error.message() == Some("as told"))
            }
            ("abort", Err(error)) => assert_eq!(error.signal(), Some(libc::SIGABRT), "{error}"),
            ("exit", Err(error)) => assert_eq!(error.exit_code(), Some(7), "{error}"),
            (fate, outcome) => assert_eq!(outcome?, fate),
        }
    }
    Ok(())
}

#[mp::task]
fn hang_at_7(n: u32) -> u32 {
    if n == 7 {
        loop {
            std::thread::park();
        }
    }
    n * 2
}

#[test]
fn item_that_takes_too_long_fails_alone_and_no_other_is_lost() -> AnyResult {
    let _watchdog = watchdog(120);
    let mut builder = isolated(2);
    builder.chunk_size(5);
    builder.task_timeout(std::time::Duration::from_secs(3));
    let pool = builder.build()?;
    for (n, outcome) in (0..).zip(pool.try_map(hang_at_7, 0..30)?) {
        match outcome {
            Ok(value) => assert_eq!(value, n * 2),
            Err(error) => {
                assert_eq!(n, 7, "{error}");
                assert!(error.is_timeout() && error.pid().is_some(), "{error}");
            }
        }
    }
    let once = std::time::Duration::from_millis(30);
    let error = pool.with_timeout(once).apply(hang_at_7, (7,)).unwrap_err();
    assert!(error.task().unwrap().is_timeout(), "{error}");
    Ok(())
}

#[mp::task]
fn add(a: u64, b: u64) -> u64 {
    a.wrapping_add(b)
}

#[test]
fn broadcast_reaches_each_and_results_are_merged() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = isolated(3).build()?;
    let pids = || {
        let outcomes = pool.broadcast(pid, ())?.into_iter();
        outcomes
            .collect::<Result<Vec<_>, _>>()
            .map_err(mp::Error::from)
    };
    let workers = pids()?;
    assert_eq!(workers.len(), 3);
    assert!(workers[0] != workers[1] && workers[1] != workers[2]);
    assert_eq!(pids()?, workers);
    let sum = (0..1000).map(|x| x * x).sum();
    assert_eq!(pool.map_reduce(square, add, 0..1000)?, Some(sum));
    Ok(())
}

#[mp::task]
fn set_up(text: String) {
    assert_ne!(text, "no", "it will not");
    // SAFETY: the worker's only thread.
    unsafe { std::env::set_var("MP_TEST_SET_UP", text) };
}

#[mp::task]
fn what_was_set_up() -> String {
    std::env::var("MP_TEST_SET_UP").unwrap_or_default()
}

#[test]
fn workers_are_initialized_and_replaced() -> AnyResult {
    let _watchdog = watchdog(120);
    let mut builder = isolated(1);
    let pool = builder
        .initializer(set_up, ("yes".to_owned(),))
        .max_tasks_per_worker(2)
        .build()?;
    let mut pids: Vec<u32> = Vec::new();
    for _ in 0..6 {
        assert_eq!(pool.apply(what_was_set_up, ())?, "yes");
        pids.push(pool.apply(pid, ())?);
    }
    assert!(!pids.contains(&std::process::id()));
    pids.dedup();
    assert_eq!(pids.len(), 6, "two items each");

    let mut builder = isolated(1);
    let broken = builder.initializer(set_up, ("no".to_owned(),)).build()?;
    let error = broken.apply(pid, ()).unwrap_err();
    assert!(error.to_string().contains("it will not"), "{error:#}");
    Ok(())
}

#[test]
fn memory_that_is_used_up_is_told() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = isolated(1).memory_limit(256 << 20).build()?;
    let error = pool.apply(zeros, (1 << 30,)).unwrap_err();
    assert!(
        error.task().is_some_and(TaskError::is_out_of_memory),
        "{error:#}"
    );
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

#[test]
fn job_that_hangs_is_cancelled_and_pools_end() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = isolated(2).build()?;
    let job = pool.submit(hang, ((),))?;
    let other = pool.submit(hang, ((),))?;
    job.cancel();
    let error = job.wait().unwrap_err();
    assert!(
        error.task().is_some_and(TaskError::is_cancelled),
        "{error:#}"
    );
    assert_eq!(pool.apply(square, (3,))?, 9);
    drop(pool);
    assert!(other.wait().is_err());
    Ok(())
}

/// Notes in a directory that it runs; the one that is so told stays until it finds another note.
#[mp::task]
fn note_and_stay((n, stays, directory): (u32, u32, PathBuf)) -> u32 {
    fs::write(directory.join(n.to_string()), "").unwrap();
    while n == stays && !directory.join("go").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    n
}

#[test]
fn dropped_stream_has_a_worker_stop_after_the_item_it_is_at() -> AnyResult {
    let _watchdog = watchdog(120);
    for (is_isolated, stays) in [(true, 10), (true, 13), (false, 13)] {
        let directory = tempfile::tempdir()?;
        let noted = |what: &str| directory.path().join(what).exists();
        let mut builder = Pool::builder();
        let pool = builder
            .workers(1)
            .isolated(is_isolated)
            .chunk_size(10)
            .build()?;
        let before = pool.apply(pid, ())?;
        let path = directory.path().to_owned();
        let mut stream = pool.imap(note_and_stay, (0..).map(|n| (n, stays, path.clone())))?;
        assert_eq!(stream.next().unwrap()?, 0);
        eventually(|| noted(&stays.to_string()));
        drop(stream);
        fs::write(directory.path().join("go"), "")?;
        // The same worker goes on with what is wanted, when it is through.
        assert_eq!(pool.apply(pid, ())?, before);
        assert!(!noted(&(stays + 1).to_string()), "{stays}");
        assert_eq!(pool.map(square, 0..100)?[99], 9801);
        let (audit, jobs) = mp::__private::audit_of_pool(&pool);
        assert!(audit.faults.is_empty(), "{audit:?}");
        assert_eq!(jobs, 0);
    }
    Ok(())
}

/// Stays in a directory that is there for as long as that is wanted.
#[mp::task]
fn stay_while_wanted(directory: PathBuf) {
    let is_there = fs::write(directory.join("begun"), "").is_ok();
    while is_there && !mp::is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn task_can_ask_whether_its_stream_was_dropped() -> AnyResult {
    let _watchdog = watchdog(120);
    for is_isolated in [true, false] {
        let directory = tempfile::tempdir()?;
        let path = directory.path().to_owned();
        let mut builder = Pool::builder();
        let pool = builder
            .workers(1)
            .isolated(is_isolated)
            .chunk_size(1)
            .build()?;
        // The first is there for `next` to come back.
        let mut stream = pool.imap(stay_while_wanted, [path.join("none"), path.clone()])?;
        stream.next().unwrap()?;
        eventually(|| path.join("begun").exists());
        drop(stream);
        assert_eq!(pool.apply(square, (3,))?, 9);
    }
    Ok(())
}

#[test]
fn result_beyond_the_limit_is_an_error() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = isolated(1).result_limit(1000).build()?;
    let outcomes = pool.try_map(zeros, [992, 993, 10_000_000, 5])?;
    assert_eq!(outcomes[0].as_ref().map(Vec::len).ok(), Some(992));
    for outcome in &outcomes[1..3] {
        let error = outcome.as_ref().unwrap_err();
        assert!(error.is_not_encoded(), "{error}");
        assert!(error.to_string().contains("result_limit"), "{error}");
    }
    assert_eq!(outcomes[3].as_ref().map(Vec::len).ok(), Some(5));
    Ok(())
}

// Nothing shared.

#[mp::task]
fn with_event(x: u64, _event: Event) -> u64 {
    x
}

#[mp::task]
fn set_up_with(_queue: Queue<u8>) {}

#[test]
fn handles_are_refused_before_anything_is_sent() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = isolated(1).build()?;
    let error = pool.apply(with_event, (1, Event::new()?)).unwrap_err();
    let error = error.task().unwrap();
    assert!(
        error.is_not_encoded() && !error.may_have_started(),
        "{error}"
    );
    assert!(error.to_string().contains("isolated worker"), "{error}");
    assert_eq!(pool.apply(square, (2,))?, 4);

    let mut builder = isolated(1);
    let error = builder
        .initializer(set_up_with, (Queue::new()?,))
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("isolated worker"), "{error:#}");
    Ok(())
}

/// What of `mp` can be had here, and what of the program's can be written.
#[mp::task]
fn look_around() -> Vec<String> {
    let mut found = Vec::new();
    let queue = Queue::<u8>::new().err().map(|error| error.to_string());
    found.extend(queue);
    let child = Process::new(pid, ()).start().err();
    found.extend(child.map(|error| error.to_string()));
    found.extend(shared_mappings().iter().map(|at| format!("{at:?}")));
    for fd in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        if target.contains("memfd") {
            found.push(target);
        }
    }
    found
}

#[test]
fn nothing_of_the_program_is_there() -> AnyResult {
    let _watchdog = watchdog(120);
    // There is something.
    let queue = Queue::<u8>::new()?;
    let shared = Pool::new(1)?.apply(look_around, ())?;
    assert!(
        shared.iter().any(|found| found.contains("memfd")),
        "{shared:?}"
    );
    let found = isolated(1).build()?.apply(look_around, ())?;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.iter().all(|error| error.contains("isolated worker")),
        "{found:?}"
    );
    drop(queue);
    Ok(())
}

/// The mappings that are shared and can be written: what a wild write reaches of others.
fn shared_mappings() -> Vec<(usize, usize)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let parse = |line: &str| {
        let mut fields = line.split(' ');
        let (from, to) = fields.next()?.split_once('-')?;
        let is_shared = fields.next()? == "rw-s";
        let number = |text| usize::from_str_radix(text, 16).ok();
        is_shared.then_some((number(from)?, number(to)?))
    };
    maps.lines().filter_map(parse).collect()
}

/// The sockets of this process: the only way that leads from an isolated worker to its parent.
fn sockets() -> Vec<RawFd> {
    let is_socket = |fd: &RawFd| {
        let target = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        target.to_string_lossy().starts_with("socket:")
    };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
    all.filter_map(number).filter(is_socket).collect()
}

/// Writes over every shared mapping and says things on every socket, as often as asked; then goes on
/// as if nothing were.
#[mp::task]
fn run_wild(seed: u64, rounds: u32, how: u8) -> u64 {
    let mut random = Random::seeded(seed);
    for _ in 0..rounds {
        for (from, to) in shared_mappings() {
            for at in (from..to).step_by(8) {
                let word = std::ptr::with_exposed_provenance_mut::<u64>(at);
                // SAFETY: none. It is mapped for writing, and that others use it is the point.
                unsafe {
                    match how % 3 {
                        0 => word.write_volatile(random.below(u64::MAX)),
                        1 => word.write_volatile(u64::MAX),
                        _ => word.write_volatile(
                            word.read_volatile() ^ (1 << (random.below(u64::MAX) % 64)),
                        ),
                    }
                };
            }
        }
        for socket in sockets() {
            let bytes = wild_bytes(&mut random, how);
            // SAFETY: the bytes are valid to read for their length.
            unsafe {
                libc::send(
                    socket,
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
                )
            };
        }
    }
    seed
}

/// Bytes that make no sense, or some as in the protocol.
fn wild_bytes(random: &mut Random, how: u8) -> Vec<u8> {
    let frame =
        |kind: u8, len: u64, payload: &[u8]| [&[kind][..], &len.to_le_bytes(), payload].concat();
    match how {
        0 => (0..1 + random.below(u64::MAX) % 4000)
            .map(|_| random.below(u64::MAX) as u8)
            .collect(),
        1 => vec![0xFF; 4096],
        2 => {
            let mut bytes = frame(8, 4, &[0; 4]);
            let bit = random.below(u64::MAX) as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        }
        // An outcome of endless length.
        3 => frame(8, u64::MAX, &[7; 1000]),
        // One that claims less than it brings, and more.
        4 => frame(
            8,
            12,
            &[
                0xFF, 0xFF, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
            ],
        ),
        // Handles, as honest pools mark them.
        5 => frame(
            8,
            16,
            &[0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0],
        ),
        // The end of a job that is not through, and of one that is.
        6 => frame(9, 2, &[0, 0]),
        7 => frame(9, 2, &[1, 0]),
        8 => frame(9, 2, &[2, 0]),
        9 => frame(9, 2, &[200, 0]),
        // Ready again; begun again; unfit.
        10 => frame(5, 0, &[]),
        11 => frame(7, 0, &[]),
        12 => frame(6, 4, &[0; 4]),
        // Many outcomes.
        _ => frame(8, 12, &[8, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]).repeat(100),
    }
}

#[mp::task]
fn any(x: u64) -> u64 {
    x + 1
}

#[test]
fn worker_that_writes_everywhere_makes_its_own_task_fail_at_most() {
    alone(
        "worker_that_writes_everywhere_makes_its_own_task_fail_at_most",
        || {
            let _watchdog = watchdog(300);
            let kept = Queue::<u64>::new().unwrap();
            kept.put(4711).unwrap();
            let honest = Pool::new(1).unwrap();
            let pool = isolated(2).chunk_size(1).build().unwrap();
            let mut random = Random::new();
            for round in 0..4 {
                for how in 0..=13 {
                    let wild = pool
                        .submit(run_wild, (random.below(u64::MAX), 1 + round % 3, how))
                        .unwrap();
                    // Others, in the same pool and in another, and what the program shares.
                    assert_eq!(pool.map(any, 0..50).unwrap(), (1..=50).collect::<Vec<_>>());
                    assert_eq!(
                        honest.map(any, 0..50).unwrap(),
                        (1..=50).collect::<Vec<_>>()
                    );
                    // Half a frame has both sides wait for the rest: a task that hangs.
                    let outcome = wild.wait_timeout(Duration::from_millis(300));
                    let outcome = outcome.unwrap_or_else(|wild| {
                        wild.cancel();
                        wild.wait()
                    });
                    if let Err(error) = outcome {
                        let error = error.task().unwrap();
                        assert!(
                            error.is_not_decoded()
                                || error.is_crash()
                                || error.is_lost()
                                || error.is_cancelled(),
                            "{how}: {error}"
                        );
                    }
                }
            }
            assert_eq!(kept.get().unwrap(), 4711);
            pool.close();
            pool.join().unwrap();
            honest.close();
            honest.join().unwrap();
            eventually(|| support::children().is_empty());
        },
    );
}

#[test]
fn workers_killed_at_random_cost_the_items_they_were_at() {
    alone(
        "workers_killed_at_random_cost_the_items_they_were_at",
        || {
            const ITEMS: u64 = 20_000;
            let _watchdog = watchdog(300);
            let pool = isolated(3).build().unwrap();
            let mut random = Random::new();
            let mut outcomes = vec![0; ITEMS as usize];
            let (mut kills, mut failed) = (0, 0);
            for (at, outcome) in pool.imap_unordered(any, 0..ITEMS).unwrap().enumerate() {
                match outcome {
                    Ok(value) => outcomes[value as usize - 1] += 1,
                    Err(error) => {
                        assert!(error.is_crash(), "{error}");
                        outcomes[error.index().unwrap() as usize] += 1;
                        failed += 1;
                    }
                }
                // Whatever it is at, or none that has ended already.
                if at % 100 == 99 {
                    let children = support::children();
                    let child = random.below(children.len().max(1) as u64);
                    if let Some(&child) = children.get(child as usize) {
                        support::send_signal(child, libc::SIGKILL);
                        kills += 1;
                    }
                }
            }
            assert!(outcomes.iter().all(|&outcomes| outcomes == 1));
            assert!(failed <= kills, "{failed} items failed of {kills} kills");
            assert_eq!(pool.apply(any, (1,)).unwrap(), 2);
            drop(pool);
            eventually(|| support::children().is_empty());
        },
    );
}

/// Nothing but "and another one" as bytes; a list as a value.
#[derive(Debug)]
struct Endless;

#[derive(Deserialize)]
enum List {
    End,
    Next(#[expect(dead_code, reason = "only its depth counts")] Box<List>),
}

impl Serialize for Endless {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        const DEPTH: usize = 1_000_000;
        let mut tuple = serializer.serialize_tuple(DEPTH)?;
        for _ in 0..DEPTH {
            tuple.serialize_element(&1_u32)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Endless {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match List::deserialize(deserializer)? {
            List::End | List::Next(_) => Ok(Self),
        }
    }
}

#[mp::task]
fn endless() -> Endless {
    Endless
}

#[test]
fn result_that_is_nested_without_end_is_an_error() -> AnyResult {
    let _watchdog = watchdog(120);
    let pool = isolated(1).build()?;
    let error = pool.apply(endless, ()).unwrap_err();
    let error = error.task().unwrap();
    assert!(error.is_not_decoded(), "{error}");
    assert!(error.to_string().contains("nested too deep"), "{error}");
    // Also on a thread with less of a stack than the main one.
    let error = pool.submit(endless, ())?.wait().unwrap_err();
    assert!(
        error.task().is_some_and(TaskError::is_not_decoded),
        "{error:#}"
    );
    Ok(())
}

// Copies that a task makes of its worker.

/// What comes back from the task in a copy made by `fork`, and what in the worker itself.
#[mp::task]
fn fork_and_return(panics: bool) -> (String, i32) {
    // SAFETY: the copy returns, or panics, and does nothing else.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        assert!(!panics, "the copy panics");
        return ("copy".to_owned(), 0);
    }
    let mut status = 0;
    // SAFETY: `status` is valid to write.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    ("worker".to_owned(), status)
}

#[test]
fn copy_of_a_worker_answers_for_nothing() {
    let _watchdog = watchdog(120);
    let pool = isolated(1).build().unwrap();
    for panics in [false, true] {
        let (who, status) = pool.apply(fork_and_return, (panics,)).unwrap();
        assert_eq!(who, "worker");
        assert!(libc::WIFEXITED(status), "{status:#x}");
        assert_eq!(pool.map(square, 0..10).unwrap()[9], 81);
    }
}
