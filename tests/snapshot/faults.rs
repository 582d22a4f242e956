//! A disk that fails or loses power at any moment of a restore leaves the whole namespace or nothing.

use std::io;

use shoal::error::Kind;
use shoal::platform::memory_disk::Fault;
use shoal::snapshot::take::Extent;

use super::node::{Node, contents, fill, name, restored, rows, snapshot, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_fails_at_any_operation_leaves_nothing_or_the_whole_and_can_be_repeated() {
    let source = Node::new(21);
    let engine = source.open().unwrap();
    fill(&engine, "docs").await;
    let expected = contents(&engine, &name("docs")).await.unwrap();
    let bytes = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    let mut points = 0;
    for at in 0.. {
        let node = Node::new(22);
        let engine = node.open().unwrap();
        write(&engine, "other", rows(0, 2)).await;
        let first = node.disk.operations();
        let kind = if at % 2 == 0 { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
        node.disk.set_fault(Some(Fault { at: first + at, forever: at % 3 == 0, kind }));
        let done = restored(&engine, "docs", &bytes).await;
        let is_hit = node.disk.operations() > first + at;
        node.disk.set_fault(None);
        let after_error = done.is_err().then_some("what is seen after an error");
        let seen = contents(&engine, &name("docs")).await;
        match (&seen, after_error) {
            (Ok(found), None) => assert_eq!(*found, expected, "operation {at}"),
            (Err(error), Some(_)) => assert_eq!(error.kind(), Kind::NotFound, "operation {at}: {error}"),
            (seen, _) => panic!("operation {at}: {done:?}, then {:?}", seen.as_ref().map(|found| found.len())),
        }
        drop(engine);
        node.cut_power();
        let engine = node.open().unwrap();
        match contents(&engine, &name("docs")).await {
            Ok(found) => assert_eq!(found, expected, "operation {at}"),
            Err(error) => {
                assert_eq!(error.kind(), Kind::NotFound, "operation {at}: {error}");
                assert!(done.is_err(), "operation {at}: a restore that was acknowledged is gone");
                // What it left is swept, and it can be repeated.
                let report = tokio::task::block_in_place(|| engine.check(3)).unwrap();
                assert!(report.is_whole() && report.orphans == 0, "operation {at}: {report:?}");
                restored(&engine, "docs", &bytes).await.unwrap();
            }
        }
        let report = tokio::task::block_in_place(|| engine.check(3)).unwrap();
        assert!(report.is_whole(), "operation {at}: {report:?}");
        assert_eq!(contents(&engine, &name("other")).await.unwrap().len(), 2);
        points += 1;
        if !is_hit {
            break;
        }
    }
    assert!(points > 30, "only {points} operations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_that_goes_during_a_restore_leaves_nothing_of_it() {
    let source = Node::new(23);
    let engine = source.open().unwrap();
    fill(&engine, "docs").await;
    let bytes = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    for percent in (0..100).step_by(9) {
        let node = Node::new(24 + percent);
        let engine = node.open().unwrap();
        let cut = bytes.len() * percent as usize / 100;
        assert!(restored(&engine, "docs", &bytes[..cut]).await.is_err());
        drop(engine);
        node.cut_power();
        let engine = node.open().unwrap();
        assert_eq!(contents(&engine, &name("docs")).await.unwrap_err().kind(), Kind::NotFound);
        let report = tokio::task::block_in_place(|| engine.check(3)).unwrap();
        assert!(report.is_whole() && report.orphans == 0, "{percent} %: {report:?}");
    }
}
