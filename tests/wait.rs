//! Waiting for several things: whatever becomes ready ends it, whoever makes it ready, and nothing is
//! missed.

mod support;

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use mp::{Connection, Descriptor, Event, Process, Queue, Waitable, pipe, wait};
use support::{alone, eventually, watchdog};

const NOW: Option<Duration> = Some(Duration::ZERO);
const A_MOMENT: Duration = Duration::from_millis(30);

#[mp::task]
fn nothing() {}

/// Does nothing until it is killed, and says when it does.
#[mp::task]
fn hold(_ends: Vec<Connection<u32, u32>>, ready: Queue<()>) {
    ready.put(()).unwrap();
    loop {
        thread::park();
    }
}

#[mp::task]
fn send(to: Connection<u32, u32>, value: u32) {
    to.send(value).unwrap();
}

#[mp::task]
fn put(to: Queue<u32>, value: u32) {
    to.put(value).unwrap();
}

#[mp::task]
fn set(event: Event) {
    event.set();
}

/// Waits for both, and says what was ready.
#[mp::task]
fn wait_for(queue: Queue<u32>, end: Connection<u32, u32>, ready: Queue<()>) -> Vec<usize> {
    assert_eq!(wait(&[&queue, &end], NOW).unwrap(), []);
    ready.put(()).unwrap();
    wait(&[&queue, &end], None).unwrap()
}

/// Answers from whichever of the two it gets something, until both are gone.
#[mp::task]
fn answer(queue: Queue<u32>, end: Connection<u32, u32>) {
    while !(queue.is_closed() && queue.is_empty()) {
        for index in wait(&[&queue, &end], None).unwrap() {
            let value = match index {
                0 => queue.try_get().ok(),
                _ => end.try_recv().ok(),
            };
            if let Some(value) = value {
                end.send(value).unwrap();
            }
        }
    }
}

#[test]
fn what_is_ready_is_returned_in_order() {
    let queues: Vec<Queue<u32>> = (0..4).map(|_| Queue::new().unwrap()).collect();
    let (here, there) = pipe::<u32, u32>().unwrap();
    let mut things: Vec<&dyn Waitable> = queues.iter().map(|queue| queue as _).collect();
    things.push(&here);
    assert_eq!(wait(&things, NOW).unwrap(), []);
    queues[3].put(1).unwrap();
    queues[1].close();
    assert_eq!(wait(&things, NOW).unwrap(), [1, 3]);
    // Nothing is taken by it.
    assert_eq!(wait(&things, None).unwrap(), [1, 3]);
    drop(there);
    assert_eq!(wait(&things, Some(Duration::MAX)).unwrap(), [1, 3, 4]);
    queues[3].get().unwrap();
    assert_eq!(wait(&things, None).unwrap(), [1, 4]);
}

#[test]
fn nothing_ready_in_time_is_nothing() {
    let queue = Queue::<u32>::new().unwrap();
    let (here, _there) = pipe::<u32, u32>().unwrap();
    assert_eq!(wait(&[&queue, &here], NOW).unwrap(), []);
    assert_eq!(wait(&[&queue, &here], Some(A_MOMENT)).unwrap(), []);
    assert_eq!(wait(&[], None).unwrap(), []);
}

#[test]
fn each_kind_ends_a_wait_for_all_kinds() {
    let _watchdog = watchdog(120);
    let ready = Queue::new().unwrap();
    let queue = Queue::<u32>::new().unwrap();
    let (here, there) = pipe::<u32, u32>().unwrap();
    let (lonely, ends) = pipe::<u32, u32>().unwrap();
    let holder = Process::new(hold, (vec![ends], ready.clone()))
        .start()
        .unwrap();
    ready.get().unwrap();
    let all: [&dyn Waitable; 4] = [&queue, &here, &lonely, &holder];
    assert_eq!(wait(&all, NOW).unwrap(), []);

    let child = Process::new(put, (queue.clone(), 5)).start().unwrap();
    assert_eq!(wait(&all, None).unwrap(), [0]);
    assert_eq!(queue.try_get().unwrap(), 5);
    child.join().unwrap();

    let child = Process::new(send, (there.clone(), 6)).start().unwrap();
    assert_eq!(wait(&all, None).unwrap(), [1]);
    assert_eq!(here.try_recv().unwrap(), 6);
    child.join().unwrap();

    holder.kill();
    // Its end is one step, the end of what it held another.
    let found = wait(&all, None).unwrap();
    assert!(found == [3] || found == [2] || found == [2, 3], "{found:?}");
    assert!(holder.join().is_err());
    assert_eq!(wait(&all, None).unwrap(), [2, 3]);

    thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(&[&queue, &here], None));
        queue.close();
        assert_eq!(waiter.join().unwrap().unwrap(), [0]);
    });
}

