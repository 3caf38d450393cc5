//! What ends while calls are under way: a worker, an agent, the submitter, the server.

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::{StreamExt, TryStreamExt};
use mp::Connect;
use mp_cluster as mp;
use support::{
    Marks, Replicas, Server, all_marked, eventually, mark_and_wait, square, wait_for, watchdog,
};

fn kill(pid: i32) {
    // SAFETY: a system call; the process is a worker or agent of this test's.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn killed_worker_costs_its_item() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(2);
    let pool = server.pool(2);
    let marks = Marks::new();
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    let other = pool.submit(wait_for, (marks.path(), 1)).unwrap();
    marks.await_begun(1);
    kill(marks.await_begun(0));
    let error = job.wait().unwrap_err();
    assert_eq!(
        error.task().unwrap().signal(),
        Some(libc::SIGKILL),
        "{error}"
    );
    marks.go();
    assert_eq!(other.wait().unwrap(), 1);
    assert_eq!(
        pool.apply(square, (3,)).unwrap(),
        9,
        "another has its place"
    );
}

#[test]
fn what_a_killed_agent_was_at_is_run_elsewhere() {
    let Some(server) = Server::start() else {
        return;
    };
    let marks = Marks::new();
    let mut first = server.agent(1);
    let pool = server.pool(1);
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    let worker = marks.await_begun(0);
    let _second = server.agent(1);
    first.kill();
    eventually("its workers end with it", || !is_alive(worker));
    eventually("another has it", || marks.begun(0).len() == 2);
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
}

#[test]
fn what_a_killed_agent_was_at_is_run_elsewhere_though_others_were_cancelled_meanwhile() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let marks = Marks::new();
    let mut first = server.agent(2);
    let pool = server.pool(2);
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    let cancelled = pool.submit(wait_for, (marks.path(), 1)).unwrap();
    marks.await_begun(1);
    cancelled.cancel();
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
    eventually("one is left", || server.tasks() == 1);
    let _second = server.agent(1);
    first.kill();
    eventually("another has it", || marks.begun(0).len() == 2);
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
}

#[test]
fn every_item_has_one_outcome_though_agents_come_and_go() {
    let Some(server) = Server::start() else {
        return;
    };
    let _stays = server.agent(1);
    let mut killed = server.agent(1);
    let pool = server.pool(2);
    let marks = Marks::new();
    let count = 400;
    let items = (0..count).map(|x| (marks.path(), x, 5));
    let results = std::thread::scope(|scope| {
        let calling = scope.spawn(|| all_marked(&pool, items));
        marks.await_begun(count / 4);
        killed.kill();
        let joined = server.agent(1);
        let results = calling.join().unwrap();
        drop(joined);
        results
    });
    assert!(results.into_iter().eq(0..count));
}

#[test]
fn agent_that_is_asked_to_end_finishes_what_it_is_at() {
    let Some(server) = Server::start() else {
        return;
    };
    let agent = server.agent(1);
    let pool = server.pool(1);
    let marks = Marks::new();
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    let queued = pool.submit(wait_for, (marks.path(), 1)).unwrap();
    marks.await_begun(0);
    agent.signal(libc::SIGTERM);
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
    assert_eq!(agent.join(), Some(0));
    // What it did not begin is for the next.
    let _next = server.agent(1);
    assert_eq!(queued.wait().unwrap(), 1);
    assert_eq!(marks.begun(0).len(), 1, "it was run once");
}

/// Messages with tasks that an agent would be given now.
fn given_now(server: &Server) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = async_nats::connect(server.url()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let stream = context.get_stream("mp-default").await.unwrap();
        let name = stream.consumer_names().next().await.unwrap().unwrap();
        let consumer: PullConsumer = stream.get_consumer(&name).await.unwrap();
        let fetched = consumer.fetch().max_messages(10_000).messages().await;
        let messages: Vec<_> = fetched.unwrap().try_collect().await.unwrap();
        for message in &messages {
            // With the server's answer, or it may not have done so when it is asked next.
            let given_back = message.double_ack_with(AckKind::Nak(None));
            given_back.await.unwrap();
        }
        messages.len()
    })
}

