//! `shoal status`: how the daemon is, or one namespace.

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::http::{Client, Target, namespace};
use super::output;
use crate::error::Result;
use crate::model::datetime::format;

/// The most namespaces that are listed.
const NAMESPACES_MAX: usize = 50;

#[derive(Args)]
pub struct Status {
    /// The namespace; without it, the daemon
    #[arg(value_parser = namespace)]
    namespace: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self) -> Result<()> {
        let path = match &self.namespace {
            None => "/v1/status".to_owned(),
            Some(namespace) => format!("/v1/namespaces/{namespace}/status"),
        };
        let mut client = Client::new(&self.target)?;
        let mut status = client.json(Method::GET, &path, Bytes::new(), None).await?;
        if self.json {
            return output::print_json(&status);
        }
        let sync = status.as_object_mut().and_then(|status| status.remove("sync"));
        let warnings = status.as_object_mut().and_then(|status| status.remove("warnings"));
        output::print_pairs(&status)?;
        output::print(&warnings.as_ref().map_or_else(String::new, warning_lines))?;
        output::print(&sync.as_ref().map_or_else(String::new, sync_lines))?;
        if self.namespace.is_some() || !sync.is_some_and(|sync| sync["bucket"].is_string()) {
            return Ok(());
        }
        output::print(&behind(&client.json(Method::GET, "/v1/sync", Bytes::new(), None).await?))
    }
}

/// What operators are to know, and what to do about it.
fn warning_lines(warnings: &Value) -> String {
    let mut text = String::new();
    for warning in warnings.as_array().into_iter().flatten() {
        let said = |key: &str| plain(warning[key].as_str().unwrap_or_default());
        text.push_str(&format!("\nwarning: {}: {}\n  hint: {}\n", said("code"), said("message"), said("hint")));
    }
    text
}

/// A line for every namespace that is not together with the bucket, or of which a person should know something.
fn behind(sync: &Value) -> String {
    let mut text = String::new();
    let is_told = |of: &&Value| of["in_bucket"] == false || of["error"].is_object() || of["notice"].is_string();
    let namespaces = || sync["namespaces"].as_object().into_iter().flatten().filter(|(_, of)| is_told(of));
    for (name, of) in namespaces().take(NAMESPACES_MAX) {
        text.push_str(&format!("  {name}:"));
        if of["deleted"] == true {
            text.push_str(" deleted here, which the bucket is to be told");
        } else if of["in_bucket"] == false {
            text.push_str(&format!(
                " {} objects of about {} bytes to send",
                of["pending_objects"], of["pending_bytes"]
            ));
        }
        for (what, said) in
            [("error", &of["error"]["message"]), ("hint", &of["error"]["hint"]), ("notice", &of["notice"])]
        {
            if let Some(said) = said.as_str() {
                text.push_str(&format!("\n    {what}: {}", plain(said)));
            }
        }
        text.push('\n');
    }
    if let more @ 1.. = namespaces().count().saturating_sub(NAMESPACES_MAX) {
        text.push_str(&format!("  and {more} namespaces more (`shoal status --json`, `GET /v1/sync`)\n"));
    }
    text
}

/// How far sync is, for a person.
fn sync_lines(sync: &Value) -> String {
    let number = |key: &str| sync[key].as_u64().unwrap_or(0);
    let Some(bucket) = sync["bucket"].as_str() else {
        return "\nsync: no bucket; everything is on this node only\n".to_owned();
    };
    if sync["selected"] == false {
        return format!("\nsync: does not take part in {bucket}, by sync.include or sync.exclude\n");
    }
    let mut text = match sync["in_bucket"] == true {
        _ if sync["following"] == true => following(sync, bucket),
        true => format!("\nsync: everything is in {bucket}\n"),
        false => format!(
            "\nsync: {} objects of about {} bytes are not in {bucket} yet, since up to {} s\n",
            number("pending_objects"),
            number("pending_bytes"),
            number("lag_seconds")
        ),
    };
    match sync["last_success_ms"].as_u64() {
        Some(ms) => text.push_str(&format!("  last together: {}\n", format(i64::try_from(ms).unwrap_or(i64::MAX)))),
        None => text.push_str("  not together yet since the start\n"),
    }
    if let Some(budget) = sync["budget"].as_str() {
        text.push_str(&format!("  budget: {}\n", plain(budget)));
    } else if let Some(monthly) = sync["monthly_bytes"].as_u64() {
        text.push_str(&format!("  this month: {} of {monthly} bytes\n", number("month_bytes")));
    }
    if sync["metered"] == true {
        text.push_str("  metered link: passes begin only when asked for (`shoal sync`)\n");
    }
    if let Some(notice) = sync["notice"].as_str() {
        text.push_str(&format!("  notice: {}\n", plain(notice)));
    }
    let reclaim = &sync["reclaim"];
    if let Some(ms) = reclaim["finished_ms"].as_u64() {
        let (objects, bytes) = (&reclaim["objects"], &reclaim["bytes"]);
        let at = format(i64::try_from(ms).unwrap_or(i64::MAX));
        text.push_str(&format!("  last reclaimed there: {at}, {objects} objects of {bytes} bytes\n"));
    }
    if let Some(why) = reclaim["error"]["message"].as_str() {
        text.push_str(&format!("  not all was reclaimed: {}\n", plain(why)));
    }
    if let Some(why) = sync["error"]["message"].as_str() {
        text.push_str(&format!("  last error: {}\n", plain(why)));
    }
    if let Some(hint) = sync["error"]["hint"].as_str() {
        text.push_str(&format!("  hint: {}\n", plain(hint)));
    }
    text
}

