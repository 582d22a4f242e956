//! Tags: a name for one commit, kept until it is deleted.

use super::holdings::read_tags;
use crate::engine::Engine;
use crate::engine::layout::numbered;
use crate::engine::namespace::head::{keys, reclaim};
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::Manifest;
use crate::format::marks::{TagFile, VERSION, encode_tag};
use crate::model::as_of::AsOf;
use crate::model::ids::{CommitId, NamespaceName, Project};
use crate::platform::disk::{create_dirs, publish};

/// The most tags of one namespace.
pub const TAGS_MAX: usize = 1_024;

/// A tag and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub name: String,
    pub at_ms: u64,
    pub generation: u64,
    pub commit_id: CommitId,
    pub data_seq: u64,
}

impl Engine {
    /// Names a state; the newest one when `as_of` is `None`. Refused with `exists` when the tag is there.
    pub async fn tag(&self, name: &NamespaceName, tag: &str, as_of: Option<&AsOf>) -> Result<Tag> {
        Project::default_project().namespace(tag).map_err(|_| {
            Error::invalid(format!("tag '{tag}': expected 1 to 128 of A-Za-z0-9-_., begun with A-Za-z0-9"))
        })?;
        let namespace = self.namespace(name)?;
        let shared = namespace.share().await?;
        tokio::task::block_in_place(|| {
            let manifest = match as_of {
                None => shared.manifest.clone(),
                Some(as_of) => self.past_manifest(&namespace, as_of)?,
            };
            let tags = read_tags(&self.context, namespace.nsid)?;
            let known = tags.iter().flatten().find(|file| file.tag == tag);
            if known.is_some_and(|file| file.manifest.is_some()) {
                return Err(Error::invalid(format!("tag '{tag}' of {name} is there already"))
                    .with_code("exists")
                    .with_hint("delete it first, or choose another name"));
            }
            if tags.iter().flatten().filter(|file| file.manifest.is_some()).count() >= TAGS_MAX {
                return Err(Error::invalid(format!(
                    "{name} has {TAGS_MAX} tags, which is the most; delete one first"
                )));
            }
            let rev = known.map_or(0, |file| file.rev + 1);
            let file = TagFile {
                format: VERSION,
                tag: tag.to_owned(),
                rev,
                at_ms: self.context.clock.now_millis(),
                manifest: Some(manifest),
            };
            self.put_tag(&namespace.nsid, &file)?;
            describe(&file).ok_or_else(|| Error::internal("a tag without a state"))
        })
    }

    /// Deletes a tag. What it alone kept is reclaimed.
    pub async fn untag(&self, name: &NamespaceName, tag: &str) -> Result<()> {
        let namespace = self.namespace(name)?;
        let _shared = namespace.share().await?;
        tokio::task::block_in_place(|| {
            let tags = read_tags(&self.context, namespace.nsid)?;
            let known = tags.into_iter().flatten().find(|file| file.tag == tag);
            let Some(TagFile { rev, manifest: Some(manifest), .. }) = known else {
                return Err(Error::not_found(format!("{name} has no tag '{tag}'")));
            };
            let at_ms = self.context.clock.now_millis();
            let file = TagFile { format: VERSION, tag: tag.to_owned(), rev: rev + 1, at_ms, manifest: None };
            self.put_tag(&namespace.nsid, &file)?;
            let free = self.context.meta.release(&keys(&manifest))?;
            reclaim(&self.context, &free);
            Ok(())
        })
    }

    /// The tags of a namespace, in order of name.
    pub fn tags(&self, name: &NamespaceName) -> Result<Vec<Tag>> {
        let namespace = self.namespace(name)?;
        let files = read_tags(&self.context, namespace.nsid)?;
        Ok(files.iter().flatten().filter_map(describe).collect())
    }

    /// Makes a revision durable, its objects counted first.
    fn put_tag(&self, nsid: &crate::model::ids::Nsid, file: &TagFile) -> Result<()> {
        let context = &self.context;
        let _commits = context.commits.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = context.layout.tags(*nsid).join(&file.tag);
        create_dirs(&*context.disk, &dir).context(|| format!("create {}", dir.display()))?;
        context.meta.hold(&file.manifest.as_ref().map(keys).unwrap_or_default())?;
        let path = dir.join(numbered(file.rev));
        publish(&*context.disk, &path, &encode_tag(file)?).context(|| format!("write {}", path.display()))?;
        if let Some(last) = file.rev.checked_sub(1) {
            // Best effort: the newest revision is what counts.
            let _ = context.disk.remove(&dir.join(numbered(last)));
        }
        Ok(())
    }
}

fn describe(file: &TagFile) -> Option<Tag> {
    let Manifest { generation, commit_id, data_seq, .. } = file.manifest.as_ref()?;
    Some(Tag {
        name: file.tag.clone(),
        at_ms: file.at_ms,
        generation: *generation,
        commit_id: *commit_id,
        data_seq: *data_seq,
    })
}
