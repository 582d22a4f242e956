//! Whether a node has several projects, so that what there is of it is shared.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::ids::Project;

/// The projects that names were bound in, since the node was opened.
#[derive(Debug, Default)]
pub struct Projects {
    first: OnceLock<Project>,
    are_several: AtomicBool,
}

impl Projects {
    pub fn note(&self, project: &Project) {
        if self.first.get_or_init(|| project.clone()) != project {
            self.are_several.store(true, Ordering::Relaxed);
        }
    }

    pub fn are_several(&self) -> bool {
        self.are_several.load(Ordering::Relaxed)
    }
}
