//! Connections between programs: who knows the key gets through, messages stay whole, and nobody can
//! make the other side wait or allocate without bound.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mp::{Address, Client, ConnectionOptions, Key, Listener, Lock, Queue};
use serde::{Deserialize, Serialize};
use support::{alone, alone_command, is_alone, run_alone, watchdog};

const A_MOMENT: Duration = Duration::from_millis(30);

fn key() -> Key {
    Key::new("the key of these tests").unwrap()
}

/// A name that no other test has.
fn unique() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("mp-test-{}-{number}", std::process::id())
}

/// An address of each kind; the files are in the directory.
fn addresses(directory: &tempfile::TempDir) -> [Address; 3] {
    [
        Address::Unix(directory.path().join(unique())),
        Address::Abstract(unique()),
        Address::Tcp("127.0.0.1:0".to_owned()),
    ]
}

/// Both ends of a connection.
fn pair<S, R>(options: &ConnectionOptions) -> (Client<S, R>, Client<R, S>)
where
    S: 'static,
    R: 'static,
{
    let listener: Listener<S, R> = options.listen(Address::Abstract(unique()), &key()).unwrap();
    thread::scope(|scope| {
        let other = scope.spawn(|| Client::connect(listener.address(), &key()).unwrap());
        let accepted = listener.accept().unwrap();
        (accepted, other.join().unwrap())
    })
}

fn both<T: 'static>() -> (Client<T, T>, Client<T, T>) {
    pair(&ConnectionOptions::new())
}

// Two programs.

const ADDRESS: &str = "MP_TEST_ADDRESS";

/// The body of the other program, which the tests below execute.
#[test]
fn other_program() {
    if is_alone("other_program") {
        run_alone(|| {
            let address: Address = std::env::var(ADDRESS).unwrap().parse().unwrap();
            let client = Client::<String, u64>::connect(address, &key()).unwrap();
            while let Ok(number) = client.recv() {
                client.send(&format!("{number} it is")).unwrap();
            }
        });
    }
}

fn other_program_at(address: &Address) -> Command {
    let mut command = alone_command("other_program");
    command.env(ADDRESS, address.to_string());
    command
}

#[test]
fn two_programs_exchange_messages_over_each_kind_of_address() {
    let _watchdog = watchdog(120);
    let directory = tempfile::tempdir().unwrap();
    for address in addresses(&directory) {
        let listener = Listener::<u64, String>::bind(&address, &key()).unwrap();
        let mut other = other_program_at(listener.address()).spawn().unwrap();
        let client = listener.accept().unwrap();
        for number in 0..100 {
            client.send(&number).unwrap();
            assert_eq!(client.recv().unwrap(), format!("{number} it is"));
        }
        drop(client);
        assert!(other.wait().unwrap().success());
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn killed_program_is_an_end_of_file() {
    let _watchdog = watchdog(120);
    let listener = Listener::<u64, String>::bind(Address::Abstract(unique()), &key()).unwrap();
    let mut other = other_program_at(listener.address()).spawn().unwrap();
    let client = listener.accept().unwrap();
    client.send(&1).unwrap();
    client.recv().unwrap();
    client.send(&2).unwrap();
    assert!(client.poll(Duration::MAX).unwrap());
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(client.recv().unwrap(), "2 it is");
    assert!(client.recv().unwrap_err().is_closed());
    assert!(client.recv().unwrap_err().is_closed());
    assert!(client.poll(Duration::ZERO).unwrap());
    let refused = (0..100).find_map(|number| client.send(&number).err());
    assert!(refused.is_some_and(|error| error.is_closed()));
}

// Who gets through.

#[test]
fn wrong_key_is_told_to_both_sides() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    for address in addresses(&directory) {
        let listener = Listener::<(), ()>::bind(&address, &key()).unwrap();
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let wrong = Key::new("not the key of these tests").unwrap();
                Client::<(), ()>::connect(listener.address(), &wrong).unwrap_err()
            });
            let here = listener.accept().unwrap_err();
            let there = other.join().unwrap();
            assert!(here.is_refused() && there.is_refused(), "{here}; {there}");
            assert_eq!(
                here.to_string(),
                "a client was refused: it has another key than we"
            );
            assert_eq!(
                there.to_string(),
                "the listener refused us: it has another key than we"
            );
            // The listener goes on.
            let right = scope.spawn(|| Client::<(), ()>::connect(listener.address(), &key()));
            listener.accept().unwrap();
            right.join().unwrap().unwrap();
        });
    }
}

