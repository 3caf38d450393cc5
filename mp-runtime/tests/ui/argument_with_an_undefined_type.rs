#[mp::task]
fn clean(row: Missing, strict: bool) -> AlsoMissing {
    row
}

fn main() {}
