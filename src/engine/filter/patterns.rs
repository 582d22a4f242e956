//! Compiles patterns within an allowance: thousands of them may be in one filter, each of which may take a megabyte.

use regex::{Regex, RegexBuilder};

use crate::error::Result;
use crate::platform::allowance::Allowance;

/// What a compiled pattern may take, in bytes.
pub(super) const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Patterns are tried within these, one after the other, and count for the one they fit: how much they take cannot be asked.
const COMPILED_BYTES: [usize; 3] = [8 << 10, 96 << 10, COMPILED_BYTES_MAX];

/// The pattern, or what is wrong with it; an error when the allowance does not suffice for it.
pub(super) fn compile(builder: &mut RegexBuilder, allowance: &Allowance) -> Result<Result<Regex, regex::Error>> {
    let mut found = Err(regex::Error::CompiledTooBig(0));
    for bytes in COMPILED_BYTES {
        allowance.check()?;
        found = builder.size_limit(bytes).dfa_size_limit(bytes).build();
        match &found {
            Ok(_) => {
                // Once for the pattern, and once for what matching it remembers.
                allowance.keep(2 * bytes)?;
                break;
            }
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(_) => break,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use regex::RegexBuilder;

    use super::{COMPILED_BYTES, compile};
    use crate::platform::allowance::{Allowance, End};

    #[test]
    fn a_pattern_counts_for_the_memory_it_fits() {
        for (pattern, at) in [("abc*", 0), (r"\w", 1), (r"\w{9}", 2)] {
            let bytes = 2 * COMPILED_BYTES[at];
            let within = |bytes| {
                compile(&mut RegexBuilder::new(pattern), &Allowance::new(bytes, || None)).map(|found| found.is_ok())
            };
            assert!(within(bytes as u64).unwrap(), "{pattern}");
            assert_eq!(within(bytes as u64 - 1).unwrap_err().code(), "query_too_large", "{pattern}");
        }
        let unlimited = Allowance::unlimited();
        assert!(compile(&mut RegexBuilder::new(r"\w{1000}"), &unlimited).unwrap().is_err());
        assert!(compile(&mut RegexBuilder::new(&"(".repeat(2)), &unlimited).unwrap().is_err());
        let over = Allowance::new(0, || Some(End::TimeIsUp));
        assert_eq!(compile(&mut RegexBuilder::new("a"), &over).unwrap_err().code(), "query_timeout");
    }
}
