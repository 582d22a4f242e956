//! Bytes that change after they were checked are not written down anywhere as if they were right.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::error::{Error, Kind, Result};
use shoal::model::as_of::AsOf;
use shoal::snapshot::export::export;
use shoal::snapshot::take::{Extent, take};

use crate::node::{all, name, write};
use crate::real::{flip_a_vector, listed, newest_segment, open, put};

async fn merged(engine: &Arc<Engine>, into: &str) -> Result<()> {
    let request = MergeRequest { policy: Policy::Ours, ..MergeRequest::default() };
    engine.merge(&name("docs"), &name(into), request).await.map(drop)
}

async fn copied_deep(engine: &Arc<Engine>, to: &str) -> std::result::Result<u64, Arc<Error>> {
    let token = engine.start_copy(&name("docs"), &name(to), true).unwrap();
    loop {
        if let Some((_, done)) = engine.poll_copy(&name(to), &token).unwrap().finished {
            return done;
        }
        tokio::task::yield_now().await;
    }
}

/// What came of everything that writes down what it reads of segments.
async fn tried(engine: &Arc<Engine>) -> Vec<(&'static str, Option<Kind>)> {
    let kind = |done: &Result<()>| done.as_ref().err().map(Error::kind);
    let flattened = take(engine, &name("docs"), &Extent::Flattened).await.map(drop);
    let moment = engine.moment_at(&name("docs"), None).await.unwrap();
    let exported = tokio::task::block_in_place(|| export(&moment, &mut std::io::sink()).map(drop));
    vec![
        ("a merge of segments", kind(&engine.compact(&name("docs")).await)),
        ("a deep copy", copied_deep(engine, "deep").await.err().map(|error| error.kind())),
        ("a flattened snapshot", kind(&flattened)),
        ("an export", kind(&exported)),
        ("a merge of branches, of a segment's rows", kind(&merged(engine, "most").await)),
        ("a merge of branches, of a few documents", kind(&merged(engine, "few").await)),
        ("a revert", kind(&engine.revert(&name("gone"), &AsOf::Tag("full".into())).await.map(drop))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rotted_after_it_was_checked_is_an_error_for_who_writes_it_down() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    put(&engine, "docs", 0..200, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    for branch in ["most", "few"] {
        engine.branch(&name("docs"), &name(branch), BranchRequest::default()).await.unwrap();
    }
    put(&engine, "docs", 200..400, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.branch(&name("docs"), &name("gone"), BranchRequest::default()).await.unwrap();
    engine.tag(&name("gone"), "full", None).await.unwrap();
    write(&engine, "gone", json!({"deletes": (200..400).collect::<Vec<u64>>()})).await.unwrap();
    let before = all(&engine, "docs").unwrap();
    // What a past state is read by is open, too.
    let past = engine.moment_at(&name("gone"), Some(&AsOf::Tag("full".into()))).await.unwrap();
    assert_eq!(past.view.documents(), 400);
    let segment = newest_segment(&engine, dir.path(), "docs").await;
    flip_a_vector(&segment);
    // Every chunk was checked, so queries do not find it.
    let after = all(&engine, "docs").unwrap();
    let wrong: Vec<_> = before.keys().filter(|id| before[*id] != after[*id]).collect();
    let [shoal::model::ids::DocId::Uint(wrong)] = wrong[..] else { panic!("{wrong:?}") };
    put(&engine, "few", (200..400).filter(|id| id != wrong), 2).await.unwrap();
    for (what, kind) in tried(&engine).await {
        assert_eq!(kind, Some(Kind::Corrupt), "{what}");
    }
    let error = engine.compact(&name("docs")).await.unwrap_err();
    engine.note_damage(&name("docs"), &error);
    assert_eq!(listed(&engine), [segment.strip_prefix(dir.path().join("data")).unwrap().display().to_string()]);
    // Nothing of it came to be, and nothing is lost.
    flip_a_vector(&segment);
    for (what, kind) in tried(&engine).await {
        assert_eq!(kind, None, "{what}");
    }
    for of in ["docs", "deep", "most", "gone"] {
        assert!(all(&engine, of).unwrap() == before, "{of}");
    }
    assert!(
        all(&engine, "few").unwrap()[&shoal::model::ids::DocId::Uint(*wrong)]
            == before[&shoal::model::ids::DocId::Uint(*wrong)]
    );
    engine.shutdown().await.unwrap();
    drop((past, engine));
    assert!(all(&open(Path::new(dir.path())), "docs").unwrap() == before);
}
