//! Semaphores, events and barriers, wherever the processes are.

use std::time::Duration;

use super::super::backend::{self, Barrier, Broken, Event, Queue, Semaphore, World, mp};
use super::super::support::watchdog;
use super::{A_MOMENT, Sure};
use mp::{Child, Process};

fn start<R>(process: Process<R>) -> Child<R> {
    process.start().unwrap()
}

fn join_all<R: mp::Transfer>(children: Vec<Child<R>>) -> Vec<R> {
    children
        .into_iter()
        .map(|child| child.join().unwrap())
        .collect()
}

// Semaphores.

#[test]
fn semaphore_test_semaphore() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let semaphore = world.semaphore(2);
    assert_eq!(semaphore.available().sure(), 2);
    let one = semaphore.acquire().sure();
    assert_eq!(semaphore.available().sure(), 1);
    let two = semaphore.acquire().sure();
    assert_eq!(semaphore.available().sure(), 0);
    semaphore.try_acquire().unwrap_err();
    semaphore.acquire_timeout(A_MOMENT).unwrap_err();
    drop(one);
    assert_eq!(semaphore.available().sure(), 1);
    drop(two);
    assert_eq!(semaphore.available().sure(), 2);
    semaphore.release().sure();
    semaphore.release_many(2).sure();
    assert_eq!(semaphore.available().sure(), 5);
}

#[test]
fn semaphore_test_bounded_semaphore() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let semaphore = world.bounded_semaphore(2);
    let one = semaphore.acquire().sure();
    let two = semaphore.try_acquire().unwrap();
    assert_eq!(semaphore.available().sure(), 0);
    semaphore.try_acquire().unwrap_err();
    semaphore.acquire_timeout(A_MOMENT).unwrap_err();
    // They are in our hands, and not missing.
    semaphore.release().unwrap_err();
    drop(one);
    two.consume().sure();
    assert_eq!(semaphore.available().sure(), 1);
    semaphore.release().unwrap();
    assert_eq!(semaphore.available().sure(), 2);
    let error = semaphore.release().unwrap_err();
    assert!(error.to_string().contains("at most 2"), "{error}");
}

// Events.

#[mp::task]
fn set(event: Event) {
    event.set().sure();
}

#[test]
fn event_test_event() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let event = world.event();
    assert!(!event.is_set().sure());
    assert!(!event.wait_timeout(Duration::ZERO).sure());
    assert!(!event.wait_timeout(A_MOMENT).sure());
    event.set().sure();
    for _ in 0..2 {
        assert!(event.is_set().sure());
        assert!(event.wait_timeout(Duration::ZERO).sure());
        event.wait().sure();
    }
    event.clear().sure();
    assert!(!event.is_set().sure());
    assert!(!event.wait_timeout(A_MOMENT).sure());
    let child = start(world.process(set, (event.clone(),)));
    event.wait().sure();
    child.join().unwrap();
    assert!(event.is_set().sure());
}

// Barriers.

const PARTIES: u32 = 5;

fn run_parties<R: mp::Transfer>(
    barrier: &Barrier,
    process: impl Fn(Barrier) -> Process<R>,
) -> Vec<R> {
    let children = (0..barrier.parties())
        .map(|_| start(process(barrier.clone())))
        .collect();
    join_all(children)
}

#[mp::task]
fn lockstep(barrier: Barrier, first: Semaphore, second: Semaphore, rounds: u32) {
    for round in 1..=rounds {
        first.release().sure();
        barrier.wait().unwrap();
        assert_eq!(first.available().sure(), PARTIES * round);
        second.release().sure();
        barrier.wait().unwrap();
        assert_eq!(second.available().sure(), PARTIES * round);
    }
}

fn stays_in_step(rounds: u32) {
    let _watchdog = watchdog(120);
    let Some(world) = World::new() else { return };
    let barrier = world.barrier(PARTIES);
    let (first, second) = (world.semaphore(0), world.semaphore(0));
    run_parties(&barrier, |barrier| {
        world.process(lockstep, (barrier, first.clone(), second.clone(), rounds))
    });
    assert_eq!(
        (barrier.waiting().sure(), barrier.is_broken().sure()),
        (0, false)
    );
}

#[test]
fn barrier_test_barrier() {
    stays_in_step(1);
}

#[test]
fn barrier_test_barrier_10() {
    stays_in_step(10);
}

#[mp::task]
fn act(barrier: Barrier, acted: Semaphore) -> u32 {
    barrier.wait_with(|| acted.release().sure()).unwrap();
    // Nobody goes on before it.
    acted.available().sure()
}

