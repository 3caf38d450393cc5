//! The options of the attribute: `name = "…"`, `timeout = "30s"`, `retries = 2`, `crate = path`.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{Error, Ident, LitInt, LitStr, Path, Result, Token};

/// What stands between the parentheses of `#[mp::task(…)]`.
#[derive(Default)]
pub(crate) struct Args {
    /// The name to register instead of the function's path.
    pub(crate) name: Option<LitStr>,
    /// How long a call may run, in nanoseconds.
    pub(crate) timeout: Option<u64>,
    /// How often a failed call is repeated.
    pub(crate) retries: Option<u32>,
    /// Where `mp` is, if not at `::mp`.
    pub(crate) krate: Option<Path>,
}

/// The options that exist, as they are listed for a user who asked for another.
const KNOWN: &str =
    r#"known options: `name = "…"`, `timeout = "30s"`, `retries = 2`, `crate = path`"#;

/// Reads the options of `#[mp::task]`.
pub(crate) fn parse(tokens: TokenStream, errors: &mut Vec<Error>) -> Args {
    parse_with(tokens, KNOWN, errors, Args::option)
}

/// Reads options, the value of each by `option`, and goes on after a wrong one so that all mistakes
/// are reported at once. `known` lists those that there are.
pub(crate) fn parse_with<A: Default>(
    tokens: TokenStream,
    known: &str,
    errors: &mut Vec<Error>,
    mut option: impl FnMut(&mut A, &Ident, ParseStream<'_>) -> Result<bool>,
) -> A {
    // Reads one `option = value`, up to the comma.
    let mut read = |args: &mut A, input: ParseStream<'_>| {
        // `crate` is a keyword, so that an ordinary identifier would not match it.
        let name = input
            .call(Ident::parse_any)
            .map_err(|error| Error::new(error.span(), format!("expected an option; {known}")))?;
        match option(args, &name, input)? {
            true => Ok(()),
            false => Err(Error::new(
                name.span(),
                format!("unknown option `{name}`; {known}"),
            )),
        }
    };
    let parser = |input: ParseStream<'_>| {
        let mut args = A::default();
        while !input.is_empty() {
            if let Err(error) = read(&mut args, input) {
                errors.push(error);
                skip_to_comma(input)?;
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(args)
    };
    parser.parse2(tokens).unwrap_or_else(|error| {
        errors.push(error);
        A::default()
    })
}

impl Args {
    /// Reads the value of `option`; false if there is no such option.
    fn option(&mut self, option: &Ident, input: ParseStream<'_>) -> Result<bool> {
        match option.to_string().as_str() {
            "name" => {
                let empty = "a task needs a name: leave the option out to use the function's path";
                let name = name(input, option, r#""etl.clean""#, empty)?;
                set(&mut self.name, option, name)?;
            }
            "timeout" => {
                let text: LitStr = value(input, option, r#""30s""#)?;
                let nanos = nanoseconds(&text.value())
                    .map_err(|message| Error::new(text.span(), message))?;
                set(&mut self.timeout, option, nanos)?;
            }
            "retries" => {
                let number: LitInt = value(input, option, "2")?;
                let times = number
                    .base10_parse()
                    .map_err(|_| expected(number.span(), option, "2"))?;
                set(&mut self.retries, option, times)?;
            }
            "crate" => set(&mut self.krate, option, krate(input, option)?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Stores the value of an option that has none yet.
pub(crate) fn set<T>(place: &mut Option<T>, option: &Ident, value: T) -> Result<()> {
    if place.replace(value).is_some() {
        return Err(Error::new(
            option.span(),
            format!("`{option}` is given twice"),
        ));
    }
    Ok(())
}

/// Reads `= value`; a value of the wrong type is answered with `example`.
pub(crate) fn value<T: Parse>(input: ParseStream<'_>, option: &Ident, example: &str) -> Result<T> {
    let equals = input.parse::<Option<Token![=]>>()?;
    if equals.is_none() || input.is_empty() {
        return Err(expected(option.span(), option, example));
    }
    let start = input.span();
    match input.parse() {
        Ok(value) if input.is_empty() || input.peek(Token![,]) => Ok(value),
        _ => Err(expected(start, option, example)),
    }
}

/// Reads the value of `name`; one with nothing in it is answered with `empty`.
pub(crate) fn name(
    input: ParseStream<'_>,
    option: &Ident,
    example: &str,
    empty: &str,
) -> Result<LitStr> {
    let name: LitStr = value(input, option, example)?;
    match name.value().trim().is_empty() {
        true => Err(Error::new(name.span(), empty)),
        false => Ok(name),
    }
}

/// Reads the value of `crate`.
pub(crate) fn krate(input: ParseStream<'_>, option: &Ident) -> Result<Path> {
    Ok(value::<ModPath>(input, option, "path::to::mp")?.0)
}

/// The error for an option that is there, but not as it should be written.
fn expected(span: Span, option: &Ident, example: &str) -> Error {
    Error::new(span, format!("expected `{option} = {example}`"))
}

/// A path as in `use`: without generic arguments, possibly `crate` or `::mp`.
struct ModPath(Path);

impl Parse for ModPath {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        input.call(Path::parse_mod_style).map(ModPath)
    }
}

/// Drops what is left of an option that was not understood.
fn skip_to_comma(input: ParseStream<'_>) -> Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    Ok(())
}

/// The length of `text`, a whole number and a unit, in nanoseconds.
fn nanoseconds(text: &str) -> std::result::Result<u64, String> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let in_unit: u64 = match unit {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        _ => 0,
    };
    if number.is_empty() || in_unit == 0 {
        return Err(format!(
            r#"`{text}` is not a duration: expected a whole number and a unit, as in "250ms", "30s", "5m", "1h""#
        ));
    }
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(in_unit))
    {
        Some(0) => Err(
            "no call ends in no time: leave the option out for calls without a limit".to_owned(),
        ),
        Some(nanos) => Ok(nanos),
        None => Err(format!(
            "`{text}` is too long: leave the option out for calls without a limit"
        )),
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn messages(tokens: TokenStream) -> Vec<String> {
        let mut errors = Vec::new();
        parse(tokens, &mut errors);
        errors.iter().map(Error::to_string).collect()
    }

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("1ms", 1_000_000),
            ("250ms", 250_000_000),
            ("30s", 30_000_000_000),
            ("5m", 300_000_000_000),
            ("1h", 3_600_000_000_000),
        ] {
            assert_eq!(nanoseconds(text), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_durations() {
        for text in [
            "",
            "s",
            "30",
            "30 s",
            " 30s",
            "30S",
            "-30s",
            "+30s",
            "1.5s",
            "30sec",
            "0s",
            "99999999999999999999s",
            "9999999999h",
        ] {
            assert!(nanoseconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_option_is_read() {
        let mut errors = Vec::new();
        let args = parse(
            quote!(
                name = "etl.clean",
                timeout = "30s",
                retries = 2,
                crate = ::other::mp,
            ),
            &mut errors,
        );
        assert!(errors.is_empty());
        assert_eq!(args.name.unwrap().value(), "etl.clean");
        assert_eq!(args.timeout, Some(30_000_000_000));
        assert_eq!(args.retries, Some(2));
        let krate = args.krate.unwrap();
        assert!(krate.leading_colon.is_some() && krate.segments.len() == 2);
    }

    #[test]
    fn no_option_is_needed() {
        assert!(messages(quote!()).is_empty());
    }

    #[test]
    fn unknown_options_list_the_known_ones() {
        let messages = messages(quote!(retry = 3));
        assert_eq!(messages, [format!("unknown option `retry`; {KNOWN}")]);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_answered_with_an_example() {
        for (tokens, message) in [
            (quote!(name = clean), r#"expected `name = "etl.clean"`"#),
            (quote!(name("clean")), r#"expected `name = "etl.clean"`"#),
            (quote!(name), r#"expected `name = "etl.clean"`"#),
            (quote!(timeout = 30), r#"expected `timeout = "30s"`"#),
            (quote!(retries = "2"), "expected `retries = 2`"),
            (quote!(retries = 2 + 1), "expected `retries = 2`"),
            (quote!(retries = -1), "expected `retries = 2`"),
            (quote!(retries = 99999999999), "expected `retries = 2`"),
            (quote!(retries =), "expected `retries = 2`"),
            (quote!(crate = "mp"), "expected `crate = path::to::mp`"),
        ] {
            assert_eq!(messages(tokens), [message]);
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let messages = messages(quote!(
            nane = "x",
            name = " ",
            retries = 1,
            retries = 2,
            timeout = "soon"
        ));
        assert_eq!(messages.len(), 4, "{messages:?}");
        assert_eq!(messages[2], "`retries` is given twice");
    }
}
