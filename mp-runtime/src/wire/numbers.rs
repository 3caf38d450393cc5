//! Vectors of numbers among all that serde asks us to write and read.
//!
//! serde hands over a sequence by a type parameter, and its elements one by one: 16 million calls
//! for 16 MiB of bytes. Here it is found out whether the sequence is a vector of numbers, whose
//! bytes in memory are its bytes on the wire. For types that are `'static` [`Any`](std::any::Any)
//! tells; serde's need not be.
//!
//! # Safety
//!
//! A value is taken for one of another type only where the identities of both types, without
//! lifetimes, are equal and the one that is named here has none but that of the reference itself.

#![expect(
    unsafe_code,
    reason = "a type that was compared at run time is not known to the compiler"
)]

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::codec::DecodeError;
use super::copy::{self, Hands};
use super::reader::Reader;

/// Calls `$with!` with the types of number whose vectors are copied as memory.
macro_rules! with_numbers {
    ($with:ident) => {
        // The format is little endian, and on it `usize` has 64 bits.
        #[cfg(target_endian = "little")]
        {
            $with!(u8 u16 u32 u64 i8 i16 i32 i64 f32 f64);
            #[cfg(target_pointer_width = "64")]
            $with!(usize isize);
        }
    };
}

/// The elements and their bytes, if `items` is a reference to a vector or slice of numbers.
#[inline]
pub(super) fn bytes_of<I>(items: &I) -> Option<(usize, &[u8])> {
    // The type is known when this is compiled, so that all but one branch disappear.
    macro_rules! numbers {
        ($($number:ty)*) => {$(
            if let Some(numbers) = slice_of::<$number, I>(items) {
                return Some((numbers.len(), bytemuck::cast_slice(numbers)));
            }
        )*};
    }
    with_numbers!(numbers);
    None
}

/// What `items` refers to, if it is a `&Vec<N>` or a `&[N]`.
#[inline]
fn slice_of<N: bytemuck::Pod, I>(items: &I) -> Option<&[N]> {
    let id = id_of::<I>();
    if id == id_of::<&Vec<N>>() {
        // SAFETY: `I` is `&'a Vec<N>`, and `N` has no lifetime, being `Pod`; `'a` outlives `items`.
        let items: &&Vec<N> = unsafe { &*(&raw const *items).cast() };
        return Some(items);
    }
    if id == id_of::<&[N]>() {
        // SAFETY: `I` is `&'a [N]`; the rest as above.
        let items: &&[N] = unsafe { &*(&raw const *items).cast() };
        return Some(items);
    }
    None
}

/// Reads a vector of numbers, if that is what `V` visits a sequence for.
#[inline]
pub(super) fn read<'de, V: Visitor<'de>>(
    reader: &mut Reader<'de>,
) -> Result<Option<V::Value>, DecodeError> {
    macro_rules! numbers {
        ($($number:ty)*) => {$(
            // Asked first, since it takes less where nothing is inlined.
            if id_of::<V::Value>() == TypeId::of::<Vec<$number>>()
                && visitor_of::<Vec<$number>>() == Some(id_of::<V>())
            {
                let bytes = reader.run(size_of::<$number>() as u64)?;
                let numbers = ManuallyDrop::new(to_numbers::<$number>(bytes, reader.hands));
                // SAFETY: `V::Value` is `Vec<$number>`, and the original is not used again.
                return Ok(Some(unsafe { mem::transmute_copy(&numbers) }));
            }
        )*};
    }
    with_numbers!(numbers);
    Ok(None)
}

/// The numbers whose bytes these are, which need not be aligned.
#[inline]
fn to_numbers<N: bytemuck::Pod + Send + Sync>(bytes: &[u8], hands: Hands) -> Vec<N> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(numbers) => copy::to_vec(numbers, hands),
        Err(_) => bytes
            .chunks_exact(size_of::<N>())
            .map(bytemuck::pod_read_unaligned)
            .collect(),
    }
}

/// The identity of a type, whatever its lifetimes.
#[inline]
fn id_of<T: ?Sized>() -> TypeId {
    trait Identified {
        fn id(&self) -> TypeId
        where
            Self: 'static;
    }
    impl<T: ?Sized> Identified for PhantomData<T> {
        #[inline]
        fn id(&self) -> TypeId
        where
            Self: 'static,
        {
            TypeId::of::<T>()
        }
    }
    let type_ = PhantomData::<T>;
    let type_: &dyn Identified = &type_;
    // SAFETY: the two differ in a lifetime that a `PhantomData` does nothing with; that of the
    // reference, which is too long now, ends with this function.
    let type_ = unsafe { mem::transmute::<&dyn Identified, &(dyn Identified + 'static)>(type_) };
    type_.id()
}

/// The visitor by which `T` reads itself from a sequence. Others may give a `T` too, but make it
/// of the elements in ways of their own.
#[inline]
fn visitor_of<T: for<'de> Deserialize<'de>>() -> Option<TypeId> {
    T::deserialize(Asked)
        .err()
        .and_then(|Seen(visitor)| visitor)
}

/// A deserializer that reads nothing, but learns the visitor.
struct Asked;

/// The visitor of a sequence that [`Asked`] has seen.
#[derive(Debug)]
struct Seen(Option<TypeId>);

impl<'de> Deserializer<'de> for Asked {
    type Error = Seen;

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> {
        Err(Seen(Some(id_of::<V>())))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> {
        Err(Seen(None))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing is read here")
    }
}

impl std::error::Error for Seen {}

impl de::Error for Seen {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(None)
    }
}
