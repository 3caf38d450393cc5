struct Counter(u64);

pub struct Count(u64);

#[mp::shared]
impl Counter {
    fn new() -> Self {
        Self(0)
    }

    fn count(&self) -> Count {
        Count(self.0)
    }
}

fn main() {
    Counter::new().count();
}
