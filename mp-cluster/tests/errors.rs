//! What keeps a pool from its workers is said at once, or within the time given.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use mp::{Connect, Connection, Pool};
use mp_cluster as mp;
use support::{Agent, Server, free_port};

#[test]
fn serve() {
    support::serve();
}

#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

#[mp::task]
fn forever() {
    loop {
        std::thread::park();
    }
}

/// Why no pool can be made.
fn refusal(connection: impl Into<Connection>) -> mp::Error {
    let connected = Pool::builder().connect(connection);
    connected.expect_err("there is something in the way")
}

#[test]
fn server_that_is_not_there() {
    let error = refusal(format!("nats://127.0.0.1:{}", free_port()));
    assert!(error.is_cluster());
    assert!(
        error
            .to_string()
            .contains("there is no server at nats://127.0.0.1:"),
        "{error}"
    );
}

#[test]
fn server_that_says_nothing() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut connection = Connection::new(format!("nats://127.0.0.1:{port}"));
    connection.timeout(Duration::from_millis(300));
    let error = refusal(connection);
    assert!(error.is_cluster(), "{error}");
}

/// A server of another version, as far as it says.
fn impostor(info: &'static str) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(format!("INFO {info}\r\n").as_bytes());
            let mut bytes = [0; 4096];
            while stream.read(&mut bytes).is_ok_and(|read| read > 0) {
                if bytes.windows(4).any(|bytes| bytes == b"PING") {
                    let _ = stream.write_all(b"PONG\r\n");
                }
            }
        }
    });
    port
}

#[test]
fn server_that_is_too_old() {
    let port = impostor(
        r#"{"server_id":"x","version":"2.9.10","proto":1,"go":"","host":"","port":1,"headers":true,"max_payload":1048576,"jetstream":true,"client_id":1}"#,
    );
    let error = refusal(format!("nats://127.0.0.1:{port}"));
    let text = error.to_string();
    assert!(
        text.contains("is nats-server 2.9.10, and mp needs 2.10.23"),
        "{text}"
    );
}

#[test]
fn server_without_jetstream() {
    let Some(server) = Server::configured("") else {
        return;
    };
    let error = refusal(server.url());
    assert!(
        error.to_string().contains("runs without JetStream"),
        "{error}"
    );
}

#[test]
fn credentials_that_are_not_right() {
    let configuration = r#"
        jetstream { store_dir: $STORE }
        authorization { user: "app", password: "secret" }
    "#;
    let Some(server) = Server::configured(configuration) else {
        return;
    };
    let error = refusal(server.url());
    assert!(error.to_string().contains("refused us"), "{error}");
    let mut wrong = server.connection();
    wrong.user("app", "wrong");
    assert!(refusal(wrong).to_string().contains("refused us"));
    let right = server.url().replace("nats://", "nats://app:secret@");
    let _agent = Agent::start(&right, 1);
    let mut right = Connection::new(right);
    right.wait_for_workers(1, Duration::from_secs(60));
    let pool = Pool::builder().connect(right).unwrap();
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
}

#[test]
fn connection_to_another_machine_without_tls() {
    let error = refusal("nats://nats.example.org:4222");
    assert!(error.to_string().contains("without TLS"), "{error}");
}

#[test]
fn nobody_who_works() {
    let Some(server) = Server::start() else {
        return;
    };
    let error = refusal(server.url());
    assert!(
        error.to_string().contains("no worker of this build"),
        "{error}"
    );
    let mut patient = Connection::new(server.url());
    patient.wait_for_workers(2, Duration::from_millis(300));
    let _agent = server.agent(1);
    server.pool(1);
    let error = refusal(patient);
    assert!(error.is_timeout());
    assert!(error.to_string().contains("only 1 of 2 workers"), "{error}");
}

#[test]
fn workers_of_another_build() {
    let Some(server) = Server::start() else {
        return;
    };
    // The same program, but for a byte that nothing reads.
    let other = server.directory().join("other");
    std::fs::copy(std::env::current_exe().unwrap(), &other).unwrap();
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&other)
        .unwrap();
    file.write_all(b"x").unwrap();
    drop(file);
    let _other = Agent::of(&other, &server.url(), 2);
    let mut text = String::new();
    support::eventually("it has joined", || {
        text = refusal(server.url()).to_string();
        text.contains("though 2 of build")
    });
    assert!(text.contains("no worker of this build"), "{text}");
    // It is given nothing of ours.
    let _own = server.agent(1);
    assert_eq!(server.pool(1).map(square, 0..100).unwrap()[9], 81);
}

#[test]
fn workers_that_leave_for_good() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut agent = server.agent(1);
    let mut connection = server.connection();
    connection.patience(Duration::from_secs(1));
    let pool = Pool::builder().connect(connection).unwrap();
    let job = pool.submit(forever, ()).unwrap();
    agent.kill();
    let error = job.wait().unwrap_err();
    assert!(error.task().unwrap().is_lost(), "{error}");
    assert!(
        error.to_string().contains("no worker of this build for 1s"),
        "{error}"
    );
    // Whoever comes later is welcome.
    let _agent = server.agent(1);
    support::eventually("a worker is back", || pool.apply(square, (3,)).is_ok());
}

#[test]
fn server_that_leaves_for_good() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let mut connection = server.connection();
    connection.patience(Duration::from_secs(1));
    let pool = Pool::builder().connect(connection).unwrap();
    let job = pool.submit(forever, ()).unwrap();
    server.kill();
    let error = job.wait().unwrap_err();
    assert!(error.task().unwrap().is_lost(), "{error}");
    assert!(
        error.to_string().contains("no connection to the server"),
        "{error}"
    );
    drop(pool);
}
