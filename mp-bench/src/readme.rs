//! Puts what a run found where it is read: the whole table into this package's README.md, and the
//! comparison that the project's README.md has.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::report::{Report, number};

/// A row of the comparison.
struct Row {
    /// What it is called there.
    label: &'static str,
    /// The subject, by its title, and the entrant whose figure is shown.
    title: &'static str,
    entrant: &'static str,
    /// What is said behind that figure.
    per: &'static str,
    /// The others of the subject: how each is called there, and how its name begins.
    others: &'static [(&'static str, &'static str)],
}

const ROWS: &[Row] = &[
    Row {
        label: "start and join a process",
        title: "start and join a process",
        entrant: "mp Process",
        per: "",
        others: &[
            (
                "`posix_spawn` and `waitpid` of the same program",
                "posix_spawn",
            ),
            ("procspawn", "procspawn"),
            ("Python, forked", "Python Process, forked"),
        ],
    },
    Row {
        label: "the same, by the fork server",
        title: "start and join a process by the fork server",
        entrant: "mp Process",
        per: "",
        others: &[
            ("`posix_spawn` and `waitpid`", "posix_spawn"),
            (
                "a bare fork, asked for by a socket, which ends as a program does,",
                "the same, which ends",
            ),
            ("Python's fork server", "Python Process"),
        ],
    },
    Row {
        label: "map of 1,000,000 `u64` to `x·x+1`, two workers",
        title: "map of 1,000,000 items to x·x+1, an item",
        entrant: "mp Pool",
        per: " an item",
        others: &[
            (
                "arrays in shared memory, by two bare processes,",
                "shared arrays",
            ),
            ("two rayon threads", "rayon"),
            ("procspawn in chunks by hand", "procspawn"),
            ("Python's Pool", "Python Pool"),
        ],
    },
    Row {
        label: "the same, 100,000 items in chunks of one",
        title: "the same, 100,000 items in chunks of 1",
        entrant: "mp Pool",
        per: " an item",
        others: &[
            ("a crossbeam-channel between threads", "crossbeam"),
            ("procspawn", "procspawn"),
            ("Python's Pool", "Python Pool"),
        ],
    },
    Row {
        label: "map of 1,000,000 `(String, u64)` to `String`",
        title: "map of 1,000,000 (String, u64) to String, an item",
        entrant: "mp Pool",
        per: " an item",
        others: &[("Python's Pool", "Python Pool")],
    },
    Row {
        label: "a call of a warm worker, on one CPU",
        title: "round trip to a busy worker, p50, both on one CPU",
        entrant: "mp Pool::apply",
        per: "",
        others: &[
            ("a futex, there and back,", "a futex"),
            ("a thread, by crossbeam-channel,", "a thread"),
        ],
    },
    Row {
        label: "the same, on two CPUs",
        title: "round trip to a busy worker, p50, on two CPUs",
        entrant: "mp Pool::apply",
        per: "",
        others: &[
            ("two that do nothing but look at one line", "two who look"),
            ("a futex, there and back,", "a futex"),
            ("a thread, by crossbeam-channel,", "a thread"),
        ],
    },
    Row {
        label: "the same, wherever the scheduler likes",
        title: "round trip to a busy worker, p50",
        entrant: "mp Pool::apply",
        per: "",
        others: &[
            ("a futex, there and back,", "a futex"),
            ("a thread, by crossbeam-channel,", "a thread"),
            ("procspawn", "procspawn"),
            ("Python's Pool", "Python Pool"),
        ],
    },
    Row {
        label: "a call of a worker that sleeps, wherever the scheduler likes",
        title: "round trip to a sleeping worker, p50",
        entrant: "mp Pool::apply",
        per: "",
        others: &[
            ("a futex, there and back,", "a futex"),
            ("a thread, by crossbeam-channel,", "a thread"),
            ("procspawn", "procspawn"),
        ],
    },
    Row {
        label: "queue of 8-byte items, one producer, one consumer",
        title: "queue of 8-byte items, 1 producer, 1 consumer",
        entrant: "mp Queue",
        per: "",
        others: &[
            ("a crossbeam-channel between threads", "crossbeam"),
            ("ipc-channel", "ipc-channel"),
            ("Python's Queue", "Python Queue"),
        ],
    },
    Row {
        label: "the same, in batches of 64",
        title: "queue of 8-byte items, 1 producer, 1 consumer",
        entrant: "mp Queue, put_many of 64",
        per: "",
        others: &[],
    },
    Row {
        label: "the same, two producers, two consumers, one by one",
        title: "queue of 8-byte items, 2 producers, 2 consumers",
        entrant: "mp Queue",
        per: "",
        others: &[
            ("a crossbeam-channel between threads", "crossbeam"),
            ("Python's Queue", "Python Queue"),
        ],
    },
    Row {
        label: "queue of items of 64 KiB",
        title: "queue of 64 KiB items, 1 producer, 1 consumer",
        entrant: "mp Queue",
        per: "",
        others: &[
            ("a bare ring of two processes", "a bare ring"),
            (
                "a crossbeam-channel, which hands the memory over,",
                "crossbeam",
            ),
            ("ipc-channel", "ipc-channel"),
            ("Python's Queue", "Python Queue"),
        ],
    },
    Row {
        label: "a lock that nobody else wants",
        title: "acquire and release a free lock",
        entrant: "mp Lock",
        per: "",
        others: &[
            (
                "a bare compare-and-set, and one back,",
                "a bare compare-and-set",
            ),
            ("a robust mutex of pthreads", "a robust mutex"),
            ("std's Mutex, in one process,", "std Mutex"),
            ("Python's Lock", "Python Lock"),
        ],
    },
    Row {
        label: "a lock that two processes want all the time",
        title: "lock that two want all the time",
        entrant: "mp Lock, 2 processes",
        per: "",
        others: &[
            ("a robust mutex of pthreads, two threads,", "a robust mutex"),
            ("std's Mutex, two threads,", "std Mutex"),
            ("Python's Lock", "Python Lock"),
        ],
    },
    Row {
        label: "`Bytes` of 16 MiB to a worker and back",
        title: "16 MiB to a worker and back",
        entrant: "mp Bytes",
        per: "",
        others: &[
            ("`Bytes` of 8 bytes", "mp Bytes of 8 bytes"),
            ("Python's bytes", "Python bytes"),
        ],
    },
    Row {
        label: "64 `Vec<u8>` of 16 MiB to a worker and back",
        title: "map of 64 × 16 MiB, there and back",
        entrant: "mp Pool",
        per: "",
        others: &[
            ("two rayon threads that copy once", "rayon"),
            ("procspawn", "procspawn"),
            ("Python's Pool", "Python Pool"),
        ],
    },
];

