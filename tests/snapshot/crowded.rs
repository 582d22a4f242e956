//! Many copies at once: no more are begun than may be, one builds at a time, and nobody else's work or tokens suffer.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::json;
use shoal::api::limits::ServerConfig;
use shoal::api::server::serve;
use shoal::engine::{COPY_UNDER_WAY, CopyStatus, Engine};
use shoal::error::Kind;
use shoal::model::ids::{NamespaceName, Project};

use super::client::Reply;
use super::hook_disk::HookDisk;
use super::node::{Node, contents, few, files, fill, name, rows, write};

/// A test that waits longer than this for what is under way has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often others have their turn before something is said not to happen.
const TURNS: usize = 20_000;
/// As many copies as one project may have under way.
const UNDER_WAY: usize = 4;

#[derive(Default)]
struct Builds {
    is_shut: bool,
    /// The files of segments that were begun, in order.
    begun: Vec<PathBuf>,
    under_way: BTreeSet<PathBuf>,
    /// The most that were under way at one time.
    peak: usize,
}

/// Sees every segment that is built, and holds up who begins one while it is shut.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<Builds>, Condvar)>);

impl Gate {
    fn on(disk: &HookDisk) -> Gate {
        let gate = Gate::default();
        let seeing = gate.clone();
        disk.each(move |operation, path| seeing.see(operation, path));
        gate
    }

    fn see(&self, operation: &str, path: &Path) {
        let (builds, opened) = &*self.0;
        let mut builds = builds.lock().unwrap();
        if operation == "create" && path.ends_with("data.seg.tmp") {
            builds.begun.push(path.to_owned());
            builds.under_way.insert(path.with_extension(""));
            builds.peak = builds.peak.max(builds.under_way.len());
            drop(opened.wait_while(builds, |builds| builds.is_shut).unwrap());
        } else if operation == "rename" {
            builds.under_way.remove(path);
        }
    }

    fn shut(&self, is_shut: bool) {
        self.0.0.lock().unwrap().is_shut = is_shut;
        self.0.1.notify_all();
    }

    fn begun(&self) -> Vec<PathBuf> {
        self.0.0.lock().unwrap().begun.clone()
    }

    fn peak(&self) -> usize {
        self.0.0.lock().unwrap().peak
    }

    /// Waits until somebody begins a segment.
    async fn met(&self) -> PathBuf {
        until(|| !self.begun().is_empty()).await;
        self.begun().remove(0)
    }
}

