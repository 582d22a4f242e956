//! The runtime that carries out what is asked of buckets, on threads of its own.
//!
//! Whoever reads a mapped object waits in a thread of the daemon's runtime for bytes that are not on this disk. All of these threads may
//! wait at once; so what they wait for is carried out elsewhere: connections are made and driven here, and reads for the tier run here.

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

/// Most of the work is waiting for sockets.
const WORKERS: usize = 2;
/// Reads of a bucket that is a directory, and look-ups of names, go on beside it.
const BLOCKING_THREADS_MAX: usize = 8;

static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();

/// The runtime. Where the system gives no more threads, the one that asks; also where that has one thread, in which nobody can wait.
pub fn handle() -> Handle {
    if let Ok(current) = Handle::try_current()
        && current.runtime_flavor() == RuntimeFlavor::CurrentThread
    {
        return current;
    }
    let runtime = RUNTIME.get_or_init(|| {
        let built = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("shoal-bucket")
            .enable_all()
            .build();
        built.inspect_err(|error| tracing::warn!(%error, "requests to the bucket get no threads of their own")).ok()
    });
    runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
}

/// Runs what hyper's client drives connections by.
#[derive(Clone)]
pub(super) struct Executor(pub(super) Handle);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
