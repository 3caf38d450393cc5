//! A set that lives in a manager: a map without values.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;

use super::map::{MapHandle, MapState};
use super::{Managed, Manager, Object, Opaque};
use crate::error::Error;
use crate::task::Transfer;

/// A set that lives in a [`Manager`], used by any process.
///
/// A handle, as all of them: a clone is the same set, and so is what arrives where it was sent.
/// Elements are compared by their encoded bytes, as the keys of a [`Map`](crate::Map), and are in the
/// order in which they came.
///
/// [`to_vec`](Self::to_vec) gives what std's sets compute with; what they computed comes back by
/// [`insert_many`](Self::insert_many), [`remove_many`](Self::remove_many) and
/// [`keep_only`](Self::keep_only), which are one call each.
///
/// # Errors
///
/// Each call fails if an element cannot be encoded or decoded, and if the manager has ended.
///
/// # Examples
///
/// ```
/// # fn main() -> mp::Result<()> {
/// let manager = mp::Manager::new()?;
/// let seen = mp::Set::<u32>::new(&manager)?;
/// assert!(seen.insert(&7)?);
/// assert!(!seen.insert(&7)?);
/// seen.insert_many([1, 2])?;
/// seen.keep_only(&[1, 7])?;
/// assert_eq!(seen.to_vec()?, [7, 1]);
/// # Ok(())
/// # }
/// ```
pub struct Set<T> {
    handle: MapHandle,
    marker: PhantomData<fn(T) -> T>,
}

super::handle! { Set<T>, MapHandle, MapState }

#[expect(clippy::missing_errors_doc, reason = "the type says when calls fail")]
impl<T: Transfer> Set<T> {
    /// Makes an empty set.
    pub fn new(manager: &Manager) -> Result<Self, Error> {
        MapHandle::new(manager).map(Self::over)
    }

    /// Adds an element; whether it is new.
    #[doc(alias = "add")]
    pub fn insert(&self, value: &T) -> Result<bool, Error> {
        let old = self.handle.insert(self.encode(value)?, nothing())?;
        Ok(old.is_none())
    }

    /// Adds many elements; how many are new.
    #[doc(alias = "update")]
    pub fn insert_many(&self, values: impl IntoIterator<Item = T>) -> Result<usize, Error> {
        let encode = |value| Ok((self.encode(&value)?, nothing()));
        let values = values
            .into_iter()
            .map(encode)
            .collect::<Result<_, Error>>()?;
        self.handle.insert_many(values)
    }

    /// Removes an element; whether it was there.
    #[doc(alias = "discard")]
    pub fn remove(&self, value: &T) -> Result<bool, Error> {
        Ok(self.handle.remove(self.encode(value)?)?.is_some())
    }

    /// Removes many elements; how many were there.
    #[doc(alias = "difference_update")]
    pub fn remove_many<'a>(&self, values: impl IntoIterator<Item = &'a T>) -> Result<usize, Error> {
        let values = self.encode_all(values)?;
        self.handle.remove_many(values)
    }

    /// Removes all elements but these.
    #[doc(alias = "intersection_update")]
    pub fn keep_only<'a>(&self, values: impl IntoIterator<Item = &'a T>) -> Result<(), Error> {
        let values = self.encode_all(values)?;
        self.handle.keep(values)
    }

    /// Takes the element that came last.
    pub fn pop(&self) -> Result<Option<T>, Error> {
        let popped = self.handle.pop()?;
        popped.map(|(value, _)| self.decode(&value)).transpose()
    }

    /// Whether an element is there.
    pub fn contains(&self, value: &T) -> Result<bool, Error> {
        self.handle.contains(self.encode(value)?)
    }

    /// How many elements there are.
    pub fn len(&self) -> Result<usize, Error> {
        self.handle.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }

    /// Removes all elements.
    pub fn clear(&self) -> Result<(), Error> {
        self.handle.clear()
    }

    /// All elements, at one moment.
    pub fn to_vec(&self) -> Result<Vec<T>, Error> {
        let values = self.handle.keys()?;
        values.iter().map(|value| self.decode(value)).collect()
    }

    fn encode(&self, value: &T) -> Result<Opaque, Error> {
        self.handle.object().encode(value)
    }

    fn encode_all<'a>(
        &self,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Result<Vec<Opaque>, Error> {
        values.into_iter().map(|value| self.encode(value)).collect()
    }

    fn decode(&self, value: &Opaque) -> Result<T, Error> {
        self.handle.object().decode(value)
    }
}

/// What a set has as its values.
fn nothing() -> Opaque {
    Opaque::new([].into(), Vec::new())
}
