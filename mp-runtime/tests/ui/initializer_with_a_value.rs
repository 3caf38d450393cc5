#[mp::task]
fn open(path: String) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| error.to_string())
}

fn main() -> mp::Result<()> {
    let _pool = mp::Pool::builder().initializer(open, ("data".to_owned(),)).build()?;
    Ok(())
}