#[test]
fn agent_that_ends_gives_back_what_it_was_sent_meanwhile() {
    let _watchdog = watchdog(240);
    for _ in 0..4 {
        let Some(server) = Server::start() else {
            return;
        };
        // Should the pool lose patience: what took so long?
        let begin = Instant::now();
        let agent = server.agent(2);
        let pool = server.pool(2);
        agent.signal(libc::SIGTERM);
        // The server is given more and more, whatever the agent is at.
        let submit = |x| (x, pool.submit(square, (x,)).unwrap());
        let jobs: Vec<_> = (0..300).map(submit).collect();
        assert_eq!(agent.join(), Some(0));
        let gone = begin.elapsed();
        let left = || jobs.iter().filter(|(_, job)| !job.is_done()).count();
        eventually("the server has them", || server.tasks() as usize == left());
        eventually("it has heard all that the agent said", || {
            server.connections() == 1
        });
        let heard = begin.elapsed();
        assert_eq!(given_now(&server), left(), "none waits for a lease to end");
        let given = begin.elapsed();
        let _next = server.agent(2);
        for (x, job) in jobs {
            let result = job.wait();
            let when = || format!("gone {gone:?}, heard {heard:?}, given {given:?}");
            let result = result.unwrap_or_else(|error| panic!("{error}; {}", when()));
            assert_eq!(result, x * x);
        }
    }
}

#[test]
fn what_an_agent_that_ends_has_not_begun_is_not_taken_apart() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let agent = server.agent(2);
    let mut connection = server.connection();
    connection.wait_for_workers(2, Duration::from_secs(60));
    let pool = mp::Pool::builder().chunk_size(10).connect(connection);
    let pool = pool.unwrap();
    let marks = Marks::new();
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    agent.signal(libc::SIGTERM);
    eventually("it is not counted any more", || pool.workers() == 0);
    let before = server.last_message();
    std::thread::scope(|scope| {
        let squares = scope.spawn(|| pool.map(square, 0..10).unwrap());
        // It has asked for another message before.
        eventually("the server has them", || server.tasks() == 2);
        marks.go();
        assert_eq!(agent.join(), Some(0));
        let _next = server.agent(1);
        assert_eq!(squares.join().unwrap()[9], 81);
    });
    assert_eq!(server.last_message() - before, 1, "one message for all");
    assert_eq!(job.wait().unwrap(), 0);
}

#[test]
fn what_agents_gave_back_is_there_at_once_though_another_pool_ends() {
    let Some(server) = Server::start() else {
        return;
    };
    let agent = server.agent(1);
    let (pool, other) = (server.pool(1), server.pool(1));
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.join(), Some(0));
    let submit = |x| pool.submit(square, (x,)).unwrap();
    let jobs: Vec<_> = (0..50).map(submit).collect();
    eventually("the server has them", || server.tasks() == 50);
    assert_eq!(given_now(&server), 50);
    let of_the_other = other.submit(square, (1,)).unwrap();
    eventually("it has that too", || server.tasks() == 51);
    drop((of_the_other, other));
    eventually("it has forgotten that", || server.tasks() == 50);
    assert_eq!(given_now(&server), 50, "none waits for a lease to end");
    let _next = server.agent(1);
    for (x, job) in (0..).zip(jobs) {
        assert_eq!(job.wait().unwrap(), x * x);
    }
}

#[test]
fn what_is_on_its_way_to_the_server_when_its_pool_ends_does_not_stay_there() {
    let Some(server) = Server::start() else {
        return;
    };
    // By it the server's answer comes later than this test sees that the message is there.
    let proxy = server.slow_proxy(Duration::from_millis(200));
    let agent = server.agent(1);
    let pools = [(); 2].map(|()| {
        let mut connection = mp::Connection::new(proxy.url());
        connection.wait_for_workers(1, Duration::from_secs(60));
        mp::Pool::builder().connect(connection).unwrap()
    });
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.join(), Some(0));
    for (pool, is_cancelled) in pools.into_iter().zip([false, true]) {
        let job = pool.submit(square, (3,)).unwrap();
        eventually("the server has it", || server.tasks() == 1);
        if is_cancelled {
            job.cancel();
        }
        drop(pool);
        eventually("it has forgotten that", || server.tasks() == 0);
    }
}

