//! The annotated `impl` block as the other files see it.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, Pat, Receiver, ReturnType,
    Signature, Type, Visibility,
};

/// An `impl` block whose functions can be called from other processes.
pub(super) struct SharedImpl {
    pub(super) block: ItemImpl,
    /// The type without its path; `None` if it has none.
    pub(super) name: Option<Ident>,
    /// The functions in order; a function's place is its number.
    pub(super) functions: Vec<Function>,
}

/// One function of the block.
pub(super) struct Function {
    pub(super) docs: Vec<Attribute>,
    /// A condition on the function alone.
    pub(super) cfg: Option<Attribute>,
    pub(super) vis: Visibility,
    pub(super) signature: Signature,
    /// `self` in one of its forms; a constructor has none.
    pub(super) receiver: Option<Receiver>,
    /// The arguments in order, without `self`.
    pub(super) arguments: Vec<Argument>,
}

/// One argument of a function.
pub(super) struct Argument {
    /// Its name, or `a2` for a pattern in second place.
    pub(super) label: String,
    pub(super) ty: Type,
}

impl Function {
    pub(super) fn name(&self) -> &Ident {
        &self.signature.ident
    }

    pub(super) fn is_constructor(&self) -> bool {
        self.receiver.is_none()
    }

    /// The type that follows `->`.
    pub(super) fn result(&self) -> Option<&Type> {
        match &self.signature.output {
            ReturnType::Default => None,
            ReturnType::Type(_, ty) => Some(ty),
        }
    }

    /// Whether it returns a value of the block's type.
    pub(super) fn returns_self(&self, of: &Type) -> bool {
        let written = |ty: &Type| ty.to_token_stream().to_string();
        self.result()
            .is_some_and(|ty| written(ty) == "Self" || written(ty) == written(of))
    }
}

/// Reads the item under the attribute; anything but an `impl` block is an error.
pub(super) fn parse(tokens: TokenStream, errors: &mut Vec<Error>) -> Option<SharedImpl> {
    let block: ItemImpl = match syn::parse2(tokens) {
        Ok(block) => block,
        Err(error) => {
            errors.push(Error::new(
                error.span(),
                "`#[mp::shared]` goes above an `impl` block: write one, `impl Counter { fn new() \
                 -> Self { … } fn incr(&mut self, by: u64) -> u64 { … } }`",
            ));
            return None;
        }
    };
    let name = match &*block.self_ty {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.clone()),
        _ => None,
    };
    let functions = block
        .items
        .iter()
        .filter_map(|item| match item {
            ImplItem::Fn(function) => Some(read(function)),
            _ => None,
        })
        .collect();
    Some(SharedImpl {
        block,
        name,
        functions,
    })
}

fn read(function: &ImplItemFn) -> Function {
    let attributes = |name: &'static str| {
        let named = move |attribute: &&Attribute| attribute.path().is_ident(name);
        function.attrs.iter().filter(named).cloned()
    };
    let mut receiver = None;
    let mut arguments = Vec::new();
    for input in &function.sig.inputs {
        match input {
            FnArg::Receiver(this) => receiver = Some(this.clone()),
            FnArg::Typed(argument) => arguments.push(Argument {
                label: match &*argument.pat {
                    Pat::Ident(pattern) => pattern.ident.unraw().to_string(),
                    _ => format!("a{}", arguments.len() + 1),
                },
                ty: (*argument.ty).clone(),
            }),
        }
    }
    Function {
        docs: attributes("doc").collect(),
        cfg: attributes("cfg").next(),
        vis: function.vis.clone(),
        signature: function.sig.clone(),
        receiver,
        arguments,
    }
}
