//! The `#[mp::task]` and `#[mp::shared]` attributes; use them through `mp`, which re-exports them.

use proc_macro::TokenStream;

// `args` and `item` read what the user wrote, `check` says what is wrong with it, and `expand` writes
// the registration. `shared` has the same for the other attribute.
mod args;
mod check;
mod expand;
mod item;
mod shared;

/// Makes a function callable from another process.
///
/// The function stays as it is: it can still be called, passed on and documented. Beside it the
/// attribute registers it under a name, by which a child process or a worker of a pool finds it.
///
/// ```text
/// #[mp::task]                                  // named by its path: "my_crate::etl::clean"
/// fn clean(row: Row, strict: bool) -> Result<Row, CleanError> { … }
///
/// #[mp::task(name = "etl.clean", timeout = "30s", retries = 2)]
/// fn clean(row: Row, strict: bool) -> Result<Row, CleanError> { … }
/// ```
///
/// # Arguments and results
///
/// They travel between processes, so they are owned values of types that implement serde's
/// `Serialize` and `Deserialize`; there may be twelve arguments. A function that takes `self`,
/// borrows, is generic, `async`, `unsafe` or `extern` is refused, and the error says what to write
/// instead. A task that uses `?` on errors of any kind returns `Result<_, mp::AnyError>`.
///
/// # Options
///
/// | option | meaning | default |
/// | --- | --- | --- |
/// | `name = "etl.clean"` | the name to register | the path of the function |
/// | `timeout = "30s"` | how long an item of a pool's call may take; `ms`, `s`, `m` or `h` | what the pool says |
/// | `retries = 2` | how often an item of a pool's call is run again if it fails; 0 is never | what the pool says |
/// | `crate = path` | where to find `mp`, if not at `::mp` | `::mp` |
///
/// A name must be unique in the program; one that is registered twice fails when it is first used.
#[proc_macro_attribute]
pub fn task(args: TokenStream, item: TokenStream) -> TokenStream {
    let item = proc_macro2::TokenStream::from(item);
    let mut errors = Vec::new();
    let args = args::parse(args.into(), &mut errors);
    let task = item::parse(item.clone(), &mut errors);
    if let Some(task) = &task {
        check::check(task, &mut errors);
    }
    match task {
        Some(task) if errors.is_empty() => expand::registered(&item, &task, &args),
        _ => expand::refused(&item, &errors),
    }
    .into()
}

/// Makes a type's values live in a manager, where any process can call them.
///
/// It goes above an `impl` block, which stays as it is. Beside it the attribute writes a handle,
/// called `Shared` and the type's name, with the same functions: those without `self` take the
/// manager first and make a value there, the others are run there by a call of the handle. All of
/// them return `mp::Result`. Other `impl` blocks of the type stay the type's own.
///
/// ```text
/// struct Counter { count: u64 }
///
/// #[mp::shared]
/// impl Counter {
///     pub fn new(count: u64) -> Self { … }              // SharedCounter::new(&manager, 0)?
///     pub fn incr(&mut self, by: u64) -> u64 { … }      // counter.incr(2)?
/// }
/// ```
///
/// # Arguments and results
///
/// As those of a task: owned values of types that serde can encode, at most twelve. The handle is as
/// visible as the first function that makes a value; it can be cloned, and sent to other processes.
///
/// # Options
///
/// | option | meaning | default |
/// | --- | --- | --- |
/// | `name = "bank.account"` | the name to register, by which other programs know the type as well | the type's path |
/// | `handle = AccountHandle` | what the handle is called | `Shared` and the type's name |
/// | `crate = path` | where to find `mp`, if not at `::mp` | `::mp` |
#[proc_macro_attribute]
pub fn shared(args: TokenStream, item: TokenStream) -> TokenStream {
    shared::shared(args.into(), item.into()).into()
}
