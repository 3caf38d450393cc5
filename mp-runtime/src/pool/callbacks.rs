//! The lazy thread on which callbacks and wakers run, one for the process.
//!
//! None of the threads that drive calls or watch workers runs a user's callback: one that takes
//! long, or waits for another job, must not stop them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, mpsc};

use super::inner::lock;

type Callback = Box<dyn FnOnce() + Send>;

/// The way to the thread, once it was needed; `None` if it could not be started.
static THREAD: OnceLock<Option<Mutex<mpsc::Sender<Callback>>>> = OnceLock::new();

/// Has `callback` run on the thread for callbacks, in the order of the calls.
pub(super) fn run(callback: Callback) {
    let thread = THREAD.get_or_init(|| start().ok().map(Mutex::new));
    let rejected = match thread {
        Some(sender) => lock(sender).send(callback).err().map(|error| error.0),
        None => Some(callback),
    };
    // Without a thread it is late rather than never.
    if let Some(callback) = rejected {
        guarded(callback);
    }
}

/// Waits until all callbacks have run that there are by now.
pub(super) fn finish() {
    if THREAD.get().is_some() {
        let (sender, through) = mpsc::channel();
        run(Box::new(move || {
            let _ = sender.send(());
        }));
        let _ = through.recv();
    }
}

fn start() -> std::io::Result<mpsc::Sender<Callback>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("mp-callbacks".into())
        .spawn(move || receiver.into_iter().for_each(guarded))?;
    Ok(sender)
}

/// Runs a callback; what it panics with has been printed by the panic hook.
fn guarded(callback: Callback) {
    let _ = catch_unwind(AssertUnwindSafe(callback));
}
