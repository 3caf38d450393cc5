//! A program that serves, of another version than the one in `tests/mixed.rs`.

/// As there.
#[mp::task(name = "mixed.same")]
fn same(x: u64) -> u64 {
    x + 1
}

/// Another argument than there.
#[mp::task(name = "mixed.changed")]
fn changed(x: i64) -> u64 {
    x.unsigned_abs()
}

fn main() {
    mp::init();
    let pool = mp::Pool::new(1);
    panic!("a worker does not come back: {pool:?}");
}
