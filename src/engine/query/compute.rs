//! Values that are computed for the rows of an answer, from the row's document alone.

use std::collections::BTreeSet;

use super::alone::{Alone, Binder, Scored};
use super::highlight::Highlighter;
use super::plan::Target;
use super::score::rounded;
use crate::engine::analyzers::Analyzers;
use crate::engine::filter::texts::Texts;
use crate::error::{Context, Error, Result};
use crate::model::compute::{Compute, Computed};
use crate::model::document::Document;
use crate::model::query::{Query, Recall};
use crate::model::schema::{ColumnUid, Schema};
use crate::platform::allowance::Allowance;

/// Bound computed attributes.
#[derive(Default)]
pub(super) struct Computes {
    all: Vec<(String, Bound)>,
    /// The columns that they are computed of.
    pub(super) needs: BTreeSet<ColumnUid>,
}

enum Bound {
    Score(Alone),
    Distance(Target),
    Highlight(Box<Highlighter>),
}

impl Computes {
    pub(super) fn bind(schema: &Schema, query: &Query, allowance: &Allowance) -> Result<Self> {
        let mut needs = Vec::new();
        let mut all = Vec::with_capacity(query.compute.len());
        for (name, compute) in &query.compute {
            if schema.column(name).is_some() {
                return Err(Error::invalid(format!(
                    "💔 computed attribute \"{name}\" has the name of an attribute, expected another"
                )));
            }
            let bound = match compute {
                Compute::Score(clause) => {
                    let bound = Binder { schema, fragments: None, needs: &mut needs, allowance }.bind(clause, false);
                    Bound::Score(bound.context(|| format!("computed attribute `{name}`"))?)
                }
                Compute::Distance { attribute, vector } => {
                    let target = Target::bind(schema, attribute, vector, Recall::EXACT);
                    let target = target.context(|| format!("computed attribute `{name}`"))?;
                    needs.push(target.column);
                    Bound::Distance(target)
                }
                Compute::Highlight(highlight) => Bound::Highlight(Box::new(Highlighter::bind(
                    schema, query, name, highlight, &mut needs, allowance,
                )?)),
            };
            all.push((name.clone(), bound));
        }
        Ok(Computes { all, needs: needs.into_iter().collect() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What is computed of one document, which has at least the columns that are needed.
    pub(super) fn of(
        &self,
        schema: &Schema,
        document: &Document,
        analyzers: &mut Analyzers,
        allowance: &Allowance,
    ) -> Result<Vec<(String, Computed)>> {
        let (mut found, mut texts) = (Vec::with_capacity(self.all.len()), Texts::default());
        for (name, bound) in &self.all {
            allowance.check()?;
            let value = match bound {
                Bound::Score(alone) => {
                    let scored = Scored { schema, document, fragment: &[], allowance };
                    let score = rounded(alone.score(&scored, &mut texts, analyzers)?);
                    (!score.is_nan()).then_some(Computed::Number(score))
                }
                Bound::Distance(target) => {
                    let value = document.get(target.column);
                    value.and_then(|value| target.operand.distance(value)).map(Computed::Number)
                }
                Bound::Highlight(highlighter) => {
                    Some(highlighter.of(schema, document, &mut texts, analyzers, allowance)?)
                }
            };
            found.extend(value.map(|value| (name.clone(), value)));
        }
        Ok(found)
    }
}
