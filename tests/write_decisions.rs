//! What writes decide, against a model of a namespace: a map of documents that every decision is applied to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::analyzers::Analyzers;
use shoal::engine::filter::matches::matches;
use shoal::engine::write::{Change, Current, Decision, PATCH_BY_FILTER_MAX, apply_patch, decide, prepare};
use shoal::error::{Error, Result};
use shoal::format::record::Record;
use shoal::model::document::{Document, PatchIntent};
use shoal::model::filter::Filter;
use shoal::model::ids::{DocId, Hlc, Origin, Version};
use shoal::model::schema::{ColumnUid, Schema};
use shoal::model::value::Value;
use shoal::model::value_render::{id_json, to_json};
use shoal::model::write::{WriteOutcome, WriteRequest};
use shoal::platform::allowance::Allowance;

/// A namespace of which nothing is stored.
#[derive(Default)]
struct Model {
    schema: Arc<Schema>,
    documents: BTreeMap<DocId, Arc<Document>>,
    clock: u64,
    allowance: Unlimited,
}

/// As much time as there is.
struct Unlimited(Allowance);

impl Default for Unlimited {
    fn default() -> Self {
        Unlimited(Allowance::unlimited())
    }
}

impl Current for Model {
    fn documents(&self, ids: &[&DocId]) -> Result<Vec<Option<Arc<Document>>>> {
        Ok(ids.iter().map(|id| self.documents.get(*id).cloned()).collect())
    }

    fn has_documents(&self) -> bool {
        !self.documents.is_empty()
    }

    fn matching(&self, filter: &Filter, limit: usize) -> Result<(Vec<DocId>, bool)> {
        let mut matching = self.documents.values().filter(|d| matches(filter, &self.schema, d, &[]).unwrap());
        let ids: Vec<DocId> = matching.by_ref().take(limit).map(|d| d.id.clone()).collect();
        Ok((ids, matching.next().is_some()))
    }

    fn allowance(&self) -> &Allowance {
        &self.allowance.0
    }

    fn made_bytes_max(&self) -> u64 {
        1 << 30
    }

    fn set_aside(&self, _: u64) -> Result<()> {
        Ok(())
    }
}

fn request(body: Json) -> WriteRequest {
    match parse_write(body).unwrap() {
        WriteBody::Write(request) => *request,
        _ => panic!("expected a write"),
    }
}

impl Model {
    fn decide(&self, body: Json) -> Result<Decision> {
        let request = match parse_write(body)? {
            WriteBody::Write(request) => request,
            _ => panic!("expected a write"),
        };
        let version = Version { hlc: Hlc(self.clock + 1), origin: Origin(9) };
        decide(prepare(&self.schema, self.has_documents(), &request)?, &request, self, version)
    }

    /// Decides a write, checks what holds for every decision, and applies it.
    fn write(&mut self, body: Json) -> Result<WriteOutcome> {
        let mut decision = self.decide(body)?;
        self.clock += 1;
        let version = Version { hlc: Hlc(self.clock), origin: Origin(9) };
        if let Some(schema) = decision.schema {
            assert_ne!(*schema, *self.schema, "a schema that did not change is not given");
            self.schema = schema;
        }
        let mut seen = std::collections::HashSet::new();
        for change in &mut decision.changes {
            assert!(seen.insert(change.id().clone()), "{} has two changes", change.id());
            let before = self.documents.get(change.id()).cloned();
            match change.clone() {
                Change::Delete { id } => {
                    self.documents.remove(&id);
                }
                Change::Put { document, terms, .. } => {
                    assert_eq!(document.version, version);
                    self.check_terms(&document, terms);
                    self.documents.insert(document.id.clone(), document);
                }
            }
            let after = self.documents.get(change.id()).map(|document| (**document).clone());
            assert_eq!(replay(before, change.take_record(), version), after, "a record gives what was decided");
        }
        Ok(decision.outcome)
    }

