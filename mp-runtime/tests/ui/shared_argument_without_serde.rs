struct Counter(u64);

pub struct Step(u64);

#[mp::shared]
impl Counter {
    fn new() -> Self {
        Self(0)
    }

    fn incr(&mut self, by: Step) {
        self.0 += by.0;
    }
}

fn main() {
    Counter::new().incr(Step(1));
}
