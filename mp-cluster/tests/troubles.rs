//! Connections that break, servers that take no more, and clients that send what makes no sense.

mod support;

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mp::{Connect, Connection, Pool};
use mp_cluster as mp;
use support::{Agent, Marks, Server, eventually, length, square, wait_for, watchdog};

/// How long agents of these tests wait for what does not get better.
const PATIENCE: Duration = Duration::from_secs(1);

/// An agent that does not wait for long.
#[test]
fn impatient() {
    let Ok(workers) = std::env::var("IMPATIENT") else {
        return;
    };
    let mut connection = Connection::from_env().unwrap().unwrap();
    connection.patience(PATIENCE);
    let mut builder = Pool::builder();
    builder.workers(workers.parse().unwrap());
    match mp::worker_with(connection, &builder) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            println!("{error}");
            std::process::exit(7);
        }
    }
}

fn impatient_agent(server: &Server) -> Agent {
    let binary = std::env::current_exe().unwrap();
    Agent::of_program(&binary, &server.url(), |command| {
        command
            .args(["--exact", "impatient", "--nocapture"])
            .env("IMPATIENT", "1");
    })
}

#[mp::task]
fn forever() {
    loop {
        std::thread::park();
    }
}

#[mp::task]
fn noise(len: usize) -> Vec<u8> {
    vec![7; len]
}

fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn connect(url: &str, patience: Duration) -> Pool {
    let mut connection = Connection::new(url);
    connection
        .patience(patience)
        .wait_for_workers(1, Duration::from_secs(60));
    Pool::builder().connect(connection).unwrap()
}

/// Does something with a connection of the test's own.
fn with_client<R>(server: &Server, act: impl AsyncFnOnce(async_nats::Client) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = async_nats::connect(server.url()).await.unwrap();
        act(client).await
    })
}

/// Waits until an agent says that.
fn await_word(server: &Server, what: &str) {
    with_client(server, async |client| {
        let mut words = client.subscribe("mp.default.r.>").await.unwrap();
        while let Some(word) = words.next().await {
            if String::from_utf8_lossy(&word.payload).contains(what) {
                break;
            }
        }
    });
}

#[test]
fn submitter_that_was_away_for_long_gets_what_it_waits_for() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let proxy = server.proxy();
    let pool = connect(&proxy.url(), Duration::from_secs(60));
    let marks = Marks::new();
    let jobs: Vec<_> = (0..3)
        .map(|x| pool.submit(wait_for, (marks.path(), x)).unwrap())
        .collect();
    let worker = marks.await_begun(0);
    proxy.cut();
    eventually("its work is dropped", || {
        !is_alive(worker) && server.tasks() == 0
    });
    proxy.mend();
    marks.go();
    eventually("it is done all the same", || {
        jobs.iter().all(mp::Job::is_done)
    });
    for (x, job) in jobs.into_iter().enumerate() {
        assert_eq!(job.wait().unwrap(), x as u64);
    }
}

#[test]
fn what_the_server_has_lost_is_sent_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = connect(&server.url(), Duration::from_secs(60));
    let marks = Marks::new();
    let first = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    let others: Vec<_> = (1..6)
        .map(|x| pool.submit(wait_for, (marks.path(), x)).unwrap())
        .collect();
    eventually("they are there", || server.tasks() == 6);
    with_client(&server, async |client| {
        let context = async_nats::jetstream::new(client);
        let stream = context.get_stream("mp-default").await.unwrap();
        stream.purge().await.unwrap();
    });
    marks.go();
    assert_eq!(first.wait().unwrap(), 0);
    eventually("they are done all the same", || {
        others.iter().all(mp::Job::is_done)
    });
    assert_eq!(marks.begun(0).len(), 1, "what was at an agent is run once");
}

#[test]
fn what_the_server_has_and_gives_to_nobody_is_sent_again() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let mut first = server.agent(3);
    let pool = connect(&server.url(), Duration::from_secs(60));
    let marks = Marks::new();
    let jobs: Vec<_> = (0..2)
        .map(|x| {
            let job = pool.submit(wait_for, (marks.path(), x)).unwrap();
            marks.await_begun(x);
            job
        })
        .collect();
    // It is at both.
    await_word(&server, "AtWork");
    // After such a purge the server takes what was leased before for done.
    with_client(&server, async |client| {
        let context = async_nats::jetstream::new(client);
        let stream = context.get_stream("mp-default").await.unwrap();
        let second = stream.get_raw_message(2).await.unwrap().subject;
        let purged = stream.purge().filter(second.as_str()).await.unwrap();
        assert_eq!(purged.purged, 1);
    });
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
    let _second = server.agent(2);
    first.kill();
    eventually("they are begun again", || {
        (0..2).all(|x| marks.begun(x).len() == 2)
    });
    marks.go();
    for (x, job) in (0..).zip(jobs) {
        assert_eq!(job.wait().unwrap(), x);
    }
}

