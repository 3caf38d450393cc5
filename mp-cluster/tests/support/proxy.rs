//! A way to a server that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

/// What passes on whatever comes, in both directions, until it is cut.
pub(crate) struct Proxy {
    port: u16,
    ways: Arc<Mutex<Ways>>,
}

#[derive(Default)]
struct Ways {
    is_cut: bool,
    /// Both ends of each.
    streams: Vec<(TcpStream, TcpStream)>,
}

impl Proxy {
    pub(crate) fn to(port: u16) -> Self {
        Self::slow(port, Duration::ZERO)
    }

    /// On which everything is so long on its way, in each direction.
    pub(crate) fn slow(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let proxy = Self {
            port: listener.local_addr().expect("it has one").port(),
            ways: Arc::default(),
        };
        let ways = proxy.ways.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let mut ways = lock(&ways);
                if ways.is_cut {
                    continue;
                }
                pass_on(&client, &server, delay);
                pass_on(&server, &client, delay);
                ways.streams.push((client, server));
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends all connections, and takes no more.
    pub(crate) fn cut(&self) {
        let mut ways = lock(&self.ways);
        ways.is_cut = true;
        for (client, server) in ways.streams.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn mend(&self) {
        lock(&self.ways).is_cut = false;
    }
}

fn pass_on(from: &TcpStream, to: &TcpStream, delay: Duration) {
    let from = from.try_clone().expect("a descriptor is free");
    let mut to = to.try_clone().expect("a descriptor is free");
    let mut source = from.try_clone().expect("a descriptor is free");
    let (read, written) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut bytes = [0; 64 * 1024];
        while let Ok(len) = source.read(&mut bytes)
            && len > 0
            && read
                .send((Instant::now() + delay, bytes[..len].to_vec()))
                .is_ok()
        {}
    });
    std::thread::spawn(move || {
        while let Ok((due, bytes)) = written.recv() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}

fn lock(ways: &Mutex<Ways>) -> MutexGuard<'_, Ways> {
    ways.lock().unwrap_or_else(|poison| poison.into_inner())
}
