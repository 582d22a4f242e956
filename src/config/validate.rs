//! Refuses settings that are wrong together, before anything is opened.

use super::{Auth, Config, wrong};
use crate::api::auth::{Scope, Token};
use crate::error::Result;
use crate::model::ids::Project;

/// The shortest token that is accepted, in bytes: 128 bits in hexadecimal.
const TOKEN_BYTES_MIN: usize = 32;

/// Smaller segments than this cost more than they are worth.
const FLUSH_BYTES_MIN: u64 = 64 << 10;
/// Logs shorter than this would make a segment of every other write.
const LOG_BYTES_MIN: u64 = 1 << 20;

/// All of the disk, in a hundred.
const DISK_PERCENT_MAX: u32 = 100;

/// In less a query finds no room for what it reads.
const TIER_BYTES_MIN: u64 = 16 << 20;

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
    let storage = &config.storage;
    if storage.flush_bytes < FLUSH_BYTES_MIN {
        return Err(wrong(format!(
            "storage.flush_bytes is {}, expected at least {FLUSH_BYTES_MIN}",
            storage.flush_bytes
        )));
    }
    if storage.log_bytes_max < LOG_BYTES_MIN {
        return Err(wrong(format!(
            "storage.log_bytes_max is {}, expected at least {LOG_BYTES_MIN}",
            storage.log_bytes_max
        )));
    }
    if storage.tail_bytes_max < storage.flush_bytes || storage.tails_bytes_max < storage.flush_bytes {
        return Err(wrong(format!(
            "storage.tail_bytes_max is {} and storage.tails_bytes_max {}, expected at least storage.flush_bytes, {}",
            storage.tail_bytes_max, storage.tails_bytes_max, storage.flush_bytes
        )));
    }
    if storage.open_namespaces_max == 0 {
        return Err(wrong("storage.open_namespaces_max is 0, expected at least 1"));
    }
    if storage.retention_disk_percent > DISK_PERCENT_MAX {
        return Err(wrong(format!(
            "storage.retention_disk_percent is {}, expected at most {DISK_PERCENT_MAX}",
            storage.retention_disk_percent
        )));
    }
    if (1..TIER_BYTES_MIN).contains(&storage.tier_bytes_max) {
        return Err(wrong(format!(
            "storage.tier_bytes_max is {}, expected at least {TIER_BYTES_MIN}, or 0 to keep everything here",
            storage.tier_bytes_max
        )));
    }
    crate::ops::log::check(&config.log.level).map_err(|error| wrong(error.message()))?;
    config.worker().map(|_| ())
}

impl Auth {
    /// The tokens of the file, none when no file is named. Blank lines and lines that start with `#` are skipped.
    /// Errors never quote a line.
    pub fn tokens(&self) -> Result<Vec<Token>> {
        let Some(path) = &self.tokens_file else { return Ok(Vec::new()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| wrong(format!("read auth.tokens_file {}: {error}", path.display())))?;
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_ascii_whitespace();
            let Some(secret) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            let at = || format!("auth.tokens_file {} line {}", path.display(), index + 1);
            if secret.len() < TOKEN_BYTES_MIN || !secret.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(wrong(format!(
                    "{}: expected a token of at least {TOKEN_BYTES_MIN} printable characters",
                    at()
                )));
            }
            let scope = match words.next() {
                None | Some("admin") => Scope::Admin,
                Some("write") => Scope::Write,
                Some("read") => Scope::Read,
                Some(_) => {
                    return Err(wrong(format!("{}: expected read, write or admin behind the token", at())));
                }
            };
            let project = match words.next().map(|word| word.split_once('/')) {
                None => None,
                Some(Some((org, project))) => {
                    Some(Project::new(org, project).map_err(|error| wrong(format!("{}: {error}", at())))?)
                }
                Some(None) => return Err(wrong(format!("{}: expected ORG/PROJECT behind the right", at()))),
            };
            if words.next().is_some() {
                return Err(wrong(format!("{}: expected `TOKEN [read|write|admin] [ORG/PROJECT]`", at())));
            }
            tokens.push(Token::new(secret, scope, project));
        }
        if tokens.is_empty() {
            return Err(wrong(format!("auth.tokens_file {} holds no token, expected one a line", path.display())));
        }
        Ok(tokens)
    }
}
