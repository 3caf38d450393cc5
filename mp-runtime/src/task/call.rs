//! One call of a task in the process that runs it, and its outcome as bytes.
//!
//! Outcomes, and the arguments of many calls, lie one behind the other as *records*: a header and a
//! payload. The header is little endian, `{ length: 28 bits, tag: 4 bits }`, where the length
//! [`LONG`] says that the length itself follows, in 64 bits.

use std::any::{Any, type_name};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::panic;
use super::registry::Entry;
use super::{Returned, Transfer};
use crate::carried::Carried;
use crate::error::{PanicInfo, Refusal, TaskError, TaskFailure};
use crate::shm::OutOfMemory;
use crate::wire::buffer::{Buffer, Full, Tail};
use crate::wire::codec::{self, DecodeError, EncodeError, EncodeErrorKind};
use crate::wire::copy::Hands;
use crate::wire::transfer::{self, Delivery, Handle};

/// One call: where its arguments come from and its result goes.
#[derive(Debug)]
pub struct Call<'a> {
    input: &'a [u8],
    out: Tail<'a>,
    phase: Carried<'a, Phase>,
    /// The handles among the arguments; let go when these are there.
    delivery: Option<Delivery>,
    /// See [`End`].
    refusal: &'a mut Option<Box<Refusal>>,
}

/// How a call ended, or in which phase it panicked.
#[derive(Debug, Default)]
pub(super) struct End {
    phase: Phase,
    /// Why the task's function could not be called, or its result not be sent.
    refusal: Option<Box<Refusal>>,
}

/// How far a call is, which decides what a panic means.
#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    /// The argument of this name and type is being decoded.
    Decoding(&'static str, fn() -> &'static str),
    /// The task's function runs.
    #[default]
    Running,
    /// The result, of this type, is being encoded.
    Encoding(fn() -> &'static str),
    /// The result is encoded; what is left is to drop it.
    Done,
}

/// The call can't go on; [`Call`] knows why.
#[derive(Debug)]
pub struct Stop(());

impl Call<'_> {
    /// Decodes the next argument.
    ///
    /// # Errors
    ///
    /// The bytes are no value of the type; the reason is kept.
    #[inline]
    pub fn argument<T: Transfer>(&mut self, name: &'static str) -> Result<T, Stop> {
        let during = During::new(self, Phase::Decoding(name, type_name::<T>));
        let result = codec::decode(&mut during.call.input);
        during.end();
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                *self.phase = Phase::Decoding(name, type_name::<T>);
                *self.refusal = Some(refused_argument::<T>(name, error, self.input));
                Err(Stop(()))
            }
        }
    }

    /// Notes that all arguments are there and the task's function begins.
    #[inline]
    pub fn start(&mut self) {
        // What the function drops is not to live on in the message that brought it.
        if self.delivery.is_some() {
            self.delivery = None;
        }
    }

    /// Encodes the result.
    ///
    /// # Errors
    ///
    /// It can't be encoded; the reason is kept.
    #[inline]
    pub fn finish<T: Returned>(&mut self, value: T) -> Result<(), Stop> {
        let during = During::new(self, Phase::Encoding(type_name::<T>));
        let result = codec::append(&value, &mut during.call.out);
        during.end();
        if let Err(error) = result {
            *self.phase = Phase::Encoding(type_name::<T>);
            *self.refusal = Some(refused_result::<T>(error));
            return Err(Stop(()));
        }
        *self.phase = Phase::Done;
        Ok(())
    }
}

impl<'a> Call<'a> {
    /// Calls of one task one after the other, each with arguments of its own.
    #[inline]
    pub(super) fn repeated(out: &'a mut Buffer, end: &'a mut End) -> Self {
        Self {
            input: &[],
            out: out.tail(),
            phase: Carried::new(&mut end.phase),
            delivery: None,
            refusal: &mut end.refusal,
        }
    }

    /// Begins the next of them.
    #[inline]
    pub(super) fn begin(&mut self, arguments: &'a [u8]) -> Result<Record, Full> {
        self.input = arguments;
        *self.phase = Phase::Running;
        Record::open(&mut self.out)
    }

