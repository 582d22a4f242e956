//! What one state of a namespace has that another has not, document by document.

use std::sync::Arc;

use super::changes::Changes;
use crate::engine::Engine;
use crate::engine::namespace::Moment;
use crate::error::{Error, Result};
use crate::model::as_of::AsOf;
use crate::model::document::Document;
use crate::model::ids::{DocId, NamespaceName};
use crate::model::query::Projection;
use crate::model::schema::Schema;
use crate::model::shown::is_same;

/// Two states to compare, taken.
pub struct Diff {
    pub from: Arc<Moment>,
    pub to: Arc<Moment>,
}

/// How a document differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Insert,
    Update,
    Delete,
}

impl Change {
    pub fn name(self) -> &'static str {
        match self {
            Change::Insert => "insert",
            Change::Update => "update",
            Change::Delete => "delete",
        }
    }
}

/// One document that differs.
pub struct Difference {
    pub id: DocId,
    pub change: Change,
    pub old: Option<Arc<Document>>,
    pub new: Option<Arc<Document>>,
}

impl Engine {
    /// Takes two states to compare: what must happen to `from` to become `to`.
    pub async fn diff(
        &self,
        (from, from_at): (&NamespaceName, Option<&AsOf>),
        (to, to_at): (&NamespaceName, Option<&AsOf>),
    ) -> Result<Diff> {
        Ok(Diff { from: self.moment_at(from, from_at).await?, to: self.moment_at(to, to_at).await? })
    }
}

impl Diff {
    /// The schemas of both states with the columns alone that are asked for, for who shows documents. Invalid when neither state
    /// has one of them.
    pub fn shown(&self, projection: &Projection) -> Result<(Schema, Schema)> {
        let (old, new) = (&self.from.view.schema, &self.to.view.schema);
        match projection {
            Projection::Include(names) => {
                let is_there = |name: &str| name == "id" || old.column(name).or(new.column(name)).is_some();
                if let Some(name) = names.iter().find(|name| !is_there(name)) {
                    let what =
                        format!("attribute \"{name}\" is in neither schema, cannot be part of `include_attributes`");
                    return Err(Error::invalid(what).with_attribute(name));
                }
            }
            Projection::Exclude(names) if names.iter().any(|name| name == "id") => {
                return Err(Error::invalid("💔 `id` cannot be part of `exclude_attributes`"));
            }
            Projection::Exclude(_) | Projection::All | Projection::None => {}
        }
        let with = |schema: &Schema| {
            let mut shown = schema.clone();
            shown.columns.retain(|column| match projection {
                Projection::None => false,
                Projection::All => true,
                Projection::Include(names) => names.contains(&column.name),
                Projection::Exclude(names) => !names.contains(&column.name),
            });
            shown
        };
        Ok((with(old), with(new)))
    }

    /// Gives every document that differs to `each`, in the order of ids, until that fails. Documents of equal content do not
    /// differ, whatever their versions are. Blocking; holds one document of each side.
    pub fn for_each(&self, mut each: impl FnMut(Difference) -> Result<()>) -> Result<()> {
        let compared = self.compare(|difference| self.believed(Ok(difference)).and_then(&mut each));
        self.believed(compared)
    }

    fn believed<T>(&self, read: Result<T>) -> Result<T> {
        self.from.view.believed(self.to.view.believed(read))
    }

    fn compare(&self, mut each: impl FnMut(Difference) -> Result<()>) -> Result<()> {
        let mut changes = Changes::between(&self.to, &self.from)?;
        let (old_shown, new_shown) = (changes.ours.shown.clone(), changes.theirs.shown.clone());
        while let Some(candidate) = changes.next_candidate()? {
            if candidate.theirs.state == candidate.ours.state {
                continue;
            }
            let new = changes.theirs.live(candidate.theirs)?;
            let old = changes.ours.live(candidate.ours)?;
            let change = match (&old, &new) {
                (None, None) => continue,
                (None, Some(_)) => Change::Insert,
                (Some(_), None) => Change::Delete,
                (Some(old), Some(new)) if is_same((old, &old_shown), (new, &new_shown)) => continue,
                (Some(_), Some(_)) => Change::Update,
            };
            each(Difference { id: candidate.id, change, old, new })?;
        }
        Ok(())
    }
}
