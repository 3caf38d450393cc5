#[mp::task(retry = 3, timeout = "soon")]
async unsafe fn clean<T>(row: &str, rest: impl Copy, kind: T) -> &'static str {
    let _ = (row, rest, kind);
    "clean"
}

fn main() {
    drop(unsafe { clean("", 1, 2) });
}
