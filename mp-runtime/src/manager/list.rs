//! A list that lives in a manager.

use std::any::TypeId;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use mp_macros::shared;

use super::{Managed, Manager, Object, Opaque};
use crate::error::Error;
use crate::task::Transfer;

/// The elements, in the manager's process.
pub(super) struct ListState(VecDeque<Opaque>);

#[shared(crate = crate, name = "mp::List", handle = ListHandle)]
impl ListState {
    pub(super) fn new(values: Vec<Opaque>) -> Self {
        Self(values.into())
    }

    pub(super) fn push(&mut self, value: Opaque) {
        self.0.push_back(value);
    }

    pub(super) fn push_front(&mut self, value: Opaque) {
        self.0.push_front(value);
    }

    pub(super) fn push_many(&mut self, values: Vec<Opaque>) {
        self.0.extend(values);
    }

    pub(super) fn pop(&mut self) -> Option<Opaque> {
        self.0.pop_back()
    }

    pub(super) fn pop_front(&mut self) -> Option<Opaque> {
        self.0.pop_front()
    }

    pub(super) fn get(&self, index: usize) -> Option<Opaque> {
        self.0.get(index).cloned()
    }

    pub(super) fn set(&mut self, index: usize, value: Opaque) -> Option<Opaque> {
        Some(std::mem::replace(self.0.get_mut(index)?, value))
    }

    pub(super) fn insert(&mut self, index: usize, value: Opaque) -> bool {
        let fits = index <= self.0.len();
        if fits {
            self.0.insert(index, value);
        }
        fits
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Opaque> {
        self.0.remove(index)
    }

    pub(super) fn find(&self, value: Opaque) -> Option<usize> {
        self.0.iter().position(|one| *one == value)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    pub(super) fn reverse(&mut self) {
        self.0.make_contiguous().reverse();
    }

    /// Beyond the end there is nothing.
    pub(super) fn slice(&self, from: usize, to: usize) -> Vec<Opaque> {
        let to = to.min(self.0.len());
        self.0.range(from.min(to)..to).cloned().collect()
    }
}

/// A list that lives in a [`Manager`], used by any process.
///
/// A handle, as all of them: a clone is the same list, and so is what arrives where it was sent.
/// Elements may hold other shared things, another `List` or a [`Queue`](crate::Queue) for one. Both ends
/// are as quick, so it serves as a queue between programs as well.
///
/// Each call goes to the manager and back; [`push_many`](Self::push_many), [`slice`](Self::slice) and
/// [`to_vec`](Self::to_vec) take or give many elements at once. The manager runs no code of the
/// elements.
///
/// # Errors
///
/// Each call fails if a value cannot be encoded or decoded, and if the manager has ended. An index
/// beyond the end is `None` or false.
///
/// # Examples
///
/// ```
/// # fn main() -> mp::Result<()> {
/// let manager = mp::Manager::new()?;
/// let words = mp::List::<String>::new(&manager)?;
/// words.push_many(["a".to_owned(), "b".to_owned()])?;
/// words.set(1, &"c".to_owned())?;
/// assert_eq!(words.get(1)?.as_deref(), Some("c"));
/// assert_eq!(words.to_vec()?, ["a", "c"]);
/// # Ok(())
/// # }
/// ```
pub struct List<T> {
    handle: ListHandle,
    marker: PhantomData<fn(T) -> T>,
}

super::handle! { List<T>, ListHandle, ListState }

#[expect(clippy::missing_errors_doc, reason = "the type says when calls fail")]
impl<T: Transfer> List<T> {
    /// Makes an empty list.
    pub fn new(manager: &Manager) -> Result<Self, Error> {
        ListHandle::new(manager, Vec::new()).map(Self::over)
    }

    /// Adds an element at the end.
    #[doc(alias = "append")]
    pub fn push(&self, value: &T) -> Result<(), Error> {
        self.handle.push(self.encode(value)?)
    }

    /// Adds an element at the front.
    pub fn push_front(&self, value: &T) -> Result<(), Error> {
        self.handle.push_front(self.encode(value)?)
    }

    /// Adds many elements at the end, together.
    #[doc(alias = "extend")]
    pub fn push_many(&self, values: impl IntoIterator<Item = T>) -> Result<(), Error> {
        let values = values.into_iter().map(|value| self.encode(&value));
        self.handle.push_many(values.collect::<Result<_, _>>()?)
    }

    /// Takes the last element.
    pub fn pop(&self) -> Result<Option<T>, Error> {
        self.decode(self.handle.pop()?)
    }

    /// Takes the first element.
    pub fn pop_front(&self) -> Result<Option<T>, Error> {
        self.decode(self.handle.pop_front()?)
    }

    /// The element at `index`.
    pub fn get(&self, index: usize) -> Result<Option<T>, Error> {
        self.decode(self.handle.get(index)?)
    }

    /// Replaces the element at `index`, and returns the old one: `None` if there is none, then nothing
    /// is set.
    pub fn set(&self, index: usize, value: &T) -> Result<Option<T>, Error> {
        self.decode(self.handle.set(index, self.encode(value)?)?)
    }

    /// Inserts an element before `index`; false if that is beyond the end.
    pub fn insert(&self, index: usize, value: &T) -> Result<bool, Error> {
        self.handle.insert(index, self.encode(value)?)
    }

    /// Removes the element at `index`.
    pub fn remove(&self, index: usize) -> Result<Option<T>, Error> {
        self.decode(self.handle.remove(index)?)
    }

    /// The index of the first element with the same bytes.
    #[doc(alias = "index")]
    pub fn find(&self, value: &T) -> Result<Option<usize>, Error> {
        self.handle.find(self.encode(value)?)
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

    /// Removes the elements from `len` on.
    pub fn truncate(&self, len: usize) -> Result<(), Error> {
        self.handle.truncate(len)
    }

    /// Reverses the order.
    pub fn reverse(&self) -> Result<(), Error> {
        self.handle.reverse()
    }

    /// The elements of a range, as far as there are any, at one moment.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>, Error> {
        let from = match range.start_bound() {
            Bound::Included(&from) => from,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&to) => to,
            Bound::Unbounded => usize::MAX,
        };
        let object = self.handle.object();
        let values = self.handle.slice(from, to)?;
        values.iter().map(|value| object.decode(value)).collect()
    }

    /// All elements, at one moment.
    pub fn to_vec(&self) -> Result<Vec<T>, Error> {
        self.slice(..)
    }

    /// The elements one after the other, each as it is when it is asked for. Once it has ended it stays
    /// so. [`to_vec`](Self::to_vec) is much quicker.
    pub fn iter(&self) -> ListIter<'_, T> {
        ListIter {
            list: self,
            next: Some(0),
        }
    }

    fn encode(&self, value: &T) -> Result<Opaque, Error> {
        self.handle.object().encode(value)
    }

    fn decode(&self, value: Option<Opaque>) -> Result<Option<T>, Error> {
        let object = self.handle.object();
        value.map(|value| object.decode(&value)).transpose()
    }
}

/// The elements of a list, see [`List::iter`].
#[derive(Debug)]
pub struct ListIter<'a, T> {
    list: &'a List<T>,
    /// `None` at the end.
    next: Option<usize>,
}

impl<T: Transfer> Iterator for ListIter<'_, T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next.take()?;
        let got = self.list.get(index).transpose()?;
        if got.is_ok() {
            self.next = Some(index + 1);
        }
        Some(got)
    }
}
