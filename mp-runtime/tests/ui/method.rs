struct Resize(u32);

impl Resize {
    #[mp::task]
    fn width(&self) -> u32 {
        self.0
    }

    #[mp::task]
    fn double(self) -> Self {
        Self(self.0 * 2)
    }
}

fn main() {
    Resize(1).double().width();
}
