//! Bytes on their way into the object store: pieces, and then a note of what they are.
//!
//! The client has a way of its own, which leaves the pieces that it has sent when it fails or is given up.
//! Nobody could find them, and they would take their room for [`MAX_AGE`](super::MAX_AGE). Ours removes
//! them, and those of a pool have a subject in common, by which its end removes what a killed process left.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::object_store::{ObjectInfo, ObjectOptions};
use bytes::Bytes;
use data_encoding::BASE64URL;
use ring::digest::{Context, SHA256};
use tokio::sync::RwLock;

use super::{PIECE, Unavailable};
use crate::fault::fault;
use crate::link::Link;

/// How long a piece that was on its way may take to arrive.
const LATE: Duration = Duration::from_secs(2);

/// Whether nothing is put into the store any more. Each piece holds it while it is on its way.
pub(super) type Gate = Arc<RwLock<bool>>;

/// Bytes in the store that go with this, unless they are to [stay](Self::keep).
#[must_use]
pub(crate) struct Upload {
    link: Link,
    /// The subjects of what goes with it.
    subjects: Vec<String>,
    is_kept: bool,
}

/// What bytes are called.
#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    /// By a name that nothing else has.
    Own(&'a str),
    /// By their content. A note of that name may be that of another upload, which has worked.
    OfContent(&'a str),
}

impl Upload {
    /// Puts bytes of a pool into the store, which is there.
    pub(super) async fn of(
        link: &Link,
        gate: &Gate,
        pool: &str,
        name: Name<'_>,
        bytes: &[u8],
    ) -> Result<Self, Unavailable> {
        let bucket = link.names.stream();
        let piecemark = format!("{pool}.{}", crate::random_name());
        let (Name::Own(text) | Name::OfContent(text)) = name;
        let [note, pieces] = subjects(&bucket, text, &piecemark);
        let upload = Self {
            link: link.clone(),
            subjects: match name {
                Name::Own(_) => vec![note.clone(), pieces.clone()],
                Name::OfContent(_) => vec![pieces.clone()],
            },
            is_kept: false,
        };
        let mut digest = Context::new(&SHA256);
        let mut count = 0;
        for piece in bytes.chunks(PIECE) {
            digest.update(piece);
            count += 1;
            let piece = Bytes::copy_from_slice(piece);
            upload.send(gate, &pieces, HeaderMap::new(), piece).await?;
            fault!("store.piece");
        }
        let info = ObjectInfo {
            name: text.to_owned(),
            description: None,
            metadata: Default::default(),
            headers: None,
            options: Some(ObjectOptions {
                link: None,
                max_chunk_size: Some(PIECE),
            }),
            bucket,
            nuid: piecemark,
            size: bytes.len(),
            chunks: count,
            modified: None,
            digest: Some(format!(
                "SHA-256={}",
                BASE64URL.encode(digest.finish().as_ref())
            )),
            deleted: false,
        };
        let info = serde_json::to_vec(&info).map_err(|error| Unavailable::new(&error))?;
        let mut headers = HeaderMap::new();
        // It takes the place of one before it.
        headers.insert("Nats-Rollup", "sub");
        upload.send(gate, &note, headers, info.into()).await?;
        Ok(upload)
    }

    async fn send(
        &self,
        gate: &Gate,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), Unavailable> {
        let is_shut = gate.read().await;
        if *is_shut {
            return Err(Unavailable("the pool has ended".to_owned()));
        }
        let context = &self.link.context;
        let sent = context.publish_with_headers(subject.to_owned(), headers, payload);
        let taken = sent.await.map_err(|error| Unavailable::new(&error))?;
        taken.await.map_err(|error| Unavailable::new(&error))?;
        Ok(())
    }

    /// Leaves the bytes to whoever removes them.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // Without one the connection ends as well.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (link, subjects) = (self.link.clone(), self.subjects.clone());
        runtime.spawn(async move {
            // Once more: a piece that was on its way may come after.
            for pause in [Duration::ZERO, LATE] {
                tokio::time::sleep(pause).await;
                for subject in &subjects {
                    purge(&link, subject).await;
                }
            }
        });
    }
}

/// The subject of the note of what bytes are, and that of the pieces.
pub(super) fn subjects(bucket: &str, name: &str, piecemark: &str) -> [String; 2] {
    [note(bucket, name), format!("$O.{bucket}.C.{piecemark}")]
}

/// The subject of the note of what bytes are.
pub(super) fn note(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", BASE64URL.encode(name.as_bytes()))
}

/// The subjects of all pieces of a pool.
pub(super) fn pieces_of(bucket: &str, pool: &str) -> String {
    format!("$O.{bucket}.C.{pool}.>")
}

/// Removes what has that subject.
pub(super) async fn purge(link: &Link, subject: &str) {
    let stream = format!("OBJ_{}", link.names.stream());
    if let Ok(stream) = link.context.get_stream_no_info(stream).await {
        // It goes after a day otherwise.
        let _ = stream.purge().filter(subject).await;
    }
}
