//! Nodes that hold a namespace of the bucket in part, and read the rest when it is wanted.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::Engine;
use shoal::engine::check::Remedy;
use shoal::engine::merge::decide::Policy;
use shoal::engine::query::run;
use shoal::model::as_of::AsOf;
use shoal::model::query::{Answer, QueryOutcome};
use shoal::platform::allowance::Allowance;
use shoal::platform::disk::Disk;
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::Bucket;
use shoal::sync::Sync;
use tokio::sync::OnceCell;

use crate::damaged_here::{objects, repair};
use crate::fleet::{bucket, meet, options, sync};
use crate::node::{DAY_MS, Node, all, name, write};
use crate::reclaiming::keys;
use crate::upkeep::reclaim;

/// So much that vectors are searched by clusters.
const ROWS: u64 = 4_500;
const DIMS: usize = 192;

fn vector(random: &SeededRandom) -> Vec<f32> {
    // Around few places, as embeddings are.
    let place = random.next_u64() % 40;
    let around = SeededRandom::new(place);
    let number = |random: &SeededRandom| (random.next_u64() % 2_000) as f32 / 1_000.0 - 1.0;
    (0..DIMS).map(|_| number(&around) + 0.3 * number(random)).collect()
}

fn rows(seed: u64) -> Vec<Json> {
    let random = SeededRandom::new(seed);
    (0..ROWS)
        .map(|id| {
            let words: Vec<String> = (0..12).map(|_| format!("w{}", random.next_u64() % 300)).collect();
            json!({"id": id, "n": id % 50, "text": words.join(" "), "vector": vector(&random)})
        })
        .collect()
}

async fn fill(engine: &Arc<Engine>) {
    let schema = json!({"text": {"type": "string", "full_text_search": true}, "n": {"type": "uint"}});
    let rows = rows(1);
    for rows in rows.chunks(1_000) {
        let body = json!({"upsert_rows": rows, "distance_metric": "euclidean_squared", "schema": schema});
        write(engine, "docs", body).await;
    }
    engine.compact(&name("docs")).await.unwrap();
}

/// A node that holds so many bytes of the bucket's segments.
fn small(seed: u64, bytes_max: u64) -> Node {
    let mut node = Node::new(seed);
    node.config.tier_bytes_max = bytes_max;
    node
}

fn by_vector(seed: u64) -> Json {
    json!({"rank_by": ["vector", "ANN", vector(&SeededRandom::new(seed))], "limit": 10, "include_attributes": ["n"]})
}

fn by_text(seed: u64) -> Json {
    let random = SeededRandom::new(seed);
    let words = format!("w{} w{}", random.next_u64() % 300, random.next_u64() % 300);
    json!({"rank_by": ["text", "BM25", words], "limit": 10, "include_attributes": ["text"]})
}

fn ask(engine: &Engine, query: &Json) -> shoal::error::Result<QueryOutcome> {
    let request = parse_query(query.clone()).unwrap().request;
    engine.on_view(&name("docs"), None, |view| run(view, &request, &Allowance::unlimited()))
}

fn ids(outcome: &QueryOutcome) -> Vec<String> {
    let Answer::Rows(rows) = &outcome.answers[0] else { panic!("expected rows") };
    rows.iter().map(|row| format!("{} {:?} {:?}", row.id, row.dist, row.fields)).collect()
}

/// Bytes of all segments of the namespace.
fn segment_bytes(engine: &Engine) -> u64 {
    let status = engine.status(&name("docs")).unwrap();
    status["bytes"].as_u64().unwrap()
}

struct Meeting {
    bucket: Bucket,
    whole: Arc<Engine>,
    node: Node,
    part: Arc<Engine>,
    bytes: u64,
}

/// A node that wrote the namespace and has it whole, and the bucket that it sent it to.
async fn written() -> (Arc<Engine>, Bucket) {
    static WRITTEN: OnceCell<(Arc<Engine>, Bucket)> = OnceCell::const_new();
    let make = || async {
        let (writer, bucket) = (Node::new(2), bucket(1));
        let whole = writer.open();
        fill(&whole).await;
        sync(&writer, &whole, &bucket).await.unwrap();
        (whole, bucket)
    };
    WRITTEN.get_or_init(make).await.clone()
}

