//! What an operator says of the bucket, and what its URL means.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::keys;
use super::patience::Patience;
use crate::error::{Error, Result};

/// Requests under way at once, unless configured: enough to fill a link of 100 MB/s at 50 ms with parts of 8 MB, few enough for
/// a small store and for a node's file descriptors.
pub const REQUESTS_CONCURRENT_MAX: usize = 32;
/// The most that can be configured: each has a connection, and buffers of half a megabyte in the kernel.
const REQUESTS_CONCURRENT_LIMIT: usize = 1_024;

/// The bucket's configuration. Secrets are not in it: they come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`), from
/// `credentials_file`, or from the machine's cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BucketConfig {
    /// `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, or `file:///DIRECTORY`, which must exist.
    pub url: String,
    /// Where the store is, unless it is the vendor's: `https://HOST:PORT`.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Whether the bucket is named in the path instead of the host; with an endpoint it is, unless said otherwise.
    pub path_style: Option<bool>,
    /// PEM file with more certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// Whether an endpoint may be asked without TLS: anybody on the way can then read and change what is sent.
    pub allow_http: bool,
    /// S3 and Azure: lines `name = value` as in `~/.aws/credentials`, section `default`. Google: the service account's JSON.
    pub credentials_file: Option<PathBuf>,
    /// 0 for no bound. Directories are never bounded.
    pub bytes_per_second_up: u64,
    pub bytes_per_second_down: u64,
    pub requests_concurrent_max: usize,
    /// How long a call may take that somebody waits for.
    pub asked_deadline_ms: u64,
    /// How long a call may take that nobody waits for.
    pub background_deadline_ms: u64,
}

impl Default for BucketConfig {
    fn default() -> Self {
        BucketConfig {
            url: String::new(),
            endpoint: None,
            region: None,
            path_style: None,
            ca_file: None,
            allow_http: false,
            credentials_file: None,
            bytes_per_second_up: 0,
            bytes_per_second_down: 0,
            requests_concurrent_max: REQUESTS_CONCURRENT_MAX,
            asked_deadline_ms: Patience::ASKED.whole.as_millis() as u64,
            background_deadline_ms: Patience::BACKGROUND.whole.as_millis() as u64,
        }
    }
}

impl BucketConfig {
    /// For calls that somebody waits for.
    pub fn asked(&self) -> Patience {
        Patience::ASKED.within(Duration::from_millis(self.asked_deadline_ms))
    }

    /// For calls that nobody waits for.
    pub fn background(&self) -> Patience {
        Patience::BACKGROUND.within(Duration::from_millis(self.background_deadline_ms))
    }

    /// Says what is wrong with it, as far as that can be seen from here, and where it leads.
    pub fn location(&self) -> Result<Location> {
        if !(1..=REQUESTS_CONCURRENT_LIMIT).contains(&self.requests_concurrent_max) {
            let found = self.requests_concurrent_max;
            return Err(Error::invalid(format!(
                "bucket.requests_concurrent_max is {found}, expected 1 to {REQUESTS_CONCURRENT_LIMIT}"
            )));
        }
        for (name, ms) in
            [("asked_deadline_ms", self.asked_deadline_ms), ("background_deadline_ms", self.background_deadline_ms)]
        {
            if ms == 0 {
                return Err(Error::invalid(format!("bucket.{name} is 0, expected at least 1")));
            }
        }
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint, self.allow_http)?;
        }
        Location::parse(&self.url)
    }
}

fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<()> {
    // Not shown in errors: who writes secrets into it must not find them in a log.
    let uri: hyper::Uri = endpoint.parse().map_err(|e| Error::invalid(format!("bucket.endpoint is no URL: {e}")))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Error::invalid(
            "bucket.endpoint has credentials in it, which belong into bucket.credentials_file",
        ));
    }
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if allow_http => Ok(()),
        Some("http") => {
            Err(Error::invalid(format!("bucket.endpoint {endpoint} is plain http, which is not allowed"))
                .with_hint("use https, or set bucket.allow_http where nobody can listen"))
        }
        _ => Err(Error::invalid("bucket.endpoint is no URL of https or http").with_hint("write https://HOST:PORT")),
    }
}

/// Which kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    S3,
    Google,
    Azure,
    Directory,
}

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub vendor: Vendor,
    /// The bucket's or container's name; a directory's path.
    pub bucket: String,
    /// What all keys begin with, without slashes at its ends; empty for the whole bucket.
    pub root: String,
}

