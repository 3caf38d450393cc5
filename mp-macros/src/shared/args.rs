//! The options of the attribute: `name = "…"`, `handle = Name`, `crate = path`.

use proc_macro2::TokenStream;
use syn::parse::ParseStream;
use syn::{Error, Ident, LitStr, Path, Result};

use crate::args::{krate, name, parse_with, set, value};

/// What stands between the parentheses of `#[mp::shared(…)]`.
#[derive(Default)]
pub(super) struct Args {
    /// The name to register instead of the type's path.
    pub(super) name: Option<LitStr>,
    /// What the handle is called, if not `Shared` and the type's name.
    pub(super) handle: Option<Ident>,
    /// Where `mp` is, if not at `::mp`.
    pub(super) krate: Option<Path>,
}

/// The options that exist, as they are listed for a user who asked for another.
const KNOWN: &str = r#"known options: `name = "…"`, `handle = Name`, `crate = path`"#;

/// Reads the options of `#[mp::shared]`.
pub(super) fn parse(tokens: TokenStream, errors: &mut Vec<Error>) -> Args {
    parse_with(tokens, KNOWN, errors, Args::option)
}

impl Args {
    /// Reads the value of `option`; false if there is no such option.
    fn option(&mut self, option: &Ident, input: ParseStream<'_>) -> Result<bool> {
        match option.to_string().as_str() {
            "name" => {
                let empty =
                    "a shared type needs a name: leave the option out to use the type's path";
                let name = name(input, option, r#""bank.account""#, empty)?;
                set(&mut self.name, option, name)?;
            }
            "handle" => {
                let handle = value(input, option, "AccountHandle")?;
                set(&mut self.handle, option, handle)?;
            }
            "crate" => set(&mut self.krate, option, krate(input, option)?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}
