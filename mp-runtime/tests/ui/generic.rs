#[mp::task]
fn largest<T>(values: Vec<T>) -> Option<T>
where
    T: Ord,
{
    values.into_iter().max()
}

#[mp::task]
fn first<const N: usize>(values: [u8; N]) -> u8 {
    values[0]
}

#[mp::task]
fn nothing<'a>() {}

#[mp::task]
fn length(text: String) -> usize
where
    String: Clone,
{
    text.len()
}

fn main() {
    largest(vec![1, 2]);
    first([1, 2]);
    nothing();
    length(String::new());
}
