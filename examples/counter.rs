//! Four processes add to one number in a file; with a lock no update is lost, without it some are:
//! `cargo run --example counter`

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mp::{AnyError, Lock, Process};

const PROCESSES: u64 = 4;
const TIMES: u64 = 50;

/// Adds one, `TIMES` times, holding the lock meanwhile if there is one.
#[mp::task]
fn count(path: PathBuf, lock: Option<Lock>) -> Result<(), AnyError> {
    for _ in 0..TIMES {
        // The guard lets the lock go at the end of each round.
        let _guard = lock.as_ref().map(Lock::acquire).transpose()?;
        add_one(&path)?;
    }
    Ok(())
}

/// Reads the number, takes a moment, and writes the next: two processes that do so at the same time
/// write the same.
fn add_one(path: &Path) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes)?;
    std::thread::sleep(Duration::from_micros(200));
    file.rewind()?;
    file.write_all(&(u64::from_le_bytes(bytes) + 1).to_le_bytes())
}

/// Lets all processes count at once; returns the number in the file at the end.
fn run(path: &Path, lock: Option<&Lock>) -> Result<u64, Box<dyn Error>> {
    fs::write(path, 0_u64.to_le_bytes())?;
    let children = (0..PROCESSES)
        .map(|_| Process::new(count, (path.to_owned(), lock.cloned())).start())
        .collect::<mp::Result<Vec<_>>>()?;
    for child in children {
        child.join()??;
    }
    let bytes = fs::read(path)?;
    Ok(u64::from_le_bytes(bytes.as_slice().try_into()?))
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("number");
    let all = PROCESSES * TIMES;

    let lock = Lock::new()?;
    let with = run(&path, Some(&lock))?;
    println!("with the lock:    {with} of {all}, {} lost", all - with);

    let without = run(&path, None)?;
    println!(
        "without the lock: {without} of {all}, {} lost",
        all - without
    );

    assert_eq!(with, all);
    // How many are lost is a matter of luck: nothing is asserted of that but the bound.
    assert!(without <= all);
    Ok(())
}