/// Waits for the file `go`, but for the first, and says when it has seen it.
#[mp::task]
fn wait_and_mark(marks: String, x: u64) {
    if x == 0 {
        return;
    }
    let x = support::wait_for(marks.clone(), x);
    support::mark(&marks, x + 100);
}

#[test]
fn what_runs_is_finished_though_nobody_waits_for_it() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = Pool::builder()
        .chunk_size(1)
        .connect(server.connection())
        .unwrap();
    // What the agent has besides may be begun, and looks for them.
    let marks = [Marks::new(), Marks::new()];
    for (marks, is_known) in marks.iter().zip([false, true]) {
        let items = (0..4).map(|x| (marks.path(), x));
        let mut outcomes = pool.istarmap(wait_and_mark, items).unwrap();
        outcomes.next().unwrap().unwrap();
        let worker = marks.await_begun(1);
        if is_known {
            await_word(&server, "AtWork");
        }
        drop(outcomes);
        eventually("what waits is taken back", || server.tasks() <= 1);
        for _ in 0..2 {
            await_word(&server, "AtWork");
        }
        assert!(is_alive(worker));
        marks.go();
        eventually("it is finished", || marks.begun(101) == [worker]);
    }
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
}

#[test]
fn last_agent_that_is_asked_to_end_finishes_what_takes_longer_than_one_waits_for_agents() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let agent = server.agent(1);
    let pool = connect(&server.url(), PATIENCE);
    let marks = Marks::new();
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    await_word(&server, "AtWork");
    agent.signal(libc::SIGTERM);
    eventually("it is not counted any more", || pool.workers() == 0);
    let error = pool.apply(square, (3,)).unwrap_err();
    assert!(error.to_string().contains("no worker"), "{error}");
    assert!(!job.is_done());
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
    assert_eq!(agent.join(), Some(0));
}

#[test]
fn agent_that_was_stopped_goes_on() {
    let configuration = r#"
        jetstream { store_dir: $STORE }
        ping_interval: "500ms"
        ping_max: 1
    "#;
    let Some(server) = Server::configured(configuration) else {
        return;
    };
    let agent = server.agent(1);
    let pool = connect(&server.url(), Duration::from_secs(60));
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
    let before = server.connections();
    agent.signal(libc::SIGSTOP);
    eventually("the server drops it", || server.connections() < before);
    agent.signal(libc::SIGCONT);
    eventually("it is back", || server.connections() == before);
    let job = pool.submit(square, (4,)).unwrap();
    eventually("it goes on", || job.is_done());
    assert_eq!(job.wait().unwrap(), 16);
}

#[test]
fn cancelled_at_once_or_while_an_agent_is_away() {
    let Some(server) = Server::start() else {
        return;
    };
    let proxy = server.proxy();
    let _agent = Agent::start(&proxy.url(), 1);
    let pool = connect(&server.url(), Duration::from_secs(60));
    for _ in 0..200 {
        pool.submit(forever, ()).unwrap().cancel();
    }
    let job = pool.submit(square, (3,)).unwrap();
    eventually("nothing is in its way", || job.is_done());
    let marks = Marks::new();
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    let before = server.connections();
    proxy.cut();
    eventually("the server has seen it", || server.connections() < before);
    job.cancel();
    proxy.mend();
    let job = pool.submit(square, (4,)).unwrap();
    eventually("nothing is in its way", || job.is_done());
    assert_eq!(job.wait().unwrap(), 16);
}

#[test]
fn calls_end_however_many_they_are_when_the_server_is_gone() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = connect(&server.url(), Duration::from_millis(500));
    server.kill();
    for _ in 0..3 {
        let jobs: Vec<_> = (0..2000)
            .map(|x| pool.submit(square, (x,)).unwrap())
            .collect();
        for job in jobs.iter().skip(1000) {
            job.cancel();
        }
        eventually("all end", || jobs.iter().all(mp::Job::is_done));
    }
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(pool);
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(60)).unwrap();
}

