struct Counter(u64);

#[mp::shared]
impl Counter {
    fn get(&self) -> u64 {
        self.0
    }
}

fn main() {
    Counter(1).get();
}
