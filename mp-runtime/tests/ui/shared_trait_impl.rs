struct Counter(u64);

#[mp::shared]
impl Default for Counter {
    fn default() -> Self {
        Self(0)
    }
}

fn main() {
    Counter::default();
}