    fn check_terms(&self, document: &Document, mut terms: Vec<(ColumnUid, shoal::segment::text::terms::DocTerms)>) {
        let mut expected: Vec<_> = (self.schema.columns.iter())
            .filter_map(|column| {
                let (options, value) = (column.full_text.as_ref()?, document.get(column.uid())?);
                Some((column.uid(), Analyzers::new().terms(options, value)))
            })
            .collect();
        expected.sort_by_key(|(uid, _)| *uid);
        terms.sort_by_key(|(uid, _)| *uid);
        assert_eq!(terms, expected);
    }

    /// All documents as rows, in the order of their ids.
    fn rows(&self) -> Vec<Json> {
        let row = |document: &Arc<Document>| {
            let mut row = Map::new();
            row.insert("id".into(), id_json(&document.id));
            for (uid, value) in &document.fields {
                row.insert(self.schema.column_by_uid(*uid).unwrap().name.clone(), to_json(value, false));
            }
            Json::Object(row)
        };
        self.documents.values().map(row).collect()
    }

    fn kind(&self, name: &str) -> String {
        self.schema.column(name).unwrap().kind.to_string()
    }

    fn refused(&self, body: Json) -> Error {
        self.decide(body).map(|_| ()).unwrap_err()
    }
}

/// The state that recovery makes of a record.
fn replay(before: Option<Arc<Document>>, record: Record, version: Version) -> Option<Document> {
    match record {
        Record::Upsert { id, fields } => Some(Document { id, version, fields, patch: None }),
        Record::Patch { base, changed, .. } => {
            let before = before.unwrap();
            assert_eq!(base, before.version);
            Some(apply_patch(&before, &changed, version))
        }
        Record::Delete { .. } => None,
    }
}

fn with(rows: Json) -> Model {
    let mut model = Model::default();
    model.write(json!({"upsert_rows": rows, "distance_metric": "euclidean_squared"})).unwrap();
    model
}

#[test]
fn the_first_write_makes_the_schema() {
    let model = with(json!([
        {"id": 1, "vector": [0.5, 1], "s": "x", "n": 1, "x": 1, "ok": true, "tags": ["a"], "none": null, "empty": []},
        {"id": 2, "vector": "AAAAPwAAgD8=", "x": 1.5},
    ]));
    for (name, kind) in
        [("vector", "[2]f32"), ("s", "string"), ("n", "int"), ("x", "float"), ("ok", "bool"), ("tags", "[]string")]
    {
        assert_eq!(model.kind(name), kind);
    }
    assert!(model.schema.column("none").is_none() && model.schema.column("empty").is_none());
    assert_eq!(model.rows()[1], json!({"id": 2, "vector": [0.5, 1.0], "x": 1.5}));
    assert_eq!(model.rows()[0]["x"], json!(1.0));
}

#[test]
fn a_dense_vector_needs_a_metric_and_keeps_it() {
    let model = Model::default();
    assert_eq!(
        model.refused(json!({"upsert_rows": [{"id": 1, "vector": [1]}]})).to_string(),
        "💔 distance_metric must be specified for write to namespace with a vector"
    );
    let model = with(json!([{"id": 1, "vector": [1]}]));
    let again = json!({"upsert_rows": [{"id": 2, "vector": [1]}], "distance_metric": "cosine_distance"});
    assert_eq!(
        model.refused(again).to_string(),
        "💔 distance metric mismatch, expected euclidean_squared, got cosine_distance"
    );
    let by_schema = json!({
        "upsert_rows": [{"id": 1, "v": [1]}],
        "schema": {"v": {"type": "[1]f32", "ann": {"distance_metric": "cosine_distance"}}},
    });
    assert!(Model::default().write(by_schema).is_ok());
}

#[test]
fn a_namespace_with_documents_takes_no_new_dense_vector() {
    let mut model = with(json!([{"id": 1, "a": 1}]));
    assert_eq!(
        model.refused(json!({"upsert_rows": [{"id": 2, "vector": [1]}]})).to_string(),
        "💔 Vector provided for namespace without vector attribute"
    );
    model.write(json!({"deletes": [1]})).unwrap();
    model.write(json!({"upsert_rows": [{"id": 2, "vector": [1]}]})).unwrap();
}

