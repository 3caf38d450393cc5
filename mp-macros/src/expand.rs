//! Tokens for the compiler: the function as it was written, and beside it its registration or what
//! is wrong with it.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Ident, Type, parse_quote};

use crate::args::Args;
use crate::item::TaskFn;

/// The item, unchanged so that its users see no further errors, and all that is wrong with it.
pub(crate) fn refused(item: &TokenStream, errors: &[Error]) -> TokenStream {
    let errors = errors.iter().map(Error::to_compile_error);
    quote!(#item #(#errors)*)
}

/// The function, unchanged, and a hidden function that holds its registration.
///
/// A function and not `const _`: it may stand wherever the task may, in an `impl` block too, where
/// the compiler then says by itself that there is no such function outside of it.
pub(crate) fn registered(item: &TokenStream, task: &TaskFn, args: &Args) -> TokenStream {
    let TaskFn { cfgs, .. } = task;
    let id = task.name();
    let hidden = format_ident!(
        "__mp_task_{}",
        id,
        span = Span::mixed_site().located_at(id.span())
    );
    let private = private(args);
    let name = match &args.name {
        Some(name) => quote!(#name),
        None => quote!(__mp::type_name_of(&#id)),
    };
    let options = options(args);
    let error = error(task);
    // A closure each time, and no function that both name: where the task is not to be found, the
    // compiler says so in the same words, and once.
    let trampoline = trampoline(task);
    quote! {
        #item

        #(#cfgs)*
        #[doc(hidden)]
        #[allow(deprecated, non_snake_case)]
        fn #hidden() {
            use #private as __mp;
            __mp::inventory::submit! {
                __mp::Entry {
                    name: || #name,
                    type_id: || __mp::type_id_of(&#id),
                    signature: || __mp::signature_of(&#id),
                    place: __mp::Place::new(::core::file!(), ::core::line!(), ::core::column!()),
                    run: #trampoline,
                    run_each: |batch| batch.run(#trampoline),
                    error: #error,
                    options: #options,
                }
            }
        }
    }
}

/// The module of `mp` that generated code may name.
fn private(args: &Args) -> TokenStream {
    match &args.krate {
        Some(path) => quote!(#path::__private),
        None => quote!(::mp::__private),
    }
}

/// A constant expression for the defaults of the task's calls.
fn options(args: &Args) -> TokenStream {
    let timeout = args.timeout.map(|nanos| quote!(.timeout_nanos(#nanos)));
    let retries = args.retries.map(|times| quote!(.retries(#times)));
    quote!(__mp::Options::NONE #timeout #retries)
}

/// A function that decodes the arguments, calls the task, and encodes the result.
///
/// Each step stands under the span of the type it handles: a type that can't be sent is one error,
/// on that type.
fn trampoline(task: &TaskFn) -> TokenStream {
    let id = task.name();
    // Locals that no name of the user's can meet, each where its type is.
    let call = Ident::new("call", Span::mixed_site());
    let function = Ident::new("function", Span::mixed_site());
    let locals: Vec<_> = task
        .arguments
        .iter()
        .enumerate()
        .map(|(place, argument)| Ident::new(&format!("a{place}"), at(&argument.ty)))
        .collect();
    let decode = task.arguments.iter().zip(&locals).map(|(argument, local)| {
        let (label, ty) = (&argument.label, &argument.ty);
        quote_spanned!(at(ty)=> let #local = __mp::Call::argument::<#ty>(#call, #label)?;)
    });
    let nothing = parse_quote!(());
    let ty = task.result().unwrap_or(&nothing);
    let result = Ident::new("result", at(ty));
    let finish = quote_spanned!(at(ty)=> __mp::Call::finish::<#ty>(#call, #result));
    // The function is named as a value everywhere: where there is none, that is one error, not two.
    quote! {
        |#call| {
            #(#decode)*
            __mp::Call::start(#call);
            let #function = #id;
            let #result = #function(#(#locals),*);
            #finish
        }
    }
}

/// A function that reads the error that the task returned, if its result can be one.
fn error(task: &TaskFn) -> TokenStream {
    let nothing = parse_quote!(());
    let ty = task.result().unwrap_or(&nothing);
    quote_spanned! {at(ty)=>
        |bytes| {
            #[allow(unused_imports)]
            use __mp::NoError as _;
            __mp::ResultOf::<#ty>::new().error(bytes)
        }
    }
}

/// The place of `ty` for errors, with names that are the expansion's own.
fn at(ty: &Type) -> Span {
    Span::mixed_site().located_at(ty.span())
}
