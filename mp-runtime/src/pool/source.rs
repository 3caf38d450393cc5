//! Where the items of a call come from, and how they are encoded into jobs.

use std::any::type_name;
use std::marker::PhantomData;

use super::wire;
use crate::shm::buffer::Buffer;
use crate::task::{Arguments, Transfer, encode_arguments};
use crate::wire::codec::{self, EncodeError};

/// The items of a call, pulled one at a time.
pub(super) trait Source {
    /// Pulls the next item unless one is held; false if there are no more.
    fn load(&mut self) -> bool;
    /// Encodes the item that is held.
    fn encode(&self, out: &mut Buffer) -> Result<(), EncodeError>;
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
            wire::write_item(out, |out| self.encode(out))?;
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
    fn encode(item: &A, out: &mut Buffer) -> Result<(), EncodeError>;
}

/// As the one argument of a task.
#[derive(Debug)]
pub(super) enum Argument {}

impl<A: Transfer> Encoding<A> for Argument {
    #[inline]
    fn encode(item: &A, out: &mut Buffer) -> Result<(), EncodeError> {
        codec::encode(item, out)
    }
}

/// As a tuple of all arguments.
#[derive(Debug)]
pub(super) enum Tuple {}

impl<A: Arguments> Encoding<A> for Tuple {
    #[inline]
    fn encode(item: &A, out: &mut Buffer) -> Result<(), EncodeError> {
        encode_arguments(item, out)
    }
}

/// As `E` does, from a reference.
#[derive(Debug)]
pub(super) struct Borrowed<E>(PhantomData<E>);

impl<A, E: Encoding<A>> Encoding<&A> for Borrowed<E> {
    #[inline]
    fn encode(item: &&A, out: &mut Buffer) -> Result<(), EncodeError> {
        E::encode(item, out)
    }
}

type Encode<A> = fn(&A, &mut Buffer) -> Result<(), EncodeError>;
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
        if let Some(item) = self.held.take() {
            self.write_one::<E>(item, out)?;
            written.add(out.len());
        }
        // From here on nothing goes through `held` but what stays there.
        while written.count < most && !(written.count > 0 && wire::is_full(out.len())) {
            if self.is_over {
                return Ok(false);
            }
            self.is_over = true;
            let Some(item) = self.iter.next() else {
                return Ok(false);
            };
            self.is_over = false;
            self.write_one::<E>(item, out)?;
            written.add(out.len());
        }
        Ok(true)
    }

    /// Encodes an item, which is held if that fails.
    #[inline(always)]
    fn write_one<E: Encoding<I::Item>>(
        &mut self,
        item: I::Item,
        out: &mut Buffer,
    ) -> Result<(), EncodeError> {
        let item = Held {
            item: Some(item),
            place: &mut self.held,
        };
        let encode = |out: &mut Buffer| match &item.item {
            Some(item) => E::encode(item, out),
            None => Ok(()),
        };
        wire::write_item(out, encode)?;
        item.pass();
        Ok(())
    }
}

impl<I: Iterator> Source for Items<I> {
    #[inline]
    fn load(&mut self) -> bool {
        if self.held.is_none() && !self.is_over {
            // An iterator that panics is not asked again.
            self.is_over = true;
            self.held = self.iter.next();
            self.is_over = self.held.is_none();
        }
        self.held.is_some()
    }

    #[inline]
    fn encode(&self, out: &mut Buffer) -> Result<(), EncodeError> {
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
