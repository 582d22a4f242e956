//! Reads one incarnation's name, manifests, tags and mark from their files, whatever the index remembers.

use std::collections::BTreeMap;

use super::{Remedy, Report, restore};
use crate::engine::Engine;
use crate::engine::layout::numbered;
use crate::engine::lineage::holdings::{generations, read_deleted, read_tags};
use crate::engine::merge::{kept_by, unreadable};
use crate::engine::namespace::answers::{AnswersFile, answer_files};
use crate::engine::namespace::head::{Head, objects};
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::{Manifest, decode_manifest};
use crate::meta::ObjectFact;
use crate::model::ids::{NamespaceName, Nsid};

/// What was read of one incarnation.
#[derive(Default)]
pub(super) struct Chain {
    pub head: Option<Manifest>,
    /// Every object that is named, and whether the newest state needs it.
    pub objects: BTreeMap<String, (ObjectFact, bool)>,
}

impl Engine {
    pub(super) fn check_chain(
        &self,
        report: &mut Report,
        label: &str,
        name: &NamespaceName,
        nsid: Nsid,
    ) -> Result<Chain> {
        let context = &self.context;
        let mut chain = Chain::default();
        let all = generations(context, nsid)?;
        let known = restore::cached_head(context, nsid);
        let newest = all.iter().copied().max().max(known.as_ref().map(|(manifest, _)| manifest.generation));
        let Some(newest) = newest else {
            let what = format!("incarnation {nsid} has no manifest");
            report.add(label, self.below_root(&context.layout.manifests(nsid)), what, Remedy::FromACopy);
            return Ok(chain);
        };
        let mut before: Option<(Manifest, u32)> = None;
        for generation in (0..=newest).filter(|n| all.contains(n) || *n == newest) {
            let path = context.layout.manifest(nsid, generation);
            let is_head = generation == newest;
            let read =
                context.disk.read(&path).map_err(Error::reading).context(|| format!("read {}", numbered(generation)));
            match read.and_then(|bytes| decode_manifest(&bytes, &numbered(generation))) {
                Ok((manifest, crc32c)) => {
                    let what = broken_link(before.as_ref(), &manifest, nsid, generation);
                    let remedy = if is_head { Remedy::FromACopy } else { Remedy::Lost };
                    if let Some(what) = what {
                        report.add(label, self.below_root(&path), what, remedy);
                    }
                    chain.take(&manifest, is_head);
                    report.past += u64::from(!is_head);
                    before = Some((manifest, crc32c));
                }
                Err(error) => {
                    let restored = known.as_ref().filter(|(manifest, _)| is_head && manifest.generation == newest);
                    let remedy = match (is_head, restored) {
                        (true, Some((manifest, _))) => {
                            chain.take(manifest, true);
                            Remedy::Restore
                        }
                        (true, None) => Remedy::FromACopy,
                        (false, _) => Remedy::Lost,
                    };
                    report.add(label, self.below_root(&path), error.message(), remedy.of(&error));
                }
            }
        }
        if context.meta.is_trusted() {
            // Nothing but the index says that there was one between others.
            let known = context.meta.history(nsid)?.into_iter().map(|(generation, _)| generation);
            let missing: Vec<u64> = known.filter(|generation| !all.contains(generation)).collect();
            // By now the head is above all that it replaced.
            let head = if missing.is_empty() { None } else { Head::load(context, nsid).ok().flatten() };
            for missing in missing {
                if head.as_ref().is_some_and(|head| missing >= head.manifest.generation) {
                    context.meta.distrust("the index has a past state that never was");
                    continue;
                }
                let file = self.below_root(&context.layout.manifest(nsid, missing));
                report.add(label, file, "it is missing", Remedy::Forget);
            }
        }
        self.check_marks(report, label, name, nsid, &mut chain)?;
        Ok(chain)
    }

    fn check_marks(
        &self,
        report: &mut Report,
        label: &str,
        name: &NamespaceName,
        nsid: Nsid,
        chain: &mut Chain,
    ) -> Result<()> {
        let context = &self.context;
        for tag in read_tags(context, nsid)? {
            match tag {
                Ok(tag) => {
                    if let Some(manifest) = &tag.manifest {
                        chain.take(manifest, false);
                        report.past += 1;
                    }
                }
                Err(error) => {
                    let file = self.below_root(&context.layout.tags(nsid));
                    let what = format!("a tag cannot be asked for: {}", error.message());
                    report.add(label, file, what, Remedy::Lost.of(&error));
                }
            }
        }
        for (_, base) in kept_by(context, nsid)? {
            base.iter().for_each(|base| chain.take(base, false));
        }
        for (source, path, error) in unreadable(context, nsid)? {
            let what = if source == nsid { "it is not synced" } else { "merges that compare with it are refused" };
            report.add(
                label,
                self.below_root(&path),
                format!("{what}: {}", error.message()),
                Remedy::DropDamaged.of(&error),
            );
        }
        if self.catalog.find(name) != Some(nsid) {
            let what = match read_deleted(context, nsid) {
                Ok(Some(_)) => None,
                Ok(None) => Some("the mark of its deletion is missing".to_owned()),
                Err(error) => Some(error.message().to_owned()),
            };
            let file = self.below_root(&context.layout.deleted_mark(nsid));
            what.into_iter().for_each(|what| report.add(label, file.clone(), what, Remedy::Restore));
        }
        Ok(())
    }
}

impl Engine {
    /// Files of answers to repeated writes: nothing names them, so one that is missing is not known to be.
    pub(super) fn check_answers(&self, report: &mut Report, label: &str, nsid: Nsid) -> Result<()> {
        for (file, error) in self.damaged_answers(nsid)? {
            let path = self.below_root(&file.path(&self.context, nsid));
            let what = format!("{}; writes with an Idempotency-Key are refused", error.message());
            report.add(label, path, what, Remedy::DropDamaged.of(&error));
        }
        Ok(())
    }

    /// Those that cannot be read, and why.
    pub(super) fn damaged_answers(&self, nsid: Nsid) -> Result<Vec<(AnswersFile, Error)>> {
        let context = &self.context;
        let files = answer_files(context, nsid, u64::MAX)?.into_iter().filter(|file| !file.is_over(context));
        Ok(files.filter_map(|file| file.read(context, nsid).err().map(|error| (file, error))).collect())
    }
}

impl Chain {
    fn take(&mut self, manifest: &Manifest, is_head: bool) {
        for object in objects(manifest) {
            let key = object.key.clone();
            self.objects.entry(key).or_insert((object, false)).1 |= is_head;
        }
        if is_head {
            self.head = Some(manifest.clone());
        }
    }
}

/// Why a manifest cannot be the one after `before`.
fn broken_link(before: Option<&(Manifest, u32)>, manifest: &Manifest, nsid: Nsid, generation: u64) -> Option<String> {
    if manifest.nsid != nsid || manifest.generation != generation {
        return Some(format!(
            "is generation {} of {}, expected generation {generation} of {nsid}",
            manifest.generation, manifest.nsid
        ));
    }
    let (before, crc32c) = before.filter(|(before, _)| before.generation + 1 == generation)?;
    let parent = manifest.parent.as_ref()?;
    (parent.commit_id != before.commit_id || parent.crc32c != *crc32c).then(|| {
        let expected = (before.commit_id, crc32c);
        format!(
            "follows commit {} with checksum {:08x}, expected {} with {:08x}",
            parent.commit_id, parent.crc32c, expected.0, expected.1
        )
    })
}