    /// Whether its result is encoded.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        matches!(*self.phase, Phase::Done)
    }

    /// Where the results are.
    #[inline]
    pub(super) fn out(&mut self) -> &mut Tail<'a> {
        &mut self.out
    }
}

impl End {
    /// Ends the record of a call that came back, or panicked.
    #[inline]
    pub(super) fn conclude(
        &mut self,
        panic: Option<PanicInfo>,
        record: Record,
        out: &mut Tail<'_>,
    ) -> Result<Tag, Full> {
        // Also if dropping the result panicked afterwards: the task itself did not.
        if let Phase::Done = self.phase {
            record.close(Tag::Value, out)?;
            return Ok(Tag::Value);
        }
        let (phase, refusal) = (self.phase, self.refusal.take());
        // Texts can always be encoded, if there is room.
        let Ok(tag) = write_failure(panic, phase, refusal, &record, out) else {
            record.abandon(out);
            return Err(OutOfMemory);
        };
        record.close(tag, out)?;
        Ok(tag)
    }
}

// Apart from the call, which is in registers while no reference to it goes elsewhere.

#[cold]
fn refused_argument<T>(name: &'static str, error: DecodeError, input: &[u8]) -> Box<Refusal> {
    let mut refusal = Refusal::argument(name, type_name::<T>(), error.to_string());
    refusal.bytes = prefix(input);
    Box::new(refusal)
}

#[cold]
fn refused_result<T>(error: EncodeError) -> Box<Refusal> {
    let mut refusal = Refusal::result(type_name::<T>(), error.to_string());
    refusal.out_of_memory = error.kind == EncodeErrorKind::Full;
    Box::new(refusal)
}

/// User code that encodes or decodes: should it panic, the call knows in which phase. Otherwise
/// nothing is noted, which costs something for each item.
struct During<'c, 'a> {
    call: &'c mut Call<'a>,
    phase: Phase,
}

impl<'c, 'a> During<'c, 'a> {
    #[inline]
    fn new(call: &'c mut Call<'a>, phase: Phase) -> Self {
        Self { call, phase }
    }

    /// It came back.
    #[inline]
    fn end(self) {
        std::mem::forget(self);
    }
}

impl Drop for During<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        *self.call.phase = self.phase;
    }
}

/// The first few bytes, to look at.
fn prefix(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(64)].to_vec()
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The task returned; the payload is its result.
    Value = 0,
    /// The task panicked; the payload is a [`PanicInfo`].
    Panic = 1,
    /// An argument could not be decoded; the payload is a [`Refusal`].
    NotDecoded = 2,
    /// The result could not be encoded; the payload is a [`Refusal`].
    NotEncoded = 3,
    /// It failed on another machine; the payload is the [`TaskError`].
    Failed = 4,
}

impl Tag {
    #[inline]
    fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            0 => Self::Value,
            1 => Self::Panic,
            2 => Self::NotDecoded,
            3 => Self::NotEncoded,
            4 => Self::Failed,
            _ => return None,
        })
    }
}

/// Runs one call of a task: takes its arguments off `input` and appends one record to `out`.
///
/// No panic leaves it.
///
/// # Errors
///
/// The shared memory is used up, so that not even the reason could be written; `out` is as it was.
/// The task may have run.
#[inline]
pub(crate) fn run(entry: &Entry, input: &mut &[u8], out: &mut Buffer) -> Result<Tag, Full> {
    run_delivered(entry.run, input, out, None)
}

