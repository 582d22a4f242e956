//! The section `[sync]`: when and what a node exchanges with its bucket.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Config, wrong};
use crate::engine::merge::decide::Policy;
use crate::error::{Error, Result};
use crate::model::name_patterns::NamePatterns;
use crate::sync::{PollWaits, Schedule, Selection, WorkerConfig};

/// The longest interval: a week.
const INTERVAL_SECONDS_MAX: u64 = 7 * 24 * 3_600;

/// The longest that anything is kept for: ten years.
const RETENTION_DAYS_MAX: u64 = 3_650;
const RECLAIM_HOURS_MAX: u64 = 24 * 366;

/// When and what is exchanged with the bucket; nothing while `bucket.url` is empty.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct SyncSettings {
    /// A pass every so many seconds, a quarter more or less.
    pub interval_seconds: u64,
    /// What becomes of a document that two nodes changed apart: a policy of `shoal merge`.
    pub policy: String,
    /// Namespaces that take part, as `org/project/name` with `*` for any characters of a part; empty for all.
    pub include: Vec<String>,
    /// Those of them that do not.
    pub exclude: Vec<String>,
    /// Namespaces that other nodes write and this one only takes from the bucket, by patterns as above.
    pub follow: Vec<String>,
    /// They are looked at so many seconds after news, and after twice as many with each look without, up to the second number.
    pub follow_interval_seconds: u64,
    pub follow_interval_seconds_max: u64,
    /// Windows `HH:MM-HH:MM` of the day, in UTC, in which passes begin by themselves; empty for always.
    pub schedule: Vec<String>,
    /// The link is paid by the byte: passes begin only when somebody asks for one.
    pub metered: bool,
    /// After so many bytes in a month, UTC, passes begin only when somebody asks for one; 0 for no bound.
    pub monthly_bytes: u64,
    /// For how many days the bucket keeps states that were replaced, and deleted namespaces.
    pub retention_days: u64,
    /// Every how many hours the rest is deleted there; 0: on request only.
    pub reclaim_interval_hours: u64,
}

impl Default for SyncSettings {
    fn default() -> Self {
        SyncSettings {
            interval_seconds: 60,
            policy: Policy::Lww.name().to_owned(),
            include: Vec::new(),
            exclude: Vec::new(),
            follow: Vec::new(),
            follow_interval_seconds: 10,
            follow_interval_seconds_max: 300,
            schedule: Vec::new(),
            metered: false,
            monthly_bytes: 0,
            retention_days: 7,
            reclaim_interval_hours: 24,
        }
    }
}

impl Config {
    /// How this node takes part in sync; `None` without a bucket. Nothing is opened or asked for it.
    pub fn worker(&self) -> Result<Option<WorkerConfig>> {
        let (sync, bucket) = (&self.sync, &self.bucket);
        for (key, seconds, least) in [
            ("interval_seconds", sync.interval_seconds, 1),
            ("follow_interval_seconds", sync.follow_interval_seconds, 1),
            ("follow_interval_seconds_max", sync.follow_interval_seconds_max, sync.follow_interval_seconds),
        ] {
            if !(least..=INTERVAL_SECONDS_MAX).contains(&seconds) {
                return Err(wrong(format!("sync.{key} is {seconds}, expected {least} to {INTERVAL_SECONDS_MAX}")));
            }
        }
        if !(1..=RETENTION_DAYS_MAX).contains(&sync.retention_days) {
            return Err(wrong(format!(
                "sync.retention_days is {}, expected 1 to {RETENTION_DAYS_MAX}",
                sync.retention_days
            )));
        }
        if sync.reclaim_interval_hours > RECLAIM_HOURS_MAX {
            return Err(wrong(format!(
                "sync.reclaim_interval_hours is {}, expected at most {RECLAIM_HOURS_MAX}, or 0 for never by itself",
                sync.reclaim_interval_hours
            )));
        }
        let policy = Policy::parse(&sync.policy).map_err(|error| of_configuration("sync.", &error))?;
        let selection =
            Selection::parse(&sync.include, &sync.exclude).map_err(|error| of_configuration("sync.", &error))?;
        let selection = selection.and_follow(self.followed()?);
        let schedule = Schedule::parse(&sync.schedule).map_err(|error| of_configuration("sync.", &error))?;
        if bucket.url.is_empty() {
            return Ok(None);
        }
        bucket.location().map_err(|error| of_configuration("", &error))?;
        let interval = Duration::from_secs(sync.interval_seconds);
        let poll_waits = PollWaits {
            first: Duration::from_secs(sync.follow_interval_seconds),
            max: Duration::from_secs(sync.follow_interval_seconds_max),
        };
        let retention = Duration::from_secs(sync.retention_days * 24 * 3_600);
        let reclaim_interval = match sync.reclaim_interval_hours {
            0 => None,
            hours => Some(Duration::from_secs(hours * 3_600)),
        };
        Ok(Some(WorkerConfig {
            bucket: bucket.clone(),
            interval,
            poll_waits,
            policy,
            selection,
            schedule,
            is_metered: sync.metered,
            monthly_bytes: sync.monthly_bytes,
            retention,
            reclaim_interval,
        }))
    }

    /// Namespaces that this node never writes, whether there is a bucket now or not.
    pub fn followed(&self) -> Result<NamePatterns> {
        NamePatterns::parse("follow", &self.sync.follow).map_err(|error| of_configuration("sync.", &error))
    }
}

/// An error in a setting, so that the process ends with the code of a wrong configuration.
pub fn of_configuration(section: &str, error: &Error) -> Error {
    let wrong = wrong(format!("{section}{error}"));
    match error.hint() {
        Some(hint) => wrong.with_hint(hint),
        None => wrong,
    }
}
