//! Counts the words of all files below a directory, in the workers of a pool:
//! `cargo run --release --example word_count -- [DIR] [--workers N] [--top K] [--check]`
//!
//! Files are found as ripgrep finds them: what `.gitignore` names and what is hidden is left out.
//! Paths go to the workers in batches, counts come back as they are ready, and only so many batches
//! are under way at once; so memory is taken by the words that there are, not by the files. A file
//! that cannot be read or is not text is reported at the end and stops nothing. With `--check` the
//! same is counted in this process alone, and compared.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use mp::Pool;
use serde::{Deserialize, Serialize};

/// Count the words of all files below a directory.
#[derive(Parser)]
struct Options {
    /// Where to look.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Worker processes; as many as there are CPUs unless given.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How many words to show.
    #[arg(long, value_name = "K", default_value_t = 10)]
    top: usize,
    /// Count in one process too, and compare.
    #[arg(long)]
    check: bool,
}

/// What was counted: by a worker in a batch, or in all.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    words: HashMap<String, u64>,
    files: u64,
    bytes: u64,
    /// What was not counted, and why.
    problems: Vec<String>,
}

impl Count {
    fn add(&mut self, other: Self) {
        if self.words.is_empty() {
            self.words = other.words;
        } else {
            for (word, count) in other.words {
                *self.words.entry(word).or_default() += count;
            }
        }
        self.files += other.files;
        self.bytes += other.bytes;
        self.problems.extend(other.problems);
    }

    /// The most frequent words, and of those as frequent the first by the alphabet.
    fn top(&self, most: usize) -> Vec<(&str, u64)> {
        let mut words: Vec<_> = self.words.iter().map(|(w, &n)| (w.as_str(), n)).collect();
        words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        words.truncate(most);
        words
    }
}

// In the workers.

/// Counts a batch of files. Paths travel as [`OsString`], since they need not be UTF-8.
#[mp::task]
fn count_batch(paths: Vec<OsString>) -> Count {
    let mut count = Count::default();
    for path in paths {
        match count_file(Path::new(&path), &mut count.words) {
            Ok(bytes) => {
                count.files += 1;
                count.bytes += bytes;
            }
            Err(why) => {
                let path = Path::new(&path).display();
                count.problems.push(format!("{path}: {why}"));
            }
        }
    }
    count
}

/// So much of a file is in memory at once.
const PIECE: usize = 1 << 20;

/// Adds the words of a file and returns its length; adds nothing if it is not text.
fn count_file(path: &Path, words: &mut HashMap<String, u64>) -> Result<u64, Box<dyn Error>> {
    let mut file = File::open(path)?;
    let mut piece = Vec::new();
    if read_more(&mut file, &mut piece)? < PIECE {
        add_words(text(&mut piece)?, words);
        return Ok(piece.len() as u64);
    }

    // That it is no text may show at its end only, so a long file is counted apart.
    let mut own = HashMap::new();
    let mut bytes = 0;
    loop {
        // The word at the end may go on in the next piece.
        let space = piece.iter().rposition(u8::is_ascii_whitespace);
        let end = space.unwrap_or(0);
        if end == 0 && piece.len() >= PIECE {
            return Err("has a megabyte without a space".into());
        }
        let rest = piece.split_off(end);
        add_words(text(&mut piece)?, &mut own);
        bytes += piece.len() as u64;
        piece = rest;
        if read_more(&mut file, &mut piece)? == 0 {
            break;
        }
    }
    add_words(text(&mut piece)?, &mut own);
    bytes += piece.len() as u64;
    for (word, count) in own {
        *words.entry(word).or_default() += count;
    }
    Ok(bytes)
}

fn read_more(file: &mut File, piece: &mut Vec<u8>) -> io::Result<usize> {
    file.take(PIECE as u64).read_to_end(piece)
}

/// The bytes as text in small letters, as far as they are ASCII.
fn text(bytes: &mut [u8]) -> Result<&str, Box<dyn Error>> {
    if bytes.contains(&0) {
        return Err("is not text".into());
    }
    bytes.make_ascii_lowercase();
    str::from_utf8(bytes).map_err(|_| "is not UTF-8".into())
}

