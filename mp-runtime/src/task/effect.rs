//! A task that is called for what it does, and in the process that is to know whether it failed: an
//! initializer.
//!
//! An `Err` that a task returns is its value, and goes to its caller as bytes. An initializer has no
//! caller that would look at it, so its own process does: the attribute keeps with each task how the
//! error in its result is read, where there can be one.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::{self, Tag};
use super::panic;
use super::registry::Entry;
use crate::error::{TaskError, TaskFailure};
use crate::wire::buffer::Buffer;
use crate::wire::codec;

/// What an initializer returns: nothing, or a `Result` of nothing, so that what it gives back is not
/// overlooked.
#[diagnostic::on_unimplemented(
    message = "an initializer returns nothing or a `Result<(), E>`, and this one returns `{Self}`",
    label = "returns `{Self}`",
    note = "what tasks are to find is kept by `mp::set_worker_state`; the error `E` must implement `Display`"
)]
pub trait Nothing: super::Returned + sealed::Nothing {}

impl Nothing for () {}
impl<E: fmt::Display + Serialize + DeserializeOwned + 'static> Nothing for Result<(), E> {}

mod sealed {
    /// Nothing else is nothing.
    pub trait Nothing {}
    impl Nothing for () {}
    impl<E> Nothing for Result<(), E> {}
}

/// Reads the error out of an encoded result, in words, if it is one.
pub type ReadError = fn(&[u8]) -> Option<String>;

/// The type of a task's result, for [`ReadError`]: its own `error` is the one of a `Result` whose
/// error can be shown, and that of [`NoError`] stands in for it elsewhere.
#[derive(Debug)]
pub struct ResultOf<R>(PhantomData<fn() -> R>);

impl<R> ResultOf<R> {
    /// Names the type.
    #[expect(clippy::new_without_default, reason = "it is for generated code")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T, E: fmt::Display + DeserializeOwned + 'static> ResultOf<Result<T, E>> {
    /// As [`ReadError`].
    pub fn error(&self, mut bytes: &[u8]) -> Option<String> {
        // What an `Ok` holds is not looked at.
        let result: Result<(), E> = codec::decode(&mut bytes).ok()?;
        result.err().map(|error| format!("{error:#}"))
    }
}

/// Results that are no errors that could be shown.
pub trait NoError {
    /// None.
    fn error(&self, _: &[u8]) -> Option<String> {
        None
    }
}

impl<R> NoError for ResultOf<R> {}

/// Runs a task for what it does, and returns why it failed, which an `Err` is as well.
pub(crate) fn run(task: &Entry, mut arguments: &[u8]) -> Result<(), TaskError> {
    let mut out = Buffer::new();
    // Private memory has no end that it tells of.
    let _ = call::run(task, &mut arguments, &mut out);
    let failure = match call::read_record(&mut out.as_slice()) {
        Some((Tag::Value, result)) => {
            let read = panic::catch(|| (task.error)(result));
            let text = read.unwrap_or_else(|panic| Some(panic.message));
            text.map(|error| TaskError::new(TaskFailure::Failed { error }))
        }
        Some((tag, payload)) => call::decode_result::<()>(tag, payload).err(),
        None => Some(TaskError::new(TaskFailure::Lost {
            why: "it left nothing".to_owned(),
        })),
    };
    failure.map_or(Ok(()), |error| Err(error.with_task((task.name)())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded<T: Serialize + 'static>(value: &T) -> Vec<u8> {
        let mut out = Buffer::new();
        codec::encode(value, &mut out).unwrap();
        out.as_slice().to_vec()
    }

    #[test]
    fn error_of_a_result_is_read_and_all_else_is_none() {
        type Fallible = Result<Vec<u64>, String>;
        let fallible = ResultOf::<Fallible>::new();
        let failed: Fallible = Err("no licence".to_owned());
        assert_eq!(
            fallible.error(&encoded(&failed)).as_deref(),
            Some("no licence")
        );
        let fine: Fallible = Ok(vec![1, 2]);
        assert_eq!(fallible.error(&encoded(&fine)), None);
        assert_eq!(fallible.error(&[]), None);
        // An error that cannot be shown, and no result at all.
        let mute: Result<(), ()> = Err(());
        assert_eq!(
            ResultOf::<Result<(), ()>>::new().error(&encoded(&mute)),
            None
        );
        assert_eq!(ResultOf::<u64>::new().error(&encoded(&1_u64)), None);
    }
}