#[test]
fn a_vector_that_documents_overtook_is_refused_when_it_is_decided() {
    let mut model = Model::default();
    model.write(json!({"schema": {"id": "uint"}, "create_namespace": true})).unwrap();
    let request = request(json!({"upsert_rows": [{"id": 2, "vector": [1]}], "distance_metric": "cosine_distance"}));
    let prepared = prepare(&model.schema, false, &request).unwrap();
    model.write(json!({"upsert_rows": [{"id": 1}]})).unwrap();
    let error = decide(prepared, &request, &model, Version::default()).unwrap_err();
    assert_eq!(error.to_string(), "💔 Vector provided for namespace without vector attribute");
}

#[test]
fn ids_are_of_the_first_ones_type() {
    let model = with(json!([{"id": 1}]));
    let mixed = "you are not allowed to mix ID types in the same namespace";
    assert!(model.refused(json!({"upsert_rows": [{"id": "1"}]})).to_string().contains(mixed));
    assert!(model.refused(json!({"deletes": ["1"]})).to_string().contains(mixed));
    assert!(model.refused(json!({"patch_rows": [{"id": "1", "a": 1}]})).to_string().contains(mixed));
    let mut uuids = Model::default();
    let ids = ["769C134D-07B8-4225-954A-B6CC5FFC320C", "769c134d07b84225954ab6cc5ffc320d"];
    let body = json!({"schema": {"id": "uuid"}, "upsert_columns": {"id": ids}, "return_affected_ids": true});
    let outcome = uuids.write(body).unwrap();
    assert_eq!(id_json(&outcome.upserted_ids[0]), json!("769c134d-07b8-4225-954a-b6cc5ffc320c"));
    let twice = json!({"upsert_rows": [{"id": ids[0]}, {"id": ids[0].to_lowercase()}]});
    assert!(uuids.refused(twice).to_string().contains("1 duplicate document IDs"));
    let error = Model::default().refused(json!({"create_namespace": true}));
    assert!(error.to_string().contains("needs the type of `id`"));
}

#[test]
fn one_request_names_a_document_once() {
    let model = with(json!([{"id": 1}]));
    for body in [
        json!({"upsert_rows": [{"id": 2}, {"id": 2}]}),
        json!({"upsert_rows": [{"id": 1}], "deletes": [1]}),
        json!({"patch_rows": [{"id": 1}], "deletes": [1]}),
        json!({"upsert_rows": [{"id": 1}], "patch_columns": {"id": [1]}}),
        json!({"deletes": [3, 3]}),
    ] {
        assert_eq!(
            model.refused(body).to_string(),
            "💔 This upsert contains 1 duplicate document IDs and was not written. You should ensure that individual \
             upserts do not include duplicate documents."
        );
    }
}

#[test]
fn an_upsert_replaces_the_whole_document() {
    let mut model = with(json!([{"id": 1, "a": 1, "b": 2}]));
    let outcome = model.write(json!({"upsert_rows": [{"id": 1, "b": 3}]})).unwrap();
    assert_eq!((outcome.upserted, outcome.bytes_written), (1, 16));
    assert_eq!(model.rows(), [json!({"id": 1, "b": 3})]);
}

#[test]
fn patches_merge_clear_and_add_attributes() {
    // The SDK's test_patch.
    let mut model = with(json!([{"id": 1, "vector": [1, 1]}, {"id": 2, "vector": [2, 2]}]));
    model.write(json!({"patch_rows": [{"id": 1, "a": 1}, {"id": 2, "b": 2}]})).unwrap();
    model.write(json!({"patch_rows": [{"id": 1, "b": 1}, {"id": 2, "a": 2}]})).unwrap();
    let outcome = model.write(json!({"patch_columns": {"id": [1, 2], "a": [11, 22], "c": [1, 2]}})).unwrap();
    assert_eq!((outcome.patched, outcome.bytes_written), (2, 48));
    assert_eq!(model.rows()[0], json!({"id": 1, "vector": [1.0, 1.0], "a": 11, "b": 1, "c": 1}));
    assert_eq!(model.rows()[1], json!({"id": 2, "vector": [2.0, 2.0], "a": 22, "b": 2, "c": 2}));
    model.write(json!({"patch_rows": [{"id": 1, "a": null, "unknown": null}]})).unwrap();
    assert_eq!(model.rows()[0], json!({"id": 1, "vector": [1.0, 1.0], "b": 1, "c": 1}));
    let outcome = model.write(json!({"patch_rows": [{"id": 9, "a": 1}]})).unwrap();
    assert_eq!((outcome.patched, model.rows().len()), (0, 2));
}

