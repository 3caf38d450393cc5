//! Workers, and the server that forks them, that are killed at random, a short while in every run and long by `scripts/soak`.
//!
//! `MP_SOAK_KILLS` says how many kills, `MP_SOAK_SECONDS` how long the threads go on that use a pool
//! at random. Each prints its seed first, and what it did at its end; with `MP_TEST_SEED` it does the same again.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mp::{Pool, Queue, StartMethod, TaskError};
use support::{Random, alone_seeded, children, eventually, send_signal, watchdog};

const WORKERS: usize = 4;

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().expect(variable))
}

/// Descriptors of a pool's memory or of a child.
fn descriptors() -> Vec<PathBuf> {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    links
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|link| {
            let text = link.to_string_lossy();
            ["mp-pool", "[pidfd]", "socket:"]
                .iter()
                .any(|kind| text.contains(kind))
        })
        .collect()
}

/// Nothing is left of what the test used.
fn check_for_leaks() {
    if mp::start_method() == StartMethod::ForkServer {
        // It stays for as long as the program. A new one is not made before it is needed.
        kill_server();
    }
    eventually(|| {
        let audit = mp::__private::audit().unwrap();
        audit.faults.is_empty() && audit.process_units == 0 && children().is_empty()
    });
    if mp::start_method() == StartMethod::Spawn {
        eventually(|| descriptors().is_empty());
    } else {
        // Those to the last server are kept until the next one is made.
        eventually(|| descriptors().len() <= 3);
    }
}

/// Kills one worker, as a rule one that has come to work: a pool gives up if many in a row do not.
fn kill_one(pool: &Pool, random: &mut Random) -> bool {
    let any = random.below(16) == 0;
    let workers = pool.stats().workers;
    let pids: Vec<u32> = workers
        .iter()
        .filter(|worker| any || worker.items > 0 || worker.is_busy)
        .map(|worker| worker.pid)
        .collect();
    if pids.is_empty() {
        return false;
    }
    let pid = pids[random.below(pids.len() as u64) as usize];
    // Not one whose number has gone to another process meanwhile.
    let is_ours = children().contains(&pid);
    if is_ours {
        send_signal(pid, libc::SIGKILL);
    }
    is_ours
}

/// Kills the fork server: the child that is none of the active ones. So is one that was forked just
/// now, or has just ended, which may be killed as well.
fn kill_server() -> bool {
    let active: Vec<u32> = mp::active_children()
        .iter()
        .map(|child| child.id())
        .collect();
    let mut others = children().into_iter().filter(|pid| {
        let state = support::status_line(*pid, "State");
        !active.contains(pid) && state.is_some_and(|state| !state.starts_with('Z'))
    });
    let server = others.next();
    if let Some(server) = server {
        send_signal(server, libc::SIGKILL);
    }
    server.is_some()
}

#[mp::task]
fn work((n, runs, carried): (u64, Queue<u64>, Option<Queue<u64>>)) -> (u64, Vec<u8>, bool) {
    runs.put(n).unwrap();
    let mut sum = n;
    for _ in 0..n % 7 * 1000 {
        sum = std::hint::black_box(sum.wrapping_mul(31));
    }
    std::hint::black_box(sum);
    let len = if n % 50 == 0 {
        100_000
    } else {
        n as usize % 300
    };
    (n, vec![n as u8; len], carried.is_some())
}

#[test]
fn random_kills_cost_the_items_they_hit() {
    kill_at_random("random_kills_cost_the_items_they_hit", StartMethod::Spawn);
}

#[test]
fn random_kills_of_workers_and_of_the_fork_server_cost_the_items_they_hit() {
    kill_at_random(
        "random_kills_of_workers_and_of_the_fork_server_cost_the_items_they_hit",
        StartMethod::ForkServer,
    );
}

