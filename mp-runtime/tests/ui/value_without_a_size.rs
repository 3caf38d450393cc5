fn main() -> mp::Result<()> {
    let _nothing = mp::Value::new(())?;
    Ok(())
}
