//! Names in the bucket: which there are, and binding one to an incarnation by put-if-absent.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Selection, keys};
use crate::engine::lineage::There;
use crate::error::{Error, Kind, Result};
use crate::format::names::{Ended, NameBinding, decode_binding, encode_binding};
use crate::model::ids::{Hlc, NamespaceName, Nsid, Project};
use crate::store::{Bucket, Listed, Outcome, Patience, REPLACED, TOO_MANY_KEYS, commit};

/// The most projects of one bucket, each of which is listed for itself.
const PROJECTS_MAX: usize = 1_000_000;
/// The most revisions of names of one project. One that has more is not brought together with anything, and the others are.
const REVISIONS_MAX: usize = 1_000_000;

/// What a name means in the bucket, newest revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    pub rev: u64,
    /// `None`: the namespace was deleted.
    pub target: Option<Nsid>,
    /// Who lost the name last.
    pub ended: Option<Ended>,
    /// Who lost it before that, in this node's binding only.
    pub before: Vec<Ended>,
    pub hlc: Hlc,
}

impl Bound {
    /// What it says, as who keeps this node's bindings is told.
    pub fn as_met(&self) -> There {
        There { target: self.target, ended: self.ended.as_ref().map(|ended| ended.nsid), hlc: self.hlc }
    }

    /// What is known of the loss of the name by an incarnation.
    pub fn lost(&self, nsid: Nsid) -> Option<&Ended> {
        self.ended.iter().chain(&self.before).find(|ended| ended.nsid == nsid)
    }
}

impl From<NameBinding> for Bound {
    fn from(NameBinding { rev, target, ended, before, hlc, .. }: NameBinding) -> Self {
        Bound { rev, target, ended, before, hlc }
    }
}

/// Names below a place of the bucket that could not be listed.
#[derive(Clone, Debug)]
pub struct Unread {
    below: String,
    error: Arc<Error>,
}

impl Unread {
    fn has(&self, name: &NamespaceName) -> bool {
        format!("{}/", keys::bindings(name)).starts_with(&format!("{}/", self.below))
    }

    pub fn is_in(&self, project: &Project) -> bool {
        format!("{}/", self.below).starts_with(&format!("{project}/"))
    }

    fn error(&self) -> Error {
        self.error.duplicate().context("list the names in the bucket")
    }
}

/// Why not all names that a selection is about are known.
pub fn failed(unread: &[Unread], selection: &Selection) -> Option<Error> {
    unread.iter().find(|unread| selection.is_about(|name| unread.has(name))).map(Unread::error)
}

/// What the names in the bucket are: the revisions of each, ascending, without what they say.
#[derive(Debug, Default)]
pub struct Revisions {
    pub known: BTreeMap<NamespaceName, Vec<u64>>,
    pub unread: Vec<Unread>,
}

/// The newest revision of each.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    pub known: BTreeMap<NamespaceName, u64>,
    pub unread: Vec<Unread>,
}

impl Newest {
    /// An error where nobody could say what there is of the name.
    pub fn of(&self, name: &NamespaceName) -> Result<Option<u64>> {
        let unread = || self.unread.iter().find(|unread| unread.has(name)).map(Unread::error);
        self.known.get(name).copied().map_or_else(|| unread().map_or(Ok(None), Err), |rev| Ok(Some(rev)))
    }
}

/// The newest revision of every name, without what it says.
pub async fn all(bucket: &Bucket, patience: &Patience) -> Result<Newest> {
    let newest = |(name, revs): (NamespaceName, Vec<u64>)| revs.last().map(|rev| (name, *rev));
    let Revisions { known, unread } = revisions(bucket, patience).await?;
    Ok(Newest { known: known.into_iter().filter_map(newest).collect(), unread })
}