fn kill_at_random(name: &'static str, method: StartMethod) {
    alone_seeded(name, |mut random| {
        mp::set_start_method(method);
        let kills = number("MP_SOAK_KILLS", 60);
        let _watchdog = watchdog(300 + kills);
        let pool = Pool::new(WORKERS).unwrap();
        let runs = Queue::new().unwrap();
        let is_over = AtomicBool::new(false);
        let items = (0_u64..)
            .take_while(|_| !is_over.load(Ordering::Relaxed))
            .map(|n| (n, runs.clone(), (n % 20 == 0).then(|| runs.clone())));
        let mut ran = HashMap::<u64, u32>::new();
        let mut outcomes = HashMap::<u64, bool>::new();
        let (mut hit, mut last) = (0, 0);
        let servers = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..kills {
                    std::thread::sleep(Duration::from_micros(random.below(20_000)));
                    // Beside a worker, and before that: it may be asked for another right then.
                    let is_forked = method == StartMethod::ForkServer;
                    if is_forked && random.below(3) == 0 && kill_server() {
                        servers.fetch_add(1, Ordering::Relaxed);
                    }
                    while !kill_one(&pool, &mut random) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                is_over.store(true, Ordering::Relaxed);
            });
            for outcome in pool.imap_unordered(work, items).unwrap() {
                let (n, is_done) = match outcome {
                    Ok((n, bytes, had_queue)) => {
                        let len = if n % 50 == 0 {
                            100_000
                        } else {
                            n as usize % 300
                        };
                        assert_eq!(bytes, vec![n as u8; len], "item {n}");
                        assert_eq!(had_queue, n % 20 == 0);
                        (n, true)
                    }
                    Err(error) => {
                        assert_eq!(error.signal(), Some(libc::SIGKILL), "{error}");
                        hit += 1;
                        (error.index().unwrap(), false)
                    }
                };
                assert_eq!(outcomes.insert(n, is_done), None, "item {n} twice");
                last = last.max(n);
                while let Ok(n) = runs.try_get() {
                    *ran.entry(n).or_insert(0) += 1;
                }
            }
        });
        while let Ok(n) = runs.try_get() {
            *ran.entry(n).or_insert(0) += 1;
        }
        assert_eq!(outcomes.len() as u64, last + 1, "each item has an outcome");
        assert!(hit <= kills, "{hit} items failed by {kills} kills");
        for (n, is_done) in &outcomes {
            let ran = ran.get(n).copied().unwrap_or(0);
            // One that was killed may not have got as far as to say that it ran. The queue loses no
            // value that was put.
            assert!(ran == 1 || !is_done && ran == 0, "item {n} ran {ran} times");
        }
        println!(
            "{} items, {kills} kills of workers, {hit} of them hit one, {} of servers",
            outcomes.len(),
            servers.load(Ordering::Relaxed)
        );
        let stats = pool.stats();
        assert_eq!(stats.done + stats.failed.total(), outcomes.len() as u64);
        assert_eq!((stats.queued, stats.running), (0, 0));
        assert_eq!(runs.lost(), 0);
        drop(pool);
        drop(runs);
        check_for_leaks();
    });
}

#[mp::task]
fn square(x: u64) -> u64 {
    for _ in 0..x % 5 * 1000 {
        std::hint::black_box(x);
    }
    x * x
}

/// What the threads saw.
#[derive(Default)]
struct Seen {
    done: AtomicU64,
    killed: AtomicU64,
    cancelled: AtomicU64,
    kills: AtomicU64,
}

