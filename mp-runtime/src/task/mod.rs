//! A function that another process can call.
//!
//! - here: what may be a task, its arguments, its result.
//! - [`registry`]: from a function to its task, and from a name to it.
//! - [`batch`]: many calls of one task, one right after the other.
//! - [`call`]: one call in the process that runs it, and its outcome as bytes.
//! - [`effect`]: a task called for what it does, as initializers are.
//! - [`mod@panic`]: catching a panic and carrying it across.

pub(crate) mod batch;
pub(crate) mod call;
pub(crate) mod effect;
pub(crate) mod panic;
pub(crate) mod registry;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::effect::Nothing;
use crate::wire::buffer::{Buffer, Tail};
use crate::wire::codec::{self, EncodeError};

/// A value that can be sent to another process: every type that implements serde's `Serialize` and
/// `Deserialize` and borrows nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be sent to another process",
    label = "does not implement serde's `Serialize` and `Deserialize`",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it"
)]
pub trait Transfer: Serialize + DeserializeOwned + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + 'static> Transfer for T {}

/// A value that a task can return: the same types as [`Transfer`], with advice of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be returned from a task",
    label = "does not implement serde's `Serialize` and `Deserialize`",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it",
    note = "if it is the error that can't be sent, return `Result<_, mp::AnyError>`"
)]
pub trait Returned: Serialize + DeserializeOwned + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + 'static> Returned for T {}

/// The arguments of a call, as a tuple of up to twelve; of one argument it is `(x,)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` are not the arguments of a task",
    label = "not a tuple of arguments",
    note = "arguments are a tuple of up to twelve: `()`, `(a,)`, `(a, b)`"
)]
pub trait Arguments: Serialize + DeserializeOwned + 'static {
    /// How many they are.
    #[doc(hidden)]
    const COUNT: usize;

    /// Encodes them one by one, as the task decodes them.
    #[doc(hidden)]
    fn encode(&self, out: &mut Encoder<'_, '_>) -> Result<(), EncodeError>;
}

/// Where [`Arguments`] go.
#[derive(Debug)]
pub struct Encoder<'t, 'b>(&'t mut Tail<'b>);

impl Encoder<'_, '_> {
    #[inline]
    fn add<T: Transfer>(&mut self, argument: &T) -> Result<(), EncodeError> {
        codec::append(argument, self.0)
    }

    #[inline]
    fn end(&mut self) -> Result<(), EncodeError> {
        Ok(())
    }
}

/// Appends the arguments of a call to `out`, or leaves `out` as it was.
#[inline]
pub(crate) fn encode_arguments<A: Arguments>(
    arguments: &A,
    out: &mut Buffer,
) -> Result<(), EncodeError> {
    append_arguments(arguments, &mut out.tail())
}

/// As [`encode_arguments`], for those who append many.
#[inline]
pub(crate) fn append_arguments<A: Arguments>(
    arguments: &A,
    out: &mut Tail<'_>,
) -> Result<(), EncodeError> {
    let start = out.len();
    arguments
        .encode(&mut Encoder(out))
        .inspect_err(|_| out.truncate(start))
}

/// A function marked with `#[mp::task]`, of arguments `Args`.
///
/// Every function has this trait, so that inference knows its types; that it is a task is checked
/// when it is called. A closure that captures something and a function pointer are refused when the
/// program is built.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    label = "not a function",
    note = "a task is a function with `#[mp::task]` above it, given by its name"
)]
pub trait TaskFn<Args>: sealed::Sealed<Args> + 'static {
    /// What the function returns.
    type Output;

    /// Calls the function, in this process.
    #[doc(hidden)]
    fn invoke(&self, args: Args) -> Self::Output;
}

mod sealed {
    /// Only functions are tasks.
    pub trait Sealed<Args> {}
}

