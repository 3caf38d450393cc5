struct Resize;

#[mp::task]
impl Resize {
    fn run(width: u32) -> u32 {
        width
    }
}

fn main() {
    Resize::run(1);
}
