//! What the cluster takes, beside its peers on the same machine: `cargo bench -p mp-cluster`, or with
//! `-- --quick` a run that shows that everything works, and whose figures mean nothing.
//!
//! Two agents of one worker each stand for two machines, behind a server that writes to this
//! machine's disk what it has to. Peers are mpi4py.futures and RQ, with two workers as well, where
//! Python, an MPI and Redis are there (`PYTHON` names another interpreter); each answer is checked.

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "bare/engine.rs"]
mod engine;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mp::{Connect, Pool};
use mp_cluster as mp;
use support::{Agent, Marks, Server, length, square};

/// Spins for so many microseconds.
#[mp::task]
fn spin(micros: u64) -> u64 {
    let until = Instant::now() + Duration::from_micros(micros);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    micros
}

/// Waits for ever where it is begun first, and is through at once where it is begun again.
#[mp::task(retries = 1)]
fn second_time(marks: String) -> u32 {
    let tries = std::fs::read_dir(&marks).unwrap().count() as u32;
    let mark = format!("0.{}", std::process::id());
    std::fs::write(Path::new(&marks).join(mark), "").unwrap();
    match tries {
        0 => loop {
            std::thread::park();
        },
        tries => tries,
    }
}

/// How much of everything.
struct Size {
    singles: u64,
    items: u64,
    spins: u64,
    trips: usize,
    bulk: usize,
    deaths: usize,
}

const FULL: Size = Size {
    singles: 100_000,
    items: 10_000_000,
    spins: 400_000,
    trips: 3000,
    bulk: 1 << 30,
    deaths: 5,
};
const QUICK: Size = Size {
    singles: 2000,
    items: 50_000,
    spins: 2000,
    trips: 100,
    bulk: 32 << 20,
    deaths: 1,
};
/// Bytes of an argument of the bulk.
const PIECE: usize = 16 << 20;

fn main() {
    if std::env::var("MP_ROLE").is_ok_and(|role| role == "worker") {
        let pool = Pool::new(1);
        panic!("an agent does not come back: {pool:?}");
    }
    let size = match std::env::args().any(|it| it == "--quick") {
        true => QUICK,
        false => FULL,
    };
    let Some(mut server) = Server::start() else {
        return;
    };
    println!(
        "| | {} |",
        ["mp-cluster", "mpi4py.futures", "RQ"].join(" | ")
    );
    println!("|---|---|---|---|");
    let agents = [agent(&server), agent(&server)];
    let ours = throughput(&server, &size);
    drop(agents);
    let bare = engine::rate(&server.url(), size.singles);
    let mpi = python(
        &[
            "mpiexec",
            "--allow-run-as-root",
            "--oversubscribe",
            "-n",
            "3",
        ],
        "mpi_futures.py",
        &size,
    );
    let rq = python(&[], "rq_queue.py", &size);
    for (place, (what, value)) in ours.iter().enumerate() {
        let of = |them: &Vec<String>| them.get(place).cloned().unwrap_or_else(|| "-".to_owned());
        println!("| {what} | {value} | {} | {} |", of(&mpi), of(&rq));
    }
    println!(
        "| the server's limit: a message, its result and its acknowledgement, of no work | {} | | |",
        rate(bare)
    );
    println!();
    println!(
        "| time to the result, the median and the longest of {} | |",
        size.deaths
    );
    println!("|---|---|");
    for (what, times) in deaths(&mut server, &size) {
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!("| {what} | {median:.2?}, {longest:.2?} |");
    }
}

fn agent(server: &Server) -> Agent {
    let program = std::env::current_exe().unwrap();
    Agent::of_program(&program, &server.url(), |_| {})
}

fn pool_of_chunks(server: &Server, chunk: Option<u64>) -> Pool {
    let mut connection = server.connection();
    connection.wait_for_workers(2, Duration::from_secs(60));
    let mut builder = Pool::builder();
    if let Some(chunk) = chunk {
        builder.chunk_size(chunk);
    }
    builder.connect(connection).unwrap()
}