/// Writes `bytes` to a listener as a stranger would, who gets so much time; what the listener says.
fn stranger_says(bytes: &[u8], limit: Duration, then_end: bool) -> mp::Error {
    let mut options = ConnectionOptions::new();
    options.handshake_timeout(limit);
    let listener: Listener<(), ()> = options.listen("tcp:127.0.0.1:0", &key()).unwrap();
    let Address::Tcp(place) = listener.address() else {
        unreachable!()
    };
    let mut stranger = TcpStream::connect(place).unwrap();
    stranger.write_all(bytes).unwrap();
    if then_end {
        stranger.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let error = listener.accept().unwrap_err();
    // And the next one is welcome.
    thread::scope(|scope| {
        let right = scope.spawn(|| Client::<(), ()>::connect(listener.address(), &key()));
        // In a moment the right one may be late too.
        while listener.accept_timeout(A_MOMENT).is_err() && !right.is_finished() {}
    });
    error
}

#[test]
fn stranger_is_refused_as_soon_as_its_first_bytes_are_wrong() {
    let _watchdog = watchdog(60);
    // It keeps the connection open: nothing but its bytes tells.
    let error = stranger_says(b"GET / HTTP/1.1\r\n\r\n", Duration::from_secs(60), false);
    assert!(error.is_refused(), "{error}");
    assert_eq!(
        error.to_string(),
        "the client is a stranger: it does not speak mp's protocol"
    );
}

#[test]
fn stranger_that_says_little_and_ends_is_refused() {
    let _watchdog = watchdog(60);
    for bytes in [&b""[..], b"mp", b"mp\0link\n", b"mp\0link\n\x01\0\0\0abc"] {
        let error = stranger_says(bytes, Duration::from_secs(60), true);
        assert!(error.is_refused(), "{bytes:?}: {error}");
    }
}

#[test]
fn stranger_that_says_too_little_is_given_up_in_time() {
    let _watchdog = watchdog(60);
    for bytes in [&b""[..], b"mp", b"mp\0link\n\x01\0\0\0abc"] {
        let error = stranger_says(bytes, A_MOMENT, false);
        assert!(error.is_timeout(), "{bytes:?}: {error}");
    }
}

#[test]
fn another_version_is_named() {
    let _watchdog = watchdog(60);
    let error = stranger_says(b"mp\0link\n\x07\x01\0\0", Duration::from_secs(60), false);
    assert!(error.is_refused());
    assert_eq!(
        error.to_string(),
        "the client speaks version 263 of mp's protocol, and we version 1: build both programs \
         with the same version of mp"
    );
}

/// Connects to a server that answers as `serve` does.
fn client_of(serve: impl FnOnce(TcpStream) + Send + 'static) -> mp::Error {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from(server.local_addr().unwrap());
    let thread = thread::spawn(move || serve(server.accept().unwrap().0));
    let error = Client::<(), ()>::connect(address, &key()).unwrap_err();
    thread.join().unwrap();
    error
}

#[test]
fn client_refuses_a_server_that_is_no_listener() {
    let _watchdog = watchdog(60);
    let error = client_of(|mut stream| stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").unwrap());
    assert!(error.is_refused(), "{error}");
}

#[test]
fn client_refuses_a_listener_that_only_pretends_to_know_the_key() {
    let _watchdog = watchdog(60);
    let error = client_of(|mut stream| {
        let hello = [&b"mp\0link\n\x01\0\0\0"[..], &[7; 32]].concat();
        stream.write_all(&hello).unwrap();
        stream.read_exact(&mut [0; 44 + 32]).unwrap();
        stream.write_all(&[1; 33]).unwrap();
    });
    assert!(error.is_refused(), "{error}");
    assert!(error.to_string().contains("pretended"), "{error}");
}

#[test]
fn our_own_proof_sent_back_proves_nothing() {
    let _watchdog = watchdog(60);
    let error = client_of(|mut stream| {
        let mut hello = [0; 44];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&hello).unwrap();
        let mut proof = [0; 32];
        stream.read_exact(&mut proof).unwrap();
        stream.write_all(&[&[1], &proof[..]].concat()).unwrap();
    });
    assert!(error.is_refused(), "{error}");
}

/// Connects to a listener by hand, with the right key, and proves it as `label` says; what the listener
/// makes of it, and its answer.
fn listener_told(label: &str) -> (mp::Result<()>, u8) {
    let listener = Listener::<(), ()>::bind("tcp:127.0.0.1:0", &key()).unwrap();
    let Address::Tcp(place) = listener.address() else {
        unreachable!()
    };
    let mut stream = TcpStream::connect(place).unwrap();
    thread::scope(|scope| {
        let accepted = scope.spawn(|| listener.accept().map(drop));
        let mut theirs = [0; 44];
        stream.read_exact(&mut theirs).unwrap();
        let ours = [&b"mp\0link\n\x01\0\0\0"[..], &[7; 32]].concat();
        let claim = [label.as_bytes(), &theirs, &ours].concat();
        let proof = hmac_sha256::HMAC::mac(claim, key().as_bytes());
        stream.write_all(&[&ours[..], &proof].concat()).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        (accepted.join().unwrap(), answer[0])
    })
}

#[test]
fn proof_of_a_listener_is_none_of_a_client() {
    let _watchdog = watchdog(60);
    let (accepted, answer) = listener_told("mp: proof of the client");
    accepted.unwrap();
    assert_eq!(answer, 1);
    let (refused, answer) = listener_told("mp: proof of the listener");
    assert!(refused.unwrap_err().is_refused());
    assert_eq!(answer, 2);
}

#[test]
fn server_that_says_nothing_is_given_up_in_time() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("silent");
    let _server = UnixListener::bind(&path).unwrap();
    let mut options = ConnectionOptions::new();
    options.handshake_timeout(A_MOMENT);
    let error = options
        .connect::<(), (), _>(path.as_path(), &key())
        .unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

#[test]
fn key_that_can_be_guessed_is_refused() {
    assert!(Key::new("").is_err());
    assert!(Key::new([7; 15]).is_err());
    assert_eq!(Key::new([7; 16]).unwrap().as_bytes(), [7; 16]);
    let (one, other) = (Key::random().unwrap(), Key::random().unwrap());
    assert_ne!(one.as_bytes(), other.as_bytes());
    assert_eq!(format!("{one:?}"), "Key(32 bytes)");
}

// Addresses.

#[test]
fn address_in_use_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for address in addresses(&directory) {
        let first = Listener::<(), ()>::bind(&address, &key()).unwrap();
        let error = Listener::<(), ()>::bind(first.address(), &key()).unwrap_err();
        assert!(error.to_string().contains("could not listen at"), "{error}");
        let again = first.address().clone();
        drop(first);
        drop(Listener::<(), ()>::bind(again, &key()).unwrap());
    }
}

