//! Shared data as the bytes that it is, on its way to another machine or from there.
//!
//! # Safety
//!
//! What arrives is written while this process alone has the object's handle, and is complete when
//! others come to know of it, as with data that is made here. It is believed to be what it says only as
//! far as that harms nobody: any bytes are plain values, a text is checked, and whoever reads values of
//! some size finds that the object was made of values of that size.

#![expect(
    unsafe_code,
    reason = "that nobody writes is what makes a reference shared"
)]

use std::fmt;
use std::sync::Arc;

use super::object;
use super::shared::sealed::TextByte;
use crate::error::{Error, ErrorKind};
use crate::shm::Kind;
use crate::shm::plain::Cells;
use crate::wire::transfer::Handle;

/// What some shared data is made of: a number for the type of its items, and the bytes that each takes.
pub type Make = (u64, u64);

/// Shared data, of whatever type; it stays as long as this does.
pub struct Content {
    handle: Arc<Handle>,
    cells: Cells<u8>,
    make: Make,
}

impl Content {
    pub(crate) fn open(handle: Arc<Handle>) -> Result<Self, Error> {
        let (cells, (tag, size)) = object::open_bytes(&handle, Kind::Shared)?;
        Ok(Self {
            handle,
            cells,
            make: (tag, size as u64),
        })
    }

    /// What nothing else is called in the program's life.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.handle.id().bits()
    }

    /// What it is made of.
    #[must_use]
    pub fn make(&self) -> Make {
        self.make
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the object is complete, so nobody writes to it any more, and it stays as long as
        // our handle.
        unsafe { self.cells.as_slice() }
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("len", &self.cells.len())
            .finish_non_exhaustive()
    }
}

/// Shared data that is being written, from the front.
pub struct Arrival {
    handle: Arc<Handle>,
    cells: Cells<u8>,
    make: Make,
    written: usize,
}

impl Arrival {
    /// Makes room for `len` bytes.
    ///
    /// # Errors
    ///
    /// If no shared memory is left, or if so many bytes are no whole number of items.
    pub fn new(make: Make, len: usize) -> Result<Self, Error> {
        let (tag, size) = make;
        if tag == 0 || size == 0 || !(len as u64).is_multiple_of(size) {
            return Err(senseless());
        }
        let (handle, cells) = object::create_bytes(Kind::Shared, len)?;
        Ok(Self {
            handle,
            cells,
            make,
            written: 0,
        })
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// If there are more than there should be.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let part = self.cells.part(self.written, bytes.len());
        let part = part.ok_or_else(senseless)?;
        // SAFETY: nobody else has a handle of the object, and there is no other reference to it here.
        let mut place = unsafe { part.exclusive() };
        place.copy_from_slice(bytes);
        self.written += bytes.len();
        Ok(())
    }

    /// Ends the writing.
    ///
    /// # Errors
    ///
    /// If there are fewer bytes than there should be, or if a text is none.
    pub fn finish(self) -> Result<Content, Error> {
        let (tag, size) = self.make;
        // SAFETY: we alone know of the object, and write to it no more.
        let bytes = unsafe { self.cells.as_slice() };
        let is_text = tag == object::tag::<TextByte>();
        if self.written < bytes.len() || is_text && std::str::from_utf8(bytes).is_err() {
            return Err(senseless());
        }
        let (len, size) = (bytes.len() as u64 / size, size as usize);
        object::complete_bytes(&self.handle, Kind::Shared, (tag, size), len as usize)?;
        Ok(Content {
            handle: self.handle,
            cells: self.cells,
            make: self.make,
        })
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival")
            .field("written", &self.written)
            .field("len", &self.cells.len())
            .finish_non_exhaustive()
    }
}

fn senseless() -> Error {
    let text = "the shared data from another machine makes no sense";
    Error::new(ErrorKind::NotDecoded, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Shared;

    fn arrived(make: Make, parts: &[&[u8]]) -> Result<Content, Error> {
        let mut arrival = Arrival::new(make, parts.concat().len())?;
        for part in parts {
            arrival.write(part)?;
        }
        arrival.finish()
    }

    fn content_of<T: super::super::shared::Data + ?Sized>(shared: &Shared<T>) -> Content {
        Content::open(shared.handle().clone()).unwrap()
    }

    #[test]
    fn data_arrives_as_it_was() {
        for len in [0, 3, 24, 100_000] {
            let there = Shared::from_values((0..len).map(f64::from)).unwrap();
            let content = content_of(&there);
            let (front, back) = content.bytes().split_at(content.bytes().len() / 3);
            let here = arrived(content.make(), &[front, back]).unwrap();
            let here = Shared::<[f64]>::open(here.handle().clone(), 0, len as u64).unwrap();
            assert_eq!(here, there);
        }
    }

    #[test]
    fn data_of_another_size_is_not_read_as_what_it_says() {
        let (tag, size) = content_of(&Shared::from_slice(&[1_u64]).unwrap()).make();
        assert_eq!(size, 8);
        let forged = arrived((tag, 1), &[&[7; 16]]).unwrap();
        let opened = Shared::<[u64]>::open(forged.handle().clone(), 0, 16);
        assert!(opened.unwrap_err().is_not_decoded());
    }

    #[test]
    fn text_that_is_none_is_refused() {
        let make = content_of(&Shared::from_text("text").unwrap()).make();
        assert!(arrived(make, &["größe".as_bytes()]).is_ok());
        assert!(arrived(make, &[&[b'a', 0xFF]]).is_err());
    }

    #[test]
    fn data_that_is_not_all_there_is_refused() {
        assert!(Arrival::new((7, 8), 12).is_err());
        assert!(Arrival::new((7, 0), 0).is_err());
        let mut arrival = Arrival::new((7, 8), 16).unwrap();
        arrival.write(&[0; 15]).unwrap();
        assert!(arrival.write(&[0; 2]).is_err());
        assert!(arrival.finish().is_err());
    }
}
