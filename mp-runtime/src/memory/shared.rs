//! Data that is written once and then read by every process where it lies.
//!
//! # Safety
//!
//! The values are written before anybody but their maker knows of them: the handle that leads to
//! them comes into being behind the last write. From then on there is no way to write to them, so
//! references that read may be given out to anybody, as long as a handle keeps the object.

#![expect(
    unsafe_code,
    reason = "that nobody writes is what makes a reference shared"
)]

use std::fmt;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::ops::{Deref, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::array::within;
use super::object;
use crate::error::Error;
use crate::shm::Kind;
use crate::shm::plain::Cells;
use crate::wire::transfer::{self, Handle};

/// Bytes that any process reads where they lie. See [`Shared`].
pub type Bytes = Shared<[u8]>;

/// Data in shared memory that never changes: `Shared<[T]>`, `Shared<str>`, and [`Bytes`].
///
/// It is written when it is made. From then on every process that it is sent to reads it where it
/// lies: a few bytes travel, whatever its size, and nothing is copied. A task that takes
/// `Shared<[f64]>` reads the data of its caller; one that returns it hands over what it wrote. A
/// clone or a [`slice`](Shared::slice) is the same memory, which is freed when nobody holds any of
/// them.
///
/// The items are plain data, as for a [`Value`](crate::Value). Up to 192 bytes take no memory of
/// their own; beyond that it takes a multiple of 64 KiB, and one of the 65,536 objects of a program:
/// it is for large things.
///
/// # When a process dies
///
/// What it held is let go: data that nobody else holds is freed.
///
/// In a copy of the process that the program made by its own `fork` the memory is not there: to read it
/// ends the copy with SIGSEGV.
///
/// # Examples
///
/// ```
/// use mp::{Process, Shared};
///
/// #[mp::task]
/// fn sum(numbers: Shared<[f64]>) -> f64 {
///     numbers.iter().sum() // read where the parent wrote them
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let numbers = Shared::from_slice(&[0.5; 100_000])?;
/// let half = numbers.slice(..50_000);
/// assert_eq!(Process::new(sum, (half,)).start()?.join()?, 25_000.0);
/// # Ok(())
/// # }
/// ```
pub struct Shared<T: Data + ?Sized> {
    handle: Arc<Handle>,
    /// Where in the object this part begins, in items.
    start: usize,
    cells: Cells<T::Item>,
}

/// What [`Shared`] can hold: slices of plain data, and text.
pub trait Data: sealed::Data {}

impl<T: Pod> Data for [T] {}
impl Data for str {}

pub(super) mod sealed {
    pub trait Data {
        type Item: bytemuck::Pod;
        /// The items of a [`super::Shared`] as what they are.
        fn see(items: &[Self::Item]) -> &Self;
        /// Whether a part that begins and ends so is a value too.
        fn can_cut(items: &[Self::Item], start: usize, end: usize) -> bool;
    }

    impl<T: bytemuck::Pod> Data for [T] {
        type Item = T;

        #[inline]
        fn see(items: &[T]) -> &Self {
            items
        }

        fn can_cut(_items: &[T], _start: usize, _end: usize) -> bool {
            true
        }
    }

    /// A byte of a text. A type of its own, so that bytes of a text are not taken for others.
    #[derive(Clone, Copy, Debug)]
    #[repr(transparent)]
    pub struct TextByte(pub(super) u8);

    // SAFETY: transparent over a byte.
    unsafe impl bytemuck::Zeroable for TextByte {}
    // SAFETY: transparent over a byte.
    unsafe impl bytemuck::Pod for TextByte {}

    impl Data for str {
        type Item = TextByte;

        #[inline]
        fn see(items: &[TextByte]) -> &Self {
            // SAFETY: objects of such bytes are made of a `&str` alone, and cut where `can_cut`
            // says.
            unsafe { std::str::from_utf8_unchecked(bytemuck::cast_slice(items)) }
        }

        fn can_cut(items: &[TextByte], start: usize, end: usize) -> bool {
            let text = Self::see(items);
            text.is_char_boundary(start) && text.is_char_boundary(end)
        }
    }
}

impl<T: Data + ?Sized> Shared<T> {
    /// A part of it: the same memory, and nothing is copied.
    ///
    /// # Panics
    ///
    /// If the range does not lie within it, or cuts a character of a text.
    #[track_caller]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let part = within(range, self.cells.len()).and_then(|(start, end)| self.part(start, end));
        let Some(part) = part else {
            panic!(
                "the range does not lie within the {} items, or cuts a character",
                self.cells.len()
            );
        };
        part
    }

    fn part(&self, start: usize, end: usize) -> Option<Self> {
        let cells = self.cells.part(start, end.checked_sub(start)?)?;
        T::can_cut(self.items(), start, end).then(|| Self {
            handle: self.handle.clone(),
            start: self.start + start,
            cells,
        })
    }

    #[inline]
    fn items(&self) -> &[T::Item] {
        // SAFETY: nobody writes to them any more, and they stay as long as our handle.
        unsafe { self.cells.as_slice() }
    }

    /// Makes an object of `len` items that `fill` writes.
    fn make(
        len: usize,
        fill: impl FnOnce(&mut [T::Item]) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let (handle, cells) = object::create(Kind::Shared, len, |cells| {
            // SAFETY: nobody has a handle of the object yet.
            fill(&mut unsafe { cells.exclusive() })
        })?;
        Ok(Self {
            handle,
            start: 0,
            cells,
        })
    }

    #[cfg(test)]
    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// The object of a handle, or a part of it.
    pub(super) fn open(handle: Arc<Handle>, start: u64, len: u64) -> Result<Self, Error> {
        let cells = object::open(&handle, Kind::Shared)?;
        let all = Self {
            handle,
            start: 0,
            cells,
        };
        let end = start.saturating_add(len);
        all.part(start as usize, end as usize)
            .ok_or_else(transfer::gone)
    }
}