#[test]
fn nobody_listens_where_nobody_listens() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = [
        Address::Unix(directory.path().join("none")),
        Address::Abstract(unique()),
    ];
    for address in nowhere {
        let error = Client::<(), ()>::connect(&address, &key()).unwrap_err();
        assert!(
            error.to_string().contains("could not connect to"),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_address_is_told_what_is() {
    for text in [
        "",
        "unix:",
        "abstract:",
        "tcp:7000",
        r"\\.\pipe\x",
        "/run/x",
    ] {
        let error = text.parse::<Address>().unwrap_err();
        assert!(error.is_unsupported(), "{text}");
        assert!(error.to_string().contains("tcp:host:port"), "{error}");
        assert!(Listener::<(), ()>::bind(text, &key()).is_err());
    }
    for text in ["unix:/run/x", "abstract:a:b", "tcp:[::1]:7000"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
}

#[test]
fn file_of_a_dead_listener_is_replaced_and_others_are_left_alone() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    // As a listener leaves it that was killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::<(), ()>::bind(path.as_path(), &key()).unwrap();
    thread::scope(|scope| {
        let other = scope.spawn(|| Client::<(), ()>::connect(path.as_path(), &key()));
        listener.accept().unwrap();
        other.join().unwrap().unwrap();
    });
    drop(listener);
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    Listener::<(), ()>::bind(path.as_path(), &key()).unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

/// Lets one connection wait to be accepted, and the kernel keeps others waiting outside.
fn fill_the_backlog(listener: &Listener<(), ()>, path: &Path) -> UnixStream {
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::listen(listener.as_fd().as_raw_fd(), 0) }, 0);
    UnixStream::connect(path).unwrap()
}

#[test]
fn listener_that_accepts_nobody_is_given_up_in_time() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::<(), ()>::bind(path.as_path(), &key()).unwrap();
    let waiting = fill_the_backlog(&listener, &path);
    let mut options = ConnectionOptions::new();
    options.handshake_timeout(A_MOMENT);
    let connected = options.connect::<(), (), _>(path.as_path(), &key());
    assert!(connected.unwrap_err().is_timeout());

    // Who waits for room gets it, and has no timeout left over.
    thread::scope(|scope| {
        let connected = scope.spawn(|| Client::<(), ()>::connect(path.as_path(), &key()));
        drop(waiting);
        assert!(listener.accept().unwrap_err().is_refused());
        let accepted = listener.accept().unwrap();
        let connected = connected.join().unwrap().unwrap();
        let socket = UnixStream::from(connected.as_fd().try_clone_to_owned().unwrap());
        assert_eq!(socket.write_timeout().unwrap(), None);
        accepted.send(&()).unwrap();
        connected.recv().unwrap();
    });
}

