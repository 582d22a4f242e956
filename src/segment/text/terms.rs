//! Terms in order in two allocations, and a document's terms in one column, with a third for their positions.

use std::ops::Range;

use crate::model::memory::allocated;

/// Terms in bytewise order, each with as many entries of a list as there are of it: those of all terms follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermTable {
    text: Box<str>,
    /// Per term where it ends in `text`, and where its entries end.
    ends: Box<[(u32, u32)]>,
}

impl TermTable {
    /// Of the terms of all entries, in order.
    pub fn of_sorted<'t>(entries: impl ExactSizeIterator<Item = &'t str> + Clone) -> Self {
        let mut text = String::with_capacity(entries.clone().map(str::len).sum());
        let mut ends: Vec<(u32, u32)> = Vec::with_capacity(entries.len());
        let mut last = None;
        for (term, count) in entries.zip(1..) {
            if last == Some(term) {
                if let Some((_, end)) = ends.last_mut() {
                    *end = count;
                }
            } else {
                text.push_str(term);
                ends.push((text.len() as u32, count));
                last = Some(term);
            }
        }
        TermTable { text: text.into(), ends: ends.into() }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many entries all terms have.
    pub fn entries(&self) -> u32 {
        self.ends.last().map_or(0, |(_, end)| *end)
    }

    /// The bytes of all terms together.
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    pub fn term(&self, at: usize) -> &str {
        let begin = if at == 0 { 0 } else { self.ends[at - 1].0 as usize };
        self.text.get(begin..self.ends[at].0 as usize).unwrap_or_default()
    }

    /// The entries of a term.
    pub fn entries_of(&self, at: usize) -> Range<usize> {
        let begin = if at == 0 { 0 } else { self.ends[at - 1].1 as usize };
        begin..self.ends[at].1 as usize
    }

    pub fn find(&self, term: &str) -> Option<usize> {
        let at = self.lower_bound(term);
        (at < self.len() && self.term(at) == term).then_some(at)
    }

    /// The first term that is not below `term`.
    pub fn lower_bound(&self, term: &str) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.term(middle) < term {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// A document's terms with their frequencies, and where the text has them if that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocTerms {
    /// An entry is a token.
    terms: TermTable,
    /// Places in the list of tokens: ascending for each term, term after term. Empty where they were not asked for.
    positions: Box<[u32]>,
}

impl DocTerms {
    /// The terms of a list of tokens in any order, repeats included.
    pub fn from_tokens(tokens: &mut [&str]) -> Self {
        tokens.sort_unstable();
        DocTerms { terms: TermTable::of_sorted(tokens.iter().copied()), positions: Box::default() }
    }

    /// The terms of a list of tokens, and where in it each is.
    pub fn with_positions(tokens: &[&str]) -> Self {
        let mut placed: Vec<(&str, u32)> = tokens.iter().copied().zip(0..).collect();
        placed.sort_unstable();
        let terms = TermTable::of_sorted(placed.iter().map(|(token, _)| *token));
        DocTerms { terms, positions: placed.iter().map(|(_, position)| *position).collect() }
    }

    /// How many tokens the document has.
    pub fn length(&self) -> u32 {
        self.terms.entries()
    }

    /// How many different terms.
    pub fn count(&self) -> usize {
        self.terms.len()
    }

    /// Every term with its frequency, in bytewise order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        (0..self.terms.len()).map(|at| (self.terms.term(at), self.terms.entries_of(at).len() as u32))
    }

    /// Every term with its positions, in bytewise order; none where they were not asked for.
    pub fn placed(&self) -> impl Iterator<Item = (&str, &[u32])> {
        (0..self.terms.len()).map(|at| (self.terms.term(at), self.positions_at(at)))
    }

    /// How often the document has a term.
    pub fn tf(&self, term: &str) -> u32 {
        self.terms.find(term).map_or(0, |at| self.terms.entries_of(at).len() as u32)
    }

    pub fn any_with_prefix(&self, prefix: &str) -> bool {
        let at = self.terms.lower_bound(prefix);
        at < self.terms.len() && self.terms.term(at).starts_with(prefix)
    }

    /// Whether it is known where the document has its terms.
    pub fn has_positions(&self) -> bool {
        self.positions.len() == self.length() as usize
    }

    /// Whether the document has these tokens one after another; the last is a prefix where `last_as_prefix` says so. `None`
    /// where positions were not asked for. `step` is told how many places are looked at next, and may end it.
    pub fn has_sequence<E>(
        &self,
        tokens: &[String],
        last_as_prefix: bool,
        mut step: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Option<bool>, E> {
        if !self.has_positions() {
            return Ok(None);
        }
        let Some((last, init)) = tokens.split_last() else { return Ok(Some(true)) };
        // Where sequences begin that have all tokens so far.
        let mut starts: Option<Vec<u32>> = None;
        for (offset, token) in (0..).zip(init) {
            let positions = self.terms.find(token).map_or(&[][..], |at| self.positions_at(at));
            step(starts.as_ref().map_or(positions.len(), Vec::len))?;
            match &mut starts {
                None => starts = Some(positions.to_vec()),
                Some(starts) => starts.retain(|start| positions.binary_search(&(start + offset)).is_ok()),
            }
        }
        let ends = self.terms.lower_bound(last)..self.terms.len();
        let ends = ends.take_while(|at| match last_as_prefix {
            true => self.terms.term(*at).starts_with(last.as_str()),
            false => self.terms.term(*at) == last,
        });
        let offset = init.len() as u32;
        for at in ends {
            let Some(starts) = &starts else { return Ok(Some(true)) };
            step(starts.len())?;
            let positions = self.positions_at(at);
            if starts.iter().any(|start| positions.binary_search(&(start + offset)).is_ok()) {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }

    /// What the terms take beside the value itself.
    pub fn heap_bytes(&self) -> u64 {
        allocated(self.terms.text_bytes()) + allocated(8 * self.terms.len()) + allocated(4 * self.positions.len())
    }

    fn positions_at(&self, at: usize) -> &[u32] {
        self.positions.get(self.terms.entries_of(at)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::DocTerms;

    #[test]
    fn terms_are_counted_in_order() {
        let terms = DocTerms::from_tokens(&mut ["swim", "fish", "swim", "é"]);
        assert_eq!(terms.iter().collect::<Vec<_>>(), [("fish", 1), ("swim", 2), ("é", 1)]);
        assert_eq!((terms.length(), terms.tf("swim"), terms.tf("swi"), terms.tf("z")), (4, 2, 0, 0));
        assert!(terms.any_with_prefix("sw") && !terms.any_with_prefix("x"));
        assert_eq!(DocTerms::from_tokens(&mut []).length(), 0);
    }

    #[test]
    fn sequences_are_found_by_positions() {
        let tokens = ["a", "b", "a", "b", "c", "ab"];
        let terms = DocTerms::with_positions(&tokens);
        let without = DocTerms::from_tokens(&mut tokens.clone());
        assert_eq!(terms.iter().collect::<Vec<_>>(), without.iter().collect::<Vec<_>>());
        assert_eq!(terms.placed().next(), Some(("a", &[0, 2][..])));
        assert!(terms.has_positions() && !without.has_positions());
        for length in 0..4u32 {
            for n in 0..5u32.pow(length) {
                let asked: Vec<String> = (0..length)
                    .map(|at| ["a", "b", "c", "ab", "x"][(n / 5u32.pow(at) % 5) as usize].into())
                    .collect();
                for prefix in [false, true] {
                    let expected = asked.is_empty()
                        || tokens.windows(asked.len()).any(|window| {
                            window.iter().zip(&asked).enumerate().all(|(at, (token, asked))| {
                                token == asked
                                    || prefix && at + 1 == window.len() && token.starts_with(asked.as_str())
                            })
                        });
                    let has = |terms: &DocTerms| terms.has_sequence(&asked, prefix, |_| Ok::<(), Infallible>(()));
                    assert_eq!(has(&terms), Ok(Some(expected)), "{asked:?} {prefix}");
                    assert_eq!(has(&without), Ok(None));
                }
            }
        }
    }
}
