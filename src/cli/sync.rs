//! `shoal sync`: brings the daemon and its bucket together, or says what that would send; and deletes there what nobody needs.

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::http::{Client, Target, namespace};
use super::output;
use super::status::plain;
use crate::error::{Error, Result};

#[derive(Args)]
pub struct Sync {
    /// Namespaces, NAME or ORG/PROJECT/NAME; without them, all that take part
    #[arg(value_name = "NS", value_parser = name)]
    namespaces: Vec<String>,
    /// Wait until it is done: exit 0 only when everything is in the bucket
    #[arg(long)]
    wait: bool,
    /// Only say what is not in the bucket yet
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Say whether the link is paid by the byte now, until the daemon starts again: then passes begin only when asked for
    #[arg(long, value_name = "BOOL", conflicts_with_all = ["wait", "dry_run", "namespaces"])]
    metered: Option<bool>,
    /// Delete in the bucket what no state needs that is kept; with --dry-run, only say what that is
    #[arg(long, conflicts_with = "wait")]
    reclaim: bool,
    /// Reclaim whatever share of a namespace it is, and what a lost node began long ago and never finished
    #[arg(long, requires = "reclaim")]
    force: bool,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn name(text: &str) -> std::result::Result<String, String> {
    match text.split('/').count() {
        1 => namespace(text),
        3 if text.split('/').all(|part| namespace(part).is_ok()) => Ok(text.to_owned()),
        _ => Err("expected NAME or ORG/PROJECT/NAME".to_owned()),
    }
}

impl Sync {
    pub(super) async fn run(self) -> Result<()> {
        let mut body = json!({"wait": self.wait, "dry_run": self.dry_run});
        if self.reclaim {
            (body["reclaim"], body["force"]) = (json!(true), json!(self.force));
        }
        if !self.namespaces.is_empty() {
            body["namespaces"] = json!(self.namespaces);
        }
        if let Some(metered) = self.metered {
            body = json!({"metered": metered});
        }
        let mut client = Client::new(&self.target)?;
        let done = client.patient(Method::POST, "/v1/sync", Bytes::from(body.to_string())).await?;
        if self.json {
            output::print_json(&done)?;
        } else {
            output::print(&match (self.dry_run, self.wait) {
                _ if self.metered == Some(true) => "passes begin only when asked for\n".to_owned(),
                _ if self.metered == Some(false) => "passes begin by themselves\n".to_owned(),
                _ if self.reclaim => reclaimed(&done, self.dry_run),
                (true, _) => planned(&done),
                (_, true) => carried(&done),
                _ => "a pass of sync begins; `shoal status` says how far it is\n".to_owned(),
            })?;
        }
        if !self.wait || !self.namespaces.is_empty() || done["sync"]["in_bucket"] == true {
            return Ok(());
        }
        // Somebody wrote while the pass ran, or tags cannot be sent.
        Err(Error::unavailable(format!(
            "{} namespaces were written to meanwhile or have tags that cannot be sent: {} objects, {} bytes of them are not in the bucket",
            done["sync"]["namespaces_behind"], done["sync"]["pending_objects"], done["sync"]["pending_bytes"]
        ))
        .with_hint("what was written before you asked is in the bucket; run it again for the rest; the notices say of tags what keeps them"))
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// A line for every namespace of which something was carried, and one for all of them.
fn carried(done: &Value) -> String {
    let mut text = String::new();
    let namespaces = done["namespaces"].as_object();
    for (name, of) in namespaces.into_iter().flatten() {
        let (sent, fetched) = (&of["sent"], &of["fetched"]);
        if let Some(notice) = of["notice"].as_str() {
            text.push_str(&format!("{name}: {}\n", plain(notice)));
        }
        if number(&sent["objects"]) + number(&fetched["objects"]) + number(&of["conflicts"]) == 0 {
            continue;
        }
        text.push_str(&format!(
            "{name}: sent {} objects of {} bytes, fetched {} of {} bytes",
            number(&sent["objects"]),
            number(&sent["bytes"]),
            number(&fetched["objects"]),
            number(&fetched["bytes"])
        ));
        if number(&of["conflicts"]) > 0 {
            text.push_str(&format!(
                ", {} documents were changed on both sides (`shoal conflicts` lists what lost)",
                number(&of["conflicts"])
            ));
        }
        text.push('\n');
    }
    let count = namespaces.map_or(0, serde_json::Map::len);
    let bucket = done["sync"]["bucket"].as_str().unwrap_or("the bucket");
    text.push_str(&format!("{count} namespaces are together with {bucket}\n"));
    text
}

/// A line for every namespace of which something was deleted, and one for all of them.
fn reclaimed(done: &Value, dry_run: bool) -> String {
    let mut text = String::new();
    let line = |of: &Value| {
        let (objects, bytes, manifests) = (number(&of["objects"]), number(&of["bytes"]), number(&of["manifests"]));
        format!("{objects} objects of {bytes} bytes, {manifests} manifests")
    };
    for of in done["namespaces"].as_array().into_iter().flatten() {
        let held = number(&of["held_objects"]);
        if number(&of["objects"]) + number(&of["manifests"]) + held == 0 {
            continue;
        }
        text.push_str(&format!("{}: {}", of["namespace"].as_str().unwrap_or_default(), line(of)));
        if held > 0 {
            text.push_str(&format!("; {held} more are there for branches and copies"));
        }
        text.push('\n');
    }
    let bucket = done["bucket"].as_str().unwrap_or("the bucket");
    let verb = if dry_run { "would be" } else { "were" };
    text.push_str(&format!("{} {verb} deleted in {bucket}\n", line(done)));
    if done["more_to_do"] == true {
        text.push_str("there is more; run it again\n");
    }
    text
}

/// A line for every namespace of which something is to be sent, and one for all of them.
fn planned(plan: &Value) -> String {
    let mut text = String::new();
    for (name, of) in plan["namespaces"].as_object().into_iter().flatten() {
        if let Some(why) = of["error"]["message"].as_str() {
            text.push_str(&format!("{name}: not known: {why}\n"));
        } else if of["deleted"] == true {
            text.push_str(&format!("{name}: deleted here, which the bucket is to be told\n"));
        } else if of["nothing_to_send"] != true {
            let known = match of["bucket_generation"].as_u64() {
                Some(generation) => format!("the bucket has what was here at its generation {generation}"),
                None => "the bucket has nothing of it that this node knows of".to_owned(),
            };
            text.push_str(&format!(
                "{name}: {} objects of about {} bytes; {known}\n",
                number(&of["objects"]),
                number(&of["bytes"])
            ));
        }
    }
    let (objects, bytes) = (number(&plan["objects"]), number(&plan["bytes"]));
    let bucket = plan["bucket"].as_str().unwrap_or("the bucket");
    text.push_str(&format!("{objects} objects of about {bytes} bytes would be sent to {bucket}\n"));
    text
}
