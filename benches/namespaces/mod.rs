//! Short ways to make namespaces and to write to them, and the middle of what was measured.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::lineage::BranchRequest;
use shoal::engine::{Engine, EngineConfig};
use shoal::model::ids::{NamespaceName, Project};
use shoal::platform::clock::SystemClock;
use shoal::platform::disk::Disk;
use shoal::platform::random::SystemRandom;

/// A place for a data directory: in the current directory's file system, or where `TMPDIR` says.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::var("TMPDIR").unwrap_or_else(|_| ".".into())).unwrap()
}

/// An engine on the data directory in `dir` that lets go of no past state for want of room. Its index may be suspect, and nothing
/// is swept yet: that is done while it serves.
pub fn open(dir: &Path, disk: Arc<dyn Disk>) -> Arc<Engine> {
    let config = EngineConfig { retention_disk_percent: 100, ..EngineConfig::new(dir.join("data")) };
    Engine::open(config, disk, Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap()
}

pub fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

pub async fn write(engine: &Arc<Engine>, namespace: &str, body: Json) {
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("a write") };
    engine.write(&name(namespace), *request).await.unwrap();
}

pub async fn branch(engine: &Arc<Engine>, from: &str, to: &str) {
    engine.branch(&name(from), &name(to), BranchRequest::default()).await.unwrap();
}

pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
