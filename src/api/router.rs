//! Which operation a method and path ask for, and what right it needs.

use super::auth::Scope;
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Project};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Live,
    Ready,
    Metrics,
    NodeStatus,
    List(Project),
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
    /// `_debug/warm_cache` and `_debug/purge_cache`.
    DebugCache,
    Status,
    Labels,
    Pin,
    Unpin,
    Checkpoint,
    Compact,
    Ids,
}

impl Route {
    /// The right that a token must have.
    pub fn scope(&self) -> Scope {
        use Operation::{Explain, HintCacheWarm, Metadata, PollCopy, Query, Recall, Schema, Status};
        match self {
            Route::Live | Route::Ready | Route::Metrics | Route::List(_) => Scope::Read,
            Route::NodeStatus => Scope::Admin,
            Route::Namespace(
                _,
                PollCopy(_) | Query | Explain | Metadata(_) | Schema | HintCacheWarm | Recall | Status,
            ) => Scope::Read,
            Route::Namespace(_, Operation::Checkpoint | Operation::Compact | Operation::DebugCache) => Scope::Admin,
            Route::Namespace(..) => Scope::Write,
        }
    }

    /// The project that a token must be good for; `None` for node-wide operations.
    pub fn project(&self) -> Option<&Project> {
        match self {
            Route::List(project) => Some(project),
            Route::Namespace(name, _) => Some(&name.project),
            _ => None,
        }
    }
}

/// Reads a path: `/v1|v2/...` for the default project, `/{org}/{project}/v1|v2/...` for any other. Unknown paths and
/// methods are NotFound.
pub fn route(method: &str, path: &str) -> Result<Route> {
    let parts = path.split('/').filter(|part| !part.is_empty()).map(decode).collect::<Result<Vec<String>>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let unknown = || Error::not_found(format!("no such path: {method} {path}"));
    let (project, rest) = match parts.as_slice() {
        ["livez"] => return Ok(Route::Live),
        ["readyz"] => return Ok(Route::Ready),
        ["metrics"] => return Ok(Route::Metrics),
        [version @ ("v1" | "v2"), rest @ ..] => (Project::default_project(), (*version, rest)),
        [org, project, version @ ("v1" | "v2"), rest @ ..] => (Project::new(org, project)?, (*version, rest)),
        _ => return Err(unknown()),
    };
    let (version, name, tail) = match rest {
        ("v1", ["status"]) if method == "GET" => return Ok(Route::NodeStatus),
        ("v1", ["namespaces"]) if method == "GET" => return Ok(Route::List(project)),
        (version, ["namespaces", name, tail @ ..]) => (version, project.namespace(name)?, tail),
        _ => return Err(unknown()),
    };
    let operation = match (method, version, tail) {
        ("POST", "v2", []) => Operation::Write,
        ("DELETE", _, []) => Operation::Delete,
        ("PUT", "v1", []) => Operation::Create,
        ("POST", "v2", ["async"]) => Operation::StartCopy,
        ("GET", "v1", ["operations", token]) => Operation::PollCopy((*token).to_owned()),
        ("POST", _, ["query"]) => Operation::Query,
        ("POST", _, ["explain_query"]) => Operation::Explain,
        ("GET", version, ["metadata"]) => Operation::Metadata(version == "v1"),
        ("PATCH", _, ["metadata"]) => Operation::UpdateMetadata,
        ("GET", _, ["schema"]) => Operation::Schema,
        ("POST", _, ["schema"]) => Operation::UpdateSchema,
        ("GET", _, ["hint_cache_warm"]) => Operation::HintCacheWarm,
        ("POST", _, ["_debug", "recall"]) => Operation::Recall,
        ("GET", _, ["_debug", "warm_cache" | "purge_cache"]) => Operation::DebugCache,
        ("GET", _, ["status"]) => Operation::Status,
        ("PUT", _, ["labels"]) => Operation::Labels,
        ("PUT", _, ["pin"]) => Operation::Pin,
        ("DELETE", _, ["pin"]) => Operation::Unpin,
        ("POST", _, ["checkpoint"]) => Operation::Checkpoint,
        ("POST", _, ["compact"]) => Operation::Compact,
        ("POST", _, ["ids"]) => Operation::Ids,
        _ => return Err(unknown()),
    };
    Ok(Route::Namespace(name, operation))
}

/// Undoes percent-encoding; `+` is a space, as one of the SDKs writes it.
fn decode(part: &str) -> Result<String> {
    let bad = || Error::invalid("Invalid URL: percent-encoding is malformed");
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
        assert!(route("GET", "/v2/namespaces/a%2Fb/metadata").is_err());
        assert!(route("GET", "/v1/namespaces/docs").is_err());
    }
}
