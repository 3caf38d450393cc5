//! `#[mp::shared]`: a type whose values live in a manager, and the handle of one.
//!
//! - [`args`]: `name = "…"`, `handle = Name`, `crate = path`.
//! - [`item`]: the `impl` block as the other files see it.
//! - [`check`]: every reason to refuse it.
//! - [`expand`]: the handle and the registration.

mod args;
mod check;
mod expand;
mod item;

use proc_macro2::TokenStream;

/// What the attribute turns the block into.
pub(crate) fn shared(args: TokenStream, block: TokenStream) -> TokenStream {
    let mut errors = Vec::new();
    let args = args::parse(args, &mut errors);
    let shared = item::parse(block.clone(), &mut errors);
    if let Some(shared) = &shared {
        check::check(shared, &mut errors);
    }
    match shared {
        Some(shared) if errors.is_empty() => expand::registered(&block, &shared, &args),
        _ => crate::expand::refused(&block, &errors),
    }
}
