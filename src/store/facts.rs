//! What one attempt saw of the bucket beyond what `object_store` reports: status, error code, region, how long to wait.
//!
//! Also when bytes moved, by which the attempt is known to be alive. The connector writes it, [`super::failure`] reads it. It travels as a task-local value, since the crate between them keeps
//! neither the headers of a refusal nor its kind. Attempts run in one task: the crate spawns none for requests.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::patience::Moves;

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The host has no address.
    Name,
    /// No address accepts connections.
    Connect,
    /// The other side is not who it should be, or does not speak TLS.
    Tls,
    /// Nothing moved for too long.
    Stalled,
    /// The connection ended early.
    Cut,
    /// The answer is not HTTP, or longer than it may be.
    Answer,
    /// The configuration does not allow the connection.
    Forbidden,
}

/// What the last answer of an attempt said, or why there was none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Who was asked: `host:port`. Not always the bucket: credentials may come from elsewhere.
    pub(super) host: String,
    pub(super) status: Option<u16>,
    /// The error code of the answer's body, such as `NoSuchBucket`.
    pub(super) code: String,
    /// Its text for a person.
    pub(super) message: String,
    /// The region that the bucket is in, when the answer says so.
    pub(super) region: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) broken: Option<(Broken, String)>,
}

/// Where the connector leaves them.
#[derive(Debug)]
pub(super) struct Seen {
    /// The longest answer that the attempt expects.
    pub(super) answer_bytes_max: u64,
    pub(super) moves: Moves,
    facts: Mutex<Facts>,
}

tokio::task_local! {
    static SEEN: Arc<Seen>;
}

/// Runs an attempt until nothing has moved for so long; what it saw comes with its result, and how long bytes moved.
pub(super) async fn watch<T>(
    answer_bytes_max: u64,
    quiet: Duration,
    attempt: impl Future<Output = T>,
) -> (Option<T>, Facts, Duration) {
    let seen = Arc::new(Seen { answer_bytes_max, moves: Moves::begin(), facts: Mutex::default() });
    let result = tokio::select! {
        biased;
        result = SEEN.scope(Arc::clone(&seen), attempt) => Some(result),
        () = seen.moves.stopped(quiet) => None,
    };
    (result, seen.take(), seen.moves.time())
}

/// What the attempt under way leaves its facts in; none outside of one.
pub(super) fn seen() -> Option<Arc<Seen>> {
    SEEN.try_with(Arc::clone).ok()
}

impl Seen {
    pub(super) fn set(&self, facts: Facts) {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    pub(super) fn set_broken(&self, broken: Broken, text: String) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).broken = Some((broken, text));
    }

    fn take(&self) -> Facts {
        std::mem::take(&mut *self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The longest text of an answer that is passed on.
const TEXT_CHARS_MAX: usize = 300;

impl Facts {
    /// Takes code, text and region from the body of a refusal: S3's and Azure's XML, or Google's JSON.
    pub(super) fn read_body(&mut self, body: &[u8]) {
        let body = String::from_utf8_lossy(body);
        if let Some(code) = element(&body, "Code") {
            self.code = code;
        }
        if let Some(message) = element(&body, "Message").or_else(|| element(&body, "message")) {
            self.message = message;
        }
        if let Some(region) = element(&body, "Region") {
            self.region = region;
        }
        if let Ok(json) = serde_json::from_str::<serde_json::Value>(&body)
            && let Some(message) = json.pointer("/error/message").and_then(serde_json::Value::as_str)
        {
            self.message = readable(message);
            let reason = json.pointer("/error/errors/0/reason").and_then(serde_json::Value::as_str);
            self.code = readable(reason.unwrap_or_default());
        }
    }
}

/// The text between the first `<name>` and the next `</name>`. Enough for error documents, which are flat.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(readable(text))
}

/// A text from outside as it may stand in a log: one line, bounded.
pub(super) fn readable(text: &str) -> String {
    let shown = |c: char| if c == '\n' { Some(' ') } else { (!c.is_control()).then_some(c) };
    text.chars().filter_map(shown).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::{Facts, TEXT_CHARS_MAX, readable};

    #[test]
    fn a_refusal_in_xml_says_its_code_text_and_region_and_nothing_else_of_it_is_kept() {
        let mut facts = Facts::default();
        facts.read_body(
            b"<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'a' is wrong</Message>\
              <Region>eu-west-1</Region><StringToSign>AWS4 secret</StringToSign></Error>",
        );
        let expected = Facts {
            code: "AuthorizationHeaderMalformed".into(),
            message: "the region 'a' is wrong".into(),
            region: "eu-west-1".into(),
            ..Facts::default()
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn a_refusal_in_json_says_its_reason_and_text() {
        let mut facts = Facts::default();
        facts.read_body(br#"{"error":{"code":404,"message":"no such bucket","errors":[{"reason":"notFound"}]}}"#);
        assert_eq!((facts.code.as_str(), facts.message.as_str()), ("notFound", "no such bucket"));
    }

    #[test]
    fn any_other_body_says_nothing() {
        for body in [&b""[..], b"<Code>", b"<Code></Message>", b"\xff\xfe", b"[]", b"{\"error\":1}"] {
            let mut facts = Facts::default();
            facts.read_body(body);
            assert_eq!(facts, Facts::default());
        }
    }

    #[test]
    fn texts_from_outside_are_one_short_line() {
        assert_eq!(readable("a\r\nb\x1b[0m"), "a b[0m");
        assert_eq!(readable(&"x".repeat(10_000)).len(), TEXT_CHARS_MAX);
    }
}
