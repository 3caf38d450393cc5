//! Starting a process that does nothing, and waiting for its end.

use std::ffi::OsStr;
use std::process::{Command, ExitStatus};

use anyhow::ensure;
use mp::{Process, StartMethod};

use crate::bare::{Copy, End, ForkServer};
use crate::race::{Race, Results, Sample, Target, Unit};
use crate::report::thousands;
use crate::{Plan, proc_fs, procs};

/// The argument with which this program ends at once.
const NO_OP: &str = "--no-op-for-comparison";

/// What it ends with then: nothing else ends with it.
pub(crate) const NO_OP_EXIT_CODE: u8 = 42;

/// The argument with which it ends once its standard input does.
pub(crate) const IDLE: &str = "--idle-for-comparison";

/// Whether this program was started to do nothing; if it was to be idle, it has been.
pub(crate) fn is_no_op() -> bool {
    let argument = std::env::args_os().nth(1);
    if argument.as_deref() == Some(OsStr::new(IDLE)) {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        return true;
    }
    argument.as_deref() == Some(OsStr::new(NO_OP))
}

/// Does nothing but prove that it ran.
#[mp::task]
fn no_op(token: u64) -> u64 {
    !token
}

/// The parent has touched little memory.
pub(crate) fn small_parent(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new("start and join a process", Unit::Microseconds);
    enter_programs(&mut race, plan, StartMethod::Spawn)?;
    race.target(Target::Ratio(1.1));
    let count = plan.count(20, 2);
    race.enter("procspawn", move || {
        let (sample, right) = Sample::of(count, || {
            (0..count)
                .map(|token| Ok(procs::start_and_join(token)? == !token))
                .collect::<anyhow::Result<Vec<_>>>()
        });
        ensure!(
            right?.iter().all(|&is_right| is_right),
            "a process gave a wrong result"
        );
        Ok(sample)
    });
    if let Some(python) = &plan.python {
        for (method, number) in [("forked", 0), ("by the fork server", 1), ("spawned", 2)] {
            let mut peer = python.start("process", &[number])?;
            let count = plan.count(5, 1);
            race.enter(format!("Python Process, {method}"), move || {
                peer.measure(count)
            });
        }
    }
    Ok(vec![race.run(plan)?])
}

/// Children are copies of a process that was executed once.
pub(crate) fn by_fork_server(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut race = Race::new(
        "start and join a process by the fork server",
        Unit::Microseconds,
    );
    enter_programs(&mut race, plan, StartMethod::ForkServer)?;
    race.target(Target::Ratio(0.3));
    let count = plan.count(20, 2);
    let mut server = ForkServer::start()?;
    let bare = |end, faults| Copy { end, faults };
    let least = faults_of_one(count, || {
        wait_for_each(count, || {
            server.fork_and_wait(NO_OP_EXIT_CODE, bare(End::AsPrograms, 0))
        })
    })?;
    let own = faults_of_one(count, || start_and_join(count, StartMethod::ForkServer))?;
    for (name, copy, is_limit) in [
        (
            "a bare fork, asked for by a socket",
            bare(End::Now, 0),
            false,
        ),
        (
            "the same, which ends as a program does",
            bare(End::AsPrograms, 0),
            true,
        ),
        (
            "the same, with as many page faults as mp Process",
            bare(End::AsPrograms, own.saturating_sub(least)),
            false,
        ),
    ] {
        let mut server = ForkServer::start()?;
        race.enter(name, move || {
            wait_for_each(count, || server.fork_and_wait(NO_OP_EXIT_CODE, copy))
        });
        if is_limit {
            race.limit();
        }
    }
    if let Some(python) = &plan.python {
        let mut peer = python.start("process", &[1])?;
        let count = plan.count(5, 1);
        race.enter("Python Process, by the fork server", move || {
            peer.measure(count)
        });
    }
    Ok(vec![race.run(plan)?])
}

/// How many page faults one of `count` children takes, which `run` starts and whose ends it waits for.
fn faults_of_one(count: u64, run: impl FnOnce() -> anyhow::Result<Sample>) -> anyhow::Result<u16> {
    let before = proc_fs::faults_of_children()?;
    run()?;
    let faults = proc_fs::faults_of_children()? - before;
    Ok(u16::try_from(faults / count)?)
}

/// The parent has touched so much that copying its page tables would show.
pub(crate) fn large_parent(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let size = plan.count(4 << 30, 1 << 24);
    if let Some(available) = proc_fs::available()?.filter(|&bytes| bytes < size + size / 2) {
        eprintln!(
            "a large parent is left out: {} MiB of memory are available",
            available >> 20
        );
        return Ok(Vec::new());
    }
    let ballast = vec![1_u8; size as usize];
    let title = format!(
        "the same, with {} MiB touched",
        thousands(ballast.len() as u64 >> 20)
    );
    let mut race = Race::new(title, Unit::Microseconds);
    enter_programs(&mut race, plan, StartMethod::Spawn)?;
    race.target(Target::Ratio(1.1));
    let results = race.run(plan)?;
    drop(std::hint::black_box(ballast));
    Ok(vec![results])
}

fn enter_programs(race: &mut Race<'_>, plan: &Plan, method: StartMethod) -> anyhow::Result<()> {
    let count = plan.count(20, 2);
    race.enter("mp Process", move || start_and_join(count, method));
    let program = std::env::current_exe()?;
    race.enter("posix_spawn, waitpid", move || {
        let mut command = Command::new(&program);
        command.arg(NO_OP);
        spawn_and_wait(count, command)
    });
    Ok(())
}

fn start_and_join(count: u64, method: StartMethod) -> anyhow::Result<Sample> {
    let (sample, right) = Sample::of(count, || {
        (0..count)
            .map(|token| {
                let process = Process::new(no_op, (token,)).start_method(method);
                Ok(process.start()?.join()? == !token)
            })
            .collect::<anyhow::Result<Vec<_>>>()
    });
    ensure!(
        right?.iter().all(|&is_right| is_right),
        "a process gave a wrong result"
    );
    Ok(sample)
}

/// The standard library uses posix_spawn where nothing but the arguments is special.
fn spawn_and_wait(count: u64, mut command: Command) -> anyhow::Result<Sample> {
    wait_for_each(count, || command.status())
}

/// Runs so many processes that do nothing, one after the other.
fn wait_for_each(
    count: u64,
    mut run: impl FnMut() -> std::io::Result<ExitStatus>,
) -> anyhow::Result<Sample> {
    let (sample, statuses) = Sample::of(count, || {
        (0..count).map(|_| run()).collect::<Result<Vec<_>, _>>()
    });
    let expected = Some(i32::from(NO_OP_EXIT_CODE));
    ensure!(
        statuses?.iter().all(|status| status.code() == expected),
        "a process failed"
    );
    Ok(sample)
}
