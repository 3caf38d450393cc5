//! Every reason to refuse a block, each on the token at fault and with what to write instead.

use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{Error, GenericParam};

use super::item::{Function, SharedImpl};
use crate::check::{MOST_ARGUMENTS, Place, TypeCheck};

/// What messages call a function of a shared type.
const FUNCTION: &str = "a function of a shared type";

/// Adds an error for every mistake in the block.
pub(super) fn check(shared: &SharedImpl, errors: &mut Vec<Error>) {
    let block = &shared.block;
    if let Some((_, path, _)) = &block.trait_ {
        errors.push(Error::new_spanned(
            path,
            "`#[mp::shared]` goes above the functions of the type itself: write an `impl` block \
             without a trait, whose functions call those of the trait",
        ));
        return;
    }
    if let Some(parameter) = block.generics.params.first() {
        errors.push(Error::new_spanned(
            parameter,
            "a shared type can't be generic, its manager finds it by its name: write a type for \
             each, or keep the values in an `mp::Map` or `mp::List`",
        ));
    }
    if shared.name.is_none() {
        errors.push(Error::new_spanned(
            &block.self_ty,
            "a shared type has a name: write a struct around this",
        ));
    }
    for function in &shared.functions {
        check_function(shared, function, errors);
    }
    if !shared.functions.iter().any(Function::is_constructor) {
        errors.push(Error::new(
            block.self_ty.span(),
            "a shared type needs a function that makes a value in the manager: add `fn new(…) -> \
             Self { … }` to this block",
        ));
    }
}

fn check_function(shared: &SharedImpl, function: &Function, errors: &mut Vec<Error>) {
    let signature = &function.signature;
    if let Some(cfg) = &function.cfg {
        errors.push(Error::new_spanned(
            cfg,
            "a function of a shared type can't be conditional: put `#[cfg]` above the block",
        ));
    }
    if let Some(token) = signature.asyncness {
        errors.push(Error::new_spanned(
            token,
            "a function of a shared type can't be `async`: the manager runs one call at a time, \
             so let it block",
        ));
    }
    if let Some(token) = signature.unsafety {
        errors.push(Error::new_spanned(
            token,
            "a function of a shared type can't be `unsafe`: write a safe one that checks its \
             arguments, with the `unsafe` block inside",
        ));
    }
    if let Some(abi) = &signature.abi {
        errors.push(Error::new_spanned(
            abi,
            "a function of a shared type can't be `extern`: write a plain one that calls this one",
        ));
    }
    for parameter in &signature.generics.params {
        let message = match parameter {
            GenericParam::Lifetime(_) => {
                "a function of a shared type borrows nothing from other processes: remove this"
            }
            _ => {
                "a function of a shared type can't be generic, its manager finds it by its number: \
                 write one for each type"
            }
        };
        errors.push(Error::new_spanned(parameter, message));
    }
    if let Some(receiver) = &function.receiver
        && (receiver.reference.is_none() || receiver.colon_token.is_some())
    {
        errors.push(Error::new_spanned(
            receiver,
            "the value stays in the manager: take `&self` or `&mut self`",
        ));
    }
    for argument in &function.arguments {
        TypeCheck {
            who: FUNCTION,
            place: Place::Argument,
            errors,
        }
        .visit_type(&argument.ty);
    }
    if let Some(argument) = function.arguments.get(MOST_ARGUMENTS) {
        errors.push(Error::new_spanned(
            &argument.ty,
            format!("{FUNCTION} takes at most {MOST_ARGUMENTS} arguments: make a struct of some"),
        ));
    }
    if function.is_constructor() {
        if !function.returns_self(&shared.block.self_ty) {
            errors.push(Error::new_spanned(
                &signature.ident,
                "without `self` this makes a value in the manager: return `Self`, panic where that \
                 fails, and put other functions into an `impl` block without `#[mp::shared]`",
            ));
        }
    } else if let Some(result) = function.result() {
        TypeCheck {
            who: FUNCTION,
            place: Place::Result,
            errors,
        }
        .visit_type(result);
    }
}