/// Each figure with what it is of, in the order in which the peers give theirs.
fn throughput(server: &Server, size: &Size) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |what: &str, value: String| rows.push((what.to_owned(), value));
    let check = |count: u64, squares: Vec<u64>| {
        assert!(squares.into_iter().eq((0..count).map(|x| x * x)));
    };
    let per_second = |count: u64, time: Duration| count as f64 / time.as_secs_f64();

    let pool = pool_of_chunks(server, Some(1));
    check(100, pool.map(square, 0..100).unwrap());
    let (squares, time) = timed(|| pool.map(square, 0..size.singles).unwrap());
    check(size.singles, squares);
    row("tasks one by one", rate(per_second(size.singles, time)));
    let before = server.last_message();
    let (squares, time) = timed(|| {
        let jobs: Vec<_> = (0..size.singles)
            .map(|x| pool.submit(square, (x,)).unwrap())
            .collect();
        let squares = jobs.into_iter().map(|job| job.wait().unwrap());
        squares.collect::<Vec<_>>()
    });
    check(size.singles, squares);
    let messages = server.last_message() - before;
    let submitted = format!(
        "{}, {:.0} in a message",
        rate(per_second(size.singles, time)),
        size.singles as f64 / messages as f64
    );
    drop(pool);

    let pool = pool_of_chunks(server, None);
    check(1000, pool.map(square, 0..1000).unwrap());
    let before = server.last_message();
    let (squares, time) = timed(|| pool.map(square, 0..size.items).unwrap());
    check(size.items, squares);
    let chunks = server.last_message() - before;
    row(
        "tasks in chunks: as the pool finds them, 1000 each",
        format!(
            "{}, of {} items",
            rate(per_second(size.items, time)),
            size.items / chunks
        ),
    );

    let mut trips: Vec<_> = (0..size.trips as u64)
        .map(|x| {
            let (square, time) = timed(|| pool.apply(square, (x,)).unwrap());
            assert_eq!(square, x * x);
            time
        })
        .collect();
    trips.sort_unstable();
    let (median, late) = (trips[trips.len() / 2], trips[trips.len() * 99 / 100]);
    row(
        "round trip, the median and the 99th of 100",
        format!("{median:.0?}, {late:.0?}"),
    );

    let pieces: Vec<_> = (0..size.bulk / PIECE)
        .map(|piece| vec![piece as u8; PIECE])
        .collect();
    let (lengths, time) = timed(|| pool.map_ref(length, &pieces).unwrap());
    assert!(lengths.into_iter().all(|length| length == PIECE));
    row(
        &format!("{} MiB of arguments", size.bulk >> 20),
        format!("{:.1} s", time.as_secs_f64()),
    );

    row("calls of `submit`, all at once", submitted);

    for micros in [10, 100, 1000] {
        let count = size.spins / micros * 10;
        let before = server.last_message();
        let spun = pool.map(spin, std::iter::repeat_n(micros, count as usize));
        assert_eq!(spun.unwrap().len() as u64, count);
        let chunks = server.last_message() - before;
        row(
            &format!("work in a chunk, of items of {micros} µs"),
            format!("{:.1} ms", (count * micros) as f64 / chunks as f64 / 1e3),
        );
    }
    rows
}

/// The time from a death to the result that it delayed.
fn deaths(server: &mut Server, size: &Size) -> Vec<(&'static str, Vec<Duration>)> {
    let mut all = Vec::new();
    let mut times = |what, mut once: Box<dyn FnMut(&mut Server) -> Duration + '_>| {
        let mut times: Vec<_> = (0..size.deaths).map(|_| once(server)).collect();
        times.sort_unstable();
        all.push((what, times));
    };
    let kill = |pid: i32| {
        // SAFETY: a system call; the process is a worker of ours.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    };

    times(
        "after a worker's death",
        Box::new(move |server| {
            let _agents = [agent(server), agent(server)];
            let pool = pool_of_chunks(server, None);
            let marks = Marks::new();
            let job = pool.submit(second_time, (marks.path(),)).unwrap();
            let worker = marks.await_begun(0);
            let began = Instant::now();
            kill(worker);
            assert_eq!(job.wait().unwrap(), 1);
            began.elapsed()
        }),
    );
    times(
        "after an agent's death",
        Box::new(|server| {
            let mut first = agent(server);
            let pool = server.pool(1);
            let marks = Marks::new();
            let job = pool.submit(second_time, (marks.path(),)).unwrap();
            marks.await_begun(0);
            let _second = agent(server);
            server.pool(2);
            let began = Instant::now();
            first.kill();
            assert_eq!(job.wait().unwrap(), 1);
            began.elapsed()
        }),
    );
    times(
        "after the server's death, which is started again at once",
        Box::new(|server| {
            let _agent = agent(server);
            let pool = server.pool(1);
            let marks = Marks::new();
            let job = pool.submit(support::wait_for, (marks.path(), 0)).unwrap();
            marks.await_begun(0);
            let began = Instant::now();
            server.kill();
            marks.go();
            server.restart();
            assert_eq!(job.wait().unwrap(), 0);
            began.elapsed()
        }),
    );
    all
}

/// The figures of a Python program: it prints one a line. None, and why, where something is missing.
fn python(before: &[&str], script: &str, size: &Size) -> Vec<String> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/python");
    let python = std::env::var_os("PYTHON").map_or("/usr/bin/python3".into(), PathBuf::from);
    let mut command = match before {
        [program, arguments @ ..] => {
            let mut command = mp::command(program);
            command.args(arguments).arg(&python);
            command
        }
        [] => mp::command(&python),
    };
    command
        .arg(scripts.join(script))
        .args([
            size.singles.min(20_000).to_string(),
            size.items.min(1_000_000).to_string(),
        ])
        .args([
            size.trips.to_string(),
            size.bulk.to_string(),
            PIECE.to_string(),
        ])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let lines = run(command);
    match lines {
        Ok(lines) => lines,
        Err(why) => {
            eprintln!("{script} is left out: {why}");
            Vec::new()
        }
    }
}

fn run(mut command: Command) -> Result<Vec<String>, String> {
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let lines = child.stdout.take().map(|stdout| {
        let lines = BufReader::new(stdout).lines();
        lines.map_while(Result::ok).collect()
    });
    let status = child.wait().map_err(|error| error.to_string())?;
    match status.success() {
        true => Ok(lines.unwrap_or_default()),
        false => Err(format!("it ended with {status}")),
    }
}

fn timed<R>(run: impl FnOnce() -> R) -> (R, Duration) {
    let began = Instant::now();
    let result = run();
    (result, began.elapsed())
}

fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 1e6 => format!("{:.2} M/s", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.0} k/s", rate / 1e3),
        rate => format!("{rate:.0} /s"),
    }
}
