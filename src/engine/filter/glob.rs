//! Globs in globset's syntax as regular expressions over characters.
//!
//! globset matches paths, which are bytes: its `?` and `[é]` stand for one byte, and it folds the case of ASCII only. Here
//! values are text, so what it translates a glob into is read as characters.

use globset::GlobBuilder;

use super::patterns;
use crate::error::Result as Answer;
use crate::model::matcher::{Matcher, Reading, Refusal};
use crate::platform::allowance::Allowance;

/// What globset puts before its regular expressions: they are about bytes.
const BYTES_FLAG: &str = "(?-u)";

/// Compiles a glob, or says what is wrong with it; an error when the allowance does not suffice.
pub(super) fn compile(pattern: &str, ignores_case: bool, allowance: &Allowance) -> Answer<Result<Matcher, String>> {
    let regex = match translated(pattern) {
        Ok(regex) => regex,
        Err(problem) => return Ok(Err(problem)),
    };
    // Deep nesting and sheer size are found only when the expression is built.
    let compiled = patterns::compile(&regex, Reading { ignores_case, dot_is_all: true }, allowance)?;
    Ok(compiled.map_err(|refusal| match refusal {
        Refusal::TooLarge => format!("compiled it takes more than {} bytes", patterns::COMPILED_BYTES_MAX),
        Refusal::Syntax(_) => "its groups are nested too deep".to_owned(),
    }))
}

/// A glob as a regular expression over characters.
fn translated(pattern: &str) -> Result<String, String> {
    let glob = GlobBuilder::new(pattern).build().map_err(|error| error.to_string())?;
    over_characters(glob.regex()).ok_or_else(|| "its translation is not text".to_owned())
}

/// The same expression over characters: each run of escaped bytes becomes the characters that they encode.
fn over_characters(regex: &str) -> Option<String> {
    let mut rest = regex.strip_prefix(BYTES_FLAG)?;
    let mut out = String::with_capacity(rest.len());
    while let Some(escape) = rest.find('\\') {
        let (plain, escaped) = rest.split_at(escape);
        out.push_str(plain);
        let mut bytes = Vec::new();
        rest = escaped;
        while let Some(hex) = rest.strip_prefix("\\x").and_then(|rest| rest.get(..2)) {
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = rest.get(4..)?;
        }
        if bytes.is_empty() {
            // An escaped character stays escaped, also where it is a backslash.
            let escaped = rest.get(..2)?;
            out.push_str(escaped);
            rest = rest.get(2..)?;
        }
        out.push_str(std::str::from_utf8(&bytes).ok()?);
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{Allowance, Matcher};

    fn compile(pattern: &str, ignore_case: bool) -> Result<Matcher, String> {
        super::compile(pattern, ignore_case, &Allowance::unlimited()).unwrap()
    }

    #[test]
    fn a_glob_is_about_characters() {
        for (pattern, text, exact, ignoring_case) in [
            ("caf?", "café", true, true),
            ("caf[é-ê]", "café", true, true),
            ("caf[!e]", "café", true, true),
            ("{é,e}*", "été", true, true),
            ("ÉT?", "été", false, true),
            ("*日?", "今日は", true, true),
            ("a?c", "a\nc", true, true),
            ("\\\\xc3", "\\xc3", true, true),
            ("[\\\\]x41", "\\x41", true, true),
            ("\\é\\*", "é*", true, true),
            ("a.c", "abc", false, false),
            ("a|b", "a", false, false),
            ("[a&&b]", "&", true, true),
            ("[~~]", "~", true, true),
            ("[[]", "[", true, true),
            ("src/**/x", "src/x", true, true),
            ("**", "", true, true),
            ("", "a", false, false),
        ] {
            let matches =
                |ignore_case| compile(pattern, ignore_case).unwrap().is_match(text, |_| Ok::<(), ()>(())).unwrap();
            assert_eq!((matches(false), matches(true)), (exact, ignoring_case), "{pattern} on {text:?}");
        }
    }

    #[test]
    fn a_hostile_glob_is_an_error() {
        let deep = "{a,{b,".repeat(500) + &"}".repeat(1_000);
        assert_eq!(compile(&deep, false).unwrap_err(), "its groups are nested too deep");
        let wide = "[!é]".repeat(10_000);
        assert!(compile(&wide, false).unwrap_err().starts_with("compiled it takes more than 1048576"));
        assert!(compile("[", false).unwrap_err().contains("unclosed character class"));
    }
}