/// Refuses what is not one function known by its type; to stand in each public method that takes a
/// task, so that the compiler shows the line that calls it.
macro_rules! assert_task {
    ($function:ty) => {
        const {
            assert!(
                size_of::<$function>() == 0,
                "a task is a function with #[mp::task] above it, given by its name: not a closure \
                 that captures variables, nor a function pointer; what it needs must be an argument"
            )
        }
    };
}
pub(crate) use assert_task;

macro_rules! implement {
    ($count:literal $($Type:ident $argument:ident)*) => {
        impl<$($Type: Transfer),*> Arguments for ($($Type,)*) {
            const COUNT: usize = $count;

            #[inline]
            fn encode(&self, out: &mut Encoder<'_, '_>) -> Result<(), EncodeError> {
                let ($($argument,)*) = self;
                $(out.add($argument)?;)*
                out.end()
            }
        }

        #[diagnostic::do_not_recommend]
        impl<F, R, $($Type),*> sealed::Sealed<($($Type,)*)> for F
        where
            F: Fn($($Type),*) -> R + 'static,
        {
        }

        #[diagnostic::do_not_recommend]
        impl<F, R, $($Type),*> TaskFn<($($Type,)*)> for F
        where
            F: Fn($($Type),*) -> R + 'static,
        {
            type Output = R;

            #[inline]
            fn invoke(&self, ($($argument,)*): ($($Type,)*)) -> R {
                self($($argument),*)
            }
        }
    };
}

implement!(0);
implement!(1 A1 a1);
implement!(2 A1 a1 A2 a2);
implement!(3 A1 a1 A2 a2 A3 a3);
implement!(4 A1 a1 A2 a2 A3 a3 A4 a4);
implement!(5 A1 a1 A2 a2 A3 a3 A4 a4 A5 a5);
implement!(6 A1 a1 A2 a2 A3 a3 A4 a4 A5 a5 A6 a6);
implement!(7 A1 a1 A2 a2 A3 a3 A4 a4 A5 a5 A6 a6 A7 a7);
implement!(8 A1 a1 A2 a2 A3 a3 A4 a4 A5 a5 A6 a6 A7 a7 A8 a8);
implement!(9 A1 a1 A2 a2 A3 a3 A4 a4 A5 a5 A6 a6 A7 a7 A8 a8 A9 a9);
implement!(10 A1 a1 A2 a2 A3 a3 A4 a4 A5 a5 A6 a6 A7 a7 A8 a8 A9 a9 A10 a10);
implement!(11 A1 a1 A2 a2 A3 a3 A4 a4 A5 a5 A6 a6 A7 a7 A8 a8 A9 a9 A10 a10 A11 a11);
implement!(12 A1 a1 A2 a2 A3 a3 A4 a4 A5 a5 A6 a6 A7 a7 A8 a8 A9 a9 A10 a10 A11 a11 A12 a12);

#[cfg(test)]
mod tests {
    use super::*;

    fn count<A: Arguments>(_: A) -> usize {
        A::COUNT
    }

    fn invoke<A, F: TaskFn<A>>(task: F, args: A) -> F::Output {
        assert_task!(F);
        task.invoke(args)
    }

    fn join(a: String, b: u8) -> String {
        format!("{a}{b}")
    }

    #[test]
    fn function_is_a_task_of_its_arguments() {
        assert_eq!(invoke(join, ("a".into(), 1)), "a1");
        assert_eq!(invoke(|| 7, ()), 7);
    }

    #[test]
    fn arguments_are_counted_from_none_to_twelve() {
        assert_eq!(count(()), 0);
        assert_eq!(count((1,)), 1);
        assert_eq!(
            count((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, "x".to_owned())),
            12
        );
    }

    #[test]
    fn arguments_are_encoded_one_by_one() {
        let mut out = Buffer::new();
        encode_arguments(&(vec![1_u16, 2], 7_u8), &mut out).unwrap();
        let mut input = out.as_slice();
        assert_eq!(codec::decode::<Vec<u16>>(&mut input).unwrap(), [1, 2]);
        assert_eq!(codec::decode::<u8>(&mut input).unwrap(), 7);
        assert!(input.is_empty());
    }
}
