//! Tokens of copies in the background: how many may be under way, and what became of those that ended.
//!
//! Invariants:
//! - A copy that is under way has its token, whatever else is begun or ends.
//! - One copy at a time is under way to a name.
//! - Places and memory for outcomes are bounded for each project, and for all of them: where there is no more room, the outcome
//!   that goes is the oldest of a project of which most are remembered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Project};

/// The most copies to namespaces of one project that are under way, and the most on the node.
const UNDER_WAY_OF_PROJECT_MAX: usize = 4;
const UNDER_WAY_MAX: usize = 32;
/// The most outcomes of one project's copies that are remembered for who asks for them, and the most on the node.
const OUTCOMES_OF_PROJECT_MAX: usize = 128;
const OUTCOMES_MAX: usize = 1_024;

/// The code of an error for a name that is being copied to.
pub const COPY_UNDER_WAY: &str = "copy_under_way";

/// An asynchronous copy.
#[derive(Clone, Debug)]
pub struct CopyStatus {
    pub started_ms: u64,
    /// Documents copied so far, and how many there are; `None` for copies that copy no documents.
    pub progress: Option<(u64, u64)>,
    /// When it ended, and how many documents it copied.
    pub finished: Option<(u64, std::result::Result<u64, Arc<Error>>)>,
}

/// How far a deep copy has come, in documents.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub done: AtomicU64,
    pub total: AtomicU64,
}

/// What is known of a copy from its beginning on.
pub(super) struct Begun {
    pub to: NamespaceName,
    pub started_ms: u64,
    /// `None` for copies that copy no documents.
    pub progress: Option<Arc<Progress>>,
}

struct Ended {
    token: String,
    copy: Begun,
    ended_ms: u64,
    outcome: std::result::Result<u64, Arc<Error>>,
}

/// The copies of one node.
#[derive(Default)]
pub(super) struct CopyTokens {
    under_way: BTreeMap<String, Begun>,
    /// In the order in which they ended.
    ended: VecDeque<Ended>,
}

impl CopyTokens {
    /// Lists a copy as under way. Conflict with code `copy_under_way` where one goes to that name already, Busy beyond a bound.
    pub fn begin(&mut self, token: &str, copy: Begun) -> Result<()> {
        let Begun { to, .. } = &copy;
        if let Some((other, _)) = self.under_way.iter().find(|(_, known)| known.to == *to) {
            return Err(Error::conflict(format!("namespace {to} is being copied to already, by operation {other}"))
                .with_code(COPY_UNDER_WAY)
                .with_hint("ask for that operation until it has ended, or copy to another name"));
        }
        let wait = "send the same again when one of them has ended";
        let of_project = self.under_way.values().filter(|known| known.to.project == to.project).count();
        if of_project >= UNDER_WAY_OF_PROJECT_MAX {
            return Err(Error::busy(format!(
                "{of_project} copies to namespaces of {} are under way, at most {UNDER_WAY_OF_PROJECT_MAX} are",
                to.project
            ))
            .with_hint(wait));
        }
        let all = self.under_way.len();
        if all >= UNDER_WAY_MAX {
            return Err(Error::busy(format!("{all} copies are under way on this node, at most {UNDER_WAY_MAX} are"))
                .with_hint(wait));
        }
        self.under_way.insert(token.to_owned(), copy);
        Ok(())
    }

    /// Remembers what became of a copy that was under way.
    pub fn end(&mut self, token: &str, ended_ms: u64, outcome: Result<u64>) {
        let Some((token, copy)) = self.under_way.remove_entry(token) else { return };
        let project = copy.to.project.clone();
        self.ended.push_back(Ended { token, copy, ended_ms, outcome: outcome.map_err(Arc::new) });
        if self.ended.iter().filter(|ended| ended.copy.to.project == project).count() > OUTCOMES_OF_PROJECT_MAX {
            self.forget_oldest(&project);
        }
        if self.ended.len() > OUTCOMES_MAX {
            let mut counts: BTreeMap<&Project, usize> = BTreeMap::new();
            for ended in &self.ended {
                *counts.entry(&ended.copy.to.project).or_default() += 1;
            }
            let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(project, _)| project.clone());
            if let Some(most) = most {
                self.forget_oldest(&most);
            }
        }
    }

    fn forget_oldest(&mut self, project: &Project) {
        if let Some(at) = self.ended.iter().position(|ended| ended.copy.to.project == *project) {
            self.ended.remove(at);
        }
    }

    /// What is known of a copy to `to`.
    pub fn status(&self, to: &NamespaceName, token: &str) -> Option<CopyStatus> {
        let (copy, finished) = match self.under_way.get(token) {
            Some(copy) => (copy, None),
            None => {
                let ended = self.ended.iter().find(|ended| ended.token == token)?;
                (&ended.copy, Some((ended.ended_ms, ended.outcome.clone())))
            }
        };
        let counted = |progress: &Arc<Progress>| {
            (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed))
        };
        let progress = copy.progress.as_ref().map(counted);
        (copy.to == *to).then_some(CopyStatus { started_ms: copy.started_ms, progress, finished })
    }
}