#[test]
fn what_is_left_of_a_pool_that_ended_goes() {
    let Some(server) = Server::start() else {
        return;
    };
    let proxy = server.proxy();
    let agent = server.agent(1);
    let mut connection = mp::Connection::new(proxy.url());
    connection.wait_for_workers(1, Duration::from_secs(60));
    let pool = mp::Pool::builder().connect(connection).unwrap();
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.join(), Some(0));
    let submit = |x| pool.submit(square, (x,)).unwrap();
    let jobs: Vec<_> = (0..50).map(submit).collect();
    eventually("the server has them", || server.tasks() == 50);
    // It cannot say that they need not be done.
    proxy.cut();
    drop((jobs, pool));
    let marks = Marks::new();
    let _next = server.agent(1);
    let pool = server.pool(1);
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    eventually("they are gone", || server.tasks() == 1);
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
}

/// Does it, if it comes to the number 5.
#[mp::task]
fn kill_agent(x: u64) -> u64 {
    if x == 5 {
        // The agent.
        kill(std::os::unix::process::parent_id() as i32);
        loop {
            std::thread::park();
        }
    }
    x
}

#[test]
fn task_that_kills_its_agents_is_given_up() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let mut agents: Vec<_> = (0..5).map(|_| server.agent(1)).collect();
    let mut connection = server.connection();
    connection.wait_for_workers(5, Duration::from_secs(60));
    let pool = mp::Pool::builder()
        .chunk_size(10)
        .connect(connection)
        .unwrap();
    let outcomes = pool.try_map(kill_agent, 0..10).unwrap();
    for (x, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(result) => assert_eq!((result, x == 5), (x, false)),
            Err(error) => {
                assert_eq!(
                    (error.index(), error.is_crash()),
                    (Some(5), true),
                    "{error}"
                );
                assert!(error.to_string().contains("3 agents"), "{error}");
                assert_eq!(x, 5);
            }
        }
    }
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9, "somebody is left");
    let lost = agents
        .iter_mut()
        .filter_map(support::Agent::has_ended)
        .count();
    assert_eq!(lost, 4, "one for all items, three for the one alone");
}

#[test]
fn signal_to_all_of_an_agents_processes_is_the_agents_alone() {
    let Some(server) = Server::start() else {
        return;
    };
    let agent = support::Agent::with(&server.url(), 1, |command| {
        command.process_group(0);
    });
    let pool = server.pool(1);
    let marks = Marks::new();
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    // SAFETY: a system call; the group is the agent's own.
    assert_eq!(unsafe { libc::kill(-agent.pid(), libc::SIGTERM) }, 0);
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
    assert_eq!(agent.join(), Some(0));
}

/// A program that submits and never waits to the end; see `work_of_a_killed_submitter_is_dropped`.
#[test]
fn submitter() {
    let Ok(url) = std::env::var("SUBMIT_TO") else {
        return;
    };
    let marks = std::env::var("MARKS").unwrap();
    let mut connection = mp::Connection::new(url);
    connection.wait_for_workers(1, Duration::from_secs(60));
    let pool = mp::Pool::builder().connect(connection).unwrap();
    let _ = pool.map(mark_for_ever, std::iter::repeat_n(marks, 100));
}

#[test]
fn work_of_a_killed_submitter_is_dropped() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let marks = Marks::new();
    let binary = std::env::current_exe().unwrap();
    let mut submitter = mp::command(binary)
        .args(["--exact", "submitter", "--nocapture"])
        .env("SUBMIT_TO", server.url())
        .env("MARKS", marks.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    marks.await_begun(0);
    submitter.kill().unwrap();
    assert_eq!(submitter.wait().unwrap().signal(), Some(libc::SIGKILL));
    // Otherwise: the one worker is at an item for ten minutes, and a hundred are to come.
    assert_eq!(server.pool(1).apply(square, (4,)).unwrap(), 16);
}

