//! Looks at files that are known to be damaged again, and heals what is as it should be: the file is listed no more, and who was
//! set apart or reads it is opened anew.

use std::collections::BTreeSet;

use super::{DELETED, Report, Scope};
use crate::engine::Engine;
use crate::engine::damage::{Damage, DamagedKind};
use crate::engine::layout::number_of;
use crate::engine::lineage::GONE;
use crate::engine::lineage::holdings::{read_deleted, read_manifest, read_tags};
use crate::engine::merge::kept_by;
use crate::engine::missing_logs::is_open;
use crate::engine::namespace::head::{Head, objects};
use crate::error::{Error, Result};
use crate::format::names::parse_name;
use crate::meta::ObjectFact;
use crate::model::ids::{NamespaceName, Nsid};

impl Engine {
    /// Looks at the damaged files that are due to be looked at again. Blocking.
    pub(in crate::engine) fn look_again(&self) {
        for damage in self.context.damages.due() {
            self.look_at(&damage);
        }
    }

    /// Lists what a check found, and heals what it did not find any more.
    pub(super) fn list_damage(&self, report: &Report, scope: &Scope) {
        for problem in &report.problems {
            let namespace = problem.namespace.trim_end_matches(DELETED);
            self.context.report_damage(namespace, &problem.file, &Error::corrupt(problem.what.clone()));
        }
        let found: BTreeSet<&str> = report.problems.iter().map(|problem| problem.file.as_str()).collect();
        for damage in self.context.damages.list() {
            let is_ours = damage.namespaces.iter().filter_map(|name| parse_name(name)).any(|name| scope.has(&name));
            if !found.contains(damage.file.as_str()) && (is_ours || *scope == Scope::Store) {
                self.look_at(&damage);
            }
        }
    }

    fn look_at(&self, damage: &Damage) {
        if !self.is_sound(damage).unwrap_or(false) || !self.reopen(damage) {
            return;
        }
        self.context.healed(&damage.file);
        // What could not be read was not counted.
        if !self.context.are_counts_whole() {
            self.context.meta.distrust("a file that was damaged is back");
        }
    }

    /// Whether a file that was damaged is as it should be, or needed by nobody any more.
    fn is_sound(&self, damage: &Damage) -> Result<bool> {
        let context = &self.context;
        let file = damage.file.as_str();
        if let Some(key) = file.strip_prefix("store/").filter(|_| damage.kind != DamagedKind::Other) {
            return self.is_object_sound(damage, key);
        }
        if damage.kind == DamagedKind::Name {
            return damage.namespaces.iter().filter_map(|name| parse_name(name)).try_fold(true, |sound, name| {
                Ok(sound && self.catalog.look_again(&*context.disk, &context.layout, &name)?)
            });
        }
        if file == "store/_format.json" {
            return Ok(self.check_format().is_ok());
        }
        if let Some(dir) = file.strip_prefix("store/") {
            return context.tier.list(dir).map(|_| true);
        }
        let Some(rest) = file.strip_prefix("local/") else {
            // Whoever is opened reads it, and a check.
            return Ok(true);
        };
        let (nsid, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let Some(nsid) = nsid.parse().ok().map(Nsid) else { return Ok(true) };
        if !self.catalog.is_bound(nsid) && !context.kin().contains_key(&nsid) {
            return Ok(self.catalog.damaged().is_empty());
        }
        match damage.kind {
            DamagedKind::Tag => Ok(read_tags(context, nsid)?.iter().all(Result::is_ok)),
            DamagedKind::Base => Ok(kept_by(context, nsid)?.iter().all(|(_, base)| base.is_ok())),
            DamagedKind::Answers => Ok(self.damaged_answers(nsid)?.is_empty()),
            DamagedKind::Mark => Ok(self.catalog.is_bound(nsid) || read_deleted(context, nsid)?.is_some()),
            _ => {
                let Some(head) = Head::load(context, nsid)? else { return Ok(false) };
                let generation = number_of(rest).unwrap_or(head.manifest.generation);
                match read_manifest(context, nsid, generation) {
                    // Retention has let go of it.
                    Err(error) if error.code() == GONE => Ok(generation < head.manifest.generation),
                    read => read.map(|_| true),
                }
            }
        }
    }

    fn is_object_sound(&self, damage: &Damage, key: &str) -> Result<bool> {
        let context = &self.context;
        if context.meta.is_free(key)? {
            return Ok(true);
        }
        // What is here in part is a copy, and comes from the bucket again.
        if !context.tier.has(key, 0) && context.tier.cache().bytes_of(key).is_some() {
            return context.tier.cache().remove(key).map(|()| true);
        }
        // Whoever is opened reads it.
        if damage.kind == DamagedKind::Log && is_open(context, key) {
            return Ok(true);
        }
        let mut fact = None;
        for nsid in damage.namespaces.iter().filter_map(|name| self.catalog.find(&parse_name(name)?)) {
            if let Some(head) = Head::load(context, nsid)? {
                fact = fact.or_else(|| objects(&head.manifest).into_iter().find(|object| object.key == key));
            }
        }
        let fact = match fact {
            Some(fact) => fact,
            // A past state or a tag names it: it has checksums of its own.
            None => {
                let (bytes, crc32c) = context.tier.checksum(key)?;
                ObjectFact { key: key.to_owned(), bytes, crc32c }
            }
        };
        Ok(self.verify(&fact, 3).is_ok())
    }

    /// Opens anew who was set apart, and lets the others read the file by a mapping of its own. Whether that went well.
    fn reopen(&self, damage: &Damage) -> bool {
        if let Some(key) = damage.file.strip_prefix("store/")
            && let Err(error) = self.open_anew(&[key.to_owned()].into())
        {
            tracing::debug!(%error, key, "it is not read anew yet");
            return false;
        }
        let names: Vec<NamespaceName> = damage.namespaces.iter().filter_map(|name| parse_name(name)).collect();
        names.iter().all(|name| {
            let Some(nsid) = self.catalog.find(name) else { return true };
            // One that could not be read at all is not even set apart.
            if self.slots().has_open(name) {
                return true;
            }
            self.slots().remove(name);
            self.open_namespace(name, nsid).is_ok()
        })
    }
}
