//! The pool of the process, for those who need no other.

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::Pool;
use super::guest;
use super::inner::lock;
use crate::error::Error;

/// How long its workers stay with nothing to do: children that use theirs, too, must not fill the
/// machine with idle processes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The pool of this process, made when it is first asked for: with as many workers as
/// [`cpu_count`](crate::cpu_count) says, which are started when there is work for them and end when
/// there has been none for a minute. It is there until the process ends.
///
/// # Inside a task
///
/// A task that a pool runs gets that pool, whichever it is: so a task can split its work and call its
/// own pool, and what it calls can do so in turn. A worker that waits for such a call counts as idle:
/// another takes its place, started if need be, so that a pool of one worker is enough for any
/// recursion, up to a hundred calls deep. Each of them has a process that waits; a task that hands on
/// little should rather do it itself.
///
/// What holds for other calls holds for these: a crash costs the item that it hit, and its caller has
/// the error. When the calling task ends, in whatever way, so do the calls that it waits for; what it
/// [handed over](Pool::submit) and nobody waits for goes on if the task returned. Deadlines and retries
/// are the pool's, but for a [predicate](crate::Retries::when), which is the other process's: without
/// it nothing is run again. [`stats`](Pool::stats) tells of the jobs of tasks alone.
///
/// A task cannot [close](Pool::close), [end](Pool::terminate), [resize](Pool::resize) or
/// [broadcast](Pool::broadcast) to the pool that runs it.
///
/// # Errors
///
/// If it cannot be made; the next call tries again. In an [isolated](crate::PoolBuilder::isolated)
/// worker, which shares no memory with its pool.
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
///
/// A task that calls itself, for the two halves of its input:
///
/// ```
/// #[mp::task]
/// fn sorted(mut numbers: Vec<u32>) -> mp::Result<Vec<u32>> {
///     if numbers.len() < 1000 {
///         numbers.sort();
///         return Ok(numbers);
///     }
///     let right = numbers.split_off(numbers.len() / 2);
///     let halves = mp::pool()?.map(sorted, [numbers, right])?;
///     let [left, right] = halves.try_into().unwrap();
///     let (mut left, mut right) = (left?.into_iter().peekable(), right?.into_iter().peekable());
///     Ok(std::iter::from_fn(|| match (left.peek(), right.peek()) {
///         (Some(a), Some(b)) if b < a => right.next(),
///         (Some(_), _) => left.next(),
///         _ => right.next(),
///     })
///     .collect())
/// }
///
/// # fn main() -> mp::Result<()> {
/// let numbers = (0..4000).map(|n| n * 7919 % 4001).collect();
/// let sorted = mp::pool()?.apply(sorted, (numbers,))??;
/// assert!(sorted.is_sorted());
/// # Ok(())
/// # }
/// ```
pub fn pool() -> Result<&'static Pool, Error> {
    if let Some(pool) = guest::own_pool()? {
        return Ok(pool);
    }
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
