#[mp::task]
fn add(a: u8, #[cfg(debug_assertions)] b: u8) -> u8 {
    a + b
}

fn main() {
    add(1, 2);
}
