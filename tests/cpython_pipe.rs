//! Behaviours that CPython's own tests demand of `multiprocessing`'s pipes and of `connection.wait`,
//! demanded of `mp`.
//!
//! Source: `Lib/test/_test_multiprocessing.py` of CPython (PSF licence 2). Rewritten: no code was taken
//! over, each test states the behaviour anew in the terms of `mp`. What differs is said at the test.
//!
//! A test is named after the area and the method that it answers. Left out are:
//!
//! | behaviour | reason |
//! |---|---|
//! | `test_fd_transfer`, `test_missing_fd_transfer` | descriptors are not sent: a child inherits what `Process::stdin` and its kin are given |
//! | `test_pickling` (of listening and raw sockets) | the same; that a connection can be sent is `pipe_test_pickling` |
//! | `test_invalid_handles` | a connection has no descriptor of its own that could be a wrong one |
//! | `test_wait_socket_slow` | sockets are waited for as descriptors, with what `Queue::descriptor` gives |
//!
//! Parts of rows that cannot be written in `mp`: receiving at an end that may only send, and the other
//! way round (does not compile); an offset or a size beyond a message (a slice has none); an end that was
//! closed (it is dropped, and there is no such value); a negative timeout (a `Duration` has none: zero
//! says it).

mod support;

use std::convert::Infallible;
use std::time::Duration;

use mp::{Connection, Process, RecvBytesIntoError, RecvError, Waitable, pipe, wait};
use support::watchdog;

type Bytes = Connection<(), ()>;

/// Sends back what comes, until nothing more does.
#[mp::task]
fn echo(end: Connection<Vec<i64>, Vec<i64>>) {
    for value in &end {
        end.send(value).unwrap();
    }
}

#[mp::task]
fn echo_bytes(end: Bytes) {
    while let Ok(bytes) = end.recv_bytes() {
        end.send_bytes(&bytes).unwrap();
    }
}

#[mp::task]
fn send_texts(end: Bytes, texts: Vec<Vec<u8>>) {
    for text in texts {
        end.send_bytes(&text).unwrap();
    }
}

#[mp::task]
fn send_numbers(end: Connection<(u32, u32), Infallible>, from: u32, pause: Duration) {
    for number in 0..10 {
        std::thread::sleep(pause);
        end.send((number, from)).unwrap();
    }
}

#[mp::task]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[mp::task]
fn use_an_end(ends: Connection<Infallible, Bytes>) {
    let end = ends.recv().unwrap();
    end.send_bytes(b"through the other").unwrap();
}

#[test]
fn pipe_test_connection() {
    let _watchdog = watchdog(120);
    let (here, there) = pipe().unwrap();
    let child = Process::new(echo, (there,)).start().unwrap();
    let values = vec![1, -2, i64::MAX];
    here.send(values.clone()).unwrap();
    assert_eq!(here.recv().unwrap(), values);
    assert!(!here.poll());
    assert!(!here.poll_timeout(Duration::from_millis(30)));
    here.send(vec![]).unwrap();
    assert!(here.poll_timeout(Duration::MAX));
    assert_eq!(here.recv().unwrap(), []);
    drop(here);
    child.join().unwrap();

    let (here, there) = pipe::<(), ()>().unwrap();
    let child = Process::new(echo_bytes, (there,)).start().unwrap();
    let message = b"hello world";
    here.send_bytes(message).unwrap();
    assert_eq!(here.recv_bytes().unwrap(), message);
    let mut buffer = [0; 40];
    here.send_bytes(message).unwrap();
    assert_eq!(here.recv_bytes_into(&mut buffer).unwrap(), message.len());
    assert_eq!(&buffer[..message.len()], message);
    here.send_bytes(message).unwrap();
    let len = here.recv_bytes_into(&mut buffer[21..]).unwrap();
    assert_eq!(&buffer[21..21 + len], message);
    here.send_bytes(&[b'x'; 41]).unwrap();
    match here.recv_bytes_into(&mut buffer) {
        Err(RecvBytesIntoError::TooShort(message)) => assert_eq!(message, [b'x'; 41]),
        other => panic!("{other:?}"),
    }
    let large = vec![b'y'; 16 << 20];
    here.send_bytes(&large).unwrap();
    assert!(here.recv_bytes().unwrap() == large);
    drop(here);
    child.join().unwrap();

    let (here, there) = pipe::<(), ()>().unwrap();
    drop(there);
    assert!(matches!(here.recv_bytes(), Err(RecvError::Closed)));
    assert!(here.poll());
}

#[test]
fn pipe_test_duplex_false() {
    let (writer, reader) = pipe::<u32, Infallible>().unwrap();
    writer.send(1).unwrap();
    assert_eq!(reader.recv().unwrap(), 1);
}

#[test]
fn pipe_test_sendbytes() {
    let (here, there) = pipe::<(), ()>().unwrap();
    let message = b"abcdefghijklmnopqrstuvwxyz";
    for range in [0..26, 5..26, 7..15, 26..26] {
        here.send_bytes(&message[range.clone()]).unwrap();
        assert_eq!(there.recv_bytes().unwrap(), message[range]);
    }
}

