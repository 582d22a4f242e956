//! Which operation a method and path ask for, and what right it needs.

use super::auth::Scope;
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Project};

/// The code of errors about names in a URL, which are answered as plain text.
pub const BAD_NAME: &str = "bad_name";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Live,
    Ready,
    Metrics,
    NodeStatus,
    List(Project),
    /// Namespaces of a project and what they were branched from.
    Tree(Project),
    /// Deleted namespaces of a project that can be had back.
    Deleted(Project),
    /// Looks for damage at rest.
    Check,
    Repair,
    /// How far the node and its bucket are together.
    SyncStatus,
    /// Brings them together; names without more are of this project.
    Sync(Project),
    Namespace(NamespaceName, Operation),
}

/// What is asked of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Write,
    StartCopy,
    PollCopy(String),
    Query,
    Explain,
    /// `true`: the older shape of the first API version.
    Metadata(bool),
    UpdateMetadata,
    Schema,
    UpdateSchema,
    HintCacheWarm,
    Recall,
    Delete,
    WarmCache,
    PurgeCache,
    Status,
    Labels,
    Pin,
    Unpin,
    Checkpoint,
    Compact,
    Ids,
    Ttl,
    History,
    Tags,
    Tag(String),
    PutTag(String),
    DeleteTag(String),
    Undelete,
    Revert,
    Merging(Merging),
    Transfer(Transfer),
    /// Brings it and the bucket together.
    Sync,
}

impl Operation {
    /// Whether it is about a namespace as it is, which has to be open for that.
    pub fn uses_what_is_there(&self) -> bool {
        let makes_or_ends = [Operation::Create, Operation::Delete, Operation::Undelete];
        let is_apart = matches!(self, Operation::PollCopy(_) | Operation::Transfer(Transfer::Restore));
        !is_apart && !makes_or_ends.contains(self)
    }
}

/// What compares namespaces and merges them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merging {
    Diff,
    Merge,
    Conflicts,
    /// One conflict by its token, or all.
    Acknowledge(Option<String>),
    Replay(String),
}

/// What carries a namespace out or in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    Export,
    Import,
    Snapshot,
    Restore,
    Copy,
}

impl Route {
    /// A name for metrics and logs, from a closed set.
    pub fn name(&self) -> &'static str {
        let operation = match self {
            Route::Live => return "live",
            Route::Ready => return "ready",
            Route::Metrics => return "metrics",
            Route::NodeStatus => return "node_status",
            Route::List(_) => return "list",
            Route::Tree(_) => return "tree",
            Route::Deleted(_) => return "deleted",
            Route::Check => return "check",
            Route::Repair => return "repair",
            Route::SyncStatus => return "sync_status",
            Route::Sync(_) => return "sync",
            Route::Namespace(_, operation) => operation,
        };
        match operation {
            Operation::Create => "create",
            Operation::Write => "write",
            Operation::StartCopy => "start_copy",
            Operation::PollCopy(_) => "poll_copy",
            Operation::Query => "query",
            Operation::Explain => "explain",
            Operation::Metadata(_) => "metadata",
            Operation::UpdateMetadata => "update_metadata",
            Operation::Schema => "schema",
            Operation::UpdateSchema => "update_schema",
            Operation::HintCacheWarm => "hint_cache_warm",
            Operation::Recall => "recall",
            Operation::Delete => "delete",
            Operation::WarmCache => "warm_cache",
            Operation::PurgeCache => "purge_cache",
            Operation::Status => "status",
            Operation::Labels => "labels",
            Operation::Pin => "pin",
            Operation::Unpin => "unpin",
            Operation::Checkpoint => "checkpoint",
            Operation::Compact => "compact",
            Operation::Ids => "ids",
            Operation::Ttl => "ttl",
            Operation::History => "history",
            Operation::Tags => "tags",
            Operation::Tag(_) => "tag",
            Operation::PutTag(_) => "put_tag",
            Operation::DeleteTag(_) => "delete_tag",
            Operation::Undelete => "undelete",
            Operation::Revert => "revert",
            Operation::Merging(Merging::Diff) => "diff",
            Operation::Merging(Merging::Merge) => "merge",
            Operation::Merging(Merging::Conflicts) => "conflicts",
            Operation::Merging(Merging::Acknowledge(_)) => "acknowledge_conflict",
            Operation::Merging(Merging::Replay(_)) => "replay_conflict",
            Operation::Transfer(Transfer::Export) => "export",
            Operation::Transfer(Transfer::Import) => "import",
            Operation::Transfer(Transfer::Snapshot) => "snapshot",
            Operation::Transfer(Transfer::Restore) => "restore",
            Operation::Transfer(Transfer::Copy) => "copy",
            Operation::Sync => "sync_namespace",
        }
    }

    /// The right that a token must have.
    pub fn scope(&self) -> Scope {
        use Operation::{
            Explain, HintCacheWarm, History, Metadata, PollCopy, Query, Recall, Schema, Status, Tag, Tags,
        };
        match self {
            Route::Live | Route::Ready | Route::Metrics => Scope::Read,
            Route::List(_) | Route::Tree(_) | Route::Deleted(_) => Scope::Read,
            Route::NodeStatus | Route::Check | Route::Repair | Route::SyncStatus | Route::Sync(_) => Scope::Admin,
            Route::Namespace(
                _,
                PollCopy(_) | Query | Explain | Metadata(_) | Schema | HintCacheWarm | Recall | Status | History
                | Tags | Tag(_),
            ) => Scope::Read,
            Route::Namespace(_, Operation::Merging(Merging::Diff | Merging::Conflicts)) => Scope::Read,
            Route::Namespace(_, Operation::Transfer(Transfer::Export | Transfer::Snapshot)) => Scope::Read,
            Route::Namespace(
                _,
                Operation::Checkpoint | Operation::Compact | Operation::WarmCache | Operation::PurgeCache,
            ) => Scope::Admin,
            Route::Namespace(..) => Scope::Write,
        }
    }

    /// The project that a token must be good for; `None` for node-wide operations.
    pub fn project(&self) -> Option<&Project> {
        match self {
            Route::List(project) | Route::Tree(project) | Route::Deleted(project) => Some(project),
            Route::Namespace(name, _) => Some(&name.project),
            _ => None,
        }
    }
}

