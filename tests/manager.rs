//! Managers: state that lives in one process is one state for all, whoever calls, panics or is killed.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use mp::{
    Address, Client, Key, List, Lock, Manager, Map, Namespace, Process, Queue, RemoteManager, Set,
};
use serde::{Deserialize, Serialize};
use support::{
    alone, alone_command, alone_with, eventually, is_alone, run_alone, send_signal, watchdog,
};

#[derive(Debug)]
struct Counter {
    count: u64,
}

#[mp::shared]
impl Counter {
    /// Makes a counter.
    pub fn new(count: u64) -> Self {
        Self { count }
    }

    /// Makes one that fails.
    pub fn broken(why: String) -> Self {
        panic!("no counter: {why}")
    }

    /// Adds.
    pub fn incr(&mut self, by: u64) -> u64 {
        self.count += by;
        self.count
    }

    pub fn get(&self) -> u64 {
        self.count
    }

    pub fn set(&mut self, (low, high): (u32, u32), _note: String) -> Result<(), String> {
        match high {
            0 => {
                self.count = low.into();
                Ok(())
            }
            _ => Err("too large".to_owned()),
        }
    }

    pub fn panic_after(&mut self, by: u64) {
        self.count += by;
        panic!("at {}", self.count)
    }

    pub fn process_id(&self) -> u32 {
        std::process::id()
    }

    pub fn take_long(&self, started: Queue<()>, go_on: Queue<()>) {
        started.put(()).unwrap();
        go_on.get().unwrap();
    }

    pub fn call_another(&self, other: SharedCounter) -> mp::Result<u64> {
        other.get()
    }

    pub fn call_through(
        &self,
        other: SharedCounter,
        back: SharedCounter,
    ) -> mp::Result<mp::Result<u64>> {
        other.call_another(back)
    }

    pub fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    /// Puts until no shared memory is left.
    pub fn use_up_memory(&self, into: Queue<Vec<u8>>) {
        for len in [1 << 20, 64 << 10, 4 << 10, 1] {
            while into.put(vec![0; len]).is_ok() {}
        }
    }

    pub fn zeros(&self, len: usize) -> Vec<u8> {
        vec![0; len]
    }

    pub fn unspeakable(&self) -> Unspeakable {
        Unspeakable
    }
}

/// Cannot be encoded.
#[derive(Debug, Deserialize)]
pub struct Unspeakable;

impl Serialize for Unspeakable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("rather not"))
    }
}

/// Tells when it is dropped.
struct Tells {
    dropped: Queue<u32>,
    number: u32,
}

impl Drop for Tells {
    fn drop(&mut self) {
        self.dropped.put(self.number).unwrap();
        assert!(self.number != 13, "unlucky");
    }
}

#[mp::shared(handle = TellsHandle, name = "tests.tells")]
impl Tells {
    fn new(dropped: Queue<u32>, number: u32) -> Self {
        Self { dropped, number }
    }

    fn number(&self) -> u32 {
        self.number
    }
}

#[mp::task]
fn count_to(counter: SharedCounter, n: u64) -> mp::Result<()> {
    for _ in 0..n {
        counter.incr(1)?;
    }
    Ok(())
}

#[test]
fn calls_of_any_process_and_thread_are_one_after_the_other() {
    let _watchdog = watchdog(120);
    let manager = Manager::new().unwrap();
    let counter = SharedCounter::new(&manager, 0).unwrap();
    assert_eq!(Some(counter.process_id().unwrap()), manager.process_id());
    let children: Vec<_> = (0..3)
        .map(|_| {
            Process::new(count_to, (counter.clone(), 300))
                .start()
                .unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..300 {
                    counter.incr(1).unwrap();
                }
            });
        }
    });
    for child in children {
        child.join().unwrap().unwrap();
    }
    assert_eq!(counter.get().unwrap(), 1800);
    manager.shutdown().unwrap();
}

#[test]
fn arguments_and_results_are_those_of_an_ordinary_call() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let counter = SharedCounter::new(&manager, 1).unwrap();
    assert_eq!(counter.set((7, 0), "x".to_owned()).unwrap(), Ok(()));
    assert_eq!(counter.get().unwrap(), 7);
    let refused = counter.set((7, 1), String::new()).unwrap();
    assert_eq!(refused.unwrap_err(), "too large");
    for len in [0, 1, 5_000, 20_000, 3_000_000] {
        let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
        assert!(counter.echo(bytes.clone()).unwrap() == bytes);
    }
    // The type stays an ordinary type.
    assert_eq!(Counter::new(3).incr(4), 7);
}

