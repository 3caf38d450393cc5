//! Many calls of one task, one right after the other, in the process that runs them.
//!
//! The loop is compiled together with the task's function and the codes of its types, into
//! [`Entry::run_each`](super::registry::Entry::run_each). So a small item costs hardly more than its
//! own decoding and encoding: one call by pointer, and one place where panics are caught, are for as
//! many items as come back with a result. The loop ends at whatever else becomes of an item; who began
//! it sees to that item and goes on behind it.

use super::call::{Call, Record, Stop, Tag, read_record, read_short_value};
use super::panic;
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
    call: Call<'a>,
    /// What the task is called.
    name: fn() -> &'static str,
    /// The arguments of those that have not begun, as records.
    items: &'a [u8],
    pace: Pace<'a>,
    /// The number of the next item, and of the first that is not to be run.
    next: u32,
    most: u32,
    /// Where the record of the item begins that was begun last.
    start: usize,
}

/// Where a batch notes how far it is, for those who look at it from outside.
#[derive(Debug)]
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
        Self {
            call: Call::repeated(out),
            name,
            items,
            pace,
            next: first,
            most,
            start: 0,
        }
    }

    /// Runs calls of `task` until there is something to be seen to.
    #[inline]
    pub fn run(&mut self, task: impl Fn(&mut Call<'_>) -> Result<(), Stop>) -> Pause {
        let run = || {
            loop {
                if let Err(why) = self.begin() {
                    return why;
                }
                // If it stopped, the call is not done and knows why.
                let _ = task(&mut self.call);
                if !self.end() {
                    return Why::Odd(None);
                }
            }
        };
        Pause(panic::catch(run).unwrap_or_else(|panic| Why::Odd(Some(panic))))
    }

    /// Begins the next item.
    #[inline(always)]
    fn begin(&mut self) -> Result<(), Why> {
        // Relaxed: what there is was there before; fewer are a hint.
        if self.next >= self.most || self.next >= self.pace.count.load(Ordering::Relaxed) {
            return Err(Why::Over);
        }
        let arguments = read_short_value(&mut self.items)
            .or_else(|| self.read_arguments())
            .ok_or(Why::Unreadable)?;
        if !self.pace.advance() {
            return Err(Why::Held);
        }
        self.next += 1;
        fault!("pool.item");
        spans::begin_item(self.next - 1, self.name);
        let record = self.call.begin(arguments).map_err(|Full| Why::Full)?;
        self.start = record.start();
        Ok(())
    }

    #[cold]
    fn read_arguments(&mut self) -> Option<&'a [u8]> {
        read_record(&mut self.items).map(|(_, arguments)| arguments)
    }

    /// Ends an item that has a result without handles; false if there is none.
    #[inline(always)]
    fn end(&mut self) -> bool {
        if !self.call.is_done() || transfer::has_sent() {
            return false;
        }
        let is_closed = Record::at(self.start).close_short(Tag::Value, self.call.out());
        if is_closed {
            spans::end_item();
            fault!("pool.ran");
        }
        is_closed
    }

    /// Ends the item that was begun last, which has no result or one with handles, and returns where
    /// its record begins.
    ///
    /// # Errors
    ///
    /// There is no room for it; the results are those before it.
    pub(crate) fn see_to(&mut self, panic: Option<PanicInfo>) -> Result<usize, Full> {
        self.call.conclude(panic, Record::at(self.start))?;
        Ok(self.start)
    }

    /// The number of the item behind the one that was begun last.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Where the results are.
    pub(crate) fn out(&mut self) -> &mut Buffer {
        self.call.out()
    }
}

impl Pace<'_> {
    /// Notes that the next item begins; false if somebody has changed the word.
    #[inline(always)]
    fn advance(&mut self) -> bool {
        if self.is_watched {
            return self.advance_watched();
        }
        // Release: pairs with the Acquire of who looks; the records so far are complete.
        self.word.store(self.next, Ordering::Release);
        self.next += self.step;
        true
    }

    #[inline(never)]
    fn advance_watched(&mut self) -> bool {
        if let Some(began) = self.began {
            // Its time is not that of the one before it, which is over by the clock as well.
            began.store(sys::clock::now(), Ordering::Relaxed);
        }
        // Release: as in `advance`. If it fails, the item is not ours to begin.
        let advanced = self.word.compare_exchange(
            self.present,
            self.next,
            Ordering::Release,
            Ordering::Relaxed,
        );
        self.present = self.next;
        self.next += self.step;
        advanced.is_ok()
    }
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
