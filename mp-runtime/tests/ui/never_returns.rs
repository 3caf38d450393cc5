#[mp::task]
fn serve() -> ! {
    loop {
        std::thread::park();
    }
}

fn main() {
    let _: fn() -> ! = serve;
}
