//! Where the items of a call come from, and how they are encoded into jobs.

use std::any::type_name;
use std::marker::PhantomData;

use super::wire;
use crate::carried::Carried;
use crate::shm::buffer::{Buffer, Tail};
use crate::task::{Arguments, Transfer, append_arguments};
use crate::wire::codec::{self, EncodeError};

/// The items of a call, pulled one at a time.
pub(super) trait Source {
    /// Pulls the next item unless one is held; false if there are no more.
    fn load(&mut self) -> bool;
    /// Encodes the item that is held.
    fn encode(&self, out: &mut Tail<'_>) -> Result<(), EncodeError>;
    /// Whether an item is held.
    fn is_held(&self) -> bool;
    /// Lets go of the item that is held.
    fn pass(&mut self);
    /// How many there are still, if that is known.
    fn left(&self) -> Option<u64>;
    /// What their type is called.
    fn type_name(&self) -> &'static str;

    /// Encodes items until `written` has so many or the block is full; false if there are no more.
    /// After an error, or a panic while one was encoded, that item is held.
    #[inline]
    fn write(
        &mut self,
        out: &mut Buffer,
        most: u64,
        written: &mut Written,
    ) -> Result<bool, EncodeError> {
        while written.count < most && !(written.count > 0 && wire::is_full(out.len())) {
            if !self.load() {
                return Ok(false);
            }
            wire::write_item(&mut out.tail(), |out| self.encode(out))?;
            self.pass();
            written.add(out.len());
        }
        Ok(true)
    }
}

/// Items that were encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) count: u64,
    /// Where the last of them ends.
    pub(super) end: usize,
}

impl Written {
    #[inline]
    pub(super) fn add(&mut self, end: usize) {
        self.count += 1;
        self.end = end;
    }
}

/// How an item is encoded.
pub(super) trait Encoding<A> {
    fn encode(item: &A, out: &mut Tail<'_>) -> Result<(), EncodeError>;
}

/// As the one argument of a task.
#[derive(Debug)]
pub(super) enum Argument {}

impl<A: Transfer> Encoding<A> for Argument {
    #[inline]
    fn encode(item: &A, out: &mut Tail<'_>) -> Result<(), EncodeError> {
        codec::append(item, out)
    }
}

/// As a tuple of all arguments.
#[derive(Debug)]
pub(super) enum Tuple {}

impl<A: Arguments> Encoding<A> for Tuple {
    #[inline]
    fn encode(item: &A, out: &mut Tail<'_>) -> Result<(), EncodeError> {
        append_arguments(item, out)
    }
}

/// As `E` does, from a reference.
#[derive(Debug)]
pub(super) struct Borrowed<E>(PhantomData<E>);

impl<A, E: Encoding<A>> Encoding<&A> for Borrowed<E> {
    #[inline]
    fn encode(item: &&A, out: &mut Tail<'_>) -> Result<(), EncodeError> {
        E::encode(item, out)
    }
}

type Encode<A> = fn(&A, &mut Tail<'_>) -> Result<(), EncodeError>;
type Write<I> = fn(&mut Items<I>, &mut Buffer, u64, &mut Written) -> Result<bool, EncodeError>;

/// Items from an iterator.
pub(super) struct Items<I: Iterator> {
    iter: I,
    held: Option<I::Item>,
    is_over: bool,
    encode: Encode<I::Item>,
    /// A pointer to the loop and not one for each item: it is compiled with the encoding.
    write: Write<I>,
}

impl<I: Iterator> Items<I> {
    /// Of which each is encoded as `E` says.
    pub(super) fn new<E: Encoding<I::Item>>(iter: I) -> Self {
        Self {
            iter,
            held: None,
            is_over: false,
            encode: E::encode,
            write: Self::write_all::<E>,
        }
    }

    /// See [`Source::write`].
    fn write_all<E: Encoding<I::Item>>(
        &mut self,
        out: &mut Buffer,
        most: u64,
        written: &mut Written,
    ) -> Result<bool, EncodeError> {
        let mut out = out.tail();
        let mut written = Carried::new(written);
        if let Some(item) = self.held.take() {
            write_one::<E, _>(item, &mut self.held, &mut out)?;
            written.add(out.len());
        }
        // From here on nothing goes through `held` but what stays there.
        while written.count < most && !(written.count > 0 && wire::is_full(out.len())) {
            let Some(item) = self.next() else {
                return Ok(false);
            };
            write_one::<E, _>(item, &mut self.held, &mut out)?;
            written.add(out.len());
        }
        Ok(true)
    }

    /// Pulls an item.
    #[inline(always)]
    fn next(&mut self) -> Option<I::Item> {
        if self.is_over {
            return None;
        }
        // An iterator that panics is not asked again.
        let panics = Panics(&mut self.is_over);
        let item = self.iter.next();
        std::mem::forget(panics);
        if item.is_none() {
            self.is_over = true;
        }
        item
    }
}

impl<I: Iterator> Source for Items<I> {
    #[inline]
    fn load(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.next();
        }
        self.held.is_some()
    }

    #[inline]
    fn encode(&self, out: &mut Tail<'_>) -> Result<(), EncodeError> {
        match &self.held {
            Some(item) => (self.encode)(item, out),
            None => Ok(()),
        }
    }

    fn is_held(&self) -> bool {
        self.held.is_some()
    }

    #[inline]
    fn pass(&mut self) {
        self.held = None;
    }

    fn left(&self) -> Option<u64> {
        let (least, most) = self.iter.size_hint();
        // It may say anything.
        (most == Some(least)).then(|| (least as u64).saturating_add(self.held.is_some().into()))
    }

    fn type_name(&self) -> &'static str {
        type_name::<I::Item>()
    }

    fn write(
        &mut self,
        out: &mut Buffer,
        most: u64,
        written: &mut Written,
    ) -> Result<bool, EncodeError> {
        (self.write)(self, out, most, written)
    }
}

/// Encodes an item, which is held in `place` if that fails.
#[inline(always)]
fn write_one<E: Encoding<A>, A>(
    item: A,
    place: &mut Option<A>,
    out: &mut Tail<'_>,
) -> Result<(), EncodeError> {
    let item = Held {
        item: Some(item),
        place,
    };
    let encode = |out: &mut Tail<'_>| match &item.item {
        Some(item) => E::encode(item, out),
        None => Ok(()),
    };
    wire::write_item(out, encode)?;
    item.pass();
    Ok(())
}

/// Says so if it is dropped.
struct Panics<'a>(&'a mut bool);

impl Drop for Panics<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.0 = true;
    }
}

/// An item that is put back unless it passes, also if it panics.
struct Held<'a, T> {
    item: Option<T>,
    place: &'a mut Option<T>,
}

impl<T> Held<'_, T> {
    #[inline]
    fn pass(mut self) {
        self.item = None;
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            *self.place = Some(item);
        }
    }
}