#[test]
fn server_that_comes_back_goes_on_where_it_was() {
    // Its stream is in memory: what was in it is sent again.
    let Some(mut server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let pool = server.pool(2);
    let marks = Marks::new();
    let count = 300;
    let items = (0..count).map(|x| (marks.path(), x, 5));
    let results = std::thread::scope(|scope| {
        let calling = scope.spawn(|| all_marked(&pool, items));
        marks.await_begun(count / 4);
        server.kill();
        server.restart();
        calling.join().unwrap()
    });
    assert!(results.into_iter().eq(0..count));
    assert_eq!(pool.map(square, 0..100).unwrap()[99], 99 * 99);
}

/// Which worker it is, and which agent's.
#[mp::task]
fn square_and_agent(x: u64) -> (u64, u32) {
    (x * x, std::os::unix::process::parent_id())
}

#[test]
fn ten_thousand_tasks_outlive_a_restart_of_the_server() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let mut connection = server.connection();
    connection.wait_for_workers(2, Duration::from_secs(60));
    let pool = mp::Pool::builder().chunk_size(1).connect(connection);
    let pool = pool.unwrap();
    let count = 10_000;
    let mut agents = HashSet::new();
    for (x, outcome) in (0..).zip(pool.imap(square_and_agent, 0..count).unwrap()) {
        let (square, agent) = outcome.unwrap();
        assert_eq!(square, x * x);
        agents.insert(agent);
        if x == count / 2 {
            server.kill();
            server.restart();
        }
    }
    assert_eq!(pool.stats().done, count);
    assert_eq!(agents.len(), 2, "both had a part of them");
}

#[test]
fn leader_of_three_replicas_that_is_killed_takes_nothing_with_it() {
    let Some(mut replicas) = Replicas::start() else {
        return;
    };
    let url = replicas.url();
    let _agents = [1, 1].map(|workers| support::Agent::start(&url, workers));
    let mut connection = mp::Connection::new(&url);
    connection.wait_for_workers(2, Duration::from_secs(60));
    let pool = mp::Pool::builder().connect(connection).unwrap();
    let marks = Marks::new();
    let count = 400;
    let items = (0..count).map(|x| (marks.path(), x, 5));
    let results = std::thread::scope(|scope| {
        let calling = scope.spawn(|| all_marked(&pool, items));
        marks.await_begun(count / 4);
        let killed = replicas.kill_leader();
        marks.await_begun(count / 2);
        replicas.restart(killed);
        calling.join().unwrap()
    });
    assert!(results.into_iter().eq(0..count));
    assert_eq!(pool.stats().done, count);
}

#[mp::task]
fn mark_for_ever(marks: String) {
    mark_and_wait(marks, 0, 600_000);
}

/// A program that broadcasts what never ends; see `broadcast_of_a_killed_submitter_is_stopped`.
#[test]
fn broadcaster() {
    let Ok(url) = std::env::var("BROADCAST_TO") else {
        return;
    };
    let marks = std::env::var("MARKS").unwrap();
    let mut connection = mp::Connection::new(url);
    connection.wait_for_workers(2, Duration::from_secs(60));
    let pool = mp::Pool::builder().connect(connection).unwrap();
    let _ = pool.broadcast(mark_for_ever, (marks,));
}

#[test]
fn broadcast_of_a_killed_submitter_is_stopped() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(2);
    let marks = Marks::new();
    let binary = std::env::current_exe().unwrap();
    let mut submitter = mp::command(binary)
        .args(["--exact", "broadcaster", "--nocapture"])
        .env("BROADCAST_TO", server.url())
        .env("MARKS", marks.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("both workers are at it", || marks.begun(0).len() == 2);
    submitter.kill().unwrap();
    submitter.wait().unwrap();
    // Otherwise all workers are at it for ten minutes.
    assert_eq!(server.pool(2).apply(square, (4,)).unwrap(), 16);
}

/// What an agent says of itself; empty if it does not answer.
fn told(port: u16, path: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_default()
}

#[test]
fn agent_tells_whether_it_takes_tasks() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let port = support::free_port();
    let agent = support::Agent::with(&server.url(), 1, |command| {
        command.env("MP_HEALTH", format!("127.0.0.1:{port}"));
    });
    eventually("it is ready", || told(port, "/readyz").contains(" 200 "));
    server.kill();
    eventually("it is not", || {
        told(port, "/readyz").contains("no connection")
    });
    assert!(told(port, "/livez").contains(" 200 "));
    server.restart();
    eventually("it is ready again", || {
        told(port, "/readyz").contains(" 200 ")
    });
    let marks = Marks::new();
    let pool = server.pool(1);
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    agent.signal(libc::SIGTERM);
    eventually("it drains", || told(port, "/readyz").contains(" 503 "));
    assert!(told(port, "/readyz").contains("draining"));
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
    assert_eq!(agent.join(), Some(0));
}
