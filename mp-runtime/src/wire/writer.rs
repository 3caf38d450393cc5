//! Writes values: each number, character and flag by bincode, what is made of them by this.
//!
//! bincode's own walk through a value does not see that a sequence is a slice of numbers: that is
//! copied as memory here, wherever in a value it stands, into the very bytes that its elements
//! would give one by one.

use serde::ser::{self, Serialize};

use super::buffer::{Full, Tail};
use super::codec::{EncodeError, FORMAT};
use super::numbers;

/// A buffer to which a value is appended.
pub(super) struct Writer<'t, 'b>(pub(super) &'t mut Tail<'b>);

impl Writer<'_, '_> {
    #[inline]
    fn put(&mut self, value: impl bincode::Encode) -> Result<(), Full> {
        // Nothing but the space for it can fail.
        bincode::encode_into_writer(value, self, FORMAT).map_err(|_| Full)
    }

    /// Appends a length and the bytes of that many elements.
    #[inline]
    fn run(&mut self, len: usize, bytes: &[u8]) -> Result<(), Full> {
        self.0.reserve(size_of::<u64>() + bytes.len())?;
        self.put(len)?;
        self.0.write(bytes)
    }
}

impl bincode::enc::write::Writer for Writer<'_, '_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        let written = self.0.write(bytes);
        written.map_err(|Full| bincode::error::EncodeError::UnexpectedEnd)
    }
}

/// Methods that write what has no parts.
macro_rules! by_bincode {
    ($($serialize:ident $Value:ident,)*) => {$(
        #[inline]
        fn $serialize(self, value: $Value) -> Result<(), EncodeError> {
            Ok(self.put(value)?)
        }
    )*};
}

impl ser::Serializer for &mut Writer<'_, '_> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    by_bincode! {
        serialize_bool bool,
        serialize_u8 u8,
        serialize_u16 u16,
        serialize_u32 u32,
        serialize_u64 u64,
        serialize_u128 u128,
        serialize_i8 i8,
        serialize_i16 i16,
        serialize_i32 i32,
        serialize_i64 i64,
        serialize_i128 i128,
        serialize_f32 f32,
        serialize_f64 f64,
        serialize_char char,
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), EncodeError> {
        self.serialize_bytes(value.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), EncodeError> {
        Ok(self.run(value.len(), value)?)
    }

    #[inline]
    fn serialize_none(self) -> Result<(), EncodeError> {
        Ok(self.put(false)?)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        self.put(true)?;
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), EncodeError> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), EncodeError> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
    ) -> Result<(), EncodeError> {
        self.serialize_u32(index)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.put(index)?;
        value.serialize(self)
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self, EncodeError> {
        self.put(len.ok_or_else(EncodeError::unknown_length)?)?;
        Ok(self)
    }

    #[inline]
    fn serialize_tuple(self, _len: usize) -> Result<Self, EncodeError> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Self, EncodeError> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self, EncodeError> {
        self.put(index)?;
        Ok(self)
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self, EncodeError> {
        self.serialize_seq(len)
    }

    #[inline]
    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Self, EncodeError> {
        Ok(self)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self, EncodeError> {
        self.put(index)?;
        Ok(self)
    }

    /// serde comes here with every vector and slice, as a whole.
    #[inline]
    fn collect_seq<I>(self, items: I) -> Result<(), EncodeError>
    where
        I: IntoIterator<Item: Serialize>,
    {
        if let Some((len, bytes)) = numbers::bytes_of(&items) {
            return Ok(self.run(len, bytes)?);
        }
        let mut items = items.into_iter();
        let len = match items.size_hint() {
            (least, Some(most)) if least == most => least,
            _ => return Err(EncodeError::unknown_length()),
        };
        self.put(len)?;
        items.try_for_each(|item| item.serialize(&mut *self))
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// Traits whose one method writes an element behind the one before.
macro_rules! elements {
    ($($Trait:ident $serialize:ident,)*) => {$(
        impl ser::$Trait for &mut Writer<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            #[inline]
            fn $serialize<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
                value.serialize(&mut **self)
            }

            #[inline]
            fn end(self) -> Result<(), EncodeError> {
                Ok(())
            }
        }
    )*};
}

elements! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

impl ser::SerializeMap for &mut Writer<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        key.serialize(&mut **self)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        value.serialize(&mut **self)
    }

    #[inline]
    fn end(self) -> Result<(), EncodeError> {
        Ok(())
    }
}

/// Traits of structs, whose fields go without their names.
macro_rules! fields {
    ($($Trait:ident)*) => {$(
        impl ser::$Trait for &mut Writer<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                _name: &'static str,
                value: &T,
            ) -> Result<(), EncodeError> {
                value.serialize(&mut **self)
            }

            #[inline]
            fn end(self) -> Result<(), EncodeError> {
                Ok(())
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }
