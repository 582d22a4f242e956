//! Which keys there may be: what every store takes as it is, and no file system takes for something else.

use crate::error::{Error, Result};

/// S3's bound, which leaves the prefix in it.
const KEY_BYTES_MAX: usize = 1_024;
/// The bound of file systems on one name; a staged file has up to 21 more.
const PART_BYTES_MAX: usize = 230;

/// Whether a key is one: parts of `A-Za-z0-9._=-`, none of them empty, `.` or `..`, with `/` between them.
pub fn check(key: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'=' | b'-');
    let sound = key.len() <= KEY_BYTES_MAX
        && key.split('/').all(|part| {
            (1..=PART_BYTES_MAX).contains(&part.len()) && part.bytes().all(plain) && part != "." && part != ".."
        });
    if sound {
        return Ok(());
    }
    let shown: String = key.chars().take(80).collect();
    Err(Error::invalid(format!("{shown:?} is no key: expected parts of A-Za-z0-9._=- with / between them")))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn keys_are_plain_parts() {
        for key in ["a", "_format.json", "a/b=c/D-0..9", "..."] {
            check(key).unwrap();
        }
        for key in ["", "/", "/a", "a/", "a//b", ".", "a/..", "a b", "a#1", "a%20", "ä", "a\\b", "a\0"] {
            check(key).unwrap_err();
        }
        check(&"x".repeat(230)).unwrap();
        check(&"x".repeat(231)).unwrap_err();
        check(&"x/".repeat(600)).unwrap_err();
    }
}
