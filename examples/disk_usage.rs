//! The sizes of directories, by a task that calls itself: `cargo run --example disk_usage -- DIRECTORY`.
//!
//! Each directory is a call of the pool that the task itself runs in. A task that waits for those below
//! it counts as idle, so that with `--workers 1` the tree may be as deep as it likes. What cannot be
//! read is told and costs nothing else.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is in a directory and all below it.
#[derive(serde::Serialize, serde::Deserialize, Default)]
struct Usage {
    bytes: u64,
    /// The directories right in it, each with its own.
    inside: BTreeMap<PathBuf, u64>,
    /// What could not be read.
    failed: Vec<String>,
}

#[mp::task]
fn usage(directory: PathBuf) -> Usage {
    let mut sum = Usage::default();
    let directories = match read(&directory, &mut sum.bytes) {
        Ok(directories) => directories,
        Err(error) => {
            sum.failed.push(format!("{}: {error}", directory.display()));
            return sum;
        }
    };
    if directories.is_empty() {
        return sum;
    }
    let outcomes = mp::pool().and_then(|pool| pool.try_map(usage, directories.clone()));
    let outcomes = match outcomes {
        Ok(outcomes) => outcomes,
        Err(error) => {
            sum.failed.push(error.to_string());
            return sum;
        }
    };
    for (path, outcome) in directories.into_iter().zip(outcomes) {
        match outcome {
            Ok(below) => {
                sum.bytes += below.bytes;
                sum.failed.extend(below.failed);
                sum.inside.insert(path, below.bytes);
            }
            Err(error) => sum.failed.push(error.to_string()),
        }
    }
    sum
}

/// Adds the lengths of a directory's files to `bytes` and returns the directories in it.
fn read(directory: &Path, bytes: &mut u64) -> io::Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Links are not followed.
        let metadata = entry.metadata()?;
        match metadata.is_dir() {
            true => directories.push(entry.path()),
            false => *bytes += metadata.len(),
        }
    }
    Ok(directories)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut directory, mut workers) = (PathBuf::from("."), mp::cpu_count());
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--workers" {
            let number = arguments.next().ok_or("--workers needs a number")?;
            workers = number.to_string_lossy().parse()?;
        } else {
            directory = argument.into();
        }
    }

    let pool = mp::Pool::new(workers)?;
    let usage = pool.apply(usage, (directory.clone(),))?;
    for (path, bytes) in &usage.inside {
        println!("{bytes:>12}  {}", path.strip_prefix(&directory)?.display());
    }
    println!("{:>12}  in all", usage.bytes);
    for failed in &usage.failed {
        eprintln!("{failed}");
    }
    Ok(())
}
