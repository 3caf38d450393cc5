//! Many calls of one task, one right after the other, in the process that runs them.
//!
//! The loop is compiled together with the task's function and the codes of its types, into
//! [`Entry::run_each`](super::registry::Entry::run_each). So a small item costs hardly more than its
//! own decoding and encoding: one call by pointer, and one place where panics are caught, are for as
//! many items as come back with a result. The loop ends at whatever else becomes of an item; who began
//! it sees to that item and goes on behind it.

use super::call::{Call, End, Record, Stop, Tag, read_record, read_short_value};
use super::panic;
use crate::carried::Carried;
use crate::error::PanicInfo;
use crate::fault::fault;
use crate::loom::{AtomicU32, AtomicU64, Ordering};
use crate::spans;
use crate::sys;
use crate::wire::buffer::{Buffer, Full};
use crate::wire::transfer;

/// Calls that are to be run.
#[derive(Debug)]
pub struct Batch<'a> {
    /// What the task is called.
    name: fn() -> &'static str,
    place: Place<'a>,
    pace: Pace<'a>,
    /// The number of the first item that is not to be run.
    most: u32,
    out: &'a mut Buffer,
    /// What became of the item that was begun last.
    end: End,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    /// The arguments of the items that have not begun, as records.
    items: &'a [u8],
    /// The number of the next item.
    next: u32,
    /// Where the record of the item begins that was begun last.
    start: usize,
}

/// Where a batch notes how far it is, for those who look at it from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace<'a> {
    /// Changes before each item. That says that the item may have begun, and that the records of those
    /// before it are complete.
    pub(crate) word: &'a AtomicU64,
    /// What stands there, what will during the next item, and by how much it grows from one to the
    /// next.
    pub(crate) present: u64,
    pub(crate) next: u64,
    pub(crate) step: u64,
    /// Whether others change the word, too; then the item is not begun.
    pub(crate) is_watched: bool,
    /// Where it is noted when the item began, if that is to be; then it is watched.
    pub(crate) began: Option<&'a AtomicU64>,
    /// How many items there are, which may become fewer.
    pub(crate) count: &'a AtomicU32,
}

/// Why a batch is not run any further.
#[derive(Debug)]
pub struct Pause(pub(crate) Why);

/// See [`Pause`].
#[derive(Debug)]
pub(crate) enum Why {
    /// There are no more items.
    Over,
    /// Nor is the next one there.
    Unreadable,
    /// Somebody has changed the word.
    Held,
    /// The last item was begun, and there is no room for it.
    Full,
    /// The last item was begun and has no result, or one with handles: to be
    /// [seen to](Batch::see_to).
    Odd(Option<PanicInfo>),
}

impl<'a> Batch<'a> {
    /// The calls of the task `name` whose arguments are `items`, the first of which has the number `first`. None is run
    /// from the number `most` on. Results go to `out`.
    pub(crate) fn new(
        name: fn() -> &'static str,
        items: &'a [u8],
        (first, most): (u32, u32),
        pace: Pace<'a>,
        out: &'a mut Buffer,
    ) -> Self {
        let place = Place {
            items,
            next: first,
            start: 0,
        };
        Self {
            name,
            place,
            pace,
            most,
            out,
            end: End::default(),
        }
    }

