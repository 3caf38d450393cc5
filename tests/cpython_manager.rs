//! Behaviours that CPython's own tests demand of `multiprocessing`'s listeners and managers, demanded
//! of `mp`.
//!
//! Source: `Lib/test/_test_multiprocessing.py` of CPython (PSF licence 2). Rewritten: no code was taken
//! over, each test states the behaviour anew in the terms of `mp`. What differs is said at the test.
//!
//! A test is named after the area and the method that it answers, and after the class as well where two
//! classes of an area have a method of that name. Left out of the areas listener and manager are:
//!
//! | behaviour | reason |
//! |---|---|
//! | manager: `test_shared_memory_SharedMemoryServer_ignores_sigint`, `test_shared_memory_SharedMemoryManager_reuses_resource_tracker` | shared memory has no manager process and no tracker here |
//!
//! Parts of rows that cannot be written in `mp`: asking a listener that was closed (it is dropped, and
//! there is no such value), an initializer that cannot be called (does not compile), a method that is not
//! exposed (does not compile), a set of what cannot be iterated (does not compile).
//!
//! What a manager of Python's serves and `mp` keeps in shared memory (queues and the primitives of
//! synchronisation) needs no manager here; a managed map keeps it and hands it out by name.

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use mp::{
    Address, Barrier, Client, Condition, Event, Key, List, Listener, Lock, Manager, Map, Namespace,
    Process, Queue, RLock, RemoteManager, Semaphore, Set, Transfer,
};
use support::{alone_command, is_alone, run_alone, watchdog};

fn key() -> Key {
    Key::new("the key of these tests").unwrap()
}

fn unique() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("mp-cpython-{}-{number}", std::process::id())
}

/// An address of each family.
fn families(directory: &tempfile::TempDir) -> [Address; 3] {
    [
        Address::Unix(directory.path().join(unique())),
        Address::Abstract(unique()),
        Address::Tcp("127.0.0.1:0".to_owned()),
    ]
}

// Listeners.

#[test]
fn listener_test_multiple_bind() {
    let directory = tempfile::tempdir().unwrap();
    for address in families(&directory) {
        let first = Listener::<(), ()>::bind(address, &key()).unwrap();
        assert!(Listener::<(), ()>::bind(first.address(), &key()).is_err());
    }
}

/// What ends with a scope in Python is dropped here.
#[test]
fn listener_test_context() {
    let _watchdog = watchdog(60);
    let address = Address::Abstract(unique());
    {
        let listener = Listener::<u16, ()>::bind(&address, &key()).unwrap();
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                let client = Client::<(), u16>::connect(&address, &key()).unwrap();
                let value = client.recv().unwrap();
                (value, client.recv().unwrap_err().is_closed())
            });
            {
                let accepted = listener.accept().unwrap();
                accepted.send(&1729).unwrap();
            }
            assert_eq!(client.join().unwrap(), (1729, true));
        });
    }
    assert!(Client::<(), u16>::connect(&address, &key()).is_err());
}

#[test]
fn listener_test_abstract_socket() {
    let _watchdog = watchdog(60);
    let listener = Listener::<(), ()>::bind(Address::Abstract(unique()), &key()).unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| Client::<(), ()>::connect(listener.address(), &key()));
        listener.accept().unwrap();
        client.join().unwrap().unwrap();
    });
}

#[mp::task]
fn say_hello(address: Address, key: Key) -> mp::Result<()> {
    let client = Client::<String, ()>::connect(address, &key)?;
    client.send(&"hello".to_owned())
}

#[test]
fn listener_test_listener_client() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    for address in families(&directory) {
        let listener = Listener::<(), String>::bind(address, &key()).unwrap();
        let child = Process::new(say_hello, (listener.address().clone(), key()))
            .start()
            .unwrap();
        assert_eq!(listener.accept().unwrap().recv().unwrap(), "hello");
        child.join().unwrap().unwrap();
    }
}

#[test]
fn listener_test_issue16955() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    for address in families(&directory) {
        let listener = Listener::<String, ()>::bind(address, &key()).unwrap();
        thread::scope(|scope| {
            let client = scope.spawn(|| Client::<(), String>::connect(listener.address(), &key()));
            let accepted = listener.accept().unwrap();
            accepted.send(&"hello".to_owned()).unwrap();
            drop(accepted);
            let client = client.join().unwrap().unwrap();
            assert!(client.poll(Duration::from_secs(1)).unwrap());
            assert_eq!(client.recv().unwrap(), "hello");
        });
    }
}

