//! Queues: what is put is got, once, in order and whole, whoever puts, gets, waits or is killed.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error as _;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mp::{Child, GetError, GetTimeoutError, Lock, Process, Queue, TryGetError, current_process};
use serde::de::value::{Error as ValueError, SeqDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use support::{Random, alone, alone_with, eventually, send_signal, status_line, watchdog};

/// So much more is done in a release build.
const MORE: u64 = if cfg!(debug_assertions) { 1 } else { 10 };

// What is put.

/// A value whose bytes follow from its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    from: u32,
    number: u64,
    bytes: Vec<u8>,
}

/// Mostly small; some too large for a queue's segment, and some that lie in a large block.
fn item(from: u32, number: u64) -> Item {
    let len = match number % 32 {
        7 => 9000,
        15 => 8 * 1024,
        23 => 70_000,
        rest => rest as usize * 11,
    };
    let byte = (number * 31 + u64::from(from)) as u8;
    Item {
        from,
        number,
        bytes: vec![byte; len],
    }
}

impl Item {
    #[track_caller]
    fn assert_whole(&self) {
        assert!(
            *self == item(self.from, self.number),
            "{}/{}: {} bytes are not what was put",
            self.from,
            self.number,
            self.bytes.len()
        );
    }
}

/// A text that is refused by what it says.
#[derive(Clone, Debug, PartialEq)]
struct Fussy(String);

fn fussy(text: &str) -> Fussy {
    Fussy(text.to_owned())
}

impl Serialize for Fussy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_str() {
            "no encoding" => Err(serde::ser::Error::custom("the text forbids it")),
            "panic in encoding" => panic!("{}", self.0),
            text => text.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Fussy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "panic in decoding" => panic!("{text}"),
            text if text.starts_with("no decoding") => {
                Err(serde::de::Error::custom("the text says no"))
            }
            _ => Ok(Self(text)),
        }
    }
}

// Who waits.

/// Whether a thread of any process sleeps.
fn is_asleep(thread: u32) -> bool {
    status_line(thread, "State").is_some_and(|state| state.starts_with('S'))
}

fn is_stopped(process: u32) -> bool {
    status_line(process, "State").is_some_and(|state| state.starts_with('T'))
}

fn this_thread() -> u32 {
    // SAFETY: asks for a number.
    unsafe { libc::gettid() as u32 }
}

/// Says that it is about to wait, and which thread it is.
#[mp::task]
fn get_one(queue: Queue<u32>, ready: Queue<u32>) -> Option<u32> {
    ready.put(this_thread()).unwrap();
    queue.get().ok()
}

#[mp::task]
fn put_one(queue: Queue<u32>, ready: Queue<u32>, value: u32) -> Result<(), (u32, bool)> {
    ready.put(this_thread()).unwrap();
    let put = queue.put(value);
    put.map_err(|error| {
        let is_closed = error.is_closed();
        (error.into_inner(), is_closed)
    })
}

/// Waits until somebody who announced himself in `ready` sleeps.
#[track_caller]
fn wait_for_sleeper(ready: &Queue<u32>) {
    let thread = ready.get().unwrap();
    eventually(|| is_asleep(thread));
}

fn start<R>(process: Process<R>) -> Child<R> {
    process.start().unwrap()
}

/// Kills a child, which ends by that and by nothing else.
#[track_caller]
fn kill<R: fmt::Debug + mp::Returned>(child: &Child<R>) {
    child.kill();
    let error = child.join().unwrap_err();
    // The second: if it was killed before it shook hands.
    assert!(
        error.signal() == Some(libc::SIGKILL) || error.is_not_started(),
        "{error}"
    );
    let status = child.exit_status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

/// Values that were put and neither reported as done nor lost.
fn unfinished<T>(queue: &Queue<T>) -> u64 {
    match queue.join_timeout(Duration::ZERO) {
        Ok(()) => 0,
        Err(error) => error.unfinished(),
    }
}

// One by one.

#[test]
fn values_come_out_in_the_order_they_were_put() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    assert!(queue.is_empty() && !queue.is_full() && queue.capacity().is_none());
    for number in 0..200 {
        queue.put(item(1, number)).unwrap();
    }
    assert_eq!(queue.len(), 200);
    for number in 0..200 {
        assert_eq!(queue.get().unwrap(), item(1, number));
        assert_eq!(queue.len() as u64, 199 - number);
    }
    assert!(matches!(queue.try_get(), Err(TryGetError::Empty)));
    assert_eq!(queue.lost(), 0);
}

#[test]
fn put_ref_leaves_the_value_with_the_caller() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    let value = item(0, 7);
    queue.put_ref(&value).unwrap();
    queue.put_ref(&value).unwrap();
    assert_eq!(queue.get().unwrap(), value);
    assert_eq!(queue.get().unwrap(), value);
}

#[test]
fn get_timeout_waits_at_least_that_long() {
    let _watchdog = watchdog(60);
    let queue = Queue::<u32>::new().unwrap();
    for wait in [0, 30, 150].map(Duration::from_millis) {
        let start = Instant::now();
        assert!(matches!(
            queue.get_timeout(wait),
            Err(GetTimeoutError::Timeout)
        ));
        assert!(start.elapsed() >= wait);
    }
}

#[test]
fn timeout_too_large_to_add_is_no_timeout() {
    let _watchdog = watchdog(60);
    let (queue, ready) = (Queue::bounded(1).unwrap(), Queue::new().unwrap());
    thread::scope(|scope| {
        let getter = scope.spawn(|| {
            ready.put(this_thread()).unwrap();
            queue.get_timeout(Duration::MAX).unwrap()
        });
        wait_for_sleeper(&ready);
        queue.put(1_u32).unwrap();
        assert_eq!(getter.join().unwrap(), 1);
        queue.put(2).unwrap();
        let putter = scope.spawn(|| {
            ready.put(this_thread()).unwrap();
            queue.put_timeout(3, Duration::MAX).unwrap();
        });
        wait_for_sleeper(&ready);
        assert_eq!(queue.get().unwrap(), 2);
        putter.join().unwrap();
        assert_eq!(queue.get().unwrap(), 3);
    });
}

#[test]
fn getter_that_sleeps_is_woken_by_a_put_in_another_process() {
    let _watchdog = watchdog(60);
    let (queue, ready) = (Queue::new().unwrap(), Queue::new().unwrap());
    let getters: Vec<_> = (0..3)
        .map(|_| start(Process::new(get_one, (queue.clone(), ready.clone()))))
        .collect();
    for _ in &getters {
        wait_for_sleeper(&ready);
    }
    for value in [1, 2, 3] {
        queue.put(value).unwrap();
    }
    let got: BTreeSet<_> = getters
        .iter()
        .map(|getter| getter.join().unwrap())
        .collect();
    assert_eq!(got, BTreeSet::from([Some(1), Some(2), Some(3)]));
}

#[mp::task]
fn put_and_exit(queue: Queue<Item>) {
    for number in 0..100 {
        queue.put(item(5, number)).unwrap();
    }
    std::process::exit(0);
}

#[test]
fn values_outlive_who_put_them() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    let child = start(Process::new(put_and_exit, (queue.clone(),)));
    child.join().unwrap_err();
    assert_eq!(queue.len(), 100);
    for number in 0..100 {
        assert_eq!(queue.get().unwrap(), item(5, number));
    }
}

// Very many, very small, very large.

#[test]
fn very_many_small_values_need_no_reader() {
    let _watchdog = watchdog(120);
    let count: u64 = if cfg!(debug_assertions) {
        200_000
    } else {
        10_000_000
    };
    let queue = Queue::new().unwrap();
    for value in 0..count / 2 {
        queue.put(value).unwrap();
    }
    assert_eq!(
        queue.put_many(count / 2..count).unwrap() as u64,
        count - count / 2
    );
    assert_eq!(queue.len() as u64, count);
    let mut next = 0;
    while next < count / 2 {
        assert_eq!(queue.get().unwrap(), next);
        next += 1;
    }
    while next < count {
        for value in queue.get_many(1000).unwrap() {
            assert_eq!(value, next);
            next += 1;
        }
    }
    assert!(queue.is_empty());
}

#[mp::task]
fn pass_on(from: Queue<Vec<u8>>, to: Queue<Vec<u8>>) {
    for value in &from {
        to.put(value).unwrap();
    }
}

