//! The pool of the process, for those who need no other.

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::Pool;
use super::inner::lock;
use crate::error::Error;

/// How long its workers stay with nothing to do: children that use theirs, too, must not fill the
/// machine with idle processes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The pool of this process, made when it is first asked for: with as many workers as
/// [`cpu_count`](crate::cpu_count) says, which are started when there is work for them and end when
/// there has been none for a minute. It is there until the process ends. A task that asks for it gets
/// that of its own process.
///
/// # Errors
///
/// If it cannot be made; the next call tries again.
///
/// # Examples
///
/// ```
/// #[mp::task]
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// # fn main() -> mp::Result<()> {
/// assert_eq!(mp::pool()?.map(square, 1..=4)?, [1, 4, 9, 16]);
/// # Ok(())
/// # }
/// ```
pub fn pool() -> Result<&'static Pool, Error> {
    static POOL: OnceLock<Pool> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let _making = lock(&MAKING);
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let pool = Pool::builder().idle_timeout(IDLE_TIMEOUT).build()?;
    Ok(POOL.get_or_init(|| pool))
}
