struct Row {
    cells: Vec<String>,
}

#[mp::task]
fn read(text: String) -> Row {
    Row { cells: vec![text] }
}

fn main() {
    let _ = read(String::new()).cells;
}
