//! A directory as a store: the crate's, but that nothing is written anywhere else when the directory goes away meanwhile.
//!
//! A path says where a disk is mounted, not which disk. So every write opens the directory, looks through that whether it is the store
//! that is expected, and writes below what it opened. A disk that is taken away in between takes the write along, or refuses it; nothing
//! is written under its mount point, and a directory that is gone is not made anew. The directory is open for one write only, so that
//! its disk can be unmounted between two.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use uuid::Uuid;

use super::bucket::generic;
use super::identity::{FORMAT_BYTES_MAX, FORMAT_KEY, decode, ours, replaced};
use super::sure::Sure;

/// A directory, and which store it has to be once somebody knows.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// What errors call it, such as `file:///mnt/bucket`.
    name: String,
    expected: Mutex<Option<Uuid>>,
    /// What reads, lists and removes, by its path.
    by_path: LocalFileSystem,
    /// What writes, by paths from the file system's root.
    from_root: Arc<LocalFileSystem>,
    sure: Arc<Sure>,
}

/// A directory that is open, and is the one that is expected.
#[derive(Debug)]
pub(super) struct Held {
    /// Closed only when nothing is written through it anymore.
    _dir: File,
    at: PathBuf,
    shown: PathBuf,
}

impl Directory {
    /// A directory that has to be there.
    pub(super) fn open(path: &Path, name: &str) -> Result<Self> {
        Ok(Directory {
            path: path.to_owned(),
            name: name.to_owned(),
            expected: Mutex::default(),
            by_path: LocalFileSystem::new_with_prefix(path)?,
            from_root: Arc::new(LocalFileSystem::new().with_fsync(true)),
            sure: Arc::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on a directory that is not this store is refused.
    pub(super) fn expect(&self, store: Uuid) {
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = Some(store);
    }

    /// Fails when it is not there, or is another store.
    pub(super) async fn stands(&self) -> Result<()> {
        self.hold().await.map(|_| ())
    }

    /// The names right below a key that are directories, or may lead to one. None of them is entered.
    pub(super) async fn names_below(&self, key: &StorePath) -> Result<BTreeSet<String>> {
        let path = self.path.join(key.as_ref());
        let named = tokio::task::spawn_blocking(move || {
            names_in(&path).map_err(|source| match source.kind() {
                ErrorKind::NotFound => {
                    object_store::Error::NotFound { path: path.display().to_string(), source: source.into() }
                }
                _ => {
                    let text = format!("list the directory {}: {source}", path.display());
                    object_store::Error::Generic {
                        store: "directory",
                        source: Box::new(Said { text, source: source.into() }),
                    }
                }
            })
        });
        ended(&self.name, named.await)
    }

    /// Opens it for one piece of work.
    pub(super) async fn hold(&self) -> Result<Held> {
        let (path, name) = (self.path.clone(), self.name.clone());
        let expected = *self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        ended(&self.name, tokio::task::spawn_blocking(move || Held::open(path, &name, expected)).await)
    }
}

impl Held {
    fn open(path: PathBuf, name: &str, expected: Option<Uuid>) -> Result<Held> {
        let dir = open_directory(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                object_store::Error::Generic { store: "directory", source: Box::new(Gone(path.clone())) }
            }
            _ => {
                let text = format!("open the directory {}: {error}", path.display());
                object_store::Error::Generic {
                    store: "directory",
                    source: Box::new(Said { text, source: error.into() }),
                }
            }
        })?;
        let held = Held { at: path_through(&dir, &path), _dir: dir, shown: path };
        let Some(expected) = expected else { return Ok(held) };
        let found = read_store(&held.at.join(FORMAT_KEY), name).map_err(|error| held.said(error))?;
        match found == Some(expected) {
            true => Ok(held),
            false => Err(ours(replaced(name, true, found, expected))),
        }
    }

    /// A path that leads to it for as long as it is open.
    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    /// A key, as a path from the file system's root.
    fn path_of(&self, key: &StorePath) -> Result<StorePath> {
        let dir = StorePath::from_absolute_path(&self.at)?;
        Ok(dir.parts().chain(key.parts()).collect())
    }

    /// An error, with the path that a person knows.
    fn said(&self, error: object_store::Error) -> object_store::Error {
        let (at, shown) = (self.at.display().to_string(), self.shown.display().to_string());
        match error {
            object_store::Error::Generic { store, source } => {
                let text = source.to_string().replace(&at, &shown);
                object_store::Error::Generic { store, source: Box::new(Said { text, source }) }
            }
            error => error,
        }
    }
}

/// A directory that is not there, or not a directory any more.
#[derive(Debug)]
pub(super) struct Gone(pub PathBuf);

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the directory {} is gone: is its disk mounted?", self.0.display())
    }
}

