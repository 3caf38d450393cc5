//! Pools whose workers are other processes, behind a server: every call, as of any pool.

mod support;

use std::collections::HashSet;
use std::time::Duration;

use mp::{AnyError, Queue, TaskError};
use mp_cluster as mp;
use support::{Server, length, square};

#[mp::task]
fn power(base: u64, exponent: u32) -> u64 {
    base.pow(exponent)
}

#[mp::task]
fn pid() -> u32 {
    std::process::id()
}

#[mp::task]
fn odd(x: u64) -> u64 {
    assert!(x % 2 == 1, "{x} is even");
    x
}

#[mp::task]
fn parse(text: String) -> Result<u64, AnyError> {
    Ok(text.parse()?)
}

#[mp::task]
fn abort(x: u64) -> u64 {
    if x == 7 {
        std::process::abort();
    }
    x
}

#[mp::task]
fn sleep(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

#[mp::task(timeout = "100ms")]
fn hang() {
    loop {
        std::thread::park();
    }
}

#[mp::task]
fn take(queue: Queue<u64>) -> u64 {
    queue.get().unwrap()
}

#[mp::task]
fn bytes(len: usize) -> Vec<u8> {
    vec![7; len]
}

/// Fails in each process once.
#[mp::task]
fn flaky(marks: String) -> u32 {
    let marks = std::path::Path::new(&marks);
    let tries = std::fs::read_dir(marks).unwrap().count();
    std::fs::write(marks.join(tries.to_string()), "").unwrap();
    if tries < 2 {
        std::process::abort();
    }
    tries as u32
}

#[test]
fn calls_are_those_of_any_pool() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let pool = server.pool(2);
    assert_eq!(pool.workers(), 2);

    let squares = pool.map(square, 0..10_000).unwrap();
    assert!(squares.into_iter().eq((0..10_000).map(|x| x * x)), "order");
    assert_eq!(pool.map_ref(square, &[2, 3]).unwrap(), [4, 9]);
    assert_eq!(pool.starmap(power, [(2, 3), (3, 2)]).unwrap(), [8, 9]);
    assert_eq!(pool.apply(power, (2, 10)).unwrap(), 1024);
    assert!(pool.map(square, std::iter::empty()).unwrap().is_empty());

    let outcomes = pool.try_map(odd, 0..100).unwrap();
    for (x, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_ok(), x % 2 == 1);
    }

    let streamed: Result<Vec<u64>, TaskError> = pool.imap(square, 0..1000).unwrap().collect();
    assert!(streamed.unwrap().into_iter().eq((0..1000).map(|x| x * x)));
    // The input may be endless.
    let first: Vec<_> = pool.imap(square, 0..).unwrap().take(10).collect();
    assert_eq!(first.len(), 10);
    let unordered = pool.imap_unordered(square, 0..1000).unwrap();
    let mut unordered: Vec<u64> = unordered.map(Result::unwrap).collect();
    unordered.sort_unstable();
    assert!(unordered.into_iter().eq((0..1000).map(|x| x * x)));

    let job = pool.submit(square, (9,)).unwrap();
    assert_eq!(job.wait().unwrap(), 81);
    let jobs: Vec<_> = (0..500)
        .map(|x| pool.submit(square, (x,)).unwrap())
        .collect();
    let results: Result<Vec<u64>, _> = mp::wait_all(jobs).into_iter().collect();
    assert!(results.unwrap().into_iter().eq((0..500).map(|x| x * x)));

    let all = pool.map_async(square, 0..100).unwrap();
    assert_eq!(all.wait().unwrap()[99], 99 * 99);

    assert!(pool.stats().done >= 12_000, "{:?}", pool.stats());
    pool.close();
    assert!(pool.map(square, 0..3).unwrap_err().is_closed());
    pool.join().unwrap();
}

#[test]
fn broadcast_reaches_every_worker_once() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(2), server.agent(1)];
    let pool = server.pool(3);
    let pids: Vec<u32> = pool
        .broadcast(pid, ())
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(pids.len(), 3);
    assert_eq!(pids.iter().collect::<HashSet<_>>().len(), 3);
}

#[test]
fn failures_read_as_local_ones_and_name_the_machine() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();

    let error = pool.map(odd, [1, 3, 4]).unwrap_err();
    let task = error.task().unwrap();
    assert!(task.is_panic());
    assert_eq!(task.message(), Some("4 is even"));
    assert_eq!(task.index(), Some(2));
    assert!(task.task().ends_with("odd"), "{task}");
    assert!(task.file().unwrap().ends_with("pool.rs"));

    let outcomes = pool.try_map(abort, 0..10).unwrap();
    let failed: Vec<_> = outcomes.iter().filter_map(|it| it.as_ref().err()).collect();
    assert_eq!(failed.len(), 1, "one item is lost by a crash, not its job");
    assert!(failed[0].is_crash());
    assert_eq!(failed[0].signal(), Some(libc::SIGABRT));
    assert_eq!(failed[0].index(), Some(7));
    let process = failed[0].process().unwrap();
    assert!(
        process.ends_with(&format!("on {}", host.trim())),
        "{process}"
    );
    assert!(failed[0].pid().is_some());

    let error = pool.apply(hang, ()).unwrap_err();
    assert!(error.task().unwrap().is_timeout(), "{error}");
    let error = pool
        .with_timeout(Duration::from_millis(100))
        .apply(sleep, (600,))
        .unwrap_err();
    assert!(error.task().unwrap().is_timeout(), "{error}");

    // A task's own error is no failure of the pool.
    let parsed = pool.apply(parse, ("x".to_owned(),)).unwrap();
    assert!(parsed.unwrap_err().to_string().contains("invalid digit"));
}

