//! A room and its guests, each of them a program of its own: `cargo run --example chat`
//!
//! That starts a room and lets two guests in, one after the other. By hand, in several terminals, with the
//! same key of 16 bytes or more in each:
//!
//! ```sh
//! CHAT_KEY='our common secret' cargo run --example chat -- room unix:/tmp/chat.sock
//! CHAT_KEY='our common secret' cargo run --example chat -- guest unix:/tmp/chat.sock ann
//! ```

use std::error::Error;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use mp::{Address, Client, Key, Listener};
use serde::{Deserialize, Serialize};

/// What a guest sends.
#[derive(Serialize, Deserialize)]
enum Request {
    Say { who: String, text: String },
    Leave,
}

/// What the room sends: a line that somebody said.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    who: String,
    text: String,
}

type Guest = Arc<Client<Line, Request>>;

/// All that was said, and who is to hear what comes.
#[derive(Default)]
struct Room {
    said: Vec<Line>,
    guests: Vec<Guest>,
}

/// Serves guests for as long as the listener has any.
fn run_room(listener: &Listener<Line, Request>) {
    let room = Arc::new(Mutex::new(Room::default()));
    loop {
        match listener.accept() {
            Ok(guest) => {
                let room = room.clone();
                std::thread::spawn(move || attend(&Arc::new(guest), &room));
            }
            // A stranger, or a wrong key: the others are still welcome.
            Err(error) => eprintln!("{error}"),
        }
    }
}

/// Tells a guest what was said before, and everybody what the guest says.
fn attend(guest: &Guest, room: &Mutex<Room>) {
    let enter = || room.lock().unwrap_or_else(PoisonError::into_inner);
    {
        let mut room = enter();
        for line in &room.said {
            let _ = guest.send(line);
        }
        room.guests.push(guest.clone());
    }
    while let Ok(Request::Say { who, text }) = guest.recv() {
        let line = Line { who, text };
        let mut room = enter();
        room.said.push(line.clone());
        room.guests.retain(|other| other.send(&line).is_ok());
    }
    enter().guests.retain(|other| !Arc::ptr_eq(other, guest));
}

/// Says each line of standard input, and prints what is said in the room.
fn run_guest(address: Address, key: &Key, who: String) -> Result<(), Box<dyn Error>> {
    let room = Client::<Request, Line>::connect(address, key)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until the room lets go.
            while let Ok(Line { who, text }) = room.recv() {
                println!("{who}: {text}");
            }
        });
        for text in std::io::stdin().lines() {
            let (who, text) = (who.clone(), text?);
            room.send(&Request::Say { who, text })?;
        }
        room.send(&Request::Leave)?;
        Ok(())
    })
}

/// Runs a guest that says `text`; returns what it saw.
fn visit(address: &Address, key: &str, who: &str, text: &str) -> Result<String, Box<dyn Error>> {
    let mut guest = Command::new(std::env::current_exe()?)
        .args(["guest", &address.to_string(), who])
        .env("CHAT_KEY", key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = guest.stdin.take().ok_or("it has a standard input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let output = guest.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("{who} failed: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let key = std::env::var("CHAT_KEY").unwrap_or_else(|_| "known to both programs".to_owned());
    match arguments[..] {
        ["room", address] => run_room(&Listener::bind(address, &Key::new(&key)?)?),
        ["guest", address, who] => {
            run_guest(address.parse()?, &Key::new(&key)?, who.to_owned())?;
        }
        [] => {
            let listener = Listener::bind("tcp:localhost:0", &Key::new(&key)?)?;
            let address = listener.address().clone();
            std::thread::spawn(move || run_room(&listener));

            let ann = visit(&address, &key, "ann", "anybody there?\nI am off\n")?;
            print!("ann saw\n{ann}");
            let bob = visit(&address, &key, "bob", "hello ann!\n")?;
            print!("bob saw\n{bob}");
            assert_eq!(bob, format!("{ann}bob: hello ann!\n"));

            let error = visit(&address, "not known to both programs", "eve", "").unwrap_err();
            println!("{error}");
        }
        _ => return Err("usage: chat [room ADDRESS | guest ADDRESS NAME]".into()),
    }
    Ok(())
}