/// As [`run`], for what is called in another way than a task.
#[inline]
pub(crate) fn run_with(
    run: impl FnOnce(&mut Call<'_>) -> Result<(), Stop>,
    input: &mut &[u8],
    out: &mut Buffer,
) -> Result<Tag, Full> {
    run_delivered(run, input, out, None)
}

/// As [`run_with`]; the handles among the arguments came in a message that is used up by it.
#[inline]
pub(crate) fn run_delivered(
    run: impl FnOnce(&mut Call<'_>) -> Result<(), Stop>,
    input: &mut &[u8],
    out: &mut Buffer,
    delivery: Option<Delivery>,
) -> Result<Tag, Full> {
    let record = Record::open(&mut out.tail())?;
    let mut end = End::default();
    let mut call = Call {
        input,
        delivery,
        ..Call::repeated(out, &mut end)
    };
    let caught = panic::catch(|| run(&mut call));
    *input = &input[input.len() - call.input.len()..];
    drop(call);
    end.conclude(caught.err(), record, &mut out.tail())
}

/// Appends a record that says that there was no room for the result.
pub(crate) fn write_out_of_memory(out: &mut Buffer) -> Result<(), EncodeError> {
    let out = &mut out.tail();
    let record = Record::open(out)?;
    let mut refusal = Refusal::result("any type", "no shared memory is left for it");
    refusal.out_of_memory = true;
    fill_refusal(refusal, &record, out)?;
    Ok(record.close(Tag::NotEncoded, out)?)
}

/// Appends a record that says what happened to a task elsewhere.
pub(crate) fn write_error(error: &TaskError, out: &mut Buffer) -> Result<(), EncodeError> {
    let out = &mut out.tail();
    let record = Record::open(out)?;
    record.fill(error, out)?;
    Ok(record.close(Tag::Failed, out)?)
}

/// Writes why a call brought no result into the open record.
#[cold]
fn write_failure(
    panic: Option<PanicInfo>,
    phase: Phase,
    refusal: Option<Box<Refusal>>,
    record: &Record,
    out: &mut Tail<'_>,
) -> Result<Tag, EncodeError> {
    let said = |panic: PanicInfo| match panic.place {
        Some((file, line, column)) => {
            format!("it panicked at {file}:{line}:{column}: {}", panic.message)
        }
        None => format!("it panicked: {}", panic.message),
    };
    let refusal = refusal.map(|refusal| *refusal).unwrap_or_default();
    match (phase, panic) {
        (Phase::Running | Phase::Done, panic) => {
            let mut panic = panic.unwrap_or_default();
            record.fill(&panic, out).or_else(|_| {
                // Rather the message alone than nothing.
                panic.backtrace = None;
                truncate(&mut panic.message);
                record.fill(&panic, out)
            })?;
            Ok(Tag::Panic)
        }
        (Phase::Decoding(name, type_name), panic) => {
            let refusal = match panic {
                Some(panic) => Refusal::argument(name, type_name(), said(panic)),
                None => refusal,
            };
            fill_refusal(refusal, record, out)?;
            Ok(Tag::NotDecoded)
        }
        (Phase::Encoding(type_name), panic) => {
            let refusal = match panic {
                Some(panic) => Refusal::result(type_name(), said(panic)),
                None => refusal,
            };
            fill_refusal(refusal, record, out)?;
            Ok(Tag::NotEncoded)
        }
    }
}

/// Appends a record that says why there is no result; `tag` is that of a refusal.
pub(crate) fn write_refusal(refusal: Refusal, tag: Tag, out: &mut Buffer) -> Result<(), Full> {
    let out = &mut out.tail();
    let record = Record::open(out)?;
    fill_refusal(refusal, &record, out).map_err(|_| OutOfMemory)?;
    record.close(tag, out)
}

fn fill_refusal(
    mut refusal: Refusal,
    record: &Record,
    out: &mut Tail<'_>,
) -> Result<(), EncodeError> {
    record.fill(&refusal, out).or_else(|_| {
        truncate(&mut refusal.what);
        truncate(&mut refusal.why);
        refusal.bytes.clear();
        record.fill(&refusal, out)
    })
}

/// Cuts a text to what surely matters.
fn truncate(text: &mut String) {
    text.truncate(text.floor_char_boundary(100));
}

/// The length in a header that says: the length follows, in 64 bits.
const LONG: u32 = 0xFFF_FFFF;

/// The place of the tag in a header.
const TAG_SHIFT: u32 = 28;

/// The size of a header.
const HEADER: usize = size_of::<u32>();

/// A record that is being written: its header is not there yet.
#[must_use]
#[derive(Debug)]
pub(crate) struct Record {
    start: usize,
}

impl Record {
    /// Where it begins.
    #[inline]
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// The open record that begins there.
    #[inline]
    pub(super) fn at(start: usize) -> Self {
        Self { start }
    }

    /// Begins a record; what is appended to `out` from now on is its payload.
    #[inline]
    pub(crate) fn open(out: &mut Tail<'_>) -> Result<Self, Full> {
        let start = out.len();
        out.write(&[0; HEADER])?;
        Ok(Self { start })
    }

    /// Ends the record, unless its length needs a place of its own.
    #[inline]
    pub(super) fn close_short(self, tag: Tag, out: &mut Tail<'_>) -> bool {
        let len = out.len() - self.start - HEADER;
        let is_short = len < LONG as usize;
        if is_short {
            self.set_header(tag, len as u32, out);
        }
        is_short
    }

    /// Ends the record. On error the record is gone.
    #[inline]
    pub(crate) fn close(self, tag: Tag, out: &mut Tail<'_>) -> Result<(), Full> {
        let len = out.len() - self.start - HEADER;
        match u32::try_from(len) {
            Ok(len) if len < LONG => {
                self.set_header(tag, len, out);
                Ok(())
            }
            _ => out.aside(|out| self.close_long(tag, len, out)),
        }
    }

    /// Ends a record whose length needs its own place, for which all of the payload moves.
    #[cold]
    fn close_long(self, tag: Tag, len: usize, out: &mut Buffer) -> Result<(), Full> {
        let out = &mut out.tail();
        let length = (len as u64).to_le_bytes();
        if let Err(full) = out.write(&length) {
            self.abandon(out);
            return Err(full);
        }
        let payload = &mut out.as_mut_slice()[self.start + HEADER..];
        payload.copy_within(..len, length.len());
        payload[..length.len()].copy_from_slice(&length);
        self.set_header(tag, LONG, out);
        Ok(())
    }

    /// Takes the record back.
    #[inline]
    pub(crate) fn abandon(self, out: &mut Tail<'_>) {
        out.truncate(self.start);
    }

    #[inline]
    fn set_header(&self, tag: Tag, len: u32, out: &mut Tail<'_>) {
        let header = (tag as u32) << TAG_SHIFT | len;
        if let Some(place) = out.as_mut_slice()[self.start..].first_chunk_mut() {
            *place = header.to_le_bytes();
        }
    }

    /// Replaces the payload.
    fn fill<T: Serialize + 'static>(
        &self,
        value: &T,
        out: &mut Tail<'_>,
    ) -> Result<(), EncodeError> {
        out.truncate(self.start + HEADER);
        codec::append(value, out)
    }
}

/// As [`read_record`], for one that holds a value whose length is in its header: all but few.
#[inline]
pub(crate) fn read_short_value<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    const _: () = assert!(Tag::Value as u32 == 0);
    let (header, rest) = input.split_first_chunk()?;
    let len = u32::from_le_bytes(*header);
    if len >= LONG {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(len as usize)?;
    *input = rest;
    Some(payload)
}

/// Takes a record off the front of `input`; `None` if there is none, or a part of one.
#[inline]
pub(crate) fn read_record<'a>(input: &mut &'a [u8]) -> Option<(Tag, &'a [u8])> {
    let (header, mut rest) = input.split_first_chunk()?;
    let header = u32::from_le_bytes(*header);
    let tag = Tag::from_bits(header >> TAG_SHIFT)?;
    let len = match header & LONG {
        LONG => {
            let (len, behind) = rest.split_first_chunk()?;
            rest = behind;
            usize::try_from(u64::from_le_bytes(*len)).ok()?
        }
        len => len as usize,
    };
    let (payload, rest) = rest.split_at_checked(len)?;
    *input = rest;
    Some((tag, payload))
}