#[test]
fn panic_comes_back_and_the_manager_goes_on() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let counter = SharedCounter::new(&manager, 1).unwrap();
    let error = counter.panic_after(4).unwrap_err();
    let task = error.task().unwrap();
    assert!(task.is_panic());
    assert_eq!(task.message(), Some("at 5"));
    assert_eq!(task.task(), "Counter::panic_after");
    assert_eq!(task.file(), Some(file!()));
    // As the panic left it.
    assert_eq!(counter.get().unwrap(), 5);

    let error = SharedCounter::broken(&manager, "today".to_owned()).unwrap_err();
    assert_eq!(error.task().unwrap().message(), Some("no counter: today"));
    let error = counter.unspeakable().unwrap_err();
    assert!(error.task().unwrap().is_not_encoded(), "{error}");
    assert_eq!(counter.get().unwrap(), 5);
    manager.shutdown().unwrap();
}

#[test]
fn argument_that_cannot_be_encoded_is_the_callers_error() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let list = List::<Unspeakable>::new(&manager).unwrap();
    let error = list.push(&Unspeakable).unwrap_err();
    assert!(
        error.is_not_encoded() && error.to_string().contains("rather not"),
        "{error}"
    );
    assert_eq!(list.len().unwrap(), 0);
}

#[test]
fn object_of_its_own_manager_is_not_called_from_within() {
    let _watchdog = watchdog(60);
    let (manager, other) = (Manager::new().unwrap(), Manager::new().unwrap());
    let counter = SharedCounter::new(&manager, 1).unwrap();
    let same = SharedCounter::new(&manager, 2).unwrap();
    let error = counter.call_another(same).unwrap().unwrap_err();
    assert!(error.to_string().contains("wait for itself"), "{error}");
    let elsewhere = SharedCounter::new(&other, 3).unwrap();
    assert_eq!(counter.call_another(elsewhere).unwrap().unwrap(), 3);
}

#[test]
fn manager_that_waits_is_not_called_back() {
    let _watchdog = watchdog(60);
    let managers = [(); 3].map(|()| Manager::new().unwrap());
    let [first, second, third] = [0, 1, 2].map(|of: usize| {
        let count = of as u64 + 1;
        SharedCounter::new(&managers[of], count).unwrap()
    });
    let called_back = first.call_through(second.clone(), first.clone());
    let error = called_back.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("wait for itself"), "{error}");
    // Nobody waits for the third, nor for any of them any more.
    let onwards = first.call_through(second.clone(), third);
    assert_eq!(onwards.unwrap().unwrap().unwrap(), 3);
    assert_eq!(second.call_another(first).unwrap().unwrap(), 1);
}

#[mp::task]
fn hold_and_die(counter: SharedCounter, tells: TellsHandle) {
    assert_eq!(counter.incr(1).unwrap(), 1);
    assert_eq!(tells.number().unwrap(), 2);
    std::process::abort();
}

#[test]
fn object_is_dropped_with_its_last_handle() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let dropped = Queue::new().unwrap();
    let tells = |number| TellsHandle::new(&manager, dropped.clone(), number).unwrap();

    let (one, same) = (tells(1), tells(1).clone());
    drop((one, same));
    assert_eq!((dropped.get().unwrap(), dropped.get().unwrap()), (1, 1));

    // In another process that dies.
    let counter = SharedCounter::new(&manager, 0).unwrap();
    let child = Process::new(hold_and_die, (counter.clone(), tells(2)))
        .start()
        .unwrap();
    assert!(child.join().unwrap_err().is_crash());
    drop(child);
    assert_eq!(dropped.get().unwrap(), 2);
    assert_eq!(counter.get().unwrap(), 1);

    // On its way in a queue, and in another object.
    let queue = Queue::new().unwrap();
    queue.put(tells(3)).unwrap();
    let list = List::<TellsHandle>::new(&manager).unwrap();
    list.push(&tells(4)).unwrap();
    assert_eq!(queue.get().unwrap().number().unwrap(), 3);
    assert_eq!(dropped.get().unwrap(), 3);
    assert_eq!(list.get(0).unwrap().unwrap().number().unwrap(), 4);
    list.clear().unwrap();
    assert_eq!(dropped.get().unwrap(), 4);

    // Its own panic is nobody else's.
    drop(tells(13));
    assert_eq!(dropped.get().unwrap(), 13);
    assert_eq!(counter.get().unwrap(), 1);
    drop(tells(5));
    assert_eq!(dropped.get().unwrap(), 5);
    assert!(dropped.is_empty());
    manager.shutdown().unwrap();
}

