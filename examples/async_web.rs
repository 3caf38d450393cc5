//! An HTTP service in tokio that hands what costs time to a pool:
//! `cargo run --release --example async_web -- [--listen 127.0.0.1:8080] [--workers N]`
//!
//! Its one thread only waits: a call of the pool is a future. A worker that crashes or is killed costs
//! the request that it was at, which is answered with the cause; others notice nothing. Without
//! `--listen` it sends itself requests, kills a worker in the middle of one, checks the answers and
//! ends.

use std::error::Error;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Parser;
use mp::{AnyError, Pool, Queue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An HTTP service that hands what costs time to a pool.
#[derive(Parser)]
struct Options {
    /// Where to listen: `GET /primes/N`, `/stuck`, `/ping`. It checks itself unless given.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Worker processes; with one, a request that is stuck would hold up the others.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..))]
    workers: u16,
}

/// How many primes there are below a number.
#[mp::task]
fn count_primes(below: usize) -> usize {
    let mut is_prime = vec![true; below];
    for n in 2..below {
        if is_prime[n] {
            (n * n..below)
                .step_by(n)
                .for_each(|multiple| is_prime[multiple] = false);
        }
    }
    is_prime
        .iter()
        .skip(2)
        .filter(|&&is_prime| is_prime)
        .count()
}

/// Says who it is, and comes to no end: what a fault in a library may do.
#[mp::task]
fn get_stuck(stuck: Queue<u32>) -> Result<(), AnyError> {
    stuck.put(std::process::id())?;
    loop {
        std::thread::park();
    }
}

/// What the handlers share.
struct Service {
    pool: Pool,
    /// The workers that are stuck.
    stuck: Queue<u32>,
}

/// A call that failed, as it is answered.
struct Failed(mp::Error);

impl From<mp::Error> for Failed {
    fn from(error: mp::Error) -> Self {
        Self(error)
    }
}

impl From<mp::TaskError> for Failed {
    fn from(error: mp::TaskError) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}\n", self.0)).into_response()
    }
}

async fn primes(
    State(service): State<Arc<Service>>,
    Path(below): Path<u32>,
) -> Result<String, Failed> {
    let count = service
        .pool
        .submit(count_primes, (below as usize,))?
        .await?;
    Ok(format!("{count}\n"))
}

async fn stuck(State(service): State<Arc<Service>>) -> Result<(), Failed> {
    let outcome = service.pool.submit(get_stuck, (service.stuck.clone(),))?;
    outcome.await?.map_err(|error| Failed(error.into()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let service = Arc::new(Service {
        pool: Pool::new(options.workers.into())?,
        stuck: Queue::new()?,
    });
    let router = Router::new()
        .route("/ping", get(async || "pong\n"))
        .route("/primes/{below}", get(primes))
        .route("/stuck", get(stuck))
        .with_state(service.clone());
    let address = options.listen.unwrap_or(([127, 0, 0, 1], 0).into());
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let server = axum::serve(listener, router);
    if options.listen.is_some() {
        println!("listening on http://{address}/");
        return Ok(server.await?);
    }
    tokio::select! {
        ended = server => Err(format!("the service ended: {ended:?}").into()),
        checked = tokio::time::timeout(Duration::from_secs(120), check(address, service)) => checked?,
    }
}

/// Sends requests and looks at the answers.
async fn check(address: SocketAddr, service: Arc<Service>) -> Result<(), Box<dyn Error>> {
    assert_eq!(
        request(address, "/primes/100000").await?,
        (200, "9592\n".into())
    );
    println!("a worker counts primes");

    let stuck = tokio::spawn(request(address, "/stuck"));
    let who = service.stuck.clone();
    // This waits by blocking its thread, so not here.
    let pid = tokio::task::spawn_blocking(move || who.get()).await??;
    println!("a worker is stuck");
    assert_eq!(request(address, "/ping").await?, (200, "pong\n".into()));
    assert_eq!(
        request(address, "/primes/1000").await?,
        (200, "168\n".into())
    );
    println!("others are answered");

    let killed = Command::new("sh")
        .args(["-c", &format!("kill -KILL {pid}")])
        .status()?;
    assert!(killed.success(), "the worker is not there");
    assert_eq!(request(address, "/ping").await?, (200, "pong\n".into()));
    let (status, why) = stuck.await??;
    assert_eq!(status, 500);
    assert!(why.contains("SIGKILL"), "{why}");
    println!("it was killed, and its request is told why");

    let all: Vec<_> = (0..20)
        .map(|_| tokio::spawn(request(address, "/primes/10000")))
        .collect();
    for answer in all {
        assert_eq!(answer.await??, (200, "1229\n".into()));
    }
    println!("another has taken its place");
    Ok(())
}

/// What the service answers: status and text.
async fn request(address: SocketAddr, path: &'static str) -> Result<(u16, String), AnyError> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, text) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| AnyError::new("no answer"))?;
    let status = head
        .split(' ')
        .nth(1)
        .ok_or_else(|| AnyError::new("no status"))?
        .parse()?;
    Ok((status, text.to_owned()))
}
