//! Values to bytes and back, through serde.
//!
//! The format is bincode's with integers of fixed width, little endian, and it is bincode that writes
//! and reads whatever has no parts. [`Writer`] and [`Reader`] walk through the rest: text and vectors
//! of numbers are copied as memory, wherever they stand, into the very bytes that bincode would give.

use std::fmt;

use bincode::config::{Configuration, Fixint, LittleEndian};
use serde::de::DeserializeOwned;
use serde::{Serialize, ser};

use super::buffer::{Buffer, Full, Tail};
use super::copy::Hands;
use super::reader::Reader;
use super::writer::Writer;

/// How bincode writes.
pub(super) const FORMAT: Configuration<LittleEndian, Fixint> =
    bincode::config::standard().with_fixed_int_encoding();

/// Appends the bytes of `value` to `out`, or leaves `out` as it was.
///
/// If the value's own code panics, `out` may end in a part of its bytes.
#[inline]
pub(crate) fn encode<T: Serialize + 'static>(
    value: &T,
    out: &mut Buffer,
) -> Result<(), EncodeError> {
    append(value, &mut out.tail())
}

/// As [`encode`], for those who append many.
#[inline]
pub(crate) fn append<T: Serialize + 'static>(
    value: &T,
    out: &mut Tail<'_>,
) -> Result<(), EncodeError> {
    let start = out.len();
    value
        .serialize(&mut Writer(out))
        .inspect_err(|_| out.truncate(start))
}

/// Takes a value off the front of `input`; after an error `input` is where it was.
///
/// Whatever lengths the bytes claim, no more is allocated for them than they can hold.
#[inline]
pub(crate) fn decode<T: DeserializeOwned + 'static>(input: &mut &[u8]) -> Result<T, DecodeError> {
    decode_by(Hands::One, input)
}

/// As [`decode`], by so many threads.
#[inline]
pub(crate) fn decode_by<T: DeserializeOwned + 'static>(
    hands: Hands,
    input: &mut &[u8],
) -> Result<T, DecodeError> {
    let mut reader = Reader::new(input, hands);
    let value = T::deserialize(&mut reader)?;
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
pub(crate) enum DecodeError {
    /// They end too early. The one error that numbers can have is a constant, so that reading one needs
    /// no place for another.
    TooShort,
    /// What else is wrong.
    Wrong(String),
}

impl EncodeError {
    #[cold]
    pub(super) fn unknown_length() -> Self {
        ser::Error::custom(
            "it contains a sequence or map whose length is not known beforehand (serde's `flatten` \
             makes one)",
        )
    }
}

impl ser::Error for EncodeError {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Self {
        let kind = EncodeErrorKind::Message(message.to_string());
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
        f.write_str(match self {
            Self::TooShort => "the bytes end too early",
            Self::Wrong(message) => message,
        })
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use serde::{Deserialize, Deserializer};

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
            bincode::serde::encode_to_vec(&value, FORMAT).unwrap()
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

    /// Vectors of numbers in every place where a value may have one.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Inside {
        direct: Vec<u8>,
        tuple: (u8, Vec<f64>, Vec<u16>),
        option: Option<Vec<i64>>,
        result: Result<Vec<usize>, Vec<isize>>,
        boxed: Box<[u32]>,
        vectors: Vec<Vec<u8>>,
        map: BTreeMap<u8, Vec<f32>>,
        shape: Shape,
        deque: VecDeque<u8>,
        flags: Vec<bool>,
    }

    fn inside() -> Inside {
        Inside {
            direct: vec![1, 2, 3],
            tuple: (9, vec![0.5, -1.5], vec![0x1234, 0xABCD]),
            option: Some(vec![-1, i64::MIN]),
            result: Err(vec![-1, isize::MAX]),
            boxed: vec![7, 8].into(),
            vectors: vec![vec![], vec![1], vec![2, 3]],
            map: BTreeMap::from([(1, vec![0.25]), (2, vec![])]),
            shape: Shape::Named {
                name: "n".to_owned(),
                sizes: vec![1, 2],
            },
            deque: VecDeque::from([4, 5]),
            flags: vec![true, false],
        }
    }

    #[test]
    fn vectors_of_numbers_inside_of_a_value_agree_with_bincode() {
        agrees(inside());
        agrees((vec![1_u8, 2], Some(vec![3.5_f64])));
        agrees(Ok::<_, String>(vec![(1_u8, vec![2_u16])]));
    }

    #[test]
    fn vectors_of_numbers_inside_of_a_value_are_read_in_one_piece() {
        // One by one it would be pushed to a vector that grows, to more than it needs.
        let len = (3 << 20) + 1;
        let value = (7_u8, Some(vec![1_u8; len]), vec![2_u16; len]);
        let (_, bytes, shorts): (u8, Option<Vec<u8>>, Vec<u16>) =
            from_bytes(&bytes_of(&value)).unwrap();
        assert_eq!(bytes.unwrap().capacity(), len);
        assert_eq!(shorts.capacity(), len);
    }

    #[test]
    fn visitor_that_makes_a_vector_in_its_own_way_is_asked() {
        fn backwards<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
            struct Backwards;
            impl<'de> serde::de::Visitor<'de> for Backwards {
                type Value = Vec<u8>;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("bytes")
                }
                fn visit_seq<A: serde::de::SeqAccess<'de>>(
                    self,
                    mut seq: A,
                ) -> Result<Vec<u8>, A::Error> {
                    let mut all = VecDeque::new();
                    while let Some(byte) = seq.next_element()? {
                        all.push_front(byte);
                    }
                    Ok(all.into())
                }
            }
            from.deserialize_seq(Backwards)
        }
        #[derive(Serialize, Deserialize)]
        struct Odd(#[serde(deserialize_with = "backwards")] Vec<u8>);
        let odd: Odd = from_bytes(&bytes_of(&Odd(vec![1, 2, 3]))).unwrap();
        assert_eq!(odd.0, [3, 2, 1]);
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
