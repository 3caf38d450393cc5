//! Pipes: what one end sends the other receives, whole and in order, until an end is gone.

mod support;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::thread;
use std::time::Duration;

use mp::{
    Connection, Process, Queue, RecvBytesIntoError, RecvError, RecvTimeoutError, TryRecvError, pipe,
};
use serde::{Deserialize, Serialize};
use support::{eventually, watchdog};

/// What goes in one direction only.
type Receiver<T> = Connection<Infallible, T>;
type Sender<T> = Connection<T, Infallible>;

const A_MOMENT: Duration = Duration::from_millis(30);

#[mp::task]
fn echo(end: Connection<String, String>) {
    for text in &end {
        end.send(text.to_uppercase()).unwrap();
    }
}

#[mp::task]
fn echo_bytes(end: Connection<Vec<u8>, Vec<u8>>) {
    while let Ok(bytes) = end.recv_bytes() {
        end.send_bytes(&bytes).unwrap();
    }
}

/// Holds an end until it is killed, and says when it does.
#[mp::task]
fn hold(end: Connection<u64, u64>, ready: Queue<()>) {
    ready.put(()).unwrap();
    let _end = end;
    loop {
        thread::park();
    }
}

#[mp::task]
fn pass(end: Connection<u64, u64>) -> Connection<u64, u64> {
    end.send(1).unwrap();
    end
}

#[mp::task]
fn take_an_end(ends: Receiver<Connection<u64, u64>>) {
    let end = ends.recv().unwrap();
    for x in &end {
        end.send(x + 1).unwrap();
    }
}

#[mp::task]
fn drop_and_wait(end: Connection<u64, u64>, done: Queue<()>) {
    drop(end);
    done.get().unwrap();
}

#[mp::task]
fn send_some(end: Sender<(u32, u32)>, from: u32, count: u32) {
    for number in 0..count {
        end.send((from, number)).unwrap();
    }
}

#[test]
fn values_go_both_ways() {
    let _watchdog = watchdog(60);
    let (here, there) = pipe().unwrap();
    let child = Process::new(echo, (there.clone(),)).start().unwrap();
    drop(there);
    for text in ["one", "", "two"] {
        here.send(text.to_owned()).unwrap();
    }
    assert_eq!(here.recv().unwrap(), "ONE");
    assert_eq!(here.recv().unwrap(), "");
    assert_eq!(here.recv_timeout(Duration::from_secs(60)).unwrap(), "TWO");
    drop(here);
    child.join().unwrap();
}

#[test]
fn messages_of_any_size_stay_whole_and_apart() {
    let _watchdog = watchdog(300);
    let (here, there) = pipe().unwrap();
    let child = Process::new(echo_bytes, (there,)).start().unwrap();
    let large = if cfg!(debug_assertions) { 64 } else { 1024 };
    let sizes = [0, 1, 0, 8191, 8192, 8193, 65_536, 100_000, 1 << 20];
    let message = |len: usize| -> Vec<u8> { (0..len).map(|i| (i * 31 + len) as u8).collect() };
    for len in sizes {
        here.send_bytes(&message(len)).unwrap();
    }
    for len in sizes {
        assert!(here.recv_bytes().unwrap() == message(len), "{len} bytes");
    }
    let large = vec![7; large << 20];
    here.send_bytes(&large).unwrap();
    assert!(here.recv_bytes().unwrap() == large);
    drop(here);
    child.join().unwrap();
}

#[test]
fn sent_values_and_bytes_keep_their_order() {
    let (here, there) = pipe::<u32, Infallible>().unwrap();
    here.send(5).unwrap();
    here.send_bytes(b"between").unwrap();
    here.send(6).unwrap();
    assert_eq!(there.recv().unwrap(), 5);
    assert_eq!(there.recv_bytes().unwrap(), b"between");
    assert_eq!(there.recv_bytes().unwrap().len(), 4);
}

#[test]
fn too_small_a_buffer_hands_over_the_message() {
    let (here, there) = pipe::<(), ()>().unwrap();
    here.send_bytes(b"seven b").unwrap();
    here.send_bytes(b"five!").unwrap();
    let mut buffer = [0; 5];
    match there.recv_bytes_into(&mut buffer) {
        Err(RecvBytesIntoError::TooShort(message)) => assert_eq!(message, b"seven b"),
        other => panic!("{other:?}"),
    }
    assert_eq!(buffer, [0; 5]);
    assert_eq!(there.recv_bytes_into(&mut buffer).unwrap(), 5);
    assert_eq!(&buffer, b"five!");
    drop(here);
    let error = there.recv_bytes_into(&mut buffer).unwrap_err();
    assert!(matches!(error, RecvBytesIntoError::Closed), "{error}");
    assert!(mp::Error::from(error).is_closed());
}

