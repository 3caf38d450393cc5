//! Makes small pictures of a directory's images, in workers with limits of memory and time:
//! `cargo run --release --example thumbnails -- [DIR] [--out DIR] [--size N] [--workers N]`
//!
//! What is wrong with a file costs the program that file: one that cannot be decoded is an error, one
//! that takes more memory or time than it may ends its worker, which is replaced. Without a directory
//! it makes some pictures first, a few of them broken, and checks what becomes of each.

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use image::{ImageReader, Rgb, RgbImage};
use mp::{AnyError, Pool, TaskError};
use serde::{Deserialize, Serialize};

/// Makes small pictures of a directory's images.
#[derive(Parser)]
struct Options {
    /// The directory with PNG and JPEG files; some are made unless given.
    dir: Option<PathBuf>,
    /// Where the small pictures go; a temporary directory unless given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The longer side of a small picture.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Worker processes; as many as there are CPUs unless given.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Memory of each worker, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
    /// Seconds that a picture may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// One picture to be made.
#[derive(Clone, Serialize, Deserialize)]
struct Order {
    from: PathBuf,
    to: PathBuf,
    size: u32,
}

/// The sizes of a picture and of the small one.
type Sizes = ((u32, u32), (u32, u32));

/// Reads a picture and writes it small, as a PNG.
#[mp::task]
fn shrink(order: Order) -> Result<Sizes, AnyError> {
    let mut reader = ImageReader::open(&order.from)?.with_guessed_format()?;
    // The worker has a limit, which holds for everything that a decoder does.
    reader.no_limits();
    let image = reader.decode()?;
    let small = image.thumbnail(order.size, order.size);
    small.save(&order.to)?;
    let sizes = |image: &image::DynamicImage| (image.width(), image.height());
    Ok((sizes(&image), sizes(&small)))
}

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Shrunk,
    Corrupt,
    TooLarge,
    Failed,
}

impl Fate {
    fn of(outcome: &Result<Result<Sizes, AnyError>, TaskError>) -> Self {
        match outcome {
            Ok(Ok(_)) => Self::Shrunk,
            Ok(Err(_)) => Self::Corrupt,
            Err(error) if error.is_out_of_memory() => Self::TooLarge,
            Err(_) => Self::Failed,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let scratch = tempfile::tempdir()?;
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => make_samples(scratch.path())?,
    };
    let out = match &options.out {
        Some(out) => out.clone(),
        None => scratch.path().join("small"),
    };
    fs::create_dir_all(&out)?;

    let mut files: Vec<PathBuf> = fs::read_dir(&dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|path| is_picture(path));
    files.sort();
    let orders = files.iter().map(|from| Order {
        from: from.clone(),
        // The whole name, so that `a.png` and `a.jpg` do not meet.
        to: out.join(format!("{}.png", name(from))),
        size: options.size,
    });

    let pool = Pool::builder()
        .workers(options.workers.unwrap_or_else(mp::cpu_count))
        .memory_limit(options.memory << 20)
        .task_timeout(Duration::from_secs(options.timeout))
        .build()?;
    let mut shrunk = 0;
    // Each as soon as it and those before it are ready.
    for (file, outcome) in files
        .iter()
        .zip(pool.imap(shrink, orders.collect::<Vec<_>>())?)
    {
        let fate = Fate::of(&outcome);
        match &outcome {
            Ok(Ok((from, to))) => {
                shrunk += 1;
                println!(
                    "{}: {} × {} to {} × {}",
                    name(file),
                    from.0,
                    from.1,
                    to.0,
                    to.1
                );
            }
            Ok(Err(error)) => println!("{}: skipped, {error}", name(file)),
            Err(_) if fate == Fate::TooLarge => {
                println!(
                    "{}: skipped, it takes more than {} MiB",
                    name(file),
                    options.memory
                );
            }
            Err(error) => println!("{}: skipped, {error}", name(file)),
        }
        if options.dir.is_none() && fate != expected(file) {
            return Err(format!("{}: {fate:?} is not what it is made for", name(file)).into());
        }
    }
    println!("{shrunk} of {} files", files.len());
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["png", "jpg", "jpeg"].contains(&extension.to_lowercase().as_str())
}

/// Makes pictures, whole and broken; their names say which.
fn make_samples(scratch: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let dir = scratch.join("samples");
    fs::create_dir(&dir)?;
    for (number, (width, height)) in [(320, 240), (240, 320), (500, 100), (40, 30)]
        .into_iter()
        .enumerate()
    {
        let image = RgbImage::from_fn(width, height, |x, y| {
            let level = |at: u32, all: u32| (at * 255 / all) as u8;
            Rgb([level(x, width), level(y, height), 60 * number as u8])
        });
        image.save(dir.join(format!("whole-{number}.png")))?;
        image.save(dir.join(format!("whole-{number}.jpg")))?;
    }
    let whole = fs::read(dir.join("whole-0.png"))?;
    fs::write(dir.join("corrupt-cut.png"), &whole[..whole.len() / 2])?;
    fs::write(dir.join("corrupt-text.jpg"), "this is no picture")?;
    fs::write(dir.join("corrupt-empty.png"), "")?;
    fs::write(dir.join("large-bomb.png"), bomb(whole))?;
    Ok(dir)
}

/// A PNG of a few bytes that says it is 100 000 points wide and high.
fn bomb(mut png: Vec<u8>) -> Vec<u8> {
    // The signature, then the first chunk: length, "IHDR", width, height, five bytes, checksum.
    let side = 100_000_u32.to_be_bytes();
    png[16..20].copy_from_slice(&side);
    png[20..24].copy_from_slice(&side);
    let sum = checksum(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    png
}

/// The CRC-32 of a PNG chunk.
fn checksum(bytes: &[u8]) -> u32 {
    let with_bit = |crc: u32, _| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0xEDB8_8320
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), with_bit)
    })
}

/// What a sample is made for.
fn expected(file: &Path) -> Fate {
    match name(file).split('-').next() {
        Some("whole") => Fate::Shrunk,
        Some("corrupt") => Fate::Corrupt,
        _ => Fate::TooLarge,
    }
}