    /// Runs calls of `task` until there is something to be seen to.
    #[inline]
    pub fn run(&mut self, task: impl Fn(&mut Call<'_>) -> Result<(), Stop>) -> Pause {
        let run = || {
            let (name, most) = (self.name, self.most);
            let mut place = Carried::new(&mut self.place);
            let mut pace = Carried::new(&mut self.pace);
            let mut call = Call::repeated(self.out, &mut self.end);
            loop {
                if let Err(why) = begin(name, most, &mut place, &mut pace, &mut call) {
                    return why;
                }
                // If it stopped, the call is not done and knows why.
                let _ = task(&mut call);
                if !end(&place, &mut call) {
                    return Why::Odd(None);
                }
            }
        };
        Pause(panic::catch(run).unwrap_or_else(|panic| Why::Odd(Some(panic))))
    }

    /// Ends the item that was begun last, which has no result or one with handles, and returns where
    /// its record begins.
    ///
    /// # Errors
    ///
    /// There is no room for it; the results are those before it.
    pub(crate) fn see_to(&mut self, panic: Option<PanicInfo>) -> Result<usize, Full> {
        let start = self.place.start;
        let record = Record::at(start);
        self.end.conclude(panic, record, &mut self.out.tail())?;
        Ok(start)
    }

    /// The number of the item behind the one that was begun last.
    pub(crate) fn next(&self) -> u32 {
        self.place.next
    }

    /// Where the results are.
    pub(crate) fn out(&mut self) -> &mut Buffer {
        self.out
    }
}

/// Begins the next item.
#[inline(always)]
fn begin<'c, 'a: 'c>(
    name: fn() -> &'static str,
    most: u32,
    place: &mut Place<'a>,
    pace: &mut Pace<'_>,
    call: &mut Call<'c>,
) -> Result<(), Why> {
    // Relaxed: what there is was there before; fewer are a hint.
    if place.next >= most || place.next >= pace.count.load(Ordering::Relaxed) {
        return Err(Why::Over);
    }
    let arguments = match read_short_value(&mut place.items) {
        Some(arguments) => arguments,
        None => {
            let (arguments, rest) = read_long(place.items).ok_or(Why::Unreadable)?;
            place.items = rest;
            arguments
        }
    };
    if !pace.advance() {
        return Err(Why::Held);
    }
    place.next += 1;
    fault!("pool.item");
    spans::begin_item(place.next - 1, name);
    let record = call.begin(arguments).map_err(|Full| Why::Full)?;
    place.start = record.start();
    Ok(())
}

/// Reads the arguments of an item that are not few, and returns what is behind them, too.
#[cold]
#[inline(never)]
fn read_long(mut items: &[u8]) -> Option<(&[u8], &[u8])> {
    read_record(&mut items).map(|(_, arguments)| (arguments, items))
}

/// Ends an item that has a result without handles; false if there is none.
#[inline(always)]
fn end(place: &Place<'_>, call: &mut Call<'_>) -> bool {
    if !call.is_done() || transfer::has_sent() {
        return false;
    }
    let is_closed = Record::at(place.start).close_short(Tag::Value, call.out());
    if is_closed {
        spans::end_item();
        fault!("pool.ran");
    }
    is_closed
}

impl Pace<'_> {
    /// Notes that the next item begins; false if somebody has changed the word.
    #[inline(always)]
    fn advance(&mut self) -> bool {
        let next = self.next;
        self.next += self.step;
        if self.is_watched {
            let present = std::mem::replace(&mut self.present, next);
            return advance_watched(self.word, self.began, present, next);
        }
        // Release: pairs with the Acquire of who looks; the records so far are complete.
        self.word.store(next, Ordering::Release);
        true
    }
}

