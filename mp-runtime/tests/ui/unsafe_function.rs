#[mp::task]
unsafe fn read(address: usize) -> u8 {
    unsafe { *(address as *const u8) }
}

fn main() {
    let byte = 1_u8;
    unsafe { read(&raw const byte as usize) };
}
