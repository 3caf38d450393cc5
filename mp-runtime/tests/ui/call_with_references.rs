#[mp::task]
fn length(text: String) -> usize {
    text.len()
}

fn main() -> mp::Result<()> {
    let texts = vec!["a".to_owned()];
    mp::Pool::new(1)?.map(length, &texts)?;
    Ok(())
}
