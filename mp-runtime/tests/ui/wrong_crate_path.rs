#[mp::task(crate = nowhere::mp)]
fn clean(row: String, strict: bool) -> String {
    if strict { row } else { String::new() }
}

fn main() {
    clean(String::new(), true);
}
