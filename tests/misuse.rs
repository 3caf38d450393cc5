//! Wrong uses of what processes share, and what each is answered. What the compiler refuses is in
//! `mp-runtime/tests/ui`: data without a size or with pointers in it, a guard that is sent to a thread
//! or a process, an end of a pipe that sends what it may only receive.

mod support;

use std::thread;

use mp::{Array, Barrier, BoundedSemaphore, Event, Lock, Process, Queue, RLock, Semaphore};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use support::{eventually, watchdog};

/// A handle as it travels: program, place in the object table, generation there.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Name(u64, u32, u32);

/// Sent as a lock, received as what a lock is while it travels.
enum Peek {
    Lock(Lock),
    Name(Name),
}

impl Serialize for Peek {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Lock(lock) => lock.serialize(serializer),
            Self::Name(name) => name.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Peek {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Name::deserialize(deserializer).map(Self::Name)
    }
}

/// Sent as a name made by hand, received as what it names.
enum Forged<T> {
    Name(Name),
    Real(T),
}

impl<T> Serialize for Forged<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => name.serialize(serializer),
            Self::Real(_) => unreachable!("only names are sent"),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Forged<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::Real)
    }
}

/// What the handle of a lock is while it travels.
fn name_of(lock: &Lock) -> Name {
    let queue = Queue::new().unwrap();
    queue.put(Peek::Lock(lock.clone())).unwrap();
    match queue.get().unwrap() {
        Peek::Name(name) => name,
        Peek::Lock(_) => unreachable!("only names are received"),
    }
}

/// What comes of receiving a handle that was made by hand.
fn receive<T: mp::Transfer>(name: Name) -> Result<T, String> {
    let queue = Queue::<Forged<T>>::new().unwrap();
    queue.put(Forged::Name(name)).unwrap();
    match queue.get() {
        Ok(Forged::Real(it)) => Ok(it),
        Ok(Forged::Name(_)) => unreachable!("only the named are received"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn handle_of_another_program_is_refused() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let Name(program, entry, generation) = name_of(&lock);
    let same: Lock = receive(Name(program, entry, generation)).unwrap();
    let guard = same.acquire().unwrap();
    assert!(lock.is_locked());
    drop(guard);
    let error = receive::<Lock>(Name(program ^ 1, entry, generation)).unwrap_err();
    assert!(error.contains("another program"), "{error}");
}

#[test]
fn handle_whose_object_is_gone_is_refused() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let name = name_of(&lock);
    drop(lock);
    let error = receive::<Lock>(name).unwrap_err();
    assert!(error.contains("no longer exists"), "{error}");
    // Nor does it name the next one in that place.
    let others: Vec<_> = (0..3).map(|_| Lock::new().unwrap()).collect();
    assert!(receive::<Lock>(name).is_err());
    drop(others);
    // Nor what lies beyond all of them.
    assert!(receive::<Lock>(Name(name.0, u32::MAX, 0)).is_err());
}

#[test]
fn handle_of_another_kind_is_refused() {
    let _watchdog = watchdog(60);
    let lock = Lock::new().unwrap();
    let name = name_of(&lock);
    let errors = [
        receive::<RLock>(name).unwrap_err(),
        receive::<Semaphore>(name).unwrap_err(),
        receive::<Event>(name).unwrap_err(),
        receive::<Barrier>(name).unwrap_err(),
        receive::<Queue<u8>>(name).unwrap_err(),
        receive::<Array<u8>>(name).unwrap_err(),
    ];
    for error in errors {
        assert!(error.contains("another kind"), "{error}");
    }
}

#[test]
fn values_that_do_not_fit_change_nothing() {
    let _watchdog = watchdog(60);
    let array = Array::from_slice(&[1, 2, 3]).unwrap();
    let error = array.write(2, &[8, 9]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the values 2 to 4 do not lie within the 3 of the array"
    );
    assert!(array.write(usize::MAX, &[8, 9]).is_err());
    assert_eq!(array.read(..).unwrap(), [1, 2, 3]);
}

#[mp::task]
fn release(seats: BoundedSemaphore) -> Result<(), String> {
    seats.release().map_err(|error| error.to_string())
}

/// A permit in somebody's hands is not another's to give back.
#[test]
fn release_by_another_is_an_error() {
    let _watchdog = watchdog(60);
    let seats = BoundedSemaphore::new(1).unwrap();
    let permit = seats.acquire();
    let child = Process::new(release, (seats.clone(),)).start().unwrap();
    let error = child.join().unwrap().unwrap_err();
    assert!(error.contains("at most 1"), "{error}");
    assert!(seats.try_acquire().is_err());
    drop(permit);
    assert_eq!(seats.available(), 1);
}

#[test]
fn barrier_that_is_reset_in_use_says_so() {
    let _watchdog = watchdog(60);
    let barrier = Barrier::new(2).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| barrier.wait());
        eventually(|| barrier.waiting() == 1);
        barrier.reset();
        let error = waiter.join().unwrap().unwrap_err();
        assert!(error.is_reset());
        assert_eq!(
            error.to_string(),
            "the barrier was reset while this party waited"
        );
    });
    assert!(!barrier.is_broken());
    assert_eq!(barrier.waiting(), 0);
}