#[test]
fn listener_test_deliver_challenge_auth_failure() {
    let _watchdog = watchdog(60);
    let listener = Listener::<(), ()>::bind("tcp:127.0.0.1:0", &key()).unwrap();
    let place = listener.address().to_string();
    let mut stranger = TcpStream::connect(place.trim_start_matches("tcp:")).unwrap();
    let answer = thread::spawn(move || {
        let mut hello = [0; 44];
        stranger.read_exact(&mut hello).unwrap();
        let bogus = [&hello[..12], &[7; 32], &[9; 32]].concat();
        stranger.write_all(&bogus).unwrap();
        let mut answer = Vec::new();
        stranger.read_to_end(&mut answer).unwrap();
        answer
    });
    assert!(listener.accept().unwrap_err().is_refused());
    assert_eq!(answer.join().unwrap(), [2]);
}

/// There is one digest, HMAC-SHA-256: both sides accept each other.
#[test]
fn listener_test_challengeresponse() {
    let _watchdog = watchdog(60);
    let listener = Listener::<(), ()>::bind(Address::Abstract(unique()), &key()).unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| Client::<(), ()>::connect(listener.address(), &key()));
        assert!(listener.accept().is_ok());
        assert!(client.join().unwrap().is_ok());
    });
}

#[test]
fn listener_test_invalid_family() {
    let error = Listener::<(), ()>::bind(r"\\.\test", &key()).unwrap_err();
    assert!(error.is_unsupported(), "{error}");
}

// Managers.

fn squares(to: u32) -> Vec<u32> {
    (0..to).map(|n| n * n).collect()
}

#[test]
fn manager_test_list() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let a = List::<u32>::new(&manager).unwrap();
    a.push_many(0..10).unwrap();
    assert_eq!(a.to_vec().unwrap(), (0..10).collect::<Vec<_>>());
    let b = List::<u32>::new(&manager).unwrap();
    assert!(b.to_vec().unwrap().is_empty());
    b.push_many(0..5).unwrap();
    assert_eq!(b.get(2).unwrap(), Some(2));
    assert_eq!(b.slice(2..10).unwrap(), [2, 3, 4]);
    // Repeated, and with another behind it.
    b.push_many(b.to_vec().unwrap()).unwrap();
    assert_eq!(b.to_vec().unwrap(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    b.push_many([5, 6]).unwrap();
    assert_eq!(b.len().unwrap(), 12);
    // A list of lists shows what changes in them later.
    let lists = List::<List<u32>>::new(&manager).unwrap();
    lists.push_many([a.clone(), b]).unwrap();
    a.push(&99).unwrap();
    assert_eq!(lists.get(0).unwrap().unwrap().pop().unwrap(), Some(99));
    let deep = List::<List<List<u32>>>::new(&manager).unwrap();
    deep.push(&lists).unwrap();
    let inner = deep.get(0).unwrap().unwrap().get(0).unwrap().unwrap();
    inner.set(0, &7).unwrap();
    assert_eq!(a.get(0).unwrap(), Some(7));
}

#[test]
fn manager_test_list_iter() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let list = List::<u32>::new(&manager).unwrap();
    list.push_many(0..3).unwrap();
    let mut iter = list.iter();
    assert_eq!(iter.next().unwrap().unwrap(), 0);
    list.set(2, &9).unwrap();
    assert_eq!(iter.next().unwrap().unwrap(), 1);
    assert_eq!(iter.next().unwrap().unwrap(), 9);
    assert!(iter.next().is_none());
    list.push(&3).unwrap();
    assert!(iter.next().is_none());
}

#[test]
fn manager_test_dict() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let map = Map::<u8, char>::new(&manager).unwrap();
    let letters: Vec<_> = (b'A'..b'N').map(|n| (n, char::from(n))).collect();
    for (n, letter) in &letters {
        map.insert(n, letter).unwrap();
    }
    assert_eq!(map.items().unwrap(), letters);
    let (keys, values): (Vec<_>, Vec<_>) = letters.into_iter().unzip();
    assert_eq!(map.keys().unwrap(), keys);
    assert_eq!(map.values().unwrap(), values);
}

