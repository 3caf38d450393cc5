//! Pools whose workers reach nothing of the system but what is named. Where the kernel has no Landlock
//! the tests say so and are skipped.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use mp::{Pool, Queue, Sandbox, TaskError};
use support::watchdog;

type AnyResult = Result<(), Box<dyn std::error::Error>>;

/// A pool of one worker in that sandbox; `None`, with the reason printed, if the kernel has none.
fn pool(sandbox: &Sandbox) -> Option<Pool> {
    match Pool::builder().workers(1).sandbox(sandbox).build() {
        Ok(pool) => Some(pool),
        Err(error) if error.is_unsupported() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

/// What came of it: the text, or the kind of the error.
fn told(result: std::io::Result<String>) -> Result<String, String> {
    result.map_err(|error| format!("{:?}", error.kind()))
}

fn denied() -> Result<String, String> {
    Err(format!("{:?}", ErrorKind::PermissionDenied))
}

#[mp::task]
fn read(path: PathBuf) -> Result<String, String> {
    told(fs::read_to_string(path))
}

#[mp::task]
fn write(path: PathBuf) -> Result<String, String> {
    told(fs::write(path, "written").map(|()| String::new()))
}

#[mp::task]
fn remove(path: PathBuf) -> Result<String, String> {
    told(fs::remove_file(path).map(|()| String::new()))
}

#[mp::task]
fn list(path: PathBuf) -> Result<String, String> {
    told(fs::read_dir(path).map(|entries| entries.count().to_string()))
}

#[mp::task]
fn execute(path: PathBuf) -> Result<String, String> {
    told(Command::new(path).output().map(|_| String::new()))
}

#[test]
fn files_are_those_of_the_named_directories() -> AnyResult {
    let _watchdog = watchdog(120);
    let all = tempfile::tempdir()?;
    let at = |path: &str| all.path().join(path);
    for dir in ["open", "work", "secret"] {
        fs::create_dir(at(dir))?;
        fs::write(at(dir).join("text"), dir)?;
    }
    fs::write(at("single"), "one")?;
    std::os::unix::fs::symlink(at("secret/text"), at("open/link"))?;
    let mut sandbox = Sandbox::new();
    sandbox
        .read_only(at("open"))
        .read_only(at("single"))
        .read_write(at("work"));
    let Some(pool) = pool(&sandbox) else {
        return Ok(());
    };

    assert_eq!(pool.apply(read, (at("open/text"),))?, Ok("open".to_owned()));
    assert_eq!(pool.apply(read, (at("single"),))?, Ok("one".to_owned()));
    assert_eq!(pool.apply(list, (at("open"),))?, Ok("2".to_owned()));
    assert_eq!(pool.apply(write, (at("open/text"),))?, denied());
    assert_eq!(pool.apply(write, (at("open/new"),))?, denied());
    assert_eq!(pool.apply(remove, (at("open/text"),))?, denied());
    assert_eq!(pool.apply(write, (at("single"),))?, denied());

    assert_eq!(pool.apply(write, (at("work/new"),))?, Ok(String::new()));
    assert_eq!(
        pool.apply(read, (at("work/new"),))?,
        Ok("written".to_owned())
    );
    assert_eq!(pool.apply(remove, (at("work/text"),))?, Ok(String::new()));
    assert_eq!(fs::read_to_string(at("work/new"))?, "written");

    // By whatever name.
    for secret in ["secret/text", "open/link", "open/../secret/text"] {
        assert_eq!(pool.apply(read, (at(secret),))?, denied(), "{secret}");
        assert_eq!(pool.apply(write, (at(secret),))?, denied(), "{secret}");
    }
    assert_eq!(fs::read_to_string(at("secret/text"))?, "secret");
    let parent = PathBuf::from(format!("/proc/{}/environ", std::process::id()));
    for path in [
        parent,
        PathBuf::from("/etc/passwd"),
        PathBuf::from("/proc/self/mem"),
    ] {
        assert_eq!(pool.apply(read, (path.clone(),))?, denied(), "{path:?}");
    }
    assert_eq!(pool.apply(list, (all.path().to_owned(),))?, denied());
    assert_eq!(pool.apply(execute, ("/bin/sh".into(),))?, denied());
    Ok(())
}

#[mp::task]
fn connect(port: u16) -> Vec<Result<String, String>> {
    let socket = std::env::temp_dir().join("mp-test-socket");
    vec![
        told(TcpStream::connect(("127.0.0.1", port)).map(|_| String::new())),
        told(TcpListener::bind(("127.0.0.1", 0)).map(|_| String::new())),
        told(UdpSocket::bind(("127.0.0.1", 0)).map(|_| String::new())),
        told(UnixListener::bind(socket).map(|_| String::new())),
    ]
}

#[test]
fn there_is_no_network() -> AnyResult {
    let _watchdog = watchdog(120);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let Some(pool) = pool(&Sandbox::new()) else {
        return Ok(());
    };
    let outcomes = pool.apply(connect, (listener.local_addr()?.port(),))?;
    assert_eq!(outcomes, vec![denied(); 4]);
    Ok(())
}

/// Whether calls on processes are refused: on this one, then on another.
#[mp::task]
fn meddle(other: i32) -> Vec<bool> {
    let own = std::process::id() as i32;
    let is_refused = |result: libc::c_long| {
        let error = std::io::Error::last_os_error().raw_os_error();
        result == -1 && error == Some(libc::EPERM)
    };
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: signal 0 is none; the others are refused, or do nothing to memory of this process.
    unsafe {
        vec![
            is_refused(libc::kill(own, 0).into()),
            is_refused(libc::kill(other, 0).into()),
            is_refused(libc::kill(-1, 0).into()),
            is_refused(libc::syscall(libc::SYS_tgkill, other, other, 0)),
            is_refused(libc::ptrace(libc::PTRACE_ATTACH, other, null, null)),
            is_refused(libc::syscall(
                libc::SYS_prlimit64,
                other,
                libc::RLIMIT_CORE,
                null,
                null,
            )),
            is_refused(libc::unshare(libc::CLONE_NEWUSER).into()),
            is_refused(libc::syscall(libc::SYS_io_uring_setup, 1, null)),
            libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1,
        ]
    }
}

#[test]
fn other_processes_are_out_of_reach() -> AnyResult {
    let _watchdog = watchdog(120);
    let Some(pool) = pool(&Sandbox::new()) else {
        return Ok(());
    };
    let mut expected = vec![true; 9];
    expected[0] = false;
    assert_eq!(pool.apply(meddle, (std::process::id() as i32,))?, expected);
    Ok(())
}

#[mp::task]
fn square(x: u64) -> u64 {
    std::thread::spawn(move || x * x).join().unwrap()
}

#[mp::task]
fn suffer(how: String) {
    match how.as_str() {
        "panic" => panic!("as told"),
        "memory" => drop(std::hint::black_box(vec![1_u8; 1 << 30])),
        _ => std::process::abort(),
    }
}

#[test]
fn work_goes_on_and_failures_have_their_causes() -> AnyResult {
    let _watchdog = watchdog(120);
    if pool(&Sandbox::new()).is_none() {
        return Ok(());
    }
    let pool = Pool::builder()
        .workers(2)
        .sandbox(&Sandbox::new())
        .memory_limit(256 << 20)
        .build()?;
    let squares: Vec<u64> = (0..100).map(|x| x * x).collect();
    assert_eq!(pool.map(square, 0..100)?, squares);
    let outcomes = pool.try_map(suffer, ["panic", "memory", "abort"].map(str::to_owned))?;
    let failures: Vec<TaskError> = outcomes.into_iter().map(Result::unwrap_err).collect();
    assert_eq!(failures[0].message(), Some("as told"));
    assert!(failures[1].is_out_of_memory(), "{}", failures[1]);
    assert_eq!(failures[2].signal(), Some(libc::SIGABRT), "{}", failures[2]);
    assert_eq!(pool.map(square, 0..100)?, squares);
    Ok(())
}

#[mp::task]
fn take(_queue: Queue<u8>) {}

#[mp::task]
fn read_first(path: PathBuf) {
    assert!(fs::read(path).is_err(), "it could be read");
}

#[test]
fn it_holds_for_the_initializer_and_shares_no_memory() -> AnyResult {
    let _watchdog = watchdog(120);
    if pool(&Sandbox::new()).is_none() {
        return Ok(());
    }
    let pool = Pool::builder()
        .workers(1)
        .sandbox(&Sandbox::new())
        .isolated(false)
        .initializer(read_first, (PathBuf::from("/etc/passwd"),))
        .build()?;
    assert_eq!(pool.apply(square, (3,))?, 9);
    let error = pool.apply(take, (Queue::new()?,)).unwrap_err();
    assert!(error.to_string().contains("isolated worker"), "{error:#}");
    Ok(())
}

#[test]
fn directory_that_does_not_exist_is_named() -> AnyResult {
    let _watchdog = watchdog(120);
    let mut sandbox = Sandbox::new();
    sandbox.read_only("/no/such/directory");
    let Some(pool) = pool(&sandbox) else {
        return Ok(());
    };
    let error = pool.apply(square, (3,)).unwrap_err();
    assert!(
        error.to_string().contains("/no/such/directory"),
        "{error:#}"
    );
    Ok(())
}