#[mp::task]
fn make_and_leave(manager: Manager, made: Queue<SharedCounter>) -> mp::Result<()> {
    let counter = SharedCounter::new(&manager, 5)?;
    made.put(counter)?;
    Ok(())
}

#[test]
fn object_outlives_the_process_that_made_it() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let made = Queue::new().unwrap();
    let child = Process::new(make_and_leave, (manager.clone(), made.clone()))
        .start()
        .unwrap();
    child.join().unwrap().unwrap();
    assert_eq!(made.get().unwrap().incr(1).unwrap(), 6);
}

#[test]
fn manager_lives_as_long_as_a_handle() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let ended = support::pidfd(manager.process_id().unwrap());
    let counter = SharedCounter::new(&manager, 0).unwrap();
    drop(manager);
    assert_eq!(counter.incr(1).unwrap(), 1);
    let same = counter.clone();
    drop(counter);
    assert_eq!(same.incr(1).unwrap(), 2);
    drop(same);
    assert!(support::wait_readable(&ended, None));
}

#[test]
fn shut_down_manager_is_an_error_for_who_calls() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let counter = SharedCounter::new(&manager, 0).unwrap();
    counter.incr(1).unwrap();
    manager.shutdown().unwrap();
    let error = counter.incr(1).unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert!(SharedCounter::new(&manager, 0).unwrap_err().is_closed());
    manager.shutdown().unwrap();
}

#[mp::task]
fn kill_of_another(manager: Manager) -> bool {
    manager.kill().is_err_and(|error| error.is_unsupported())
}

#[test]
fn kill_ends_a_call_that_never_returns() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let counter = SharedCounter::new(&manager, 0).unwrap();
    let other = Process::new(kill_of_another, (manager.clone(),)).start();
    assert!(other.unwrap().join().unwrap());
    let (started, never) = (Queue::new().unwrap(), Queue::new().unwrap());
    thread::scope(|scope| {
        let call = scope.spawn(|| counter.take_long(started.clone(), never.clone()));
        started.get().unwrap();
        manager.kill().unwrap();
        assert!(call.join().unwrap().unwrap_err().is_owner_died());
    });
    assert!(counter.get().unwrap_err().is_owner_died());
    manager.kill().unwrap();
    manager.shutdown().unwrap_err();
}

#[mp::task]
fn fork(counter: SharedCounter) -> i32 {
    counter.incr(1).unwrap();
    let manager = Manager::new().unwrap();
    // SAFETY: the copy only does what is under test, and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let checks = [
            counter.incr(1).is_err_and(|error| error.is_forked()),
            SharedCounter::new(&manager, 1).is_err_and(|error| error.is_forked()),
            manager.shutdown().is_err_and(|error| error.is_forked()),
            manager.kill().is_err_and(|error| error.is_forked()),
            !format!("{counter:?} {manager:?}").is_empty(),
        ];
        drop((counter, manager));
        let failed = checks.iter().position(|fine| !fine);
        // SAFETY: takes an integer and does not return.
        unsafe { libc::_exit(failed.map_or(0, |check| check as i32 + 1)) };
    }
    let mut status = 0;
    // SAFETY: points to an integer.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    counter.incr(1).unwrap();
    manager.shutdown().unwrap();
    status
}

#[test]
fn copy_made_by_fork_gets_errors() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let counter = SharedCounter::new(&manager, 0).unwrap();
    let child = Process::new(fork, (counter.clone(),)).start().unwrap();
    assert_eq!(child.join().unwrap(), 0);
    assert_eq!(counter.get().unwrap(), 2);
}

#[mp::task]
fn wait_in_a_call(counter: SharedCounter, started: Queue<()>, go_on: Queue<()>) -> bool {
    counter
        .take_long(started, go_on)
        .unwrap_err()
        .is_owner_died()
}

#[test]
fn killed_manager_is_an_error_for_all_callers_at_once() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let counter = SharedCounter::new(&manager, 0).unwrap();
    let (started, go_on) = (Queue::new().unwrap(), Queue::new().unwrap());
    // One is served, the others wait for their turn.
    let children: Vec<_> = (0..3)
        .map(|_| {
            let arguments = (counter.clone(), started.clone(), go_on.clone());
            Process::new(wait_in_a_call, arguments).start().unwrap()
        })
        .collect();
    started.get().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| counter.get());
        send_signal(manager.process_id().unwrap(), libc::SIGKILL);
        assert!(waits.join().unwrap().unwrap_err().is_owner_died());
    });
    for child in children {
        assert!(child.join().unwrap());
    }
    let error = counter.get().unwrap_err();
    assert!(error.is_owner_died(), "{error}");
    assert!(manager.shutdown().is_err());
}

