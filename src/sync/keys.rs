//! Where the things that are no segment's or log's lie in a bucket. Objects have the same keys there as in the tier.

use crate::engine::layout::{number_of, numbered, prefix};
use crate::model::ids::{NamespaceName, Nsid, Project};

/// A manifest of the bucket's chain of an incarnation.
pub fn manifest(project: &Project, nsid: Nsid, generation: u64) -> String {
    format!("{}/{}", manifests(project, nsid), numbered(generation))
}

/// What all of them lie below.
pub fn manifests(project: &Project, nsid: Nsid) -> String {
    format!("{}/manifests", prefix(project, nsid))
}

/// The hint at the newest one.
pub fn current(project: &Project, nsid: Nsid) -> String {
    format!("{}/CURRENT", prefix(project, nsid))
}

/// The list of what a fence condemned.
pub fn sweep(project: &Project, nsid: Nsid, token: u64) -> String {
    format!("{}/sweeps/{token:016x}.json", prefix(project, nsid))
}

/// What all holds on an incarnation's objects lie below.
pub fn holds(project: &Project, owner: Nsid) -> String {
    format!("{}/holds", prefix(project, owner))
}

/// Those of one holder.
pub fn holds_of(project: &Project, owner: Nsid, holder: Nsid) -> String {
    format!("{}/{holder}", holds(project, owner))
}

/// One revision of a hold.
pub fn hold(project: &Project, owner: Nsid, holder: Nsid, rev: u64) -> String {
    format!("{}/{}", holds_of(project, owner, holder), numbered(rev))
}

/// What all tags of an incarnation lie below.
pub fn tags(project: &Project, nsid: Nsid) -> String {
    format!("{}/tags", prefix(project, nsid))
}

/// One revision of a tag.
pub fn tag(project: &Project, nsid: Nsid, tag: &str, rev: u64) -> String {
    format!("{}/{tag}/{}", tags(project, nsid), numbered(rev))
}

/// The tag and the revision in a key below [`tags`].
pub fn tag_of(project: &Project, below: &str, key: &str) -> Option<(String, u64)> {
    let (tag, file) = key.strip_prefix(below)?.strip_prefix('/')?.split_once('/')?;
    project.namespace(tag).ok()?;
    Some((tag.to_owned(), number_of(file)?))
}

/// What all bindings of a project's names lie below.
pub fn names(project: &Project) -> String {
    format!("{project}/names")
}

/// One revision of a name's binding.
pub fn binding(name: &NamespaceName, rev: u64) -> String {
    format!("{}/{}/{}", names(&name.project), name.name, numbered(rev))
}

/// The claim of a range of integer ids' blocks.
pub fn id_range(range: u32) -> String {
    format!("_ids/{}", numbered(range.into()))
}

/// What to go on behind after a key that is of no project: what is Shoal's own beside them is passed over at once.
pub fn behind(key: &str) -> String {
    match key.split_once('/') {
        Some((first, _)) if first.starts_with('_') => format!("{first}/zzzz"),
        _ => key.to_owned(),
    }
}

/// The name and the revision in a key that [`binding`] made.
pub fn binding_of(key: &str) -> Option<(NamespaceName, u64)> {
    let mut parts = key.split('/');
    let project = Project::new(parts.next()?, parts.next()?).ok()?;
    let (kind, name, file) = (parts.next()?, parts.next()?, parts.next()?);
    if kind != "names" || parts.next().is_some() {
        return None;
    }
    Some((project.namespace(name).ok()?, number_of(file)?))
}

/// The project in any key, and a key behind all of that project's.
pub fn project_of(key: &str) -> Option<(Project, String)> {
    let mut parts = key.split('/');
    let project = Project::new(parts.next()?, parts.next()?).ok()?;
    parts.next()?;
    let behind = format!("{project}/zzzz");
    Some((project, behind))
}

#[cfg(test)]
mod tests {
    use super::{behind, binding, binding_of, id_range, manifest, names, project_of, tag, tag_of, tags};
    use crate::model::ids::{Nsid, Project};
    use uuid::Uuid;

    #[test]
    fn bindings_are_read_as_they_were_written_and_nothing_else_is() {
        let name = Project::new("acme", "search").unwrap().namespace("docs").unwrap();
        assert_eq!(binding_of(&binding(&name, 7)), Some((name, 7)));
        for wrong in ["", "a/b/names/c", "a/b/names/c/7.json", "a/b/namespaces/c/00000000000000000007.json"] {
            assert_eq!(binding_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tags_are_read_as_they_were_written_and_nothing_else_is() {
        let (project, nsid) = (Project::default_project(), Nsid(Uuid::from_u128(1)));
        let below = tags(&project, nsid);
        assert_eq!(tag_of(&project, &below, &tag(&project, nsid, "v1.0", 7)), Some(("v1.0".into(), 7)));
        for wrong in ["", "/v1", "/v1/7.json", "/.x/00000000000000000007.json", "/a/b/00000000000000000007.json"] {
            assert_eq!(tag_of(&project, &below, &format!("{below}{wrong}")), None, "{wrong}");
        }
    }

    #[test]
    fn every_key_of_a_project_is_before_the_one_behind_it() {
        let project = Project::new("acme", "search").unwrap();
        let name = project.namespace("docs").unwrap();
        let manifest = manifest(&project, Nsid(Uuid::from_u128(1)), 0);
        for key in [binding(&name, 0), manifest, format!("{}/~", names(&project))] {
            let (found, behind) = project_of(&key).unwrap();
            assert!(found == project && key < behind, "{key}");
        }
        assert_eq!(project_of("_format.json"), None);
        assert_eq!(project_of(&id_range(7)), None);
        assert!(id_range(u32::MAX) < behind(&id_range(0)));
        for own in ["_format.json", "acme/notes.txt"] {
            assert_eq!(behind(own), own);
        }
    }
}
