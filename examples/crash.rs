//! Tasks that panic, abort, are killed and touch memory that is not theirs; the others finish:
//! `cargo run --example crash`
//!
//! Whatever a task does to its process, the caller gets a value that says what it was.

use std::error::Error;
use std::process::Command;

use mp::{Pool, Process, TaskError};
use serde::{Deserialize, Serialize};

/// What happens in the course of a task.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Fate {
    Finish,
    Panic,
    Exit,
    Abort,
    Killed,
    Segfault,
}

/// Returns the square of a number, if it gets that far.
#[mp::task]
fn suffer((number, fate): (u32, Fate)) -> u32 {
    match fate {
        Fate::Finish => {}
        Fate::Panic => panic!("number {number} is not to my liking"),
        Fate::Exit => std::process::exit(3),
        Fate::Abort => std::process::abort(),
        Fate::Killed => {
            // The shell's parent is this process.
            let _ = Command::new("sh").args(["-c", "kill -KILL $PPID"]).status();
        }
        Fate::Segfault => {
            let nowhere = std::ptr::without_provenance_mut::<u8>(16);
            // SAFETY: none. No page is ever mapped there, so the system ends the process: this is
            // what a fault in native code does.
            unsafe { nowhere.write_volatile(1) };
        }
    }
    number * number
}

/// Whether the outcome is what this fate leads to.
fn is_right(fate: Fate, number: u32, outcome: &Result<u32, TaskError>) -> bool {
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGSEGV: i32 = 11;
    match (fate, outcome) {
        (Fate::Finish, Ok(square)) => *square == number * number,
        (Fate::Panic, Err(error)) => error.is_panic() && error.file() == Some(file!()),
        (Fate::Exit, Err(error)) => error.is_crash() && error.exit_code() == Some(3),
        (Fate::Abort, Err(error)) => error.signal() == Some(SIGABRT),
        (Fate::Killed, Err(error)) => error.signal() == Some(SIGKILL),
        (Fate::Segfault, Err(error)) => error.signal() == Some(SIGSEGV),
        _ => false,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    use Fate::{Abort, Exit, Finish, Killed, Panic, Segfault};
    let fates = [
        Finish, Panic, Finish, Abort, Finish, Killed, Finish, Segfault, Finish, Exit, Finish,
    ];
    let items: Vec<(u32, Fate)> = (0..).zip(fates).collect();

    println!("each in a process of its own:");
    let children = items
        .iter()
        .map(|&item| Process::new(suffer, (item,)).start())
        .collect::<mp::Result<Vec<_>>>()?;
    let outcomes: Vec<_> = children.iter().map(mp::Child::join).collect();
    check(&items, &outcomes)?;

    println!("in a pool of two workers, which are replaced when they die:");
    let pool = Pool::new(2)?;
    let outcomes = pool.try_map(suffer, items.clone())?;
    check(&items, &outcomes)
}

/// Prints each outcome, and fails if one is not what it must be.
fn check(items: &[(u32, Fate)], outcomes: &[Result<u32, TaskError>]) -> Result<(), Box<dyn Error>> {
    assert_eq!(items.len(), outcomes.len());
    for (&(number, fate), outcome) in items.iter().zip(outcomes) {
        match outcome {
            Ok(square) => println!("  {number:2} {fate:?}: {square}"),
            Err(error) => println!("  {number:2} {fate:?}: {error}"),
        }
        if !is_right(fate, number, outcome) {
            return Err(format!("{fate:?} cannot come to {outcome:?}").into());
        }
    }
    Ok(())
}
