//! Connections: accepted up to a bound, one task each, ended in order.
//!
//! - At most `connections_max` are open. When one more wants in, the one that has been open for longest ends after its
//!   answer, or at once when it is idle: clients keep hundreds of idle connections, and those must not keep others out.
//! - When the server stops, no more are accepted, idle ones end, and answers under way are finished within a grace.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use super::limits::ServerConfig;
use super::patience::Patient;
use super::stream::Outgoing;

/// How long nothing is accepted after the system refused to (no file descriptors left, most often).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections and answers their requests by `answer`, until `stop` is done and all of them have ended.
pub async fn accept<A, F>(listener: TcpListener, config: &ServerConfig, answer: A, stop: impl Future)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Outgoing>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(config.connections_max.max(1)));
    let make_room = Arc::new(Notify::new());
    let (stopping, stopped) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let place = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                make_room.notify_one();
                tokio::select! {
                    place = Arc::clone(&places).acquire_owned() => match place {
                        Ok(place) => place,
                        Err(_) => break,
                    },
                    _ = &mut stop => break,
                }
            }
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = serve(stream, config, answer.clone(), Arc::clone(&make_room), stopped.clone());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    // Nobody listens when there are no connections.
    let _ = stopping.send(true);
    let all = u32::try_from(config.connections_max.max(1)).unwrap_or(u32::MAX);
    let grace = Duration::from_millis(config.stop_grace_ms);
    if tokio::time::timeout(grace, places.acquire_many(all)).await.is_err() {
        tracing::warn!(grace_ms = config.stop_grace_ms, "requests under way are given up");
    }
}

/// Answers one connection's requests until it ends. The task begins to wait for `make_room` here, so that the oldest
/// connection is the first to hear of it.
fn serve<A, F>(
    stream: TcpStream,
    config: &ServerConfig,
    answer: A,
    make_room: Arc<Notify>,
    mut stopped: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + 'static
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Outgoing>> + Send + 'static,
{
    // Answers are small and clients wait for them; Nagle's algorithm would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot send without delay");
    }
    let stream = Patient::new(stream, Duration::from_millis(config.body_idle_timeout_ms));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.header_timeout_ms))
        .max_buf_size(config.header_bytes_max.max(8 << 10));
    async move {
        let service = service_fn(move |request| {
            let answered = answer(request);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut ending = pin!(async {
            tokio::select! {
                () = make_room.notified() => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = &mut ending => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // A client that goes away or sends no HTTP is its own business.
            tracing::debug!(%error, "a connection ended");
        }
    }
}