#[mp::task]
fn set_up(seen: Queue<(String, u32)>, fails: bool) {
    assert!(!fails, "no way");
    let name = mp::current_process().name().to_owned();
    seen.put((name, std::process::id())).unwrap();
}

#[mp::task]
fn refuse(why: String) -> Result<(), String> {
    Err(why)
}

#[test]
fn initializer_runs_in_the_manager_first() {
    let _watchdog = watchdog(60);
    let seen = Queue::new().unwrap();
    let manager = Manager::builder()
        .name("keeper")
        .initializer(set_up, (seen.clone(), false))
        .build()
        .unwrap();
    let (name, pid) = seen.get().unwrap();
    assert_eq!((name.as_str(), Some(pid)), ("keeper", manager.process_id()));

    let error = Manager::builder()
        .initializer(set_up, (seen.clone(), true))
        .build()
        .unwrap_err();
    assert!(error.is_not_started(), "{error}");
    assert_eq!(error.task().unwrap().message(), Some("no way"));

    let error = Manager::builder()
        .initializer(refuse, ("not today".to_owned(),))
        .build()
        .unwrap_err();
    let failure = error.task().unwrap().to_string();
    assert!(failure.contains("failed: not today"), "{failure}");

    fn plain() {}
    let error = Manager::builder()
        .initializer(plain, ())
        .build()
        .unwrap_err();
    assert!(error.is_unknown_task(), "{error}");
}

/// Objects of the program, its queues among them.
fn objects() -> u32 {
    mp::__private::audit().unwrap().objects
}

#[test]
fn process_that_needs_the_manager_no_longer_leaves_nothing_with_it() {
    alone(
        "process_that_needs_the_manager_no_longer_leaves_nothing_with_it",
        || {
            let _watchdog = watchdog(60);
            let queue = Queue::new().unwrap();
            let manager = Manager::new().unwrap();
            queue.put(SharedCounter::new(&manager, 0).unwrap()).unwrap();
            drop(manager);
            // Nobody here has a handle, and what is on its way keeps the manager alive. There are the
            // queue, the manager's requests and the counter's token.
            support::settles_at(&3, objects);
            for _ in 0..20 {
                let counter = queue.get().unwrap();
                counter.incr(1).unwrap();
                queue.put(counter).unwrap();
            }
            support::settles_at(&3, objects);
            assert_eq!(queue.get().unwrap().get().unwrap(), 20);
        },
    );
}

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

/// What a new session leaves, whose first answer found no memory.
#[mp::task]
fn ask_without_memory(counter: SharedCounter, used_up: Queue<Vec<u8>>) -> bool {
    let before = objects();
    let error = counter.use_up_memory(used_up.clone()).unwrap_err();
    while used_up.try_get().is_ok() {}
    // The manager forgets it although this process lives.
    support::settles_at(&before, objects);
    assert_eq!(counter.get().unwrap(), 7);
    error.is_out_of_memory()
}

#[test]
fn answer_that_finds_no_memory_is_told_and_leaves_nothing() {
    alone_with(
        "answer_that_finds_no_memory_is_told_and_leaves_nothing",
        small_memory,
        || {
            let _watchdog = watchdog(60);
            let manager = Manager::new().unwrap();
            let counter = SharedCounter::new(&manager, 7).unwrap();
            let used_up = Queue::new().unwrap();
            let arguments = (counter.clone(), used_up.clone());
            let child = Process::new(ask_without_memory, arguments).start();
            assert!(child.unwrap().join().unwrap());

            // Here is room to say so, but not for the result.
            let error = counter.zeros(64 << 20).unwrap_err();
            assert!(error.task().is_some_and(|task| task.is_out_of_memory()));
            assert!(error.is_out_of_memory(), "{error}");
            assert_eq!(counter.zeros(1 << 20).unwrap().len(), 1 << 20);
        },
    );
}