impl<T: Pod> Shared<[T]> {
    /// Copies values to shared memory.
    ///
    /// # Errors
    ///
    /// If no shared memory is left, or the program holds its limit of 65,536 objects.
    pub fn from_slice(values: &[T]) -> Result<Self, Error> {
        Self::make(values.len(), |items: &mut [T]| {
            items.copy_from_slice(values);
            Ok(())
        })
    }

    /// Writes the values of an iterator to shared memory; if it knows how many there are, in place.
    ///
    /// # Errors
    ///
    /// As for [`from_slice`](Self::from_slice).
    pub fn from_values(values: impl IntoIterator<Item = T>) -> Result<Self, Error> {
        let values = values.into_iter();
        match values.size_hint() {
            (least, Some(most)) if least == most => {
                let mut values = values.fuse();
                let all = Self::make(least, |items: &mut [T]| {
                    // An iterator that has fewer than it said leaves zeros, which are cut off.
                    let mut count = 0;
                    for item in items.iter_mut() {
                        let Some(value) = values.next() else { break };
                        *item = value;
                        count += 1;
                    }
                    items[count..].fill(T::zeroed());
                    Ok(())
                })?;
                // One that has more is believed as well.
                let rest: Vec<T> = values.collect();
                match rest.is_empty() {
                    true => Ok(all),
                    false => Self::from_slice(&[&all[..], &rest].concat()),
                }
            }
            _ => Self::from_slice(&values.collect::<Vec<_>>()),
        }
    }

    /// Makes `len` values that `fill` writes in place. What it finds there is unspecified: write all
    /// of it.
    ///
    /// ```
    /// let squares = mp::Shared::filled(1000, |items: &mut [u64]| {
    ///     for (index, item) in items.iter_mut().enumerate() {
    ///         *item = (index * index) as u64;
    ///     }
    /// })?;
    /// assert_eq!(squares[30], 900);
    /// # Ok::<_, mp::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`from_slice`](Self::from_slice).
    pub fn filled(len: usize, fill: impl FnOnce(&mut [T])) -> Result<Self, Error> {
        Self::make(len, |items: &mut [T]| {
            fill(items);
            Ok(())
        })
    }
}