#[test]
fn a_patched_document_has_the_terms_of_all_its_text() {
    // The model checks the terms of every change.
    let text = json!({"type": "string", "full_text_search": {"stemming": true}});
    let words = json!({"type": "[]string", "full_text_search": {"tokenizer": "pre_tokenized_array"}});
    let mut model = Model::default();
    let row = json!({"id": 1, "title": "Walruses swim", "body": "They dive", "words": ["A", "b"], "n": 1});
    let schema = json!({"title": text, "body": text, "words": words});
    model.write(json!({"upsert_rows": [row], "schema": schema})).unwrap();
    model.write(json!({"patch_rows": [{"id": 1, "title": "Seals swim"}]})).unwrap();
    model.write(json!({"patch_rows": [{"id": 1, "body": null, "words": ["c"]}]})).unwrap();
    let by_filter = json!({"filters": ["title", "ContainsAllTokens", "seal"], "patch": {"title": "Orcas"}});
    let body = json!({"patch_by_filter": by_filter, "patch_rows": [{"id": 1, "body": "They hunt"}]});
    assert_eq!(model.write(body).unwrap().patched, 2);
    assert_eq!(model.rows()[0]["title"], "Orcas");
}

#[test]
fn a_patch_remembers_what_it_changed_since_the_last_whole_state() {
    let mut model = with(json!([{"id": 1, "a": 1, "b": 1}]));
    let base = model.documents[&DocId::Uint(1)].version;
    let uid = |model: &Model, name: &str| model.schema.column(name).unwrap().uid();
    model.write(json!({"patch_rows": [{"id": 1, "a": 2}]})).unwrap();
    model.write(json!({"patch_rows": [{"id": 1, "b": 2}]})).unwrap();
    let mut changed = vec![uid(&model, "a"), uid(&model, "b")];
    changed.sort();
    assert_eq!(model.documents[&DocId::Uint(1)].patch, Some(PatchIntent { base, changed }));
    model.write(json!({"upsert_rows": [{"id": 1}]})).unwrap();
    assert_eq!(model.documents[&DocId::Uint(1)].patch, None);
}

#[test]
fn vectors_are_not_patched() {
    let model = with(json!([{"id": 1, "vector": [1, 1]}]));
    for body in [
        json!({"patch_rows": [{"id": 1, "vector": [1, 2]}]}),
        json!({"patch_columns": {"id": [1], "vector": [null]}}),
        json!({"patch_by_filter": {"filters": ["id", "Eq", 1], "patch": {"vector": [1, 2]}}}),
    ] {
        assert_eq!(model.refused(body.clone()).to_string(), "💔 patching vectors is currently unsupported");
        assert_eq!(
            with(json!([{"id": 1}])).refused(body).to_string(),
            "💔 patching vectors is currently unsupported"
        );
    }
    let sparse = json!({"schema": {"w": "{}f16"}, "patch_rows": [{"id": 1, "w": {"a": 0.5}}]});
    assert!(with(json!([{"id": 1}])).write(sparse).is_ok());
}

#[test]
fn deletes_count_absent_ids() {
    let mut model = with(json!([{"id": 1}]));
    let outcome = model.write(json!({"deletes": [1, 7], "return_affected_ids": true})).unwrap();
    assert_eq!((outcome.deleted, outcome.deleted_ids.len(), model.rows().len()), (2, 2, 0));
}

