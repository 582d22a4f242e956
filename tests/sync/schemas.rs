//! What two nodes made of one namespace's schema apart: what either changed counts, wherever it was changed and whoever synced first.

use serde_json::{Value as Json, json};
use shoal::engine::Engine;

use crate::fleet::{bucket, fresh, meet, sync};
use crate::node::{DAY_MS, Node, all, name, put, write};

/// What a node can be asked of a namespace: its attributes, as metadata shows them, and the ids that a text query finds.
fn seen(engine: &shoal::engine::Engine) -> (Json, Result<usize, String>) {
    let view = engine.view(&name("docs")).unwrap();
    let query = json!({"rank_by": ["plain", "BM25", "words"], "limit": 100});
    let parsed = shoal::api::wire::query::parse_query(query).unwrap();
    let found =
        shoal::engine::query::run(&view, &parsed.request, &shoal::platform::allowance::Allowance::unlimited());
    let found = found.map(|mut outcome| match outcome.answers.remove(0) {
        shoal::model::query::Answer::Rows(rows) => rows.len(),
        other => panic!("expected rows, got {other:?}"),
    });
    let mut columns: Vec<_> = view.schema.columns.iter().map(|column| json!(column)).collect();
    columns.sort_by_key(|column| column["name"].as_str().unwrap().to_owned());
    (json!(columns), found.map_err(|error| error.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_schema_is_everywhere_whatever_others_wrote_meanwhile() {
    let changes = [
        json!({"plain": {"type": "string", "full_text_search": true}}),
        json!({"n": {"type": "int", "filterable": false}}),
        json!({"n": {"drop": true}}),
        json!({"new": "string"}),
    ];
    let mut seed = 0;
    for change in &changes {
        for others in ["nothing", "other rows", "the same rows", "a schema"] {
            for is_first in [true, false] {
                seed += 1;
                let what = format!("{change}, {others}, first {is_first}");
                let (bucket, nodes) = (bucket(seed), [Node::new(1), Node::new(2)]);
                let engines = [nodes[0].open(), nodes[1].open()];
                let row = |id: u64| json!({"id": id, "n": 1, "plain": "words of it"});
                write(&engines[0], "docs", json!({"upsert_rows": (0..20).map(row).collect::<Vec<_>>()})).await;
                for at in 0..2 {
                    sync(&nodes[at], &engines[at], &bucket).await.unwrap();
                }
                match others {
                    "other rows" => write(&engines[0], "docs", json!({"upsert_rows": [row(30)]})).await,
                    "the same rows" => {
                        write(&engines[0], "docs", json!({"patch_rows": [{"id": 1, "plain": "words"}]})).await
                    }
                    "a schema" => {
                        write(&engines[0], "docs", json!({"schema": {"beside": "uint"}, "upsert_rows": []})).await
                    }
                    _ => {}
                }
                write(&engines[1], "docs", json!({"schema": change, "upsert_rows": []})).await;
                let (expected, found) = seen(&engines[1]);
                let rows = if others == "other rows" { 21 } else { 20 };
                for at in if is_first { [1, 0, 1, 0, 1] } else { [0, 1, 0, 1, 0] } {
                    sync(&nodes[at], &engines[at], &bucket).await.unwrap();
                }
                let of_others = |(columns, found): (Json, Result<usize, String>)| {
                    let columns = columns.as_array().unwrap().iter();
                    let beside = |column: &&Json| column["name"] != "beside" || others != "a schema";
                    (json!(columns.filter(beside).collect::<Vec<_>>()), found)
                };
                let expected = (expected, found.map(|_| rows));
                for engine in &engines {
                    assert_eq!(of_others(seen(engine)), expected, "{what}");
                }
                assert_eq!(seen(&engines[0]), seen(&engines[1]), "{what}");
                assert_eq!(fresh(9, &bucket, "docs").await, all(&engines[0], "docs"), "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_that_is_dropped_and_declared_again_takes_the_place_of_the_old_one_everywhere() {
    for is_first in [true, false] {
        let (bucket, nodes) = (bucket(1), [Node::new(1), Node::new(2)]);
        let engines = [nodes[0].open(), nodes[1].open()];
        put(&engines[0], "docs", 0..5, 1).await;
        for at in 0..2 {
            sync(&nodes[at], &engines[at], &bucket).await.unwrap();
        }
        put(&engines[0], "docs", 5..6, 1).await;
        write(&engines[1], "docs", json!({"schema": {"n": {"drop": true}}, "upsert_rows": []})).await;
        write(&engines[1], "docs", json!({"schema": {"n": "string"}, "patch_rows": [{"id": 1, "n": "one"}]})).await;
        for at in if is_first { [1, 0, 1, 0] } else { [0, 1, 0, 1] } {
            sync(&nodes[at], &engines[at], &bucket).await.unwrap();
        }
        for engine in &engines {
            let found = all(engine, "docs");
            let values: Vec<_> = found.values().map(|row| row.get("n").cloned()).collect();
            let expected: Vec<_> = (0..6).map(|id| (id == 1).then(|| json!("one"))).collect();
            assert_eq!(values, expected, "first {is_first}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_schemas_contradict_each_other_the_hint_leads_to_the_documents_of_both() {
    let rows = |row: Json| json!({"upsert_rows": [row]});
    let vector =
        |metric: &str, vector: Json| json!({"distance_metric": metric, "upsert_rows": [{"id": 1, "vector": vector}]});
    for (one, other) in [
        (rows(json!({"id": 1, "x": 1})), rows(json!({"id": "one", "x": 1}))),
        (vector("cosine_distance", json!([1.0, 2.0])), vector("euclidean_squared", json!([1.0, 2.0]))),
        (vector("cosine_distance", json!([1.0, 2.0])), vector("cosine_distance", json!([1.0, 2.0, 3.0]))),
        (rows(json!({"id": 1, "x": 1})), rows(json!({"id": 1, "x": "text"}))),
    ] {
        for until_then in ["a power cut", "a long time", "a power cut and a long time", "nothing is kept"] {
            let what = format!("{one}, {other}, {until_then}");
            let (bucket, mut nodes) = (bucket(7), [Node::new(1), Node::new(2)]);
            if until_then == "nothing is kept" {
                nodes[1].config.retention_ms = 0;
            }
            let mut engines = [nodes[0].open(), nodes[1].open()];
            engines[0].create(&name("docs"), Default::default()).await.unwrap();
            for at in 0..2 {
                sync(&nodes[at], &engines[at], &bucket).await.unwrap();
            }
            nodes.iter().for_each(|node| node.clock.advance(60_000));
            write(&engines[0], "docs", one.clone()).await;
            write(&engines[1], "docs", other.clone()).await;
            engines[1].tag(&name("docs"), "monday", None).await.unwrap();
            let (theirs, ours) = (all(&engines[0], "docs"), all(&engines[1], "docs"));
            sync(&nodes[0], &engines[0], &bucket).await.unwrap();
            let mut hint = String::new();
            for _ in 0..2 {
                let refused = sync(&nodes[1], &engines[1], &bucket).await.unwrap_err();
                assert_eq!(refused.code(), "schema_clash", "{what}");
                assert!(refused.message().contains(" on this node, "), "{refused}");
                hint = refused.hint().unwrap().to_owned();
                let expected = "delete default/default/docs on this node, and sync: then it has the bucket's documents, and those that are here now";
                assert!(hint.starts_with(expected), "{hint}");
            }
            if until_then == "nothing is kept" {
                engines[1] = nodes[1].cut_power(engines[1].clone());
            }
            engines[1].delete(&name("docs")).await.unwrap();
            if until_then != "a long time" {
                engines[1] = nodes[1].cut_power(engines[1].clone());
            }
            if until_then != "a power cut" {
                // It takes more than its share of the disk, and it is long until the next pass.
                nodes[1].disk.leave_free(Some(4 << 10));
                nodes.iter().for_each(|node| node.clock.advance(30 * DAY_MS));
                engines[1].tend().await.unwrap();
                nodes[1].disk.leave_free(None);
            }
            let status = sync(&nodes[1], &engines[1], &bucket).await.unwrap();
            let known = &status.namespaces[&name("docs")];
            assert_eq!(known.error, None, "{what}");
            let named = engines[1].named().into_iter().map(|(name, _)| name.name.to_string());
            let kept = named.filter(|name| name.starts_with("docs.apart-")).collect::<Vec<_>>();
            assert!(
                kept.len() == 1 && hint.contains(&format!("are in default/default/{}", kept[0])),
                "{hint}: {kept:?}"
            );
            let notice = known.notice.clone().unwrap();
            assert!(notice.contains(&kept[0]) && notice.contains("tags (1)"), "{notice}");
            meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
            for engine in &engines {
                assert_eq!((all(engine, "docs"), all(engine, &kept[0])), (theirs.clone(), ours.clone()), "{what}");
                assert!(engine.check(3).unwrap().is_whole(), "{what}");
            }
            // From then on both are namespaces as any other, and the deletion is over.
            write(&engines[1], "docs", one.clone()).await;
            write(&engines[0], &kept[0], other.clone()).await;
            meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
            for namespace in ["docs", &kept[0]] {
                assert_eq!(all(&engines[0], namespace), all(&engines[1], namespace), "{what}");
            }
            engines[1].delete(&name("docs")).await.unwrap();
            meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
            for engine in &engines {
                assert!(engine.nsid_of(&name("docs")).is_none(), "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_waits_for_sync_until_that_has_looked_at_it_and_no_longer() {
    for end in ["deleted there, too", "deleted there and created again", "no bucket any more"] {
        let (bucket, mut nodes) = (bucket(8), [Node::new(1), Node::new(2)]);
        nodes[1].config.retention_ms = 0;
        let mut engines = [nodes[0].open(), nodes[1].open()];
        engines[0].create(&name("docs"), Default::default()).await.unwrap();
        for at in 0..2 {
            sync(&nodes[at], &engines[at], &bucket).await.unwrap();
        }
        for (engine, x) in [(&engines[0], json!(1)), (&engines[1], json!("text"))] {
            write(engine, "docs", json!({"upsert_rows": [{"id": 1, "x": x}]})).await;
        }
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        assert_eq!(sync(&nodes[1], &engines[1], &bucket).await.unwrap_err().code(), "schema_clash");
        let nsid = engines[1].nsid_of(&name("docs")).unwrap();
        engines[1].delete(&name("docs")).await.unwrap();
        engines[1].tend().await.unwrap();
        let project = name("docs").project;
        let deleted = |engine: &Engine| engine.deleted(&project).into_iter().map(|it| it.nsid).collect::<Vec<_>>();
        assert_eq!(deleted(&engines[1]), [nsid], "{end}");
        if end == "no bucket any more" {
            nodes[1].config.has_bucket = false;
            engines[1] = nodes[1].cut_power(engines[1].clone());
        } else {
            engines[0].delete(&name("docs")).await.unwrap();
            sync(&nodes[0], &engines[0], &bucket).await.unwrap();
            if end == "deleted there and created again" {
                write(&engines[0], "docs", json!({"upsert_rows": [{"id": 2, "x": 2}]})).await;
                sync(&nodes[0], &engines[0], &bucket).await.unwrap();
            }
            sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        }
        engines[1].tend().await.unwrap();
        assert_eq!(deleted(&engines[1]), [], "{end}");
        assert!(engines[1].check(3).unwrap().is_whole(), "{end}");
    }
}
