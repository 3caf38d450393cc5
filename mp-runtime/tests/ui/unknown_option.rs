#[mp::task(retry = 3)]
fn clean(row: String) -> String {
    row
}

fn main() {
    clean(String::new());
}
