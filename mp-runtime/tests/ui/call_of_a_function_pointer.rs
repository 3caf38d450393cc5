#[mp::task]
fn add_one(number: u64) -> u64 {
    number + 1
}

fn main() -> mp::Result<()> {
    let function: fn(u64) -> u64 = add_one;
    mp::Pool::new(1)?.map(function, vec![1])?;
    Ok(())
}
