//! How an agent is, for whoever starts and stops it: a few words over HTTP, as Kubernetes asks for them.
//!
//! It is answered on the agent's own thread: one that hangs does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mp::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::error;

/// How long a question and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a question that are read.
const QUESTION: usize = 1024;
/// The pause after one that could not be taken, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// No worker could begin yet.
    Starting,
    Ready,
    /// Without a connection, or without our stream.
    Disconnected,
    /// It was asked to end.
    Draining,
}

#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<AtomicU8>);

impl Health {
    /// Answers at `address`, if there is one.
    pub(crate) async fn open(address: Option<&str>) -> Result<Self, Error> {
        let health = Self(Arc::new(AtomicU8::new(State::Starting as u8)));
        if let Some(address) = address {
            let listener = TcpListener::bind(address).await.map_err(|error| {
                error::cluster(format!("could not tell how it is at {address:?}: {error}"))
            })?;
            tokio::spawn(answer_all(listener, health.clone()));
        }
        Ok(health)
    }

    pub(crate) fn set(&self, state: State) {
        // Nothing else hangs on it.
        self.0.store(state as u8, Ordering::Relaxed);
    }

    fn text(&self) -> (bool, &'static str) {
        match self.0.load(Ordering::Relaxed) {
            state if state == State::Ready as u8 => (true, "ready"),
            state if state == State::Disconnected as u8 => (false, "no connection to the server"),
            state if state == State::Draining as u8 => (false, "draining"),
            _ => (false, "starting"),
        }
    }

    /// The answer to a question, of which the first line counts.
    fn answer(&self, question: &[u8]) -> String {
        let line = question.split(|&byte| byte == b'\r').next();
        let mut words = line.unwrap_or_default().split(|&byte| byte == b' ');
        let (status, text) = match (words.next(), words.next()) {
            (Some(b"GET" | b"HEAD"), Some(b"/livez" | b"/healthz")) => ("200 OK", "alive"),
            (Some(b"GET" | b"HEAD"), Some(b"/readyz")) => match self.text() {
                (true, text) => ("200 OK", text),
                (false, text) => ("503 Service Unavailable", text),
            },
            _ => ("404 Not Found", "there are /livez and /readyz"),
        };
        let len = text.len() + 1;
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\
             Connection: close\r\n\r\n{text}\n"
        )
    }
}

async fn answer_all(listener: TcpListener, health: Health) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                tokio::spawn(async move {
                    // Whoever is slower than that has its answer: none.
                    let _ = tokio::time::timeout(PATIENCE, answer(stream, &health)).await;
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn answer(mut stream: TcpStream, health: &Health) -> std::io::Result<()> {
    let mut question = [0; QUESTION];
    let mut len = 0;
    // All of it is read, since an answer to less may be lost with the rest.
    while len < QUESTION && !question[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut question[len..]).await? {
            0 => break,
            read => len += read,
        }
    }
    let answer = health.answer(&question[..len]);
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ready_is_called_so() {
        let health = Health(Arc::default());
        let is_ready = |health: &Health| {
            let answer = health.answer(b"GET /readyz HTTP/1.1\r\n\r\n");
            answer.starts_with("HTTP/1.1 200 ")
        };
        for (state, ready) in [
            (State::Starting, false),
            (State::Ready, true),
            (State::Disconnected, false),
            (State::Draining, false),
        ] {
            health.set(state);
            assert_eq!(is_ready(&health), ready, "{state:?}");
        }
        assert!(health.answer(b"GET /livez HTTP/1.0\r\n").contains(" 200 "));
        for question in [&b"GET / HTTP/1.1\r\n"[..], b"POST /livez x", b"", b"\xff"] {
            assert!(health.answer(question).contains(" 404 "));
        }
    }
}