/// The result of a call, or why there is none.
///
/// The error says what happened; of which task, item and process is the caller's to add.
#[inline]
pub(crate) fn decode_result<R: DeserializeOwned + 'static>(
    tag: Tag,
    mut payload: &[u8],
) -> Result<R, TaskError> {
    if tag != Tag::Value {
        return Err(failure(tag, payload));
    }
    let mut passing: Option<R> = None;
    let place: &mut dyn Any = &mut passing;
    if let Some(place) = place.downcast_mut() {
        *place = Some(Encoded {
            bytes: payload.to_vec(),
            shared: transfer::imported_handles(),
        });
    }
    if let Some(value) = passing {
        return Ok(value);
    }
    let bytes = payload;
    match codec::decode_by(Hands::Two, &mut payload) {
        Ok(value) if payload.is_empty() => Ok(value),
        Ok(_) => Err(not_decoded::<R>(bytes, left_over(payload))),
        Err(error) => Err(not_decoded::<R>(bytes, error)),
    }
}

/// A result of a type that is not known here, as its bytes: it only passes through, and is never
/// encoded or decoded as a value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Encoded {
    pub(crate) bytes: Vec<u8>,
    /// The shared data that they refer to, by its places here.
    #[serde(skip)]
    pub(crate) shared: Vec<Arc<Handle>>,
}

