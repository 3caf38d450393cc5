//! What is too large for a message: it lies in the server's object store, and the message names it.
//!
//! Arguments lie there by their content, once for all messages of a pool that have the same; results
//! by a name of their own, since nobody but their submitter takes them. Whoever has put something
//! there removes it, unless another has taken it over; what a killed process leaves goes with the end of
//! its pool, or after a day.

mod upload;

use std::collections::{HashMap, VecDeque};
use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_nats::jetstream::context::ObjectStoreError;
use async_nats::jetstream::object_store::{Config, Object, ObjectStore};
use async_nats::jetstream::stream::StorageType;
use bytes::Bytes;
use futures_util::StreamExt;
use mp::Error;
use ring::digest::{SHA256, digest};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OnceCell;

pub(crate) use self::upload::Upload;
use self::upload::{Gate, Name};
use crate::error;
use crate::link::{self, Link};
use crate::message::Elsewhere;

/// Bytes that are sent in the message itself.
pub(crate) const INLINE: usize = 256 * 1024;
/// Bytes that are kept though nobody needs them now: the next may be the same.
const KEPT: usize = 64 * 1024 * 1024;
/// Bytes that one can have at most, far beyond what there is room for.
const LARGEST: usize = 1 << 40;
/// How long nothing may come of one that is being read.
const STALLED: Duration = Duration::from_secs(10);
/// Bytes of a piece.
const PIECE: usize = 128 * 1024;
/// When what nobody has removed goes.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The store, and what of it we have at hand.
#[derive(Clone)]
pub(crate) struct Blobs {
    link: Link,
    store: Arc<tokio::sync::Mutex<Option<ObjectStore>>>,
    shelf: Arc<Mutex<Shelf>>,
    gate: Gate,
}

/// Blobs by name, the oldest first.
#[derive(Default)]
struct Shelf {
    blobs: HashMap<String, Arc<Blob>>,
    order: VecDeque<String>,
    bytes: usize,
}

/// One that is in the store, or on its way there or from there.
#[derive(Debug)]
pub(crate) struct Blob {
    len: usize,
    here: OnceCell<Bytes>,
}

/// What a message has in the store, by name; it stays there as long as this does.
pub(crate) type Stored = Arc<Mutex<Vec<(String, Arc<Blob>)>>>;

/// It could not be stored or had, and why.
#[derive(Debug)]
pub(crate) struct Unavailable(pub(crate) String);

impl Unavailable {
    fn new(error: &dyn std::error::Error) -> Self {
        Self(error::chain(error))
    }
}

impl Blobs {
    pub(crate) fn new(link: &Link) -> Self {
        Self {
            link: link.clone(),
            store: Arc::default(),
            shelf: Arc::default(),
            gate: Gate::default(),
        }
    }

    /// What bytes of a pool are called.
    pub(crate) fn name_of(pool: &str, bytes: &[u8]) -> String {
        let hash = digest(&SHA256, bytes);
        let hash: String = hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{pool}.{hash}")
    }

    /// A name for bytes of a pool that are there once.
    pub(crate) fn new_name(pool: &str) -> String {
        format!("{pool}.{}", crate::random_name())
    }

    /// Makes room for bytes that are to be put into the store, which stay there for as long as
    /// somebody has what this returns, at least.
    fn shelve(&self, name: &str, len: usize) -> Arc<Blob> {
        let (blob, old) = lock(&self.shelf).place(name, len);
        let this = self.clone();
        if !old.is_empty() {
            tokio::spawn(async move {
                for name in old {
                    this.remove(&name).await;
                }
            });
        }
        blob
    }

    /// Puts bytes into the store, unless they are there, and keeps them there with `stored`.
    pub(crate) async fn put_kept(
        &self,
        name: &str,
        bytes: &[u8],
        stored: &Stored,
    ) -> Result<(), Unavailable> {
        let blob = self.shelve(name, bytes.len());
        lock(stored).push((name.to_owned(), blob.clone()));
        let put = || async {
            self.upload(Name::OfContent(name), bytes).await?.keep();
            // That it is there is all that has to be known of it.
            Ok(Bytes::new())
        };
        blob.here.get_or_try_init(put).await.map(drop)
    }