#[test]
fn retries_are_made_on_any_machine() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let pool = server.pool(2);
    let marks = tempfile::tempdir().unwrap();
    let marks = marks.path().to_str().unwrap().to_owned();
    let error = pool.apply(flaky, (marks.clone(),)).unwrap_err();
    assert_eq!(error.task().unwrap().attempts(), 1);
    assert_eq!(pool.with_retries(5).apply(flaky, (marks,)).unwrap(), 2);
}

#[test]
fn cancelling_stops_one_call_and_no_other() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    let long = pool.submit(sleep, (600,)).unwrap();
    let queued = pool.submit(sleep, (600,)).unwrap();
    let other = pool.submit(square, (3,)).unwrap();
    long.cancel();
    queued.cancel();
    assert!(long.wait().unwrap_err().task().unwrap().is_cancelled());
    assert!(queued.wait().unwrap_err().task().unwrap().is_cancelled());
    assert_eq!(other.wait().unwrap(), 9);
}

#[test]
fn chunks_grow_to_what_takes_some_time() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    let before = server.last_message();
    let squares = pool.map(square, 0..400_000).unwrap();
    assert!(squares.into_iter().eq((0..400_000).map(|x| x * x)));
    let chunks = server.last_message() - before;
    assert!(chunks < 200, "{chunks} chunks");
}

#[mp::task]
fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

/// Its own process, and those that have started the workers of a pool that it makes.
#[mp::task]
fn parents_of_workers() -> (u32, Vec<u32>) {
    let pool = mp::Pool::new(2).unwrap();
    (std::process::id(), pool.starmap(parent, [(); 4]).unwrap())
}

#[test]
fn pool_that_a_task_makes_is_of_its_machine() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    // There is no other worker in the cluster.
    let (task, parents) = pool.apply(parents_of_workers, ()).unwrap();
    assert_eq!(parents, [task; 4]);
}

#[test]
fn stream_that_is_dropped_leaves_nothing_to_run() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    let mut slow = pool.imap(sleep, [0, 1, 600, 600, 600]).unwrap();
    slow.next().unwrap().unwrap();
    drop(slow);
    // The worker is at one of them at most, which another pool's call does not wait for.
    drop(pool);
    assert_eq!(server.pool(1).apply(square, (4,)).unwrap(), 16);
}

#[test]
fn local_handle_is_refused_before_anything_is_sent() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    let before = server.last_message();
    let error = pool.apply(take, (Queue::new().unwrap(),)).unwrap_err();
    let task = error.task().unwrap();
    assert!(task.is_not_encoded(), "{error}");
    assert!(!task.may_have_started());
    assert!(error.to_string().contains("`Queue::named`"), "{error}");
    assert_eq!(server.last_message(), before);
}

#[test]
fn what_is_too_large_for_a_message_travels_too() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let pool = server.pool(2);
    for len in [200 << 10, 300 << 10, 5 << 20] {
        assert_eq!(pool.apply(length, (vec![1; len],)).unwrap(), len);
        assert_eq!(pool.apply(bytes, (len,)).unwrap(), vec![7; len]);
    }
    // Many small results of one chunk.
    let many = pool.map(bytes, std::iter::repeat_n(2000, 2000)).unwrap();
    assert!(many.iter().all(|bytes| bytes.len() == 2000));
    drop(pool);
    let left = server.object_bytes();
    assert!(left < 64 << 10, "{left} bytes are left behind");
}

#[test]
fn same_large_argument_is_sent_once() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    let same = vec![3; 4 << 20];
    let lengths = pool.map(length, std::iter::repeat_n(same, 16)).unwrap();
    assert_eq!(lengths, [4 << 20; 16]);
    let stored = server.object_bytes();
    assert!((4 << 20..8 << 20).contains(&stored), "{stored} bytes");
}

#[test]
fn pools_share_the_workers() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let (one, other) = (server.pool(2), server.pool(2));
    std::thread::scope(|scope| {
        let squares = scope.spawn(|| one.map(square, 0..2000).unwrap());
        let odds = other.map(odd, (1..2000).step_by(2)).unwrap();
        assert!(odds.into_iter().eq((1..2000).step_by(2)));
        let squares = squares.join().unwrap();
        assert!(squares.into_iter().eq((0..2000).map(|x| x * x)));
    });
}

#[test]
fn stats_tell_of_each_worker() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(2)];
    let pool = server.pool(3);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let pids = pool.broadcast(pid, ()).unwrap();
    let mut pids: Vec<u32> = pids.into_iter().map(Result::unwrap).collect();
    pids.sort_unstable();
    let mut workers = Vec::new();
    support::eventually("they have told of it", || {
        workers = pool.stats().workers;
        workers.iter().all(|worker| worker.items == 1) && workers.len() == 3
    });
    assert!(workers.iter().all(|worker| worker.is_ready));
    assert!(
        workers
            .iter()
            .all(|worker| worker.name.ends_with(&format!(" on {}", host.trim())))
    );
    let mut told: Vec<_> = workers.iter().map(|worker| worker.pid).collect();
    told.sort_unstable();
    assert_eq!(told, pids);
}
