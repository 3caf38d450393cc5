#[mp::task]
fn name(number: u8) -> &'static str {
    if number == 1 { "one" } else { "many" }
}

#[mp::task]
fn parse(text: String) -> Result<u64, &'static str> {
    text.parse().or(Err("no number"))
}

fn main() {
    name(1);
    let _ = parse("1".to_owned());
}