#[test]
fn listener_with_a_full_backlog_is_not_taken_for_a_dead_one() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::<(), ()>::bind(path.as_path(), &key()).unwrap();
    let _waiting = fill_the_backlog(&listener, &path);
    Listener::<(), ()>::bind(path.as_path(), &key()).unwrap_err();
    assert!(path.exists());
}

/// Opens files until no descriptor is left.
fn take_all_descriptors() -> Vec<fs::File> {
    let few = libc::rlimit {
        rlim_cur: 64,
        rlim_max: 64,
    };
    // SAFETY: points to a limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &few) }, 0);
    std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect()
}

#[test]
fn listener_without_descriptors_neither_spins_nor_ends() {
    alone(
        "listener_without_descriptors_neither_spins_nor_ends",
        || {
            let _watchdog = watchdog(60);
            let listener = Listener::<(), ()>::bind("tcp:127.0.0.1:0", &key()).unwrap();
            let address = listener.address().clone();
            let Address::Tcp(place) = &address else {
                panic!("{address} is not TCP")
            };
            let waiting = TcpStream::connect(place).unwrap();
            let taken = take_all_descriptors();
            for _ in 0..3 {
                let begun = Instant::now();
                assert!(!listener.accept().unwrap_err().is_timeout());
                assert!(begun.elapsed() >= Duration::from_millis(100));
            }
            // The pause does not go beyond the time that is given.
            assert!(!listener.accept_timeout(A_MOMENT).unwrap_err().is_timeout());
            drop(taken);
            thread::scope(|scope| {
                let connected = scope.spawn(|| Client::<(), ()>::connect(&address, &key()));
                drop(waiting);
                assert!(listener.accept().unwrap_err().is_refused());
                listener.accept().unwrap();
                connected.join().unwrap().unwrap();
            });
        },
    );
}

/// Whether the kernel finds out that the other machine has vanished.
fn is_kept_alive(socket: &impl AsFd) -> bool {
    let (mut value, mut len) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: points to an integer and its length.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_KEEPALIVE,
            (&raw mut value).cast(),
            &mut len,
        )
    };
    got == 0 && value == 1
}

#[test]
fn machine_that_vanishes_ends_the_connection() {
    let _watchdog = watchdog(60);
    let listener = Listener::<(), ()>::bind("tcp:127.0.0.1:0", &key()).unwrap();
    thread::scope(|scope| {
        let connected = scope.spawn(|| Client::<(), ()>::connect(listener.address(), &key()));
        assert!(is_kept_alive(&listener.accept().unwrap()));
        assert!(is_kept_alive(&connected.join().unwrap().unwrap()));
    });
}

