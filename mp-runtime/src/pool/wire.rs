//! How items and results lie in their blocks.
//!
//! Items: the length of the task's name and the place of the first record, 32 bits each, then the
//! name, to which more may be added ([`name`]); then the arguments of each item as a record. Results:
//! from [`RECORDS`] on, the outcome of each item as a record, preceded by the name of a parcel if it
//! carries handles.

use std::borrow::Cow;

use super::chunk::MAX_BYTES;
use crate::shm::BlockId;
use crate::shm::buffer::{Buffer, Full, Tail};
use crate::task::call::{Record, Tag, read_record};
use crate::wire::codec::EncodeError;

/// Where the first record begins, at least. With its header and the length of a vector before it,
/// the first item's data is aligned to 64 bytes. That also keeps the copy between it and what the
/// system's allocator gives for large data (16 bytes into a page) off the distances at which
/// copying is fifteen times slower on some processors (1 to 63 bytes modulo a page).
pub(super) const RECORDS: usize = 128 - 12;

/// A mark before a record: the outcome carries handles, in the parcel that it names. Its header is
/// none that a record can have.
const MARK: [u8; 4] = [0xFF, 0xFF, 0xFF, 0xFF];
const MARK_LEN: usize = MARK.len() + 8;

/// Begins a block of items.
pub(super) fn begin_items(task: &str, out: &mut Buffer) -> Result<(), Full> {
    let first = (8 + task.len()).next_multiple_of(4).max(RECORDS);
    out.write(&(task.len() as u32).to_le_bytes())?;
    out.write(&(first as u32).to_le_bytes())?;
    out.write(task.as_bytes())?;
    pad(first, out)
}

/// What is to be run, as items say it: the task, what merges its results, and what `tracing` is told
/// of the call.
#[inline]
pub(super) fn name<'a>(task: &'a str, merge: Option<&str>, span: Option<&str>) -> Cow<'a, str> {
    match (merge, span) {
        (None, None) => Cow::Borrowed(task),
        (merge, span) => {
            let (merge, span) = (merge.unwrap_or_default(), span.unwrap_or_default());
            Cow::Owned(format!("{task}\0{merge}\0{span}"))
        }
    }
}

/// Reads what [`name`] wrote.
pub(super) fn read_name(name: &str) -> (&str, Option<&str>, Option<&str>) {
    let mut parts = name.splitn(3, '\0');
    let task = parts.next().unwrap_or_default();
    let mut part = || parts.next().filter(|part| !part.is_empty());
    (task, part(), part())
}

/// Begins a block of results.
#[inline]
pub(super) fn begin_results(out: &mut Buffer) -> Result<(), Full> {
    pad(RECORDS, out)
}

#[inline]
fn pad(to: usize, out: &mut Buffer) -> Result<(), Full> {
    const ZEROS: [u8; RECORDS] = [0; RECORDS];
    while out.len() < to {
        let missing = (to - out.len()).min(RECORDS);
        out.write(&ZEROS[..missing])?;
    }
    Ok(())
}

/// Reads the beginning of a block of items: the task's name, and the records.
pub(super) fn read_items(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (name, records) = split_items(bytes)?;
    Some((std::str::from_utf8(name).ok()?, records))
}

/// The same for whom may know the name already, by its bytes.
#[inline]
pub(super) fn split_items(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name_len, rest) = bytes.split_first_chunk()?;
    let (first, rest) = rest.split_first_chunk()?;
    let name = rest.get(..u32::from_le_bytes(*name_len) as usize)?;
    let records = bytes.get(u32::from_le_bytes(*first) as usize..)?;
    Some((name, records))
}

