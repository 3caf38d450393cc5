//! Reads values from bytes that nobody vouches for: each number, character and flag by bincode, what
//! is made of them by this.
//!
//! bincode's own walk through a value believes the length that stands before a text or a byte buffer
//! and allocates it, so that a few wild bytes end the process that reads them. This one believes no
//! length beyond the bytes that are there.

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::codec::{DecodeError, FORMAT};
use super::copy::{self, Hands};
use super::numbers;

/// Bytes of stack that a value may take while it is read. What is nested deeper is refused: a few
/// wild bytes can claim any depth, and a stack that overflows ends the process.
const MOST_STACK: usize = 512 * 1024;

/// The bytes that are still to be read.
pub(super) struct Reader<'de> {
    input: &'de [u8],
    /// Where the stack was when the reading began.
    stack: usize,
    /// Who copies what is vast.
    pub(super) hands: Hands,
}

/// Where the stack is, about.
#[inline(always)]
fn stack() -> usize {
    let here = 0_u8;
    (&raw const here).addr()
}

impl<'de> Reader<'de> {
    #[inline]
    pub(super) fn new(input: &'de [u8], hands: Hands) -> Self {
        let stack = stack();
        Self {
            input,
            stack,
            hands,
        }
    }

    /// Refuses what is nested so deep that the stack may not hold it. Types that contain themselves do
    /// so in an `Option`, an enum, a sequence or a map.
    #[inline]
    fn check_depth(&self) -> Result<(), DecodeError> {
        match self.stack.abs_diff(stack()) > MOST_STACK {
            true => Err(DecodeError::new("it is nested too deep")),
            false => Ok(()),
        }
    }

    /// What has not been read.
    #[inline]
    pub(super) fn rest(&self) -> &'de [u8] {
        self.input
    }

    #[inline]
    fn take<T: bincode::Decode<()>>(&mut self) -> Result<T, DecodeError> {
        Ok(bincode::decode_from_reader(self, FORMAT)?)
    }

    /// Takes a length and so many elements of `width` bytes each.
    #[inline]
    pub(super) fn run(&mut self, width: u64) -> Result<&'de [u8], DecodeError> {
        let len: u64 = self.take()?;
        let taken = len
            .checked_mul(width)
            .and_then(|len| self.input.split_at_checked(usize::try_from(len).ok()?));
        let (run, rest) = taken.ok_or(DecodeError::TooShort)?;
        self.input = rest;
        Ok(run)
    }

    #[inline]
    fn text(&mut self) -> Result<&'de str, DecodeError> {
        std::str::from_utf8(self.run(1)?).map_err(DecodeError::not_text)
    }

    #[inline]
    fn string(&mut self) -> Result<String, DecodeError> {
        // First copied and then checked: nobody else can write to the copy.
        String::from_utf8(copy::to_vec(self.run(1)?, self.hands))
            .map_err(|error| DecodeError::not_text(error.utf8_error()))
    }

    /// Reads how many elements a sequence claims to have.
    #[inline]
    fn count(&mut self) -> Result<u64, DecodeError> {
        let count: u64 = self.take()?;
        // More elements than bytes is right for elements of no bytes alone, and where there are more
        // than this of those, whoever counts them does not come back.
        const MOST: u64 = u32::MAX as u64;
        if count > MOST && count > self.input.len() as u64 {
            return Err(DecodeError::TooShort);
        }
        Ok(count)
    }
}

impl bincode::de::read::Reader for Reader<'_> {
    #[inline]
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), bincode::error::DecodeError> {
        match self.input.split_at_checked(bytes.len()) {
            Some((read, rest)) => {
                bytes.copy_from_slice(read);
                self.input = rest;
                Ok(())
            }
            None => Err(bincode::error::DecodeError::UnexpectedEnd {
                additional: bytes.len() - self.input.len(),
            }),
        }
    }
}

impl From<bincode::error::DecodeError> for DecodeError {
    #[inline]
    fn from(error: bincode::error::DecodeError) -> Self {
        match error {
            bincode::error::DecodeError::UnexpectedEnd { .. } => Self::TooShort,
            error => Self::of(&error),
        }
    }
}