/// The newest revision of one name.
pub async fn newest(bucket: &Bucket, name: &NamespaceName, patience: &Patience) -> Result<Option<u64>> {
    let listed = bucket.list_all(&keys::bindings(name), None, REVISIONS_MAX, patience).await?;
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

/// All revisions of every name. Objects of namespaces are not listed for it, and nothing that no key of ours begins with is entered.
pub async fn revisions(bucket: &Bucket, patience: &Patience) -> Result<Revisions> {
    revisions_up_to(bucket, REVISIONS_MAX, patience).await
}

async fn revisions_up_to(bucket: &Bucket, of_project_max: usize, patience: &Patience) -> Result<Revisions> {
    let mut found = Revisions::default();
    let mut projects = 0;
    for org in bucket.names_below("", patience).await?.into_iter().filter(|part| keys::is_org(part)) {
        let Some(parts) = found.unless_unread(bucket, &org, bucket.names_below(&org, patience).await)? else {
            continue;
        };
        for project in parts.iter().filter_map(|part| Project::new(&org, part).ok()) {
            projects += 1;
            if projects > PROJECTS_MAX {
                return Err(Error::invalid(format!("{}: more than {PROJECTS_MAX} projects", bucket.name())));
            }
            found.list(bucket, &project, of_project_max, patience).await?;
        }
    }
    Ok(found)
}

/// A project that has objects in the bucket, where there is one. What cannot be listed is none of ours as far as anybody knows.
pub async fn any_project(bucket: &Bucket, patience: &Patience) -> Result<Option<Project>> {
    let listed = async |below: &str| match bucket.names_below(below, patience).await {
        Err(error) if !below.is_empty() && is_of_one_place(bucket, &error) => Ok(Vec::new()),
        listed => listed,
    };
    for org in listed("").await?.into_iter().filter(|part| keys::is_org(part)) {
        for project in listed(&org).await?.iter().filter_map(|part| Project::new(&org, part).ok()) {
            if listed(&project.to_string()).await?.iter().any(|kind| kind == "names" || kind == "namespaces") {
                return Ok(Some(project));
            }
        }
    }
    Ok(None)
}

/// Whether an error may be one place's only. In a directory one that is below may be another user's, or on a bad block; over HTTP all
/// are asked of the same store. That there is too much below it is any place's own.
pub fn is_of_one_place(bucket: &Bucket, error: &Error) -> bool {
    bucket.is_directory() && error.code() != REPLACED || error.code() == TOO_MANY_KEYS
}

/// Whether an error about one object of the bucket may be that object's only: what it says, or where it is.
pub fn is_of_one_object(bucket: &Bucket, error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) || is_of_one_place(bucket, error)
}

impl Revisions {
    /// Those of one project.
    async fn list(&mut self, bucket: &Bucket, project: &Project, max: usize, patience: &Patience) -> Result<()> {
        let below = keys::names(project);
        match bucket.list_all(&below, None, max, patience).await {
            Ok(listed) => self.extend(&listed),
            Err(error) if !is_of_one_place(bucket, &error) => return Err(error),
            Err(error) if error.code() == TOO_MANY_KEYS => {
                self.unless_unread(bucket, &below, Err::<(), _>(error))?;
            }
            // Perhaps it is of one name only.
            Err(_) => {
                let names = bucket.names_below(&below, patience).await;
                for name in self.unless_unread(bucket, &below, names)?.unwrap_or_default() {
                    let below = format!("{below}/{name}");
                    let listed = bucket.list_all(&below, None, max, patience).await;
                    if let Some(listed) = self.unless_unread(bucket, &below, listed)? {
                        self.extend(&listed);
                    }
                }
            }
        }
        Ok(())
    }

    fn extend(&mut self, listed: &[Listed]) {
        for (name, rev) in listed.iter().filter_map(|listed| keys::binding_of(&listed.key)) {
            self.known.entry(name).or_default().push(rev);
        }
    }

    /// What cannot be read of one place is kept in mind, and the others are listed.
    fn unless_unread<T>(&mut self, bucket: &Bucket, below: &str, listed: Result<T>) -> Result<Option<T>> {
        match listed {
            Err(error) if is_of_one_place(bucket, &error) => {
                tracing::warn!(%error, below, "names in the bucket are not listed, the others are");
                self.unread.push(Unread { below: below.to_owned(), error: Arc::new(error) });
                Ok(None)
            }
            listed => listed.map(Some),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{keys, revisions_up_to};
    use crate::error::Kind;
    use crate::model::ids::Project;
    use crate::platform::clock::ManualClock;
    use crate::platform::random::SeededRandom;
    use crate::store::{Backend, Bucket, Patience};

    #[tokio::test]
    async fn a_project_with_too_many_names_costs_no_other_its_own() {
        let (clock, random) = (Arc::new(ManualClock::at(0)), Arc::new(SeededRandom::new(1)));
        let bucket = Bucket::over(Backend::in_memory(), clock, random);
        let [many, few] = ["many", "few"].map(|project| Project::new("acme", project).unwrap());
        for (project, count) in [(&many, 5), (&few, 4)] {
            for at in 0..count {
                let name = project.namespace(&format!("docs{at}")).unwrap();
                bucket.put(&keys::binding(&name, 0), "x".into(), &Patience::ASKED).await.unwrap();
            }
        }
        let found = revisions_up_to(&bucket, 4, &Patience::ASKED).await.unwrap();
        assert_eq!(found.known.keys().filter(|name| name.project == few).count(), 4);
        assert!(found.known.keys().all(|name| name.project == few));
        assert!(found.unread.iter().all(|unread| unread.is_in(&many) && unread.error().kind() == Kind::Invalid));
        assert_eq!(found.unread.len(), 1);
    }
}