impl Shared<str> {
    /// Copies a text to shared memory.
    ///
    /// ```
    /// let text = mp::Shared::from_text("read by everybody")?;
    /// assert_eq!(&text.slice(..4)[..], "read");
    /// # Ok::<_, mp::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If no shared memory is left, or the program holds its limit of 65,536 objects.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        Self::make(text.len(), |items: &mut [sealed::TextByte]| {
            bytemuck::cast_slice_mut(items).copy_from_slice(text.as_bytes());
            Ok(())
        })
    }
}

impl Bytes {
    /// Reads all of a file, straight into shared memory.
    ///
    /// ```
    /// let bytes = mp::Bytes::from_file("Cargo.toml")?;
    /// assert_eq!(&bytes[..], &std::fs::read("Cargo.toml")?[..]);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the system says of the file, and as for [`from_slice`](Self::from_slice).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let failed = |error| Error::system(format!("could not read {}", path.display()), error);
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Self::read(&mut file, len as usize, failed)
    }

    /// Reads to the end, straight into shared memory. `expected` is how many bytes there will be:
    /// that it is right spares a copy.
    ///
    /// # Errors
    ///
    /// What the reader says, and as for [`from_slice`](Self::from_slice).
    pub fn from_reader(reader: &mut impl Read, expected: usize) -> Result<Self, Error> {
        Self::read(reader, expected, |error| {
            Error::system("could not read into shared memory", error)
        })
    }

    fn read(
        reader: &mut impl Read,
        expected: usize,
        failed: impl Fn(io::Error) -> Error,
    ) -> Result<Self, Error> {
        let mut count = 0;
        let whole = Self::make(expected, |items: &mut [u8]| {
            count = read_full(reader, items).map_err(&failed)?;
            items[count..].fill(0);
            Ok(())
        })?;
        let mut more = Vec::new();
        if count == expected {
            reader.read_to_end(&mut more).map_err(failed)?;
        }
        match more.is_empty() {
            true => Ok(whole.slice(..count)),
            false => Self::from_slice(&[&whole[..], &more].concat()),
        }
    }
}

super::from_values!(Shared<[T]>);

impl TryFrom<&str> for Shared<str> {
    type Error = Error;

    /// As [`from_text`](Self::from_text).
    fn try_from(text: &str) -> Result<Self, Error> {
        Self::from_text(text)
    }
}

impl TryFrom<String> for Shared<str> {
    type Error = Error;

    /// As [`from_text`](Self::from_text).
    fn try_from(text: String) -> Result<Self, Error> {
        Self::from_text(&text)
    }
}

/// Reads until the buffer is full or the end; returns how many bytes.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match reader.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

impl<T: Data + ?Sized> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        T::see(self.items())
    }
}

impl<T: Data + ?Sized> AsRef<T> for Shared<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: Data + ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
            start: self.start,
            cells: self.cells,
        }
    }
}

impl<T: Data + PartialEq + ?Sized> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Data + Eq + ?Sized> Eq for Shared<T> {}

impl<T: Data + Hash + ?Sized> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

/// Shows what it holds.
impl<T: Data + fmt::Debug + ?Sized> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl fmt::Display for Shared<str> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A handle among other fields.
struct Name<'a>(&'a Arc<Handle>);

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize(self.0, serializer)
    }
}

struct Received(Arc<Handle>);

impl<'de> Deserialize<'de> for Received {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize(deserializer).map(Self)
    }
}

impl<T: Data + ?Sized> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let part = (self.start as u64, self.cells.len() as u64);
        (Name(&self.handle), part.0, part.1).serialize(serializer)
    }
}

impl<'de, T: Data + ?Sized> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (Received(handle), start, len) = Deserialize::deserialize(deserializer)?;
        Self::open(handle, start, len).map_err(serde::de::Error::custom)
    }
}
