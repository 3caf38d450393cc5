//! A ball that goes to another process and back, through a pipe: `cargo run --release --example ping_pong -- [ROUNDS]`
//!
//! By default 100,000 rounds. The other process plays until our end of the pipe is gone.

use std::error::Error;
use std::time::Instant;

use mp::{Connection, Process};
use serde::{Deserialize, Serialize};

/// What goes back and forth.
#[derive(Debug, Serialize, Deserialize)]
struct Ball {
    hits: u64,
}

/// Returns every ball; tells how many.
#[mp::task]
fn pong(table: Connection<Ball, Ball>) -> Result<u64, mp::AnyError> {
    let mut count = 0;
    for mut ball in &table {
        ball.hits += 1;
        table.send(ball)?;
        count += 1;
    }
    Ok(count)
}

fn main() -> Result<(), Box<dyn Error>> {
    let rounds: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(100_000), |rounds| rounds.parse())?;
    let (here, there) = mp::pipe::<Ball, Ball>()?;
    let player = Process::new(pong, (there,)).start()?;

    let mut ball = Ball { hits: 0 };
    let begin = Instant::now();
    for _ in 0..rounds {
        ball.hits += 1;
        here.send(ball)?;
        ball = here.recv()?;
    }
    let time = begin.elapsed();

    drop(here); // the end of the game
    let returned = player.join()??;
    assert_eq!(returned, rounds);
    assert_eq!(ball.hits, 2 * rounds);
    println!("{rounds} rounds: {} hits", ball.hits);
    println!(
        "each took {:.1} µs",
        time.as_secs_f64() * 1e6 / rounds.max(1) as f64
    );
    Ok(())
}
