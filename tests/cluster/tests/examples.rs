//! The examples of pools, with workers that are other processes behind a server.

extern crate mp as mp_cluster;

#[path = "../../../mp-cluster/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::Server;

/// Runs a program and returns what it printed.
fn run(program: &str, arguments: &[&str], cluster: Option<&str>) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("MP_CLUSTER");
    if let Some(url) = cluster {
        command.env("MP_CLUSTER", url).env("MP_CLUSTER_WAIT", "2");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    output
}

/// Two processes that serve, each with a worker; they end with the test.
fn agents(server: &Server, program: &str, arguments: &[&str]) -> [support::Agent; 2] {
    [(), ()].map(|()| {
        support::Agent::of_program(Path::new(program), &server.url(), |command| {
            command.args(arguments).stderr(Stdio::null());
        })
    })
}

/// The picture that a program draws into `directory`.
fn picture(program: &str, directory: &Path, cluster: Option<&str>) -> Vec<u8> {
    let path = directory.join("picture.png");
    let text = path.to_str().unwrap();
    let arguments = [text, "--width", "90", "--height", "60", "--workers", "1"];
    run(program, &arguments, cluster);
    std::fs::read(&path).unwrap()
}

#[test]
fn mandelbrot_draws_the_same_picture() {
    let Some(server) = Server::start() else {
        return;
    };
    let program = env!("CARGO_BIN_EXE_mandelbrot");
    let directory = tempfile::tempdir().unwrap();
    let here = picture(program, directory.path(), None);
    let unused = directory.path().join("unused.png");
    let unused = [unused.to_str().unwrap(), "--workers", "1"];
    let _agents = agents(&server, program, &unused);
    let there = picture(program, directory.path(), Some(&server.url()));
    assert!(here == there);
}

#[test]
fn program_without_a_server_says_so() {
    let program = env!("CARGO_BIN_EXE_word_count");
    let url = format!("nats://127.0.0.1:{}", support::free_port());
    let mut command = Command::new(program);
    let output = command.env("MP_CLUSTER", &url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("there is no server at"), "{said}");
}

#[test]
fn word_count_counts_the_same_words() {
    let Some(server) = Server::start() else {
        return;
    };
    let program = env!("CARGO_BIN_EXE_word_count");
    let texts = tempfile::tempdir().unwrap();
    for number in 0..200 {
        let text = format!("one two three {number}\n").repeat(100);
        std::fs::write(texts.path().join(number.to_string()), text).unwrap();
    }
    let directory = texts.path().to_str().unwrap();
    let _agents = agents(&server, program, &[directory, "--workers", "1"]);
    let arguments = [directory, "--workers", "1", "--check"];
    let counted = run(program, &arguments, Some(&server.url()));
    let counted = String::from_utf8(counted.stdout).unwrap();
    assert!(
        counted.contains("203 different words in 200 files"),
        "{counted}"
    );
}
