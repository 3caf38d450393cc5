//! From a type to what `#[mp::shared]` registered for it, and from its name to the same.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::sync::OnceLock;

use crate::error::{Error, ErrorKind};
use crate::task::call::{Call, Stop};
use crate::task::registry::Place;

/// A type whose values can live in a manager, as `#[mp::shared]` registers it.
#[derive(Debug)]
pub struct SharedType {
    /// The name by which the manager finds it.
    pub name: fn() -> &'static str,
    /// The type.
    pub type_id: fn() -> TypeId,
    /// Where it is written.
    pub place: Place,
    /// What its functions look like, in the order of their numbers: two programs must agree.
    pub functions: &'static [&'static str],
    /// Decodes the arguments of a function, calls it, encodes the result.
    pub call: SharedCall,
}

inventory::collect!(SharedType);

/// An object in its manager: nothing before its constructor has run.
pub(crate) type State = Option<Box<dyn Any>>;

/// Runs the function of that number.
pub(crate) type SharedCall = fn(&mut State, u32, &mut Call<'_>) -> Result<(), Stop>;

/// The value of an object, for generated code.
///
/// # Panics
///
/// If it is of another type, or its constructor failed: neither is ever called for.
pub fn value<T: 'static>(state: &mut State) -> &mut T {
    state
        .as_mut()
        .and_then(|state| state.downcast_mut())
        .unwrap_or_else(|| panic!("the object is no {}", type_name::<T>()))
}

/// Looks that there is no value yet which a constructor would replace, for generated code.
///
/// # Panics
///
/// If there is one: another program asked for what no handle of it does.
pub fn absent(state: &State) {
    assert!(
        state.is_none(),
        "a function that makes an object is not called on one"
    );
}

struct Registry {
    by_type: HashMap<TypeId, &'static SharedType>,
    by_name: HashMap<&'static str, Vec<&'static SharedType>>,
}

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    // Not before it is needed: constructors that add entries may still be due.
    REGISTRY.get_or_init(|| {
        let mut registry = Registry {
            by_type: HashMap::new(),
            by_name: HashMap::new(),
        };
        for entry in inventory::iter::<SharedType>() {
            registry.by_type.insert((entry.type_id)(), entry);
            let same = registry.by_name.entry((entry.name)()).or_default();
            same.push(entry);
        }
        registry
    })
}

/// Finds what is registered for a type, which `#[mp::shared]` makes sure there is.
///
/// It may be missing all the same: `type_name` is for the message.
pub(super) fn by_type(ty: TypeId, type_name: &str) -> Result<&'static SharedType, Error> {
    let entry = registry().by_type.get(&ty);
    let entry = entry.ok_or_else(|| {
        Error::unknown_task(format!(
            "{type_name} is no shared type: add #[mp::shared] above its impl block"
        ))
    })?;
    by_name((entry.name)())
}

/// Finds the type of a name.
pub(super) fn by_name(name: &str) -> Result<&'static SharedType, Error> {
    match registry().by_name.get(name).map(Vec::as_slice) {
        Some([entry]) => Ok(entry),
        Some([first, second, ..]) => Err(Error::new(
            ErrorKind::AmbiguousTask,
            format!(
                "two shared types are named {name:?}, at {} and {}: give one another name by \
                 #[mp::shared(name = \"…\")]",
                first.place, second.place
            ),
        )),
        _ => Err(Error::unknown_task(format!(
            "no shared type is named {name:?}: if it is in a crate that nothing else uses, add \
             `use that_crate as _;`"
        ))),
    }
}