/// A word is a run of letters and digits, whatever their case.
fn add_words(text: &str, words: &mut HashMap<String, u64>) {
    for word in text.split(|letter: char| !letter.is_alphanumeric()) {
        if word.is_empty() {
            continue;
        }
        if !word.is_ascii() {
            *words.entry(word.to_lowercase()).or_default() += 1;
        } else if let Some(count) = words.get_mut(word) {
            *count += 1;
        } else {
            words.insert(word.to_owned(), 1);
        }
    }
}

// In the main process.

/// A batch is sent when it holds so many bytes of text or so many files. The first ones are small,
/// so that every worker has something to do soon.
const BATCH_BYTES: u64 = 4 << 20;
const FIRST_BATCH_BYTES: u64 = 1 << 18;
const BATCH_FILES: usize = 256;

/// The files below a directory, in batches; what cannot be walked is added to `problems`.
fn batches(dir: &Path, problems: &mut Vec<String>) -> impl Iterator<Item = Vec<OsString>> {
    let mut files = ignore::Walk::new(dir)
        .filter_map(|entry| match entry {
            Ok(entry) if entry.file_type()?.is_file() => {
                let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                Some((entry.into_path().into_os_string(), bytes))
            }
            Ok(_) => None,
            Err(error) => {
                problems.push(error.to_string());
                None
            }
        })
        .fuse();
    let mut limit = FIRST_BATCH_BYTES;
    std::iter::from_fn(move || {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_FILES && bytes < limit {
            let Some((path, more)) = files.next() else {
                break;
            };
            batch.push(path);
            bytes += more;
        }
        limit = (2 * limit).min(BATCH_BYTES);
        (!batch.is_empty()).then_some(batch)
    })
}

/// Counts with a pool.
fn count_in_pool(dir: &Path, workers: usize) -> mp::Result<Count> {
    let mut total = Count::default();
    let mut problems = Vec::new();
    let bar = progress_bar();
    let pool = Pool::new(workers)?;
    for outcome in pool.imap_unordered(count_batch, batches(dir, &mut problems))? {
        match outcome {
            Ok(count) => total.add(count),
            // A worker that dies takes one batch with it.
            Err(error) => total.problems.push(format!("a batch is missing: {error}")),
        }
        bar.set_position(total.bytes);
        bar.set_message(format!("{} files", total.files));
    }
    bar.finish_and_clear();
    total.problems.append(&mut problems);
    Ok(total)
}

/// Counts the same in this process.
fn count_here(dir: &Path) -> Count {
    let mut total = Count::default();
    let mut problems = Vec::new();
    for batch in batches(dir, &mut problems) {
        total.add(count_batch(batch));
    }
    total.problems.append(&mut problems);
    total
}

/// Shows how far it has come, on a terminal only.
fn progress_bar() -> ProgressBar {
    let template = "{spinner} {msg}, {bytes}, {bytes_per_sec}";
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn print(count: &Count, top: usize, time: Duration) {
    for (word, times) in count.top(top) {
        println!("{times:>12}  {word}");
    }
    let seconds = time.as_secs_f64();
    let megabytes = count.bytes as f64 / 1e6;
    println!(
        "{} different words in {} files, {} bytes, {seconds:.2} s, {:.1} MB/s",
        count.words.len(),
        count.files,
        count.bytes,
        megabytes / seconds
    );
    const SHOWN: usize = 10;
    if !count.problems.is_empty() {
        println!("{} left out:", count.problems.len());
    }
    for problem in count.problems.iter().take(SHOWN) {
        println!("  {problem}");
    }
    if count.problems.len() > SHOWN {
        println!("  and {} more", count.problems.len() - SHOWN);
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse();
    let workers = options.workers.unwrap_or_else(mp::cpu_count);
    std::fs::metadata(&options.dir)
        .map_err(|error| format!("{}: {error}", options.dir.display()))?;

    let start = Instant::now();
    let mut count = count_in_pool(&options.dir, workers)?;
    let time = start.elapsed();
    count.problems.sort_unstable();
    print(&count, options.top, time);

    if options.check {
        let start = Instant::now();
        let mut alone = count_here(&options.dir);
        let time_alone = start.elapsed();
        alone.problems.sort_unstable();
        let speed_up = time_alone.as_secs_f64() / time.as_secs_f64();
        println!(
            "one process: {:.2} s; {workers} workers are {speed_up:.2} times as fast",
            time_alone.as_secs_f64()
        );
        if count != alone {
            eprintln!("the counts differ");
            return Ok(ExitCode::FAILURE);
        }
        println!("the counts are the same");
    }
    Ok(ExitCode::SUCCESS)
}