impl Location {
    fn parse(url: &str) -> Result<Self> {
        let expected = "write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY";
        let wrong = |what: &str| Error::invalid(format!("bucket.url {what}")).with_hint(expected);
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("is no URL"))?;
        if rest.contains('@') || rest.contains('?') || rest.contains('#') {
            return Err(wrong("has more in it than a bucket and a prefix"));
        }
        if scheme == "file" {
            return match rest.starts_with('/') {
                true => Ok(Location { vendor: Vendor::Directory, bucket: rest.to_owned(), root: String::new() }),
                false => Err(wrong("names no absolute directory")),
            };
        }
        let vendor = match scheme {
            "s3" => Vendor::S3,
            "gs" => Vendor::Google,
            "az" => Vendor::Azure,
            _ => return Err(wrong("is of a kind that is not known")),
        };
        let (bucket, root) = rest.split_once('/').unwrap_or((rest, ""));
        // The vendors' rules differ in detail; this is what none of them goes beyond, so that a name is a name and no path.
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
        if !(3..=222).contains(&bucket.len()) || !bucket.chars().all(plain) || bucket.contains("..") {
            return Err(wrong("names no bucket of 3 to 222 characters a-z, 0-9, -, _ and ."));
        }
        let root = root.trim_matches('/');
        if !root.is_empty() {
            keys::check(root).map_err(|error| error.context("bucket.url: prefix"))?;
        }
        Ok(Location { vendor, bucket: bucket.to_owned(), root: root.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::{BucketConfig, Location, Vendor};

    #[test]
    fn a_url_leads_to_a_bucket_and_a_prefix() {
        for (url, vendor, bucket, root) in [
            ("s3://data", Vendor::S3, "data", ""),
            ("s3://data/", Vendor::S3, "data", ""),
            ("s3://data/a/b/", Vendor::S3, "data", "a/b"),
            ("gs://data/a", Vendor::Google, "data", "a"),
            ("az://data/a", Vendor::Azure, "data", "a"),
            ("file:///var/lib/bucket", Vendor::Directory, "/var/lib/bucket", ""),
        ] {
            let expected = Location { vendor, bucket: bucket.into(), root: root.into() };
            assert_eq!(Location::parse(url).unwrap(), expected);
        }
    }

    #[test]
    fn a_url_that_leads_elsewhere_is_refused_and_never_shown() {
        for url in [
            "",
            "data",
            "s3:data",
            "s3://",
            "s3://ab",
            "s3://user:secret@data",
            "s3://Data",
            "s3://a..b",
            "s3://data/../x",
            "s3://data/a//b",
            "s3://data/a b",
            "file://relative",
            "http://data/secret",
            "s3://data/?secret=1",
            "s3://data/secret%20",
        ] {
            let error = Location::parse(url).unwrap_err();
            assert!(
                error.message().starts_with("bucket.url") && !error.message().contains("user:"),
                "{url}: {error}"
            );
        }
    }

    #[test]
    fn an_endpoint_without_tls_has_to_be_allowed_and_has_no_secrets_in_it() {
        let mut config = BucketConfig {
            url: "s3://data".into(),
            endpoint: Some("http://127.0.0.1:9000".into()),
            ..BucketConfig::default()
        };
        assert!(config.location().unwrap_err().hint().unwrap().contains("allow_http"));
        config.allow_http = true;
        config.location().unwrap();
        for endpoint in ["https://user:secret@host", "host:9000", "ftp://host", ""] {
            config.endpoint = Some(endpoint.into());
            assert!(!config.location().unwrap_err().message().contains("secret"));
        }
    }

    #[test]
    fn bounds_that_would_stop_everything_are_refused() {
        let sound = BucketConfig { url: "s3://data".into(), ..BucketConfig::default() };
        sound.location().unwrap();
        assert!(BucketConfig { requests_concurrent_max: 0, ..sound.clone() }.location().is_err());
        assert!(BucketConfig { requests_concurrent_max: 5_000, ..sound.clone() }.location().is_err());
        assert!(BucketConfig { asked_deadline_ms: 0, ..sound.clone() }.location().is_err());
        assert!(BucketConfig { background_deadline_ms: 0, ..sound }.location().is_err());
    }
}
