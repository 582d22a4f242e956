//! Analyzers of full-text columns, kept from one request to the next.
//!
//! Building one costs far more than running it over a short text, so a request borrows what an earlier one built. How many
//! are kept is bounded, since each holds a cache of stems.

use std::sync::{Mutex, PoisonError};

use crate::model::schema::{ColumnUid, FullText};
use crate::model::value::Value;
use crate::segment::text::terms::DocTerms;
use crate::segment::text::tokens::Analyzer;

/// How many analyzers wait for their next use.
const IDLE_MAX: usize = 8;

static IDLE: Mutex<Vec<(FullText, Analyzer)>> = Mutex::new(Vec::new());

/// The analyzers of one request, one a column. Dropping it keeps them for the next request.
#[derive(Default)]
pub struct Analyzers {
    columns: Vec<(ColumnUid, FullText, Analyzer)>,
}

impl Analyzers {
    pub fn new() -> Self {
        Analyzers::default()
    }

    /// The analyzer of a column.
    pub fn get(&mut self, column: ColumnUid, options: &FullText) -> &mut Analyzer {
        let at = match self.columns.iter().position(|(uid, built, _)| *uid == column && built == options) {
            Some(at) => at,
            None => {
                self.columns.push((column, options.clone(), borrow(options)));
                self.columns.len() - 1
            }
        };
        &mut self.columns[at].2
    }

    /// The terms of a value of a column.
    pub fn terms(&mut self, column: ColumnUid, options: &FullText, value: &Value) -> DocTerms {
        self.get(column, options).analyze(value)
    }

    /// The tokens of a value of a column, in order, repeats included.
    pub fn tokens(&mut self, column: ColumnUid, options: &FullText, value: &Value) -> Vec<String> {
        let mut tokens = Vec::new();
        self.get(column, options).tokens(value, |token, _| tokens.push(token.to_owned()));
        tokens
    }
}

impl Drop for Analyzers {
    fn drop(&mut self) {
        if self.columns.is_empty() {
            return;
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, options, analyzer) in self.columns.drain(..) {
            if idle.len() == IDLE_MAX {
                idle.remove(0);
            }
            idle.push((options, analyzer));
        }
    }
}

fn borrow(options: &FullText) -> Analyzer {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    match idle.iter().rposition(|(built, _)| built == options) {
        Some(at) => idle.remove(at).1,
        None => {
            drop(idle);
            Analyzer::new(options)
        }
    }
}
