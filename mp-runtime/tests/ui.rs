//! What a user reads who makes a mistake with tasks: one file a mistake, beside it the compiler's answer.
//!
//! The answers are those of the Rust version in `rust-toolchain.toml`. After a wanted change,
//! `TRYBUILD=overwrite cargo test -p mp-runtime --test ui` writes them anew.
#![cfg(not(any(loom, miri)))]

#[test]
fn mistakes_are_explained() {
    let cases = trybuild::TestCases::new();
    // With a case that passes, trybuild builds instead of checking, and only a build evaluates the
    // assertions on what is passed as a task.
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/*.rs");
}
