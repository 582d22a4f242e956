//! Turns of writes that look by filters: those of one project hold up no other's, and no write that has no filter.

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value as Json, json};
use shoal::engine::Engine;
use shoal::model::ids::{NamespaceName, Project};
use shoal::model::write::WriteOutcome;
use shoal::platform::clock::{Clock, ManualClock};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::hook_disk::HookDisk;
use crate::node::Node;
use crate::request;

/// A test that waits longer than this for what is under way has failed.
const PATIENCE: Duration = Duration::from_secs(20);

tokio::task_local! {
    /// Who has this looks for as long as it is closed.
    static GATE: Arc<Gate>;
}

#[derive(Default)]
struct Gate {
    /// Whether it is open, and how many are before it.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        while !state.0 {
            state = self.changed.wait(state).unwrap();
        }
        state.1 -= 1;
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    async fn wait_for(&self, looking: usize) {
        let all = async {
            while self.state.lock().unwrap().1 < looking {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, all).await.unwrap();
    }
}

/// Lets a test end that failed.
struct OpenAtEnd(Arc<Gate>);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Who looks asks it how much time is left.
struct GatedClock(ManualClock);

impl Clock for GatedClock {
    fn now_millis(&self) -> u64 {
        self.0.now_millis()
    }

    fn steady_millis(&self) -> u64 {
        if let Ok(gate) = GATE.try_with(Arc::clone) {
            tokio::task::block_in_place(|| gate.pass());
        }
        self.0.steady_millis()
    }
}

fn of(project: &str, name: &str) -> NamespaceName {
    Project::new("org", project).unwrap().namespace(name).unwrap()
}

async fn write(engine: &Arc<Engine>, name: &NamespaceName, body: Json) -> WriteOutcome {
    timeout(PATIENCE, engine.write(name, request(body))).await.unwrap().unwrap()
}

