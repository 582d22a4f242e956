//! What somebody waits for: when the pass is over, all that was acknowledged before is in the bucket, under whatever name, and what is
//! here is of who has the name there.
//!
//! - Who deletes a namespace looks at what was committed after that, who commits looks at its name after that: one of the two always
//!   sees the other.
//! - What had to give way was part of the namespace, and is sent with it; by a later pass if this one does not come to it.

use std::collections::BTreeMap;

use super::namespace::Done;
use super::{Attached, Pass, Selection, Sync, binding, names};
use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;

/// How often one pass goes on with a name that others bind meanwhile.
const ATTEMPTS: usize = 16;

impl Sync {
    /// Brings a name together, and where somebody waits what is kept of it under other names; the error is that of any of them.
    pub(super) async fn bring(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        in_bucket: &BTreeMap<NamespaceName, u64>,
        selection: &Selection,
        pass: &mut Pass,
    ) -> Result<()> {
        let mut all = vec![name.clone()];
        let mut at = 0;
        while let Some(next) = all.get(at).cloned() {
            let (began, rev) = (self.clock.now_millis(), in_bucket.get(&next).copied());
            let done = match selection.is_unasked() {
                true => self.bring_together(attached, &next, rev).await,
                false => self.settle(attached, &next, rev, selection).await,
            };
            pass.namespaces.insert(next.clone(), done.as_ref().cloned().map_err(Error::duplicate));
            if let Err(error) = self.note(&next, began, done) {
                if next != *name {
                    let error = error.duplicate().context(format_args!("send what is kept of {name} as {next}"));
                    pass.namespaces.insert(name.clone(), Err(error));
                }
                return Err(error);
            }
            if !selection.is_unasked() {
                let kept = self.kept_of(&next)?.into_iter();
                all.extend(kept.filter(|kept| !selection.excludes(kept) && !all.contains(kept)).collect::<Vec<_>>());
            }
            at += 1;
        }
        Ok(())
    }

    /// Brings a name together, `rev` being what was listed of it, until it means in the bucket what it was settled by.
    async fn settle(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        mut rev: Option<u64>,
        selection: &Selection,
    ) -> Result<Done> {
        if !selection.is_whole() {
            // Names were listed some time ago.
            rev = self.newest_rev(attached, name, rev).await?;
        }
        let mut done = Done::default();
        for _ in 0..ATTEMPTS {
            done.add(self.bring_together(attached, name, rev).await?);
            let newest = self.newest_rev(attached, name, rev).await?;
            if newest == rev {
                return Ok(done);
            }
            rev = newest;
        }
        Err(binding::overtaken(name))
    }

    /// The newest revision of a name, after one that is known.
    async fn newest_rev(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        known: Option<u64>,
    ) -> Result<Option<u64>> {
        let newest = names::newest_after(&self.bucket, name, known, &self.options.patience).await?;
        if let (Some((names, _)), Some(newest)) = (&mut attached.names, newest) {
            names.insert(name.clone(), newest);
        }
        Ok(newest)
    }
}