#[test]
fn event_that_is_set_ends_a_wait() {
    let _watchdog = watchdog(60);
    let event = Event::new().unwrap();
    let queue = Queue::<u32>::new().unwrap();
    let descriptor = event.descriptor().unwrap();
    assert_eq!(wait(&[&queue, &event], NOW).unwrap(), []);
    assert!(!is_readable(&descriptor));
    let child = Process::new(set, (event.clone(),)).start().unwrap();
    assert_eq!(wait(&[&queue, &event], None).unwrap(), [1]);
    becomes_readable(&descriptor);
    event.clear();
    descriptor.clear();
    assert!(!is_readable(&descriptor));
    assert_eq!(wait(&[&queue, &event], NOW).unwrap(), []);
    child.join().unwrap();
}

#[test]
fn many_children_are_waited_for() {
    let _watchdog = watchdog(120);
    let mut children: Vec<_> = (0..6)
        .map(|_| Process::new(nothing, ()).start().unwrap())
        .collect();
    while !children.is_empty() {
        let things: Vec<&dyn Waitable> = children.iter().map(|child| child as _).collect();
        let ended = wait(&things, None).unwrap();
        assert!(!ended.is_empty());
        for index in ended.into_iter().rev() {
            assert!(!children[index].is_alive());
            children.remove(index).join().unwrap();
        }
    }
}

#[test]
fn several_processes_wait_for_the_same_things() {
    let _watchdog = watchdog(120);
    let (ready, queue) = (Queue::new().unwrap(), Queue::<u32>::new().unwrap());
    let (here, there) = pipe::<u32, u32>().unwrap();
    let start = || {
        let arguments = (queue.clone(), there.clone(), ready.clone());
        let child = Process::new(wait_for, arguments).start().unwrap();
        ready.get().unwrap();
        child
    };
    let children = [start(), start(), start()];
    // One that dies in its wait is in nobody's way.
    let dead = start();
    dead.kill();
    assert!(dead.join().unwrap_err().is_crash());
    thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| wait(&[&queue, &there], None)))
            .collect();
        here.send(1).unwrap();
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap(), [1]);
        }
    });
    for child in children {
        assert_eq!(child.join().unwrap(), [1]);
    }
}

#[test]
fn nothing_is_missed_in_many_rounds() {
    let _watchdog = watchdog(120);
    let queue = Queue::<u32>::new().unwrap();
    let (here, there) = pipe::<u32, u32>().unwrap();
    let child = Process::new(answer, (queue.clone(), there.clone()))
        .start()
        .unwrap();
    drop(there);
    for round in 0..3000 {
        if round % 2 == 0 {
            queue.put(round).unwrap();
        } else {
            here.send(round).unwrap();
        }
        // Who waits is in the way of nobody who receives, in the same process.
        assert_eq!(wait(&[&here, &child], None).unwrap(), [0]);
        assert_eq!(here.try_recv().unwrap(), round);
    }
    queue.close();
    child.join().unwrap();
}

#[test]
fn waits_and_getters_do_not_take_each_others_wake_ups() {
    let _watchdog = watchdog(120);
    let queue = Queue::<u32>::new().unwrap();
    thread::scope(|scope| {
        let getters: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| queue.iter().count()))
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !queue.is_closed() {
                    wait(&[&queue], None).unwrap();
                    thread::yield_now();
                }
            });
        }
        for value in 0..500 {
            queue.put(value).unwrap();
            eventually(|| queue.is_empty());
        }
        queue.close();
        let got = getters.into_iter().map(|getter| getter.join().unwrap());
        assert_eq!(got.sum::<usize>(), 500);
    });
}

#[test]
fn a_wait_that_ends_leaves_the_others() {
    // In a process of its own, here and below: a process has one doorbell, and other tests ring it.
    alone("a_wait_that_ends_leaves_the_others", || {
        let _watchdog = watchdog(60);
        let queue = Queue::<u32>::new().unwrap();
        let other = Queue::<u32>::new().unwrap();
        thread::scope(|scope| {
            let long = scope.spawn(|| wait(&[&queue], None));
            for _ in 0..20 {
                assert_eq!(
                    wait(&[&queue, &other], Some(Duration::from_millis(2))).unwrap(),
                    []
                );
            }
            queue.put(1).unwrap();
            assert_eq!(long.join().unwrap().unwrap(), [0]);
        });
    });
}

#[mp::task]
fn sleep_until(event: Event) {
    event.wait();
}

