//! The states that lost in merges: listed, acknowledged, written again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;
use uuid::Uuid;

use crate::engine::Engine;
use crate::engine::context::Context;
use crate::error::{Context as _, Error, Result};
use crate::format::conflicts::{ConflictsFile, Loser, Side, decode_conflicts, encode_conflicts};
use crate::model::ids::{DocId, NamespaceName};
use crate::model::schema::Metric;
use crate::model::value_render::{id_json, to_json};
use crate::model::write::{Row, WriteOutcome, WriteRequest};

/// A state that lost, for who looks at it.
#[derive(Clone, Debug, PartialEq)]
pub struct LostState {
    pub token: Uuid,
    pub id: DocId,
    /// Whether it was the target's own.
    pub was_ours: bool,
    /// `org/project/name` of what was merged, and when.
    pub source: String,
    pub at_ms: u64,
    pub policy: String,
    /// Attributes that lost, where others were kept; empty when the whole state did.
    pub attributes: Vec<String>,
    /// Values by name; `None` for a deletion.
    pub fields: Option<BTreeMap<String, Json>>,
}

impl Engine {
    /// Gives every state that lost and was not acknowledged to `each`, oldest merge first, until that fails. Blocking.
    pub fn conflicts(&self, name: &NamespaceName, mut each: impl FnMut(LostState) -> Result<()>) -> Result<()> {
        let namespace = self.namespace(name)?;
        // Two nodes that joined the same objects apart have a state in two.
        let mut listed = BTreeSet::new();
        for key in namespace.published().conflicts.iter() {
            let file = read(&self.context, key)?;
            for loser in file.losers.iter().filter(|loser| listed.insert(loser.token)) {
                each(shown(&file, loser)?)?;
            }
        }
        Ok(())
    }

    /// Lets go of a state that lost, or of all of them. Gives how many went. NotFound when there is no such state.
    pub async fn acknowledge(self: &Arc<Self>, name: &NamespaceName, token: Option<Uuid>) -> Result<u64> {
        let namespace = self.namespace_to_change(name)?;
        self.to_the_end(|_| async move { namespace.drop_losers(token).await }).await
    }

    /// Writes a state that lost again, as the newest one of its document, or as a document of its own under `id`; then it is
    /// acknowledged. A deletion deletes.
    pub async fn replay(
        self: &Arc<Self>,
        name: &NamespaceName,
        token: Uuid,
        id: Option<Json>,
    ) -> Result<WriteOutcome> {
        let namespace = self.namespace_to_change(name)?;
        let mut found = None;
        tokio::task::block_in_place(|| {
            self.conflicts(name, |lost| {
                found = found.take().or_else(|| (lost.token == token).then_some(lost));
                Ok(())
            })
        })?;
        let lost = found.ok_or_else(|| no_such(&name.to_string(), token))?;
        if lost.fields.is_none() && id.is_some() {
            return Err(Error::invalid("id: the state that lost is a deletion, which cannot be written elsewhere")
                .with_hint("leave out `id` to delete the document"));
        }
        let target = id.unwrap_or_else(|| id_json(&lost.id));
        let request = match lost.fields {
            None => WriteRequest { deletes: vec![target], ..WriteRequest::default() },
            Some(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
                // Where the namespace has no vectors any more, the write says so itself.
                let metric: Option<Metric> = self.view(name)?.schema.metric;
                WriteRequest { upserts: vec![Row { id: target, fields }], metric, ..WriteRequest::default() }
            }
        };
        self.to_the_end(|_| async move {
            let outcome = namespace.write(&request).await?;
            namespace.drop_losers(Some(token)).await?;
            Ok(outcome)
        })
        .await
    }
}

pub(in crate::engine) fn read(context: &Context, key: &str) -> Result<ConflictsFile> {
    decode_conflicts(&context.tier.read(key)?, key).context(|| "read conflicts")
}

/// What is left of an object without one of its losers; `None` when it is not there.
pub(in crate::engine) fn without(file: &ConflictsFile, token: Uuid) -> Option<ConflictsFile> {
    let mut rest = file.clone();
    rest.losers.retain(|loser| loser.token != token);
    (rest.losers.len() < file.losers.len()).then_some(rest)
}

/// The bytes of what is left; `None` when nothing is.
pub(in crate::engine) fn bytes_of(rest: &ConflictsFile) -> Result<Option<Vec<u8>>> {
    if rest.losers.is_empty() { Ok(None) } else { encode_conflicts(rest).map(Some) }
}

pub(in crate::engine) fn no_such(name: &str, token: Uuid) -> Error {
    Error::not_found(format!("{name} has no conflict {token}")).with_hint("list them to see which there are")
}

fn shown(file: &ConflictsFile, loser: &Loser) -> Result<LostState> {
    let fields = loser.fields.as_ref().map(|fields| {
        let value = |field: &crate::format::conflicts::Field| {
            Ok((field.name.clone(), to_json(&field.decode("conflict")?, false)))
        };
        fields.iter().map(value).collect::<Result<BTreeMap<String, Json>>>()
    });
    Ok(LostState {
        token: loser.token,
        id: loser.id.to_id(),
        was_ours: loser.side == Side::Ours,
        source: file.source.name.clone(),
        at_ms: file.at_ms,
        policy: file.policy.clone(),
        attributes: loser.attributes.clone(),
        fields: fields.transpose()?,
    })
}