/// As [`Pace::advance`], of which what changes is in registers.
#[cold]
fn advance_watched(word: &AtomicU64, began: Option<&AtomicU64>, present: u64, next: u64) -> bool {
    if let Some(began) = began {
        // Its time is not that of the one before it, which is over by the clock as well.
        began.store(sys::clock::now(), Ordering::Relaxed);
    }
    // Release: as in `advance`. If it fails, the item is not ours to begin.
    word.compare_exchange(present, next, Ordering::Release, Ordering::Relaxed)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::call::{decode_result, run_with};

    /// Doubles a number, but for one that it panics at.
    fn double(call: &mut Call<'_>) -> Result<(), Stop> {
        let a: u64 = call.argument("a")?;
        call.start();
        assert_ne!(a, 13, "thirteen");
        call.finish(2 * a)
    }

    const NAME: fn() -> &'static str = || "double";

    fn records(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut out = Buffer::new();
        for number in numbers {
            let mut out = out.tail();
            let record = Record::open(&mut out).unwrap();
            out.write(&number.to_le_bytes()).unwrap();
            record.close(Tag::Value, &mut out).unwrap();
        }
        out.as_slice().to_vec()
    }

    /// What a pool's job has beside its items.
    struct Words {
        word: AtomicU64,
        count: AtomicU32,
    }

    impl Words {
        fn new(count: u32) -> Self {
            Self {
                word: AtomicU64::new(100),
                count: AtomicU32::new(count),
            }
        }

        fn pace(&self, is_watched: bool) -> Pace<'_> {
            Pace {
                word: &self.word,
                present: 100,
                next: 101,
                step: 10,
                is_watched,
                began: None,
                count: &self.count,
            }
        }
    }

    #[test]
    fn results_are_those_of_calls_one_by_one() {
        let input = records(0..5);
        let (words, mut out) = (Words::new(5), Buffer::new());
        let mut batch = Batch::new(NAME, &input, (0, u32::MAX), words.pace(false), &mut out);
        assert!(matches!(batch.run(double).0, Why::Over));
        assert_eq!(batch.next(), 5);
        let mut expected = Buffer::new();
        for number in 0..5_u64 {
            run_with(double, &mut number.to_le_bytes().as_slice(), &mut expected).unwrap();
        }
        assert_eq!(out.as_slice(), expected.as_slice());
        assert_eq!(words.word.load(Ordering::Relaxed), 141);
    }

    #[test]
    fn panic_costs_its_own_item_alone() {
        panic::install_hook();
        let input = records([1, 13, 2]);
        let (words, mut out) = (Words::new(3), Buffer::new());
        let mut batch = Batch::new(NAME, &input, (0, u32::MAX), words.pace(true), &mut out);
        let Why::Odd(Some(panic)) = batch.run(double).0 else {
            panic!("it did not panic");
        };
        assert_eq!(batch.next(), 2);
        batch.see_to(Some(panic)).unwrap();
        assert!(matches!(batch.run(double).0, Why::Over));
        let mut records = out.as_slice();
        let mut outcome = || {
            let (tag, payload) = read_record(&mut records).unwrap();
            decode_result::<u64>(tag, payload)
        };
        assert_eq!(outcome().unwrap(), 2);
        assert!(outcome().unwrap_err().is_panic());
        assert_eq!(outcome().unwrap(), 4);
    }

    #[test]
    fn argument_that_is_none_is_refused_and_the_next_is_run() {
        let input = [records([1]), vec![3, 0, 0, 0, 1, 2, 3], records([2])].concat();
        let (words, mut out) = (Words::new(3), Buffer::new());
        let mut batch = Batch::new(NAME, &input, (0, u32::MAX), words.pace(false), &mut out);
        assert!(matches!(batch.run(double).0, Why::Odd(None)));
        batch.see_to(None).unwrap();
        assert!(matches!(batch.run(double).0, Why::Over));
        let mut records = out.as_slice();
        let tags = std::iter::from_fn(|| read_record(&mut records).map(|(tag, _)| tag));
        assert!(tags.eq([Tag::Value, Tag::NotDecoded, Tag::Value]));
    }

    #[test]
    fn item_is_not_begun_if_somebody_has_changed_the_word() {
        let input = records(0..5);
        let (words, mut out) = (Words::new(5), Buffer::new());
        let changes = |call: &mut Call<'_>| {
            let changed = words.word.fetch_add(1000, Ordering::Relaxed);
            assert_eq!(changed, 101);
            double(call)
        };
        let mut batch = Batch::new(NAME, &input, (0, u32::MAX), words.pace(true), &mut out);
        assert!(matches!(batch.run(changes).0, Why::Held));
        assert_eq!(batch.next(), 1);
        assert_eq!(words.word.load(Ordering::Relaxed), 1101);
    }

    #[test]
    fn no_more_is_run_than_there_are_or_may_be() {
        let input = records(0..5);
        let (words, mut out) = (Words::new(5), Buffer::new());
        let mut batch = Batch::new(NAME, &input, (0, 2), words.pace(false), &mut out);
        assert!(matches!(batch.run(double).0, Why::Over));
        assert_eq!(batch.next(), 2);
        let fewer = |call: &mut Call<'_>| {
            words.count.store(1, Ordering::Relaxed);
            double(call)
        };
        let mut batch = Batch::new(NAME, &input, (0, 5), words.pace(false), &mut out);
        assert!(matches!(batch.run(fewer).0, Why::Over));
        assert_eq!(batch.next(), 1);
        let mut batch = Batch::new(NAME, &input[..20], (0, 5), words.pace(false), &mut out);
        words.count.store(5, Ordering::Relaxed);
        assert!(matches!(batch.run(double).0, Why::Unreadable));
        assert_eq!(batch.next(), 1);
    }

    #[test]
    fn item_without_room_leaves_the_results_before_it() {
        let input = records(0..1000);
        let (words, mut out) = (Words::new(1000), Buffer::new());
        out.reserve(64).unwrap();
        out.fix();
        let mut batch = Batch::new(NAME, &input, (0, 1000), words.pace(false), &mut out);
        let kept = match batch.run(double).0 {
            Why::Full => Err(Full),
            Why::Odd(panic) => batch.see_to(panic).map(drop),
            why => panic!("there was room: {why:?}"),
        };
        assert_eq!(kept, Err(Full));
        let done = batch.next() as usize - 1;
        assert_eq!(out.len(), 12 * done);
    }
}