impl Drop for Gate {
    /// A test that fails does not leave anybody waiting.
    fn drop(&mut self) {
        self.shut(false);
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

/// Lets everybody else go on as far as they come.
async fn others_go_on() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// A namespace that was filled, and a gate before the next segment of anybody; it is open still.
async fn filled(node: &Node, of_segments: bool) -> (Arc<Engine>, Gate) {
    let disk = HookDisk::new(node.disk.mounted());
    let engine = node.open_on(Arc::new(disk.clone())).unwrap();
    if of_segments {
        fill(&engine, "docs").await;
    } else {
        write(&engine, "docs", rows(0, 10)).await;
    }
    (engine, Gate::on(&disk))
}

fn in_project(project: &str, text: &str) -> NamespaceName {
    Project::new(project, "search").unwrap().namespace(text).unwrap()
}

fn begin(engine: &Arc<Engine>, to: &NamespaceName) -> String {
    engine.start_copy(&name("docs"), to, true).unwrap()
}

async fn ended(engine: &Engine, to: &NamespaceName, token: &str) -> CopyStatus {
    until(|| engine.poll_copy(to, token).unwrap().finished.is_some()).await;
    engine.poll_copy(to, token).unwrap()
}

/// Copies of `docs`, as many as may be under way.
fn begin_all(engine: &Arc<Engine>) -> Vec<(NamespaceName, String)> {
    let names = (0..UNDER_WAY).map(|n| name(&format!("copy-{n}")));
    names.map(|to| (to.clone(), begin(engine, &to))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_copies_are_begun_than_may_be_under_way_and_one_to_a_name() {
    let node = Node::new(51);
    let (engine, gate) = filled(&node, false).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, ServerConfig::default(), engine.clone(), std::future::pending()));
    let ask = async |to: &str| {
        let body = json!({"source": "docs", "deep": true}).to_string();
        let head = format!(
            "POST /v1/namespaces/{to}/copy HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let asking = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            Reply::read(&mut stream)
        });
        asking.await.unwrap()
    };

    gate.shut(true);
    let first = begin(&engine, &name("copy-0"));
    gate.met().await;
    let refused = engine.start_copy(&name("docs"), &name("copy-0"), false).unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (Kind::Conflict, COPY_UNDER_WAY), "{refused}");
    assert!(refused.message().contains(&first) && refused.hint().is_some(), "{refused}");
    let reply = ask("copy-0").await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (409, Some(COPY_UNDER_WAY)), "{}", reply.text());

    let mut begun = vec![(name("copy-0"), first)];
    for n in 1..UNDER_WAY {
        let reply = ask(&format!("copy-{n}")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        begun.push((name(&format!("copy-{n}")), reply.json()["token"].as_str().unwrap().to_owned()));
    }
    for deep in [true, false] {
        let refused = engine.start_copy(&name("docs"), &name("more"), deep).unwrap_err();
        assert!(refused.kind() == Kind::Busy && refused.hint().is_some(), "{refused}");
    }
    let reply = ask("more").await;
    assert!(reply.status == 429 && reply.header("retry-after").is_some(), "{}", reply.text());
    assert!(reply.json()["hint"].is_string(), "{}", reply.text());

    // What one project has under way is no matter of another's, until there are too many of all.
    let mut of_others = 0;
    let refused = 'all: loop {
        let project = format!("other-{of_others}");
        for n in 0..UNDER_WAY {
            let to = in_project(&project, &format!("copy-{n}"));
            match engine.start_copy(&name("docs"), &to, true) {
                Ok(token) => begun.push((to, token)),
                Err(refused) => break 'all refused,
            }
        }
        of_others += 1;
        assert!(of_others < 100, "no end of copies");
    };
    assert!(refused.kind() == Kind::Busy && refused.message().contains("on this node"), "{refused}");
    assert!(of_others >= 2, "{refused}");

    gate.shut(false);
    for (to, token) in &begun {
        assert_eq!(ended(&engine, to, token).await.finished.unwrap().1.unwrap(), 10);
    }
    assert_eq!(contents(&engine, &name("copy-3")).await.unwrap(), contents(&engine, &name("docs")).await.unwrap());
    let reply = ask("more").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    ended(&engine, &name("more"), reply.json()["token"].as_str().unwrap()).await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_build_one_segment_at_a_time_of_tails_too() {
    let node = Node::new(52);
    let (engine, gate) = filled(&node, false).await;
    gate.shut(true);
    let begun = begin_all(&engine);
    gate.met().await;
    others_go_on().await;
    gate.shut(false);
    for (to, token) in &begun {
        assert_eq!(ended(&engine, to, token).await.finished.unwrap().1.unwrap(), 10);
    }
    assert_eq!((gate.begun().len(), gate.peak()), (UNDER_WAY, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_waits_for_one_piece_of_one_copy_however_many_are_asked_for() {
    let node = Node::new(53);
    let (engine, gate) = filled(&node, true).await;
    for from in [0, 10] {
        write(&engine, "other", few(from, from + 10)).await;
        engine.checkpoint(&name("other")).await.unwrap();
    }
    let other = engine.moment_at(&name("other"), None).await.unwrap().nsid.to_string();
    let before = gate.begun().len();
    gate.shut(true);
    let begun = begin_all(&engine);
    until(|| gate.begun().len() > before).await;
    others_go_on().await;
    let merging = tokio::spawn({
        let engine = engine.clone();
        async move { engine.compact(&name("other")).await }
    });
    until(|| engine.status(&name("other")).unwrap()["index"]["compacting"] == true).await;
    gate.shut(false);
    merging.await.unwrap().unwrap();
    let of_copies = gate.begun()[before..].iter().position(|path| path.to_string_lossy().contains(&other));
    // The one that was under way, and one that may have been quicker than the merge to ask for the next turn.
    assert!(of_copies.is_some_and(|pieces| pieces <= 2), "{of_copies:?} pieces of copies went first");
    for (to, token) in &begun {
        assert_eq!(ended(&engine, to, token).await.finished.unwrap().1.unwrap(), 30);
    }
}

/// What happens while a copy is at its first piece.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    TargetIsWritten,
    SourceIsDeleted,
    SourceIsAnotherOne,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_nobody_can_have_ends_before_its_next_segment_and_leaves_nothing() {
    for meanwhile in [Meanwhile::TargetIsWritten, Meanwhile::SourceIsDeleted, Meanwhile::SourceIsAnotherOne] {
        let node = Node::new(54);
        let (engine, gate) = filled(&node, true).await;
        gate.shut(true);
        let token = begin(&engine, &name("copy"));
        let nsid = gate.met().await.iter().nth_back(3).unwrap().to_string_lossy().into_owned();
        let of_copy = || {
            files(&node.disk, Path::new("/data/store"))
                .into_iter()
                .filter(|path| path.to_string_lossy().contains(&nsid))
                .count()
        };
        assert_eq!(of_copy(), 0);
        match meanwhile {
            Meanwhile::TargetIsWritten => write(&engine, "copy", few(0, 3)).await,
            _ => engine.delete(&name("docs")).await.unwrap(),
        }
        if meanwhile == Meanwhile::SourceIsAnotherOne {
            write(&engine, "docs", few(0, 3)).await;
        }
        gate.shut(false);
        let error = ended(&engine, &name("copy"), &token).await.finished.unwrap().1.unwrap_err();
        match meanwhile {
            Meanwhile::TargetIsWritten => assert_eq!(error.code(), "exists", "{error}"),
            Meanwhile::SourceIsDeleted => assert_eq!(error.kind(), Kind::NotFound, "{error}"),
            Meanwhile::SourceIsAnotherOne => assert_eq!(error.kind(), Kind::Conflict, "{error}"),
        }
        assert_eq!((gate.begun().len(), of_copy()), (1, 0), "{meanwhile:?}: {nsid}");
        let is_there = contents(&engine, &name("copy")).await.map(|documents| documents.len());
        assert_eq!(is_there.ok(), (meanwhile == Meanwhile::TargetIsWritten).then_some(3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_copies_under_way_and_of_other_projects_stay() {
    let node = Node::new(55);
    let (engine, gate) = filled(&node, false).await;
    // One that shares objects stays in its project: this is an end, too.
    let fail = async |to: &NamespaceName| {
        // Tokens are in the order of time.
        node.clock.advance(1);
        let token = engine.start_copy(&name("docs"), to, false).unwrap();
        assert_eq!(ended(&engine, to, &token).await.finished.unwrap().1.unwrap_err().kind(), Kind::Unsupported);
        token
    };
    let victim = in_project("victim", "copy");
    let kept = fail(&victim).await;
    gate.shut(true);
    let under_way = in_project("busy", "under-way");
    let running = begin(&engine, &under_way);
    gate.met().await;
    let to = in_project("busy", "copy");
    let oldest = fail(&to).await;
    let mut newest = String::new();
    for _ in 0..1_100 {
        newest = fail(&to).await;
    }
    assert!(engine.poll_copy(&victim, &kept).unwrap().finished.is_some());
    assert!(engine.poll_copy(&under_way, &running).unwrap().finished.is_none());
    assert!(engine.poll_copy(&to, &newest).unwrap().finished.is_some());
    assert_eq!(engine.poll_copy(&to, &oldest).unwrap_err().kind(), Kind::NotFound);
    // Many projects together take the room of those that have most.
    for n in 0..1_100 {
        fail(&in_project(&format!("of-many-{}", n % 11), "copy")).await;
    }
    assert!(engine.poll_copy(&victim, &kept).unwrap().finished.is_some());
    gate.shut(false);
    assert_eq!(ended(&engine, &under_way, &running).await.finished.unwrap().1.unwrap(), 10);
}