/// How far behind a namespace is that this node follows.
fn following(sync: &Value, bucket: &str) -> String {
    let mut text = match sync["staleness_seconds"].as_u64() {
        Some(seconds) => format!("\nsync: follows {bucket}, at most {seconds} s behind\n"),
        None if sync["bucket_generation"].is_null() => format!("\nsync: follows {bucket}, which never had it\n"),
        None => format!("\nsync: follows {bucket}, and does not know by its clock how far behind\n"),
    };
    if let objects @ 1.. = sync["pending_objects"].as_u64().unwrap_or(0) {
        text.push_str(&format!("  {objects} objects from before it was followed are not sent (sync.follow)\n"));
    }
    text
}

/// What a store said must not be able to steer the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{behind, sync_lines};

    #[test]
    fn namespaces_are_listed_that_are_behind_or_of_which_there_is_something_to_know() {
        let sync = json!({"namespaces": {
            "a/b/behind": {"in_bucket": false, "pending_objects": 2, "pending_bytes": 70, "error": null, "notice": null},
            "a/b/gone": {"in_bucket": false, "deleted": true, "pending_objects": 1, "error": null, "notice": null},
            "a/b/apart": {"in_bucket": true, "error": null, "notice": "kept as docs.apart-1"},
            "a/b/well": {"in_bucket": true, "error": null, "notice": null},
            "a/b/broken": {"in_bucket": true, "error": {"message": "damaged", "hint": "put it back"}},
        }});
        let told = behind(&sync);
        assert!(told.contains("a/b/behind: 2 objects of about 70 bytes to send\n"), "{told}");
        assert!(told.contains("a/b/gone: deleted here, which the bucket is to be told\n"), "{told}");
        assert!(told.contains("a/b/apart:\n    notice: kept as docs.apart-1\n"), "{told}");
        assert!(told.contains("error: damaged\n    hint: put it back\n") && !told.contains("well"), "{told}");
    }

    #[test]
    fn a_person_is_told_what_is_missing_and_why() {
        assert!(sync_lines(&json!(null)).contains("no bucket"));
        let together = json!({"bucket": "s3://data", "in_bucket": true, "last_success_ms": 0, "error": null});
        assert!(sync_lines(&together).contains("everything is in s3://data"), "{}", sync_lines(&together));
        let followed =
            json!({"bucket": "s3://data", "following": true, "staleness_seconds": 7, "pending_objects": 2});
        let told = sync_lines(&followed);
        assert!(told.contains("follows s3://data, at most 7 s behind") && told.contains("2 objects"), "{told}");
        let of = |generation| json!({"bucket": "s3://data", "following": true, "staleness_seconds": null, "bucket_generation": generation});
        assert!(sync_lines(&of(json!(null))).contains("never had it"));
        assert!(sync_lines(&of(json!(3))).contains("does not know by its clock how far behind"));
        let error = json!({"message": "gone\u{1b}[2J", "hint": "mount it", "code": "bucket_unreachable"});
        let behind = json!({"bucket": "s3://data", "in_bucket": false, "pending_objects": 2, "error": error});
        let told = sync_lines(&behind);
        assert!(told.contains("2 objects") && told.contains("gone [2J") && told.contains("mount it"), "{told}");
    }
}
