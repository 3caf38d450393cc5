#[mp::task(name = "clean", retries = 1, name = "etl.clean")]
fn clean(row: String) -> String {
    row
}

fn main() {
    clean(String::new());
}