impl DecodeError {
    #[cold]
    fn of(error: &bincode::error::DecodeError) -> Self {
        use bincode::error::DecodeError as Error;
        match error {
            Error::InvalidBooleanValue(byte) => {
                Self::new(format!("a `bool` is 0 or 1, not {byte}"))
            }
            Error::InvalidCharEncoding(_) => Self::new("the bytes are no `char`"),
            error => Self::new(error.to_string()),
        }
    }

    #[cold]
    fn new(message: impl Into<String>) -> Self {
        Self::Wrong(message.into())
    }

    #[cold]
    fn not_text(error: std::str::Utf8Error) -> Self {
        Self::new(format!("the text is not UTF-8: {error}"))
    }

    #[cold]
    fn not_self_describing() -> Self {
        Self::new(
            "its `Deserialize` asks what the bytes hold, which they don't say (serde's `untagged`, \
             `tag` and `flatten` do this)",
        )
    }
}

impl de::Error for DecodeError {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}

/// Methods that read what has no parts.
macro_rules! by_bincode {
    ($($deserialize:ident $visit:ident,)*) => {$(
        #[inline]
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(self.take()?)
        }
    )*};
}

/// Methods for what can be read only where the bytes say what they are.
macro_rules! refused {
    ($($deserialize:ident)*) => {$(
        fn $deserialize<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
            Err(DecodeError::not_self_describing())
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = DecodeError;

    by_bincode! {
        deserialize_bool visit_bool,
        deserialize_u8 visit_u8,
        deserialize_u16 visit_u16,
        deserialize_u32 visit_u32,
        deserialize_u64 visit_u64,
        deserialize_u128 visit_u128,
        deserialize_i8 visit_i8,
        deserialize_i16 visit_i16,
        deserialize_i32 visit_i32,
        deserialize_i64 visit_i64,
        deserialize_i128 visit_i128,
        deserialize_f32 visit_f32,
        deserialize_f64 visit_f64,
        deserialize_char visit_char,
    }

    refused! { deserialize_any deserialize_identifier deserialize_ignored_any }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_str(self.text()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_string(self.string()?)
    }

    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_bytes(self.run(1)?)
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_byte_buf(copy::to_vec(self.run(1)?, self.hands))
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.check_depth()?;
        match self.take()? {
            0_u8 => visitor.visit_none(),
            1 => visitor.visit_some(self),
            byte => Err(DecodeError::new(format!(
                "an `Option` begins with 0 or 1, not {byte}"
            ))),
        }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if let Some(numbers) = numbers::read::<V>(self)? {
            return Ok(numbers);
        }
        self.check_depth()?;
        let left = self.count()?;
        visitor.visit_seq(Elements { reader: self, left })
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let left = len as u64;
        visitor.visit_seq(Elements { reader: self, left })
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.check_depth()?;
        let left = self.count()?;
        visitor.visit_map(Elements { reader: self, left })
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.check_depth()?;
        visitor.visit_enum(self)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The elements of a sequence, or the entries of a map, that are still to be read.
struct Elements<'a, 'de> {
    reader: &'a mut Reader<'de>,
    left: u64,
}

impl<'de> Elements<'_, 'de> {
    #[inline]
    fn next<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.reader).map(Some)
    }

    /// No more than there are bytes, since space for so many may be allocated.
    #[inline]
    fn hint(&self) -> usize {
        let bytes = self.reader.input.len();
        usize::try_from(self.left).map_or(bytes, |left| left.min(bytes))
    }
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        self.next(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        self.next(seed)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, DecodeError> {
        seed.deserialize(&mut *self.reader)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

impl<'de> de::EnumAccess<'de> for &mut Reader<'de> {
    type Error = DecodeError;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), DecodeError> {
        let variant: u32 = self.take()?;
        let variant: de::value::U32Deserializer<DecodeError> = variant.into_deserializer();
        Ok((seed.deserialize(variant)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for &mut Reader<'de> {
    type Error = DecodeError;

    #[inline]
    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        seed.deserialize(self)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        de::Deserializer::deserialize_tuple(self, len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        de::Deserializer::deserialize_tuple(self, fields.len(), visitor)
    }
}
