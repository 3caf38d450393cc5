//! What processes share by name, over a server.

mod support;

use std::time::{Duration, Instant};

use mp::named::{Barrier, Cluster, Event, Lock, Queue, Semaphore, Value};
use mp::{AnyError, Connection, GetError, TryGetError};
use mp_cluster as mp;
use support::{Server, watchdog};

fn cluster(server: &Server) -> Cluster {
    Cluster::connect(server.url()).unwrap()
}

#[test]
fn lock_is_held_by_one_and_tokens_grow() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let (here, there) = (cluster(&server), cluster(&server));
    let (lock, other) = (here.lock("ledger").unwrap(), there.lock("ledger").unwrap());
    assert!(!lock.is_locked().unwrap());
    let guard = lock.acquire().unwrap();
    assert!(guard.is_held() && other.is_locked().unwrap());
    let first = guard.token();
    assert!(other.try_acquire().unwrap_err().is_timeout());
    let begin = Instant::now();
    let error = other
        .acquire_timeout(Duration::from_millis(50))
        .unwrap_err();
    assert!(error.is_timeout() && begin.elapsed() >= Duration::from_millis(50));
    // Not by this process either: it is not recursive.
    assert!(lock.try_acquire().is_err());
    let second = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.acquire().map(|guard| guard.token()));
        guard.release().unwrap();
        waiting.join().unwrap().unwrap()
    });
    assert!(second > first);
    assert!(lock.try_acquire().unwrap().token() > second);
    // Another name is another lock.
    let elsewhere = here.lock("elsewhere").unwrap();
    let (_one, _two) = (lock.acquire().unwrap(), elsewhere.acquire().unwrap());
    assert!(here.lock("no.name").is_err());
}

#[test]
fn items_that_others_put_and_do_meanwhile_are_not_counted_as_too_many() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let proxy = server.slow_proxy(Duration::from_millis(100));
    let here: Queue<u32> = cluster(&server).queue("work").unwrap();
    let far: Queue<u32> = Cluster::connect(proxy.url())
        .unwrap()
        .queue("work")
        .unwrap();
    here.put(0).unwrap();
    assert_eq!(far.get().unwrap(), 0);
    std::thread::scope(|scope| {
        let done = scope.spawn(|| far.task_done());
        for x in 1..200 {
            here.put(x).unwrap();
            assert_eq!(here.get().unwrap(), x);
            here.task_done().unwrap();
        }
        done.join().unwrap().unwrap();
    });
    here.join().unwrap();
    here.task_done().unwrap_err();
}

#[test]
fn recursive_lock_is_its_threads_by_whatever_handle() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let (here, there) = (cluster(&server), cluster(&server));
    let (lock, other) = (
        here.rlock("ledger").unwrap(),
        there.rlock("ledger").unwrap(),
    );
    let outer = lock.acquire().unwrap();
    let inner = other.try_acquire().unwrap();
    assert_eq!(outer.token(), inner.token());
    assert!(inner.is_held() && !here.lock("ledger").unwrap().is_locked().unwrap());
    // The order does not matter.
    outer.release().unwrap();
    let token = inner.token();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.acquire().map(|guard| guard.token()));
        assert!(lock.is_locked().unwrap());
        inner.release().unwrap();
        assert!(waiting.join().unwrap().unwrap() > token);
    });
    assert!(!lock.is_locked().unwrap());
}

#[test]
fn queue_keeps_what_is_put() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let (here, there) = (cluster(&server), cluster(&server));
    let queue: Queue<(u32, String)> = here.queue("orders").unwrap();
    let other: Queue<(u32, String)> = there.queue("orders").unwrap();
    for number in 0..20 {
        queue.put((number, "x".repeat(number as usize))).unwrap();
    }
    assert_eq!(other.len().unwrap(), 20);
    for number in 0..20 {
        assert_eq!(other.get().unwrap().0, number);
    }
    assert!(matches!(queue.try_get(), Err(TryGetError::Empty)));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.get());
        queue.put((7, String::new())).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap().0, 7);
        let waiting = scope.spawn(|| other.get());
        queue.close().unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(GetError::Closed)));
    });
    let error = other.put((8, String::new())).unwrap_err();
    assert!(error.is_closed() && error.into_inner().0 == 8);
    assert!(there.bounded_queue::<u32>("orders", 3).is_err());
    queue.remove().unwrap();
    let again: Queue<u32> = there.queue("orders").unwrap();
    again.put(1).unwrap();
    assert_eq!(again.get().unwrap(), 1);
}

