//! Turns of writes that look by filters: those of one project hold up no other's, and no write that has no filter.

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value as Json, json};
use shoal::engine::Engine;
use shoal::model::ids::{NamespaceName, Project};
use shoal::model::write::WriteOutcome;
use shoal::platform::clock::{Clock, ManualClock};
use tokio::time::timeout;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_that_look_hold_up_no_other_project_and_no_write_that_does_not() {
    let node = Node::new(81);
    let clock = Arc::new(GatedClock(ManualClock::at(1_700_000_000_000)));
    let engine =
        Engine::open(node.config.clone(), Arc::new(node.disk.mounted()), clock, node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    let rows: Vec<Json> = (0..10).map(|id| json!({"id": id, "n": id})).collect();
    let busy: Vec<NamespaceName> = ["a", "b", "c", "d"].map(|name| of("busy", name)).into();
    let other = of("other", "docs");
    for name in busy.iter().chain([&other]) {
        write(&engine, name, json!({"upsert_rows": rows})).await;
    }
    let gate = Arc::<Gate>::default();
    let _end = OpenAtEnd(gate.clone());
    let delete = |n: u64| request(json!({"delete_by_filter": ["n", "Eq", n]}));
    let look = |name: &NamespaceName, n: u64| {
        let (engine, name, request) = (engine.clone(), name.clone(), delete(n));
        tokio::spawn(GATE.scope(gate.clone(), async move { engine.write(&name, request).await.unwrap().deleted }))
    };
    // All to one namespace, which looks for one of them at a time.
    let mut looking: Vec<_> = (0..4).map(|n| look(&busy[0], n)).collect();
    gate.wait_for(1).await;
    // So others of its project still have turns.
    looking.push(look(&busy[1], 0));
    looking.push(look(&busy[2], 0));
    gate.wait_for(3).await;
    // But not all there are.
    let mut waiting = pin!(engine.write(&busy[3], delete(0)));
    timeout(Duration::ZERO, waiting.as_mut()).await.expect_err("the project has all turns");
    assert_eq!(write(&engine, &other, json!({"delete_by_filter": ["n", "Eq", 1]})).await.deleted, 1);
    assert_eq!(write(&engine, &busy[3], json!({"upsert_rows": [{"id": 20, "n": 20}]})).await.upserted, 1);
    gate.open();
    for each in looking {
        assert_eq!(each.await.unwrap(), 1);
    }
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap().deleted, 1);
}