#[test]
fn length_that_is_claimed_takes_no_memory() {
    alone("length_that_is_claimed_takes_no_memory", || {
        let _watchdog = watchdog(60);
        let (one, other) = both::<()>();
        let mut raw = UnixStream::from(one.as_fd().try_clone_to_owned().unwrap());
        // A GiB of bytes, of which none comes.
        raw.write_all(&((1_u64 << 30 << 8) | 2).to_le_bytes())
            .unwrap();
        assert!(other.recv_bytes_timeout(A_MOMENT).unwrap_err().is_timeout());
        let most = support::status_line(std::process::id(), "VmHWM").unwrap();
        let most: u64 = most.trim_end_matches(" kB").parse().unwrap();
        assert!(most < 512 << 10, "{most} kB");
    });
}

#[test]
fn listener_removes_only_its_own_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::<(), ()>::bind(path.as_path(), &key()).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another's").unwrap();
    drop(listener);
    assert!(path.exists());
}

#[test]
fn one_of_many_gets_a_stale_address() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    for _ in 0..20 {
        drop(UnixListener::bind(&path).unwrap());
        let bound: Vec<_> = thread::scope(|scope| {
            let threads = [(); 4]
                .map(|()| scope.spawn(|| Listener::<(), ()>::bind(path.as_path(), &key()).ok()));
            threads
                .into_iter()
                .filter_map(|t| t.join().unwrap())
                .collect()
        });
        assert_eq!(bound.len(), 1);
        assert!(path.exists());
        drop(bound);
        assert!(!path.exists());
    }
}

// Messages.

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Request {
    Nothing,
    Text(String),
    Numbers(Vec<f64>),
}

#[test]
fn messages_of_any_size_arrive_whole_and_in_order() {
    let _watchdog = watchdog(120);
    let (here, there) = both::<Request>();
    let requests: Vec<_> = [0, 1, 100, 8_000, 300_000, 3_000_000]
        .into_iter()
        .flat_map(|len| {
            [
                Request::Nothing,
                Request::Text("ä".repeat(len)),
                Request::Numbers(vec![0.5; len]),
            ]
        })
        .collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            requests
                .iter()
                .for_each(|request| there.send(request).unwrap())
        });
        for request in &requests {
            assert!(here.recv().unwrap() == *request);
        }
    });
}

#[test]
fn threads_share_a_connection() {
    let _watchdog = watchdog(120);
    let (here, there) = both::<(u32, Vec<u8>)>();
    let mut got = Vec::new();
    thread::scope(|scope| {
        for from in 0..4 {
            let there = &there;
            scope.spawn(move || {
                for n in 0..200 {
                    there
                        .send(&(from * 1000 + n, vec![from as u8; n as usize * 50]))
                        .unwrap();
                }
            });
        }
        let takers = [(); 2]
            .map(|()| scope.spawn(|| (0..400).map(|_| here.recv().unwrap()).collect::<Vec<_>>()));
        got.extend(takers.into_iter().flat_map(|taker| taker.join().unwrap()));
    });
    for (id, bytes) in &got {
        assert_eq!(*bytes, vec![(id / 1000) as u8; (id % 1000) as usize * 50]);
    }
    got.sort();
    let ids: Vec<_> = got.iter().map(|(id, _)| *id).collect();
    let all: Vec<_> = (0..4)
        .flat_map(|from| (0..200).map(move |n| from * 1000 + n))
        .collect();
    assert_eq!(ids, all);
}

#[test]
fn timeout_in_the_middle_of_a_message_loses_none_of_it() {
    let _watchdog = watchdog(120);
    let (here, there) = both::<Vec<u8>>();
    assert!(here.recv_timeout(A_MOMENT).unwrap_err().is_timeout());
    assert!(!here.poll(A_MOMENT).unwrap());
    assert_eq!(here.try_recv().unwrap(), None);
    let long: Vec<u8> = (0..8_000_000_u32).map(|n| n as u8).collect();
    thread::scope(|scope| {
        // More than a socket holds: it is sent while it is received.
        scope.spawn(|| there.send(&long).unwrap());
        let got = loop {
            match here.recv_timeout(Duration::from_micros(50)) {
                Ok(got) => break got,
                Err(error) => assert!(error.is_timeout(), "{error}"),
            }
        };
        assert!(got == long);
    });
}