#[test]
fn value_that_is_too_large_for_a_queue_is_given_back() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let queue: Queue<Vec<u8>> = cluster(&server).queue("orders").unwrap();
    let value = vec![7; 2 << 20];
    let error = queue.put(value.clone()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("max_payload"), "{text}");
    assert_eq!(error.into_inner(), value);
    assert!(queue.is_empty().unwrap());
    queue.put(vec![7; 512 << 10]).unwrap();
    assert_eq!(queue.get().unwrap().len(), 512 << 10);
}

#[test]
fn item_that_is_not_committed_comes_back() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let queue = cluster(&server).queue::<u32>("orders").unwrap();
    queue.put_many([1, 2]).unwrap();
    let item = queue.get_item().unwrap();
    assert_eq!(*item, 1);
    assert_eq!(queue.len().unwrap(), 2);
    drop(item);
    let back = [
        queue.get().unwrap(),
        queue.get_item().unwrap().commit().unwrap(),
    ];
    assert!(back == [1, 2] || back == [2, 1], "{back:?}");
    assert!(queue.is_empty().unwrap());
    assert!(queue.get_item_timeout(Duration::ZERO).is_err());
}

#[test]
fn value_is_changed_by_one_after_the_other() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let names = ["one", "two"].map(String::from);
    let value = cluster(&server)
        .value("names", Vec::<String>::new())
        .unwrap();
    assert!(value.get().unwrap().is_empty());
    value.set(names.to_vec()).unwrap();
    let other = cluster(&server)
        .value("names", vec!["ignored".to_owned()])
        .unwrap();
    assert_eq!(other.get().unwrap(), names);
    let mut guard = other.lock().unwrap();
    guard.push("three".to_owned());
    assert!(value.try_lock().unwrap_err().is_timeout());
    guard.release().unwrap();
    drop(value.lock().map(|mut guard| guard.push("four".to_owned())));
    assert_eq!(other.get().unwrap().len(), 4);

    let count = cluster(&server).value("count", 0_u64).unwrap();
    let counts = [(); 4].map(|()| cluster(&server).value("count", 0_u64).unwrap());
    let all = std::sync::Barrier::new(counts.len());
    std::thread::scope(|scope| {
        for count in &counts {
            scope.spawn(|| {
                all.wait();
                for _ in 0..25 {
                    count.update(|count| count + 1).unwrap();
                }
            });
        }
    });
    assert_eq!(count.get().unwrap(), 100);
    let wrong = cluster(&server).value("count", String::new()).unwrap();
    assert!(wrong.get().unwrap_err().is_not_decoded());
}

#[test]
fn semaphore_event_and_barrier_are_those_of_all_processes() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let (here, there) = (cluster(&server), cluster(&server));
    let (one, two) = (
        here.semaphore("s", 2).unwrap(),
        there.semaphore("s", 2).unwrap(),
    );
    let first = one.acquire().unwrap();
    let second = two.acquire().unwrap();
    assert!(one.try_acquire().unwrap_err().is_timeout());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one.acquire().map(drop));
        drop(second);
        waiting.join().unwrap().unwrap();
    });
    first.consume().unwrap();
    assert_eq!(two.available().unwrap(), 1);
    assert!(here.semaphore("s", 3).is_err());

    let (one, two) = (here.event("e").unwrap(), there.event("e").unwrap());
    assert!(!one.wait_timeout(Duration::from_millis(20)).unwrap());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one.wait());
        two.set().unwrap();
        waiting.join().unwrap().unwrap();
    });
    two.clear().unwrap();
    assert!(!one.is_set().unwrap());

    let (one, two) = (
        here.barrier("b", 2).unwrap(),
        there.barrier("b", 2).unwrap(),
    );
    for _ in 0..3 {
        let passed = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| one.wait());
            [two.wait(), waiting.join().unwrap()]
        });
        let mut indices = passed.map(|passed| passed.unwrap().index());
        indices.sort_unstable();
        assert_eq!(indices, [0, 1]);
    }
    assert!(
        one.wait_timeout(Duration::from_millis(20))
            .unwrap_err()
            .is_timeout()
    );
    assert!(two.is_broken().unwrap() && two.wait().is_err());
    two.reset().unwrap();
    assert!(!one.is_broken().unwrap());
}

