#[mp::task]
fn add_one(number: u64) -> u64 {
    number + 1
}

fn main() -> mp::Result<()> {
    let pool = mp::Pool::new(1)?;
    pool.map(add_one, vec!["a"])?;
    pool.apply(add_one, ("a",))?;
    Ok(())
}
