//! From a function to its task, and from a name to it.
//!
//! [`inventory`] collects an [`Entry`] for every `#[mp::task]` that is linked. The caller goes from
//! the function's own type to the entry, the child from the name.

use std::any::{TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::OnceLock;
use std::time::Duration;

use super::batch::{Batch, Pause};
use super::call::{Call, Stop};
use super::effect::ReadError;
use crate::error::{Error, ErrorKind};
use crate::task::TaskFn;

/// A task, as `#[mp::task]` registers it.
#[derive(Debug)]
pub struct Entry {
    /// The name by which other processes find it; a function, since a type's name is no constant.
    pub name: fn() -> &'static str,
    /// The type of the function itself, which no other function has.
    pub type_id: fn() -> TypeId,
    /// What it takes and gives, by the names of the types.
    pub signature: fn() -> String,
    /// Where it is written.
    pub place: Place,
    /// Decodes the arguments, calls the function, encodes the result.
    pub run: Trampoline,
    /// The same for many calls, one after the other.
    pub run_each: Repeater,
    /// Reads the error that it returned.
    pub error: ReadError,
    /// Defaults for its calls.
    pub options: Options,
}

inventory::collect!(Entry);

/// Runs one call of one task.
pub type Trampoline = fn(&mut Call<'_>) -> Result<(), Stop>;

/// Runs many calls of one task, as [`Batch::run`] does.
pub type Repeater = fn(&mut Batch<'_>) -> Pause;

/// A place in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    file: &'static str,
    line: u32,
    column: u32,
}

impl Place {
    /// Takes what `file!`, `line!` and `column!` give.
    pub const fn new(file: &'static str, line: u32, column: u32) -> Self {
        Self { file, line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column } = self;
        write!(f, "{file}:{line}:{column}")
    }
}

/// What the attribute says about a task's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a call may run.
    pub timeout: Option<Duration>,
    /// How often a failed call is run again.
    pub retries: Option<u32>,
}

impl Options {
    /// Nothing was said.
    pub const NONE: Self = Self {
        timeout: None,
        retries: None,
    };

    /// Limits a call to so many nanoseconds.
    #[must_use]
    pub const fn timeout_nanos(self, nanos: u64) -> Self {
        Self {
            timeout: Some(Duration::from_nanos(nanos)),
            ..self
        }
    }

    /// Runs a failed call again, up to so many times.
    #[must_use]
    pub const fn retries(self, retries: u32) -> Self {
        Self {
            retries: Some(retries),
            ..self
        }
    }
}

/// The id of a function's own type.
pub fn type_id_of<F: 'static>(_: &F) -> TypeId {
    TypeId::of::<F>()
}

/// The name of a function's own type, which is its path.
pub fn type_name_of<F>(_: &F) -> &'static str {
    type_name::<F>()
}

/// Finds the task that a function is.
///
/// # Errors
///
/// The function is no task, or another task has the same name.
#[inline]
pub(crate) fn by_type<F: 'static>() -> Result<&'static Entry, Error> {
    let registry = registry();
    match registry.by_type.get(&TypeId::of::<F>()) {
        Some(Found::Entry(entry)) => Ok(entry),
        Some(Found::Shared(name)) => Err(registry.ambiguous(name)),
        None => Err(registry.not_a_task(type_name::<F>())),
    }
}

/// What a function takes and gives, by the names of the types.
#[must_use]
pub fn signature_of<F: TaskFn<A>, A>(_: &F) -> String {
    let (arguments, result) = (type_name::<A>(), type_name::<F::Output>());
    format!("{arguments} -> {result}")
}

/// The signature of the task of that name, if there is one, and no other.
#[must_use]
pub fn signature_by_name(name: &str) -> Option<String> {
    by_name(name).ok().map(|entry| (entry.signature)())
}

/// Finds the task of a name.
///
/// # Errors
///
/// There is none, or there are several.
pub(crate) fn by_name(name: &str) -> Result<&'static Entry, Error> {
    registry().by_name(name)
}

/// Makes the registry now, for copies of this process that will need it.
pub(crate) fn prepare() {
    registry();
}

/// Looks some task up, for nothing but to have done it.
pub(crate) fn rehearse() {
    if let Some(name) = registry().by_name.keys().next() {
        let _ = by_name(name);
    }
}

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    // Not before it is needed: constructors that add entries may still be due.
    REGISTRY.get_or_init(|| Registry::new(inventory::iter::<Entry>()))
}

