//! A disk that fails or loses power at any moment of a transfer leaves the whole of what it was to bring, or nothing.

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::LostState;
use shoal::error::{Kind, Result};
use shoal::model::as_of::AsOf;
use shoal::model::document::Document;
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::platform::memory_disk::Fault;
use shoal::snapshot::restore::restore;
use shoal::snapshot::take::Extent;

use super::conflicts::{disagree, lost};
use super::copies::copied;
use super::node::{Node, contents, few, fill, fill_few, name, restored, row, rows, snapshot, swept, write};

/// Documents, and states that lost in merges.
type Contents = (BTreeMap<DocId, Document>, Vec<LostState>);

async fn all_of(engine: &Arc<Engine>, of: &NamespaceName) -> Result<Contents> {
    Ok((contents(engine, of).await?, lost(engine, of)))
}

/// What a node goes through after an operation failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Then {
    PowerCut,
    Stop,
    /// Nothing: the daemon tends to its index, as it does in the background.
    GoOn,
    /// The power goes only after that.
    GoOnAndCut,
}

pub const EVERY_END: [Then; 4] = [Then::PowerCut, Then::Stop, Then::GoOn, Then::GoOnAndCut];

impl Then {
    pub async fn reach(self, node: &Node, engine: Arc<Engine>) -> Arc<Engine> {
        match self {
            Then::PowerCut => {
                drop(engine);
                node.cut_power();
                node.open().unwrap()
            }
            Then::Stop => {
                engine.shutdown().await.unwrap();
                drop(engine);
                // What went on in the background holds the directory for a moment.
                loop {
                    match node.open() {
                        Ok(engine) => break engine,
                        Err(error) => assert_eq!(error.code(), "data_dir_locked", "{error}"),
                    }
                    tokio::task::yield_now().await;
                }
            }
            Then::GoOn => {
                tokio::task::block_in_place(|| engine.rebuild_index()).unwrap();
                engine
            }
            Then::GoOnAndCut => {
                tokio::task::block_in_place(|| engine.rebuild_index()).unwrap();
                drop(engine);
                node.cut_power();
                node.open().unwrap()
            }
        }
    }
}

/// One transfer into a node.
struct Transfer<'a> {
    to: NamespaceName,
    /// What is there before it; `None`: the name is free.
    before: Option<&'a Contents>,
    /// What it brings.
    after: &'a Contents,
    /// What else the node has, which must stay as it is.
    beside: &'a [(NamespaceName, &'a Contents)],
}

