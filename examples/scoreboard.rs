//! One scoreboard, kept by a manager, and players in processes of their own that report to it:
//! `cargo run --example scoreboard`
//!
//! A call that makes no sense panics in the manager; the player that made it is told, and nobody else
//! notices.

use std::collections::BTreeMap;

use mp::{Manager, Map, Process};

/// Points by player; only the manager's process has one.
struct Scoreboard {
    points: BTreeMap<String, u32>,
    goal: u32,
}

#[mp::shared]
impl Scoreboard {
    fn new(goal: u32) -> Self {
        let points = BTreeMap::new();
        Self { points, goal }
    }

    /// Adds points; whether the player has reached the goal.
    fn score(&mut self, player: String, points: u32) -> bool {
        assert!((1..=6).contains(&points), "nobody rolls a {points}");
        let total = self.points.entry(player).or_default();
        *total += points;
        *total >= self.goal
    }

    fn table(&self) -> Vec<(String, u32)> {
        let points = self.points.iter();
        points
            .map(|(player, points)| (player.clone(), *points))
            .collect()
    }
}

/// Rolls a die until the goal is reached, and notes how many rolls that took.
#[mp::task]
fn play(player: String, board: SharedScoreboard, rolls: Map<String, u32>) -> mp::Result<()> {
    // A die that falls the same way in each run.
    let mut die = player.len() as u32;
    for count in 1.. {
        die = (die * 5 + 3) % 7;
        if board.score(player.clone(), die.max(1))? {
            rolls.insert(&player, &count)?;
            break;
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manager = Manager::new()?;
    let board = SharedScoreboard::new(&manager, 100)?;
    let rolls = Map::new(&manager)?;
    let players = ["ann", "bruno", "eve"].map(str::to_owned);
    let children = players
        .iter()
        .map(|player| Process::new(play, (player.clone(), board.clone(), rolls.clone())).start())
        .collect::<mp::Result<Vec<_>>>()?;

    let cheat = board.score("mallory".to_owned(), 7).unwrap_err();
    println!(
        "{}",
        cheat
            .task()
            .and_then(|task| task.message())
            .unwrap_or("no panic")
    );

    for child in children {
        child.join()??;
    }
    for (player, points) in board.table()? {
        let rolls = rolls.get(&player)?.ok_or("each player has rolled")?;
        println!("{player}: {points} points with {rolls} rolls");
        assert!((100..106).contains(&points));
    }
    manager.shutdown()?;
    Ok(())
}