#[test]
fn a_condition_skips_what_exists_and_does_not_hold() {
    let rows = json!([{"id": 1, "at": 5}, {"id": 2, "at": 9}, {"id": 3}]);
    let newest = json!(["at", "Lt", {"$ref_new": "at"}]);
    let mut model = with(rows);
    let outcome = model
        .write(json!({
            "upsert_rows": [{"id": 1, "at": 7}, {"id": 2, "at": 7}, {"id": 3, "at": 7}, {"id": 4, "at": 7}],
            "upsert_condition": newest,
            "return_affected_ids": true,
        }))
        .unwrap();
    assert_eq!(outcome.upserted, 3);
    assert_eq!(outcome.upserted_ids, [1, 3, 4].map(DocId::Uint));
    assert_eq!(outcome.bytes_queried, Some(16 + 16 + 8));
    let outcome = model
        .write(json!({
            "patch_rows": [{"id": 1, "at": 8}, {"id": 2, "at": 8}, {"id": 9, "at": 8}],
            "patch_condition": newest,
        }))
        .unwrap();
    assert_eq!((outcome.patched, model.rows()[0]["at"].clone()), (1, json!(8)));
    let outcome = model.write(json!({"deletes": [1, 2, 9], "delete_condition": ["at", "Gt", 8]})).unwrap();
    assert_eq!((outcome.deleted, model.rows().len()), (1, 3));
}

#[test]
fn insert_if_absent_and_update_if_changed() {
    let mut model = with(json!([{"id": 1, "text": "old"}]));
    let body = json!({"upsert_rows": [{"id": 1, "text": "new"}, {"id": 2, "text": "new"}],
        "upsert_condition": ["id", "Eq", null]});
    assert_eq!(model.write(body).unwrap().upserted, 1);
    assert_eq!(model.rows()[0]["text"], "old");
    let fts = json!({"text": {"type": "string", "full_text_search": true, "filterable": false}});
    let body = json!({"upsert_rows": [{"id": 1, "text": "old"}, {"id": 2, "text": "newer"}], "schema": fts,
        "upsert_condition": ["text", "NotEq", {"$ref_new": "text"}]});
    assert_eq!(model.write(body).unwrap().upserted, 1);
    let body = json!({"deletes": [1, 2], "delete_condition": ["text", "Eq", {"$ref_new": "text"}]});
    assert_eq!(model.write(body).unwrap().deleted, 0);
    let wrong = json!({"upsert_rows": [{"id": 7}], "upsert_condition": ["x", "Eq", 1]});
    assert_eq!(model.refused(wrong).to_string(), "filter error in key `x`: attribute not found");
}

#[test]
fn deletes_by_filter_count_what_they_match() {
    // The SDK's test_delete_by_filter.
    let mut model = with(json!([
        {"id": 5, "a": 0}, {"id": 6, "a": 1}, {"id": 7, "a": 2}, {"id": 8, "a": 1}, {"id": 9, "a": 3}
    ]));
    let outcome = model.write(json!({"delete_by_filter": ["a", "Eq", 42]})).unwrap();
    assert_eq!((outcome.deleted, outcome.filter_matched), (0, Some(0)));
    let outcome = model.write(json!({"delete_by_filter": ["a", "Eq", 1], "return_affected_ids": true})).unwrap();
    assert_eq!((outcome.deleted, outcome.filter_matched), (2, Some(2)));
    assert_eq!(outcome.deleted_ids, [6, 8].map(DocId::Uint));
    model.write(json!({"delete_by_filter": ["a", "Gt", 0]})).unwrap();
    assert_eq!(model.rows(), [json!({"id": 5, "a": 0})]);
}

