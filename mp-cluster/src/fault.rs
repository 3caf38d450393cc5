//! Named points at which a test can have a process killed, as those of `mp-runtime`: see its `fault.rs`.
//!
//! Without the feature `faults` the points do not exist.

/// Dies here if the test asks for it.
macro_rules! fault {
    ($name:literal) => {
        #[cfg(feature = "faults")]
        mp::__private::reached($name);
    };
}
pub(crate) use fault;
