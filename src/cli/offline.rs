//! Work on a data directory itself, under its lock, as its owner where this is root.

use std::path::Path;
use std::sync::Arc;

use super::engine_runtime;
use crate::engine::{Engine, EngineConfig};
use crate::error::{Error, Result};
use crate::platform::clock::SystemClock;
use crate::platform::disk::Disk as _;
use crate::platform::owner::AsOwner;
use crate::platform::random::SystemRandom;
use crate::platform::real_disk::RealDisk;

/// Opens a data directory that is there and works on it. Nothing that was begun in the background goes on afterwards.
pub(super) fn offline<T>(data_dir: &Path, work: impl AsyncFnOnce(&Arc<Engine>) -> Result<T>) -> Result<T> {
    // A mistyped path must not become a new, empty data directory that is found to be whole.
    let is_ours = |name: &str| matches!(name, "node.json" | "meta.redb" | "local");
    if RealDisk.list(data_dir).map_or(true, |entries| !entries.iter().any(|entry| is_ours(&entry.name))) {
        return Err(Error::not_found(format!("{} is not a Shoal data directory", data_dir.display())));
    }
    // Who serves a directory made its files; the directory itself may have been made by somebody else.
    let (data_dir, owner) = AsOwner::of(data_dir, "node.json")?;
    let runtime = engine_runtime()?;
    let done = runtime.block_on(async {
        let open = || {
            let config = EngineConfig::new(data_dir);
            Engine::open(config, Arc::new(RealDisk), Arc::new(SystemClock), Arc::new(SystemRandom))
        };
        let engine = tokio::task::block_in_place(open)?;
        work(&engine).await
    });
    // A merge may go on: it ends, or is cut off, before root is back.
    drop(runtime);
    drop(owner);
    done
}