#[test]
fn values_of_any_size_pass_through_another_process() {
    let _watchdog = watchdog(120);
    let (there, back) = (Queue::new().unwrap(), Queue::new().unwrap());
    let child = start(Process::new(pass_on, (there.clone(), back.clone())));
    let near = |len: usize| (len - 24..len + 24).step_by(3);
    let sizes = (0..20)
        .chain(near(4096))
        .chain(near(8 * 1024))
        .chain(near(64 * 1024))
        .chain([1 << 20, (16 << 20) + 1, 0]);
    for (index, len) in sizes.enumerate() {
        let mut value = vec![index as u8; len];
        // Each end is told apart from the middle.
        if let [first, .., last] = value.as_mut_slice() {
            (*first, *last) = (!*first, !*last);
        }
        there.put_ref(&value).unwrap();
        assert!(back.get().unwrap() == value, "{len} bytes");
    }
    there.close();
    child.join().unwrap();
}

#[test]
fn values_without_bytes_are_counted() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    for _ in 0..1000 {
        queue.put(()).unwrap();
    }
    assert_eq!(queue.len(), 1000);
    queue.close();
    assert_eq!(queue.iter().count(), 1000);
}

#[mp::task]
fn sum_of(queue: Queue<Vec<u8>>) -> (usize, u64) {
    let bytes = queue.get().unwrap();
    let sum = bytes.iter().map(|&byte| u64::from(byte)).sum();
    (bytes.len(), sum)
}

#[test]
fn value_of_a_gigabyte_arrives() {
    let _watchdog = watchdog(120);
    let len = if cfg!(debug_assertions) {
        32 << 20
    } else {
        1 << 30
    };
    let mut bytes = vec![0; len];
    for index in (0..len).step_by(4093) {
        bytes[index] = (index % 251) as u8;
    }
    let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    let queue = Queue::new().unwrap();
    queue.put(bytes).unwrap();
    let child = start(Process::new(sum_of, (queue.clone(),)));
    assert_eq!(child.join().unwrap(), (len, sum));
    assert!(queue.is_empty());
}

// Bounded.

#[test]
fn put_waits_for_room_in_a_bounded_queue() {
    let _watchdog = watchdog(60);
    let (queue, ready) = (Queue::bounded(2).unwrap(), Queue::new().unwrap());
    assert_eq!(queue.capacity(), Some(2));
    queue.put(1).unwrap();
    assert!(!queue.is_full());
    queue.put(2).unwrap();
    assert!(queue.is_full());
    let child = start(Process::new(put_one, (queue.clone(), ready.clone(), 3)));
    wait_for_sleeper(&ready);
    assert_eq!(queue.len(), 2, "there was no room");
    assert!(child.is_alive());
    assert_eq!(queue.get().unwrap(), 1);
    assert_eq!(child.join().unwrap(), Ok(()));
    assert!(queue.is_full());
    assert_eq!(queue.get().unwrap(), 2);
    assert_eq!(queue.get().unwrap(), 3);
}

#[test]
fn full_queue_gives_the_value_back() {
    let _watchdog = watchdog(60);
    let queue = Queue::bounded(1).unwrap();
    queue.put("in".to_owned()).unwrap();
    let error = queue.try_put("out".to_owned()).unwrap_err();
    assert!(error.is_full() && !error.is_closed() && !error.is_out_of_memory());
    assert_eq!(error.to_string(), "the queue is full");
    assert_eq!(error.into_inner(), "out");

    let (wait, start) = (Duration::from_millis(120), Instant::now());
    let error = queue.put_timeout("out".to_owned(), wait).unwrap_err();
    assert!(start.elapsed() >= wait);
    assert!(error.is_timeout() && !error.is_closed());
    assert_eq!(error.into_inner(), "out");

    assert_eq!(queue.len(), 1);
    assert_eq!(queue.get().unwrap(), "in");
    queue.try_put("again".to_owned()).unwrap();
    assert_eq!(queue.get().unwrap(), "again");
    queue.put_timeout("timed".to_owned(), wait).unwrap();
    assert_eq!(queue.get().unwrap(), "timed");
}

#[test]
fn each_getter_makes_room_for_one_of_those_who_wait() {
    let _watchdog = watchdog(60);
    let (queue, ready) = (Queue::bounded(1).unwrap(), Queue::new().unwrap());
    queue.put(100).unwrap();
    let putters: Vec<_> = (0..4)
        .map(|value| {
            let arguments = (queue.clone(), ready.clone(), value);
            start(Process::new(put_one, arguments))
        })
        .collect();
    for _ in &putters {
        wait_for_sleeper(&ready);
    }
    let mut got: Vec<_> = (0..5).map(|_| queue.get().unwrap()).collect();
    for putter in putters {
        assert_eq!(putter.join().unwrap(), Ok(()));
    }
    assert_eq!(got.remove(0), 100);
    got.sort_unstable();
    assert_eq!(got, [0, 1, 2, 3]);
    assert!(queue.is_empty());
}

#[test]
fn capacity_must_be_possible() {
    for capacity in [0, 1 << 29] {
        let panic = catch_unwind(|| Queue::<u8>::bounded(capacity)).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("between 1 and 536,870,911"), "{text}");
    }
    assert_eq!(
        Queue::<u8>::bounded((1 << 29) - 1).unwrap().capacity(),
        Some((1 << 29) - 1)
    );
}

// Many producers, many consumers.

/// Puts `count` items from each of its threads.
#[mp::task]
fn produce(queue: Queue<Item>, from: u32, threads: u32, count: u64) {
    thread::scope(|scope| {
        for from in from..from + threads {
            let queue = &queue;
            scope.spawn(move || {
                for number in 0..count {
                    queue.put(item(from, number)).unwrap();
                }
            });
        }
    });
}

