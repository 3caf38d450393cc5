fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (asker, answerer) = mp::pipe::<String, u64>()?;
    asker.send("how many?".to_owned())?;
    answerer.send("three".to_owned())?;
    Ok(())
}