struct Registry {
    by_type: HashMap<TypeId, Found, BuildHasherDefault<TypeIdHasher>>,
    by_name: HashMap<&'static str, Vec<&'static Entry>>,
}

/// What a function's type leads to.
enum Found {
    /// Its entry, the only one of its name.
    Entry(&'static Entry),
    /// A name that it shares with another.
    Shared(&'static str),
}

impl Registry {
    fn new(entries: impl IntoIterator<Item = &'static Entry>) -> Self {
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for entry in entries {
            by_name.entry((entry.name)()).or_default().push(entry);
        }
        let mut by_type = HashMap::default();
        for (name, entries) in &mut by_name {
            // The linker's order means nothing.
            entries.sort_by_key(|entry| (entry.place.file, entry.place.line, entry.place.column));
            for entry in &*entries {
                let found = match entries.len() {
                    1 => Found::Entry(entry),
                    _ => Found::Shared(name),
                };
                by_type.insert((entry.type_id)(), found);
            }
        }
        Self { by_type, by_name }
    }

    fn by_name(&self, name: &str) -> Result<&'static Entry, Error> {
        match self.by_name.get(name).map(Vec::as_slice) {
            Some([entry]) => Ok(entry),
            Some(_) => Err(self.ambiguous(name)),
            None => Err(self.no_task_named(name)),
        }
    }

    #[cold]
    fn ambiguous(&self, name: &str) -> Error {
        let places: Vec<_> = self.by_name[name].iter().map(|entry| entry.place).collect();
        let text = match places.as_slice() {
            [first, rest @ ..] if rest.iter().all(|place| place == first) => format!(
                "the task at {first} is in this program twice, as {name:?}: its file is a module \
                 both of the library and of the program; let the program use the library's"
            ),
            places => {
                let places: Vec<_> = places.iter().map(Place::to_string).collect();
                format!(
                    "two tasks are named {name:?}, at {}: give one of them another name by \
                     #[mp::task(name = \"…\")]",
                    places.join(" and ")
                )
            }
        };
        Error::new(ErrorKind::AmbiguousTask, text)
    }

    #[cold]
    fn not_a_task(&self, function: &str) -> Error {
        if function.ends_with("{{closure}}") {
            return Error::unknown_task(format!(
                "the closure `{function}` is not a task: write a function, with #[mp::task] above it"
            ));
        }
        let mut text = format!("{function} is not a task: add #[mp::task] above the function");
        if let Some(krate) = self.unknown_crate(function) {
            text += &format!(
                "; if it is there, the linker has left its crate out: add `use {krate} as _;` to \
                 the program"
            );
        }
        Error::unknown_task(text)
    }

    #[cold]
    fn no_task_named(&self, name: &str) -> Error {
        /// How many of the known names are told.
        const TOLD: usize = 10;
        let mut known: Vec<_> = self.by_name.keys().copied().collect();
        known.sort_by_cached_key(|known| {
            let is_elsewhere = last_segment(known) != last_segment(name);
            (is_elsewhere, distance(known, name), *known)
        });
        let mut text = format!("no task named {name:?} in this program; ");
        if known.is_empty() {
            text += "it has no tasks at all";
        } else {
            let told: Vec<_> = known
                .iter()
                .take(TOLD)
                .map(|name| format!("{name:?}"))
                .collect();
            text += &format!("known tasks: {}", told.join(", "));
            if known.len() > TOLD {
                text += &format!(" and {} more", known.len() - TOLD);
            }
        }
        if let Some(krate) = self.unknown_crate(name) {
            text += &format!(
                "; if the linker has left its crate out, add `use {krate} as _;` to the program"
            );
        }
        Error::unknown_task(text)
    }

    /// The crate of a path, if no known task is in that crate.
    fn unknown_crate<'a>(&self, path: &'a str) -> Option<&'a str> {
        let krate = crate_of(path)?;
        let is_known = self
            .by_name
            .keys()
            .any(|name| crate_of(name) == Some(krate));
        (!is_known).then_some(krate)
    }
}

fn crate_of(path: &str) -> Option<&str> {
    let (krate, _) = path.split_once("::")?;
    // `<app::Type as app::Trait>::f` begins with no crate.
    krate
        .chars()
        .all(|c| c.is_alphanumeric() || c == '_')
        .then_some(krate)
}

