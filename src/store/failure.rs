//! Says of a failed attempt what was wrong, in words for a person, and whether trying again can help.
//!
//! Three codes: `bucket_unreachable` (kind Unavailable) for what may pass, `bucket_full` (the same kind) for what takes room first,
//! `bucket_misconfigured` (kind Invalid) for what a person must mend. No text has a secret in it: of an answer's body only its code and its message are used.

use std::path::Path;
use std::time::Duration;

use super::directory::Gone;
use super::facts::{Broken, Facts, readable};
use super::traffic::Ending;
use crate::error::{Error, Kind};

/// The code of errors that may pass by themselves.
pub const UNREACHABLE: &str = "bucket_unreachable";
/// The code of errors about a bucket that has no room.
pub const FULL: &str = "bucket_full";
/// The code of errors that a person must mend.
pub const MISCONFIGURED: &str = "bucket_misconfigured";

/// What a person does whose bucket's directory is gone.
const AWAY_HINT: &str = "mount the disk that the bucket is on; a node that has met its bucket begins no other one by itself, and goes on once it is back";

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such object.
    Absent,
    /// The key is taken, or the bucket says so.
    Taken(Error),
    /// May pass by itself, and after this time at the earliest.
    /// Silent when only time ran out, which says less of what is wrong than an earlier failure.
    Passing { error: Error, ending: Ending, retry_after: Option<Duration>, silent: bool },
    /// The store answered, but not with what was asked for; may pass.
    Unfit(Error),
    /// Trying again unchanged fails again.
    Lasting(Error),
}

impl Failure {
    pub(super) fn ending(&self) -> Ending {
        match self {
            Failure::Absent | Failure::Taken(_) => Ending::Done,
            Failure::Passing { ending, .. } => *ending,
            Failure::Unfit(_) => Ending::Lost,
            Failure::Lasting(_) => Ending::Refused,
        }
    }

    /// As an error of a call that is over.
    pub(super) fn into_error(self, bucket: &str) -> Error {
        match self {
            Failure::Absent => Error::not_found(format!("{bucket}: there is no such object")),
            Failure::Taken(error)
            | Failure::Lasting(error)
            | Failure::Unfit(error)
            | Failure::Passing { error, .. } => error,
        }
    }
}

/// An attempt that may succeed later.
pub(super) fn passing(bucket: &str, what: impl std::fmt::Display, ending: Ending) -> Failure {
    let error = Error::unavailable(format!("{bucket}: {what}")).with_code(UNREACHABLE);
    Failure::Passing { error, ending, retry_after: None, silent: false }
}

/// An attempt whose time ran out.
pub(super) fn silence(bucket: &str, what: impl std::fmt::Display, ending: Ending) -> Failure {
    let error = Error::unavailable(format!("{bucket}: {what}")).with_code(UNREACHABLE);
    Failure::Passing { error, ending, retry_after: None, silent: true }
}

fn misconfigured(bucket: &str, what: impl std::fmt::Display, hint: impl Into<String>) -> Error {
    Error::invalid(format!("{bucket}: {what}")).with_code(MISCONFIGURED).with_hint(hint)
}

/// Why an attempt on `bucket`, which is asked at `endpoint`, failed.
pub(super) fn explain(bucket: &str, endpoint: &str, error: &object_store::Error, facts: &Facts) -> Failure {
    if let Some((broken, text)) = &facts.broken {
        return of_connection(bucket, endpoint, facts, *broken, text);
    }
    if let Some(status) = facts.status.filter(|status| !(200..300).contains(status)) {
        if !facts.host.is_empty() && !endpoint.is_empty() && facts.host != endpoint {
            let what = format!("credentials from {}: {}", facts.host, said(facts, status));
            return with_hint(passing(bucket, what, Ending::Refused), &credentials_hint(bucket));
        }
        return of_answer(bucket, facts, status);
    }
    if facts.status.is_some() {
        if let Some(status) = status_within(error) {
            let facts = Facts { status: Some(status), message: readable(&error.to_string()), ..Facts::default() };
            return of_answer(bucket, &facts, status);
        }
        let unfit = of_connection(bucket, endpoint, facts, Broken::Answer, &readable(&error.to_string()));
        return Failure::Unfit(unfit.into_error(bucket));
    }
    of_file_system(bucket, error)
}