#[test]
fn last_clone_of_an_end_is_the_end() {
    let (here, there) = pipe::<u32, u32>().unwrap();
    let clone = here.clone();
    here.send(1).unwrap();
    drop(here);
    assert!(!there.is_closed());
    clone.send(2).unwrap();
    drop(clone);
    assert!(there.is_closed());
    assert_eq!(there.iter().collect::<Vec<_>>(), [1, 2]);
    assert!(matches!(there.recv(), Err(RecvError::Closed)));
    assert!(matches!(there.try_recv(), Err(TryRecvError::Closed)));
    let error = there.recv_timeout(Duration::MAX).unwrap_err();
    assert!(matches!(error, RecvTimeoutError::Closed));
    assert!(mp::Error::from(error).is_closed());
}

#[test]
fn sending_to_nobody_gives_the_value_back() {
    let (here, there) = pipe::<String, String>().unwrap();
    drop(there);
    let error = here.send("lost?".to_owned()).unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert!(error.to_string().contains("the other end"), "{error}");
    assert_eq!(error.into_inner(), "lost?");
    assert!(here.try_send("x".to_owned()).unwrap_err().is_closed());
    let error = here
        .send_timeout("x".to_owned(), Duration::MAX)
        .unwrap_err();
    assert!(error.is_closed());
    assert!(here.send_bytes(b"x").unwrap_err().is_closed());
    assert!(mp::Error::from(error).is_closed());
}

#[test]
fn killed_process_is_the_end_of_what_it_held_alone() {
    let _watchdog = watchdog(60);
    let ready = Queue::new().unwrap();
    let (here, there) = pipe::<u64, u64>().unwrap();
    let child = Process::new(hold, (there, ready.clone())).start().unwrap();
    ready.get().unwrap();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| here.recv());
        let poller = scope.spawn(|| here.poll_timeout(Duration::MAX));
        let sender = scope.spawn(|| {
            loop {
                if let Err(error) = here.send(1) {
                    break error;
                }
            }
        });
        child.kill();
        assert!(matches!(receiver.join().unwrap(), Err(RecvError::Closed)));
        assert!(poller.join().unwrap());
        // It had filled the pipe, perhaps, and waited for room.
        assert!(sender.join().unwrap().is_closed());
    });
    assert!(child.join().unwrap_err().is_crash());
}

#[test]
fn full_pipe_waits_for_its_receiver() {
    let _watchdog = watchdog(60);
    let (here, there) = pipe::<u32, u32>().unwrap();
    let mut sent = 0;
    let error = loop {
        match here.try_send(sent) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(sent, 1024);
    assert!(error.is_full() && error.into_inner() == 1024);
    assert!(here.send_timeout(0, A_MOMENT).unwrap_err().is_timeout());
    thread::scope(|scope| {
        scope.spawn(|| (1024..3000).for_each(|n| here.send(n).unwrap()));
        for n in 0..3000 {
            assert_eq!(there.recv().unwrap(), n);
        }
    });
}

/// Waits until a thread of this process sleeps.
fn falls_asleep(thread: libc::pid_t) {
    eventually(|| {
        let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status"));
        status.unwrap().contains("State:\tS")
    });
}

/// Runs `send` on a thread and returns when that waits.
fn waits_in<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    send: impl FnOnce() + Send + 'scope,
) -> thread::ScopedJoinHandle<'scope, ()> {
    let (tell, told) = std::sync::mpsc::channel();
    let sender = scope.spawn(move || {
        // SAFETY: takes nothing.
        tell.send(unsafe { libc::gettid() }).unwrap();
        send();
    });
    falls_asleep(told.recv().unwrap());
    sender
}

#[test]
fn room_for_a_small_message_is_told_to_who_has_one() {
    let _watchdog = watchdog(60);
    let (here, there) = pipe::<Vec<u8>, Infallible>().unwrap();
    while here.try_send(vec![1]).is_ok() {}
    thread::scope(|scope| {
        let long = waits_in(scope, || here.send(vec![2; 1 << 20]).unwrap());
        let short = waits_in(scope, || here.send(vec![3]).unwrap());
        // One is gone: there is room for the short one, though the long one waits for longer.
        assert_eq!(there.recv().unwrap(), [1]);
        short.join().unwrap();
        while there.recv().unwrap()[0] != 2 {}
        long.join().unwrap();
    });
}

#[test]
fn large_messages_wait_behind_few() {
    let _watchdog = watchdog(60);
    let (here, there) = pipe::<Vec<u8>, ()>().unwrap();
    let large = || vec![1; 20 << 20];
    for _ in 0..3 {
        here.try_send(large()).unwrap();
    }
    assert!(here.try_send(large()).unwrap_err().is_full());
    here.try_send(vec![2]).unwrap();
    // Whatever its size, it fits into an empty pipe.
    let huge = || vec![3; 65 << 20];
    assert!(here.try_send(huge()).unwrap_err().is_full());
    for _ in 0..4 {
        there.recv().unwrap();
    }
    here.try_send(huge()).unwrap();
    assert_eq!(there.recv().unwrap().len(), 65 << 20);
}

