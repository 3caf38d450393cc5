fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lock = mp::Lock::new()?;
    let guard = lock.acquire()?;
    std::thread::scope(|scope| {
        scope.spawn(move || drop(guard));
    });
    Ok(())
}
