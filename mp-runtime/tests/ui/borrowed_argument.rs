use std::borrow::Cow;
use std::path::Path;

#[mp::task]
fn text(text: &str) -> usize {
    text.len()
}

#[mp::task]
fn sum(numbers: &[f64]) -> f64 {
    numbers.iter().sum()
}

#[mp::task]
fn size(file: &Path, names: Vec<&'static str>) -> usize {
    file.as_os_str().len() + names.len()
}

#[mp::task]
fn lend<'a>(number: &'a mut u64, text: Cow<'a, str>) -> usize {
    *number as usize + text.len()
}

fn main() {
    text("a");
    sum(&[1.0]);
    size(Path::new("/"), vec![]);
    lend(&mut 1, "a".into());
}
