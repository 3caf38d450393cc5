//! Catching a panic, and carrying its message, place and backtrace across.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Mutex, Once, PoisonError};

use crate::error::PanicInfo;

thread_local! {
    /// The last panic of this thread. The hook alone sees its place, [`catch`] alone its end.
    static LAST: Cell<Option<PanicInfo>> = const { Cell::new(None) };
}

/// The last panic of any thread: some libraries catch a panic on one thread and resume it on
/// another, which runs no hook.
static LAST_ANYWHERE: Mutex<Option<PanicInfo>> = Mutex::new(None);

/// Has every panic from now on remembered for [`catch`]; the hook that was there still runs, so the
/// message still goes to standard error.
///
/// For children: a parent's hooks are its own.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            remember(panic);
            previous(panic);
        }));
    });
}

/// Runs `f` and returns its panic as data.
///
/// Without [`install_hook`], or where the program has set a hook of its own since, the message is
/// all there is.
#[inline]
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, PanicInfo> {
    panic::catch_unwind(AssertUnwindSafe(f)).map_err(describe)
}

fn remember(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let info = PanicInfo {
        message: text_of(panic.payload()).to_owned(),
        place: panic
            .location()
            .map(|place| (place.file().to_owned(), place.line(), place.column())),
        backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
    };
    *LAST_ANYWHERE.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.clone());
    // A thread that is ending may have lost its own.
    let _ = LAST.try_with(|last| last.set(Some(info)));
}

#[cold]
fn describe(payload: Box<dyn Any + Send>) -> PanicInfo {
    let message = text_of(&*payload).to_owned();
    // The payload is a value of the user's, whose drop may panic as well.
    if let Err(another) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(another);
    }
    let is_this = |info: &PanicInfo| info.message == message;
    let here = LAST.try_with(Cell::take).ok().flatten();
    here.filter(is_this)
        .or_else(|| {
            let mut last = LAST_ANYWHERE.lock().unwrap_or_else(PoisonError::into_inner);
            last.take_if(|info| is_this(info))
        })
        .unwrap_or(PanicInfo {
            message,
            ..PanicInfo::default()
        })
}

/// What a panic said.
pub(crate) fn text_of(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a value that is not text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a panic and says nothing about it on standard error.
    fn caught(f: impl FnOnce()) -> PanicInfo {
        install_hook();
        catch(f).unwrap_err()
    }

    #[test]
    fn panic_keeps_message_and_place() {
        let line = line!() + 1;
        let info = caught(|| panic!("boom {}", 1));
        assert_eq!(info.message, "boom 1");
        let (file, at, _) = info.place.unwrap();
        assert_eq!((file.as_str(), at), (file!(), line));
    }

    #[test]
    fn value_comes_through() {
        assert_eq!(catch(|| 5).unwrap(), 5);
    }

    #[test]
    fn payload_that_is_not_text_has_a_place() {
        let info = caught(|| panic::panic_any(5));
        assert_eq!(info.message, "a value that is not text");
        assert!(info.place.is_some());
    }

    #[test]
    fn payload_that_panics_when_dropped_is_caught() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic::panic_any(Bomb);
            }
        }
        let info = caught(|| panic::panic_any(Bomb));
        assert_eq!(info.message, "a value that is not text");
    }

    #[test]
    fn panic_caught_inside_is_not_taken_for_another() {
        let info = caught(|| {
            let _ = panic::catch_unwind(|| panic!("first"));
            panic::resume_unwind(Box::new("second"));
        });
        assert_eq!(info.message, "second");
        assert_eq!(info.place, None);
    }

    #[test]
    fn panic_resumed_from_another_thread_keeps_its_place() {
        let info = caught(|| {
            let payload = std::thread::spawn(|| panic!("over there"))
                .join()
                .unwrap_err();
            panic::resume_unwind(payload);
        });
        // Unless another test panicked in between, which has the only memory of this.
        if let Some((file, ..)) = info.place {
            assert_eq!(file, file!());
        }
        assert_eq!(info.message, "over there");
    }
}
