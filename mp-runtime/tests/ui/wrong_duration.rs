#[mp::task(timeout = "30")]
fn without_unit() {}

#[mp::task(timeout = "1.5s")]
fn with_fraction() {}

#[mp::task(timeout = "0s")]
fn zero() {}

#[mp::task(timeout = "9999999999h")]
fn forever() {}

fn main() {
    without_unit();
    with_fraction();
    zero();
    forever();
}
