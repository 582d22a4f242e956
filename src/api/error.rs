//! Errors as HTTP answers: status, code, whether to send again.

use serde_json::json;

use crate::error::{Error, Kind};

/// The status an error is answered with.
pub fn status_of(error: &Error) -> u16 {
    match (error.code(), error.kind()) {
        ("unprocessable" | "idempotency_key_reused", _) => 422,
        ("too_large", _) => 413,
        ("unauthenticated", _) => 401,
        ("forbidden" | super::following::FOLLOWED, _) => 403,
        ("method_not_allowed", _) => 405,
        ("timeout", _) => 408,
        ("unsupported_media_type", _) => 415,
        (crate::engine::COPY_UNDER_WAY, _) => 409,
        (crate::engine::lineage::GONE, _) => 410,
        (_, Kind::Invalid | Kind::Unsupported) => 400,
        (_, Kind::NotFound) => 404,
        (_, Kind::Conflict) => 412,
        (_, Kind::Busy) => 429,
        (_, Kind::Unavailable) => 503,
        (_, Kind::Corrupt | Kind::Internal) => 500,
    }
}

/// Whether the same request may succeed later.
pub fn is_retryable(error: &Error) -> bool {
    matches!(error.kind(), Kind::Busy | Kind::Unavailable) || error.code() == "timeout"
}

/// How long to wait before sending the same again, in milliseconds; `None` when that is no use.
pub fn retry_after_ms(error: &Error) -> Option<u64> {
    match error.kind() {
        Kind::Busy => Some(500),
        // A full disk or a restart takes longer than a moment.
        Kind::Unavailable => Some(2_000),
        _ => None,
    }
}

/// A stable word for programs.
pub fn code_of(error: &Error) -> &'static str {
    if !error.code().is_empty() {
        return error.code();
    }
    match error.kind() {
        Kind::Invalid => "invalid",
        Kind::NotFound => "not_found",
        Kind::Conflict => "precondition_failed",
        Kind::Unavailable => "unavailable",
        Kind::Busy => "busy",
        Kind::Corrupt => "corrupt",
        Kind::Unsupported => "unsupported",
        Kind::Internal => "internal",
    }
}

/// The body of an error's answer.
pub fn body_of(error: &Error, request_id: &str) -> Vec<u8> {
    let mut body = json!({
        "status": "error",
        "error": error.message(),
        "code": code_of(error),
        "retryable": is_retryable(error),
        "request_id": request_id,
    });
    if let Some(hint) = error.hint() {
        body["hint"] = hint.into();
    }
    if error.code() == crate::sync::TIMEOUT {
        // Beside what the code says: a write was asked to be in the bucket, too.
        body["durable_locally"] = true.into();
    }
    if let Some(attribute) = error.attribute() {
        body["attribute"] = attribute.into();
    }
    body.to_string().into_bytes()
}
