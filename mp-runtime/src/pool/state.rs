//! What a worker keeps from one task to the next.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

type States = HashMap<TypeId, &'static (dyn Any + Send + Sync)>;

static STATES: RwLock<Option<States>> = RwLock::new(None);

/// Keeps a value in this process for the tasks that run here, which reach it with [`worker_state`]:
/// a connection, a model, a cache. It is called in the [`initializer`](crate::PoolBuilder::initializer)
/// of a pool.
///
/// There is one value of a type. It stays until the process ends, and is not dropped then; put what
/// is to change in a `Mutex` or `RefCell`-like cell that is [`Sync`].
///
/// # Panics
///
/// Panics if this process has a state of the type already.
///
/// # Examples
///
/// ```
/// use std::sync::Mutex;
///
/// struct Dictionary {
///     words: Vec<String>,
///     asked: Mutex<u64>,
/// }
///
/// #[mp::task]
/// fn load(words: Vec<String>) {
///     mp::set_worker_state(Dictionary { words, asked: Mutex::new(0) });
/// }
///
/// #[mp::task]
/// fn is_known(word: String) -> bool {
///     let dictionary = mp::worker_state::<Dictionary>();
///     *dictionary.asked.lock().unwrap() += 1;
///     dictionary.words.contains(&word)
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let words = vec!["one".to_owned(), "two".to_owned()];
/// let pool = mp::Pool::builder().workers(2).initializer(load, (words,)).build()?;
/// let known = pool.map(is_known, ["two".to_owned(), "three".to_owned()])?;
/// assert_eq!(known, [true, false]);
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn set_worker_state<T: Send + Sync + 'static>(state: T) {
    let is_new = {
        let mut states = STATES.write().unwrap_or_else(PoisonError::into_inner);
        let states = states.get_or_insert_default();
        match states.contains_key(&TypeId::of::<T>()) {
            true => Err(state),
            false => {
                states.insert(TypeId::of::<T>(), Box::leak(Box::new(state)));
                Ok(())
            }
        }
    };
    // Outside of the lock, where what was refused is dropped.
    if is_new.is_err() {
        panic!(
            "this process has a state of type {} already: set it once, in the pool's initializer",
            type_name::<T>()
        );
    }
}

/// Returns the state of this process that [`set_worker_state`] has set.
///
/// # Panics
///
/// Panics if none of the type was set. In a task that is the failure of its item.
///
/// # Examples
///
/// See [`set_worker_state`].
#[must_use]
#[track_caller]
pub fn worker_state<T: Send + Sync + 'static>() -> &'static T {
    try_worker_state().unwrap_or_else(|| {
        panic!(
            "this process has no state of type {}: set one with `mp::set_worker_state` in the \
             pool's initializer",
            type_name::<T>()
        )
    })
}

/// As [`worker_state`], but `None` if none of the type was set: for tasks that also run where no
/// initializer has.
#[must_use]
pub fn try_worker_state<T: Send + Sync + 'static>() -> Option<&'static T> {
    let states = STATES.read().unwrap_or_else(PoisonError::into_inner);
    let state = *states.as_ref()?.get(&TypeId::of::<T>())?;
    (state as &dyn Any).downcast_ref()
}
