//! Any error, as data that can be sent: what a task returns that uses `?`.

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{MAX_CAUSES, causes, list_causes, write_causes};

/// Any error as data: its message and those of its causes.
///
/// Most errors can't be sent to another process. A task that returns `Result<_, AnyError>` can use
/// `?` on all of them. What arrives is the text; the error's type is gone, so there is no downcast.
///
/// It does not implement [`std::error::Error`] (or it could not be made from all who do), but it
/// becomes a `Box<dyn Error>` or an [`mp::Error`](crate::Error) by `?`.
///
/// ```
/// fn first_line(path: String) -> Result<String, mp::AnyError> {
///     let text = std::fs::read_to_string(path)?;
///     let line = text.lines().next().ok_or_else(|| mp::AnyError::new("the file is empty"))?;
///     Ok(line.to_owned())
/// }
///
/// let error = first_line("/does/not/exist".to_owned()).unwrap_err();
/// assert!(error.to_string().contains("No such file"));
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct AnyError(Link);

impl AnyError {
    /// Makes one of a text, of a boxed error, or of what turns into a boxed error, as `anyhow`'s
    /// does.
    pub fn new(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(Link::of(&*error.into()))
    }

    /// The messages: the error's, then its cause's, and so on.
    pub fn chain(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(&self.0), |link| link.source.as_deref())
            .map(|link| link.text.as_str())
    }

    pub(super) fn into_link(self) -> Link {
        self.0
    }
}

impl<E: StdError> From<E> for AnyError {
    fn from(error: E) -> Self {
        Self(Link::of(&error))
    }
}

impl From<AnyError> for Box<dyn StdError + Send + Sync> {
    fn from(error: AnyError) -> Self {
        Box::new(error.0)
    }
}

impl From<AnyError> for Box<dyn StdError> {
    fn from(error: AnyError) -> Self {
        Box::new(error.0)
    }
}

impl fmt::Display for AnyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        if f.alternate() {
            write_causes(f, self.0.source())?;
        }
        Ok(())
    }
}

impl fmt::Debug for AnyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A message and what caused it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub(super) struct Link {
    pub(super) text: String,
    pub(super) source: Option<Box<Link>>,
}

impl Link {
    fn of(error: &dyn StdError) -> Self {
        let texts: Vec<_> = causes(Some(error)).map(|cause| cause.to_string()).collect();
        texts.into()
    }
}

impl From<Vec<String>> for Link {
    fn from(mut texts: Vec<String>) -> Self {
        // Also what arrives is cut: a chain is dropped link by link, on the stack.
        texts.truncate(MAX_CAUSES);
        let mut link = Self {
            text: texts.pop().unwrap_or_default(),
            source: None,
        };
        while let Some(text) = texts.pop() {
            let source = Some(Box::new(link));
            link = Self { text, source };
        }
        link
    }
}

impl From<Link> for Vec<String> {
    fn from(link: Link) -> Self {
        std::iter::successors(Some(link), |link| link.source.as_deref().cloned())
            .map(|link| link.text)
            .collect()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        list_causes(f, self.source())
    }
}

impl StdError for Link {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sent;
    use super::*;
    use crate::error::Error;

    fn nested() -> AnyError {
        let inner = std::io::Error::from_raw_os_error(2);
        AnyError::from(Error::system("could not open \"a\"", inner))
    }

    #[test]
    fn question_mark_takes_any_error_and_gives_any_error() {
        fn parse(text: &str) -> Result<i32, AnyError> {
            Ok(text.parse()?)
        }
        fn boxed() -> Result<i32, Box<dyn StdError>> {
            Ok(parse("x")?)
        }
        fn boxed_to_send() -> Result<i32, Box<dyn StdError + Send + Sync>> {
            Ok(parse("x")?)
        }
        fn ours() -> crate::Result<i32> {
            Ok(parse("x")?)
        }
        let text = parse("x").unwrap_err().to_string();
        assert_eq!(text, "invalid digit found in string");
        assert_eq!(boxed().unwrap_err().to_string(), text);
        assert_eq!(boxed_to_send().unwrap_err().to_string(), text);
        assert_eq!(ours().unwrap_err().to_string(), text);
    }

    #[test]
    fn chain_survives_sending_and_conversion() {
        let error = sent(&nested());
        let chain: Vec<_> = error.chain().map(str::to_owned).collect();
        assert_eq!(chain.len(), 2);
        assert_eq!(format!("{error:#}"), chain.join(": "));
        assert!(format!("{error:?}").contains("caused by:\n    No such file"));
        let error = Error::from(error);
        assert_eq!(error.to_string(), chain[0]);
        assert_eq!(error.source().unwrap().to_string(), chain[1]);
    }

    #[test]
    fn text_makes_an_error() {
        assert_eq!(AnyError::new("no row").to_string(), "no row");
        assert_eq!(
            AnyError::new(format!("no row {}", 3)).to_string(),
            "no row 3"
        );
    }

    #[test]
    fn endless_chain_is_cut() {
        let link = Link::from(vec!["x".to_owned(); 1_000_000]);
        assert_eq!(AnyError(link).chain().count(), MAX_CAUSES);
    }
}