/// Replaces the figures in the checkout that this program was built from.
pub(crate) fn update(report: &Report) -> anyhow::Result<()> {
    if let Some(doubts) = report.doubts() {
        bail!("the READMEs keep their figures: {doubts}");
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Before a file is changed: the run may not have had all of it.
    let comparison = comparison(report)?;
    replace(&package.join("README.md"), "run", &report.to_markdown())?;
    let project = package.parent().context("the package has no parent")?;
    replace(
        &project.join("README.md"),
        "figures of mp-bench",
        &comparison,
    )
}

fn comparison(report: &Report) -> anyhow::Result<String> {
    let mut text = String::from(
        "Medians of one run of [mp-bench](mp-bench/README.md) on a machine with two CPUs. There are the method, the \
         spread, the ratios, and which targets are met:\n\n| | mp | others |\n| --- | --- | --- |\n",
    );
    for row in ROWS {
        let subject = report.subjects.iter().find(|it| it.title == row.title);
        let subject = subject.with_context(|| format!("the run has no subject {:?}", row.title))?;
        let figure = |name: &dyn Fn(&str) -> bool| {
            let entrant = subject.entrants.iter().find(|it| name(&it.name))?;
            let median = number(subject.median(entrant));
            Some(format!("{median} {}", subject.unit.name()))
        };
        let Some(own) = figure(&|name| name == row.entrant) else {
            bail!("{:?} has no entrant {:?}", row.title, row.entrant);
        };
        let others = row.others.iter().filter_map(|(label, beginning)| {
            let Some(figure) = figure(&|name| name.starts_with(beginning)) else {
                eprintln!("{label} is left out of {:?}: it did not run", row.label);
                return None;
            };
            Some(format!("{label} {figure}"))
        });
        let others = others.collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "| {} | {own}{} | {others} |\n",
            row.label, row.per
        ));
    }
    Ok(text)
}

/// Puts `text` between the marks of that name.
fn replace(path: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let old =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let new = between_marks(&old, name, text).with_context(|| format!("{}", path.display()))?;
    std::fs::write(path, new).with_context(|| format!("cannot write {}", path.display()))
}

fn between_marks(old: &str, name: &str, text: &str) -> anyhow::Result<String> {
    let (begin, end) = (
        format!("<!-- {name}: begin -->"),
        format!("<!-- {name}: end -->"),
    );
    let (before, rest) = old.split_once(&begin).context("no mark where it begins")?;
    let (_, after) = rest.split_once(&end).context("no mark where it ends")?;
    ensure!(!after.contains(&begin), "two marks where it begins");
    Ok(format!(
        "{before}{begin}\n{}\n{end}{after}",
        text.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_marks_is_replaced_and_nothing_else() {
        let old = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n";
        let new = between_marks(old, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n");
        assert!(between_marks(old, "y", "new").is_err());
        assert!(between_marks(&old.repeat(2), "x", "new").is_err());
    }
}
