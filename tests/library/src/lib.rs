//! Tasks in a library that knows `mp` under another name.

/// Doubles a number.
#[multi::task(crate = multi)]
pub fn double(x: u64) -> u64 {
    2 * x
}

/// Tasks in a module, one of them under a name that does not change when it is moved.
pub mod text {
    /// Counts words.
    #[multi::task(crate = multi, name = "library.words")]
    pub fn words(text: String) -> usize {
        text.split_whitespace().count()
    }
}

/// Calls a task of this library in another process.
pub fn double_elsewhere(x: u64) -> multi::Result<u64> {
    let child = multi::Process::new(double, (x,)).start()?;
    Ok(child.join()?)
}
