//! Shared data as arguments, which travels once to each machine, and as results.

mod support;

use futures_util::StreamExt;
use mp::named::{Barrier, Cluster};
use mp::{Bytes, Connect, Pool, Queue, Shared};
use mp_cluster as mp;
use support::{Server, eventually, watchdog};

const LEN: usize = 4 << 20;
/// What else may be on its way.
const SLACK: u64 = 2 << 20;

/// Data that nobody else has.
fn data(seed: u8) -> Vec<u8> {
    let byte = |index: usize| (index / 251) as u8 ^ index as u8 ^ seed;
    (0..LEN).map(byte).collect()
}

#[mp::task]
fn at(bytes: Bytes, index: usize, all: Option<Barrier>) -> u8 {
    if let Some(all) = all {
        all.wait().unwrap();
    }
    bytes[index]
}

#[mp::task]
fn sum_and_words(numbers: Shared<[u64]>, text: Shared<str>, names: Vec<Shared<str>>) -> String {
    let sum: u64 = numbers.iter().sum();
    let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
    format!("{sum} {} {}", &text[..], names.join(" "))
}

#[mp::task]
fn bytes_of(bytes: Bytes) -> usize {
    bytes.len()
}

fn pool(server: &Server, workers: usize) -> Pool {
    let mut connection = server.connection();
    connection.wait_for_workers(workers, std::time::Duration::from_secs(60));
    let mut builder = Pool::builder();
    builder.chunk_size(1).connect(connection).unwrap()
}

#[test]
fn chunk_whose_data_the_object_store_has_lost_stays_whole() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let agent = server.agent(1);
    let mut connection = server.connection();
    connection.wait_for_workers(1, std::time::Duration::from_secs(60));
    let mut builder = Pool::builder();
    let pool = builder.chunk_size(10).connect(connection).unwrap();
    // No other is there when the data is lost.
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.join(), Some(0));
    let bytes = Bytes::from_slice(&data(2)).unwrap();
    std::thread::scope(|scope| {
        let items = std::iter::repeat_n(bytes, 10);
        let lengths = scope.spawn(|| pool.map(bytes_of, items).unwrap());
        eventually("it is there", || server.tasks() == 1);
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                let client = async_nats::connect(server.url()).await.unwrap();
                let context = async_nats::jetstream::new(client);
                let store = context.get_stream("OBJ_mp-default").await.unwrap();
                store.purge().await.unwrap();
            });
        let before = server.last_message();
        let _agent = server.agent(1);
        assert_eq!(lengths.join().unwrap(), [LEN; 10]);
        assert_eq!(server.last_message(), before, "it was not taken apart");
    });
}

#[test]
fn shared_argument_travels_once_to_each_machine() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(2), server.agent(2)];
    let pool = pool(&server, 4);
    let expected = data(1);
    let bytes = Bytes::from_slice(&expected).unwrap();
    let before = server.traffic();
    let all = Cluster::connect(server.url()).unwrap();
    let all = all.barrier("all", 4).unwrap();
    let calls = |from: usize| {
        // All four workers have one of the first four.
        let item = |x| (bytes.clone(), x * 1001, (x < 4).then(|| all.clone()));
        let results = pool.starmap(at, (from..from + 40).map(item)).unwrap();
        for (x, byte) in results.into_iter().enumerate() {
            assert_eq!(byte, expected[(from + x) * 1001]);
        }
    };
    calls(0);
    // It is there still.
    calls(40);
    let after = server.traffic();
    let (sent, received) = (after.0 - before.0, after.1 - before.1);
    let len = LEN as u64;
    assert!((len..len + SLACK).contains(&sent), "sent {sent}");
    assert!(
        (2 * len..2 * len + SLACK).contains(&received),
        "received {received}"
    );
}

#[test]
fn shared_arguments_are_what_they_were() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = pool(&server, 1);
    let numbers: Shared<[u64]> = Shared::from_values(0..100_000).unwrap();
    let text = Shared::from_text("größer als vorher").unwrap();
    let name = Shared::from_text("name").unwrap();
    let empty: Shared<[u64]> = Shared::from_slice(&[]).unwrap();
    let names = vec![name.clone(), text.slice(..8), name.clone()];
    let called = pool.apply(
        sum_and_words,
        (numbers.slice(1..11), text.slice(9..12), names.clone()),
    );
    assert_eq!(called.unwrap(), "55 als name größer name");
    let called = pool.apply(sum_and_words, (empty, text.slice(..0), names));
    assert_eq!(called.unwrap(), "0  name größer name");
    // In chunks of many, each with data of its own.
    let pool = server.pool(1);
    let items = (0..300_usize).map(|x| Bytes::from_slice(&vec![7; x * 100]).unwrap());
    let lengths = pool.map(bytes_of, items).unwrap();
    assert!(lengths.into_iter().eq((0..300).map(|x| x * 100)));
}

