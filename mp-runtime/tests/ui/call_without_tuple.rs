#[mp::task]
fn add_one(number: u64) -> u64 {
    number + 1
}

fn main() -> mp::Result<()> {
    mp::Process::new(add_one, 1).start()?;
    Ok(())
}