/// That node, and one that has it in part, at a bucket of their own.
async fn meeting(bytes_max: impl Fn(u64) -> u64) -> Meeting {
    let (whole, original) = written().await;
    let (bucket, patience) = (bucket(1), options(Policy::Lww).patience);
    for object in original.list_all("", None, 10_000, &patience).await.unwrap() {
        let bytes = original.get(&object.key, &patience).await.unwrap().unwrap();
        bucket.put(&object.key, bytes, &patience).await.unwrap();
    }
    let bytes = segment_bytes(&whole);
    let node = small(3, bytes_max(bytes));
    let part = node.open();
    sync(&node, &part, &bucket).await.unwrap();
    Meeting { bucket, whole, node, part, bytes }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_read_when_it_is_wanted_and_answers_are_the_same() {
    let Meeting { whole, part, bytes, .. } = meeting(|bytes| 4 * bytes).await;
    let before = part.held_in_parts().bytes_brought;
    assert!(before < bytes / 4, "{before} of {bytes} bytes were fetched beforehand");
    let first = ask(&part, &by_vector(100)).unwrap();
    assert!(first.stats.rounds <= 3, "{:?}", first.stats);
    assert!(first.stats.bytes_brought > 0 && first.stats.cache_hit_ratio < 1.0, "{:?}", first.stats);
    assert!(part.held_in_parts().bytes_brought < bytes, "not all of it is needed for one query");
    let again = ask(&part, &by_vector(100)).unwrap();
    assert_eq!((again.stats.rounds, again.stats.cache_hit_ratio), (0, 1.0));
    let text = ask(&part, &by_text(100)).unwrap();
    assert!((1..=3).contains(&text.stats.rounds), "{:?}", text.stats);
    for seed in 100..140 {
        for query in [by_vector(seed), by_text(seed)] {
            assert_eq!(
                ids(&ask(&part, &query).unwrap()),
                ids(&ask(&whole, &query).unwrap()),
                "{}",
                query["rank_by"][1]
            );
        }
    }
    let filtered = json!({"filters": ["n", "Eq", 7], "aggregate_by": {"c": ["Count"]}});
    let counts = [&whole, &part].map(|engine| format!("{:?}", ask(engine, &filtered).unwrap().answers));
    assert_eq!(counts[0], counts[1]);
    assert_eq!(all(&part, "docs"), all(&whole, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_tier_keeps_its_bound_and_answers_everything() {
    let Meeting { whole, part, bytes, .. } = meeting(|bytes| bytes / 5 * 4).await;
    let bound = bytes / 5 * 4;
    let (mut hits, mut favourite) = (0.0, 0.0);
    for seed in 0..60 {
        favourite += ask(&part, &by_vector(1_000)).unwrap().stats.cache_hit_ratio;
        for query in [by_vector(seed), by_text(seed)] {
            let found = ask(&part, &query).unwrap();
            hits += found.stats.cache_hit_ratio;
            assert_eq!(ids(&found), ids(&ask(&whole, &query).unwrap()), "{}", query["rank_by"][1]);
            let held = part.held_in_parts();
            assert!(held.bytes <= bound, "{held:?}");
        }
    }
    assert!(hits > 12.0, "some of it is found here: {hits} of 120");
    assert!(favourite > 40.0, "what is asked for again and again mostly stays here: {favourite} of 60");
    let held = part.held_in_parts();
    assert!(held.renewals > 0 && held.bytes_brought > bound, "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_needs_more_than_there_is_room_for_reads_past_it() {
    let bound = |bytes: u64| bytes / 2;
    let Meeting { whole, part, bytes, .. } = meeting(bound).await;
    for seed in 0..30 {
        // Far from everything, so that almost all clusters are looked at; everything compared; what a filter leaves.
        let far: Vec<f32> = vector(&SeededRandom::new(seed)).iter().map(|x| x / 4.0).collect();
        let (mut clusters, mut exact, mut filtered) = (by_vector(seed), by_vector(seed), by_vector(seed));
        clusters["rank_by"][2] = json!(far);
        clusters["recall"] = json!(0.99);
        exact["rank_by"][1] = json!("kNN");
        exact["filters"] = json!(["n", "Gte", 1]);
        filtered["filters"] = json!(["n", "Eq", seed % 50]);
        for query in [clusters, exact, filtered] {
            let found = ask(&part, &query).unwrap();
            assert_eq!(ids(&found), ids(&ask(&whole, &query).unwrap()), "{seed}");
            let held = part.held_in_parts();
            assert!(held.bytes <= bound(bytes), "{held:?}");
            assert!(found.stats.cache_hit_ratio < 1.0, "{:?}", found.stats);
        }
    }
    let held = part.held_in_parts();
    assert!(held.renewals > 0 && held.bytes_brought > 5 * bytes, "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_want_at_once_is_read_once() {
    let alone = meeting(|bytes| 4 * bytes).await;
    ask(&alone.part, &by_vector(7)).unwrap();
    let together = meeting(|bytes| 4 * bytes).await;
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let part = together.part.clone();
            tokio::task::spawn_blocking(move || ids(&ask(&part, &by_vector(7)).unwrap()))
        })
        .collect();
    let mut found = Vec::new();
    for asking in asking {
        found.push(asking.await.unwrap());
    }
    assert!(found.windows(2).all(|two| two[0] == two[1]));
    assert_eq!(together.part.held_in_parts().bytes_brought, alone.part.held_in_parts().bytes_brought);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_queries_at_once_share_a_small_tier() {
    let Meeting { whole, part, bytes, .. } = meeting(|bytes| bytes / 5 * 4).await;
    let asked: Vec<_> = (0..8)
        .map(|worker| {
            let (whole, part) = (whole.clone(), part.clone());
            tokio::task::spawn_blocking(move || {
                for seed in 0..10 {
                    let query = by_vector(worker * 10 + seed);
                    let found = ask(&part, &query).unwrap_or_else(|error| panic!("{error}"));
                    assert_eq!(ids(&found), ids(&ask(&whole, &query).unwrap()));
                    assert!(part.held_in_parts().bytes <= bytes / 5 * 4);
                }
            })
        })
        .collect();
    for asking in asked {
        asking.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_here_after_a_restart_and_without_the_bucket() {
    let Meeting { whole, node, part, .. } = meeting(|bytes| 4 * bytes).await;
    let found = ids(&ask(&part, &by_vector(7)).unwrap());
    part.shutdown().await.unwrap();
    drop(part);
    // Nobody attaches a bucket to this one.
    let part = node.open();
    let again = ask(&part, &by_vector(7)).unwrap();
    assert_eq!((ids(&again), again.stats.cache_hit_ratio), (found, 1.0));
    let error = (8..40).find_map(|seed| ask(&part, &by_vector(seed)).err()).expect("not all of it is here");
    assert_eq!(error.code(), "bucket_missing", "{error}");
    // Writes are of this node: they need nothing that is not here.
    write(&part, "docs", json!({"upsert_rows": [{"id": 5, "n": 999, "vector": vec![0.5; DIMS]}]})).await;
    write(&part, "docs", json!({"deletes": [6]})).await;
    let counted = json!({"aggregate_by": {"c": ["Count"]}});
    assert_eq!(format!("{:?}", ask(&part, &counted).unwrap().answers).matches("4499").count(), 1);
    drop(whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_leaves_nothing_that_is_believed_wrongly() {
    let Meeting { bucket, whole, node, mut part, .. } = meeting(|bytes| 4 * bytes).await;
    for seed in 0..12 {
        for query in [by_vector(seed), by_text(seed)] {
            assert_eq!(ids(&ask(&part, &query).unwrap()), ids(&ask(&whole, &query).unwrap()));
        }
        if seed % 3 == 0 {
            part.tend().await.unwrap();
        }
        part = node.cut_power(part);
        let _attached = Sync::new(part.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
        assert_eq!(ids(&ask(&part, &by_vector(seed)).unwrap()), ids(&ask(&whole, &by_vector(seed)).unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_dropped_and_read_again() {
    let Meeting { bucket, whole, node, part, .. } = meeting(|bytes| 4 * bytes).await;
    let found = ids(&ask(&part, &by_vector(7)).unwrap());
    part.shutdown().await.unwrap();
    drop(part);
    damage(&node, "/data/cache");
    let part = node.open();
    let _attached = Sync::new(part.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
    assert_eq!(ids(&ask(&part, &by_vector(7)).unwrap()), found);
    assert_eq!(all(&part, "docs"), all(&whole, "docs"));
}

/// Changes bytes in the middle of every segment below a directory.
fn damage(node: &Node, below: &str) {
    let mut open = vec![below.to_owned()];
    let mut changed = 0;
    while let Some(dir) = open.pop() {
        for entry in node.disk.list(Path::new(&dir)).unwrap() {
            let path = format!("{dir}/{}", entry.name);
            if entry.is_dir {
                open.push(path);
            } else if path.ends_with(".seg") {
                let file = node.disk.random_access(Path::new(&path)).unwrap();
                for at in (1_000..entry.len - 1_000).step_by(20_000).chain([entry.len - 70]) {
                    file.write_at(at, b"wrong").unwrap();
                }
                changed += 1;
            }
        }
    }
    assert!(changed > 0, "there is nothing below {below}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_wrote_may_go_once_the_bucket_has_it_and_a_pin_brings_it_back() {
    let bucket = bucket(4);
    let node = small(5, 4 << 20);
    let engine = node.open();
    fill(&engine).await;
    assert_eq!(engine.held_in_parts().objects, 0, "nobody else has it");
    let expected = all(&engine, "docs");
    sync(&node, &engine, &bucket).await.unwrap();
    let held = engine.held_in_parts();
    assert!(held.bytes <= 4 << 20 && segment_bytes(&engine) > 4 << 20, "{held:?}");
    let other = Node::new(6);
    let elsewhere = other.open();
    meet(&[(&other, &elsewhere), (&node, &engine)], &bucket).await;
    for seed in 0..5 {
        assert_eq!(ids(&ask(&engine, &by_vector(seed)).unwrap()), ids(&ask(&elsewhere, &by_vector(seed)).unwrap()));
    }
    engine.update_metadata(&name("docs"), None, Some(true)).await.unwrap();
    sync(&node, &engine, &bucket).await.unwrap();
    assert_eq!(engine.held_in_parts().objects, 0, "pinned namespaces are here whole");
    assert_eq!(all(&engine, "docs"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_a_node_that_has_little_reaches_all_others() {
    let Meeting { bucket, node, part, .. } = meeting(|bytes| 4 * bytes).await;
    write(&part, "docs", json!({"patch_rows": [{"id": 17, "n": 4_711}], "deletes": [18, 19]})).await;
    sync(&node, &part, &bucket).await.unwrap();
    let fresh = Node::new(9);
    let engine = fresh.open();
    sync(&fresh, &engine, &bucket).await.unwrap();
    let documents = all(&engine, "docs");
    assert_eq!(documents, all(&part, "docs"));
    assert_eq!(documents.len() as u64, ROWS - 2);
    assert!(documents.values().any(|fields| fields["n"] == json!(4_711)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_two_nodes_created_apart_is_made_one_without_all_of_it() {
    let Meeting { bucket, whole, bytes, .. } = meeting(|bytes| 4 * bytes).await;
    let node = small(8, 4 * bytes);
    let part = node.open();
    let row = json!({"id": 100_000, "n": 7, "text": "w1 w2", "vector": vec![0.5; DIMS]});
    let schema = json!({"text": {"type": "string", "full_text_search": true}, "n": {"type": "uint"}});
    write(&part, "docs", json!({"upsert_rows": [row], "distance_metric": "euclidean_squared", "schema": schema}))
        .await;
    let status = sync(&node, &part, &bucket).await.unwrap();
    assert!(status.namespaces[&name("docs")].notice.as_ref().unwrap().contains("apart"));
    let held = part.held_in_parts();
    assert!(held.objects > 0 && held.bytes_brought < bytes / 2, "{held:?} of {bytes}");
    let documents = all(&part, "docs");
    assert_eq!(documents.len() as u64, ROWS + 1);
    assert!(all(&whole, "docs").iter().all(|(id, fields)| documents[id] == *fields));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_somebody_removed_is_named_and_the_rest_is_served() {
    let Meeting { bucket, part, .. } = meeting(|bytes| 4 * bytes).await;
    let found = ids(&ask(&part, &by_vector(7)).unwrap());
    let patience = options(Policy::Lww).patience;
    for object in bucket.list_all("", None, 10_000, &patience).await.unwrap() {
        if object.key.contains("/segments/") {
            bucket.delete(&object.key, &patience).await.unwrap();
        }
    }
    assert_eq!(ids(&ask(&part, &by_vector(7)).unwrap()), found);
    let error = (8..40).find_map(|seed| ask(&part, &by_vector(seed)).err()).expect("not all of it is here");
    assert_eq!(error.code(), "object_gone", "{error}");
    assert!(error.message().contains("/segments/") && error.hint().is_some(), "{error}");
    assert_eq!(ids(&ask(&part, &by_vector(7)).unwrap()), found, "what is here is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_little_goes_over_to_what_took_the_place_of_segments_that_were_reclaimed() {
    let nothing = json!({});
    let unsent = json!({
        "patch_rows": [{"id": 17, "n": 4_711}], "deletes": [18, 19],
        "upsert_rows": [{"id": 100_000, "n": 7, "text": "w1 w2", "vector": vec![0.5; DIMS]}],
    });
    // What the other node writes again later prevails.
    let both = json!({"patch_rows": [{"id": 3, "n": 5_000}], "deletes": [4]});
    // With a power cut soon after its pass, when it had written nothing else yet, and without.
    for (unsent, rows, is_cut) in
        [(nothing.clone(), ROWS, true), (nothing, ROWS, false), (unsent, ROWS - 1, false), (both, ROWS, false)]
    {
        let Meeting { bucket, node, mut part, .. } = meeting(|bytes| 4 * bytes).await;
        let other = Node::new(9);
        let engine = other.open();
        sync(&other, &engine, &bucket).await.unwrap();
        if unsent != json!({}) {
            write(&part, "docs", unsent.clone()).await;
        }
        let before = keys(&bucket).await;
        other.clock.advance(1_000);
        write(&engine, "docs", json!({"patch_rows": [{"id": 3, "n": 4_712}, {"id": 4, "n": 4_713}]})).await;
        engine.compact(&name("docs")).await.unwrap();
        for _ in 0..3 {
            other.clock.advance(DAY_MS);
            sync(&other, &engine, &bucket).await.unwrap();
            reclaim(&other, &engine, &bucket, 0).await;
        }
        let after = keys(&bucket).await;
        assert!(before.iter().any(|key| key.contains("/segments/") && !after.contains(key)), "nothing was reclaimed");
        if is_cut {
            part = node.cut_power(part);
        }
        node.clock.advance(3 * DAY_MS);
        meet(&[(&node, &part), (&other, &engine)], &bucket).await;
        let documents = all(&part, "docs");
        assert_eq!(documents.len() as u64, rows, "{unsent}");
        assert_eq!(documents, all(&engine, "docs"), "{unsent}");
        // What it was before cannot be read any more, and that is said, unless it was the first.
        let problems = part.check(4).unwrap().problems;
        assert!(problems.iter().all(|problem| problem.what.contains("a state of the past")), "{problems:?}");
        assert!(part.held_in_parts().objects > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_past_state_names_and_the_bucket_has_is_not_called_lost() {
    let Meeting { bucket, node, part, .. } = meeting(|bytes| 4 * bytes).await;
    let other = Node::new(9);
    let engine = other.open();
    sync(&other, &engine, &bucket).await.unwrap();
    write(&engine, "docs", json!({"patch_rows": [{"id": 17, "n": 4_711}]})).await;
    engine.compact(&name("docs")).await.unwrap();
    sync(&other, &engine, &bucket).await.unwrap();
    sync(&node, &part, &bucket).await.unwrap();
    let report = part.check(4).unwrap();
    assert_eq!(report.problems, []);
    assert!(report.in_bucket >= 2, "the segment of now and that of before: {report:?}");
    // What neither has is.
    let patience = options(Policy::Lww).patience;
    for object in bucket.list_all("", None, 10_000, &patience).await.unwrap() {
        if object.key.contains("/segments/") {
            bucket.delete(&object.key, &patience).await.unwrap();
        }
    }
    let report = part.check(4).unwrap();
    let said: Vec<_> = report.problems.iter().map(|problem| problem.remedy).collect();
    assert_eq!(said, [Remedy::Lost], "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wanted_whole_is_missed_and_read_again() {
    for is_of_tag in [false, true] {
        let Meeting { bucket, node, part, .. } = meeting(|bytes| 4 * bytes).await;
        write(&part, "docs", json!({"deletes": [17]})).await;
        part.checkpoint(&name("docs")).await.unwrap();
        sync(&node, &part, &bucket).await.unwrap();
        part.tag(&name("docs"), "t", None).await.unwrap();
        if is_of_tag {
            write(&part, "docs", json!({"deletes": [18]})).await;
            part.checkpoint(&name("docs")).await.unwrap();
        }
        sync(&node, &part, &bucket).await.unwrap();
        drop(part);
        // Names begin with the time.
        let bitmaps: Vec<_> =
            objects(&node).into_iter().filter(|path| path.extension() == Some("del".as_ref())).collect();
        assert_eq!(bitmaps.len(), 1 + usize::from(is_of_tag), "{bitmaps:?}");
        node.disk.remove(&bitmaps[0]).unwrap();
        let part = node.open();
        part.rebuild_index().unwrap();
        let _attached = Sync::new(part.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
        let found = part.check(4).unwrap().problems;
        assert!(found.iter().any(|problem| problem.file.ends_with(".del")), "{found:?}");
        assert_eq!(repair(&part, None).unwrap().remaining, [], "of a tag: {is_of_tag}");
        assert_eq!(part.check(4).unwrap().problems, []);
        assert!(ask(&part, &by_vector(7)).is_ok());
        assert!(part.view_at(&name("docs"), Some(&AsOf::Tag("t".into()))).is_ok());
    }
}