/// The status of a deletion, which Azure is asked for in a batch of one: the batch's own says only that it was read. The crate has
/// it in words.
fn status_within(error: &object_store::Error) -> Option<u16> {
    error.to_string().strip_suffix(')')?.rsplit_once("(code: ")?.1.parse().ok()
}

/// The variables that have a vendor's credentials.
fn variables(bucket: &str) -> &'static str {
    match bucket.split_once("://") {
        Some(("gs", _)) => "GOOGLE_APPLICATION_CREDENTIALS",
        Some(("az", _)) => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        _ => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    }
}

/// Where the credentials of the bucket of this name come from.
pub(super) fn credentials_hint(bucket: &str) -> String {
    format!("set bucket.credentials_file, or {}, unless this machine's cloud gives them", variables(bucket))
}

/// The error of a node whose bucket was this directory, and is not there.
pub(super) fn away(bucket: &str, path: &Path) -> Error {
    let gone = Gone(path.to_owned());
    Error::unavailable(format!("{bucket}: {gone}")).with_code(UNREACHABLE).with_hint(AWAY_HINT)
}

fn with_hint(failure: Failure, hint: &str) -> Failure {
    match failure {
        Failure::Passing { error, ending, retry_after, silent } => {
            Failure::Passing { error: error.with_hint(hint), ending, retry_after, silent }
        }
        other => other,
    }
}

fn of_connection(bucket: &str, endpoint: &str, facts: &Facts, broken: Broken, text: &str) -> Failure {
    let host = &facts.host;
    let (what, hint) = match broken {
        Broken::Forbidden => {
            return Failure::Lasting(misconfigured(
                bucket,
                format!("{host}: {text}"),
                "use an https endpoint, or set bucket.allow_http where nobody can listen",
            ));
        }
        Broken::Name => {
            (format!("{host} has no address: {text}"), "check the endpoint's name and this machine's DNS")
        }
        Broken::Connect => (
            format!("cannot connect to {host}: {text}"),
            "check the endpoint, and that the network and firewalls let this machine reach it",
        ),
        Broken::Tls => (
            format!("{host} gives no trusted TLS connection: {text}"),
            "a store with a certificate of its own needs bucket.ca_file; check this machine's clock, too",
        ),
        Broken::Stalled => {
            (format!("{host} does not answer: {text}"), "check the link; work goes on once it is back")
        }
        Broken::Cut => (format!("connection to {host} ended early: {text}"), "check the link"),
        Broken::Answer => (format!("{host} does not answer as a bucket: {text}"), "check bucket.endpoint"),
    };
    let failure = passing(bucket, what, Ending::Lost);
    match endpoint.is_empty() || host.is_empty() || host == endpoint {
        true => with_hint(failure, hint),
        false => with_hint(failure, &credentials_hint(bucket)),
    }
}

fn said(facts: &Facts, status: u16) -> String {
    match (facts.code.as_str(), facts.message.as_str()) {
        ("", "") => format!("status {status}"),
        (code, "") => format!("{code} (status {status})"),
        ("", message) => format!("{message} (status {status})"),
        (code, message) => format!("{code}: {message} (status {status})"),
    }
}

/// Codes that come with status 400 and pass by themselves: the bytes did not arrive whole or in time.
const PASSING_CODES: [&str; 4] = ["RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentChecksumMismatch"];
const QUOTA_CODES: [&str; 5] = [
    "QuotaExceeded",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "InsufficientCapacity",
    "AccountProblem",
];

