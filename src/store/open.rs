//! Opens the store that a configuration names, by the crate `object_store`.
//!
//! A `file://` bucket's directory must exist: one that is made here would be taken for the bucket when its disk is not mounted.
//! Its files are synced before they count; a removal is not, and may come undone in a power cut, which leaks and loses nothing.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use super::config::{BucketConfig, Location, Vendor};
use super::connector::{Connector, Link, host_of};
use super::dial::trust;
use super::directory::Directory;
use super::failure::{MISCONFIGURED, away, credentials_hint};
use super::pace::Pace;
use super::traffic::Traffic;
use crate::error::{Context, Error, Result};
use crate::platform::clock::Clock;

/// A store, and what is to be known of it.
pub struct Backend {
    pub objects: Arc<dyn ObjectStore>,
    /// How large objects are uploaded; a store without writes them through [`ObjectStore::put_multipart_opts`].
    pub parts: Option<Arc<dyn MultipartStore>>,
    /// What errors call it, such as `s3://bucket/prefix`.
    pub name: String,
    /// What all keys begin with, without slashes at its ends.
    pub root: String,
    /// Whether its listings are known to be in the order of keys.
    pub lists_in_order: bool,
    pub(super) endpoint: String,
    pub(super) directory: Option<Arc<Directory>>,
    pub(super) over_http: bool,
}

impl Backend {
    /// A store that is asked directly: in memory, or one that a test has put its faults in front of.
    pub fn direct(objects: Arc<dyn ObjectStore>, parts: Option<Arc<dyn MultipartStore>>, name: &str) -> Self {
        Backend {
            objects,
            parts,
            name: name.to_owned(),
            root: String::new(),
            lists_in_order: false,
            endpoint: String::new(),
            directory: None,
            over_http: false,
        }
    }

    /// An empty store in memory.
    pub fn in_memory() -> Self {
        let store = Arc::new(InMemory::new());
        let parts = Arc::clone(&store) as Arc<dyn MultipartStore>;
        Backend { lists_in_order: true, ..Backend::direct(store, Some(parts), "memory") }
    }

    /// The store that `config` names. Nothing is asked of it yet.
    pub(super) fn open(config: &BucketConfig, clock: Arc<dyn Clock>, traffic: Arc<Traffic>) -> Result<Self> {
        let location = config.location()?;
        if location.vendor == Vendor::Directory {
            return directory(&location);
        }
        let link = Arc::new(Link {
            up: Pace::new(config.bytes_per_second_up),
            down: Pace::new(config.bytes_per_second_down),
            traffic,
            clock,
            connections_idle_max: config.requests_concurrent_max,
            trust: Arc::new(trust(config.ca_file.as_deref())?),
        });
        let backend = match location.vendor {
            Vendor::S3 => s3(config, &location, Connector(link)),
            Vendor::Google => google(config, &location, Connector(link)),
            _ => azure(config, &location, Connector(link)),
        }?;
        Ok(Backend { root: location.root, over_http: true, ..backend })
    }
}

/// Our own loop repeats: it knows the deadline, and which questions must not be asked twice.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, backoff: BackoffConfig::default(), retry_timeout: std::time::Duration::ZERO }
}

/// What the crate finds wrong before anything is asked is nearly always in the credentials; it shows none of them.
fn wrong(name: &str, error: &object_store::Error) -> Error {
    Error::invalid(format!("open {name}: {error}")).with_code(MISCONFIGURED).with_hint(credentials_hint(name))
}

/// `host:port` of a URL.
fn host(url: &str) -> String {
    url.parse().map(|uri| host_of(&uri)).unwrap_or_default()
}

fn s3(config: &BucketConfig, location: &Location, connector: Connector) -> Result<Backend> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&location.bucket)
        .with_retry(no_retries())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // Not every store offers it, and one refusal in a thousand would be hard to tell.
        .with_disable_bulk_delete(true)
        .with_http_connector(connector);
    if config.allow_http {
        builder = builder.with_allow_http(true);
    }
    if let Some(path) = &config.credentials_file {
        for (name, value) in read_credentials(path)? {
            let key: AmazonS3ConfigKey = name.parse().map_err(|_| unknown_name(path, &name))?;
            builder = builder.with_config(key, value);
        }
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".into());
    let endpoint = config.endpoint.clone().or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let vendors_own = endpoint.is_none();
    let by_path = config.path_style.unwrap_or(!vendors_own || location.bucket.contains('.'));
    let base = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let base = base.trim_end_matches('/');
    // The crate expects the bucket in the endpoint's host when it is not in the path.
    let base = match base.split_once("://") {
        Some((scheme, rest)) if !by_path => format!("{scheme}://{}.{rest}", location.bucket),
        _ => base.to_owned(),
    };
    let store = builder.with_endpoint(&base).with_virtual_hosted_style_request(!by_path).build();
    let name = named("s3", location);
    let store = Arc::new(store.map_err(|error| wrong(&name, &error))?);
    let parts = Arc::clone(&store) as Arc<dyn MultipartStore>;
    let backend = Backend::direct(store, Some(parts), &name);
    // The vendor promises the order; others are probed.
    Ok(Backend { endpoint: host(&base), lists_in_order: vendors_own, ..backend })
}