#[test]
fn nothing_is_left_behind() {
    alone("nothing_is_left_behind", || {
        let _watchdog = watchdog(60);
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        // What stays once it was needed: launcher, supervisor.
        drop(Manager::new().unwrap());
        eventually(|| support::children().is_empty());
        // More than stays, where the first one's end is still being settled.
        let (before, descriptors) = (mp::__private::audit().unwrap(), open());
        for _ in 0..5 {
            let manager = Manager::new().unwrap();
            let map = Map::<u32, List<u32>>::new(&manager).unwrap();
            for number in 0..10 {
                let list = List::new(&manager).unwrap();
                list.push(&number).unwrap();
                map.insert(&number, &list).unwrap();
            }
            manager.shutdown().unwrap();
        }
        eventually(|| {
            let now = mp::__private::audit().unwrap();
            now.faults.is_empty() && now.objects <= before.objects && open() <= descriptors
        });
        eventually(|| support::children().is_empty());
    });
}

// Ready-made objects.

#[test]
fn map_keeps_entries_in_order_and_changes_them() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let map = Map::<String, i64>::new(&manager).unwrap();
    let key = |text: &str| text.to_owned();
    assert_eq!(map.insert(&key("a"), &1).unwrap(), None);
    assert_eq!(map.insert(&key("a"), &2).unwrap(), Some(1));
    assert_eq!(
        map.insert_many([(key("b"), 3), (key("a"), 4), (key("c"), 5)])
            .unwrap(),
        2
    );
    assert_eq!(map.keys().unwrap(), ["a", "b", "c"]);
    assert_eq!(map.values().unwrap(), [4, 3, 5]);
    assert_eq!(
        map.get_many([&key("c"), &key("x")]).unwrap(),
        [Some(5), None]
    );
    assert!(map.contains_key(&key("b")).unwrap());
    assert_eq!(map.get_or_insert(&key("b"), &9).unwrap(), 3);
    assert_eq!(map.get_or_insert(&key("d"), &9).unwrap(), 9);
    assert!(!map.replace_if(&key("d"), &8, &7).unwrap());
    assert!(map.replace_if(&key("d"), &9, &7).unwrap());
    assert!(!map.replace_if(&key("x"), &9, &7).unwrap());
    assert_eq!(map.remove(&key("a")).unwrap(), Some(4));
    assert_eq!(map.remove(&key("a")).unwrap(), None);
    assert_eq!(map.pop().unwrap(), Some((key("d"), 7)));
    assert_eq!(map.remove_many(&[key("b"), key("x")]).unwrap(), 1);
    assert_eq!(map.items().unwrap(), [(key("c"), 5)]);
    map.clear().unwrap();
    assert!(map.is_empty().unwrap());
    assert_eq!(map.pop().unwrap(), None);
}

#[test]
fn list_changes_at_both_ends_and_inside() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let list = List::<u32>::new(&manager).unwrap();
    list.push_many(0..5).unwrap();
    list.push_front(&9).unwrap();
    assert_eq!(list.to_vec().unwrap(), [9, 0, 1, 2, 3, 4]);
    assert_eq!(list.slice(1..3).unwrap(), [0, 1]);
    assert_eq!(list.slice(4..=100).unwrap(), [3, 4]);
    assert_eq!(list.slice(7..).unwrap(), []);
    assert_eq!(list.set(2, &7).unwrap(), Some(1));
    assert_eq!(list.set(6, &7).unwrap(), None);
    assert_eq!(list.find(&7).unwrap(), Some(2));
    assert_eq!(list.find(&8).unwrap(), None);
    assert!(list.insert(6, &5).unwrap() && !list.insert(8, &5).unwrap());
    assert_eq!(list.remove(0).unwrap(), Some(9));
    assert_eq!(list.remove(10).unwrap(), None);
    assert_eq!(
        (list.pop().unwrap(), list.pop_front().unwrap()),
        (Some(5), Some(0))
    );
    list.reverse().unwrap();
    assert_eq!(list.to_vec().unwrap(), [4, 3, 2, 7]);
    list.truncate(2).unwrap();
    assert_eq!(list.len().unwrap(), 2);
    list.clear().unwrap();
    assert_eq!(list.pop().unwrap(), None);
    assert!(list.is_empty().unwrap());
}

#[test]
fn set_keeps_each_element_once() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let set = Set::<(u8, String)>::new(&manager).unwrap();
    let one = |n: u8| (n, "x".to_owned());
    assert_eq!(set.insert_many((0..9).map(one)).unwrap(), 9);
    assert!(!set.insert(&one(3)).unwrap());
    assert!(set.contains(&one(3)).unwrap() && !set.contains(&one(9)).unwrap());
    assert!(set.remove(&one(3)).unwrap() && !set.remove(&one(3)).unwrap());
    assert_eq!(set.remove_many(&[one(0), one(3)]).unwrap(), 1);
    set.keep_only(&[one(1), one(8), one(3)]).unwrap();
    assert_eq!(set.to_vec().unwrap(), [one(1), one(8)]);
    assert_eq!(set.pop().unwrap(), Some(one(8)));
    assert_eq!(set.len().unwrap(), 1);
    set.clear().unwrap();
    assert!(set.is_empty().unwrap());
}

