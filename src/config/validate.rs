//! Refuses settings that are wrong together, before anything is opened.

use super::{Auth, Config, wrong};
use crate::error::Result;

/// The shortest token that is accepted, in bytes: 128 bits in hexadecimal.
const TOKEN_BYTES_MIN: usize = 32;

/// Checks everything that can be checked without touching the data.
pub(super) fn check(config: &Config) -> Result<()> {
    let tokens = config.auth.tokens()?;
    let listen = config.server.listen;
    if !listen.ip().is_loopback() && tokens.is_empty() {
        return Err(wrong(format!(
            "server.listen is {listen}, which other machines can reach, and no tokens are configured"
        ))
        .with_hint("set auth.tokens_file (one token a line, `openssl rand -hex 32`), or listen on 127.0.0.1"));
    }
    if config.storage.data_dir.as_os_str().is_empty() {
        return Err(wrong("storage.data_dir is empty, expected a directory"));
    }
    Ok(())
}

impl Auth {
    /// The tokens of the file, none when no file is named. Blank lines and lines that start with `#` are skipped.
    /// Errors never quote a line.
    pub fn tokens(&self) -> Result<Vec<String>> {
        let Some(path) = &self.tokens_file else { return Ok(Vec::new()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| wrong(format!("read auth.tokens_file {}: {error}", path.display())))?;
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let token = line.trim();
            if token.is_empty() || token.starts_with('#') {
                continue;
            }
            if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(wrong(format!(
                    "auth.tokens_file {} line {}: expected a token of at least {TOKEN_BYTES_MIN} printable characters",
                    path.display(),
                    index + 1
                )));
            }
            tokens.push(token.to_owned());
        }
        if tokens.is_empty() {
            return Err(wrong(format!("auth.tokens_file {} holds no token, expected one a line", path.display())));
        }
        Ok(tokens)
    }
}