/// Reads a path: `/v1|v2/...` for the default project, `/{org}/{project}/v1|v2/...` for any other. Unknown paths are
/// NotFound, known ones with another method `method_not_allowed`, bad names `bad_name`.
pub fn route(method: &str, path: &str) -> Result<Route> {
    // A base URL may end in a slash; an empty part further in is a name that was left out, and must not let what follows
    // stand for it.
    let parts = path.trim_matches('/').split('/').map(decode).collect::<Result<Vec<String>>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let unknown = || Error::not_found(format!("no such path: {method} {path}"));
    let bad = |error: Error| error.with_code(BAD_NAME);
    // What is read may be asked for without its body.
    let is_head = method == "HEAD";
    let method = if is_head { "GET" } else { method };
    let node = |route: Route| pick(method, path, vec![("GET", route)]);
    let (project, rest) = match parts.as_slice() {
        ["livez"] => return node(Route::Live),
        ["readyz"] => return node(Route::Ready),
        ["metrics"] => return node(Route::Metrics),
        [version @ ("v1" | "v2"), rest @ ..] => (Project::default_project(), (*version, rest)),
        [org, project, version @ ("v1" | "v2"), rest @ ..] => {
            (Project::new(org, project).map_err(bad)?, (*version, rest))
        }
        _ => return Err(unknown()),
    };
    let (version, name, tail) = match rest {
        ("v1", ["status"]) => return node(Route::NodeStatus),
        ("v1", ["namespaces"]) => return node(Route::List(project)),
        ("v1", ["tree"]) => return node(Route::Tree(project)),
        ("v1", ["deleted"]) => return node(Route::Deleted(project)),
        ("v1", ["check"]) => return pick(method, path, vec![("POST", Route::Check)]),
        ("v1", ["sync"]) => {
            return pick(method, path, vec![("GET", Route::SyncStatus), ("POST", Route::Sync(project))]);
        }
        ("v1", ["repair"]) => return pick(method, path, vec![("POST", Route::Repair)]),
        (version, ["namespaces", name, tail @ ..]) => (version, project.namespace(name).map_err(bad)?, tail),
        _ => return Err(unknown()),
    };
    let operations = operations(version, tail);
    // The first API version read and wrote documents here; what is gone is unknown, not a wrong method.
    let gone = version == "v1" && tail.is_empty() && matches!(method, "GET" | "POST");
    if operations.is_empty() || gone {
        return Err(unknown());
    }
    let operation = pick(method, path, operations)?;
    if is_head && matches!(operation, Operation::Transfer(_)) {
        // Its body is the work, and a snapshot begins with a flush.
        return Err(wrong_method("HEAD", path, "GET"));
    }
    if path.ends_with('/') && operation == Operation::Merging(Merging::Acknowledge(None)) {
        // A token was left out; letting go of everything must be meant.
        return Err(unknown());
    }
    Ok(Route::Namespace(name, operation))
}

