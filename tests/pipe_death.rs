//! Ends of pipes killed at each named point: the other end has a prefix of what was sent, is told of the
//! end, and nothing is left. Run with `--features faults`.
#![cfg(feature = "faults")]

mod support;

use std::sync::{Mutex, MutexGuard};
use std::thread;

use mp::__private::{Audit, audit};
use mp::{Child, Connection, Process, Queue, RecvError, Waitable, pipe, wait};
use support::{eventually, watchdog};

/// One test at a time: the audit is of the whole program.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// A number, bytes that show whether they are whole, and now and then a handle.
type Item = (u32, Vec<u8>, Option<Queue<u32>>);

const SENDING: [&str; 9] = [
    "put.encoded",
    "put.locked",
    "put.grown",
    "put.written",
    "put.announced",
    "put.owned",
    "put.committed",
    "put.unlocked",
    "pipe.closing",
];
const RECEIVING: [&str; 9] = [
    "get.locked",
    "take.announced",
    "take.committed",
    "take.owned",
    "take.freed",
    "get.taken",
    "get.unlocked",
    "get.decoded",
    "pipe.closing",
];

fn item(number: u32) -> Item {
    let len = match number % 4 {
        0 => 10,
        1 => 7000,
        2 => 100_000,
        _ => 100,
    };
    let queue = (number % 4 == 3).then(|| Queue::bounded(number as usize + 1).unwrap());
    (number, vec![number as u8; len], queue)
}

#[track_caller]
fn check((number, bytes, queue): &Item) {
    let (_, expected, _) = item(*number);
    assert_eq!(*bytes, expected);
    let capacity = queue.as_ref().and_then(Queue::capacity);
    assert_eq!(capacity, (number % 4 == 3).then_some(*number as usize + 1));
}

#[mp::task]
fn send_all(end: Connection<Item, ()>) {
    for number in 0..60 {
        end.send(item(number)).unwrap();
    }
}

#[mp::task]
fn receive_all(end: Connection<(), Item>) {
    for item in &end {
        check(&item);
    }
}

/// Holds an end until it is killed, and says when it does.
#[mp::task]
fn hold(end: Connection<u32, u32>, ready: Queue<()>) {
    ready.put(()).unwrap();
    let _end = end;
    loop {
        thread::park();
    }
}

/// Gives an end to a child, kills it, and sees to what it has left, in which it dies.
#[mp::task]
fn bury_a_holder(end: Connection<u32, u32>) {
    let ready = Queue::new().unwrap();
    let child = Process::new(hold, (end, ready.clone()))
        .env("MP_FAULT", "none")
        .start()
        .unwrap();
    ready.get().unwrap();
    child.kill();
    let _ = child.join();
}

fn start<R: mp::Transfer>(point: &str, process: Process<R>) -> Child<R> {
    process.env("MP_FAULT", point).start().unwrap()
}

/// Runs a scenario, after which nothing of it may be left in shared memory.
#[track_caller]
fn scenario(name: &str, run: impl FnOnce() + Send + 'static) {
    // On a thread of its own, because a thread keeps memory from call to call.
    let ended = thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .unwrap()
        .join();
    assert!(ended.is_ok(), "the scenario of {name} failed");
    eventually(|| {
        let Audit {
            process_units,
            object_units,
            objects,
            faults,
            ..
        } = audit().unwrap();
        (process_units, object_units, objects) == (0, 0, 0) && faults.is_empty()
    });
}

/// Whether it died at its point; otherwise it must have come to its end.
#[track_caller]
fn died(child: &Child<()>) -> bool {
    match child.join() {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(error.signal(), Some(libc::SIGKILL), "{error}");
            true
        }
    }
}

#[test]
fn killed_sender_leaves_a_prefix_and_the_end() {
    let _alone = alone();
    let _watchdog = watchdog(400);
    for point in SENDING {
        for count in [1, 2, 9] {
            let fault = format!("{point}:{count}");
            scenario(&fault.clone(), move || {
                let (here, there) = pipe().unwrap();
                let child = start(&fault, Process::new(send_all, (there,)));
                let mut received = 0;
                let end = loop {
                    let things: [&dyn Waitable; 1] = [&here];
                    assert_eq!(wait(&things, None).unwrap(), [0]);
                    match here.recv() {
                        Ok(item) => {
                            assert_eq!(item.0, received);
                            check(&item);
                            received += 1;
                        }
                        Err(error) => break error,
                    }
                };
                assert!(matches!(end, RecvError::Closed), "{end}");
                let is_dead = died(&child);
                // Both ways are closed once.
                let is_reached = !(point == "pipe.closing" && count > 2);
                assert!(
                    is_dead || !is_reached || count > 1,
                    "{fault} was not reached"
                );
                assert!(is_dead || received == 60);
            });
        }
    }
}

#[test]
fn killed_receiver_is_told_to_the_sender() {
    let _alone = alone();
    let _watchdog = watchdog(400);
    for point in RECEIVING {
        for count in [1, 2, 9] {
            let fault = format!("{point}:{count}");
            scenario(&fault.clone(), move || {
                let (here, there) = pipe().unwrap();
                let child = start(&fault, Process::new(receive_all, (there,)));
                // More than it takes before it dies, so that some is left to be freed.
                let sent = (0..60).try_for_each(|number| here.send(item(number)));
                if let Err(error) = &sent {
                    assert!(error.is_closed(), "{error}");
                }
                if point == "pipe.closing" || sent.is_err() {
                    drop(here);
                    assert!(died(&child) || point == "pipe.closing");
                    return;
                }
                let is_dead = {
                    // One that lives waits for more, or for the end.
                    eventually(|| here.is_closed() || format!("{here:?}").contains("sent: 0"));
                    let is_gone = here.is_closed();
                    drop(here);
                    let is_dead = died(&child);
                    assert!(is_dead || !is_gone);
                    is_dead
                };
                assert!(is_dead || count > 1, "{fault} was not reached");
            });
        }
    }
}

#[test]
fn burial_that_is_broken_off_still_tells_of_the_end() {
    let _alone = alone();
    let _watchdog = watchdog(200);
    for fault in [
        "pipe.closing",
        "pipe.closing:2",
        "table.emptied",
        "reap.dead",
        "reap.woken",
        "reap.counted",
        "reap.let_go",
        "reap.freed",
    ] {
        scenario(fault, move || {
            let (here, there) = pipe::<u32, u32>().unwrap();
            let child = start(fault, Process::new(bury_a_holder, (there,)));
            let things: [&dyn Waitable; 1] = [&here];
            assert_eq!(wait(&things, None).unwrap(), [0]);
            assert!(matches!(here.recv(), Err(RecvError::Closed)));
            assert!(here.send(1).unwrap_err().is_closed());
            assert!(died(&child), "{fault} was not reached");
        });
    }
}