#[test]
fn agent_that_is_asked_to_end_does_not_wait_for_a_server_that_is_gone() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let agent = impatient_agent(&server);
    let pool = connect(&server.url(), Duration::from_secs(60));
    let marks = Marks::new();
    let _job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    server.kill();
    agent.signal(libc::SIGTERM);
    marks.go();
    assert_eq!(agent.join(), Some(7));
}

#[test]
fn server_whose_messages_are_too_small() {
    let Some(server) = Server::configured("jetstream { store_dir: $STORE }\nmax_payload: 64KB")
    else {
        return;
    };
    let connected = Pool::builder().connect(server.url());
    let text = connected.unwrap_err().to_string();
    assert!(text.contains("max_payload"), "{text}");
}

#[test]
fn what_the_object_store_does_not_take_fails() {
    let configuration = "jetstream { store_dir: $STORE, max_file_store: 1MB }";
    let Some(server) = Server::configured(configuration) else {
        return;
    };
    let _agent = impatient_agent(&server);
    let pool = connect(&server.url(), PATIENCE);
    let too_much = pool.submit(length, (vec![1; 3 << 20],)).unwrap();
    let too_large = pool.submit(noise, (3 << 20,)).unwrap();
    eventually("both end", || too_much.is_done() && too_large.is_done());
    let error = too_much.wait().unwrap_err();
    assert!(error.to_string().contains("object store"), "{error}");
    let error = too_large.wait().unwrap_err();
    assert!(error.to_string().contains("object store"), "{error}");
    // What it took before it took no more is taken out again.
    eventually("it is empty", || server.object_bytes() < 10_000);
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
}

#[test]
fn arguments_that_the_object_store_takes_in_the_end_stay_there() {
    let _watchdog = watchdog(120);
    let configuration = "jetstream { store_dir: $STORE, max_file_store: 8MB }";
    let Some(server) = Server::configured(configuration) else {
        return;
    };
    let agent = server.agent(1);
    let pool = connect(&server.url(), Duration::from_secs(60));
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.join(), Some(0));
    let len = 3 << 20;
    let mut job = None;
    with_client(&server, async |client| {
        let context = async_nats::jetstream::new(client.clone());
        let config = async_nats::jetstream::stream::Config {
            name: "filler".to_owned(),
            ..Default::default()
        };
        context.create_stream(config).await.unwrap();
        for _ in 0..6 {
            let filler = vec![0; 1_000_000].into();
            context
                .publish("filler", filler)
                .await
                .unwrap()
                .await
                .unwrap();
        }
        let removed = "$JS.API.STREAM.PURGE.OBJ_mp-default";
        let mut removed = client.subscribe(removed).await.unwrap();
        await_server(&client).await;
        job = Some(pool.submit(length, (vec![1; len],)).unwrap());
        let mut told = Vec::new();
        for count in 0.. {
            let told_now = removed.next().await.unwrap().payload;
            let purge: serde_json::Value = serde_json::from_slice(&told_now).unwrap();
            told.push(purge["filter"].as_str().unwrap().to_owned());
            if count == 0 {
                context.delete_stream("filler").await.unwrap();
            }
            // Pieces that come late are removed once more: then it is over.
            let times = |what| told.iter().filter(|it| *it == what).count();
            if told.iter().all(|what| times(what) == 2) {
                break;
            }
        }
        eventually("it is taken", || server.tasks() == 1);
        let mut notes = told.iter().filter(|it| it.contains(".M."));
        assert_eq!(notes.next(), None, "they may be of what was taken since");
    });
    let _agent = server.agent(1);
    assert_eq!(job.unwrap().wait().unwrap(), len);
}

#[test]
fn stream_of_that_name_that_is_not_ours() {
    let Some(server) = Server::start() else {
        return;
    };
    with_client(&server, async |client| {
        let config = async_nats::jetstream::stream::Config {
            name: "mp-default".to_owned(),
            subjects: vec!["mp.default.t.>".to_owned()],
            ..Default::default()
        };
        let context = async_nats::jetstream::new(client);
        context.create_stream(config).await.unwrap();
    });
    let text = Pool::builder()
        .connect(server.url())
        .unwrap_err()
        .to_string();
    assert!(text.contains("is not one of mp's"), "{text}");
}

