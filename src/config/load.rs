//! Reads the settings: a TOML file, then `SHOAL_SECTION__KEY` variables, then flags; unknown keys are errors.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, LogFormat, validate, wrong};
use crate::error::Result;
use crate::store::BucketConfig;

/// What flags say; they win over everything else.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub listen: Option<SocketAddr>,
    pub data_dir: Option<PathBuf>,
    pub tokens_file: Option<PathBuf>,
    /// `bucket.url`.
    pub bucket: Option<String>,
    pub log_level: Option<String>,
    pub log_format: Option<LogFormat>,
}

/// The settings, valid together. Errors carry [`super::BAD_CONFIGURATION`] and name the key, what was expected and
/// where it came from.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Overrides,
) -> Result<Config> {
    let mut table = match file {
        None => Table::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| wrong(format!("read configuration {}: {error}", path.display())))?;
            text.parse::<Table>()
                .map_err(|error| wrong(format!("parse configuration {}: {error}", path.display())))?
        }
    };
    // Keys without a default have a type all the same.
    let bucket = BucketConfig { path_style: Some(true), ..BucketConfig::default() };
    let defaults = Table::try_from(Config { bucket, ..Config::default() })
        .map_err(|error| wrong(format!("the configuration's own types: {error}")))?;
    for (name, value) in environment {
        if let Some((section, key)) = section_and_key(&name) {
            let default = defaults.get(&section).and_then(|keys| keys.get(&key));
            let value = typed(&name, value, default)?;
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(section) = section else {
                return Err(wrong(format!("{name}: the configuration has a value where this needs a section")));
            };
            section.insert(key, value);
        }
    }
    let mut unknown = Vec::new();
    let mut config: Config = serde_ignored::deserialize(Value::Table(table), |path| unknown.push(path.to_string()))
        .map_err(|error| wrong(format!("configuration: {}", error.to_string().trim())))?;
    if !unknown.is_empty() {
        return Err(wrong(format!("configuration has unknown keys: {}", unknown.join(", ")))
            .with_hint("keys from the environment are spelled SHOAL_SECTION__KEY; `shoal config` prints all keys"));
    }
    if let Some(listen) = flags.listen {
        config.server.listen = listen;
    }
    if let Some(data_dir) = flags.data_dir {
        config.storage.data_dir = data_dir;
    }
    if flags.tokens_file.is_some() {
        config.auth.tokens_file = flags.tokens_file;
    }
    if let Some(url) = flags.bucket {
        config.bucket.url = url;
    }
    if let Some(level) = flags.log_level {
        config.log.level = level;
    }
    if let Some(format) = flags.log_format {
        config.log.format = format;
    }
    validate::check(&config)?;
    Ok(config)
}

/// A variable's text as the type that its key has: a number, a truth, a list separated by commas, or the text itself.
fn typed(name: &str, text: String, default: Option<&Value>) -> Result<Value> {
    match default {
        Some(Value::Integer(_)) => match text.trim().parse() {
            Ok(number) => Ok(Value::Integer(number)),
            Err(_) => Err(wrong(format!("{name} is {text:?}, expected a whole number"))),
        },
        Some(Value::Boolean(_)) => match text.trim() {
            "true" => Ok(Value::Boolean(true)),
            "false" => Ok(Value::Boolean(false)),
            _ => Err(wrong(format!("{name} is {text:?}, expected true or false"))),
        },
        // A word in its place is the key's to judge.
        Some(Value::Float(_)) => Ok(text.trim().parse().map_or(Value::String(text), Value::Float)),
        Some(Value::Array(_)) => {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            Ok(Value::Array(words.map(|word| Value::String(word.to_owned())).collect()))
        }
        _ => Ok(Value::String(text)),
    }
}