#[test]
fn namespace_tells_the_type_of_what_it_has() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let names = Namespace::new(&manager).unwrap();
    names.set("a", &1_u32).unwrap();
    names.set("b", &vec![1.5_f64]).unwrap();
    names.set("lock", &Lock::new().unwrap()).unwrap();
    assert_eq!(names.get::<u32>("a").unwrap(), Some(1));
    assert_eq!(names.get::<Vec<f64>>("b").unwrap(), Some(vec![1.5]));
    assert_eq!(names.get::<u32>("c").unwrap(), None);
    let lock = names.get::<Lock>("lock").unwrap().unwrap();
    drop(lock.acquire().unwrap());
    let error = names.get::<i32>("a").unwrap_err();
    assert!(error.is_not_decoded());
    assert_eq!(
        error.to_string(),
        "\"a\" is a u32, and was asked for as a i32"
    );
    assert_eq!(names.names().unwrap(), ["a", "b", "lock"]);
    assert!(names.remove("a").unwrap() && !names.remove("a").unwrap());
}

#[mp::task]
fn fill(nested: Map<String, List<Queue<u32>>>) -> mp::Result<()> {
    for list in nested.values()? {
        for queue in list.to_vec()? {
            queue.put(7)?;
        }
    }
    Ok(())
}

#[test]
fn objects_hold_objects_and_queues() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let nested = Map::new(&manager).unwrap();
    for name in ["a", "b"] {
        let list = List::new(&manager).unwrap();
        list.push_many([Queue::<u32>::new().unwrap(), Queue::new().unwrap()])
            .unwrap();
        nested.insert(&name.to_owned(), &list).unwrap();
        // The only handle is the one in the map.
    }
    let child = Process::new(fill, (nested.clone(),)).start().unwrap();
    child.join().unwrap().unwrap();
    for name in nested.keys().unwrap() {
        for queue in nested.get(&name).unwrap().unwrap().to_vec().unwrap() {
            assert_eq!(queue.try_get().unwrap(), 7);
        }
    }
}

// Other programs.

fn key() -> Key {
    Key::new("the key of these tests").unwrap()
}

fn unique() -> Address {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Address::Abstract(format!("mp-manager-{}-{number}", std::process::id()))
}

const ADDRESS: &str = "MP_TEST_ADDRESS";

/// The body of the other program, which a test below executes.
#[test]
fn other_program() {
    if is_alone("other_program") {
        run_alone(|| {
            let address: Address = std::env::var(ADDRESS).unwrap().parse().unwrap();
            let manager = RemoteManager::connect(address, &key()).unwrap();
            let counter = manager.get::<SharedCounter>("counter").unwrap();
            for _ in 0..100 {
                counter.incr(1).unwrap();
            }
            let ages = manager.get::<Map<String, u32>>("ages").unwrap();
            ages.insert(&"ann".to_owned(), &31).unwrap();
        });
    }
}

#[test]
fn other_programs_use_what_is_published() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let counter = SharedCounter::new(&manager, 0).unwrap();
    manager.publish("counter", &counter).unwrap();
    let ages = Map::<String, u32>::new(&manager).unwrap();
    manager.publish("ages", &ages).unwrap();
    let address = manager.listen(unique(), &key()).unwrap();
    let mut others: Vec<_> = (0..2)
        .map(|_| {
            let mut command = alone_command("other_program");
            command.env(ADDRESS, address.to_string());
            command.spawn().unwrap()
        })
        .collect();
    for _ in 0..100 {
        counter.incr(1).unwrap();
    }
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    assert_eq!(counter.get().unwrap(), 300);
    assert_eq!(ages.get(&"ann".to_owned()).unwrap(), Some(31));
    manager.shutdown().unwrap();
}

