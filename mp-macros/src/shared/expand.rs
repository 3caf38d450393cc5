//! Tokens for the compiler: the block as it was written, the handle, and the registration.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, Type, Visibility, parse_quote};

use super::args::Args;
use super::item::{Function, SharedImpl};

/// The block, unchanged, a type of handle with the same functions, and the registration.
pub(super) fn registered(block: &TokenStream, shared: &SharedImpl, args: &Args) -> TokenStream {
    let ty = &*shared.block.self_ty;
    let name = shared.name.as_ref().expect("the block was checked");
    let handle = match &args.handle {
        Some(handle) => handle.clone(),
        None => format_ident!("Shared{}", name),
    };
    let mp = match &args.krate {
        Some(path) => quote!(#path),
        None => quote!(::mp),
    };
    let handle_of = handle_type(&handle, name, &visibility(shared), &mp, ty);
    let functions = (0_u32..)
        .zip(&shared.functions)
        .map(|(number, function)| handle_function(number, function, name, ty, &mp));
    let registration = registration(shared, name, args, &mp);
    quote! {
        #block

        #handle_of

        impl #handle {
            #(#functions)*
        }

        #registration
    }
}

/// As visible as the first function that makes one.
fn visibility(shared: &SharedImpl) -> Visibility {
    let constructor = shared.functions.iter().find(|one| one.is_constructor());
    constructor.map_or(Visibility::Inherited, |one| one.vis.clone())
}

/// The handle's type, which can be cloned, sent and shown.
fn handle_type(
    handle: &Ident,
    name: &Ident,
    vis: &Visibility,
    mp: &TokenStream,
    ty: &Type,
) -> TokenStream {
    let docs = format!(
        "A handle of a [`{name}`] that lives in a manager. A clone is the same object, and so is \
         what arrives where the handle was sent."
    );
    let shown = handle.to_string();
    quote! {
        #[doc = #docs]
        #[derive(Clone)]
        #vis struct #handle(#mp::__private::Object);

        impl #mp::__private::Managed for #handle {
            fn state_type() -> ::core::any::TypeId {
                ::core::any::TypeId::of::<#ty>()
            }

            fn from_object(object: #mp::__private::Object) -> Self {
                Self(object)
            }

            fn object(&self) -> &#mp::__private::Object {
                &self.0
            }
        }

        impl ::core::fmt::Debug for #handle {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_tuple(#shown).field(&self.0).finish()
            }
        }

        impl #mp::__private::serde::Serialize for #handle {
            fn serialize<S: #mp::__private::serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::core::result::Result<S::Ok, S::Error> {
                #mp::__private::serde::Serialize::serialize(&self.0, serializer)
            }
        }

        impl<'de> #mp::__private::serde::Deserialize<'de> for #handle {
            fn deserialize<D: #mp::__private::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::core::result::Result<Self, D::Error> {
                #mp::__private::serde::Deserialize::deserialize(deserializer).map(Self)
            }
        }
    }
}