/// Nothing but its end wakes who waits: it holds nothing else that is waited for.
#[test]
fn the_end_of_a_child_alone_ends_a_wait() {
    alone("the_end_of_a_child_alone_ends_a_wait", || {
        let _watchdog = watchdog(60);
        let event = Event::new().unwrap();
        let child = Process::new(sleep_until, (event,)).start().unwrap();
        thread::scope(|scope| {
            let (say, said) = std::sync::mpsc::channel();
            let waiter = scope.spawn({
                let child = &child;
                move || {
                    // SAFETY: asks for a number.
                    say.send(unsafe { libc::gettid() as u32 }).unwrap();
                    wait(&[child], None).unwrap()
                }
            });
            let thread = said.recv().unwrap();
            eventually(|| {
                support::status_line(thread, "State").is_some_and(|state| state.starts_with('S'))
            });
            child.kill();
            assert_eq!(waiter.join().unwrap(), [0]);
        });
    });
}

#[test]
fn thousands_of_things_are_waited_for() {
    let _watchdog = watchdog(240);
    let queues: Vec<Queue<usize>> = (0..3000).map(|_| Queue::new().unwrap()).collect();
    let things: Vec<&dyn Waitable> = queues.iter().map(|queue| queue as _).collect();
    let chosen: Vec<usize> = (0..20).map(|i| (i * 7919) % queues.len()).collect();
    thread::scope(|scope| {
        let (say, said) = std::sync::mpsc::channel();
        let waiter = scope.spawn({
            let (things, queues, chosen) = (&things, &queues, &chosen);
            move || {
                for &index in chosen {
                    assert_eq!(wait(things, None).unwrap(), [index]);
                    queues[index].get().unwrap();
                    say.send(()).unwrap();
                }
            }
        });
        for &index in &chosen {
            queues[index].put(index).unwrap();
            said.recv().unwrap();
        }
        waiter.join().unwrap();
    });
}

#[test]
fn a_wait_uses_no_cpu() {
    fn used() -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is valid to write.
        assert_eq!(
            unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) },
            0
        );
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
    let ready = Queue::new().unwrap();
    let queue = Queue::<u32>::new().unwrap();
    let (here, _there) = pipe::<u32, u32>().unwrap();
    let child = Process::new(hold, (vec![], ready.clone())).start().unwrap();
    ready.get().unwrap();
    let before = used();
    let timeout = Some(Duration::from_secs(1));
    assert_eq!(wait(&[&queue, &here, &child], timeout).unwrap(), []);
    // A loop would have used all of it, or, where others want the processor too, a share.
    assert!(used() - before < Duration::from_millis(100));
    child.kill();
    let _ = child.join();
}

// Descriptors.

fn is_readable(descriptor: &Descriptor) -> bool {
    support::wait_readable(&descriptor.as_fd(), Some(Duration::ZERO))
}

#[track_caller]
fn becomes_readable(descriptor: &Descriptor) {
    assert!(support::wait_readable(
        descriptor,
        Some(Duration::from_secs(60))
    ));
}

#[test]
fn descriptor_is_readable_when_there_is_something() {
    alone("descriptor_is_readable_when_there_is_something", || {
        let _watchdog = watchdog(120);
        let queue = Queue::<u32>::new().unwrap();
        let descriptor = queue.descriptor().unwrap();
        assert!(!is_readable(&descriptor));
        for round in 0..50 {
            let child = (round % 10 == 0)
                .then(|| Process::new(put, (queue.clone(), round)).start().unwrap());
            if child.is_none() {
                queue.put(round).unwrap();
            }
            becomes_readable(&descriptor);
            // It stays so, whoever takes what is there.
            assert!(is_readable(&descriptor));
            assert_eq!(queue.try_get().unwrap(), round);
            descriptor.clear();
            assert!(!is_readable(&descriptor));
            if let Some(child) = child {
                child.join().unwrap();
            }
        }
        queue.put(1).unwrap();
        becomes_readable(&descriptor);
        // Something is left: it is so again.
        descriptor.clear();
        becomes_readable(&descriptor);
        queue.get().unwrap();
        descriptor.clear();
        queue.close();
        becomes_readable(&descriptor);
    });
}

#[test]
fn descriptor_tells_of_a_killed_peer() {
    let _watchdog = watchdog(120);
    let ready = Queue::new().unwrap();
    let (here, there) = pipe::<u32, u32>().unwrap();
    let (same, second) = (here.descriptor().unwrap(), here.descriptor().unwrap());
    let child = Process::new(hold, (vec![there], ready.clone()))
        .start()
        .unwrap();
    ready.get().unwrap();
    assert!(!is_readable(&same) && !is_readable(&second));
    drop(second);
    child.kill();
    becomes_readable(&same);
    assert!(here.recv().is_err());
    assert!(child.join().is_err());
}

#[test]
fn ready_before_it_has_a_descriptor() {
    alone("ready_before_it_has_a_descriptor", || {
        let _watchdog = watchdog(60);
        let queue = Queue::<u32>::new().unwrap();
        // The thread that sees to descriptors looks at all of them when it begins.
        let first = queue.descriptor().unwrap();
        queue.put(1).unwrap();
        becomes_readable(&first);
        becomes_readable(&queue.descriptor().unwrap());
    });
}
