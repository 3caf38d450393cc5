//! Values to bytes and back, through serde; the only file that uses bincode.
//!
//! The format is bincode's with integers of fixed width, little endian: bincode writes it, [`Reader`]
//! reads it. Text and vectors of numbers don't pass through serde: they are copied as memory, into
//! the very bytes that serde would give.

use std::any::Any;
use std::fmt;

use bincode::config::{Configuration, Fixint, LittleEndian, NoLimit};
use bincode::enc::write::Writer;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::buffer::{Buffer, Full};
use super::copy;
use super::reader::Reader;

const CONFIG: Configuration<LittleEndian, Fixint, NoLimit> = bincode::config::standard()
    .with_little_endian()
    .with_fixed_int_encoding()
    .with_no_limit();

/// Appends the bytes of `value` to `out`, or leaves `out` as it was.
///
/// If the value's own code panics, `out` may end in a part of its bytes.
#[inline]
pub(crate) fn encode<T: Serialize + 'static>(
    value: &T,
    out: &mut Buffer,
) -> Result<(), EncodeError> {
    let start = out.len();
    let result = match copy_in(value, out) {
        Some(result) => result.map_err(|_| bincode::error::EncodeError::UnexpectedEnd),
        None => bincode::serde::encode_into_writer(value, Sink(out), CONFIG),
    };
    result.map_err(|error| {
        out.truncate(start);
        EncodeError::from_bincode(error)
    })
}

/// Takes a value off the front of `input`; after an error `input` is where it was.
///
/// Whatever lengths the bytes claim, no more is allocated for them than they can hold.
#[inline]
pub(crate) fn decode<T: DeserializeOwned + 'static>(input: &mut &[u8]) -> Result<T, DecodeError> {
    let mut reader = Reader::new(input);
    let value = match copy_out(&mut reader)? {
        Some(value) => value,
        None => T::deserialize(&mut reader)?,
    };
    *input = reader.rest();
    Ok(value)
}

/// A value that could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    pub(crate) kind: EncodeErrorKind,
}

/// Why a value could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EncodeErrorKind {
    /// The shared memory is used up.
    Full,
    /// The value's `Serialize` refused, and what it said.
    Message(String),
}

/// Bytes that are no value of the type, and what is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecodeError {
    pub(crate) message: String,
}

impl EncodeError {
    #[cold]
    fn from_bincode(error: bincode::error::EncodeError) -> Self {
        use bincode::error::EncodeError as E;
        let message = match error {
            // Only `Sink` says so.
            E::UnexpectedEnd => {
                return Self {
                    kind: EncodeErrorKind::Full,
                };
            }
            E::OtherString(message) => message,
            E::Other(message) => message.to_owned(),
            E::Serde(_) => "it contains a sequence or map whose length is not known beforehand \
                (serde's `flatten` makes one)"
                .to_owned(),
            error => error.to_string(),
        };
        let kind = EncodeErrorKind::Message(message);
        Self { kind }
    }
}

impl From<Full> for EncodeError {
    fn from(_: Full) -> Self {
        let kind = EncodeErrorKind::Full;
        Self { kind }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            EncodeErrorKind::Full => "no shared memory is left for it",
            EncodeErrorKind::Message(message) => message,
        })
    }
}

impl std::error::Error for EncodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

/// A [`Buffer`] as bincode writes to it.
struct Sink<'a>(&'a mut Buffer);

impl Writer for Sink<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        match self.0.write(bytes) {
            Ok(()) => Ok(()),
            Err(_) => Err(bincode::error::EncodeError::UnexpectedEnd),
        }
    }
}

/// Calls `$with!` with the types of number whose vectors are copied as memory.
macro_rules! with_numbers {
    ($with:ident) => {
        $with!(u8 u16 u32 u64 i8 i16 i32 i64 f32 f64);
    };
}

/// Encodes `value` by copying, if it is text or a vector of numbers.
#[inline]
fn copy_in<T: 'static>(value: &T, out: &mut Buffer) -> Option<Result<(), Full>> {
    // The type is known when this is compiled, so that all but one branch disappear.
    let value: &dyn Any = value;
    if let Some(text) = value.downcast_ref::<String>() {
        return Some(put_run(text.len(), text.as_bytes(), out));
    }
    macro_rules! numbers {
        ($($number:ty)*) => {$(
            if cfg!(target_endian = "little")
                && let Some(numbers) = value.downcast_ref::<Vec<$number>>()
            {
                return Some(put_run(numbers.len(), bytemuck::cast_slice(numbers), out));
            }
        )*};
    }
    with_numbers!(numbers);
    None
}