/// What each of its threads got until the queue was closed.
#[mp::task]
fn consume(queue: Queue<Item>, threads: u32) -> Vec<Vec<(u32, u64)>> {
    let drain = || {
        queue
            .iter()
            .map(|item| {
                item.assert_whole();
                (item.from, item.number)
            })
            .collect()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(drain)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// The values of each producer rise, as one getter saw them.
#[track_caller]
fn assert_in_order(got: &[(u32, u64)]) {
    let mut last = HashMap::new();
    for &(from, number) in got {
        let before = last.insert(from, number);
        assert!(before < Some(number), "{from}: {before:?}, then {number}");
    }
}

fn everything_to_exactly_one(queue: Queue<Item>) {
    let count = 250 * MORE;
    let producers: Vec<_> = [0, 10, 20]
        .map(|from| start(Process::new(produce, (queue.clone(), from, 2, count))))
        .into();
    let consumers: Vec<_> = (0..3)
        .map(|_| start(Process::new(consume, (queue.clone(), 2))))
        .collect();
    let (here, put_here) = thread::scope(|scope| {
        let consumer = scope.spawn(|| consume(queue.clone(), 2));
        let producer = scope.spawn(|| produce(queue.clone(), 30, 2, count));
        for producer in producers {
            producer.join().unwrap();
        }
        let put_here = producer.join();
        queue.close();
        (consumer.join().unwrap(), put_here)
    });
    put_here.unwrap();
    let there = consumers
        .iter()
        .flat_map(|consumer| consumer.join().unwrap());
    let mut all = Vec::new();
    for got in there.chain(here) {
        assert_in_order(&got);
        all.extend(got);
    }
    all.sort_unstable();
    let wanted: Vec<_> = [0, 1, 10, 11, 20, 21, 30, 31]
        .into_iter()
        .flat_map(|from| (0..count).map(move |number| (from, number)))
        .collect();
    assert_eq!(all.len(), wanted.len());
    assert!(all == wanted, "each value once");
    assert_eq!((queue.len(), queue.lost()), (0, 0));
}

#[test]
fn every_value_goes_to_exactly_one_getter() {
    let _watchdog = watchdog(120);
    everything_to_exactly_one(Queue::new().unwrap());
}

#[test]
fn every_value_goes_to_exactly_one_getter_of_a_bounded_queue() {
    let _watchdog = watchdog(120);
    everything_to_exactly_one(Queue::bounded(3).unwrap());
}

#[mp::task]
fn produce_groups(queue: Queue<Item>, from: u32, groups: u64) {
    for group in 0..groups {
        let values = (group * 40..(group + 1) * 40).map(|number| item(from, number));
        assert_eq!(queue.put_many(values).unwrap(), 40);
    }
}

#[mp::task]
fn consume_groups(queue: Queue<Item>) -> Vec<(u32, u64)> {
    let mut got = Vec::new();
    loop {
        match queue.get_many(7) {
            Ok(values) => {
                assert!((1..=7).contains(&values.len()));
                values.iter().for_each(Item::assert_whole);
                got.extend(values.iter().map(|value| (value.from, value.number)));
            }
            Err(error) => {
                assert!(matches!(error.reason(), GetError::Closed), "{error}");
                return got;
            }
        }
    }
}

#[test]
fn groups_are_put_and_got_by_many() {
    let _watchdog = watchdog(120);
    // A bound smaller than a group: what fits goes in, and the rest waits.
    for queue in [Queue::new().unwrap(), Queue::bounded(11).unwrap()] {
        let groups = 5 * MORE;
        let producers: Vec<_> = (0..3)
            .map(|from| start(Process::new(produce_groups, (queue.clone(), from, groups))))
            .collect();
        let consumers: Vec<_> = (0..2)
            .map(|_| start(Process::new(consume_groups, (queue.clone(),))))
            .collect();
        for producer in producers {
            producer.join().unwrap();
        }
        queue.close();
        let mut all = Vec::new();
        for consumer in consumers {
            let got = consumer.join().unwrap();
            assert_in_order(&got);
            all.extend(got);
        }
        all.sort_unstable();
        assert!(
            all.into_iter()
                .eq((0..3).flat_map(|from| (0..groups * 40).map(move |number| (from, number))))
        );
    }
}

#[test]
fn get_many_takes_what_is_there() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    assert_eq!(queue.put_many([]).unwrap(), 0);
    assert_eq!(queue.put_many(0..1000).unwrap(), 1000);
    assert_eq!(queue.get_many(1).unwrap(), [0]);
    assert_eq!(queue.get_many(2).unwrap(), [1, 2]);
    let mut next = 3;
    while next < 1000 {
        let values = queue.get_many(usize::MAX).unwrap();
        assert!(!values.is_empty());
        for value in values {
            assert_eq!(value, next);
            next += 1;
        }
    }
    assert!(queue.is_empty());
    let zero = catch_unwind(AssertUnwindSafe(|| queue.get_many(0))).unwrap_err();
    assert!(
        zero.downcast_ref::<&str>()
            .unwrap()
            .contains("at least one")
    );
}

// How many.

/// Adds until it is told to stop.
#[mp::task]
fn fill(queue: Queue<u64>, stop: Queue<()>) -> u64 {
    let mut count = 0;
    while !stop.is_closed() {
        if queue.put_timeout(count, Duration::from_millis(1)).is_ok() {
            count += 1;
        }
    }
    count
}

#[mp::task]
fn empty(queue: Queue<u64>, stop: Queue<()>) -> u64 {
    let mut count = 0;
    while !stop.is_closed() {
        count += u64::from(queue.get_timeout(Duration::from_millis(1)).is_ok());
    }
    count
}

#[test]
fn len_is_exact_while_others_put_and_take() {
    let _watchdog = watchdog(120);
    let queue = Queue::bounded(5).unwrap();
    let stop = Queue::new().unwrap();
    let fillers = [(); 2].map(|()| start(Process::new(fill, (queue.clone(), stop.clone()))));
    let emptiers = [(); 2].map(|()| start(Process::new(empty, (queue.clone(), stop.clone()))));
    let mut seen = BTreeSet::new();
    // Until it was seen at work, and a while longer.
    for round in 0.. {
        seen.insert(queue.len());
        if round > 100_000 && seen.len() > 2 {
            break;
        }
    }
    stop.close();
    let put: u64 = fillers.map(|child| child.join().unwrap()).iter().sum();
    let taken: u64 = emptiers.map(|child| child.join().unwrap()).iter().sum();
    assert!(*seen.last().unwrap() <= 5, "{seen:?}");
    assert_eq!(queue.len() as u64, put - taken);
}

#[test]
fn len_only_grows_while_all_put_and_only_shrinks_while_all_take() {
    let _watchdog = watchdog(120);
    let count = 2000 * MORE;
    let queue = Queue::<Item>::new().unwrap();
    let producers =
        [0, 1].map(|from| start(Process::new(produce, (queue.clone(), from, 1, count))));
    let mut last = 0;
    while last < 2 * count as usize {
        let len = queue.len();
        assert!(len >= last, "{last}, then {len}");
        last = len;
    }
    for child in producers {
        child.join().unwrap();
    }
    assert_eq!(queue.len() as u64, 2 * count);
    queue.close();
    let consumers = [(); 2].map(|()| start(Process::new(consume, (queue.clone(), 1))));
    while last > 0 {
        let len = queue.len();
        assert!(len <= last, "{last}, then {len}");
        last = len;
    }
    for child in consumers {
        child.join().unwrap();
    }
}

// Queues in queues.

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tree<T> {
    value: T,
    children: Queue<Tree<T>>,
}

impl<T> Tree<T> {
    fn new(value: T) -> Self {
        let children = Queue::new().unwrap();
        Self { value, children }
    }
}

#[mp::task]
fn sum_tree(tree: Tree<u32>) -> u32 {
    let mut sum = tree.value;
    while let Ok(child) = tree.children.try_get() {
        sum += sum_tree(child);
    }
    sum
}

#[test]
fn trees_of_queues_travel() {
    let _watchdog = watchdog(60);
    let root = Tree::new(1);
    for value in [10, 20] {
        let child = Tree::new(value);
        for value in [100, 200, 300] {
            child.children.put(Tree::new(value)).unwrap();
        }
        // Only the message keeps the grandchildren alive now.
        root.children.put(child).unwrap();
    }
    let child = start(Process::new(sum_tree, (root,)));
    assert_eq!(child.join().unwrap(), 1231);
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Desk {
    name: String,
    inbox: Queue<String>,
    outbox: Option<Queue<String>>,
    others: Vec<Queue<u32>>,
    lock: Lock,
    by_name: BTreeMap<String, Queue<u32>>,
}

#[mp::task]
fn work_at(desk: Desk) -> Desk {
    let _guard = desk.lock.acquire().unwrap();
    let text = desk.inbox.get().unwrap();
    let outbox = desk.outbox.as_ref().unwrap();
    outbox.put(format!("{} read {text}", desk.name)).unwrap();
    for (index, other) in desk.others.iter().enumerate() {
        other.put(index as u32).unwrap();
    }
    desk.by_name["x"].put(7).unwrap();
    desk.clone()
}

#[test]
fn handles_travel_in_structs_both_ways() {
    let _watchdog = watchdog(60);
    let other = Queue::new().unwrap();
    let desk = Desk {
        name: "Ada".into(),
        inbox: Queue::new().unwrap(),
        outbox: Some(Queue::new().unwrap()),
        // One of them twice: it is the same queue.
        others: vec![other.clone(), Queue::new().unwrap(), other.clone()],
        lock: Lock::new().unwrap(),
        by_name: BTreeMap::from([("x".into(), other.clone())]),
    };
    desk.inbox.put("a letter".into()).unwrap();
    let child = start(Process::new(work_at, (desk.clone(),)));
    let back = child.join().unwrap();
    assert_eq!(back.outbox.unwrap().get().unwrap(), "Ada read a letter");
    assert_eq!(other.get_many(9).unwrap(), [0, 2, 7]);
    assert_eq!(back.others[1].get().unwrap(), 1);
    back.inbox.put("to the same".into()).unwrap();
    assert_eq!(desk.inbox.get().unwrap(), "to the same");
    let _guard = back.lock.acquire().unwrap();
    assert!(desk.lock.try_acquire().is_err());
}

#[mp::task]
fn make_queue() -> Queue<Item> {
    let queue = Queue::bounded(10).unwrap();
    for number in 0..10 {
        queue.put(item(0, number)).unwrap();
    }
    queue
}

#[test]
fn queue_outlives_the_process_that_made_it() {
    let _watchdog = watchdog(60);
    let child = start(Process::new(make_queue, ()));
    let queue = child.join().unwrap();
    assert!(!child.is_alive());
    drop(child);
    assert!(queue.is_full());
    for number in 0..10 {
        assert_eq!(queue.get().unwrap(), item(0, number));
    }
    queue.put(item(0, 10)).unwrap();
    assert_eq!(queue.get().unwrap(), item(0, 10));
}

#[mp::task]
fn send_a_letter(post: Queue<Queue<Item>>) {
    let letter = Queue::new().unwrap();
    for number in 0..40 {
        letter.put(item(9, number)).unwrap();
    }
    post.put(letter).unwrap();
}

#[test]
fn message_alone_keeps_a_queue_alive() {
    let _watchdog = watchdog(60);
    let post = Queue::new().unwrap();
    start(Process::new(send_a_letter, (post.clone(),)))
        .join()
        .unwrap();
    // Others come and go meanwhile, and would take the place of a queue that was let go.
    for _ in 0..100 {
        Queue::<u32>::new().unwrap().put(1).unwrap();
    }
    let letter = post.get().unwrap();
    assert_eq!(letter.len(), 40);
    for number in 0..40 {
        assert_eq!(letter.get().unwrap(), item(9, number));
    }
}

/// A queue whose items are queues of the same kind.
#[derive(Debug, Serialize, Deserialize)]
struct Nest(Queue<Nest>);

#[test]
fn queue_can_be_put_into_itself() {
    let _watchdog = watchdog(60);
    let nest = Nest(Queue::new().unwrap());
    nest.0.put(Nest(nest.0.clone())).unwrap();
    let same = nest.0.get().unwrap();
    assert!(nest.0.is_empty());
    same.0.put(Nest(Queue::new().unwrap())).unwrap();
    assert_eq!(nest.0.len(), 1);
}

#[test]
fn queues_in_a_group_arrive() {
    let _watchdog = watchdog(60);
    let post = Queue::new().unwrap();
    let letters = (0..50).map(|value: u32| {
        let letter = Queue::new().unwrap();
        letter.put(value).unwrap();
        letter
    });
    assert_eq!(post.put_many(letters).unwrap(), 50);
    let mut next = 0;
    while next < 50 {
        for letter in post.get_many(20).unwrap() {
            assert_eq!(letter.get().unwrap(), next);
            next += 1;
        }
    }
}

/// A serializer and deserializer that is not mp's.
struct Foreign;

/// Defines methods of [`Foreign`] that all say that they were called.
macro_rules! reached {
    ($($name:ident$(<$t:ident>)?($($argument:ty),*) -> $ok:ident;)*) => {
        $(fn $name$(<$t: Serialize + ?Sized>)?(self $(, _: $argument)*) -> Result<Self::$ok, ValueError> {
            Err(serde::ser::Error::custom("the serializer was reached"))
        })*
    };
}

type Impossible = serde::ser::Impossible<(), ValueError>;

impl Serializer for Foreign {
    type Ok = ();
    type Error = ValueError;
    type SerializeSeq = Impossible;
    type SerializeTuple = Impossible;
    type SerializeTupleStruct = Impossible;
    type SerializeTupleVariant = Impossible;
    type SerializeMap = Impossible;
    type SerializeStruct = Impossible;
    type SerializeStructVariant = Impossible;

    reached! {
        serialize_bool(bool) -> Ok;
        serialize_i8(i8) -> Ok;
        serialize_i16(i16) -> Ok;
        serialize_i32(i32) -> Ok;
        serialize_i64(i64) -> Ok;
        serialize_u8(u8) -> Ok;
        serialize_u16(u16) -> Ok;
        serialize_u32(u32) -> Ok;
        serialize_u64(u64) -> Ok;
        serialize_f32(f32) -> Ok;
        serialize_f64(f64) -> Ok;
        serialize_char(char) -> Ok;
        serialize_str(&str) -> Ok;
        serialize_bytes(&[u8]) -> Ok;
        serialize_none() -> Ok;
        serialize_some<T>(&T) -> Ok;
        serialize_unit() -> Ok;
        serialize_unit_struct(&'static str) -> Ok;
        serialize_unit_variant(&'static str, u32, &'static str) -> Ok;
        serialize_newtype_struct<T>(&'static str, &T) -> Ok;
        serialize_newtype_variant<T>(&'static str, u32, &'static str, &T) -> Ok;
        serialize_seq(Option<usize>) -> SerializeSeq;
        serialize_tuple(usize) -> SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant;
        serialize_map(Option<usize>) -> SerializeMap;
        serialize_struct(&'static str, usize) -> SerializeStruct;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant;
    }
}

impl<'de> Deserializer<'de> for Foreign {
    type Error = ValueError;

    fn deserialize_any<V: serde::de::Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        visitor.visit_seq(SeqDeserializer::new([1_u64, 1, 1].into_iter()))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[test]
fn handle_serialises_in_calls_of_mp_only() {
    let _watchdog = watchdog(60);
    let queue = Queue::<u32>::new().unwrap();
    let error = queue.serialize(Foreign).unwrap_err().to_string();
    assert!(error.contains("only while mp sends it"), "{error}");
    let lock = Lock::new().unwrap();
    let error = lock.serialize(Foreign).unwrap_err().to_string();
    assert!(error.contains("only while mp sends it"), "{error}");
    let error = Queue::<u32>::deserialize(Foreign).unwrap_err().to_string();
    assert!(error.contains("only while mp receives it"), "{error}");
    // It is not the call before it that makes the difference.
    let queues = Queue::new().unwrap();
    queues.put(queue.clone()).unwrap();
    let error = queue.serialize(Foreign).unwrap_err().to_string();
    assert!(error.contains("only while mp sends it"), "{error}");
    queues.get().unwrap().put(1).unwrap();
    assert_eq!(queue.get().unwrap(), 1);
}

// What can't be encoded or decoded.

#[test]
fn value_that_cannot_be_encoded_comes_back() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    queue.put(fussy("before")).unwrap();
    let bad = fussy("no encoding");
    let error = queue.put(bad.clone()).unwrap_err();
    assert!(error.is_not_encoded() && !error.is_closed() && !error.is_out_of_memory());
    assert!(error.to_string().contains("the text forbids it"), "{error}");
    assert!(format!("{error:?}").contains("the text forbids it"));
    assert!(error.source().is_none());
    assert_eq!(error.into_inner(), bad);
    let error = queue.try_put(bad.clone()).unwrap_err();
    assert!(error.is_not_encoded() && !error.is_full());
    assert_eq!(error.into_inner(), bad);
    let error = queue
        .put_timeout(bad.clone(), Duration::from_secs(60))
        .unwrap_err();
    assert!(error.is_not_encoded() && !error.is_timeout());
    assert_eq!(error.into_inner(), bad);
    assert!(queue.put_ref(&bad).unwrap_err().is_not_encoded());
    queue.put(fussy("after")).unwrap();
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.get().unwrap(), fussy("before"));
    assert_eq!(queue.get().unwrap(), fussy("after"));
}

#[test]
fn group_with_a_value_that_cannot_be_encoded_is_put_up_to_it() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    let values = ["a", "b", "no encoding", "c"].map(fussy);
    let error = queue.put_many(values.clone()).unwrap_err();
    assert!(error.is_not_encoded());
    assert_eq!(error.into_inner(), values[2..]);
    assert_eq!(queue.len(), 2);
    // The same further on than one batch reaches.
    let many = (0..1000).map(|number| match number {
        700 => fussy("no encoding"),
        number => Fussy(number.to_string()),
    });
    let error = queue.put_many(many).unwrap_err();
    assert_eq!(error.into_inner()[0], fussy("no encoding"));
    assert_eq!(queue.len(), 702);
    for text in ["a", "b"]
        .map(str::to_owned)
        .into_iter()
        .chain((0..700).map(|n| n.to_string()))
    {
        assert_eq!(queue.get().unwrap().0, text);
    }
}

#[test]
fn value_that_cannot_be_decoded_is_consumed() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    let long = format!("no decoding {}", "x".repeat(20_000));
    for text in ["no decoding", "first", long.as_str(), "second"] {
        queue.put(fussy(text)).unwrap();
    }
    let contains = |bytes: &[u8], text: &str| {
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    let Err(GetError::NotDecoded(error)) = queue.get() else {
        panic!("it can't be decoded")
    };
    assert!(error.to_string().contains("the text says no"), "{error}");
    assert!(contains(error.bytes(), "no decoding"));
    assert_eq!(queue.len(), 3);
    assert_eq!(queue.get().unwrap(), fussy("first"));
    let Err(TryGetError::NotDecoded(error)) = queue.try_get() else {
        panic!("it can't be decoded")
    };
    assert!(contains(error.bytes(), &long));
    assert_eq!(queue.get().unwrap(), fussy("second"));
    queue.put(fussy("no decoding")).unwrap();
    let timed = queue.get_timeout(Duration::from_secs(60));
    assert!(matches!(timed, Err(GetTimeoutError::NotDecoded(_))));
    assert_eq!((queue.len(), queue.lost()), (0, 0));
}

#[test]
fn group_with_a_value_that_cannot_be_decoded_keeps_the_others() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    queue
        .put_many(["a", "no decoding", "b", "c"].map(fussy))
        .unwrap();
    let error = queue.get_many(3).unwrap_err();
    assert!(matches!(error.reason(), GetError::NotDecoded(_)));
    assert_eq!(error.into_values(), ["a", "b"].map(fussy));
    assert_eq!(queue.get_many(3).unwrap(), [fussy("c")]);
}

#[test]
fn iterator_panics_at_a_value_that_cannot_be_decoded() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    queue.put_many(["no decoding", "x"].map(fussy)).unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| queue.iter().next())).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("the text says no"), "{text}");
    assert_eq!(queue.iter().next(), Some(fussy("x")));
}