#[test]
fn later_steps_see_what_earlier_ones_did() {
    let mut model =
        with(json!([{"id": 1, "g": "x", "n": 1}, {"id": 2, "g": "x", "n": 2}, {"id": 3, "g": "y", "n": 3}]));
    let outcome = model
        .write(json!({
            "delete_by_filter": ["n", "Eq", 1],
            "patch_by_filter": {"filters": ["g", "Eq", "x"], "patch": {"g": "z", "n": 20}},
            "patch_rows": [{"id": 1, "n": 10}, {"id": 2, "m": 5}],
            "upsert_rows": [{"id": 3, "n": 30}],
            "patch_condition": ["g", "Eq", "z"],
            "return_affected_ids": true,
        }))
        .unwrap();
    // 1 is gone when the patches come; 2 is patched twice, and is one change.
    assert_eq!((outcome.deleted, outcome.patched, outcome.upserted), (1, 2, 1));
    assert_eq!(outcome.patched_ids, [2, 2].map(DocId::Uint));
    assert_eq!(outcome.filter_matched, Some(2));
    assert_eq!(model.rows(), [json!({"id": 2, "g": "z", "n": 20, "m": 5}), json!({"id": 3, "n": 30})]);
    let base = model.documents[&DocId::Uint(2)].patch.clone().unwrap();
    assert_eq!((base.base.hlc, base.changed.len()), (Hlc(1), 3));
}

#[test]
fn what_a_filter_deleted_can_be_written_anew() {
    let mut model = with(json!([{"id": 1, "a": 1, "b": 1}, {"id": 2, "a": 1}]));
    let body = json!({"delete_by_filter": ["a", "Eq", 1], "upsert_rows": [{"id": 1, "a": 2}],
        "upsert_condition": ["id", "Eq", null]});
    let outcome = model.write(body).unwrap();
    assert_eq!((outcome.deleted, outcome.upserted), (2, 1));
    assert_eq!(model.rows(), [json!({"id": 1, "a": 2})]);
}

#[test]
fn by_filter_writes_have_a_limit() {
    let rows: Vec<Json> = (0..PATCH_BY_FILTER_MAX + 2).map(|n| json!({"id": n, "a": 1})).collect();
    let mut model = with(json!(rows));
    let patch = json!({"filters": ["a", "Eq", 1], "patch": {"a": 2}});
    let error = model.refused(json!({"patch_by_filter": patch}));
    assert!(error.to_string().contains("patch_by_filter matches more documents than allowed, at most 50000"));
    assert!(error.hint().unwrap().contains("patch_by_filter_allow_partial"));
    let body = json!({"patch_by_filter": patch, "patch_by_filter_allow_partial": true});
    let outcome = model.write(body.clone()).unwrap();
    assert_eq!((outcome.patched, outcome.rows_remaining), (PATCH_BY_FILTER_MAX as u64, true));
    // What the first step deletes is not in the second one's way.
    let both = json!({"delete_by_filter": ["id", "Eq", PATCH_BY_FILTER_MAX], "patch_by_filter": patch,
        "patch_by_filter_allow_partial": true});
    let outcome = model.write(both).unwrap();
    assert_eq!((outcome.deleted, outcome.patched, outcome.rows_remaining), (1, 1, false));
}

#[test]
fn filters_of_writes_are_bound_like_those_of_queries() {
    let model = with(json!([{"id": 1, "a": 1}]));
    let error = model.refused(json!({"delete_by_filter": ["b", "Eq", 1]}));
    assert_eq!(error.to_string(), "filter error in key `b`: attribute not found");
    let error = model.refused(json!({"delete_by_filter": ["a", "Eq", {"$ref_new": "a"}]}));
    assert!(error.to_string().contains("$ref_new is allowed in the conditions of writes only"));
    let error = model.refused(json!({"patch_by_filter": {"filters": ["a", "Eq", 1], "patch": {"id": 3}}}));
    assert!(error.to_string().contains("reserved for the document's id"), "{error}");
}

