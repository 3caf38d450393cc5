struct Counter(u64);

#[mp::shared]
impl Counter {
    fn new() -> Self {
        Self(0)
    }

    fn name(&self) -> &str {
        "counter"
    }

    fn add(&mut self, words: &[u64]) {
        self.0 += words.len() as u64;
    }

    fn into_inner(self) -> u64 {
        self.0
    }

    async fn later(&self) {}

    unsafe fn raw(&self) {}

    fn show<T: Into<u64>>(&self, by: T) -> u64 {
        self.0 + by.into()
    }

    fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }

    #[cfg(all())]
    fn sometimes(&self) {}
}

fn main() {
    Counter::new().name();
}