#[test]
fn panics_of_user_code_leave_the_queue_in_order() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    for _ in 0..3 {
        let put = || queue.put(fussy("panic in encoding"));
        catch_unwind(AssertUnwindSafe(put)).unwrap_err();
        assert!(queue.is_empty());
        queue
            .put_many(["panic in decoding", "x"].map(fussy))
            .unwrap();
        catch_unwind(AssertUnwindSafe(|| queue.get())).unwrap_err();
        assert_eq!(queue.get().unwrap(), fussy("x"));
        assert!(matches!(queue.try_get(), Err(TryGetError::Empty)));
    }
    assert_eq!(queue.lost(), 0, "this process lives");
}

/// Uses queues while it is encoded and while it is decoded.
#[derive(Debug)]
struct Meddler(Queue<u32>);

impl Serialize for Meddler {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.put(1).unwrap();
        self.0.put(2).unwrap();
        assert_eq!(self.0.get().unwrap(), 1);
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Meddler {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let queue = Queue::deserialize(deserializer)?;
        queue.put(3).unwrap();
        assert_eq!(queue.get().unwrap(), 2);
        Ok(Self(queue))
    }
}

#[test]
fn user_code_runs_under_no_lock() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    let inner = Queue::new().unwrap();
    queue.put(Meddler(inner.clone())).unwrap();
    let got = queue.get().unwrap();
    got.0.put(4).unwrap();
    assert_eq!(inner.get_many(9).unwrap(), [3, 4]);
}