impl Seen {
    fn add(&self, x: u64, outcome: Result<u64, &TaskError>, may_be_cancelled: bool) {
        match outcome {
            Ok(value) => {
                assert_eq!(value, x * x);
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.is_cancelled() => {
                assert!(may_be_cancelled, "{error}");
                self.cancelled.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert_eq!(error.signal(), Some(libc::SIGKILL), "{error}");
                self.killed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Does something with the pool.
fn use_at_random(pool: &Pool, random: &mut Random, seen: &Seen) {
    let x = random.below(1000);
    match random.below(9) {
        0..2 => {
            let job = pool.submit(square, (x,)).unwrap();
            let outcome = job.wait();
            let error = outcome.as_ref().err().and_then(mp::Error::task);
            seen.add(
                x,
                outcome.as_ref().copied().map_err(|_| error.unwrap()),
                false,
            );
        }
        2..4 => {
            let jobs: Vec<_> = (0..random.below(20))
                .map(|y| (y, pool.submit(square, (y,)).unwrap()))
                .collect();
            if random.below(2) == 0 {
                std::thread::sleep(Duration::from_micros(random.below(2000)));
            }
            for (_, job) in jobs.iter().step_by(2) {
                job.cancel();
            }
            for (y, job) in jobs {
                let outcome = job.wait();
                let error = outcome.as_ref().err().and_then(mp::Error::task);
                seen.add(
                    y,
                    outcome.as_ref().copied().map_err(|_| error.unwrap()),
                    y % 2 == 0,
                );
            }
        }
        4 => {
            let outcomes = pool.try_map(square, 0..x).unwrap();
            assert_eq!(outcomes.len() as u64, x);
            for (y, outcome) in outcomes.iter().enumerate() {
                seen.add(y as u64, outcome.as_ref().copied(), false);
            }
        }
        5 => {
            let some = pool.imap(square, 0..).unwrap().take(x as usize);
            for (y, outcome) in some.enumerate() {
                seen.add(y as u64, outcome.as_ref().copied(), false);
            }
        }
        6 => drop(pool.submit(square, (x,)).unwrap()),
        7 => pool.resize(1 + random.below(5) as usize).unwrap(),
        _ => {
            if mp::start_method() == StartMethod::ForkServer && random.below(3) == 0 {
                kill_server();
            }
            if kill_one(pool, random) {
                seen.kills.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn threads_get_what_is_theirs_while_the_fork_server_is_killed() {
    let name = "threads_get_what_is_theirs_while_the_fork_server_is_killed";
    soak(name, |_| mp::set_start_method(StartMethod::ForkServer));
}

fn soak(name: &'static str, prepare: fn(&mut mp::PoolBuilder)) {
    alone_seeded(name, |random| {
        let seconds = number("MP_SOAK_SECONDS", 4);
        let _watchdog = watchdog(300 + 4 * seconds);
        let seeds = Mutex::new(random);
        let mut builder = Pool::builder();
        builder.workers(3);
        prepare(&mut builder);
        let pool = builder.build().unwrap();
        let seen = Seen::default();
        let end = Instant::now() + Duration::from_secs(seconds);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let seed = seeds.lock().unwrap().below(u64::MAX);
                    let mut random = Random::seeded(seed);
                    while Instant::now() < end {
                        use_at_random(&pool, &mut random, &seen);
                    }
                });
            }
        });
        let (done, kills) = (seen.done.into_inner(), seen.kills.into_inner());
        let (killed, cancelled) = (seen.killed.into_inner(), seen.cancelled.into_inner());
        println!("{done} done, {cancelled} cancelled, {killed} killed by {kills} kills");
        assert!(done > 0 && killed <= kills);
        // It is as good as new.
        pool.resize(2).unwrap();
        let squares = pool.map(square, 0..1000).unwrap();
        assert_eq!(squares[999], 998_001);
        pool.close();
        pool.join().unwrap();
        let stats = pool.stats();
        assert_eq!(
            (stats.queued, stats.running, stats.workers.len()),
            (0, 0, 0)
        );
        drop(pool);
        check_for_leaks();
    });
}

#[test]
fn threads_that_submit_cancel_resize_and_kill_at_random_get_what_is_theirs() {
    soak(
        "threads_that_submit_cancel_resize_and_kill_at_random_get_what_is_theirs",
        |_| {},
    );
}

#[test]
fn threads_get_what_is_theirs_from_workers_that_come_and_go() {
    soak(
        "threads_get_what_is_theirs_from_workers_that_come_and_go",
        |builder| {
            builder
                .idle_timeout(Duration::from_millis(1))
                .max_tasks_per_worker(500);
        },
    );
}

/// How many nodes a tree has of which each node is a call, or why that is not known.
#[mp::task]
fn count_nodes(depth: u32) -> Result<u64, TaskError> {
    if depth == 0 {
        return Ok(1);
    }
    let pool = mp::pool().unwrap();
    let below = match depth % 2 {
        0 => pool.try_map(count_nodes, [depth - 1; 2]).unwrap(),
        _ => {
            let stream = pool.imap_unordered(count_nodes, [depth - 1; 2]);
            stream.unwrap().collect()
        }
    };
    // The first that failed is told; what is left of it ends here.
    let below = below.into_iter().map(Result::flatten);
    Ok(1 + below.sum::<Result<u64, _>>()?)
}

#[test]
fn random_kills_inside_of_calls_cost_what_they_hit_and_what_that_called() {
    let name = "random_kills_inside_of_calls_cost_what_they_hit_and_what_that_called";
    alone_seeded(name, |mut random| {
        let kills = number("MP_SOAK_KILLS", 60);
        let _watchdog = watchdog(300 + kills);
        let pool = Pool::new(2).unwrap();
        let is_over = AtomicBool::new(false);
        let items = (0_u32..)
            .take_while(|_| !is_over.load(Ordering::Relaxed))
            .map(|n| n % 6);
        let (mut done, mut hit) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..kills {
                    std::thread::sleep(Duration::from_micros(random.below(40_000)));
                    while !kill_one(&pool, &mut random) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                is_over.store(true, Ordering::Relaxed);
            });
            for (n, outcome) in pool.imap(count_nodes, items).unwrap().enumerate() {
                match outcome.flatten() {
                    Ok(nodes) => {
                        assert_eq!(nodes, (2 << (n % 6)) - 1, "item {n}");
                        done += 1;
                    }
                    Err(error) => {
                        assert!(
                            error.signal() == Some(libc::SIGKILL) || error.is_lost(),
                            "{error}"
                        );
                        hit += 1;
                    }
                }
            }
        });
        println!("{done} trees done, {hit} hit by {kills} kills");
        eventually(|| {
            let (audit, jobs) = mp::__private::audit_of_pool(&pool);
            let is_clean = audit.faults.is_empty() && audit.process_units == 0 && jobs == 0;
            is_clean && pool.stats().workers.len() == 2
        });
        assert!(done > 0 && hit <= kills);
        drop(pool);
        check_for_leaks();
    });
}