#[test]
fn values_that_do_not_fit_are_refused_by_name() {
    let model = with(json!([{"id": 1, "n": 1, "s": "a", "tags": ["a"], "vector": [1, 2]}]));
    for (row, text) in [
        (json!({"id": 2, "n": "high"}), "attribute 'n' of document 2: expected int, got string 'high'"),
        (json!({"id": 2, "s": false}), "attribute 's' of document 2: expected string, got bool 'false'"),
        (json!({"id": 2, "vector": [1]}), "expected [2]f32, got an array of 1 elements"),
        (json!({"id": 2, "s": "x".repeat(4_097)}), "text of 4097 bytes is too long for a filterable attribute"),
        (json!({"id": 2, "tags": ["x".repeat(4_097)]}), "text of 4097 bytes is too long"),
        (json!({"id": 2, "$new": 1}), "starts with '$'"),
        (json!({"id": 2, "x".repeat(129): 1}), "has 129 bytes"),
        (json!({"id": 2, "new": {"a": 1}}), "cannot be told from an object"),
    ] {
        let error = model.refused(json!({"upsert_rows": [row]}));
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.attribute().is_some() || error.to_string().contains("attribute name"), "{error}");
    }
    let error = model.refused(json!({"upsert_rows": [{"id": 2, "new": 1}, {"id": 3, "new": "a"}]}));
    assert_eq!(error.to_string(), "attribute 'new': expected int as in earlier rows, got string");
    let huge = json!({"schema": {"t": {"type": "string", "filterable": false}},
        "upsert_rows": [{"id": 2, "t": "x".repeat((8 << 20) + 1)}]});
    assert!(model.refused(huge).to_string().contains("value of 8388609 bytes is too large"));
}

#[test]
fn a_namespace_has_at_most_1024_attributes() {
    let row = |count: usize| {
        let fields: Map<String, Json> = (0..count).map(|n| (format!("a{n}"), json!(n))).collect();
        let mut row = json!({"id": 1});
        row.as_object_mut().unwrap().extend(fields);
        json!({"upsert_rows": [row]})
    };
    assert!(Model::default().decide(row(1_024)).is_ok());
    assert!(Model::default().refused(row(1_025)).to_string().contains("1024 attributes"));
}

#[test]
fn the_schema_is_given_only_when_it_changes() {
    let mut model = Model::default();
    let schema = json!({"id": "uint", "text": {"type": "string", "full_text_search": {"stemming": true}}});
    let body = json!({"schema": schema, "upsert_rows": [{"id": 1, "text": "Walruses swim"}]});
    assert!(model.write(body.clone()).unwrap().schema_updated);
    assert!(!model.write(body).unwrap().schema_updated);
    // The message of an update alone says that it was carried out, whether it changed anything or not.
    assert!(model.write(json!({"schema": schema})).unwrap().schema_updated);
    let error = model.refused(json!({"schema": {"text": "int"}}));
    assert_eq!(
        error.to_string(),
        "🙅 invalid schema update for attribute 'text': cannot change attribute type from string to int"
    );
}

#[test]
fn a_dropped_attribute_starts_anew() {
    let mut model = with(json!([{"id": 1, "a": "old", "b": 1}]));
    model.write(json!({"schema": {"a": {"drop": true}}, "patch_rows": [{"id": 1, "b": 2}]})).unwrap();
    model.write(json!({"patch_rows": [{"id": 1, "a": 7}]})).unwrap();
    assert_eq!(model.kind("a"), "int");
    let shown = model.documents[&DocId::Uint(1)].get(model.schema.column("a").unwrap().uid()).cloned();
    assert_eq!(shown, Some(Value::Int(7)));
}

#[test]
fn a_failed_write_decides_nothing() {
    let model = with(json!([{"id": 1, "tag": "old"}]));
    let error = model.refused(json!({"deletes": [1], "upsert_rows": [{"id": 2, "tag": false}]}));
    assert!(error.to_string().contains("expected string, got bool"));
}

mod history {
    use super::{Model, json};
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
    use serde_json::{Map, Value as Json};
    use std::collections::BTreeMap;

    /// One write over ids and values from small sets, so that they meet.
    #[derive(Clone, Debug)]
    struct Step {
        delete_where: Option<i64>,
        patch_where: Option<(i64, i64)>,
        rows: BTreeMap<u64, Row>,
        newest_wins: bool,
    }

    #[derive(Clone, Debug)]
    enum Row {
        Upsert(Option<i64>, Option<i64>),
        Patch(Option<i64>),
        Delete,
    }