#[test]
fn what_another_program_may_not_is_told_it() {
    let _watchdog = watchdog(60);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("manager");
    let (manager, elsewhere) = (Manager::new().unwrap(), Manager::new().unwrap());
    let counter = SharedCounter::new(&manager, 1).unwrap();
    manager.publish("counter", &counter).unwrap();
    let queues = List::<Queue<u8>>::new(&manager).unwrap();
    queues.push(&Queue::new().unwrap()).unwrap();
    manager.publish("queues", &queues).unwrap();
    assert!(elsewhere.publish("counter", &counter).is_err());
    // What is published stays.
    drop(queues);
    manager.listen(path.as_path(), &key()).unwrap();
    assert!(manager.listen(path.as_path(), &key()).is_err());

    let wrong = Key::new("not the key of these tests").unwrap();
    let error = RemoteManager::connect(path.as_path(), &wrong).unwrap_err();
    assert!(error.is_refused(), "{error}");

    let remote = RemoteManager::connect(path.as_path(), &key()).unwrap();
    let error = remote.get::<SharedCounter>("countre").unwrap_err();
    assert!(error.to_string().contains("\"counter\""), "{error}");
    let error = remote.get::<List<u8>>("counter").unwrap_err();
    assert!(error.is_wrong_build(), "{error}");

    let there = remote.get::<SharedCounter>("counter").unwrap();
    let error = there.panic_after(1).unwrap_err();
    assert!(error.task().is_some_and(|task| task.is_panic()), "{error}");
    assert_eq!(there.get().unwrap(), 2);
    // Handles mean nothing there, whichever way they go.
    let queue = || Queue::new().unwrap();
    let error = there.take_long(queue(), queue()).unwrap_err();
    assert!(
        error.is_not_encoded() && error.to_string().contains("means nothing"),
        "{error}"
    );
    let remote_queues = remote.get::<List<Queue<u8>>>("queues").unwrap();
    let error = remote_queues.get(0).unwrap_err();
    assert!(error.to_string().contains("means nothing"), "{error}");
    assert_eq!(remote_queues.len().unwrap(), 1);
    assert!(manager.publish("again", &there).is_err());
    let sent = Queue::new().unwrap();
    assert!(sent.put(there.clone()).is_err());
    assert_eq!(there.get().unwrap(), 2);

    manager.shutdown().unwrap();
    let error = there.get().unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert!(!path.exists());
}

/// What another program might break.
struct Vault {
    sum: u64,
}

#[mp::shared(name = "tests.vault")]
impl Vault {
    pub fn new(sum: u64) -> Self {
        Self { sum }
    }

    pub fn add(&mut self, note: String, by: u64) -> u64 {
        assert_eq!(note, "fine");
        self.sum += by;
        self.sum
    }
}