fn of_answer(bucket: &str, facts: &Facts, status: u16) -> Failure {
    let said = said(facts, status);
    let lasting = |what: String, hint: &str| Failure::Lasting(misconfigured(bucket, what, hint));
    let code = facts.code.as_str();
    if QUOTA_CODES.contains(&code) || status == 507 {
        // Perhaps for a moment only: what was sent in parts is not sent again.
        return Failure::Passing {
            error: full(bucket, said),
            ending: Ending::Refused,
            retry_after: None,
            silent: false,
        };
    }
    if PASSING_CODES.contains(&code) {
        return passing(bucket, said, Ending::Overloaded);
    }
    let wrong_region = matches!(
        code,
        "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException"
    ) || (300..400).contains(&status);
    if wrong_region && status != 304 {
        return if facts.region.is_empty() {
            lasting(
                format!("wrong region or endpoint: {said}"),
                "set bucket.region and bucket.endpoint to the bucket's",
            )
        } else {
            let region = &facts.region;
            lasting(
                format!("wrong region: the bucket is in {region}: {said}"),
                &format!("set bucket.region = \"{region}\""),
            )
        };
    }
    let is_unknown = status == 401
        || matches!(
            code,
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" | "AuthenticationFailed"
        )
        // Azurite's code for it is the one that others have for what is not allowed.
        || facts.message.starts_with("Server failed to authenticate");
    match (status, code) {
        (
            _,
            "NoSuchBucket"
            | "InvalidBucketName"
            | "ContainerNotFound"
            | "ContainerBeingDeleted"
            | "InvalidResourceName",
        ) => lasting(format!("there is no such bucket: {said}"), "create the bucket, or correct bucket.url"),
        (_, "RequestTimeTooSkewed" | "RequestExpired") => lasting(
            format!("this machine's clock is wrong: {said}"),
            "set the clock; requests are signed with the time",
        ),
        _ if is_unknown => lasting(
            format!("wrong or expired credentials: {said}"),
            &format!("check bucket.credentials_file or {}, and this machine's clock", variables(bucket)),
        ),
        (403, _) => lasting(
            format!("not allowed: {said}"),
            "the credentials need to read, write, delete and list below the prefix; without the right to list, S3 and Google answer so \
             for objects that are not there",
        ),
        (404, _) => Failure::Absent,
        (416, _) => {
            Failure::Lasting(Error::corrupt(format!("{bucket}: it is shorter than the range asked for: {said}")))
        }
        (409 | 412, _) => {
            Failure::Taken(Error::conflict(format!("{bucket}: the key is taken: {said}")).with_code(UNREACHABLE))
        }
        (501, _) | (_, "NotImplemented") => {
            Failure::Lasting(Error::unsupported(format!("{bucket}: the store does not offer this: {said}")))
        }
        (408 | 425 | 429 | 500..=599, _) => {
            let mut failure = passing(bucket, said, Ending::Overloaded);
            if let Failure::Passing { retry_after, .. } = &mut failure {
                *retry_after = facts.retry_after;
            }
            failure
        }
        _ => {
            lasting(format!("the request was refused: {said}"), "check bucket.url, bucket.endpoint and bucket.region")
        }
    }
}

/// Errors of stores that are not asked over HTTP: directories, memory, and those that tests put in front.
fn of_file_system(bucket: &str, error: &object_store::Error) -> Failure {
    use object_store::Error as Store;
    if let Some(ours) = find::<Error>(error) {
        return Failure::Lasting(ours.duplicate());
    }
    if let Some(gone) = find::<Gone>(error) {
        return with_hint(passing(bucket, gone, Ending::Lost), AWAY_HINT);
    }
    match error {
        Store::NotFound { .. } => Failure::Absent,
        Store::AlreadyExists { .. } | Store::Precondition { .. } => {
            Failure::Taken(Error::conflict(format!("{bucket}: the key is taken")).with_code(UNREACHABLE))
        }
        Store::NotImplemented { .. } | Store::NotSupported { .. } => {
            Failure::Lasting(Error::unsupported(format!("{bucket}: the store does not offer this: {error}")))
        }
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => Failure::Lasting(misconfigured(
            bucket,
            format!("not allowed: {error}"),
            "check the directory's owner and mode",
        )),
        _ => match io_kind(error) {
            Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) => Failure::Lasting(
                misconfigured(bucket, format!("not allowed: {error}"), "check the directory's owner, mode and mount"),
            ),
            Some(std::io::ErrorKind::Unsupported) => Failure::Lasting(Error::unsupported(format!(
                "{bucket}: the file system does not offer this: {error}"
            ))),
            _ if is_full(error) => Failure::Lasting(full(bucket, error)),
            _ => passing(bucket, error, Ending::Lost),
        },
    }
}