// Out of memory.

/// Has the program's shared memory made small.
fn small_memory(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let limit = || {
        let limit = libc::rlimit {
            rlim_cur: 80 << 20,
            rlim_max: 80 << 20,
        };
        // SAFETY: points to a valid structure.
        match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: setrlimit is safe between fork and exec.
    unsafe { command.pre_exec(limit) };
}

#[test]
fn put_tells_when_memory_is_used_up_and_works_again_after_gets() {
    alone_with(
        "put_tells_when_memory_is_used_up_and_works_again_after_gets",
        small_memory,
        || {
            let _watchdog = watchdog(120);
            for len in [400, 5000, 9000, 300_000, 5 << 20] {
                use_up(len);
            }
        },
    );
}

fn use_up(len: usize) {
    let value = |number: u64| {
        let mut bytes = vec![number as u8; len];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    let queue = Queue::new().unwrap();
    let (mut next_put, mut next_got) = (0, 0);
    let mut fill = || {
        loop {
            match queue.put(value(next_put)) {
                Ok(()) => next_put += 1,
                Err(error) => {
                    assert!(error.is_out_of_memory() && !error.is_closed(), "{error}");
                    assert!(error.to_string().contains("used up"), "{error}");
                    assert!(
                        error.into_inner() == value(next_put),
                        "the value comes back"
                    );
                    return next_put;
                }
            }
        }
    };
    let mut get = || {
        assert!(queue.get().unwrap() == value(next_got));
        next_got += 1;
    };
    let first = fill();
    // What is too large for a segment has a block of its own, of 64 KiB at least.
    assert!(first * len as u64 > 2 << 20, "{first} values of {len}");
    let error = queue.try_put(value(0)).unwrap_err();
    assert!(error.is_out_of_memory() && !error.is_full());
    let error = queue
        .put_timeout(value(0), Duration::from_secs(60))
        .unwrap_err();
    assert!(error.is_out_of_memory() && !error.is_timeout());
    assert!(queue.put_ref(&value(0)).unwrap_err().is_out_of_memory());
    let group: Vec<_> = (0..3).map(|_| value(0)).collect();
    let error = queue.put_many(group.clone()).unwrap_err();
    assert!(error.is_out_of_memory() && error.into_inner() == group);
    assert_eq!(queue.len() as u64, first);
    for _ in 0..3 {
        let before = queue.len();
        // What was got gives room, at the latest with a segment's worth.
        for _ in 0..before / 2 {
            get();
        }
        assert!(fill() > first);
        assert!(queue.len() >= before * 9 / 10, "{before}, {}", queue.len());
    }
    while !queue.is_empty() {
        get();
    }
    // All of it can be used once more.
    assert!(fill() - next_got >= first * 9 / 10);
}

#[test]
fn too_many_queues_are_an_error() {
    alone("too_many_queues_are_an_error", || {
        let _watchdog = watchdog(120);
        let mut queues = Vec::new();
        let error = loop {
            match Queue::<u32>::new() {
                Ok(queue) => queues.push(queue),
                Err(error) => break error,
            }
        };
        assert!(error.is_limit() || error.is_out_of_memory(), "{error}");
        assert!(queues.len() > 60_000, "{}: {error}", queues.len());
        queues[7].put(7).unwrap();
        assert_eq!(queues[7].get().unwrap(), 7);
        queues.pop();
        queues.push(Queue::new().unwrap());
        assert!(Queue::<u32>::new().is_err());
        drop(queues);
        Queue::new().unwrap().put(1).unwrap();
    });
}

// Closing.

#[test]
fn closed_queue_is_drained_and_then_closed() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    queue.put_many([1, 2, 3, 4]).unwrap();
    assert!(!queue.is_closed());
    queue.close();
    queue.close();
    assert!(queue.is_closed() && queue.len() == 4);
    let error = queue.put(5).unwrap_err();
    assert!(error.is_closed() && !error.is_not_encoded());
    assert_eq!(
        error.to_string(),
        "the queue is closed: nothing more can be put"
    );
    assert_eq!(error.into_inner(), 5);
    let error = queue.try_put(5).unwrap_err();
    assert!(error.is_closed() && !error.is_full());
    assert_eq!(error.into_inner(), 5);
    let error = queue.put_timeout(5, Duration::from_secs(60)).unwrap_err();
    assert!(error.is_closed() && !error.is_timeout());
    assert_eq!(error.into_inner(), 5);
    assert!(queue.put_ref(&5).unwrap_err().is_closed());
    assert_eq!(queue.put_many([5, 6]).unwrap_err().into_inner(), [5, 6]);

    assert_eq!(queue.get().unwrap(), 1);
    assert_eq!(queue.try_get().unwrap(), 2);
    assert_eq!((&queue).into_iter().collect::<Vec<_>>(), [3, 4]);
    assert!(matches!(queue.get(), Err(GetError::Closed)));
    assert!(matches!(queue.try_get(), Err(TryGetError::Closed)));
    let timed = queue.get_timeout(Duration::from_secs(60));
    assert!(matches!(timed, Err(GetTimeoutError::Closed)));
    let many = queue.get_many(5).unwrap_err();
    assert!(matches!(many.reason(), GetError::Closed));
    assert!(many.into_values().is_empty());
    assert_eq!(queue.iter().next(), None);
}

#[test]
fn close_wakes_everybody_who_waits() {
    let _watchdog = watchdog(60);
    let (empty, ready) = (Queue::new().unwrap(), Queue::new().unwrap());
    let full = Queue::bounded(1).unwrap();
    full.put(0).unwrap();
    let getters = [(); 2].map(|()| start(Process::new(get_one, (empty.clone(), ready.clone()))));
    let putters = [1, 2].map(|value| {
        let arguments = (full.clone(), ready.clone(), value);
        (value, start(Process::new(put_one, arguments)))
    });
    thread::scope(|scope| {
        let getter = scope.spawn(|| get_one(empty.clone(), ready.clone()));
        let putter = scope.spawn(|| put_one(full.clone(), ready.clone(), 3));
        for _ in 0..6 {
            wait_for_sleeper(&ready);
        }
        empty.close();
        full.close();
        assert_eq!(getter.join().unwrap(), None);
        assert_eq!(putter.join().unwrap(), Err((3, true)));
    });
    for getter in getters {
        assert_eq!(getter.join().unwrap(), None);
    }
    for (value, putter) in putters {
        assert_eq!(putter.join().unwrap(), Err((value, true)));
    }
    assert_eq!(full.iter().collect::<Vec<_>>(), [0]);
}

#[test]
fn nothing_is_put_after_close_returned() {
    let _watchdog = watchdog(60);
    for _ in 0..20 {
        let queue = Queue::<u64>::new().unwrap();
        thread::scope(|scope| {
            let puts = scope.spawn(|| {
                let mut count = 0;
                while queue.put(count).is_ok() {
                    count += 1;
                }
                count
            });
            eventually(|| queue.len() > 10);
            queue.close();
            let len = queue.len();
            assert_eq!(puts.join().unwrap(), len as u64);
            assert!(queue.iter().eq(0..len as u64));
        });
    }
}

// Work that is done.

#[mp::task]
fn work(queue: Queue<u32>, results: Queue<u32>) {
    for value in &queue {
        results.put(value * value).unwrap();
        queue.task_done().unwrap();
    }
}

#[test]
fn join_waits_until_all_is_done() {
    let _watchdog = watchdog(60);
    let (queue, results) = (Queue::new().unwrap(), Queue::new().unwrap());
    queue.join().unwrap();
    let workers: Vec<_> = (0..3)
        .map(|_| start(Process::new(work, (queue.clone(), results.clone()))))
        .collect();
    for round in 1..=20 {
        queue.put_many(0..50).unwrap();
        queue.join().unwrap();
        assert_eq!(results.len(), 50 * round, "what is done was done before");
    }
    queue.close();
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn join_timeout_tells_what_is_left() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    queue.put_many([1, 2, 3]).unwrap();
    queue.get().unwrap();
    let wait = Duration::from_millis(130);
    let start = Instant::now();
    let error = queue.join_timeout(wait).unwrap_err();
    assert!(start.elapsed() >= wait);
    assert_eq!(error.unfinished(), 3, "got is not done");
    assert!(error.to_string().contains("3 items"), "{error}");
    queue.task_done().unwrap();
    assert_eq!(unfinished(&queue), 2);
    queue.task_done().unwrap();
    queue.task_done().unwrap();
    queue.join_timeout(Duration::ZERO).unwrap();
    queue.join_timeout(Duration::MAX).unwrap();
    queue.join().unwrap();
}

#[test]
fn task_done_too_often_is_an_error() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    queue.task_done().unwrap_err();
    queue.put(1).unwrap();
    queue.task_done().unwrap();
    let error = queue.task_done().unwrap_err();
    assert!(error.to_string().contains("more often"), "{error}");
    queue.put(2).unwrap();
    assert_eq!(unfinished(&queue), 1, "the refused ones don't count");
    queue.task_done().unwrap();
    queue.join().unwrap();
}