/// Appends a length and the bytes of that many elements.
fn put_run(len: usize, bytes: &[u8], out: &mut Buffer) -> Result<(), Full> {
    out.reserve(size_of::<u64>() + bytes.len())?;
    out.write(&(len as u64).to_le_bytes())?;
    copy::append(bytes, out)
}

/// Decodes text or a vector of numbers by copying, if `T` is one.
#[inline]
fn copy_out<T: 'static>(reader: &mut Reader<'_>) -> Result<Option<T>, DecodeError> {
    let mut value: Option<T> = None;
    let place: &mut dyn Any = &mut value;
    if let Some(place) = place.downcast_mut::<Option<String>>() {
        *place = Some(reader.string()?);
    }
    macro_rules! numbers {
        ($($number:ident)*) => {$(
            if cfg!(target_endian = "little")
                && let Some(place) = place.downcast_mut::<Option<Vec<$number>>>()
            {
                let bytes = reader.run(size_of::<$number>() as u64)?;
                *place = Some(to_numbers(bytes));
            }
        )*};
    }
    with_numbers!(numbers);
    Ok(value)
}

/// The numbers whose bytes these are, which need not be aligned.
#[inline]
fn to_numbers<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(numbers) => copy::to_vec(numbers),
        Err(_) => bytes
            .chunks_exact(size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    fn bytes_of<T: Serialize + 'static>(value: &T) -> Vec<u8> {
        let mut out = Buffer::new();
        encode(value, &mut out).unwrap();
        out.as_slice().to_vec()
    }

    fn from_bytes<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, DecodeError> {
        decode(&mut &*bytes)
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Nothing,
        Circle(f64),
        Line(char, char),
        Named { name: String, sizes: Vec<u16> },
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct All {
        unsigned: (u8, u16, u32, u64, u128, usize),
        signed: (i8, i16, i32, i64, i128, isize),
        others: (bool, char, f32, f64, ()),
        text: String,
        maybe: Option<Box<All>>,
        map: BTreeMap<String, Vec<bool>>,
        array: [u16; 3],
        result: Option<Result<u8, String>>,
        path: std::path::PathBuf,
        time: std::time::Duration,
    }

    /// A value of every kind that serde knows.
    fn all() -> All {
        let inner = All {
            unsigned: (1, 2, 3, 4, 5, 6),
            signed: (-1, -2, -3, -4, -5, -6),
            others: (true, '\u{1F980}', 0.5, -0.25, ()),
            text: "größer".to_owned(),
            ..All::default()
        };
        All {
            others: (false, 'ß', f32::MIN, f64::MAX, ()),
            maybe: Some(Box::new(inner)),
            map: BTreeMap::from([("a".into(), vec![true, false]), (String::new(), vec![])]),
            array: [7, 8, 9],
            result: Some(Err("why".to_owned())),
            path: "/a/b".into(),
            time: std::time::Duration::new(3, 7),
            ..All::default()
        }
    }

    /// The same bytes as bincode's, and the same value from them, whichever way they are read.
    fn agrees<T>(value: T)
    where
        T: Serialize + DeserializeOwned + fmt::Debug + PartialEq + 'static,
    {
        let bytes = bytes_of(&value);
        assert_eq!(
            bytes,
            bincode::serde::encode_to_vec(&value, CONFIG).unwrap()
        );
        let mut input = bytes.as_slice();
        assert_eq!(decode::<T>(&mut input).unwrap(), value);
        assert!(input.is_empty());
        // At every alignment.
        for shift in 0..8 {
            let shifted = [&vec![0; shift], bytes.as_slice()].concat();
            assert_eq!(from_bytes::<T>(&shifted[shift..]).unwrap(), value);
        }
        for len in 0..bytes.len() {
            assert!(
                from_bytes::<T>(&bytes[..len]).is_err(),
                "{len} bytes of {value:?}"
            );
        }
    }

    #[test]
    fn what_is_copied_and_what_is_not_agrees_with_bincode() {
        agrees(all());
        agrees(7_u64);
        agrees(-7_i32);
        agrees("text".to_owned());
        agrees(String::new());
        agrees(vec![1_u8, 2, 3]);
        agrees(vec![1_u16, 2, 3]);
        agrees(vec![1_u32, 2, 3]);
        agrees(vec![1_u64, 2, 3]);
        agrees(vec![-1_i8, 2, 3]);
        agrees(vec![-1_i16, 2, 3]);
        agrees(vec![-1_i32, 2, 3]);
        agrees(vec![-1_i64, 2, 3]);
        agrees(vec![1.5_f32, -2.0]);
        agrees(vec![1.5_f64, -2.0]);
        agrees(Vec::<f64>::new());
        agrees(vec!["a".to_owned(), "b".to_owned()]);
        agrees(vec![
            Shape::Nothing,
            Shape::Circle(1.0),
            Shape::Line('a', '\u{20AC}'),
            Shape::Named {
                name: "n".to_owned(),
                sizes: vec![1, 2],
            },
        ]);
    }

    #[test]
    fn elements_of_no_bytes_are_counted() {
        assert_eq!(
            from_bytes::<Vec<()>>(&bytes_of(&vec![(); 3]))
                .unwrap()
                .len(),
            3
        );
        assert!(from_bytes::<Vec<()>>(&u64::MAX.to_le_bytes()).is_err());
    }

    #[test]
    fn length_that_is_not_there_allocates_nothing() {
        for len in [1, 1 << 20, 1 << 40, u64::MAX / 8 + 1, u64::MAX] {
            let bytes = len.to_le_bytes();
            assert!(from_bytes::<String>(&bytes).is_err());
            assert!(from_bytes::<(String,)>(&bytes).is_err());
            assert!(from_bytes::<Vec<u8>>(&bytes).is_err());
            assert!(from_bytes::<Vec<f64>>(&bytes).is_err());
            assert!(from_bytes::<(Vec<u64>,)>(&bytes).is_err());
            assert!(from_bytes::<BTreeMap<u8, u8>>(&bytes).is_err());
            assert!(from_bytes::<Vec<String>>(&bytes).is_err());
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        // A xorshift generator (Marsaglia): the same bytes in every run.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let right = bytes_of(&all());
        for _ in 0..20_000 {
            let mut bytes = right.clone();
            for _ in 0..1 + random() % 4 {
                let place = random() as usize % bytes.len();
                bytes[place] = random() as u8;
            }
            // Whether it is an error is a matter of luck.
            let _ = from_bytes::<All>(&bytes);
            let _ = from_bytes::<Vec<Shape>>(&bytes);
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        fn said<T: DeserializeOwned + fmt::Debug + 'static>(bytes: &[u8]) -> String {
            from_bytes::<T>(bytes).unwrap_err().to_string()
        }
        assert_eq!(said::<u64>(&[1, 2]), "the bytes end too early");
        assert_eq!(said::<bool>(&[2]), "a `bool` is 0 or 1, not 2");
        assert_eq!(
            said::<Option<u8>>(&[2]),
            "an `Option` begins with 0 or 1, not 2"
        );
        assert_eq!(said::<char>(&[0xFF; 8]), "the bytes are no `char`");
        let text = [1, 0, 0, 0, 0, 0, 0, 0, 0xFF];
        assert!(said::<String>(&text).starts_with("the text is not UTF-8"));
        assert!(said::<Shape>(&[9, 0, 0, 0]).contains("variant index 0 <= i < 4"));
    }

    #[test]
    fn type_that_needs_a_describing_format_is_told_so() {
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Untagged {
            A(u8),
        }
        let error = from_bytes::<Untagged>(&[1]).unwrap_err();
        assert!(error.to_string().contains("untagged"), "{error}");

        #[derive(Serialize)]
        struct Flat {
            #[serde(flatten)]
            map: BTreeMap<String, u8>,
        }
        let map = BTreeMap::new();
        let error = encode(&Flat { map }, &mut Buffer::new()).unwrap_err();
        assert!(error.to_string().contains("flatten"), "{error}");
    }

    #[test]
    fn failed_encode_leaves_nothing_behind() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("rather not"))
            }
        }
        let mut out = Buffer::new();
        encode(&1_u8, &mut out).unwrap();
        let error = encode(&(2_u64, Refuses), &mut out).unwrap_err();
        assert_eq!(error.to_string(), "rather not");
        assert_eq!(out.as_slice(), [1]);
    }

    #[test]
    fn failed_decode_takes_nothing() {
        let bytes = [5, 0, 0, 0, 0, 0, 0, 0, b'a', b'b'];
        let mut input = bytes.as_slice();
        assert!(decode::<String>(&mut input).is_err());
        assert!(decode::<(u64, u32)>(&mut input).is_err());
        assert_eq!(input, bytes);
    }
}