#[test]
fn barrier_test_action() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let barrier = world.barrier(PARTIES);
    let acted = world.semaphore(0);
    for pass in 1..=2 {
        let seen = run_parties(&barrier, |barrier| {
            world.process(act, (barrier, acted.clone()))
        });
        assert_eq!(seen, [pass; PARTIES as usize]);
    }
}

#[mp::task]
fn wait_or_abort(barrier: Barrier, ticket: Semaphore) -> Result<u32, Broken> {
    match ticket.try_acquire() {
        // One of them calls the whole thing off.
        Ok(ticket) => {
            ticket.consume().sure();
            backend::eventually(|| barrier.waiting().sure() == PARTIES - 1);
            barrier.abort().sure();
            barrier.wait().map(|passed| passed.index())
        }
        Err(_) => barrier.wait().map(|passed| passed.index()),
    }
}

#[test]
fn barrier_test_abort() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let barrier = world.barrier(PARTIES);
    let ticket = world.semaphore(1);
    let results = run_parties(&barrier, |barrier| {
        world.process(wait_or_abort, (barrier, ticket.clone()))
    });
    for result in results {
        assert!(backend::is_abort(&result.unwrap_err()));
    }
    assert!(barrier.is_broken().sure());
}

#[mp::task]
fn abort_and_reset(barrier: Barrier, again: Barrier, ticket: Semaphore) -> Result<u32, Broken> {
    let aborted = wait_or_abort(barrier.clone(), ticket);
    assert!(backend::is_abort(&aborted.unwrap_err()));
    // All agree that it was broken before one of them makes it whole.
    again.wait_with(|| barrier.reset().sure())?;
    barrier.wait().map(|passed| passed.index())
}

#[test]
fn barrier_test_abort_and_reset() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let barrier = world.barrier(PARTIES);
    let again = world.barrier(PARTIES);
    let ticket = world.semaphore(1);
    let results = run_parties(&barrier, |barrier| {
        world.process(abort_and_reset, (barrier, again.clone(), ticket.clone()))
    });
    let mut indices: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2, 3, 4]);
    assert!(!barrier.is_broken().sure());
}

#[mp::task]
fn wait_impatiently(barrier: Barrier, late: Semaphore) -> Result<u32, Broken> {
    let result = match late.try_acquire() {
        Ok(late) => {
            late.consume().sure();
            // It comes when the others have lost patience.
            backend::eventually(|| barrier.is_broken().sure());
            barrier.wait()
        }
        Err(_) => barrier.wait_timeout(A_MOMENT),
    };
    result.map(|passed| passed.index())
}

#[test]
fn barrier_test_timeout() {
    let _watchdog = watchdog(60);
    let Some(world) = World::new() else { return };
    let barrier = world.barrier(PARTIES);
    let late = world.semaphore(1);
    let results = run_parties(&barrier, |barrier| {
        world.process(wait_impatiently, (barrier, late.clone()))
    });
    for result in results {
        assert!(backend::is_timeout(&result.unwrap_err()));
    }
}

#[test]
fn barrier_test_single_thread() {
    let Some(world) = World::new() else { return };
    let barrier = world.barrier(1);
    for _ in 0..3 {
        let passed = barrier.wait().unwrap();
        assert_eq!((passed.index(), passed.is_leader()), (0, true));
        assert!(barrier.try_wait().unwrap().is_leader());
    }
}

#[mp::task]
fn pass_often(barrier: Barrier, leaders: Semaphore, pipe: Queue<u32>, passes: u32) {
    for pass in 0..passes {
        let passed = barrier.wait().unwrap();
        if passed.is_leader() {
            leaders.release().sure();
        }
        // Nobody is more than a pass ahead of anybody.
        if passed.index() == 0 {
            pipe.put(pass).unwrap();
        }
    }
}

#[test]
fn barrier_test_thousand() {
    let _watchdog = watchdog(300);
    let passes = backend::PASSES;
    let Some(world) = World::new() else { return };
    let barrier = world.barrier(PARTIES);
    let (leaders, firsts) = (world.semaphore(0), world.queue());
    run_parties(&barrier, |barrier| {
        world.process(
            pass_often,
            (barrier, leaders.clone(), firsts.clone(), passes),
        )
    });
    assert_eq!(leaders.available().sure(), passes);
    firsts.close().sure();
    let mut seen: Vec<_> = (&firsts).into_iter().collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..passes).collect::<Vec<_>>());
}