/// The function of the handle that has the manager run the one of that number.
fn handle_function(
    number: u32,
    function: &Function,
    type_name: &Ident,
    ty: &Type,
    mp: &TokenStream,
) -> TokenStream {
    let (vis, name) = (&function.vis, function.name());
    let labels: Vec<_> = function
        .arguments
        .iter()
        .map(|argument| identifier(&argument.label))
        .collect();
    let types = function.arguments.iter().map(|argument| &argument.ty);
    let inputs = quote!(#(#labels: #types),*);
    let docs = if function.docs.is_empty() {
        let text = format!("Calls [`{type_name}::{name}`] in the manager.");
        quote!(#[doc = #text])
    } else {
        let docs = &function.docs;
        quote!(#(#docs)*)
    };
    let errors = quote! {
        #[doc = ""]
        #[doc = "# Errors"]
        #[doc = ""]
        #[doc = "If it panics, an argument or the result cannot be sent, or the manager has ended."]
    };
    if function.is_constructor() {
        return quote! {
            #docs
            #errors
            #vis fn #name(manager: &#mp::Manager, #inputs) -> #mp::Result<Self> {
                #mp::__private::Object::create::<#ty, _>(manager, #number, &(#(#labels,)*))
                    .map(Self)
            }
        };
    }
    let result = function
        .result()
        .map_or_else(|| quote!(()), |result| quote!(#result));
    let full_name = format!("{type_name}::{name}");
    // Where the registration has it as well: a type that can't be sent is one error.
    let at = function.result().map_or_else(Span::mixed_site, at);
    let call = quote_spanned!(at=> #mp::__private::Object::call::<#result, _>);
    quote! {
        #docs
        #errors
        #vis fn #name(&self, #inputs) -> #mp::Result<#result> {
            #call(&self.0, #number, #full_name, &(#(#labels,)*))
        }
    }
}

/// A hidden function that holds the registration, as of a task.
fn registration(
    shared: &SharedImpl,
    type_name: &Ident,
    args: &Args,
    mp: &TokenStream,
) -> TokenStream {
    let ty = &*shared.block.self_ty;
    let hidden = format_ident!(
        "__mp_shared_{}",
        type_name,
        span = Span::mixed_site().located_at(type_name.span())
    );
    let name = match &args.name {
        Some(name) => quote!(#name),
        None => quote!(::core::any::type_name::<#ty>()),
    };
    let looks = shared.functions.iter().map(looks);
    let [state, function, call] =
        ["state", "function", "call"].map(|name| Ident::new(name, Span::mixed_site()));
    let arms = (0_u32..).zip(&shared.functions).map(|(number, one)| {
        let body = arm(one, ty, &state, &call);
        quote!(#number => { #body })
    });
    quote! {
        #[doc(hidden)]
        #[allow(deprecated, non_snake_case)]
        fn #hidden() {
            use #mp::__private as __mp;
            __mp::inventory::submit! {
                __mp::SharedType {
                    name: || #name,
                    type_id: || ::core::any::TypeId::of::<#ty>(),
                    place: __mp::Place::new(::core::file!(), ::core::line!(), ::core::column!()),
                    functions: &[#(#looks),*],
                    call: |#state, #function, #call| match #function {
                        #(#arms)*
                        _ => ::core::panic!("the type has no such function"),
                    },
                }
            }
        }
    }
}

/// What a function looks like, for another program to compare.
fn looks(function: &Function) -> String {
    let types = function.arguments.iter().map(|argument| &argument.ty);
    let output = &function.signature.output;
    format!("{}{}", function.name(), quote!((#(#types),*) #output))
}

/// Decodes the arguments, calls the function, and encodes the result, each under the span of its type.
fn arm(function: &Function, ty: &Type, state: &Ident, call: &Ident) -> TokenStream {
    let name = function.name();
    let locals: Vec<_> = function
        .arguments
        .iter()
        .enumerate()
        .map(|(place, argument)| Ident::new(&format!("a{place}"), at(&argument.ty)))
        .collect();
    let decode = function
        .arguments
        .iter()
        .zip(&locals)
        .map(|(argument, local)| {
            let (label, ty) = (&argument.label, &argument.ty);
            quote_spanned!(at(ty)=> let #local = __mp::Call::argument::<#ty>(#call, #label)?;)
        });
    let decode = quote!(#(#decode)*);
    if function.is_constructor() {
        let made = Ident::new("made", Span::mixed_site());
        return quote! {
            #decode
            __mp::shared_absent(#state);
            __mp::Call::start(#call);
            let #made: #ty = <#ty>::#name(#(#locals),*);
            *#state = ::core::option::Option::Some(::std::boxed::Box::new(#made));
            __mp::Call::finish::<()>(#call, ())
        };
    }
    let nothing = parse_quote!(());
    let result_ty = function.result().unwrap_or(&nothing);
    let result = Ident::new("result", at(result_ty));
    let finish = quote_spanned!(at(result_ty)=> __mp::Call::finish::<#result_ty>(#call, #result));
    quote! {
        #decode
        __mp::Call::start(#call);
        let #result = <#ty>::#name(__mp::shared_value::<#ty>(#state) #(, #locals)*);
        #finish
    }
}

/// The place of `ty` for errors, with names that are the expansion's own.
fn at(ty: &Type) -> Span {
    Span::mixed_site().located_at(ty.span())
}

/// The identifier of a label, which has lost its `r#`.
fn identifier(label: &str) -> Ident {
    match syn::parse_str(label) {
        Ok(plain) => plain,
        Err(_) => Ident::new_raw(label, Span::call_site()),
    }
}
