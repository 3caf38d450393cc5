fn main() -> mp::Result<()> {
    let _text = mp::Value::new(String::from("text"))?;
    let _names = mp::Array::from_slice(&["a", "b"])?;
    let _rows = mp::Shared::from_slice(&[vec![1.0, 2.0]])?;
    Ok(())
}
