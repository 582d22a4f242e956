//! Writes that the disk had no room for: how much the last one of each project takes. Who does not come back for a minute does not wait.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::setbacks::WAIT_MAX_MS;
use crate::format::names::parse_name;
use crate::model::ids::Project;

/// Of so many projects that is known.
const PROJECTS_MAX: usize = 1_024;

#[derive(Default)]
pub struct RefusedWrites(Mutex<BTreeMap<Project, Refused>>);

struct Refused {
    needs: u64,
    at_ms: u64,
}

impl Refused {
    fn is_fresh(&self, now: u64) -> bool {
        now.abs_diff(self.at_ms) < WAIT_MAX_MS
    }
}

impl RefusedWrites {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Project, Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write to a namespace found no room for so many bytes.
    pub fn note(&self, namespace: &str, needs: u64, now: u64) {
        let Some(name) = parse_name(namespace) else { return };
        let mut refused = self.lock();
        refused.retain(|_, refused| refused.is_fresh(now));
        if refused.len() < PROJECTS_MAX || refused.contains_key(&name.project) {
            refused.insert(name.project, Refused { needs, at_ms: now });
        }
    }

    /// One of so many bytes found some.
    pub fn forget(&self, namespace: &str, needs: u64) {
        let Some(name) = parse_name(namespace) else { return };
        let mut refused = self.lock();
        if refused.get(&name.project).is_some_and(|refused| refused.needs <= needs) {
            refused.remove(&name.project);
        }
    }

    /// What the last one of a project takes, where that was a moment ago.
    pub fn of(&self, project: &Project, now: u64) -> Option<u64> {
        self.lock().get(project).filter(|refused| refused.is_fresh(now)).map(|refused| refused.needs)
    }
}