#[test]
fn calls_end_when_the_stream_is_gone_for_good() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = connect(&server.url(), Duration::from_secs(2));
    let marks = Marks::new();
    let begun = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    let waits = pool.submit(square, (4,)).unwrap();
    eventually("the server has it", || server.tasks() == 2);
    with_client(&server, async |client| {
        let context = async_nats::jetstream::new(client);
        let config = async_nats::jetstream::stream::Config {
            name: "mp-default".to_owned(),
            subjects: vec!["other".to_owned()],
            ..Default::default()
        };
        context.delete_stream("mp-default").await.unwrap();
        context.create_stream(config).await.unwrap();
    });
    let later = pool.submit(square, (5,)).unwrap();
    for job in [waits, later] {
        let text = job.wait().unwrap_err().to_string();
        assert!(text.contains("stream of tasks"), "{text}");
    }
    // Outcomes do not come by it.
    marks.go();
    assert_eq!(begun.wait().unwrap(), 0);
}

#[test]
fn what_makes_no_sense_harms_nobody() {
    let Some(server) = Server::start() else {
        return;
    };
    let agent = server.agent(1);
    let pool = connect(&server.url(), Duration::from_secs(60));
    let message = |head: &str, bytes: &[u8]| [pack(head), bytes.to_vec()].concat();
    with_client(&server, async |client| {
        // Each agent tells which build it is.
        let answer = client.request("mp.default.a", "".into()).await.unwrap();
        let presence: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        let build = presence["build"].as_str().unwrap();
        let name = presence["agent"].as_str().unwrap();
        // One that promises more workers than there can be, thrice.
        let mut calls = client
            .subscribe(format!("mp.default.a.{build}"))
            .await
            .unwrap();
        let reply = calls.next().await.unwrap().reply.unwrap();
        for agent in ["x", "y", "z"] {
            let most = usize::MAX;
            let liar =
                format!(r#"{{"agent":"{agent}","host":"","build":"{build}","workers":{most}}}"#);
            client.publish(reply.clone(), liar.into()).await.unwrap();
        }
        for message in [
            vec![],
            vec![255; 100],
            message(
                r#"{"task":"no such","pieces":[{"place":0,"count":4294967295,"len":0}]}"#,
                b"",
            ),
            message(
                r#"{"task":"troubles::support::square","pieces":[{"place":4294967295,"count":4294967295,"len":1}]}"#,
                b"x",
            ),
            message(
                r#"{"task":"troubles::support::square","pieces":[{"place":0,"count":1,"len":18446744073709551615},{"place":0,"count":1,"len":1}]}"#,
                b"x",
            ),
            message(r#"{"task":"troubles::support::square","pieces":[]}"#, b"x"),
            message(
                r#"{"task":"troubles::support::square","pieces":[{"place":0,"count":1,"len":1}],"limit":18446744073709551615,"blob":{"name":"x","len":18446744073709551615}}"#,
                b"",
            ),
            message(
                r#"{"task":"troubles::support::square","pieces":[{"place":0,"count":1,"len":1}],"blob":{"name":"","len":18446744073709551615}}"#,
                b"",
            ),
        ] {
            for subject in [
                format!("mp.default.t.{build}.nobody.1"),
                format!("mp.default.t.{build}.nobody.x.y"),
                format!("mp.default.t.{build}.1"),
                "mp.default.c".to_owned(),
                format!("mp.default.b.{name}"),
            ] {
                let inbox = client.new_inbox();
                client
                    .publish_with_reply(subject, inbox, message.clone().into())
                    .await
                    .unwrap();
            }
        }
        client.flush().await.unwrap();
    });
    let job = pool.submit(square, (3,)).unwrap();
    eventually("it goes on", || job.is_done());
    assert_eq!(job.wait().unwrap(), 9);
    eventually("it is all dropped", || server.tasks() == 0);
    eventually("liars are forgotten", || pool.workers() == 1);
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.join(), Some(0));
}

/// A message with a word of an agent.
fn pack(head: &str) -> Vec<u8> {
    let mut message = (head.len() as u32).to_le_bytes().to_vec();
    message.extend_from_slice(head.as_bytes());
    message
}

/// Waits until the server has done what it was told. To flush is only to send: what others tell it
/// after that may come before.
async fn await_server(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    echo.next().await.unwrap();
}

/// Where outcomes of what was submitted are taken, and the number of its message.
async fn submitted(client: &async_nats::Client, submit: impl FnOnce()) -> (String, String) {
    let mut tasks = client.subscribe("mp.default.t.>").await.unwrap();
    await_server(client).await;
    submit();
    let message = tasks.next().await.unwrap();
    let mut parts = message.subject.rsplit('.');
    let id = parts.next().unwrap().to_owned();
    (format!("mp.default.r.{}", parts.next().unwrap()), id)
}

#[test]
fn who_asked_last_is_told_that_outcomes_are_not_there() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = connect(&server.url(), Duration::from_secs(60));
    let marks = Marks::new();
    let mut job = None;
    with_client(&server, async |client| {
        let submit = || job = Some(pool.submit(wait_for, (marks.path(), 0)).unwrap());
        let (outcomes, id) = submitted(&client, submit).await;
        let context = async_nats::jetstream::new(client.clone());
        let config = async_nats::jetstream::object_store::Config {
            bucket: "mp-default".to_owned(),
            ..Default::default()
        };
        let store = context.create_object_store(config).await.unwrap();
        // One of which the pieces never come, so that it takes long to fetch it.
        let stored = store.put("it", &mut &b"outcome"[..]).await.unwrap();
        let stream = context.get_stream("OBJ_mp-default").await.unwrap();
        let pieces = format!("$O.mp-default.C.{}", stored.nuid);
        stream.purge().filter(pieces).await.unwrap();
        let done = format!(
            r#"{{"Done":{{"id":{id},"jobs":[{{"place":0,"elapsed":1,"len":7}}],"blob":{{"name":"it","len":7}}}}}}"#
        );
        let mut answers = Vec::new();
        for _ in 0..2 {
            let inbox = client.new_inbox();
            answers.push(client.subscribe(inbox.clone()).await.unwrap());
            let done = pack(&done).into();
            let said = client.publish_with_reply(outcomes.clone(), inbox, done);
            said.await.unwrap();
        }
        let answer = answers[1].next().await.unwrap();
        assert_eq!(&answer.payload[..], b"missing");
        assert!(answers[0].next().now_or_never().is_none());
    });
    marks.go();
    assert_eq!(job.unwrap().wait().unwrap(), 0);
}

