#[mp::task]
fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.sum()
}

#[mp::task]
fn squares(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|n| n * n)
}

fn main() {
    sum(squares(10));
}