/// The methods of a path below a namespace, and what each does; none when there is no such path.
fn operations(version: &str, tail: &[&str]) -> Vec<(&'static str, Operation)> {
    match (version, tail) {
        ("v1", []) => vec![("PUT", Operation::Create), ("DELETE", Operation::Delete)],
        (_, []) => vec![("POST", Operation::Write), ("DELETE", Operation::Delete)],
        ("v2", ["async"]) => vec![("POST", Operation::StartCopy)],
        ("v1", ["operations", token]) => vec![("GET", Operation::PollCopy((*token).to_owned()))],
        (_, ["query"]) => vec![("POST", Operation::Query)],
        (_, ["explain_query"]) => vec![("POST", Operation::Explain)],
        (version, ["metadata"]) => {
            vec![("GET", Operation::Metadata(version == "v1")), ("PATCH", Operation::UpdateMetadata)]
        }
        (_, ["schema"]) => vec![("GET", Operation::Schema), ("POST", Operation::UpdateSchema)],
        (_, ["hint_cache_warm"]) => vec![("GET", Operation::HintCacheWarm)],
        (_, ["_debug", "recall"]) => vec![("POST", Operation::Recall)],
        (_, ["_debug", "warm_cache"]) => vec![("GET", Operation::WarmCache)],
        (_, ["_debug", "purge_cache"]) => vec![("GET", Operation::PurgeCache)],
        (_, ["status"]) => vec![("GET", Operation::Status)],
        (_, ["labels"]) => vec![("PUT", Operation::Labels)],
        (_, ["pin"]) => vec![("PUT", Operation::Pin), ("DELETE", Operation::Unpin)],
        (_, ["checkpoint"]) => vec![("POST", Operation::Checkpoint)],
        (_, ["compact"]) => vec![("POST", Operation::Compact)],
        (_, ["ids"]) => vec![("POST", Operation::Ids)],
        (_, ["ttl"]) => vec![("PUT", Operation::Ttl)],
        (_, ["history"]) => vec![("GET", Operation::History)],
        (_, ["tags"]) => vec![("GET", Operation::Tags)],
        (_, ["tags", tag]) => {
            let tag = || (*tag).to_owned();
            vec![
                ("GET", Operation::Tag(tag())),
                ("PUT", Operation::PutTag(tag())),
                ("DELETE", Operation::DeleteTag(tag())),
            ]
        }
        (_, ["undelete"]) => vec![("POST", Operation::Undelete)],
        (_, ["revert"]) => vec![("POST", Operation::Revert)],
        ("v1", ["diff"]) => vec![("POST", Operation::Merging(Merging::Diff))],
        ("v1", ["merge"]) => vec![("POST", Operation::Merging(Merging::Merge))],
        ("v1", ["conflicts"]) => vec![
            ("GET", Operation::Merging(Merging::Conflicts)),
            ("DELETE", Operation::Merging(Merging::Acknowledge(None))),
        ],
        ("v1", ["conflicts", token]) => {
            vec![("DELETE", Operation::Merging(Merging::Acknowledge(Some((*token).to_owned()))))]
        }
        ("v1", ["conflicts", token, "replay"]) => {
            vec![("POST", Operation::Merging(Merging::Replay((*token).to_owned())))]
        }
        ("v1", ["export"]) => vec![("GET", Operation::Transfer(Transfer::Export))],
        ("v1", ["import"]) => vec![("POST", Operation::Transfer(Transfer::Import))],
        ("v1", ["snapshot"]) => vec![("GET", Operation::Transfer(Transfer::Snapshot))],
        ("v1", ["restore"]) => vec![("PUT", Operation::Transfer(Transfer::Restore))],
        ("v1", ["sync"]) => vec![("POST", Operation::Sync)],
        ("v1", ["copy"]) => vec![("POST", Operation::Transfer(Transfer::Copy))],
        _ => Vec::new(),
    }
}