/// What a task is given, all of it by name.
type Things = (Lock, Semaphore, Event, Barrier, Value<u64>, Queue<u64>);

#[mp::task]
fn count_up(things: Things, times: u64) -> Result<Queue<u64>, AnyError> {
    let (lock, slots, go, barrier, count, done) = things;
    go.wait()?;
    barrier.wait()?;
    for _ in 0..times {
        let _slot = slots.acquire()?;
        let guard = lock.acquire()?;
        let now = count.get()?;
        count.set(now + 1)?;
        done.put(now)?;
        guard.release()?;
    }
    Ok(done)
}

#[test]
fn time_without_end() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let mut connection = Connection::new(server.url());
    connection.timeout(Duration::MAX).patience(Duration::MAX);
    let cluster = Cluster::connect(connection).unwrap();
    let queue: Queue<u32> = cluster.queue("q").unwrap();
    assert!(matches!(queue.try_get(), Err(TryGetError::Empty)));
    queue.put(1).unwrap();
    assert_eq!(queue.get().unwrap(), 1);
    let lock = cluster.lock("l").unwrap();
    lock.try_acquire().unwrap().release().unwrap();
}

#[test]
fn names_travel_to_tasks_on_other_machines() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let pool = server.pool(2);
    let here = cluster(&server);
    let things = || -> Things {
        (
            here.lock("l").unwrap(),
            here.semaphore("s", 5).unwrap(),
            here.event("e").unwrap(),
            here.barrier("b", 2).unwrap(),
            here.value("v", 0).unwrap(),
            here.queue("q").unwrap(),
        )
    };
    let jobs = [(); 2].map(|()| pool.submit(count_up, (things(), 20)).unwrap());
    things().2.set().unwrap();
    for (_, done) in mp::as_completed(jobs) {
        // It comes back as it went.
        let done = done.unwrap().unwrap();
        assert_eq!(done.name(), "q");
    }
    assert_eq!(things().4.get().unwrap(), 40);
    let seen: Vec<u64> = (0..40).map(|_| things().5.get().unwrap()).collect();
    assert!(seen.into_iter().eq(0..40));
}

#[test]
fn what_has_no_name_is_refused_in_what_is_shared_by_name() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let queue: Queue<mp::Queue<u32>> = cluster(&server).queue("queues").unwrap();
    let error = queue.put(mp::Queue::new().unwrap()).unwrap_err();
    assert!(error.is_not_encoded(), "{error}");
    assert!(queue.is_empty().unwrap());
    // One that has a name may be in it.
    let queue: Queue<Queue<u32>> = cluster(&server).queue("queues").unwrap();
    queue.put(cluster(&server).queue("inner").unwrap()).unwrap();
    assert_eq!(queue.get().unwrap().name(), "inner");
}

#[test]
fn without_a_server_calls_fail_within_their_time() {
    let _watchdog = watchdog(120);
    let Some(mut server) = Server::start() else {
        return;
    };
    let mut connection = Connection::new(server.url());
    connection
        .patience(Duration::from_secs(1))
        .timeout(Duration::from_secs(1));
    let cluster = Cluster::connect(connection).unwrap();
    let (lock, queue) = (
        cluster.lock("l").unwrap(),
        cluster.queue::<u32>("q").unwrap(),
    );
    let guard = lock.acquire().unwrap();
    // It has asked before, so that it only needs the answer.
    assert!(matches!(queue.try_get(), Err(TryGetError::Empty)));
    server.kill();
    assert!(matches!(queue.try_get(), Err(TryGetError::Failed(_))));
    let other = cluster.lock("other").unwrap();
    assert!(other.acquire().unwrap_err().is_cluster());
    assert!(other.try_acquire().unwrap_err().is_cluster());
    assert!(other.acquire_timeout(Duration::from_millis(20)).is_err());
    let error = mp::Error::from(queue.put(1).unwrap_err());
    assert!(error.is_cluster(), "{error}");
    assert!(matches!(queue.get(), Err(GetError::Failed(_))));
    assert!(queue.get_timeout(Duration::from_millis(20)).is_err());
    assert!(guard.release().unwrap_err().is_cluster());
    assert!(Cluster::connect(server.url()).is_err());
}
