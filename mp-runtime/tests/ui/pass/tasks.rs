//! What the attribute accepts, without a warning.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs)]

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A row.
#[derive(Serialize, Deserialize)]
pub struct Row<T> {
    cells: Vec<T>,
}

/// Documented, public, with an error of its own.
#[mp::task]
pub fn clean(row: Row<u8>, strict: bool) -> Result<Row<u8>, String> {
    if strict { Ok(row) } else { Err("not strict".to_owned()) }
}

#[mp::task(name = "etl.count", timeout = "30s", retries = 2)]
const fn count(a: u64) -> u64 {
    a + 1
}

#[mp::task]
fn nothing() {}

// Every name that the expansion uses for itself may be the user's.
#[mp::task]
fn call(call: u8, result: u8, a0: u8) -> u8 {
    call + result + a0
}

#[mp::task]
fn patterns(mut a: u8, (b, [c, _]): (u8, [u16; 1 + 1]), _: (), r#type: Cow<'static, str>) -> usize {
    a += b;
    usize::from(a) + usize::from(c) + r#type.len()
}

#[mp::task]
fn r#match(a: Option<u8>) -> Option<u8> {
    a
}

#[mp::task]
#[expect(non_snake_case)]
fn Capital() {}

#[mp::task]
#[deprecated]
fn old() {}

#[mp::task]
#[cfg(any())]
fn absent(a: Missing) {}

#[mp::task]
fn never_called(a: u8) -> u8 {
    a
}

mod renamed {
    pub(crate) mod inner {
        pub(crate) use ::mp as other;
    }

    #[mp::task(crate = inner::other)]
    pub(crate) fn clean(rows: Vec<super::Row<u8>>) -> usize {
        rows.iter().map(|row| row.cells.len()).sum()
    }
}

fn outer() -> u8 {
    #[mp::task]
    fn inner(a: u8) -> u8 {
        a
    }
    inner(1)
}

fn main() {
    // A task is still a function, and a variable may have its name.
    let numbers: Vec<u64> = (0..3).map(count).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let clean = clean(Row { cells: vec![1] }, true).map_or(0, |row| row.cells.len());
    assert_eq!(clean, renamed::clean(vec![Row { cells: vec![1] }]));
    nothing();
    Capital();
    assert_eq!(call(1, 2, 3), 6);
    assert_eq!(patterns(1, (2, [3, 4]), (), "five".into()), 10);
    assert_eq!(r#match(None), None);
    assert_eq!(outer(), 1);
}