    fn step() -> impl Strategy<Value = Step> {
        let value = || prop_oneof![Just(None), (0..4_i64).prop_map(Some)];
        let row = prop_oneof![
            (value(), value()).prop_map(|(a, b)| Row::Upsert(a, b)),
            value().prop_map(Row::Patch),
            Just(Row::Delete)
        ];
        let rows = proptest::collection::btree_map(0..6_u64, row, 0..5);
        let patch_where = proptest::option::weighted(0.3, (0..4_i64, 0..4_i64));
        (proptest::option::weighted(0.3, 0..4_i64), patch_where, rows, any::<bool>()).prop_map(
            |(delete_where, patch_where, rows, newest_wins)| Step { delete_where, patch_where, rows, newest_wins },
        )
    }

    type Oracle = BTreeMap<u64, (Option<i64>, Option<i64>)>;

    /// The same in a few lines of JSON-free code.
    fn oracle(documents: &mut Oracle, step: &Step) -> u64 {
        let before = documents.len();
        if let Some(n) = step.delete_where {
            documents.retain(|_, (a, _)| *a != Some(n));
        }
        let mut affected = (before - documents.len()) as u64;
        if let Some((n, b)) = step.patch_where {
            for (a, old) in documents.values_mut().filter(|(a, _)| *a == Some(n)) {
                (*a, *old) = (*a, Some(b));
                affected += 1;
            }
        }
        // The contract's order among rows does not matter: each names another document.
        for (id, row) in &step.rows {
            match (row, documents.get_mut(id)) {
                (Row::Upsert(a, _), Some((old, _))) if step.newest_wins && *old >= *a => {}
                (Row::Upsert(a, b), _) => {
                    documents.insert(*id, (*a, *b));
                    affected += 1;
                }
                (Row::Patch(b), Some((_, old))) => {
                    *old = *b;
                    affected += 1;
                }
                (Row::Patch(_), None) => {}
                (Row::Delete, _) => {
                    documents.remove(id);
                    affected += 1;
                }
            }
        }
        affected
    }

    fn body(step: &Step) -> Json {
        let mut body = Map::new();
        body.insert("schema".into(), json!({"a": "int", "b": "int"}));
        if let Some(n) = step.delete_where {
            body.insert("delete_by_filter".into(), json!(["a", "Eq", n]));
        }
        if let Some((n, b)) = step.patch_where {
            body.insert("patch_by_filter".into(), json!({"filters": ["a", "Eq", n], "patch": {"b": b}}));
        }
        let (mut upserts, mut patches, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
        for (id, row) in &step.rows {
            match row {
                Row::Upsert(a, b) => upserts.push(json!({"id": id, "a": a, "b": b})),
                Row::Patch(b) => patches.push(json!({"id": id, "b": b})),
                Row::Delete => deletes.push(json!(id)),
            }
        }
        if step.newest_wins && !upserts.is_empty() {
            body.insert("upsert_condition".into(), json!(["a", "Lt", {"$ref_new": "a"}]));
        }
        body.insert("upsert_rows".into(), upserts.into());
        body.insert("patch_rows".into(), patches.into());
        body.insert("deletes".into(), deletes.into());
        Json::Object(body)
    }

    proptest! {
        #[test]
        fn every_history_ends_as_the_oracle_says(steps in proptest::collection::vec(step(), 1..12)) {
            let (mut model, mut documents) = (Model::default(), Oracle::new());
            for step in &steps {
                let outcome = model.write(body(step)).unwrap();
                let affected = oracle(&mut documents, step);
                assert_eq!(outcome.upserted + outcome.patched + outcome.deleted, affected, "{step:?}");
                let expected: Vec<Json> = documents
                    .iter()
                    .map(|(id, (a, b))| {
                        let mut row = json!({"id": id});
                        for (name, value) in [("a", a), ("b", b)] {
                            if let Some(value) = value {
                                row[name] = json!(value);
                            }
                        }
                        row
                    })
                    .collect();
                assert_eq!(model.rows(), expected);
            }
        }
    }
}
