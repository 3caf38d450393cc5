struct Counter(u64);

#[mp::shared(handel = Handle, name = "")]
impl Counter {
    fn new() -> Self {
        Self(0)
    }
}

fn main() {
    Counter::new();
}