fn last_segment(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

/// How many characters to insert, remove or replace to make `a` of `b` (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // `row[j]`: from the characters of `a` seen so far to the first `j` of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for a in a.chars() {
        let mut diagonal = row[0];
        row[0] += 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A [`TypeId`] is a good hash already.
#[derive(Default)]
struct TypeIdHasher(u64);

impl Hasher for TypeIdHasher {
    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(_: u8) {}
    fn task(_: u8) {}
    fn other(_: u8) {}

    const fn entry(name: fn() -> &'static str, type_id: fn() -> TypeId, line: u32) -> Entry {
        Entry {
            name,
            type_id,
            signature: || signature_of(&plain),
            place: Place::new("src/etl.rs", line, 1),
            run: |_| Ok(()),
            run_each: |batch| batch.run(|_| Ok(())),
            error: |_| None,
            options: Options::NONE.timeout_nanos(5).retries(2),
        }
    }

    inventory::submit! { entry(|| type_name_of(&task), || type_id_of(&task), 1) }

    fn lookup<F: 'static>(_: F) -> Result<&'static Entry, Error> {
        by_type::<F>()
    }

    fn registry_of(names: &[&'static str]) -> Registry {
        static NAMES: [fn() -> &'static str; 3] = [|| "app::cube", || "app::deep::square", || "x"];
        Registry::new(
            NAMES
                .iter()
                .filter(|name| names.contains(&name()))
                .map(|name| {
                    let entry = entry(*name, || type_id_of(&plain), 7);
                    &*Box::leak(Box::new(entry))
                }),
        )
    }

    #[test]
    fn function_leads_to_its_entry_and_its_name_back() {
        let entry = lookup(task).unwrap();
        let name = (entry.name)();
        assert!(name.ends_with("registry::tests::task"), "{name}");
        assert!(std::ptr::eq(by_name(name).unwrap(), entry));
        assert_eq!(entry.options.timeout, Some(Duration::from_nanos(5)));
        assert_eq!(entry.options.retries, Some(2));
    }

    #[test]
    fn function_without_attribute_is_told_so() {
        let error = lookup(plain).unwrap_err();
        assert!(error.is_unknown_task());
        let name = type_name_of(&plain);
        let text = format!("{name} is not a task: add #[mp::task] above the function");
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn closure_is_told_to_be_a_function() {
        let error = lookup(|x: u8| x).unwrap_err();
        assert!(error.to_string().contains("write a function"), "{error}");
    }

    #[test]
    fn unknown_name_lists_the_nearest_first() {
        let registry = registry_of(&["app::cube", "app::deep::square", "x"]);
        let error = registry.by_name("app::square").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no task named \"app::square\" in this program; known tasks: \"app::deep::square\", \
             \"app::cube\", \"x\""
        );
    }

    #[test]
    fn unknown_crate_comes_with_advice() {
        let registry = registry_of(&["x"]);
        let error = registry.by_name("etl::clean").unwrap_err();
        assert!(error.to_string().contains("`use etl as _;`"), "{error}");
        let error = registry.not_a_task("etl::clean");
        assert!(error.to_string().contains("`use etl as _;`"), "{error}");
        let error = registry_of(&[]).by_name("clean").unwrap_err();
        assert!(error.to_string().ends_with("it has no tasks at all"));
    }

    #[test]
    fn name_given_twice_fails_at_use_and_shows_both_places() {
        static TWICE: [Entry; 2] = [
            entry(|| "twice", || type_id_of(&other), 30),
            entry(|| "twice", || type_id_of(&plain), 4),
        ];
        let registry = Registry::new(&TWICE);
        let error = registry.by_name("twice").unwrap_err();
        assert!(error.is_ambiguous_task());
        let text = error.to_string();
        assert!(
            text.contains("src/etl.rs:4:1 and src/etl.rs:30:1"),
            "{text}"
        );
        let found = &registry.by_type[&type_id_of(&other)];
        assert!(matches!(found, Found::Shared("twice")));
    }

    #[test]
    fn file_that_is_compiled_twice_is_told_so() {
        static TWICE: [Entry; 2] = [
            entry(|| "twice", || type_id_of(&other), 4),
            entry(|| "twice", || type_id_of(&plain), 4),
        ];
        let error = Registry::new(&TWICE).by_name("twice").unwrap_err();
        assert!(error.to_string().contains("use the library's"), "{error}");
    }

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }
}
