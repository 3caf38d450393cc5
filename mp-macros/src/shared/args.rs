//! The options of the attribute: `name = "…"`, `handle = Name`, `crate = path`.

use proc_macro2::TokenStream;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::{Error, Ident, LitStr, Path, Result};

use crate::args::{ModPath, parse_with, set, value};

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
    parse_with(tokens, errors, Args::option)
}

impl Args {
    /// Reads one `option = value`, up to the comma.
    fn option(&mut self, input: ParseStream<'_>) -> Result<()> {
        let option = input
            .call(Ident::parse_any)
            .map_err(|error| Error::new(error.span(), format!("expected an option; {KNOWN}")))?;
        match option.to_string().as_str() {
            "name" => {
                let name: LitStr = value(input, &option, r#""bank.account""#)?;
                if name.value().trim().is_empty() {
                    return Err(Error::new(
                        name.span(),
                        "a shared type needs a name: leave the option out to use the type's path",
                    ));
                }
                set(&mut self.name, &option, name)
            }
            "handle" => {
                let handle = value(input, &option, "AccountHandle")?;
                set(&mut self.handle, &option, handle)
            }
            "crate" => {
                let path = value::<ModPath>(input, &option, "path::to::mp")?.0;
                set(&mut self.krate, &option, path)
            }
            _ => Err(Error::new(
                option.span(),
                format!("unknown option `{option}`; {KNOWN}"),
            )),
        }
    }
}
