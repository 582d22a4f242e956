//! `shoal status`: how the daemon is, or one namespace.

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::http::{Client, Target, namespace};
use super::output;
use crate::error::Result;
use crate::model::datetime::format;

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
        let mut status = Client::new(&self.target)?.json(Method::GET, &path, Bytes::new(), None).await?;
        if self.json {
            return output::print_json(&status);
        }
        let sync = status.as_object_mut().and_then(|status| status.remove("sync"));
        output::print_pairs(&status)?;
        output::print(&sync.as_ref().map_or_else(String::new, sync_lines))
    }
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
        None => format!("\nsync: follows {bucket}, which never had it\n"),
    };
    if let objects @ 1.. = sync["pending_objects"].as_u64().unwrap_or(0) {
        text.push_str(&format!("  {objects} objects from before it was followed are not sent (sync.follow)\n"));
    }
    text
}

/// What a store said must not be able to steer the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::sync_lines;

    #[test]
    fn a_person_is_told_what_is_missing_and_why() {
        assert!(sync_lines(&json!(null)).contains("no bucket"));
        let together = json!({"bucket": "s3://data", "in_bucket": true, "last_success_ms": 0, "error": null});
        assert!(sync_lines(&together).contains("everything is in s3://data"), "{}", sync_lines(&together));
        let followed =
            json!({"bucket": "s3://data", "following": true, "staleness_seconds": 7, "pending_objects": 2});
        let told = sync_lines(&followed);
        assert!(told.contains("follows s3://data, at most 7 s behind") && told.contains("2 objects"), "{told}");
        let error = json!({"message": "gone\u{1b}[2J", "hint": "mount it", "code": "bucket_unreachable"});
        let behind = json!({"bucket": "s3://data", "in_bucket": false, "pending_objects": 2, "error": error});
        let told = sync_lines(&behind);
        assert!(told.contains("2 objects") && told.contains("gone [2J") && told.contains("mount it"), "{told}");
    }
}