#[test]
fn shared_data_that_the_server_has_lost_is_sent_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let first = server.agent(1);
    let pool = pool(&server, 1);
    let bytes = Bytes::from_slice(&data(2)).unwrap();
    assert_eq!(pool.apply(bytes_of, (bytes.clone(),)).unwrap(), LEN);
    drop(first);
    eventually("it has left", || pool.workers() == 0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let removed = runtime.block_on(async {
        let client = async_nats::connect(server.url()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let store = context.get_object_store("mp-default").await.unwrap();
        let mut names = Vec::new();
        let mut objects = store.list().await.unwrap();
        while let Some(object) = objects.next().await {
            names.push(object.unwrap().name);
        }
        for name in &names {
            store.delete(name).await.unwrap();
        }
        names.len()
    });
    assert_eq!(removed, 1);
    let _second = server.agent(1);
    assert_eq!(pool.apply(bytes_of, (bytes,)).unwrap(), LEN);
}

/// Data made of a number, and what it is of.
#[mp::task]
fn make(seed: u8, len: usize) -> (Bytes, Shared<str>, Option<Bytes>) {
    let bytes = Bytes::from_slice(&vec![seed; len]).unwrap();
    let text = Shared::from_text(&format!("{seed} times {len}")).unwrap();
    // The same once more, of every third.
    let again = seed.is_multiple_of(3).then(|| bytes.clone());
    (bytes, text, again)
}

fn assert_made(seed: u8, len: usize, made: &(Bytes, Shared<str>, Option<Bytes>)) {
    let (bytes, text, again) = made;
    assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == seed));
    assert_eq!(&text[..], format!("{seed} times {len}"));
    assert_eq!(again.is_some(), seed.is_multiple_of(3));
    assert!(again.iter().all(|again| again[..] == bytes[..]));
}

/// Some of it is shared, and of some there is none.
#[mp::task]
fn make_some(x: u64) -> Result<Option<Shared<[u64]>>, String> {
    match x % 3 {
        0 => Ok(None),
        1 => Ok(Some(Shared::from_values(0..x).unwrap())),
        _ => Err("it is of no use".into()),
    }
}

#[mp::task]
fn give_back(bytes: Bytes) -> Bytes {
    bytes
}

#[test]
fn shared_results_are_what_they_were() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let one_by_one = pool(&server, 2);
    // In jobs of one, small and large, and of many.
    for len in [0, 10, LEN] {
        let made = one_by_one.apply(make, (3, len)).unwrap();
        assert_made(3, len, &made);
    }
    let pool = server.pool(2);
    let items = (0..100_u8).map(|seed| (seed, usize::from(seed) * 1000));
    for (made, (seed, len)) in pool.starmap(make, items.clone()).unwrap().iter().zip(items) {
        assert_made(seed, len, made);
    }
    for (x, made) in (0..).zip(pool.imap(make_some, 0..300).unwrap()) {
        match (x % 3, made.unwrap()) {
            (0, Ok(None)) | (2, Err(_)) => {}
            (1, Ok(Some(numbers))) => assert!(numbers.iter().copied().eq(0..x)),
            (_, other) => panic!("{x} came to {other:?}"),
        }
    }
    let bytes = Bytes::from_slice(&data(5)).unwrap();
    let back = pool.apply(give_back, (bytes.clone(),)).unwrap();
    assert!(back[..] == bytes[..]);
    drop((one_by_one, pool));
    assert!(server.object_bytes() < 64 << 10);
}

#[test]
fn shared_results_that_nobody_takes_are_let_go() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = pool(&server, 1);
    let before = mp::__private::audit().unwrap().objects;
    let jobs: Vec<_> = (0..20)
        .map(|_| pool.submit(make, (3, LEN)).unwrap())
        .collect();
    eventually("some are there", || jobs[3].is_done());
    drop(jobs);
    let mut results = pool.imap(make_some, 0..1000).unwrap();
    assert!(results.next().is_some());
    drop(results);
    drop(pool);
    // Those of other tests go as well.
    eventually("they are gone", || {
        mp::__private::audit().unwrap().objects <= before
    });
    eventually("there too", || server.object_bytes() < 64 << 10);
}

#[mp::task]
fn local_queue() -> Queue<u32> {
    Queue::new().unwrap()
}

/// What a task calls itself, on the workers of its own machine.
#[mp::task]
fn make_inside(seed: u8) -> usize {
    let made = mp::pool().unwrap().apply(make, (seed, LEN)).unwrap();
    assert_made(seed, LEN, &made);
    made.0.len()
}

#[test]
fn results_that_do_not_travel_are_refused_where_they_are_made() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = pool(&server, 1);
    let error = pool.apply(local_queue, ()).unwrap_err();
    assert!(error.task().unwrap().is_not_encoded(), "{error}");
    assert!(error.to_string().contains("`Queue::named`"), "{error}");
    assert_eq!(pool.apply(make_inside, (6,)).unwrap(), LEN);
}

/// The data, and who has it.
#[mp::task]
fn give_back_here(bytes: Bytes, text: Shared<str>) -> (Bytes, Shared<str>, u32) {
    (bytes, text, std::process::id())
}

#[test]
fn shared_data_is_broadcast_and_comes_back() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(2), server.agent(1)];
    let pool = server.pool(3);
    let bytes = Bytes::from_slice(&data(7)).unwrap();
    let text = Shared::from_text("größer als vorher").unwrap();
    let before = server.traffic();
    let arguments = (bytes.clone(), text.slice(9..12));
    let outcomes = pool.broadcast(give_back_here, arguments).unwrap();
    let after = server.traffic();
    let mut pids: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| {
            let (back, text, pid) = outcome.unwrap();
            assert!(back[..] == bytes[..] && &text[..] == "als");
            pid
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3);
    // Once to the server, from there to each machine, and the same on the way back.
    let (sent, received) = (after.0 - before.0, after.1 - before.1);
    let len = LEN as u64;
    assert!((3 * len..3 * len + SLACK).contains(&sent), "sent {sent}");
    assert!(
        (4 * len..4 * len + SLACK).contains(&received),
        "received {received}"
    );
    let error = pool.broadcast(local_queue, ()).unwrap();
    assert!(
        error
            .iter()
            .all(|it| it.as_ref().is_err_and(|it| it.is_not_encoded()))
    );
    drop(pool);
    assert!(server.object_bytes() < 64 << 10);
}
