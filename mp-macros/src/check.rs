//! Every reason to refuse a function, each on the token at fault and with what to write instead.
//!
//! Types are judged by how they are written. Whether they can be sent is the compiler's to say, from
//! the bounds in the generated code.

use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{
    Error, GenericParam, Lifetime, Path, PathSegment, Type, TypeBareFn, TypeImplTrait, TypeNever,
    TypeReference,
};

use crate::item::TaskFn;

/// The longest argument list that `mp`'s traits are implemented for.
pub(crate) const MOST_ARGUMENTS: usize = 12;

/// Adds an error for every mistake in `task`.
pub(crate) fn check(task: &TaskFn, errors: &mut Vec<Error>) {
    qualifiers(task, errors);
    arguments(task, errors);
    if let Some(result) = task.result() {
        TypeCheck {
            who: "a task",
            place: Place::Result,
            errors,
        }
        .visit_type(result);
    }
    generics(task, errors);
    if let Some(semicolon) = task.semicolon {
        errors.push(Error::new_spanned(
            semicolon,
            "a task needs a body: leave this one as it is, and write a task that calls it",
        ));
    }
}

/// Refuses what may stand before `fn`, but for `const`.
fn qualifiers(task: &TaskFn, errors: &mut Vec<Error>) {
    let signature = &task.signature;
    if let Some(token) = signature.asyncness {
        errors.push(Error::new_spanned(
            token,
            "a task can't be `async`: it has a process to itself, so let it block, on an executor \
             inside if it needs one",
        ));
    }
    if let Some(token) = signature.unsafety {
        errors.push(Error::new_spanned(
            token,
            "a task can't be `unsafe`: write a safe function that checks its arguments, with the \
             `unsafe` block inside",
        ));
    }
    if let Some(abi) = &signature.abi {
        errors.push(Error::new_spanned(
            abi,
            "a task can't be `extern`: write a plain function that calls this one",
        ));
    }
}

/// Refuses arguments by their kind, their number and how their types are written.
fn arguments(task: &TaskFn, errors: &mut Vec<Error>) {
    if let Some(receiver) = &task.receiver {
        errors.push(Error::new_spanned(
            receiver.self_token,
            "a task can't take `self`: move it out of the `impl` block and take the value as an \
             ordinary argument",
        ));
    }
    for argument in &task.arguments {
        if let Some(cfg) = &argument.cfg {
            errors.push(Error::new_spanned(
                cfg,
                "an argument of a task can't be conditional: put `#[cfg]` above the function",
            ));
        }
        TypeCheck {
            who: "a task",
            place: Place::Argument,
            errors,
        }
        .visit_type(&argument.ty);
    }
    if let Some(argument) = task.arguments.get(MOST_ARGUMENTS) {
        errors.push(Error::new_spanned(
            &argument.ty,
            format!("a task takes at most {MOST_ARGUMENTS} arguments: make a struct of some"),
        ));
    }
    if let Some(variadic) = &task.signature.variadic {
        errors.push(Error::new_spanned(
            variadic,
            "a task has a fixed number of arguments: take a `Vec`",
        ));
    }
}

/// Refuses generic parameters, and of what follows from them only what would not be said otherwise.
fn generics(task: &TaskFn, errors: &mut Vec<Error>) {
    let generics = &task.signature.generics;
    for parameter in &generics.params {
        let message = match parameter {
            GenericParam::Type(_) => {
                "a task can't be generic, other processes find it by its name: write one task for \
                 each type, which calls the generic function"
            }
            GenericParam::Const(_) => {
                "a task can't be generic, other processes find it by its name: take the value as \
                 an argument"
            }
            // Where the lifetime is used there is an error already.
            GenericParam::Lifetime(_) if !errors.is_empty() => continue,
            GenericParam::Lifetime(_) => {
                "a task can't have lifetimes, it borrows nothing: remove this"
            }
        };
        errors.push(Error::new_spanned(parameter, message));
    }
    if let (true, Some(clause)) = (generics.params.is_empty(), &generics.where_clause) {
        errors.push(Error::new_spanned(
            clause.where_token,
            "a task can't have a `where` clause, it is not generic: remove this",
        ));
    }
}

/// Where a type stands.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Argument,
    Result,
}

/// Looks, at any depth of a type, for what can't be sent whatever else it is made of.
pub(crate) struct TypeCheck<'a> {
    /// What messages call the function: "a task".
    pub(crate) who: &'static str,
    pub(crate) place: Place,
    pub(crate) errors: &'a mut Vec<Error>,
}

impl TypeCheck<'_> {
    /// Refuses something borrowed; `owned` is what to write instead.
    fn borrowed(&mut self, tokens: impl ToTokens, owned: &str) {
        let who = self.who;
        let message = match self.place {
            Place::Argument => {
                format!("{who} can't borrow what another process sends it: take {owned}")
            }
            Place::Result => {
                format!("{who} can't lend its result to another process: return {owned}")
            }
        };
        self.errors.push(Error::new_spanned(tokens, message));
    }
}

