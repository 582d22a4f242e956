//! Asks every query at every recall, alone and by several clients at once, and compares what is found with the truth.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::task::JoinSet;

use super::queries::{Asking, Query};
use crate::cli::http::{Client, Target, refusal};
use crate::cli::progress;
use crate::cli::query::rows_of;
use crate::error::{Error, Result};
use crate::model::query::Recall;

/// Queries that are asked before the clock runs: connections are made, and the first pages are read.
const WARM_UP: usize = 20;
/// How often each setting has its turn with several clients.
const TURNS: u32 = 4;

/// What one setting found and took.
pub struct Measurement {
    pub wanted: Recall,
    /// Of every query with a vector, the share of the true answer that was found.
    pub recalls: Vec<f64>,
    /// Of every query, alone.
    pub times: Vec<Duration>,
    /// Answers by several clients, and how long they asked.
    pub answered: u64,
    pub asked_for: Duration,
}

/// The part in which several clients ask at once.
pub struct Several {
    pub clients: u16,
    /// For each setting, in all.
    pub time: Duration,
}

/// A row of an answer.
struct Found {
    id: String,
    distance: f64,
}

pub async fn measure(
    target: &Target,
    asking: &Asking<'_>,
    queries: &[Query],
    settings: &[Recall],
    several: &Several,
) -> Result<Vec<Measurement>> {
    let path = asking.path();
    let mut client = Client::new(target)?;
    let progress = progress::steps("queries asked", (queries.len() * settings.len()) as u64);
    for query in &queries[..queries.len().min(WARM_UP)] {
        for wanted in settings {
            ask(&mut client, &path, asking.body(query, *wanted)?).await?;
        }
    }
    let new = |wanted: &Recall| Measurement {
        wanted: *wanted,
        recalls: Vec::with_capacity(queries.len()),
        times: Vec::with_capacity(queries.len()),
        answered: 0,
        asked_for: Duration::ZERO,
    };
    let mut measured: Vec<Measurement> = settings.iter().map(new).collect();
    for (number, query) in queries.iter().enumerate() {
        let mut found: Vec<Vec<Found>> = settings.iter().map(|_| Vec::new()).collect();
        // Whoever comes first reads what the others then find in memory: each setting is first as often as the others.
        for turn in 0..settings.len() {
            let at = (number + turn) % settings.len();
            let (took, answer) = ask(&mut client, &path, asking.body(query, settings[at])?).await?;
            measured[at].times.push(took);
            found[at] = rows(&answer, query, asking.limit as usize)?;
            progress.inc(1);
        }
        // The settings are in order, and exact search is the last of them.
        if let (Some(_), Some(truth)) = (&query.vector, found.last()) {
            for (measurement, found) in measured.iter_mut().zip(&found) {
                measurement.recalls.push(share_found(truth, found, asking.is_nearest(query)));
            }
        }
    }
    progress.finish_and_clear();
    by_several(target, asking, queries, &mut measured, several).await?;
    Ok(measured)
}

