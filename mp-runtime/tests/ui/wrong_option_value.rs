#[mp::task(name = clean, timeout = 30, retries = "2", crate = "mp")]
fn clean(row: String) -> String {
    row
}

#[mp::task(name("etl.clean"), timeout)]
fn call(row: String) -> String {
    row
}

#[mp::task(name = "", retries = -1)]
fn negative(row: String) -> String {
    row
}

fn main() {
    clean(call(negative(String::new())));
}
