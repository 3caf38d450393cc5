//! A parser that nobody should trust, in a sandbox: `cargo run --features sandbox --example sandbox`
//!
//! The documents come from anywhere, and some make the parser do what they like: read a file, send it
//! away, end the program. In its worker it reaches no file, no network and none of the program's
//! memory, and each document has a fresh process. Where the kernel has no Landlock the pool is not
//! built, and the example says so.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::net::{TcpListener, TcpStream};

use mp::{AnyError, Pool, Sandbox};

type Settings = BTreeMap<String, String>;

/// Reads lines of `key = value`, and does far more than that for those who know how to ask.
#[mp::task]
fn parse(document: String) -> Result<Settings, AnyError> {
    let mut settings = Settings::new();
    for line in document.lines() {
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| AnyError::new(format!("no `=` in {line:?}")))?;
        let value = match (key.trim(), value.trim()) {
            // What a parser has that runs what the document says.
            ("include", path) => std::fs::read_to_string(path)?,
            ("report to", address) => {
                TcpStream::connect(address)?.write_all(document.as_bytes())?;
                String::new()
            }
            ("crash", _) => std::process::abort(),
            (_, value) => value.to_owned(),
        };
        settings.insert(key.trim().to_owned(), value);
    }
    Ok(settings)
}

fn main() -> Result<(), Box<dyn Error>> {
    // Somebody who listens for what the documents give away.
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(&secret, "the password")?;
    let (secret, address) = (secret.path().display(), listener.local_addr()?);

    let pool = Pool::builder()
        .workers(2)
        .sandbox(&Sandbox::new())
        .max_tasks_per_worker(1)
        .memory_limit(256 << 20)
        .build();
    let pool = match pool {
        Err(error) if error.is_unsupported() => {
            println!("no sandbox here: {error}");
            return Ok(());
        }
        pool => pool?,
    };
    let documents = [
        ("an honest one", "color = red\nsize = 7".to_owned(), true),
        ("one with a fault", "color: red".to_owned(), false),
        (
            "one that reads a file",
            format!("include = {secret}"),
            false,
        ),
        (
            "one that calls home",
            format!("report to = {address}"),
            false,
        ),
        ("one that crashes", "crash = now".to_owned(), false),
        ("another honest one", "size = 8".to_owned(), true),
    ];
    let texts = documents.iter().map(|(_, text, _)| text.clone());
    let outcomes = pool.try_map(parse, texts.collect::<Vec<_>>())?;
    for ((what, _, is_honest), outcome) in documents.iter().zip(outcomes) {
        let is_parsed = match outcome {
            Ok(Ok(settings)) => {
                println!("{what}: {settings:?}");
                true
            }
            Ok(Err(error)) => {
                println!("{what}: {error}");
                false
            }
            Err(error) => {
                println!(
                    "{what}: {}",
                    if error.is_crash() {
                        "crashed"
                    } else {
                        "failed"
                    }
                );
                false
            }
        };
        if is_parsed != *is_honest {
            return Err(format!("{what} had its way").into());
        }
    }
    match listener.accept() {
        Ok(_) => Err("somebody called".into()),
        Err(_) => Ok(()),
    }
}
