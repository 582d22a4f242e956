//! Names in the bucket: which there are, and binding one to an incarnation by put-if-absent.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::keys;
use crate::error::{Error, Result};
use crate::format::names::{Ended, NameBinding, decode_binding, encode_binding};
use crate::model::ids::{Hlc, NamespaceName, Nsid};
use crate::store::{Bucket, Outcome, Patience, commit};

/// The most projects and the most revisions of names that one node takes part in.
const PROJECTS_MAX: usize = 10_000;
const REVISIONS_MAX: usize = 1_000_000;

/// What a name means in the bucket, newest revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    pub rev: u64,
    /// `None`: the namespace was deleted.
    pub target: Option<Nsid>,
    /// Who lost the name last.
    pub ended: Option<Ended>,
    pub hlc: Hlc,
}

impl From<NameBinding> for Bound {
    fn from(NameBinding { rev, target, ended, hlc, .. }: NameBinding) -> Self {
        Bound { rev, target, ended, hlc }
    }
}

/// The newest revision of every name, without what it says.
pub async fn all(bucket: &Bucket, patience: &Patience) -> Result<BTreeMap<NamespaceName, u64>> {
    let newest = |(name, revs): (NamespaceName, Vec<u64>)| revs.last().map(|rev| (name, *rev));
    Ok(revisions(bucket, patience).await?.into_iter().filter_map(newest).collect())
}

/// The newest revision of one name.
pub async fn newest(bucket: &Bucket, name: &NamespaceName, patience: &Patience) -> Result<Option<u64>> {
    let below = format!("{}/{}", keys::names(&name.project), name.name);
    let listed = bucket.list_all(&below, None, REVISIONS_MAX, patience).await?;
    Ok(listed.iter().filter_map(|listed| keys::binding_of(&listed.key)).map(|(_, rev)| rev).max())
}

/// The newest revision of one name, after one that is known. While that is the newest it costs one request.
pub async fn newest_after(
    bucket: &Bucket,
    name: &NamespaceName,
    known: Option<u64>,
    patience: &Patience,
) -> Result<Option<u64>> {
    let next = known.map_or(0, |rev| rev + 1);
    match bucket.size(&keys::binding(name, next), patience).await? {
        None => Ok(known),
        Some(_) => Ok(newest(bucket, name, patience).await?.max(Some(next))),
    }
}

/// All revisions of every name, ascending, without what they say.
pub async fn revisions(bucket: &Bucket, patience: &Patience) -> Result<BTreeMap<NamespaceName, Vec<u64>>> {
    let mut found: BTreeMap<NamespaceName, Vec<u64>> = BTreeMap::new();
    let mut after: Option<String> = None;
    for _ in 0..PROJECTS_MAX {
        let page = bucket.list("", after.as_deref(), 1, patience).await?;
        let Some(first) = page.objects.first() else { return Ok(found) };
        let Some((project, behind)) = keys::project_of(&first.key) else {
            // What lies beside the projects, such as the format's file.
            after = Some(keys::behind(&first.key));
            continue;
        };
        let revisions = bucket.list_all(&keys::names(&project), None, REVISIONS_MAX, patience).await?;
        for (name, rev) in revisions.iter().filter_map(|listed| keys::binding_of(&listed.key)) {
            found.entry(name).or_default().push(rev);
        }
        after = Some(behind);
    }
    Err(Error::invalid(format!("{}: more than {PROJECTS_MAX} projects", bucket.name())))
}

/// What a revision says.
pub async fn read(bucket: &Bucket, name: &NamespaceName, rev: u64, patience: &Patience) -> Result<Option<Bound>> {
    let key = keys::binding(name, rev);
    let Some(bytes) = bucket.get(&key, patience).await? else { return Ok(None) };
    let binding = decode_binding(&bytes, &key)?;
    if binding.name != name.to_string() || binding.rev != rev {
        return Err(Error::corrupt(format!(
            "{key}: is revision {} of {}, expected revision {rev} of {name}",
            binding.rev, binding.name
        )));
    }
    Ok(Some(binding.into()))
}

/// Binds a name as its revision `rev`. Gives what that revision says then: another node may have been quicker.
pub async fn bind(
    bucket: &Bucket,
    name: &NamespaceName,
    rev: u64,
    (target, ended): (Option<Nsid>, Option<Ended>),
    hlc: Hlc,
    patience: &Patience,
) -> Result<Bound> {
    let key = keys::binding(name, rev);
    let binding = NameBinding::new(name, rev, target, hlc, ended);
    let bytes = Bytes::from(encode_binding(&binding)?);
    let bound = Bound::from(binding);
    // Another node that says the same has done this one's work.
    let is_mine = |found: &[u8]| Ok(decode_binding(found, &key)?.target == target);
    match commit(bucket, &|rev| keys::binding(name, rev), rev, bytes, &is_mine, patience).await? {
        Outcome::Won => Ok(bound),
        Outcome::Lost(found) => Ok(decode_binding(&found, &key)?.into()),
    }
}