#[test]
fn send_that_fails_in_the_middle_ends_the_connection_for_both() {
    let _watchdog = watchdog(60);
    let (here, there) = both::<Vec<u8>>();
    let socket = UnixStream::from(here.as_fd().try_clone_to_owned().unwrap());
    socket.set_write_timeout(Some(A_MOMENT)).unwrap();
    // More than a socket holds, and nobody receives.
    here.send(&vec![7; 8 << 20]).unwrap_err();
    socket.set_write_timeout(None).unwrap();
    // What follows would be taken for the rest.
    assert!(here.send(&vec![]).unwrap_err().is_closed());
    assert!(here.recv().unwrap_err().is_closed());
    assert!(there.recv().unwrap_err().is_closed());
}

#[test]
fn send_waits_for_room_no_longer_than_asked() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    for address in addresses(&directory) {
        let listener = Listener::<u64, Vec<u8>>::bind(&address, &key()).unwrap();
        let (here, there) = thread::scope(|scope| {
            let other = scope
                .spawn(|| Client::<Vec<u8>, u64>::connect(listener.address(), &key()).unwrap());
            (listener.accept().unwrap(), other.join().unwrap())
        });
        // Nobody receives: at some time there is no room for another one.
        let mut sent = 0;
        let error = loop {
            match here.send_timeout(&sent, A_MOMENT) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(error.is_timeout(), "{error}");
        let is_whole = !error.to_string().contains("the connection has ended");
        for number in 0..sent {
            assert_eq!(there.recv().unwrap(), number);
        }
        if is_whole {
            // What did not go lets the next one go.
            here.send_timeout(&7, Duration::MAX).unwrap();
            assert_eq!(there.recv().unwrap(), 7);
        }
        // Of one that is longer than what the system keeps, a part has gone.
        let error = there
            .send_timeout(&vec![7; 32 << 20], A_MOMENT)
            .unwrap_err();
        assert!(!is_whole || error.is_timeout(), "{error}");
        assert!(there.send(&vec![]).unwrap_err().is_closed());
        assert!(here.recv().unwrap_err().is_closed());
    }
}

#[test]
fn sender_waits_for_another_thread_no_longer_than_asked() {
    let _watchdog = watchdog(60);
    let (here, there) = both::<Vec<u8>>();
    let long = vec![7; 8 << 20];
    thread::scope(|scope| {
        let first = scope.spawn(|| here.send(&long).unwrap());
        // The first one is in the middle of it until somebody receives.
        while here.send_timeout(&vec![], A_MOMENT).is_ok() {
            assert_eq!(there.recv().unwrap(), []);
        }
        assert!(there.recv().unwrap() == long);
        first.join().unwrap();
        here.send_bytes_timeout(b"next", A_MOMENT).unwrap();
        assert_eq!(there.recv_bytes().unwrap(), b"next");
    });
}

#[test]
fn receiver_waits_for_another_thread_no_longer_than_asked() {
    let _watchdog = watchdog(60);
    let (here, there) = both::<u8>();
    thread::scope(|scope| {
        let first = scope.spawn(|| here.recv().unwrap());
        // Whichever of the two reads, this one comes back.
        assert!(here.recv_timeout(A_MOMENT).unwrap_err().is_timeout());
        there.send(&7).unwrap();
        assert_eq!(first.join().unwrap(), 7);
    });
}

#[test]
fn bytes_and_values_are_told_apart() {
    let _watchdog = watchdog(60);
    let (here, there) = both::<String>();
    there.send_bytes(b"raw").unwrap();
    there.send_bytes(b"").unwrap();
    there.send(&"text".to_owned()).unwrap();
    there.send_bytes(b"raw").unwrap();
    there.send(&"text".to_owned()).unwrap();
    assert_eq!(here.recv_bytes().unwrap(), b"raw");
    assert_eq!(here.recv_bytes_timeout(Duration::MAX).unwrap(), b"");
    let error = here.recv_bytes().unwrap_err();
    assert!(
        error.is_not_decoded() && error.to_string().contains("`recv`"),
        "{error}"
    );
    let error = here.recv().unwrap_err();
    assert!(
        error.is_not_decoded() && error.to_string().contains("`recv_bytes`"),
        "{error}"
    );
    assert_eq!(here.recv().unwrap(), "text");
}