/// Each setting has several turns, so that all of them meet the same machine.
async fn by_several(
    target: &Target,
    asking: &Asking<'_>,
    queries: &[Query],
    measured: &mut [Measurement],
    several: &Several,
) -> Result<()> {
    let path: Arc<str> = asking.path().into();
    let mut idle = Vec::new();
    for _ in 0..several.clients {
        idle.push(Client::new(target)?);
    }
    let progress = progress::steps("turns of several clients", u64::from(TURNS) * measured.len() as u64);
    for _ in 0..TURNS {
        for measurement in measured.iter_mut() {
            let bodies = queries.iter().map(|query| asking.body(query, measurement.wanted));
            let bodies: Arc<[Bytes]> = bodies.collect::<Result<Vec<_>>>()?.into();
            let next = Arc::new(AtomicUsize::new(measurement.answered as usize));
            let began = Instant::now();
            let mut asked = JoinSet::new();
            for client in idle.drain(..) {
                asked.spawn(ask_until(
                    began + several.time / TURNS,
                    client,
                    path.clone(),
                    bodies.clone(),
                    next.clone(),
                ));
            }
            while let Some(done) = asked.join_next().await {
                let done = done.map_err(|error| Error::internal(format!("ask by several clients: {error}")))?;
                let (client, answered) = done?;
                idle.push(client);
                measurement.answered += answered;
            }
            measurement.asked_for += began.elapsed();
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(())
}

/// Asks one query after the other, those that no other client has asked, and gives the client back.
async fn ask_until(
    end: Instant,
    mut client: Client,
    path: Arc<str>,
    bodies: Arc<[Bytes]>,
    next: Arc<AtomicUsize>,
) -> Result<(Client, u64)> {
    let mut answered = 0;
    while Instant::now() < end {
        let at = next.fetch_add(1, Ordering::Relaxed) % bodies.len().max(1);
        let Some(body) = bodies.get(at) else { break };
        ask(&mut client, &path, body.clone()).await?;
        answered += 1;
    }
    Ok((client, answered))
}

/// One answer, and the time until its last byte was there.
async fn ask(client: &mut Client, path: &str, body: Bytes) -> Result<(Duration, Bytes)> {
    let began = Instant::now();
    let (status, answer) = client.answer(Method::POST, path, body).await?;
    let took = began.elapsed();
    match status {
        StatusCode::OK => Ok((took, answer)),
        StatusCode::TOO_MANY_REQUESTS => {
            Err(refusal(status, &answer).with_hint("others ask this daemon too; try fewer --clients"))
        }
        _ => Err(refusal(status, &answer)),
    }
}

/// The rows of an answer without the one that the query was taken from.
fn rows(answer: &[u8], query: &Query, limit: usize) -> Result<Vec<Found>> {
    let answer: Value = serde_json::from_slice(answer)
        .map_err(|error| Error::internal(format!("the answer to a query is not JSON: {error}")))?;
    let Some(rows) = rows_of(&answer) else {
        return Err(Error::internal("the answer to a query has no rows"));
    };
    let others = rows.iter().filter(|row| query.own.is_none() || row.get("id") != query.own.as_ref());
    let found = others.take(limit).map(|row| Found {
        id: row.get("id").map(Value::to_string).unwrap_or_default(),
        distance: row.get("$dist").and_then(Value::as_f64).unwrap_or(f64::NAN),
    });
    Ok(found.collect())
}

/// The share of `truth` that was found; of rows as near as the furthest of it, any will do where the answer is the nearest.
fn share_found(truth: &[Found], found: &[Found], is_nearest: bool) -> f64 {
    let Some(furthest) = truth.last() else { return 1.0 };
    let ids: HashSet<&str> = truth.iter().map(|row| row.id.as_str()).collect();
    let hits =
        found.iter().filter(|row| ids.contains(row.id.as_str()) || (is_nearest && row.distance <= furthest.distance));
    hits.count().min(truth.len()) as f64 / truth.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rows: &[(&str, f64)]) -> Vec<Found> {
        rows.iter().map(|(id, distance)| Found { id: (*id).to_owned(), distance: *distance }).collect()
    }

    #[test]
    fn equally_near_rows_count_as_found_and_further_ones_do_not() {
        let truth = found(&[("1", 0.1), ("2", 0.2), ("3", 0.3), ("4", 0.3)]);
        assert_eq!(share_found(&truth, &found(&[("1", 0.1), ("3", 0.3), ("9", 0.3), ("8", 0.4)]), true), 0.75);
        assert_eq!(share_found(&truth, &found(&[("1", 0.1), ("9", 0.3)]), false), 0.25);
        assert_eq!(share_found(&[], &[], true), 1.0);
    }

    #[test]
    fn the_row_of_the_query_is_no_answer() {
        let query = Query { own: Some(serde_json::json!(7)), ..Query::default() };
        let answer = br#"{"rows": [{"id": 7, "$dist": 0}, {"id": "7", "$dist": 1}, {"id": 8, "$dist": 2}]}"#;
        let ids = |limit| rows(answer, &query, limit).unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>();
        assert_eq!(ids(1), ["\"7\""]);
        assert_eq!(ids(9), ["\"7\"", "8"]);
    }
}
