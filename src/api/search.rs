//! Runs searches: away from the threads that wait for sockets, no more at once than have a turn, each with so much time
//! and memory, and no longer than its client waits. Merges have turns among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::server::Server;
use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;
use crate::platform::allowance::{Allowance, End};

/// Says that nobody waits any longer when it is dropped.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for a turn and runs a search. When the future is dropped because the client went away, the search ends at its
/// next look at its allowance; its turn is over only then. A defect in it ends this request only.
pub async fn run<T: Send + 'static>(
    server: &Arc<Server>,
    name: &NamespaceName,
    work: impl FnOnce(&Server, &Allowance) -> Result<T> + Send + 'static,
) -> Result<T> {
    let turn = server.turn(name).await?;
    let abandoned = Arc::new(AtomicBool::new(false));
    let _waiting = Waiting(Arc::clone(&abandoned));
    let until = Instant::now() + Duration::from_millis(server.config.query_timeout_ms);
    let server = Arc::clone(server);
    let running = tokio::task::spawn_blocking(move || {
        let searching = server.metrics.begin_search();
        let is_abandoned = Arc::clone(&abandoned);
        let allowance = Allowance::new(server.config.query_bytes_max, move || {
            if is_abandoned.load(Ordering::Relaxed) {
                Some(End::Abandoned)
            } else {
                (Instant::now() >= until).then_some(End::TimeIsUp)
            }
        });
        let result = work(&server, &allowance);
        if result.is_err() && abandoned.load(Ordering::Relaxed) {
            server.metrics.count_abandoned();
        }
        drop(searching);
        drop(turn);
        result
    });
    running.await.unwrap_or_else(|_| Err(defect()))
}

/// Waits for a turn and carries out what looks at as much as many searches do. It is done in a task of its own, with the turn until
/// it is over; where it only `looks`, it ends when the client goes away, at its next look at its allowance, and counts as a search.
pub async fn take_turn<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
    server: &Arc<Server>,
    name: &NamespaceName,
    looks: bool,
    work: impl FnOnce(Arc<Server>, Arc<Allowance>) -> F,
) -> Result<T> {
    let turn = server.turn(name).await?;
    let abandoned = Arc::new(AtomicBool::new(false));
    let _waiting = Waiting(Arc::clone(&abandoned));
    let is_abandoned = Arc::clone(&abandoned);
    let allowance = if looks {
        let end = move || is_abandoned.load(Ordering::Relaxed).then_some(End::Abandoned);
        Allowance::new(u64::MAX, end)
    } else {
        Allowance::unlimited()
    };
    let (server, working) = (Arc::clone(server), work(Arc::clone(server), Arc::new(allowance)));
    let running = tokio::spawn(async move {
        let searching = looks.then(|| server.metrics.begin_search());
        let result = working.await;
        if looks && result.is_err() && abandoned.load(Ordering::Relaxed) {
            server.metrics.count_abandoned();
        }
        drop(searching);
        drop(turn);
        result
    });
    running.await.unwrap_or_else(|_| Err(defect()))
}

fn defect() -> Error {
    Error::internal("a defect ended this request; the daemon's log says where, please report it")
}