    /// Puts bytes into the store by a name of their own, where they stay for as long as what this returns.
    pub(crate) async fn put(&self, name: &str, bytes: &[u8]) -> Result<Upload, Unavailable> {
        self.upload(Name::Own(name), bytes).await
    }

    async fn upload(&self, name: Name<'_>, bytes: &[u8]) -> Result<Upload, Unavailable> {
        self.store().await?;
        let (Name::Own(text) | Name::OfContent(text)) = name;
        let pool = text.split_once('.').map_or(text, |(pool, _)| pool);
        let put = Upload::of(&self.link, &self.gate, pool, name, bytes).await;
        self.unless_gone(put).await
    }

    /// Gets bytes, and keeps them for the next who needs them.
    pub(crate) async fn get_shared(&self, blob: &Elsewhere) -> Result<Bytes, Unavailable> {
        if blob.len > LARGEST {
            return Err(Unavailable("it cannot be so large".to_owned()));
        }
        let (shelved, _) = lock(&self.shelf).place(&blob.name, blob.len);
        let get = || async { self.get(blob).await };
        shelved.here.get_or_try_init(get).await.cloned()
    }

    /// Gets bytes.
    pub(crate) async fn get(&self, blob: &Elsewhere) -> Result<Bytes, Unavailable> {
        let mut object = self.open(&blob.name).await?;
        let mut bytes = Vec::new();
        while read_more(&mut object, &mut bytes).await? {
            if bytes.len() > blob.len {
                return Err(Unavailable("it is larger than it should be".to_owned()));
            }
        }
        Ok(bytes.into())
    }

    /// Gets bytes piece by piece.
    pub(crate) async fn read(
        &self,
        blob: &Elsewhere,
        mut take: impl FnMut(&[u8]) -> Result<(), Unavailable>,
    ) -> Result<(), Unavailable> {
        let mut object = self.open(&blob.name).await?;
        let mut piece = Vec::with_capacity(PIECE);
        while read_more(&mut object, &mut piece).await? {
            take(&piece)?;
            piece.clear();
        }
        Ok(())
    }

    /// Removes what is in the store by that name, without a trace.
    pub(crate) async fn remove(&self, name: &str) {
        let Ok(store) = self.store().await else {
            return;
        };
        // It goes after a day otherwise.
        if let Ok(info) = store.info(name).await {
            let subjects = upload::subjects(&info.bucket, name, &info.nuid);
            for subject in &subjects {
                upload::purge(&self.link, subject).await;
            }
        }
    }

    /// Removes all that there is of a pool, whoever has put it there.
    pub(crate) async fn sweep(&self, pool: &str) {
        // Without a store there is nothing, and none is made for that.
        let bucket = self.link.names.stream();
        let Ok(store) = self.link.context.get_object_store(&bucket).await else {
            return;
        };
        let Ok(mut objects) = store.list().await else {
            return;
        };
        let prefix = format!("{pool}.");
        let mut names = Vec::new();
        while let Ok(Some(Ok(object))) = tokio::time::timeout(STALLED, objects.next()).await {
            if object.name.starts_with(&prefix) {
                names.push(object.name);
            }
        }
        self.sweep_pieces(pool).await;
        for name in names {
            upload::purge(&self.link, &upload::note(&bucket, &name)).await;
        }
    }

    /// Removes the pieces of a pool, with which what is made of them is gone.
    async fn sweep_pieces(&self, pool: &str) {
        let pieces = upload::pieces_of(&self.link.names.stream(), pool);
        upload::purge(&self.link, &pieces).await;
    }

    /// Removes all that was shelved by a pool and is still there. Nothing is put into the store any more.
    pub(crate) async fn close(&self, pool: &str) {
        *self.gate.write().await = true;
        let names = lock(&self.shelf).clear();
        for name in names {
            self.remove(&name).await;
        }
        self.sweep_pieces(pool).await;
    }

    /// Forgets that what a message refers to is in the store.
    pub(crate) fn unshelve(&self, stored: &Stored) {
        let mut shelf = lock(&self.shelf);
        for (name, blob) in lock(stored).drain(..) {
            // Not what was put there again since.
            if shelf
                .blobs
                .get(&name)
                .is_some_and(|it| Arc::ptr_eq(it, &blob))
            {
                shelf.remove(&name);
            }
        }
    }

