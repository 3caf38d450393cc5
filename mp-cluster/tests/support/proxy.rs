//! A way to a server that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

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
                pass_on(&client, &server);
                pass_on(&server, &client);
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

fn pass_on(from: &TcpStream, to: &TcpStream) {
    let mut from = from.try_clone().expect("a descriptor is free");
    let mut to = to.try_clone().expect("a descriptor is free");
    std::thread::spawn(move || {
        let mut bytes = [0; 64 * 1024];
        while let Ok(read) = from.read(&mut bytes)
            && read > 0
            && to.write_all(&bytes[..read]).is_ok()
        {}
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}

fn lock(ways: &Mutex<Ways>) -> MutexGuard<'_, Ways> {
    ways.lock().unwrap_or_else(|poison| poison.into_inner())
}
