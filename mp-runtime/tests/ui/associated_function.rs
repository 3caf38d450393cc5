struct Resize;

impl Resize {
    #[mp::task]
    fn run(width: u32) -> u32 {
        width
    }
}

fn main() {
    Resize::run(1);
}