/// `SHOAL_SERVER__LISTEN` is `server` and `listen`; variables without two underscores are not settings.
fn section_and_key(name: &str) -> Option<(String, String)> {
    let (section, key) = name.strip_prefix("SHOAL_")?.split_once("__")?;
    Some((section.to_lowercase(), key.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::query::Recall;

    fn from(text: &str, environment: &[(&str, &str)], flags: Overrides) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shoal.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())), flags)
    }

    #[test]
    fn nothing_said_means_loopback_and_the_default_port() {
        let config = load(None, [], Overrides::default()).unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:7345");
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file() {
        let text = "[server]\nlisten = \"127.0.0.1:1\"\n[log]\nlevel = \"warn\"\n";
        let config = from(text, &[("SHOAL_SERVER__LISTEN", "127.0.0.1:2")], Overrides::default()).unwrap();
        assert_eq!((config.server.listen.port(), config.log.level.as_str()), (2, "warn"));
        let flags = Overrides { listen: Some("127.0.0.1:3".parse().unwrap()), ..Overrides::default() };
        let config = from(text, &[("SHOAL_SERVER__LISTEN", "127.0.0.1:2")], flags).unwrap();
        assert_eq!(config.server.listen.port(), 3);
    }

    #[test]
    fn numbers_and_lists_from_the_environment_are_of_their_keys_types() {
        let environment =
            [("SHOAL_STORAGE__FLUSH_BYTES", "65536"), ("SHOAL_SERVER__ALLOWED_HOSTS", "one.example, two.example")];
        let config = from("", &environment, Overrides::default()).unwrap();
        assert_eq!(config.storage.flush_bytes, 65_536);
        let recall = |text| from("", &[("SHOAL_SEARCH__RECALL", text)], Overrides::default());
        assert_eq!(recall("0.9").unwrap().search.recall, Recall::of(0.9).unwrap());
        assert!(recall("exact").unwrap().search.recall.is_exact());
        assert!(recall("1.5").unwrap_err().message().contains("recall is 1.5"), "{:?}", recall("1.5"));
        assert_eq!(config.server.allowed_hosts, ["one.example", "two.example"]);
        let error = from("", &[("SHOAL_STORAGE__FLUSH_BYTES", "much")], Overrides::default()).unwrap_err();
        assert!(error.message().contains("SHOAL_STORAGE__FLUSH_BYTES is \"much\""), "{error}");
    }

    #[test]
    fn a_bucket_comes_from_anywhere_and_none_is_the_default() {
        assert!(load(None, [], Overrides::default()).unwrap().worker().unwrap().is_none());
        let environment = [
            ("SHOAL_BUCKET__URL", "s3://data/edge"),
            ("SHOAL_BUCKET__ENDPOINT", "http://127.0.0.1:9000"),
            ("SHOAL_BUCKET__ALLOW_HTTP", "true"),
            ("SHOAL_BUCKET__PATH_STYLE", "false"),
            ("SHOAL_BUCKET__BYTES_PER_SECOND_UP", "100000"),
            ("SHOAL_SYNC__INTERVAL_SECONDS", "5"),
            ("SHOAL_SYNC__INCLUDE", "acme/*/docs, acme/search/*"),
        ];
        let config = from("", &environment, Overrides::default()).unwrap();
        assert_eq!((config.bucket.path_style, config.bucket.allow_http), (Some(false), true));
        assert_eq!(config.bucket.bytes_per_second_up, 100_000);
        let worker = config.worker().unwrap().unwrap();
        assert_eq!((worker.interval.as_secs(), worker.policy.name()), (5, "lww"));
        let flags = Overrides { bucket: Some("file:///srv/bucket".into()), ..Overrides::default() };
        assert_eq!(from("", &environment, flags).unwrap().bucket.url, "file:///srv/bucket");
    }

    #[test]
    fn wrong_settings_of_sync_are_refused_without_the_network() {
        for (text, said) in [
            ("[bucket]\nurl = \"nowhere\"", "bucket.url is no URL"),
            ("[bucket]\nurl = \"s3://user:secret@data\"", "bucket.url has more in it"),
            ("[bucket]\nurl = \"s3://data\"\nendpoint = \"http://host\"", "plain http"),
            ("[bucket]\nsecret_key = \"x\"", "secret_key"),
            ("[sync]\npolicy = \"best\"", "sync.policy: \"best\" is unknown"),
            ("[sync]\ninterval_seconds = 0", "sync.interval_seconds is 0"),
            ("[sync]\ninclude = [\"docs\"]", "sync.include: \"docs\""),
            ("[sync]\nschedule = [\"22-6\"]", "sync.schedule: \"22-6\""),
            ("[sync]\nretention_days = 0", "sync.retention_days is 0"),
            ("[sync]\nreclaim_interval_hours = 9999", "sync.reclaim_interval_hours is 9999"),
            ("[sync]\nevery = 1", "sync.every"),
            (
                "[storage]\nretention_disk_percent = 101",
                "storage.retention_disk_percent is 101, expected at most 100",
            ),
        ] {
            let error = from(text, &[], Overrides::default()).unwrap_err();
            assert!(error.message().contains(said) && !error.message().contains("user:"), "{text}: {error}");
            assert_eq!(error.code(), crate::config::BAD_CONFIGURATION, "{text}");
        }
        let error = from("", &[("SHOAL_BUCKET__ALLOW_HTTP", "yes")], Overrides::default()).unwrap_err();
        assert!(error.message().contains("expected true or false"), "{error}");
    }

    #[test]
    fn unknown_keys_are_errors_that_name_them() {
        let error = from("[server]\nlissten = \"127.0.0.1:1\"\n", &[], Overrides::default()).unwrap_err();
        assert!(error.message().contains("server.lissten"), "{error}");
        assert_eq!(error.code(), crate::config::BAD_CONFIGURATION);
        let error = from("", &[("SHOAL_SERVER__PORT", "1")], Overrides::default()).unwrap_err();
        assert!(error.message().contains("server.port"), "{error}");
    }

    #[test]
    fn an_open_address_without_tokens_is_refused() {
        let error = from("[server]\nlisten = \"0.0.0.0:7345\"\n", &[], Overrides::default()).unwrap_err();
        assert_eq!(error.code(), crate::config::BAD_CONFIGURATION);
        assert!(error.message().contains("0.0.0.0:7345"), "{error}");
    }

    #[test]
    fn a_tokens_file_that_cannot_be_read_stops_the_start() {
        let text = "[auth]\ntokens_file = \"/nonexistent/tokens\"\n";
        assert!(from(text, &[], Overrides::default()).unwrap_err().message().contains("/nonexistent/tokens"));
    }
}
