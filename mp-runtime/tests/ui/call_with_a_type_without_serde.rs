struct Row {
    cells: Vec<String>,
}

fn count(row: Row) -> usize {
    row.cells.len()
}

fn main() -> mp::Result<()> {
    let pool = mp::Pool::new(1)?;
    pool.map(count, vec![Row { cells: vec![] }])?;
    pool.apply(count, (Row { cells: vec![] },))?;
    Ok(())
}
