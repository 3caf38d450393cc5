struct Counter(u64);

#[mp::shared]
impl Counter {
    fn new(text: String) -> Result<Self, std::num::ParseIntError> {
        Ok(Self(text.parse()?))
    }

    fn zero() -> Counter {
        Counter(0)
    }

    fn get(&self) -> u64 {
        self.0
    }
}

fn main() {
    Counter::new(String::new()).unwrap_or(Counter::zero()).get();
}
