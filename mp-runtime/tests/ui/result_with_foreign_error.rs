#[mp::task]
fn size(path: String) -> std::io::Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

#[mp::task]
fn parse(text: String) -> Result<u64, Box<dyn std::error::Error>> {
    Ok(text.parse()?)
}

fn main() {
    let _ = size(String::new());
    let _ = parse(String::new());
}
