//! What keeps a pool from its workers is said at once, or within the time given.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use async_nats::jetstream::stream;
use data_encoding::BASE64URL_NOPAD;
use mp::{Connect, Connection, Pool};
use mp_cluster as mp;
use nkeys::KeyPair;
use support::{Agent, Marks, Server, eventually, free_port, length, square, wait_for, watchdog};

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

/// A server that asks who we are, an agent that it lets in as `right` says, and what it says to
/// `wrong`.
fn is_let_in(
    configuration: &str,
    variable: &str,
    right: &str,
    with: impl Fn(&mut Connection, &str),
    wrong: &str,
) {
    let Some(server) = Server::configured(configuration) else {
        return;
    };
    for stranger in [None, Some(wrong)] {
        let mut connection = server.connection();
        if let Some(wrong) = stranger {
            with(&mut connection, wrong);
        }
        let error = refusal(connection);
        assert!(error.is_cluster());
        assert!(error.to_string().contains("refused us"), "{error}");
    }
    let agent = Agent::with(&server.url(), 1, |command| {
        command.env(variable, wrong);
    });
    assert_eq!(agent.join(), Some(1), "a worker with {variable}={wrong}");
    let _agent = Agent::with(&server.url(), 1, |command| {
        command.env(variable, right);
    });
    let mut connection = server.connection();
    with(&mut connection, right);
    let pool = Pool::builder().connect(connection).unwrap();
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
}

#[test]
fn token() {
    let configuration = r#"
        jetstream { store_dir: $STORE }
        authorization { token: "s3cret" }
    "#;
    let with = |connection: &mut Connection, token: &str| {
        connection.token(token);
    };
    is_let_in(configuration, "MP_CLUSTER_TOKEN", "s3cret", with, "wrong");
}

#[test]
fn nkey() {
    let directory = tempfile::tempdir().unwrap();
    let [right, wrong] = ["right", "wrong"].map(|name| {
        let key = KeyPair::new_user();
        let path = directory.path().join(name);
        std::fs::write(&path, key.seed().unwrap() + "\n").unwrap();
        (key.public_key(), path.to_str().unwrap().to_owned())
    });
    let configuration = format!(
        "jetstream {{ store_dir: $STORE }}
         authorization {{ users: [ {{ nkey: {} }} ] }}",
        right.0
    );
    let with = |connection: &mut Connection, path: &str| {
        connection.nkey_file(path);
    };
    is_let_in(&configuration, "MP_CLUSTER_NKEY", &right.1, with, &wrong.1);
}