#[test]
fn join_that_sleeps_is_woken_by_the_last_task_done() {
    let _watchdog = watchdog(60);
    let queue = Queue::new().unwrap();
    queue.put_many([1, 2]).unwrap();
    thread::scope(|scope| {
        let joiner = scope.spawn(|| queue.join().unwrap());
        queue.task_done().unwrap();
        assert!(queue.join_timeout(Duration::from_millis(50)).is_err());
        assert!(!joiner.is_finished());
        queue.task_done().unwrap();
        joiner.join().unwrap();
    });
}

// Death.

/// Set in a child that is to stop in the middle of encoding or decoding.
static HALT: OnceLock<Queue<u32>> = OnceLock::new();

/// Does not come through encoding or decoding in a process with [`HALT`].
#[derive(Debug, PartialEq)]
struct Halting(u32);

fn halt() {
    if let Some(halted) = HALT.get() {
        halted.put(std::process::id()).unwrap();
        loop {
            thread::park();
        }
    }
}

impl Serialize for Halting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        halt();
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Halting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        halt();
        u32::deserialize(deserializer).map(Self)
    }
}

#[mp::task]
fn halt_in_get(queue: Queue<Halting>, halted: Queue<u32>, most: usize) {
    HALT.set(halted).unwrap();
    let _ = queue.get_many(most);
}

#[mp::task]
fn halt_in_put(queue: Queue<Halting>, halted: Queue<u32>) {
    HALT.set(halted).unwrap();
    let _ = queue.put(Halting(99));
}

#[test]
fn value_taken_by_a_process_that_dies_in_get_is_lost_and_counted() {
    let _watchdog = watchdog(60);
    let (queue, halted) = (Queue::new().unwrap(), Queue::new().unwrap());
    queue.put_many((0..10).map(Halting)).unwrap();
    for (most, lost) in [(1, 1), (1, 2), (3, 5)] {
        let arguments = (queue.clone(), halted.clone(), most);
        let getter = start(Process::new(halt_in_get, arguments));
        assert_eq!(halted.get().unwrap(), getter.id());
        assert_eq!(queue.len(), 10 - lost, "it is taken");
        kill(&getter);
        assert_eq!(queue.lost(), lost as u64);
    }
    assert_eq!(unfinished(&queue), 5, "what is lost is never done");
    for value in 5..10 {
        assert_eq!(queue.get().unwrap(), Halting(value));
        queue.task_done().unwrap();
    }
    queue.join().unwrap();
    queue.task_done().unwrap_err();
}

#[test]
fn loss_wakes_who_joins() {
    let _watchdog = watchdog(60);
    let (queue, halted) = (Queue::new().unwrap(), Queue::new().unwrap());
    queue.put(Halting(0)).unwrap();
    let getter = start(Process::new(
        halt_in_get,
        (queue.clone(), halted.clone(), 1),
    ));
    thread::scope(|scope| {
        let joiner = scope.spawn(|| queue.join().unwrap());
        halted.get().unwrap();
        getter.kill();
        joiner.join().unwrap();
    });
    assert_eq!(queue.lost(), 1);
}

#[test]
fn value_of_a_process_that_dies_in_put_is_not_there() {
    let _watchdog = watchdog(60);
    let (queue, halted) = (Queue::new().unwrap(), Queue::new().unwrap());
    let putter = start(Process::new(halt_in_put, (queue.clone(), halted.clone())));
    assert_eq!(halted.get().unwrap(), putter.id());
    kill(&putter);
    assert_eq!((queue.len(), queue.lost()), (0, 0));
    queue.put(Halting(1)).unwrap();
    assert_eq!(queue.get().unwrap(), Halting(1));
}

#[test]
fn stopped_getter_is_not_dead() {
    let _watchdog = watchdog(60);
    let (queue, halted) = (Queue::new().unwrap(), Queue::new().unwrap());
    queue.put_many((0..3).map(Halting)).unwrap();
    let getter = start(Process::new(
        halt_in_get,
        (queue.clone(), halted.clone(), 1),
    ));
    halted.get().unwrap();
    send_signal(getter.id(), libc::SIGSTOP);
    eventually(|| is_stopped(getter.id()));
    assert_eq!(queue.get().unwrap(), Halting(1));
    assert_eq!(queue.get().unwrap(), Halting(2));
    // Longer than it takes to look for oneself.
    assert!(queue.get_timeout(Duration::from_millis(250)).is_err());
    assert_eq!(queue.lost(), 0);
    kill(&getter);
    assert_eq!(queue.lost(), 1);
}

#[test]
fn getter_waits_on_when_a_producer_is_killed() {
    let _watchdog = watchdog(60);
    let (queue, ready, never) = (
        Queue::new().unwrap(),
        Queue::new().unwrap(),
        Queue::new().unwrap(),
    );
    let getter = start(Process::new(get_one, (queue.clone(), ready.clone())));
    wait_for_sleeper(&ready);
    // It holds the queue that the getter waits for.
    let producer = start(Process::new(
        put_late,
        (queue.clone(), ready.clone(), never),
    ));
    wait_for_sleeper(&ready);
    kill(&producer);
    assert_eq!(
        getter.join_timeout(Duration::from_millis(250)).unwrap(),
        None
    );
    assert_eq!(queue.len(), 0);
    queue.put(5).unwrap();
    assert_eq!(getter.join().unwrap(), Some(5));
}

