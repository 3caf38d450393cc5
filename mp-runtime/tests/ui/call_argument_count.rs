#[mp::task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

fn main() -> mp::Result<()> {
    let pool = mp::Pool::new(1)?;
    pool.map(add, [1, 2])?;
    pool.map(add, [(1, 2)])?;
    pool.apply(add, (1,))?;
    Ok(())
}