/// Opens a node with these namespaces, of ten documents each.
async fn open(node: &Node, disk: &HookDisk, names: &[&NamespaceName]) -> Arc<Engine> {
    let clock = Arc::new(GatedClock(ManualClock::at(1_700_000_000_000)));
    let engine = Engine::open(node.config.clone(), Arc::new(disk.clone()), clock, node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    let rows: Vec<Json> = (0..10).map(|id| json!({"id": id, "n": id})).collect();
    for name in names {
        write(&engine, name, json!({"upsert_rows": rows})).await;
    }
    engine
}

fn delete(n: u64) -> Json {
    json!({"delete_by_filter": ["n", "Eq", n]})
}

/// Deletes what it finds once the gate is open; gives how many.
fn look(engine: &Arc<Engine>, gate: &Arc<Gate>, name: &NamespaceName, n: u64) -> JoinHandle<u64> {
    let (engine, name, request) = (engine.clone(), name.clone(), request(delete(n)));
    tokio::spawn(GATE.scope(gate.clone(), async move { engine.write(&name, request).await.unwrap().deleted }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_that_look_hold_up_no_other_project_and_no_write_that_does_not() {
    let node = Node::new(81);
    let busy: Vec<NamespaceName> = ["a", "b", "c"].map(|name| of("busy", name)).into();
    let other = of("other", "docs");
    let engine = open(&node, &HookDisk::new(node.disk.mounted()), &[&busy[0], &busy[1], &busy[2], &other]).await;
    let gate = Arc::<Gate>::default();
    let _end = OpenAtEnd(gate.clone());
    // All to one namespace, which looks for one of them at a time.
    let mut looking: Vec<_> = (0..4).map(|n| look(&engine, &gate, &busy[0], n)).collect();
    gate.wait_for(1).await;
    // So others of its project still have turns.
    looking.push(look(&engine, &gate, &busy[1], 0));
    gate.wait_for(2).await;
    // But not all there are.
    let mut waiting = pin!(engine.write(&busy[2], request(delete(0))));
    timeout(Duration::ZERO, waiting.as_mut()).await.expect_err("the project has all turns");
    assert_eq!(write(&engine, &other, delete(1)).await.deleted, 1);
    assert_eq!(write(&engine, &busy[2], json!({"upsert_rows": [{"id": 20, "n": 20}]})).await.upserted, 1);
    gate.open();
    for each in looking {
        assert_eq!(each.await.unwrap(), 1);
    }
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap().deleted, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_projects_that_look_all_they_may_leave_a_turn_to_a_third() {
    let node = Node::new(82);
    let names: Vec<NamespaceName> = ["one", "two"]
        .iter()
        .flat_map(|project| ["a", "b", "c", "d", "e"].iter().map(|name| of(project, name)))
        .chain([of("third", "docs"), of("fourth", "docs")])
        .collect();
    let engine = open(&node, &HookDisk::new(node.disk.mounted()), &names.iter().collect::<Vec<_>>()).await;
    let gate = Arc::<Gate>::default();
    let _end = OpenAtEnd(gate.clone());
    let mut looking: Vec<_> = names[..5].iter().map(|name| look(&engine, &gate, name, 0)).collect();
    gate.wait_for(2).await;
    looking.extend(names[5..10].iter().map(|name| look(&engine, &gate, name, 0)));
    gate.wait_for(3).await;
    for name in &names[10..] {
        assert_eq!(write(&engine, name, delete(0)).await.deleted, 1, "{name}");
    }
    // A client that goes away leaves its turn, or its place in the line, to others.
    for each in looking.split_off(6) {
        each.abort();
    }
    gate.open();
    for each in looking {
        assert_eq!(timeout(PATIENCE, each).await.unwrap().unwrap(), 1);
    }
    for name in &names[10..] {
        assert_eq!(write(&engine, name, delete(1)).await.deleted, 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 5)]
async fn a_write_that_waits_for_room_keeps_no_turn_and_a_project_alone_has_all() {
    let mut node = Node::new(83);
    node.config.tail_bytes_max = 20_000;
    node.config.backpressure_wait_ms = PATIENCE.as_millis() as u64;
    let disk = HookDisk::new(node.disk.mounted());
    let names: Vec<NamespaceName> = ["a", "b", "c", "d", "full", "free"].map(|name| of("alone", name)).into();
    let (full, free) = (&names[4], &names[5]);
    let engine = open(&node, &disk, &names.iter().collect::<Vec<_>>()).await;
    let (first, gate) = (Arc::<Gate>::default(), Arc::<Gate>::default());
    let _ends = (OpenAtEnd(first.clone()), OpenAtEnd(gate.clone()));
    // No segment comes to be meanwhile.
    let unflushed = Arc::<Gate>::default();
    let _flushes = OpenAtEnd(unflushed.clone());
    let before = unflushed.clone();
    disk.each(move |_, path| {
        if path.to_string_lossy().contains("/segments/") {
            before.pass();
        }
    });
    let ended = look(&engine, &first, &names[0], 0);
    let looking: Vec<_> = names[1..4].iter().map(|name| look(&engine, &gate, name, 0)).collect();
    first.wait_for(1).await;
    gate.wait_for(3).await;
    let mut waiting = pin!(engine.write(full, request(delete(0))));
    timeout(Duration::ZERO, waiting.as_mut()).await.expect_err("all turns are taken");
    // It begins anew for this schema, and there is no room when it does.
    let wide = json!({"id": 20, "text": "x".repeat(30_000)});
    let schema = json!({"text": {"type": "string", "filterable": false}});
    write(&engine, full, json!({"upsert_rows": [wide], "schema": schema})).await;
    first.open();
    assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap(), 1);
    timeout(Duration::ZERO, waiting.as_mut()).await.expect_err("there is no room");
    assert_eq!(write(&engine, free, delete(0)).await.deleted, 1);
    unflushed.open();
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap().deleted, 1);
    gate.open();
    for each in looking {
        assert_eq!(timeout(PATIENCE, each).await.unwrap().unwrap(), 1);
    }
}
