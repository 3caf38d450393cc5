//! Short jobs that share a message: each is a job of its own all the same.

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use mp::{Connect, Job, Pool};
use mp_cluster as mp;
use serde::{Deserialize, Serialize};
use support::{Agent, Marks, Server, eventually, mark, square, watchdog};

/// Jobs of a test, and the one of them that is not as the others.
const JOBS: u64 = 200;
const ODD: u64 = JOBS / 2;

/// What a job does.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Deed {
    Nothing,
    Abort,
    KillAgent,
    /// For the file `go`.
    Wait,
}

/// Notes that it has begun, and does something.
#[mp::task]
fn act(marks: String, x: u64, deed: Deed) -> u64 {
    note(&marks, x);
    if !matches!(deed, Deed::Nothing) {
        mark(&marks, x);
    }
    match deed {
        Deed::Nothing => {}
        Deed::Abort => std::process::abort(),
        Deed::KillAgent => {
            // SAFETY: a system call; the agent is of this test's.
            unsafe { libc::kill(std::os::unix::process::parent_id() as i32, libc::SIGKILL) };
            loop {
                std::thread::park();
            }
        }
        Deed::Wait => {
            while !Path::new(&marks).join("go").exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    x
}

/// Writes a number where [`begun`] finds it, in less time than a file for each would take.
fn note(marks: &str, x: u64) {
    static NOTES: Mutex<Option<(String, File)>> = Mutex::new(None);
    let mut notes = NOTES.lock().unwrap();
    if notes.as_ref().is_none_or(|(of, _)| of != marks) {
        let name = format!("notes-{}", std::process::id());
        let mut options = File::options();
        let file = options.create(true).append(true);
        let file = file.open(Path::new(marks).join(name)).unwrap();
        *notes = Some((marks.to_owned(), file));
    }
    let (_, file) = notes.as_mut().unwrap();
    file.write_all(&x.to_le_bytes()).unwrap();
}

/// How often each job has begun.
fn begun(marks: &Marks) -> HashMap<u64, usize> {
    let mut begun = HashMap::new();
    for file in std::fs::read_dir(marks.path()).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_string_lossy().starts_with("notes-") {
            let notes = std::fs::read(file.path()).unwrap();
            for x in notes.as_chunks().0 {
                *begun.entry(u64::from_le_bytes(*x)).or_default() += 1;
            }
        }
    }
    begun
}

fn pool(server: &Server, workers: usize) -> Pool {
    let mut connection = server.connection();
    connection.wait_for_workers(workers, Duration::from_secs(60));
    let pool = Pool::builder().connect(connection).unwrap();
    // Now it is known to be short.
    let marks = Marks::new();
    for x in 0..50 {
        pool.apply(act, (marks.path(), x, Deed::Nothing)).unwrap();
    }
    pool
}

/// Submits jobs, the odd ones of which do something else, and waits until these have begun.
fn submit(
    submit: impl Fn((String, u64, Deed)) -> mp::Result<Job<u64>>,
    marks: &Marks,
    odd: &[u64],
    deed: Deed,
) -> Vec<Job<u64>> {
    let deed_of = |x| match odd.contains(&x) {
        true => deed,
        false => Deed::Nothing,
    };
    let jobs: Vec<_> = (0..JOBS)
        .map(|x| submit((marks.path(), x, deed_of(x))).unwrap())
        .collect();
    eventually("the odd ones begin", || {
        odd.iter().all(|x| !marks.begun(*x).is_empty())
    });
    jobs
}

/// Waits until all jobs but these are done.
fn await_others(jobs: &[Job<u64>], odd: &[u64]) {
    eventually("the others are done", || {
        let mut jobs = (0..).zip(jobs);
        jobs.all(|(x, job)| job.is_done() || odd.contains(&x))
    });
}

/// Each other job has its result, and was run once.
fn check_others(jobs: Vec<Job<u64>>, marks: &Marks) -> mp::Result<u64> {
    let mut odd = None;
    let mut others = Vec::new();
    for (x, job) in (0..).zip(jobs) {
        match x {
            ODD => odd = Some(job),
            _ => {
                assert_eq!(job.wait().unwrap(), x);
                others.push(x);
            }
        }
    }
    let begun = begun(marks);
    assert!(others.iter().all(|x| begun[x] == 1), "{begun:?}");
    odd.unwrap().wait()
}

#[test]
fn short_jobs_that_wait_together_share_messages() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let pool = pool(&server, 2);
    // They are only as short as this machine is quick.
    eventually("they share messages", || {
        let before = server.last_message();
        let jobs: Vec<_> = (0..JOBS)
            .map(|x| pool.submit(square, (x,)).unwrap())
            .collect();
        for (x, job) in (0..).zip(jobs) {
            assert_eq!(job.wait().unwrap(), x * x);
        }
        server.last_message() - before < JOBS / 2
    });
}

#[test]
fn killed_worker_costs_one_of_the_jobs() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(2)];
    let pool = pool(&server, 3);
    let marks = Marks::new();
    let jobs = submit(|it| pool.submit(act, it), &marks, &[ODD], Deed::Abort);
    let error = check_others(jobs, &marks).unwrap_err();
    let task = error.task().unwrap();
    assert_eq!(task.signal(), Some(libc::SIGABRT), "{error}");
    assert_eq!(begun(&marks)[&ODD], 1);
}