/// Keys are those of one moment: a change meanwhile is no error, and is not seen.
#[test]
fn manager_test_dict_iter() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let map = Map::<u8, ()>::new(&manager).unwrap();
    map.insert_many((0..5).map(|n| (n, ()))).unwrap();
    let mut keys = map.keys().unwrap().into_iter();
    assert_eq!(keys.next(), Some(0));
    map.insert(&9, &()).unwrap();
    assert_eq!(keys.collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn manager_test_nested_queue() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let list = List::<Queue<u32>>::new(&manager).unwrap();
    let map = Map::<u32, Queue<u32>>::new(&manager).unwrap();
    for n in 0..5 {
        list.push(&Queue::new().unwrap()).unwrap();
        map.insert(&n, &Queue::new().unwrap()).unwrap();
    }
    for n in 0..5 {
        list.get(n as usize).unwrap().unwrap().put(n).unwrap();
        map.get(&n).unwrap().unwrap().put(10 + n).unwrap();
    }
    for n in 0..5 {
        assert_eq!(list.get(n as usize).unwrap().unwrap().get().unwrap(), n);
        assert_eq!(map.get(&n).unwrap().unwrap().get().unwrap(), 10 + n);
    }
}

struct Squarer;

#[mp::shared]
impl Squarer {
    fn new() -> Self {
        Self
    }

    fn f(&self) -> String {
        "f()".to_owned()
    }

    fn g(&self) {
        panic!("value error");
    }

    fn squares(&self, to: u32) -> Vec<u32> {
        squares(to)
    }
}

fn use_squarer(manager: &Manager) {
    let squarer = SharedSquarer::new(manager).unwrap();
    assert_eq!(squarer.f().unwrap(), "f()");
    let error = squarer.g().unwrap_err();
    assert_eq!(error.task().unwrap().message(), Some("value error"));
    assert_eq!(squarer.squares(10).unwrap(), squares(10));
}

#[test]
fn manager_test_mymanager() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    use_squarer(&manager);
    manager.shutdown().unwrap();
}

/// What ends with a scope in Python ends with the last handle here.
#[test]
fn manager_test_mymanager_context_prestarted() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let ended = support::pidfd(manager.process_id().unwrap());
    {
        let manager = manager;
        use_squarer(&manager);
    }
    assert!(support::wait_readable(&ended, None));
}

const ADDRESS: &str = "MP_TEST_ADDRESS";

/// The body of the second program of the next test.
#[test]
fn second_program() {
    if is_alone("second_program") {
        run_alone(|| {
            let address = std::env::var(ADDRESS).unwrap();
            let manager = RemoteManager::connect(&address, &key()).unwrap();
            let list = manager.get::<List<Vec<String>>>("queue").unwrap();
            let words = ["hello world", "None", "true", "2.25"].map(str::to_owned);
            list.push(&words.to_vec()).unwrap();
        });
    }
}

/// What cannot be sent is a shared object of one program; the list goes on.
#[test]
fn manager_test_remote() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let list = List::<Vec<String>>::new(&manager).unwrap();
    manager.publish("queue", &list).unwrap();
    let address = manager.listen("tcp:127.0.0.1:0", &key()).unwrap();
    let mut second = alone_command("second_program");
    let status = second.env(ADDRESS, address.to_string()).status().unwrap();
    assert!(status.success());
    assert_eq!(list.pop_front().unwrap().unwrap()[0], "hello world");

    let queues = List::<Queue<u8>>::new(&manager).unwrap();
    manager.publish("queues", &queues).unwrap();
    let remote = RemoteManager::connect(&address, &key()).unwrap();
    let there = remote.get::<List<Queue<u8>>>("queues").unwrap();
    assert!(
        there
            .push(&Queue::new().unwrap())
            .unwrap_err()
            .is_not_encoded()
    );
    assert_eq!(there.len().unwrap(), 0);
    manager.shutdown().unwrap();
}

#[mp::task]
fn note(started: Queue<(u32, u32)>, number: u32) {
    started.put((number, std::process::id())).unwrap();
}

#[test]
fn manager_test_manager_initializer() {
    let _watchdog = watchdog(60);
    let started = Queue::new().unwrap();
    let manager = Manager::builder()
        .initializer(note, (started.clone(), 7))
        .build()
        .unwrap();
    assert_eq!(started.get().unwrap(), (7, manager.process_id().unwrap()));
}

