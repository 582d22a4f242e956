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
    format!("{}/{}", bindings(name), numbered(rev))
}

/// What all revisions of a name's binding lie below.
pub fn bindings(name: &NamespaceName) -> String {
    format!("{}/{}", names(&name.project), name.name)
}

/// The claim of a range of integer ids' blocks.
pub fn id_range(range: u32) -> String {
    format!("_ids/{}", numbered(range.into()))
}

/// An entry of what a node, by its first range, told of the blocks that it gave.
pub fn id_told(range: u32, number: u64) -> String {
    format!("_ids/{range:020}/{}", numbered(number))
}

/// What all incarnations of a project lie below.
pub fn namespaces(project: &Project) -> String {
    format!("{project}/namespaces")
}

/// What is between the bucket's root and projects.
pub fn is_org(part: &str) -> bool {
    Project::new(part, "any").is_ok()
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

#[cfg(test)]
mod tests {
    use super::{binding, binding_of, id_range, is_org, tag, tag_of, tags};
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
    fn what_is_shoals_own_and_what_file_systems_put_beside_it_is_no_organisation() {
        assert!(is_org("acme") && is_org("default"));
        for other in ["_format.json", "_ids", "_probe", "lost+found", ".Trash-1000", ".", "v2", ""] {
            assert!(!is_org(other), "{other}");
        }
        assert!(!is_org(id_range(7).split('/').next().unwrap()));
    }
}