#[test]
fn who_is_heard_of_was_not_lost() {
    let _watchdog = watchdog(120);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = connect(&server.url(), Duration::from_secs(60));
    let marks = Marks::new();
    let mut job = None;
    with_client(&server, async |client| {
        let submit = || job = Some(pool.submit(wait_for, (marks.path(), 0)).unwrap());
        let (outcomes, id) = submitted(&client, submit).await;
        let say = async |word: String| {
            let answer = client.request(outcomes.clone(), pack(&word).into()).await;
            serde_json::from_slice::<serde_json::Value>(&answer.unwrap().payload).unwrap()
        };
        // More agents than may be lost have it, one after the other.
        for _ in 0..4 {
            say(format!(r#"{{"AtWork":[{id}]}}"#)).await;
            let unwanted = say(format!(r#"{{"Again":{{"id":{id}}}}}"#)).await;
            assert_eq!(unwanted["messages"][0].to_string(), id);
        }
    });
    marks.go();
    assert_eq!(job.unwrap().wait().unwrap(), 0);
}

/// A program that submits what is large, and is killed; see `objects_of_a_killed_submitter_go`.
#[test]
fn submitter() {
    let Ok(url) = std::env::var("SUBMIT_TO") else {
        return;
    };
    let marks = std::env::var("MARKS").unwrap();
    let pool = connect(&url, Duration::from_secs(60));
    let _large = pool.submit(length, (vec![1; 2 << 20],)).unwrap().wait();
    let _ = pool.submit(wait_for, (marks, 0)).unwrap().wait();
}

#[test]
fn objects_of_a_killed_submitter_go() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let marks = Marks::new();
    let mut submitter = mp::command(std::env::current_exe().unwrap())
        .args(["--exact", "submitter", "--nocapture"])
        .env("SUBMIT_TO", server.url())
        .env("MARKS", marks.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    marks.await_begun(0);
    assert!(server.object_bytes() > 1 << 20);
    submitter.kill().unwrap();
    submitter.wait().unwrap();
    eventually("they go", || server.object_bytes() < 10_000);
}

#[test]
fn time_without_end() {
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let mut connection = server.connection();
    connection
        .timeout(Duration::MAX)
        .patience(Duration::MAX)
        .wait_for_workers(1, Duration::MAX);
    let pool = Pool::builder().connect(connection).unwrap();
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
}

#[test]
fn worker_that_is_told_no_address() {
    let output = mp::command(std::env::current_exe().unwrap())
        .args(["--exact", "support::serve", "--nocapture"])
        .env("WORKERS", "1")
        .env("MP_ROLE", "worker")
        .env_remove("MP_CLUSTER")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("MP_ROLE=worker needs"), "{text}");
}
