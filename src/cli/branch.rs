//! `shoal branch`, `shoal branches`: a namespace of another's state, and the tree of them.

use std::collections::BTreeMap;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::http::{Client, Target, namespace};
use super::output;
use crate::error::Result;

#[derive(Args)]
pub struct Branch {
    /// The namespace to branch from
    from: String,
    /// The branch's name
    #[arg(value_parser = namespace)]
    to: String,
    /// A past state to begin with: a generation, a commit, a tag, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "STATE")]
    as_of: Option<String>,
    /// Delete the branch after this long, such as 90s, 15m, 2h, 7d
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Branch {
    pub(super) async fn run(self) -> Result<()> {
        let mut source = json!({"source_namespace": self.from});
        if let Some(as_of) = self.as_of {
            source["as_of"] = as_of.into();
        }
        if let Some(ttl) = self.ttl {
            source["ttl"] = ttl.into();
        }
        let body = json!({ "branch_from_namespace": source }).to_string();
        let path = format!("/v2/namespaces/{}", self.to);
        Client::new(&self.target)?.json(Method::POST, &path, body.into(), None).await?;
        output::print(&format!("{} is a branch of {}\n", self.to, self.from))
    }
}

#[derive(Args)]
pub struct Branches {
    /// Only this namespace and what was branched from it
    namespace: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Branches {
    pub(super) async fn run(self) -> Result<()> {
        let mut client = Client::new(&self.target)?;
        let answer = client.json(Method::GET, "/v1/tree", bytes::Bytes::new(), None).await?;
        if self.json {
            return output::print_json(&answer);
        }
        output::print(&drawn(&answer, self.namespace.as_deref()))
    }
}

/// The tree in lines: each branch below its parent.
fn drawn(answer: &Value, only: Option<&str>) -> String {
    let nodes = answer["namespaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut children: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut roots = Vec::new();
    for node in nodes {
        match node["parent"].as_str() {
            _ if only.is_some_and(|only| node["name"] == *only) => roots.push(node),
            Some(parent) => children.entry(parent).or_default().push(node),
            None if only.is_none() => roots.push(node),
            None => {}
        }
    }
    let mut out = String::new();
    // Depth first without recursion: trees may be as deep as users make them.
    let mut open: Vec<Place> =
        roots.into_iter().rev().map(|node| Place { node, before: None, is_last: true }).collect();
    while let Some(Place { node, before, is_last }) = open.pop() {
        let name = node["name"].as_str().unwrap_or_default();
        if let Some(before) = &before {
            out.push_str(before);
            out.push_str(if is_last { "└── " } else { "├── " });
        }
        out.push_str(name);
        if node["parent_deleted"] == true {
            out.push_str("  (its parent was deleted)");
        }
        if let Some(at) = node["expires_at"].as_str() {
            out.push_str(&format!("  (expires {at})"));
        }
        out.push('\n');
        let below = children.get(name).map(Vec::as_slice).unwrap_or_default();
        let before = match before {
            None => String::new(),
            Some(before) => before + if is_last { "    " } else { "│   " },
        };
        for (at, child) in below.iter().enumerate().rev() {
            open.push(Place { node: child, before: Some(before.clone()), is_last: at + 1 == below.len() });
        }
    }
    out
}

/// A namespace that is still to be drawn.
struct Place<'a> {
    node: &'a Value,
    /// What its line begins with; `None` for roots.
    before: Option<String>,
    is_last: bool,
}

#[cfg(test)]
mod tests {
    use super::drawn;
    use serde_json::json;

    #[test]
    fn branches_are_drawn_below_their_parents() {
        let node = |name: &str, parent: Option<&str>| json!({"name": name, "parent": parent});
        let mut lost = node("lost", None);
        lost["parent_deleted"] = true.into();
        let nodes = [
            node("a", None),
            node("b", Some("a")),
            node("c", Some("b")),
            node("d", Some("a")),
            lost,
            node("z", None),
        ];
        let answer = json!({ "namespaces": nodes });
        assert_eq!(drawn(&answer, None), "a\n├── b\n│   └── c\n└── d\nlost  (its parent was deleted)\nz\n");
        assert_eq!(drawn(&answer, Some("b")), "b\n└── c\n");
    }
}
