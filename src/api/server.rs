//! The HTTP server: one engine behind one listener.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::gates::{Gates, Turn};
use super::limits::ServerConfig;
use super::refusals::Refusals;
use super::{connections, request};
use crate::engine::Engine;
use crate::error::Result;
use crate::model::ids::NamespaceName;
use crate::ops::metrics::Metrics;

/// Exports, imports and snapshots under way at once: each has a thread, and an import up to a segment in memory.
pub const TRANSFERS_MAX: usize = 4;

/// What all requests share.
pub struct Server {
    pub config: ServerConfig,
    pub engine: Arc<Engine>,
    pub gates: Gates,
    pub metrics: Arc<Metrics>,
    /// One namespace is warmed on a client's hint at a time.
    pub warming: Arc<Semaphore>,
    /// Places of exports, imports and snapshots under way.
    pub transfers: Arc<Semaphore>,
    /// Tells this run's requests from those of others, in logs that outlive it.
    run: u32,
    requests: AtomicU64,
    /// Warnings that the log has.
    warned: Mutex<BTreeSet<String>>,
    /// What of refused requests the log has.
    pub refusals: Refusals,
}

/// So many different warnings about requests go into the log of one run; the answers have them all.
const WARNINGS_LOGGED_MAX: usize = 100;

impl Server {
    fn new(config: ServerConfig, engine: Arc<Engine>) -> Self {
        let metrics = config.metrics.clone().unwrap_or_else(|| Arc::new(Metrics::new()));
        let (run, ..) = uuid::Uuid::new_v4().as_fields();
        Server {
            gates: Gates::new(&config),
            metrics,
            warming: Arc::new(Semaphore::new(1)),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            run,
            requests: AtomicU64::new(0),
            warned: Mutex::default(),
            refusals: Refusals::default(),
            config,
            engine,
        }
    }

    /// Waits for a query's turn.
    pub async fn turn(&self, name: &NamespaceName) -> Result<Turn> {
        self.gates.turn(name, self.engine.has_several_projects()).await
    }

    /// Whether the log is to have a warning: the first of its text, while there were not too many.
    pub fn is_first_warning(&self, text: &str) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        warned.len() < WARNINGS_LOGGED_MAX && warned.insert(text.to_owned())
    }

    /// A name for a request that came without one.
    pub fn request_id(&self) -> String {
        format!("{:08x}-{:x}", self.run, self.requests.fetch_add(1, Ordering::Relaxed))
    }
}

/// Serves `engine` until `stop` is done; then requests under way are finished. Needs a runtime of several threads.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    engine: Arc<Engine>,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let server = Arc::new(Server::new(config, engine));
    let answering = Arc::clone(&server);
    let answer = move |request| request::answer(Arc::clone(&answering), request);
    connections::accept(listener, &server.config, answer, stop).await;
    Ok(())
}
