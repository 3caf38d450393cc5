fn main() -> mp::Result<()> {
    let sum = mp::Value::new(0.5)?;
    sum.fetch_add(1.0);
    Ok(())
}
