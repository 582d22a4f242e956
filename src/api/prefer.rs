//! What a request prefers: to be answered once a write is in the bucket, or once what is in the bucket is here.
//!
//! `Prefer: wait=bucket` and `Prefer: read=bucket`, and `wait=SECONDS` for how long (RFC 7240). Other preferences are left alone:
//! SDKs send some with every request. Only `Preference-Applied` in the answer says that one was followed.

use std::time::Duration;

use hyper::HeaderMap;
use tokio::time::Instant;

use super::answer::Answer;
use super::handlers::{Call, sync};
use crate::error::{Error, Kind, Result};
use crate::model::ids::{NamespaceName, Nsid, Version};
use crate::sync::{Awaited, TIMEOUT};

/// What is left of a request's time for the answer that it was not enough, at most.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// The code of the error that says that the bucket was not read.
const NOT_READ: &str = "bucket_not_read";

/// What is preferred of one request, and until when.
#[derive(Debug, PartialEq)]
pub struct Prefer {
    write: bool,
    read: bool,
    end: Instant,
}

impl Prefer {
    /// Reads the header. An error where what is preferred cannot be on this node, before anything is done.
    pub fn of(call: Call<'_>, name: &NamespaceName) -> Result<Self> {
        let limit = Duration::from_millis(call.server.config.request_timeout_ms);
        let prefer = Self::parse(&call.head.headers, limit)?;
        if prefer.write || prefer.read {
            sync::worker(call)?.check_takes(name)?;
        }
        Ok(prefer)
    }

    fn parse(headers: &HeaderMap, limit: Duration) -> Result<Self> {
        let now = Instant::now();
        let mut prefer = Prefer { write: false, read: false, end: now + limit - ANSWER_TIME_MAX.min(limit / 10) };
        let texts = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        for preference in texts.flat_map(|text| text.split([',', ';'])) {
            let (key, value) = preference.split_once('=').unwrap_or((preference, ""));
            match (key.trim().to_ascii_lowercase().as_str(), value.trim().trim_matches('"')) {
                ("wait", "bucket") => prefer.write = true,
                ("read", "bucket") => prefer.read = true,
                ("wait", seconds) if !seconds.is_empty() => {
                    let seconds: u32 = seconds.parse().map_err(|_| {
                        Error::invalid(format!("header prefer: wait={seconds:?}, expected bucket or whole seconds"))
                    })?;
                    prefer.end = prefer.end.min(now + Duration::from_secs(seconds.into()));
                }
                _ => {}
            }
        }
        Ok(prefer)
    }

    /// The answer to a write that is durable here, once it is in the bucket if that is preferred. Unavailable with code
    /// `bucket_timeout` when that does not happen in time.
    /// `commit`: the incarnation and the version, where there is one; else all that was acknowledged there counts.
    pub async fn written(
        &self,
        call: Call<'_>,
        name: &NamespaceName,
        (answer, commit): (Answer, Option<(Nsid, Version)>),
    ) -> Result<Answer> {
        if !self.write {
            return Ok(answer);
        }
        let awaited = match commit {
            Some((nsid, version)) => Ok(Awaited::commit(nsid, version)),
            None => call.server.engine.acknowledged(name).map(|(nsid, seen)| Awaited::all(nsid, seen)),
        };
        let done = match awaited {
            Ok(awaited) => sync::worker(call)?.in_bucket(name, awaited, self.end).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(_) => Ok(answer.with("preference-applied", "wait=bucket")),
            Err(error) => {
                let hint = "the write is durable on this node and is sent by a later pass; sending it again is safe";
                Err(Error::unavailable(error.message()).with_code(TIMEOUT).with_hint(hint))
            }
        }
    }

    /// Brings what is in the bucket here first, if that is preferred; says so whether the answer may say that.
    pub async fn read(&self, call: Call<'_>, name: &NamespaceName) -> Result<bool> {
        if !self.read {
            return Ok(false);
        }
        match sync::worker(call)?.together(name, self.end).await {
            // A name that nobody has is answered as always.
            Err(error) if error.kind() != Kind::NotFound => Err(error.with_code(NOT_READ)),
            _ => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::HeaderMap;

    use super::Prefer;

    fn parse(values: &[&str]) -> Result<(bool, bool, u64), crate::error::Error> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", value.parse().unwrap());
        }
        let began = tokio::time::Instant::now();
        let prefer = Prefer::parse(&headers, Duration::from_secs(60))?;
        Ok((prefer.write, prefer.read, (prefer.end - began).as_secs()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_preferred_of_the_bucket_is_read_beside_what_sdks_send() {
        assert_eq!(parse(&["respond-async"]).unwrap(), (false, false, 59));
        assert_eq!(parse(&["respond-async", "wait=bucket, wait=5"]).unwrap(), (true, false, 5));
        assert_eq!(parse(&["respond-async; Wait=\"bucket\";wait=600"]).unwrap(), (true, false, 59));
        assert_eq!(parse(&["read=bucket"]).unwrap(), (false, true, 59));
        assert!(parse(&["wait=bukcet"]).unwrap_err().message().contains("bukcet"));
    }
}