/// A request as bytes: what it is, and its parts.
fn forged(what: u32, parts: &[&[u8]]) -> Vec<u8> {
    [&what.to_le_bytes()[..], &parts.concat()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Asks for the number of the vault that is published as `name`.
fn forged_find(name: &str) -> Vec<u8> {
    let looks = ["new(u64) -> Self", "add(String, u64) -> u64"].map(text);
    let count = (looks.len() as u64).to_le_bytes();
    forged(
        0,
        &[&text(name), &text("tests.vault"), &count, &looks.concat()],
    )
}

fn forged_call(object: u64, function: u32, arguments: &[u8]) -> Vec<u8> {
    forged(
        1,
        &[&object.to_le_bytes(), &function.to_le_bytes(), arguments],
    )
}

/// Another program that knows the key, and says what it likes.
struct Forger(Client<(), ()>);

impl Forger {
    fn at(address: &Address) -> Self {
        Self(Client::connect(address, &key()).unwrap())
    }

    fn ask(&self, question: &[u8]) -> mp::Result<Vec<u8>> {
        self.0.send_bytes(question)?;
        self.0.recv_bytes()
    }

    fn find(&self, name: &str) -> u64 {
        let answer = self.ask(&forged_find(name)).unwrap();
        let said = String::from_utf8_lossy(&answer);
        // A record's header, `Ok`, and the number.
        assert_eq!(answer.len(), 4 + 4 + 8, "{said}");
        u64::from_le_bytes(answer[8..].try_into().unwrap())
    }

    /// What the manager says of a question that makes no sense.
    fn is_told(&self, question: &[u8], expected: &str) {
        let answer = self.ask(question).unwrap();
        assert_ne!(answer[3] >> 4, 0, "an outcome of a call that returned");
        let said = String::from_utf8_lossy(&answer).into_owned();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn forged_calls_are_errors_for_who_sends_them_and_nobody_else() {
    let _watchdog = watchdog(120);
    let manager = Manager::new().unwrap();
    let vault = SharedVault::new(&manager, 1).unwrap();
    let hidden = SharedVault::new(&manager, 2).unwrap();
    manager.publish("vault", &vault).unwrap();
    let address = manager.listen(unique(), &key()).unwrap();
    let honest = RemoteManager::connect(&address, &key()).unwrap();
    let honest = honest.get::<SharedVault>("vault").unwrap();
    let fine = [text("fine"), 7_u64.to_le_bytes().to_vec()].concat();

    let forger = Forger::at(&address);
    let number = forger.find("vault");
    forger.ask(&forged_call(number, 1, &fine)).unwrap();
    assert_eq!(vault.add("fine".to_owned(), 0).unwrap(), 8);

    // Functions that there are not, and one that would replace the object.
    for function in [2, 3, u32::MAX] {
        forger.is_told(&forged_call(number, function, &fine), "no such function");
    }
    forger.is_told(&forged_call(number, 0, &[9; 8]), "not called on one");
    // Arguments that are none.
    let claims_much = u64::MAX.to_le_bytes();
    let no_text = [&8_u64.to_le_bytes()[..], &[0xFF; 16]].concat();
    let cut = &fine[..fine.len() - 1];
    for arguments in [&[][..], &claims_much, &no_text, cut] {
        forger.is_told(&forged_call(number, 1, arguments), "argument");
    }
    forger.is_told(&forged_call(number, 1, &vec![0xFF; 4 << 20]), "argument");
    forger.is_told(&forged_call(number, 1, &vec![0; 4 << 20]), "fine");

    // Objects that nobody told it of, and what is no request: that is the end of it.
    for object in (0..64).flat_map(|index| (0..4).map(move |generation| index << 32 | generation)) {
        if object != number {
            let error = Forger::at(&address).ask(&forged_call(object, 1, &fine));
            assert!(error.unwrap_err().is_closed());
        }
    }
    let much = [&0_u32.to_le_bytes()[..], &claims_much].concat();
    for question in [&[][..], &[7; 40], &much] {
        assert!(Forger::at(&address).ask(question).unwrap_err().is_closed());
    }
    // A number is good for the connection that it was told on.
    let error = Forger::at(&address).ask(&forged_call(number, 1, &fine));
    assert!(error.unwrap_err().is_closed());

    // One that was there, and is gone.
    let other = SharedVault::new(&manager, 3).unwrap();
    manager.publish("vault", &other).unwrap();
    drop((vault, honest));
    eventually(|| {
        let answer = forger.ask(&forged_call(number, 1, &fine)).unwrap();
        answer[3] >> 4 != 0
    });
    forger.is_told(&forged_call(number, 1, &fine), "no longer exists");

    assert_eq!(hidden.add("fine".to_owned(), 0).unwrap(), 2);
    assert_eq!(other.add("fine".to_owned(), 1).unwrap(), 4);
    manager.shutdown().unwrap();
}

#[test]
fn longer_message_than_a_manager_takes_ends_its_connection_alone() {
    let _watchdog = watchdog(60);
    let manager = Manager::new().unwrap();
    let vault = SharedVault::new(&manager, 1).unwrap();
    manager.publish("vault", &vault).unwrap();
    let address = manager.listen(unique(), &key()).unwrap();
    let forger = Forger::at(&address);
    let mut raw = std::os::unix::net::UnixStream::from(
        std::os::fd::AsFd::as_fd(&forger.0)
            .try_clone_to_owned()
            .unwrap(),
    );
    let header = (u64::MAX << 8) | 2;
    std::io::Write::write_all(&mut raw, &header.to_le_bytes()).unwrap();
    assert!(forger.0.recv_bytes().unwrap_err().is_closed());
    let honest = RemoteManager::connect(&address, &key()).unwrap();
    let same = honest.get::<SharedVault>("vault").unwrap();
    assert_eq!(same.add("fine".to_owned(), 1).unwrap(), 2);
}

#[test]
fn handles_go_to_any_thread() {
    fn goes_anywhere<T: Send + Sync + Clone>() {}
    goes_anywhere::<Manager>();
    goes_anywhere::<RemoteManager>();
    goes_anywhere::<SharedCounter>();
    goes_anywhere::<Map<Queue<u8>, u8>>();
    goes_anywhere::<List<Queue<u8>>>();
    goes_anywhere::<Set<u8>>();
    goes_anywhere::<Namespace>();
    let debug: BTreeSet<_> = [
        format!("{:?}", Manager::new().unwrap()),
        format!("{:?}", Set::<u8>::new(&Manager::new().unwrap()).unwrap()),
    ]
    .into();
    assert!(debug.iter().all(|text| !text.is_empty()));
}
