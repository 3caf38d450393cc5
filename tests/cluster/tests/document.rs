//! `docs/cluster.md`, followed to the letter: what it says of three machines is done on three network
//! namespaces, each with an address, a directory and a shell of its own.

extern crate mp as mp_cluster;

#[path = "../../../mp-cluster/tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use support::network::Island;
use support::{server_program, watchdog};

/// The machines, as the document's blocks name them, in the order of their addresses.
const MACHINES: [&str; 3] = ["server", "workers", "yours"];

/// The blocks that begin with "```sh" and the name of a machine: that name, and the lines.
fn blocks(document: &str) -> Vec<(&str, &str)> {
    let mut blocks = Vec::new();
    for begun in document.split("\n```sh ").skip(1) {
        let (machine, rest) = begun.split_once('\n').unwrap();
        let (lines, _) = rest.split_once("\n```\n").unwrap();
        blocks.push((machine, lines));
    }
    blocks
}

/// A shell on a machine.
struct Shell {
    process: Child,
    lines: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Shell {
    fn start(island: &Island, machine: usize, directory: &Path, path: &str) -> Self {
        let mut process = island
            .command(machine, Path::new("bash"))
            .args(["-e", "-u", "-o", "pipefail"])
            .current_dir(directory)
            .env("PATH", path)
            .env("HOME", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = process.stdin.take().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let mut shell = Self {
            process,
            lines,
            said,
        };
        shell.run("exec 2>&1");
        shell
    }

    /// Does what some lines say, and returns what they print. The first that fails ends the test.
    fn run(&mut self, lines: &str) -> String {
        const END: &str = "that was all of it";
        writeln!(self.lines, "{lines}\necho; echo {END}").unwrap();
        let mut printed = String::new();
        loop {
            let begin = printed.len();
            let read = self.said.read_line(&mut printed).unwrap();
            assert!(read > 0, "the shell ended at:\n{lines}\nafter:\n{printed}");
            if printed[begin..].trim_end() == END {
                printed.truncate(begin);
                return printed;
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A directory with a program `scp`, which copies into the directories of the machines.
fn scp(home: &Path) -> PathBuf {
    let programs = home.join("programs");
    fs::create_dir(&programs).unwrap();
    let machines: String = (1..)
        .zip(MACHINES)
        .map(|(number, name)| format!("10.0.0.{number}:) to={}/{name} ;;\n", home.display()))
        .collect();
    let script = format!(
        "#!/bin/bash\n\
         case ${{@: -1}} in\n{machines}\
         *) echo \"scp: ${{@: -1}} is no machine\" >&2; exit 1 ;;\n\
         esac\n\
         exec cp \"${{@:1:$#-1}}\" \"$to/\"\n"
    );
    let file = programs.join("scp");
    fs::write(&file, script).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    programs
}

#[test]
fn cluster_of_three_machines_works_as_it_is_written() {
    let _watchdog = watchdog(300);
    let Some(server) = server_program() else {
        return;
    };
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: there is no openssl here, with which the document makes a certificate");
        return;
    }
    let Some(island) = Island::new(MACHINES.len()) else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let mut path = std::env::var("PATH").unwrap();
    for programs in [&*scp(home.path()), server.parent().unwrap()] {
        path = format!("{}:{path}", programs.display());
    }
    let directories = MACHINES.map(|name| home.path().join(name));
    for directory in &directories {
        fs::create_dir(directory).unwrap();
    }
    let [.., yours] = &directories;
    fs::copy(env!("CARGO_BIN_EXE_mandelbrot"), yours.join("mandelbrot")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_word_count"), yours.join("word_count")).unwrap();
    fs::create_dir(yours.join("texts")).unwrap();
    for number in 0..50 {
        let text = format!("one two three {number}\n").repeat(100);
        fs::write(yours.join(format!("texts/{number}")), text).unwrap();
    }
    let mut number = 0;
    let mut shells = directories.each_ref().map(|directory| {
        number += 1;
        Shell::start(&island, number, directory, &path)
    });

    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cluster.md");
    let document = fs::read_to_string(document).unwrap();
    let mut printed = String::new();
    let mut done = 0;
    for (machine, lines) in blocks(&document) {
        let at = MACHINES.iter().position(|name| *name == machine);
        let at = at.unwrap_or_else(|| panic!("{machine:?} is no machine"));
        printed += &shells[at].run(lines);
        done += 1;
    }
    assert!(done >= 5, "the document has {done} blocks");
    assert!(
        printed.contains("53 different words in 50 files"),
        "{printed}"
    );
    // What is in it is compared in `examples.rs`.
    let drawn = fs::read(yours.join("picture.png")).unwrap();
    assert!(drawn.starts_with(b"\x89PNG"));
}
