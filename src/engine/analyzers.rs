//! Analyzers of full-text columns, kept from one request to the next.
//!
//! Building one costs far more than running it over a short text, so a request borrows what an earlier one built. Columns
//! with equal options share one. How many are kept is bounded, since each holds a cache of stems.

use std::sync::{Mutex, PoisonError};

use crate::model::schema::FullText;
use crate::model::value::Value;
use crate::segment::text::terms::DocTerms;
use crate::segment::text::tokens::Analyzer;

/// How many analyzers wait for their next use.
const IDLE_MAX: usize = 8;

static IDLE: Mutex<Vec<(FullText, Analyzer)>> = Mutex::new(Vec::new());

/// The analyzers of one request. Dropping it keeps them for the next request.
#[derive(Default)]
pub struct Analyzers {
    borrowed: Vec<(FullText, Analyzer)>,
}

impl Analyzers {
    pub fn new() -> Self {
        Analyzers::default()
    }

    /// The analyzer of columns with these options.
    pub fn get(&mut self, options: &FullText) -> &mut Analyzer {
        let at = match self.borrowed.iter().position(|(built, _)| built == options) {
            Some(at) => at,
            None => {
                self.borrowed.push((options.clone(), borrow(options)));
                self.borrowed.len() - 1
            }
        };
        &mut self.borrowed[at].1
    }

    /// The terms of a value.
    pub fn terms(&mut self, options: &FullText, value: &Value) -> DocTerms {
        self.get(options).analyze(value)
    }
}

impl Drop for Analyzers {
    fn drop(&mut self) {
        if self.borrowed.is_empty() {
            return;
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in self.borrowed.drain(..) {
            if idle.len() == IDLE_MAX {
                idle.remove(0);
            }
            idle.push(kept);
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
