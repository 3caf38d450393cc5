//! Accounts in a shared array, transfers by many processes, one of which is killed in the middle:
//! `cargo run --example bank`
//!
//! A transfer is two changes under one lock. The process that dies between them leaves the sum
//! wrong, which everybody is told: nobody gets the array until somebody has put it right. To be able
//! to, each writes down what it is about to do.

use bytemuck::{Pod, Zeroable};
use mp::{Array, OwnerDied, Process, Stdio};

const ACCOUNTS: usize = 10;
const START: i64 = 1000;
const TRANSFERS: u64 = 2000;

/// An account; the first slot of the array is the transfer under way.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    balance: i64,
    /// Of the transfer under way: from whom, to whom, and the balances that they had.
    from: u32,
    to: u32,
    from_had: i64,
    to_had: i64,
    is_under_way: u64,
}

/// Does transfers between accounts that look random; at one of them, it may die half way.
#[mp::task]
fn transfer(accounts: Array<Entry>, seed: u64, dies_at: Option<u64>) -> u64 {
    let mut random = seed;
    let mut below = |end: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % end
    };
    for number in 0..TRANSFERS {
        let from = 1 + below(ACCOUNTS as u64) as usize;
        let to = 1 + (from + below(ACCOUNTS as u64 - 1) as usize) % ACCOUNTS;
        let amount = below(100) as i64;
        let mut entries = match accounts.lock() {
            Ok(entries) => entries,
            Err(died) => repair(&accounts, &died),
        };
        entries[0] = Entry {
            from: from as u32,
            to: to as u32,
            from_had: entries[from].balance,
            to_had: entries[to].balance,
            is_under_way: 1,
            ..entries[0]
        };
        entries[from].balance -= amount;
        if dies_at == Some(number) {
            std::process::abort();
        }
        entries[to].balance += amount;
        entries[0].is_under_way = 0;
    }
    TRANSFERS
}

/// Takes back what the dead process left half done. Whoever comes first does it.
fn repair<'a>(accounts: &'a Array<Entry>, died: &OwnerDied) -> mp::Guard<'a, [Entry]> {
    let mut entries = accounts.recover();
    let journal = entries[0];
    if journal.is_under_way == 1 {
        entries[journal.from as usize].balance = journal.from_had;
        entries[journal.to as usize].balance = journal.to_had;
        entries[0].is_under_way = 0;
        eprintln!(
            "took back the transfer of {} (pid {})",
            died.name(),
            died.pid()
        );
    }
    entries
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut entries = vec![Entry::zeroed(); 1 + ACCOUNTS];
    for account in &mut entries[1..] {
        account.balance = START;
    }
    let accounts = Array::from_slice(&entries)?;

    let clerks = (1..=4)
        .map(|number| {
            let dies_at = (number == 3).then_some(TRANSFERS / 2);
            let clerk = Process::new(transfer, (accounts.clone(), number * 0x9E37_79B9, dies_at));
            clerk
                .name(format!("clerk-{number}"))
                .stderr(Stdio::inherit())
                .start()
        })
        .collect::<Result<Vec<_>, _>>()?;
    for clerk in clerks {
        match clerk.join() {
            Ok(count) => println!("{} did {count} transfers", clerk.name()),
            Err(error) => {
                assert!(error.is_crash() && clerk.name() == "clerk-3", "{error}");
                println!("{} died in the middle of one", clerk.name());
            }
        }
    }

    let entries = match accounts.lock() {
        Ok(entries) => entries,
        Err(died) => repair(&accounts, &died),
    };
    let sum: i64 = entries[1..].iter().map(|account| account.balance).sum();
    println!("{ACCOUNTS} accounts hold {sum}");
    assert_eq!(sum, ACCOUNTS as i64 * START, "money was lost or made");
    Ok(())
}
