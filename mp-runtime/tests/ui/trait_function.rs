trait Resize {
    #[mp::task]
    fn width(scale: u32) -> u32;
}

fn main() {}