#[cold]
fn left_over(rest: &[u8]) -> DecodeError {
    DecodeError::Wrong(format!(
        "{} bytes are left over: its `Deserialize` reads less than its `Serialize` writes",
        rest.len()
    ))
}

#[cold]
fn not_decoded<R>(bytes: &[u8], error: DecodeError) -> TaskError {
    let mut refusal = Refusal::result(type_name::<R>(), error.to_string());
    refusal.bytes = prefix(bytes);
    TaskError::new(TaskFailure::NotDecoded(refusal))
}

#[cold]
fn failure(tag: Tag, mut payload: &[u8]) -> TaskError {
    let failure = match tag {
        Tag::Failed => match codec::decode(&mut payload) {
            Ok(error) => return error,
            Err(error) => Err(error),
        },
        Tag::Panic => codec::decode(&mut payload).map(TaskFailure::Panic),
        Tag::NotEncoded => codec::decode(&mut payload).map(TaskFailure::NotEncoded),
        Tag::NotDecoded | Tag::Value => codec::decode(&mut payload).map(TaskFailure::NotDecoded),
    };
    TaskError::new(failure.unwrap_or_else(|error| TaskFailure::Lost {
        why: format!("its process reported a failure that makes no sense: {error}"),
    }))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Deserializer, Serializer, ser};

    use super::*;
    use crate::task::registry::{Options, Place, Trampoline, type_id_of};

    fn entry(run: Trampoline) -> Entry {
        fn any() {}
        Entry {
            name: || "any",
            type_id: || type_id_of(&any),
            signature: String::new,
            place: Place::new(file!(), line!(), 1),
            run,
            run_each: |_| unreachable!("it is called one by one"),
            error: |_| None,
            options: Options::NONE,
        }
    }

    /// Runs a task of one argument with these bytes for it and gives what the caller gets.
    fn outcome<R: DeserializeOwned + 'static>(
        run: Trampoline,
        mut input: &[u8],
    ) -> Result<R, TaskError> {
        panic::install_hook();
        let mut out = Buffer::new();
        let tag = super::run(&entry(run), &mut input, &mut out).unwrap();
        let mut records = out.as_slice();
        let (read, payload) = read_record(&mut records).unwrap();
        assert_eq!(read, tag);
        assert!(records.is_empty());
        decode_result(tag, payload)
    }

    fn add_one(call: &mut Call<'_>) -> Result<(), Stop> {
        let a: u64 = call.argument("a")?;
        call.start();
        call.finish(a + 1)
    }

    #[test]
    fn result_comes_back() {
        assert_eq!(outcome::<u64>(add_one, &41_u64.to_le_bytes()).unwrap(), 42);
    }

    #[test]
    fn calls_take_their_arguments_one_after_the_other() {
        let input: Vec<u8> = [1_u64, 2].iter().flat_map(|n| n.to_le_bytes()).collect();
        let (mut input, mut out) = (input.as_slice(), Buffer::new());
        for _ in 0..2 {
            super::run(&entry(add_one), &mut input, &mut out).unwrap();
        }
        assert!(input.is_empty());
        let mut records = out.as_slice();
        for expected in [2_u64, 3] {
            let (tag, payload) = read_record(&mut records).unwrap();
            assert_eq!(decode_result::<u64>(tag, payload).unwrap(), expected);
        }
        assert_eq!(read_record(&mut records), None);
    }

    #[test]
    fn panic_comes_back_as_data() {
        let error = outcome::<u64>(
            |call| {
                call.start();
                panic!("boom")
            },
            &[],
        );
        let error = error.unwrap_err();
        assert!(error.is_panic());
        assert_eq!(
            (error.message(), error.file()),
            (Some("boom"), Some(file!()))
        );
    }

    #[test]
    fn argument_that_is_none_is_named() {
        let error = outcome::<u64>(add_one, &[1, 2, 3]).unwrap_err();
        assert!(error.is_not_decoded() && !error.may_have_started());
        assert_eq!(
            error.to_string(),
            "a task: its argument \"a\" (of type u64) can't be decoded: the bytes end too early"
        );
        assert_eq!(error.bytes(), Some([1, 2, 3].as_slice()));
    }

    /// Panics or fails, as asked, when it is encoded or decoded.
    struct Stubborn(bool);

    impl Serialize for Stubborn {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            assert!(self.0, "no bytes");
            Err(ser::Error::custom("rather not"))
        }
    }

    impl<'de> Deserialize<'de> for Stubborn {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("no value");
        }
    }

    #[test]
    fn users_serde_code_is_told_from_the_task() {
        let refused = outcome::<u64>(|call| call.finish(Stubborn(true)), &[]).unwrap_err();
        assert!(refused.is_not_encoded());
        assert_eq!(refused.message(), Some("rather not"));
        let panicked = outcome::<u64>(|call| call.finish(Stubborn(false)), &[]).unwrap_err();
        assert!(panicked.is_not_encoded());
        assert!(
            panicked.message().unwrap().ends_with("no bytes"),
            "{panicked}"
        );
        let run: Trampoline = |call| call.argument::<Stubborn>("a").map(drop);
        let panicked = outcome::<u64>(run, &[]).unwrap_err();
        assert!(panicked.is_not_decoded());
        assert!(
            panicked.message().unwrap().ends_with("no value"),
            "{panicked}"
        );
    }

    #[test]
    fn result_that_panics_when_dropped_is_a_result() {
        #[derive(Serialize, Deserialize)]
        struct Bomb(u8);
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        assert_eq!(outcome::<u8>(|call| call.finish(Bomb(7)), &[]).unwrap(), 7);
    }

    #[test]
    fn result_that_is_another_type_is_a_task_error() {
        for (bytes, why) in [
            ([1, 0, 0].as_slice(), "the bytes end too early"),
            (&[0; 12], "4 bytes are left over"),
        ] {
            let error = decode_result::<u64>(Tag::Value, bytes).unwrap_err();
            assert!(error.is_not_decoded() && error.may_have_started());
            assert!(error.message().unwrap().starts_with(why), "{error}");
        }
    }

    #[test]
    fn failure_that_makes_no_sense_is_a_loss() {
        for tag in [Tag::Panic, Tag::NotDecoded, Tag::NotEncoded, Tag::Failed] {
            assert!(decode_result::<u64>(tag, &[9; 9]).unwrap_err().is_lost());
        }
    }

    #[test]
    fn record_that_is_cut_or_unknown_is_none() {
        let mut out = Buffer::new();
        let record = Record::open(&mut out.tail()).unwrap();
        out.write(b"abc").unwrap();
        record.close(Tag::Panic, &mut out.tail()).unwrap();
        let whole = out.as_slice();
        assert_eq!(
            read_record(&mut &*whole),
            Some((Tag::Panic, b"abc".as_slice()))
        );
        for len in 0..whole.len() {
            assert_eq!(read_record(&mut &whole[..len]), None);
        }
        let huge = [
            0xFF, 0xFF, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        ];
        assert_eq!(read_record(&mut huge.as_slice()), None);
        for unknown in Tag::Failed as u8 + 1..16 {
            assert_eq!(read_record(&mut [0, 0, 0, unknown << 4].as_slice()), None);
        }
    }

    #[test]
    fn long_payload_has_a_long_length() {
        let mut out = Buffer::new();
        let before = Record::open(&mut out.tail()).unwrap();
        before.close(Tag::Value, &mut out.tail()).unwrap();
        let record = Record::open(&mut out.tail()).unwrap();
        out.write(b"abc").unwrap();
        record.close_long(Tag::Value, 3, &mut out).unwrap();
        let mut records = out.as_slice();
        assert_eq!(read_record(&mut records), Some((Tag::Value, [].as_slice())));
        assert_eq!(
            read_record(&mut records),
            Some((Tag::Value, b"abc".as_slice()))
        );
        assert!(records.is_empty());
    }
}
