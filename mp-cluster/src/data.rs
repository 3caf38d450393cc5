//! Shared data that arguments and results refer to: `Shared` and `Bytes`.
//!
//! In the arguments themselves it is named by its place in a list, which stands before them. The data
//! lies in the object store by its content, once for all messages of a pool. An agent fetches it once,
//! into shared memory of its own, and keeps it there while messages refer to it: its workers read it
//! where it lies, as they do on its submitter's machine. That of results lies there until its submitter has
//! fetched it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mp::__private::{Arrival, Content};
use tokio::sync::OnceCell;

use crate::blobs::{Blobs, Stored, Unavailable, Upload};
use crate::message::{Datum, Elsewhere};

/// How long an agent keeps what no message refers to: the next may.
const KEPT: Duration = Duration::from_secs(30);
/// Names that are remembered.
const MOST_NAMES: usize = 4096;

/// The shared data of a submitter's pool.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pool: String,
    blobs: Blobs,
    /// What data is called, once that is known.
    names: Arc<Mutex<HashMap<u64, Arc<OnceCell<String>>>>>,
}

impl Outgoing {
    pub(crate) fn new(pool: &str, blobs: &Blobs) -> Self {
        Self {
            pool: pool.to_owned(),
            blobs: blobs.clone(),
            names: Arc::default(),
        }
    }

    /// Sees to it that data is in the object store, where it stays as long as `stored` does, at least.
    pub(crate) async fn publish(
        &self,
        contents: Vec<Content>,
        stored: &Stored,
    ) -> Result<Vec<Datum>, Unavailable> {
        let mut data = Vec::with_capacity(contents.len());
        for content in contents {
            let content = Arc::new(content);
            let name = self.name_of(&content).await?;
            let put = self.blobs.put_kept(&name, content.bytes(), stored);
            put.await?;
            let len = content.bytes().len();
            data.push(Datum {
                make: content.make(),
                blob: Elsewhere { name, len },
            });
        }
        Ok(data)
    }

    /// The name by its content, which is looked at once.
    async fn name_of(&self, content: &Arc<Content>) -> Result<String, Unavailable> {
        let name = {
            let mut names = lock(&self.names);
            if names.len() > MOST_NAMES {
                names.clear();
            }
            names.entry(content.id()).or_default().clone()
        };
        let find = || async {
            let (pool, content) = (self.pool.clone(), content.clone());
            // It takes a second for a gigabyte or two.
            let hashed =
                tokio::task::spawn_blocking(move || Blobs::name_of(&pool, content.bytes()));
            hashed.await.map_err(|error| Unavailable(error.to_string()))
        };
        name.get_or_try_init(find).await.cloned()
    }
}

/// The shared data of an agent's messages.
#[derive(Clone)]
pub(crate) struct Incoming {
    blobs: Blobs,
    shelf: Arc<Mutex<HashMap<Datum, Entry>>>,
}

#[derive(Default)]
struct Entry {
    here: Arc<OnceCell<Arc<Content>>>,
    /// When it was last asked for.
    used: Option<Instant>,
}

impl Entry {
    /// Whether nobody has it, or waits for it.
    fn is_idle(&self) -> bool {
        let is_idle = |content: &Arc<Content>| Arc::strong_count(content) == 1;
        Arc::strong_count(&self.here) == 1 && self.here.get().is_none_or(is_idle)
    }
}

/// Why there is no such data.
pub(crate) enum Missing {
    /// It could not be had from the object store.
    Unavailable,
    /// It can't be kept here, and why.
    Refused(String),
}

impl Incoming {
    pub(crate) fn new(blobs: &Blobs) -> Self {
        Self {
            blobs: blobs.clone(),
            shelf: Arc::default(),
        }
    }

    /// Gets data, and keeps it as long as somebody has what this returns, at least.
    pub(crate) async fn get(&self, datum: &Datum) -> Result<Arc<Content>, Missing> {
        let here = {
            let mut shelf = lock(&self.shelf);
            let entry = shelf.entry(datum.clone()).or_default();
            entry.used = Some(Instant::now());
            entry.here.clone()
        };
        let fetch = || async { self.fetch(datum).await.map(Arc::new) };
        here.get_or_try_init(fetch).await.cloned()
    }

    /// Gets the data of results, with their places.
    pub(crate) async fn get_all(
        &self,
        results: &[(u32, Vec<Datum>)],
    ) -> Result<Vec<(u32, Vec<Arc<Content>>)>, Missing> {
        let mut there = Vec::with_capacity(results.len());
        for (place, data) in results {
            let mut contents = Vec::with_capacity(data.len());
            for datum in data {
                contents.push(self.get(datum).await?);
            }
            there.push((*place, contents));
        }
        Ok(there)
    }

    async fn fetch(&self, datum: &Datum) -> Result<Content, Missing> {
        let blob = &datum.blob;
        let mut arrival = Arrival::new(datum.make, blob.len);
        if arrival.as_ref().is_err_and(mp::Error::is_out_of_memory) {
            // Rather what is needed now than what may be.
            self.tidy(Duration::ZERO);
            arrival = Arrival::new(datum.make, blob.len);
        }
        let refused = |error: mp::Error| {
            let len = blob.len;
            Missing::Refused(format!("its shared data of {len} bytes: {error}"))
        };
        let mut arrival = arrival.map_err(refused)?;
        let write = |piece: &[u8]| {
            let written = arrival.write(piece);
            written.map_err(|error| Unavailable(error.to_string()))
        };
        let read = self.blobs.read(blob, write).await;
        read.map_err(|Unavailable(_)| Missing::Unavailable)?;
        arrival.finish().map_err(refused)
    }

    /// Lets go of what has not been asked for in a while.
    pub(crate) fn tidy_up(&self) {
        self.tidy(KEPT);
    }

    fn tidy(&self, kept: Duration) {
        lock(&self.shelf).retain(|_, entry| {
            !entry.is_idle() || entry.used.is_some_and(|used| used.elapsed() < kept)
        });
    }

    /// Lets go of what came from a pool that has ended.
    pub(crate) fn forget(&self, pool: &str) {
        let prefix = format!("{pool}.");
        lock(&self.shelf).retain(|datum, _| !datum.blob.name.starts_with(&prefix));
    }
}

/// Puts the data of results into the object store for a pool, with their places: each once, however many
/// refer to it.
pub(crate) async fn upload(
    blobs: &Blobs,
    pool: &str,
    shared: &[(u32, Vec<Content>)],
    uploads: &mut Vec<Upload>,
) -> Result<Vec<(u32, Vec<Datum>)>, Unavailable> {
    let mut there: HashMap<u64, Datum> = HashMap::new();
    let mut named = Vec::with_capacity(shared.len());
    for (place, contents) in shared {
        let mut data = Vec::with_capacity(contents.len());
        for content in contents {
            if let Some(datum) = there.get(&content.id()) {
                data.push(datum.clone());
                continue;
            }
            let name = Blobs::new_name(pool);
            let len = content.bytes().len();
            uploads.push(blobs.put(&name, content.bytes()).await?);
            let (make, blob) = (content.make(), Elsewhere { name, len });
            let datum = Datum { make, blob };
            there.insert(content.id(), datum.clone());
            data.push(datum);
        }
        named.push((*place, data));
    }
    Ok(named)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
