//! What a benchmark measured: a table for people, JSON for programs.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};

use super::Report;
use super::measure::Measurement;
use super::queries::Source;
use crate::model::query::Recall;

/// Every query found so much of the truth that the settings do not differ.
const ALL: f64 = 0.99995;

impl Report {
    /// For programs; times in milliseconds.
    pub fn json(&self) -> Value {
        let one = |measured: &Measurement| {
            let recall = (!measured.recalls.is_empty()).then(|| {
                let sorted = sorted(measured.recalls.clone());
                json!({"mean": mean(&sorted), "p10": at(&sorted, 10), "p1": at(&sorted, 1), "least": at(&sorted, 0)})
            });
            let times = milliseconds(&measured.times);
            json!({
                "wanted": measured.wanted,
                "recall": recall,
                "ms": {"p50": at(&times, 50), "p95": at(&times, 95), "p99": at(&times, 99), "mean": mean(&times)},
                "queries_per_second": {"one_client": 1e3 / mean(&times), "all_clients": per_second(measured)},
            })
        };
        json!({
            "namespace": self.namespace,
            "documents": self.status["documents"],
            "tail": self.status["tail"],
            "segments": self.status["segments"],
            "queries": {"from": source(self.source), "count": self.queries, "limit": self.limit, "filter": self.filter},
            "clients": self.clients,
            "settings": self.measured.iter().map(one).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let documents = self.status["documents"].as_u64().unwrap_or(0);
        let (queries, limit) = (self.queries, self.limit);
        let from = match self.source {
            Source::File => format!("{queries} queries of the file"),
            Source::Namespace => format!("{queries} of its vectors as queries, each left out of what it finds"),
        };
        let filter = self.filter.as_ref().map(|filter| format!(", filter {filter}")).unwrap_or_default();
        let mut text = format!(
            "{}: {documents} documents; {from}; the best {limit}{filter}\n\n{}\n",
            self.namespace,
            self.table()
        );
        for note in self.notes() {
            text.push_str(&format!("\n{note}\n"));
        }
        text
    }

    fn table(&self) -> Table {
        let clients = format!("{} clients", self.clients);
        let mut table = Table::new();
        table.load_style(NOTHING).set_header([
            "recall wanted",
            "found",
            "worst 10 %",
            "worst 1 %",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "queries/s",
            &clients,
        ]);
        for measured in &self.measured {
            let (recalls, times) = (sorted(measured.recalls.clone()), milliseconds(&measured.times));
            let recall = |share: f64| if recalls.is_empty() { "-".to_owned() } else { format!("{share:.3}") };
            table.add_row([
                wanted(measured.wanted),
                recall(mean(&recalls)),
                recall(at(&recalls, 10)),
                recall(at(&recalls, 1)),
                format!("{:.2}", at(&times, 50)),
                format!("{:.2}", at(&times, 95)),
                format!("{:.2}", at(&times, 99)),
                format!("{:.0}", 1e3 / mean(&times)),
                format!("{:.0}", per_second(measured)),
            ]);
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// What the figures mean for the choice.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let tail = self.status["tail"]["rows"].as_u64().unwrap_or(0);
        if tail > 0 {
            notes.push(format!(
                "{tail} documents are in no segment yet: every search compares their vectors one by one until they are."
            ));
        }
        let is_all = |measured: &Measurement| mean(&measured.recalls) > ALL;
        if self.measured.iter().all(|measured| measured.recalls.is_empty()) {
            notes.push(
                "No query has a vector, and words are searched exactly: there is no recall to choose.".to_owned(),
            );
        } else if self.measured.iter().all(is_all) {
            notes.push(
                "Every setting finds everything: so few vectors are compared one by one, whatever recall is wanted."
                    .to_owned(),
            );
        } else {
            notes.push(
                "`search.recall` in the configuration is what the daemon promises (0.95 unless it says another), `\"recall\"` \
                 in a query what that query wants."
                    .to_owned(),
            );
        }
        notes
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::File => "file",
        Source::Namespace => "namespace",
    }
}

fn wanted(recall: Recall) -> String {
    if recall.is_exact() { "exact".to_owned() } else { format!("{}", recall.share()) }
}

fn per_second(measured: &Measurement) -> f64 {
    measured.answered as f64 / measured.asked_for.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values
}

fn milliseconds(times: &[Duration]) -> Vec<f64> {
    sorted(times.iter().map(|time| time.as_secs_f64() * 1e3).collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The value below which so many of a hundred lie; of the sorted values the one at that place.
fn at(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(recalls: &[f64]) -> Report {
        let measured = |wanted, recalls: &[f64]| Measurement {
            wanted,
            recalls: recalls.to_vec(),
            times: (1..=200).rev().map(Duration::from_millis).collect(),
            answered: 100,
            asked_for: Duration::from_secs(2),
        };
        Report {
            namespace: "docs".into(),
            status: json!({"documents": 5, "tail": {"rows": 0}}),
            source: Source::Namespace,
            queries: 4,
            limit: 10,
            filter: None,
            clients: 3,
            measured: vec![measured(Recall::DEFAULT, recalls), measured(Recall::EXACT, &vec![1.0; recalls.len()])],
        }
    }

    #[test]
    fn the_table_has_a_line_for_every_setting() {
        let text = report(&[0.5, 1.0, 1.0, 1.0]).text();
        let line = text.lines().find(|line| line.contains("0.95 ")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["0.95", "0.875", "0.500", "0.500", "101.00", "191.00", "199.00", "10", "50"]);
        assert!(text.contains("exact") && text.contains("3 clients") && text.contains("`search.recall`"), "{text}");
    }

    #[test]
    fn what_the_setting_cannot_change_is_said() {
        assert!(report(&[1.0, 1.0]).text().contains("Every setting finds everything"));
        let text = report(&[]).text();
        assert!(text.contains("no recall to choose") && text.contains(" - "), "{text}");
        assert_eq!(report(&[]).json()["settings"][0]["recall"], Value::Null);
    }

    #[test]
    fn programs_get_the_figures_unrounded() {
        let json = report(&[0.5, 1.0, 1.0, 1.0]).json();
        assert_eq!(json["settings"][0]["recall"]["mean"], 0.875);
        assert_eq!(json["settings"][0]["wanted"], 0.95);
        assert_eq!(json["settings"][1]["wanted"], "exact");
        assert_eq!(json["settings"][0]["queries_per_second"]["all_clients"], 50.0);
    }
}