/// Appends the arguments of one item, or leaves `out` as it was.
#[inline]
pub(super) fn write_item(
    out: &mut Tail<'_>,
    encode: impl FnOnce(&mut Tail<'_>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let record = Record::open(out)?;
    match encode(out) {
        Ok(()) => Ok(record.close(Tag::Value, out)?),
        Err(error) => {
            record.abandon(out);
            Err(error)
        }
    }
}

/// Whether a job with so many bytes of items is full.
#[inline]
pub(super) fn is_full(len: usize) -> bool {
    len >= MAX_BYTES
}

/// Puts a mark before the record that begins at `start`, the last one.
pub(super) fn mark(start: usize, parcel: BlockId, out: &mut Buffer) -> Result<(), Full> {
    let len = out.len() - start;
    out.write(&[0; MARK_LEN])?;
    let bytes = &mut out.as_mut_slice()[start..];
    bytes.copy_within(..len, MARK_LEN);
    bytes[..MARK.len()].copy_from_slice(&MARK);
    bytes[MARK.len()..MARK_LEN].copy_from_slice(&parcel.bits().to_le_bytes());
    Ok(())
}

/// Writes a mark, for the record that is to follow.
pub(super) fn write_mark(parcel: BlockId, out: &mut Buffer) -> Result<(), Full> {
    out.write(&MARK)?;
    out.write(&parcel.bits().to_le_bytes())
}

/// An outcome as it lies in its block.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub(super) tag: Tag,
    pub(super) payload: &'a [u8],
    /// The parcel with its handles.
    pub(super) parcel: Option<BlockId>,
}

/// Takes an outcome off the front of `input`.
#[inline]
pub(super) fn read_outcome<'a>(input: &mut &'a [u8]) -> Option<Outcome<'a>> {
    let mut parcel = None;
    if input.starts_with(&MARK) {
        let (bits, rest) = input[MARK.len()..].split_first_chunk()?;
        parcel = BlockId::from_bits(u64::from_le_bytes(*bits));
        *input = rest;
    }
    let (tag, payload) = read_record(input)?;
    Some(Outcome {
        tag,
        payload,
        parcel,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_with_their_task() {
        for name in ["", "f", "app::etl::clean", &"long::".repeat(100)] {
            let mut out = Buffer::new();
            begin_items(name, &mut out).unwrap();
            assert!(out.len() >= RECORDS);
            for item in [&b"one"[..], b"", b"three"] {
                write_item(&mut out.tail(), |out| Ok(out.write(item)?)).unwrap();
            }
            let (read, mut records) = read_items(out.as_slice()).unwrap();
            assert_eq!(read, name);
            for item in [&b"one"[..], b"", b"three"] {
                assert_eq!(read_record(&mut records), Some((Tag::Value, item)));
            }
            assert!(records.is_empty());
        }
    }

    #[test]
    fn garbage_is_no_block_of_items() {
        for bytes in [
            &[][..],
            &[1, 0, 0, 0],
            &[255; 200],
            &[8, 0, 0, 0, 0, 0, 0, 255, 1, 2],
        ] {
            assert!(read_items(bytes).is_none());
        }
    }

    #[test]
    fn item_that_fails_leaves_no_trace() {
        let mut out = Buffer::new();
        begin_items("f", &mut out).unwrap();
        let before = out.len();
        let failed = write_item(&mut out.tail(), |out| {
            out.write(b"half of it")?;
            Err(EncodeError::from(crate::shm::OutOfMemory))
        });
        assert!(failed.is_err());
        assert_eq!(out.len(), before);
    }

    #[test]
    fn mark_names_the_parcel_of_the_record_behind_it() {
        let parcel = BlockId::from_bits(77).unwrap();
        let mut out = Buffer::new();
        begin_results(&mut out).unwrap();
        write_item(&mut out.tail(), |out| Ok(out.write(b"plain")?)).unwrap();
        let start = out.len();
        write_item(&mut out.tail(), |out| Ok(out.write(b"with handles")?)).unwrap();
        mark(start, parcel, &mut out).unwrap();
        write_item(&mut out.tail(), |out| Ok(out.write(b"plain again")?)).unwrap();
        let mut records = &out.as_slice()[RECORDS..];
        let expected = [
            (&b"plain"[..], None),
            (b"with handles", Some(parcel)),
            (b"plain again", None),
        ];
        for (payload, parcel) in expected {
            let outcome = read_outcome(&mut records).unwrap();
            assert_eq!((outcome.payload, outcome.parcel), (payload, parcel));
        }
        assert!(read_outcome(&mut records).is_none());
    }
}