#[test]
fn pipe_test_context() {
    let (here, there) = {
        let (here, there) = pipe::<u32, u32>().unwrap();
        here.send(1).unwrap();
        assert_eq!(there.recv().unwrap(), 1);
        (here.clone(), there)
    };
    drop(here);
    assert!(matches!(there.recv(), Err(RecvError::Closed)));
}

#[test]
fn pipe_test_empty_string() {
    let (here, there) = pipe::<(), ()>().unwrap();
    assert!(!there.poll());
    here.send_bytes(b"").unwrap();
    assert!(there.poll());
    assert!(there.poll());
    assert_eq!(there.recv_bytes().unwrap(), b"");
    assert!(!there.poll());
}

#[test]
fn pipe_test_strings() {
    let _watchdog = watchdog(60);
    let texts: Vec<Vec<u8>> = ["hello", "", "a", "b", "", "bye", "", "lop"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec();
    let (here, there) = pipe::<(), ()>().unwrap();
    let child = Process::new(send_texts, (there, texts.clone()))
        .start()
        .unwrap();
    for text in texts {
        assert!(here.poll_timeout(Duration::MAX));
        assert_eq!(here.recv_bytes().unwrap(), text);
    }
    child.join().unwrap();
}

#[test]
fn pipe_test_dont_merge() {
    let _watchdog = watchdog(60);
    let texts: Vec<Vec<u8>> = vec![b"a".to_vec(), b"b".to_vec(), b"cd".to_vec()];
    let (here, there) = pipe::<(), ()>().unwrap();
    let child = Process::new(send_texts, (there, texts.clone()))
        .start()
        .unwrap();
    for text in texts {
        assert!(here.poll_timeout(Duration::MAX));
        for _ in 0..3 {
            assert!(here.poll());
        }
        assert_eq!(here.recv_bytes().unwrap(), text);
    }
    // Its end is the end of the stream, and stays it.
    child.join().unwrap();
    for _ in 0..3 {
        assert!(here.poll());
        assert!(matches!(here.recv_bytes(), Err(RecvError::Closed)));
    }
}

#[test]
fn pipe_test_pickling() {
    let _watchdog = watchdog(60);
    let (ends, taker) = pipe::<Bytes, Infallible>().unwrap();
    let child = Process::new(use_an_end, (taker,)).start().unwrap();
    let (here, there) = pipe::<(), ()>().unwrap();
    ends.send(there).unwrap();
    assert_eq!(here.recv_bytes().unwrap(), b"through the other");
    child.join().unwrap();
}

/// Receives from four processes by one wait until each has ended its way.
fn wait_for_four(pause: Duration) {
    let _watchdog = watchdog(120);
    let mut readers = Vec::new();
    let mut children = Vec::new();
    for from in 0..4 {
        let (writer, reader) = pipe().unwrap();
        let child = Process::new(send_numbers, (writer, from, pause));
        children.push(child.start().unwrap());
        readers.push(reader);
    }
    let mut received = Vec::new();
    while !readers.is_empty() {
        let things: Vec<&dyn Waitable> = readers.iter().map(|reader| reader as _).collect();
        for index in wait(&things, None).unwrap().into_iter().rev() {
            match readers[index].recv() {
                Ok(message) => received.push(message),
                Err(RecvError::Closed) => drop(readers.remove(index)),
                Err(error) => panic!("{error}"),
            }
        }
    }
    received.sort_unstable();
    let expected: Vec<_> = (0..10)
        .flat_map(|number| (0..4).map(move |from| (number, from)))
        .collect();
    assert_eq!(received, expected);
    for child in children {
        child.join().unwrap();
    }
}

#[test]
fn pipe_test_wait() {
    wait_for_four(Duration::ZERO);
}

#[test]
fn pipe_test_wait_slow() {
    wait_for_four(Duration::from_millis(5));
}

#[test]
fn pipe_test_wait_integer() {
    let _watchdog = watchdog(60);
    let (here, there) = pipe::<u32, u32>().unwrap();
    let child = Process::new(pause, (Duration::from_millis(50),))
        .start()
        .unwrap();
    let things: [&dyn Waitable; 2] = [&child, &there];
    assert_eq!(wait(&things, Some(Duration::ZERO)).unwrap(), []);
    assert_eq!(wait(&things, None).unwrap(), [0]);
    here.send(1).unwrap();
    assert_eq!(wait(&things, None).unwrap(), [0, 1]);
    child.join().unwrap();
    assert_eq!(there.recv().unwrap(), 1);
    assert_eq!(wait(&things, None).unwrap(), [0]);
}

#[test]
fn pipe_test_neg_timeout() {
    let (_here, there) = pipe::<u32, u32>().unwrap();
    let _watchdog = watchdog(60);
    // Nothing would ever end it if it slept.
    assert_eq!(wait(&[&there], Some(Duration::ZERO)).unwrap(), []);
}
