//! Regular expressions that are looked for in a long text step by step, so that whoever looks may end it within that.
//!
//! The crate `regex` answers in time that grows with the text times the pattern, and cannot be stopped meanwhile: minutes
//! for a megabyte and a pattern that counts much. A short text is soon done whatever the pattern, and left to it. Through a long
//! one the same automata go byte by byte:
//! 1. The states that a pattern can be in are made as the text needs them and remembered, which is about as fast as `regex`.
//! 2. Where that gives up, at a character beyond ASCII for a pattern with Unicode word boundaries, all threads of the pattern
//!    go through the text at once.
//!
//! A step of either takes at most as long as the pattern is large.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use regex::{Regex, RegexBuilder};
use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::nfa::thompson::{Compiler, NFA, State, WhichCaptures};
use regex_automata::util::prefilter::Prefilter;
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind, Span};

/// How far a match goes before it says so, in bytes of the text.
const BYTES_PER_STEP: usize = 256;
/// A text of at most so many bytes is not stepped through: milliseconds for the worst of patterns.
const SHORT_BYTES: usize = 4 << 10;

/// A compiled regular expression.
#[derive(Clone)]
pub struct Matcher(Arc<Compiled>);

struct Compiled {
    whole: Regex,
    states: DFA,
    /// What every match begins with, where that is few texts: most texts have none of them and are done soon.
    beginnings: Option<Prefilter>,
    /// What matching remembers: one for each thread that matched at the same time.
    caches: Mutex<Vec<Cache>>,
}

/// How a pattern is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    pub ignores_case: bool,
    /// `.` is any character, also the end of a line.
    pub dot_is_all: bool,
}

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It means nothing, and why.
    Syntax(String),
    /// Compiled it takes more than it may.
    TooLarge,
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Matcher").field(&self.0.whole.as_str()).finish()
    }
}

