//! What is left in the object store when results on their way there are not wanted any more, or their
//! agent dies.

mod support;

use mp_cluster as mp;
use support::{Server, eventually, length, watchdog};

/// So many bytes that putting them into the store takes a while.
const LARGE: usize = 256 << 20;

#[mp::task]
fn text(len: usize) -> String {
    "x".repeat(len)
}

fn is_empty(server: &Server) -> bool {
    // What was removed may leave a note.
    server.object_bytes() < 10_000
}

fn await_some(server: &Server) {
    eventually("some of it is there", || server.object_bytes() > 1 << 20);
}

#[test]
fn result_on_its_way_when_its_pool_ends_leaves_nothing() {
    let _watchdog = watchdog(180);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    let job = pool.submit(text, (LARGE,)).unwrap();
    await_some(&server);
    assert!(!job.is_done());
    drop(pool);
    eventually("it goes", || is_empty(&server));
    // The agent is free for others.
    assert_eq!(server.pool(1).apply(text, (3,)).unwrap(), "xxx");
}

#[test]
fn server_that_comes_back_with_nothing_has_a_store_again() {
    let _watchdog = watchdog(180);
    let Some(mut server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    for _ in 0..2 {
        // As an argument, and as a result.
        let text = pool.apply(text, (1 << 21,)).unwrap();
        assert_eq!(pool.apply(length, (text.into_bytes(),)).unwrap(), 1 << 21);
        server.kill();
        server.restart_empty();
    }
}

#[test]
fn result_on_its_way_when_it_is_cancelled_leaves_nothing() {
    let _watchdog = watchdog(180);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = server.pool(1);
    let job = pool.submit(text, (LARGE,)).unwrap();
    await_some(&server);
    job.cancel();
    assert!(job.wait().unwrap_err().task().unwrap().is_cancelled());
    eventually("it goes", || is_empty(&server));
    assert_eq!(pool.apply(text, (3,)).unwrap(), "xxx");
}

#[test]
fn result_on_its_way_when_its_agent_dies_comes_from_another_and_leaves_nothing() {
    let _watchdog = watchdog(180);
    let Some(server) = Server::start() else {
        return;
    };
    let mut first = server.agent(1);
    let pool = server.pool(1);
    let job = pool.submit(text, (LARGE,)).unwrap();
    await_some(&server);
    first.kill();
    let _second = server.agent(1);
    assert_eq!(job.wait().unwrap().len(), LARGE);
    // What the first had put there nobody knows of but the pool.
    assert!(!is_empty(&server));
    drop(pool);
    assert!(is_empty(&server), "{} bytes", server.object_bytes());
}

#[test]
fn large_results_of_jobs_that_share_a_message_all_come() {
    let _watchdog = watchdog(180);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(2);
    let pool = server.pool(2);
    let lengths = |len: usize| {
        let jobs: Vec<_> = (0..60)
            .map(|x| pool.submit(text, (len + x,)).unwrap())
            .collect();
        for (x, job) in jobs.into_iter().enumerate() {
            assert_eq!(job.wait().unwrap().len(), len + x);
        }
    };
    // By then it is known that they are short.
    lengths(0);
    lengths(0);
    lengths(2 << 20);
    drop(pool);
    assert!(is_empty(&server), "{} bytes", server.object_bytes());
}
