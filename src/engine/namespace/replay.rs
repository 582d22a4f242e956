//! Applies logs to what segments make, frame by frame.

use std::sync::Arc;

use super::answers::Answers;
use super::intake::Intake;
use super::open::whole;
use super::state::State;
use crate::engine::analyzers::Analyzers;
use crate::engine::context::Context;
use crate::engine::recovery::replay_log;
use crate::engine::write::{Change, apply_patch};
use crate::error::{Error, Result};
use crate::format::answers::Answer;
use crate::format::log::FrameReader;
use crate::format::manifest::LogRef;
use crate::format::record::Record;
use crate::model::document::Document;
use crate::model::ids::{Origin, Version};

/// What is done about logs beside applying them.
#[derive(Default)]
pub(super) struct How<'a> {
    /// A frame waits until there is room for it.
    pub intake: Option<&'a mut Intake>,
    /// What cannot be applied is noted, and left out.
    pub lost: Option<&'a mut Lost>,
}

/// What an opening does without that cannot be had any more.
#[derive(Debug, Default)]
pub(in crate::engine) struct Lost {
    /// Which records of logs.
    pub records: Vec<String>,
    /// Changes of attributes of documents that are not there any more.
    pub patches: u64,
}

impl Lost {
    pub fn is_nothing(&self) -> bool {
        self.records.is_empty() && self.patches == 0
    }
}

/// Applies a log that a manifest names. Answers are left out: forks and past states have none.
pub(super) fn replay_named(
    context: &Context,
    state: &mut State,
    analysis: &mut Analyzers,
    log: &LogRef,
    how: &mut How<'_>,
) -> Result<()> {
    let path = context.tier.path(&log.key);
    replay_log(&*context.disk, &path, &log.key, (log.bytes, log.crc32c), 0, &mut |frame| {
        replay(state, analysis, frame, log.origin, None, how)
    })
}

/// Applies one frame of a log.
pub(super) fn replay(
    state: &mut State,
    analysis: &mut Analyzers,
    mut frame: FrameReader<'_>,
    origin: Origin,
    answers: Option<(&mut Answers, u64)>,
    how: &mut How<'_>,
) -> Result<()> {
    if let Some(intake) = &mut how.intake {
        intake.wait_for_room()?;
    }
    let version = Version { hlc: frame.hlc, origin };
    let counts = !frame.more && (frame.batch.records() > 0 || frame.batch.schema.is_some());
    if let (Some((answers, at_ms)), Some(entry)) = (answers, frame.batch.idempotency.take()) {
        answers.insert(Answer { entry, at_ms }, frame.hlc, None);
        state.tail.answers += 1;
    }
    let schema = frame.batch.schema.take().map(Arc::new);
    if let Some(schema) = &schema {
        state.change_schema(schema.clone());
    }
    let ids_reserved = frame.batch.ids_reserved;
    // A commit names a document once, so nothing in the frame asks for one that it has deleted.
    let mut deleted = Vec::new();
    for record in frame.batch {
        let change = match record? {
            Record::Delete { id } => Change::Delete { id },
            Record::Upsert { id, fields } => put(state, analysis, Document { id, version, fields, patch: None }),
            Record::Patch { id, base, changed } => {
                let current = state.document(&id)?;
                let is_base = |current: &&Arc<Document>| current.patch.is_some() || current.version == base;
                match (current.as_ref().filter(is_base), &mut how.lost) {
                    (Some(current), _) => put(state, analysis, apply_patch(current, &changed, version)),
                    (None, Some(lost)) => {
                        lost.patches += 1;
                        continue;
                    }
                    (None, None) => {
                        let what = match current {
                            Some(_) => "on top of another version of it",
                            None => "which does not exist",
                        };
                        return Err(Error::corrupt(format!("a patch of document {id}, {what}")));
                    }
                }
            }
        };
        state.replay_change(change, &mut deleted)?;
    }
    state.deleted(deleted, version);
    state.follow_commit(version, schema, ids_reserved, counts);
    if let Some(intake) = &mut how.intake {
        intake.follow(state.unflushed_bytes());
    }
    Ok(())
}

fn put(state: &State, analysis: &mut Analyzers, document: Document) -> Change {
    whole(&state.schema, analysis, document)
}