#[mp::task]
fn look_at_queue(queues: Map<String, Queue<u32>>) -> mp::Result<(usize, bool, u32, u32)> {
    let queue = queues
        .get(&"queue".to_owned())?
        .expect("the parent put it there");
    let seen = (queue.len(), queue.is_full());
    let got = (queue.get()?, queue.get()?);
    queue.task_done()?;
    queue.task_done()?;
    Ok((seen.0, seen.1, got.0, got.1))
}

/// A bounded queue, which is one that can be joined as well, in a managed map.
#[test]
fn manager_test_queue() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let queues = Map::<String, Queue<u32>>::new(&manager).unwrap();
    let queue = Queue::bounded(2).unwrap();
    queues.insert(&"queue".to_owned(), &queue).unwrap();
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    let child = Process::new(look_at_queue, (queues,)).start().unwrap();
    assert_eq!(child.join().unwrap().unwrap(), (2, true, 1, 2));
    assert!(queue.is_empty());
    queue.join().unwrap();
}

#[test]
fn manager_test_joinable_queue() {
    manager_test_queue();
}

/// Keeps a thing in a managed map, under the name `thing`.
fn kept<T: Transfer>(manager: &Manager, thing: &T) -> Map<String, T> {
    let map = Map::new(manager).unwrap();
    map.insert(&"thing".to_owned(), thing).unwrap();
    map
}

/// The same thing, in another process.
fn handed_out<T: Transfer>(map: &Map<String, T>) -> mp::Result<T> {
    let thing = map.get(&"thing".to_owned())?;
    Ok(thing.expect("the parent put it there"))
}

#[mp::task]
fn clear_event(events: Map<String, Event>) -> mp::Result<bool> {
    let event = handed_out(&events)?;
    let was_set = event.is_set();
    event.wait();
    event.clear();
    Ok(was_set)
}

#[test]
fn manager_test_event() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let event = Event::new().unwrap();
    let events = kept(&manager, &event);
    event.set();
    let child = Process::new(clear_event, (events,)).start().unwrap();
    assert!(child.join().unwrap().unwrap());
    assert!(!event.is_set());
}

#[mp::task]
fn use_rlock(locks: Map<String, RLock>) -> mp::Result<(bool, bool)> {
    let lock = handed_out(&locks)?;
    let outer = lock.acquire()?;
    let inner = lock.acquire()?;
    let was_locked = lock.is_locked();
    drop((inner, outer));
    Ok((was_locked, lock.is_locked()))
}

#[test]
fn manager_test_rlock() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let lock = RLock::new().unwrap();
    let locks = kept(&manager, &lock);
    let child = Process::new(use_rlock, (locks,)).start().unwrap();
    assert_eq!(child.join().unwrap().unwrap(), (true, false));
    assert!(!lock.is_locked());
}

/// A permit taken for good, as Python's is that another process gives back.
#[mp::task]
fn take_permit(semaphores: Map<String, Semaphore>) -> mp::Result<()> {
    handed_out(&semaphores)?.acquire().consume();
    Ok(())
}

#[test]
fn manager_test_semaphore() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let semaphore = Semaphore::new(1).unwrap();
    let semaphores = kept(&manager, &semaphore);
    let child = Process::new(take_permit, (semaphores,)).start().unwrap();
    child.join().unwrap().unwrap();
    assert_eq!(semaphore.available(), 0);
    semaphore.release();
    assert_eq!(semaphore.available(), 1);
}

/// A condition is used with a lock, which is kept beside it.
#[mp::task]
fn use_condition(conditions: Map<String, (Lock, Condition)>) -> mp::Result<()> {
    let (lock, condition) = handed_out(&conditions)?;
    let guard = lock.acquire()?;
    condition.notify_all();
    let (_guard, is_notified) = condition.wait_timeout(guard, Duration::from_millis(1))?;
    assert!(!is_notified && lock.is_locked());
    Ok(())
}

#[test]
fn manager_test_condition() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let (lock, condition) = (Lock::new().unwrap(), Condition::new().unwrap());
    let conditions = kept(&manager, &(lock.clone(), condition.clone()));
    let child = Process::new(use_condition, (conditions,)).start().unwrap();
    child.join().unwrap().unwrap();
    assert!(!lock.is_locked());
}