impl Transfer<'_> {
    /// Fails every operation of `act` in turn on a node that `prepare` fills.
    async fn fails_anywhere(
        &self,
        then: Then,
        prepare: impl AsyncFn(&Arc<Engine>),
        act: impl AsyncFn(&Arc<Engine>) -> Result<()>,
    ) {
        let mut points = 0;
        for at in 0.. {
            let node = Node::new(100 + at);
            let engine = node.open().unwrap();
            prepare(&engine).await;
            let first = node.disk.operations();
            let kind = if at % 2 == 0 { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
            let fault = Fault { at: first + at, forever: at % 3 == 0, kind };
            node.disk.set_fault(Some(fault));
            let done = act(&engine).await;
            let is_hit = node.disk.operations() > fault.at;
            node.disk.set_fault(None);
            let what = format!("{fault:?}, operation {at}, then {then:?}: {done:?}");
            let expected = if done.is_ok() { Some(self.after) } else { self.before };
            assert_eq!(self.seen(&engine, &what).await.as_ref(), expected, "{what}");
            let engine = then.reach(&node, engine).await;
            self.check(&engine, &what).await;
            let seen = self.seen(&engine, &what).await;
            if done.is_ok() || seen.as_ref() != self.before {
                // What failed may be whole all the same, where it is not known whether its last step is durable.
                assert_eq!(seen.as_ref(), Some(self.after), "{what}");
            } else {
                act(&engine).await.unwrap_or_else(|error| panic!("{what}: repeated: {error}"));
                assert_eq!(self.seen(&engine, &what).await.as_ref(), Some(self.after), "{what}");
                self.check(&engine, &what).await;
            }
            points += 1;
            if !is_hit {
                break;
            }
        }
        assert!(points > 30, "only {points} operations");
    }

    /// What is under the name; `None` where nothing is.
    async fn seen(&self, engine: &Arc<Engine>, what: &str) -> Option<Contents> {
        match all_of(engine, &self.to).await {
            Ok(found) => Some(found),
            Err(error) if error.kind() == Kind::NotFound => None,
            Err(error) => panic!("{what}, read: {error}"),
        }
    }

    /// Nothing is wrong, nothing is left over, and what has nothing to do with it is as it was.
    async fn check(&self, engine: &Arc<Engine>, what: &str) {
        let report = swept(engine).await;
        assert!(report.is_whole() && report.orphans == 0, "{what}: {report:?}");
        for (name, expected) in self.beside {
            assert_eq!(all_of(engine, name).await.unwrap(), **expected, "{what}: {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_that_fails_at_any_operation_leaves_the_base_or_the_whole_and_can_be_repeated() {
    let source = Node::new(25);
    let engine = source.open().unwrap();
    let (before, full, after, increment) = base_and_increment(&engine).await;
    let prepare = async |engine: &Arc<Engine>| {
        restored(engine, "docs", &full).await.unwrap();
    };
    let here = Transfer { to: name("docs"), before: Some(&before), after: &after, beside: &[] };
    let beside = [(name("docs"), &before)];
    let elsewhere = Transfer { to: name("next"), before: None, after: &after, beside: &beside };
    let base = name("docs");
    for then in EVERY_END {
        here.fails_anywhere(then, prepare, async |engine| restored(engine, "docs", &increment).await.map(drop)).await;
    }
    for then in [Then::PowerCut, Then::GoOnAndCut] {
        elsewhere
            .fails_anywhere(then, prepare, async |engine| {
                let input = Cursor::new(increment.clone());
                restore(engine, &name("next"), Some(&base), input).await.map(drop)
            })
            .await;
    }
}

/// A namespace's contents and full snapshot, then the contents some writes later and the increment that brings them.
async fn base_and_increment(engine: &Arc<Engine>) -> (Contents, Vec<u8>, Contents, Vec<u8>) {
    fill_few(engine, "docs").await;
    disagree(engine, "docs", 5).await;
    let full = snapshot(engine, "docs", Extent::Full).await.unwrap();
    let before = all_of(engine, &name("docs")).await.unwrap();
    let commit = engine.moment_at(&name("docs"), None).await.unwrap().manifest.commit_id;
    write(engine, "docs", few(12, 24)).await;
    write(engine, "docs", json!({"deletes": [row(0)["id"], row(21)["id"]]})).await;
    disagree(engine, "docs", 8).await;
    let increment = snapshot(engine, "docs", Extent::Since(AsOf::Commit(commit))).await.unwrap();
    let after = all_of(engine, &name("docs")).await.unwrap();
    (before, full, after, increment)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deep_copy_that_fails_at_any_operation_leaves_nothing_or_the_whole_and_can_be_repeated() {
    let source = Node::new(26);
    let engine = source.open().unwrap();
    fill_few(&engine, "docs").await;
    disagree(&engine, "docs", 5).await;
    let expected = all_of(&engine, &name("docs")).await.unwrap();
    let bytes = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    let prepare = async |engine: &Arc<Engine>| {
        restored(engine, "docs", &bytes).await.unwrap();
    };
    let elsewhere = Project::new("acme", "search").unwrap().namespace("copy").unwrap();
    let beside = [(name("docs"), &expected)];
    for (at, then) in EVERY_END.into_iter().enumerate() {
        let to = if at % 2 == 0 { name("copy") } else { elsewhere.clone() };
        let transfer = Transfer { to: to.clone(), before: None, after: &expected, beside: &beside };
        transfer.fails_anywhere(then, prepare, async |engine| copied(engine, &name("docs"), &to).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_fails_at_any_operation_leaves_nothing_or_the_whole_and_can_be_repeated() {
    let source = Node::new(21);
    let engine = source.open().unwrap();
    fill(&engine, "docs").await;
    disagree(&engine, "docs", 5).await;
    let expected = all_of(&engine, &name("docs")).await.unwrap();
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
        let seen = all_of(&engine, &name("docs")).await;
        match (&seen, after_error) {
            (Ok(found), None) => assert_eq!(*found, expected, "operation {at}"),
            (Err(error), Some(_)) => assert_eq!(error.kind(), Kind::NotFound, "operation {at}: {error}"),
            (seen, _) => panic!("operation {at}: {done:?}, then {:?}", seen.as_ref().map(|found| found.0.len())),
        }
        drop(engine);
        node.cut_power();
        let engine = node.open().unwrap();
        match all_of(&engine, &name("docs")).await {
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
