#[mp::shared]
fn incr(by: u64) -> u64 {
    by
}

fn main() {
    incr(1);
}