/// What a method does where these can be used.
fn pick<T>(method: &str, path: &str, offered: Vec<(&'static str, T)>) -> Result<T> {
    let methods: Vec<&str> = offered.iter().map(|(method, _)| *method).collect();
    if let Some((_, found)) = offered.into_iter().find(|(offer, _)| *offer == method) {
        return Ok(found);
    }
    Err(wrong_method(method, path, &methods.join(" or ")))
}

fn wrong_method(method: &str, path: &str, expected: &str) -> Error {
    Error::invalid(format!("{path} does not take {method}, expected {expected}")).with_code("method_not_allowed")
}

/// Undoes percent-encoding; `+` is a space, as one of the SDKs writes it.
pub fn decode(part: &str) -> Result<String> {
    let bad = || Error::invalid("Invalid URL: percent-encoding is malformed").with_code(BAD_NAME);
    let bytes = part.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok()).ok_or_else(bad)?;
            out.push(u8::from_str_radix(hex, 16).map_err(|_| bad())?);
            at += 3;
        } else {
            out.push(if byte == b'+' { b' ' } else { byte });
            at += 1;
        }
    }
    String::from_utf8(out).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::{Operation, Route, Scope, route};

    #[test]
    fn a_prefix_names_organisation_and_project() {
        let Ok(Route::Namespace(name, operation)) = route("POST", "/acme/search/v2/namespaces/docs/query") else {
            panic!("expected a namespace")
        };
        assert_eq!((name.to_string().as_str(), operation), ("acme/search/docs", Operation::Query));
        let plain = route("POST", "/v2/namespaces/docs").unwrap();
        assert_eq!(plain.project().map(ToString::to_string).as_deref(), Some("default/default"));
        assert_eq!(plain.scope(), Scope::Write);
    }

    fn refusal(method: &str, path: &str) -> (u16, String) {
        let error = route(method, path).unwrap_err();
        (crate::api::error::status_of(&error), error.message().to_owned())
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for name in ["a%2Fb", "%2e%2e", "..", "a..b", ".hidden", "_x", "-x", "%00", "a%20b", "a+b", "%zz", "%", "%ff"]
        {
            let error = route("GET", &format!("/v2/namespaces/{name}/metadata")).unwrap_err();
            assert_eq!(error.code(), super::BAD_NAME, "{name}");
            assert!(error.message().starts_with("Invalid URL: "), "{error}");
        }
        assert!(refusal("DELETE", "/v1/namespaces//pin").1.contains("Namespace is empty"));
        assert!(refusal("POST", "/acme//v2/namespaces/a/query").1.contains("project is empty"));
        assert!(route("GET", "//v1/namespaces/").is_ok());
        let long = "x".repeat(129);
        assert!(refusal("GET", &format!("/v2/namespaces/{long}/metadata")).1.contains("too long, max 128"));
        assert!(refusal("GET", "/..%2f/b/v2/namespaces/a/metadata").1.contains("organisation"));
        assert!(refusal("GET", "/v2/namespaces/a b/metadata").1.contains("contains invalid characters"));
    }

    #[test]
    fn a_token_that_was_left_out_does_not_stand_for_all_conflicts() {
        assert_eq!(refusal("DELETE", "/v1/namespaces/docs/conflicts/").0, 404);
        assert!(route("DELETE", "/v1/namespaces/docs/conflicts").is_ok());
        assert!(route("GET", "/v1/namespaces/docs/conflicts/").is_ok());
    }

    #[test]
    fn a_wrong_method_is_told_the_right_one_and_what_is_gone_is_unknown() {
        assert_eq!(refusal("DELETE", "/v2/namespaces/docs/query").0, 405);
        assert!(refusal("PUT", "/v1/namespaces/docs/schema").1.contains("expected GET or POST"));
        assert_eq!(refusal("GET", "/v2/namespaces/docs").0, 405);
        assert_eq!(refusal("POST", "/livez").0, 405);
        for method in ["GET", "HEAD", "POST"] {
            assert_eq!(refusal(method, "/v1/namespaces/docs").0, 404, "{method}");
        }
        assert_eq!(refusal("GET", "/v3/namespaces").0, 404);
        assert!(route("HEAD", "/v1/namespaces").is_ok());
        for carried in ["export", "snapshot"] {
            let path = format!("/v1/namespaces/docs/{carried}");
            assert_eq!(refusal("HEAD", &path), (405, format!("{path} does not take HEAD, expected GET")));
            assert!(route("GET", &path).is_ok());
        }
    }
}
