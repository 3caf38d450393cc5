struct Row {
    cells: Vec<String>,
}

fn main() -> mp::Result<()> {
    let rows = mp::Queue::<Row>::new()?;
    rows.put(Row { cells: vec![] }).unwrap();
    let _ = rows.get().unwrap().cells;
    Ok(())
}
