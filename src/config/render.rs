//! Prints settings as TOML with every key there is: keys without a value stand as comments.

use std::path::PathBuf;

use toml::{Table, Value};

use super::{Auth, Config, wrong};
use crate::error::Result;
use crate::store::BucketConfig;

/// The settings as TOML that a configuration file may hold. Tokens are never printed, only where they lie.
pub fn render(config: &Config) -> Result<String> {
    let set = table(config)?;
    let mut text = String::new();
    for (section, keys) in &table(&every_key(config))? {
        let Value::Table(keys) = keys else { continue };
        text.push_str(&format!("[{section}]\n"));
        for key in keys.keys() {
            match set.get(section).and_then(|keys| keys.get(key)) {
                Some(value) => text.push_str(&format!("{key} = {value}\n")),
                None => text.push_str(&format!("# {key} is not set\n")),
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// The settings with a value for each key that may be without one.
fn every_key(config: &Config) -> Config {
    let text = Some(String::new());
    let path = Some(PathBuf::new());
    Config {
        bucket: BucketConfig {
            endpoint: text.clone(),
            region: text,
            path_style: Some(false),
            ca_file: path.clone(),
            credentials_file: path.clone(),
            ..config.bucket.clone()
        },
        auth: Auth { tokens_file: path },
        ..config.clone()
    }
}

fn table(config: &Config) -> Result<Table> {
    Table::try_from(config).map_err(|error| wrong(format!("print settings: {error}")))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Config, render};
    use crate::store::BucketConfig;

    #[test]
    fn every_key_is_printed_and_what_is_printed_is_read_again() {
        let bucket = BucketConfig { region: Some("eu \"1\"".into()), ..BucketConfig::default() };
        let mut config = Config { bucket, ..Config::default() };
        config.auth.tokens_file = Some(PathBuf::from("/etc/shoal/tokens"));
        config.sync.include = vec!["a/b/*".into()];
        let text = render(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config, "{text}");
        for line in [
            "# endpoint is not set",
            "# path_style is not set",
            "# ca_file is not set",
            "# credentials_file is not set",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let text = render(&Config::default()).unwrap();
        assert!(text.contains("# tokens_file is not set") && text.contains("# region is not set"), "{text}");
    }
}