#[test]
fn value_of_another_type_is_consumed() {
    let _watchdog = watchdog(60);
    let (here, there) = pair::<(), u64>(&ConnectionOptions::new());
    let (texts, numbers) = pair::<String, ()>(&ConnectionOptions::new());
    drop((here, there));
    texts.send_bytes(b"x").unwrap();
    texts.send(&"text".to_owned()).unwrap();
    texts.send(&"next".to_owned()).unwrap();
    assert!(numbers.recv().unwrap_err().is_not_decoded());
    assert_eq!(numbers.recv().unwrap(), "text");
    assert_eq!(numbers.recv().unwrap(), "next");

    // Types that differ between the two programs.
    let listener = Listener::<String, ()>::bind(Address::Abstract(unique()), &key()).unwrap();
    thread::scope(|scope| {
        let other =
            scope.spawn(|| Client::<(), bool>::connect(listener.address(), &key()).unwrap());
        let here = listener.accept().unwrap();
        let there = other.join().unwrap();
        here.send(&"text".to_owned()).unwrap();
        let error = there.recv().unwrap_err();
        assert!(error.is_not_decoded(), "{error}");
        assert!(error.to_string().contains("no bool"), "{error}");
        drop(here);
        assert!(there.recv().unwrap_err().is_closed());
    });
}

#[test]
fn longer_message_than_allowed_is_refused_on_both_sides() {
    let _watchdog = watchdog(60);
    let mut options = ConnectionOptions::new();
    options.max_message(1000);
    // The accepted side has the limit, the other one the default.
    let (strict, lenient) = pair::<Vec<u8>, Vec<u8>>(&options);
    let error = strict.send(&vec![0; 993]).unwrap_err();
    assert!(error.is_limit(), "{error}");
    strict.send(&vec![1; 992]).unwrap();
    assert_eq!(lenient.recv().unwrap(), [1; 992]);
    lenient.send(&vec![2; 992]).unwrap();
    assert_eq!(strict.recv().unwrap(), [2; 992]);
    lenient.send(&vec![0; 993]).unwrap();
    let error = strict.recv().unwrap_err();
    assert!(
        error.is_limit() && error.to_string().contains("1001 bytes"),
        "{error}"
    );
    assert!(strict.recv().unwrap_err().is_closed());
    assert!(lenient.recv().unwrap_err().is_closed());
}

#[test]
fn handle_of_a_shared_object_is_not_sent_to_another_program() {
    let _watchdog = watchdog(60);
    #[derive(Serialize, Deserialize)]
    struct Carries {
        queue: Option<Queue<u8>>,
        lock: Option<Lock>,
    }
    let (here, there) = both::<Carries>();
    for carries in [
        Carries {
            queue: Some(Queue::new().unwrap()),
            lock: None,
        },
        Carries {
            queue: None,
            lock: Some(Lock::new().unwrap()),
        },
    ] {
        let error = here.send(&carries).unwrap_err();
        assert!(error.is_not_encoded());
        assert!(
            error
                .to_string()
                .contains("means nothing in another program"),
            "{error}"
        );
    }
    here.send(&Carries {
        queue: None,
        lock: None,
    })
    .unwrap();
    let got = there.recv().unwrap();
    assert!(got.queue.is_none() && got.lock.is_none());
}

#[test]
fn descriptors_become_readable() {
    let _watchdog = watchdog(60);
    let listener = Listener::<u8, u8>::bind(Address::Abstract(unique()), &key()).unwrap();
    assert!(!support::wait_readable(
        &listener.as_fd(),
        Some(Duration::ZERO)
    ));
    assert!(listener.accept_timeout(A_MOMENT).unwrap_err().is_timeout());
    thread::scope(|scope| {
        let other = scope.spawn(|| Client::<u8, u8>::connect(listener.address(), &key()).unwrap());
        assert!(support::wait_readable(&listener.as_fd(), None));
        let here = listener.accept().unwrap();
        let there = other.join().unwrap();
        assert!(!support::wait_readable(&here.as_fd(), Some(Duration::ZERO)));
        there.send(&1).unwrap();
        assert!(support::wait_readable(&here.as_fd(), None));
        assert_eq!(here.recv().unwrap(), 1);
        assert!(!support::wait_readable(&here.as_fd(), Some(Duration::ZERO)));
    });
}

#[test]
fn connections_go_to_any_thread() {
    fn goes_anywhere<T: Send + Sync>() {}
    goes_anywhere::<Listener<Queue<u8>, u8>>();
    goes_anywhere::<Client<Queue<u8>, u8>>();
    goes_anywhere::<Key>();
}