/// A bucket without room. Sending the same again at once would only write it again.
pub(super) fn full(bucket: &str, what: impl std::fmt::Display) -> Error {
    Error::unavailable(format!("{bucket}: the store has no room: {what}"))
        .with_code(FULL)
        .with_hint(
            "make room there, or raise the bucket's quota: a directory's file system may be out of bytes or of inodes (`df -h` and `df -i` \
             say so); uploads resume by themselves",
        )
}

/// Whether a file system had no room.
pub(super) fn is_full(error: &object_store::Error) -> bool {
    matches!(io_kind(error), Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
}

/// The kind of the first I/O error under `error`.
fn io_kind(error: &object_store::Error) -> Option<std::io::ErrorKind> {
    find::<std::io::Error>(error).map(std::io::Error::kind)
}

/// The first error of this type under `error`.
fn find<E: std::error::Error + 'static>(error: &object_store::Error) -> Option<&E> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Says of an error that outlived its call's patience how long that was.
pub(super) fn given_up(error: Error, attempts: u32, whole: Duration) -> Error {
    match error.kind() {
        Kind::Unavailable if attempts > 1 => {
            error.context(format_args!("given up after {attempts} attempts in {whole:?}"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{FULL, Failure, MISCONFIGURED, UNREACHABLE, credentials_hint, explain};
    use crate::error::{Error, Kind};
    use crate::store::facts::{Broken, Facts};

    const ANY: object_store::Error =
        object_store::Error::NotImplemented { operation: String::new(), implementer: String::new() };

    fn answer(status: u16, code: &str) -> Failure {
        explain(
            "s3://b",
            "h:443",
            &ANY,
            &Facts { host: "h:443".into(), status: Some(status), code: code.into(), ..Facts::default() },
        )
    }

    fn lasting(failure: Failure) -> Error {
        let Failure::Lasting(error) = failure else { panic!("{failure:?} may pass") };
        error
    }

    #[test]
    fn what_a_person_must_mend_is_said_at_once_and_precisely() {
        for (status, code, text) in [
            (403, "InvalidAccessKeyId", "wrong or expired credentials"),
            (403, "SignatureDoesNotMatch", "wrong or expired credentials"),
            (400, "ExpiredToken", "wrong or expired credentials"),
            (403, "RequestTimeTooSkewed", "this machine's clock is wrong"),
            (403, "AccessDenied", "not allowed"),
            (401, "", "wrong or expired credentials"),
            (403, "AuthenticationFailed", "wrong or expired credentials"),
            (404, "ContainerNotFound", "there is no such bucket"),
            (409, "ContainerBeingDeleted", "there is no such bucket"),
            (400, "InvalidResourceName", "there is no such bucket"),
            (404, "NoSuchBucket", "there is no such bucket"),
            (400, "AuthorizationHeaderMalformed", "wrong region or endpoint"),
            (301, "PermanentRedirect", "wrong region or endpoint"),
            (400, "InvalidArgument", "the request was refused"),
        ] {
            let error = lasting(answer(status, code));
            assert_eq!((error.kind(), error.code()), (Kind::Invalid, MISCONFIGURED), "{error}");
            assert!(error.message().starts_with(&format!("s3://b: {text}")), "{error}");
            assert!(error.hint().is_some());
        }
        assert_eq!(lasting(answer(501, "NotImplemented")).kind(), Kind::Unsupported);
    }

    #[test]
    fn hints_name_what_the_vendor_takes_credentials_from() {
        for (bucket, variable) in [
            ("s3://b", "AWS_SECRET_ACCESS_KEY"),
            ("gs://b", "GOOGLE_APPLICATION_CREDENTIALS"),
            ("az://b/root", "AZURE_STORAGE_ACCOUNT_KEY"),
        ] {
            let facts = Facts { status: Some(401), ..Facts::default() };
            assert!(lasting(explain(bucket, "", &ANY, &facts)).hint().unwrap().contains(variable));
            assert!(credentials_hint(bucket).contains(variable));
        }
    }

    #[test]
    fn a_wrong_region_names_the_right_one() {
        let facts = Facts { status: Some(301), region: "eu-west-1".into(), ..Facts::default() };
        let error = lasting(explain("s3://b", "h:443", &ANY, &facts));
        assert_eq!(error.message(), "s3://b: wrong region: the bucket is in eu-west-1: status 301");
        assert_eq!(error.hint(), Some("set bucket.region = \"eu-west-1\""));
    }

    #[test]
    fn what_may_pass_is_worth_another_attempt() {
        for (status, code) in [
            (429, ""),
            (500, "InternalError"),
            (502, ""),
            (503, "SlowDown"),
            (504, ""),
            (408, ""),
            (400, "RequestTimeout"),
            (400, "BadDigest"),
        ] {
            let failure = answer(status, code);
            let Failure::Passing { error, .. } = failure else { panic!("{status} {code}: {failure:?}") };
            assert_eq!((error.kind(), error.code()), (Kind::Unavailable, UNREACHABLE), "{error}");
        }
        for (status, code) in [(507, ""), (403, "QuotaExceeded")] {
            let failure = answer(status, code);
            let Failure::Passing { error, .. } = failure else { panic!("{status} {code}: {failure:?}") };
            assert_eq!((error.kind(), error.code()), (Kind::Unavailable, FULL), "{error}");
        }
        assert!(matches!(answer(404, "NoSuchKey"), Failure::Absent));
        assert!(matches!(answer(409, ""), Failure::Taken(_)) && matches!(answer(412, ""), Failure::Taken(_)));
    }

    #[test]
    fn the_time_that_a_bucket_asks_for_is_passed_on() {
        let after = Some(Duration::from_secs(7));
        let facts = Facts { status: Some(503), retry_after: after, ..Facts::default() };
        let Failure::Passing { retry_after, .. } = explain("s3://b", "", &ANY, &facts) else { panic!() };
        assert_eq!(retry_after, after);
    }

    #[test]
    fn a_connection_that_failed_says_how() {
        for broken in [Broken::Name, Broken::Connect, Broken::Tls, Broken::Stalled, Broken::Cut, Broken::Answer] {
            let facts = Facts { host: "h:443".into(), broken: Some((broken, "why".into())), ..Facts::default() };
            let failure = explain("s3://b", "h:443", &ANY, &facts);
            let Failure::Passing { error, .. } = failure else { panic!("{failure:?}") };
            assert!(error.message().contains("h:443") && error.message().contains("why") && error.hint().is_some());
        }
        let facts =
            Facts { host: "h:80".into(), broken: Some((Broken::Forbidden, "why".into())), ..Facts::default() };
        assert_eq!(lasting(explain("s3://b", "h:80", &ANY, &facts)).code(), MISCONFIGURED);
    }

    #[test]
    fn credentials_from_elsewhere_are_not_mistaken_for_the_bucket() {
        let broken = Some((Broken::Connect, "refused".into()));
        let facts = Facts { host: "169.254.169.254:80".into(), broken, ..Facts::default() };
        let Failure::Passing { error, .. } = explain("s3://b", "h:443", &ANY, &facts) else { panic!() };
        assert!(error.hint().unwrap().contains("credentials_file"));
    }
}