fn google(config: &BucketConfig, location: &Location, connector: Connector) -> Result<Backend> {
    let mut builder = match &config.credentials_file {
        // A service account in the environment would go before the file.
        Some(path) => GoogleCloudStorageBuilder::new().with_application_credentials(path.to_string_lossy()),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    let endpoint = config.endpoint.clone().or_else(|| builder.get_config_value(&GoogleConfigKey::BaseUrl));
    let vendors_own = endpoint.is_none();
    let base = endpoint.unwrap_or_else(|| "https://storage.googleapis.com".into());
    let base = base.trim_end_matches('/');
    builder = builder
        .with_bucket_name(&location.bucket)
        .with_base_url(base)
        // Unless told otherwise the crate asks this vendor without TLS, too.
        .with_config(GoogleConfigKey::Client(ClientConfigKey::AllowHttp), config.allow_http.to_string())
        .with_retry(no_retries())
        .with_http_connector(connector);
    let name = named("gs", location);
    let store = Arc::new(builder.build().map_err(|error| wrong(&name, &error))?);
    let parts = Arc::clone(&store) as Arc<dyn MultipartStore>;
    let backend = Backend::direct(store, Some(parts), &name);
    Ok(Backend { endpoint: host(base), lists_in_order: vendors_own, ..backend })
}

fn azure(config: &BucketConfig, location: &Location, connector: Connector) -> Result<Backend> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&location.bucket)
        .with_retry(no_retries())
        .with_allow_http(config.allow_http)
        .with_http_connector(connector);
    if let Some(path) = &config.credentials_file {
        for (name, value) in read_credentials(path)? {
            let key: AzureConfigKey = name.parse().map_err(|_| unknown_name(path, &name))?;
            builder = builder.with_config(key, value);
        }
    }
    let account = builder.get_config_value(&AzureConfigKey::AccountName).unwrap_or_default();
    let endpoint = config.endpoint.clone().or_else(|| builder.get_config_value(&AzureConfigKey::Endpoint));
    let vendors_own = endpoint.is_none();
    let base = endpoint.unwrap_or_else(|| format!("https://{account}.blob.core.windows.net"));
    let base = base.trim_end_matches('/');
    let name = named("az", location);
    let store = builder.with_endpoint(base.to_owned()).build();
    let store = Arc::new(store.map_err(|error| wrong(&name, &error))?);
    let parts = Arc::clone(&store) as Arc<dyn MultipartStore>;
    let backend = Backend::direct(store, Some(parts), &name);
    Ok(Backend { endpoint: host(base), lists_in_order: vendors_own, ..backend })
}

impl BucketConfig {
    /// What to say where this node has met its bucket, and that is a directory that is not there; none where it is, or no directory.
    pub fn absence(&self) -> Option<Error> {
        let location = self.location().ok().filter(|location| location.vendor == Vendor::Directory)?;
        let path = Path::new(&location.bucket);
        is_absent(path).then(|| away(&named("file", &location), path))
    }
}

fn is_absent(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(found) => !found.is_dir(),
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

fn directory(location: &Location) -> Result<Backend> {
    let path = Path::new(&location.bucket);
    let name = format!("file://{}", location.bucket);
    let store = Directory::open(path, &name).map_err(|error| {
        let what = if is_absent(path) { "there is no such directory".to_owned() } else { error.to_string() };
        Error::invalid(format!("{name}: {what}"))
            .with_code(MISCONFIGURED)
            .with_hint("create the directory, or mount the disk that it is on")
    })?;
    let store = Arc::new(store);
    let backend = Backend::direct(Arc::clone(&store) as Arc<dyn ObjectStore>, None, &name);
    Ok(Backend { directory: Some(store), ..backend })
}

fn named(scheme: &str, location: &Location) -> String {
    match location.root.as_str() {
        "" => format!("{scheme}://{}", location.bucket),
        root => format!("{scheme}://{}/{root}", location.bucket),
    }
}

fn unknown_name(path: &Path, name: &str) -> Error {
    Error::invalid(format!("bucket.credentials_file {}: {name:?} is no name that is known", path.display()))
        .with_code(MISCONFIGURED)
}

/// The names and values of a credentials file. Values never appear in an error.
fn read_credentials(path: &Path) -> Result<Vec<(String, String)>> {
    let text =
        std::fs::read_to_string(path).context(|| format!("read bucket.credentials_file {}", path.display()))?;
    parse_credentials(&text).map_err(|error| {
        error.context(format_args!("bucket.credentials_file {}", path.display())).with_code(MISCONFIGURED)
    })
}

fn parse_credentials(text: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut ours = true;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with(';') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            ours = section.trim_end_matches(']').trim() == "default";
            continue;
        }
        let (name, value) =
            line.split_once('=').ok_or_else(|| Error::invalid(format!("line {}: expected name = value", at + 1)))?;
        if ours {
            found.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    match found.is_empty() {
        true => Err(Error::invalid("there are no credentials in it")),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_credentials;

    #[test]
    fn credentials_are_those_of_the_default_section() {
        let text = "# a file\n[other]\na = 1\n[default]\nAWS_ACCESS_KEY_ID = id\naws_secret_access_key=se=cret\n";
        let pairs = parse_credentials(text).unwrap();
        let expected = [("aws_access_key_id", "id"), ("aws_secret_access_key", "se=cret")];
        assert_eq!(pairs, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(parse_credentials("a = 1").unwrap().len(), 1);
    }

    #[test]
    fn a_line_that_is_none_is_named_by_its_number_and_not_shown() {
        let error = parse_credentials("a = 1\nsecret").unwrap_err();
        assert_eq!(error.message(), "line 2: expected name = value");
        assert!(parse_credentials("[other]\na = 1").is_err() && parse_credentials("").is_err());
    }
}