    /// Forgets what is in the store: it may be another.
    pub(crate) fn forget(&self) {
        lock(&self.shelf).clear();
    }

    /// Makes the store, if there is none.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        let made = self.store().await;
        made.map(drop)
            .map_err(|Unavailable(why)| error::cluster(why))
    }

    /// Begins to read.
    async fn open(&self, name: &str) -> Result<Object, Unavailable> {
        let store = self.store().await?;
        let opened = store.get(name).await;
        let opened = opened.map_err(|error| Unavailable::new(&error));
        self.unless_gone(opened).await
    }

    /// What came of something that was done with the store. If it did not work the store is looked for
    /// again: a server that comes back with nothing has lost it.
    async fn unless_gone<T>(&self, done: Result<T, Unavailable>) -> Result<T, Unavailable> {
        if done.is_err() {
            *self.store.lock().await = None;
        }
        done
    }

    async fn store(&self) -> Result<ObjectStore, Unavailable> {
        let mut store = self.store.lock().await;
        if let Some(store) = &*store {
            return Ok(store.clone());
        }
        let found = self.link.until_denied(self.find_or_make()).await;
        let found = found.map_err(|said| {
            let what = "use or make the object store, which an administrator has to make first";
            Unavailable(self.link.denied(what, &said).to_string())
        })??;
        Ok(store.insert(found).clone())
    }

    async fn find_or_make(&self) -> Result<ObjectStore, Unavailable> {
        let context = &self.link.context;
        let bucket = self.link.names.stream();
        match context.get_object_store(&bucket).await {
            Ok(store) => return Ok(store),
            // One that cannot be found now may be there: to make it may be forbidden.
            Err(error) if !is_missing(&error) => {
                let why = error::chain(&error);
                return Err(Unavailable(format!(
                    "the object store could not be found: {why}"
                )));
            }
            Err(_) => {}
        }
        let config = Config {
            bucket,
            description: Some("large arguments and results of mp".to_owned()),
            max_age: MAX_AGE,
            storage: StorageType::File,
            num_replicas: self.link.replicas,
            ..Config::default()
        };
        let made = context.create_object_store(config).await;
        made.map_err(|error| {
            let why = error::chain(&error);
            Unavailable(format!("the object store could not be made: {why}"))
        })
    }
}

/// Whether there is no store, as the server says.
fn is_missing(error: &ObjectStoreError) -> bool {
    let why = error.source().and_then(|why| why.downcast_ref());
    why.is_some_and(link::is_missing)
}

/// Reads on, and whether there was more.
async fn read_more(
    object: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Result<bool, Unavailable> {
    let read = tokio::time::timeout(STALLED, object.read_buf(bytes)).await;
    let read = read.map_err(|late| Unavailable::new(&late))?;
    Ok(read.map_err(|error| Unavailable::new(&error))? > 0)
}

impl Shelf {
    /// The blob of that name, and those that make room for it.
    fn place(&mut self, name: &str, len: usize) -> (Arc<Blob>, Vec<String>) {
        if let Some(blob) = self.blobs.get(name) {
            return (blob.clone(), Vec::new());
        }
        let here = OnceCell::new();
        let blob = Arc::new(Blob { len, here });
        self.blobs.insert(name.to_owned(), blob.clone());
        self.order.push_back(name.to_owned());
        self.bytes += len;
        let mut old = Vec::new();
        // Those that somebody still needs stay.
        let mut at = 0;
        while self.bytes > KEPT && at < self.order.len() {
            let is_needed = |blob: &Arc<Blob>| Arc::strong_count(blob) > 1;
            if self.blobs.get(&self.order[at]).is_some_and(is_needed) {
                at += 1;
            } else if let Some(name) = self.order.remove(at) {
                let blob = self.blobs.remove(&name);
                self.bytes -= blob.map_or(0, |blob| blob.len);
                old.push(name);
            }
        }
        (blob, old)
    }

    fn remove(&mut self, name: &str) {
        if let Some(blob) = self.blobs.remove(name) {
            self.bytes -= blob.len;
            self.order.retain(|other| other != name);
        }
    }

    fn clear(&mut self) -> Vec<String> {
        self.blobs.clear();
        self.bytes = 0;
        self.order.drain(..).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
