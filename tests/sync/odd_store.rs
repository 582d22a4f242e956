//! A store that reads tags wrong a few times, has no room for large objects, ignores conditions, or is emptied.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use shoal::store::{Backend, Bucket};
use tokio::sync::Notify;

use crate::node::Node;

#[derive(Default)]
pub struct OddStore {
    store: InMemory,
    /// How many reads of tags are wrong from now on.
    pub misreads: AtomicU64,
    /// The largest object that there is room for; 0 for no bound.
    pub room: AtomicU64,
    /// What was written of objects that there was no room for.
    pub written: AtomicU64,
    pub largest: AtomicU64,
    /// Whether it creates what is there.
    pub ignores_conditions: AtomicBool,
    /// Everything goes before so manieth a write from now on; 0 for never.
    pub empties_at: AtomicU64,
    /// Reads of keys that have this in them say so, and wait until they may go on; nothing does where it is empty.
    pub waits_at: Mutex<String>,
    pub waits: Notify,
    pub go_on: Notify,
}

impl OddStore {
    pub fn bucket(self: &Arc<Self>, node: &Node) -> Bucket {
        let backend = Backend::direct(self.clone(), None, "odd");
        Bucket::over(backend, node.clock.clone(), node.random.clone())
    }
}

impl fmt::Display for OddStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OddStore")
    }
}

impl fmt::Debug for OddStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OddStore")
    }
}

#[async_trait]
impl ObjectStore for OddStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.empties_at.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) == Ok(1) {
            let all: Vec<ObjectMeta> = self.store.list(None).filter_map(|found| async { found.ok() }).collect().await;
            for object in all {
                self.store.delete(&object.location).await?;
            }
        }
        let (bytes, room) = (payload.content_length() as u64, self.room.load(SeqCst));
        if room > 0 && bytes > room {
            self.written.fetch_add(bytes, SeqCst);
            self.largest.fetch_max(bytes, SeqCst);
            let source = Box::new(io::Error::from(io::ErrorKind::StorageFull));
            return Err(object_store::Error::Generic { store: "odd", source });
        }
        let options = if self.ignores_conditions.load(SeqCst) { PutOptions::default() } else { options };
        self.store.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let waits_at = self.waits_at.lock().unwrap().clone();
        if !waits_at.is_empty() && path.as_ref().contains(&waits_at) {
            self.waits.notify_one();
            self.go_on.notified().await;
        }
        let is_head = options.head;
        let found = self.store.get_opts(path, options).await?;
        let is_tag = path.as_ref().contains("/tags/") && !is_head;
        if !is_tag || self.misreads.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            return Ok(found);
        }
        let (range, meta, attributes, extensions) =
            (found.range.clone(), found.meta.clone(), found.attributes.clone(), found.extensions.clone());
        let mut bytes = found.bytes().await?.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let payload = GetResultPayload::Stream(stream::iter([Ok(bytes.into())]).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