#[mp::task]
fn reset_barrier(barriers: Map<String, Barrier>) -> mp::Result<u32> {
    let barrier = handed_out(&barriers)?;
    barrier.reset();
    Ok(barrier.parties())
}

#[test]
fn manager_test_barrier() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let barrier = Barrier::new(5).unwrap();
    let barriers = kept(&manager, &barrier);
    barrier.abort();
    let child = Process::new(reset_barrier, (barriers,)).start().unwrap();
    assert_eq!(child.join().unwrap().unwrap(), 5);
    assert!(!barrier.is_broken());
}

#[mp::task]
fn use_map(map: Map<String, u32>) -> mp::Result<()> {
    let key = |text: &str| text.to_owned();
    assert_eq!(map.get(&key("foo"))?, Some(1));
    assert_eq!(map.items()?, [(key("foo"), 1), (key("bar"), 2)]);
    map.insert_many([(key("baz"), 3)])?;
    let mut backwards = map.keys()?;
    backwards.reverse();
    assert_eq!(backwards, ["baz", "bar", "foo"]);
    assert_eq!(map.pop()?, Some((key("baz"), 3)));
    assert_eq!(map.get_or_insert(&key("qux"), &4)?, 4);
    assert_eq!(map.insert_many([(key("foo"), 5)])?, 0);
    assert_eq!(map.remove(&key("bar"))?, Some(2));
    map.clear()
}

#[test]
fn manager_test_sync_manager_types_test_dict() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let map = Map::<String, u32>::new(&manager).unwrap();
    map.insert_many([("foo".to_owned(), 1), ("bar".to_owned(), 2)])
        .unwrap();
    let child = Process::new(use_map, (map.clone(),)).start().unwrap();
    child.join().unwrap().unwrap();
    assert!(map.is_empty().unwrap());
}

#[mp::task]
fn double_value(values: Namespace) -> mp::Result<()> {
    let value: u32 = values.get("value")?.expect("the parent set it");
    values.set("value", &(2 * value))
}

#[test]
fn manager_test_value() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let values = Namespace::new(&manager).unwrap();
    values.set("value", &21_u32).unwrap();
    let child = Process::new(double_value, (values.clone(),))
        .start()
        .unwrap();
    child.join().unwrap().unwrap();
    assert_eq!(values.get::<u32>("value").unwrap(), Some(42));
}

#[mp::task]
fn use_set(set: Set<u32>) -> mp::Result<()> {
    let here: HashSet<u32> = set.to_vec()?.into_iter().collect();
    let other = HashSet::from([2, 3, 4]);
    // Computed with std's sets.
    assert_eq!(here.union(&other).count(), 4);
    assert_eq!(here.intersection(&other).count(), 2);
    assert_eq!(here.difference(&other).collect::<Vec<_>>(), [&1]);
    assert_eq!(here.symmetric_difference(&other).count(), 2);
    assert!(here.is_subset(&HashSet::from([0, 1, 2, 3])) && here.is_superset(&HashSet::from([1])));
    // And in place.
    set.insert_many([4, 5])?;
    set.keep_only(&[1, 3, 4])?;
    assert_eq!(set.remove_many(&[4])?, 1);
    assert!(set.insert(&9)? && set.remove(&9)? && !set.remove(&9)?);
    assert_eq!(set.pop()?, Some(3));
    Ok(())
}

#[test]
fn manager_test_set() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let set = Set::<u32>::new(&manager).unwrap();
    set.insert_many([1, 2, 3]).unwrap();
    let child = Process::new(use_set, (set.clone(),)).start().unwrap();
    child.join().unwrap().unwrap();
    assert_eq!(set.to_vec().unwrap(), [1]);
}

#[test]
fn manager_test_set_init() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let of = |values: Vec<u32>| {
        let set = Set::new(&manager).unwrap();
        set.insert_many(values).unwrap();
        set.to_vec().unwrap()
    };
    assert_eq!(of(vec![1, 2, 2, 1]), [1, 2]);
    assert_eq!(of(HashSet::from([7]).into_iter().collect()), [7]);
    let map = Map::<u32, char>::new(&manager).unwrap();
    map.insert_many([(1, 'a'), (2, 'b')]).unwrap();
    assert_eq!(of(map.keys().unwrap()), [1, 2]);
}
