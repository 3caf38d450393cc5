fn main() -> mp::Result<()> {
    let offset = 3_u64;
    let pool = mp::Pool::new(1)?;
    pool.map(move |number: u64| number + offset, vec![1])?;
    mp::Process::new(move || offset, ()).start()?;
    Ok(())
}
