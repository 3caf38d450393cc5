//! What it costs to build a program of ten lines with `mp` from nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::Plan;
use crate::race::{Race, Results, Sample, Target, Unit};

const MAIN: &str = "\
#[mp::task]
fn square(x: u64) -> u64 {
    x * x
}

fn main() -> mp::Result<()> {
    assert_eq!(mp::Pool::new(2)?.map(square, 0..4)?, [0, 1, 4, 9]);
    Ok(())
}
";

/// Seconds of a release build and the crates in it. With `--quick` crates alone are counted.
pub(crate) fn hello_world(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    let manifest = format!(
        "[package]\nname = \"hello\"\nedition = \"2024\"\n\n[dependencies]\nmp-runtime = {{ path = {:?} }}\n",
        here.join("../mp-runtime").canonicalize()?
    );
    fs::create_dir(root.join("src"))?;
    fs::write(root.join("Cargo.toml"), manifest)?;
    fs::write(root.join("src/main.rs"), MAIN)?;
    // The versions that this program was built with, so that nothing needs to be fetched.
    fs::copy(here.join("Cargo.lock"), root.join("Cargo.lock"))?;

    let mut crates = Race::new("crates in a hello world with mp", Unit::Count);
    crates.enter("mp, without features", || {
        Ok(Sample::figure(count_crates(root)? as f64))
    });
    crates.target(Target::AtMost(25.0));
    let mut results = vec![crates.run_rounds(1)?];
    if !plan.is_quick {
        let mut seconds = Race::new("its release build, from nothing", Unit::Seconds);
        seconds.enter("mp, without features", || {
            let _ = fs::remove_dir_all(root.join("target"));
            let (sample, built) = Sample::of(1, || cargo(root, &["build", "--release", "--quiet"]));
            built?;
            let status = Command::new(root.join("target/release/hello")).status()?;
            ensure!(status.success(), "the hello world failed");
            Ok(sample)
        });
        results.push(seconds.run_rounds(1)?);
    }
    Ok(results)
}

/// The program's own is not counted.
fn count_crates(root: &Path) -> anyhow::Result<usize> {
    let arguments = [
        "tree",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let list = cargo(root, &arguments)?;
    let names: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|&name| name != "hello")
        .collect();
    Ok(names.len())
}

fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .arg("--offline")
        .current_dir(root)
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null())
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "cargo failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}