/// Puts a value once it is let.
#[mp::task]
fn put_late(queue: Queue<u32>, ready: Queue<u32>, go: Queue<u32>) {
    ready.put(this_thread()).unwrap();
    queue.put(go.get().unwrap()).unwrap();
}

#[test]
fn killed_waiter_takes_no_wake_up_with_it() {
    let _watchdog = watchdog(120);
    let mut random = Random::new();
    for _ in 0..15 * MORE {
        let (queue, ready) = (Queue::new().unwrap(), Queue::new().unwrap());
        let getters =
            [(); 2].map(|()| start(Process::new(get_one, (queue.clone(), ready.clone()))));
        wait_for_sleeper(&ready);
        wait_for_sleeper(&ready);
        queue.put(1).unwrap();
        for _ in 0..random.below(2000) {
            std::hint::spin_loop();
        }
        // Whichever was woken: one of the two is killed, perhaps before it ran.
        let dead = random.below(2) as usize;
        getters[dead].kill();
        let died = getters[dead].join();
        let living = &getters[1 - dead];
        let got_by_the_dead = died.is_ok_and(|got| got == Some(1));
        // What the dead one had got, or had taken with it, is gone; else it is the other's.
        if got_by_the_dead || queue.lost() > 0 {
            queue.put(2).unwrap();
            assert_eq!(living.join().unwrap(), Some(2));
            continue;
        }
        // Or it died after it got it. The living does not sleep while there is a value.
        eventually(|| queue.is_empty());
        let got = living.join_timeout(Duration::from_millis(500)).unwrap();
        let got = got.unwrap_or_else(|| {
            queue.put(3).unwrap();
            living.join().unwrap()
        });
        // It may have got the first one and take its time to end.
        assert!(matches!(got, Some(1 | 3)), "{got:?}");
    }
}

/// Puts numbered items for ever, and notes each that is in the queue.
#[mp::task]
fn put_for_ever(queue: Queue<Item>, from: u32, notes: Queue<u64>) {
    for number in 0.. {
        queue.put(item(from, number)).unwrap();
        notes.put(number).unwrap();
    }
}

/// Notes each item that it gets.
#[mp::task]
fn get_for_ever(queue: Queue<Item>, notes: Queue<(u32, u64)>) {
    for item in &queue {
        item.assert_whole();
        notes.put((item.from, item.number)).unwrap();
    }
}

fn a_moment(random: &mut Random) {
    thread::sleep(Duration::from_micros(random.below(4000)));
}

fn drain<T: mp::Transfer>(queue: &Queue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.try_get().ok()).collect()
}

#[test]
fn killed_producers_leave_whole_values_and_each_once() {
    let _watchdog = watchdog(180);
    let mut random = Random::new();
    let queue = Queue::new().unwrap();
    let mut got_in_all = 0;
    for round in 0..20 * MORE as u32 {
        let producers = [0, 1].map(|index| {
            let (from, notes) = (2 * round + index, Queue::new().unwrap());
            let arguments = (queue.clone(), from, notes.clone());
            (from, notes, start(Process::new(put_for_ever, arguments)))
        });
        // The first waits for its first value; the second may be killed at any moment of its life.
        let first = producers[0].1.get().unwrap();
        assert_eq!(first, 0);
        a_moment(&mut random);
        let mut got = BTreeMap::<u32, Vec<u64>>::new();
        for (from, _, child) in producers.iter().rev() {
            kill(child);
            got.insert(*from, Vec::new());
        }
        // Exactly: nothing was lost, nobody got anything meanwhile.
        let len = queue.len();
        assert_eq!(unfinished(&queue), got_in_all + len as u64);
        let items = drain(&queue);
        assert_eq!(items.len(), len);
        got_in_all += len as u64;
        for item in items {
            item.assert_whole();
            got.get_mut(&item.from).unwrap().push(item.number);
        }
        for (from, notes, _) in &producers {
            let mut noted = notes.len() as u64;
            if *from == producers[0].0 {
                noted += 1;
            }
            let got = &got[from];
            assert!(
                got.iter().copied().eq(0..got.len() as u64),
                "{from}: {got:?}"
            );
            // It may have died after it put a value and before it noted that.
            let missing = got.len() as u64 - noted;
            assert!(missing <= 1, "{from}: {noted} noted, {} got", got.len());
        }
        assert_eq!(queue.lost(), 0);
    }
    queue.put(item(1, 1)).unwrap();
    assert_eq!(queue.get().unwrap(), item(1, 1));
}

/// Kills consumers while this process puts; `every` item is then accounted for.
fn kill_consumers(queue: Queue<Item>, random: &mut Random) {
    let notes = Queue::new().unwrap();
    let enough = AtomicBool::new(false);
    let mut killed = 0;
    let new = || {
        let arguments = (queue.clone(), notes.clone());
        start(Process::new(get_for_ever, arguments))
    };
    let put = thread::scope(|scope| {
        let putter = scope.spawn(|| {
            let mut put = 0;
            while !enough.load(Ordering::Relaxed) {
                queue.put(item(0, put)).unwrap();
                put += 1;
                // The queue stays short: getters find it empty, and sleep, now and then.
                while queue.len() > 200 && !enough.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
            }
            put
        });
        let mut consumers = [(); 3].map(|()| new());
        for _ in 0..15 * MORE {
            let victim = &mut consumers[random.below(3) as usize];
            a_moment(random);
            kill(victim);
            killed += 1;
            *victim = new();
        }
        // A full queue has somebody who gets as long as the putter may wait for room.
        enough.store(true, Ordering::Relaxed);
        let put: u64 = putter.join().unwrap();
        queue.close();
        for consumer in consumers {
            consumer.join().unwrap();
        }
        put
    });
    assert!(queue.is_empty());
    let mut got: Vec<_> = drain(&notes);
    let noted = got.len() as u64;
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len() as u64, noted, "each value at most once");
    assert!(
        got.last()
            .is_none_or(|&(from, number)| from == 0 && number < put)
    );
    // A consumer that was killed has lost one in `get`, or one after it, or none.
    let missing = put - noted;
    let lost = queue.lost();
    assert!(
        lost <= missing && missing <= killed,
        "{put} put, {noted} noted, {lost} lost, {killed} killed"
    );
    assert_eq!(unfinished(&queue), put - lost);
}

#[test]
fn killed_consumers_take_one_value_each_at_most() {
    let _watchdog = watchdog(180);
    let mut random = Random::new();
    kill_consumers(Queue::new().unwrap(), &mut random);
}

#[test]
fn killed_consumers_of_a_bounded_queue_take_one_value_each_at_most() {
    let _watchdog = watchdog(180);
    let mut random = Random::new();
    kill_consumers(Queue::bounded(2).unwrap(), &mut random);
}

#[test]
fn those_who_live_go_on_while_others_are_killed() {
    let _watchdog = watchdog(180);
    let mut random = Random::new();
    let queue = Queue::bounded(4).unwrap();
    let notes = Queue::new().unwrap();
    let (count, mut killed, mut from) = (1000 * MORE, 0, 10);
    let producer = start(Process::new(produce, (queue.clone(), 0, 2, count)));
    let consumers =
        [(); 2].map(|()| start(Process::new(get_for_ever, (queue.clone(), notes.clone()))));
    // These come and go.
    while producer.is_alive() {
        let put_notes = Queue::new().unwrap();
        let putter = start(Process::new(put_for_ever, (queue.clone(), from, put_notes)));
        let getter = start(Process::new(get_for_ever, (queue.clone(), notes.clone())));
        from += 1;
        a_moment(&mut random);
        a_moment(&mut random);
        let mut victims = [putter.id(), getter.id()];
        if random.below(2) == 0 {
            victims.swap(0, 1);
        }
        for victim in victims {
            send_signal(victim, libc::SIGKILL);
        }
        kill(&putter);
        kill(&getter);
        killed += 1;
    }
    producer.join().unwrap();
    queue.close();
    for child in consumers {
        child.join().unwrap();
    }
    assert!(queue.is_empty());
    let mut got = drain(&notes);
    let noted = got.len();
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len(), noted, "each value at most once");
    let put = unfinished(&queue) + queue.lost();
    let missing = put - noted as u64;
    assert!(
        queue.lost() <= missing && missing <= killed,
        "{put} put, {noted} noted, {} lost, {killed} killed",
        queue.lost()
    );
    let of_the_living = got.iter().filter(|(from, _)| *from < 10).count() as u64;
    assert!(2 * count - of_the_living <= killed);
}

