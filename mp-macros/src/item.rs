//! The annotated function as the other files see it.

use proc_macro2::TokenStream;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{
    Attribute, Error, FnArg, Ident, Pat, Receiver, ReturnType, Signature, Token, Type, Visibility,
    token,
};

/// A function that may become a task.
pub(crate) struct TaskFn {
    /// The conditions under which the function exists, and its registration with it.
    pub(crate) cfgs: Vec<Attribute>,
    /// Everything from the qualifiers to the where clause. `receiver` and `arguments` are its inputs.
    pub(crate) signature: Signature,
    /// `self` in one of its forms.
    pub(crate) receiver: Option<Receiver>,
    /// The arguments in order, without `self`.
    pub(crate) arguments: Vec<Argument>,
    /// The semicolon of a function without a body.
    pub(crate) semicolon: Option<Token![;]>,
}

/// One argument of the function.
pub(crate) struct Argument {
    /// What messages call it: its name, or `#2` for a pattern in second place.
    pub(crate) label: String,
    pub(crate) ty: Type,
    /// A condition on the argument alone.
    pub(crate) cfg: Option<Attribute>,
}

impl TaskFn {
    pub(crate) fn name(&self) -> &Ident {
        &self.signature.ident
    }

    /// The type that follows `->`.
    pub(crate) fn result(&self) -> Option<&Type> {
        match &self.signature.output {
            ReturnType::Default => None,
            ReturnType::Type(_, ty) => Some(ty),
        }
    }
}

/// Reads the item under the attribute; anything but a function is an error.
pub(crate) fn parse(tokens: TokenStream, errors: &mut Vec<Error>) -> Option<TaskFn> {
    match task_fn.parse2(tokens) {
        Ok(task) => Some(task),
        Err(error) => {
            errors.push(error);
            None
        }
    }
}

fn task_fn(input: ParseStream<'_>) -> syn::Result<TaskFn> {
    let cfgs = input
        .call(Attribute::parse_outer)?
        .into_iter()
        .filter(is_cfg)
        .collect();
    input.parse::<Visibility>()?;
    // The compiler has parsed the item already, so what is no signature is another kind of item.
    let signature: Signature = input.parse().map_err(|error| {
        Error::new(
            error.span(),
            "`#[mp::task]` goes above a function: write one, `fn name(…) -> … { … }`, that does \
             the work",
        )
    })?;
    // The body is for the compiler alone. Not to look into it keeps the attribute quick, and an
    // editor's completion alive while the body is being written.
    let semicolon = if input.peek(token::Brace) {
        None
    } else {
        Some(input.parse()?)
    };
    input.parse::<TokenStream>()?;

    let mut receiver = None;
    let mut arguments = Vec::new();
    for (place, input) in (1..).zip(&signature.inputs) {
        match input {
            FnArg::Receiver(this) => receiver = Some(this.clone()),
            FnArg::Typed(argument) => arguments.push(Argument {
                label: match &*argument.pat {
                    Pat::Ident(pattern) => pattern.ident.unraw().to_string(),
                    _ => format!("#{place}"),
                },
                ty: (*argument.ty).clone(),
                cfg: argument
                    .attrs
                    .iter()
                    .find(|attribute| is_cfg(attribute))
                    .cloned(),
            }),
        }
    }
    Ok(TaskFn {
        cfgs,
        signature,
        receiver,
        arguments,
        semicolon,
    })
}

fn is_cfg(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn read(tokens: TokenStream) -> TaskFn {
        parse(tokens, &mut Vec::new()).expect("a function")
    }

    #[test]
    fn arguments_are_labelled_by_name_or_place() {
        let task = read(quote!(
            fn f(mut a: u8, (b, c): (u8, u8), _: u8, r#type: u8) {}
        ));
        let labels: Vec<_> = task
            .arguments
            .iter()
            .map(|argument| argument.label.as_str())
            .collect();
        assert_eq!(labels, ["a", "#2", "#3", "type"]);
    }

    #[test]
    fn conditions_are_kept_and_other_attributes_left_alone() {
        let task = read(quote!(
            #[inline]
            #[cfg(test)]
            /** Text. */
            pub(crate) fn f() {}
        ));
        assert_eq!(task.cfgs.len(), 1);
    }

    #[test]
    fn the_body_is_not_read() {
        let task = read(quote!(const fn f() -> u8 { 1 + }));
        assert_eq!(task.name(), "f");
        assert!(task.result().is_some() && task.semicolon.is_none());
    }

    #[test]
    fn other_items_are_refused() {
        for tokens in [
            quote!(
                struct S;
            ),
            quote!(impl S {}),
            quote!(
                const F: fn() = f;
            ),
            quote!(
                pub mod m {}
            ),
        ] {
            let mut errors = Vec::new();
            assert!(parse(tokens, &mut errors).is_none());
            assert!(
                errors[0]
                    .to_string()
                    .starts_with("`#[mp::task]` goes above a function")
            );
        }
    }
}