impl Matcher {
    /// Compiles a pattern, which may take so many bytes, and about as many again for what matching remembers; both twice, for short texts
    /// and for long ones.
    pub fn new(pattern: &str, reading: Reading, bytes_max: usize) -> Result<Self, Refusal> {
        let mut builder = RegexBuilder::new(pattern);
        builder.case_insensitive(reading.ignores_case).dot_matches_new_line(reading.dot_is_all);
        let whole = builder.size_limit(bytes_max).dfa_size_limit(bytes_max).build().map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => Refusal::TooLarge,
            error => Refusal::Syntax(error.to_string()),
        })?;
        let syntax =
            syntax::Config::new().case_insensitive(reading.ignores_case).dot_matches_new_line(reading.dot_is_all);
        let parsed = syntax::parse_with(pattern, &syntax).map_err(|error| Refusal::Syntax(error.to_string()))?;
        let beginnings = Prefilter::from_hir_prefix(MatchKind::LeftmostFirst, &parsed);
        let mut compiler = Compiler::new();
        compiler.configure(NFA::config().nfa_size_limit(Some(bytes_max)).which_captures(WhichCaptures::None));
        let threads = compiler.build_from_hir(&parsed).map_err(|_| Refusal::TooLarge)?;
        let config = Config::new()
            // Every match counts, not only the first in the pattern's order.
            .match_kind(MatchKind::All)
            .unicode_word_boundary(true)
            .cache_capacity(bytes_max)
            // The least that it needs is about what the pattern takes.
            .skip_cache_capacity_check(true);
        let states = DFA::builder().configure(config).build_from_nfa(threads).map_err(|_| Refusal::TooLarge)?;
        Ok(Matcher(Arc::new(Compiled { whole, states, beginnings, caches: Mutex::default() })))
    }

    /// Whether some part of a text matches. `step` is told how many bytes come next, and may end it.
    pub fn is_match<E>(&self, text: &str, mut step: impl FnMut(usize) -> Result<(), E>) -> Result<bool, E> {
        if text.len() <= SHORT_BYTES {
            step(text.len())?;
            return Ok(self.0.whole.is_match(text));
        }
        self.is_in_steps(text, &mut step)
    }

    fn is_in_steps<E>(&self, text: &str, step: &mut impl FnMut(usize) -> Result<(), E>) -> Result<bool, E> {
        // Texts without one count, too.
        step(0)?;
        let has_beginning =
            |beginnings: &Prefilter| beginnings.find(text.as_bytes(), Span::from(0..text.len())).is_some();
        if !self.0.beginnings.as_ref().is_none_or(has_beginning) {
            return Ok(false);
        }
        let kept = self.caches().pop();
        let mut cache = kept.unwrap_or_else(|| self.0.states.create_cache());
        let found = self.by_states(&mut cache, text, step);
        self.caches().push(cache);
        match found? {
            Some(found) => Ok(found),
            None => self.by_threads(text, step),
        }
    }

    fn caches(&self) -> std::sync::MutexGuard<'_, Vec<Cache>> {
        self.0.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where states cannot say.
    fn by_states<E>(
        &self,
        cache: &mut Cache,
        text: &str,
        step: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Option<bool>, E> {
        let states = &self.0.states;
        let Ok(mut state) = states.start_state_forward(cache, &Input::new(text)) else { return Ok(None) };
        let mut at = 0;
        for bytes in text.as_bytes().chunks(BYTES_PER_STEP) {
            step(bytes.len())?;
            for byte in bytes {
                let Ok(next) = states.next_state(cache, state, *byte) else { return Ok(None) };
                state = next;
                if state.is_tagged() {
                    // A match shows one byte after its end. An empty one within a character is none.
                    if state.is_match() && text.is_char_boundary(at) {
                        return Ok(Some(true));
                    }
                    if state.is_dead() {
                        return Ok(Some(false));
                    }
                    if state.is_quit() {
                        return Ok(None);
                    }
                }
                at += 1;
            }
        }
        Ok(states.next_eoi_state(cache, state).ok().map(|state| state.is_match()))
    }

    fn by_threads<E>(&self, text: &str, step: &mut impl FnMut(usize) -> Result<(), E>) -> Result<bool, E> {
        let nfa = self.0.states.get_nfa();
        let mut threads = Threads { nfa, text, reached: vec![0; nfa.states().len()], open: Vec::new() };
        let (mut now, mut next) = (Vec::new(), Vec::new());
        // The pattern begins with any bytes at all, so its threads begin anew at each place by themselves.
        let mut found = threads.follow(nfa.start_unanchored(), 0, &mut now);
        for (at, byte) in text.bytes().enumerate() {
            if found || now.is_empty() {
                break;
            }
            if at.is_multiple_of(BYTES_PER_STEP) {
                step(BYTES_PER_STEP.min(text.len() - at))?;
            }
            next.clear();
            for thread in &now {
                let target = match nfa.state(*thread) {
                    State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
                    State::Sparse(ranges) => ranges.matches_byte(byte),
                    State::Dense(bytes) => bytes.matches_byte(byte),
                    _ => None,
                };
                if let Some(target) = target {
                    found |= threads.follow(target, at + 1, &mut next);
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        Ok(found)
    }
}

/// Threads of a pattern, each at another place of it.
struct Threads<'a> {
    nfa: &'a NFA,
    text: &'a str,
    /// By place in the pattern: one more than where in the text a thread was there last.
    reached: Vec<usize>,
    /// Places from which not everything was followed yet.
    open: Vec<StateID>,
}

impl Threads<'_> {
    /// Adds to `found` the places that wait for a byte and are reached from `from` without one, at a place of the text. True
    /// where a match ends there.
    fn follow(&mut self, from: StateID, at: usize, found: &mut Vec<StateID>) -> bool {
        let mut is_match = false;
        self.open.push(from);
        while let Some(place) = self.open.pop() {
            let reached = &mut self.reached[place.as_usize()];
            if *reached == at + 1 {
                continue;
            }
            *reached = at + 1;
            match self.nfa.state(place) {
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) => found.push(place),
                State::Look { look, next } => {
                    if self.nfa.look_matcher().matches(*look, self.text.as_bytes(), at) {
                        self.open.push(*next);
                    }
                }
                State::Union { alternates } => self.open.extend(alternates.iter()),
                State::BinaryUnion { alt1, alt2 } => self.open.extend([*alt1, *alt2]),
                State::Capture { next, .. } => self.open.push(*next),
                State::Fail => {}
                // An empty match within a character is none.
                State::Match { .. } => is_match |= self.text.is_char_boundary(at),
            }
        }
        is_match
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;
    use regex::RegexBuilder;

    use super::{Matcher, Reading, Refusal};

    const BYTES_MAX: usize = 1 << 20;

    fn is_match(matcher: &Matcher, text: &str) -> bool {
        let Ok(found) = matcher.is_match(text, |_| Ok::<(), Infallible>(()));
        let Ok(in_steps) = matcher.is_in_steps(text, &mut |_| Ok::<(), Infallible>(()));
        assert_eq!(found, in_steps, "{matcher:?} on {text:?}");
        let Ok(by_threads) = matcher.by_threads(text, &mut |_| Ok::<(), Infallible>(()));
        assert_eq!(found, by_threads, "{matcher:?} on {text:?}");
        found
    }

    /// Patterns of pieces, and texts of what they are about.
    fn patterns() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "a",
            "b",
            "é",
            "ß",
            ".",
            r"\w",
            r"\d",
            r"\b",
            r"\B",
            r"(?-u:\b)",
            r"(?-u:\B)",
            "^",
            "$",
            "(?m:^)",
            "(?m:$)",
            r"\A",
            r"\z",
            "[^a]",
            "[a-é]",
            "(?i:É)",
            "(?s:.)",
            r"\b{start}",
            r"\b{end-half}",
            r"\pL",
            "|",
            "|",
        ]);
        let part = (piece, prop::sample::select(vec!["", "", "", "*", "+?", "?", "{2}", "{1,3}"]));
        prop::collection::vec((part, any::<bool>()), 0..7).prop_map(|parts| {
            let mut pattern = String::new();
            for ((piece, count), groups) in parts {
                match (piece, groups) {
                    ("|", _) => pattern.push('|'),
                    (piece, true) => pattern.push_str(&format!("(?:{piece}{count})+")),
                    (piece, false) => pattern.push_str(&format!("{piece}{count}")),
                }
            }
            pattern
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_000, ..ProptestConfig::default() })]

        #[test]
        fn it_matches_what_regex_matches(
            pattern in patterns(),
            text in prop::collection::vec(prop::sample::select(vec!['a', 'b', 'é', 'É', 'ß', '1', ' ', '\n', '日']), 0..12),
            ignores_case in any::<bool>(),
            dot_is_all in any::<bool>(),
        ) {
            let text: String = text.into_iter().collect();
            let expected =
                RegexBuilder::new(&pattern).case_insensitive(ignores_case).dot_matches_new_line(dot_is_all).build();
            let matcher = Matcher::new(&pattern, Reading { ignores_case, dot_is_all }, BYTES_MAX);
            prop_assert_eq!(matcher.is_ok(), expected.is_ok());
            if let (Ok(matcher), Ok(expected)) = (matcher, expected) {
                prop_assert_eq!(is_match(&matcher, &text), expected.is_match(&text), "{} on {:?}", pattern, text);
            }
        }
    }

    #[test]
    fn what_is_remembered_is_forgotten_where_it_takes_too_much() {
        let matcher = Matcher::new("(a|b)*a(a|b){12}c", Reading::default(), 8 << 10).unwrap();
        let mut state = 7u32;
        let mut text: String = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if state >> 31 == 0 { 'a' } else { 'b' }
        })
        .take(20_000)
        .collect();
        assert!(!is_match(&matcher, &text));
        text.push_str("abbbbbbbbbbbbc");
        assert!(is_match(&matcher, &text));
    }

    #[test]
    fn a_match_is_ended_within_a_text() {
        let text = "ab".repeat(4_096) + "é";
        // The second is looked for by threads from the é on, from the beginning.
        for (pattern, bytes) in [("([ab]{1,300}){1,5}[0-9]+", 5_000), (r"\bé", 10_000)] {
            let matcher = Matcher::new(pattern, Reading::default(), BYTES_MAX).unwrap();
            let mut left = bytes;
            let ended = matcher.is_match(&text, |next| {
                left -= next as i64;
                if left > 0 { Ok(()) } else { Err(left) }
            });
            assert!(ended.is_err_and(|left| left > -256), "{pattern}");
            assert!(!is_match(&matcher, &text), "{pattern}");
        }
    }

    #[test]
    fn what_is_refused_is_said() {
        let refusal = |pattern| Matcher::new(pattern, Reading::default(), BYTES_MAX).unwrap_err();
        assert!(matches!(refusal("("), Refusal::Syntax(why) if why.contains("unclosed group")));
        assert_eq!(refusal(r"\w{1000}"), Refusal::TooLarge);
    }
}
