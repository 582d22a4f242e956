//! Compiles patterns within an allowance: thousands of them may be in one filter, each of which may take a megabyte.

use crate::error::Result;
use crate::model::matcher::{Matcher, Reading, Refusal};
use crate::platform::allowance::Allowance;

/// What a compiled pattern may take, in bytes.
pub(super) const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Patterns are tried within these, one after the other, and count for the one they fit: how much they take cannot be asked.
const COMPILED_BYTES: [usize; 3] = [8 << 10, 96 << 10, COMPILED_BYTES_MAX];

/// The pattern, or what is wrong with it; an error when the allowance does not suffice for it.
pub(super) fn compile(
    pattern: &str,
    reading: Reading,
    allowance: &Allowance,
) -> Result<std::result::Result<Matcher, Refusal>> {
    for bytes in COMPILED_BYTES {
        allowance.check()?;
        match Matcher::new(pattern, reading, bytes) {
            Ok(matcher) => {
                // For the pattern, and for what matching it remembers; in short texts and in long ones.
                allowance.keep(4 * bytes)?;
                return Ok(Ok(matcher));
            }
            Err(Refusal::TooLarge) => {}
            Err(syntax) => return Ok(Err(syntax)),
        }
    }
    Ok(Err(Refusal::TooLarge))
}

#[cfg(test)]
mod tests {
    use super::{COMPILED_BYTES, compile};
    use crate::model::matcher::{Reading, Refusal};
    use crate::platform::allowance::{Allowance, End};

    #[test]
    fn a_pattern_counts_for_the_memory_it_fits() {
        for (pattern, at) in [("abc*", 0), (r"\w", 1), (r"\w{9}", 2)] {
            let bytes = 4 * COMPILED_BYTES[at];
            let within = |bytes| {
                compile(pattern, Reading::default(), &Allowance::new(bytes, || None)).map(|found| found.is_ok())
            };
            assert!(within(bytes as u64).unwrap(), "{pattern}");
            assert_eq!(within(bytes as u64 - 1).unwrap_err().code(), "query_too_large", "{pattern}");
        }
        let unlimited = Allowance::unlimited();
        assert_eq!(compile(r"\w{1000}", Reading::default(), &unlimited).unwrap().unwrap_err(), Refusal::TooLarge);
        assert!(compile("((", Reading::default(), &unlimited).unwrap().is_err());
        let over = Allowance::new(0, || Some(End::TimeIsUp));
        assert_eq!(compile("a", Reading::default(), &over).unwrap_err().code(), "query_timeout");
    }
}