impl<'ast> Visit<'ast> for TypeCheck<'_> {
    fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
        self.borrowed(reference, &owned(&reference.elem));
    }

    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        if lifetime.ident != "static" {
            self.borrowed(lifetime, "an owned value, with `'static` here");
        }
    }

    fn visit_type_impl_trait(&mut self, ty: &'ast TypeImplTrait) {
        self.errors.push(Error::new_spanned(
            ty,
            format!(
                "{} sends and receives values of known types: name the type, for an iterator \
                 `Vec<…>`",
                self.who
            ),
        ));
    }

    fn visit_type_never(&mut self, ty: &'ast TypeNever) {
        self.errors.push(Error::new_spanned(
            ty,
            format!(
                "{} that never returns has no result to send: leave the result out, and call \
                 `std::process::exit` where the process is to end",
                self.who
            ),
        ));
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if let Some(first) = path.segments.first().filter(|first| first.ident == "Self") {
            self.errors.push(Error::new_spanned(
                first,
                match self.who {
                    "a task" => {
                        "a task has no `Self`: move it out of the `impl` block and name the type"
                    }
                    _ => "a value of a shared type stays in its manager: send what is in it",
                },
            ));
        }
        visit::visit_path(self, path);
    }

    fn visit_path_segment(&mut self, segment: &'ast PathSegment) {
        // A marker holds nothing, and so borrows nothing.
        if segment.ident != "PhantomData" {
            visit::visit_path_segment(self, segment);
        }
    }

    fn visit_type_bare_fn(&mut self, _: &'ast TypeBareFn) {
        // Its references and lifetimes are those of its calls; that it can't be sent is said by the
        // compiler.
    }
}

/// What to write in place of a reference to `ty`.
fn owned(ty: &Type) -> String {
    let name = match ty {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
        _ => None,
    };
    match (ty, name.as_deref()) {
        (_, Some("str")) => "`String`".to_owned(),
        (_, Some("Path")) => "`PathBuf`".to_owned(),
        (_, Some("OsStr")) => "`OsString`".to_owned(),
        (_, Some("CStr")) => "`CString`".to_owned(),
        (Type::Slice(slice), _) => format!("`Vec<{}>`", written(&slice.elem)),
        (Type::TraitObject(_) | Type::ImplTrait(_), _) => {
            "an owned value of a type with a name".to_owned()
        }
        (ty, _) => format!("`{}`", written(ty)),
    }
}

/// `ty` as one would type it; printed tokens have spaces everywhere.
fn written(ty: &Type) -> String {
    let tighter = [
        (" ::", "::"),
        (":: ", "::"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" ,", ","),
        (" ;", ";"),
        ("& ", "&"),
    ];
    let printed = ty.to_token_stream().to_string();
    tighter
        .iter()
        .fold(printed, |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use proc_macro2::TokenStream;
    use quote::quote;

    use super::*;
    use crate::item;

    /// The messages for a function, cut down to the advice after the colon.
    fn advice(function: TokenStream) -> Vec<String> {
        let mut errors = Vec::new();
        let task = item::parse(function, &mut errors).expect("a function");
        check(&task, &mut errors);
        let advice = |error: &Error| {
            error
                .to_string()
                .split_once(": ")
                .expect("advice")
                .1
                .to_owned()
        };
        errors.iter().map(advice).collect()
    }

    #[test]
    fn owned_types_pass() {
        for function in [
            quote!(
                fn f() {}
            ),
            quote!(
                pub(crate) const fn f(mut a: u8, (b, _): (u8, [u8; 2])) -> () {}
            ),
            quote!(
                fn f(
                    a: std::collections::HashMap<String, Vec<Option<Row>>>,
                ) -> Result<Row, mp::AnyError> {
                }
            ),
            quote!(
                fn f(a: Cow<'static, str>, b: PhantomData<&'static u8>, c: Box<[u8]>) {}
            ),
            quote!(
                fn f(
                    a: u8,
                    b: u8,
                    c: u8,
                    d: u8,
                    e: u8,
                    f: u8,
                    g: u8,
                    h: u8,
                    i: u8,
                    j: u8,
                    k: u8,
                    l: u8,
                ) {
                }
            ),
        ] {
            assert!(advice(function.clone()).is_empty(), "{function}");
        }
    }

    #[test]
    fn a_reference_is_answered_with_the_owned_type() {
        for (ty, expected) in [
            (quote!(&str), "take `String`"),
            (quote!(&'static str), "take `String`"),
            (quote!(Vec<&str>), "take `String`"),
            (quote!(&std::path::Path), "take `PathBuf`"),
            (quote!(&[u8]), "take `Vec<u8>`"),
            (quote!(&mut [f64]), "take `Vec<f64>`"),
            (
                quote!(&HashMap<String, Vec<u8>>),
                "take `HashMap<String, Vec<u8>>`",
            ),
            (quote!(&a::Row), "take `a::Row`"),
            (
                quote!(Cow<'_, str>),
                "take an owned value, with `'static` here",
            ),
        ] {
            assert_eq!(advice(quote!(fn f(a: #ty) {})), [expected]);
        }
    }

    #[test]
    fn a_lifetime_is_reported_where_it_is_used() {
        assert_eq!(
            advice(quote!(
                fn f<'a>(a: &'a u8) {}
            )),
            ["take `u8`"]
        );
        assert_eq!(
            advice(quote!(
                fn f<'a>(a: u8) {}
            )),
            ["remove this"]
        );
    }

    #[test]
    fn a_where_clause_is_reported_if_nothing_is_generic() {
        assert_eq!(
            advice(quote!(
                fn f()
                where
                    u8: Copy,
                {
                }
            )),
            ["remove this"]
        );
        assert_eq!(
            advice(quote!(
                fn f<T>()
                where
                    T: Copy,
                {
                }
            ))
            .len(),
            1
        );
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let function = quote!(
            async unsafe extern "C" fn f<T, const N: usize>(
                self,
                a: &str,
                b: impl Copy,
                #[cfg(x)] c: u8,
            ) -> &str;
        );
        assert_eq!(advice(function).len(), 11);
    }
}