#[test]
fn sender_without_room_is_told_that_the_other_end_goes() {
    let _watchdog = watchdog(60);
    let (here, there) = pipe::<u32, u32>().unwrap();
    while here.try_send(1).is_ok() {}
    thread::scope(|scope| {
        let sender = scope.spawn(|| here.send(2));
        drop(there);
        assert!(sender.join().unwrap().unwrap_err().is_closed());
    });
}

#[test]
fn poll_sees_messages_and_the_end() {
    let (here, there) = pipe::<u32, u32>().unwrap();
    assert!(!there.poll());
    assert!(!there.poll_timeout(A_MOMENT));
    assert!(matches!(there.try_recv(), Err(TryRecvError::Empty)));
    let error = there.recv_timeout(A_MOMENT).unwrap_err();
    assert!(matches!(error, RecvTimeoutError::Timeout));
    here.send_bytes(b"").unwrap();
    assert!(there.poll() && there.poll_timeout(Duration::MAX));
    assert_eq!(there.recv_bytes().unwrap(), b"");
    assert!(!there.poll());
    drop(here);
    assert!(there.poll());
}

#[test]
fn an_end_travels_anywhere() {
    let _watchdog = watchdog(60);
    // As a result, to a process that has dropped its own.
    let (here, there) = pipe::<u64, u64>().unwrap();
    let child = Process::new(pass, (there,)).start().unwrap();
    let there = child.join().unwrap();
    drop(child);
    assert_eq!(here.recv().unwrap(), 1);
    here.send(2).unwrap();
    assert_eq!(there.recv().unwrap(), 2);

    // In a message, where it is not gone.
    let (ends, taker) = pipe::<Connection<u64, u64>, Infallible>().unwrap();
    ends.send(there).unwrap();
    assert!(!here.is_closed());
    let child = Process::new(take_an_end, (taker,)).start().unwrap();
    here.send(41).unwrap();
    assert_eq!(here.recv().unwrap(), 42);
    drop(here);
    child.join().unwrap();

    // In a queue that nobody reads, with which it goes.
    let (here, there) = pipe::<u64, u64>().unwrap();
    let queue = Queue::new().unwrap();
    queue.put(there).unwrap();
    assert!(!here.is_closed());
    drop(queue);
    assert!(here.is_closed());
}

#[test]
fn an_end_that_a_task_drops_is_gone_before_the_task_is() {
    let _watchdog = watchdog(60);
    let (here, there) = pipe::<u64, u64>().unwrap();
    let queue = Queue::new().unwrap();
    let child = Process::new(drop_and_wait, (there, queue.clone()))
        .start()
        .unwrap();
    assert!(matches!(here.recv(), Err(RecvError::Closed)));
    assert!(child.is_alive());
    queue.put(()).unwrap();
    child.join().unwrap();
}

#[test]
fn each_message_goes_to_one_of_many() {
    let _watchdog = watchdog(60);
    const EACH: u32 = 500;
    let (receiver, sender) = pipe::<Infallible, (u32, u32)>().unwrap();
    let children: Vec<_> = (0..3)
        .map(|from| {
            Process::new(send_some, (sender.clone(), from, EACH))
                .start()
                .unwrap()
        })
        .collect();
    drop(sender);
    let received: Vec<Vec<(u32, u32)>> = thread::scope(|scope| {
        let receivers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| receiver.iter().collect()))
            .collect();
        receivers
            .into_iter()
            .map(|receiver| receiver.join().unwrap())
            .collect()
    });
    for child in children {
        child.join().unwrap();
    }
    for one in &received {
        for from in 0..3 {
            let numbers: Vec<_> = one.iter().filter(|message| message.0 == from).collect();
            assert!(numbers.is_sorted());
        }
    }
    let all: BTreeSet<_> = received.iter().flatten().collect();
    assert_eq!(all.len(), 3 * EACH as usize);
    assert_eq!(received.iter().map(Vec::len).sum::<usize>(), all.len());
}

/// Refuses to be encoded.
#[derive(Debug, Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it will not go"))
    }
}

#[test]
fn what_cannot_be_encoded_or_decoded_is_told() {
    let (here, there) = pipe::<Stubborn, String>().unwrap();
    let error = here.send(Stubborn).unwrap_err();
    assert!(error.is_not_encoded(), "{error}");
    assert!(error.to_string().contains("it will not go"));
    there.send_bytes(b"no string").unwrap();
    match here.recv() {
        Err(RecvError::NotDecoded(error)) => assert_eq!(error.bytes(), b"no string"),
        other => panic!("{other:?}"),
    }
    assert!(!here.poll());
}

#[test]
fn debug_shows_what_waits() {
    let (here, there) = pipe::<u32, u32>().unwrap();
    here.send(1).unwrap();
    assert_eq!(
        format!("{there:?}"),
        "Connection { received: 1, sent: 0, closed: false, lost: 0 }"
    );
}

#[test]
fn ends_are_send_and_sync_whatever_they_carry() {
    fn check<T: Send + Sync>() {}
    check::<Connection<*const u8, *const u8>>();
}
