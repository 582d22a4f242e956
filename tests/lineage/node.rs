//! The node of these tests: past states of it, and the objects on its disk.

use std::path::Path;

use shoal::engine::Engine;
use shoal::error::Result;
use shoal::model::as_of::AsOf;
use shoal::platform::disk::Disk;

pub use crate::support::{DAY_MS, Documents, Node, all, branch, documents, name, put, write};

pub const HOUR_MS: u64 = 3_600_000;

/// Every file below the tier but the one that says what it is.
pub fn objects(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec!["/data/store".to_owned()];
    while let Some(dir) = open.pop() {
        for entry in node.disk.list(Path::new(&dir)).unwrap() {
            let path = format!("{dir}/{}", entry.name);
            if entry.is_dir { open.push(path) } else { found.push(path) }
        }
    }
    found.retain(|path| path != "/data/store/_format.json");
    found
}

pub fn at(engine: &Engine, namespace: &str, as_of: AsOf) -> Result<Documents> {
    engine.view_at(&name(namespace), Some(&as_of)).map(|view| documents(&view))
}
