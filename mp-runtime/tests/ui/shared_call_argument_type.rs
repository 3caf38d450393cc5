struct Counter(u64);

#[mp::shared]
impl Counter {
    fn new(count: u64) -> Self {
        Self(count)
    }

    fn incr(&mut self, by: u64) -> u64 {
        self.0 += by;
        self.0
    }
}

fn main() -> mp::Result<()> {
    let manager = mp::Manager::new()?;
    let counter = SharedCounter::new(&manager, 0)?;
    counter.incr("one")?;
    Ok(())
}