impl std::error::Error for Gone {}

/// What came of writing a key, once everything above it is durable, too.
async fn made_sure<T: Send + 'static>(sure: Arc<Sure>, held: Held, key: StorePath, done: Result<T>) -> Result<T> {
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            // What somebody else wrote is theirs.
            if !matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
            {
                sure.has_failed(&key);
            }
            return Err(held.said(error));
        }
    };
    let sync = tokio::task::spawn_blocking(move || {
        let synced = sure.make_sure(held.path(), &key).map_err(|error| {
            sure.has_failed(&key);
            let text = format!("sync the directories above {}: {error}", held.shown.join(key.as_ref()).display());
            object_store::Error::Generic { store: "directory", source: Box::new(Said { text, source: error.into() }) }
        });
        synced.map(|()| done)
    });
    ended("directory", sync.await)
}

/// What came of a task; one that panicked failed.
fn ended<T>(name: &str, done: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    done.unwrap_or_else(|error| Err(generic(format!("{name}: {error}"))))
}

/// An error in other words.
#[derive(Debug)]
struct Said {
    text: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Said {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(target_os = "linux")]
fn open_directory(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_directory(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

/// Names that are not UTF-8 are none of ours; a file has nothing below it.
fn names_in(path: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(names),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() || kind.is_symlink() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// A path that leads to an open directory wherever it is by now, where the system has such paths.
fn path_through(dir: &File, path: &Path) -> PathBuf {
    let through = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    match cfg!(target_os = "linux") && through.is_dir() {
        true => through,
        false => std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// Which store a directory says it is; none when it says nothing.
fn read_store(path: &Path, name: &str) -> Result<Option<Uuid>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FORMAT_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(length) if length as u64 > FORMAT_BYTES_MAX => Ok(None),
        Ok(_) => Ok(Some(decode(name, &bytes).map_err(ours)?.store)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(object_store::Error::Generic { store: "directory", source: Box::new(error) }),
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, key: &StorePath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let held = self.hold().await?;
        let (store, path) = (Arc::clone(&self.from_root), held.path_of(key)?);
        let (sure, key) = (Arc::clone(&self.sure), key.clone());
        // A task of its own: whoever asked may be gone before what is written through the open directory is.
        let put = tokio::spawn(async move {
            let done = store.put_opts(&path, payload, options).await;
            made_sure(sure, held, key, done).await
        });
        ended(&self.name, put.await)
    }

    async fn put_multipart_opts(
        &self,
        key: &StorePath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let held = self.hold().await?;
        let upload = self.from_root.put_multipart_opts(&held.path_of(key)?, options).await;
        let upload = upload.map_err(|error| held.said(error))?;
        let (sure, key) = (Arc::clone(&self.sure), key.clone());
        Ok(Box::new(Upload { under_way: Some((upload, held)), sure, key, name: self.name.clone() }))
    }

    async fn get_opts(&self, key: &StorePath, options: GetOptions) -> Result<GetResult> {
        if self.sure.is_doubted(key) {
            // Whoever finds what was written takes it for durable.
            let held = self.hold().await?;
            made_sure(Arc::clone(&self.sure), held, key.clone(), Ok(())).await?;
        }
        self.by_path.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<StorePath>>) -> BoxStream<'static, Result<StorePath>> {
        self.by_path.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.by_path.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&StorePath>,
        offset: &StorePath,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.by_path.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> Result<ListResult> {
        self.by_path.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &StorePath, to: &StorePath, options: CopyOptions) -> Result<()> {
        self.by_path.copy_opts(from, to, options).await
    }
}

/// A large object that is being written. Its directory is open until it is whole, or its staged file is gone.
#[derive(Debug)]
struct Upload {
    under_way: Option<(Box<dyn MultipartUpload>, Held)>,
    sure: Arc<Sure>,
    key: StorePath,
    name: String,
}

impl Upload {
    fn over(&self) -> object_store::Error {
        generic(format!("{}: the upload has ended already", self.name))
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match &mut self.under_way {
            Some((upload, _)) => upload.put_part(data),
            None => Box::pin(std::future::ready(Err(self.over()))),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (mut upload, held) = self.under_way.take().ok_or_else(|| self.over())?;
        let (sure, key) = (Arc::clone(&self.sure), self.key.clone());
        let done = tokio::spawn(async move {
            let done = upload.complete().await;
            made_sure(sure, held, key, done).await
        });
        ended(&self.name, done.await)
    }

    async fn abort(&mut self) -> Result<()> {
        let (mut upload, held) = self.under_way.take().ok_or_else(|| self.over())?;
        let done = tokio::spawn(async move { upload.abort().await.map_err(|error| held.said(error)) });
        ended(&self.name, done.await)
    }
}

impl Drop for Upload {
    /// Whoever uploaded is gone, such as after a time-out: the staged file goes while its directory is still open.
    fn drop(&mut self) {
        let Some((mut upload, held)) = self.under_way.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = upload.abort().await;
                drop(held);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use object_store::ObjectStoreExt;

    use super::*;

    /// A bucket's directory, at `there`, below one of the test's own.
    fn place() -> (tempfile::TempDir, PathBuf, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::create_dir(&there).unwrap();
        let directory = Directory::open(&there, "file://there").unwrap();
        (dir, there, directory)
    }

    #[tokio::test]
    async fn a_write_goes_with_the_directory_that_it_began_in() {
        let (dir, there, directory) = place();
        let away = dir.path().join("away");
        let large = StorePath::from("deep/below/large");
        let mut upload = directory.put_multipart_opts(&large, PutMultipartOptions::default()).await.unwrap();
        let held = directory.hold().await.unwrap();
        let small = held.path_of(&StorePath::from("new/below/small")).unwrap();
        std::fs::rename(&there, &away).unwrap();
        directory.from_root.put(&small, PutPayload::from_static(b"small")).await.unwrap();
        upload.put_part(PutPayload::from(Bytes::from_static(b"large"))).await.unwrap();
        upload.complete().await.unwrap();
        assert!(!there.exists(), "the directory that is gone is not made anew");
        assert_eq!(std::fs::read(away.join("new/below/small")).unwrap(), b"small");
        assert_eq!(std::fs::read(away.join("deep/below/large")).unwrap(), b"large");
        let error = directory.put(&large, PutPayload::from_static(b"more")).await.unwrap_err();
        assert!(error.to_string().contains("is its disk mounted?"), "{error}");
        assert!(!there.exists());
    }

    #[tokio::test]
    async fn an_upload_that_nobody_waits_for_leaves_no_staged_file() {
        let (_dir, there, directory) = place();
        let key = StorePath::from("deep/large");
        let mut upload = directory.put_multipart_opts(&key, PutMultipartOptions::default()).await.unwrap();
        upload.put_part(PutPayload::from_static(b"large")).await.unwrap();
        drop(upload);
        // The current thread's runtime ends a task that was spawned before another one that waits as long as it does.
        while std::fs::read_dir(there.join("deep")).unwrap().next().is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn errors_say_the_path_that_a_person_knows() {
        let (_dir, there, directory) = place();
        std::fs::write(there.join("file"), b"").unwrap();
        let error = directory.put(&StorePath::from("file/below"), PutPayload::from_static(b"x")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(there.to_str().unwrap()) && !text.contains("/proc/"), "{text}");
    }
}
