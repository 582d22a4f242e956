//! Lists keys in order, a page at a time.
//!
//! S3 lists in the order of keys. Directories do not, and some stores that speak S3 walk a tree of directories: `a/b` comes
//! before `a-b` there, and what is asked for "after" a key leaves out keys that belong behind it. So a store whose order is not
//! known is read whole for every page, of which memory holds no more than the page. [`super::probe`] finds the order out; an
//! item out of order gives up on it for good.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use object_store::ObjectMeta;
use object_store::path::Path as StorePath;

use super::bucket::{ANSWER_BYTES_MAX, Bucket};
use super::keys;
use super::patience::Patience;
use super::traffic::Request;
use crate::error::{Error, Result};

/// The most keys of one page; what S3 answers with at once.
pub const PAGE_KEYS_MAX: usize = 1_000;

/// The code of the error for a place that has more below it than was asked for at most.
pub const TOO_MANY_KEYS: &str = "too_many_keys";

/// An object as listings show it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
}

/// Some keys, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<Listed>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

impl Bucket {
    /// The first `keys_max` objects (1 to [`PAGE_KEYS_MAX`]) below `prefix`, in the order of their keys' bytes, behind the key
    /// `after`. A prefix is whole parts of a key, empty for all. What is created or removed meanwhile may be shown or not.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        keys_max: usize,
        patience: &Patience,
    ) -> Result<Page> {
        self.list_some(prefix, after, keys_max.clamp(1, PAGE_KEYS_MAX), patience).await
    }

    async fn list_some(
        &self,
        prefix: &str,
        after: Option<&str>,
        keys_max: usize,
        patience: &Patience,
    ) -> Result<Page> {
        if !prefix.is_empty() {
            keys::check(prefix)?;
        }
        if let Some(after) = after {
            keys::check(after)?;
        }
        // Each of its answers is watched for standing still.
        let mut turns = patience.for_long_attempts().begin();
        loop {
            let in_order = self.inner.in_order.load(Ordering::Relaxed);
            let page = self
                .call(&mut turns, Request::List, ANSWER_BYTES_MAX, || self.page(prefix, after, keys_max, in_order))
                .await
                .map_err(|error| error.context(format_args!("list {prefix:?}")))?;
            match page {
                Some(Some(page)) => return Ok(page),
                Some(None) => self.inner.in_order.store(false, Ordering::Relaxed),
                // A directory without the prefix has nothing below it; over HTTP only a bucket can be what is not there.
                None if self.inner.backend.over_http => {
                    return Err(self.no_place().context(format_args!("list {prefix:?}")));
                }
                None => return Ok(Page::default()),
            }
        }
    }

    /// One page; none when the store turns out to list in another order.
    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        keys_max: usize,
        in_order: bool,
    ) -> object_store::Result<Option<Page>> {
        let path_of = |key: &str| self.below_root(key).map_err(|error| super::bucket::generic(error.to_string()));
        let under = Some(path_of(prefix)?).filter(|path| !path.as_ref().is_empty());
        self.standing().await?;
        let objects = &self.inner.backend.objects;
        let mut found = match after.filter(|_| in_order) {
            Some(after) => objects.list_with_offset(under.as_ref(), &path_of(after)?),
            None => objects.list(under.as_ref()),
        };
        // One more than the page, which says whether there are more.
        let mut page = BTreeSet::new();
        while let Some(object) = found.next().await {
            let object = object?;
            let Some(listed) = self.listed(&object) else { continue };
            if after.is_some_and(|after| listed.key.as_str() <= after) {
                continue;
            }
            if in_order && page.last().is_some_and(|last| *last >= listed) {
                return Ok(None);
            }
            page.insert(listed);
            if page.len() > keys_max + 1 {
                page.pop_last();
            }
            if in_order && page.len() > keys_max {
                break;
            }
        }
        let more = page.len() > keys_max;
        Ok(Some(Page { objects: page.into_iter().take(keys_max).collect(), more }))
    }

    /// The names right below `prefix` that objects may lie below, ascending: whole parts of a key, empty for all. None of a directory's is
    /// entered, so one of them that cannot be read is for whoever looks below it.
    pub async fn names_below(&self, prefix: &str, patience: &Patience) -> Result<Vec<String>> {
        if !prefix.is_empty() {
            keys::check(prefix)?;
        }
        let mut turns = patience.for_long_attempts().begin();
        let found = self.call(&mut turns, Request::List, ANSWER_BYTES_MAX, || self.below(prefix)).await;
        match found.map_err(|error| error.context(format_args!("list what is right below {prefix:?}")))? {
            Some(found) => Ok(found.into_iter().filter(|name| keys::check(name).is_ok()).collect()),
            None if self.inner.backend.over_http => {
                Err(self.no_place().context(format_args!("list what is right below {prefix:?}")))
            }
            None => Ok(Vec::new()),
        }
    }

    async fn below(&self, prefix: &str) -> object_store::Result<BTreeSet<String>> {
        let under = self.below_root(prefix).map_err(|error| super::bucket::generic(error.to_string()))?;
        let backend = &self.inner.backend;
        if let Some(directory) = &backend.directory {
            directory.stands().await?;
            return directory.names_below(&under).await;
        }
        let listed =
            backend.objects.list_with_delimiter(Some(&under).filter(|path| !path.as_ref().is_empty())).await?;
        Ok(listed.common_prefixes.iter().filter_map(|path| Some(path.filename()?.to_owned())).collect())
    }

    /// An object of ours; others may have put theirs beside it, whose names are no keys.
    fn listed(&self, object: &ObjectMeta) -> Option<Listed> {
        let key = key_below(&self.inner.backend.root, &object.location)?;
        keys::check(key).ok().map(|()| Listed { key: key.to_owned(), bytes: object.size })
    }

    /// All keys below `prefix` from behind `after` on, at most `keys_max` of them; more are an error.
    pub async fn list_all(
        &self,
        prefix: &str,
        after: Option<&str>,
        keys_max: usize,
        patience: &Patience,
    ) -> Result<Vec<Listed>> {
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let last = all.last().map(|listed| listed.key.clone());
            // A store that is read whole for every page is read once: all of it is held anyway.
            let in_order = self.inner.in_order.load(Ordering::Relaxed);
            let count = if in_order { PAGE_KEYS_MAX } else { keys_max + 1 - all.len() };
            let page = self.list_some(prefix, last.as_deref().or(after), count, patience).await?;
            all.extend(page.objects);
            if all.len() > keys_max {
                let text = format!("list {prefix:?}: more than {keys_max} keys");
                return Err(Error::invalid(text).with_code(TOO_MANY_KEYS));
            }
            if !page.more {
                return Ok(all);
            }
        }
    }
}

fn key_below<'a>(root: &str, path: &'a StorePath) -> Option<&'a str> {
    match root {
        "" => Some(path.as_ref()),
        root => path.as_ref().strip_prefix(root)?.strip_prefix('/'),
    }
}
