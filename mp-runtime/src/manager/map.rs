//! A map that lives in a manager, with its entries in the order in which they came.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;

use mp_macros::shared;

use super::{Managed, Manager, Object, Opaque};
use crate::error::Error;
use crate::task::Transfer;

/// The entries, in the manager's process.
pub(super) struct MapState {
    /// Where in `entries` a key is.
    places: HashMap<Opaque, u64>,
    entries: BTreeMap<u64, (Opaque, Opaque)>,
    /// The place of the next new key.
    next: u64,
}

#[shared(crate = crate, name = "mp::Map", handle = MapHandle)]
impl MapState {
    pub(super) fn new() -> Self {
        Self {
            places: HashMap::new(),
            entries: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) fn insert(&mut self, key: Opaque, value: Opaque) -> Option<Opaque> {
        if let Some(place) = self.places.get(&key) {
            let entry = self.entries.get_mut(place)?;
            return Some(std::mem::replace(&mut entry.1, value));
        }
        self.places.insert(key.clone(), self.next);
        self.entries.insert(self.next, (key, value));
        self.next += 1;
        None
    }

    pub(super) fn insert_many(&mut self, entries: Vec<(Opaque, Opaque)>) -> usize {
        let before = self.entries.len();
        for (key, value) in entries {
            self.insert(key, value);
        }
        self.entries.len() - before
    }

    pub(super) fn get_or_insert(&mut self, key: Opaque, value: Opaque) -> Opaque {
        match self.get(key.clone()) {
            Some(value) => value,
            None => {
                self.insert(key, value.clone());
                value
            }
        }
    }

    pub(super) fn replace_if(&mut self, key: Opaque, expected: Opaque, new: Opaque) -> bool {
        if self.get(key.clone()) != Some(expected) {
            return false;
        }
        self.insert(key, new);
        true
    }

    pub(super) fn get(&self, key: Opaque) -> Option<Opaque> {
        let place = self.places.get(&key)?;
        Some(self.entries.get(place)?.1.clone())
    }

    pub(super) fn get_many(&self, keys: Vec<Opaque>) -> Vec<Option<Opaque>> {
        keys.into_iter().map(|key| self.get(key)).collect()
    }

    pub(super) fn contains(&self, key: Opaque) -> bool {
        self.places.contains_key(&key)
    }

    pub(super) fn remove(&mut self, key: Opaque) -> Option<Opaque> {
        let place = self.places.remove(&key)?;
        Some(self.entries.remove(&place)?.1)
    }

    pub(super) fn remove_many(&mut self, keys: Vec<Opaque>) -> usize {
        keys.into_iter().filter_map(|key| self.remove(key)).count()
    }

    pub(super) fn keep(&mut self, keys: Vec<Opaque>) {
        let keys: std::collections::HashSet<_> = keys.into_iter().collect();
        let gone = self.places.extract_if(|key, _| !keys.contains(key));
        for (_, place) in gone {
            self.entries.remove(&place);
        }
    }

    pub(super) fn pop(&mut self) -> Option<(Opaque, Opaque)> {
        let (_, (key, value)) = self.entries.pop_last()?;
        self.places.remove(&key);
        Some((key, value))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.entries.clear();
    }

    pub(super) fn keys(&self) -> Vec<Opaque> {
        self.entries.values().map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn items(&self) -> Vec<(Opaque, Opaque)> {
        self.entries.values().cloned().collect()
    }
}

/// A map that lives in a [`Manager`], used by any process.
///
/// A handle, as all of them: a clone is the same map, and so is what arrives where it was sent. Values
/// may hold other shared things, a [`List`](crate::List) or a [`Queue`](crate::Queue) for one. Entries
/// are in the order in which their keys came, which a new value for a key does not change.
///
/// Keys are compared by their encoded bytes: a type whose equal values differ in them, as those of a
/// `HashMap` do, is no good key. The manager runs no code of the keys and values.
///
/// Each call goes to the manager and back; those that end in `many`, and [`items`](Self::items), take
/// or give many entries at once.
///
/// # Errors
///
/// Each call fails if a value cannot be encoded or decoded, and if the manager has ended.
///
/// # Examples
///
/// ```
/// # fn main() -> mp::Result<()> {
/// let manager = mp::Manager::new()?;
/// let ages = mp::Map::<String, u32>::new(&manager)?;
/// ages.insert(&"ann".to_owned(), &31)?;
/// ages.insert_many([("bob".to_owned(), 27), ("eve".to_owned(), 45)])?;
/// assert_eq!(ages.get(&"bob".to_owned())?, Some(27));
/// assert_eq!(ages.len()?, 3);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "dict")]
pub struct Map<K, V> {
    handle: MapHandle,
    marker: PhantomData<Takes<K, V>>,
}

/// Keys and values go both ways.
type Takes<K, V> = fn(K, V) -> (K, V);

super::handle! { Map<K, V>, MapHandle, MapState }

#[expect(clippy::missing_errors_doc, reason = "the type says when calls fail")]
impl<K: Transfer, V: Transfer> Map<K, V> {
    /// Makes an empty map.
    pub fn new(manager: &Manager) -> Result<Self, Error> {
        MapHandle::new(manager).map(Self::over)
    }

    /// Sets the value of a key, and returns the one that it had.
    pub fn insert(&self, key: &K, value: &V) -> Result<Option<V>, Error> {
        let old = self.handle.insert(self.encode(key)?, self.encode(value)?)?;
        self.decode_option(old)
    }

    /// Sets the values of many keys, and returns how many keys are new.
    #[doc(alias = "update")]
    pub fn insert_many(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<usize, Error> {
        let encode = |(key, value)| Ok((self.encode(&key)?, self.encode(&value)?));
        let entries = entries
            .into_iter()
            .map(encode)
            .collect::<Result<_, Error>>()?;
        self.handle.insert_many(entries)
    }

    /// The value of a key, which is set first if it has none.
    #[doc(alias = "setdefault")]
    pub fn get_or_insert(&self, key: &K, value: &V) -> Result<V, Error> {
        let (key, value) = (self.encode(key)?, self.encode(value)?);
        self.decode(&self.handle.get_or_insert(key, value)?)
    }

    /// Sets the value of a key if it is, byte for byte, the expected one; returns whether it was. So
    /// what was computed from a value is not written over another's.
    pub fn replace_if(&self, key: &K, expected: &V, new: &V) -> Result<bool, Error> {
        let (expected, new) = (self.encode(expected)?, self.encode(new)?);
        self.handle.replace_if(self.encode(key)?, expected, new)
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        let value = self.handle.get(self.encode(key)?)?;
        self.decode_option(value)
    }

    /// The values of many keys, in their order.
    pub fn get_many<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a K>,
    ) -> Result<Vec<Option<V>>, Error> {
        let keys = self.encode_all(keys)?;
        let values = self.handle.get_many(keys)?;
        let decode = |value| self.decode_option(value);
        values.into_iter().map(decode).collect()
    }

    /// Whether a key has a value.
    pub fn contains_key(&self, key: &K) -> Result<bool, Error> {
        self.handle.contains(self.encode(key)?)
    }

    /// Removes a key, and returns the value that it had.
    pub fn remove(&self, key: &K) -> Result<Option<V>, Error> {
        let value = self.handle.remove(self.encode(key)?)?;
        self.decode_option(value)
    }

    /// Removes many keys, and returns how many there were.
    pub fn remove_many<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<usize, Error> {
        let keys = self.encode_all(keys)?;
        self.handle.remove_many(keys)
    }

    /// Removes the entry whose key came last.
    #[doc(alias = "popitem")]
    pub fn pop(&self) -> Result<Option<(K, V)>, Error> {
        let entry = self.handle.pop()?;
        entry.map(|entry| self.decode_entry(&entry)).transpose()
    }

    /// How many entries there are.
    pub fn len(&self) -> Result<usize, Error> {
        self.handle.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }

    /// Removes all entries.
    pub fn clear(&self) -> Result<(), Error> {
        self.handle.clear()
    }

    /// All keys, at one moment.
    pub fn keys(&self) -> Result<Vec<K>, Error> {
        let keys = self.handle.keys()?;
        keys.iter().map(|key| self.decode(key)).collect()
    }

    /// All values, at one moment.
    pub fn values(&self) -> Result<Vec<V>, Error> {
        let items = self.handle.items()?;
        items.iter().map(|(_, value)| self.decode(value)).collect()
    }

    /// All entries, at one moment.
    pub fn items(&self) -> Result<Vec<(K, V)>, Error> {
        let items = self.handle.items()?;
        items.iter().map(|entry| self.decode_entry(entry)).collect()
    }

    fn encode<T: Transfer>(&self, value: &T) -> Result<Opaque, Error> {
        self.handle.object().encode(value)
    }

    fn encode_all<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<Vec<Opaque>, Error> {
        keys.into_iter().map(|key| self.encode(key)).collect()
    }

    fn decode<T: Transfer>(&self, value: &Opaque) -> Result<T, Error> {
        self.handle.object().decode(value)
    }

    fn decode_option(&self, value: Option<Opaque>) -> Result<Option<V>, Error> {
        value.map(|value| self.decode(&value)).transpose()
    }

    fn decode_entry(&self, (key, value): &(Opaque, Opaque)) -> Result<(K, V), Error> {
        Ok((self.decode(key)?, self.decode(value)?))
    }
}
