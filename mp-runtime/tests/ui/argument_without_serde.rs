struct Row {
    cells: Vec<String>,
}

#[mp::task]
fn count(row: Row, strict: bool) -> usize {
    row.cells.len() + usize::from(strict)
}

#[mp::task]
fn count_all(rows: Vec<Row>) -> usize {
    rows.len()
}

fn main() {
    let row = || Row { cells: vec![] };
    count(row(), true);
    count_all(vec![row()]);
}
