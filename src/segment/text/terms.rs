//! A document's terms in one column, in two allocations.

/// Terms in bytewise order with their frequencies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocTerms {
    length: u32,
    text: Box<str>,
    /// Per term where it ends in `text`, and how often the document has it.
    terms: Box<[(u32, u32)]>,
}

impl DocTerms {
    /// The terms of a list of tokens in any order, repeats included.
    pub fn from_tokens(tokens: &mut [&str]) -> Self {
        tokens.sort_unstable();
        let mut text = String::with_capacity(tokens.iter().map(|token| token.len()).sum());
        let mut terms: Vec<(u32, u32)> = Vec::with_capacity(tokens.len());
        let mut last = None;
        for token in &*tokens {
            if last == Some(*token) {
                if let Some((_, tf)) = terms.last_mut() {
                    *tf += 1;
                }
            } else {
                text.push_str(token);
                terms.push((text.len() as u32, 1));
                last = Some(*token);
            }
        }
        DocTerms { length: tokens.len() as u32, text: text.into(), terms: terms.into() }
    }

    /// How many tokens the document has.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// How many different terms.
    pub fn count(&self) -> usize {
        self.terms.len()
    }

    /// Every term with its frequency, in bytewise order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        (0..self.terms.len()).map(|at| (self.term(at), self.terms[at].1))
    }

    /// How often the document has a term.
    pub fn tf(&self, term: &str) -> u32 {
        let at = self.lower_bound(term);
        if at < self.terms.len() && self.term(at) == term { self.terms[at].1 } else { 0 }
    }

    pub fn any_with_prefix(&self, prefix: &str) -> bool {
        let at = self.lower_bound(prefix);
        at < self.terms.len() && self.term(at).starts_with(prefix)
    }

    pub fn memory_bytes(&self) -> usize {
        self.text.len() + 8 * self.terms.len() + 64
    }

    fn term(&self, at: usize) -> &str {
        let begin = if at == 0 { 0 } else { self.terms[at - 1].0 as usize };
        self.text.get(begin..self.terms[at].0 as usize).unwrap_or_default()
    }

    /// The first term that is not below `term`.
    fn lower_bound(&self, term: &str) -> usize {
        let (mut low, mut high) = (0, self.terms.len());
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

#[cfg(test)]
mod tests {
    use super::DocTerms;

    #[test]
    fn terms_are_counted_in_order() {
        let terms = DocTerms::from_tokens(&mut ["swim", "fish", "swim", "é"]);
        assert_eq!(terms.iter().collect::<Vec<_>>(), [("fish", 1), ("swim", 2), ("é", 1)]);
        assert_eq!((terms.length(), terms.tf("swim"), terms.tf("swi"), terms.tf("z")), (4, 2, 0, 0));
        assert!(terms.any_with_prefix("sw") && !terms.any_with_prefix("x"));
        assert_eq!(DocTerms::from_tokens(&mut []).length(), 0);
    }
}
