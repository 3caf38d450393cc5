fn main() -> mp::Result<()> {
    let pool = mp::Pool::new(1)?;
    pool.map("etl.clean", vec![1])?;
    Ok(())
}
