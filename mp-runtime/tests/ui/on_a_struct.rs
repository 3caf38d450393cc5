#[mp::task]
struct Resize {
    width: u32,
}

fn main() {
    let _ = Resize { width: 1 }.width;
}