/// A token that says `claims` of `subject`, signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &str, claims: serde_json::Value) -> String {
    let encode = |value: serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let head = encode(serde_json::json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = encode(serde_json::json!({
        "jti": subject,
        "iat": 0,
        "iss": issuer.public_key(),
        "name": "mp",
        "sub": subject,
        "nats": claims,
    }));
    let signed = format!("{head}.{claims}");
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

#[test]
fn credentials_file() {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, stranger) = (KeyPair::new_account(), KeyPair::new_account());
    let of_account = |account: &KeyPair, storage: i64| {
        let claims = serde_json::json!({
            "type": "account",
            "version": 2,
            "limits": {
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1,
                "leaf": -1, "wildcards": true,
                "mem_storage": storage, "disk_storage": storage, "streams": -1, "consumer": -1,
            },
        });
        jwt(&operator, &account.public_key(), claims)
    };
    let configuration = format!(
        "jetstream {{ store_dir: $STORE }}
         operator: {}
         system_account: {}
         resolver: MEMORY
         resolver_preload: {{ {}: {}, {}: {} }}",
        jwt(
            &operator,
            &operator.public_key(),
            serde_json::json!({ "type": "operator", "version": 2 })
        ),
        system.public_key(),
        system.public_key(),
        of_account(&system, 0),
        account.public_key(),
        of_account(&account, 1 << 30),
    );
    let directory = tempfile::tempdir().unwrap();
    let [right, wrong] = [("right", &account), ("wrong", &stranger)].map(|(name, account)| {
        let user = KeyPair::new_user();
        let claims = serde_json::json!({
            "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
        });
        let token = jwt(account, &user.public_key(), claims);
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let with = |connection: &mut Connection, path: &str| {
        connection.credentials_file(path);
    };
    is_let_in(&configuration, "MP_CLUSTER_CREDS", &right, with, &wrong);
}

#[test]
fn files_that_show_nothing_of_who_we_are() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, "neither a seed nor a token").unwrap();
    for path in [garbage, directory.path().join("missing")] {
        let name = path.to_str().unwrap();
        let url = format!("nats://127.0.0.1:{}", free_port());
        for error in [
            refusal(Connection::new(&url).nkey_file(name)),
            refusal(Connection::new(&url).credentials_file(name)),
        ] {
            let text = error.to_string();
            assert!(text.contains(&format!("{name} cannot be used")), "{text}");
        }
    }
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

#[test]
fn addresses_that_are_none() {
    for (url, why) in [
        ("4222", "it has no host, as nats://127.0.0.1:4222 has"),
        ("nats:127.0.0.1:4222", "not with nats://"),
        ("nats://[::1", "there is no ]"),
        ("nats://127.0.0.1:4222/app", "it ends with the port"),
    ] {
        let error = refusal(url);
        assert!(error.is_cluster(), "{error}");
        assert!(error.to_string().contains(why), "{url}: {error}");
    }
    let mut connection = Connection::new("nats://127.0.0.1:4222");
    let error = refusal(connection.namespace("n".repeat(300)));
    assert!(error.to_string().contains("at most 100"), "{error}");
}

#[test]
fn password_with_what_has_a_meaning_in_an_address() {
    let configuration = r#"
        jetstream { store_dir: $STORE }
        authorization { user: "app", password: "p@ss/wörd" }
    "#;
    let Some(server) = Server::configured(configuration) else {
        return;
    };
    let url = server.url();
    let url = url.replace("nats://", "nats://app:p%40ss%2Fw%C3%B6rd@");
    let _agent = Agent::start(&url, 1);
    let mut connection = Connection::new(url);
    connection.wait_for_workers(1, Duration::from_secs(60));
    let pool = Pool::builder().connect(connection).unwrap();
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
}

/// A server with room for three tasks, and a pool with one worker.
fn full(patience: Duration) -> Option<(Server, Agent, Pool, Marks)> {
    let server = Server::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = async_nats::connect(server.url()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        // As an administrator may have made it.
        let config = stream::Config {
            name: "mp-default".to_owned(),
            subjects: vec!["mp.default.t.>".to_owned()],
            retention: stream::RetentionPolicy::WorkQueue,
            discard: stream::DiscardPolicy::New,
            storage: stream::StorageType::Memory,
            max_messages: 3,
            ..stream::Config::default()
        };
        context.create_stream(config).await.unwrap();
    });
    let agent = server.agent(1);
    let mut connection = server.connection();
    connection.patience(patience);
    let pool = Pool::builder().chunk_size(1).connect(connection).unwrap();
    Some((server, agent, pool, Marks::new()))
}

#[test]
fn server_that_is_full_is_waited_for() {
    let _watchdog = watchdog(120);
    let Some((server, _agent, pool, marks)) = full(Duration::from_secs(600)) else {
        return;
    };
    let busy = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    let lengths = pool
        .map_async(length, (0..8).map(|len| vec![0; len]))
        .unwrap();
    eventually("it is full", || server.tasks() == 3);
    assert!(!lengths.is_done());
    marks.go();
    assert_eq!(busy.wait().unwrap(), 0);
    assert_eq!(lengths.wait().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn server_that_stays_full_is_not_waited_for_in_vain() {
    let _watchdog = watchdog(120);
    let Some((_server, _agent, pool, marks)) = full(Duration::from_secs(1)) else {
        return;
    };
    let busy = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    let jobs: Vec<_> = (0..8)
        .map(|_| pool.submit(length, (vec![0; 7],)).unwrap())
        .collect();
    let count = |jobs: &[mp::Job<usize>]| jobs.iter().filter(|job| job.is_done()).count();
    eventually("what has no room fails", || count(&jobs) == 6);
    marks.go();
    assert_eq!(busy.wait().unwrap(), 0);
    let mut refused = 0;
    for job in jobs {
        match job.wait() {
            Ok(len) => assert_eq!(len, 7),
            Err(error) => {
                assert!(error.task().unwrap().is_not_started(), "{error}");
                assert!(error.to_string().contains("takes no more tasks"), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 6);
}