#[test]
fn deadline_is_of_one_of_the_jobs() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = pool(&server, 1);
    let pool = pool.with_timeout(Duration::from_secs(2));
    let marks = Marks::new();
    let jobs = submit(|it| pool.submit(act, it), &marks, &[ODD], Deed::Wait);
    let error = check_others(jobs, &marks).unwrap_err();
    assert!(error.task().unwrap().is_timeout(), "{error}");
}

#[test]
fn one_of_the_jobs_is_cancelled_while_it_runs() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(1);
    let pool = pool(&server, 1);
    let marks = Marks::new();
    let jobs = submit(|it| pool.submit(act, it), &marks, &[ODD], Deed::Wait);
    jobs[ODD as usize].cancel();
    let error = check_others(jobs, &marks).unwrap_err();
    assert!(error.task().unwrap().is_cancelled(), "{error}");
}

#[test]
fn jobs_that_are_cancelled_while_they_wait_with_others_are_not_begun() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let agent = server.agent(1);
    let pool = pool(&server, 1);
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.join(), Some(0));
    let marks = Marks::new();
    let jobs: Vec<_> = (0..JOBS)
        .map(|x| pool.submit(act, (marks.path(), x, Deed::Nothing)).unwrap())
        .collect();
    eventually("some wait", || server.tasks() > 0);
    for job in jobs.iter().step_by(2) {
        job.cancel();
    }
    eventually("they are told", || jobs.iter().step_by(2).all(Job::is_done));
    // It was not there when they were cancelled.
    let _agent = server.agent(1);
    for (x, job) in (0..).zip(jobs) {
        match x % 2 {
            0 => assert!(job.wait().unwrap_err().task().unwrap().is_cancelled()),
            _ => assert_eq!(job.wait().unwrap(), x),
        }
    }
    let begun = begun(&marks);
    assert!(begun.iter().all(|(x, times)| x % 2 == 1 && *times == 1));
    assert_eq!(begun.len() as u64, JOBS / 2);
}

#[test]
fn long_job_does_not_hold_up_the_short_ones_beside_it() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let _agents = [server.agent(1), server.agent(1)];
    let pool = pool(&server, 2);
    let marks = Marks::new();
    let jobs = submit(|it| pool.submit(act, it), &marks, &[ODD], Deed::Wait);
    await_others(&jobs, &[ODD]);
    marks.go();
    assert_eq!(check_others(jobs, &marks).unwrap(), ODD);
}

#[test]
fn jobs_of_a_submitter_that_is_far_away_are_run_where_they_came() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let _agent = server.agent(2);
    // Its agent waits longer for its answers than jobs wait there for workers.
    let proxy = server.slow_proxy(Duration::from_millis(120));
    let mut connection = mp::Connection::new(proxy.url());
    connection.wait_for_workers(2, Duration::from_secs(60));
    let pool = Pool::builder().connect(connection).unwrap();
    for x in 0..3 {
        assert_eq!(pool.apply(square, (x,)).unwrap(), x * x);
    }
    // Few: each message takes half a second.
    let count = 30;
    let before = server.last_message();
    let jobs: Vec<_> = (0..count)
        .map(|x| pool.submit(square, (x,)).unwrap())
        .collect();
    for (x, job) in (0..).zip(jobs) {
        assert_eq!(job.wait().unwrap(), x * x);
    }
    let sent = server.last_message() - before;
    assert!(sent <= count, "{sent} messages of {count} jobs");
}

#[test]
fn what_a_killed_agent_has_told_is_not_run_again() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let mut first = server.agent(2);
    let pool = pool(&server, 2);
    let marks = Marks::new();
    // Both of its workers are at one of them.
    let odd = [ODD, ODD + 1];
    let jobs = submit(|it| pool.submit(act, it), &marks, &odd, Deed::Wait);
    let told: Vec<_> = jobs.iter().map(Job::is_done).collect();
    first.kill();
    let _second = server.agent(3);
    await_others(&jobs, &odd);
    marks.go();
    for (x, job) in (0..).zip(jobs) {
        assert_eq!(job.wait().unwrap(), x);
    }
    let begun = begun(&marks);
    for (x, was_told) in (0..).zip(told) {
        let most = if was_told { 1 } else { 2 };
        assert!((1..=most).contains(&begun[&x]), "{x}");
    }
}

#[test]
fn job_that_kills_its_agents_takes_no_other_with_it() {
    let _watchdog = watchdog(240);
    let Some(server) = Server::start() else {
        return;
    };
    let mut agents: Vec<_> = (0..4).map(|_| server.agent(1)).collect();
    let pool = pool(&server, 4);
    let marks = Marks::new();
    let jobs = submit(|it| pool.submit(act, it), &marks, &[ODD], Deed::KillAgent);
    for (x, job) in (0..).zip(jobs) {
        match job.wait() {
            Ok(result) => assert_eq!((result, x == ODD), (x, false)),
            Err(error) => {
                assert!(error.task().unwrap().is_crash(), "{error}");
                assert!(error.to_string().contains("3 agents"), "{error}");
                assert_eq!(x, ODD);
            }
        }
    }
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9, "one is left");
    let lost = agents.iter_mut().filter_map(Agent::has_ended).count();
    assert_eq!(lost, 3);
}
