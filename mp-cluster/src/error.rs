//! What goes wrong between this process and the server, in words.

use std::error::Error as StdError;

use mp::__private::{cluster_error, timed_out as timed_out_error};
use mp::Error;

/// An error of the cluster.
pub(crate) fn cluster(text: impl Into<String>) -> Error {
    cluster_error(text)
}

/// The time given is over.
pub(crate) fn timed_out(text: impl Into<String>) -> Error {
    timed_out_error(text)
}

/// An error of the client's, with its causes.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
