#[mp::task]
fn release(guard: mp::Guard<'static>) {
    drop(guard);
}

fn main() {}