/// Puts and gets as fast as it can, and waits to be let go.
///
/// So few values fit into the queue's first segment: it needs no memory on the way.
#[mp::task]
fn churn(queue: Queue<u64>, ready: Queue<u32>, go: Queue<()>) -> (u64, u64) {
    let (mut put, mut got) = (0, 0);
    for round in 0..1000 {
        put += u64::from(queue.try_put(round).is_ok());
        got += u64::from(queue.try_get().is_ok());
        if round == 0 {
            ready.put(this_thread()).unwrap();
        }
    }
    let _ = go.get();
    (put, got)
}

/// As [`churn`], with values that need memory, until it is told to stop.
#[mp::task]
fn churn_items(queue: Queue<Item>, go: Queue<()>) -> (u64, u64) {
    let (mut put, mut got) = (0, 0);
    while !go.is_closed() {
        put += u64::from(queue.try_put(item(1, put)).is_ok());
        if let Ok(item) = queue.try_get() {
            item.assert_whole();
            got += 1;
        }
    }
    (put, got)
}

/// Calls everything that must come back: how many values it put and got.
fn put_and_get_in_time<T>(queue: &Queue<T>, value: impl Fn() -> T) -> (u64, u64)
where
    T: mp::Transfer + PartialEq + fmt::Debug,
{
    let (mut put, mut got) = (0, 0);
    let wait = Duration::from_millis(2);
    for _ in 0..3 {
        match queue.try_put(value()) {
            Ok(()) => put += 1,
            Err(error) => {
                assert!(error.is_full(), "{error}");
                assert_eq!(error.into_inner(), value());
            }
        }
        match queue.put_timeout(value(), wait) {
            Ok(()) => put += 1,
            Err(error) => {
                assert!(error.is_timeout(), "{error}");
                assert_eq!(error.into_inner(), value());
            }
        }
        match queue.try_get() {
            Ok(_) => got += 1,
            Err(error) => assert!(matches!(error, TryGetError::Empty), "{error}"),
        }
        match queue.get_timeout(wait) {
            Ok(_) => got += 1,
            Err(error) => assert!(matches!(error, GetTimeoutError::Timeout), "{error}"),
        }
        assert!(queue.len() <= 3);
    }
    (put, got)
}

#[test]
fn calls_with_a_deadline_come_back_while_somebody_is_stopped() {
    let _watchdog = watchdog(120);
    let mut random = Random::new();
    for _ in 0..40 * MORE {
        let (queue, ready, go) = (
            Queue::bounded(3).unwrap(),
            Queue::new().unwrap(),
            Queue::new().unwrap(),
        );
        let arguments = (queue.clone(), ready.clone(), go.clone());
        let child = start(Process::new(churn, arguments));
        ready.get().unwrap();
        for _ in 0..random.below(10_000) {
            std::hint::spin_loop();
        }
        send_signal(child.id(), libc::SIGSTOP);
        eventually(|| is_stopped(child.id()));
        let (put, got) = put_and_get_in_time(&queue, || 7);
        send_signal(child.id(), libc::SIGCONT);
        go.close();
        let (child_put, child_got) = child.join().unwrap();
        assert_eq!(put + child_put, got + child_got + queue.len() as u64);
        assert_eq!(queue.lost(), 0);
    }
}

#[test]
#[ignore = "who is stopped in the allocator holds up everybody who needs memory"]
fn calls_with_a_deadline_come_back_while_somebody_is_stopped_in_the_allocator() {
    let _watchdog = watchdog(120);
    let mut random = Random::new();
    let (queue, go) = (Queue::bounded(3).unwrap(), Queue::new().unwrap());
    let child = start(Process::new(churn_items, (queue.clone(), go.clone())));
    let (mut put, mut got) = (0, 0);
    for round in 0..200 * MORE {
        a_moment(&mut random);
        send_signal(child.id(), libc::SIGSTOP);
        eventually(|| is_stopped(child.id()));
        let now = put_and_get_in_time(&queue, || item(0, round));
        (put, got) = (put + now.0, got + now.1);
        send_signal(child.id(), libc::SIGCONT);
    }
    go.close();
    let (child_put, child_got) = child.join().unwrap();
    assert_eq!(put + child_put, got + child_got + queue.len() as u64);
    assert_eq!(queue.lost(), 0);
}

// Signals.

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Has SIGUSR1 interrupt system calls.
fn install_handler() {
    let handler: extern "C" fn(i32) = count_signal;
    // SAFETY: all zeros is a valid `sigaction` without flags, above all without SA_RESTART.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler only counts, and `action` is valid.
    let result = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

/// Interrupts a sleeping thread a few times.
fn interrupt(thread: u32) {
    for _ in 0..30 {
        eventually(|| is_asleep(thread));
        let before = SIGNALS.load(Ordering::Relaxed);
        // SAFETY: takes integers.
        unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, libc::SIGUSR1) };
        eventually(|| SIGNALS.load(Ordering::Relaxed) > before);
    }
}

#[test]
fn signals_do_not_end_a_wait() {
    alone("signals_do_not_end_a_wait", || {
        let _watchdog = watchdog(60);
        install_handler();
        let queue = Queue::bounded(1).unwrap();
        let ready = Queue::new().unwrap();
        let waiters: [&(dyn Fn() -> u32 + Sync); 2] = [&|| queue.get().unwrap(), &|| {
            queue.get_timeout(Duration::from_secs(3600)).unwrap()
        }];
        for waiter in waiters {
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    ready.put(this_thread()).unwrap();
                    waiter()
                });
                interrupt(ready.get().unwrap());
                assert!(!waiter.is_finished());
                queue.put(1).unwrap();
                assert_eq!(waiter.join().unwrap(), 1);
            });
        }
        queue.put(2).unwrap();
        let putters: [&(dyn Fn() + Sync); 2] = [&|| queue.put(3).unwrap(), &|| {
            queue.put_timeout(3, Duration::from_secs(3600)).unwrap();
        }];
        for putter in putters {
            thread::scope(|scope| {
                let putter = scope.spawn(|| {
                    ready.put(this_thread()).unwrap();
                    putter();
                });
                interrupt(ready.get().unwrap());
                assert!(!putter.is_finished());
                queue.get().unwrap();
                putter.join().unwrap();
            });
        }
        thread::scope(|scope| {
            let joiner = scope.spawn(|| {
                ready.put(this_thread()).unwrap();
                queue.join().unwrap();
            });
            interrupt(ready.get().unwrap());
            assert!(!joiner.is_finished());
            while queue.task_done().is_ok() {}
            joiner.join().unwrap();
        });
        // A deadline is neither forgotten nor met early.
        let queue = Queue::<u32>::new().unwrap();
        let wait = Duration::from_millis(300);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                ready.put(this_thread()).unwrap();
                let start = Instant::now();
                assert!(queue.get_timeout(wait).is_err());
                start.elapsed()
            });
            let thread = ready.get().unwrap();
            while !waiter.is_finished() {
                // SAFETY: takes integers.
                unsafe {
                    libc::syscall(libc::SYS_tgkill, std::process::id(), thread, libc::SIGUSR1)
                };
                thread::sleep(Duration::from_millis(1));
            }
            assert!(waiter.join().unwrap() >= wait);
        });
    });
}

// How it looks.

#[test]
fn debug_shows_the_state() {
    let _watchdog = watchdog(60);
    assert!(current_process().is_main());
    let queue = Queue::bounded(3).unwrap();
    queue.put(1).unwrap();
    assert_eq!(
        format!("{queue:?}"),
        "Queue { len: 1, capacity: Some(3), closed: false, lost: 0 }"
    );
    queue.close();
    assert_eq!(
        format!("{queue:?}"),
        "Queue { len: 1, capacity: Some(3), closed: true, lost: 0 }"
    );
    assert_eq!(
        format!("{:?}", Queue::<u32>::new().unwrap()),
        "Queue { len: 0, capacity: None, closed: false, lost: 0 }"
    );
}
